//! A WebSocket: opened with a credential or a ticket, held while the credential holds, cut with a reason.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::limits::{
    RPC_CALLS_BURST, RPC_CALLS_PER_SECOND, RPC_FRAMES_BURST, RPC_FRAMES_PER_SECOND,
    RPC_MESSAGE_BYTES_MAX, RPC_PING_EVERY, RPC_SILENCE_MAX,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use gateway::door;
use gateway::refusal::Refusal;
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use kernel::log::Field;
use kernel::{Admission, Caller, Purpose, Trail};
use rpc::method::{SUBPROTOCOL, TICKET_PROTOCOL};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::desk::Place;
use super::follow::{follows, pump};
use super::line::{LAST_WORDS, Line, write};
use super::rate::Rate;
use super::session::{Meter, Session};
use super::{ACTION, CALLERS, no_query};
use crate::body::AnswerBody;
use crate::dispatch::{Answer, App, bad_request};

/// Between two looks for new entries of the log.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// A client that was too slow may take so long to take the reason.
const SLOW_FAREWELL: Duration = Duration::from_secs(2);

/// What follows when the answer to an opening has left the connection.
pub(crate) type Conversation = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Carries a [`Conversation`] from the answer to the connection.
#[derive(Clone)]
pub(crate) struct Later(Arc<Mutex<Option<Conversation>>>);

impl Later {
    /// The conversation, once.
    pub(crate) fn take(&self) -> Option<Conversation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Why a socket ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// The client left.
    Gone,
    /// The credential ended: revoked, rotated, expired, its tenant suspended or deleted.
    Ended,
    /// The gateway stops.
    Draining,
    /// The client does not take what it asked for.
    Slow,
    /// More frames than anybody needs.
    Flood,
    /// Not even a pong for too long.
    Silent,
    /// A message above the limit.
    TooLarge,
    /// Binary.
    NotText,
    /// Text that is no UTF-8.
    NotUtf8,
    /// Not a WebSocket's bytes.
    Protocol,
    /// The tenant or the gateway is out of service.
    Unavailable,
}

impl Cut {
    /// Code and reason of the close frame. From 4000 on they are ours.
    fn frame(self) -> (u16, &'static str) {
        match self {
            Self::Gone => (1000, ""),
            Self::Ended => (4401, "credential_ended"),
            Self::Draining => (1012, "shutting_down"),
            Self::Slow => (4408, "slow_consumer"),
            Self::Flood => (4429, "too_many_frames"),
            Self::Silent => (4410, "silent"),
            Self::TooLarge => (1009, "message_too_large"),
            Self::NotText => (1003, "text_only"),
            Self::NotUtf8 => (1007, "not_utf8"),
            Self::Protocol => (1002, "protocol_error"),
            Self::Unavailable => (1011, "unavailable"),
        }
    }
}

