//! The answer on its way out. A [`ReplyBody`] owns its attempt to the end: nothing that carries the end of an answer leaves before the
//! settlement is durable, and a stream that breaks never ends cleanly.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::RequestId;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use kernel::digest::Sha256;
use kernel::{Authority, KernelError, OpenAttempt, Outcome, Settlement};
use llm::{Dialect, ReplyStream};
use tokio::sync::mpsc;

use crate::Gateway;
use crate::catalog::HangUp;
use crate::drain;
use crate::fair::Slot;
use crate::meter::{By, Meter};
use crate::quota::CallPlace;
use crate::refusal::Refusal;
use crate::upstream::UpstreamBody;

/// A response body: whole, or a stream that settles itself.
pub enum ReplyBody {
    /// All bytes at once; what they answer is settled.
    Whole(Option<Bytes>),
    /// A provider's stream.
    Stream(Box<StreamReply>),
    /// What somebody above this crate says piece by piece; whatever it rests on is settled and recorded by then.
    Told(mpsc::Receiver<Result<Bytes, BodyError>>),
}

/// The stream broke: the connection is closed without a proper end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyError;

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the stream broke")
    }
}

impl std::error::Error for BodyError {}

impl ReplyBody {
    /// A whole body.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::Whole(None)
    }

    /// On whose authority a stream goes on. A client that takes nothing keeps it from being read, and so from seeing its own end.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Whole(_) | Self::Told(_) => None,
            Self::Stream(stream) => Some(&stream.authority),
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => stream
                .poll_bytes(cx)
                .map(|next| next.map(|bytes| bytes.map(Frame::data))),
            Self::Told(pieces) => pieces
                .poll_recv(cx)
                .map(|next| next.map(|bytes| bytes.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) | Self::Told(_) => SizeHint::default(),
        }
    }
}

/// What a stream needs to settle itself.
pub(crate) struct StreamParts {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) upstream: UpstreamBody,
    pub(crate) reply: ReplyStream,
    pub(crate) attempt: OpenAttempt,
    pub(crate) meter: Meter,
    pub(crate) hang_up: HangUp,
    pub(crate) dialect: Dialect,
    /// The client wants to read what its call cost.
    pub(crate) show_cost: bool,
    pub(crate) request: RequestId,
    /// Resolves when the caller's authority ends, with what the caller is told.
    pub(crate) ended: Ended,
    pub(crate) authority: Authority,
    pub(crate) place: CallPlace,
    pub(crate) slot: Slot,
}

/// A provider's stream on its way to the client.
pub struct StreamReply {
    /// Everything that the settlement needs; gone once it is recorded.
    open: Option<Open>,
    /// May leave.
    ready: VecDeque<Bytes>,
    /// Leaves after the settlement.
    held: Vec<Bytes>,
    phase: Phase,
    dialect: Dialect,
    request: RequestId,
    /// The call's place, once the stream is settled: it is held to the last byte.
    place: Option<CallPlace>,
    authority: Authority,
}

/// The part of a stream that can be handed to the drainer.
pub(crate) struct Open {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) upstream: UpstreamBody,
    pub(crate) reply: ReplyStream,
    pub(crate) attempt: OpenAttempt,
    pub(crate) meter: Meter,
    pub(crate) hang_up: HangUp,
    pub(crate) received: Sha256,
    delivered: Sha256,
    show_cost: bool,
    pub(crate) ended: Ended,
    /// The call's place among all calls: held while the provider is read, with a client or without.
    pub(crate) place: CallPlace,
    /// The stream's slot at its provider, held as long.
    pub(crate) slot: Slot,
}

impl Open {
    /// Takes account of bytes that go to the client.
    fn deliver(&mut self, bytes: &[u8]) {
        self.delivered.update(bytes);
        if let Some(notes) = self.attempt.notes() {
            notes.delivered(bytes);
        }
    }
}

type Ended = Pin<Box<dyn Future<Output = Refusal> + Send>>;
type Durable = Pin<Box<dyn Future<Output = Result<(), KernelError>> + Send>>;

enum Phase {
    /// Bytes come and go.
    Flowing,
    /// The end is being made durable; then the held bytes leave, or, on a break, the error event.
    Settling {
        durable: Durable,
        then: Then,
    },
    /// The last bytes are in `ready`.
    Closing {
        clean: bool,
        flushed: bool,
    },
    Over,
}

enum Then {
    Release,
    Break(Refusal),
}

