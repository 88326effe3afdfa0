//! What was read leaves the transaction.

use std::sync::mpsc::SyncSender;

use isolation::kernel::{KernelError, StoreError, Tenant};

fn calls(tx: &isolation::kernel::ReadTx<'_>) -> Result<Option<i64>, StoreError> {
    tx.query_one("SELECT COUNT(*) FROM ledger", [], |row| Ok(row.get(0)?))
}

pub async fn keep(tenant: &Tenant, kept: SyncSender<Option<i64>>) -> Result<(), KernelError> {
    tenant
        .read(move |tx| {
            let _ = kept.try_send(calls(tx)?);
            Ok(())
        })
        .await
}
