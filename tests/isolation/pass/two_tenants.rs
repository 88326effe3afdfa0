//! Each scope opens what was read in it.

use isolation::kernel::report::LedgerRow;
use isolation::kernel::{KernelError, Operator, Tenant, pair};

pub async fn meet(op: &Operator, a: &Tenant, b: &Tenant) -> Result<Vec<LedgerRow>, KernelError> {
    pair(op, a, b, async |a, b| {
        let rows_of_a = a.ledger_page(None, None, None).await?;
        let rows_of_b = b.ledger_page(None, None, None).await?;
        let _ = a.open(rows_of_a);
        Ok(b.open(rows_of_b))
    })
    .await
}
