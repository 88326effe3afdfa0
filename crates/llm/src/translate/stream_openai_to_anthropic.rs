//! A stream of chat completion chunks as Anthropic events.
//!
//! Anthropic's blocks come one after the other; `OpenAI`'s calls may interleave. Thinking and text
//! pass as they come. The first call passes as it comes, too, and stays open until the end, for
//! more of it may always follow; whatever else comes after its start is held and follows it.
//! `message_delta` waits for `[DONE]`, because usage comes behind the finish reason.

use base::Usage;
use base::limits::{STREAM_TAIL_BYTES_MAX, TOOLS_MAX};
use serde_json::value::RawValue;

use super::reasons::stop_reason;
use super::reply_wire::{
    BlockDeltaOut, BlockOut, Call, Choice, Completion, EventOut, MessageDeltaOut, MessageOut,
    Spoken,
};
use super::tool_input;
use crate::reply::ReplyError;
use crate::stream::EventRole;
use crate::usage::{openai_usage, write_anthropic};

#[derive(Debug)]
pub(super) struct ToAnthropic {
    model: String,
    started: bool,
    /// The index of the block that starts next.
    next_block: u64,
    open: Open,
    calls: Vec<PartCall>,
    /// Thinking and text that came after the first call.
    late_thinking: String,
    late_text: String,
    held_bytes: usize,
    refused: bool,
    /// The finish reason; content is over.
    finish: Option<&'static str>,
    usage: Option<Usage>,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Nothing,
    Thinking,
    Text,
    /// The first call.
    Call,
}

/// A call as far as it has come.
#[derive(Debug)]
struct PartCall {
    index: u64,
    id: String,
    name: String,
    arguments: String,
}

