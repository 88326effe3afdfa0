//! An attempt is settled once.

use isolation::kernel::{KernelError, OpenAttempt, Settlement};

pub async fn settle(attempt: OpenAttempt) -> Result<(), KernelError> {
    attempt.settle(&Settlement::failed())?.durable().await
}
