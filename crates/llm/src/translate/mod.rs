//! Translation between the dialects, for requests, whole replies and streams. Pure.
//!
//! Carried: text, system prompts, turns, tools (definitions, choice, parallel calls, results),
//! images, JSON schema output, stop sequences, caps, sampling, stop reasons, usage, ids, errors.
//! Every other member of a request is refused by name unless it says what its absence means; the
//! tables `DEFAULTS` of the two request modules list those. Members of a provider's reply that the
//! client's dialect does not know (fingerprints, filter results) carry no content and stay behind.
//!
//! What changes on the way, complete:
//!
//! - **Reasoning is shown, and one way.** Anthropic thinking becomes `reasoning_content` of the
//!   message or delta, the field that compatible servers use; its signature, and redacted thinking,
//!   which only Anthropic can read, stay behind. Sent back in a later request, `reasoning_content`
//!   and `reasoning` are accepted and not sent on: without a signature Anthropic does not take
//!   them. `reasoning_content` (or `reasoning`) of an `OpenAI`-dialect provider becomes a thinking
//!   block with an empty signature, and such a block goes back to that provider as
//!   `reasoning_content`; a block with a signature is refused by name.
//! - **System messages move to the front** on the way to Anthropic, wherever they stood.
//! - **A refusal** in `OpenAI`'s `refusal` is a text block and stop reason `refusal` at Anthropic;
//!   an explanation in Anthropic's `stop_details` is `refusal` at `OpenAI`.
//! - **A failed tool** (`is_error`) is a result that starts with `Error: ` at `OpenAI`.
//! - **Stop reasons**: a stop sequence and the natural end are both `stop` at `OpenAI`, and `stop`
//!   is the natural end at Anthropic; `pause_turn` and a full context window are `length`. Calls
//!   that end with `stop` (a named tool choice does that) end with `tool_use`.
//! - **`name` of a JSON schema** is a label that only `OpenAI` has; on the way there it is `response`.
//! - **A last message of the assistant** is continued by Anthropic and answered by `OpenAI`: it is
//!   refused both ways.
//! - **What the `OpenAI` SDK adds** to a message that it sends back (`index`, `parsed`,
//!   `parsed_arguments`: copies of what stands beside them) is accepted and not sent on.
//! - **Usage**: Anthropic has no place for the kinds of input apart from the cache, `OpenAI` none for
//!   the life time of cache writes. Totals stay equal. A reply without usage says 0 at Anthropic,
//!   whose clients require numbers, and nothing at `OpenAI`.

mod members;
mod reasons;
mod reply_anthropic_to_openai;
mod reply_openai_to_anthropic;
mod reply_wire;
mod request_anthropic_to_openai;
mod request_openai_to_anthropic;
mod request_wire;
mod stream_anthropic_to_openai;
mod stream_openai_to_anthropic;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::dialect::{Dialect, Operation};
use crate::reply::ReplyError;
use crate::request::{Request, RequestError};
use crate::splice::{Edits, splice};
use crate::stream::EventRole;
use members::Path;

/// The request as the provider's dialect says it, with `edits` applied. Where the dialects agree
/// this is [`splice`].
///
/// `stream_options.include_usage` is always asked of an `OpenAI`-dialect provider: the end of an
/// Anthropic stream carries usage.
///
/// # Errors
/// [`RequestError`] whose `param` is the path of the first member that cannot cross, such as
/// `messages[2].content[0].cache_control`. Embeddings cannot cross at all.
pub fn request(request: &Request, to: Dialect, edits: &Edits<'_>) -> Result<Bytes, RequestError> {
    match (request.operation(), to) {
        (Operation::ChatCompletions | Operation::Embeddings, Dialect::OpenAi)
        | (Operation::Messages, Dialect::Anthropic) => Ok(splice(request, edits)),
        (Operation::ChatCompletions, Dialect::Anthropic) => {
            request_openai_to_anthropic::translate(request, edits)
        }
        (Operation::Messages, Dialect::OpenAi) => {
            request_anthropic_to_openai::translate(request, edits)
        }
        (Operation::Embeddings, Dialect::Anthropic) => Err(RequestError {
            message: "an Anthropic provider has no embeddings".to_owned(),
            param: Some("model".to_owned()),
        }),
    }
}

