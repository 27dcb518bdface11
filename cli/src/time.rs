//! Points in time as people and log readers want them: "5 minutes ago", RFC 3339. Pure but for [`now`].

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch.
pub(crate) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// How long before `now` the time `then` was, both in seconds since the epoch.
pub(crate) fn ago(now: f64, then: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    const DAY: f64 = 24.0 * HOUR;
    let seconds = (now - then).max(0.0);
    let (amount, unit) = match seconds {
        s if s < 1.0 => return "just now".into(),
        s if s < MINUTE => (s, "second"),
        s if s < HOUR => (s / MINUTE, "minute"),
        s if s < 2.0 * DAY => (s / HOUR, "hour"),
        s => (s / DAY, "day"),
    };
    let amount = amount.floor();
    if amount == 1.0 { format!("1 {unit} ago") } else { format!("{amount} {unit}s ago") }
}

/// `seconds` since the epoch as RFC 3339 in UTC with microseconds, the finest that a double tells apart.
pub(crate) fn rfc3339(seconds: f64) -> String {
    // 9999-12-31T23:59:59Z: years of four digits are all that RFC 3339 knows.
    const LAST: f64 = 253_402_300_799.0;
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the range of RFC 3339 just before")]
    let micros = (seconds.clamp(0.0, LAST) * 1e6).round() as i64;
    let (whole, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let (days, rest) = (whole / 86_400, whole % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

/// A point in time as a person types it, in seconds since the epoch: RFC 3339, the seconds themselves, or how long ago,
/// as Go and docker write it: `10m`, `1h30m`, `1.5h`; days too.
pub(crate) fn moment(word: &str) -> Result<f64, String> {
    let read = || word.parse::<f64>().ok().or_else(|| parse_rfc3339(word)).or_else(|| Some(now() - duration(word)?));
    read()
        .filter(|moment| moment.is_finite())
        .ok_or_else(|| "not a time such as 2026-01-31T12:00:00Z, 1769860800 or 10m".to_owned())
}

/// Numbers with their units, one after the other, in seconds.
fn duration(word: &str) -> Option<f64> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut seconds) = (word, 0.0);
    loop {
        let (number, behind) = rest.split_at(rest.find(|c| !is_number(c))?);
        let (unit, behind) = behind.split_at(behind.find(is_number).unwrap_or(behind.len()));
        let unit = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit;
        rest = behind;
        if rest.is_empty() {
            return Some(seconds);
        }
    }
}

/// `YYYY-MM-DDThh:mm:ss[.fraction]` and `Z`, or how far local time is ahead of it: `+hh:mm`, `-hh:mm`.
fn parse_rfc3339(word: &str) -> Option<f64> {
    let (date, time) = word.split_once('T')?;
    let (time, offset) = time.split_at(time.find(['Z', '+', '-'])?);
    let ahead = offset_seconds(offset)?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<u32>().ok()?, time.next()?.parse::<u32>().ok()?);
    let second = time.next()?.parse::<f64>().ok()?;
    let within = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !within || hour > 23 || minute > 59 || !(0.0..61.0).contains(&second) {
        return None;
    }
    let days = (0..).map(|month| month * 28).find(|day| civil(*day) >= (year, month, 1)).unwrap_or_default();
    // Back to the first of the month, then on to the day; one that the month does not have is none.
    let first = (0..days + 1).rev().find(|day| civil(*day) <= (year, month, 1))?;
    let found = first + day - 1;
    if civil(found) != (year, month, day) {
        return None;
    }
    let whole = u32::try_from(found).ok().map(f64::from)? * 86_400.0;
    Some(whole + f64::from(hour) * 3_600.0 + f64::from(minute) * 60.0 + second - ahead)
}

fn offset_seconds(offset: &str) -> Option<f64> {
    let sign = match offset.get(..1)? {
        "Z" => return (offset == "Z").then_some(0.0),
        "-" => -1.0,
        _ => 1.0,
    };
    let (hours, minutes) = offset[1..].split_once(':')?;
    let (hours, minutes) = (hours.parse::<u32>().ok()?, minutes.parse::<u32>().ok()?);
    (hours <= 23 && minutes <= 59).then(|| sign * (f64::from(hours) * 3_600.0 + f64::from(minutes) * 60.0))
}

/// Year, month and day of the Gregorian calendar, `days` (not negative) after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of the year 0, leap days come last in their year; 400 years have 146097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_the_largest_fitting_unit() {
        let told = |age: f64| ago(1_000_000.0 + age, 1_000_000.0);
        assert_eq!(told(-5.0), "just now");
        assert_eq!(told(1.2), "1 second ago");
        assert_eq!(told(59.9), "59 seconds ago");
        assert_eq!(told(301.0), "5 minutes ago");
        assert_eq!(told(3600.0), "1 hour ago");
        assert_eq!(told(86_400.0 * 1.5), "36 hours ago");
        assert_eq!(told(86_400.0 * 3.0), "3 days ago");
    }

    #[test]
    fn calendar_days_are_right() {
        assert_eq!(rfc3339(0.0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(951_782_399.5), "2000-02-28T23:59:59.500000Z");
        assert_eq!(rfc3339(951_782_400.0), "2000-02-29T00:00:00.000000Z");
        assert_eq!(rfc3339(951_868_800.0), "2000-03-01T00:00:00.000000Z");
        assert_eq!(rfc3339(1_767_225_599.0), "2025-12-31T23:59:59.000000Z");
    }

    #[test]
    fn moments_are_read_as_they_are_told() {
        for seconds in [0.0, 951_782_399.5, 951_782_400.0, 951_868_800.0, 1_767_225_599.25] {
            assert_eq!(moment(&rfc3339(seconds)), Ok(seconds), "{}", rfc3339(seconds));
        }
        assert_eq!(moment("1769860800.5"), Ok(1_769_860_800.5));
        let (earliest, then, latest) = (now(), moment("10m").unwrap(), now());
        assert!((earliest - 600.001..=latest - 599.999).contains(&then), "{then}");
        for (word, seconds) in
            [("1h30m", 5_400.0), ("1.5h", 5_400.0), ("1m0.5s", 60.5), ("1500ms", 1.5), ("2d", 172_800.0)]
        {
            let (then, age) = (moment(word).unwrap(), now() - seconds);
            assert!((age - 1.0..=age).contains(&then), "{word}: {then}");
        }
        let noon = moment("2026-01-31T12:00:00Z");
        assert_eq!(moment("2026-01-31T13:30:00+01:30"), noon);
        assert_eq!(moment("2026-01-31T04:00:00-08:00"), noon);
        for bad in ["1h30", "10 m", "m10", "1hh", "2026-01-31T12:00:00+25:00", "2026-01-31T12:00:00+0100"] {
            assert!(moment(bad).is_err(), "{bad}");
        }
        for bad in
            ["", "m", "-5m", "yesterday", "2026-02-30T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-01", "nan", "inf"]
        {
            assert!(moment(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nonsense_from_the_wire_does_no_harm() {
        assert_eq!(rfc3339(f64::NAN), rfc3339(f64::NAN));
        assert_eq!(rfc3339(f64::INFINITY), "9999-12-31T23:59:59.000000Z");
        assert_eq!(rfc3339(-1.0), "1970-01-01T00:00:00.000000Z");
    }
}
