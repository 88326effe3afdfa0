//! The life of a call. Read this file and you have read the gateway: each line takes what the line above made, so no stage can be
//! skipped or reordered. docs/request.md has the same headings.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, Uri};
use http_body::Body;
use kernel::{Admission, Caller, Purpose, Trail};
use llm::Operation;

use crate::agents::Asked;
use crate::quota::Hold;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;
use crate::send::{self, Queued, Stop};
use crate::{
    Gateway, agents, answer, cache, decode, door, drain, identify, inspect, policy, quota, trace,
};

/// A call as it came in, its body not yet read.
pub struct Inbound<B> {
    /// What the matched route asks for.
    pub operation: Operation,
    /// Who calls, of a call that begins in this process; without it the headers say it.
    pub caller: Option<Caller>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// The request's target.
    pub uri: Uri,
    /// The request's body.
    pub body: B,
}

/// Serves one call from its first header to the last byte of its answer.
pub async fn serve<B>(gw: &Arc<Gateway>, mut inbound: Inbound<B>) -> Response<ReplyBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    let dialect = inbound.operation.dialect();
    // stage: open trail
    let trail = match gw.kernel().open_trail(trace::named(&inbound.headers)) {
        Ok(trail) => Arc::new(trail),
        Err(fault) => {
            let answer = door::untraced(gw, &fault.into(), dialect);
            return decode::leave_unread(&inbound.headers, &mut inbound.body, answer).await;
        }
    };
    match enter(gw, &trail, &mut inbound).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let answer = door::respond(gw, &trail, &refusal, dialect);
            decode::leave_unread(&inbound.headers, &mut inbound.body, answer).await
        }
    }
}

async fn enter<B>(
    gw: &Arc<Gateway>,
    trail: &Arc<Trail>,
    inbound: &mut Inbound<B>,
) -> Result<Response<ReplyBody>, Refusal>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    // stage: identify
    let caller = identify::caller(inbound)?;
    // stage: admit
    let admission = door::admit(gw, trail, caller, Purpose::Act).await?;
    let completed = tokio::select! {
        biased;
        // Frozen, suspended, revoked, rotated or deleted meanwhile: whatever was under way is dropped, and so settled.
        () = admission.ended() => Err(Stop::Failed(door::told_now(&admission))),
        completed = complete(gw, trail, admission.clone(), inbound.operation, &inbound.headers, &mut inbound.body) => completed,
    };
    match completed {
        Ok(answer) => Ok(answer),
        Err(Stop::Failed(refusal)) => Err(refusal),
        Err(Stop::Refused(refusal)) => {
            door::denied(trail, &admission, "call_model", &refusal).await?;
            Err(refusal)
        }
    }
}

async fn complete<B>(
    gw: &Arc<Gateway>,
    trail: &Arc<Trail>,
    admission: Admission,
    operation: Operation,
    headers: &HeaderMap,
    body: &mut B,
) -> Result<Response<ReplyBody>, Stop>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    // stage: decode
    let place = gw.enter(&admission).await?;
    let call = decode::call(gw, &admission, place, operation, headers, body).await?;
    trail.asked(call.model());
    // stage: hand over
    let call = match agents::asked(call) {
        Asked::Model(call) => call,
        Asked::Agent(ask) => return Ok(agents::answer(gw, trail, admission, ask).await?),
    };
    // stage: authorize
    let permit = policy::authorize(gw.catalog(), admission, call)?;
    // stage: inspect
    let permit = inspect::prompt(permit);
    // stage: reserve
    let hold = quota::reserve(gw, permit).await?;
    // stage: cache
    if let Some(hit) = cache::find(&hold) {
        return Ok(door::json(trail, hit.body));
    }
    // stage: route, send
    let choices = send::choices(&hold, trail);
    // Waited for in the caller's own task: who hangs up in the line leaves it.
    let queued = send::queue(&hold, choices).await?;
    // What follows may outlive the client, where a provider bills the whole answer anyway.
    let outlives_client = hold.outlives_client();
    let ended = outlives_client.then(|| hold.permit().admission.ended());
    let exchange = exchange(Arc::clone(gw), Arc::clone(trail), hold, queued);
    match ended {
        Some(ended) => Box::pin(drain::apart(gw, ended, exchange)).await,
        None => exchange.await,
    }
}

async fn exchange(
    gw: Arc<Gateway>,
    trail: Arc<Trail>,
    hold: Box<Hold>,
    queued: Queued,
) -> Result<Response<ReplyBody>, Stop> {
    let sent = send::send(&gw, &trail, hold, queued).await?;
    // stage: inspect reply
    let sent = inspect::reply(sent);
    // stage: settle
    answer::answer(&gw, &trail, sent).await
}
