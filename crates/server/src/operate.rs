//! Carries out commands: the one executor behind the control socket, the admin API and the command line.

mod audit;
mod cards;
mod configuration;
mod content;
pub(crate) mod doctor;
mod export;
mod limits;
mod policy;
mod secrets;
mod tenants;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use base::{TenantId, Timestamp};
use gateway::Gateway;
use gateway::catalog::Catalog;
use kernel::{Kernel, Operator, Tenant};
use llm::prices::RateCard;
use rpc::{Answer, Command, Fault, FaultCode, Row, StatusView};

use crate::fault::fault;
use crate::feed::Feed;
use crate::usage::{self, Period};

pub(crate) use audit::{raw, verification_key};
pub(crate) use configuration::{check_file, show_file};
pub(crate) use content::content_part;
pub(crate) use doctor::examine;
pub(crate) use limits::quota_view;
pub(crate) use policy::{base_rules, policy_checked, policy_view};
use tenants::Turn;
pub(crate) use tenants::status;
pub(crate) use tokens::issued;

/// What commands work on: the kernel, and the parts that a running gateway shares with its pipeline.
pub(crate) struct Office {
    pub(crate) kernel: Kernel,
    pub(crate) desk: Desk,
    /// The configuration file that is in force.
    pub(crate) config: PathBuf,
    /// Price files that the configuration names, as texts in their order.
    pub(crate) configured_cards: Vec<String>,
    /// The tier of a tenant that is created without one.
    pub(crate) first_tier: String,
    /// Imports of rate cards happen one at a time: each merges what the one before stored.
    pub(crate) importing: tokio::sync::Mutex<()>,
}

/// Where catalog and prices stand.
pub(crate) enum Desk {
    /// A gateway serves: a new price card is in force for its next call.
    Serving {
        gateway: Arc<Gateway>,
        since: Timestamp,
        public: String,
        admin: String,
    },
    /// Nothing runs; the next start reads what is stored.
    Offline {
        catalog: Arc<Catalog>,
        prices: ArcSwap<RateCard>,
    },
}

impl Desk {
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        match self {
            Self::Serving { gateway, .. } => gateway.catalog(),
            Self::Offline { catalog, .. } => Arc::clone(catalog),
        }
    }

    pub(crate) fn prices(&self) -> Arc<RateCard> {
        match self {
            Self::Serving { gateway, .. } => gateway.prices(),
            Self::Offline { prices, .. } => prices.load_full(),
        }
    }

    fn set_prices(&self, card: RateCard) {
        match self {
            Self::Serving { gateway, .. } => gateway.set_prices(card),
            Self::Offline { prices, .. } => prices.store(Arc::new(card)),
        }
    }
}

impl Office {
    /// Carries a command out for the operator: rows into `to`, then the answer.
    pub(crate) async fn carry_out(
        &self,
        operator: &Operator,
        command: Command,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        match command {
            Command::Status => Ok(self.status(operator)),
            Command::TenantsCreate(new) => self.create_tenant(operator, new).await,
            Command::TenantsList => self.list_tenants(operator, to).await,
            Command::TenantsShow { id } => self.show_tenant(operator, &id),
            Command::TenantsSuspend { id } => self.turn(operator, &id, Turn::Suspend).await,
            Command::TenantsFreeze { id } => self.turn(operator, &id, Turn::Freeze).await,
            Command::TenantsResume { id } => self.turn(operator, &id, Turn::Resume).await,
            Command::TenantsCheck { id } => self.check_tenant(operator, &id).await,
            Command::TenantsRepair { id, dry_run, anew } => {
                self.repair_tenant(operator, &id, dry_run, anew).await
            }
            Command::TenantsDelete { id, confirm } => {
                self.delete_tenant(operator, &id, &confirm).await
            }
            Command::TokenRotate {
                id,
                name,
                all,
                grace,
            } => self.rotate(operator, &id, name, all, grace).await,
            Command::TokenIssue {
                id,
                name,
                role,
                person,
                expires: end,
            } => self.issue(operator, &id, (name, role, person), end).await,
            Command::TokenList { id } => self.list_tokens(operator, &id, to).await,
            Command::TokenRevoke { id, name } => self.revoke(operator, &id, &name).await,
            Command::QuotaShow { id } => self.show_limits(operator, &id).await,
            Command::QuotaSet { id, change } => self.set_limits(operator, &id, change).await,
            secrets @ (Command::SecretsSet { .. }
            | Command::SecretsList { .. }
            | Command::SecretsDelete { .. }
            | Command::SecretsRotate { .. }) => self.carry_out_secrets(operator, secrets, to).await,
            policy @ (Command::PolicyGet { .. }
            | Command::PolicySet { .. }
            | Command::PolicyTest { .. }
            | Command::PolicyExplain(_)) => self.carry_out_policy(operator, policy).await,
            Command::BillingReport {
                tenant,
                from,
                to: until,
                detail,
            } => {
                self.billing(operator, tenant, Period { from, to: until }, detail, to)
                    .await
            }
            Command::RatecardShow => self.show_prices(to).await,
            Command::RatecardImport { name, card } => {
                self.import_card(operator, &name, &card).await
            }
            Command::RatecardCheck { card } => self.check_prices(card.as_deref()),
            Command::ConfigCheck { tenant } => self.check_config(operator, tenant.as_ref()),
            Command::ConfigShow { tenant } => self.show_config(operator, tenant.as_ref()),
            Command::Doctor => Ok(Answer::Doctor(self.doctor(operator).await)),
            audit @ (Command::AuditTail { .. }
            | Command::AuditVerify { .. }
            | Command::AuditExport { .. }
            | Command::AuditCheckpoint { .. }
            | Command::AuditRotateKey { .. }
            | Command::AuditContent { .. }
            | Command::AuditForget(_)) => self.carry_out_audit(operator, audit, to).await,
        }
    }

