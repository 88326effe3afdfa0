//! An attempt cannot be settled a second time: settling takes it.

use isolation::kernel::{KernelError, OpenAttempt, Settlement};

pub async fn settle(attempt: OpenAttempt) -> Result<(), KernelError> {
    attempt.settle(&Settlement::failed())?.durable().await?;
    attempt.settle(&Settlement::failed())?.durable().await
}
