//! An id is no key, and a capability cannot be decoded from bytes.

use isolation::base::TenantId;
use isolation::kernel::{Kernel, KernelError, Operator, Tenant};
use isolation::serde_json;

pub fn convert(_: &Kernel, _: &Operator, id: TenantId) -> Result<Tenant, KernelError> {
    let tenant: Tenant = id.into();
    Ok(tenant)
}

pub fn decode(text: &str) -> Option<Tenant> {
    let tenant = serde_json::from_str::<Tenant>(text).ok()?;
    Some(tenant)
}
