//! The pipeline and its stages: everything between a decoded request and its settled answer.
//!
//! Read [`pipeline`] first: it is the life of a call, top to bottom.

pub mod agents;
pub mod cache;
pub mod catalog;
pub mod checkpoint;
pub mod door;
pub mod fair;
pub mod identify;
pub mod inspect;
pub mod pipeline;
pub mod policy;
pub mod quota;
pub mod refusal;
pub mod reply;
pub mod route;
pub mod upstream;

mod answer;
mod decode;
mod drain;
mod heavy;
mod meter;
mod note;
mod send;
mod trace;

use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use arc_swap::ArcSwap;
use kernel::share::{Full, Good, Part, Room, Share};
use kernel::{Admission, Kernel};
use llm::prices::RateCard;

use catalog::{Catalog, Keyring, Provider};
use fair::Busy;
use fair::turnstile::{FEW, Turnstile};
use heavy::Heavy;
use refusal::Refusal;
use route::RetryBudgets;
use upstream::{Credential, Upstream};

pub use answer::PLAIN;

/// Calls under way in the whole process: open streams included.
const CALLS_MAX: usize = 20_000;
/// Bytes of large request bodies that the process holds at once, over all callers.
const BODY_ROOM: usize = 1024 * 1024 * 1024;
/// Bytes of one place of that room.
const BODY_PLACE: usize = 64 * 1024;
/// Upstream answers read on after their client is gone.
const DRAINS_MAX: usize = 1_024;

/// What a gateway is made of, beside its kernel.
pub struct Parts {
    /// Providers and models.
    pub catalog: Catalog,
    /// The operator's keys.
    pub keyring: Keyring,
    /// Prices.
    pub prices: RateCard,
    /// The client toward providers.
    pub upstream: Upstream,
    /// Largest request body in bytes.
    pub body_limit: usize,
}

/// One per process, shared by every request.
pub struct Gateway {
    kernel: Kernel,
    offer: ArcSwap<Offer>,
    prices: ArcSwap<RateCard>,
    upstream: Upstream,
    body_limit: usize,
    /// Calls under way.
    calls: Arc<Room>,
    /// The way in for tenants that have many.
    turnstile: Arc<Turnstile>,
    /// Bytes of large bodies.
    bodies: Arc<Room>,
    /// Work on large bodies.
    heavy: Heavy,
    /// A place per answer that is read on without a client.
    drains: Arc<Room>,
    /// Who answers calls of agents.
    agents: agents::Place,
}

/// What is swapped whole when the configuration is reloaded.
struct Offer {
    catalog: Arc<Catalog>,
    keyring: Keyring,
    budgets: Arc<RetryBudgets>,
}

impl Offer {
    fn new(catalog: Catalog, keyring: Keyring) -> Self {
        let budgets = Arc::new(RetryBudgets::new(&catalog));
        Self {
            catalog: Arc::new(catalog),
            keyring,
            budgets,
        }
    }
}

impl Gateway {
    /// A gateway over an open kernel.
    #[must_use]
    pub fn new(kernel: Kernel, parts: Parts) -> Arc<Self> {
        let Parts {
            catalog,
            keyring,
            prices,
            upstream,
            body_limit,
        } = parts;
        Arc::new(Self {
            kernel,
            offer: ArcSwap::from_pointee(Offer::new(catalog, keyring)),
            prices: ArcSwap::from_pointee(prices),
            upstream,
            body_limit,
            calls: Room::new(Good::Calls, CALLS_MAX),
            turnstile: Turnstile::new(available_parallelism().map_or(1, NonZero::get), CALLS_MAX),
            // One body of the largest size always fits into a tenant's half.
            bodies: Room::new(Good::BodyBytes, BODY_ROOM.max(body_limit.saturating_mul(4))),
            heavy: Heavy::new(),
            drains: Room::new(Good::Drains, DRAINS_MAX),
            agents: agents::Place::default(),
        })
    }

    /// The kernel below.
    #[must_use]
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Providers and models in force.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.offer.load().catalog)
    }

    /// Replaces providers, models and the operator's keys together.
    pub fn set_catalog(&self, catalog: Catalog, keyring: Keyring) {
        let before = self.catalog();
        for provider in catalog.providers() {
            if let Some(before) = before.provider(provider.name()) {
                provider.take_over_line(before);
            }
        }
        self.offer.store(Arc::new(Offer::new(catalog, keyring)));
    }

    /// Prices in force.
    #[must_use]
    pub fn prices(&self) -> Arc<RateCard> {
        self.prices.load_full()
    }

    /// Replaces the prices: calls that start after this are priced by them.
    pub fn set_prices(&self, prices: RateCard) {
        self.prices.store(Arc::new(prices));
    }

    /// Largest request body in bytes.
    #[must_use]
    pub fn body_limit(&self) -> usize {
        self.body_limit
    }

    /// Closes upstream connections that were idle for too long, and forgets idle tenants in the lines of the providers.
    pub fn sweep(&self) {
        self.upstream.sweep();
        for provider in self.catalog().providers() {
            provider.line().sweep();
        }
        self.heavy.sweep();
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.held()
    }

    fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn retry_budgets(&self) -> Arc<RetryBudgets> {
        Arc::clone(&self.offer.load().budgets)
    }

    fn operator_key(&self, provider: &Provider) -> Option<Arc<Credential>> {
        self.offer.load().keyring.key(provider.name()).cloned()
    }

    /// A place among all calls, under the tenant's share of them. Who has many goes in a few at a time.
    async fn enter(&self, caller: &Admission) -> Result<Part, Refusal> {
        let share = caller.tenant().share();
        let place = self
            .calls
            .take(share, 1)
            .map_err(|full| too_much(full, "calls at the same time"))?;
        if share.held(Good::Calls) > FEW {
            let pass = self.turnstile.pass(self.kernel.tasks(), caller);
            let overloaded = |busy: Busy| Refusal::Overloaded {
                retry_after_s: busy.retry_after_s,
            };
            // Boxed, so that the calls that need not wait do not carry it.
            Box::pin(pass).await.map_err(overloaded)?;
        }
        Ok(place)
    }

    /// Room for one more piece of a body that has outgrown its first place.
    fn body_room(
        &self,
        share: &Arc<Share>,
        held: &mut Option<Part>,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let grown = match held {
            Some(held) => held.grow(bytes),
            None => self
                .bodies
                .take(share, bytes)
                .map(|part| *held = Some(part)),
        };
        grown.map_err(|full| too_much(full, "bytes of request bodies"))
    }

    fn heavy(&self) -> &Heavy {
        &self.heavy
    }

    /// A place among the answers read on without a client, under the tenant's share of them.
    fn drain_place(&self, share: &Arc<Share>) -> Option<Part> {
        self.drains.take(share, 1).ok()
    }

    fn instant(&self) -> Instant {
        // The runtime's clock is the system's, but in tests that own time.
        tokio::time::Instant::now().into_std()
    }
}

fn too_much(full: Full, what: &'static str) -> Refusal {
    let retry_after_s = 1;
    match full {
        Full::Share => Refusal::TenantBusy {
            what,
            retry_after_s,
        },
        Full::Room => Refusal::Overloaded { retry_after_s },
    }
}
