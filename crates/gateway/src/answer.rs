//! From a provider's answer to the client's response: whole answers are settled here, streams take everything with them.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use kernel::digest::sha256;
use kernel::quota::Standing;
use kernel::{Outcome, Settlement, Trail};
use llm::{Dialect, ReplyStream, StreamPlan};

use crate::Gateway;
use crate::checkpoint;
use crate::door;
use crate::refusal::{Refusal, put_standing};
use crate::reply::{ReplyBody, StreamParts, StreamReply};
use crate::send::{Sent, Stop};
use crate::upstream::ContentType;

/// Turns a provider's answer into the client's.
pub(crate) async fn answer(
    gw: &Arc<Gateway>,
    trail: &Trail,
    mut sent: Sent,
) -> Result<Response<ReplyBody>, Stop> {
    sent.attempt.answer_begins();
    let permit = sent.hold.permit();
    let request = &permit.call.request;
    let (standing, dialect) = (*sent.hold.standing(), request.operation().dialect());
    let witness = permit
        .call
        .show_checkpoint
        .then(|| permit.admission.tenant().clone());
    let mut answer = if request.stream() {
        stream(gw, trail, sent).await?
    } else {
        whole(trail, sent).await?
    };
    if standing != Standing::default() {
        put_standing(answer.headers_mut(), &standing, dialect, gw.kernel().now());
    }
    if let Some(tenant) = witness {
        checkpoint::put(answer.headers_mut(), &tenant).await;
    }
    Ok(answer)
}

async fn stream(gw: &Arc<Gateway>, trail: &Trail, sent: Sent) -> Result<Response<ReplyBody>, Stop> {
    let Sent {
        hold,
        attempt,
        meter,
        choice,
        response,
        slot,
    } = sent;
    if response.content_type != ContentType::EventStream {
        return Err(settled(
            attempt.settle(&Settlement::unknown()),
            Refusal::UpstreamMalformed,
        )
        .await);
    }
    let (permit, place) = hold.into_parts();
    let request = &permit.call.request;
    let client = request.operation().dialect();
    let provider = choice.provider.dialect();
    // The name asked for is shown where the route's own name differs; a translated stream always says what was asked.
    let restamp = provider != client || request.model() != &*choice.provider_model;
    let reply = ReplyStream::new(StreamPlan {
        provider,
        client,
        model_shown: restamp
            .then(|| shown_model(request.model(), choice.model.as_str()).to_owned()),
        include_usage: request.include_usage(),
        created_s: trail.opened().unix_seconds(),
    });
    let reply = match meter.backstop() {
        Some(bought) => reply.with_backstop(bought),
        None => reply,
    };
    let body = StreamReply::new(StreamParts {
        gateway: Arc::clone(gw),
        upstream: response.body,
        reply,
        attempt,
        meter,
        hang_up: choice.provider.hang_up(),
        dialect: client,
        show_cost: permit.call.show_cost,
        request: *trail.request_id(),
        authority: permit.admission.authority(),
        ended: Box::pin(door::end_of(permit.admission)),
        place,
        slot,
    });
    let mut answer = Response::new(ReplyBody::Stream(Box::new(body)));
    let headers = answer.headers_mut();
    ours(
        headers,
        trail,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(answer)
}

async fn whole(trail: &Trail, sent: Sent) -> Result<Response<ReplyBody>, Stop> {
    let Sent {
        hold,
        mut attempt,
        meter,
        choice,
        mut response,
        slot,
    } = sent;
    let request = &hold.permit().call.request;
    let body = match response.body.whole().await {
        Ok(body) => body,
        Err(error) => return Err(settled(attempt.settle(&broken()), error.into()).await),
    };
    // The provider is done; the settlement is ours.
    drop(slot);
    let provider = choice.provider.dialect();
    let facts = match llm::reply::facts(provider, request.operation(), &body) {
        Ok(facts) => facts,
        Err(error) => return Err(settled(attempt.settle(&broken()), error.into()).await),
    };
    let shown = shown_model(request.model(), choice.model.as_str());
    let client = request.operation().dialect();
    let delivered = if client != provider {
        llm::translate::reply(
            provider,
            client,
            shown,
            trail.opened().unix_seconds(),
            &body,
        )
    } else if request.model() == &*choice.provider_model {
        Ok(body.clone())
    } else {
        Ok(llm::reply::restamp(body.clone(), &facts, shown))
    };
    let said = meter.finished(facts.usage);
    let shown_cost = said.cost.filter(|_| hold.permit().call.show_cost);
    let received = sha256(&body);
    let delivered = match delivered {
        Ok(delivered) => delivered,
        // The provider worked and said what it used: that is charged, though the answer cannot be shown.
        Err(error) => {
            let settlement = Settlement {
                outcome: Outcome::Broken,
                answer_received: Some(received),
                ..said
            };
            return Err(settled(attempt.settle(&settlement), error.into()).await);
        }
    };
    let delivered = match shown_cost {
        Some(cost) => llm::cost::in_answer(delivered, &cost.to_string()),
        None => delivered,
    };
    if let Some(notes) = attempt.notes() {
        notes.delivered(&delivered);
        notes.finished(facts.finish_reason.as_deref());
    }
    let settlement = Settlement {
        answer_received: Some(received),
        // What passes as it came has the digest that it came with.
        answer_delivered: Some(if delivered == body {
            received
        } else {
            sha256(&delivered)
        }),
        ..said
    };
    durable(attempt.settle(&settlement)).await?;
    Ok(json(trail, delivered))
}

fn broken() -> Settlement {
    Settlement {
        outcome: Outcome::Broken,
        ..Settlement::unknown()
    }
}

/// The name that the client reads: the one it asked for, or the public name where it asked for its tenant's choice.
fn shown_model<'a>(asked: &'a str, public: &'a str) -> &'a str {
    if asked.is_empty() { public } else { asked }
}

fn json(trail: &Trail, body: Bytes) -> Response<ReplyBody> {
    let mut answer = Response::new(ReplyBody::full(body));
    *answer.status_mut() = StatusCode::OK;
    ours(
        answer.headers_mut(),
        trail,
        HeaderValue::from_static("application/json"),
    );
    answer
}

fn ours(headers: &mut HeaderMap, trail: &Trail, content_type: HeaderValue) {
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(trail.request_id().as_str()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
}

async fn durable(
    settling: Result<kernel::ledger::Settling, kernel::KernelError>,
) -> Result<(), Stop> {
    let settled = match settling {
        Ok(settling) => settling.durable().await,
        Err(error) => Err(error),
    };
    settled.map_err(|error| Stop::Failed(error.into()))
}

/// The stop that follows a settlement: the refusal itself, or the journal's failure.
async fn settled(
    settling: Result<kernel::ledger::Settling, kernel::KernelError>,
    refusal: Refusal,
) -> Stop {
    match durable(settling).await {
        Ok(()) => Stop::Failed(refusal),
        Err(stop) => stop,
    }
}

/// The dialect of answers on routes of no dialect.
pub const PLAIN: Dialect = Dialect::OpenAi;
