//! What an operator may ask.

use base::{Money, Role, TenantId, TokenName, UtcDay};
use serde::{Deserialize, Serialize};

use crate::names::{Change, SecretName, Until};
use crate::tenant::Limits;
use crate::{Credential, text};

/// One request of the control protocol. In JSON: `{"command": "tenants.show", "id": "acme"}`; unknown fields are refused.
///
/// The doc of each variant names what follows: the rows, then the [`Answer`](crate::Answer).
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "command", deny_unknown_fields)]
pub enum Command {
    /// The running gateway. `Answer::Status`.
    #[serde(rename = "status")]
    Status,
    /// A new tenant with its first token. `Answer::TenantCreated`.
    #[serde(rename = "tenants.create")]
    TenantsCreate(NewTenant),
    /// Every tenant by id. `Row::Tenant`s, `Answer::End`.
    #[serde(rename = "tenants.list")]
    TenantsList,
    /// One tenant in full. `Answer::Tenant`.
    #[serde(rename = "tenants.show")]
    TenantsShow {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Ends every call and stream of the tenant until it is resumed. `Answer::Tenant`.
    #[serde(rename = "tenants.suspend")]
    TenantsSuspend {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Lets a suspended tenant work again. `Answer::Tenant`.
    #[serde(rename = "tenants.resume")]
    TenantsResume {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Destroys the tenant's keys, then its data. `Answer::Done`.
    #[serde(rename = "tenants.delete")]
    TenantsDelete {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// The same id again; refused when it differs.
        #[serde(with = "text")]
        confirm: TenantId,
    },
    /// A new secret for one token, or for all. `Answer::Rotated`.
    #[serde(rename = "tenants.token.rotate")]
    TokenRotate {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// Which token; without it the one made by `tenants.create`. Not together with `all`.
        #[serde(default, with = "text::option")]
        name: Option<TokenName>,
        /// Every living token.
        #[serde(default)]
        all: bool,
        /// How long the old secret still works; without it, it ends at once.
        #[serde(default, with = "text::option")]
        grace: Option<Until>,
    },
    /// One more named token. `Answer::Issued`; a living name is refused with `exists`.
    #[serde(rename = "tenants.token.issue")]
    TokenIssue {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// Its name among the tenant's tokens.
        #[serde(with = "text")]
        name: TokenName,
        /// What it may do.
        #[serde(with = "text")]
        role: Role,
        /// When it ends by itself.
        #[serde(default, with = "text::option")]
        expires: Option<Until>,
    },
    /// The tenant's tokens, without their secrets. `Row::Token`s, `Answer::End`.
    #[serde(rename = "tenants.token.list")]
    TokenList {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Ends one token at once. `Answer::Done`.
    #[serde(rename = "tenants.token.revoke")]
    TokenRevoke {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// Which token.
        #[serde(with = "text")]
        name: TokenName,
    },
    /// Limits, where each comes from, what is used. `Answer::Quota`.
    #[serde(rename = "tenants.quota.show")]
    QuotaShow {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Changes limits or tier. `Answer::Quota`, after the change.
    #[serde(rename = "tenants.quota.set")]
    QuotaSet {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// What changes.
        change: LimitsChange,
    },
    /// Seals a value under the tenant's key, replacing one of that name. `Answer::Done`.
    #[serde(rename = "secrets.set")]
    SecretsSet {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// Its name; a provider's name makes it the tenant's own key there.
        #[serde(with = "text")]
        name: SecretName,
        /// The value, at most `base::limits::SECRET_BYTES_MAX` bytes.
        value: Credential,
    },
    /// Names of sealed values, never the values. `Row::Secret`s, `Answer::End`.
    #[serde(rename = "secrets.list")]
    SecretsList {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
    },
    /// Removes one sealed value. `Answer::Done`.
    #[serde(rename = "secrets.delete")]
    SecretsDelete {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// Which value.
        #[serde(with = "text")]
        name: SecretName,
    },
    /// Seals every value again under a fresh key of the tenant. `Answer::Done`.
    #[serde(rename = "secrets.rotate")]
    SecretsRotate {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
    },
    /// Usage and cost. `Row::Usage`s (day, tenant, model), or with `detail` `Row::Ledger`s (attempts); `Answer::End`.
    #[serde(rename = "billing.report")]
    BillingReport {
        /// One tenant; all without it.
        #[serde(default, with = "text::option")]
        tenant: Option<TenantId>,
        /// First day, in UTC.
        #[serde(default, with = "text::option")]
        from: Option<UtcDay>,
        /// Last day, in UTC, included.
        #[serde(default, with = "text::option")]
        to: Option<UtcDay>,
        /// One row per attempt in place of one per day, tenant and model.
        #[serde(default)]
        detail: bool,
    },
    /// The last entries of a tenant's audit log, oldest first. `Row::Audit`s, `Answer::End`.
    #[serde(rename = "audit.tail")]
    AuditTail {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// At most so many of the past.
        limit: u32,
        /// Then each new entry as it comes, until the reader goes away.
        #[serde(default)]
        follow: bool,
    },
    /// The prices in force. `Row::Price`s by model, `Answer::Ratecard`.
    #[serde(rename = "ratecard.show")]
    RatecardShow,
    /// Puts a price file in force for new calls. `Answer::RatecardImported`; a bad card changes nothing.
    #[serde(rename = "ratecard.import")]
    RatecardImport {
        /// The file's name, for messages and the record.
        name: String,
        /// Its text.
        card: String,
    },
    /// Whether every configured model has a price; with a card, as if it were imported. `Answer::RatecardChecked`.
    #[serde(rename = "ratecard.check")]
    RatecardCheck {
        /// A file's text to check before its import.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        card: Option<String>,
    },
    /// Reads the configuration on disk, and a tenant's overlay over it. `Answer::ConfigChecked`, or a fault with key and line.
    #[serde(rename = "config.check")]
    ConfigCheck {
        /// Whose overlay.
        #[serde(default, with = "text::option")]
        tenant: Option<TenantId>,
    },
    /// The configuration as it works: defaults filled in, secrets as references. `Answer::Config`.
    #[serde(rename = "config.show")]
    ConfigShow {
        /// As this tenant's overlay makes it.
        #[serde(default, with = "text::option")]
        tenant: Option<TenantId>,
    },
    /// Looks at keys, disk, clock, configuration. `Answer::Doctor`, also when checks fail.
    #[serde(rename = "doctor")]
    Doctor,
}

/// A tenant to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Its id.
    #[serde(with = "text")]
    pub id: TenantId,
    /// A tier of the configuration; the first one there without it.
    #[serde(default)]
    pub tier: Option<String>,
    /// Limits of its own, over those of the tier.
    #[serde(default)]
    pub limits: Limits,
}

/// Changes to what a tenant may use. An absent field stays, `null` goes back to the tier's.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsChange {
    /// Moves the tenant to another tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Calls in any second.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub requests_per_second: Change<u64>,
    /// Calls in any minute.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub requests_per_minute: Change<u64>,
    /// Calls per UTC day.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub requests_per_day: Change<u64>,
    /// Tokens, input and output, in any minute.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub tokens_per_minute: Change<u64>,
    /// Tokens, input and output, per UTC day.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub tokens_per_day: Change<u64>,
    /// USD per UTC day.
    #[serde(with = "text::change", skip_serializing_if = "Change::is_keep")]
    pub cost_per_day_usd: Change<Money>,
    /// USD per UTC month.
    #[serde(with = "text::change", skip_serializing_if = "Change::is_keep")]
    pub cost_per_month_usd: Change<Money>,
    /// Calls at the same time.
    #[serde(skip_serializing_if = "Change::is_keep")]
    pub concurrent_requests: Change<u64>,
}

impl LimitsChange {
    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The tenant's own limits after the change.
    #[must_use]
    pub fn applied_to(&self, before: &Limits) -> Limits {
        Limits {
            requests_per_second: self
                .requests_per_second
                .applied_to(before.requests_per_second),
            requests_per_minute: self
                .requests_per_minute
                .applied_to(before.requests_per_minute),
            requests_per_day: self.requests_per_day.applied_to(before.requests_per_day),
            tokens_per_minute: self.tokens_per_minute.applied_to(before.tokens_per_minute),
            tokens_per_day: self.tokens_per_day.applied_to(before.tokens_per_day),
            cost_per_day_usd: self.cost_per_day_usd.applied_to(before.cost_per_day_usd),
            cost_per_month_usd: self
                .cost_per_month_usd
                .applied_to(before.cost_per_month_usd),
            concurrent_requests: self
                .concurrent_requests
                .applied_to(before.concurrent_requests),
        }
    }
}

impl Command {
    /// The name in JSON, for log lines and audit entries.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::TenantsCreate(_) => "tenants.create",
            Self::TenantsList => "tenants.list",
            Self::TenantsShow { .. } => "tenants.show",
            Self::TenantsSuspend { .. } => "tenants.suspend",
            Self::TenantsResume { .. } => "tenants.resume",
            Self::TenantsDelete { .. } => "tenants.delete",
            Self::TokenRotate { .. } => "tenants.token.rotate",
            Self::TokenIssue { .. } => "tenants.token.issue",
            Self::TokenList { .. } => "tenants.token.list",
            Self::TokenRevoke { .. } => "tenants.token.revoke",
            Self::QuotaShow { .. } => "tenants.quota.show",
            Self::QuotaSet { .. } => "tenants.quota.set",
            Self::SecretsSet { .. } => "secrets.set",
            Self::SecretsList { .. } => "secrets.list",
            Self::SecretsDelete { .. } => "secrets.delete",
            Self::SecretsRotate { .. } => "secrets.rotate",
            Self::BillingReport { .. } => "billing.report",
            Self::AuditTail { .. } => "audit.tail",
            Self::RatecardShow => "ratecard.show",
            Self::RatecardImport { .. } => "ratecard.import",
            Self::RatecardCheck { .. } => "ratecard.check",
            Self::ConfigCheck { .. } => "config.check",
            Self::ConfigShow { .. } => "config.show",
            Self::Doctor => "doctor",
        }
    }

    /// The tenant it is about, for log lines.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::TenantsCreate(new) => Some(&new.id),
            Self::TenantsShow { id }
            | Self::TenantsSuspend { id }
            | Self::TenantsResume { id }
            | Self::TenantsDelete { id, .. }
            | Self::TokenRotate { id, .. }
            | Self::TokenIssue { id, .. }
            | Self::TokenList { id }
            | Self::TokenRevoke { id, .. }
            | Self::QuotaShow { id }
            | Self::QuotaSet { id, .. } => Some(id),
            Self::SecretsSet { tenant, .. }
            | Self::SecretsList { tenant }
            | Self::SecretsDelete { tenant, .. }
            | Self::SecretsRotate { tenant }
            | Self::AuditTail { tenant, .. } => Some(tenant),
            Self::BillingReport { tenant, .. }
            | Self::ConfigCheck { tenant }
            | Self::ConfigShow { tenant } => tenant.as_ref(),
            Self::Status
            | Self::TenantsList
            | Self::RatecardShow
            | Self::RatecardImport { .. }
            | Self::RatecardCheck { .. }
            | Self::Doctor => None,
        }
    }
}
