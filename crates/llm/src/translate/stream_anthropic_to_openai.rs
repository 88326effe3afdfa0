//! A stream of Anthropic events as chat completion chunks.

use base::limits::TOOLS_MAX;
use serde_json::value::RawValue;

use super::members::Text;
use super::reasons::finish_reason;
use super::reply_wire::{
    CallFunctionOut, CallOut, ChunkChoiceOut, ChunkOut, DeltaOut, ReadBlock, ReadDelta, ReadEvent,
};
use crate::reply::ReplyError;
use crate::sse::write_event;
use crate::stream::EventRole;
use crate::usage::{AnthropicCounts, OpenAiUsageWire, write_openai};

#[derive(Debug)]
pub(super) struct ToOpenAi {
    model: String,
    created_s: i64,
    include_usage: bool,
    /// Empty until `message_start`.
    id: String,
    usage: AnthropicCounts,
    /// Blocks that have started and not stopped; Anthropic opens one at a time.
    open: Vec<Open>,
    calls: u64,
    finished: bool,
    ended: bool,
}

#[derive(Debug)]
struct Open {
    index: u64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Thinking,
    /// Opaque; says nothing to anybody but Anthropic.
    Redacted,
    Call {
        place: u64,
        /// Whether any arguments have come.
        argued: bool,
    },
}

impl ToOpenAi {
    pub(super) fn new(model: &str, created_s: i64, include_usage: bool) -> Self {
        Self {
            model: model.to_owned(),
            created_s,
            include_usage,
            id: String::new(),
            usage: AnthropicCounts::default(),
            open: Vec::new(),
            calls: 0,
            finished: false,
            ended: false,
        }
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn event(
        &mut self,
        name: &str,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<EventRole, ReplyError> {
        if self.ended {
            return Ok(EventRole::End);
        }
        if name == "error" {
            return Err(ReplyError::Upstream);
        }
        let event: ReadEvent<'_> =
            serde_json::from_slice(data).map_err(|_| ReplyError::Malformed("event"))?;
        let kind = event.kind.as_ref().map_or(name, |kind| &*kind.0);
        match kind {
            "message_start" => self.start(&event, out)?,
            "content_block_start" => self.block_start(&event, out)?,
            "content_block_delta" => self.block_delta(&event, out)?,
            "content_block_stop" => self.block_stop(&event, out)?,
            "message_delta" => self.message_delta(&event, out)?,
            "message_stop" => self.stop(out)?,
            "error" => return Err(ReplyError::Upstream),
            // `ping`, and events that do not exist yet, carry no content.
            _ => {}
        }
        Ok(if self.finished {
            EventRole::End
        } else {
            EventRole::Body
        })
    }

    fn start(&mut self, event: &ReadEvent<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let message = event
            .message
            .as_ref()
            .ok_or(ReplyError::Malformed("message_start"))?;
        let id = message
            .id
            .as_ref()
            .filter(|id| !id.0.is_empty())
            .ok_or(ReplyError::Malformed("id"))?;
        if !self.id.is_empty() {
            return Err(ReplyError::Malformed("message_start"));
        }
        self.id.push_str(&id.0);
        self.count(message.usage)?;
        self.delta(
            DeltaOut {
                role: Some("assistant"),
                content: Some(""),
                ..DeltaOut::default()
            },
            out,
        )
    }

    fn block_start(&mut self, event: &ReadEvent<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        self.running()?;
        let (Some(index), Some(block)) = (event.index, &event.content_block) else {
            return Err(ReplyError::Malformed("content_block_start"));
        };
        if self.open.iter().any(|open| open.index == index) {
            return Err(ReplyError::Malformed("content_block_start.index"));
        }
        if self.open.len() >= TOOLS_MAX {
            return Err(ReplyError::TooLarge);
        }
        let kind = match &*block.kind.0 {
            "text" => {
                self.content(block.text.as_ref(), out)?;
                Kind::Text
            }
            "thinking" => {
                self.reasoning(block.thinking.as_ref(), out)?;
                Kind::Thinking
            }
            "redacted_thinking" => Kind::Redacted,
            "tool_use" => self.call(block, out)?,
            _ => return Err(ReplyError::Malformed("content_block.type")),
        };
        self.open.push(Open { index, kind });
        Ok(())
    }

    fn call(&mut self, block: &ReadBlock<'_>, out: &mut Vec<u8>) -> Result<Kind, ReplyError> {
        let (Some(id), Some(name)) = (&block.id, &block.name) else {
            return Err(ReplyError::Malformed("content_block.tool_use"));
        };
        let place = self.calls;
        self.calls += 1;
        // The input comes in deltas; some compatible servers give all of it here.
        let whole = block
            .input
            .map(RawValue::get)
            .filter(|input| input.contains(':'));
        let call = CallOut {
            index: Some(place),
            id: Some(&id.0),
            kind: Some("function"),
            function: CallFunctionOut {
                name: Some(&name.0),
                arguments: whole.unwrap_or_default(),
            },
        };
        self.delta(
            DeltaOut {
                tool_calls: Some([call]),
                ..DeltaOut::default()
            },
            out,
        )?;
        Ok(Kind::Call {
            place,
            argued: whole.is_some(),
        })
    }

    fn block_delta(&mut self, event: &ReadEvent<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        self.running()?;
        let Some(delta) = &event.delta else {
            return Err(ReplyError::Malformed("content_block_delta"));
        };
        let at = event
            .index
            .and_then(|index| self.open.iter().position(|open| open.index == index));
        let open = at
            .and_then(|at| self.open.get_mut(at))
            .ok_or(ReplyError::Malformed("content_block_delta.index"))?;
        let said = delta.kind.as_ref().map(|kind| &*kind.0);
        match (open.kind, said) {
            (Kind::Text, Some("text_delta")) => self.content(delta.text.as_ref(), out),
            (Kind::Thinking, Some("thinking_delta")) => {
                self.reasoning(delta.thinking.as_ref(), out)
            }
            (Kind::Thinking, Some("signature_delta")) => Ok(()),
            (Kind::Call { place, argued }, Some("input_json_delta")) => {
                let piece = delta
                    .partial_json
                    .as_ref()
                    .ok_or(ReplyError::Malformed("input_json_delta"))?;
                open.kind = Kind::Call {
                    place,
                    argued: argued || !piece.0.is_empty(),
                };
                self.arguments(place, &piece.0, out)
            }
            _ => Err(ReplyError::Malformed("content_block_delta.type")),
        }
    }

    fn block_stop(&mut self, event: &ReadEvent<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        let at = event
            .index
            .and_then(|index| self.open.iter().position(|open| open.index == index));
        let Some(at) = at else {
            return Err(ReplyError::Malformed("content_block_stop.index"));
        };
        match self.open.swap_remove(at).kind {
            // Clients parse the arguments, and nothing is no JSON.
            Kind::Call {
                place,
                argued: false,
            } => self.arguments(place, "{}", out),
            _ => Ok(()),
        }
    }

    fn message_delta(
        &mut self,
        event: &ReadEvent<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        self.running()?;
        self.count(event.usage)?;
        let Some(ReadDelta {
            stop_reason: Some(stop),
            stop_details,
            ..
        }) = &event.delta
        else {
            return Ok(());
        };
        if self.finished {
            return Ok(());
        }
        let reason = finish_reason(&stop.0)?;
        if let Some(text) = stop_details
            .as_ref()
            .and_then(|details| details.explanation.as_ref())
        {
            self.delta(
                DeltaOut {
                    refusal: Some(&text.0),
                    ..DeltaOut::default()
                },
                out,
            )?;
        }
        self.finished = true;
        self.choice(DeltaOut::default(), Some(reason), out)
    }

    fn stop(&mut self, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if !self.finished {
            return Err(ReplyError::Malformed("stop_reason"));
        }
        if self.include_usage {
            let usage = self.usage.usage()?;
            self.chunk(&[], Some(usage.as_ref().map(write_openai)), out)?;
        }
        write_event(out, "", b"[DONE]");
        self.ended = true;
        Ok(())
    }

    fn count(&mut self, usage: Option<&RawValue>) -> Result<(), ReplyError> {
        usage.map_or(Ok(()), |raw| self.usage.merge(raw.get()))
    }

    /// Content comes after the start and before the end.
    fn running(&self) -> Result<(), ReplyError> {
        if self.id.is_empty() {
            Err(ReplyError::Malformed("message_start"))
        } else {
            Ok(())
        }
    }

    fn content(&self, text: Option<&Text<'_>>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        match text.map(|text| &*text.0) {
            None | Some("") => Ok(()),
            content => self.delta(
                DeltaOut {
                    content,
                    ..DeltaOut::default()
                },
                out,
            ),
        }
    }

    fn reasoning(&self, text: Option<&Text<'_>>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        match text.map(|text| &*text.0) {
            None | Some("") => Ok(()),
            reasoning_content => self.delta(
                DeltaOut {
                    reasoning_content,
                    ..DeltaOut::default()
                },
                out,
            ),
        }
    }

