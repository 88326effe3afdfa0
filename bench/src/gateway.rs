//! The gateway under test: its configuration, its tenants, its start.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::load;
use crate::process::{self, Process};
use crate::scenario::{MODEL, SCENARIOS, rate_card};

/// A running gateway with its tenants' tokens.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    pub(crate) tokens: Vec<String>,
    /// From starting the process to its first whole answer.
    pub(crate) start: Duration,
}

/// What stands behind the gateway.
#[derive(Clone, Copy)]
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    /// What [`MODEL`] is called there.
    pub(crate) model: &'static str,
}

impl Upstream {
    /// The mock, which calls it the same.
    pub(crate) fn mock(addr: SocketAddr) -> Self {
        Self { addr, model: MODEL }
    }
}

/// A gateway that does not answer by then has failed to start.
const START_MAX: Duration = Duration::from_secs(30);
/// The key that the gateway sends upstream.
const UPSTREAM_KEY: (&str, &str) = ("BENCH_KEY", "sk-bench-0123456789");

/// Where and with what the gateway runs.
struct Site<'a> {
    binary: &'a Path,
    data: PathBuf,
    log: PathBuf,
    core: Option<usize>,
    addr: SocketAddr,
    admin: SocketAddr,
}

/// Sets a gateway up in `folder`, makes its tenants, and starts it afresh to time the start; on one core where one is named.
pub(crate) async fn start(
    binary: &Path,
    folder: &Path,
    core: Option<usize>,
    tenants: usize,
    upstream: Upstream,
) -> Result<Gateway> {
    let site = Site {
        binary,
        data: data(folder),
        log: folder.join("gateway.out"),
        core,
        addr: free_address()?,
        admin: free_address()?,
    };
    let data = text(&site.data)?;
    process::output(binary, &["init", "--data", data]).context("partywall init")?;
    let card = rate_card(upstream.model);
    process::write(&site.data.join("ratecards/bench.json"), &card)?;
    process::write(&site.data.join("partywall.yaml"), &config(upstream))?;
    let setting_up = serve(&site)?;
    let tokens = make_tenants(&site, setting_up, tenants).await?;
    let request = SCENARIOS[0].request(tokens.first().context("at least one tenant is needed")?);
    let began = Instant::now();
    let mut process = serve(&site)?;
    await_answer(&mut process, &site, &request, began).await?;
    Ok(Gateway {
        process,
        addr: site.addr,
        tokens,
        start: began.elapsed(),
    })
}

/// A free loopback address; whoever takes it first has it.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The data directory of the gateway that was started in this folder.
pub(crate) fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// The id of a tenant by its place among the tokens.
pub(crate) fn tenant_id(index: usize) -> String {
    format!("t{index:04}")
}

/// One more token of a tenant.
pub(crate) fn issue(binary: &Path, data: &Path, tenant: &str, role: &str) -> Result<String> {
    let data = text(data)?;
    let (start, end) = (
        ["tenants", "token", "issue", tenant],
        ["--json", "--data", data],
    );
    let about = ["--name", role, "--role", role];
    let printed = process::output(binary, &[&start[..], &about, &end].concat())?;
    token_in(&printed).with_context(|| format!("no token in the answer for tenant {tenant}"))
}

fn config(upstream: Upstream) -> String {
    let (name, _) = UPSTREAM_KEY;
    let Upstream { addr, model } = upstream;
    format!(
        "providers:\n  - {{ name: mock, kind: openai, base_url: \"http://{addr}/v1\", api_key: \"env:{name}\" }}\n\
         models:\n  - {{ name: {MODEL}, routes: [ {{ provider: mock, model: {model}, weight: 1 }} ] }}\n\
         tiers:\n  bench: {{ models: [{MODEL}], model: {MODEL}, max_tokens: 4096, tokens_per_day: 1000000000000, tokens_per_minute: 1000000000000 }}\n\
         ratecards: [ ratecards/bench.json ]\n"
    )
}

fn serve(site: &Site<'_>) -> Result<Process> {
    let (listen, admin) = (site.addr.to_string(), site.admin.to_string());
    let arguments = [
        "serve",
        "--data",
        text(&site.data)?,
        "--listen",
        &listen,
        "--admin-listen",
        &admin,
    ];
    Process::start(
        site.core,
        site.binary,
        &arguments,
        &[UPSTREAM_KEY],
        &site.log,
    )
}

async fn make_tenants(
    site: &Site<'_>,
    mut process: Process,
    tenants: usize,
) -> Result<Vec<String>> {
    await_listener(&mut process, site).await?;
    let mut tokens = Vec::with_capacity(tenants);
    for index in 0..tenants {
        let id = tenant_id(index);
        let arguments = [
            "tenants",
            "create",
            &id,
            "--tier",
            "bench",
            "--json",
            "--data",
            text(&site.data)?,
        ];
        let printed = process::output(site.binary, &arguments)?;
        tokens.push(
            token_in(&printed)
                .with_context(|| format!("no token in the answer for tenant {id}"))?,
        );
    }
    process.end()?;
    Ok(tokens)
}

async fn await_listener(process: &mut Process, site: &Site<'_>) -> Result<()> {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(site.addr).await.is_err() {
        still_starting(process, site, began)?;
    }
    Ok(())
}

async fn await_answer(
    process: &mut Process,
    site: &Site<'_>,
    request: &[u8],
    began: Instant,
) -> Result<()> {
    loop {
        match load::once(site.addr, request).await {
            Ok(()) => return Ok(()),
            Err(error) if error.downcast_ref::<std::io::Error>().is_none() => {
                bail!(
                    "the gateway's first answer is wrong: {error:#}\n{}",
                    process::tail(&site.log)
                );
            }
            Err(_) => still_starting(process, site, began)?,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn still_starting(process: &mut Process, site: &Site<'_>, began: Instant) -> Result<()> {
    process.alive().with_context(|| process::tail(&site.log))?;
    ensure!(
        began.elapsed() < START_MAX,
        "the gateway does not listen on {}:\n{}",
        site.addr,
        process::tail(&site.log)
    );
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// The first `tk_...` in what the command printed.
fn token_in(printed: &str) -> Option<String> {
    let start = printed.find("tk_")?;
    let token = &printed[start..];
    let end = token
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .unwrap_or(token.len());
    Some(token[..end].to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the data folder's path is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_in_json() {
        let printed =
            r#"{"tenant":"t-1","token":"tk_t-1_0123456789abcdef0123456789abcdef","tier":"bench"}"#;
        assert_eq!(
            token_in(printed).as_deref(),
            Some("tk_t-1_0123456789abcdef0123456789abcdef")
        );
        assert_eq!(token_in("{}"), None);
    }
}
