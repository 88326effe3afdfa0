//! What the process keeps in memory of one tenant. Private to the kernel: features hold a `Tenant`.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use base::{PersonName, Role, TenantId, TenantUid, Timestamp, TokenName};
use store::{Place, Seq};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use vault::tlog::SignedCheckpoint;
use vault::{Secret, TenantKeys};

use crate::audit::content::Blob;
use crate::audit::person::PersonKeys;
use crate::audit::tree::{Grown, Signer};
use crate::journal_record::Row;
use crate::overlay::Overlay;
use crate::policies::Own;
use crate::quarantine::Quarantine;
use crate::quota::{LimitsInForce, Meters, Override};
use crate::settings::Settings;
use crate::share::Share;

/// Where a tenant stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Served.
    Active,
    /// Reads only: calls and changes by its own credentials get 403 until resumed.
    Frozen,
    /// Refused with 403 until resumed; its data stays.
    Suspended,
    /// Its keys are gone; its files are being removed.
    Deleting,
}

impl Status {
    /// The status on reports and in the registry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Frozen, Self::Suspended, Self::Deleting]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// The operator's side of a tenant: the registry row without its keys.
#[derive(Clone, Debug)]
pub struct Account {
    /// Where it stands.
    pub status: Status,
    /// Name of its tier.
    pub tier: String,
    /// Limits set for this tenant over its tier's, those that have ended included until the next change.
    pub overrides: Vec<Override>,
    /// When it was created.
    pub created: Timestamp,
    /// Ed25519 key that its audit checkpoints verify with.
    pub audit_key: [u8; 32],
}

/// Where in the epoch the part begins that reading capabilities look at.
pub(crate) const READING_EPOCH: u32 = 32;

/// Everything resident of one tenant.
pub(crate) struct Resident {
    pub(crate) id: TenantId,
    pub(crate) uid: TenantUid,
    pub(crate) account: ArcSwap<Account>,
    pub(crate) settings: ArcSwap<Settings>,
    /// Its own rules, once it is open.
    pub(crate) policy: ArcSwap<Own>,
    pub(crate) limits: ArcSwap<LimitsInForce>,
    /// Wrapped keys as the registry holds them; opened at first use.
    pub(crate) wrapped: Mutex<Option<WrappedKeys>>,
    pub(crate) keys: OnceLock<Arc<TenantKeys>>,
    pub(crate) place: OnceLock<Arc<Place>>,
    /// Set when the database has been opened, recovered records folded and counters rebuilt.
    pub(crate) loaded: OnceCell<()>,
    /// Counts up when capabilities given out so far must end: the upper half for all of them (suspension, deletion), the
    /// lower half for those that act (a freeze).
    pub(crate) epoch: AtomicU64,
    /// Fires when every capability ends: ends what reads.
    pub(crate) ended: ArcSwap<CancellationToken>,
    /// Fires with the epoch: ends open calls and streams.
    pub(crate) acting_ended: ArcSwap<CancellationToken>,
    /// Why this tenant is out of service, if it is.
    pub(crate) quarantine: ArcSwapOption<Quarantine>,
    /// Counters, pending settlements, the next audit sequence. Taken under the journal's append lock, never around it.
    pub(crate) books: Mutex<Books>,
    /// One fold at a time; readers wait for it.
    pub(crate) folding: tokio::sync::Mutex<()>,
    pub(crate) secrets: ArcSwap<HashMap<String, Arc<Secret>>>,
    pub(crate) overlay: Mutex<OverlayWatch>,
    pub(crate) overlay_checked_ms: AtomicI64,
    /// The minute of the last rotation by an admin, and how many there were in it.
    pub(crate) rotations: Mutex<(i64, u32)>,
    /// Failed authentications that named this tenant since the last counting entry.
    pub(crate) failed_auth: AtomicU32,
    pub(crate) tag: OnceLock<Arc<str>>,
    pub(crate) alerts: crate::alerts::Watch,
    /// Signs the audit log's checkpoints, once the tenant is open.
    pub(crate) audit_signer: ArcSwapOption<Signer>,
    /// Entries of the log as the registry has them.
    pub(crate) audit_kept: AtomicU64,
    /// UTC day on which it was last read through.
    pub(crate) checked: AtomicI32,
    /// UTC day of the last look for audit entries that are too old.
    pub(crate) audit_looked: AtomicI32,
    /// The audit log's checkpoint after the last fold that made it grow in this process.
    pub(crate) audit_head: ArcSwapOption<SignedCheckpoint>,
    /// Keys that content is sealed under.
    pub(crate) person_keys: PersonKeys,
    /// What the tenant holds of what the process has for all.
    pub(crate) share: Arc<Share>,
    /// One writing into the workspace at a time: each counts what is there first. Held on blocking threads only.
    pub(crate) writing: Mutex<()>,
    /// As the registry has it, once it was asked for.
    pub(crate) os_number: OnceLock<u32>,
}

/// A tenant's keys at rest: the root key under the master, the subkeys under the root key.
pub(crate) struct WrappedKeys {
    pub(crate) root: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
    /// Of a rotation that is under way.
    pub(crate) next: Option<NextKeys>,
}

/// Keys that are to take the place of a tenant's: a fresh root key, and the subkeys under it.
#[derive(Clone)]
pub(crate) struct NextKeys {
    pub(crate) root: Vec<u8>,
    pub(crate) sealed: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Books {
    pub(crate) counters: Meters,
    pub(crate) pending: VecDeque<Pending>,
    pub(crate) oldest: Option<Timestamp>,
    pub(crate) audit_next: u64,
    pub(crate) fold_asked: bool,
    /// Bytes of sealed content among what is pending.
    pub(crate) content_bytes: usize,
}

/// Content that weighs as much as one more record would.
const RECORD_CONTENT_BYTES: usize = 1_024;

impl Books {
    /// Calls whose records are not in the database yet: those under way, and those that wait for their fold.
    pub(crate) fn unwritten(&self) -> i128 {
        let content = self.content_bytes / RECORD_CONTENT_BYTES;
        let waiting = i128::try_from(self.pending.len() + content).unwrap_or(i128::MAX >> 64);
        self.counters.open_calls() + waiting
    }
}

/// A record of the journal that waits for its fold.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) seq: Seq,
    pub(crate) sent: Option<Seq>,
    pub(crate) row: Option<Row>,
    pub(crate) audit_seq: u64,
    pub(crate) entry: String,
    pub(crate) content: Option<Arc<[Blob]>>,
}

/// The overlay file as last seen.
#[derive(Default)]
pub(crate) struct OverlayWatch {
    pub(crate) seen: Option<FileStamp>,
    pub(crate) overlay: Arc<Overlay>,
    pub(crate) error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStamp {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i128,
}

impl Resident {
    pub(crate) fn new(
        id: TenantId,
        uid: TenantUid,
        account: Account,
        wrapped: Option<WrappedKeys>,
        (settings, limits): (Settings, LimitsInForce),
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            uid,
            account: ArcSwap::from_pointee(account),
            settings: ArcSwap::from_pointee(settings),
            policy: ArcSwap::from_pointee(Own::default()),
            limits: ArcSwap::from_pointee(limits),
            wrapped: Mutex::new(wrapped),
            keys: OnceLock::new(),
            place: OnceLock::new(),
            loaded: OnceCell::new(),
            epoch: AtomicU64::new(0),
            ended: ArcSwap::from_pointee(CancellationToken::new()),
            acting_ended: ArcSwap::from_pointee(CancellationToken::new()),
            quarantine: ArcSwapOption::empty(),
            books: Mutex::new(Books::default()),
            folding: tokio::sync::Mutex::new(()),
            secrets: ArcSwap::from_pointee(HashMap::new()),
            overlay: Mutex::new(OverlayWatch::default()),
            overlay_checked_ms: AtomicI64::new(0),
            rotations: Mutex::default(),
            failed_auth: AtomicU32::new(0),
            tag: OnceLock::new(),
            alerts: crate::alerts::Watch::default(),
            audit_signer: ArcSwapOption::empty(),
            audit_kept: AtomicU64::new(0),
            checked: AtomicI32::new(i32::MIN),
            audit_looked: AtomicI32::new(i32::MIN),
            audit_head: ArcSwapOption::empty(),
            person_keys: PersonKeys::default(),
            share: Arc::default(),
            writing: Mutex::default(),
            os_number: OnceLock::new(),
        })
    }

