//! What works on a tenant takes the tenant; what works on its rows takes the transaction.

use isolation::kernel::tokens::TokenInfo;
use isolation::kernel::{Kernel, KernelError, Operator, ReadTx, StoreError, Tenant};

pub fn tokens(kernel: &Kernel, operator: &Operator, tenant: &Tenant) -> Vec<TokenInfo> {
    kernel.list_tokens(operator, tenant)
}

fn calls(tx: &ReadTx<'_>) -> Result<Option<i64>, StoreError> {
    tx.query_one("SELECT COUNT(*) FROM ledger", [], |row| Ok(row.get(0)?))
}

pub async fn count_calls(tenant: &Tenant) -> Result<Option<i64>, KernelError> {
    tenant.read(|tx| calls(tx)).await
}
