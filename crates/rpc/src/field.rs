//! What the params and answers of methods are made of: one description for the check, the document and its readers.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::jsonrpc::Failure;
use crate::names::Until;

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What may stand there.
    pub kind: Kind,
    /// Whether it must.
    pub required: bool,
    /// One sentence.
    pub doc: &'static str,
}

/// What may stand in a member, with its limits.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A text of so many bytes at most.
    Text {
        /// The limit.
        max: usize,
    },
    /// A whole number.
    Count {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// A number, whole or not.
    Number {
        /// The smallest.
        min: u64,
        /// The largest.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
    /// A day in UTC, `YYYY-MM-DD`.
    Day,
    /// A moment, RFC 3339.
    Moment,
    /// A duration such as `10m`, or a moment.
    Until,
    /// A list of texts.
    Texts {
        /// At most so many.
        items: usize,
        /// Bytes of each.
        max: usize,
    },
    /// A list of objects or texts; only in answers.
    List,
    /// An object that is described elsewhere; only in answers.
    Object,
}

/// An answer that is a list of something.
macro_rules! list {
    ($(#[doc = $doc:literal])+ $name:ident, $field:ident: $item:ty, $text:literal) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub struct $name {
            #[doc = $text]
            pub $field: Vec<$item>,
        }

        impl $crate::field::Described for $name {
            const FIELDS: &'static [$crate::field::Field] =
                &[$crate::field::Field::must(stringify!($field), $crate::field::Kind::List, $text)];
        }
    };
}

pub(crate) use list;

/// An object that is described member by member.
pub trait Described {
    /// All members. Others are refused.
    const FIELDS: &'static [Field];
}

impl Field {
    /// A member that may be left out.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            required: false,
            doc,
        }
    }

    /// A member that must be there.
    #[must_use]
    pub const fn must(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self {
            name,
            kind,
            required: true,
            doc,
        }
    }

    /// Its JSON schema.
    #[must_use]
    pub fn schema(&self) -> Value {
        match self.kind {
            Kind::Text { max } => json!({ "type": "string", "maxLength": max }),
            Kind::Count { min, max: u64::MAX } => json!({ "type": "integer", "minimum": min }),
            Kind::Count { min, max } => {
                json!({ "type": "integer", "minimum": min, "maximum": max })
            }
            Kind::Number { min, max } => {
                json!({ "type": "number", "minimum": min, "maximum": max })
            }
            Kind::Texts { items, max } => json!({
                "type": "array",
                "maxItems": items,
                "items": { "type": "string", "maxLength": max },
            }),
            Kind::Flag => json!({ "type": "boolean" }),
            Kind::Day => json!({ "type": "string", "format": "date" }),
            Kind::Moment => json!({ "type": "string", "format": "date-time" }),
            Kind::Until => json!({ "type": "string", "maxLength": UNTIL_BYTES_MAX }),
            Kind::List => json!({ "type": "array" }),
            Kind::Object => json!({ "type": "object" }),
        }
    }

    fn check(&self, raw: &RawValue) -> Result<(), Failure> {
        let wrong = |what: &str| Failure::invalid_params(self.name, what);
        let fits = match self.kind {
            Kind::Text { max } => {
                let text = text(raw).ok_or_else(|| wrong("must be a text"))?;
                if text.len() > max {
                    return Err(wrong(&format!("is longer than {max} bytes")).limit(max));
                }
                return Ok(());
            }
            Kind::Count { min, max } => {
                let range = match max {
                    u64::MAX => format!("must be a whole number from {min}"),
                    _ => format!("must be a whole number from {min} to {max}"),
                };
                let number = serde_json::from_str::<u64>(raw.get()).ok();
                let number = number.ok_or_else(|| wrong(&range))?;
                if number < min || number > max {
                    let limit = if number < min { min } else { max };
                    return Err(wrong(&range).limit(limit));
                }
                return Ok(());
            }
            Kind::Number { min, max } => return number(raw, min, max).map_err(|what| wrong(&what)),
            Kind::Texts { items, max } => {
                return texts(raw, items, max).map_err(|(what, limit)| wrong(&what).limit(limit));
            }
            Kind::Flag => matches!(raw.get(), "true" | "false"),
            Kind::Day => text(raw).is_some_and(|text| base::UtcDay::parse(&text).is_some()),
            Kind::Moment => text(raw).is_some_and(|text| base::Timestamp::parse(&text).is_some()),
            Kind::Until => text(raw)
                .is_some_and(|text| text.len() <= UNTIL_BYTES_MAX && text.parse::<Until>().is_ok()),
            Kind::List => raw.get().starts_with('['),
            Kind::Object => raw.get().starts_with('{'),
        };
        fits.then_some(()).ok_or_else(|| {
            wrong(match self.kind {
                Kind::Flag => "must be true or false",
                Kind::Day => "must be a day in UTC: YYYY-MM-DD",
                Kind::Moment => "must be a moment such as 2026-11-23T04:00:00Z",
                Kind::Until => "must be a duration such as 10m, or a moment",
                _ => "must be an object or a list",
            })
        })
    }
}

/// Bytes of a duration or moment.
const UNTIL_BYTES_MAX: usize = 64;

fn number(raw: &RawValue, min: u64, max: u64) -> Result<(), String> {
    let number: Option<f64> = serde_json::from_str(raw.get()).ok();
    let (low, high) = (
        f64::from(u32::try_from(min).unwrap_or(u32::MAX)),
        f64::from(u32::try_from(max).unwrap_or(u32::MAX)),
    );
    match number {
        Some(number) if (low..=high).contains(&number) => Ok(()),
        _ => Err(format!("must be a number from {min} to {max}")),
    }
}

