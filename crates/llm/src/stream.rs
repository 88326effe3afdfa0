//! Streamed answers, sans-I/O: the provider's bytes in, the client's bytes out.
//!
//! Events are cut out of the pieces as they come. What needs no change is handed on as slices of the
//! very piece that came; what carries the end of the answer, and all after it, is handed on apart,
//! because it may leave only after the call is settled. The outcome depends on the bytes alone,
//! never on how they were cut into pieces.

use crate::answer::{self, Answer};
use crate::dialect::Dialect;
use crate::json;
use crate::reply::ReplyError;
use crate::sse::{self, Event, Scan};
use crate::translate::StreamTranslator;
use crate::usage::{self, AnthropicCounts, OpenAiCounts};
use base::Usage;
use base::limits::{SSE_EVENT_BYTES_MAX, STREAM_TAIL_BYTES_MAX};
use bytes::{Bytes, BytesMut};
use std::ops::Range;

/// How a stream is to be carried.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    /// The dialect of the bytes that come.
    pub provider: Dialect,
    /// The dialect of the bytes that go.
    pub client: Dialect,
    /// The name to put into `model`; `None` leaves what the provider says. Across dialects it is the
    /// name shown, and must be given.
    pub model_shown: Option<String>,
    /// Whether the client asked for the usage chunk.
    pub include_usage: bool,
    /// Unix seconds, for `created` where the provider's dialect has none.
    pub created_s: i64,
}

/// What came out of one piece of the provider's stream.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fed {
    /// May leave now.
    pub pass: Bytes,
    /// The next part of the end of the stream: kept by the caller, to leave after settlement, in the
    /// order in which the parts came. What [`ReplyStream::finish`] returns is the last part.
    pub held: Bytes,
}

/// What one event is to the end of its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventRole {
    /// Before the end: may leave at once.
    Body,
    /// Carries the end (`finish_reason`, `stop_reason`) or comes after it: held until settlement.
    End,
}

/// A stream being carried.
#[derive(Debug)]
pub struct ReplyStream {
    plan: StreamPlan,
    /// The shown model as JSON.
    stamp: Option<Vec<u8>>,
    translator: Option<StreamTranslator>,
    /// The bytes of an event whose end has not come.
    partial: BytesMut,
    scan: Scan,
    facts: Facts,
    held_bytes: usize,
    broken: Option<ReplyError>,
    backstop: Option<Backstop>,
    cut: bool,
}

/// What the events said so far.
#[derive(Default, Debug)]
struct Facts {
    openai: Option<OpenAiCounts>,
    anthropic: AnthropicCounts,
    finish_reason: Option<String>,
    produced_bytes: u64,
    /// Events that brought some of them.
    produced_events: u64,
    /// Thinking was shown, or that there was some.
    reasoned: bool,
    /// The end was carried; all further events are held.
    holding: bool,
    /// `[DONE]` or `message_stop` came.
    ended: bool,
}

impl ReplyStream {
    /// A stream of which nothing has come.
    #[must_use]
    pub fn new(plan: StreamPlan) -> Self {
        let shown = plan.model_shown.as_deref();
        let stamp = shown.map(|model| {
            let mut stamp = Vec::with_capacity(model.len() + 2);
            json::write_string(&mut stamp, model);
            stamp
        });
        let translator = (plan.provider != plan.client).then(|| {
            let model = shown.unwrap_or_default();
            StreamTranslator::new(
                plan.provider,
                plan.client,
                model,
                plan.created_s,
                plan.include_usage,
            )
        });
        Self {
            plan,
            stamp,
            translator,
            partial: BytesMut::new(),
            scan: Scan::default(),
            facts: Facts::default(),
            held_bytes: 0,
            broken: None,
            backstop: None,
            cut: false,
        }
    }

    /// The same stream, ended here when the provider sends far more than was bought.
    #[must_use]
    pub fn with_backstop(mut self, backstop: Backstop) -> Self {
        self.backstop = Some(backstop);
        self
    }

