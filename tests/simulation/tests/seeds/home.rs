//! Data directories, and what stands in one: three tenants, made once for all seeds.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base::{Markup, Timestamp};
use gateway::catalog::{
    Catalog, HangUp, Keyring, Model, Provider, ProviderKind, ProviderSpec, Route, Timeouts,
};
use gateway::fair::LineSpec;
use gateway::upstream::{Credential, Upstream};
use gateway::{Gateway, Parts};
use kernel::egress::Dialer;
use kernel::lifecycle::NewTenant;
use kernel::quota::Quota;
use kernel::{
    DataRoot, Ground, Kernel, KernelError, KernelOptions, Limits, Operator, Secret, Stage, Tier,
    Tiers,
};
use llm::prices::RateCard;
use tempfile::TempDir;

use crate::disk::DiskFaults;
use crate::network::{Network, Wires};
use crate::plan::{MODELS, TENANTS};
use crate::world::{Pace, WallClock, World};

/// Pico-USD of one token, in and out: what [`gateway`] makes of the card.
pub(crate) const PICO: (u64, u64) = (1_000_000, 2_000_000);

/// A directory of tenants, and their credentials.
pub(crate) struct Template {
    home: Home,
    pub(crate) tokens: Vec<String>,
}

/// A data directory of its own, gone when dropped.
pub(crate) struct Home(TempDir);

