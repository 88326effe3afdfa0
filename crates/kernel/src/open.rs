//! The kernel: opened once per process under the data directory's lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use base::{Clock, TenantUid, Timestamp};
use store::{Engine, EngineConfig, Ground, Journal, JournalOptions, Place, RecordRef};
use vault::{MasterKey, OperatorKey, Secret, SigningKey};

use crate::error::KernelError;
use crate::journal_damage::{self, Findings};
use crate::log::Log;
use crate::noted::RateCardInForce;
use crate::overlay::Overlay;
use crate::policies::{Own, no_models};
use crate::quarantine::{self, Quarantine};
use crate::quota::LimitsInForce;
use crate::registry::{self, Directory};
use crate::resident::{Account, Resident, Status};
use crate::root::DataRoot;
use crate::schema;
use crate::settings::{Settings, Tier, Tiers};
use crate::sweep::Operator;
use crate::tasks::Tasks;

/// What a kernel is opened with.
pub struct KernelOptions {
    /// The locked data directory.
    pub root: DataRoot,
    /// The key that wraps every tenant's.
    pub master: MasterKey,
    /// Where "now" comes from.
    pub clock: Arc<dyn Clock>,
    /// Tiers and tasks of the configuration.
    pub tiers: Tiers,
    /// Public names of all models, for checking overlays.
    pub models: BTreeSet<String>,
    /// Threads that write tenant databases.
    pub writers: usize,
    /// Open databases at most.
    pub open_databases: usize,
}

/// The kernel. Cheap to clone: one per process.
#[derive(Clone)]
pub struct Kernel {
    inner: Arc<Inner>,
}

struct Inner {
    root: DataRoot,
    ground: Ground,
    master: MasterKey,
    clock: Arc<dyn Clock>,
    engine: Engine,
    journal: Arc<Journal>,
    registry: Arc<Place>,
    directory: Directory,
    tiers: ArcSwap<Tiers>,
    models: ArcSwap<BTreeSet<String>>,
    tasks: Tasks,
    log: Log,
    /// Journal records of earlier runs by tenant, until each is opened.
    recovered: Mutex<BTreeMap<TenantUid, Vec<RecordRef>>>,
    findings: Mutex<Findings>,
    operator_hash: ArcSwap<Option<[u8; 32]>>,
    /// Records that wait for their fold, over all tenants.
    pending: AtomicUsize,
    /// Bytes of sealed content that wait for their fold, over all tenants.
    content_waiting: AtomicUsize,
    /// Changes of tenants, tokens and secrets happen one at a time.
    changes: tokio::sync::Mutex<()>,
    alerts: crate::alerts::Desk,
    ratecard: ArcSwapOption<RateCardInForce>,
    disk: crate::disk::Disk,
}

const OPERATOR_KEY: &str = "operator key sha256";

impl Kernel {
    /// Opens the registry and the journal, and finishes deletions that a crash interrupted. Whoever opens holds the data
    /// directory, so the operator's capability comes with it.
    ///
    /// # Errors
    /// When the master key is wrong, or the registry or the journal does not open.
    pub async fn open(options: KernelOptions) -> Result<(Self, Operator), KernelError> {
        Self::open_on(Ground::system(), options).await
    }

