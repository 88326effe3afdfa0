//! What was set aside is handed on.

#![deny(unused_must_use)]

use isolation::gateway::Gateway;
use isolation::gateway::policy::Permit;
use isolation::gateway::quota::{self, Hold};
use isolation::gateway::refusal::Refusal;

pub async fn reserve(gw: &Gateway, permit: Permit) -> Result<Box<Hold>, Refusal> {
    let hold = quota::reserve(gw, permit).await?;
    Ok(hold)
}
