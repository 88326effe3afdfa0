//! A chat completion as an Anthropic message.

use base::Usage;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::reasons::stop_reason;
use super::reply_wire::{BlockOut, Call, Completion, MessageOut};
use super::tool_input;
use crate::reply::ReplyError;
use crate::usage::{openai_usage, write_anthropic};

pub(super) fn translate(model: &str, body: &[u8]) -> Result<Bytes, ReplyError> {
    let completion: Completion<'_> =
        serde_json::from_slice(body).map_err(|_| ReplyError::Malformed("body"))?;
    if completion.error.is_some() {
        return Err(ReplyError::Upstream);
    }
    let usage = completion
        .usage
        .map(openai_usage)
        .transpose()?
        .flatten()
        .unwrap_or_default();
    let choice = match completion.choices.map(<[_; 1]>::try_from) {
        Some(Ok([choice])) => choice,
        _ => return Err(ReplyError::Malformed("choices")),
    };
    let mut message = choice.message.ok_or(ReplyError::Malformed("message"))?;
    if message.function_call.is_some() {
        return Err(ReplyError::Malformed("function_call"));
    }
    let reasoning = message.reasoning();
    let calls = message
        .tool_calls
        .iter()
        .flatten()
        .map(ParsedCall::of)
        .collect::<Result<Vec<_>, _>>()?;
    let refusal = message.refusal.filter(|text| !text.0.is_empty());
    let finish = choice
        .finish_reason
        .ok_or(ReplyError::Malformed("finish_reason"))?;
    let stop = stop_reason(&finish.0, refusal.is_some(), !calls.is_empty())?;
    let mut content = Vec::new();
    if let Some(thinking) = reasoning.as_deref().filter(|text| !text.is_empty()) {
        content.push(BlockOut::Thinking {
            thinking,
            signature: "",
        });
    }
    for text in [&message.content, &refusal]
        .into_iter()
        .flatten()
        .filter(|text| !text.0.is_empty())
    {
        content.push(BlockOut::Text { text: &text.0 });
    }
    content.extend(calls.iter().map(|call| BlockOut::ToolUse {
        id: call.id,
        name: call.name,
        input: &call.input,
    }));
    let id = completion.id.ok_or(ReplyError::Malformed("id"))?;
    message_bytes(model, &id.0, content, stop, &usage)
}

fn message_bytes(
    model: &str,
    id: &str,
    content: Vec<BlockOut<'_>>,
    stop: &'static str,
    usage: &Usage,
) -> Result<Bytes, ReplyError> {
    let message = MessageOut {
        id,
        kind: "message",
        role: "assistant",
        model,
        content,
        stop_reason: Some(stop),
        stop_sequence: None,
        usage: write_anthropic(usage),
    };
    serde_json::to_vec(&message)
        .map(Bytes::from)
        .map_err(|_| ReplyError::Malformed("body"))
}

struct ParsedCall<'a> {
    id: &'a str,
    name: &'a str,
    input: Box<RawValue>,
}

impl<'a> ParsedCall<'a> {
    fn of(call: &'a Call<'_>) -> Result<Self, ReplyError> {
        let function = call
            .function
            .as_ref()
            .ok_or(ReplyError::Malformed("tool_calls"))?;
        let id = call
            .id
            .as_ref()
            .ok_or(ReplyError::Malformed("tool_calls.id"))?;
        let name = function
            .name
            .as_ref()
            .ok_or(ReplyError::Malformed("tool_calls.function.name"))?;
        let arguments = function
            .arguments
            .as_ref()
            .map(|text| text.0.to_string())
            .unwrap_or_default();
        let input =
            tool_input(arguments).ok_or(ReplyError::Malformed("tool_calls.function.arguments"))?;
        Ok(Self {
            id: &id.0,
            name: &name.0,
            input,
        })
    }
}
