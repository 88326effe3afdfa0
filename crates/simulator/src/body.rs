//! Response bodies that pause, hang and break, and the connection under them.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use crate::frame::{Script, Step};
use crate::ledger::Entry;

/// A response body played from a script, or sent whole.
pub(crate) struct Played {
    script: Source,
    sleep: Option<Pin<Box<Sleep>>>,
    entry: Option<Entry>,
    reset: Arc<AtomicBool>,
}

enum Source {
    Whole(Option<Bytes>),
    Script(Box<Script>),
    Hanging,
}

/// A TCP connection that is reset instead of closed when its switch is on.
pub(crate) struct Wire {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Played {
    pub(crate) fn whole(bytes: Bytes, entry: Option<Entry>) -> Self {
        Self {
            script: Source::Whole(Some(bytes)),
            sleep: None,
            entry,
            reset: Arc::default(),
        }
    }

    pub(crate) fn script(script: Script, entry: Entry, reset: Arc<AtomicBool>) -> Self {
        Self {
            script: Source::Script(Box::new(script)),
            sleep: None,
            entry: Some(entry),
            reset,
        }
    }

    /// The body is out: the entry closes as finished.
    fn finish(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.record.finished = true;
        }
    }

    fn broken(why: &'static str) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(Some(Err(io::Error::other(why))))
    }
}

impl Body for Played {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                std::task::ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            let step = match &mut this.script {
                Source::Whole(bytes) => bytes.take().map(Step::Send),
                Source::Script(script) => script.next(),
                Source::Hanging => return Poll::Pending,
            };
            match step {
                Some(Step::Send(bytes)) if bytes.is_empty() => {}
                Some(Step::Send(bytes)) => {
                    // Hyper does not ask again after the last byte of a body of known length.
                    let last = match &this.script {
                        Source::Whole(_) => true,
                        Source::Script(script) => script.is_over(),
                        Source::Hanging => false,
                    };
                    if last {
                        this.finish();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(pause)) => this.sleep = Some(Box::pin(tokio::time::sleep(pause))),
                // The connection's own end wakes and drops this body; no timer is needed.
                // Hyper may ask again meanwhile; a hanging body must not turn into an ended one.
                Some(Step::Hang) => {
                    this.script = Source::Hanging;
                    return Poll::Pending;
                }
                Some(Step::Cut) => return Self::broken("cut as ordered"),
                Some(Step::Reset) => {
                    this.reset.store(true, Ordering::Release);
                    return Self::broken("reset as ordered");
                }
                None => {
                    this.finish();
                    return Poll::Ready(None);
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.script {
            Source::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Script(_) | Source::Hanging => SizeHint::default(),
        }
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, reset: Arc<AtomicBool>) -> Self {
        Self { stream, reset }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            // Where the option cannot be set the peer sees an orderly close: a fault all the same.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::Acquire) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
