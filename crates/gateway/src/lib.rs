//! The pipeline and its stages: everything between a decoded request and its settled answer.
//!
//! Read [`pipeline`] first: it is the life of a call, top to bottom.

pub mod cache;
pub mod catalog;
pub mod door;
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
mod meter;
mod send;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use kernel::Kernel;
use llm::prices::RateCard;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use catalog::{Catalog, Keyring, Provider};
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
    /// A place per call under way.
    turns: Arc<Semaphore>,
    /// Room for large bodies, in places of [`BODY_PLACE`].
    bodies: Arc<Semaphore>,
    /// A place per answer that is read on without a client.
    drains: Arc<Semaphore>,
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
            turns: Arc::new(Semaphore::new(CALLS_MAX)),
            bodies: Arc::new(Semaphore::new(BODY_ROOM / BODY_PLACE)),
            drains: Arc::new(Semaphore::new(DRAINS_MAX)),
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

    /// Closes upstream connections that were idle for too long.
    pub fn sweep(&self) {
        self.upstream.sweep();
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        CALLS_MAX.saturating_sub(self.turns.available_permits())
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

    async fn turn(&self, wait: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        let turns = Arc::clone(&self.turns);
        if let Ok(turn) = Arc::clone(&turns).try_acquire_owned() {
            return Ok(turn);
        }
        match tokio::time::timeout(wait, turns.acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refusal::Overloaded { retry_after_s: 1 }),
        }
    }

    /// Room for one more piece of a body that has outgrown its first place; `None` when the process holds too much already.
    fn body_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let places = u32::try_from(bytes.div_ceil(BODY_PLACE)).ok()?;
        Arc::clone(&self.bodies).try_acquire_many_owned(places).ok()
    }

    fn drain_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.drains).try_acquire_owned().ok()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}
