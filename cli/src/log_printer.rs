//! How log lines look: passed through as written, told apart by container and time where that is wanted. Pure but for
//! the writers it is given.

use std::io::{self, Write};

use proto::v1::GetLogsResponse;

use crate::{text, time};

/// Writes log lines to the stream they came from.
#[derive(Debug)]
pub(crate) struct LogPrinter {
    /// Width of the longest container name where lines begin with it.
    names: Option<usize>,
    timestamps: bool,
    stdout: Column,
    stderr: Column,
}

/// Whether a stream stands in the middle of a line, and whose.
#[derive(Debug, Default)]
struct Column {
    open: Option<String>,
}

impl LogPrinter {
    /// For a task of these containers: several are told apart by a prefix.
    pub(crate) fn new<'a>(containers: impl IntoIterator<Item = &'a str>, timestamps: bool) -> LogPrinter {
        let widths: Vec<usize> = containers.into_iter().map(|name| text::plain(name).chars().count()).collect();
        let names = if widths.len() > 1 { widths.into_iter().max() } else { None };
        LogPrinter { names, timestamps, stdout: Column::default(), stderr: Column::default() }
    }

    /// Writes one line, or a part of one.
    pub(crate) fn print<'w>(
        &mut self,
        line: &GetLogsResponse,
        stdout: &'w mut dyn Write,
        stderr: &'w mut dyn Write,
    ) -> io::Result<()> {
        let (column, out) = match line.stream.as_deref() {
            Some("stderr") => (&mut self.stderr, stderr),
            _ => (&mut self.stdout, stdout),
        };
        let container = line.container.as_deref().unwrap_or_default();
        let data = line.data.as_deref().unwrap_or_default();
        if data.is_empty() {
            return Ok(());
        }
        let prefixed = self.names.is_some() || self.timestamps;
        let continued = column.open.as_deref() == Some(container);
        if prefixed && column.open.is_some() && !continued {
            out.write_all(b"\n")?;
        }
        if prefixed && !continued {
            out.write_all(prefix(self.names, self.timestamps, line).as_bytes())?;
        }
        out.write_all(data)?;
        out.flush()?;
        column.open = if data.ends_with(b"\n") { None } else { Some(container.to_owned()) };
        Ok(())
    }

    /// Whether what is written to stderr next would continue a line: one of stderr's own, or of stdout where the two
    /// `share` a terminal.
    pub(crate) fn in_line(&self, share: bool) -> bool {
        self.stderr.open.is_some() || share && self.stdout.open.is_some()
    }

    /// Something else began a new line on the terminal.
    pub(crate) fn line_was_ended(&mut self) {
        self.stdout.open = None;
        self.stderr.open = None;
    }
}

fn prefix(names: Option<usize>, timestamps: bool, line: &GetLogsResponse) -> String {
    let mut prefix = String::new();
    if let Some(width) = names {
        prefix = format!("{:width$} | ", text::plain(line.container.as_deref().unwrap_or_default()));
    }
    if timestamps {
        prefix.push_str(&time::rfc3339(line.timestamp.unwrap_or(0.0)));
        prefix.push(' ');
    }
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(container: &str, stream: &str, data: &str) -> GetLogsResponse {
        GetLogsResponse {
            container: Some(container.into()),
            stream: Some(stream.into()),
            timestamp: Some(0.0),
            data: Some(data.into()),
        }
    }

    fn printed(printer: &mut LogPrinter, lines: &[GetLogsResponse]) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        for line in lines {
            printer.print(line, &mut out, &mut err).unwrap();
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn one_container_passes_through() {
        let lines = [line("a", "stdout", "x\x1b[0m\n"), line("a", "stderr", "y"), line("a", "stdout", "\n")];
        let (out, err) = printed(&mut LogPrinter::new(["a"], false), &lines);
        assert_eq!((out.as_str(), err.as_str()), ("x\x1b[0m\n\n", "y"));
    }

    #[test]
    fn several_containers_have_aligned_prefixes_at_line_starts() {
        let lines = [
            line("a", "stdout", "part "),
            line("a", "stdout", "rest\n"),
            line("long", "stdout", "open"),
            line("a", "stdout", "next\n"),
            line("a", "stderr", "err\n"),
        ];
        let (out, err) = printed(&mut LogPrinter::new(["a", "long"], false), &lines);
        assert_eq!(out, "a    | part rest\nlong | open\na    | next\n");
        assert_eq!(err, "a    | err\n");
    }

    #[test]
    fn notes_know_whether_they_would_continue_a_line() {
        let mut printer = LogPrinter::new(["a"], false);
        printed(&mut printer, &[line("a", "stdout", "open")]);
        assert!(printer.in_line(true) && !printer.in_line(false));
        printed(&mut printer, &[line("a", "stdout", "\n"), line("a", "stderr", "open")]);
        assert!(printer.in_line(false));
    }

    #[test]
    fn timestamps_begin_each_line() {
        let lines = [line("a", "stdout", "one\n"), line("a", "stdout", "tw"), line("a", "stdout", "o\n")];
        let (out, _) = printed(&mut LogPrinter::new(["a"], true), &lines);
        assert_eq!(out, "1970-01-01T00:00:00.000000Z one\n1970-01-01T00:00:00.000000Z two\n");
    }
}