fn texts(raw: &RawValue, items: usize, max: usize) -> Result<(), (String, usize)> {
    let list: Result<Vec<String>, _> = serde_json::from_str(raw.get());
    let list = list.map_err(|_| ("must be a list of texts".to_owned(), items))?;
    if list.len() > items {
        return Err((format!("has more than {items} texts"), items));
    }
    match list.iter().any(|text| text.len() > max) {
        true => Err((format!("holds a text of more than {max} bytes"), max)),
        false => Ok(()),
    }
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<String>(raw.get())
        .ok()
        .map(Cow::Owned)
}

/// Reads the params of a method: each member by its description first, so that a refusal names field and limit, then all
/// of them as their type.
///
/// # Errors
/// The first member that is not known, is missing, or is not what it must be.
pub fn read<P: Described + DeserializeOwned>(params: Option<&RawValue>) -> Result<P, Failure> {
    let text = match params.map(RawValue::get) {
        // An empty list names nothing, by place or otherwise.
        None => "{}",
        Some(list) if list.starts_with('[') && list[1..].trim_start() == "]" => "{}",
        Some(list) if list.starts_with('[') => {
            return Err(Failure::invalid_params(
                "params",
                "are given by name, in an object",
            ));
        }
        Some(object) => object,
    };
    let no_object = || Failure::invalid_params("params", "are not an object");
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|_| no_object())?;
    for (name, value) in &members {
        let Some(field) = P::FIELDS.iter().find(|field| field.name == name) else {
            // What the caller wrote there is not repeated at length: it may stand in the wrong place.
            let name: String = name.chars().take(64).collect();
            return Err(Failure::invalid_params(
                name,
                "is not a param of this method",
            ));
        };
        if value.get() == "null" && !field.required {
            continue;
        }
        field.check(value)?;
    }
    for field in P::FIELDS.iter().filter(|field| field.required) {
        if !members.contains_key(field.name) {
            return Err(Failure::invalid_params(field.name, "is missing"));
        }
    }
    serde_json::from_str(text).map_err(|error| no_such(P::FIELDS, text, &error))
}

/// The member that a type refused although its description fits: a name outside its grammar.
fn no_such(fields: &[Field], text: &str, error: &serde_json::Error) -> Failure {
    let end = text.lines().take(error.line().saturating_sub(1));
    let end = end.map(|line| line.len() + 1).sum::<usize>() + error.column();
    let before = text.get(..end.min(text.len())).unwrap_or(text);
    let found = fields
        .iter()
        .filter_map(|field| Some((before.rfind(&format!("\"{}\"", field.name))?, field.name)))
        .max();
    // The sentence of the type; where in the text it is, is our own affair.
    let sentence = error.to_string();
    let sentence = sentence.split(" at line ").next().unwrap_or_default();
    Failure::invalid_params(found.map_or("params", |(_, name)| name), sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{AuditQuery, Nothing, Rotate, SetSecret, UsagePeriod};

    fn refused<P: Described + DeserializeOwned>(text: &str) -> (String, Option<String>) {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let Err(failure) = read::<P>(Some(raw)) else {
            panic!("taken: {text}");
        };
        let data = failure.object("req").data;
        assert_eq!(data.code, "invalid_params", "{text}");
        (data.field.unwrap_or_default(), data.limit)
    }

    #[test]
    fn a_refusal_names_field_and_limit() {
        let of = |field: &str| (field.to_owned(), None);
        let limited = |field: &str, limit: &str| (field.to_owned(), Some(limit.to_owned()));
        assert_eq!(
            refused::<AuditQuery>("{\"limit\":0}"),
            limited("limit", "1")
        );
        assert_eq!(
            refused::<AuditQuery>("{\"limit\":1001}"),
            limited("limit", "1000")
        );
        assert_eq!(refused::<AuditQuery>("{\"limit\":1.5}"), of("limit"));
        assert_eq!(refused::<AuditQuery>("{\"since\":\"soon\"}"), of("since"));
        assert_eq!(
            refused::<UsagePeriod>("{\"from\":\"2026-13-01\"}"),
            of("from")
        );
        assert_eq!(refused::<Rotate>("{\"grace\":\"soon\"}"), of("grace"));
        assert_eq!(refused::<Rotate>("{\"all\":1}"), of("all"));
        assert_eq!(refused::<SetSecret>("{\"value\":\"x\"}"), of("name"));
        assert_eq!(
            refused::<SetSecret>("{\"name\":\"../x\",\"value\":\"x\"}"),
            of("name")
        );
        assert_eq!(
            refused::<SetSecret>("{\"name\":\"x\",\n\"value\":\"\"}"),
            of("value")
        );
        let long = format!("{{\"name\":\"x\",\"value\":\"{}\"}}", "y".repeat(65_537));
        assert_eq!(refused::<SetSecret>(&long), limited("value", "65536"));
    }

    #[test]
    fn authority_cannot_be_declared() {
        for name in [
            "tenant",
            "tenant_id",
            "role",
            "roles",
            "scopes",
            "auth",
            "token",
            "origin",
        ] {
            let text = format!("{{\"{name}\":\"globex\"}}");
            assert_eq!(refused::<Nothing>(&text).0, name);
            assert_eq!(refused::<UsagePeriod>(&text).0, name);
        }
        assert_eq!(refused::<Nothing>("[1]").0, "params");
    }

    #[test]
    fn what_is_left_out_or_null_is_none() {
        for text in ["{}", "[]", "[ ]", "{\"from\":null}"] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            assert!(read::<UsagePeriod>(Some(raw)).is_ok_and(|period| period.from.is_none()));
        }
        assert!(read::<Nothing>(None).is_ok());
    }
}
