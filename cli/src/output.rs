//! What reaches stdout and stderr. stdout carries answers and logs only; everything told beside them goes to stderr.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::text;

/// Writes `text` and a newline to stdout.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes bytes to stdout as they are.
pub(crate) fn bytes(data: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(data)?;
    out.flush()
}

/// Writes bytes to stderr as they are.
pub(crate) fn error_bytes(data: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(data)
}

/// Writes `text` and a newline to stderr.
pub(crate) fn note(text: &str) {
    // Where stderr is gone there is nobody left to tell.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// Writes `value` to stdout as JSON for people and programs.
pub(crate) fn json<T: Serialize>(value: &T) -> io::Result<()> {
    line(&harmless(&serde_json::to_string_pretty(value)?))
}

/// Writes `value` to stdout as one line of JSON.
pub(crate) fn json_line<T: Serialize>(value: &T) -> io::Result<()> {
    line(&harmless(&serde_json::to_string(value)?))
}

/// JSON whose strings have escapes for all that acts on a terminal: serde leaves DEL and the second set of control
/// characters as they are. They occur in strings only, where the escape means the same.
fn harmless(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        if c != '\n' && text::acts_on_terminal(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_the_same_value_and_harmless() {
        let value = serde_json::json!({"reason": "a\u{9b}31m\u{7f}\x1b\u{202e}"});
        let text = harmless(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.chars().any(|c| c != '\n' && text::acts_on_terminal(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
