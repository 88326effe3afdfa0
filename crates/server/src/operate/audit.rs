//! A tenant's audit log.

use std::time::Duration;

use base::TenantId;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::audit::verify::{AuditError, LogWalk};
use kernel::{Operator, Tenant};
use rpc::{Answer, AuditCheckpoint, AuditVerified, Fault, FaultCode, Progress, Row};
use serde_json::value::RawValue;

use super::Office;
use super::export::Files;
use crate::fault::{fault, internal};
use crate::feed::Feed;

/// Between two looks for new entries.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

impl Office {
    pub(super) async fn tail(
        &self,
        operator: &Operator,
        id: &TenantId,
        limit: u32,
        follow: bool,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let length = tenant.audit_length().await.map_err(fault)?;
        // The entry about this access comes after what was asked for.
        self.kernel
            .record_operator_access(operator, &tenant, "audit.tail")
            .await
            .map_err(fault)?;
        let mut next = length.saturating_sub(u64::from(limit));
        loop {
            // Taken anew for each page: a suspension ends earlier authority, and is itself an entry to be seen.
            let page = self
                .tenant(operator, id)?
                .audit_page(next)
                .await
                .map_err(fault)?;
            let at_end = page.is_empty();
            for row in page {
                if !follow && row.seq >= length {
                    return Ok(Answer::End { rows: to.pushed() });
                }
                next = row.seq.saturating_add(1);
                to.push(Row::Audit(raw(row.entry)?)).await?;
            }
            match (at_end, follow) {
                (false, _) => {}
                (true, false) => return Ok(Answer::End { rows: to.pushed() }),
                (true, true) => tokio::time::sleep(FOLLOW_EVERY).await,
            }
        }
    }
}

impl Office {
    pub(super) async fn verify(
        &self,
        operator: &Operator,
        id: &TenantId,
        since: Option<&str>,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let refused = |error| self.audit_fault(operator, &tenant, error);
        let mut walk = tenant.audit_walk(since).await.map_err(refused)?;
        while let Some(bundle) = walk.next().await.map_err(refused)? {
            told(&walk, bundle.index, to).await?;
        }
        let done = summary(&tenant, &walk);
        Ok(Answer::AuditVerified(Box::new(done)))
    }

    pub(super) async fn export(
        &self,
        operator: &Operator,
        id: &TenantId,
        to: &Feed,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        self.kernel
            .record_operator_access(operator, &tenant, "audit.export")
            .await
            .map_err(fault)?;
        let refused = |error| self.audit_fault(operator, &tenant, error);
        let mut walk = tenant.audit_walk(None).await.map_err(refused)?;
        let mut files = Files::new(to);
        while let Some(bundle) = walk.next().await.map_err(refused)? {
            files.bundle(&bundle).await?;
            told(&walk, bundle.index, to).await?;
        }
        let done = summary(&tenant, &walk);
        files.end(walk.edge(), &done, tenant.now()).await?;
        Ok(Answer::AuditVerified(Box::new(done)))
    }

    pub(super) async fn checkpoint(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let checkpoint = tenant.audit_checkpoint().await.map_err(fault)?;
        let (tenant, vkey) = (tenant.id().clone(), verification_key(&tenant));
        Ok(Answer::AuditCheckpoint(AuditCheckpoint {
            tenant,
            vkey,
            checkpoint,
        }))
    }

    pub(super) async fn rotate_audit_key(
        &self,
        operator: &Operator,
        id: &TenantId,
    ) -> Result<Answer, Fault> {
        let tenant = self.tenant(operator, id)?;
        let rotated = self.kernel.rotate_audit_key(operator, &tenant).await;
        rotated.map_err(fault)?;
        self.checkpoint(operator, id).await
    }
}

impl Office {
    /// A log that does not verify puts its tenant out of service: what it says cannot be believed.
    pub(super) fn audit_fault(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        error: AuditError,
    ) -> Fault {
        match error {
            AuditError::Kernel(error) => fault(error),
            AuditError::Log(what) => {
                self.kernel.quarantine_for_log(operator, tenant, &what);
                let text = format!("the audit log does not verify: {what}");
                Fault::new(FaultCode::Refused, text)
            }
        }
    }
}

/// Bundles between two words on how far it has come.
const TELL_EVERY: u64 = 16;

async fn told(walk: &LogWalk, bundle: u64, to: &Feed) -> Result<(), Fault> {
    if !bundle.is_multiple_of(TELL_EVERY) {
        return Ok(());
    }
    let of = walk.head().checkpoint.size;
    let done = of.min((bundle + 1) * kernel::audit::verify::BUNDLE);
    to.push(Row::Progress(Progress { done, of })).await
}

/// An entry as it was signed, byte for byte.
pub(crate) fn raw(entry: String) -> Result<Box<RawValue>, Fault> {
    RawValue::from_string(entry).map_err(|_| internal("an audit entry is not JSON"))
}

/// The key that verifies a tenant's log, as a signed-note verifier key: `name+hash+key`.
pub(crate) fn verification_key(tenant: &Tenant) -> String {
    tenant
        .audit_key()
        .map(|key| key.to_string())
        .unwrap_or_default()
}

fn summary(tenant: &Tenant, walk: &LogWalk) -> AuditVerified {
    let checkpoint = &walk.head().checkpoint;
    let mut keys = walk.keys().iter().map(ToString::to_string);
    AuditVerified {
        tenant: tenant.id().clone(),
        origin: checkpoint.origin.clone(),
        entries: checkpoint.size,
        first: walk.first(),
        root: STANDARD.encode(checkpoint.root),
        since: walk.kept(),
        vkey: keys.next().unwrap_or_default(),
        retired_vkeys: keys.collect(),
        checkpoint: walk.head().note.clone(),
    }
}
