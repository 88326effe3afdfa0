//! What an operator may ask.

use base::{Limits, PersonName, Role, Scope, TenantId, TokenName, UtcDay};
use serde::{Deserialize, Serialize};

use crate::limits::{self, Changes};
use crate::names::{SecretName, Until};
use crate::policy::PolicyQuestion;
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
    /// Ends every call and stream of the tenant and leaves it reading, until it is resumed. `Answer::Tenant`.
    #[serde(rename = "tenants.freeze")]
    TenantsFreeze {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Lets a suspended or frozen tenant work again. `Answer::Tenant`.
    #[serde(rename = "tenants.resume")]
    TenantsResume {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Reads all of a tenant, verifies its log, and brings its last good copy up to date. `Answer::Done`; damage is refused with
    /// `quarantined`.
    #[serde(rename = "tenants.check")]
    TenantsCheck {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
    },
    /// Rebuilds a quarantined tenant's database from what can be read of it, its last good copy and the journal.
    /// `Answer::Repaired`.
    #[serde(rename = "tenants.repair")]
    TenantsRepair {
        /// The tenant.
        #[serde(with = "text")]
        id: TenantId,
        /// Says what would be kept and lost, and leaves everything as it is.
        #[serde(default)]
        dry_run: bool,
        /// Begins with the journal alone where nothing else can be read.
        #[serde(default)]
        anew: bool,
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
        /// The natural person that it stands for.
        #[serde(
            default,
            with = "text::option",
            skip_serializing_if = "Option::is_none"
        )]
        person: Option<PersonName>,
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
    /// The rules of a tenant. `Answer::Policy`.
    #[serde(rename = "policy.get")]
    PolicyGet {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// The operator's rules in place of the tenant's own.
        #[serde(default)]
        base: bool,
    },
    /// Puts a document in force as the tenant's own rules. `Answer::PolicyChecked`; one whose own tests fail changes nothing.
    #[serde(rename = "policy.set")]
    PolicySet {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// Rules and tests, in YAML; empty: no rules of its own.
        document: String,
    },
    /// Puts a document's own tests to it. `Answer::PolicyChecked`; nothing is changed.
    #[serde(rename = "policy.test")]
    PolicyTest {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// Rules and tests, in YAML; without it, those that are set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        document: Option<String>,
    },
    /// What would be decided, and by which rules. `Answer::PolicyExplained`.
    #[serde(rename = "policy.explain")]
    PolicyExplain(PolicyQuestion),
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
    /// Verifies a tenant's whole log. `Row::Progress`, `Answer::AuditVerified`.
    #[serde(rename = "audit.verify")]
    AuditVerify {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// A checkpoint kept elsewhere, as it was signed: the log must begin with its entries.
        #[serde(default)]
        since: Option<String>,
    },
    /// Verifies a tenant's whole log and hands it over as the files of an export. `Row::File`s, `Row::Progress`,
    /// `Answer::AuditVerified`.
    #[serde(rename = "audit.export")]
    AuditExport {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
    },
    /// The checkpoint over everything that has happened so far. `Answer::AuditCheckpoint`.
    #[serde(rename = "audit.checkpoint")]
    AuditCheckpoint {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
    },
    /// Gives a tenant's log a fresh signing key. `Answer::AuditCheckpoint`.
    #[serde(rename = "audit.rotate_key")]
    AuditRotateKey {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
    },
    /// What is kept of one call, at the logging level `full`. `Row::Content`s, `Answer::End`.
    #[serde(rename = "audit.content")]
    AuditContent {
        /// The tenant.
        #[serde(with = "text")]
        tenant: TenantId,
        /// The place of the call's entry.
        seq: u64,
    },
    /// Destroys the key that what a person said is sealed under: nobody reads it any more. One of `person` and `token`.
    /// `Answer::Done`.
    #[serde(rename = "audit.forget")]
    AuditForget(Forget),
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
    #[serde(default, with = "limits")]
    pub limits: Limits,
}

