//! Streams whose client is gone, and connections whose last bytes are still to be read. Bounded in number and time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use kernel::{Outcome, Settlement};
use tokio::sync::oneshot;

use crate::Gateway;
use crate::catalog::HangUp;
use crate::refusal::Refusal;
use crate::reply::{Open, ReplyBody};
use crate::send::Stop;
use crate::upstream::UpstreamBody;

/// The end of a body follows its last event at once, or the connection is not worth keeping.
const TERMINATOR_WAIT: Duration = Duration::from_millis(100);

/// Runs an exchange in a task of its own, which outlives the client.
pub(crate) fn apart<F>(
    gw: &Gateway,
    exchange: F,
) -> impl Future<Output = Result<Response<ReplyBody>, Stop>> + use<F>
where
    F: Future<Output = Result<Response<ReplyBody>, Stop>> + Send + 'static,
{
    let (answer, client) = oneshot::channel();
    gw.kernel().tasks().spawn(async move {
        // A client that is gone leaves the response here, and dropping it settles it.
        let _no_client = answer.send(exchange.await);
    });
    async move { client.await.unwrap_or(Err(Stop::Failed(Refusal::Internal))) }
}

/// Reads what is left of a body whose last event was seen, so that its connection returns to the pool.
pub(crate) fn to_end(gw: &Arc<Gateway>, mut upstream: UpstreamBody) {
    if upstream.at_end() {
        return;
    }
    let Some(place) = gw.drain_place() else {
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
pub(crate) fn abandoned(open: Open) {
    let place = match open.hang_up {
        HangUp::Abort => None,
        HangUp::Drain => open.gateway.drain_place(),
    };
    let Some(place) = place else {
        settle(open);
        return;
    };
    let tasks = open.gateway.kernel().tasks().clone();
    tasks.spawn(async move {
        settle(read_on(open).await);
        drop(place);
    });
}

/// The upstream's own idle and total deadlines bound this.
async fn read_on(mut open: Open) -> Open {
    while let Ok(Some(chunk)) = open.upstream.chunk().await {
        open.received.update(&chunk);
        if open.reply.feed(chunk).is_err() || open.reply.ended() {
            break;
        }
    }
    open
}

fn settle(open: Open) {
    let Open {
        reply,
        attempt,
        meter,
        received,
        ..
    } = open;
    let settlement = if reply.ended() {
        Settlement {
            outcome: Outcome::Abandoned,
            ..meter.ended(&reply)
        }
    } else {
        meter.cut_short(Outcome::Abandoned, reply.usage(), reply.produced_bytes())
    };
    let settlement = Settlement {
        answer_received: Some(received.finish()),
        ..settlement
    };
    // Nobody waits for it: it becomes durable with its group, and a journal that is down keeps the `sent` record.
    let _durable_with_its_group = attempt.settle(&settlement);
}