    /// Takes the next piece of the provider's stream.
    ///
    /// # Errors
    /// [`ReplyError`], now and on every later call. Where events before the fault came in the same
    /// piece, they are returned first and the error is what [`broken`](Self::broken) says and the
    /// next call returns.
    pub fn feed(&mut self, chunk: Bytes) -> Result<Fed, ReplyError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let source = self.whole_events(chunk);
        let mut pass = Run::new(&source);
        let mut held = Run::new(&source);
        let mut scan = Scan::default();
        let mut from = 0;
        while let Some(end) = scan.event_end(&source, true) {
            if let Err(error) = self.event(from..end, &mut pass, &mut held) {
                self.broken = Some(error);
                break;
            }
            from = end;
            if self.cut {
                break;
            }
        }
        let fed = Fed {
            pass: pass.finish(),
            held: held.finish(),
        };
        self.held_bytes += fed.held.len();
        if self.broken.is_none() && self.partial.len() > SSE_EVENT_BYTES_MAX
            || self.held_bytes > STREAM_TAIL_BYTES_MAX
        {
            self.broken = Some(ReplyError::TooLarge);
        }
        match self.broken {
            Some(error) if fed.pass.is_empty() && fed.held.is_empty() => Err(error),
            _ => Ok(fed),
        }
    }

    /// The provider's stream ended, or is read no further after [`ended`](Self::ended). Returns the
    /// last part of what is held.
    ///
    /// # Errors
    /// [`ReplyError::Truncated`] when no terminal event (`[DONE]`, `message_stop`) has come.
    pub fn finish(&mut self) -> Result<Bytes, ReplyError> {
        if let Some(error) = self.broken {
            return Err(error);
        }
        let mut rest = std::mem::take(&mut self.partial);
        let mut tail = Vec::new();
        if !rest.is_empty() {
            // Some servers leave out the last blank line; the client gets it.
            rest.extend_from_slice(b"\n\n");
            let source = rest.freeze();
            let (mut pass, mut held) = (Run::new(&source), Run::new(&source));
            self.event(0..source.len(), &mut pass, &mut held)
                .map_err(|error| match error {
                    ReplyError::Malformed(_) => ReplyError::Truncated,
                    other => other,
                })?;
            tail.extend_from_slice(&pass.finish());
            tail.extend_from_slice(&held.finish());
        }
        if !self.facts.ended {
            return Err(ReplyError::Truncated);
        }
        if let Some(translator) = &mut self.translator {
            translator.finish(&mut tail)?;
        }
        Ok(tail.into())
    }

    /// What the call consumed, in disjoint buckets, as far as the provider has said: final once
    /// [`ended`](Self::ended). An Anthropic stream names its input at the start and its output at the end.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        match self.plan.provider {
            // Counts are checked when they come, so nothing is lost by `ok`.
            Dialect::OpenAi => self
                .facts
                .openai
                .and_then(|counts| counts.usage().ok().flatten()),
            Dialect::Anthropic => self.facts.anthropic.usage().ok().flatten(),
        }
    }

    /// Bytes of text, tool arguments and visible thinking so far, for estimates.
    #[must_use]
    pub fn produced_bytes(&self) -> u64 {
        self.facts.produced_bytes
    }

    /// Whether the model was seen to reason: what that is billed at cannot be told from the bytes.
    #[must_use]
    pub fn reasoned(&self) -> bool {
        self.facts.reasoned || self.usage().is_some_and(|usage| usage.reasoning > 0)
    }

    /// The provider's finish or stop reason, in its own words.
    #[must_use]
    pub fn finish_reason(&self) -> Option<&str> {
        self.facts.finish_reason.as_deref()
    }

    /// Whether the terminal event came: nothing that matters follows.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.facts.ended
    }

    /// Whether the stream was ended here because the provider passed what was bought.
    #[must_use]
    pub fn was_cut(&self) -> bool {
        self.cut
    }

    /// The fault that the next call will return.
    #[must_use]
    pub fn broken(&self) -> Option<ReplyError> {
        self.broken
    }

    /// The whole events that `chunk` completes; the rest waits in `partial`.
    fn whole_events(&mut self, chunk: Bytes) -> Bytes {
        if self.partial.is_empty() {
            let end = last_end(&mut self.scan, &chunk);
            self.partial.extend_from_slice(&chunk[end..]);
            return chunk.slice(..end);
        }
        self.partial.extend_from_slice(&chunk);
        let end = last_end(&mut self.scan, &self.partial);
        self.partial.split_to(end).freeze()
    }

    fn event<'s>(
        &mut self,
        frame: Range<usize>,
        pass: &mut Run<'s>,
        held: &mut Run<'s>,
    ) -> Result<(), ReplyError> {
        let bytes = &pass.source[frame.clone()];
        if bytes.len() > SSE_EVENT_BYTES_MAX {
            return Err(ReplyError::TooLarge);
        }
        let event = Event::read(bytes);
        let Some(data) = event.data.as_deref() else {
            // Comments keep a connection alive; across dialects they mean nothing to the client.
            if self.translator.is_none() {
                if self.facts.holding { held } else { pass }.keep(frame);
            }
            return Ok(());
        };
        let answer = self.facts.read(self.plan.provider, event.name, data)?;
        self.carry(frame, &event, data, &answer, pass, held)?;
        let passed = |bought: &Backstop| {
            bought.is_passed(self.facts.produced_events, self.facts.produced_bytes)
        };
        match self.backstop.filter(passed) {
            Some(bought) if !self.facts.holding => self.end_here(bought, data, pass, held),
            _ => Ok(()),
        }
    }

    /// Ends the stream behind the event with this data.
    fn end_here(
        &mut self,
        bought: Backstop,
        data: &[u8],
        pass: &mut Run<'_>,
        held: &mut Run<'_>,
    ) -> Result<(), ReplyError> {
        self.cut = true;
        self.backstop = None;
        self.partial.clear();
        let data = std::str::from_utf8(data).map_err(|_| ReplyError::Malformed("UTF-8"))?;
        let input = self.usage().map(|usage| usage.tokens_in());
        let ending = Bytes::from(bought.ending(self.plan.provider, data, input));
        let (mut early, mut late) = (Run::new(&ending), Run::new(&ending));
        let (mut scan, mut from) = (Scan::default(), 0);
        while let Some(end) = scan.event_end(&ending, true) {
            self.event(from..end, &mut early, &mut late)?;
            from = end;
        }
        pass.write(&early.finish());
        held.write(&late.finish());
        Ok(())
    }

    /// Hands one event on: as it came, stamped, or translated.
    fn carry<'s>(
        &mut self,
        frame: Range<usize>,
        event: &Event<'_>,
        data: &[u8],
        answer: &Answer<'_>,
        pass: &mut Run<'s>,
        held: &mut Run<'s>,
    ) -> Result<(), ReplyError> {
        if let Some(translator) = &mut self.translator {
            let mut out = Vec::new();
            let name =
                std::str::from_utf8(event.name).map_err(|_| ReplyError::Malformed("UTF-8"))?;
            let role = translator.event(name, data, &mut out)?;
            self.facts.holding |= role == EventRole::End;
            if self.facts.holding { held } else { pass }.write(&out);
            return Ok(());
        }
        let run = if self.facts.holding { held } else { pass };
        let unasked =
            answer.no_choices && self.plan.provider == Dialect::OpenAi && !self.plan.include_usage;
        if unasked {
            return Ok(());
        }
        match (&self.stamp, answer.model_span()) {
            (Some(stamp), Some(model)) if data.get(model.clone()) != Some(stamp.as_slice()) => {
                stamped(run, frame, event, model, stamp);
            }
            _ => run.keep(frame),
        }
        Ok(())
    }
}

