//! Alerts: a tenant's thresholds to the tenant, what is out of hand to the tenant and to the operator.
//!
//! Once a second, beside the calls, [`Kernel::look_at_budgets`] compares what was used with what is to be told. What is to be told
//! goes into an outbox on disk, where it is said once, and leaves from there by [`Kernel::deliver_alerts`], signed.

mod checkpoints;
mod delivery;
mod event;
mod pace;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use base::{Money, Timestamp, limits};
use store::sql::params;
use store::{ReadTx, StoreError};
use tokio::sync::Semaphore;
use vault::Secret;

use crate::disk::DiskState;
use crate::egress::{AllowedHost, CaBundle, Destination, DestinationError, Egress, Origin};
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::outbox::{self, Message, Taken};
use crate::resident::Resident;
use crate::webhook::{Signer, SignerError};

pub use checkpoints::CheckpointSchedule;
use event::About;
use pace::Pace;

/// Percents of a limit at which a tenant is told, where nothing else is configured.
pub const DEFAULT_THRESHOLDS: [u8; 3] = [50, 80, 100];
/// Alerts of one tenant, or of the operator's, that wait for a disk that does not take them.
const UNSAID_MAX: usize = 64;
/// Marks of one tenant that are kept in memory.
const TOLD_MAX: usize = 256;
/// Tenants whose alerts are delivered at the same time; the operator's have a place of their own.
const DELIVERIES_MAX: usize = 16;

/// Percents at which a tenant is told: from 1 to 100, ascending, each once, at most ten.
///
/// # Errors
/// The sentence that says so.
pub fn thresholds(mut percents: Vec<u8>) -> Result<Arc<[u8]>, &'static str> {
    percents.sort_unstable();
    percents.dedup();
    if percents.len() > 10 || percents.iter().any(|p| !(1..=100).contains(p)) {
        return Err("thresholds are up to ten whole percents from 1 to 100");
    }
    Ok(percents.into())
}

/// What a tenant is told, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertSettings {
    /// Percents of a limit at which the tenant is told.
    pub thresholds: Arc<[u8]>,
    /// The tenant's receiver; without one it is told nothing.
    pub receiver: Option<TenantReceiver>,
}

/// A tenant's receiver as its overlay names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantReceiver {
    /// Where alerts are posted.
    pub url: Arc<str>,
    /// Name of the tenant's secret that holds the signing secret.
    pub secret: Arc<str>,
    /// Whether it is told the audit log's checkpoints, and how often.
    pub checkpoints: Option<CheckpointSchedule>,
}

impl TenantReceiver {
    /// Checks the URL as far as its text can be. `hosts` are those that the operator lets tenants reach though they are private.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub(crate) fn destination(
        &self,
        hosts: &BTreeSet<AllowedHost>,
    ) -> Result<Destination, DestinationError> {
        let listed = |origin: Origin| hosts.iter().any(|host| host.admits(&origin));
        let private = Destination::check_text(&self.url).is_ok_and(listed);
        Destination::parse(&self.url, private)
    }
}

/// The operator's receiver.
pub struct OperatorReceiver {
    to: Destination,
    signer: Signer,
}

/// Why a receiver cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReceiverError {
    /// Its URL.
    Url(DestinationError),
    /// Its signing secret.
    Secret(SignerError),
}

impl fmt::Display for ReceiverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Secret(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReceiverError {}

impl OperatorReceiver {
    /// A receiver that the operator names. Its host may be this machine where it is written so, and private where
    /// `allow_private` says so.
    ///
    /// # Errors
    /// What is wrong with the URL or the secret.
    pub fn new(
        url: &str,
        allow_private: bool,
        ca: Option<CaBundle>,
        secret: &Secret,
    ) -> Result<Self, ReceiverError> {
        let to = operator_destination(url, allow_private).map_err(ReceiverError::Url)?;
        Ok(Self {
            to: to.with_ca(ca),
            signer: Signer::parse(secret).map_err(ReceiverError::Secret)?,
        })
    }
}

/// Where the operator's alerts go, checked without its secret.
///
/// # Errors
/// The rule that the URL breaks.
pub fn operator_destination(
    url: &str,
    allow_private: bool,
) -> Result<Destination, DestinationError> {
    let loopback = Destination::check_text(url)?.is_loopback();
    Destination::parse(url, allow_private || loopback)
}

/// What the process keeps of its alerts beside the tenants.
#[derive(Default)]
pub(crate) struct Desk {
    egress: Egress,
    operator: ArcSwapOption<OperatorReceiver>,
    unsaid: Mutex<VecDeque<Message>>,
    post: Post,
    slots: Slots,
    /// Which tenant's delivery is looked at first, in the order of names.
    next: AtomicUsize,
}

struct Slots(Arc<Semaphore>);

impl Default for Slots {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DELIVERIES_MAX)))
    }
}

