//! Whole answers: what they say, and the model's name put back.

use crate::answer;
use crate::dialect::{Dialect, Operation};
use crate::json;
use crate::usage::{self, AnthropicCounts};
use base::Usage;
use bytes::Bytes;
use std::ops::Range;

/// What is wrong with a provider's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyError {
    /// Not what the dialect says an answer is; the text names the part, never content.
    Malformed(&'static str),
    /// One event, or the held end of a stream, is larger than its limit.
    TooLarge,
    /// The stream ended before its terminal event.
    Truncated,
    /// The provider reported an error inside an answer that began as a success.
    Upstream,
}

impl std::fmt::Display for ReplyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(part) => write!(f, "malformed answer from the provider: {part}"),
            Self::TooLarge => f.write_str("the provider's answer exceeds a limit"),
            Self::Truncated => f.write_str("the provider's stream ended early"),
            Self::Upstream => f.write_str("the provider reported an error in its answer"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// What a whole answer says about itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ReplyFacts {
    /// What the call consumed; `None` where the answer does not say.
    pub usage: Option<Usage>,
    /// Where the value of `model` stands, quotes included.
    pub model_span: Option<Range<usize>>,
    /// The first choice's finish reason, or the message's stop reason.
    pub finish_reason: Option<String>,
    /// Bytes of text, tool arguments and visible thinking.
    pub produced_bytes: u64,
}

/// Reads the facts of an answer in the provider's dialect.
///
/// # Errors
/// [`ReplyError::Malformed`] when the body is no JSON object or its usage is not counts;
/// [`ReplyError::Upstream`] when it is an error object under a success status.
pub fn facts(
    dialect: Dialect,
    operation: Operation,
    body: &[u8],
) -> Result<ReplyFacts, ReplyError> {
    let text = std::str::from_utf8(body).map_err(|_| ReplyError::Malformed("UTF-8"))?;
    let read = match dialect {
        Dialect::OpenAi => answer::openai(text)?,
        Dialect::Anthropic => answer::anthropic(text)?,
    };
    if read.error {
        return Err(ReplyError::Upstream);
    }
    let usage = match (read.usage[1], dialect) {
        (None, _) => None,
        (Some(text), Dialect::OpenAi) if operation == Operation::Embeddings => {
            usage::openai_counts(text)?.input_only().usage()?
        }
        (Some(text), Dialect::OpenAi) => usage::openai_counts(text)?.usage()?,
        (Some(text), Dialect::Anthropic) => {
            let mut counts = AnthropicCounts::default();
            counts.merge(text)?;
            counts.usage()?
        }
    };
    Ok(ReplyFacts {
        usage,
        model_span: read.model_span(),
        finish_reason: read.finish.map(|reason| reason.decoded().into_owned()),
        produced_bytes: read.produced,
    })
}

/// The body with `model` as the value of its `model` member; the same bytes where it has none, or
/// has that value already. `facts` must come from this body.
#[must_use]
pub fn restamp(body: Bytes, facts: &ReplyFacts, model: &str) -> Bytes {
    let Some(span) = facts.model_span.clone() else {
        return body;
    };
    let Some(old) = body.get(span.clone()) else {
        return body;
    };
    let mut stamp = Vec::with_capacity(model.len() + 2);
    json::write_string(&mut stamp, model);
    if old == stamp {
        return body;
    }
    let mut out = Vec::with_capacity(body.len() + stamp.len());
    out.extend_from_slice(&body[..span.start]);
    out.extend_from_slice(&stamp);
    out.extend_from_slice(&body[span.end..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPLETION: &str = r#"{"id":"c","object":"chat.completion","model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"caf\u00e9","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":"{}"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"x":1}"#;
    const MESSAGE: &str = r#"{"type":"message","id":"m","model":"claude","content":[{"type":"thinking","thinking":"hm","signature":"AAAA"},{"type":"text","text":"hi"},{"type":"tool_use","id":"t","name":"f","input":{"a":"bc"}}],"stop_reason":"end_turn","usage":{"input_tokens":3,"output_tokens":2}}"#;

    fn chat(dialect: Dialect, body: &str) -> Result<ReplyFacts, ReplyError> {
        facts(dialect, Operation::ChatCompletions, body.as_bytes())
    }

    #[test]
    fn answers_say_what_they_cost() {
        let openai = chat(Dialect::OpenAi, COMPLETION).unwrap();
        assert_eq!(
            openai.usage,
            Some(Usage {
                input: 3,
                output: 2,
                ..Usage::default()
            })
        );
        assert_eq!(openai.finish_reason.as_deref(), Some("stop"));
        assert_eq!(openai.produced_bytes, "café".len() as u64 + 3);
        let anthropic = chat(Dialect::Anthropic, MESSAGE).unwrap();
        assert_eq!(
            anthropic.usage,
            Some(Usage {
                input: 3,
                output: 2,
                ..Usage::default()
            })
        );
        assert_eq!(anthropic.finish_reason.as_deref(), Some("end_turn"));
        assert_eq!(anthropic.produced_bytes, 7);
        let body = r#"{"object":"list","data":[{"embedding":[0.1,-2e-3]}],"model":"e","usage":{"prompt_tokens":8,"total_tokens":8}}"#;
        let embedding = facts(Dialect::OpenAi, Operation::Embeddings, body.as_bytes()).unwrap();
        assert_eq!(
            embedding.usage,
            Some(Usage {
                input: 8,
                ..Usage::default()
            })
        );
    }

    #[test]
    fn odd_answers_are_refused() {
        for (body, error) in [
            ("", ReplyError::Malformed("JSON")),
            ("<html>", ReplyError::Malformed("JSON")),
            ("[]", ReplyError::Malformed("JSON")),
            ("{}{}", ReplyError::Malformed("JSON")),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":-1}}"#,
                ReplyError::Malformed("usage"),
            ),
            (r#"{"error":{"message":"m"}}"#, ReplyError::Upstream),
        ] {
            assert_eq!(chat(Dialect::OpenAi, body), Err(error), "{body}");
        }
        assert_eq!(
            facts(Dialect::OpenAi, Operation::Embeddings, b"\xff"),
            Err(ReplyError::Malformed("UTF-8"))
        );
        assert_eq!(
            chat(Dialect::Anthropic, r#"{"type":"error","error":{}}"#),
            Err(ReplyError::Upstream)
        );
        assert_eq!(
            chat(Dialect::OpenAi, r#"{"error":null,"usage":null}"#),
            Ok(ReplyFacts::default())
        );
    }

    #[test]
    fn only_the_model_is_stamped() {
        for (dialect, body, old) in [
            (Dialect::OpenAi, COMPLETION, "gpt-4o-2024-08-06"),
            (Dialect::Anthropic, MESSAGE, "claude"),
        ] {
            let facts = chat(dialect, body).unwrap();
            let stamped = restamp(Bytes::from(body), &facts, "my \"model\"");
            let expect = body.replace(&format!("\"model\":\"{old}\""), r#""model":"my \"model\"""#);
            assert_eq!(stamped, expect.as_bytes());
            let same = Bytes::from(body);
            assert_eq!(restamp(same.clone(), &facts, old).as_ptr(), same.as_ptr());
        }
        let bare = Bytes::from_static(b"{}");
        assert_eq!(restamp(bare.clone(), &ReplyFacts::default(), "m"), bare);
    }
}
