//! What one tenant's load does to another's calls: a victim's latency while an attacker drives the same gateway, against its latency
//! while the same attacker drives a sink, another process on the same core that takes the load and is not the gateway.
//!
//! The sink passes what a provider would answer on to the same mock upstream, as the gateway does (it is the floor of `bench run`), and
//! swallows what the gateway refuses. Otherwise the core of the load would have less to do in the baseline, and what the machine lacks
//! would be laid at the gateway's door.
//!
//! Rounds alternate between the two. The victim calls at a set rate and its latency counts from the moment at which a call was due,
//! so that a call that had to wait for another counts its wait.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attack::{Counts, Shape};
use crate::gateway::{self, Upstream};
use crate::load::Connection;
use crate::process::{self, Process};
use crate::report::say;
use crate::scenario::{self, BODY_BYTES, Kind, MODEL};

/// Flags of `bench neighbour`.
#[derive(Args)]
pub(crate) struct Flags {
    /// One short round of each shape, to see that all works
    #[arg(long)]
    quick: bool,
    /// Only these shapes (repeatable)
    #[arg(long)]
    shape: Vec<Shape>,
    /// Victim's requests per round
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Victim's requests per second
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// The attacker's rate over the victim's, for plain calls and refusals
    #[arg(long, default_value_t = 100.0)]
    factor: f64,
    /// Bodies of 30 MB per second: a hundred times the victim's rate would be more than a machine can carry
    #[arg(long, default_value_t = 10.0)]
    bodies: f64,
    /// Streams that the attacker keeps open
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Rounds per shape and side
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// The gateway's binary
    #[arg(long, default_value = "target/release/partywall")]
    gateway: PathBuf,
    /// Folder for the gateway's data (a real disk: the journal is synced there)
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Core of the gateway and of the sink
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the mock upstream, the attacker and the victim
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Write all figures here
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Who takes the attacker's load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Sink,
    Gateway,
}

/// One round.
#[derive(Serialize)]
struct Round {
    shape: Shape,
    side: Side,
    repeat: usize,
    requests: u64,
    errors: u64,
    first_error: Option<String>,
    p50_us: u64,
    p99_us: u64,
    max_us: u64,
    attack: Counts,
}

/// Everything that one run measured.
#[derive(Serialize)]
struct Report {
    machine: String,
    requests: u64,
    rate: f64,
    repeats: usize,
    rounds: Vec<Round>,
}

/// The aim: the victim's p99 beside the attacker over its p99 without.
const AIM: f64 = 1.2;
/// The attack runs for this long before the victim is measured.
const WARMUP: Duration = Duration::from_secs(2);
/// Between two rounds: streams are closed, records folded.
const REST: Duration = Duration::from_secs(2);
/// The victim's connections: more than ever wait at once in a healthy round.
const VICTIM_CONNECTIONS: usize = 64;
/// Connections of an attacker that sends calls, and of one that sends bodies.
const CALL_CONNECTIONS: usize = 256;
const BODY_CONNECTIONS: usize = 16;
/// An answer slower than this is an error.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Runs the measurement; an error when a call of the victim failed.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    ensure!(
        flags.gateway.is_file(),
        "{} is missing; build it: cargo build --release -p partywall",
        flags.gateway.display()
    );
    ensure!(
        flags.rate > 0.0 && flags.requests > 0 && flags.repeats > 0,
        "--rate, --requests and --repeats must be above 0"
    );
    process::raise_descriptor_limit()?;
    process::pin_self(flags.load_core)?;
    let folder = process::fresh_folder(&flags.folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, measure(flags, &folder));
    if outcome.is_ok() {
        process::remove_folder(&folder)?;
    }
    let report = outcome.with_context(|| format!("logs are in {}", folder.display()))?;
    say(&report.table())?;
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        process::write(path, &text)?;
    }
    report.verdict()
}

async fn measure(flags: &Flags, folder: &Path) -> Result<Report> {
    let any = ["mock", "--listen", "127.0.0.1:0"];
    let (_mock, mock) = Process::start_self(flags.load_core, &any)?;
    let (_swallows, swallows) = Process::start_self(flags.core, &any)?;
    let upstream = mock.to_string();
    let (_passes_on, passes_on) =
        Process::start_self(flags.core, &["floor", "--upstream", &upstream])?;
    let (core, upstream) = (Some(flags.core), Upstream::mock(mock));
    let gateway = gateway::start(&flags.gateway, folder, core, 2, upstream).await?;
    let [victim, attacker] = gateway.tokens.as_slice() else {
        bail!("two tenants were asked for");
    };
    let (requests, repeats) = if flags.quick {
        (flags.requests.min(500), 1)
    } else {
        (flags.requests, flags.repeats)
    };
    let shapes = if flags.shape.is_empty() {
        Shape::ALL.to_vec()
    } else {
        flags.shape.clone()
    };
    let site = Site {
        flags,
        requests,
        gateway: gateway.addr,
        swallows,
        passes_on,
        victim: scenario::request(victim, MODEL, BODY_BYTES, "", ""),
        attacker,
        counts: folder.join("attack.json"),
    };
    let mut rounds = Vec::new();
    for shape in shapes {
        for repeat in 0..repeats {
            // The order changes, so that neither side always comes first.
            let mut sides = [Side::Sink, Side::Gateway];
            sides.rotate_left(repeat % 2);
            for side in sides {
                let (name, number) = (shape.name(), repeat + 1);
                say(&format!(
                    "{name} {number}/{repeats} attacker on the {side:?}"
                ))?;
                rounds.push(site.round(shape, side, repeat).await?);
                tokio::time::sleep(REST).await;
            }
        }
    }
    gateway.process.end()?;
    Ok(Report {
        machine: process::machine(),
        requests,
        rate: flags.rate,
        repeats,
        rounds,
    })
}

