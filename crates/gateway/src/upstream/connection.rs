//! One HTTP/1.1 connection, driven by whoever holds it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use base::limits;
use http::Request;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use kernel::egress::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Unknown;
use super::outbound::OutboundBody;

type Outbound = Request<OutboundBody>;

/// A connection that carries one exchange at a time.
///
/// hyper's driver wakes the task that reads the answer, and the reader wakes the driver. Both are
/// the same task here, so those wake-ups would only make it run again for nothing: each step is
/// first taken with a waker that does nothing, and the real waker is left behind only when the
/// task is about to wait for the socket.
pub(super) struct Connection {
    sender: http1::SendRequest<OutboundBody>,
    driver: http1::Connection<TokioIo<Stream>, OutboundBody>,
    // The driver has finished and must not be polled again.
    over: bool,
    timer: Timer,
}

/// Why there is no head of an answer.
pub(super) enum HeadError {
    /// The connection closed before it took the request, which comes back whole.
    Unsent(Box<Outbound>),
    /// The request, or a part of it, was written.
    Sent(Unknown),
}

impl Connection {
    /// A connection over an open stream. Nothing is written yet.
    pub(super) async fn open(stream: Stream) -> Result<Box<Self>, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(limits::HEADER_BYTES_MAX)
            .max_buf_size(READ_BUFFER_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        Ok(Box::new(Self {
            sender,
            driver,
            over: false,
            timer: Timer::new(),
        }))
    }

    /// Sends a request and waits for the head of its answer until `deadline`.
    pub(super) async fn head(
        &mut self,
        request: Outbound,
        deadline: Instant,
    ) -> Result<http::Response<Incoming>, HeadError> {
        let Self {
            sender,
            driver,
            over,
            timer,
        } = self;
        let mut answer = pin!(sender.try_send_request(request));
        std::future::poll_fn(|cx| {
            let quiet = &mut Context::from_waker(Waker::noop());
            drive(driver, over, quiet);
            if let Poll::Ready(answer) = answer.as_mut().poll(quiet) {
                return Poll::Ready(answer.map_err(head_error));
            }
            drive(driver, over, cx);
            if let Poll::Ready(answer) = answer.as_mut().poll(quiet) {
                return Poll::Ready(answer.map_err(head_error));
            }
            if *over {
                return Poll::Ready(Err(HeadError::Sent(Unknown::Closed)));
            }
            timer
                .poll(cx, deadline)
                .map(|()| Err(HeadError::Sent(Unknown::Timeout)))
        })
        .await
    }

    /// Lets the driver do what can be done now. Returns whether it is still running.
    pub(super) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        drive(&mut self.driver, &mut self.over, cx);
        !self.over
    }

    /// Whether the next request can be written: the exchange before is complete on both sides, the
    /// peer has not closed and has sent nothing that was not asked for.
    pub(super) fn is_reusable(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop())) && self.sender.is_ready()
    }

    /// Ready when `deadline` has passed.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        self.timer.poll(cx, deadline)
    }
}

/// hyper reads bodies in pieces of at most this size.
const READ_BUFFER_MAX: usize = 256 * 1024;

fn drive(
    driver: &mut http1::Connection<TokioIo<Stream>, OutboundBody>,
    over: &mut bool,
    cx: &mut Context<'_>,
) {
    if !*over {
        // An error of the driver has reached the answer or the body already; here only its end counts.
        *over = Pin::new(driver).poll(cx).is_ready();
    }
}

fn head_error(mut error: TrySendError<Outbound>) -> HeadError {
    if let Some(request) = error.take_message() {
        return HeadError::Unsent(Box::new(request));
    }
    let error = error.error();
    HeadError::Sent(if error.is_parse() {
        Unknown::Malformed
    } else {
        Unknown::Closed
    })
}

/// A timer that lives as long as its connection and is armed again only when it fires too early or
/// would fire too late: at full speed that is once in many thousand requests.
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn new() -> Self {
        Self { sleep: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}
