//! Headers of both directions, each from an allow-list: nothing of the client's goes upstream,
//! nothing of the provider's comes back but what is read here.

use std::fmt;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::Credential;
use crate::catalog::{Provider, ProviderKind};

const USER_AGENT: HeaderValue = HeaderValue::from_static("partywall");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");

/// Longest wait that is passed on: a provider cannot send a client away for longer.
const RETRY_AFTER_MAX_S: u32 = 3_600;

/// Beta features that change neither what is billed nor whose objects are touched. Files, skills,
/// batches, provider-side MCP and code execution act on the operator's account as a whole, so one
/// tenant could reach another's: they are not here.
const BETAS: &[&str] = &[
    "claude-code-20250219",
    "computer-use-2024-10-22",
    "computer-use-2025-01-24",
    "computer-use-2025-11-24",
    "context-management-2025-06-27",
    "effort-2025-11-24",
    "extended-cache-ttl-2025-04-11",
    "fine-grained-tool-streaming-2025-05-14",
    "interleaved-thinking-2025-05-14",
    "max-tokens-3-5-sonnet-2024-07-15",
    "output-128k-2025-02-19",
    "pdfs-2024-09-25",
    "prompt-caching-2024-07-31",
    "structured-outputs-2025-11-13",
    "token-counting-2024-11-01",
    "token-efficient-tools-2025-02-19",
    "tool-examples-2025-10-29",
];

/// Beta features of a request, each of them known and harmless to other tenants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AnthropicBeta(HeaderValue);

/// A beta feature that is not forwarded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownBeta {
    /// Its name as the client wrote it, at most 64 characters; safe to show to the client.
    pub name: String,
}

impl fmt::Display for UnknownBeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "anthropic-beta: {:?} is not supported", self.name)
    }
}

impl std::error::Error for UnknownBeta {}

impl AnthropicBeta {
    /// Reads the values of a client's `anthropic-beta` headers: comma-separated names. `None` when
    /// there are none.
    ///
    /// # Errors
    /// Names the first feature that is not on the list.
    pub fn parse<'a>(
        values: impl IntoIterator<Item = &'a HeaderValue>,
    ) -> Result<Option<Self>, UnknownBeta> {
        let mut known: Vec<&'static str> = Vec::new();
        for value in values {
            for name in value
                .as_bytes()
                .split(|b| *b == b',')
                .map(<[u8]>::trim_ascii)
                .filter(|n| !n.is_empty())
            {
                match BETAS.iter().find(|beta| beta.as_bytes() == name) {
                    Some(beta) if known.contains(beta) => {}
                    Some(beta) => known.push(beta),
                    None => {
                        let name = String::from_utf8_lossy(name).chars().take(64).collect();
                        return Err(UnknownBeta { name });
                    }
                }
            }
        }
        // Joined from the table's own names, which are all valid in a header.
        Ok(HeaderValue::from_str(&known.join(","))
            .ok()
            .filter(|v| !v.is_empty())
            .map(Self))
    }
}

/// What kind of body an answer has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentType {
    /// `application/json`.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// Something else, or nothing said.
    Other,
}

/// The request's headers, complete.
pub(super) fn outbound(
    provider: &Provider,
    key: &Credential,
    stream: bool,
    beta: Option<AnthropicBeta>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(header::HOST, provider.host_header().clone());
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::ACCEPT, if stream { EVENT_STREAM } else { JSON });
    headers.insert(header::ACCEPT_ENCODING, IDENTITY);
    headers.insert(header::USER_AGENT, USER_AGENT);
    let name = match provider.kind() {
        ProviderKind::OpenAi => header::AUTHORIZATION,
        ProviderKind::Anthropic => {
            headers.insert(
                HeaderName::from_static("anthropic-version"),
                ANTHROPIC_VERSION,
            );
            if let Some(AnthropicBeta(value)) = beta {
                headers.insert(HeaderName::from_static("anthropic-beta"), value);
            }
            HeaderName::from_static("x-api-key")
        }
    };
    if let Some(value) = key.header() {
        headers.insert(name, value.clone());
    }
    headers
}

/// Whether the body came as it was asked for: not compressed.
pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(|value| {
            value
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"identity")
        })
}

pub(super) fn content_type(headers: &HeaderMap) -> ContentType {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().split(|b| *b == b';').next())
        .unwrap_or_default()
        .trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        ContentType::Json
    } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
        ContentType::EventStream
    } else {
        ContentType::Other
    }
}

/// Seconds only; the date form is not used by providers.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<u32> {
    let seconds: u32 = headers
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(seconds.min(RETRY_AFTER_MAX_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(texts: &[&str]) -> Vec<HeaderValue> {
        texts
            .iter()
            .map(|text| HeaderValue::from_str(text).unwrap())
            .collect()
    }

    #[test]
    fn betas_are_known_or_refused_by_name() {
        let parse = |texts: &[&str]| AnthropicBeta::parse(&values(texts));
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&[" , "]), Ok(None));
        let two = parse(&[
            "interleaved-thinking-2025-05-14, claude-code-20250219",
            "claude-code-20250219",
        ]);
        assert_eq!(
            two.unwrap().unwrap().0,
            "interleaved-thinking-2025-05-14,claude-code-20250219"
        );
        let refused = parse(&["claude-code-20250219,files-api-2025-04-14"]).unwrap_err();
        assert_eq!(refused.name, "files-api-2025-04-14");
        assert_eq!(parse(&[&"x".repeat(500)]).unwrap_err().name.len(), 64);
    }

    #[test]
    fn the_allow_list_holds_only_names_fit_for_a_header() {
        assert!(BETAS.is_sorted());
        assert!(
            BETAS
                .iter()
                .all(|name| HeaderValue::from_str(name).is_ok() && !name.contains(','))
        );
    }

    #[test]
    fn answers_are_read_and_not_copied() {
        let mut headers = HeaderMap::new();
        assert_eq!(content_type(&headers), ContentType::Other);
        assert!(is_identity(&headers));
        for (text, kind) in [
            ("application/json; charset=utf-8", ContentType::Json),
            ("Text/Event-Stream", ContentType::EventStream),
            ("text/html", ContentType::Other),
        ] {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(content_type(&headers), kind);
        }
        for (text, seconds) in [
            ("7", Some(7)),
            ("999999", Some(3_600)),
            ("-1", None),
            ("soon", None),
            ("1.5", None),
        ] {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(text));
            assert_eq!(retry_after(&headers), seconds, "{text}");
        }
        for (text, identity) in [
            ("identity", true),
            ("gzip", false),
            ("br, identity", false),
            ("", false),
        ] {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(text));
            assert_eq!(is_identity(&headers), identity, "{text}");
        }
    }
}