    async fn carry_out_audit(
        &self,
        operator: &Operator,
        command: Command,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        match command {
            Command::AuditTail {
                tenant,
                limit,
                follow,
            } => self.tail(operator, &tenant, limit, follow, to).await,
            Command::AuditVerify { tenant, since } => {
                self.verify(operator, &tenant, since.as_deref(), to).await
            }
            Command::AuditExport { tenant } => self.export(operator, &tenant, to).await,
            Command::AuditCheckpoint { tenant } => self.checkpoint(operator, &tenant).await,
            Command::AuditRotateKey { tenant } => self.rotate_audit_key(operator, &tenant).await,
            Command::AuditContent { tenant, seq } => self.content(operator, &tenant, seq, to).await,
            Command::AuditForget(forget) => self.forget(operator, forget).await,
            // Every other command has been carried out.
            _ => Err(crate::fault::internal("a command that nobody carries out")),
        }
    }

    async fn carry_out_secrets(
        &self,
        operator: &Operator,
        command: Command,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        match command {
            Command::SecretsSet {
                tenant,
                name,
                value,
            } => self.set_secret(operator, &tenant, &name, &value).await,
            Command::SecretsList { tenant } => self.list_secrets(operator, &tenant, to).await,
            Command::SecretsDelete { tenant, name } => {
                self.delete_secret(operator, &tenant, &name).await
            }
            Command::SecretsRotate { tenant } => self.rotate_secrets(operator, &tenant).await,
            // Every other command has been carried out.
            _ => Err(crate::fault::internal("a command that nobody carries out")),
        }
    }

    async fn carry_out_policy(
        &self,
        operator: &Operator,
        command: Command,
    ) -> Result<Answer, Fault> {
        match command {
            Command::PolicyGet { tenant, base } => self.show_policy(operator, &tenant, base).await,
            Command::PolicySet { tenant, document } => {
                self.set_policy(operator, &tenant, &document).await
            }
            Command::PolicyTest { tenant, document } => {
                self.test_policy(operator, &tenant, document).await
            }
            Command::PolicyExplain(question) => self.explain_policy(operator, question).await,
            // Every other command has been carried out.
            _ => Err(crate::fault::internal("a command that nobody carries out")),
        }
    }

    fn tenant(&self, operator: &Operator, id: &TenantId) -> Result<Tenant, Fault> {
        self.kernel.tenant(operator, id).map_err(fault)
    }

    fn status(&self, operator: &Operator) -> Answer {
        let tenants = u64::try_from(self.kernel.tenants(operator).count()).unwrap_or(u64::MAX);
        let (running, listen, admin_listen, started_at) = match &self.desk {
            Desk::Serving {
                since,
                public,
                admin,
                ..
            } => (
                true,
                Some(public.clone()),
                Some(admin.clone()),
                Some(*since),
            ),
            Desk::Offline { .. } => (false, None, None, None),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Answer::Status(StatusView {
            running,
            version,
            tenants,
            listen,
            admin_listen,
            started_at,
        })
    }

    /// Sums are the operator's own; who asked for what is the tenant's, and a look at it is an entry of the tenant's log.
    async fn look(&self, operator: &Operator, tenant: &Tenant, detail: bool) -> Result<(), Fault> {
        if !detail {
            return Ok(());
        }
        let looked = self
            .kernel
            .record_operator_access(operator, tenant, "billing.report");
        looked.await.map_err(fault)
    }

    /// A tenant whose store is out of service does not keep the others from being billed, but the report says that it is not whole.
    async fn billing(
        &self,
        operator: &Operator,
        only: Option<TenantId>,
        period: Period,
        detail: bool,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        if let Some(id) = only {
            let tenant = self.tenant(operator, &id)?;
            self.look(operator, &tenant, detail).await?;
            usage::feed(&tenant, period, detail, None, to).await?;
            return Ok(Answer::End { rows: to.pushed() });
        }
        let mut missing = Vec::new();
        let mut partial = Vec::new();
        for tenant in self.kernel.tenants(operator) {
            let fed = match self.look(operator, &tenant, detail).await {
                Ok(()) => usage::feed(&tenant, period, detail, None, to).await,
                Err(fault) => Err(fault),
            };
            match fed {
                Ok(()) if tenant.quarantine().is_some() => partial.push(tenant.id().to_string()),
                Ok(()) => {}
                // It goes away under the report, and its rows with it.
                Err(_) if tenant.is_being_deleted() => {}
                Err(fault) if fault.code == FaultCode::Quarantined => {
                    missing.push(tenant.id().to_string())
                }
                Err(fault) => return Err(fault),
            }
        }
        let without = match missing.is_empty() {
            true => None,
            false => Some(format!("is without {}", missing.join(", "))),
        };
        let lacks = match partial.is_empty() {
            true => None,
            false => Some(format!("may lack calls of {}", partial.join(", "))),
        };
        let said: Vec<_> = without.into_iter().chain(lacks).collect();
        if said.is_empty() {
            return Ok(Answer::End { rows: to.pushed() });
        }
        let text = format!(
            "the report {}, whose store is quarantined; see tenants show",
            said.join(" and ")
        );
        Err(Fault::new(FaultCode::Quarantined, text))
    }
}

/// Feeds every element of a list.
async fn feed_all(rows: impl IntoIterator<Item = Row>, to: &Feed) -> Result<Answer, Fault> {
    for row in rows {
        to.push(row).await?;
    }
    Ok(Answer::End { rows: to.pushed() })
}
