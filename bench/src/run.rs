//! One run: start everything, drive the targets in turn, gather the medians.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::gateway::{self, Gateway, Upstream};
use crate::load::{self, Plan, Seen};
use crate::peers;
use crate::process::{self, Process};
use crate::report::{Report, Round, Start, TargetInfo, say};
use crate::scenario::{CHUNKS, Kind, SCENARIOS, SLOW_PACE, Scenario};

/// Flags of `bench run`.
#[derive(Args)]
pub(crate) struct Flags {
    /// One short round of each scenario
    #[arg(long)]
    quick: bool,
    /// Only these scenarios (repeatable): chat-c1, chat-c32, chat-c512, stream-paced, stream-burst, stream-1000
    #[arg(long)]
    scenario: Vec<String>,
    /// Tenants whose tokens the load uses in turn
    #[arg(long, default_value_t = 1)]
    tenants: usize,
    /// Rounds per scenario and target; the median counts
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Measured seconds per round
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// The gateway's binary
    #[arg(long, default_value = "target/release/partywall")]
    gateway: PathBuf,
    /// Measure this running proxy (ADDR:PORT) instead of the gateway
    #[arg(long)]
    gateway_url: Option<String>,
    /// Process of the proxy of --gateway-url, for its CPU and memory
    #[arg(long, requires = "gateway_url")]
    gateway_pid: Option<u32>,
    /// Token for the proxy of --gateway-url (repeatable)
    #[arg(long, requires = "gateway_url")]
    gateway_token: Vec<String>,
    /// Fixed address of the mock, for a proxy of --gateway-url that must know it beforehand
    #[arg(long, default_value = "127.0.0.1:0")]
    mock_listen: SocketAddr,
    /// Folder for the gateway's data (a real disk: the journal is synced there)
    #[arg(long, default_value = "target/bench")]
    folder: PathBuf,
    /// Core of the proxies under test
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Core of the mock upstream and the load
    #[arg(long, default_value_t = 1)]
    load_core: usize,
    /// Leave out the load on the mock itself and nginx
    #[arg(long)]
    only_pair: bool,
    /// Measure LiteLLM and Portkey too, installed from their package registries at first use (minutes)
    #[arg(long)]
    peers: bool,
    /// Write all figures here
    #[arg(long)]
    json: Option<PathBuf>,
    /// Print the tables as Markdown
    #[arg(long)]
    markdown: bool,
}

/// Something that answers like the upstream.
struct Target {
    name: &'static str,
    addr: SocketAddr,
    pid: Option<u32>,
    tokens: Vec<String>,
    /// Header lines of its own that each request needs.
    headers: String,
    /// Somebody else's: how it keeps its connections is not ours to judge.
    is_peer: bool,
    // Held so that it lives as long as the target.
    _process: Option<Process>,
}

/// Warm-up before each measured window.
const WARMUP: Duration = Duration::from_millis(1_000);
/// A server's memory at rest is read after this pause.
const REST: Duration = Duration::from_millis(1_500);
/// Connections to the upstream beyond twice the concurrency (a pool that grows opens some in vain)
/// and these are a pool that leaks: it opens one per request.
const SPARE_CONNECTIONS: u64 = 64;
/// Syncs of the disk probe.
const SYNCS: usize = 300;

/// Runs the benchmark; an error when a single answer was wrong.
pub(crate) fn run(flags: &Flags) -> Result<()> {
    let scenarios = chosen(&flags.scenario, flags.quick)?;
    if flags.gateway_url.is_none() && !flags.gateway.is_file() {
        bail!(
            "{} is missing; build it: cargo build --release -p partywall",
            flags.gateway.display()
        );
    }
    ensure!(flags.tenants > 0, "--tenants must be at least 1");
    process::pin_self(flags.load_core)?;
    let folder = process::fresh_folder(&flags.folder)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome =
        tokio::task::LocalSet::new().block_on(&runtime, measure(flags, &scenarios, &folder));
    if outcome.is_ok() {
        process::remove_folder(&folder)?;
    }
    let report = outcome.with_context(|| format!("logs are in {}", folder.display()))?;
    say(&report.table(flags.markdown))?;
    if let Some(path) = &flags.json {
        process::write(path, &report.json()?)?;
    }
    report.verdict()
}

