//! The engine is reached through a tenant, which opens its own database and no other.

use isolation::kernel::{KernelError, Tenant};

pub async fn count_calls(tenant: &Tenant) -> Result<Option<i64>, KernelError> {
    tenant
        .read(|tx| tx.query_one("SELECT COUNT(*) FROM ledger", [], |row| Ok(row.get(0)?)))
        .await
}
