//! What can go wrong below admission, split by what the caller may do about it.

use std::fmt;

use store::StoreError;

/// A failure of the kernel. `Display` is for the operator and the log, never for outsiders.
#[derive(Debug)]
pub enum KernelError {
    /// The credential or status behind this capability no longer holds (suspended, rotated, revoked, deleted).
    Revoked,
    /// This tenant's store cannot be trusted; it alone is out of service.
    Quarantined(String),
    /// The journal's disk failed: nobody is admitted until a restart.
    JournalDown,
    /// Try again later: a bounded queue was full or a deadline passed.
    Busy,
    /// The request cannot be carried out as it stands; the text says what to do.
    Refused(String),
    /// No such object.
    NotFound(String),
    /// An object of that name lives already.
    Exists(String),
    /// The data directory, a key or a file of the deployment: text for the operator.
    Root(String),
    /// The tenant's database.
    Store(StoreError),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked => f.write_str("the credential was revoked or the tenant suspended"),
            Self::Quarantined(why) => write!(f, "the tenant is quarantined: {why}"),
            Self::JournalDown => {
                f.write_str("the journal could not be written; restart after repairing the disk")
            }
            Self::Busy => f.write_str("too busy; try again"),
            Self::Refused(why) | Self::NotFound(why) | Self::Exists(why) | Self::Root(why) => {
                f.write_str(why)
            }
            Self::Store(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for KernelError {}

impl From<StoreError> for KernelError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Busy => Self::Busy,
            other => Self::Store(other),
        }
    }
}
