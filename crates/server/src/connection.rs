//! One connection: TLS, HTTP, deadlines, and its orderly end.
//!
//! Without TLS HTTP/1.1 is spoken and nothing else, so that the common path has no layer between hyper and the socket. HTTP/2
//! comes by ALPN.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::{HEADER_BYTES_MAX, HEADER_TIME_MAX, HEADERS_MAX};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kernel::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::dispatch::{self, App};
use crate::jsonrpc::{Conversation, Later};
use crate::listen::Slots;
use crate::routes::Listener;

mod http2;

/// A client that takes no byte for so long is gone.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);
/// The same for a client whose credential has ended: long enough for the error event, where it is taken.
const CUT_AFTER: Duration = Duration::from_millis(600);

/// What all connections of one listener share.
pub(crate) struct Setting {
    pub(crate) app: Arc<App>,
    pub(crate) listener: Listener,
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) ending: Ending,
}

/// How connections end with the process: first they finish what is under way, then they are cut.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    pub(crate) draining: CancellationToken,
    pub(crate) cutting: CancellationToken,
}

/// Serves a connection to its end.
pub(crate) async fn serve(setting: &Arc<Setting>, stream: TcpStream) {
    // Small frames of a stream must leave at once. A socket that is gone already shows on its first read.
    let _gone_shows_later = stream.set_nodelay(true);
    let Some(tls) = &setting.tls else {
        return http1(setting, Patient::new(stream)).await;
    };
    let Ok(Ok(stream)) = tokio::time::timeout(HEADER_TIME_MAX, tls.accept(stream)).await else {
        return;
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if is_http2 {
        Box::pin(http2::serve(setting, Patient::new(stream))).await
    } else {
        Box::pin(http1(setting, Patient::new(stream))).await
    }
}

async fn http1<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    setting: &Arc<Setting>,
    io: Patient<T>,
) {
    let begun = AtomicBool::new(false);
    // Filled by the answer that opens a WebSocket, taken when that answer has left.
    let opened: Mutex<Option<Later>> = Mutex::new(None);
    let opened = &opened;
    let streaming = Arc::clone(&io.streaming);
    let streaming = &*streaming;
    let service = service_fn(|request| {
        begun.store(true, Ordering::Relaxed);
        streaming.forget();
        let setting = Arc::clone(setting);
        async move {
            let mut answer = dispatch::answer(&setting.app, setting.listener, request).await;
            streaming.begin(answer.body().authority());
            if let Some(later) = answer.extensions_mut().remove::<Later>() {
                *opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(later);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = Box::pin(connection);
    // Tokens of this connection alone: waiting on the shared ones would take their lock with every chunk.
    let (draining, cutting) = (
        setting.ending.draining.child_token(),
        setting.ending.cutting.child_token(),
    );
    tokio::select! {
        biased;
        _over = connection.as_mut() => {
            let later = opened.lock().unwrap_or_else(PoisonError::into_inner).take();
            let conversation = later.and_then(|later| later.take());
            // A connection that ended before its answer left is what the conversation would wait for.
            drop(connection);
            return converse(conversation, &cutting).await;
        }
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    if !begun.load(Ordering::Relaxed) {
        // hyper would wait for the first request; none was begun, so none is lost.
        return;
    }
    tokio::select! {
        biased;
        _over = connection => {}
        () = cutting.cancelled() => {}
    }
}

/// What follows an opening of a WebSocket, on the place that the connection has. It ends by itself when the gateway drains.
async fn converse(conversation: Option<Conversation>, cutting: &CancellationToken) {
    let Some(conversation) = conversation else {
        return;
    };
    tokio::select! {
        biased;
        () = conversation => {}
        () = cutting.cancelled() => {}
    }
}

/// On whose authority the connection's stream goes on, while one does.
#[derive(Default)]
struct Streaming {
    some: AtomicBool,
    authority: Mutex<Option<Authority>>,
}

impl Streaming {
    fn begin(&self, authority: Option<&Authority>) {
        if let Some(authority) = authority {
            *self.authority() = Some(authority.clone());
            self.some.store(true, Ordering::Relaxed);
        }
    }

    /// The next request has an authority of its own.
    fn forget(&self) {
        if self.some.load(Ordering::Relaxed) {
            self.some.store(false, Ordering::Relaxed);
            *self.authority() = None;
        }
    }

    fn is_over(&self) -> bool {
        self.authority().as_ref().is_some_and(Authority::is_over)
    }

    fn authority(&self) -> MutexGuard<'_, Option<Authority>> {
        self.authority
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that gives up on a peer which takes nothing.
struct Patient<T> {
    io: T,
    patience: Duration,
    streaming: Arc<Streaming>,
    /// Bytes that the socket took.
    sent: Arc<AtomicU64>,
    /// When the authority was found ended while a write waited, and what is left of the patience then.
    cut_at: Option<Instant>,
    /// Runs while a write waits.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<T> Patient<T> {
    fn new(io: T) -> Self {
        Self {
            io,
            patience: WRITE_STALL_MAX,
            streaming: Arc::default(),
            sent: Arc::default(),
            cut_at: None,
            stall: None,
        }
    }

    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            let bytes = u64::try_from(*bytes).unwrap_or(u64::MAX);
            self.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn watch<R>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let over = self.streaming.is_over();
        match (over, self.cut_at) {
            (true, None) => {
                self.cut_at = Some(Instant::now() + CUT_AFTER);
                self.stall = None;
            }
            (false, Some(_)) => (self.cut_at, self.stall) = (None, None),
            _ => {}
        }
        // A peer that takes a byte now and then does not put its end off.
        let until = self
            .cut_at
            .unwrap_or_else(|| Instant::now() + self.patience);
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        stall
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.count(&written);
        this.watch(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.count(&written);
        this.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.io).poll_flush(cx);
        this.watch(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.io).poll_shutdown(cx);
        this.watch(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (near, far) = tokio::io::duplex(8);
        let mut patient = Patient {
            patience: Duration::from_millis(50),
            ..Patient::new(near)
        };
        patient.write_all(b"12345678").await.unwrap();
        let begun = tokio::time::Instant::now();
        let error = patient.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= Duration::from_millis(50));
        drop(far);
    }
}
