//! Tenants and everything that is theirs: the capability, admission, the registry, sealed secrets, the overlay, quotas,
//! the ledger and the audit record.
//!
//! **Invariant:** every byte of tenant state is reached through a [`Tenant`], and a `Tenant` is minted in two places only:
//! `tenant::admit` (a verified credential) and `sweep` (the operator).

pub mod administer;
pub mod alerts;
pub mod audit;
pub mod bulk;
pub mod clock;
pub mod disk;
pub mod egress;
pub mod error;

pub mod ledger;
pub mod lifecycle;
pub mod log;
pub mod overlay;
pub mod pair;
pub mod quarantine;
pub mod quota;
pub mod repair;
pub mod report;
pub mod root;
pub mod settings;
pub mod share;
pub mod sweep;
pub mod tasks;
pub mod tenant;
pub mod ticket;
pub mod tokens;
pub mod webhook;
pub mod workspace;

#[cfg(test)]
mod fixture;
mod fold;
mod journal_damage;
mod journal_record;
mod json_text;
mod maintain;
mod noted;
mod open;
mod os_number;
mod outbox;
mod policies;
mod recover;
mod registry;
mod removal;
mod resident;
mod run_waits;
mod schema;
mod scrub;
mod secrets;

pub use administer::Administrator;
pub use audit::standing::QuotaRefusal;
pub use audit::{Deed, Refusal as AuditedRefusal, Trail};
pub use clock::SystemClock;
pub use disk::{DiskLimits, DiskState, Room};
pub use error::KernelError;
pub use journal_damage::JournalDamage;
pub use ledger::{
    AttemptFacts, CallSlot, Charge, OpenAttempt, Outcome, Settlement, Settling, UnwrittenAttempt,
};
pub use open::{Kernel, KernelOptions};
pub use pair::pair;
pub use policies::{BaseRules, OwnPolicy, PolicyChecked, PolicyExplained, setting_of};
pub use quota::{Demand, Exceeded, Limits, Reservation};
pub use root::DataRoot;
pub use secrets::SecretInfo;
pub use settings::{Settings, Tier, Tiers};
/// What statements and rows are made of.
pub use store::sql;
pub use store::{Crew, Ground, ReadTx, Stage, StoreError, Work, WriteTx};
pub use sweep::Operator;
pub use tenant::admit::{Admission, Authority, Caller, Refused};
pub use tenant::{Purpose, Tenant};
pub use vault::Secret;

/// Names and bytes of a transparency log's files.
pub mod tlog {
    pub use vault::tlog::{Edge, TILE_WIDTH, bundle_path, push_entry, tile_path};
}

/// Hashing for digests that enter the audit record.
pub mod digest {
    pub use vault::{Sha256, sha1_of_handshake, sha256};
}
