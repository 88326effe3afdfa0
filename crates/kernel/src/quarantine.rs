//! A tenant whose store cannot be trusted: out of service, remembered over restarts, its files left as they are.
//!
//! **Invariant:** from its quarantine on nothing is written to a tenant's database, and no record of it is released from the
//! journal, until a repair has put a whole database in place (`crates/kernel/tests/flips.rs`, and below).

use std::sync::Arc;

use base::{TenantUid, Timestamp};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};

use crate::audit::verify::LogFault;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::sweep::Operator;
use crate::tenant::Tenant;

/// Why a tenant is out of service, and since when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantine {
    /// When it was noticed.
    pub since: Timestamp,
    /// What was hit and how, for the operator.
    pub why: String,
}

impl Kernel {
    /// Takes a tenant out of service and remembers why. Of several reasons the first one stands.
    pub(crate) fn quarantine(&self, resident: &Resident, why: &str) {
        let found = Quarantine {
            since: self.now(),
            why: why.to_owned(),
        };
        if !resident.put_in_quarantine(found.clone()) {
            return;
        }
        self.log_quarantine(resident, why);
        let (kernel, uid) = (self.clone(), resident.uid);
        let place = resident.place.get().cloned();
        // A task of its own: whoever found it has its answer at once.
        self.tasks().spawn(async move {
            if let Some(place) = place {
                // Closed again when the process ends, if not now.
                let _queue_full = kernel.engine().abandon(&place).await;
            }
            let kept = kernel.registry_write(move |tx| keep(tx, uid, &found)).await;
            if let Err(error) = kept {
                let text = error.to_string();
                let fields = [("error", Field::Text(&text))];
                kernel
                    .log()
                    .event(kernel.now(), None, "quarantine not remembered", &fields);
            }
        });
    }

    /// Quarantines the tenant for a fault that was found in its log. A kept checkpoint that does not fit says nothing about what
    /// lies on disk, and quarantines nobody.
    pub fn quarantine_for_log(&self, _operator: &Operator, tenant: &Tenant, fault: &LogFault) {
        match fault {
            LogFault::KeptNote(_) | LogFault::Cut { .. } | LogFault::Forked(_) => {}
            fault => self.quarantine(
                tenant.resident(),
                &format!("its audit log does not verify: {fault}"),
            ),
        }
    }

    /// Reads for the operator what can still be read of a quarantined tenant: its file alone, without what waits in the journal.
    pub(crate) async fn read_quarantined<T: Send + 'static>(
        &self,
        resident: &Resident,
        why: &Quarantine,
        job: impl FnOnce(&ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let keys = self.keys(resident)?;
        let place = self.tenant_place(&resident.id, resident.uid, &keys)?;
        let read = self
            .engine()
            .read(&Arc::new(place.for_reading()), job)
            .await;
        read.map_err(|error| match error {
            StoreError::Busy => KernelError::Busy,
            error => KernelError::Quarantined(format!(
                "{}; what was asked of {} cannot be read: {error}",
                why.why, resident.id
            )),
        })
    }
}

fn keep(tx: &mut WriteTx<'_>, uid: TenantUid, found: &Quarantine) -> Result<(), StoreError> {
    // A tenant that was deleted in between has no row to belong to.
    tx.execute(
        "INSERT INTO quarantines (uid, since_ms, why) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM tenants WHERE uid = ?1)
         ON CONFLICT (uid) DO NOTHING",
        params![uid.as_bytes(), found.since.unix_ms(), found.why],
    )
    .map(|_| ())
}

/// The tenants that are out of service.
pub(crate) fn remembered(tx: &ReadTx<'_>) -> Result<Vec<(TenantUid, Quarantine)>, StoreError> {
    let sql = "SELECT uid, since_ms, why FROM quarantines";
    tx.query(sql, params![], crate::registry::ROWS_MAX, |row| {
        let found = Quarantine {
            since: Timestamp::from_unix_ms(row.get(1)?),
            why: row.get(2)?,
        };
        Ok((TenantUid::from_bytes(row.get(0)?), found))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::fixture::{acme, begun, open};

    #[expect(
        clippy::disallowed_methods,
        reason = "damages a file behind the kernel's back"
    )]
    /// What a damaged database does not have stays in the journal, over restarts, for whoever repairs it.
    #[tokio::test]
    async fn the_journal_keeps_what_a_damaged_database_does_not_have() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let change = kernel.record_change(&operator, tenant.resident(), "quota.set", [].into());
        change.await.unwrap();
        drop(tenant);
        // A process that was killed: nothing is folded.
        kernel.tasks().shut_down(Duration::from_secs(5)).await;
        drop((kernel, operator));
        let database = path.join("tenants/acme/tenant.db");
        let mut bytes = std::fs::read(&database).unwrap();
        bytes.iter_mut().skip(4_096).for_each(|byte| *byte ^= 1);
        std::fs::write(&database, bytes).unwrap();
        drop(std::fs::remove_file(
            path.join("tenants/acme/tenant.db-wal"),
        ));
        let segment = path.join("journal/0001");
        assert!(segment.exists());
        for _ in 0..2 {
            let (kernel, operator) = open(&path).await;
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            assert!(kernel.load(tenant.resident()).await.is_err());
            assert!(tenant.quarantine().is_some());
            drop(tenant);
            kernel.close(Duration::from_secs(5)).await;
            assert!(segment.exists());
        }
    }
}
