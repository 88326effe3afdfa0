//! From the bytes of a body to one call: bounded in size and time, parsed once.

use std::time::Duration;

use base::limits;
use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap};
use http::{HeaderValue, Response};
use http_body::Body;
use http_body_util::BodyExt;
use kernel::digest::sha256;
use llm::{Operation, Request};
use tokio::sync::OwnedSemaphorePermit;

use crate::policy::Call;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;
use crate::upstream::AnthropicBeta;
use crate::{BODY_PLACE, Gateway};

/// Reads and parses the body of a call.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::BodyTimeout`], [`Refusal::UnsupportedMedia`], [`Refusal::Overloaded`] and
/// [`Refusal::BadRequest`].
pub(crate) async fn call<B>(
    gw: &Gateway,
    operation: Operation,
    headers: &HeaderMap,
    body: B,
) -> Result<Call, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    media_type(headers)?;
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let limit = gw.body_limit();
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::TooLarge { limit });
    }
    let read = tokio::time::timeout(limits::BODY_TIME_MAX, gather(gw, body, limit));
    let (body, room) = read.await.unwrap_or(Err(Refusal::BodyTimeout))?;
    let received = sha256(&body);
    let request = Request::parse(operation, body).map_err(|error| Refusal::BadRequest {
        message: error.message,
        param: error.param,
    })?;
    Ok(Call {
        request,
        received,
        beta: beta(headers)?,
        _room: room,
    })
}

type Room = Option<OwnedSemaphorePermit>;

async fn gather<B>(gw: &Gateway, mut body: B, limit: usize) -> Result<(Bytes, Room), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    // Most bodies come in one piece, which is not copied.
    let Some(first) = next_chunk(&mut body, limit, 0).await? else {
        return Ok((Bytes::new(), None));
    };
    let Some(second) = next_chunk(&mut body, limit, first.len()).await? else {
        return Ok((first, None));
    };
    let mut all = BytesMut::new();
    let mut room: Room = None;
    let mut next = Some(first);
    let mut after = Some(second);
    while let Some(chunk) = next {
        let grown = all.len() + chunk.len();
        grow(gw, &mut room, all.len(), grown)?;
        all.extend_from_slice(&chunk);
        next = match after.take() {
            Some(chunk) => Some(chunk),
            None => next_chunk(&mut body, limit, all.len()).await?,
        };
    }
    Ok((all.freeze(), room))
}

/// Takes room for a body as it grows: bytes are held only while the process has place for them.
fn grow(gw: &Gateway, room: &mut Room, from: usize, to: usize) -> Result<(), Refusal> {
    if to.div_ceil(BODY_PLACE) == from.div_ceil(BODY_PLACE) {
        return Ok(());
    }
    let more = (to.div_ceil(BODY_PLACE) - from.div_ceil(BODY_PLACE)) * BODY_PLACE;
    let taken = gw
        .body_room(more)
        .ok_or(Refusal::Overloaded { retry_after_s: 1 })?;
    match room {
        Some(room) => room.merge(taken),
        None => *room = Some(taken),
    }
    Ok(())
}

async fn next_chunk<B>(body: &mut B, limit: usize, have: usize) -> Result<Option<Bytes>, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let broke_off = || Refusal::BadRequest {
        message: "the request body broke off".to_owned(),
        param: None,
    };
    while let Some(frame) = body.frame().await {
        let Ok(chunk) = frame.map_err(|_| broke_off())?.into_data() else {
            continue;
        };
        if have + chunk.len() > limit {
            return Err(Refusal::TooLarge { limit });
        }
        if !chunk.is_empty() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

/// Bytes of a refused request's body that are still read, and how long for: enough for a body that was sent right after its head.
const LEFT_BYTES_MAX: usize = 256 * 1024;
const LEFT_TIME_MAX: Duration = Duration::from_millis(500);

/// A refusal leaves while the body may still be under way. A short rest is read, so that the connection can be used again; past
/// that the answer says that the connection closes.
pub(crate) async fn leave_unread<B>(
    headers: &HeaderMap,
    body: &mut B,
    mut answer: Response<ReplyBody>,
) -> Response<ReplyBody>
where
    B: Body<Data = Bytes> + Unpin,
{
    let rest = async {
        let mut read = 0;
        loop {
            match next_chunk(body, LEFT_BYTES_MAX, read).await {
                Ok(Some(chunk)) => read += chunk.len(),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    // A client that waits to be asked for its body is not asked.
    let at_end = !headers.contains_key(EXPECT)
        && tokio::time::timeout(LEFT_TIME_MAX, rest)
            .await
            .unwrap_or(false);
    if !at_end {
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// JSON, or nothing said: `curl -d` says a form, and is told so.
fn media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::UnsupportedMedia);
    }
    let json = |value: &HeaderValue| {
        let essence = value
            .to_str()
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        essence.eq_ignore_ascii_case("application/json")
    };
    match headers.get(CONTENT_TYPE) {
        Some(value) if !json(value) => Err(Refusal::UnsupportedMedia),
        _ => Ok(()),
    }
}

fn beta(headers: &HeaderMap) -> Result<Option<AnthropicBeta>, Refusal> {
    AnthropicBeta::parse(headers.get_all("anthropic-beta")).map_err(|unknown| Refusal::BadRequest {
        message: unknown.to_string(),
        param: Some("anthropic-beta".to_owned()),
    })
}
