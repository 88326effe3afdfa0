//! A call that nobody has permitted cannot go on: neither alone nor with its caller.

use isolation::gateway::Gateway;
use isolation::gateway::policy::Call;
use isolation::gateway::quota::{self, Hold};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub async fn reserve(gw: &Gateway, _: Admission, call: Call) -> Result<Box<Hold>, Refusal> {
    quota::reserve(gw, call).await
}

pub async fn reserve_for(gw: &Gateway, caller: Admission, _: Call) -> Result<Box<Hold>, Refusal> {
    quota::reserve(gw, caller).await
}
