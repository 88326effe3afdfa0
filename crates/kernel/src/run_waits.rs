//! Which tenants have runs under way: told to the registry, so that a start takes them up without opening every database.

use base::TenantUid;
use base::limits::TENANTS_MAX;
use store::sql::params;

use crate::error::KernelError;
use crate::open::Kernel;
use crate::sweep::Operator;
use crate::tenant::Tenant;

impl Tenant {
    /// Notes that the tenant has runs under way, before the first of them is stored. After a crash between the two a tenant is
    /// opened for nothing.
    ///
    /// # Errors
    /// When the registry cannot be written.
    pub async fn has_runs(&self) -> Result<(), KernelError> {
        self.acts()?;
        let uid = self.uid();
        self.kernel()
            .registry_write(move |tx| {
                let sql =
                    "INSERT OR IGNORE INTO run_waits (uid) SELECT uid FROM tenants WHERE uid = ?1";
                tx.execute(sql, params![uid.as_bytes()])
            })
            .await
            .map(|_rows| ())
    }

    /// Takes the note back, when the last run has ended.
    ///
    /// # Errors
    /// When the registry cannot be written.
    pub async fn has_no_runs(&self) -> Result<(), KernelError> {
        let uid = self.uid();
        self.kernel()
            .registry_write(move |tx| {
                let sql = "DELETE FROM run_waits WHERE uid = ?1";
                tx.execute(sql, params![uid.as_bytes()])
            })
            .await
            .map(|_rows| ())
    }
}

impl Kernel {
    /// The tenants that an earlier process left with runs under way.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub async fn tenants_with_runs(&self, operator: &Operator) -> Result<Vec<Tenant>, KernelError> {
        let uids = self
            .engine()
            .read(self.registry_place(), |tx| {
                tx.query("SELECT uid FROM run_waits", params![], TENANTS_MAX, |row| {
                    Ok(TenantUid::from_bytes(row.get(0)?))
                })
            })
            .await?;
        let found = uids
            .iter()
            .filter_map(|uid| self.tenant_of(operator, *uid))
            .collect();
        Ok(found)
    }
}
