//! A JSON object of a request as a list of members, each of which is taken or refused by name.
//!
//! Translation must account for every member that a client wrote. Structs that ignore what they do
//! not know would lose members silently; here what nobody took is left over and is refused with
//! its path, such as `messages[2].content[0].cache_control`.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dialect::Dialect;
use crate::request::RequestError;

/// Members of one object that is read member by member: no object of either dialect comes near.
const MEMBERS_MAX: usize = 64;
/// Bytes of a path in an error: names are the client's own and may be of any length.
const PATH_BYTES_MAX: usize = 160;

/// Where in the request a value stands. Costs nothing until it is written into an error.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    /// The request body.
    Root,
    /// A member of an object.
    Name(&'p Path<'p>, &'p str),
    /// An element of an array.
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// The error that refuses what stands here because the provider has no counterpart for it.
    pub(super) fn refused(&self, to: Dialect) -> RequestError {
        let path = self.to_string();
        let provider = provider_name(to);
        RequestError {
            message: format!("{path} cannot be sent to {provider} provider"),
            param: Some(path),
        }
    }

    /// The error that says what is wrong with what stands here.
    pub(super) fn wrong(&self, what: &str) -> RequestError {
        let path = self.to_string();
        if path.is_empty() {
            return RequestError {
                message: format!("the body {what}"),
                param: None,
            };
        }
        RequestError {
            message: format!("{path} {what}"),
            param: Some(path),
        }
    }

    fn write(&self, out: &mut String) {
        match self {
            Path::Root => {}
            Path::Name(parent, name) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.extend(
                    name.chars()
                        .take(PATH_BYTES_MAX)
                        .filter(|c| !c.is_control()),
                );
            }
            Path::Index(parent, index) => {
                parent.write(out);
                // Writing to a String cannot fail.
                let _infallible = write!(out, "[{index}]");
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text);
        let cut = text
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| *at >= PATH_BYTES_MAX);
        f.write_str(text.get(..cut.unwrap_or(text.len())).unwrap_or_default())
    }
}

/// The members of one object that have not been taken yet.
pub(super) struct Members<'a, 'p> {
    path: &'p Path<'p>,
    left: Vec<(Text<'a>, &'a RawValue)>,
}

impl<'a, 'p> Members<'a, 'p> {
    /// The members of the object in `text`. Anything but an object, and a member given twice, is
    /// refused.
    pub(super) fn of(text: &'a str, path: &'p Path<'p>) -> Result<Self, RequestError> {
        let Object(left) =
            serde_json::from_str(text).map_err(|_| path.wrong("must be an object"))?;
        if left.len() > MEMBERS_MAX {
            return Err(path.wrong("has more than 64 members"));
        }
        for (at, (name, _)) in left.iter().enumerate() {
            if left.iter().take(at).any(|(earlier, _)| earlier.0 == name.0) {
                return Err(Path::Name(path, &name.0).wrong("is given twice"));
            }
        }
        Ok(Self { path, left })
    }

    /// Where the object stands.
    pub(super) fn path(&self) -> &'p Path<'p> {
        self.path
    }

    /// The member of that name, which then counts as accounted for. `null` is the same as absent.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let at = self.left.iter().position(|(key, _)| key.0 == name)?;
        let (_, value) = self.left.swap_remove(at);
        (value.get() != "null").then_some(value)
    }

    /// The member of that name, which must be there.
    pub(super) fn need(&mut self, name: &str) -> Result<&'a RawValue, RequestError> {
        self.take(name)
            .ok_or_else(|| Path::Name(self.path, name).wrong("is required"))
    }

    /// The string of that name.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<Cow<'a, str>>, RequestError> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        string(raw, &Path::Name(self.path, name)).map(Some)
    }

    /// The string of that name, which must be there.
    pub(super) fn need_text(&mut self, name: &str) -> Result<Cow<'a, str>, RequestError> {
        string(self.need(name)?, &Path::Name(self.path, name))
    }

    /// The boolean of that name.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, RequestError> {
        match self.take(name).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Path::Name(self.path, name).wrong("must be true or false")),
        }
    }

    /// The number of that name as it was written, and what it is.
    pub(super) fn number(
        &mut self,
        name: &str,
    ) -> Result<Option<(&'a RawValue, f64)>, RequestError> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        match serde_json::from_str::<f64>(raw.get()) {
            Ok(value) => Ok(Some((raw, value))),
            Err(_) => Err(Path::Name(self.path, name).wrong("must be a number")),
        }
    }

    /// Refuses the first member that was not taken, unless it says what `defaults` says it means
    /// when absent.
    pub(super) fn finish(
        self,
        to: Dialect,
        defaults: &[(&str, &[&str])],
    ) -> Result<(), RequestError> {
        for (name, value) in &self.left {
            let idle = value.get() == "null"
                || defaults.iter().any(|(known, values)| {
                    *known == name.0 && values.iter().any(|v| same(value.get(), v))
                });
            if !idle {
                return Err(Path::Name(self.path, &name.0).refused(to));
            }
        }
        Ok(())
    }
}

