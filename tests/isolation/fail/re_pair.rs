//! One tenant cannot be paired with the credential of another, nor with a call without a caller.

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub fn mix(a: &Admission, b: Admission) -> Admission {
    Admission { tenant: a.tenant().clone(), ..b }
}

pub fn decide(gw: &Gateway, a: &Admission, call: Call) -> Result<Permit, Refusal> {
    policy::authorize(gw.catalog(), a.tenant().clone(), call)
}
