//! `/rpc`: JSON-RPC 2.0 by POST and on a WebSocket. The methods are the registry of [`rpc::method`].
//!
//! What a message may do is decided call by call: each is admitted anew with the credential that came with the request or the
//! socket, and nothing in a message has authority.

mod agents;
mod desk;
mod files;
mod follow;
mod handlers;
mod line;
mod rate;
mod session;
mod socket;

use std::sync::Arc;

use base::Role;
use base::limits::{BODY_TIME_MAX, RPC_MESSAGE_BYTES_MAX};
use gateway::door;
use gateway::refusal::Refusal;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kernel::{Purpose, Trail};
use llm::Dialect;
use zeroize::Zeroizing;

use crate::body::AnswerBody;
use crate::dispatch::{Answer, App, bad_request, finished};

pub(crate) use desk::Desk;
pub(crate) use socket::{Conversation, Later};

use session::{Meter, Session};

/// Who gets as far as to call a method; each method has its own roles.
pub(crate) const CALLERS: &[Role] = &Role::ALL;
/// What an entry calls it when the path itself is refused.
const ACTION: &str = "call_rpc";

/// Answers a POST: one message, one answer.
pub(crate) async fn post(app: &Arc<App>, parts: Parts, mut body: Incoming) -> Answer {
    let Parts { headers, uri, .. } = parts;
    let trail = match door::open_trail(&app.gateway, &headers) {
        Ok(trail) => Arc::new(trail),
        Err(refusal) => return unrecorded(app, &refusal),
    };
    match posted(app, &trail, &headers, &uri, &mut body).await {
        Ok(answer) => answer,
        Err(refusal) => {
            let answer = door::respond(&app.gateway, &trail, &refusal, Dialect::OpenAi);
            let answer = door::leave_unread(&headers, &mut body, answer).await;
            answer.map(AnswerBody::Reply)
        }
    }
}

async fn posted(
    app: &Arc<App>,
    trail: &Arc<Trail>,
    headers: &HeaderMap,
    uri: &Uri,
    body: &mut Incoming,
) -> Result<Answer, Refusal> {
    let origin = app.rpc.origin(headers)?;
    let caller = door::caller(headers, uri)?;
    let known = caller.clone();
    let admission =
        door::admit_call(&app.gateway, trail, known, Purpose::Read, ACTION, CALLERS).await?;
    no_query(uri)?;
    is_json(headers)?;
    let message = message(body).await?;
    let tenant = admission.tenant().uid();
    let session = Arc::new(Session {
        app: Arc::clone(app),
        caller,
        origin: origin.map(str::to_owned),
        meter: Meter::Posts((tenant, admission.token_name().clone())),
        subscriptions: None,
    });
    let told = session.answer(trail, &message).await;
    let (status, text) = match told.text {
        Some(text) => (StatusCode::OK, text),
        // Notifications alone: there is nothing to say.
        None => (StatusCode::NO_CONTENT, String::new()),
    };
    let body = AnswerBody::bytes(text);
    Ok(finished(
        trail.request_id(),
        status,
        "application/json",
        body,
    ))
}

fn refused(app: &App, trail: &Trail, refusal: &Refusal) -> Answer {
    door::respond(&app.gateway, trail, refusal, Dialect::OpenAi).map(AnswerBody::Reply)
}

fn unrecorded(app: &App, refusal: &Refusal) -> Answer {
    door::untraced(&app.gateway, refusal, Dialect::OpenAi).map(AnswerBody::Reply)
}

fn no_query(uri: &Uri) -> Result<(), Refusal> {
    match uri.query() {
        None | Some("") => Ok(()),
        Some(_) => Err(bad_request("/rpc takes no query")),
    }
}

/// A media type that no web page can send without being asked for first, and no compression.
fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let one = types.next().and_then(|value| value.to_str().ok());
    let media = one
        .and_then(|text| text.split(';').next())
        .unwrap_or_default();
    let json = media.trim().eq_ignore_ascii_case("application/json");
    if json && types.next().is_none() && !headers.contains_key(CONTENT_ENCODING) {
        return Ok(());
    }
    Err(Refusal::UnsupportedMedia)
}

/// The body, wiped when it was answered: it may hold a secret.
async fn message(body: &mut Incoming) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut message = Zeroizing::new(Vec::new());
    let read = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                return Err(bad_request("the body broke off"));
            };
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if message.len() + data.len() > RPC_MESSAGE_BYTES_MAX {
                let limit = RPC_MESSAGE_BYTES_MAX;
                return Err(Refusal::TooLarge { limit });
            }
            message.extend_from_slice(data);
        }
        Ok(())
    };
    tokio::time::timeout(BODY_TIME_MAX, read)
        .await
        .unwrap_or(Err(Refusal::BodyTimeout))?;
    Ok(message)
}

/// Answers the opening of a WebSocket; the conversation follows when the answer has left.
pub(crate) async fn open(app: &Arc<App>, mut parts: Parts) -> Answer {
    let trail = match door::open_trail(&app.gateway, &parts.headers) {
        Ok(trail) => trail,
        Err(refusal) => return unrecorded(app, &refusal),
    };
    match socket::open(app, &trail, &mut parts).await {
        Ok(answer) => answer,
        Err(refusal) => refused(app, &trail, &refusal),
    }
}
