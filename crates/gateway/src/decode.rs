//! From the bytes of a body to one call: bounded in size and time, parsed once.

use std::sync::Arc;
use std::time::Duration;

use base::limits;
use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName,
};
use http::{HeaderValue, Response};
use http_body::Body;
use http_body_util::BodyExt;
use kernel::Admission;
use kernel::digest::sha256;
use kernel::share::{Part, Share};
use llm::{Operation, Request};

use crate::checkpoint;
use crate::heavy::HEAVY_BYTES;
use crate::policy::Call;
use crate::refusal::Refusal;
use crate::reply::ReplyBody;
use crate::upstream::{AnthropicBeta, PIECE_BYTES};
use crate::{BODY_PLACE, Gateway};

/// `include` puts the cost of the call into the usage of its answer.
static COST: HeaderName = HeaderName::from_static("x-partywall-cost");
static BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// Reads and parses the body of a call.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::BodyTimeout`], [`Refusal::UnsupportedMedia`], [`Refusal::Overloaded`],
/// [`Refusal::TenantBusy`] and [`Refusal::BadRequest`].
pub(crate) async fn call<B>(
    gw: &Gateway,
    caller: &Admission,
    place: Part,
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
    let read = tokio::time::timeout(
        limits::BODY_TIME_MAX,
        gather(gw, caller.tenant().share(), body, limit),
    );
    let (body, room) = read.await.unwrap_or(Err(Refusal::BodyTimeout))?;
    let is_heavy = body.len > HEAVY_BYTES;
    let read = move || {
        let body = body.whole();
        (sha256(&body), Request::parse(operation, body))
    };
    let (received, request) = if is_heavy {
        Box::pin(gw.heavy().run(caller, read)).await?
    } else {
        read()
    };
    let request = request.map_err(|error| Refusal::BadRequest {
        message: error.message,
        param: error.param,
    })?;
    Ok(Call {
        request,
        received,
        beta: beta(headers)?,
        place: Some(place),
        show_cost: headers.get(&COST).is_some_and(|wish| wish == "include"),
        show_checkpoint: checkpoint::wanted(headers),
        _room: room,
    })
}

type Room = Option<Part>;

/// A body as it came, in blocks: joining those of a large one takes long, and growing one buffer would do it again and again.
#[derive(Default)]
struct Blocks {
    /// What came alone.
    one: Bytes,
    full: Vec<Bytes>,
    last: BytesMut,
    len: usize,
}

impl Blocks {
    fn push(&mut self, chunk: &[u8]) {
        self.last.extend_from_slice(chunk);
        self.len += chunk.len();
        if self.last.len() >= HEAVY_BYTES {
            self.full.push(std::mem::take(&mut self.last).freeze());
        }
    }

    fn of(whole: Bytes) -> Self {
        Self {
            len: whole.len(),
            one: whole,
            ..Self::default()
        }
    }

    fn whole(self) -> Bytes {
        if self.full.is_empty() {
            return if self.last.is_empty() {
                self.one
            } else {
                self.last.freeze()
            };
        }
        let mut all = BytesMut::with_capacity(self.len);
        for block in self.full {
            all.extend_from_slice(&block);
        }
        all.extend_from_slice(&self.last);
        all.freeze()
    }
}

async fn gather<B>(
    gw: &Gateway,
    share: &Arc<Share>,
    mut body: B,
    limit: usize,
) -> Result<(Blocks, Room), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    // Most bodies come in one piece, which is not copied.
    let Some(first) = next_chunk(&mut body, limit, 0).await? else {
        return Ok((Blocks::default(), None));
    };
    let Some(second) = next_chunk(&mut body, limit, first.len()).await? else {
        return Ok((Blocks::of(first), None));
    };
    let mut all = Blocks::default();
    let mut room: Room = None;
    let mut next = Some(first);
    let mut after = Some(second);
    while let Some(chunk) = next {
        let grown = all.len + chunk.len();
        // Bytes are held only while there is place for them.
        let places = grown.div_ceil(BODY_PLACE) - all.len.div_ceil(BODY_PLACE);
        if places > 0 {
            gw.body_room(share, &mut room, places * BODY_PLACE)?;
        }
        all.push(&chunk);
        // Who sends much without a pause does not keep others from theirs.
        if grown / PIECE_BYTES > (grown - chunk.len()) / PIECE_BYTES {
            tokio::task::yield_now().await;
        }
        next = match after.take() {
            Some(chunk) => Some(chunk),
            None => next_chunk(&mut body, limit, all.len).await?,
        };
    }
    Ok((all, room))
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
pub async fn leave_unread<B>(
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
    AnthropicBeta::parse(headers.get_all(&BETA)).map_err(|unknown| Refusal::BadRequest {
        message: unknown.to_string(),
        param: Some("anthropic-beta".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_join_to_what_came() {
        for (pieces, size) in [
            (0, 0),
            (1, 5),
            (7, 100),
            (3, HEAVY_BYTES),
            (500, 1_500),
            (9, 200_000),
        ] {
            let mut blocks = Blocks::default();
            let mut came = Vec::new();
            for piece in 0..pieces {
                let chunk: Vec<u8> = (0..size)
                    .map(|at| ((at * 31 + piece) % 251) as u8)
                    .collect();
                came.extend_from_slice(&chunk);
                blocks.push(&chunk);
            }
            assert_eq!(blocks.len, came.len());
            assert_eq!(blocks.whole(), came, "{pieces} of {size}");
        }
        let one = Blocks::of(Bytes::from_static(b"as it came"));
        assert_eq!((one.len, one.whole().as_ref()), (10, &b"as it came"[..]));
    }
}
