//! What was read leaves the transaction.

use std::cell::Cell;

use isolation::kernel::{KernelError, Tenant};

thread_local! {
    static KEPT: Cell<Option<i64>> = const { Cell::new(None) };
}

pub async fn keep(tenant: &Tenant) -> Result<(), KernelError> {
    tenant
        .read(|tx| {
            let count = "SELECT COUNT(*) FROM ledger";
            KEPT.set(tx.query_one(count, [], |row| Ok(row.get(0)?))?);
            Ok(())
        })
        .await
}
