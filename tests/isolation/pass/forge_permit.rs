//! A permit is what the policy answers.

use std::sync::Arc;

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;
use isolation::policy::Decision;

pub fn permit(
    gw: &Gateway,
    admission: Admission,
    call: Call,
    _: Arc<Decision>,
) -> Result<Permit, Refusal> {
    policy::authorize(gw.catalog(), admission, call)
}
