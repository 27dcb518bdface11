//! The TOML text: what is not supported yet is refused by name, every problem with its key and line. Owns no key's
//! meaning.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{Config, Invalid, Problem};

/// Sections that the design names and nothing reads yet.
const NOT_SUPPORTED: [&str; 8] =
    ["api", "ecs", "file_systems", "network", "security_groups", "roles", "secrets", "microvm"];

/// Parses, refuses what is not supported, deserializes, checks ranges. Problems of one stage are told together.
pub(super) fn read(text: &str) -> Result<Config, Invalid> {
    let table = DeTable::parse(text).map_err(|error| Invalid(vec![syntax_problem(text, &error)]))?;
    let table = table.get_ref();

    let unsupported = unsupported(text, table);
    if !unsupported.is_empty() {
        return Err(Invalid(unsupported));
    }

    let config: Config = toml::from_str(text).map_err(|error| {
        let at = error.span().unwrap_or_default();
        let key = key_at(table, &at).unwrap_or_default();
        Invalid(vec![Problem { line: Some(line_of(text, at.start)), key, message: error.message().to_owned() }])
    })?;

    let problems: Vec<_> = config
        .out_of_range()
        .into_iter()
        .map(|(path, message)| Problem { line: line_of_key(text, table, &path), key: dotted(&path), message })
        .collect();
    if problems.is_empty() { Ok(config) } else { Err(Invalid(problems)) }
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let at = error.span().unwrap_or_default();
    Problem { line: Some(line_of(text, at.start)), key: String::new(), message: error.message().to_owned() }
}

fn unsupported(text: &str, table: &DeTable<'_>) -> Vec<Problem> {
    let named = table.keys().filter(|name| NOT_SUPPORTED.contains(&name.get_ref().as_ref()));
    let mut problems: Vec<_> = named
        .map(|name| Problem {
            line: Some(line_of(text, name.span().start)),
            key: String::new(),
            message: format!("[{}] is not supported yet", name.get_ref()),
        })
        .collect();
    problems.sort_by_key(|problem| problem.line);
    problems
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

/// Dotted key, its parts quoted where TOML wants it.
fn dotted<S: AsRef<str>>(path: &[S]) -> String {
    let parts = path.iter().map(|part| {
        let part = part.as_ref();
        let bare = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if bare && !part.is_empty() { part.to_owned() } else { format!("\"{part}\"") }
    });
    parts.collect::<Vec<_>>().join(".")
}

/// The key whose name or value spans the start of `at`.
fn key_at(table: &DeTable<'_>, at: &Range<usize>) -> Option<String> {
    fn find<'a>(table: &'a DeTable<'_>, at: &Range<usize>, path: &mut Vec<&'a str>) -> bool {
        for (name, value) in table {
            path.push(name.get_ref());
            let here = name.span().contains(&at.start);
            let below = match value.get_ref() {
                DeValue::Table(table) => find(table, at, path),
                _ => value.span().contains(&at.start),
            };
            if here || below {
                return true;
            }
            path.pop();
        }
        false
    }
    let mut path = Vec::new();
    find(table, at, &mut path).then(|| dotted(&path))
}

/// Line of the key at `path`, or of the deepest part of it that the file holds.
fn line_of_key(text: &str, table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let mut line = None;
    let mut table = Some(table);
    for part in path {
        let (name, value) = table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == part))?;
        line = Some(line_of(text, name.span().start));
        table = value.get_ref().as_table();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert_eq!(
            problem("[logs]\nmax_files = 2\n\n[microvm]\nvmm = \"qemu\"\n"),
            "line 4: [microvm] is not supported yet"
        );
        assert_eq!(
            problem("[api]\ntcp_listen = \"0.0.0.0:1\"\n[secrets]\n"),
            "line 1: [api] is not supported yet; line 3: [secrets] is not supported yet"
        );
        assert_eq!(problem("file_systems.\"fs-1\".server = \"h\""), "line 1: [file_systems] is not supported yet");
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named_with_their_line() {
        let text = problem("[logs]\nmax_files = 2\nmax_sise_mib = 3\n");
        assert!(text.starts_with("line 3: logs.max_sise_mib: unknown field `max_sise_mib`"), "{text}");
        let text = problem("[capacity]\n\nreserved_ports = [22, \"a\"]\n");
        assert!(text.starts_with("line 3: capacity.reserved_ports: invalid type: string \"a\""), "{text}");
        let text = problem("[capacity]\nreserved_memory_mib = -1\n");
        assert!(text.starts_with("line 2: capacity.reserved_memory_mib: invalid value"), "{text}");
    }

    #[test]
    fn text_that_is_not_toml_says_the_line() {
        assert!(problem("[logs]\nmax_files = \n").starts_with("line 2: "));
    }
}
