//! A call is decided for the caller who was admitted.

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub fn mix(_: &Admission, b: Admission) -> Admission {
    b
}

pub fn decide(gw: &Gateway, a: &Admission, call: Call) -> Result<Permit, Refusal> {
    policy::authorize(gw.catalog(), a.clone(), call)
}
