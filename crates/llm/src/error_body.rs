//! Error bodies: ours in the shape of the caller's dialect, a provider's read for its class.

use crate::dialect::Dialect;
use crate::sse;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// What an error answer says. Every text here reaches the caller.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFacts<'a> {
    /// The status the answer carries.
    pub http_status: u16,
    /// The error's type in the caller's dialect (`invalid_request_error`, `rate_limit_error`, …).
    pub kind: &'a str,
    /// `OpenAI`'s machine-readable code (`model_not_found`); Anthropic has no such field.
    pub code: Option<&'a str>,
    /// `OpenAI`'s name of the offending field; Anthropic has no such field.
    pub param: Option<&'a str>,
    /// One sentence for people.
    pub message: &'a str,
    /// The id of the request, in Anthropic's shape part of the body.
    pub request_id: &'a str,
}

/// The JSON body of an error answer.
#[must_use]
pub fn error_body(dialect: Dialect, error: &ErrorFacts<'_>) -> Vec<u8> {
    // A vector takes any write and these structs hold only strings, so serializing cannot fail.
    match dialect {
        Dialect::OpenAi => serde_json::to_vec(&OpenAiBody {
            error: OpenAiError {
                message: error.message,
                kind: error.kind,
                param: error.param,
                code: error.code,
            },
        }),
        Dialect::Anthropic => serde_json::to_vec(&AnthropicBody {
            kind: "error",
            error: AnthropicError {
                kind: error.kind,
                message: error.message,
            },
            request_id: error.request_id,
        }),
    }
    .unwrap_or_default()
}

/// The event that ends a broken stream: `data: {"error":…}`, or `event: error` with the same body.
#[must_use]
pub fn stream_error_event(dialect: Dialect, error: &ErrorFacts<'_>) -> Vec<u8> {
    let name = match dialect {
        Dialect::OpenAi => "",
        Dialect::Anthropic => "error",
    };
    let mut out = Vec::new();
    sse::write_event(&mut out, name, &error_body(dialect, error));
    out
}

/// What a provider's error body says, for its class. Its text is the provider's and may name
/// accounts and keys: it is not for the caller as it is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct UpstreamError {
    /// The sentence for people.
    pub message: Option<String>,
    /// `error.code`, numbers as text.
    pub code: Option<String>,
    /// `error.type`.
    pub kind: Option<String>,
}

impl UpstreamError {
    /// Reads a body of either dialect; whatever is not understood stays `None`.
    ///
    /// Also understood: `{"error":"text"}` (Ollama), `{"message":…,"type":…}` (older vLLM) and
    /// `{"detail":"text"}` (`FastAPI` servers).
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let Ok(wire) = serde_json::from_slice::<UpstreamWire<'_>>(body) else {
            return Self::default();
        };
        let inner = match wire.error {
            Some(raw) => match serde_json::from_str::<UpstreamInner<'_>>(raw.get()) {
                Ok(inner) => inner,
                Err(_) => UpstreamInner {
                    message: Some(raw),
                    ..UpstreamInner::default()
                },
            },
            None => UpstreamInner {
                message: wire.message.or(wire.detail),
                code: wire.code,
                kind: wire.kind,
            },
        };
        Self {
            message: text(inner.message),
            code: text(inner.code),
            kind: text(inner.kind),
        }
    }
}

type Raw<'a> = Option<&'a serde_json::value::RawValue>;

/// The text of a string or number, at most [`TEXT_BYTES_MAX`] of it.
fn text(raw: Raw<'_>) -> Option<String> {
    let json = raw?.get();
    let mut text = match json.as_bytes().first()? {
        b'"' => serde_json::from_str::<Cow<'_, str>>(json)
            .ok()?
            .into_owned(),
        b'-' | b'0'..=b'9' => json.to_owned(),
        _ => return None,
    };
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    Some(text)
}

/// What is kept of a provider's error text: enough to classify, too little to fill a log.
const TEXT_BYTES_MAX: usize = 2_048;

#[derive(Serialize)]
struct OpenAiBody<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct AnthropicBody<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    error: AnthropicError<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    message: &'a str,
}

#[derive(Deserialize)]
struct UpstreamWire<'a> {
    #[serde(borrow)]
    error: Raw<'a>,
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    detail: Raw<'a>,
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

#[derive(Deserialize, Default)]
struct UpstreamInner<'a> {
    #[serde(borrow)]
    message: Raw<'a>,
    #[serde(borrow)]
    code: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: ErrorFacts<'_> = ErrorFacts {
        http_status: 404,
        kind: "invalid_request_error",
        code: Some("model_not_found"),
        param: Some("model"),
        message: "no model \"x\"\n",
        request_id: "req_1",
    };

    #[test]
    fn bodies_have_the_shape_of_the_dialect() {
        let openai = String::from_utf8(error_body(Dialect::OpenAi, &REFUSED)).unwrap();
        assert_eq!(
            openai,
            r#"{"error":{"message":"no model \"x\"\n","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
        let anthropic = String::from_utf8(error_body(Dialect::Anthropic, &REFUSED)).unwrap();
        assert_eq!(
            anthropic,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"no model \"x\"\n"},"request_id":"req_1"}"#
        );
        let event = stream_error_event(Dialect::OpenAi, &REFUSED);
        assert_eq!(event, format!("data: {openai}\n\n").into_bytes());
        let event = stream_error_event(Dialect::Anthropic, &REFUSED);
        assert_eq!(
            event,
            format!("event: error\ndata: {anthropic}\n\n").into_bytes()
        );
        let plain = ErrorFacts {
            code: None,
            param: None,
            ..REFUSED
        };
        let plain = String::from_utf8(error_body(Dialect::OpenAi, &plain)).unwrap();
        assert!(plain.ends_with(r#""param":null,"code":null}}"#), "{plain}");
    }

    #[test]
    fn upstream_bodies_are_read_for_their_class() {
        for (body, message, code, kind) in [
            (
                r#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#,
                Some("m"),
                Some("c"),
                Some("t"),
            ),
            (
                r#"{"error":{"message":"m","type":"t","code":null}}"#,
                Some("m"),
                None,
                Some("t"),
            ),
            (
                r#"{"error":{"code":429,"message":"m"}}"#,
                Some("m"),
                Some("429"),
                None,
            ),
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#,
                Some("m"),
                None,
                Some("overloaded_error"),
            ),
            (
                r#"{"error":"model not found"}"#,
                Some("model not found"),
                None,
                None,
            ),
            (
                r#"{"object":"error","message":"m","type":"BadRequestError","code":400}"#,
                Some("m"),
                Some("400"),
                Some("BadRequestError"),
            ),
            (r#"{"detail":"Not Found"}"#, Some("Not Found"), None, None),
            ("<html>", None, None, None),
            ("[]", None, None, None),
            ("{}", None, None, None),
        ] {
            let read = UpstreamError::parse(body.as_bytes());
            let shown = (
                read.message.as_deref(),
                read.code.as_deref(),
                read.kind.as_deref(),
            );
            assert_eq!(shown, (message, code, kind), "{body}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "é".repeat(5_000));
        assert_eq!(
            UpstreamError::parse(long.as_bytes())
                .message
                .map(|m| m.len()),
            Some(TEXT_BYTES_MAX)
        );
    }
}