/// Checks an opening and answers it; the conversation goes with the answer.
pub(super) async fn open(
    app: &Arc<App>,
    trail: &Trail,
    parts: &mut Parts,
) -> Result<Answer, Refusal> {
    let headers = &parts.headers;
    let origin = app.rpc.origin(headers)?.map(str::to_owned);
    let caller = caller(app, headers, &parts.uri, origin.as_deref())?;
    let known = caller.clone();
    let admission =
        door::admit_call(&app.gateway, trail, known, Purpose::Read, ACTION, CALLERS).await?;
    no_query(&parts.uri)?;
    let accept = accept(headers)?;
    let speaks = offered(headers).any(|offer| offer == SUBPROTOCOL);
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let upgrade = upgrade.ok_or_else(|| bad_request("a WebSocket is opened over HTTP/1.1"))?;
    let token = (admission.tenant().uid(), admission.token_name().clone());
    let place = app.rpc.socket(token).ok_or(Refusal::TenantBusy {
        what: "open WebSockets",
        retry_after_s: 1,
    })?;
    let calls = Rate::new(RPC_CALLS_PER_SECOND, RPC_CALLS_BURST, Instant::now());
    let session = Arc::new(Session {
        app: Arc::clone(app),
        caller,
        origin,
        meter: Meter::Socket(Mutex::new(calls)),
        subscriptions: Some(Mutex::default()),
    });
    let conversation: Conversation = Box::pin(hold(session, admission, upgrade, place));
    let mut answer = Response::new(AnswerBody::bytes(""));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    out.insert(UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if speaks {
        out.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
    }
    if let Ok(id) = HeaderValue::from_str(trail.request_id().as_str()) {
        out.insert(HeaderName::from_static("x-request-id"), id);
    }
    let later = Later(Arc::new(Mutex::new(Some(conversation))));
    answer.extensions_mut().insert(later);
    Ok(answer)
}

/// Who opens the socket: by the headers of every route, or by a ticket, which a page of its own origin presents.
fn caller(
    app: &App,
    headers: &HeaderMap,
    uri: &http::Uri,
    origin: Option<&str>,
) -> Result<Caller, Refusal> {
    let mut tickets = offered(headers).filter_map(|offer| offer.strip_prefix(TICKET_PROTOCOL));
    let Some(ticket) = tickets.next() else {
        return door::caller(headers, uri);
    };
    match door::caller(headers, uri) {
        Ok(_) => return Err(Refusal::AmbiguousCredential),
        Err(Refusal::NoCredential) => {}
        Err(refusal) => return Err(refusal),
    }
    if tickets.next().is_some() {
        return Err(Refusal::AmbiguousCredential);
    }
    // Without an origin it is used up all the same: it has been shown to somebody who is no page.
    let now = app.gateway.kernel().now();
    let caller = app
        .rpc
        .tickets
        .redeem(ticket, origin.unwrap_or_default(), now);
    caller.ok_or(Refusal::BadCredential)
}

fn offered(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let texts = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let texts = texts.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(str::trim)
}

/// The answer to the client's key, where the request is an opening (RFC 6455, section 4.2.1).
fn accept(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let says = |name: &HeaderName, word: &str| {
        let texts = headers
            .get_all(name)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        texts
            .flat_map(|text| text.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let key = keys
        .next()
        .filter(|_| keys.next().is_none())
        .map(HeaderValue::as_bytes);
    let key = key.filter(|key| STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16));
    let version = headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_some_and(|version| version == "13");
    match key {
        Some(key) if version && says(&CONNECTION, "upgrade") && says(&UPGRADE, "websocket") => {
            accept_value(key).ok_or(Refusal::Internal)
        }
        _ => Err(bad_request(
            "GET /rpc opens a WebSocket, version 13; without one, POST a message",
        )),
    }
}

fn accept_value(key: &[u8]) -> Option<HeaderValue> {
    /// Of the protocol itself: RFC 6455, section 1.3.
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let digest = kernel::digest::sha1_of_handshake(&[key, GUID].concat());
    HeaderValue::try_from(STANDARD.encode(digest)).ok()
}

type Frames = SplitStream<WebSocketStream<TokioIo<Upgraded>>>;

/// Holds the socket to its end.
async fn hold(session: Arc<Session>, admission: Admission, upgrade: OnUpgrade, place: Place) {
    let Ok(io) = upgrade.await else {
        return;
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(RPC_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(RPC_MESSAGE_BYTES_MAX));
    let io = TokioIo::new(io);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, frames) = socket.split();
    let (line, waiting) = Line::new();
    let (cutting, gone) = (CancellationToken::new(), CancellationToken::new());
    let mut talk = Talk {
        session: &session,
        admission: &admission,
        line,
        frames,
        work: tokio::sync::Mutex::new(()),
    };
    let writer = async {
        let cut = write(&mut sink, waiting, &cutting).await;
        gone.cancel();
        cut
    };
    let speaker = async {
        let cut = talk.until_cut(&gone).await;
        cutting.cancel();
        cut
    };
    let (slow, cut) = tokio::join!(writer, speaker);
    let cut = slow.unwrap_or(cut);
    let (code, reason) = cut.frame();
    if cut != Cut::Gone {
        log(&session.app, &admission, reason);
        let patience = if cut == Cut::Slow {
            SLOW_FAREWELL
        } else {
            LAST_WORDS
        };
        let frame = CloseFrame {
            code: CloseCode::from(code),
            reason: reason.into(),
        };
        // A client that does not take the reason either goes without it.
        let _untold = timeout(patience, sink.send(Message::Close(Some(frame)))).await;
    }
    // Its last bytes are read: a socket that is closed on unread bytes takes back what was sent.
    let rest = async { while let Some(Ok(_)) = talk.frames.next().await {} };
    let _still_talking = timeout(LAST_WORDS, rest).await;
    drop(place);
}

fn log(app: &App, admission: &Admission, reason: &str) {
    let kernel = app.gateway.kernel();
    let token = Field::Text(admission.token_name().as_str());
    let fields = [("reason", Field::Text(reason)), ("token", token)];
    let tenant = Some(admission.tenant().id());
    kernel
        .log()
        .event(kernel.now(), tenant, "rpc socket cut", &fields);
}

/// One socket's conversation.
struct Talk<'a> {
    session: &'a Arc<Session>,
    /// Of the opening: its end is the socket's. Calls have admissions of their own.
    admission: &'a Admission,
    line: Line,
    frames: Frames,
    /// Held while a message is answered, so that the answer which shows a rotated token is not lost with the old one.
    work: tokio::sync::Mutex<()>,
}

impl Talk<'_> {
    async fn until_cut(&mut self, gone: &CancellationToken) -> Cut {
        let (session, admission) = (self.session, self.admission);
        let Self {
            line, frames, work, ..
        } = self;
        let work = &*work;
        // What is being answered is waited for, a little.
        let ended = async {
            admission.ended().await;
            let _may_not_end_in_time = timeout(LAST_WORDS, work.lock()).await;
        };
        let draining = async {
            session.app.draining.cancelled().await;
            let _may_not_end_in_time = timeout(LAST_WORDS, work.lock()).await;
        };
        tokio::select! {
            biased;
            () = ended => Cut::Ended,
            () = draining => Cut::Draining,
            () = gone.cancelled() => Cut::Gone,
            cut = converse(session, admission, line, frames, work) => cut,
        }
    }
}

