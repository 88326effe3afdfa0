//! Clients: what they send, how they read, when they leave, and what they saw.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use gateway::Gateway;
use gateway::pipeline::{self, Inbound};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use llm::Operation;
use tokio::time::Sleep;

use crate::network::NONCE;
use crate::plan::{CallPlan, Leaves, Speaks, Wrong};
use crate::world::{World, rest};

/// An answer as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) request_id: String,
    pub(crate) body: Vec<u8>,
    /// The body came to its proper end.
    pub(crate) clean: bool,
    /// When the call began.
    pub(crate) began: u64,
}

/// What became of a call.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    /// `None`: the client left.
    pub(crate) seen: Option<Seen>,
    pub(crate) polls: u32,
}

pub(crate) fn nonce(call: usize) -> String {
    format!("{NONCE}{call:04}x")
}

/// The request's body as text.
fn body_text(plan: &CallPlan, call: usize) -> String {
    let model = if plan.wrong == Wrong::Model {
        "omega"
    } else {
        plan.model
    };
    let most = match (plan.wrong, plan.max_tokens) {
        (Wrong::TooDear, _) => r#","max_tokens":500000000"#.to_owned(),
        (_, Some(most)) => format!(r#","max_tokens":{most}"#),
        (_, None) => String::new(),
    };
    let stream = if plan.stream { r#","stream":true"# } else { "" };
    let says = nonce(call);
    let text = match plan.speaks {
        Speaks::Embeddings => format!(r#"{{"model":"{model}","input":"{says}"}}"#),
        Speaks::Chat | Speaks::Messages => {
            format!(
                r#"{{"model":"{model}","messages":[{{"role":"user","content":"{says}"}}]{most}{stream}}}"#
            )
        }
    };
    if plan.wrong == Wrong::Body {
        return text.replace('}', "]");
    }
    text
}

/// A request's body that comes in pieces.
struct Upload {
    pieces: VecDeque<(u64, Bytes)>,
    breaks: bool,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    fn new(plan: &CallPlan, text: String) -> Self {
        let bytes = Bytes::from(text);
        let count = plan.uploads.len();
        let piece = |index: usize| {
            bytes.slice(bytes.len() * index / count..bytes.len() * (index + 1) / count)
        };
        let waits = plan.uploads.iter().enumerate();
        Self {
            pieces: waits.map(|(index, wait)| (*wait, piece(index))).collect(),
            breaks: plan.upload_breaks,
            sleep: None,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let upload = self.get_mut();
        let Some((wait, _)) = upload.pieces.front() else {
            let broken = || Err(std::io::ErrorKind::ConnectionReset.into());
            return Poll::Ready(std::mem::take(&mut upload.breaks).then(broken));
        };
        if *wait > 0 {
            let wait = Duration::from_millis(*wait);
            let sleep = upload
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            upload.sleep = None;
        }
        let piece = upload.pieces.pop_front();
        Poll::Ready(piece.map(|(_, bytes)| Ok(Frame::data(bytes))))
    }
}

/// One call, from its first poll to the last byte of its answer.
pub(crate) async fn call(
    gw: Arc<Gateway>,
    world: Arc<World>,
    plan: CallPlan,
    number: usize,
    token: String,
) -> Seen {
    let began = world.moment();
    let mut headers = HeaderMap::new();
    let token = if plan.wrong == Wrong::Token {
        "pw-acme-wrong".to_owned()
    } else {
        token
    };
    headers.insert(
        AUTHORIZATION,
        HeaderValue::try_from(format!("Bearer {token}")).unwrap(),
    );
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (wanted, name) in [
        (plan.wants_cost, "x-partywall-cost"),
        (plan.wants_checkpoint, "x-partywall-checkpoint"),
    ] {
        if wanted {
            headers.insert(name, HeaderValue::from_static("include"));
        }
    }
    let operation = match plan.speaks {
        Speaks::Chat => Operation::ChatCompletions,
        Speaks::Messages => Operation::Messages,
        Speaks::Embeddings => Operation::Embeddings,
    };
    let body = Upload::new(&plan, body_text(&plan, number));
    let inbound = Inbound {
        caller: None,
        operation,
        headers,
        uri: http::Uri::from_static("/"),
        body,
    };
    let answer = pipeline::serve(&gw, inbound).await;
    let (parts, mut body) = answer.into_parts();
    world.note(
        "client reads a head",
        number as u64,
        u64::from(parts.status.as_u16()),
    );
    let id = parts
        .headers
        .get("x-request-id")
        .map(|id| id.to_str().unwrap().to_owned());
    let mut seen = Seen {
        status: parts.status.as_u16(),
        request_id: id.unwrap_or_default(),
        body: Vec::new(),
        clean: false,
        began,
    };
    loop {
        rest(Duration::from_millis(plan.reads_slowly)).await;
        match body.frame().await {
            Some(Ok(frame)) => {
                let bytes = frame.into_data().unwrap_or_default();
                world.note("client reads", number as u64, bytes.len() as u64);
                seen.body.extend_from_slice(&bytes);
            }
            Some(Err(_)) => break,
            None => {
                seen.clean = true;
                break;
            }
        }
    }
    world.note("client is done", number as u64, u64::from(seen.clean));
    seen
}

/// A client that may leave: its future is dropped at one of its awaits.
pub(crate) struct Client<F> {
    work: Option<Pin<Box<F>>>,
    leaves: Option<Leaves>,
    polls: u32,
    number: usize,
    world: Arc<World>,
    look: Arc<dyn Fn() + Send + Sync>,
}

impl<F: Future<Output = Seen>> Client<F> {
    /// `look` is called after each poll.
    pub(crate) fn new(
        work: F,
        leaves: Option<Leaves>,
        number: usize,
        world: &Arc<World>,
        look: &Arc<dyn Fn() + Send + Sync>,
    ) -> Self {
        Self {
            work: Some(Box::pin(work)),
            leaves,
            polls: 0,
            number,
            world: Arc::clone(world),
            look: Arc::clone(look),
        }
    }

    fn leave(&mut self) -> Poll<Fate> {
        self.world
            .note("client leaves", self.number as u64, u64::from(self.polls));
        self.world.set_current(Some(self.number));
        self.work = None;
        self.world.set_current(None);
        (self.look)();
        Poll::Ready(Fate {
            seen: None,
            polls: self.polls,
        })
    }
}

impl<F: Future<Output = Seen>> Future for Client<F> {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fate> {
        let client = self.get_mut();
        let due = |client: &Self| client.leaves.filter(|leaves| client.polls >= leaves.polls);
        if due(client).is_some() {
            return client.leave();
        }
        client.polls += 1;
        client.world.set_current(Some(client.number));
        let polled = client.work.as_mut().map(|work| work.as_mut().poll(cx));
        client.world.set_current(None);
        (client.look)();
        match polled {
            Some(Poll::Ready(seen)) => {
                client.work = None;
                Poll::Ready(Fate {
                    seen: Some(seen),
                    polls: client.polls,
                })
            }
            _ if due(client).is_some_and(|leaves| !leaves.when_woken) => client.leave(),
            _ => Poll::Pending,
        }
    }
}
