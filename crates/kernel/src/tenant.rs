//! The capability over one tenant's state.

pub mod admit;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{TenantId, TenantUid};
use cap_std::fs::Dir;
use store::{ReadTx, StoreError, WriteTx};
use vault::Secret;

use crate::error::KernelError;
use crate::open::Kernel;
use crate::quarantine::Quarantine;
use crate::resident::{Account, READING_EPOCH, Resident, TokenEntry};
use crate::settings::Settings;
use crate::share::Share;

/// Authority over one tenant's state. Holding it is the permission; there is no other way in.
///
/// A `Tenant` is bound to the credential (or the operator's sweep) that it was minted for and to the tenant's epoch: after a
/// suspension, deletion, rotation or revocation every use of it fails with [`KernelError::Revoked`]. A freeze ends those that
/// may do more than read.
#[derive(Clone)]
pub struct Tenant {
    kernel: Kernel,
    resident: Arc<Resident>,
    epoch: u64,
    via: Via,
}

/// On whose behalf a capability was minted.
#[derive(Clone)]
enum Via {
    Token(Arc<TokenEntry>, Purpose),
    Operator,
}

/// What an admitted caller is there for: a frozen tenant's callers may still read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Calls and changes.
    Act,
    /// Reading only; such a capability cannot write and opens no attempt, whatever the status.
    Read,
}

impl Tenant {
    /// The only constructor. Its two call sites are `tenant::admit` and `sweep`; a tidy test asserts that.
    fn mint(kernel: &Kernel, resident: &Arc<Resident>, via: Via) -> Self {
        let epoch = resident.epoch.load(Ordering::SeqCst);
        Self {
            kernel: kernel.clone(),
            resident: Arc::clone(resident),
            epoch,
            via,
        }
    }

    /// For the operator's sweep; asks for the operator's own capability.
    pub(crate) fn mint_for_operator(
        kernel: &Kernel,
        resident: &Arc<Resident>,
        _by: &crate::sweep::Operator,
    ) -> Self {
        Self::mint(kernel, resident, Via::Operator)
    }

    /// The public name: for messages and reports, opens nothing.
    #[must_use]
    pub fn id(&self) -> &TenantId {
        &self.resident.id
    }

    /// The identity that ciphertexts are bound to.
    #[must_use]
    pub fn uid(&self) -> TenantUid {
        self.resident.uid
    }

    /// Status, tier and overrides as the operator set them.
    #[must_use]
    pub fn account(&self) -> Arc<Account> {
        self.resident.account.load_full()
    }

    /// Whether the tenant is being deleted: its keys are gone or going, and its rows with them.
    #[must_use]
    pub fn is_being_deleted(&self) -> bool {
        self.resident.is_dead()
    }

    /// Settings in force.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.resident.settings.load_full()
    }

    /// Why the tenant is out of service, if it is.
    #[must_use]
    pub fn quarantine(&self) -> Option<Arc<Quarantine>> {
        self.resident.quarantine.load_full()
    }

    /// Runs `job` in a read transaction of the tenant's database, after folding what the journal holds of this tenant. For the
    /// operator a quarantined tenant's file is read as it lies there.
    ///
    /// # Errors
    /// [`KernelError::Revoked`] when the authority ended, [`KernelError::Quarantined`] when the store cannot be trusted, or what is
    /// asked for cannot be read.
    pub async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, KernelError> {
        if let (Via::Operator, Some(why)) = (&self.via, self.resident.quarantine.load_full()) {
            self.holds()?;
            return self
                .kernel
                .read_quarantined(&self.resident, &why, job)
                .await;
        }
        self.live()?;
        self.kernel.load(&self.resident).await?;
        self.kernel.fold(&self.resident).await?;
        let place = self.kernel.place(&self.resident)?;
        let result = self.kernel.engine().read(&place, job).await;
        self.kernel.checked(&self.resident, result)
    }

    /// Runs `job` in a write transaction of the tenant's database; it is rolled back when `job` fails.
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, KernelError> {
        self.acts()?;
        self.kernel.load(&self.resident).await?;
        let place = self.kernel.place(&self.resident)?;
        let result = self.kernel.engine().write(&place, job).await;
        self.kernel.checked(&self.resident, result)
    }

    /// The tenant's directory, to read and to write. `..`, absolute paths and symbolic links cannot leave it.
    ///
    /// # Errors
    /// [`KernelError::Revoked`], [`KernelError::Refused`] for a capability that only reads, or when the directory is gone.
    pub fn files(&self) -> Result<Dir, KernelError> {
        self.acts()?;
        self.kernel.root().tenant_dir(&self.resident.id)
    }

    /// A secret of this tenant by name, as the tenant's admin stored it.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        self.resident.secrets.load().get(name).cloned()
    }

    /// An opaque tag of this tenant for upstreams that want an end-user id: a keyed hash, stable, meaningless outside.
    ///
    /// # Errors
    /// When the tenant's keys cannot be opened.
    pub fn upstream_tag(&self) -> Result<Arc<str>, KernelError> {
        if let Some(tag) = self.resident.tag.get() {
            return Ok(Arc::clone(tag));
        }
        let keys = self.kernel.keys(&self.resident)?;
        let digest = vault::hmac_sha256(&keys.tag, &[b"upstream tag v1"]);
        let tag: Arc<str> = Arc::from(format!("pw_{}", hex::encode(&digest[..16])));
        Ok(Arc::clone(self.resident.tag.get_or_init(|| tag)))
    }

    /// What the tenant holds of what the process has for all.
    #[must_use]
    pub fn share(&self) -> &Arc<Share> {
        &self.resident.share
    }

    /// Whether the authority still holds.
    ///
    /// # Errors
    /// [`KernelError::Revoked`] when it ended, [`KernelError::Quarantined`] when the tenant is out of service.
    pub fn live(&self) -> Result<(), KernelError> {
        if let Some(found) = self.resident.quarantine.load_full() {
            return Err(KernelError::Quarantined(found.why.clone()));
        }
        self.holds()
    }

    fn holds(&self) -> Result<(), KernelError> {
        let moved = self.epoch ^ self.resident.epoch.load(Ordering::SeqCst);
        let holds = match &self.via {
            Via::Token(token, Purpose::Act) => moved == 0 && token.valid_at(self.kernel.now()),
            Via::Token(token, Purpose::Read) => {
                moved >> READING_EPOCH == 0 && token.valid_at(self.kernel.now())
            }
            Via::Operator => moved >> READING_EPOCH == 0,
        };
        if holds {
            Ok(())
        } else {
            Err(KernelError::Revoked)
        }
    }

    /// Whether the authority holds and may do more than read.
    ///
    /// # Errors
    /// As [`Tenant::live`]; [`KernelError::Refused`] for a capability that only reads.
    pub(crate) fn acts(&self) -> Result<(), KernelError> {
        self.live()?;
        match self.via {
            Via::Token(_, Purpose::Read) => Err(KernelError::Refused(
                "this authority is for reading only".to_owned(),
            )),
            Via::Token(_, Purpose::Act) | Via::Operator => Ok(()),
        }
    }

    /// The current moment.
    #[must_use]
    pub fn now(&self) -> base::Timestamp {
        self.kernel.now()
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The credential that it was minted for; `None` for the operator's.
    pub(crate) fn token(&self) -> Option<&TokenEntry> {
        match &self.via {
            Via::Token(token, _) => Some(token),
            Via::Operator => None,
        }
    }

    pub(crate) fn resident(&self) -> &Arc<Resident> {
        &self.resident
    }
}