/// What is kept in memory of one tenant's alerts.
#[derive(Default)]
pub(crate) struct Watch {
    state: Mutex<State>,
    post: Post,
}

#[derive(Default)]
struct State {
    pace: Pace,
    unsaid: VecDeque<Message>,
    /// Marks of what was told lately, so that what goes on for long is not brought to a disk every second.
    told: HashSet<String>,
    /// The hour or day of the last checkpoint that was told, as its first second.
    checkpoint_begin: Option<i64>,
}

impl State {
    /// Whether a message was told lately.
    fn knows(&self, message: &Message) -> bool {
        self.told.contains(&message.mark)
    }

    fn remember(&mut self, mark: String) {
        if self.told.len() >= TOLD_MAX {
            // The outboxes know for good.
            self.told.clear();
        }
        self.told.insert(mark);
    }
}

/// An outbox as the process sees it.
pub(crate) struct Post {
    /// When its next message is due, in unix milliseconds; `i64::MAX`: nothing waits.
    due: AtomicI64,
    /// A delivery is under way.
    busy: AtomicBool,
    /// Whether the registry says that something waits in a tenant's outbox. Held while a message is put in, and while the last one
    /// leaves, for the operator's outbox too.
    waits: tokio::sync::Mutex<bool>,
}

impl Default for Post {
    fn default() -> Self {
        Self {
            due: AtomicI64::new(i64::MAX),
            busy: AtomicBool::new(false),
            waits: tokio::sync::Mutex::new(false),
        }
    }
}

impl Watch {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every section is a few assignments: a panic cannot leave it half-written.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kernel {
    /// Names the operator's receiver, or none. Before the maintenance starts.
    pub fn set_operator_receiver(&self, receiver: Option<OperatorReceiver>) {
        self.alerts().operator.store(receiver.map(Arc::new));
    }

    /// Opens the tenants that have alerts waiting from an earlier run. A failure leaves them to their next call.
    pub(crate) async fn open_waiting(&self) {
        let waiting = |tx: &ReadTx<'_>| {
            let uids = tx.query(
                "SELECT uid FROM outbox_waits",
                params![],
                limits::TENANTS_MAX,
                |row| Ok(base::TenantUid::from_bytes(row.get(0)?)),
            )?;
            Ok((uids, outbox::next_due(tx)?))
        };
        let found = self.engine().read(self.registry_place(), waiting).await;
        let Ok((uids, operators)) = found else {
            self.log()
                .event(self.now(), None, "waiting alerts not found", &[]);
            return;
        };
        if let Some(due) = operators {
            self.alerts().post.due.fetch_min(due, Ordering::Relaxed);
        }
        for uid in uids {
            if let Some(resident) = self.directory().by_uid(&uid) {
                // A failure quarantines that tenant and is in the log.
                let _reported = self.load(&resident).await;
            }
        }
    }

    /// Takes up what waits in a tenant's outbox when the tenant is opened.
    pub(crate) async fn find_alerts(&self, resident: &Resident) -> Result<(), KernelError> {
        let place = self.place(resident)?;
        if let Some(due) = self.engine().read(&place, outbox::next_due).await? {
            *resident.alerts.post.waits.lock().await = true;
            resident.alerts.post.due.fetch_min(due, Ordering::Relaxed);
        }
        Ok(())
    }

    /// One look at every open tenant: thresholds reached, calls refused, spend out of hand, quarantine. Call it once a second.
    pub async fn look_at_budgets(&self) {
        let mut operator_hears = true;
        for resident in self.directory().all() {
            self.look_at(&resident).await;
            // What a store does not take stays unsaid until the next look; the store's own trouble is in the log.
            if resident.quarantine.load().is_none() {
                let _again_next_time = self.say(&resident).await;
            }
            // After each tenant, so that what many have to say at once never has to wait in memory.
            operator_hears = operator_hears && self.say_to_operator().await.is_ok();
        }
        // What is about no tenant, where there is none.
        if operator_hears {
            let _again_next_time = self.say_to_operator().await;
        }
    }