struct Site<'a> {
    flags: &'a Flags,
    requests: u64,
    gateway: SocketAddr,
    swallows: SocketAddr,
    passes_on: SocketAddr,
    victim: Vec<u8>,
    attacker: &'a str,
    counts: PathBuf,
}

impl Site<'_> {
    async fn round(&self, shape: Shape, side: Side, repeat: usize) -> Result<Round> {
        let length = Duration::from_secs_f64(self.requests as f64 / self.flags.rate);
        let attack = self.attack(shape, side, WARMUP + length)?;
        tokio::time::sleep(WARMUP).await;
        let seen = victim(self.gateway, &self.victim, self.requests, self.flags.rate).await?;
        attack.finish(length + ANSWER_MAX)?;
        let counts = serde_json::from_str(&process::read(&self.counts)?)?;
        Ok(Round {
            shape,
            side,
            repeat,
            requests: seen.latency.len(),
            errors: seen.errors,
            first_error: seen.first_error,
            p50_us: seen.latency.value_at_quantile(0.5),
            p99_us: seen.latency.value_at_quantile(0.99),
            max_us: seen.latency.max(),
            attack: counts,
        })
    }

    /// A process of its own, so that the attacker's work does not stand in the way of the victim's clock.
    fn attack(&self, shape: Shape, side: Side, length: Duration) -> Result<Process> {
        let flags = self.flags;
        let (rate, connections) = match shape {
            Shape::Plain | Shape::Refusals => (flags.rate * flags.factor, CALL_CONNECTIONS),
            Shape::Bodies => (flags.bodies, BODY_CONNECTIONS),
            Shape::Streams => (0.0, flags.streams),
        };
        let target = match (side, shape) {
            (Side::Gateway, _) => self.gateway,
            (Side::Sink, Shape::Refusals) => self.swallows,
            (Side::Sink, _) => self.passes_on,
        };
        let out = self.counts.to_str().context("the folder is not UTF-8")?;
        let arguments = [
            "attack",
            "--target",
            &target.to_string(),
            "--token",
            self.attacker,
            "--shape",
            shape.name(),
            "--rate",
            &rate.to_string(),
            "--connections",
            &connections.to_string(),
            "--seconds",
            &length.as_secs_f64().to_string(),
            "--out",
            out,
        ];
        Ok(Process::start_self(flags.load_core, &arguments)?.0)
    }
}

/// What the victim saw, in microseconds.
struct Seen {
    latency: Histogram<u64>,
    errors: u64,
    first_error: Option<String>,
}

async fn victim(addr: SocketAddr, request: &[u8], requests: u64, rate: f64) -> Result<Seen> {
    let state = Rc::new(RefCell::new((
        0_u64,
        Seen {
            latency: Histogram::new_with_bounds(1, 120_000_000, 3)?,
            errors: 0,
            first_error: None,
        },
    )));
    let request: Rc<[u8]> = request.into();
    let began = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..VICTIM_CONNECTIONS {
        let (state, request) = (Rc::clone(&state), Rc::clone(&request));
        workers.spawn_local(async move {
            let mut open: Option<Connection> = None;
            loop {
                let number = {
                    let next = &mut state.borrow_mut().0;
                    *next += 1;
                    *next - 1
                };
                if number >= requests {
                    return;
                }
                let due = began + Duration::from_secs_f64(number as f64 / rate);
                tokio::time::sleep_until(due).await;
                let called =
                    tokio::time::timeout(ANSWER_MAX, call(addr, &mut open, &request)).await;
                let failure = match called {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(format!("{error:#}")),
                    Err(_) => Some(format!("no answer within {ANSWER_MAX:?}")),
                };
                let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                let seen = &mut state.borrow_mut().1;
                seen.latency.saturating_record(took.max(1));
                if let Some(failure) = failure {
                    open = None;
                    seen.errors += 1;
                    seen.first_error.get_or_insert(failure);
                }
            }
        });
    }
    while workers.join_next().await.is_some() {}
    let state = Rc::try_unwrap(state).map_err(|_| anyhow::anyhow!("a worker is left"))?;
    Ok(state.into_inner().1)
}

async fn call(addr: SocketAddr, open: &mut Option<Connection>, request: &[u8]) -> Result<()> {
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(addr).await?),
    };
    connection
        .exchange(request, Kind::Chat, &mut |_, _| {})
        .await
}

