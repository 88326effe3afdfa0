//! The transaction itself does not leave its closure.

use std::cell::Cell;

use isolation::kernel::{KernelError, ReadTx, Tenant};

thread_local! {
    static KEPT: Cell<Option<&'static ReadTx<'static>>> = const { Cell::new(None) };
}

pub async fn keep(tenant: &Tenant) -> Result<(), KernelError> {
    tenant
        .read(|tx| {
            KEPT.set(Some(tx));
            Ok(())
        })
        .await
}