    pub(crate) fn books(&self) -> MutexGuard<'_, Books> {
        // A panic while the lock was held cannot leave the books half-written: every section is a few assignments.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the tenant is being deleted: its keys are gone or going.
    pub(crate) fn is_dead(&self) -> bool {
        self.account.load().status == Status::Deleting
    }

    /// Ends every capability given out so far, open streams included.
    pub(crate) fn end_all(&self) {
        self.end_with(1 << READING_EPOCH);
        anew(&self.ended);
    }

    /// Ends every capability given out so far that can do more than read, open streams included.
    pub(crate) fn end_acting(&self) {
        self.end_with(1);
    }

    fn end_with(&self, step: u64) {
        self.epoch.fetch_add(step, Ordering::SeqCst);
        anew(&self.acting_ended);
    }

    /// Keeps what a fold made of the audit log.
    pub(crate) fn audit_grew(&self, grown: Grown) {
        let Some((head, fresh)) = grown else {
            return;
        };
        self.audit_head.store(Some(Arc::new(head)));
        if let Some(signer) = fresh {
            self.audit_signer.store(Some(Arc::new(signer)));
        }
    }

    /// Ends every capability, but for what the operator reads. Whether it was in service until now.
    pub(crate) fn put_in_quarantine(&self, found: Quarantine) -> bool {
        let before = self
            .quarantine
            .compare_and_swap(&None::<Arc<Quarantine>>, Some(Arc::new(found)));
        self.ended.load().cancel();
        self.acting_ended.load().cancel();
        before.is_none()
    }
}

