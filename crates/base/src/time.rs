//! Time as data. Whoever needs "now" takes a [`Clock`].

use std::fmt;
use std::time::Duration;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

/// Where "now" comes from. The process has one; tests bring their own.
pub trait Clock: Send + Sync + 'static {
    /// The current moment by the wall clock.
    fn now(&self) -> Timestamp;
}

impl Timestamp {
    /// A moment from Unix milliseconds.
    #[must_use]
    pub const fn from_unix_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This moment plus a duration; saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// Time from `earlier` to this moment, zero when the clock went back.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339 text, or a plain date (`2026-11-22`), which is its midnight in UTC.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() == 10 {
            return UtcDay::parse(text).map(UtcDay::start);
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000))
            .ok()
            .map(Self)
    }

    /// The UTC day that holds this moment.
    #[must_use]
    pub fn day(self) -> UtcDay {
        UtcDay(i32::try_from(self.0.div_euclid(86_400_000)).unwrap_or(i32::MAX))
    }

    fn offset(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds: `2026-11-22T21:50:43.120Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset();
        let Ok(year @ 0..=9999) = u16::try_from(at.year()) else {
            // Before the year 0: no clock shows it.
            return write!(f, "{}", Self(0));
        };
        // Written digit by digit: every log line and audit entry carries one.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, digits: usize, mut value: u16| {
            for place in text[at..at + digits].iter_mut().rev() {
                *place = b'0' + u8::try_from(value % 10).unwrap_or_default();
                value /= 10;
            }
        };
        put(0, 4, year);
        put(5, 2, u8::from(at.month()).into());
        put(8, 2, at.day().into());
        put(11, 2, at.hour().into());
        put(14, 2, at.minute().into());
        put(17, 2, at.second().into());
        put(20, 3, at.millisecond());
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A day in UTC: days since 1970-01-01.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UtcDay(i32);

impl UtcDay {
    /// A day from its number since 1970-01-01.
    #[must_use]
    pub const fn from_number(days: i32) -> Self {
        Self(days)
    }

    /// Days since 1970-01-01.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Midnight at which the day begins.
    #[must_use]
    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * 86_400_000)
    }

    /// The day after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The month that holds this day.
    #[must_use]
    pub fn month(self) -> UtcMonth {
        let at = self.start().offset();
        UtcMonth {
            year: at.year(),
            month: u8::from(at.month()),
        }
    }

    /// Reads `YYYY-MM-DD`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' || !text.is_ascii() {
            return None;
        }
        let month = ::time::Month::try_from(text[5..7].parse::<u8>().ok()?).ok()?;
        let date = ::time::Date::from_calendar_date(
            text[..4].parse().ok()?,
            month,
            text[8..].parse().ok()?,
        );
        let seconds = date.ok()?.midnight().assume_utc().unix_timestamp();
        i32::try_from(seconds.div_euclid(86_400)).ok().map(Self)
    }
}

impl fmt::Display for UtcDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.start().offset();
        write!(
            f,
            "{:04}-{:02}-{:02}",
            at.year(),
            u8::from(at.month()),
            at.day()
        )
    }
}

impl fmt::Debug for UtcDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A calendar month in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct UtcMonth {
    year: i32,
    month: u8,
}

impl UtcMonth {
    /// First day of the month.
    #[must_use]
    pub fn first_day(self) -> UtcDay {
        UtcDay::parse(&format!("{:04}-{:02}-01", self.year, self.month)).unwrap_or(UtcDay(0))
    }

    /// The month after.
    #[must_use]
    pub const fn next(self) -> Self {
        if self.month == 12 {
            Self {
                year: self.year + 1,
                month: 1,
            }
        } else {
            Self {
                year: self.year,
                month: self.month + 1,
            }
        }
    }
}

/// Reads a duration as users type it: a whole number and a unit `ms`, `s`, `m`, `h`, `d`, `w`.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let unit_ms: u64 = match text.get(digits..)? {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_and_days() {
        let at = Timestamp::parse("2024-02-29T23:59:59.5+01:00").unwrap();
        assert_eq!(at.to_string(), "2024-02-29T22:59:59.500Z");
        assert_eq!(at.day().to_string(), "2024-02-29");
        assert_eq!(at.day().next().to_string(), "2024-03-01");
        assert_eq!(
            at.day().month().next().first_day().to_string(),
            "2024-03-01"
        );
        assert_eq!(
            UtcDay::parse("2026-12-31")
                .unwrap()
                .month()
                .next()
                .first_day()
                .to_string(),
            "2027-01-01"
        );
        for bad in [
            "2026-02-30",
            "2026-13-01",
            "26-01-01",
            "2026/01/01",
            "2026-1-1",
            "２026-01-1",
        ] {
            assert_eq!(UtcDay::parse(bad), None, "{bad}");
        }
        assert_eq!(
            Timestamp::from_unix_ms(-1).to_string(),
            "1969-12-31T23:59:59.999Z"
        );
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("2s"), Some(Duration::from_secs(2)));
        assert_eq!(
            parse_duration("30d"),
            Some(Duration::from_secs(30 * 86_400))
        );
        for bad in [
            "",
            "s",
            "2",
            "-2s",
            "2 s",
            "1.5h",
            "99999999999999999999s",
            "2y",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