/// A whole reply of a provider that speaks `from`, for a client that speaks `to`.
///
/// `model` is the name shown to the client, `created_s` the Unix time for `OpenAI`'s `created`,
/// which Anthropic replies do not carry. Where the dialects agree the body is returned as it is.
///
/// # Errors
/// [`ReplyError::Malformed`] when the body is not a reply, or holds what cannot be said in the
/// client's dialect (tool arguments that are no JSON object, blocks nobody asked for);
/// [`ReplyError::Upstream`] when it is an error body.
pub fn reply(
    from: Dialect,
    to: Dialect,
    model: &str,
    created_s: i64,
    body: &[u8],
) -> Result<Bytes, ReplyError> {
    match (from, to) {
        (Dialect::OpenAi, Dialect::OpenAi) | (Dialect::Anthropic, Dialect::Anthropic) => {
            Ok(Bytes::copy_from_slice(body))
        }
        (Dialect::OpenAi, Dialect::Anthropic) => reply_openai_to_anthropic::translate(model, body),
        (Dialect::Anthropic, Dialect::OpenAi) => {
            reply_anthropic_to_openai::translate(model, created_s, body)
        }
    }
}

/// A stream of one dialect as a stream of the other, event by event.
#[derive(Debug)]
pub struct StreamTranslator {
    way: Way,
}

#[derive(Debug)]
enum Way {
    ToAnthropic(stream_openai_to_anthropic::ToAnthropic),
    ToOpenAi(stream_anthropic_to_openai::ToOpenAi),
    /// Streams of one dialect pass as bytes and have no business here.
    Nowhere,
}

impl StreamTranslator {
    /// A translator for one stream. `model` is the name shown to the client; `created_s` and
    /// `include_usage` matter only to an `OpenAI` client. Where the dialects agree there is nothing
    /// to translate, and every event is an error.
    #[must_use]
    pub fn new(
        from: Dialect,
        to: Dialect,
        model: &str,
        created_s: i64,
        include_usage: bool,
    ) -> Self {
        let way = match (from, to) {
            (Dialect::OpenAi, Dialect::Anthropic) => {
                Way::ToAnthropic(stream_openai_to_anthropic::ToAnthropic::new(model))
            }
            (Dialect::Anthropic, Dialect::OpenAi) => Way::ToOpenAi(
                stream_anthropic_to_openai::ToOpenAi::new(model, created_s, include_usage),
            ),
            _ => Way::Nowhere,
        };
        Self { way }
    }

    /// Takes the next event of the provider (`event` is empty where the frame names none) and
    /// appends what the client gets for it, whole SSE frames, possibly none.
    ///
    /// # Errors
    /// [`ReplyError::Upstream`] on an error event, [`ReplyError::Malformed`] on what is not the
    /// dialect, [`ReplyError::TooLarge`] when more than
    /// [`STREAM_TAIL_BYTES_MAX`](base::limits::STREAM_TAIL_BYTES_MAX) would have to be held. What was
    /// appended before is valid; the stream cannot go on.
    pub fn event(
        &mut self,
        event: &str,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<EventRole, ReplyError> {
        match &mut self.way {
            Way::ToAnthropic(way) => way.event(data, out),
            Way::ToOpenAi(way) => way.event(event, data, out),
            Way::Nowhere => Err(ReplyError::Malformed("dialect")),
        }
    }

    /// The provider's stream ended. Everything was written when its last event came.
    ///
    /// # Errors
    /// [`ReplyError::Truncated`] when that was not the terminal event of its dialect.
    pub fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let ended = match &self.way {
            Way::ToAnthropic(way) => way.ended(),
            Way::ToOpenAi(way) => way.ended(),
            Way::Nowhere => false,
        };
        if ended {
            Ok(())
        } else {
            Err(ReplyError::Truncated)
        }
    }
}

/// The inbound body as text.
fn body_text(request: &Request) -> Result<&str, RequestError> {
    std::str::from_utf8(request.body()).map_err(|_| Path::Root.wrong("must be UTF-8"))
}

/// An outbound body.
fn encoded(body: &impl Serialize) -> Result<Bytes, RequestError> {
    match serde_json::to_vec(body) {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err(_) => Err(Path::Root.wrong("cannot be encoded")),
    }
}

/// A number of the configuration, as text and as what it is.
fn number_text<'a>(text: &'a str, path: &Path<'_>) -> Result<(&'a RawValue, f64), RequestError> {
    match (serde_json::from_str(text), serde_json::from_str(text)) {
        (Ok(raw), Ok(value)) => Ok((raw, value)),
        _ => Err(path.wrong("must be a number")),
    }
}

/// Tool arguments as the object they must be; none at all is the empty object.
fn tool_input(arguments: String) -> Option<Box<RawValue>> {
    let arguments = if arguments.trim().is_empty() {
        "{}".to_owned()
    } else {
        arguments
    };
    RawValue::from_string(arguments)
        .ok()
        .filter(|raw| members::is_object(raw))
}
