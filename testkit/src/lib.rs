//! What tests of several crates need: a clock that tests own, and a kernel in a directory of its own.
//!
//! A dev-dependency only: a tidy test refuses it anywhere else.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base::{Clock, RequestId, TenantId, Timestamp};
use kernel::lifecycle::NewTenant;
use kernel::quota::Standing;
use kernel::tokens::IssuedToken;
use kernel::{
    Admission, AttemptFacts, Caller, DataRoot, Kernel, KernelError, KernelOptions, Limits,
    Operator, Purpose, Refused, Tenant, Tier, Tiers,
};
use tempfile::TempDir;

/// The first attempt of a call of `model` at the provider `sim`, priced by the card `v1`.
#[must_use]
pub fn facts(request: RequestId, model: &str) -> AttemptFacts {
    AttemptFacts {
        request,
        attempt: 1,
        counts_call: true,
        model: model.to_owned(),
        provider: "sim".to_owned(),
        provider_model: model.to_owned(),
        ratecard_version: Arc::from("v1"),
        rule: "base.callers-work".into(),
        region: None,
        trace: None,
        standing: Standing::default(),
        request_received: [1; 32],
        request_sent: [2; 32],
    }
}

/// A clock that stands still until a test moves it.
pub struct FakeClock(AtomicI64);

impl FakeClock {
    /// A clock at an RFC 3339 moment.
    #[must_use]
    pub fn at(text: &str) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(
            Timestamp::parse(text).unwrap_or_default().unix_ms(),
        )))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(
            i64::try_from(by.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

/// A kernel in a temporary data directory, which is removed with it.
pub struct TempKernel {
    /// The kernel.
    pub kernel: Kernel,
    /// The operator's capability.
    pub operator: Operator,
    /// The clock that the kernel reads.
    pub clock: Arc<FakeClock>,
    dir: TempDir,
}

impl TempKernel {
    /// A fresh kernel with the tier `basic`.
    ///
    /// # Errors
    /// When the temporary directory or the kernel does not open.
    pub async fn open() -> Result<Self, KernelError> {
        let dir = tempfile::tempdir().map_err(|error| KernelError::Root(error.to_string()))?;
        let path = dir.path().join("data");
        DataRoot::create(&path)?;
        DataRoot::open(&path)?
            .write_private_new(kernel::root::MASTER_KEY_FILE, "0b".repeat(32).as_bytes())?;
        let clock = FakeClock::at("2026-11-22T12:00:00Z");
        let (kernel, operator) = open_at(&path, &clock).await?;
        Ok(Self {
            kernel,
            operator,
            clock,
            dir,
        })
    }

    /// Where the data lies.
    #[must_use]
    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Lets go of the kernel without closing it, as a crash would, and opens the directory anew.
    ///
    /// # Errors
    /// When the directory does not open again.
    pub async fn crash_and_reopen(self) -> Result<Self, KernelError> {
        self.crash_and_reopen_after(|| {}).await
    }

    /// The same, with something done to the directory while no process has it open.
    ///
    /// # Errors
    /// When the directory does not open again.
    pub async fn crash_and_reopen_after(
        self,
        meanwhile: impl FnOnce(),
    ) -> Result<Self, KernelError> {
        let Self {
            kernel,
            operator,
            clock,
            dir,
        } = self;
        drop((kernel, operator));
        meanwhile();
        let (kernel, operator) = open_at(&dir.path().join("data"), &clock).await?;
        Ok(Self {
            kernel,
            operator,
            clock,
            dir,
        })
    }

    /// Opens a copy of the directory as it lies on disk at this moment: what a kill of the process would leave.
    ///
    /// # Errors
    /// When the copy cannot be made or does not open.
    pub async fn killed(self) -> Result<Self, KernelError> {
        let copy = self
            .copied()
            .map_err(|error| KernelError::Root(error.to_string()))?;
        let (kernel, operator) = open_at(&copy.path().join("data"), &self.clock).await?;
        Ok(Self {
            kernel,
            operator,
            clock: Arc::clone(&self.clock),
            dir: copy,
        })
    }

    /// A copy of the directory. A segment of the journal that is retired meanwhile is a reason to begin anew.
    fn copied(&self) -> std::io::Result<TempDir> {
        let mut tries = 0;
        loop {
            let copy = tempfile::tempdir()?;
            match copy_tree(&self.path(), &copy.path().join("data")) {
                Ok(()) => return Ok(copy),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && tries < 10 => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Presents a token for `purpose`.
    ///
    /// # Errors
    /// As [`Kernel::admit_for`]; a token whose text is no text is a wrong one.
    pub async fn admit(&self, token: &IssuedToken, purpose: Purpose) -> Result<Admission, Refused> {
        let text = token.text.expose_str().ok_or(Refused::Unknown)?;
        let caller = Caller::from_token(text);
        self.kernel.admit_for(caller, purpose).await
    }

    /// A tenant of tier `basic` and its first token.
    ///
    /// # Errors
    /// As [`Kernel::create_tenant`].
    pub async fn tenant(&self, id: &str) -> Result<(Tenant, IssuedToken), KernelError> {
        self.tenant_with(id, Limits::default()).await
    }

    /// The operator's capability over a tenant that is there.
    ///
    /// # Errors
    /// As [`Kernel::tenant`].
    pub fn known(&self, id: &str) -> Result<Tenant, KernelError> {
        let id: TenantId = id
            .parse()
            .map_err(|_| KernelError::NotFound(format!("{id:?} is no tenant's id")))?;
        self.kernel.tenant(&self.operator, &id)
    }

    /// A tenant with limits of its own.
    ///
    /// # Errors
    /// As [`Kernel::create_tenant`].
    pub async fn tenant_with(
        &self,
        id: &str,
        overrides: Limits,
    ) -> Result<(Tenant, IssuedToken), KernelError> {
        let id: TenantId = id
            .parse()
            .map_err(|_| KernelError::Refused("not an id".to_owned()))?;
        let new = NewTenant {
            id,
            tier: "basic".to_owned(),
            overrides,
        };
        self.kernel.create_tenant(&self.operator, new).await
    }
}

/// Opens a kernel over an existing data directory.
///
/// # Errors
/// As [`Kernel::open`].
pub async fn open_at(
    path: &Path,
    clock: &Arc<FakeClock>,
) -> Result<(Kernel, Operator), KernelError> {
    let root = DataRoot::open(path)?;
    let master = root.master_key()?;
    let tiers = Tiers {
        tiers: [("basic".to_owned(), Tier::default())].into(),
        ..Tiers::default()
    };
    let models = ["sim-fast".to_owned(), "sim-large".to_owned()].into();
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    Kernel::open(KernelOptions {
        root,
        master,
        clock,
        tiers,
        models,
        writers: 2,
        open_databases: 64,
    })
    .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "test support copies a directory of its own"
)]
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    std::fs::set_permissions(to, from.metadata()?.permissions())
}
