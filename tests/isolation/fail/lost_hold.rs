//! What was set aside cannot be lost silently. (Cases inherit no lints of the workspace, so this one says its own.)

#![deny(unused_must_use)]

use isolation::gateway::Gateway;
use isolation::gateway::policy::Permit;
use isolation::gateway::quota;
use isolation::gateway::refusal::Refusal;

pub async fn reserve(gw: &Gateway, permit: Permit) -> Result<(), Refusal> {
    quota::reserve(gw, permit).await?;
    Ok(())
}
