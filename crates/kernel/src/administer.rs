//! What an admin of a tenant changes in its own tenant. The operator has the same changes, for every tenant, as methods of
//! [`Kernel`](crate::Kernel) that ask for an `Operator`.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Role, TokenName};
use vault::Secret;

use crate::audit::{Entry, Trail};
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::secrets::SecretInfo;
use crate::sweep::Operator;
use crate::tenant::Tenant;
use crate::tenant::admit::Admission;
use crate::tokens::IssuedToken;

/// How long an admin may let an old text live.
const GRACE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Rotations by admins of one tenant in one minute.
const ROTATIONS_PER_MINUTE: u32 = 20;

/// The authority to change one's own tenant: an admission with the role `admin` that may act, and the record of the request.
///
/// There is no way to name a tenant: it is the admission's.
pub struct Administrator<'a> {
    admission: &'a Admission,
    trail: &'a Trail,
}

/// Who changes something of a tenant; the entry says so.
pub(crate) enum By<'a> {
    /// The operator, who may change every tenant.
    Operator(&'a Operator),
    /// An admin, in its own tenant.
    Admin(&'a Administrator<'a>),
}

impl By<'_> {
    /// Asked again when its turn has come: a token that was rotated meanwhile gives itself no new life.
    pub(crate) fn may_rotate(&self) -> Result<(), KernelError> {
        match self {
            By::Operator(_) => Ok(()),
            By::Admin(admin) => admin.is_not_ending(),
        }
    }

    /// Whether it is the token on whose authority the change is made.
    pub(crate) fn is_own_token(&self, name: &TokenName) -> bool {
        match self {
            By::Operator(_) => false,
            By::Admin(admin) => admin.admission.token_name() == name,
        }
    }
}

impl Trail {
    /// The admission's authority over its own tenant.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for every role but `admin` and for an admission that only reads, [`KernelError::Revoked`] when
    /// it ended.
    pub fn administrator<'a>(
        &'a self,
        admission: &'a Admission,
    ) -> Result<Administrator<'a>, KernelError> {
        admission.tenant().acts()?;
        if admission.role() != Role::Admin {
            let text = "only the role admin changes the tenant".to_owned();
            return Err(KernelError::Refused(text));
        }
        Ok(Administrator {
            admission,
            trail: self,
        })
    }
}

impl Administrator<'_> {
    /// Seals and stores a secret; calls that start after this use it.
    ///
    /// # Errors
    /// When the name is not one, there are too many, or the store cannot be written.
    pub async fn set_secret(&self, name: &str, value: Secret) -> Result<(), KernelError> {
        let tenant = self.admission.tenant();
        let kernel = tenant.kernel();
        kernel
            .seal_secret(&By::Admin(self), tenant, name, value)
            .await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when there is none of that name.
    pub async fn delete_secret(&self, name: &str) -> Result<(), KernelError> {
        let tenant = self.admission.tenant();
        let kernel = tenant.kernel();
        kernel.remove_secret(&By::Admin(self), tenant, name).await
    }

    /// New text for the admin's own token: the old one ends at once, or after `grace`.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for a token that was rotated already and lives on in its grace: it would outlive it.
    pub async fn rotate_own_token(
        &self,
        grace: Option<Duration>,
    ) -> Result<IssuedToken, KernelError> {
        self.is_not_ending()?;
        self.is_within(grace)?;
        let kernel = self.admission.tenant().kernel();
        let name = self.admission.token_name();
        kernel
            .rotate_by(&By::Admin(self), self.resident(), name, grace)
            .await
    }

    /// New texts for every valid token of the tenant.
    ///
    /// # Errors
    /// As [`Administrator::rotate_own_token`], and for a token that has an end of its own: among what it would be given are
    /// tokens without one.
    pub async fn rotate_all_tokens(
        &self,
        grace: Option<Duration>,
    ) -> Result<Vec<IssuedToken>, KernelError> {
        self.is_not_ending()?;
        self.is_within(grace)?;
        if self.admission.entry().expires_ms.load(Ordering::Relaxed) != i64::MAX {
            let text = "a token that expires may rotate itself only".to_owned();
            return Err(KernelError::Refused(text));
        }
        let kernel = self.admission.tenant().kernel();
        kernel
            .rotate_all_by(&By::Admin(self), self.resident(), grace)
            .await
    }

    /// Old texts live no longer than a month, and rotations are few: each leaves a row behind.
    fn is_within(&self, grace: Option<Duration>) -> Result<(), KernelError> {
        if grace.is_some_and(|grace| grace > GRACE_MAX) {
            let text = "grace: an admin gives at most 30d; the operator can give more".to_owned();
            return Err(KernelError::Refused(text));
        }
        let minute = self.admission.tenant().now().unix_seconds().div_euclid(60);
        let counted = self.resident().rotations.lock();
        let mut counted = counted.unwrap_or_else(PoisonError::into_inner);
        if counted.0 != minute {
            *counted = (minute, 0);
        }
        if counted.1 >= ROTATIONS_PER_MINUTE {
            return Err(KernelError::Refused(format!(
                "a tenant rotates at most {ROTATIONS_PER_MINUTE} times a minute"
            )));
        }
        counted.1 += 1;
        Ok(())
    }

    fn is_not_ending(&self) -> Result<(), KernelError> {
        if self.admission.entry().revoked_ms.load(Ordering::SeqCst) == i64::MAX {
            return Ok(());
        }
        let text = "this token was rotated already and ends with its grace".to_owned();
        Err(KernelError::Refused(text))
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        self.admission.tenant()
    }

    fn resident(&self) -> &std::sync::Arc<Resident> {
        self.admission.tenant().resident()
    }
}

impl Admission {
    /// Names and ages of the tenant's secrets.
    ///
    /// # Errors
    /// As [`Tenant::read`](crate::Tenant::read); [`KernelError::Refused`] for every role but `admin`.
    pub async fn own_secrets(&self) -> Result<Vec<SecretInfo>, KernelError> {
        if self.role() != Role::Admin {
            let text = "only the role admin sees the names of secrets".to_owned();
            return Err(KernelError::Refused(text));
        }
        crate::secrets::listed(self.tenant()).await
    }
}

impl Kernel {
    /// Records a change in the tenant's log, with who made it; returns when it is durable.
    pub(crate) async fn record_by(
        &self,
        by: &By<'_>,
        resident: &Resident,
        action: &'static str,
        detail: BTreeMap<&'static str, String>,
    ) -> Result<(), KernelError> {
        match by {
            By::Operator(operator) => self.record_change(operator, resident, action, detail).await,
            By::Admin(admin) => self.record_own(admin, action, detail).await,
        }
    }

    async fn record_own(
        &self,
        admin: &Administrator<'_>,
        action: &'static str,
        detail: BTreeMap<&'static str, String>,
    ) -> Result<(), KernelError> {
        // Once more, now that the change is about to be made: its turn may have come late.
        admin.admission.tenant().acts()?;
        self.still_allows(admin.admission, action)?;
        let time = self.now().to_string();
        let seq = self.record_event(admin.resident(), |seq| Entry {
            action,
            actor: Some("admin"),
            decision: "allow",
            detail,
            request_id: Some(admin.trail.request_id().as_str()),
            seq,
            time,
            ..Entry::of(admin.admission)
        })?;
        self.durable(seq).await
    }
}