    /// The same on other ground than the system's: a simulation's.
    ///
    /// # Errors
    /// As [`Kernel::open`].
    pub async fn open_on(
        ground: Ground,
        options: KernelOptions,
    ) -> Result<(Self, Operator), KernelError> {
        let KernelOptions {
            root,
            master,
            clock,
            tiers,
            models,
            writers,
            open_databases,
        } = options;
        let config = EngineConfig {
            writers,
            readers: writers,
            open_max: open_databases,
            idle_max: base::limits::DATABASE_IDLE_MAX,
        };
        let engine = Engine::on(&ground, config)?;
        let registry = registry_place(&root, &master)?;
        let rows = registry_rows(&engine, &registry).await?;
        let signer = SigningKey::from_seed(master.derive("journal signing").expose());
        let journal_path = root.path().join("journal");
        let journal_dir = crate::root::syncable(&root.sub("journal")?, &journal_path)?;
        let opened = Journal::on(&ground, journal_dir, signer, JournalOptions::default());
        let (journal, found) = opened
            .map_err(|error| KernelError::Root(format!("the journal does not open: {error}")))?;
        let log = Log::open(root.dir())?;
        let kernel = Self {
            inner: Arc::new(Inner {
                root,
                ground,
                master,
                clock,
                engine,
                journal: Arc::new(journal),
                registry,
                directory: Directory::new(),
                tiers: ArcSwap::from_pointee(tiers),
                models: ArcSwap::from_pointee(models),
                tasks: Tasks::default(),
                log,
                recovered: Mutex::new(BTreeMap::new()),
                findings: Mutex::default(),
                operator_hash: ArcSwap::from_pointee(rows.operator_hash),
                pending: AtomicUsize::new(0),
                content_waiting: AtomicUsize::new(0),
                changes: tokio::sync::Mutex::new(()),
                alerts: crate::alerts::Desk::default(),
                ratecard: ArcSwapOption::empty(),
                disk: crate::disk::Disk::default(),
            }),
        };
        kernel.fill_directory(rows.tenants, rows.tokens);
        for (uid, found) in rows.quarantines {
            if let Some(resident) = kernel.directory().by_uid(&uid) {
                resident.put_in_quarantine(found);
            }
        }
        kernel.take_in(found.records, &rows.accounted);
        kernel.take_in_damage(found.damaged, &rows.accounted);
        kernel.finish_deletions().await?;
        Ok((kernel, Operator::of_the_opener()))
    }

    fn fill_directory(&self, tenants: Vec<registry::TenantRow>, tokens: Vec<registry::TokenRow>) {
        let mut by_uid = HashMap::with_capacity(tenants.len());
        for row in tenants {
            let in_force = self.first_settings(&row.account);
            let resident = Resident::new(row.id, row.uid, row.account, row.wrapped, in_force);
            by_uid.insert(resident.uid, Arc::clone(&resident));
            self.directory().add_tenant(resident);
        }
        for row in tokens {
            if let Some(resident) = by_uid.get(&row.uid) {
                self.directory().add_token(row.entry(resident));
            }
        }
    }

    /// Sorts what the journal held by tenant; records of tenants that are gone, and those that a repair has accounted for, are
    /// released.
    fn take_in(&self, records: Vec<RecordRef>, known: &HashSet<(TenantUid, u64)>) {
        let mut by_uid: BTreeMap<TenantUid, Vec<RecordRef>> = BTreeMap::new();
        for record in records {
            if known.contains(&(record.uid, record.seq.number())) {
                self.journal().folded(&[record.seq]);
                continue;
            }
            by_uid.entry(record.uid).or_default().push(record);
        }
        by_uid.retain(|uid, records| {
            let living = self.directory().by_uid(uid).is_some();
            if !living {
                let seqs: Vec<_> = records.iter().map(|record| record.seq).collect();
                self.journal().folded(&seqs);
            }
            living
        });
        *self
            .inner
            .recovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = by_uid;
    }

    async fn finish_deletions(&self) -> Result<(), KernelError> {
        for resident in self.directory().all() {
            if resident.account.load().status == Status::Deleting {
                self.finish_deletion(&resident).await?;
            }
        }
        Ok(())
    }

    /// Makes a new operator key; the old one ends. Shown once.
    ///
    /// # Errors
    /// When the registry cannot be written.
    pub async fn new_operator_key(&self, _operator: &Operator) -> Result<Secret, KernelError> {
        let (text, hash) = OperatorKey::generate();
        self.registry_write(move |tx| registry::set_setting(tx, OPERATOR_KEY, &hash))
            .await?;
        self.inner.operator_hash.store(Arc::new(Some(hash)));
        Ok(text)
    }