/// Whose content is to be read by nobody any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The person.
    #[serde(default)]
    pub person: Option<String>,
    /// A token that stands for no person.
    #[serde(default, with = "text::option")]
    pub token: Option<TokenName>,
}

/// Changes to what a tenant, or one of its persons and tokens, may use. An absent quota stays, `null` goes back to what holds
/// without one of this scope.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LimitsChange {
    /// Moves the tenant to another tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Whose limits change: the tenant's without it.
    #[serde(default, with = "text", skip_serializing_if = "is_tenant")]
    pub scope: Scope,
    /// When the limits that are set end by themselves; those without an end then hold again.
    #[serde(
        default,
        with = "text::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<Until>,
    /// What happens to each quota.
    #[serde(flatten)]
    pub limits: Changes,
}

impl LimitsChange {
    /// Checks that the parts of the change go together: for the command line and the API alike.
    ///
    /// # Errors
    /// The first rule that it breaks; the sentence names the fields.
    pub fn check(&self) -> Result<(), String> {
        let limits = self.limits.list();
        if self.tier.is_none() && limits.is_empty() {
            return Err(
                "nothing would change: give a tier, or the limit of a quota such as tokens_per_day"
                    .to_owned(),
            );
        }
        if self.tier.is_some() && self.until.is_some() {
            return Err(
                "tier does not go with until: a move to another tier does not end by itself; change it apart".to_owned(),
            );
        }
        if self.tier.is_some() && self.scope != Scope::Tenant {
            return Err(format!(
                "tier does not go with scope {}: the tier is that of the tenant; change it apart",
                self.scope
            ));
        }
        if self.scope != Scope::Tenant
            && let Some((quota, _)) = limits.iter().find(|(quota, _)| !quota.is_personal())
        {
            return Err(format!(
                "{} does not go with scope {}: only the tenant as a whole has such a limit",
                quota.name(),
                self.scope
            ));
        }
        let lifted = limits.iter().find(|(_, limit)| limit.is_none());
        match lifted {
            Some((quota, _)) if self.until.is_some() => Err(format!(
                "{} none does not go with until: a limit that was lifted does not come back by itself; set a high one instead",
                quota.name()
            )),
            _ => Ok(()),
        }
    }
}

fn is_tenant(scope: &Scope) -> bool {
    *scope == Scope::Tenant
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
            Self::TenantsFreeze { .. } => "tenants.freeze",
            Self::TenantsResume { .. } => "tenants.resume",
            Self::TenantsCheck { .. } => "tenants.check",
            Self::TenantsRepair { .. } => "tenants.repair",
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
            Self::PolicyGet { .. } => "policy.get",
            Self::PolicySet { .. } => "policy.set",
            Self::PolicyTest { .. } => "policy.test",
            Self::PolicyExplain(_) => "policy.explain",
            Self::BillingReport { .. } => "billing.report",
            Self::AuditTail { .. } => "audit.tail",
            Self::AuditVerify { .. } => "audit.verify",
            Self::AuditExport { .. } => "audit.export",
            Self::AuditCheckpoint { .. } => "audit.checkpoint",
            Self::AuditRotateKey { .. } => "audit.rotate_key",
            Self::AuditContent { .. } => "audit.content",
            Self::AuditForget(_) => "audit.forget",
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
            | Self::TenantsFreeze { id }
            | Self::TenantsResume { id }
            | Self::TenantsCheck { id }
            | Self::TenantsRepair { id, .. }
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
            | Self::PolicyGet { tenant, .. }
            | Self::PolicySet { tenant, .. }
            | Self::PolicyTest { tenant, .. }
            | Self::PolicyExplain(PolicyQuestion { tenant, .. })
            | Self::AuditTail { tenant, .. }
            | Self::AuditVerify { tenant, .. }
            | Self::AuditExport { tenant }
            | Self::AuditCheckpoint { tenant }
            | Self::AuditRotateKey { tenant }
            | Self::AuditContent { tenant, .. }
            | Self::AuditForget(Forget { tenant, .. }) => Some(tenant),
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
