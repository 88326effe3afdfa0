//! Runs of agents: many over many tenants, so many at once. Each begins a session and sends it a message that has the simulated
//! model call a tool once; the tool adds the run's number to a file of the tenant's workspace. What is measured is the time from the
//! message to the run that is seen to have ended, and the gateway's memory over the whole. What is checked: each run finished, and its
//! number stands in its tenant's file once.
//!
//! Nothing is bound to a core: gateway, sandboxes, simulator and load share the machine.

mod report;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::gateway::{self, Gateway, Upstream};
use crate::process::{self, Process};
use crate::report::say;
use crate::rpc::{Client, Refused};
use report::{Effects, Mark, Report};

/// Flags of `bench runs`.
#[derive(Args)]
pub(crate) struct Flags {
    /// At most 40 runs over 4 tenants, 8 at once, to see that it works
    #[arg(long)]
    quick: bool,
    /// Runs
    #[arg(long, default_value_t = 1_000)]
    runs: usize,
    /// Tenants, which take turns
    #[arg(long, default_value_t = 100)]
    tenants: usize,
    /// Runs at once
    #[arg(long, default_value_t = 50)]
    at_once: usize,
    /// The gateway's binary
    #[arg(long, default_value = "target/release/partywall")]
    gateway: PathBuf,
    /// The binary of the simulated provider
    #[arg(long, default_value = "target/release/simulator")]
    simulator: PathBuf,
    /// Folder for the gateway's data (a real disk: the journal is synced there)
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Write all figures here
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The agent of every tenant.
const AGENT: &str = "worker";
/// The simulator's model.
const MODEL: &str = "sim-fast";
/// The file in a workspace that each run adds a line to.
const LOG: &str = "log";
/// Between two looks at a run. Where a tenant has several at once, that many times longer: calls per token are limited.
const POLL: Duration = Duration::from_millis(25);
/// A run that has not ended by then is given up.
const RUN_MAX: Duration = Duration::from_secs(120);
/// Before memory is read for the first time, and processes are counted at the end.
const REST: Duration = Duration::from_secs(2);
/// Memory is read at the end of each of so many parts of the runs.
const PARTS: usize = 10;

/// Makes the runs; an error when one did not finish or its effect is not there once.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    for (binary, package) in [
        (&flags.gateway, "partywall"),
        (&flags.simulator, "simulator"),
    ] {
        ensure!(
            binary.is_file(),
            "{} is missing; build it: cargo build --release -p {package}",
            binary.display()
        );
    }
    ensure!(
        flags.runs > 0 && flags.tenants > 0 && flags.at_once > 0,
        "--runs, --tenants and --at-once must be above 0"
    );
    process::raise_descriptor_limit()?;
    let folder = process::fresh_folder(&flags.folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, measure(flags, &folder));
    let whole = outcome
        .as_ref()
        .is_ok_and(|report| report.verdict().is_ok());
    if whole {
        process::remove_folder(&folder)?;
    }
    let at = || format!("logs and data are in {}", folder.display());
    let report = outcome.with_context(at)?;
    say(&report.table())?;
    if let Some(path) = &flags.json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        process::write(path, &text)?;
    }
    report.verdict().with_context(at)
}

async fn measure(flags: &Flags, folder: &Path) -> Result<Report> {
    let (runs, tenants, at_once) = if flags.quick {
        (
            flags.runs.min(40),
            flags.tenants.min(4),
            flags.at_once.min(8),
        )
    } else {
        (flags.runs, flags.tenants, flags.at_once)
    };
    let (simulator, upstream) = simulator(&flags.simulator)?;
    say(&format!("starting the gateway with {tenants} tenants"))?;
    let gateway = gateway::start(&flags.gateway, folder, None, tenants, upstream).await?;
    let data = gateway::data(folder);
    set_agents(&gateway, &flags.gateway, &data).await?;
    tokio::time::sleep(REST).await;

    let pid = gateway.process.pid();
    let shared = Rc::new(Shared {
        addr: gateway.addr,
        pid,
        tokens: gateway.tokens.clone(),
        runs,
        pause: POLL * u32::try_from(at_once.div_ceil(tenants))?,
        next: Cell::new(0),
        seen: RefCell::new(Seen::new()?),
    });
    shared.mark(0)?;
    let (began, cpu) = (Instant::now(), process::own_cpu_time(pid)?);
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        workers.spawn_local(work(Rc::clone(&shared)));
    }
    while let Some(ended) = workers.join_next().await {
        ended??;
    }
    let elapsed = began.elapsed();
    let cpu = process::own_cpu_time(pid)?.saturating_sub(cpu);
    tokio::time::sleep(REST).await;
    let left_behind = process::descendants(pid)?;
    let effects = effects(&shared, &data).await;
    let (_, peak_kib) = process::memory(pid)?;
    gateway.process.end()?;
    simulator.end()?;
    let seen = shared.seen.replace(Seen::new()?);
    let ms = |quantile| seen.times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Report {
        machine: process::machine(),
        runs,
        tenants,
        at_once,
        finished: seen.finished,
        failed: seen.failed,
        first_failure: seen.first_failure,
        seconds: elapsed.as_secs_f64(),
        p50_ms: ms(0.5),
        p95_ms: ms(0.95),
        p99_ms: ms(0.99),
        max_ms: seen.times.max() as f64 / 1e3,
        held_back: seen.held_back,
        gateway_cpu_seconds: cpu.as_secs_f64(),
        memory: seen.memory,
        peak_kib,
        left_behind,
        effects,
    })
}

