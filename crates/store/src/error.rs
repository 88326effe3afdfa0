//! What can go wrong with a database, by who must act on it.

use std::fmt;

use rusqlite::{ErrorCode, ffi};

/// Why a database did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The queue is full, the wait was too long, or a statement took longer than it may; nothing was done. May be tried again.
    Busy,
    /// No room left, on the disk or in a quota; the transaction was rolled back. Where the lack showed after its last write it is
    /// stored all the same when the database is opened again: try again what may be done twice.
    Full,
    /// The disk failed. Whether a write that ended so is stored is unknown: quarantine the tenant.
    Io,
    /// The file is altered, cut short or missing: quarantine the tenant.
    Damaged,
    /// The file does not open with this key.
    WrongKey,
    /// The file is not this tenant's: it names another owner, or it is a link, has a second name,
    /// belongs to another user or is open to others.
    Foreign,
    /// The database was written by a newer version, or is of another kind.
    Schema,
    /// The statement was refused or failed; the transaction was rolled back. The text is for the
    /// log, never for an outsider.
    Query {
        /// What the engine said.
        text: String,
    },
    /// The engine is shutting down.
    Closed,
}

impl StoreError {
    pub(crate) fn query(text: impl Into<String>) -> Self {
        Self::Query { text: text.into() }
    }

    /// Whether the connection that reported it can no longer be trusted.
    pub(crate) fn breaks_connection(&self) -> bool {
        matches!(self, Self::Io | Self::Damaged | Self::WrongKey)
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            // The guard stops what runs too long: that says how busy the machine is, nothing about the data.
            Some(ErrorCode::OperationInterrupted) => Self::Busy,
            Some(ErrorCode::DiskFull) => Self::Full,
            // What is planted or missing is found before the engine opens the file: what remains is a lack of descriptors.
            Some(ErrorCode::CannotOpen | ErrorCode::OutOfMemory) => Self::Busy,
            // The same lack at the index of the write-ahead log, which is then opened for reading. What a statement may not write
            // has the plain code.
            Some(ErrorCode::ReadOnly) if extended(&error) != ffi::SQLITE_READONLY => Self::Busy,
            // The index of the write-ahead log could not grow. It is made anew at will and holds no data.
            Some(ErrorCode::SystemIoFailure) if extended(&error) == ffi::SQLITE_IOERR_SHMSIZE => {
                Self::Full
            }
            Some(ErrorCode::SystemIoFailure) => Self::Io,
            // The cipher reports a page whose authentication fails as "not a database".
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged,
            _ => Self::query(error.to_string()),
        }
    }
}

fn extended(error: &rusqlite::Error) -> i32 {
    error
        .sqlite_error()
        .map_or(ffi::SQLITE_OK, |error| error.extended_code)
}

impl From<rustix::io::Errno> for StoreError {
    fn from(errno: rustix::io::Errno) -> Self {
        match errno {
            rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT => Self::Full,
            rustix::io::Errno::MFILE | rustix::io::Errno::NFILE | rustix::io::Errno::NOMEM => {
                Self::Busy
            }
            _ => Self::Io,
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the database is busy"),
            Self::Full => f.write_str("no space left on the disk"),
            Self::Io => f.write_str("the disk failed"),
            Self::Damaged => f.write_str("the database is damaged or missing"),
            Self::WrongKey => f.write_str("the database does not open with this key"),
            Self::Foreign => f.write_str("the database file is not this tenant's"),
            Self::Schema => f.write_str("the database has an unknown version or kind"),
            Self::Query { text } => write!(f, "query failed: {text}"),
            Self::Closed => f.write_str("the engine is closed"),
        }
    }
}

impl std::error::Error for StoreError {}
