//! HTTP/2: many calls on one connection, each ended alone.
//!
//! What a client does not take waits inside hyper, out of reach of the answer's own deadlines and of the socket's. So the task
//! that hyper gives each call is watched here: where a frame waits for its client for too long, or the credential behind it has
//! ended, the task is dropped, and with it the answer, which settles itself. The other calls of the connection go on: behind a
//! balancer they may be other tenants'.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::{HEADER_BYTES_MAX, HEADER_TIME_MAX};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kernel::Authority;
use kernel::tasks::Tasks;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::{CUT_AFTER, Patient, Setting, WRITE_STALL_MAX};
use crate::body::{AnswerBody, Broken};
use crate::dispatch;

/// Calls at the same time on one connection.
const CALLS_MAX: u32 = 128;
/// Between two looks whether a client is still there, and how long its answer may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_WAIT: Duration = Duration::from_secs(20);

/// A client without a call may still get what was written for it, and is told that the connection ends.
const GOODBYE: Duration = Duration::from_secs(2);
/// Bytes that an idle connection may be sent between two looks: pings and their like.
const IDLE_BYTES: u64 = 256;
/// A reset overtakes what stands in line before it: so long an answer that breaks waits for its last words to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Serves a connection to its end.
pub(super) async fn serve<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    setting: &Arc<Setting>,
    io: Patient<T>,
) {
    let calls = Arc::new(Calls {
        sent: Arc::clone(&io.sent),
        ..Calls::default()
    });
    let service = service_fn(|request| {
        let setting = Arc::clone(setting);
        let call = calls.begin();
        async move {
            let answer = dispatch::answer(&setting.app, setting.listener, request).await;
            Ok::<_, Infallible>(answer.map(|body| Watched::new(body, call)))
        }
    });
    let executor = Executor {
        tasks: setting.app.gateway.kernel().tasks().clone(),
        calls: Arc::clone(&calls),
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
    let patience = tokio::select! {
        biased;
        _over = connection.as_mut() => return,
        () = draining.cancelled() => HEADER_TIME_MAX,
        () = calls.idle(HEADER_TIME_MAX) => GOODBYE,
    };
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        biased;
        _over = connection => {}
        () = cutting.cancelled() => {}
        // Who does not answer the farewell is not waited for.
        () = calls.idle(patience) => {}
    }
}

/// The calls of one connection.
#[derive(Default)]
struct Calls {
    /// The call that was begun last, on its way from the service to the executor: hyper hands over the task of a call right
    /// after it asked the service for it, on the connection's own task.
    fresh: Mutex<Option<Arc<Call>>>,
    open: AtomicUsize,
    /// One was begun or has ended.
    changed: Notify,
    /// Bytes that the socket took.
    sent: Arc<AtomicU64>,
}

impl Calls {
    fn begin(&self) -> Arc<Call> {
        let call = Arc::<Call>::default();
        *self.fresh() = Some(Arc::clone(&call));
        call
    }

    fn begun(self: &Arc<Self>) -> (Arc<Call>, Open) {
        let call = self.fresh().take().unwrap_or_default();
        self.open.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        (call, Open(Arc::clone(self)))
    }

    fn fresh(&self) -> MutexGuard<'_, Option<Arc<Call>>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when for so long no call was open and nothing of an answer left.
    async fn idle(&self, time: Duration) {
        loop {
            if self.open.load(Ordering::Relaxed) > 0 {
                self.changed.notified().await;
                continue;
            }
            let sent = self.sent.load(Ordering::Relaxed);
            let changed = tokio::time::timeout(time, self.changed.notified()).await;
            // A call is over when hyper has its answer, which may be long before the client has it.
            let since = self.sent.load(Ordering::Relaxed).wrapping_sub(sent);
            if changed.is_err() && since <= IDLE_BYTES {
                return;
            }
        }
    }
}

/// One open call, until it is dropped.
struct Open(Arc<Calls>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

/// Calls run as tasks that shutdown waits for.
#[derive(Clone)]
struct Executor {
    tasks: Tasks,
    calls: Arc<Calls>,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        let (call, open) = self.calls.begun();
        self.tasks.spawn(async move {
            call.run(work).await;
            drop(open);
        });
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
