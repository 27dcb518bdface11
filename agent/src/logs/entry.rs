//! One line of a docker json-file log: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678901234Z"}`.
//! Owns the format; knows no files.

use serde::Deserialize;

/// Which descriptor of the container was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

impl LogStream {
    /// The name as docker and ECS spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogStream::Stdout => "stdout",
            LogStream::Stderr => "stderr",
        }
    }
}

/// A point in time, exact to the nanosecond: a double of seconds would tie lines that were written in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

impl Timestamp {
    /// From seconds since the epoch; None for what is no finite number.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates; fractions are below 1"
    )]
    pub fn from_epoch_seconds(seconds: f64) -> Option<Self> {
        let whole = seconds.floor();
        seconds
            .is_finite()
            .then(|| Self { seconds: whole as i64, nanoseconds: (((seconds - whole) * 1e9) as u32).min(999_999_999) })
    }

    /// Seconds since the epoch, as ECS tells times.
    pub fn epoch_seconds(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "exact to a quarter of a microsecond until the year 2106")]
        let seconds = self.seconds as f64;
        seconds + f64::from(self.nanoseconds) / 1e9
    }

    /// RFC 3339 in UTC with up to nine digits of fraction, as docker writes it.
    fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (clock, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let inside = (0..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && (0..24).contains(&hour)
            && (0..60).contains(&minute)
            && (0..=60).contains(&second);
        if !inside || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
        Some(Self { seconds: days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second, nanoseconds })
    }
}

/// Days from 1970-01-01 in the Gregorian calendar; years begin in March here, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719_468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leap_days + day_of_year - 719_468
}

/// One entry of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stream: LogStream,
    pub(super) time: Timestamp,
    pub(super) data: Vec<u8>,
}

#[derive(Deserialize)]
struct Written {
    log: String,
    stream: LogStream,
    time: String,
}

impl Entry {
    /// None where the text is not a whole entry, as after a write that a crash cut short.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let written: Written = serde_json::from_slice(line).ok()?;
        let time = Timestamp::parse(&written.time)?;
        Some(Self { stream: written.stream, time, data: written.log.into_bytes() })
    }

    /// False for a part of a longer line.
    pub(super) fn ends_line(&self) -> bool {
        self.data.ends_with(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let time = |text: &str| Timestamp::parse(text).map(|time| (time.seconds, time.nanoseconds));
        assert_eq!(time("1970-01-01T00:00:00Z"), Some((0, 0)));
        assert_eq!(time("2024-02-29T12:30:15.5Z"), Some((1_709_209_815, 500_000_000)));
        assert_eq!(time("2026-11-23T16:59:05.123456789Z"), Some((1_795_453_145, 123_456_789)));
        assert_eq!(time("1969-12-31T23:59:59Z"), Some((-1, 0)));
        for bad in
            ["", "2024-02-29", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00+01:00", "2024-01-01T00:00:00.1234567890Z"]
        {
            assert_eq!(time(bad), None, "{bad}");
        }
        assert_eq!(Timestamp::from_epoch_seconds(1.5), Timestamp::parse("1970-01-01T00:00:01.5Z"));
        assert_eq!(Timestamp::from_epoch_seconds(-0.25), Timestamp::parse("1969-12-31T23:59:59.75Z"));
        assert_eq!(Timestamp::from_epoch_seconds(f64::NAN), None);
        let exact = Timestamp::parse("2026-11-23T16:59:05.25Z").unwrap();
        assert!((exact.epoch_seconds() - 1_795_453_145.25).abs() < 1e-9);
    }

    #[test]
    fn entries() {
        let entry = Entry::parse(br#"{"log":"a\u0001\"\n","stream":"stderr","time":"1970-01-01T00:00:01Z"}"#).unwrap();
        assert_eq!(entry.data, b"a\x01\"\n");
        assert_eq!(entry.stream, LogStream::Stderr);
        assert!(entry.ends_line());
        assert_eq!(Entry::parse(br#"{"log":"a","stream":"stdout","ti"#), None);
    }
}
