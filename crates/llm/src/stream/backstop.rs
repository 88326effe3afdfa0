//! The end of a stream whose provider does not stop where it was told to.
//!
//! The number of tokens that was bought went upstream with the request, and a provider that keeps to it ends its answer
//! itself. One that has sent far more than that gets cut: the stream ends with the terminal events of the provider's own
//! dialect, which are carried to the client like any others.

use crate::dialect::Dialect;
use crate::json::{Cursor, Kind};
use crate::sse::write_event;

/// A provider sends a token or more with each event, but some relays send single characters: so many events and so many bytes
/// for each token that was bought, and both are more than any answer within the limit has.
const EVENTS_PER_TOKEN: u64 = 2;
const BYTES_PER_TOKEN: u64 = 8;
const EVENTS_SLACK: u64 = 64;
const BYTES_SLACK: u64 = 512;
/// Bytes alone tell late, because a run of one character can be a single token.
const BYTES_PER_TOKEN_MAX: u64 = 1_024;
const BYTES_SLACK_MAX: u64 = 64 * 1_024;

/// What was bought for a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backstop {
    /// Output tokens of each choice.
    pub output: u64,
    /// Choices.
    pub choices: u64,
    /// Input tokens that the ending names where the provider has not said them.
    pub input: u64,
}

impl Backstop {
    /// Whether so many events with so much text cannot come from a provider that kept to what was bought.
    pub(super) fn is_passed(&self, events: u64, bytes: u64) -> bool {
        let bought = self.output.saturating_mul(self.choices.max(1));
        let above = |count: u64, each: u64, slack: u64| {
            count > bought.saturating_mul(each).saturating_add(slack)
        };
        above(events, EVENTS_PER_TOKEN, EVENTS_SLACK) && above(bytes, BYTES_PER_TOKEN, BYTES_SLACK)
            || above(bytes, BYTES_PER_TOKEN_MAX, BYTES_SLACK_MAX)
    }

    /// The terminal events of a stream of which `data` is the last event.
    pub(super) fn ending(&self, dialect: Dialect, data: &str, input: Option<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        let output = self.output.saturating_mul(self.choices.max(1));
        match dialect {
            Dialect::OpenAi => {
                let input = input.unwrap_or(self.input);
                self.openai(&mut out, data, input, output);
            }
            Dialect::Anthropic => anthropic(&mut out, data, output),
        }
        out
    }

    fn openai(&self, out: &mut Vec<u8>, data: &str, input: u64, output: u64) {
        // The chunk's own members, so that the ending belongs to the same answer.
        let head = members(data, &["choices", "usage"]);
        let choice = |index: u64| {
            format!(
                "{{\"index\":{index},\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"length\"}}"
            )
        };
        let choices: Vec<String> = (0..self.choices.max(1)).map(choice).collect();
        let end = format!("{{{head}\"choices\":[{}]}}", choices.join(","));
        write_event(out, "", end.as_bytes());
        let total = input.saturating_add(output);
        let usage = format!(
            "{{{head}\"choices\":[],\"usage\":{{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{total}}}}}"
        );
        write_event(out, "", usage.as_bytes());
        write_event(out, "", b"[DONE]");
    }
}

fn anthropic(out: &mut Vec<u8>, data: &str, output: u64) {
    if let Some(index) = member(data, "index") {
        let stop = format!("{{\"type\":\"content_block_stop\",\"index\":{index}}}");
        write_event(out, "content_block_stop", stop.as_bytes());
    }
    let delta = format!(
        "{{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"max_tokens\",\"stop_sequence\":null}},\"usage\":{{\"output_tokens\":{output}}}}}"
    );
    write_event(out, "message_delta", delta.as_bytes());
    write_event(out, "message_stop", b"{\"type\":\"message_stop\"}");
}

/// The members of an object but those named, each with a comma after it.
fn members(text: &str, without: &[&str]) -> String {
    let mut out = String::new();
    let mut cursor = Cursor::lenient(text);
    let Ok(mut open) = cursor.object() else {
        return out;
    };
    while let Ok(Some(key)) = cursor.key(&mut open) {
        let name = &text[key.span()];
        let Ok(value) = cursor.skip() else { break };
        if !without.iter().any(|other| key.is(other)) {
            out.push_str(name);
            out.push(':');
            out.push_str(&text[value]);
            out.push(',');
        }
    }
    out
}

/// The number of that name.
fn member(text: &str, name: &str) -> Option<u64> {
    let mut cursor = Cursor::lenient(text);
    let mut open = cursor.object().ok()?;
    while let Some(key) = cursor.key(&mut open).ok()? {
        let is_it = key.is(name) && cursor.kind().ok()? == Kind::Number;
        let value = cursor.skip().ok()?;
        if is_it {
            return text[value].parse().ok();
        }
    }
    None
}