impl Facts {
    /// Takes note of what an event says.
    fn read<'a>(
        &mut self,
        dialect: Dialect,
        name: &[u8],
        data: &'a [u8],
    ) -> Result<Answer<'a>, ReplyError> {
        // What follows the terminal event is nobody's business, but passes.
        if self.ended {
            return Ok(Answer::default());
        }
        if dialect == Dialect::OpenAi && data.trim_ascii() == b"[DONE]" {
            self.holding = true;
            self.ended = true;
            return Ok(Answer::default());
        }
        if name == b"error" {
            return Err(ReplyError::Upstream);
        }
        let text = std::str::from_utf8(data).map_err(|_| ReplyError::Malformed("UTF-8"))?;
        let answer = match dialect {
            Dialect::OpenAi => answer::openai(text)?,
            Dialect::Anthropic => answer::anthropic(text)?,
        };
        if answer.error {
            return Err(ReplyError::Upstream);
        }
        for usage in answer.usage.into_iter().flatten() {
            self.count(dialect, usage)?;
        }
        if let Some(reason) = &answer.finish {
            self.holding = true;
            self.finish_reason = Some(reason.decoded().into_owned());
        }
        self.produced_bytes += answer.produced;
        self.produced_events += u64::from(answer.produced > 0);
        self.reasoned |= answer.reasoned;
        self.holding |= answer.stop;
        self.ended |= answer.stop;
        Ok(answer)
    }

    fn count(&mut self, dialect: Dialect, text: &str) -> Result<(), ReplyError> {
        match dialect {
            Dialect::OpenAi => {
                let counts = usage::openai_counts(text)?;
                if counts.usage()?.is_some() {
                    self.openai = Some(counts);
                }
            }
            Dialect::Anthropic => {
                self.anthropic.merge(text)?;
                self.anthropic.usage()?;
            }
        }
        Ok(())
    }
}

