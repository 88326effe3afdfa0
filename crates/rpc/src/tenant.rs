//! Tenants, tokens and limits as the protocol shows them.

use base::{Limits, Markup, PersonName, Role, Scope, TenantId, TenantUid, Timestamp, TokenName};
use serde::{Deserialize, Serialize};

use crate::{Credential, limits, text};

/// Where a tenant stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Works.
    Active,
    /// Its credentials read, and get 403 for everything else, until the operator resumes it.
    Frozen,
    /// Every credential gets 403 until the operator resumes it.
    Suspended,
    /// Its keys are gone, its files are being removed.
    Deleting,
}

impl Status {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
        }
    }
}

/// One line of `tenants list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantLine {
    /// Its id.
    #[serde(with = "text")]
    pub id: TenantId,
    /// Where it stands.
    pub status: Status,
    /// Whether its store is out of service; `tenants.show` says why.
    #[serde(default)]
    pub quarantined: bool,
    /// Its tier.
    pub tier: String,
    /// Living tokens.
    pub tokens: u64,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
}

/// One tenant in full.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantView {
    /// Its id.
    #[serde(with = "text")]
    pub id: TenantId,
    /// Its identity for cryptography; differs when an id is deleted and taken again.
    #[serde(with = "text")]
    pub uid: TenantUid,
    /// Where it stands.
    pub status: Status,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// The tier's factor on list prices; `None` is list price.
    #[serde(with = "text::option")]
    pub markup: Option<Markup>,
    /// Limits of its own without an end, over those of the tier.
    #[serde(with = "limits")]
    pub limits: Limits,
    /// Its tokens, without their secrets.
    pub tokens: Vec<TokenView>,
    /// The key that verifies its audit log, in the signed-note form `name+hash+key`.
    pub audit_vkey: String,
    /// Its database.
    pub database: DatabaseView,
}

/// A tenant's database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseView {
    /// Whether it can be used.
    pub state: DatabaseState,
    /// Bytes on disk, where known.
    pub bytes: Option<u64>,
    /// Why it is quarantined.
    pub reason: Option<String>,
    /// Since when it is quarantined.
    #[serde(default, with = "text::option")]
    pub since: Option<Timestamp>,
}

/// What a repair kept and lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// Whether it is served again; not after a dry run.
    pub in_place: bool,
    /// Whether nothing is known to be lost.
    pub whole: bool,
    /// Databases that something could be read of.
    pub sources: u32,
    /// Tables that could not be read to the end in the damaged database.
    pub damaged_tables: Vec<String>,
    /// Rows of the ledger.
    pub rows: u64,
    /// Attempts without a row, as the daily sums or the audit log know them.
    pub lost_rows: u64,
    /// Entries of the audit log, the one about the repair included.
    pub entries: u64,
    /// Places of entries that are lost and whose hash is known: `5-7 300`. The log still goes on from its checkpoints.
    pub lost_entries: String,
    /// Places where other entries stand, because what was there is lost with its hash.
    pub replaced_entries: String,
    /// Whether the log goes on from every checkpoint that is known of it.
    pub goes_on: bool,
    /// Secrets that are kept.
    pub secrets: u64,
    /// Secrets that do not open any more, by name.
    pub lost_secrets: Vec<String>,
    /// Records that came from the journal.
    pub from_journal: u64,
}

/// Whether a tenant's database can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseState {
    /// It opens with the tenant's key.
    Ok,
    /// It did not open, verify or fold; the tenant is out of service.
    Quarantined,
    /// Its keys were destroyed.
    Destroyed,
}

impl DatabaseState {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Quarantined => "quarantined",
            Self::Destroyed => "destroyed",
        }
    }
}

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its name among the tenant's tokens.
    #[serde(with = "text")]
    pub name: TokenName,
    /// What it may do.
    #[serde(with = "text")]
    pub role: Role,
    /// The natural person that it stands for.
    #[serde(
        default,
        with = "text::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub person: Option<PersonName>,
    /// How it begins, as log lines show it: `tk_acme_`.
    pub prefix: String,
    /// Whether it works.
    pub state: TokenState,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// When it ends by itself.
    #[serde(with = "text::option")]
    pub expires_at: Option<Timestamp>,
    /// The last day on which it was used, in UTC.
    #[serde(with = "text::option")]
    pub last_used_day: Option<base::UtcDay>,
}