fn simulator(binary: &Path) -> Result<(Process, Upstream)> {
    #[derive(Deserialize)]
    struct Bound {
        addr: SocketAddr,
    }
    let (process, line) = Process::start_until_eof(binary, &["--until-eof"])?;
    let bound: Bound = serde_json::from_str(&line)
        .with_context(|| format!("the simulator printed '{line}' instead of its address"))?;
    let (addr, model) = (bound.addr, MODEL);
    Ok((process, Upstream { addr, model }))
}

async fn set_agents(gateway: &Gateway, binary: &Path, data: &Path) -> Result<()> {
    let mut client = Client::new(gateway.addr);
    for index in 0..gateway.tokens.len() {
        let token = gateway::issue(binary, data, &gateway::tenant_id(index), "admin")?;
        let agent = json!({"name": AGENT, "tools": ["exec"]});
        client.call(&token, "agents.set", agent).await?;
    }
    Ok(())
}

/// What the workers share.
struct Shared {
    addr: SocketAddr,
    /// The gateway's.
    pid: u32,
    tokens: Vec<String>,
    runs: usize,
    pause: Duration,
    /// The number of the run that is begun next.
    next: Cell<usize>,
    seen: RefCell<Seen>,
}

/// What has been seen of the runs that are over.
struct Seen {
    /// Microseconds from the message to the end, of the runs that finished.
    times: Histogram<u64>,
    finished: usize,
    failed: usize,
    first_failure: Option<String>,
    held_back: u64,
    memory: Vec<Mark>,
}

impl Seen {
    fn new() -> Result<Self> {
        Ok(Self {
            times: Histogram::new_with_bounds(1, 600_000_000, 3)?,
            finished: 0,
            failed: 0,
            first_failure: None,
            held_back: 0,
            memory: Vec::with_capacity(PARTS + 1),
        })
    }
}

impl Shared {
    /// Reads the gateway's memory after so many runs.
    fn mark(&self, runs: usize) -> Result<()> {
        let (rss_kib, _) = process::memory(self.pid)?;
        say(&format!(
            "{runs}/{} runs, {} MiB",
            self.runs,
            rss_kib / 1024
        ))?;
        self.seen.borrow_mut().memory.push(Mark { runs, rss_kib });
        Ok(())
    }

    fn record(&self, number: usize, outcome: Result<Duration>) -> Result<()> {
        let over = {
            let mut seen = self.seen.borrow_mut();
            match outcome {
                Ok(took) => {
                    seen.finished += 1;
                    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                    seen.times.saturating_record(micros.max(1));
                }
                Err(error) => {
                    seen.failed += 1;
                    seen.first_failure
                        .get_or_insert_with(|| format!("run {number}: {error:#}"));
                }
            }
            seen.finished + seen.failed
        };
        let part = |runs: usize| runs * PARTS / self.runs;
        if part(over) > part(over - 1) {
            self.mark(over)?;
        }
        Ok(())
    }
}

async fn work(shared: Rc<Shared>) -> Result<()> {
    let mut client = Client::new(shared.addr);
    loop {
        let number = shared.next.get();
        if number >= shared.runs {
            shared.seen.borrow_mut().held_back += client.held_back;
            return Ok(());
        }
        shared.next.set(number + 1);
        let outcome = one(&shared, &mut client, number).await;
        shared.record(number, outcome)?;
    }
}

