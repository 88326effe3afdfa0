//! JSON-RPC 2.0 as it stands on the wire: requests are read, answers written. What may be asked is the table in
//! [`crate::method`].

mod failure;

use std::borrow::Cow;
use std::collections::BTreeMap;

use base::limits::{RPC_BATCH_MAX, RPC_ID_BYTES_MAX, RPC_PARAMS_BYTES_MAX};
use serde_json::value::RawValue;

pub use failure::{ErrorData, ErrorObject, Failure, number};

/// What one message holds.
#[derive(Debug)]
pub enum Message<'a> {
    /// One request.
    One(Read<'a>),
    /// Several, in their order; at least one and at most [`RPC_BATCH_MAX`].
    Batch(Vec<Read<'a>>),
}

/// A request, or why a part of a message is none, with the id that the answer takes.
pub type Read<'a> = Result<Request<'a>, (Id<'a>, Failure)>;

/// The id of an answer: the request's as it was written, `None` for `null` where it could not be read.
pub type Id<'a> = Option<&'a RawValue>;

/// One request. It has no authority: who asks is known by the credential alone.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The id as it was written, `null` included; `None` for a notification, which nobody answers.
    pub id: Id<'a>,
    /// The method's name, known or not.
    pub method: Cow<'a, str>,
    /// An object or a list, as it was written.
    pub params: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Reads a message. That no object names a key twice, and the depth, are the caller's to check.
    ///
    /// # Errors
    /// When the whole is no message: it gets one answer with the id `null`.
    pub fn read(text: &'a str) -> Result<Self, Failure> {
        let whole: &RawValue = serde_json::from_str(text).map_err(|_| Failure::parse_error())?;
        if !whole.get().starts_with('[') {
            return Ok(Self::One(request(whole)));
        }
        let parts: Vec<&RawValue> =
            serde_json::from_str(whole.get()).map_err(|_| Failure::parse_error())?;
        if parts.is_empty() {
            return Err(Failure::invalid_request(
                "a batch holds at least one request",
            ));
        }
        if parts.len() > RPC_BATCH_MAX {
            let text = format!("a batch holds at most {RPC_BATCH_MAX} requests");
            return Err(
                Failure::new(number::INVALID_REQUEST, "batch_too_large", text).limit(RPC_BATCH_MAX),
            );
        }
        Ok(Self::Batch(parts.into_iter().map(request).collect()))
    }
}

fn request(part: &RawValue) -> Read<'_> {
    let wrong = |id, text: &'static str| Err((id, Failure::invalid_request(text)));
    let Ok(members) = serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(part.get()) else {
        return wrong(None, "a request is an object");
    };
    let (mut version, mut method, mut params, mut id) = (None, None, None, None);
    let mut others = false;
    for (name, value) in members {
        match &*name {
            "jsonrpc" => version = Some(value),
            "method" => method = Some(value),
            "params" => params = Some(value),
            "id" => id = Some(value),
            _ => others = true,
        }
    }
    if id.is_some_and(|id| !is_id(id)) {
        return wrong(None, "id: a string of at most 128 bytes, a number or null");
    }
    if others {
        return wrong(
            id,
            "a request has the members jsonrpc, method, params and id",
        );
    }
    if version.and_then(text).as_deref() != Some("2.0") {
        return wrong(id, "jsonrpc: must be \"2.0\"");
    }
    let Some(method) = method.and_then(text) else {
        return wrong(id, "method: must be a string");
    };
    if params.is_some_and(|params| !params.get().starts_with(['{', '['])) {
        return wrong(id, "params: must be an object or a list");
    }
    if params.is_some_and(|params| params.get().len() > RPC_PARAMS_BYTES_MAX) {
        let failure = Failure::invalid_params("params", "is too large").limit(RPC_PARAMS_BYTES_MAX);
        return Err((id, failure));
    }
    Ok(Request { id, method, params })
}

