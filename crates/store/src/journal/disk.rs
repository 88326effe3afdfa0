//! The operations whose failure decides what the journal may claim.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::fsync;

use crate::ground::Stage;

/// Writes and syncs of segments. Beside the system's there are the failing disk of the tests and that of a simulation.
pub(super) trait Disk: Send + Sync {
    /// Writes all bytes at the offset.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once what was written is on stable storage.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Returns once the names of the journal's directory are.
    fn sync_names(&self, dir: &OwnedFd) -> io::Result<()>;
}

/// The operating system's.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_names(&self, dir: &OwnedFd) -> io::Result<()> {
        // By the handle that is open: a lack of descriptors must not stop everybody.
        Ok(fsync(dir)?)
    }
}

impl Disk for Arc<dyn Stage> {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.as_ref().write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.as_ref().sync(file)
    }

    fn sync_names(&self, dir: &OwnedFd) -> io::Result<()> {
        RealDisk.sync_names(dir)
    }
}
