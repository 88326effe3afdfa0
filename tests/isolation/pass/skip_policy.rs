//! Money is set aside for a permitted call.

use isolation::gateway::Gateway;
use isolation::gateway::policy::{self, Call};
use isolation::gateway::quota::{self, Hold};
use isolation::gateway::refusal::Refusal;
use isolation::kernel::Admission;

pub async fn reserve(gw: &Gateway, admission: Admission, call: Call) -> Result<Box<Hold>, Refusal> {
    let permit = policy::authorize(gw.catalog(), admission, call)?;
    quota::reserve(gw, permit).await
}