async fn measure(flags: &Flags, scenarios: &[Scenario], folder: &Path) -> Result<Report> {
    let listen = flags.mock_listen.to_string();
    let (_mock, mock) = Process::start_self(flags.load_core, &["mock", "--listen", &listen])?;
    let (targets, start) = targets(flags, folder, mock).await?;
    tokio::time::sleep(REST).await;
    let mut infos = Vec::new();
    for target in &targets {
        let idle = target
            .pid
            .map(process::memory)
            .transpose()?
            .map(|(now, _)| now);
        infos.push(TargetInfo {
            name: target.name,
            idle_kib: idle,
            peak_kib: None,
        });
    }
    let (repeats, seconds) = if flags.quick {
        (1, 2.0)
    } else {
        (flags.repeats.max(1), flags.seconds)
    };
    let mut rounds = Vec::new();
    for scenario in scenarios {
        for repeat in 0..repeats {
            for target in &targets {
                say(&format!(
                    "{} {}/{repeats} {}",
                    scenario.name,
                    repeat + 1,
                    target.name
                ))?;
                rounds.push(round(scenario, target, mock, Duration::from_secs_f64(seconds)).await?);
            }
        }
    }
    for (info, target) in infos.iter_mut().zip(&targets) {
        info.peak_kib = target
            .pid
            .map(process::memory)
            .transpose()?
            .map(|(_, peak)| peak);
    }
    let syncs = process::sync_times(folder, SYNCS)?;
    Ok(Report {
        machine: process::machine(),
        tenants: flags.tenants,
        repeats,
        seconds,
        start,
        syncs,
        targets: infos,
        rounds,
    })
}

async fn targets(
    flags: &Flags,
    folder: &Path,
    mock: SocketAddr,
) -> Result<(Vec<Target>, Option<Start>)> {
    let mut targets = Vec::new();
    if !flags.only_pair {
        targets.push(Target::bare("direct", mock, None));
    }
    let upstream = mock.to_string();
    let (floor, addr) = Process::start_self(flags.core, &["floor", "--upstream", &upstream])?;
    targets.push(Target::bare("floor", addr, Some(floor)));
    if !flags.only_pair
        && let Some(nginx) = process::find_program("nginx")
    {
        targets.push(nginx_target(&nginx, folder, flags.core, mock)?);
    }
    if flags.peers {
        let kept = flags.folder.join("peers");
        for peer in peers::start(&kept, folder, flags.core, mock).await? {
            targets.push(Target {
                headers: peer.headers,
                is_peer: true,
                ..Target::bare(peer.name, peer.addr, Some(peer.process))
            });
        }
    }
    let Some(url) = &flags.gateway_url else {
        say(&format!(
            "starting the gateway with {} tenants",
            flags.tenants
        ))?;
        let (core, upstream) = (Some(flags.core), Upstream::mock(mock));
        let gateway = gateway::start(&flags.gateway, folder, core, flags.tenants, upstream).await?;
        let Gateway {
            process,
            addr,
            tokens,
            start,
        } = gateway;
        targets.push(Target {
            tokens,
            ..Target::bare("gateway", addr, Some(process))
        });
        return Ok((
            targets,
            Some(Start {
                milliseconds: start.as_secs_f64() * 1e3,
            }),
        ));
    };
    let addr = url.trim_start_matches("http://").trim_end_matches('/');
    let addr = addr
        .parse()
        .with_context(|| format!("--gateway-url takes ADDR:PORT, not {url}"))?;
    let mut target = Target {
        pid: flags.gateway_pid,
        ..Target::bare("gateway", addr, None)
    };
    if !flags.gateway_token.is_empty() {
        target.tokens.clone_from(&flags.gateway_token);
    }
    targets.push(target);
    Ok((targets, None))
}

impl Target {
    /// A target that asks for no credential of its own.
    fn bare(name: &'static str, addr: SocketAddr, process: Option<Process>) -> Self {
        let pid = process.as_ref().map(Process::pid);
        Self {
            name,
            addr,
            pid,
            tokens: vec!["bench".to_owned()],
            headers: String::new(),
            is_peer: false,
            _process: process,
        }
    }
}

fn nginx_target(nginx: &Path, folder: &Path, core: usize, mock: SocketAddr) -> Result<Target> {
    let addr = gateway::free_address()?;
    let home = folder.join("nginx");
    let config = format!(
        "worker_processes 1;\nerror_log stderr;\npid nginx.pid;\nevents {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path body;\n  proxy_temp_path proxy;\n  fastcgi_temp_path f;\n\
         uwsgi_temp_path u;\n  scgi_temp_path s;\n  keepalive_requests 1000000000;\n  tcp_nodelay on;\n\
         upstream mock {{ server {mock}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{ listen {addr}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; }} }}\n}}\n"
    );
    process::write(&home.join("nginx.conf"), &config)?;
    let prefix = home.to_str().context("the folder's path is not UTF-8")?;
    let arguments = ["-p", prefix, "-c", "nginx.conf", "-g", "daemon off;"];
    let process = Process::start(Some(core), nginx, &arguments, &[], &home.join("nginx.out"))?;
    Ok(Target::bare("nginx", addr, Some(process)))
}