    async fn look_at(&self, resident: &Arc<Resident>) {
        let now = self.now();
        let about = About {
            id: &resident.id,
            uid: resident.uid,
            now,
        };
        let operator = self.alerts().operator.load().is_some();
        if let Some(found) = resident.quarantine.load_full() {
            let news = about.quarantined(&found.why).filter(|_news| operator);
            if let Some(message) = news {
                self.tell(resident, true, false, message);
            }
            return;
        }
        let settings = resident.settings.load_full();
        let own = settings.alerts.receiver.is_some();
        if resident.loaded.get().is_none() || resident.is_dead() || !(own || operator) {
            return;
        }
        let receiver = settings.alerts.receiver.as_ref();
        if let Some(schedule) = receiver.and_then(|receiver| receiver.checkpoints) {
            self.look_at_checkpoint(resident, schedule).await;
        }
        let (crossings, throttled, (month, spent)) = {
            let limits = resident.limits.load();
            let mut books = resident.books();
            let counters = &mut books.counters;
            let crossings = match own {
                true => counters.crossed(&limits, &settings.alerts.thresholds, now),
                false => Vec::new(),
            };
            let throttled = counters.throttled(&limits);
            (crossings, throttled, counters.spent(now))
        };
        let runaway = self.runaway(resident, now, month, spent).await;
        let both = throttled
            .iter()
            .filter_map(|gauge| about.throttled(gauge))
            .chain(runaway.and_then(|(hour, day)| about.runaway(hour, day)));
        for message in both {
            self.tell(resident, operator, own, message);
        }
        for message in crossings.iter().filter_map(|at| about.threshold(at)) {
            self.to_tenant(resident, message);
        }
    }

    /// Tells the operator, the tenant or both what they were not told lately. What one of them did not take is told again.
    fn tell(&self, resident: &Resident, operator: bool, own: bool, message: Message) {
        if resident.alerts.state().knows(&message) {
            return;
        }
        let mark = message.mark.clone();
        let heard = !operator || self.to_operator(message.clone());
        let heard_too = !own || self.to_tenant(resident, message);
        if heard && heard_too {
            resident.alerts.state().remember(mark);
        }
    }

    /// The last hour's spend and that of the dearest day, where the first is out of hand.
    async fn runaway(
        &self,
        resident: &Arc<Resident>,
        now: Timestamp,
        month: base::UtcMonth,
        spent: i128,
    ) -> Option<(Money, Money)> {
        let (is_new, hour, dearest) = {
            let mut state = resident.alerts.state();
            let is_new = state.pace.is_new();
            state.pace.observe(now, month, spent);
            (
                is_new,
                state.pace.last_hour(),
                state.pace.dearest(now.day()),
            )
        };
        // Small change needs no look into the database.
        if hour < pace::FLOOR && !(is_new && spent >= pace::FLOOR.pico()) {
            return None;
        }
        let dearest = match dearest {
            Some(dearest) if !is_new => dearest,
            _ => self.look_back(resident, now, is_new).await.ok()?,
        };
        let hour = resident.alerts.state().pace.last_hour();
        pace::is_runaway(hour, dearest).then(|| (hour, dearest.unwrap_or_default()))
    }

    /// Reads the history of a tenant's spend; with `seed`, the last hour's too.
    async fn look_back(
        &self,
        resident: &Arc<Resident>,
        now: Timestamp,
        seed: bool,
    ) -> Result<Option<Money>, KernelError> {
        self.fold(resident).await?;
        let place = self.place(resident)?;
        let today = now.day();
        let read = self
            .engine()
            .read(&place, move |tx| history(tx, now, seed))
            .await;
        let (dearest, minutes) = self.checked(resident, read)?;
        let first_whole = resident.account.load().created.day().next();
        let dearest = (first_whole < today).then_some(dearest);
        let mut state = resident.alerts.state();
        if seed {
            state.pace.seed(&minutes);
        }
        state.pace.set_dearest(today, dearest);
        Ok(dearest)
    }

    /// Tells the operator that the room on the disk has become low or short.
    pub(crate) fn alert_of_disk(&self, state: &DiskState) {
        let news = event::disk(state, self.now());
        if let Some(message) = news.filter(|_news| self.alerts().operator.load().is_some()) {
            // One that finds too many waiting is logged there.
            let _dropped = self.to_operator(message);
        }
    }

    fn to_operator(&self, message: Message) -> bool {
        let unsaid = self.alerts().unsaid.lock();
        let taken = push(&mut unsaid.unwrap_or_else(PoisonError::into_inner), message);
        if !taken {
            self.log_dropped(None, UNSAID_MAX);
        }
        taken
    }

