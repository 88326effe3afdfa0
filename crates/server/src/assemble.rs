//! From a data directory and a configuration to a kernel and a gateway: the one place where the parts meet.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base::Clock;
use base::limits::{OPEN_DATABASES_MAX, POLICY_BYTES_MAX, RATECARD_BYTES_MAX};
use kernel::root::{MASTER_KEY_FILE, parse_master_key};
use kernel::{BaseRules, DataRoot, Kernel, KernelOptions, Operator, SystemClock, Tier, Tiers};
use rpc::{Answer, Command, Fault, FaultCode, Rows};
use tokio::runtime::{Builder, Runtime};

use crate::cards;
use crate::config::{self, Config, ConfigError, Environment};
use crate::fault::{fault, io};
use crate::feed::Feed;
use crate::files;
use crate::operate::{self, Desk, Office, check_file, examine, show_file};
use crate::process;

/// The configuration's name in the data directory.
pub(crate) const CONFIG_FILE: &str = "partywall.yaml";
/// Holds the master key where no file does.
pub(crate) const MASTER_KEY_VARIABLE: &str = "PARTYWALL_MASTER_KEY";
/// How long folding and closing may take at the end.
pub(crate) const CLOSE_WAIT: Duration = Duration::from_secs(30);
/// How often and how long a start waits for a command that holds the lock.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// The tier of a configuration that has none.
const ONLY_TIER: &str = "default";

/// Where a command finds its data and configuration.
#[derive(Clone, Debug)]
pub struct Place {
    /// The data directory.
    pub data: PathBuf,
    /// Another file than `DATA/partywall.yaml`.
    pub config: Option<PathBuf>,
}

impl Place {
    pub(crate) fn config_file(&self) -> PathBuf {
        self.config
            .clone()
            .unwrap_or_else(|| self.data.join(CONFIG_FILE))
    }
}

/// Carries a command out in this process, under the lock of the data directory.
///
/// # Errors
/// [`FaultCode::Locked`] when a gateway or another command holds the directory, [`FaultCode::NotInitialised`] when there is
/// none, otherwise those of the command.
pub fn offline(place: &Place, command: Command, rows: &mut dyn Rows) -> Result<Answer, Fault> {
    process::keep_private();
    let environment = Environment::of_process();
    match &command {
        // These look at files that may be broken, and must not fail for it.
        Command::Doctor => {
            return Ok(Answer::Doctor(
                command_runtime()?.block_on(examine(place, &environment)),
            ));
        }
        Command::ConfigCheck { tenant: None } => return check_file(&place.config_file()),
        Command::ConfigShow { tenant: None } => return show_file(&place.config_file()),
        _ => {}
    }
    initialised(&place.data)?;
    let config = load(&place.config_file())?;
    command_runtime()?.block_on(async {
        let root = locked_root(&place.data)?;
        let (kernel, operator) = open_kernel(root, &environment, &config).await?;
        let closing = kernel.clone();
        let outcome = match office(kernel, config, place) {
            Ok(office) => ask(&office, &operator, command, rows).await,
            Err(fault) => Err(fault),
        };
        closing.close(CLOSE_WAIT).await;
        outcome
    })
}

async fn ask(
    office: &Office,
    operator: &Operator,
    command: Command,
    rows: &mut dyn Rows,
) -> Result<Answer, Fault> {
    let (feed, mut waiting) = Feed::new();
    let work = async {
        let answer = office.carry_out(operator, command, &feed).await;
        drop(feed);
        answer
    };
    let show = async {
        while let Some(row) = waiting.recv().await {
            rows.push(row)?;
        }
        Ok::<(), Fault>(())
    };
    let mut work = std::pin::pin!(work);
    let mut show = std::pin::pin!(show);
    tokio::select! {
        answer = &mut work => {
            // The last rows are still on their way.
            show.await?;
            answer
        }
        Err(closed) = &mut show => Err(closed),
    }
}

/// The office of a kernel that no gateway runs over.
pub(crate) fn office(kernel: Kernel, config: Config, place: &Place) -> Result<Office, Fault> {
    let configured_cards = card_texts(&config)?;
    let prices = cards::in_force(kernel.root(), &configured_cards)?;
    kernel.begin_with_ratecard(prices.version());
    let first_tier = first_tier(&config);
    let desk = Desk::Offline {
        catalog: Arc::new(config.catalog),
        prices: ArcSwap::from_pointee(prices),
    };
    Ok(Office {
        kernel,
        desk,
        config: place.config_file(),
        configured_cards,
        first_tier,
        importing: tokio::sync::Mutex::default(),
    })
}

/// Reads a configuration file.
pub(crate) fn load(path: &Path) -> Result<Config, Fault> {
    Config::load(path).map_err(|error| bad_config(path, &error))
}

/// A fault of the configuration, with the file in which it stands.
pub(crate) fn bad_config(path: &Path, error: &ConfigError) -> Fault {
    Fault::new(FaultCode::BadConfig, format!("{}: {error}", path.display()))
}

/// The texts of the price files that the configuration names.
pub(crate) fn card_texts(config: &Config) -> Result<Vec<String>, Fault> {
    config
        .ratecards
        .iter()
        .map(|path| files::text(path, RATECARD_BYTES_MAX))
        .collect()
}

/// The operator's base rules, which hold their own examples; those of the program where the configuration names none.
pub(crate) fn base_rules(config: &Config) -> Result<BaseRules, Fault> {
    let Some(path) = &config.policy else {
        return Ok(BaseRules::default());
    };
    let text = files::text(path, POLICY_BYTES_MAX)?;
    let wrong = |message: String| {
        Fault::new(
            FaultCode::BadConfig,
            format!("{}: {message}", path.display()),
        )
    };
    operate::base_rules(&text, SystemClock.now()).map_err(wrong)
}

