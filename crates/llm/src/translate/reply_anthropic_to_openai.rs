//! An Anthropic message as a chat completion.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::members::{Text, is_object};
use super::reasons::finish_reason;
use super::reply_wire::{
    CallFunctionOut, CallOut, ChoiceOut, CompletionOut, ReadBlock, ReadMessage, SpokenOut,
};
use crate::reply::ReplyError;
use crate::usage::{anthropic_usage, write_openai};

pub(super) fn translate(model: &str, created_s: i64, body: &[u8]) -> Result<Bytes, ReplyError> {
    let message: ReadMessage<'_> =
        serde_json::from_slice(body).map_err(|_| ReplyError::Malformed("body"))?;
    match message.kind.as_ref().map(|kind| &*kind.0) {
        Some("message") => {}
        Some("error") => return Err(ReplyError::Upstream),
        _ => return Err(ReplyError::Malformed("type")),
    }
    let usage = message.usage.map(anthropic_usage).transpose()?.flatten();
    let blocks = message.content.ok_or(ReplyError::Malformed("content"))?;
    let said = Said::of(&blocks)?;
    let stop = message
        .stop_reason
        .ok_or(ReplyError::Malformed("stop_reason"))?;
    let refusal = message.stop_details.and_then(|details| details.explanation);
    let id = message.id.ok_or(ReplyError::Malformed("id"))?;
    let spoken = SpokenOut {
        role: "assistant",
        content: (said.texts > 0 || said.calls.is_empty()).then_some(&said.text),
        refusal: refusal.as_ref().map(|text| &*text.0),
        reasoning_content: (!said.reasoning.is_empty()).then_some(&said.reasoning),
        tool_calls: said.calls,
    };
    let completion = CompletionOut {
        id: &id.0,
        object: "chat.completion",
        created: created_s,
        model,
        choices: [ChoiceOut {
            index: 0,
            message: spoken,
            logprobs: None,
            finish_reason: finish_reason(&stop.0)?,
        }],
        usage: usage.as_ref().map(write_openai),
    };
    serde_json::to_vec(&completion)
        .map(Bytes::from)
        .map_err(|_| ReplyError::Malformed("body"))
}

#[derive(Default)]
struct Said<'a> {
    text: String,
    texts: usize,
    reasoning: String,
    calls: Vec<CallOut<'a>>,
}

impl<'a> Said<'a> {
    fn of(blocks: &'a [ReadBlock<'a>]) -> Result<Self, ReplyError> {
        let mut said = Self::default();
        for block in blocks {
            match &*block.kind.0 {
                "text" => {
                    said.text.push_str(text(block.text.as_ref())?);
                    said.texts += 1;
                }
                "thinking" => said.reasoning.push_str(text(block.thinking.as_ref())?),
                "redacted_thinking" => {}
                "tool_use" => said.calls.push(call(block)?),
                _ => return Err(ReplyError::Malformed("content.type")),
            }
        }
        Ok(said)
    }
}

fn text<'a>(text: Option<&'a Text<'a>>) -> Result<&'a str, ReplyError> {
    text.map(|text| &*text.0)
        .ok_or(ReplyError::Malformed("content.text"))
}

fn call<'a>(block: &'a ReadBlock<'a>) -> Result<CallOut<'a>, ReplyError> {
    let input = block
        .input
        .filter(|input| is_object(input))
        .map(RawValue::get);
    match (&block.id, &block.name, input) {
        (Some(id), Some(name), Some(arguments)) => Ok(CallOut {
            index: None,
            id: Some(&id.0),
            kind: Some("function"),
            function: CallFunctionOut {
                name: Some(&name.0),
                arguments,
            },
        }),
        _ => Err(ReplyError::Malformed("content.tool_use")),
    }
}