/// One run from its session to the last word of its conversation: how long it took from the message to its end.
async fn one(shared: &Shared, client: &mut Client, number: usize) -> Result<Duration> {
    let token = &shared.tokens[number % shared.tokens.len()];
    let session: Named = client
        .ask(token, "sessions.create", json!({"agent": AGENT}))
        .await?;
    let message = json!({"id": session.id, "message": order(number)});
    let began = Instant::now();
    let sent: Sent = client.ask(token, "sessions.send", message).await?;
    let run = loop {
        tokio::time::sleep(shared.pause).await;
        let run: Run = client
            .ask(token, "runs.get", json!({"id": sent.run}))
            .await?;
        if run.ended_at.is_some() {
            break run;
        }
        ensure!(
            began.elapsed() < RUN_MAX,
            "{} is {} after {RUN_MAX:?}",
            sent.run,
            run.state
        );
    };
    let took = began.elapsed();
    run.check().with_context(|| sent.run.clone())?;
    let history: History = client
        .ask(token, "chat.history", json!({"id": session.id}))
        .await?;
    let last = history.messages.last().context("nothing was said")?;
    ensure!(
        last.message.role == "assistant",
        "{}: the last word is of role {}",
        sent.run,
        last.message.role
    );
    Ok(took)
}

/// A message that has the simulated model call `exec` once, which adds this number to the file.
fn order(number: usize) -> String {
    let command = format!("echo {number} >> {LOG}");
    let script = json!([[{"name": "exec", "arguments": {"command": command}}]]).to_string();
    format!("[[sim:script={}]]", URL_SAFE_NO_PAD.encode(script))
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Sent {
    run: String,
}

#[derive(Deserialize)]
struct Run {
    state: String,
    why: Option<String>,
    ended_at: Option<String>,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    state: String,
}

#[derive(Deserialize)]
struct History {
    messages: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    role: String,
}

impl Run {
    fn check(&self) -> Result<()> {
        let why = self.why.as_deref().unwrap_or("no reason");
        ensure!(self.state == "finished", "{} ({why})", self.state);
        let states: Vec<&str> = self.calls.iter().map(|call| call.state.as_str()).collect();
        ensure!(states == ["ended"], "its calls are {states:?}");
        Ok(())
    }
}

/// Looks into each tenant's file for the numbers of its runs.
async fn effects(shared: &Shared, data: &Path) -> Effects {
    let mut client = Client::new(shared.addr);
    let mut effects = Effects::default();
    for (index, token) in shared.tokens.iter().enumerate().take(shared.runs) {
        let due = (index..shared.runs).step_by(shared.tokens.len());
        let tenant = gateway::tenant_id(index);
        // Absent or out of reach: its runs had no effect that anyone can see.
        let text = log(&mut client, token, data, &tenant)
            .await
            .unwrap_or_else(|error| {
                effects.fault(format!("{tenant}: {error:#}"));
                String::new()
            });
        effects.count(due, &text);
    }
    effects
}

/// What the runs of a tenant wrote.
async fn log(client: &mut Client, token: &str, data: &Path, tenant: &str) -> Result<String> {
    #[derive(Deserialize)]
    struct Piece {
        total: usize,
        text: Option<String>,
    }
    let mut text = String::new();
    loop {
        let wish = json!({"path": LOG, "offset": text.len()});
        let piece: Piece = match client.ask(token, "files.read", wish).await {
            Ok(piece) => piece,
            // A gateway from before that method.
            Err(error) if refused_as(&error, "method_not_found") => {
                let workspace = data.join("tenants").join(tenant).join("sandbox/work");
                return process::read(&workspace.join(LOG));
            }
            Err(error) => return Err(error),
        };
        let more = piece.text.context("the file is no text")?;
        text.push_str(&more);
        if more.is_empty() || text.len() >= piece.total {
            return Ok(text);
        }
    }
}

fn refused_as(error: &anyhow::Error, code: &str) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.code() == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_stands_in_the_message_as_a_script() {
        let order = order(17);
        let script = order
            .strip_prefix("[[sim:script=")
            .and_then(|rest| rest.strip_suffix("]]"))
            .unwrap();
        let script = URL_SAFE_NO_PAD.decode(script).unwrap();
        let script: serde_json::Value = serde_json::from_slice(&script).unwrap();
        assert_eq!(script[0][0]["name"], "exec");
        assert_eq!(script[0][0]["arguments"]["command"], "echo 17 >> log");
    }

    #[test]
    fn a_run_counts_that_finished_with_one_call() {
        let run = |state: &str, calls: &[&str]| {
            let calls = calls.iter().map(|state| Call {
                state: (*state).to_owned(),
            });
            let run = Run {
                state: state.to_owned(),
                why: None,
                ended_at: None,
                calls: calls.collect(),
            };
            run.check().is_ok()
        };
        assert!(run("finished", &["ended"]));
        assert!(!run("failed", &["ended"]));
        assert!(!run("finished", &["begun"]));
        assert!(!run("finished", &[]));
        assert!(!run("finished", &["ended", "ended"]));
    }
}