/// Whether a token works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It works.
    Active,
    /// It was rotated and still works until its grace ends.
    Grace,
    /// It ended by itself.
    Expired,
    /// It was revoked.
    Revoked,
}

impl TokenState {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Grace => "grace",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A new tenant with its first token: the token is shown here and never again.
#[derive(Clone, Serialize, Deserialize)]
pub struct TenantCreated {
    /// Its id.
    #[serde(with = "text")]
    pub id: TenantId,
    /// The first token.
    pub token: Credential,
    /// That token's name.
    #[serde(with = "text")]
    pub token_name: TokenName,
    /// That token's role.
    #[serde(with = "text")]
    pub role: Role,
    /// Where the tenant stands.
    pub status: Status,
    /// Its tier.
    pub tier: String,
    /// When it was made.
    #[serde(with = "text")]
    pub created_at: Timestamp,
    /// The key that verifies its audit log.
    pub audit_vkey: String,
}

/// A token that was just issued or rotated: the only place where its text appears.
#[derive(Clone, Serialize, Deserialize)]
pub struct IssuedToken {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// Its name among the tenant's tokens.
    #[serde(with = "text")]
    pub name: TokenName,
    /// What it may do.
    #[serde(with = "text")]
    pub role: Role,
    /// The natural person that it stands for.
    #[serde(
        default,
        with = "text::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub person: Option<PersonName>,
    /// The token.
    pub token: Credential,
    /// When it ends by itself.
    #[serde(with = "text::option")]
    pub expires_at: Option<Timestamp>,
    /// Until when the secret that it replaces still works; `None` when that has ended.
    #[serde(default, with = "text::option")]
    pub old_valid_until: Option<Timestamp>,
}

/// Tokens that were rotated together.
#[derive(Clone, Serialize, Deserialize)]
pub struct RotatedTokens {
    /// The new tokens, by name.
    pub tokens: Vec<IssuedToken>,
}

/// What a tenant may use and has used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// Its tier.
    pub tier: String,
    /// The tier's factor on list prices; `None` is list price.
    #[serde(with = "text::option")]
    pub markup: Option<Markup>,
    /// One line per quota of the tenant as a whole.
    pub quotas: Vec<QuotaLine>,
    /// The persons that called in this month, by name.
    pub persons: Vec<PartyQuotas>,
    /// The tokens that called in this month, by name.
    pub tokens: Vec<PartyQuotas>,
    /// What the operator set over the tier's limits.
    pub overrides: Vec<OverrideView>,
    /// What the storage is made of; `None` when it cannot be read.
    pub storage: Option<StorageView>,
}

/// The quotas of one person or token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartyQuotas {
    /// Its name.
    pub name: String,
    /// One line per quota.
    pub quotas: Vec<QuotaLine>,
}

/// One quota: its limit and where it stands in the current window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLine {
    /// Its name: `tokens_per_day`.
    pub name: String,
    /// The limit in plain digits; `None` is unlimited.
    pub limit: Option<String>,
    /// Who set it: `temporary` or `tenant` by an override of the operator, `tier`, or `none`.
    pub source: String,
    /// What is used for good, in plain digits.
    pub used: String,
    /// What is set aside for calls under way.
    pub held: String,
    /// What may still be used; `None` is unlimited.
    pub left: Option<String>,
    /// When the window begins anew, or all of a sliding one is free; `None` for open calls and stored bytes.
    #[serde(with = "text::option")]
    pub resets_at: Option<Timestamp>,
    /// When the limit itself ends; `None`: it does not end by itself.
    #[serde(default, with = "text::option")]
    pub until: Option<Timestamp>,
}

/// A limit that the operator set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideView {
    /// For whom: `tenant`, `each-token`, `token:ci`.
    #[serde(with = "text")]
    pub scope: Scope,
    /// The quota.
    pub name: String,
    /// The limit in plain digits.
    pub limit: String,
    /// When it ends.
    #[serde(with = "text::option")]
    pub until: Option<Timestamp>,
}

/// Bytes of a tenant on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageView {
    /// Its database.
    pub database_bytes: u64,
    /// Files that are none of the others.
    pub files_bytes: u64,
    /// Its cache.
    pub cache_bytes: u64,
    /// Logs and exported audit records.
    pub logs_bytes: u64,
}
