//! Tenants: create, list, show, suspend, freeze, resume, delete.

use base::TenantId;
use kernel::lifecycle::NewTenant;
use kernel::repair::Extent;
use kernel::{Operator, Tenant};
use rpc::{
    Answer, DatabaseState, DatabaseView, Fault, FaultCode, Repaired, Row, Status, TenantCreated,
    TenantLine, TenantView, TokenState,
};

use super::{Office, feed_all, limits, tokens};
use crate::fault::{fault, internal};
use crate::feed::Feed;

/// From one status of a tenant to another.
#[derive(Clone, Copy)]
pub(super) enum Turn {
    Suspend,
    Freeze,
    Resume,
}

impl Office {
    pub(super) async fn create_tenant(
        &self,
        operator: &Operator,
        new: rpc::NewTenant,
    ) -> Result<Answer, Fault> {
        let tier = new.tier.unwrap_or_else(|| self.first_tier.clone());
        let new = NewTenant {
            id: new.id,
            tier,
            overrides: new.limits,
        };
        let (tenant, token) = self
            .kernel
            .create_tenant(operator, new)
            .await
            .map_err(fault)?;
        let account = tenant.account();
        Ok(Answer::TenantCreated(TenantCreated {
            id: tenant.id().clone(),
            token: tokens::credential(&token)?,
            token_name: token.name,
            role: token.role,
            status: status(account.status.as_str())?,
            tier: account.tier.clone(),
            created_at: account.created,
            audit_vkey: super::audit::verification_key(&tenant),
        }))
    }

    pub(super) async fn list_tenants(
        &self,
        operator: &Operator,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let mut rows = Vec::new();
        for tenant in self.kernel.tenants(operator) {
            let account = tenant.account();
            let living = self
                .kernel
                .list_tokens(operator, &tenant)
                .iter()
                .filter(|token| token.valid)
                .count();
            rows.push(Row::Tenant(TenantLine {
                id: tenant.id().clone(),
                status: status(account.status.as_str())?,
                quarantined: tenant.quarantine().is_some(),
                tier: account.tier.clone(),
                tokens: u64::try_from(living).unwrap_or(u64::MAX),
                created_at: account.created,
            }));
        }
        feed_all(rows, to).await
    }

    pub(super) fn show_tenant(&self, operator: &Operator, id: &TenantId) -> Result<Answer, Fault> {
        self.view(operator, &self.tenant(operator, id)?)
    }

    pub(super) async fn turn(
        &self,
        operator: &Operator,
        id: &TenantId,
        turn: Turn,
    ) -> Result<Answer, Fault> {
        let (kernel, tenant) = (&self.kernel, self.tenant(operator, id)?);
        match turn {
            Turn::Suspend => kernel.suspend_tenant(operator, &tenant).await,
            Turn::Freeze => kernel.freeze_tenant(operator, &tenant).await,
            Turn::Resume => kernel.resume_tenant(operator, &tenant).await,
        }
        .map_err(fault)?;
        // A suspension has ended this authority too: the view is that of a fresh one.
        self.show_tenant(operator, id)
    }

    pub(super) async fn check_tenant(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let checked = self.kernel.check_tenant(operator, &tenant).await;
        checked.map_err(fault)?;
        let message = format!("all of {id} is as it was written, and its copy is up to date");
        Ok(Answer::Done { message })
    }

    pub(super) async fn repair_tenant(
        &self,
        operator: &Operator,
        id: &TenantId,
        dry_run: bool,
        anew: bool,
    ) -> Result<Answer, Fault> {
        let extent = match (dry_run, anew) {
            (true, _) => Extent::Try,
            (false, false) => Extent::Repair,
            (false, true) => Extent::BeginAnew,
        };
        // What the journal holds damaged of it is known once it was looked at.
        self.kernel.open_recovered().await;
        let tenant = self.tenant(operator, id)?;
        let repaired = self.kernel.repair_tenant(operator, &tenant, extent).await;
        let kept = repaired.map_err(fault)?;
        Ok(Answer::Repaired(Box::new(Repaired {
            tenant: id.clone(),
            in_place: kept.in_place,
            whole: kept.is_whole(),
            sources: kept.sources,
            damaged_tables: kept
                .damaged_tables()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            rows: kept.rows,
            lost_rows: kept.rows_lost,
            entries: kept.entries,
            lost_entries: kept.lost_entries(),
            replaced_entries: kept.replaced_entries(),
            goes_on: kept.log_fits,
            secrets: kept.secrets,
            lost_secrets: kept.lost_secrets().to_vec(),
            from_journal: kept.from_journal,
        })))
    }

    pub(super) async fn delete_tenant(
        &self,
        operator: &Operator,
        id: &TenantId,
        confirm: &TenantId,
    ) -> Result<Answer, Fault> {
        if id != confirm {
            let text = format!("the confirmation says {confirm}, not {id}; nothing was deleted");
            return Err(Fault::new(FaultCode::Refused, text));
        }
        let tenant = self.tenant(operator, id)?;
        self.kernel
            .delete_tenant(operator, &tenant)
            .await
            .map_err(fault)?;
        Ok(Answer::Done {
            message: format!(
                "tenant {id} is deleted: its keys are destroyed and its files removed"
            ),
        })
    }

    fn view(&self, operator: &Operator, tenant: &Tenant) -> Result<Answer, Fault> {
        let account = tenant.account();
        let status = status(account.status.as_str())?;
        let mut tokens = Vec::new();
        for token in self.kernel.list_tokens(operator, tenant) {
            let view = tokens::view(tenant, token, self.kernel.now());
            // Living tokens; `tenants token list` shows the ended ones too.
            if matches!(view.state, TokenState::Active | TokenState::Grace) {
                tokens.push(view);
            }
        }
        Ok(Answer::Tenant(Box::new(TenantView {
            id: tenant.id().clone(),
            uid: tenant.uid(),
            status,
            tier: account.tier.clone(),
            created_at: account.created,
            markup: limits::markup(tenant),
            limits: limits::lasting(&account.overrides),
            tokens,
            audit_vkey: super::audit::verification_key(tenant),
            database: database(tenant, status, self.kernel.overlay_error(tenant)),
        })))
    }
}

fn database(tenant: &Tenant, status: Status, overlay_error: Option<String>) -> DatabaseView {
    let quarantine = tenant.quarantine();
    let state = match (status, &quarantine) {
        (Status::Deleting, _) => DatabaseState::Destroyed,
        (_, Some(_)) => DatabaseState::Quarantined,
        (_, None) => DatabaseState::Ok,
    };
    let bytes = tenant
        .files()
        .ok()
        .and_then(|files| files.symlink_metadata("tenant.db").ok())
        .map(|meta| meta.len());
    // The reason of a quarantine, or else why the overlay on disk is not in force.
    let since = quarantine.as_ref().map(|found| found.since);
    let reason = quarantine.map(|found| found.why.clone()).or(overlay_error);
    DatabaseView {
        state,
        bytes,
        reason,
        since,
    }
}

/// Where a tenant stands, by the kernel's name for it.
pub(crate) fn status(name: &str) -> Result<Status, Fault> {
    [
        Status::Active,
        Status::Frozen,
        Status::Suspended,
        Status::Deleting,
    ]
    .into_iter()
    .find(|status| status.as_str() == name)
    .ok_or_else(|| internal(format!("a tenant has the status {name:?}")))
}
