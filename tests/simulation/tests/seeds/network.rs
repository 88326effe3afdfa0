//! The network between the gateway and its providers: no sockets, and every byte at the seed's pleasure.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use kernel::egress::{DialError, Dialed, Origin, StagedNetwork, StagedPeer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::plan::Plan;
use crate::provider::{Ask, End, Kind, Script, Truth, script};
use crate::rng::Rng;
use crate::world::{World, rest};

/// What marks the words of a call, followed by its number and an `x`.
pub(crate) const NONCE: &str = "nonce-";

/// A request of which a provider saw at least one byte.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    /// The call that it belongs to.
    pub(crate) call: usize,
    /// The last write to the journal's disk before its first byte.
    pub(crate) journal_write: u64,
    pub(crate) truth: Truth,
    /// Whether a byte of it was taken.
    pub(crate) taken: bool,
    /// Bytes of the answer that were read.
    pub(crate) emitted: usize,
}

impl Sighting {
    /// Whether the answer's end was read by the gateway.
    pub(crate) fn is_over(&self) -> bool {
        self.truth.over_at > 0 && self.emitted >= self.truth.over_at
    }
}

pub(crate) struct Network {
    world: Arc<World>,
    seed: u64,
    gentle: bool,
    miscounts: bool,
    state: Mutex<State>,
}

struct State {
    connects: Rng,
    sightings: Vec<Sighting>,
    open: usize,
}

