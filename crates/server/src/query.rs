//! Query strings: bounded, decoded once, each name at most once, no name that the route does not know.

use std::borrow::Cow;

use base::UtcDay;

/// Longest query string in bytes: no route takes more than a few short values.
const QUERY_BYTES_MAX: usize = 4 * 1024;

/// The named values of a query.
#[derive(Debug, Default)]
pub(crate) struct Query<'a> {
    values: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Why a query was refused; the sentence is safe for outsiders.
pub(crate) type QueryError = String;

impl<'a> Query<'a> {
    /// Reads a query of which the route knows the names `known`.
    pub(crate) fn parse(text: Option<&'a str>, known: &[&str]) -> Result<Self, QueryError> {
        let text = text.unwrap_or_default();
        if text.len() > QUERY_BYTES_MAX {
            return Err(format!("the query is longer than {QUERY_BYTES_MAX} bytes"));
        }
        let mut query = Self::default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let malformed = || "the query is not valid percent-encoded UTF-8".to_owned();
            let name = percent_decoded(name, true).ok_or_else(malformed)?;
            let value = percent_decoded(value, true).ok_or_else(malformed)?;
            if !known.contains(&&*name) {
                let list = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                return Err(format!(
                    "the query has a parameter that is not known here; known: {list}"
                ));
            }
            if query.text(&name).is_some() {
                return Err(format!("the query parameter {name} is given twice"));
            }
            query.values.push((name, value));
        }
        Ok(query)
    }

    /// The value of that name.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| &**value)
    }

    /// A day, `YYYY-MM-DD` in UTC.
    pub(crate) fn day(&self, name: &str) -> Result<Option<UtcDay>, QueryError> {
        let read = |text| {
            UtcDay::parse(text).ok_or_else(|| format!("{name} is not a date: YYYY-MM-DD, in UTC"))
        };
        self.text(name).map(read).transpose()
    }

    /// A whole number from `min` to `max`.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, QueryError> {
        let read = |text: &str| {
            let number = text
                .parse()
                .ok()
                .filter(|number| (min..=max).contains(number));
            number.ok_or_else(|| format!("{name} is a whole number from {min} to {max}"))
        };
        self.text(name).map(read).transpose()
    }

    /// `true`, `1` or a bare name; `false` or `0`.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, QueryError> {
        match self.text(name) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(_) => Err(format!("{name} is true or false")),
        }
    }
}

/// Decodes `%xx` (and `+` as a space where `plus`); `None` for broken escapes, control characters and what is not UTF-8.
pub(crate) fn percent_decoded(text: &str, plus: bool) -> Option<Cow<'_, str>> {
    let is_plain = |byte: u8| byte != b'%' && !(plus && byte == b'+');
    if text.bytes().all(is_plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            b'+' if plus => b' ',
            other => other,
        });
    }
    let text = String::from_utf8(out).ok()?;
    (!text.contains(|c: char| c.is_control())).then_some(Cow::Owned(text))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_once_and_strictly() {
        let query = Query::parse(
            Some("from=2026-11-01&limit=7&&detail&x=a%2Bb+c"),
            &["from", "limit", "detail", "x"],
        )
        .unwrap();
        assert_eq!(query.day("from").unwrap(), UtcDay::parse("2026-11-01"));
        assert_eq!(query.number("limit", 1, 10).unwrap(), Some(7));
        assert!(query.flag("detail").unwrap());
        assert_eq!(query.text("x"), Some("a+b c"));
        assert!(
            query.number("limit", 8, 10).is_err()
                && query.day("limit").is_err()
                && query.flag("x").is_err()
        );
        assert_eq!(query.day("to").unwrap(), None);
    }

    #[test]
    fn hostile_queries_are_refused() {
        let long = format!("from={}", "x".repeat(QUERY_BYTES_MAX));
        for text in [
            "from=1&from=2",
            "tenant=globex",
            "from=%",
            "from=%4",
            "from=%zz",
            "from=%ff",
            "from=%00",
            "from=%0d%0a",
            &long,
        ] {
            assert!(Query::parse(Some(text), &["from"]).is_err(), "{text}");
        }
        assert!(Query::parse(None, &[]).is_ok());
        let error = Query::parse(Some("secret-name=1"), &[]).unwrap_err();
        assert!(!error.contains("secret-name"), "{error}");
    }
}
