//! From the bytes of a body to one call: bounded in size and time, parsed once.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http_body::Body;
use http_body_util::BodyExt;
use kernel::digest::sha256;
use llm::{Operation, Request};

use crate::policy::Call;
use crate::refusal::Refusal;
use crate::upstream::AnthropicBeta;

/// Reads and parses the body of a call.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::BodyTimeout`], [`Refusal::UnsupportedMedia`] and [`Refusal::BadRequest`].
pub(crate) async fn call<B>(
    operation: Operation,
    headers: &HeaderMap,
    body: B,
    limit: usize,
) -> Result<Call, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    media_type(headers)?;
    let body = bytes(headers, body, limit).await?;
    let received = sha256(&body);
    let request = Request::parse(operation, body).map_err(|error| Refusal::BadRequest {
        message: error.message,
        param: error.param,
    })?;
    Ok(Call {
        request,
        received,
        beta: beta(headers)?,
    })
}

/// Reads a whole body under the size limit and the deadline for bodies.
///
/// # Errors
/// [`Refusal::TooLarge`] as soon as the limit is passed, [`Refusal::BodyTimeout`], or [`Refusal::BadRequest`] when it broke off.
pub(crate) async fn bytes<B>(headers: &HeaderMap, body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(Refusal::TooLarge { limit });
    }
    tokio::time::timeout(base::limits::BODY_TIME_MAX, gather(body, limit))
        .await
        .unwrap_or(Err(Refusal::BodyTimeout))
}

async fn gather<B>(mut body: B, limit: usize) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    // Most bodies come in one piece, which is not copied.
    let Some(first) = next_chunk(&mut body, limit, 0).await? else {
        return Ok(Bytes::new());
    };
    let Some(second) = next_chunk(&mut body, limit, first.len()).await? else {
        return Ok(first);
    };
    let mut all = BytesMut::with_capacity((2 * (first.len() + second.len())).min(limit));
    all.extend_from_slice(&first);
    all.extend_from_slice(&second);
    while let Some(chunk) = next_chunk(&mut body, limit, all.len()).await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
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

/// JSON, or nothing said: `curl -d` says a form, and is told so.
fn media_type(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        return Err(Refusal::UnsupportedMedia);
    }
    let json = |value: &http::HeaderValue| {
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