/// The string that stands in `raw`.
pub(super) fn string<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Cow<'a, str>, RequestError> {
    serde_json::from_str::<Text<'a>>(raw.get())
        .map(|text| text.0)
        .map_err(|_| path.wrong("must be a string"))
}

/// The elements of the array that stands in `raw`.
pub(super) fn elements<'a>(
    raw: &'a RawValue,
    path: &Path<'_>,
) -> Result<Vec<&'a RawValue>, RequestError> {
    serde_json::from_str(raw.get()).map_err(|_| path.wrong("must be an array"))
}

/// Whether a value is a string, without reading it.
pub(super) fn is_string(raw: &RawValue) -> bool {
    raw.get().starts_with('"')
}

/// Whether a value is an object, without reading it.
pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// A string that borrows wherever it has no escapes, inside an `Option` too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

struct Object<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
                let mut pairs = Vec::new();
                // One more than allowed is kept, so that the count shows that there were too many.
                while let Some(key) = map.next_key::<Text<'de>>()? {
                    let value = map.next_value::<&'de RawValue>()?;
                    if pairs.len() <= MEMBERS_MAX {
                        pairs.push((key, value));
                    }
                }
                Ok(Object(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

fn provider_name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "an OpenAI",
        Dialect::Anthropic => "an Anthropic",
    }
}

/// Whether two JSON texts say the same: numbers by value, the rest apart from blanks. `known` is
/// short and holds no blanks.
fn same(given: &str, known: &str) -> bool {
    if let (Ok(given), Ok(known)) = (given.parse::<f64>(), known.parse::<f64>()) {
        return given == known;
    }
    given
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .eq(known.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> RequestError {
        match Members::of(text, &Path::Root) {
            Err(error) => error,
            Ok(members) => members
                .finish(Dialect::Anthropic, &[("n", &["1"])])
                .unwrap_err(),
        }
    }

    #[test]
    fn what_is_not_taken_is_refused_by_path() {
        let messages = Path::Name(&Path::Root, "messages");
        let second = Path::Index(&messages, 2);
        let members = Members::of(r#"{"cache_control":{}}"#, &second).unwrap();
        let refused = members.finish(Dialect::OpenAi, &[]).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("messages[2].cache_control"));
        assert_eq!(
            refused.message,
            "messages[2].cache_control cannot be sent to an OpenAI provider"
        );
    }

    #[test]
    fn defaults_and_null_pass_and_other_values_do_not() {
        for idle in ["{}", r#"{"n":1}"#, r#"{"n":1.0}"#, r#"{"n":null,"x":null}"#] {
            Members::of(idle, &Path::Root)
                .unwrap()
                .finish(Dialect::Anthropic, &[("n", &["1"])])
                .unwrap();
        }
        assert_eq!(error(r#"{"n":2}"#).param.as_deref(), Some("n"));
    }

    #[test]
    fn twins_other_shapes_and_crowds_are_refused() {
        assert_eq!(
            error(r#"{"a":null,"\u0061":null}"#).param.as_deref(),
            Some("a")
        );
        assert!(error("[]").message.contains("object"));
        let crowd: Vec<String> = (0..100_000).map(|i| format!("\"k{i}\":0")).collect();
        assert!(
            error(&format!("{{{}}}", crowd.join(",")))
                .message
                .contains("64")
        );
    }

    #[test]
    fn a_long_name_does_not_make_a_long_error() {
        let refused = error(&format!("{{\"{}\":1}}", "é".repeat(100_000)));
        assert!(refused.message.len() < 300, "{}", refused.message.len());
    }
}
