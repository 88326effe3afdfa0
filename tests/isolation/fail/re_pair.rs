//! One tenant cannot be paired with the credential of another, nor with a call without a credential.

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call, Permit};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub fn mix(a: &Admission, mut b: Admission) -> Admission {
    b.tenant = a.tenant().clone();
    b
}

pub fn decide(gw: &Gateway, a: &Admission, call: Call) -> Result<Permit, Refusal> {
    policy::authorize(gw.catalog(), a.tenant().clone(), call)
}