    fn arguments(&self, place: u64, arguments: &str, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        if arguments.is_empty() {
            return Ok(());
        }
        let function = CallFunctionOut {
            name: None,
            arguments,
        };
        let call = CallOut {
            index: Some(place),
            id: None,
            kind: None,
            function,
        };
        self.delta(
            DeltaOut {
                tool_calls: Some([call]),
                ..DeltaOut::default()
            },
            out,
        )
    }

    fn delta(&self, delta: DeltaOut<'_>, out: &mut Vec<u8>) -> Result<(), ReplyError> {
        self.choice(delta, None, out)
    }

    fn choice(
        &self,
        delta: DeltaOut<'_>,
        finish_reason: Option<&'static str>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        let choice = ChunkChoiceOut {
            index: 0,
            delta,
            finish_reason,
        };
        self.chunk(&[choice], self.include_usage.then_some(None), out)
    }

    fn chunk(
        &self,
        choices: &[ChunkChoiceOut<'_>],
        usage: Option<Option<OpenAiUsageWire>>,
        out: &mut Vec<u8>,
    ) -> Result<(), ReplyError> {
        let chunk = ChunkOut {
            id: &self.id,
            object: "chat.completion.chunk",
            created: self.created_s,
            model: &self.model,
            choices,
            usage,
        };
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &chunk).map_err(|_| ReplyError::Malformed("event"))?;
        out.extend_from_slice(b"\n\n");
        Ok(())
    }
}