impl Home {
    fn empty() -> Self {
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        Self(dir.unwrap())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Removes a tenant's directories that nothing here looks into: copying them takes a third of a run's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "a directory of the simulation's own"
    )]
    fn drop_empty(&self) -> io::Result<()> {
        for id in TENANTS {
            for entry in std::fs::read_dir(self.data().join("tenants").join(id))? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    std::fs::remove_dir(entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// What a kill of the process would leave at this moment.
    pub(crate) fn copy_of(data: &Path) -> Self {
        let copy = Self::empty();
        copy_tree(data, &copy.data()).unwrap();
        copy
    }
}

impl Template {
    pub(crate) fn get() -> &'static Self {
        static MADE: OnceLock<Template> = OnceLock::new();
        MADE.get_or_init(|| runtime().block_on(Self::make()))
    }

    pub(crate) fn copy(&self) -> Home {
        Home::copy_of(&self.home.data())
    }

    async fn make() -> Self {
        let home = Home::empty();
        DataRoot::create(&home.data()).unwrap();
        let root = DataRoot::open(&home.data()).unwrap();
        let key = "0b".repeat(32);
        root.write_private_new(kernel::root::MASTER_KEY_FILE, key.as_bytes())
            .unwrap();
        drop(root);
        let begins = Timestamp::parse("2026-11-20T00:00:00Z").unwrap();
        let world = World::new(0, 9, begins, Pace::Prompt, DiskFaults::default());
        let (kernel, operator) = open(&home, &world).await.unwrap();
        let mut tokens = Vec::new();
        for id in TENANTS {
            let new = NewTenant {
                id: id.parse().unwrap(),
                tier: "basic".to_owned(),
                overrides: limits(id),
            };
            let (_, token) = kernel.create_tenant(&operator, new).await.unwrap();
            tokens.push(token.text.expose_str().unwrap().to_owned());
        }
        kernel.close(Duration::from_secs(5)).await;
        home.drop_empty().unwrap();
        Self { home, tokens }
    }
}

fn limits(id: &str) -> Limits {
    let mut limits = Limits::default();
    let pairs: &[(Quota, i128)] = match id {
        "acme" => &[
            (Quota::TokensPerDay, 1_500),
            (Quota::RequestsPerMinute, 9),
            (Quota::ConcurrentRequests, 5),
        ],
        "initech" => &[
            (Quota::CostPerMonth, 900_000_000),
            (Quota::TokensPerMinute, 500),
        ],
        _ => &[],
    };
    for (quota, limit) in pairs {
        limits.set(*quota, Some(*limit));
    }
    limits
}

/// One thread, and time that passes when nothing is left to do.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

pub(crate) async fn open(
    home: &Home,
    world: &Arc<World>,
) -> Result<(Kernel, Operator), KernelError> {
    let root = DataRoot::open(&home.data())?;
    let master = root.master_key()?;
    let tier = Tier {
        markup: Markup::NONE,
        ..Tier::default()
    };
    let tiers = Tiers {
        tiers: [("basic".to_owned(), tier)].into(),
        ..Tiers::default()
    };
    let options = KernelOptions {
        root,
        master,
        clock: Arc::new(WallClock(Arc::clone(world))),
        tiers,
        models: MODELS.into_iter().map(str::to_owned).collect(),
        writers: 1,
        open_databases: 16,
    };
    let stage: Arc<dyn Stage> = Arc::clone(world) as Arc<dyn Stage>;
    Kernel::open_on(Ground::staged(stage), options).await
}

fn provider(
    name: &str,
    kind: ProviderKind,
    url: &str,
    hang_up: HangUp,
    (slots, queue): (u32, u32),
) -> Arc<Provider> {
    let spec = ProviderSpec {
        name: name.to_owned(),
        kind,
        base_url: url.to_owned(),
        allow_private: false,
        timeouts: Timeouts {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(5),
            idle: Duration::from_secs(4),
            total: Duration::from_secs(20),
        },
        hang_up,
        region: None,
        max_output_field: None,
        ca: None,
        line: LineSpec {
            slots,
            queue,
            wait: Duration::from_secs(6),
        },
    };
    Arc::new(Provider::new(spec).unwrap())
}

/// A gateway over the kernel: two providers of either dialect, one of them read to its end.
pub(crate) fn gateway(kernel: Kernel, network: &Arc<Network>, line: (u32, u32)) -> Arc<Gateway> {
    let first = provider(
        "first",
        ProviderKind::OpenAi,
        "https://openai.example.com/v1",
        HangUp::Abort,
        line,
    );
    let second = provider(
        "second",
        ProviderKind::Anthropic,
        "https://anthropic.example.com",
        HangUp::Abort,
        line,
    );
    let third = provider(
        "third",
        ProviderKind::OpenAi,
        "https://third.example.com/v1",
        HangUp::Drain,
        line,
    );
    let route = |provider: &Arc<Provider>, model: &str, weight| Route {
        provider: Arc::clone(provider),
        model: model.into(),
        weight,
    };
    let model = |name: &str, routes, fallback: &[&str]| Model {
        name: name.parse().unwrap(),
        routes,
        fallback: fallback.iter().map(|name| name.parse().unwrap()).collect(),
    };
    let models = vec![
        model(
            "alpha",
            vec![route(&first, "one", 2), route(&second, "two", 1)],
            &["beta"],
        ),
        model("beta", vec![route(&second, "two", 1)], &[]),
        model("gamma", vec![route(&first, "gamma", 1)], &["alpha"]),
        model("delta", vec![route(&third, "three", 1)], &["beta"]),
    ];
    let mut keyring = Keyring::default();
    for provider in [&first, &second, &third] {
        let key = Secret::new(b"sk-simulated".to_vec()).unwrap();
        keyring.insert(Credential::bind(provider, &key).unwrap());
    }
    let prices: BTreeMap<&str, serde_json::Value> = ["one", "two", "three", "gamma"]
        .into_iter()
        .map(|name| {
            let price = serde_json::json!({
                "input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6,
                "max_input_tokens": 4_000, "max_output_tokens": 64,
            });
            (name, price)
        })
        .collect();
    let prices = serde_json::to_string(&prices).unwrap();
    Gateway::new(
        kernel,
        Parts {
            catalog: Catalog::new(vec![first, second, third], models, BTreeMap::new()).unwrap(),
            keyring,
            prices: RateCard::parse(&prices)
                .unwrap()
                .with_version("v1".to_owned()),
            upstream: Upstream::over(Dialer::staged(Arc::new(Wires(Arc::clone(network))))),
            body_limit: 1 << 20,
        },
    )
}

#[expect(
    clippy::disallowed_methods,
    reason = "a directory of the simulation's own"
)]
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    std::fs::set_permissions(to, from.metadata()?.permissions())
}