/// An id is sent back byte for byte, so that no number loses a digit on the way.
fn is_id(raw: &RawValue) -> bool {
    let text = raw.get();
    let scalar = text == "null"
        || text.starts_with(|first: char| first == '"' || first == '-' || first.is_ascii_digit());
    scalar && text.len() <= RPC_ID_BYTES_MAX
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(serde::Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text: Text<'_> = serde_json::from_str(raw.get()).ok()?;
    Some(text.0)
}

/// The answer to a call that was carried out.
#[must_use]
pub fn answer(id: &RawValue, result: &RawValue) -> String {
    let (id, result) = (id.get(), result.get());
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}")
}

/// The answer to a call that was not; `request_id` is found again in the log.
#[must_use]
pub fn refusal(id: Id<'_>, failure: &Failure, request_id: &str) -> String {
    let id = id.map_or("null", RawValue::get);
    let error = serde_json::to_string(&failure.object(request_id)).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{error}}}")
}

/// What a subscription sends.
#[must_use]
pub fn notification(method: &str, params: &RawValue) -> String {
    let params = params.get();
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\",\"params\":{params}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<(Option<String>, String), (Option<String>, i32)> {
        let owned = |id: Id<'_>| id.map(|id| id.get().to_owned());
        match Message::read(text) {
            Ok(Message::One(Ok(request))) => Ok((owned(request.id), request.method.into_owned())),
            Ok(Message::One(Err((id, failure)))) => Err((owned(id), failure.number())),
            Ok(Message::Batch(_)) => panic!("a batch: {text}"),
            Err(failure) => Err((None, failure.number())),
        }
    }

    #[test]
    fn an_id_is_kept_as_it_was_written() {
        for id in [
            "1",
            "-1",
            "1.50",
            "1e400",
            "18446744073709551616",
            "\"a\\u0062\"",
            "\"\"",
            "null",
        ] {
            let text = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":{id}}}");
            assert_eq!(one(&text), Ok((Some(id.to_owned()), "m".to_owned())));
        }
        let text = "{\"jsonrpc\":\"2.0\",\"method\":\"m\"}";
        assert_eq!(one(text), Ok((None, "m".to_owned())), "a notification");
    }

    #[test]
    fn what_is_no_request_is_told_with_its_id_where_it_has_one() {
        let long = format!(
            "{{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":\"{}\"}}",
            "x".repeat(127)
        );
        for (text, id) in [
            ("1", None),
            ("\"x\"", None),
            ("null", None),
            ("{}", None),
            ("{\"jsonrpc\":\"2.0\",\"method\":1,\"id\":4}", Some("4")),
            ("{\"jsonrpc\":\"1.0\",\"method\":\"m\",\"id\":4}", Some("4")),
            ("{\"jsonrpc\":2.0,\"method\":\"m\",\"id\":4}", Some("4")),
            ("{\"method\":\"m\",\"id\":4}", Some("4")),
            (
                "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":\"bar\",\"id\":4}",
                Some("4"),
            ),
            (
                "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":null,\"id\":4}",
                Some("4"),
            ),
            (
                "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"tenant\":\"globex\",\"id\":4}",
                Some("4"),
            ),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":true}", None),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":[1]}", None),
            ("{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":{}}", None),
            (long.as_str(), None),
        ] {
            assert_eq!(
                one(text),
                Err((id.map(str::to_owned), number::INVALID_REQUEST)),
                "{text}"
            );
        }
        assert_eq!(one("{"), Err((None, number::PARSE)));
        assert_eq!(one(""), Err((None, number::PARSE)));
    }

    #[test]
    fn batches_are_bounded_and_never_empty() {
        let request = "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"id\":1}";
        let batch = |count: usize| format!("[{}]", vec![request; count].join(","));
        assert_eq!(
            Message::read("[]").unwrap_err().number(),
            number::INVALID_REQUEST
        );
        let full = batch(RPC_BATCH_MAX);
        let Ok(Message::Batch(parts)) = Message::read(&full) else {
            panic!("no batch");
        };
        assert_eq!(parts.len(), RPC_BATCH_MAX);
        let many = batch(1_000);
        assert_eq!(Message::read(&many).unwrap_err().code(), "batch_too_large");
        let Ok(Message::Batch(parts)) = Message::read("[1,{}]") else {
            panic!("no batch");
        };
        assert!(parts.iter().all(Result::is_err));
    }
}