impl Report {
    /// The table, as Markdown: medians over the repeats, and the range of the ratios of the pairs.
    fn table(&self) -> String {
        let mut text = format!(
            "\n{}; victim {} requests at {} per s, {} round(s) per side.\n\n\
             | attack | on the gateway, per s | answers | baseline p50 us | p99 us | beside it p50 us | p99 us | p99 ratio: median | range | aim {AIM} |\n\
             |---|---:|---|---:|---:|---:|---:|---:|---|---|\n",
            self.machine, self.requests, self.rate, self.repeats
        );
        for shape in Shape::ALL {
            let ratios = self.ratios(shape);
            let (Some(low), Some(high)) = (ratios.first(), ratios.last()) else {
                continue;
            };
            let middle = median(&ratios);
            let figure = |side, of: fn(&Round) -> f64| {
                let mut all: Vec<f64> = self.of(shape, side).map(of).collect();
                all.sort_by(f64::total_cmp);
                median(&all)
            };
            let met = if middle <= AIM { "met" } else { "missed" };
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {middle:.2} | {low:.2} to {high:.2} | {met} |",
                shape.name(),
                figure(Side::Gateway, |round| round.attack.per_second()),
                self.answers(shape),
                figure(Side::Sink, |round| round.p50_us as f64),
                figure(Side::Sink, |round| round.p99_us as f64),
                figure(Side::Gateway, |round| round.p50_us as f64),
                figure(Side::Gateway, |round| round.p99_us as f64),
            );
        }
        text
    }

    fn of(&self, shape: Shape, side: Side) -> impl Iterator<Item = &Round> {
        self.rounds
            .iter()
            .filter(move |round| round.shape == shape && round.side == side)
    }

    /// p99 beside the attacker over p99 of the round without it, by repeat, sorted.
    fn ratios(&self, shape: Shape) -> Vec<f64> {
        let mut ratios: Vec<f64> = self
            .of(shape, Side::Gateway)
            .filter_map(|beside| {
                let mut alone = self.of(shape, Side::Sink);
                let alone = alone.find(|round| round.repeat == beside.repeat)?;
                Some(beside.p99_us as f64 / alone.p99_us.max(1) as f64)
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// What the gateway answered the attacker, over all rounds.
    fn answers(&self, shape: Shape) -> String {
        let mut by_status = std::collections::BTreeMap::<u16, u64>::new();
        let (mut sent, mut broken) = (0, 0);
        for round in self.of(shape, Side::Gateway) {
            sent += round.attack.sent;
            broken += round.attack.broken;
            for (status, count) in &round.attack.by_status {
                *by_status.entry(*status).or_default() += count;
            }
        }
        let mut parts: Vec<String> = by_status
            .iter()
            .map(|(status, count)| format!("{count} x {status}"))
            .collect();
        let answered = by_status.values().sum::<u64>() + broken;
        let open = sent.saturating_sub(answered);
        if open > 0 {
            parts.push(format!("{open} open at the end"));
        }
        if broken > 0 {
            parts.push(format!("{broken} broken"));
        }
        parts.join(", ")
    }

    /// An error when a call of the victim failed: then its latency says nothing.
    fn verdict(&self) -> Result<()> {
        let errors: u64 = self.rounds.iter().map(|round| round.errors).sum();
        if errors == 0 {
            return Ok(());
        }
        let first = self.rounds.iter().find_map(|round| {
            let error = round.first_error.as_ref()?;
            Some(format!(
                "{} on the {:?}: {error}",
                round.shape.name(),
                round.side
            ))
        });
        bail!(
            "{errors} calls of the victim failed; the first: {}",
            first.unwrap_or_default()
        );
    }
}

fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(side: Side, repeat: usize, p99_us: u64, errors: u64) -> Round {
        Round {
            shape: Shape::Plain,
            side,
            repeat,
            requests: 10,
            errors,
            first_error: (errors > 0).then(|| "status 503".to_owned()),
            p50_us: 1,
            p99_us,
            max_us: p99_us,
            attack: Counts::default(),
        }
    }

    fn report(rounds: Vec<Round>) -> Report {
        Report {
            machine: "machine".to_owned(),
            requests: 10,
            rate: 1.0,
            repeats: 2,
            rounds,
        }
    }

    #[test]
    fn ratios_are_of_pairs() {
        let report = report(vec![
            round(Side::Sink, 0, 100, 0),
            round(Side::Gateway, 0, 110, 0),
            round(Side::Gateway, 1, 300, 0),
            round(Side::Sink, 1, 200, 0),
        ]);
        assert_eq!(report.ratios(Shape::Plain), [1.1, 1.5]);
        assert!(report.table().contains("1.30 | 1.10 to 1.50 | missed"));
        assert!(report.verdict().is_ok());
        assert!(report.ratios(Shape::Bodies).is_empty());
    }

    #[test]
    fn a_failed_call_of_the_victim_fails_the_run() {
        let error = report(vec![round(Side::Gateway, 0, 1, 2)])
            .verdict()
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("plain on the Gateway: status 503")
        );
    }
}
