//! What can go wrong with the journal.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::files::FileFault;

/// Why the journal did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalError {
    /// An earlier write or sync failed; nothing is accepted until the process starts anew.
    Poisoned,
    /// No space left for a new segment. May be tried again.
    Full,
    /// The disk failed.
    Io,
    /// The payload is longer than a record may be.
    TooLarge,
    /// The record's segment is gone, since all its records were folded.
    Folded,
    /// The record is not what was written.
    Damaged,
    /// A file of the journal is a link, has a second name, belongs to another user or is open to
    /// others.
    Foreign,
    /// The number was never given out by this process, or the journal is closed.
    Closed,
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poisoned => "the journal stopped after a failed write or sync",
            Self::Full => "no space left for the journal",
            Self::Io => "the journal's disk failed",
            Self::TooLarge => "the record is too large for the journal",
            Self::Folded => "the record was folded and is no longer in the journal",
            Self::Damaged => "the record is damaged",
            Self::Foreign => "a journal file is a link or belongs to somebody else",
            Self::Closed => "the journal is closed",
        })
    }
}

impl std::error::Error for JournalError {}

impl From<io::Error> for JournalError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io,
        }
    }
}

impl From<Errno> for JournalError {
    fn from(errno: Errno) -> Self {
        io::Error::from(errno).into()
    }
}

impl From<FileFault> for JournalError {
    fn from(fault: FileFault) -> Self {
        match fault {
            FileFault::Foreign => Self::Foreign,
            FileFault::Io(errno) => errno.into(),
        }
    }
}