    fn to_tenant(&self, resident: &Resident, message: Message) -> bool {
        let taken = push(&mut resident.alerts.state().unsaid, message);
        if !taken {
            self.log_dropped(Some(resident), UNSAID_MAX);
        }
        taken
    }

    /// Puts what is to be told a tenant into its outbox.
    async fn say(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        let post = &resident.alerts.post;
        loop {
            let Some(message) = resident.alerts.state().unsaid.front().cloned() else {
                return Ok(());
            };
            let mut waits = post.waits.lock().await;
            if !*waits {
                // First the registry: after a crash between the two a tenant is opened for nothing.
                let uid = resident.uid;
                self.registry_write(move |tx| {
                    tx.execute(
                        "INSERT OR IGNORE INTO outbox_waits (uid) SELECT uid FROM tenants WHERE uid = ?1",
                        params![uid.as_bytes()],
                    )
                })
                .await?;
                *waits = true;
            }
            let (place, now) = (self.place(resident)?, self.now());
            let put = self
                .engine()
                .write(&place, move |tx| outbox::put(tx, &message, now))
                .await;
            let taken = self.checked(resident, put)?;
            self.log_taken(Some(resident), taken);
            // Also when it was said already: the registry's note is taken back by the delivery that finds nothing.
            post.due.fetch_min(now.unix_ms(), Ordering::Relaxed);
            drop(waits);
            resident.alerts.state().unsaid.pop_front();
        }
    }

    async fn say_to_operator(&self) -> Result<(), KernelError> {
        let desk = self.alerts();
        let front = || {
            let unsaid = desk.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
            unsaid.front().cloned()
        };
        while let Some(message) = front() {
            // A delivery that has found nothing more must not set the time after this did.
            let _not_between = desk.post.waits.lock().await;
            let now = self.now();
            let taken = self
                .registry_write(move |tx| outbox::put(tx, &message, now))
                .await?;
            self.log_taken(None, taken);
            desk.post.due.fetch_min(now.unix_ms(), Ordering::Relaxed);
            desk.unsaid
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front();
        }
        Ok(())
    }

    fn log_taken(&self, resident: Option<&Resident>, taken: Taken) {
        if taken == Taken::Full {
            self.log_dropped(
                resident,
                usize::try_from(limits::OUTBOX_MAX).unwrap_or_default(),
            );
        }
    }

    fn log_dropped(&self, resident: Option<&Resident>, waiting: usize) {
        let waiting = u64::try_from(waiting).unwrap_or(u64::MAX);
        self.log().event(
            self.now(),
            resident.map(|resident| &resident.id),
            "alert dropped: too many wait",
            &[("waiting", Field::Number(waiting))],
        );
    }
}

/// Whether there was room.
fn push(unsaid: &mut VecDeque<Message>, message: Message) -> bool {
    let room = unsaid.len() < UNSAID_MAX;
    unsaid.extend(Some(message).filter(|_message| room));
    room
}

/// What the dearest of the last seven whole days cost, and, if asked, what each minute of the last hour did. Sums of absurd amounts
/// saturate; those up to nine thousand dollars are exact, and none is off by more than a part in 10^15.
fn history(
    tx: &ReadTx<'_>,
    now: Timestamp,
    last_hour: bool,
) -> Result<(Money, Vec<(i64, i128)>), StoreError> {
    let today = now.day().number();
    let dearest: i64 = tx
        .query_one(
            "SELECT CAST(MIN(COALESCE(MAX(cost), 0), 9.2e18) AS INTEGER) FROM
                (SELECT TOTAL(charged_pico) AS cost FROM rollup WHERE day >= ?1 AND day < ?2 GROUP BY day)",
            params![today - pace::DAYS, today],
            |row| Ok(row.get(0)?),
        )?
        .unwrap_or_default();
    let minutes = match last_hour {
        false => Vec::new(),
        // The newest rows of a busy hour: a lower bound, which later minutes make up for.
        true => tx.query(
            "SELECT finished_ms / 60000, CAST(MIN(TOTAL(charged_pico), 9.2e18) AS INTEGER) FROM
                (SELECT finished_ms, charged_pico FROM ledger WHERE finished_ms > ?1 AND finished_ms <= ?2 ORDER BY finished_ms DESC LIMIT 50000)
             GROUP BY 1",
            params![now.unix_ms() - 3_600_000, now.unix_ms()],
            100,
            |row| Ok((row.get(0)?, i128::from(row.get::<_, i64>(1)?))),
        )?,
    };
    Ok((Money::from_pico(i128::from(dearest)), minutes))
}

#[cfg(test)]
mod tests;
