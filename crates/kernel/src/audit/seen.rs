//! How far each tenant's audit log has come, kept in the registry: an older or another database put in the place of a tenant's is
//! noticed when it is opened.

use std::sync::atomic::Ordering;

use base::TenantUid;
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use vault::tlog::Hash;

use crate::audit::tree::signed;
use crate::audit::verify::root_at;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::registry::registry_fault;
use crate::resident::Resident;

/// A log's size and its root then.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) size: u64,
    pub(crate) root: Hash,
}

impl Kernel {
    /// Writes down how far logs have come since the last time.
    pub(crate) async fn keep_audit_heads(&self) {
        let mut heads: Vec<(TenantUid, Seen)> = Vec::new();
        for resident in self.directory().all() {
            let Some(head) = resident.audit_head.load_full() else {
                continue;
            };
            let (size, root) = (head.checkpoint.size, head.checkpoint.root);
            if !resident.is_dead() && resident.audit_kept.swap(size, Ordering::Relaxed) != size {
                heads.push((resident.uid, Seen { size, root }));
            }
        }
        if heads.is_empty() {
            return;
        }
        let kept = self.registry_write(move |tx| keep(tx, &heads)).await;
        if let Err(error) = kept {
            let text = error.to_string();
            let fields = [("error", Field::Text(&text))];
            self.log()
                .event(self.now(), None, "heads of audit logs not kept", &fields);
        }
    }

    /// What the registry remembers of a tenant's log.
    pub(crate) async fn registered_head(
        &self,
        resident: &Resident,
    ) -> Result<Option<Seen>, KernelError> {
        let uid = resident.uid;
        self.engine()
            .read(self.registry_place(), move |tx| seen(tx, uid))
            .await
            .map_err(registry_fault)
    }

    /// Compares a tenant's log, as it is opened, with what the registry remembers of it.
    ///
    /// # Errors
    /// [`KernelError::Quarantined`] when the log is shorter, or another one.
    pub(crate) async fn check_audit_head(&self, resident: &Resident) -> Result<(), KernelError> {
        let Some(seen) = self.registered_head(resident).await? else {
            return Ok(());
        };
        let (place, size) = (self.place(resident)?, seen.size);
        let root = self
            .engine()
            .read(&place, move |tx| root_at(tx, size))
            .await;
        match self.own_data(resident, root)? {
            Some(root) if root == seen.root => Ok(()),
            Some(_) => Err(KernelError::Quarantined(format!(
                "the first {size} entries of its audit log are not those that were logged: another database was put in its place"
            ))),
            None => Err(KernelError::Quarantined(format!(
                "its audit log had {size} entries and has fewer: an older database was put back"
            ))),
        }
    }
}

fn keep(tx: &mut WriteTx<'_>, heads: &[(TenantUid, Seen)]) -> Result<(), StoreError> {
    for (uid, seen) in heads {
        keep_head(tx, *uid, seen)?;
    }
    Ok(())
}

pub(crate) fn keep_head(
    tx: &mut WriteTx<'_>,
    uid: TenantUid,
    seen: &Seen,
) -> Result<(), StoreError> {
    // A tenant that was deleted in between has no row to belong to.
    tx.execute(
        "INSERT INTO audit_heads (uid, size, root) SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM tenants WHERE uid = ?1)
         ON CONFLICT (uid) DO UPDATE SET size = excluded.size, root = excluded.root",
        params![uid.as_bytes(), signed(seen.size), seen.root],
    )
    .map(|_| ())
}

fn seen(tx: &ReadTx<'_>, uid: TenantUid) -> Result<Option<Seen>, StoreError> {
    let sql = "SELECT size, root FROM audit_heads WHERE uid = ?1";
    tx.query_one(sql, params![uid.as_bytes()], |row| {
        let size: i64 = row.get(0)?;
        Ok(Seen {
            size: u64::try_from(size).map_err(|_| StoreError::Damaged)?,
            root: row.get(1)?,
        })
    })
}
