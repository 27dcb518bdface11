//! Words from elsewhere made fit for a terminal: control characters made visible, ARNs and numbers made short. Pure.

use std::fmt::Write as _;

use proto::v1::Task;

/// The agent's attribute of a task that has to wait.
pub(crate) const WAITS_FOR: &str = "neargate.waits-for";
/// Before a container's name: the agent's attribute of a task that tells why the container is not healthy.
pub(crate) const HEALTH: &str = "neargate.health.";
/// Digits of an id that tables show, as docker does.
const SHORT_ID: usize = 12;

/// `text` with everything that could move the cursor, change colours or turn the reading direction written as an
/// escape, so that a name or a reason made by somebody else cannot act on the terminal.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            c if acts_on_terminal(c) => {
                let code = u32::from(c);
                // Writing to a String does not fail.
                let _ = if code < 0x100 { write!(safe, "\\x{code:02x}") } else { write!(safe, "\\u{{{code:x}}}") };
            }
            c => safe.push(c),
        }
    }
    safe
}

/// Control characters of both sets, and those that override the direction of text.
pub(crate) fn acts_on_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// At most `width` characters of `text`, the last one … where something was cut off.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// The part after the last `/`: a task's id, a container's id.
pub(crate) fn id(arn: &str) -> &str {
    arn.rsplit('/').next().unwrap_or(arn)
}

/// The first 12 digits of an ARN's id.
pub(crate) fn short_id(arn: &str) -> String {
    plain(id(arn)).chars().take(SHORT_ID).collect()
}

/// The first 12 digits of `sha256:…`.
pub(crate) fn short_digest(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    plain(hex).chars().take(SHORT_ID).collect()
}

/// `family:revision` of a definition's ARN.
pub(crate) fn definition(arn: &str) -> String {
    plain(id(arn))
}

/// Bytes in decimal units with three digits, as docker tells sizes.
pub(crate) fn bytes(count: f64) -> String {
    scaled(count, 1000.0, ["B", "kB", "MB", "GB", "TB"])
}

/// Bytes in binary units with three digits or more, as docker tells memory.
pub(crate) fn binary_bytes(count: f64) -> String {
    scaled(count, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB"])
}

fn scaled(count: f64, step: f64, units: [&str; 5]) -> String {
    let mut amount = count.max(0.0);
    let mut unit = 0;
    while amount >= step - 0.5 && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    let decimals = match amount {
        _ if unit == 0 => 0,
        a if a < 9.995 => 2,
        a if a < 99.95 => 1,
        _ => 0,
    };
    format!("{amount:.decimals$} {}", units[unit])
}

/// `1 container`, `2 containers`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// What a task has to wait for, in the agent's attribute of it.
pub(crate) fn waits_for(task: &Task) -> Option<String> {
    let lacks = task.attributes.iter().find(|attribute| attribute.name() == WAITS_FOR)?;
    Some(format!("waits for {}", plain(lacks.value())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_acts_on_the_terminal_gets_through() {
        assert_eq!(plain("a\x1b[31mb\u{9b}c\x07\n"), "a\\x1b[31mb\\x9bc\\x07\\n");
        assert_eq!(plain("x\u{202e}y"), "x\\u{202e}y");
        assert_eq!(plain("grün ✔"), "grün ✔");
    }

    #[test]
    fn cutting_counts_characters_and_keeps_what_fits() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }

    #[test]
    fn arns_become_short() {
        let arn = "arn:aws:ecs:local:000000000000:task/default/0123456789abcdef0123456789abcdef";
        assert_eq!(short_id(arn), "0123456789ab");
        assert_eq!(definition("arn:aws:ecs:local:000000000000:task-definition/web:3"), "web:3");
        assert_eq!(short_digest("sha256:0123456789abcdef"), "0123456789ab");
    }

    #[test]
    fn sizes_have_three_digits() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(999_999.0), "1.00 MB");
        assert_eq!(bytes(12_345.0), "12.3 kB");
        assert_eq!(bytes(408e6), "408 MB");
        assert_eq!(bytes(1.1e9), "1.10 GB");
        assert_eq!(binary_bytes(1000.0), "1000 B");
        assert_eq!(binary_bytes(50.0 * 1_048_576.0), "50.0 MiB");
    }
}