async fn converse(
    session: &Arc<Session>,
    admission: &Admission,
    line: &Line,
    frames: &mut Frames,
    work: &tokio::sync::Mutex<()>,
) -> Cut {
    let start = Instant::now();
    let mut rate = Rate::new(RPC_FRAMES_PER_SECOND, RPC_FRAMES_BURST, start);
    let mut heard = start;
    let mut look = interval_at(start + FOLLOW_EVERY, FOLLOW_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ping = interval_at(start + RPC_PING_EVERY, RPC_PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            frame = frames.next() => {
                heard = Instant::now();
                let _answering = work.lock().await;
                if rate.take(heard).is_err() {
                    return Cut::Flood;
                }
                taken(session, line, frame).await
            }
            () = session.app.agents.news(admission.tenant().uid()), if follows(session) => {
                pump(session, admission, line).await
            }
            _ = look.tick(), if follows(session) => pump(session, admission, line).await,
            _ = ping.tick() => {
                if heard.elapsed() > RPC_SILENCE_MAX {
                    return Cut::Silent;
                }
                line.send(Message::Ping(Bytes::new()), false).await
            }
        };
        if let Err(cut) = done {
            return cut;
        }
    }
}

async fn taken(
    session: &Arc<Session>,
    line: &Line,
    frame: Option<Result<Message, Error>>,
) -> Result<(), Cut> {
    match frame {
        Some(Ok(Message::Text(text))) => {
            let trail = session.app.gateway.kernel().open_trail(None);
            let trail = Arc::new(trail.map_err(|_| Cut::Unavailable)?);
            let told = session.answer(&trail, text.as_bytes()).await;
            match told.text {
                Some(text) => line.send(Message::text(text), told.lasting).await,
                None => Ok(()),
            }
        }
        Some(Ok(Message::Binary(_))) => Err(Cut::NotText),
        // Pings are answered by the library.
        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
        Some(Ok(Message::Close(_))) | None => Err(Cut::Gone),
        Some(Err(Error::Capacity(_))) => Err(Cut::TooLarge),
        Some(Err(Error::Utf8(_))) => Err(Cut::NotUtf8),
        Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => Err(Cut::Gone),
        Some(Err(Error::Protocol(_))) => Err(Cut::Protocol),
        Some(Err(_)) => Err(Cut::Gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_key_is_that_of_the_rfc() {
        let answer = accept_value(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(answer, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn only_a_whole_opening_is_one() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = |changed: &str, value: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            for (name, right) in whole {
                let value = if name == changed { value } else { Some(right) };
                if let Some(value) = value {
                    headers.append(name, HeaderValue::from_static(value));
                }
            }
            headers
        };
        assert!(accept(&headers("", None)).is_ok());
        for (name, wrong) in [
            ("connection", "close"),
            ("upgrade", "h2c"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-key", "short"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==x"),
        ] {
            assert!(
                accept(&headers(name, Some(wrong))).is_err(),
                "{name}: {wrong}"
            );
            assert!(accept(&headers(name, None)).is_err(), "no {name}");
        }
        let mut twice = headers("", None);
        twice.append(
            "sec-websocket-key",
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        assert!(accept(&twice).is_err());
    }

    #[test]
    fn each_reason_has_its_code() {
        let all = [
            Cut::Gone,
            Cut::Ended,
            Cut::Draining,
            Cut::Slow,
            Cut::Flood,
            Cut::Silent,
            Cut::TooLarge,
            Cut::NotText,
            Cut::NotUtf8,
            Cut::Protocol,
            Cut::Unavailable,
        ];
        let codes: std::collections::BTreeSet<_> = all.iter().map(|cut| cut.frame().0).collect();
        assert_eq!(codes.len(), all.len());
        // What a close frame may hold: RFC 6455, section 7.4.
        let allowed = |code: &u16| CloseCode::from(*code).is_allowed();
        assert!(codes.iter().all(allowed), "{codes:?}");
    }
}
