//! What comes back.

use base::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::audit::{AuditCheckpoint, AuditVerified, ContentPart, FilePiece, Progress};
use crate::ledger::{LedgerRow, UsageRow};
use crate::names::SecretName;
use crate::policy::{PolicyChecked, PolicyExplained, PolicyView};
use crate::tenant::{
    IssuedToken, QuotaView, Repaired, RotatedTokens, TenantCreated, TenantLine, TenantView,
    TokenView,
};
use crate::text;

/// The last line of a command that was carried out. In JSON: `{"tenant": {…}}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// All rows were handed over.
    End {
        /// How many.
        rows: u64,
    },
    /// It is done, and there is nothing to show.
    Done {
        /// One line for people: `token ci of acme is revoked`.
        message: String,
    },
    /// Of `status`.
    Status(StatusView),
    /// Of `tenants.create`.
    TenantCreated(TenantCreated),
    /// Of `tenants.show`, `suspend`, `freeze` and `resume`.
    Tenant(Box<TenantView>),
    /// Of `tenants.repair`.
    Repaired(Box<Repaired>),
    /// Of `tenants.token.issue`.
    Issued(IssuedToken),
    /// Of `tenants.token.rotate`.
    Rotated(RotatedTokens),
    /// Of `tenants.quota.show` and `set`.
    Quota(QuotaView),
    /// Of `audit.verify`, and of `audit.export` after its rows.
    AuditVerified(Box<AuditVerified>),
    /// Of `audit.checkpoint` and `audit.rotate_key`.
    AuditCheckpoint(AuditCheckpoint),
    /// Of `policy.get`.
    Policy(Box<PolicyView>),
    /// Of `policy.set` and `policy.test`.
    PolicyChecked(PolicyChecked),
    /// Of `policy.explain`.
    PolicyExplained(Box<PolicyExplained>),
    /// Of `ratecard.show`, after its rows.
    Ratecard {
        /// The version in force.
        version: String,
        /// How many rows were handed over.
        rows: u64,
    },
    /// Of `ratecard.import`.
    RatecardImported(RatecardImported),
    /// Of `ratecard.check`.
    RatecardChecked(RatecardChecked),
    /// Of `config.check`.
    ConfigChecked(ConfigChecked),
    /// Of `config.show`.
    Config(ConfigView),
    /// Of `doctor`.
    Doctor(Doctor),
}

/// One part of a long answer. In JSON: `{"usage": {…}}`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Row {
    /// A tenant of `tenants.list`.
    Tenant(TenantLine),
    /// A token of `tenants.token.list`.
    Token(TokenView),
    /// A sealed value of `secrets.list`.
    Secret(SecretView),
    /// A day, tenant and model of `billing.report`.
    Usage(UsageRow),
    /// An attempt of `billing.report` with `detail`.
    Ledger(Box<LedgerRow>),
    /// An entry of `audit.tail`: the canonical JSON that was hashed and signed, byte for byte.
    Audit(Box<RawValue>),
    /// One side of the call of `audit.content`.
    Content(ContentPart),
    /// A piece of a file of `audit.export`.
    File(FilePiece),
    /// How far `audit.verify` and `audit.export` have come, in entries. A reader may pass it over.
    Progress(Progress),
    /// A model of `ratecard.show`.
    Price(Box<PriceRow>),
}

/// The gateway, or the data directory where none runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Whether a gateway runs.
    pub running: bool,
    /// Partywall's version.
    pub version: String,
    /// Tenants that are not deleted.
    pub tenants: u64,
    /// The public listener's address.
    pub listen: Option<String>,
    /// The admin listener's address.
    pub admin_listen: Option<String>,
    /// When the gateway started.
    #[serde(with = "text::option")]
    pub started_at: Option<Timestamp>,
}

/// A sealed value's name; the value itself is in no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    /// Its name.
    #[serde(with = "text")]
    pub name: SecretName,
    /// When it was set.
    #[serde(with = "text")]
    pub created_at: Timestamp,
}

/// The prices of one model. Decimals in USD per token, in plain digits; `None` is "no price", which is not free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceRow {
    /// The name in the card.
    pub model: String,
    /// The provider the card names.
    pub litellm_provider: Option<String>,
    /// Input.
    pub input_cost_per_token: Option<String>,
    /// Output.
    pub output_cost_per_token: Option<String>,
    /// Input read from the prompt cache.
    pub cache_read_input_token_cost: Option<String>,
    /// Input written to the prompt cache.
    pub cache_creation_input_token_cost: Option<String>,
    /// Reasoning; output's price where absent.
    pub output_cost_per_reasoning_token: Option<String>,
    /// Context window.
    pub max_input_tokens: Option<u64>,
    /// Longest output.
    pub max_output_tokens: Option<u64>,
    /// Why calls to it are refused, where the card bills by a bucket that is not supported.
    pub refused: Option<String>,
}

/// A card that is now in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatecardImported {
    /// Its version: the one on every row from now on.
    pub version: String,
    /// Models of the imported file.
    pub models: u64,
    /// Entries that were taken but cannot be billed, by name with the reason.
    pub warnings: Vec<String>,
}

/// Whether the configured models have prices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatecardChecked {
    /// The version that was checked.
    pub version: String,
    /// Configured routes that have a price.
    pub priced: u64,
    /// Configured routes whose calls are refused, each with the reason.
    pub problems: Vec<String>,
}

/// A configuration without faults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigChecked {
    /// The files that were read.
    pub files: Vec<String>,
    /// What works but deserves a look.
    pub warnings: Vec<String>,
}

/// The configuration as it works.
#[derive(Debug, Serialize, Deserialize)]
pub struct ConfigView {
    /// The files it comes from.
    pub files: Vec<String>,
    /// Defaults filled in, secrets as references.
    pub config: Box<RawValue>,
}

/// What `doctor` found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl Doctor {
    /// Whether a check failed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.checks
            .iter()
            .any(|check| check.state == CheckState::Fail)
    }
}

/// One look of `doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: `disk`.
    pub name: String,
    /// How it stands.
    pub state: CheckState,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, but deserves a look.
    Warn,
    /// Must be put right.
    Fail,
}

impl CheckState {
    /// The name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One line of the route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    /// The HTTP method.
    pub method: String,
    /// The path with its parameters in braces.
    pub path: String,
    /// Who may call it: `public`, `operator`, or the tenant roles.
    pub access: String,
    /// Kinds of objects its parameters name.
    pub objects: Vec<String>,
    /// The listener that serves it: `public` or `admin`.
    pub listener: String,
}
