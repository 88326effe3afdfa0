//! The operator's own capability reads nothing.

use isolation::base::TenantId;
use isolation::kernel::{Kernel, KernelError, Operator};

pub async fn count(_: &Kernel, operator: &Operator, _: &TenantId) -> Result<u64, KernelError> {
    operator.audit_length().await
}

pub async fn read(_: &Kernel, operator: &Operator, _: &TenantId) -> Result<(), KernelError> {
    operator.read(|_tx| Ok(())).await
}
