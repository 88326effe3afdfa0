//! A permit cannot be put together outside of the policy.

use std::sync::Arc;

use isolation::gateway::Gateway;
use isolation::gateway::policy::{Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;
use isolation::policy::Decision;

pub fn permit(
    gw: &Gateway,
    admission: Admission,
    call: Call,
    decision: Arc<Decision>,
) -> Result<Permit, Refusal> {
    Ok(Permit {
        admission,
        call,
        model: 0,
        decision,
        catalog: gw.catalog(),
    })
}
