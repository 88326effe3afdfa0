//! One written value to one meant value. Each error says what would be right, and shows what stood
//! there only where it cannot be a secret.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use base::{Markup, Money};

use super::ConfigError;
use super::low::Text;

/// The longest deadline that can be set.
const DURATION_MAX: Duration = Duration::from_secs(3_600);
/// The range of the body limit.
const BODY_LIMIT: RangeInclusive<u64> = 1024..=1024 * 1024 * 1024;
const ROOM_MAX: u64 = 1 << 40;

/// A value and where it stands.
pub(super) struct At<'a> {
    text: &'a Text,
    key: String,
}

impl<'a> At<'a> {
    pub(super) fn new(text: &'a Text, key: impl Into<String>) -> Self {
        Self {
            text,
            key: key.into(),
        }
    }

    pub(super) fn text(&self) -> &'a str {
        self.text.value.as_str()
    }

    pub(super) fn line(&self) -> u64 {
        self.text.referenced.line()
    }

    pub(super) fn wrong(&self, message: impl Into<String>) -> ConfigError {
        ConfigError::at(self.line(), &self.key, message)
    }

    fn not(&self, what: &str) -> ConfigError {
        let shown: String = self
            .text()
            .chars()
            .filter(|c| !c.is_control())
            .take(40)
            .collect();
        self.wrong(format!("{shown:?} is not {what}"))
    }

    pub(super) fn count(&self) -> Result<u64, ConfigError> {
        let digits = !self.text().is_empty() && self.text().bytes().all(|b| b.is_ascii_digit());
        // Half the range, so that sums of limits stay in range.
        let count = self
            .text()
            .parse()
            .ok()
            .filter(|n| digits && *n <= u64::MAX / 2);
        count.ok_or_else(|| self.not("a whole number of 0 or more"))
    }

    pub(super) fn positive(&self) -> Result<u64, ConfigError> {
        self.count()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| self.not("a whole number of 1 or more"))
    }

    pub(super) fn weight(&self) -> Result<u32, ConfigError> {
        let weight = self
            .positive()
            .ok()
            .filter(|n| *n <= 1_000_000)
            .and_then(|n| u32::try_from(n).ok());
        weight.ok_or_else(|| self.not("a weight from 1 to 1000000"))
    }

    /// A whole number of a range.
    pub(super) fn within(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let number = self.count().ok().and_then(|n| u32::try_from(n).ok());
        number.filter(|n| range.contains(n)).ok_or_else(|| {
            self.not(&format!(
                "a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }

    pub(super) fn money(&self) -> Result<Money, ConfigError> {
        let money = Money::parse_usd(self.text())
            .ok()
            .filter(|money| *money >= Money::ZERO);
        money.ok_or_else(|| self.not("an amount in USD of 0 or more, with at most 12 decimals"))
    }

    pub(super) fn markup(&self) -> Result<Markup, ConfigError> {
        Markup::parse(self.text())
            .map_err(|_| self.not("a factor from 0 to 1000, with at most 6 decimals"))
    }

    /// Decimal text that is also a JSON number.
    pub(super) fn temperature(&self) -> Result<String, ConfigError> {
        let two = Money::from_pico(2_000_000_000_000);
        let value = Money::parse_usd(self.text())
            .ok()
            .filter(|t| (Money::ZERO..=two).contains(t));
        value
            .map(|t| t.to_string())
            .ok_or_else(|| self.not("a number from 0 to 2"))
    }

    pub(super) fn duration(&self) -> Result<Duration, ConfigError> {
        let duration = base::time::parse_duration(self.text());
        let fits = |d: &Duration| !d.is_zero() && *d <= DURATION_MAX;
        duration
            .filter(fits)
            .ok_or_else(|| self.not("a duration such as 500ms, 5s or 10m, up to 1h"))
    }

    pub(super) fn address(&self) -> Result<SocketAddr, ConfigError> {
        self.text()
            .parse()
            .map_err(|_| self.not("an address and a port, such as 127.0.0.1:8080"))
    }

    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        match self.text() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not("true or false")),
        }
    }

    pub(super) fn bytes(&self) -> Result<usize, ConfigError> {
        self.size()
            .filter(|size| BODY_LIMIT.contains(size))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.not("a size from 1KiB to 1024MiB, such as 32MiB"))
    }

    /// Room on a disk.
    pub(super) fn room(&self) -> Result<u64, ConfigError> {
        self.size()
            .filter(|size| *size <= ROOM_MAX)
            .ok_or_else(|| self.not("a size up to 1024GiB, such as 512MiB"))
    }

    fn size(&self) -> Option<u64> {
        let text = self.text();
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = match unit.trim_start() {
            "" | "B" => Some(1),
            "KiB" => Some(1024),
            "MiB" => Some(1024 * 1024),
            "GiB" => Some(1024 * 1024 * 1024),
            _ => None,
        };
        factor.and_then(|factor: u64| number.parse::<u64>().ok()?.checked_mul(factor))
    }

    /// The name of a provider, tier or task.
    pub(super) fn name(&self) -> Result<String, ConfigError> {
        if is_name(self.text()) {
            Ok(self.text().to_owned())
        } else {
            Err(self.not(NAME_RULE))
        }
    }

    pub(super) fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let found = choices.iter().find(|(name, _)| *name == self.text());
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            self.not(&format!("one of {}", names.join(", ")))
        })
    }
}

pub(super) const NAME_RULE: &str =
    "a name: 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit";

pub(super) fn is_name(text: &str) -> bool {
    let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 64
        && bytes.first().is_some_and(first)
        && bytes
            .iter()
            .all(|b| first(b) || matches!(b, b'.' | b'_' | b'-'))
}