/// The end of the last whole event; the scan then stands in what follows, counted from that end.
fn last_end(scan: &mut Scan, bytes: &[u8]) -> usize {
    let mut last = 0;
    while let Some(end) = scan.event_end(bytes, false) {
        last = end;
    }
    scan.rebase(last);
    last
}

/// Writes the frame with `stamp` in place of the model at `model` in its data.
fn stamped(
    run: &mut Run<'_>,
    frame: Range<usize>,
    event: &Event<'_>,
    model: Range<usize>,
    stamp: &[u8],
) {
    let Some(data) = event.data.as_ref() else {
        return;
    };
    if let std::borrow::Cow::Borrowed(_) = data {
        let at = frame.start + event.data_at;
        run.keep(frame.start..at + model.start);
        run.write(stamp);
        run.keep(at + model.end..frame.end);
        return;
    }
    let mut changed = data[..model.start].to_vec();
    changed.extend_from_slice(stamp);
    changed.extend_from_slice(&data[model.end..]);
    let mut out = Vec::with_capacity(changed.len() + 64);
    sse::write_with_data(&mut out, &run.source[frame], &changed);
    run.write(&out);
}

/// Output that stays a slice of its source as long as it is one contiguous part of it.
struct Run<'s> {
    source: &'s Bytes,
    kept: Range<usize>,
    out: Vec<u8>,
}

impl<'s> Run<'s> {
    fn new(source: &'s Bytes) -> Self {
        Self {
            source,
            kept: 0..0,
            out: Vec::new(),
        }
    }

    fn keep(&mut self, part: Range<usize>) {
        if self.kept.is_empty() {
            self.kept = part;
        } else if self.kept.end == part.start {
            self.kept.end = part.end;
        } else {
            self.spill();
            self.kept = part;
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.spill();
        self.out.extend_from_slice(bytes);
    }

    fn spill(&mut self) {
        self.out
            .extend_from_slice(&self.source[std::mem::take(&mut self.kept)]);
    }

    fn finish(mut self) -> Bytes {
        if self.out.is_empty() {
            return self.source.slice(self.kept);
        }
        self.spill();
        self.out.into()
    }
}

mod backstop;

pub use backstop::Backstop;

#[cfg(test)]
mod tests;
