//! What was read in the scope of one tenant is not opened in the scope of another.

use isolation::kernel::report::LedgerRow;
use isolation::kernel::{KernelError, Operator, Tenant, pair};

pub async fn meet(op: &Operator, a: &Tenant, b: &Tenant) -> Result<Vec<LedgerRow>, KernelError> {
    pair(op, a, b, async |a, b| {
        let rows_of_a = a.ledger_page(None, None, None).await?;
        let rows_of_b = b.ledger_page(None, None, None).await?;
        let _ = b.open(rows_of_b);
        Ok(b.open(rows_of_a))
    })
    .await
}
