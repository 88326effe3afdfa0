//! The operator's authority: all tenants, one at a time.

use std::collections::BTreeMap;

use base::{TenantId, TenantUid};
use vault::OperatorKey;

use crate::error::KernelError;
use crate::open::Kernel;
use crate::tenant::Tenant;

/// The operator's own capability. It has no method that reads tenant data: it mints one [`Tenant`] at a time.
///
/// Two ways lead to one: opening the data directory under its lock ([`Kernel::open`] returns it), and the operator key.
pub struct Operator {
    _minted_here: (),
}

impl Operator {
    /// For whoever opened the data directory: its lock is the proof.
    pub(crate) fn of_the_opener() -> Self {
        Self { _minted_here: () }
    }
}

impl Kernel {
    /// The operator by key, compared in constant time by its hash.
    #[must_use]
    pub fn operator(&self, presented: &str) -> Option<Operator> {
        let key = OperatorKey::parse(presented)?;
        let matches = self
            .operator_hash()
            .is_some_and(|known| vault::ct_eq(&key.hash(), &known));
        matches.then_some(Operator { _minted_here: () })
    }

    /// One tenant by name, for the operator.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when there is none of that name.
    pub fn tenant(&self, operator: &Operator, id: &TenantId) -> Result<Tenant, KernelError> {
        let resident = self
            .directory()
            .tenant(id)
            .ok_or_else(|| KernelError::NotFound(format!("there is no tenant {id}")))?;
        Ok(Tenant::mint_for_operator(self, &resident, operator))
    }

    /// One tenant by its identity, for the operator; `None` where it is gone.
    #[must_use]
    pub fn tenant_of(&self, operator: &Operator, uid: TenantUid) -> Option<Tenant> {
        let resident = self.directory().by_uid(&uid)?;
        Some(Tenant::mint_for_operator(self, &resident, operator))
    }

    /// Records in a tenant's log what nobody who was admitted can answer for any more: the end of something whose credential has ended.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn record_end(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        action: &'static str,
        detail: BTreeMap<&'static str, String>,
    ) -> Result<(), KernelError> {
        let resident = tenant.resident();
        self.record_change(operator, resident, action, detail).await
    }

    /// All tenants in the order of their names; each capability is minted when its turn comes.
    pub fn tenants<'a>(&'a self, operator: &'a Operator) -> impl Iterator<Item = Tenant> + 'a {
        self.directory()
            .all()
            .into_iter()
            .map(move |resident| Tenant::mint_for_operator(self, &resident, operator))
    }
}
