//! The operator takes up one tenant and reads it.

use isolation::base::TenantId;
use isolation::kernel::{Kernel, KernelError, Operator};

pub async fn count(
    kernel: &Kernel,
    operator: &Operator,
    id: &TenantId,
) -> Result<u64, KernelError> {
    kernel.tenant(operator, id)?.audit_length().await
}

pub async fn read(kernel: &Kernel, operator: &Operator, id: &TenantId) -> Result<(), KernelError> {
    kernel.tenant(operator, id)?.read(|_tx| Ok(())).await
}
