//! HTTP/2: many calls on one connection, each ended alone.
//!
//! What a client does not take waits inside hyper, out of reach of the answer's own deadlines and of the socket's. So the task
//! that hyper gives each call is watched here: where a frame waits for its client for too long, or the credential behind it has
//! ended, the task is dropped, and with it the answer, which settles itself. The other calls of the connection go on: behind a
//! balancer they may be other tenants'.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::HEADER_BYTES_MAX;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kernel::Authority;
use kernel::tasks::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Sleep;

use super::{CUT_AFTER, Patient, Setting, WRITE_STALL_MAX};
use crate::body::{AnswerBody, Broken};
use crate::dispatch;

/// Calls at the same time on one connection.
const CALLS_MAX: u32 = 128;
/// Between two looks whether a client is still there, and how long its answer may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);

/// A reset overtakes what stands in line before it: so long an answer that breaks waits for its last words to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Serves a connection to its end.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    setting: &Arc<Setting>,
    io: Patient<T>,
) {
    let fresh = Fresh::default();
    let service = service_fn(|request| {
        let setting = Arc::clone(setting);
        let call = fresh.begin();
        async move {
            let answer = dispatch::answer(&setting.app, setting.listener, request).await;
            Ok::<_, Infallible>(answer.map(|body| Watched::new(body, call)))
        }
    });
    let executor = Executor {
        tasks: setting.app.gateway.kernel().tasks().clone(),
        fresh: fresh.clone(),
    };
    let connection = http2::Builder::new(executor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let (draining, cutting) = (
        setting.ending.draining.child_token(),
        setting.ending.cutting.child_token(),
    );
    tokio::select! {
        biased;
        _over = connection.as_mut() => return,
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        _over = connection => {}
        () = cutting.cancelled() => {}
    }
}

/// The call that was begun last, on its way from the service to the executor: hyper hands over the task of a call right after
/// it asked the service for it, on the connection's own task.
#[derive(Clone, Default)]
struct Fresh(Arc<Mutex<Option<Arc<Call>>>>);

impl Fresh {
    fn begin(&self) -> Arc<Call> {
        let call = Arc::<Call>::default();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&call));
        call
    }

    fn take(&self) -> Arc<Call> {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        begun.unwrap_or_default()
    }
}

/// Calls run as tasks that shutdown waits for.
#[derive(Clone)]
struct Executor {
    tasks: Tasks,
    fresh: Fresh,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let call = self.fresh.take();
        self.tasks.spawn(async move { call.run(work).await });
    }
}

/// What the answer of a call and the task that sends it know of each other.
#[derive(Default)]
struct Call {
    /// Pieces of the answer that hyper took.
    taken: AtomicU64,
    /// The last of them is not on its way yet: hyper comes for the next as soon as it is.
    waiting: AtomicBool,
    /// On whose authority the answer goes on, where it is a stream.
    authority: OnceLock<Authority>,
}

type Patience = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Call {
    /// Runs the call's task to its end, or until its client has worn out our patience.
    async fn run<F: Future>(&self, work: F) {
        let mut work = pin!(work);
        let mut stalled: Option<(u64, Patience)> = None;
        poll_fn(|cx| {
            if work.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !self.waiting.load(Ordering::Relaxed) {
                stalled = None;
                return Poll::Pending;
            }
            let piece = self.taken.load(Ordering::Relaxed);
            if stalled.as_ref().is_none_or(|(since, _)| *since != piece) {
                let authority = self.authority.get().cloned();
                stalled = Some((piece, Box::pin(patience(authority))));
            }
            let waited = stalled
                .as_mut()
                .map(|(_, patience)| patience.as_mut().poll(cx));
            waited.unwrap_or(Poll::Pending)
        })
        .await;
    }
}

/// Resolves when a piece that its client does not take has waited for long enough.
async fn patience(authority: Option<Authority>) {
    let stall = tokio::time::sleep(WRITE_STALL_MAX);
    let Some(authority) = authority else {
        return stall.await;
    };
    let cut = async {
        authority.ended().await;
        tokio::time::sleep(CUT_AFTER).await;
    };
    tokio::select! {
        () = stall => {}
        () = cut => {}
    }
}

/// An answer that says when it waits for its client.
struct Watched {
    body: AnswerBody,
    call: Arc<Call>,
    breaking: Option<(Broken, Pin<Box<Sleep>>)>,
}

impl Watched {
    fn new(body: AnswerBody, call: Arc<Call>) -> Self {
        if let Some(authority) = body.authority() {
            // Set once: a call has one answer.
            let _first = call.authority.set(authority.clone());
        }
        Self {
            body,
            call,
            breaking: None,
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = self.get_mut();
        if this.breaking.is_none() {
            let next = Pin::new(&mut this.body).poll_frame(cx);
            let is_piece = matches!(next, Poll::Ready(Some(Ok(_))));
            this.call.waiting.store(is_piece, Ordering::Relaxed);
            if is_piece {
                this.call.taken.fetch_add(1, Ordering::Relaxed);
            }
            let Poll::Ready(Some(Err(broken))) = next else {
                return next;
            };
            this.breaking = Some((broken, Box::pin(tokio::time::sleep(LAST_WORDS))));
        }
        if let Some((_, pause)) = &mut this.breaking {
            std::task::ready!(pause.as_mut().poll(cx));
        }
        Poll::Ready(this.breaking.take().map(|(broken, _)| Err(broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
