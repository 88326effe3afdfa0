//! Two tenants in one place: for the operator, where two must meet (support, merging, import).
//!
//! Daily work holds one tenant. Here two are in reach, so what is read of either carries its tenant's brand in its type, and only
//! the scope of the same brand opens it: a row of one tenant that is handed to the other does not compile.

use std::marker::PhantomData;

use base::{TenantId, UtcDay};

use crate::error::KernelError;
use crate::report::{AuditRow, LedgerRow};
use crate::sweep::Operator;
use crate::tenant::Tenant;

/// A lifetime that stands for one tenant. A function from `'t` to `'t` is invariant, so that two brands never become one.
type Brand<'t> = PhantomData<fn(&'t ()) -> &'t ()>;

/// One of two tenants, within the job of [`pair`].
pub struct Scope<'t> {
    tenant: Tenant,
    brand: Brand<'t>,
}

/// What was read in the scope of one tenant. Only that scope opens it, and it does not outlive the job.
pub struct Branded<'t, T> {
    value: T,
    brand: Brand<'t>,
}

/// Runs `job` over two tenants, each in a scope with a brand of its own.
///
/// # Errors
/// [`KernelError::Refused`] when both are the same tenant; otherwise whatever `job` reports.
pub async fn pair<R>(
    _operator: &Operator,
    a: &Tenant,
    b: &Tenant,
    job: impl AsyncFnOnce(Scope<'_>, Scope<'_>) -> Result<R, KernelError>,
) -> Result<R, KernelError> {
    if a.uid() == b.uid() {
        return Err(KernelError::Refused(format!(
            "{} cannot be paired with itself",
            a.id()
        )));
    }
    job(Scope::of(a), Scope::of(b)).await
}

impl<'t> Scope<'t> {
    fn of(tenant: &Tenant) -> Self {
        Self {
            tenant: tenant.clone(),
            brand: PhantomData,
        }
    }

    /// The tenant's public name.
    #[must_use]
    pub fn id(&self) -> &TenantId {
        self.tenant.id()
    }

    /// One page of the tenant's ledger, as [`Tenant::ledger_page`].
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn ledger_page(
        &self,
        from: Option<UtcDay>,
        to: Option<UtcDay>,
        after: Option<i64>,
    ) -> Result<Branded<'t, Vec<LedgerRow>>, KernelError> {
        let rows = self.tenant.ledger_page(from, to, after).await?;
        Ok(self.brand(rows))
    }

    /// One page of the tenant's audit entries, as [`Tenant::audit_page`].
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn audit_page(&self, from: u64) -> Result<Branded<'t, Vec<AuditRow>>, KernelError> {
        let rows = self.tenant.audit_page(from).await?;
        Ok(self.brand(rows))
    }

    /// Takes out what was read in this scope.
    #[must_use]
    pub fn open<T>(&self, read: Branded<'t, T>) -> T {
        read.value
    }

    fn brand<T>(&self, value: T) -> Branded<'t, T> {
        Branded {
            value,
            brand: self.brand,
        }
    }
}

impl<'t, T> Branded<'t, T> {
    /// The same tenant's value in another form.
    #[must_use]
    pub fn map<U>(self, form: impl FnOnce(T) -> U) -> Branded<'t, U> {
        Branded {
            value: form(self.value),
            brand: self.brand,
        }
    }
}
