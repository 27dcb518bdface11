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
    fn nonsense_from_the_wire_does_no_harm() {
        assert_eq!(rfc3339(f64::NAN), rfc3339(f64::NAN));
        assert_eq!(rfc3339(f64::INFINITY), "9999-12-31T23:59:59.000000Z");
        assert_eq!(rfc3339(-1.0), "1970-01-01T00:00:00.000000Z");
    }
}
