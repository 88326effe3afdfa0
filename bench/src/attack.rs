//! The attacker: one kind of load at a set rate, for some seconds, against whatever takes it. It judges no answer, it counts them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::Connection;
use crate::process;
use crate::scenario::{self, BODY_BYTES, MODEL, PACE_MARK, SLOW_PACE};

/// Flags of `bench attack`.
#[derive(Args)]
pub(crate) struct Flags {
    /// Who takes the load
    #[arg(long)]
    target: SocketAddr,
    /// The attacker's token
    #[arg(long)]
    token: String,
    /// What is sent
    #[arg(long)]
    shape: Shape,
    /// Requests per second; 0 sends as fast as the connections allow
    #[arg(long)]
    rate: f64,
    /// Connections
    #[arg(long)]
    connections: usize,
    /// How long
    #[arg(long)]
    seconds: f64,
    /// Where the counts are written at the end
    #[arg(long)]
    out: PathBuf,
}

/// A kind of attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Plain calls like the victim's.
    Plain,
    /// Calls with bodies of 30 MB.
    Bodies,
    /// Streams that stay open.
    Streams,
    /// Calls for a model that is not there.
    Refusals,
}

impl Shape {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Bodies, Self::Streams, Self::Refusals];

    /// The name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Bodies => "bodies",
            Self::Streams => "streams",
            Self::Refusals => "refusals",
        }
    }

    fn request(self, token: &str) -> Vec<u8> {
        let plain = |model| scenario::request(token, model, BODY_BYTES, "", "");
        match self {
            Self::Plain => plain(MODEL),
            Self::Refusals => plain("no-such-model"),
            Self::Bodies => scenario::request(token, MODEL, BODY_OF_30_MB, "", ""),
            Self::Streams => {
                let pace = format!("{PACE_MARK}{}ms ", SLOW_PACE.as_millis());
                let tail = r#","stream":true,"stream_options":{"include_usage":true}"#;
                scenario::request(token, MODEL, BODY_BYTES, &pace, tail)
            }
        }
    }
}

/// What the attacker saw.
#[derive(Default, Clone, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Requests that were sent: more than the answers where streams were still open at the end.
    pub(crate) sent: u64,
    /// Answers by status.
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// Exchanges that broke: connections refused, closed or reset.
    pub(crate) broken: u64,
    /// Seconds that the load lasted.
    pub(crate) seconds: f64,
}

impl Counts {
    /// Requests per second.
    pub(crate) fn per_second(&self) -> f64 {
        self.sent as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

const BODY_OF_30_MB: usize = 30_000_000;
/// After a broken exchange, so that a server that refuses connections is not called in a tight loop.
const BREAK_PAUSE: Duration = Duration::from_millis(20);
/// Connections are opened with this many at once, so that no backlog overflows.
const CONNECT_BATCH: usize = 64;

/// Runs the attack to its end.
pub(crate) async fn run(flags: Flags) -> Result<()> {
    process::raise_descriptor_limit()?;
    crate::announce(flags.target)?;
    let out = flags.out.clone();
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(flags.seconds);
    let shared = Rc::new(Shared {
        request: flags.shape.request(&flags.token),
        pace: (flags.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / flags.rate)),
        next: RefCell::new(began),
        counts: RefCell::default(),
        flags,
    });
    let mut workers = JoinSet::new();
    for worker in 0..shared.flags.connections {
        let shared = Rc::clone(&shared);
        // What is still under way at the end is cut off, as an attacker does.
        workers.spawn_local(async move {
            let _cut = tokio::time::timeout_at(end, work(&shared)).await;
        });
        if worker % CONNECT_BATCH == CONNECT_BATCH - 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    while workers.join_next().await.is_some() {}
    let mut counts = shared.counts.borrow().clone();
    counts.seconds = began.elapsed().as_secs_f64();
    let text = serde_json::to_string(&counts).context("the counts are not JSON")?;
    process::write(&out, &text)
}

struct Shared {
    flags: Flags,
    request: Vec<u8>,
    /// Between two requests, over all connections.
    pace: Option<Duration>,
    next: RefCell<Instant>,
    counts: RefCell<Counts>,
}

async fn work(shared: &Shared) {
    let mut open: Option<Connection> = None;
    loop {
        if let Some(pace) = shared.pace {
            let at = {
                let mut next = shared.next.borrow_mut();
                let at = *next;
                *next += pace;
                at
            };
            tokio::time::sleep_until(at).await;
        }
        shared.counts.borrow_mut().sent += 1;
        match exchange(shared, &mut open).await {
            Ok(status) => {
                let mut counts = shared.counts.borrow_mut();
                *counts.by_status.entry(status).or_default() += 1;
            }
            Err(_) => {
                open = None;
                shared.counts.borrow_mut().broken += 1;
                tokio::time::sleep(BREAK_PAUSE).await;
            }
        }
    }
}

async fn exchange(shared: &Shared, open: &mut Option<Connection>) -> Result<u16> {
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(shared.flags.target).await?),
    };
    connection.status(&shared.request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_of_their_shape() {
        let body = |shape: Shape| {
            let request = shape.request("tk");
            let at = memchr::memmem::find(&request, b"\r\n\r\n").unwrap() + 4;
            request[at..].to_vec()
        };
        assert_eq!(body(Shape::Bodies).len(), 30_000_000);
        for shape in [Shape::Plain, Shape::Streams, Shape::Refusals] {
            let body: serde_json::Value = serde_json::from_slice(&body(shape)).unwrap();
            assert_eq!(body["stream"] == true, shape == Shape::Streams);
            assert_eq!(body["model"] == MODEL, shape != Shape::Refusals);
        }
    }

    #[test]
    fn rates_count_everything() {
        let counts = Counts {
            sent: 40,
            by_status: [(200, 30), (503, 8)].into(),
            broken: 2,
            seconds: 4.0,
        };
        assert!((counts.per_second() - 10.0).abs() < 1e-9);
    }
}