    /// Folds everything, closes databases and the log. The journal keeps what could not be folded.
    pub async fn close(&self, deadline: Duration) {
        self.flush_counts().await;
        for resident in self.directory().all() {
            if resident.loaded.get().is_some() && resident.quarantine.load().is_none() {
                // A failure is in the log; the journal still holds the records.
                let _reported = self.fold(&resident).await;
            }
        }
        self.keep_audit_heads().await;
        self.tasks().shut_down(deadline).await;
        self.log().flush();
    }

    /// Replaces tiers and model names after a reload of the configuration.
    pub fn set_tiers(&self, tiers: Tiers, models: BTreeSet<String>) {
        self.inner.tiers.store(Arc::new(tiers));
        self.inner.models.store(Arc::new(models));
        for resident in self.directory().all() {
            self.refresh_settings(&resident);
        }
    }

    /// Tiers in force.
    #[must_use]
    pub fn tiers(&self) -> Arc<Tiers> {
        self.inner.tiers.load_full()
    }

    /// Whether a model of this public name exists.
    #[must_use]
    pub fn knows_model(&self, name: &str) -> bool {
        self.inner.models.load().contains(name)
    }

    pub(crate) fn known_tier(&self, name: &str) -> Result<(), KernelError> {
        let tiers = self.tiers();
        if tiers.tiers.contains_key(name) {
            return Ok(());
        }
        let known: Vec<_> = tiers.tiers.keys().map(String::as_str).collect();
        Err(KernelError::NotFound(format!(
            "there is no tier {name:?}; the configuration has: {}",
            known.join(", ")
        )))
    }

    /// What holds before a tenant is open: its overlay and its own rules are not known yet, and nobody is served.
    pub(crate) fn first_settings(&self, account: &Account) -> (Settings, LimitsInForce) {
        self.merge_settings(account, &Overlay::default(), &Own::default())
    }

    /// All layers of rules that hold with `own` as the tenant's.
    pub(crate) fn layers_with(&self, resident: &Resident, own: &Own) -> Arc<policy::Layers> {
        let watch = resident.overlay.lock();
        let overlay = Arc::clone(&watch.unwrap_or_else(PoisonError::into_inner).overlay);
        let (settings, _limits) = self.merge_settings(&resident.account.load(), &overlay, own);
        settings.policy
    }

    pub(crate) fn merge_settings(
        &self,
        account: &Account,
        overlay: &Overlay,
        own: &Own,
    ) -> (Settings, LimitsInForce) {
        let tiers = self.tiers();
        // A tier that is no longer configured shows no model: nobody is served without limits by a slip of the configuration.
        let closed = Tier {
            models: Some(no_models()),
            ..Tier::default()
        };
        let tier = tiers.tiers.get(&account.tier).unwrap_or(&closed);
        let limits = LimitsInForce::new(&tier.limits, &account.overrides, self.now());
        let settings = Settings::merge(tier, &tiers, &limits.for_all.tenant, overlay, own);
        (settings, limits)
    }

    /// What the journal held of a tenant at start. It stays until [`Kernel::recovered_is_done`].
    pub(crate) fn recovered_records(&self, resident: &Resident) -> Vec<RecordRef> {
        let recovered = self.inner.recovered.lock();
        let recovered = recovered.unwrap_or_else(PoisonError::into_inner);
        recovered.get(&resident.uid).cloned().unwrap_or_default()
    }

    /// Records that are not looked at again: a repair has accounted for them.
    pub(crate) fn forget_recovered(&self, resident: &Resident, seqs: &[store::Seq]) {
        let recovered = self.inner.recovered.lock();
        let mut recovered = recovered.unwrap_or_else(PoisonError::into_inner);
        if let Some(records) = recovered.get_mut(&resident.uid) {
            records.retain(|record| !seqs.contains(&record.seq));
        }
    }