impl ToAnthropic {
    pub(super) fn new(model: &str) -> Self {
        Self {
            model: model.to_owned(),
            started: false,
            next_block: 0,
            open: Open::Nothing,
            calls: Vec::new(),
            late_thinking: String::new(),
            late_text: String::new(),
            held_bytes: 0,
            refused: false,
            finish: None,
            usage: None,
            ended: false,
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn event(
        &mut self,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<EventRole, ReplyError> {
        if self.ended {
            return Ok(EventRole::End);
        }
        if data.trim_ascii() == b"[DONE]" {
            self.end(out)?;
            return Ok(EventRole::End);
        }
        let chunk: Completion<'_> =
            serde_json::from_slice(data).map_err(|_| ReplyError::Malformed("chunk"))?;
        if chunk.error.is_some() {
            return Err(ReplyError::Upstream);
        }
        if let Some(raw) = chunk.usage {
            self.usage = openai_usage(raw)?.or(self.usage);
        }
        let id = chunk.id.as_ref().map_or("", |id| &*id.0);
        for choice in chunk.choices.into_iter().flatten() {
            self.start(id, out)?;
            self.choice(choice, out)?;
        }
        Ok(if self.finish.is_some() {
            EventRole::End
        } else {
            EventRole::Body
        })
    }

    fn start(&mut self, id: &str, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if self.started {
            return Ok(());
        }
        if id.is_empty() {
            return Err(ReplyError::Malformed("id"));
        }
        self.started = true;
        let message = MessageOut {
            id,
            kind: "message",
            role: "assistant",
            model: &self.model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            // Not known yet; `message_delta` carries the whole usage.
            usage: write_anthropic(&Usage::default()),
        };
        write(&EventOut::MessageStart { message }, out)
    }

    fn choice(&mut self, choice: Choice<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if choice.index.unwrap_or(0) != 0 {
            return Err(ReplyError::Malformed("choices.index"));
        }
        if let Some(spoken) = choice.message {
            if self.finish.is_some() && !spoken.is_silent() {
                return Err(ReplyError::Malformed("content after finish_reason"));
            }
            self.spoken(spoken, out)?;
        }
        if let (Some(reason), None) = (choice.finish_reason, self.finish) {
            let stop = stop_reason(&reason.0, self.refused, !self.calls.is_empty())?;
            self.finish = Some(stop);
            self.close(stop == "max_tokens", out)?;
        }
        Ok(())
    }

    fn spoken(&mut self, mut spoken: Spoken<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if spoken.function_call.is_some() {
            return Err(ReplyError::Malformed("function_call"));
        }
        if let Some(text) = spoken.reasoning() {
            self.thinking(&text, out)?;
        }
        if let Some(text) = &spoken.content {
            self.text(&text.0, out)?;
        }
        if let Some(text) = spoken.refusal.as_ref().filter(|text| !text.0.is_empty()) {
            self.refused = true;
            self.text(&text.0, out)?;
        }
        for call in spoken.tool_calls.iter().flatten() {
            self.call(call, out)?;
        }
        Ok(())
    }

    fn thinking(&mut self, text: &str, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.calls.is_empty() {
            self.hold(text.len())?;
            self.late_thinking.push_str(text);
            return Ok(());
        }
        if self.open != Open::Thinking {
            self.stop_block(out)?;
            self.start_block(
                BlockOut::Thinking {
                    thinking: "",
                    signature: "",
                },
                out,
            )?;
            self.open = Open::Thinking;
        }
        self.delta(BlockDeltaOut::Thinking { thinking: text }, out)
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if text.is_empty() {
            return Ok(());
        }
        if !self.calls.is_empty() {
            self.hold(text.len())?;
            self.late_text.push_str(text);
            return Ok(());
        }
        if self.open != Open::Text {
            self.stop_block(out)?;
            self.start_block(BlockOut::Text { text: "" }, out)?;
            self.open = Open::Text;
        }
        self.delta(BlockDeltaOut::Text { text }, out)
    }

    fn call(&mut self, part: &Call<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let at = self.place(part)?;
        let id = part.id.as_ref().map_or("", |id| &*id.0);
        let name = part
            .function
            .as_ref()
            .and_then(|function| function.name.as_ref())
            .map_or("", |name| &*name.0);
        let arguments = part
            .function
            .as_ref()
            .and_then(|function| function.arguments.as_ref());
        let arguments = arguments.map_or("", |arguments| &*arguments.0);
        self.hold(
            id.len()
                .saturating_add(name.len())
                .saturating_add(arguments.len()),
        )?;
        let Some(call) = self.calls.get_mut(at) else {
            return Err(ReplyError::Malformed("tool_calls.index"));
        };
        // Servers that repeat id and name with each piece say the same again.
        if call.id.is_empty() {
            call.id.push_str(id);
        }
        if call.name.is_empty() {
            call.name.push_str(name);
        }
        call.arguments.push_str(arguments);
        if at > 0 || call.id.is_empty() || call.name.is_empty() {
            return Ok(());
        }
        if self.open == Open::Call {
            return self.arguments(arguments, out);
        }
        self.stop_block(out)?;
        self.open_call(at, out)
    }

    /// Which call a piece belongs to: by index; where servers leave that out, by id, and a piece
    /// with neither continues the last one.
    fn place(&mut self, part: &Call<'_>) -> Result<usize, ReplyError> {
        let id = part
            .id
            .as_ref()
            .map(|id| &*id.0)
            .filter(|id| !id.is_empty());
        let known = match (part.index, id) {
            (Some(index), _) => self.calls.iter().position(|call| call.index == index),
            (None, Some(id)) => self.calls.iter().position(|call| call.id == id),
            (None, None) => self.calls.len().checked_sub(1),
        };
        if let Some(at) = known {
            return Ok(at);
        }
        let last = self.calls.len();
        if last >= TOOLS_MAX {
            return Err(ReplyError::TooLarge);
        }
        let index = part.index.unwrap_or(last as u64);
        self.calls.push(PartCall {
            index,
            id: String::new(),
            name: String::new(),
            arguments: String::new(),
        });
        Ok(last)
    }

    /// Everything that was held leaves, in order. A call that the cap cut off is what it is; any
    /// other must have arguments that are an object.
    fn close(&mut self, cut: bool, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        for call in &self.calls {
            if call.id.is_empty() || call.name.is_empty() {
                return Err(ReplyError::Malformed("tool_calls.id"));
            }
            if !cut && tool_input(call.arguments.clone()).is_none() {
                return Err(ReplyError::Malformed("tool_calls.function.arguments"));
            }
        }
        self.stop_block(out)?;
        for at in 1..self.calls.len() {
            self.open_call(at, out)?;
            self.stop_block(out)?;
        }
        let (thinking, text) = (
            std::mem::take(&mut self.late_thinking),
            std::mem::take(&mut self.late_text),
        );
        self.calls.clear();
        self.thinking(&thinking, out)?;
        self.text(&text, out)?;
        self.stop_block(out)
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let stop_reason = self.finish.ok_or(ReplyError::Truncated)?;
        let usage = write_anthropic(&self.usage.unwrap_or_default());
        write(
            &EventOut::MessageDelta {
                delta: MessageDeltaOut {
                    stop_reason,
                    stop_sequence: None,
                },
                usage,
            },
            out,
        )?;
        write(&EventOut::MessageStop, out)?;
        self.ended = true;
        Ok(())
    }

    fn open_call(&mut self, at: usize, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let Some(call) = self.calls.get(at) else {
            return Err(ReplyError::Malformed("tool_calls.index"));
        };
        let input: &RawValue =
            serde_json::from_str("{}").map_err(|_| ReplyError::Malformed("tool_calls"))?;
        let block = BlockOut::ToolUse {
            id: &call.id,
            name: &call.name,
            input,
        };
        write(
            &EventOut::ContentBlockStart {
                index: self.next_block,
                content_block: block,
            },
            out,
        )?;
        self.arguments(&call.arguments, out)?;
        self.open = Open::Call;
        Ok(())
    }

    fn arguments(&self, partial_json: &str, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if partial_json.is_empty() {
            return Ok(());
        }
        self.delta(BlockDeltaOut::Input { partial_json }, out)
    }

    fn start_block(
        &self,
        content_block: BlockOut<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        write(
            &EventOut::ContentBlockStart {
                index: self.next_block,
                content_block,
            },
            out,
        )
    }

    fn delta(&self, delta: BlockDeltaOut<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        write(
            &EventOut::ContentBlockDelta {
                index: self.next_block,
                delta,
            },
            out,
        )
    }

    fn stop_block(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if self.open == Open::Nothing {
            return Ok(());
        }
        write(
            &EventOut::ContentBlockStop {
                index: self.next_block,
            },
            out,
        )?;
        self.open = Open::Nothing;
        self.next_block += 1;
        Ok(())
    }

    fn hold(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.held_bytes = self.held_bytes.saturating_add(bytes);
        if self.held_bytes > STREAM_TAIL_BYTES_MAX {
            Err(ReplyError::TooLarge)
        } else {
            Ok(())
        }
    }
}

fn write(event: &EventOut<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(event.name().as_bytes());
    out.extend_from_slice(b"\ndata: ");
    serde_json::to_writer(&mut *out, event).map_err(|_| ReplyError::Malformed("event"))?;
    out.extend_from_slice(b"\n\n");
    Ok(())
}