/// Fires what stands there, for those who hold it, and leaves one for those who come.
fn anew(ended: &ArcSwap<CancellationToken>) {
    ended.swap(Arc::new(CancellationToken::new())).cancel();
}

/// One token as admission sees it.
pub(crate) struct TokenEntry {
    pub(crate) resident: Arc<Resident>,
    pub(crate) hash: [u8; 32],
    pub(crate) name: TokenName,
    /// What it shares with the tokens that it was rotated from, and with no other.
    pub(crate) serial: i64,
    pub(crate) role: Role,
    /// Whom it stands for.
    pub(crate) person: Option<PersonName>,
    pub(crate) created: Timestamp,
    /// `i64::MAX`: never.
    pub(crate) expires_ms: AtomicI64,
    /// `i64::MAX`: not revoked. A grace period is a revocation in the future.
    pub(crate) revoked_ms: AtomicI64,
    /// Day of the last use; `i32::MIN`: never used.
    pub(crate) last_used: AtomicI32,
    /// Day of the last use as the registry has it.
    pub(crate) last_used_saved: AtomicI32,
    /// Fires on revocation: ends the streams of this token alone.
    pub(crate) ended: CancellationToken,
    /// Where its counters are, from its first call on; 0 before.
    pub(crate) party: AtomicU64,
    /// The same of its person.
    pub(crate) person_party: AtomicU64,
    pub(crate) refusals: Mutex<Storm>,
}

/// Refusals of one token in one second.
#[derive(Default)]
pub(crate) struct Storm {
    pub(crate) second: i64,
    pub(crate) seen: u32,
    pub(crate) uncounted: u32,
}

impl TokenEntry {
    /// The same token, of the same tenant as it is after a repair.
    pub(crate) fn of(&self, resident: &Arc<Resident>) -> Arc<Self> {
        let days = self.last_used.load(Ordering::Relaxed);
        Arc::new(Self {
            resident: Arc::clone(resident),
            hash: self.hash,
            name: self.name.clone(),
            serial: self.serial,
            role: self.role,
            person: self.person.clone(),
            created: self.created,
            expires_ms: AtomicI64::new(self.expires_ms.load(Ordering::Relaxed)),
            revoked_ms: AtomicI64::new(self.revoked_ms.load(Ordering::Relaxed)),
            last_used: AtomicI32::new(days),
            last_used_saved: AtomicI32::new(self.last_used_saved.load(Ordering::Relaxed)),
            ended: self.ended.clone(),
            party: AtomicU64::new(0),
            person_party: AtomicU64::new(0),
            refusals: Mutex::new(Storm::default()),
        })
    }

    pub(crate) fn valid_at(&self, now: Timestamp) -> bool {
        let now = now.unix_ms();
        now < self.expires_ms.load(Ordering::Relaxed)
            && now < self.revoked_ms.load(Ordering::Relaxed)
    }
}
