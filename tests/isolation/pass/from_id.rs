//! An id is a name: it can be parsed, and the operator finds the tenant of that name.

use isolation::base::TenantId;
use isolation::kernel::{Kernel, KernelError, Operator, Tenant};
use isolation::serde_json;

pub fn convert(kernel: &Kernel, operator: &Operator, id: TenantId) -> Result<Tenant, KernelError> {
    let tenant: Tenant = kernel.tenant(operator, &id)?;
    Ok(tenant)
}

pub fn decode(text: &str) -> Option<TenantId> {
    let name = serde_json::from_str::<String>(text).ok()?;
    name.parse().ok()
}