impl StreamReply {
    pub(crate) fn new(parts: StreamParts) -> Self {
        let StreamParts {
            gateway,
            upstream,
            reply,
            attempt,
            meter,
            hang_up,
            dialect,
            show_cost,
            request,
            ended,
            authority,
            place,
            slot,
        } = parts;
        let (received, delivered) = (Sha256::new(), Sha256::new());
        let open = Open {
            gateway,
            upstream,
            reply,
            attempt,
            meter,
            hang_up,
            received,
            delivered,
            show_cost,
            ended,
            place,
            slot,
        };
        Self {
            open: Some(open),
            ready: VecDeque::new(),
            held: Vec::new(),
            phase: Phase::Flowing,
            dialect,
            request,
            place: None,
            authority,
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(bytes)));
            }
            match &mut self.phase {
                Phase::Flowing => {
                    if self.poll_flow(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Phase::Settling { durable, .. } => match durable.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(settled) => self.release(settled),
                },
                Phase::Closing { clean: true, .. } => {
                    self.phase = Phase::Over;
                    return Poll::Ready(None);
                }
                // The error event must be on the wire before the connection is cut: one turn for the transport to write it.
                Phase::Closing {
                    clean: false,
                    flushed,
                } if !*flushed => {
                    *flushed = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Phase::Closing { .. } => {
                    self.phase = Phase::Over;
                    return Poll::Ready(Some(Err(BodyError)));
                }
                Phase::Over => return Poll::Ready(None),
            }
        }
    }

    /// One step of the flow: a piece of the provider's stream, its end, its break, or the end of the caller's authority.
    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(open) = &mut self.open else {
            self.phase = Phase::Over;
            return Poll::Ready(());
        };
        if let Poll::Ready(refusal) = open.ended.as_mut().poll(cx) {
            self.settle_short(Outcome::Abandoned, By::Us, refusal);
            return Poll::Ready(());
        }
        let Poll::Ready(next) = open.upstream.poll_chunk(cx) else {
            return Poll::Pending;
        };
        match next {
            Ok(Some(chunk)) => self.take(chunk),
            Ok(None) => self.finish(),
            Err(error) => self.settle_broken(error.into()),
        }
        Poll::Ready(())
    }

    fn take(&mut self, chunk: Bytes) {
        let Some(open) = &mut self.open else { return };
        open.received.update(&chunk);
        match open.reply.feed(chunk) {
            Ok(fed) => {
                if !fed.pass.is_empty() {
                    open.deliver(&fed.pass);
                    self.ready.push_back(fed.pass);
                }
                if !fed.held.is_empty() {
                    self.held.push(fed.held);
                }
                if let Some(error) = open.reply.broken() {
                    // What came before the fault leaves first.
                    self.settle_broken(error.into());
                } else if open.reply.ended() {
                    // Nothing that matters follows the terminal event: settle at once.
                    self.finish();
                }
            }
            Err(error) => self.settle_broken(error.into()),
        }
    }

    fn finish(&mut self) {
        let Some(open) = &mut self.open else { return };
        match open.reply.finish() {
            Ok(tail) => {
                self.held.push(tail);
                let settlement = open.meter.ended(&open.reply);
                if let Some(cost) = settlement.cost.filter(|_| open.show_cost) {
                    let end = Bytes::from(self.held.concat());
                    self.held = vec![llm::cost::in_events(end, &cost.to_string())];
                }
                for bytes in &self.held {
                    open.deliver(bytes);
                }
                self.record(settlement, Then::Release);
            }
            Err(error) => self.settle_broken(error.into()),
        }
    }

    fn settle_broken(&mut self, refusal: Refusal) {
        self.settle_short(Outcome::Broken, By::Provider, refusal);
    }

    fn settle_short(&mut self, outcome: Outcome, by: By, refusal: Refusal) {
        let Some(open) = &self.open else { return };
        let settlement = open.meter.cut_short(outcome, by, &open.reply);
        self.record(settlement, Then::Break(refusal));
    }

    fn record(&mut self, settlement: Settlement, then: Then) {
        let Some(open) = self.open.take() else { return };
        let Open {
            upstream,
            mut attempt,
            received,
            delivered,
            gateway,
            reply,
            place,
            ..
        } = open;
        self.place = Some(place);
        if let Some(notes) = attempt.notes() {
            notes.finished(reply.finish_reason());
        }
        let share = Arc::clone(attempt.share());
        let settlement = Settlement {
            answer_received: Some(received.finish()),
            answer_delivered: Some(delivered.finish()),
            ..settlement
        };
        let durable: Durable = match attempt.settle(&settlement) {
            Ok(settling) => Box::pin(settling.durable()),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        };
        match then {
            // The terminator of the provider's body follows its last event: read it, so that the connection can be used again.
            Then::Release if !reply.was_cut() => drain::to_end(&gateway, &share, upstream),
            // A provider that broke off, or that would go on beyond what was bought.
            Then::Release | Then::Break(_) => drop(upstream),
        }
        self.phase = Phase::Settling { durable, then };
    }

    fn release(&mut self, settled: Result<(), KernelError>) {
        let then = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Settling { then, .. } => then,
            other => {
                self.phase = other;
                return;
            }
        };
        let refusal = match (settled, then) {
            (Ok(()), Then::Release) => {
                self.ready
                    .extend(self.held.drain(..).filter(|bytes| !bytes.is_empty()));
                self.phase = Phase::Closing {
                    clean: true,
                    flushed: true,
                };
                return;
            }
            (Ok(()), Then::Break(refusal)) => refusal,
            (Err(error), _) => error.into(),
        };
        self.held.clear();
        self.ready
            .push_back(refusal.stream_event(self.dialect, &self.request));
        self.phase = Phase::Closing {
            clean: false,
            flushed: false,
        };
    }
}

impl Drop for StreamReply {
    /// The client hung up. Settles what was produced, or hands the stream to the drainer where the provider bills it whole anyway.
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            drain::abandoned(open);
        }
    }
}