    pub(crate) fn recovered_is_done(&self, resident: &Resident) {
        let recovered = self.inner.recovered.lock();
        recovered
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&resident.uid);
    }

    /// Tenants that an earlier run left something of in the journal.
    pub(crate) fn unopened_with_records(&self) -> Vec<TenantUid> {
        let recovered = self.inner.recovered.lock();
        let recovered = recovered.unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = recovered.keys().copied().collect();
        all.extend(self.tenants_with_damage());
        all
    }

    pub(crate) fn findings(&self) -> &Mutex<Findings> {
        &self.inner.findings
    }

    /// The current moment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Background work of the process.
    #[must_use]
    pub fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }

    /// The gateway's log.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.inner.log
    }

    /// The data directory.
    #[must_use]
    pub fn root(&self) -> &DataRoot {
        &self.inner.root
    }

    pub(crate) fn ground(&self) -> &Ground {
        &self.inner.ground
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.inner.journal
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    pub(crate) fn master(&self) -> &MasterKey {
        &self.inner.master
    }

    pub(crate) fn registry_place(&self) -> &Arc<Place> {
        &self.inner.registry
    }

    pub(crate) fn pending(&self) -> &AtomicUsize {
        &self.inner.pending
    }

    pub(crate) fn content_counter(&self) -> &AtomicUsize {
        &self.inner.content_waiting
    }

    pub(crate) fn operator_hash(&self) -> Option<[u8; 32]> {
        **self.inner.operator_hash.load()
    }

    pub(crate) fn alerts(&self) -> &crate::alerts::Desk {
        &self.inner.alerts
    }

    pub(crate) fn ratecard(&self) -> &ArcSwapOption<RateCardInForce> {
        &self.inner.ratecard
    }

    pub(crate) fn disk(&self) -> &crate::disk::Disk {
        &self.inner.disk
    }

    pub(crate) fn changes(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.changes
    }
}

fn registry_place(root: &DataRoot, master: &MasterKey) -> Result<Arc<Place>, KernelError> {
    let seed = master.derive("registry uid");
    let uid = seed
        .expose()
        .first_chunk::<16>()
        .copied()
        .unwrap_or_default();
    let key = Arc::new(master.derive("registry database"));
    let dir = crate::root::syncable(root.dir(), root.path())?;
    let path = root.path().to_owned();
    let uid = TenantUid::from_bytes(uid);
    let place = Place::new(dir, path, "registry.db", key, uid, &schema::REGISTRY);
    let place = place.with_secure_delete();
    // Where tenants are, a missing registry is a loss to be reported, not a reason to begin anew.
    let begun = root
        .sub("tenants")?
        .entries()
        .is_ok_and(|mut entries| entries.next().is_some());
    Ok(Arc::new(if begun { place.existing() } else { place }))
}

struct RegistryRows {
    tenants: Vec<registry::TenantRow>,
    tokens: Vec<registry::TokenRow>,
    operator_hash: Option<[u8; 32]>,
    quarantines: Vec<(TenantUid, Quarantine)>,
    accounted: HashSet<(TenantUid, u64)>,
}

async fn registry_rows(engine: &Engine, place: &Arc<Place>) -> Result<RegistryRows, KernelError> {
    let fault = |error: store::StoreError| {
        let hint = match error {
            store::StoreError::WrongKey | store::StoreError::Damaged => {
                "; is this the master key of this data directory?"
            }
            _ => "",
        };
        KernelError::Root(format!("the registry does not open: {error}{hint}"))
    };
    // A writer creates the file where it is missing.
    engine.write(place, |_tx| Ok(())).await.map_err(fault)?;
    // Nobody is served by a registry of which a part cannot be read.
    engine.check(place).await.map_err(fault)?;
    let read = engine.read(place, |tx| {
        Ok(RegistryRows {
            tenants: registry::tenants(tx)?,
            tokens: registry::tokens(tx)?,
            operator_hash: registry::setting(tx, OPERATOR_KEY)?
                .and_then(|hash| <[u8; 32]>::try_from(hash).ok()),
            quarantines: quarantine::remembered(tx)?,
            accounted: journal_damage::accounted(tx)?,
        })
    });
    read.await.map_err(fault)
}
