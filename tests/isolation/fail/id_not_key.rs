//! The name of a tenant opens neither the tenant nor its rows.

use isolation::kernel::tokens::TokenInfo;
use isolation::kernel::{Kernel, Operator, ReadTx, StoreError, Tenant};

pub fn tokens(kernel: &Kernel, operator: &Operator, tenant: &Tenant) -> Vec<TokenInfo> {
    kernel.list_tokens(operator, tenant.id())
}

fn calls(tx: &ReadTx<'_>) -> Result<Option<i64>, StoreError> {
    tx.query_one("SELECT COUNT(*) FROM ledger", [], |row| Ok(row.get(0)?))
}

pub async fn count_calls(tenant: &Tenant) -> Result<Option<i64>, StoreError> {
    calls(tenant.id())
}
