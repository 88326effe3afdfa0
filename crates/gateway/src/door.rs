//! Admission and refusal, for model calls and for every other tenant route alike.

use std::sync::Arc;

use base::{RequestId, Role};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, Uri};
use kernel::log::Field;
use kernel::{Admission, AuditedRefusal, Caller, Purpose, Refused, Trail};
use llm::Dialect;

use crate::Gateway;
pub use crate::decode::leave_unread;
use crate::identify;
use crate::policy;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;
use crate::trace;

/// An admitted request on a route that is not a model call.
pub struct Visit {
    /// Its record.
    pub trail: Trail,
    /// Who acts, in which tenant.
    pub admission: Admission,
}

/// Opens the record, identifies, admits and checks the role: the way in for every tenant route that only reads. A route that
/// changes something needs a way in of its own, with [`Purpose::Act`].
///
/// # Errors
/// The finished answer to the caller.
pub async fn enter(
    gw: &Arc<Gateway>,
    headers: &HeaderMap,
    uri: &Uri,
    dialect: Dialect,
    action: &'static str,
    roles: &'static [Role],
) -> Result<Visit, Response<ReplyBody>> {
    let trail = open_trail(gw, headers).map_err(|refusal| untraced(gw, &refusal, dialect))?;
    match admitted(gw, &trail, headers, uri, action, roles).await {
        Ok(admission) => Ok(Visit { trail, admission }),
        Err(refusal) => Err(respond(gw, &trail, &refusal, dialect)),
    }
}

/// Opens the record of a request.
///
/// # Errors
/// Where nothing can be recorded; the answer is [`untraced`].
pub fn open_trail(gw: &Gateway, headers: &HeaderMap) -> Result<Trail, Refusal> {
    let trail = gw.kernel().open_trail(trace::named(headers));
    trail.map_err(Refusal::from)
}

async fn admitted(
    gw: &Gateway,
    trail: &Trail,
    headers: &HeaderMap,
    uri: &Uri,
    action: &'static str,
    roles: &'static [Role],
) -> Result<Admission, Refusal> {
    let caller = caller(headers, uri)?;
    admit_call(gw, trail, caller, Purpose::Read, action, roles).await
}

/// Who presents a credential for several calls, each of which is admitted by itself with [`admit_call`].
///
/// # Errors
/// As [`identify::presented`].
pub fn caller(headers: &HeaderMap, uri: &Uri) -> Result<Caller, Refusal> {
    let presented = identify::presented(headers, uri)?;
    Ok(Caller::from_token(presented.expose_str()))
}

/// Admits a caller to one call of several. The credential is verified anew: what happened to it or to its tenant since the call
/// before holds for this one.
///
/// # Errors
/// Why it is refused; where its role or a rule is the reason, that is recorded.
pub async fn admit_call(
    gw: &Gateway,
    trail: &Trail,
    caller: Caller,
    purpose: Purpose,
    action: &'static str,
    roles: &'static [Role],
) -> Result<Admission, Refusal> {
    let admission = admit(gw, trail, caller, purpose).await?;
    let refusal = match roles.contains(&admission.role()) {
        true => policy::of_action(&admission, action),
        false => Some(Refusal::Forbidden {
            role: admission.role().as_str(),
        }),
    };
    let Some(refusal) = refusal else {
        return Ok(admission);
    };
    denied(trail, &admission, action, &refusal).await?;
    Err(refusal)
}

/// Verifies a credential: the only door to a tenant's state.
///
/// # Errors
/// Why it is refused.
pub async fn admit(
    gw: &Gateway,
    trail: &Trail,
    caller: Caller,
    purpose: Purpose,
) -> Result<Admission, Refusal> {
    let admission = gw
        .kernel()
        .admit_for(caller, purpose)
        .await
        .map_err(|refused| refusal(&refused))?;
    trail.bind(&admission);
    Ok(admission)
}

/// What a caller is told whose authority ended while its call was under way: what it would be told now.
#[must_use]
pub fn told_now(admission: &Admission) -> Refusal {
    admission
        .refused_now()
        .map_or(Refusal::BadCredential, |refused| refusal(&refused))
}

/// Resolves when the authority ends, with what its caller is told.
pub(crate) async fn end_of(admission: Admission) -> Refusal {
    admission.ended().await;
    told_now(&admission)
}

fn refusal(refused: &Refused) -> Refusal {
    match refused {
        Refused::Unknown => Refusal::BadCredential,
        Refused::Suspended => Refusal::Suspended,
        Refused::Frozen => Refusal::Frozen,
        Refused::Quarantined(_) => Refusal::Quarantined,
        Refused::Unavailable => Refusal::JournalDown,
        Refused::NotOpened => Refusal::Overloaded { retry_after_s: 1 },
        Refused::NoRoom => Refusal::DiskShort,
    }
}

/// Records the refusal of an admitted caller; it may leave when this returns.
///
/// # Errors
/// When it cannot be recorded: then that is what the caller is told.
pub async fn denied(
    trail: &Trail,
    admission: &Admission,
    action: &'static str,
    refusal: &Refusal,
) -> Result<(), Refusal> {
    let code = refusal.code();
    trail
        .refuse(
            admission,
            AuditedRefusal {
                action,
                reason: code,
                rule: refusal.rules().unwrap_or(code),
                quota: refusal.quota_seen(),
            },
        )
        .await
        .map_err(Refusal::from)
}

/// The answer that a refusal becomes, with its line in the log.
#[must_use]
pub fn respond(
    gw: &Gateway,
    trail: &Trail,
    refusal: &Refusal,
    dialect: Dialect,
) -> Response<ReplyBody> {
    log_refusal(gw, trail, refusal);
    refusal
        .response(dialect, trail.request_id())
        .map(ReplyBody::full)
}

/// The line of a refusal in the log.
pub fn log_refusal(gw: &Gateway, trail: &Trail, refusal: &Refusal) {
    let id = trail.request_id();
    if gw.kernel().is_short_of_disk() {
        // What is left is for calls under way: clients that try again must not fill it with lines.
        gw.kernel().count_unlogged_refusal();
        return;
    }
    let fields = [
        ("request_id", Field::Text(id.as_str())),
        ("code", Field::Text(refusal.code())),
        (
            "status",
            Field::Number(u64::from(refusal.status().as_u16())),
        ),
    ];
    gw.kernel()
        .log()
        .event(gw.kernel().now(), trail.tenant(), "refused", &fields);
}

/// The answer where not even a record could be opened.
#[must_use]
pub fn untraced(gw: &Gateway, refusal: &Refusal, dialect: Dialect) -> Response<ReplyBody> {
    let id = gw.kernel().new_request_id();
    refusal.response(dialect, &id).map(ReplyBody::full)
}

/// A JSON answer of ours.
#[must_use]
pub fn json(trail: &Trail, body: Bytes) -> Response<ReplyBody> {
    with_id(trail.request_id(), "application/json", body)
}

/// An answer of ours in any media type.
#[must_use]
pub fn with_id(id: &RequestId, content_type: &'static str, body: Bytes) -> Response<ReplyBody> {
    let mut answer = Response::new(ReplyBody::full(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    answer
}
