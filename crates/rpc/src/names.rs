//! Names and values that only the protocol knows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base::Timestamp;
use base::time::parse_duration;

/// The name of a sealed value of one tenant: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SecretName(Box<str>);

/// A text that is not such a name or moment; the sentence says what would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Malformed {}

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = text.as_bytes();
        let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: &u8| first(b) || matches!(b, b'.' | b'_' | b'-');
        if bytes.len() <= 64 && bytes.first().is_some_and(first) && bytes.iter().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(Malformed(
                "not a valid secret name: 1 to 64 characters: lowercase letters, digits, '.', '_' and '-', starting with a letter or digit",
            ))
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The last millisecond of the year 9999.
const LAST: Timestamp = Timestamp::from_unix_ms(253_402_300_799_999);
const TOO_LATE: Malformed = Malformed("an end after the year 9999");

/// An end in time as users give it: a duration from now (`2s`, `10m`, `30d`) or a moment (RFC 3339, or a date in UTC).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// So long after the command is carried out.
    After(Duration),
    /// At that moment.
    At(Timestamp),
}

impl Until {
    /// The moment, for a command carried out at `now`.
    ///
    /// # Errors
    /// When it lies after the year 9999: no text form shows it.
    pub fn moment(self, now: Timestamp) -> Result<Timestamp, Malformed> {
        let moment = match self {
            Self::After(duration) => now.plus(duration),
            Self::At(moment) => moment,
        };
        if moment > LAST {
            return Err(TOO_LATE);
        }
        Ok(moment)
    }
}

impl FromStr for Until {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let until = parse_duration(text)
            .map(Self::After)
            .or_else(|| Timestamp::parse(text).map(Self::At))
            .ok_or(Malformed(
                "neither a duration (2s, 10m, 12h, 30d) nor a moment (2026-12-31T00:00:00Z)",
            ))?;
        // What is too late from any present is refused before there is a present.
        until.moment(Timestamp::default()).map(|_| until)
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(duration) => write!(f, "{}ms", duration.as_millis()),
            Self::At(moment) => write!(f, "{moment}"),
        }
    }
}

/// What happens to one setting: absent in JSON keeps it, a value sets it, `null` clears it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Change<T> {
    /// Stays as it is.
    #[default]
    Keep,
    /// Takes this value.
    Set(T),
    /// Goes back to what the tier says.
    Clear,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_in_time() {
        let now = Timestamp::parse("2026-11-22T00:00:00Z").unwrap();
        let at = |text: &str| {
            text.parse::<Until>()
                .unwrap()
                .moment(now)
                .unwrap()
                .to_string()
        };
        assert_eq!(at("2s"), "2026-11-22T00:00:02.000Z");
        assert_eq!(at("30d"), "2026-12-22T00:00:00.000Z");
        assert_eq!(at("2027-01-01T00:00:00Z"), "2027-01-01T00:00:00.000Z");
        assert_eq!(at("2027-01-01"), "2027-01-01T00:00:00.000Z");
        for bad in ["", "soon", "-1s", "1.5h", "2026-13-01"] {
            assert!(bad.parse::<Until>().is_err(), "{bad}");
        }
        for late in [
            "99999999999d",
            "18446744073709551615ms",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(late.parse::<Until>(), Err(TOO_LATE), "{late}");
        }
        // 8000 years are too long only from now on.
        let until: Until = "2922000d".parse().unwrap();
        assert_eq!(until.moment(now), Err(TOO_LATE));
        assert_eq!(at("9999-12-31T23:59:59.999Z"), "9999-12-31T23:59:59.999Z");
        for text in ["2s", "2027-01-01T00:00:00Z"] {
            let until: Until = text.parse().unwrap();
            assert_eq!(until.to_string().parse(), Ok(until));
        }
    }

    #[test]
    fn secret_names() {
        for good in ["openai", "slack.signing_secret", "0", &"a".repeat(64)] {
            assert!(good.parse::<SecretName>().is_ok(), "{good}");
        }
        for bad in ["", "OpenAI", "../x", "a/b", "a b", ".a", &"a".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }
}
