//! Two gateways of the field beside ours, as their makers publish them: LiteLLM from PyPI, Portkey from npm. No authentication, no
//! limits, no ledger: the least that each does for a call.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::gateway::free_address;
use crate::load;
use crate::process::{self, Process};
use crate::scenario::{MODEL, SCENARIOS};

/// A peer that runs.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
    /// Header lines of its own that each request needs.
    pub(crate) headers: String,
}

/// Where it is kept once installed, and from what.
struct Package {
    name: &'static str,
    version: &'static str,
}

const LITELLM: Package = Package {
    name: "litellm",
    version: "1.106.2",
};
const PORTKEY: Package = Package {
    name: "portkey",
    version: "1.15.2",
};
/// Programs of this size take their time to start on one core.
const START_MAX: Duration = Duration::from_secs(180);

/// Installs both below `kept` where they are not yet, and starts them on `core`, one process each.
pub(crate) async fn start(
    kept: &Path,
    folder: &Path,
    core: usize,
    mock: SocketAddr,
) -> Result<Vec<Peer>> {
    Ok(vec![
        litellm(kept, folder, core, mock).await?,
        portkey(kept, folder, core, mock).await?,
    ])
}

impl Package {
    fn place(&self, kept: &Path) -> PathBuf {
        kept.join(format!("{}-{}", self.name, self.version))
    }

    /// Says so before it begins: it takes minutes.
    fn installing(&self) -> Result<()> {
        crate::report::say(&format!(
            "installing {} {} from its package registry",
            self.name, self.version
        ))?;
        Ok(())
    }
}

async fn litellm(kept: &Path, folder: &Path, core: usize, mock: SocketAddr) -> Result<Peer> {
    let place = LITELLM.place(kept);
    let program = place.join("bin/litellm");
    if !program.is_file() {
        LITELLM.installing()?;
        let python = process::find_program("python3").context("LiteLLM needs python3")?;
        process::output(&python, &["-m", "venv", text(&place)?])?;
        let package = format!("litellm[proxy]=={}", LITELLM.version);
        process::output(&place.join("bin/pip"), &["install", "--quiet", &package])?;
    }
    let addr = free_address()?;
    let config = folder.join("litellm.yaml");
    process::write(
        &config,
        &format!(
            "model_list:\n  - model_name: {MODEL}\n    litellm_params: {{ model: openai/{MODEL}, api_base: \"http://{mock}/v1\", api_key: sk-bench }}\n\
             litellm_settings: {{ telemetry: false }}\n\
             general_settings: {{ dangerously_permit_weak_or_unset_master_key: true }}\n"
        ),
    )?;
    let (host, port) = (addr.ip().to_string(), addr.port().to_string());
    let arguments = [
        "--config",
        text(&config)?,
        "--host",
        &host,
        "--port",
        &port,
        "--num_workers",
        "1",
        "--telemetry",
        "False",
    ];
    // Its list of prices comes with the package: nothing is fetched at its start.
    let env = [
        ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
        ("LITELLM_LOG", "ERROR"),
    ];
    let log = folder.join("litellm.out");
    let process = Process::start(Some(core), &program, &arguments, &env, &log)?;
    let peer = Peer {
        name: "litellm",
        process,
        addr,
        headers: String::new(),
    };
    ready(peer, &log).await
}

async fn portkey(kept: &Path, folder: &Path, core: usize, mock: SocketAddr) -> Result<Peer> {
    let place = PORTKEY.place(kept);
    let program = place.join("node_modules/@portkey-ai/gateway/build/start-server.js");
    if !program.is_file() {
        PORTKEY.installing()?;
        let npm = process::find_program("npm").context("Portkey needs npm")?;
        let package = format!("@portkey-ai/gateway@{}", PORTKEY.version);
        process::write(&place.join("package.json"), "{}\n")?;
        process::output(
            &npm,
            &[
                "install",
                "--no-fund",
                "--no-audit",
                "--prefix",
                text(&place)?,
                &package,
            ],
        )?;
    }
    let node = process::find_program("node").context("Portkey needs node")?;
    let addr = free_address()?;
    let port = format!("--port={}", addr.port());
    let log = folder.join("portkey.out");
    let arguments = [text(&program)?, &port, "--headless"];
    let env = [("NODE_ENV", "production")];
    let process = Process::start(Some(core), &node, &arguments, &env, &log)?;
    let peer = Peer {
        name: "portkey",
        process,
        addr,
        headers: format!(
            "x-portkey-provider: openai\r\nx-portkey-custom-host: http://{mock}/v1\r\n"
        ),
    };
    ready(peer, &log).await
}

/// Returns once it has answered a call.
async fn ready(mut peer: Peer, log: &Path) -> Result<Peer> {
    let request = SCENARIOS[0].request_with("bench", &peer.headers);
    let began = Instant::now();
    loop {
        let Err(error) = load::once(peer.addr, &request).await else {
            return Ok(peer);
        };
        peer.process.alive().with_context(|| process::tail(log))?;
        ensure!(
            began.elapsed() < START_MAX,
            "{} gives no answer: {error:#}\n{}",
            peer.name,
            process::tail(log)
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the folder's path is not UTF-8")
}