async fn round(
    scenario: &Scenario,
    target: &Target,
    mock: SocketAddr,
    window: Duration,
) -> Result<Round> {
    let plan = Plan {
        addr: target.addr,
        requests: target
            .tokens
            .iter()
            .map(|token| scenario.request_with(token, &target.headers))
            .collect(),
        concurrency: scenario.concurrency,
        kind: scenario.kind,
        warmup: warmup(scenario),
        window: window.max(one_stream(scenario)),
    };
    let (connections_before, _) = load::mock_counters(mock).await?;
    let sample = || target.pid.map(process::cpu_time).transpose();
    let (seen, before, after) = load::run(plan, sample).await?;
    // The question itself is one connection.
    let opened = load::mock_counters(mock)
        .await?
        .0
        .saturating_sub(connections_before + 1);
    let cpu = before
        .zip(after)
        .map(|(before, after)| after.saturating_sub(before));
    Ok(figures(scenario, target, &seen, cpu, opened))
}

fn figures(
    scenario: &Scenario,
    target: &Target,
    seen: &Seen,
    cpu: Option<Duration>,
    opened: u64,
) -> Round {
    let per = |count: u64| {
        cpu.filter(|_| count > 0)
            .map(|cpu| cpu.as_secs_f64() * 1e6 / count as f64)
    };
    let streams = scenario.kind != Kind::Chat;
    let mut faults = seen.errors;
    let mut first_fault = seen.first_error.clone();
    if !target.is_peer && opened > 2 * scenario.concurrency as u64 + SPARE_CONNECTIONS {
        faults += 1;
        first_fault
            .get_or_insert_with(|| format!("{opened} connections were opened to the upstream"));
    }
    if seen.requests == 0 {
        faults += 1;
        first_fault.get_or_insert_with(|| "no answer within the window".to_owned());
    }
    let percentile = |histogram: &hdrhistogram::Histogram<u64>, at| {
        (!histogram.is_empty()).then(|| histogram.value_at_quantile(at) as f64)
    };
    Round {
        scenario: scenario.name,
        target: target.name,
        is_peer: target.is_peer,
        requests: seen.requests,
        chunks: seen.chunks,
        faults,
        first_fault,
        per_second: seen.requests as f64 / seen.elapsed.as_secs_f64(),
        p50_us: percentile(&seen.latency, 0.5),
        p99_us: percentile(&seen.latency, 0.99),
        cpu_us_per_request: if streams { None } else { per(seen.requests) },
        cpu_us_per_chunk: if streams { per(seen.chunks) } else { None },
        first_byte_p50_us: if streams {
            percentile(&seen.first_byte, 0.5)
        } else {
            None
        },
        first_byte_p99_us: if streams {
            percentile(&seen.first_byte, 0.99)
        } else {
            None
        },
        chunk_lag_p50_us: percentile(&seen.chunk_lag, 0.5),
        chunk_lag_p99_us: percentile(&seen.chunk_lag, 0.99),
        upstream_connections: opened,
    }
}

/// A window shorter than a stream would see none from its beginning to its end.
fn one_stream(scenario: &Scenario) -> Duration {
    match scenario.kind {
        Kind::Chat => Duration::ZERO,
        Kind::Stream(pause) => pause * (CHUNKS as u32 + 10),
    }
}

/// Long streams need one whole turn before they are evenly spread.
fn warmup(scenario: &Scenario) -> Duration {
    match scenario.kind {
        Kind::Chat => WARMUP,
        Kind::Stream(pause) => WARMUP.max(pause * 10),
    }
}

fn chosen(names: &[String], quick: bool) -> Result<Vec<Scenario>> {
    if names.is_empty() {
        let short = |scenario: &Scenario| !quick || scenario.kind != Kind::Stream(SLOW_PACE);
        return Ok(SCENARIOS.into_iter().filter(short).collect());
    }
    names
        .iter()
        .map(|name| {
            let known = || SCENARIOS.map(|scenario| scenario.name).join(", ");
            let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
            found
                .copied()
                .with_context(|| format!("no scenario '{name}'; there are {}", known()))
        })
        .collect()
}
