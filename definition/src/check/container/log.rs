//! `logConfiguration`: how a container's output is kept.

use proto::v1::LogConfiguration;

use crate::problem::Problems;
use crate::task::LogSpec;

pub(super) fn check(problems: &mut Problems, path: &str, configuration: Option<&LogConfiguration>) -> LogSpec {
    let mut log = LogSpec::default();
    let Some(configuration) = configuration else { return log };
    let path = format!("{path}.logConfiguration");
    match configuration.log_driver.as_deref() {
        Some("json-file") => {}
        Some(other) => problems.client(
            format!("{path}.logDriver"),
            format!("{path}.logDriver '{other}' is not supported: only json-file is, for the time being."),
        ),
        None => problems.client(format!("{path}.logDriver"), format!("{path}.logDriver should not be null or empty.")),
    }
    let mut options: Vec<_> = configuration.options.iter().collect();
    options.sort();
    for (option, value) in options {
        let path = format!("{path}.options.{option}");
        let sound = match option.as_str() {
            "max-size" => {
                log.max_size_bytes = bytes(value);
                log.max_size_bytes.is_some()
            }
            "max-file" => {
                log.max_files = value.parse().ok().filter(|files| (1..=1000).contains(files));
                log.max_files.is_some()
            }
            _ => {
                problems.client(&path, format!("{path} is not supported: json-file takes max-size and max-file."));
                continue;
            }
        };
        if !sound {
            problems.client(
                &path,
                format!("{path} has the invalid value '{value}': use a number with k, m or g, such as 10m."),
            );
        }
    }
    log
}

/// docker's sizes: a number of bytes, or of k, m, g (binary), at least 1 KiB so that a line fits.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, factor) = match lower.as_bytes().last()? {
        b'k' => (&lower[..lower.len() - 1], 1 << 10),
        b'm' => (&lower[..lower.len() - 1], 1 << 20),
        b'g' => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower, 1),
    };
    number.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes >= 1024)
}
