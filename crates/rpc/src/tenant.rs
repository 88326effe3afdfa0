//! Tenants, tokens and limits as the protocol shows them.

use base::{Markup, Money, Role, TenantId, TenantUid, Timestamp, TokenName};
use serde::{Deserialize, Serialize};

use crate::{Credential, text};

/// Limits of a tenant's own; `None` is what the tier says.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls in any second.
    pub requests_per_second: Option<u64>,
    /// Calls in any minute.
    pub requests_per_minute: Option<u64>,
    /// Calls per UTC day.
    pub requests_per_day: Option<u64>,
    /// Tokens, input and output, in any minute.
    pub tokens_per_minute: Option<u64>,
    /// Tokens, input and output, per UTC day.
    pub tokens_per_day: Option<u64>,
    /// USD per UTC day.
    #[serde(with = "text::option")]
    pub cost_per_day_usd: Option<Money>,
    /// USD per UTC month.
    #[serde(with = "text::option")]
    pub cost_per_month_usd: Option<Money>,
    /// Calls at the same time.
    pub concurrent_requests: Option<u64>,
}

/// Where a tenant stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Works.
    Active,
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
    /// Limits of its own, over those of the tier.
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
    /// One line per limit.
    pub quotas: Vec<QuotaLine>,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaLine {
    /// Its name: `tokens_per_day`.
    pub name: String,
    /// The limit in plain digits; `None` is unlimited.
    pub limit: Option<String>,
    /// `tenant`, `tier` or `none`: who set it.
    pub source: String,
    /// What is used of it in the current window, in plain digits, holds included.
    pub used: String,
    /// When a fixed window ends; a sliding one has no such moment.
    #[serde(with = "text::option")]
    pub resets_at: Option<Timestamp>,
}