/// The tier of a tenant that is created without one: `default` where there is one, otherwise the first by name.
pub(crate) fn first_tier(config: &Config) -> String {
    let names = || config.tiers.keys();
    names()
        .find(|name| *name == ONLY_TIER)
        .or_else(|| names().next())
        .map_or_else(|| ONLY_TIER.to_owned(), Clone::clone)
}

/// Opens and locks the data directory.
///
/// A command that holds the lock for a moment is waited for: a supervisor that restarts the gateway must not fail on it.
pub(crate) fn root_of_the_gateway(data: &Path) -> Result<DataRoot, Fault> {
    let mut root = locked_root(data);
    for _ in 0..LOCK_TRIES {
        if !matches!(&root, Err(fault) if fault.code == FaultCode::Locked) || gateway_answers(data)
        {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        root = locked_root(data);
    }
    root
}

/// Whether a gateway, not a passing command, holds the directory.
fn gateway_answers(data: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(data.join(rpc::frame::SOCKET_NAME)).is_ok()
}

/// Opens and locks the data directory.
pub(crate) fn locked_root(data: &Path) -> Result<DataRoot, Fault> {
    initialised(data)?;
    DataRoot::open(data).map_err(|error| {
        let held = DataRoot::is_held(data);
        let fault = fault(error);
        if held {
            Fault::new(FaultCode::Locked, fault.message)
        } else {
            fault
        }
    })
}

fn initialised(data: &Path) -> Result<(), Fault> {
    if data.is_dir() {
        return Ok(());
    }
    let shown = data.display();
    let text = format!("no data directory at {shown}; run: partywall init --data {shown}");
    Err(Fault::new(FaultCode::NotInitialised, text))
}

/// Opens the kernel of a configuration.
pub(crate) async fn open_kernel(
    root: DataRoot,
    environment: &Environment,
    config: &Config,
) -> Result<(Kernel, Operator), Fault> {
    let models = config
        .catalog
        .models()
        .iter()
        .map(|model| model.name.as_str().to_owned())
        .collect();
    let (kernel, operator) = kernel(root, environment, tiers(config)?, models).await?;
    kernel.set_disk_limits(config.disk);
    Ok((kernel, operator))
}

/// Opens the kernel without a configuration: for what needs none.
pub(crate) async fn bare_kernel(
    root: DataRoot,
    environment: &Environment,
) -> Result<(Kernel, Operator), Fault> {
    kernel(root, environment, Tiers::default(), BTreeSet::new()).await
}

async fn kernel(
    root: DataRoot,
    environment: &Environment,
    tiers: Tiers,
    models: BTreeSet<String>,
) -> Result<(Kernel, Operator), Fault> {
    let master = match environment.variable(MASTER_KEY_VARIABLE) {
        Some(text) => parse_master_key(text.as_bytes().to_vec()),
        None if root.dir().symlink_metadata(MASTER_KEY_FILE).is_err()
            && root.dir().symlink_metadata("registry.db").is_err() =>
        {
            let shown = root.path().display();
            let text = format!("{shown} is not initialised; run: partywall init --data {shown}");
            return Err(Fault::new(FaultCode::NotInitialised, text));
        }
        None => root.master_key(),
    };
    let options = KernelOptions {
        root,
        master: master.map_err(fault)?,
        clock: Arc::new(SystemClock),
        tiers,
        models,
        writers: parallelism(),
        open_databases: OPEN_DATABASES_MAX,
    };
    Kernel::open(options).await.map_err(fault)
}

/// Tiers and tasks as the kernel keeps them.
pub(crate) fn tiers(config: &Config) -> Result<Tiers, Fault> {
    let mut tiers: std::collections::BTreeMap<_, _> = config
        .tiers
        .iter()
        .map(|(name, tier)| (name.clone(), kernel_tier(tier)))
        .collect();
    if tiers.is_empty() {
        tiers.insert(ONLY_TIER.to_owned(), Tier::default());
    }
    let tasks = config.catalog.tasks().iter();
    let tasks = tasks
        .map(|(task, model)| (task.clone(), model.as_str().to_owned()))
        .collect();
    let config_hash = cards::hex(&kernel::digest::sha256(config.show().as_bytes()));
    Ok(Tiers {
        tiers,
        tasks,
        webhook_hosts: config.alerts.tenant_hosts.clone(),
        base: base_rules(config)?,
        config_hash,
    })
}

fn kernel_tier(tier: &config::Tier) -> Tier {
    Tier {
        models: tier.models.clone().map(Into::into),
        model: tier.model.clone(),
        max_tokens: tier.max_tokens,
        temperature: tier.temperature.clone(),
        limits: tier.limits,
        markup: tier.markup,
        weight: tier.weight,
        guaranteed_slots: tier.guaranteed_slots,
        alert_thresholds: tier.alert_thresholds.clone(),
        audit_retention: tier.audit_retention,
        audit_level: tier.audit_level,
    }
}

/// Processors that this process may use.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The runtime of one command.
pub(crate) fn command_runtime() -> Result<Runtime, Fault> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| io("no runtime", &error))
}

/// The runtime of a gateway: as many workers as processors that it may use. One processor needs no scheduler between threads.
pub(crate) fn serving_runtime() -> Result<Runtime, Fault> {
    let mut builder = match parallelism() {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder
        .worker_threads(parallelism())
        .thread_name("partywall")
        .enable_all()
        .build()
        .map_err(|error| io("no runtime", &error))
}