impl Network {
    pub(crate) fn new(world: &Arc<World>, plan: &Plan) -> Arc<Self> {
        Arc::new(Self {
            world: Arc::clone(world),
            seed: plan.seed,
            gentle: plan.gentle,
            miscounts: plan.miscounts,
            state: Mutex::new(State {
                connects: Rng::new(plan.seed, 10),
                sightings: Vec::new(),
                open: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sightings(&self) -> Vec<Sighting> {
        self.state().sightings.clone()
    }

    /// Connections that are open at the gateway's end.
    pub(crate) fn open(&self) -> usize {
        self.state().open
    }

    /// What a provider does with a request, decided by the call and by how often it was seen before.
    fn meet(&self, ask: &Ask) -> (Option<usize>, Script) {
        let call: usize = ask.nonce[NONCE.len()..ask.nonce.len() - 1].parse().unwrap();
        let journal_write = self.world.with_disk(|disk| disk.writes);
        let mut state = self.state();
        let before = state
            .sightings
            .iter()
            .filter(|seen| seen.call == call)
            .count();
        let mut rng = Rng::new(self.seed, 1_000 + call as u64 * 8 + before as u64);
        let mut script = script(&mut rng, ask, self.gentle);
        if let Some((_, output)) = script.truth.said.as_mut().filter(|_| self.miscounts) {
            *output += 1;
        }
        // What a provider meets after the process has died, it does not meet.
        if self.world.is_dead() {
            return (None, script);
        }
        state.sightings.push(Sighting {
            call,
            journal_write,
            truth: script.truth,
            taken: script.takes != Some(0),
            emitted: 0,
        });
        let place = state.sightings.len() - 1;
        drop(state);
        self.world.note(
            "provider meets",
            call as u64,
            u64::from(script.truth.status),
        );
        (Some(place), script)
    }

    fn emitted(&self, place: Option<usize>, bytes: usize) {
        if let Some(place) = place.filter(|_| !self.world.is_dead()) {
            self.state().sightings[place].emitted += bytes;
            self.world
                .note("provider sends", place as u64, bytes as u64);
        }
    }
}

/// The network as the dialer takes it.
pub(crate) struct Wires(pub(crate) Arc<Network>);

impl StagedNetwork for Wires {
    fn dial<'a>(&'a self, origin: &'a Origin) -> Dialed<'a> {
        let network = Arc::clone(&self.0);
        let kind = if origin.host.contains("anthropic") {
            Kind::Anthropic
        } else {
            Kind::OpenAi
        };
        Box::pin(async move {
            let (fate, wait) = {
                let connects = &mut network.state().connects;
                (connects.below(40), connects.within(0, 30))
            };
            let (fate, wait) = if network.gentle {
                (20, 0)
            } else {
                (fate, wait)
            };
            network.world.note("dial", fate, wait);
            rest(Duration::from_millis(if fate < 30 { wait } else { 0 })).await;
            match fate {
                0 => Err(DialError::Connect),
                1 => pending().await,
                2 => Err(DialError::Tls),
                _ => {
                    let peer: Box<dyn StagedPeer> = Box::new(Peer::new(network, kind, fate == 3));
                    Ok(peer)
                }
            }
        })
    }
}

/// A provider's end of one connection.
struct Peer {
    network: Arc<Network>,
    kind: Kind,
    /// Takes nothing: it closes as soon as it is used.
    closes_at_once: bool,
    /// The request so far.
    request: Vec<u8>,
    met: Option<Met>,
    reader: Option<Waker>,
    sleep: Option<Pin<Box<Sleep>>>,
    broken: bool,
}

struct Met {
    place: Option<usize>,
    takes: Option<usize>,
    complete: bool,
    pieces: VecDeque<(Duration, Vec<u8>)>,
    end: End,
}

impl Peer {
    fn new(network: Arc<Network>, kind: Kind, closes_at_once: bool) -> Self {
        network.state().open += 1;
        Self {
            network,
            kind,
            closes_at_once,
            request: Vec::new(),
            met: None,
            reader: None,
            sleep: None,
            broken: false,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closes_at_once || self.broken {
            self.broken = true;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let before = self.request.len();
        self.request.extend_from_slice(bytes);
        if self.met.is_none()
            && let Some(ask) = ask(self.kind, &self.request)
        {
            let (place, script) = self.network.meet(&ask);
            let Script {
                takes, pieces, end, ..
            } = script;
            self.met = Some(Met {
                place,
                takes,
                complete: false,
                pieces: pieces.into(),
                end,
            });
        }
        let met = self
            .met
            .as_mut()
            .expect("the head and the body of a request come in one write");
        if let Some(takes) = met.takes
            && self.request.len() > takes
        {
            self.broken = true;
            self.wake();
            return match takes.saturating_sub(before) {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                taken => Ok(taken),
            };
        }
        met.complete = is_complete(&self.request);
        if met.complete {
            self.wake();
        }
        Ok(bytes.len())
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.network.state().open -= 1;
    }
}

impl AsyncRead for Peer {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let peer = self.get_mut();
        if peer.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let Some(met) = peer.met.as_mut().filter(|met| met.complete) else {
            peer.reader = Some(cx.waker().clone());
            return Poll::Pending;
        };
        while let Some((wait, bytes)) = met.pieces.front_mut() {
            if !wait.is_zero() {
                let wait = *wait;
                let sleep = peer
                    .sleep
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(wait)));
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                peer.sleep = None;
            }
            *wait = Duration::ZERO;
            let taken = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes[..taken]);
            bytes.drain(..taken);
            if bytes.is_empty() {
                met.pieces.pop_front();
            }
            if taken > 0 {
                peer.network.emitted(met.place, taken);
                return Poll::Ready(Ok(()));
            }
        }
        match met.end {
            End::KeepsOpen => {
                // Ready for the next request.
                peer.met = None;
                peer.request.clear();
                peer.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            End::Closes => Poll::Ready(Ok(())),
            End::Breaks => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            End::Hangs => Poll::Pending,
        }
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write(buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn body_of(request: &[u8]) -> Option<(&[u8], usize)> {
    let head = request.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    Some((&request[head..], length))
}

fn is_complete(request: &[u8]) -> bool {
    body_of(request).is_some_and(|(body, length)| body.len() >= length)
}

/// What a request asks for; `None` while its body is not there.
fn ask(kind: Kind, request: &[u8]) -> Option<Ask> {
    let (body, length) = body_of(request)?;
    let body: serde_json::Value = serde_json::from_slice(body.get(..length)?).unwrap();
    let text = body.to_string();
    let at = text.find(NONCE).unwrap();
    let end = at + text[at..].find('x').unwrap();
    let cap = ["max_tokens", "max_completion_tokens"]
        .iter()
        .find_map(|name| body.get(*name)?.as_u64());
    Some(Ask {
        kind,
        nonce: text[at..=end].to_owned(),
        model: body["model"].as_str().unwrap().to_owned(),
        stream: body["stream"].as_bool().unwrap_or(false),
        embeds: body.get("input").is_some(),
        cap: cap.unwrap_or(1),
    })
}
