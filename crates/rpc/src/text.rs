//! How values of the core stand in JSON: as text, in the one form that people also type.
//!
//! For `#[serde(with = "text")]` and `text::option`.

use std::fmt;

use base::{
    Markup, Money, PersonName, Role, Scope, TenantId, TenantUid, Timestamp, TokenName, UsageSource,
    UtcDay,
};
use serde::de::Visitor;
use serde::{Deserializer, Serializer};

use crate::names::{SecretName, Until};

/// A value with one text form: what `write` prints, `read` takes.
pub trait Text: Sized {
    /// The text form, without an exponent in numbers.
    ///
    /// # Errors
    /// Those of the formatter.
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result;

    /// The value of that text.
    ///
    /// # Errors
    /// One clear sentence that may be shown to the person who typed the text; it does not repeat the text.
    fn read(text: &str) -> Result<Self, String>;
}

/// Writes a value as a JSON string.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<T: Text, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Shown(value))
}

/// Reads a value from a JSON string.
///
/// # Errors
/// When it is not a string, or not the text of such a value.
pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    from.deserialize_str(TextVisitor(std::marker::PhantomData))
}

/// `null` or a text.
pub mod option {
    use super::{Shown, Text, Wrapped};
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes `null` or the text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Text, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(&Shown(value)),
            None => to.serialize_none(),
        }
    }

    /// Reads `null` or a text.
    ///
    /// # Errors
    /// When it is neither.
    pub fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        Ok(Option::<Wrapped<T>>::deserialize(from)?.map(|wrapped| wrapped.0))
    }
}

struct Shown<'a, T>(&'a T);

impl<T: Text> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f)
    }
}

struct Wrapped<T>(T);

impl<'de, T: Text> serde::Deserialize<'de> for Wrapped<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        deserialize(from).map(Self)
    }
}

struct TextVisitor<T>(std::marker::PhantomData<T>);

impl<T: Text> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::read(text).map_err(E::custom)
    }
}

/// The values whose `Display` and `FromStr` are already that pair.
macro_rules! text_by_display {
    ($($kind:ty),+) => {$(
        impl Text for $kind {
            fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }

            fn read(text: &str) -> Result<Self, String> {
                text.parse().map_err(|error| format!("{error}"))
            }
        }
    )+};
}

text_by_display!(
    TenantId, TokenName, PersonName, Role, Scope, SecretName, Until
);

impl Text for Money {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }

    fn read(text: &str) -> Result<Self, String> {
        Self::parse_usd(text).map_err(|error| format!("not an amount in USD: {error}"))
    }
}

impl Text for Markup {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.ppm() / 1_000_000, self.ppm() % 1_000_000);
        if rest == 0 {
            return write!(out, "{whole}");
        }
        write!(
            out,
            "{whole}.{}",
            format!("{rest:06}").trim_end_matches('0')
        )
    }

    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|_| {
            "not a markup: a factor from 0 to 1000 with at most six decimals, as 1.2".to_owned()
        })
    }
}

impl Text for Timestamp {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }

    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "not a moment: RFC 3339 as 2026-11-22T21:50:00Z".to_owned())
    }
}

impl Text for UtcDay {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }

    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| "not a date: YYYY-MM-DD, in UTC".to_owned())
    }
}

impl Text for UsageSource {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }

    fn read(text: &str) -> Result<Self, String> {
        Self::from_name(text)
            .ok_or_else(|| "not a usage source: provider, tokenizer, estimate, unknown".to_owned())
    }
}

impl Text for TenantUid {
    fn write(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }

    fn read(text: &str) -> Result<Self, String> {
        let malformed = || "not a tenant uid: 32 hexadecimal digits".to_owned();
        let mut bytes = [0_u8; 16];
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(malformed());
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte =
                u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| malformed())?;
        }
        Ok(Self::from_bytes(bytes))
    }
}

/// The text of a value, for people: what [`serialize`] writes, without quotes.
#[must_use]
pub fn shown<T: Text>(value: &T) -> String {
    Shown(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<T: Text>(text: &str) -> String {
        shown(&T::read(text).unwrap())
    }

    #[test]
    fn every_text_form_is_read_back() {
        assert_eq!(round_trip::<TenantId>("acme"), "acme");
        assert_eq!(round_trip::<Role>("auditor"), "auditor");
        assert_eq!(round_trip::<Money>("1e-6"), "0.000001");
        assert_eq!(round_trip::<Markup>("1.25"), "1.25");
        assert_eq!(round_trip::<Markup>("2"), "2");
        assert_eq!(round_trip::<UtcDay>("2026-11-22"), "2026-11-22");
        assert_eq!(
            round_trip::<Timestamp>("2026-11-22T01:00:00+01:00"),
            "2026-11-22T00:00:00.000Z"
        );
        assert_eq!(round_trip::<UsageSource>("unknown"), "unknown");
        assert_eq!(round_trip::<TenantUid>(&"0f".repeat(16)), "0f".repeat(16));
    }

    #[test]
    fn a_refusal_never_repeats_the_text() {
        let hostile = "../\u{1b}[2Jetc";
        for sentence in [
            TenantId::read(hostile).unwrap_err(),
            TokenName::read(hostile).unwrap_err(),
            SecretName::read(hostile).unwrap_err(),
            Until::read(hostile).unwrap_err(),
            Money::read(hostile).unwrap_err(),
            Markup::read(hostile).unwrap_err(),
            TenantUid::read("é".repeat(16).as_str()).unwrap_err(),
        ] {
            assert!(
                !sentence.contains("etc") && !sentence.contains('\u{1b}'),
                "{sentence}"
            );
        }
    }
}
