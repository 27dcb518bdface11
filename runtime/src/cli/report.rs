//! Messages of the command line: one line with the whole chain of causes on stderr, and in the file of `--log` as a
//! caller such as containerd reads it.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A flag that we know and do not do.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not supported")]
pub struct Refused(pub &'static str);

/// Where messages go.
#[derive(Debug)]
pub struct Reporter {
    file: Option<PathBuf>,
    format: Format,
}

impl Reporter {
    /// `file` in addition to stderr.
    pub fn new(file: Option<PathBuf>, format: Format) -> Reporter {
        Reporter { file, format }
    }

    /// Reports `error` and gives the exit code for it.
    #[expect(clippy::print_stderr, reason = "this is where the command line speaks")]
    pub fn failed(&self, error: &(dyn Error + 'static)) -> ExitCode {
        let message = chain(error);
        eprintln!("neargate-runtime: {message}");
        if let Some(path) = &self.file {
            let line = self.line(&message);
            let written = File::options().create(true).append(true).open(path);
            if let Err(error) = written.and_then(|mut file| file.write_all(line.as_bytes())) {
                eprintln!("neargate-runtime: cannot write {}: {error}", path.display());
            }
        }
        ExitCode::FAILURE
    }

    fn line(&self, message: &str) -> String {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = timestamp(since.as_secs());
        match self.format {
            Format::Text => format!("time=\"{time}\" level=error msg={message:?}\n"),
            Format::Json => format!("{}\n", serde_json::json!({"level": "error", "msg": message, "time": time})),
        }
    }
}

/// Causes joined by colons.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// RFC 3339 in UTC of seconds since the epoch (civil-from-days over eras of 400 years that begin in March).
pub fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_456_799), "2026-11-23T17:59:59Z");
    }
}
