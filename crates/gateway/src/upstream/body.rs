//! The body of a provider's answer, which owns its connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::limits;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::Connection;
use super::pool::Pool;

/// Why a body ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyError {
    /// Silence for longer than the idle deadline.
    Idle,
    /// The total deadline passed.
    Total,
    /// The connection broke, or the framing was wrong.
    Cut,
    /// A non-streamed body above [`limits::REPLY_BYTES_MAX`].
    TooLarge,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "the provider fell silent",
            Self::Total => "the provider's answer took too long",
            Self::Cut => "the provider's answer broke off",
            Self::TooLarge => "the provider's answer is too large",
        })
    }
}

impl std::error::Error for BodyError {}

/// Bytes of an answer as they come. Read to `None` (or to `is_end_stream`), the connection goes
/// back to its pool; dropped before, the connection is closed at once and never used again.
pub struct UpstreamBody {
    incoming: Incoming,
    // `None` after the end, good or bad.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
    idle: Duration,
    total: Instant,
    last: Instant,
    // Bytes that may still come; `None` for a stream, which is bounded by time.
    left: Option<u64>,
}

impl UpstreamBody {
    pub(super) fn new(
        incoming: Incoming,
        connection: Box<Connection>,
        pool: Arc<Pool>,
        stream: bool,
        idle: Duration,
        total: Instant,
    ) -> Self {
        let left = (!stream).then_some(limits::REPLY_BYTES_MAX as u64);
        let mut body = Self {
            incoming,
            connection: Some(connection),
            pool,
            idle,
            total,
            last: Instant::now(),
            left,
        };
        if body.incoming.is_end_stream() {
            body.finish();
        }
        body
    }

    /// Whether the end was read, good or bad.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.connection.is_none()
    }

    /// The next piece, or `None` at the end.
    ///
    /// # Errors
    /// See [`BodyError`]; after an error the body is over and its connection closed.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole body. A body of one piece is not copied.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub async fn whole(&mut self) -> Result<Bytes, BodyError> {
        let Some(first) = self.chunk().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = self.chunk().await? else {
            return Ok(first);
        };
        let mut all = BytesMut::with_capacity(2 * (first.len() + second.len()));
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The next piece, `None` at the end; the form for a body that is polled.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        loop {
            match self.poll_incoming(cx) {
                Poll::Pending => return self.poll_deadlines(cx),
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers carry nothing that is passed on.
                    let Ok(chunk) = frame.into_data() else {
                        continue;
                    };
                    self.last = Instant::now();
                    if !self.fits(chunk.len()) {
                        return Poll::Ready(self.fail(BodyError::TooLarge));
                    }
                    if self.incoming.is_end_stream() {
                        self.finish();
                    }
                    return Poll::Ready(Ok(Some(chunk)));
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(self.fail(BodyError::Cut)),
                Poll::Ready(None) => {
                    self.finish();
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    /// See [`Connection`] for the order of wakers.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(None);
        };
        let quiet = &mut Context::from_waker(Waker::noop());
        let mut incoming = Pin::new(&mut self.incoming);
        if let Poll::Ready(frame) = incoming.as_mut().poll_frame(quiet) {
            return Poll::Ready(frame);
        }
        connection.drive(quiet);
        if let Poll::Ready(frame) = incoming.as_mut().poll_frame(quiet) {
            return Poll::Ready(frame);
        }
        connection.drive(cx);
        incoming.poll_frame(quiet)
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        let idle = self.last + self.idle;
        let deadline = idle.min(self.total);
        let Some(connection) = &mut self.connection else {
            return Poll::Ready(Ok(None));
        };
        match connection.poll_deadline(cx, deadline) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) if idle < self.total => Poll::Ready(self.fail(BodyError::Idle)),
            Poll::Ready(()) => Poll::Ready(self.fail(BodyError::Total)),
        }
    }

    fn fits(&mut self, len: usize) -> bool {
        match &mut self.left {
            None => true,
            Some(left) => match left.checked_sub(len as u64) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            },
        }
    }

    fn finish(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put(connection, self.last);
        }
    }

    fn fail(&mut self, error: BodyError) -> Result<Option<Bytes>, BodyError> {
        self.connection = None;
        Err(error)
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.get_mut()
            .poll_chunk(cx)
            .map(|chunk| chunk.map(|c| c.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.connection.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("ended", &self.connection.is_none())
            .finish_non_exhaustive()
    }
}
