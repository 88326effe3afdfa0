//! A permit is what the policy answers.

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub fn permit(gw: &Gateway, admission: Admission, call: Call) -> Result<Permit, Refusal> {
    policy::authorize(gw.catalog(), admission, call)
}
