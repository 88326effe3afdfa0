//! Streams whose client is gone, and connections whose last bytes are still to be read. Bounded in number and time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use kernel::share::Share;
use kernel::{Outcome, Settlement, Settling};
use tokio::sync::oneshot;

use crate::Gateway;
use crate::catalog::HangUp;
use crate::meter::By;
use crate::refusal::Refusal;
use crate::reply::{Open, ReplyBody};
use crate::send::Stop;
use crate::upstream::UpstreamBody;

/// The end of a body follows its last event at once, or the connection is not worth keeping.
const TERMINATOR_WAIT: Duration = Duration::from_millis(100);

/// Runs an exchange in a task of its own, which outlives the client, but not the authority that it runs on.
pub(crate) fn apart<E, F>(
    gw: &Gateway,
    ended: E,
    exchange: F,
) -> impl Future<Output = Result<Response<ReplyBody>, Stop>> + use<E, F>
where
    E: Future<Output = ()> + Send + 'static,
    F: Future<Output = Result<Response<ReplyBody>, Stop>> + Send + 'static,
{
    let (answer, client) = oneshot::channel();
    gw.kernel().tasks().spawn(async move {
        tokio::select! {
            biased;
            // Dropped, it settles what was sent.
            () = ended => {}
            // A client that is gone leaves the response here, and dropping it settles it.
            done = exchange => drop(answer.send(done)),
        }
    });
    async move { client.await.unwrap_or(Err(Stop::Failed(Refusal::Internal))) }
}

/// Reads what is left of a body whose last event was seen, so that its connection returns to the pool.
pub(crate) fn to_end(gw: &Arc<Gateway>, share: &Arc<Share>, mut upstream: UpstreamBody) {
    if upstream.at_end() {
        return;
    }
    let Some(place) = gw.drain_place(share) else {
        return;
    };
    gw.kernel().tasks().spawn(async move {
        let rest = async { while let Ok(Some(_ignored)) = upstream.chunk().await {} };
        // Past the wait the connection is closed by dropping it.
        let _closed_if_late = tokio::time::timeout(TERMINATOR_WAIT, rest).await;
        drop(place);
    });
}

/// The client of a stream hung up: abort and settle what was produced, or read on to the provider's own count.
pub(crate) fn abandoned(mut open: Open) {
    let place = match open.hang_up {
        HangUp::Abort => None,
        HangUp::Drain => open.gateway.drain_place(open.attempt.share()),
    };
    let Some(place) = place else {
        settle(open, By::Us);
        return;
    };
    let tasks = open.gateway.kernel().tasks().clone();
    tasks.spawn(async move {
        let by = read_on(&mut open).await;
        settle(open, by);
        drop(place);
    });
}

/// Reads to the end, and says who made it one. The upstream's own idle and total deadlines bound this, and the caller's authority:
/// without it nothing is read any more.
async fn read_on(open: &mut Open) -> By {
    loop {
        let next = tokio::select! {
            biased;
            _ = open.ended.as_mut() => return By::Us,
            next = open.upstream.chunk() => next,
        };
        let Ok(Some(chunk)) = next else {
            return By::Provider;
        };
        open.received.update(&chunk);
        if open.reply.feed(chunk).is_err() || open.reply.ended() {
            return By::Provider;
        }
    }
}

fn settle(open: Open, by: By) {
    // The call's place and its slot are free when this returns, not before.
    let Open {
        upstream,
        reply,
        mut attempt,
        meter,
        received,
        place: _place,
        slot: _slot,
        ..
    } = open;
    drop(upstream);
    let settlement = if reply.ended() {
        Settlement {
            outcome: Outcome::Abandoned,
            ..meter.ended(&reply)
        }
    } else {
        meter.cut_short(Outcome::Abandoned, by, &reply)
    };
    let settlement = Settlement {
        answer_received: Some(received.finish()),
        ..settlement
    };
    if let Some(notes) = attempt.notes() {
        notes.finished(reply.finish_reason());
    }
    let settling = attempt.settle(&settlement);
    // Nobody waits for it: it survives a kill from here on and becomes durable with its group. A journal that is down keeps the
    // `sent` record.
    let _lost_only_with_the_journal = settling.and_then(Settling::written);
}
