//! The transaction itself does not leave its closure.

use std::sync::mpsc::SyncSender;

use isolation::kernel::{KernelError, ReadTx, Tenant};

pub async fn keep(
    tenant: &Tenant,
    kept: SyncSender<&'static ReadTx<'static>>,
) -> Result<(), KernelError> {
    tenant
        .read(move |tx| {
            let _ = kept.try_send(tx);
            Ok(())
        })
        .await
}
