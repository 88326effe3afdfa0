//! The journal's disk: writes reach the system at once and stable storage at a sync. A power cut takes what was not synced, whole or
//! in part; an operation fails when the seed says so.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::rng::Rng;

/// A disk writes this much at once, or not at all.
const SECTOR: usize = 512;

/// What the disk does wrong.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct DiskFaults {
    /// The write, counted from 1, that fails; before it fails it may have written a part.
    pub(crate) failing_write: Option<u64>,
    /// The sync, counted from 1, that fails.
    pub(crate) failing_sync: Option<u64>,
    /// In a power cut it may lose a write and keep a later one.
    pub(crate) reorders: bool,
    /// Says yes to a sync and does nothing: the control that must be caught.
    pub(crate) lies: bool,
}

/// What a write replaced, and what it wrote.
struct Unsynced {
    inode: u64,
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
    number: u64,
}

#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) faults: DiskFaults,
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
    /// Whether an operation has failed.
    pub(crate) failed: bool,
    unsynced: Vec<Unsynced>,
}

impl Disk {
    pub(crate) fn with(faults: DiskFaults) -> Self {
        Self {
            faults,
            ..Self::default()
        }
    }

    pub(crate) fn write_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.writes += 1;
        let fails = self.faults.failing_write == Some(self.writes);
        self.failed |= fails;
        let bytes = if fails {
            &bytes[..bytes.len() / 2]
        } else {
            bytes
        };
        let mut before = vec![0; bytes.len()];
        file.read_exact_at(&mut before, offset)?;
        file.write_all_at(bytes, offset)?;
        self.unsynced.push(Unsynced {
            inode: file.metadata()?.ino(),
            offset,
            before,
            after: bytes.to_vec(),
            number: self.writes,
        });
        if fails {
            return Err(io::Error::other("a write that fails"));
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self, file: &File) -> io::Result<()> {
        self.syncs += 1;
        if self.faults.failing_sync == Some(self.syncs) {
            self.failed = true;
            return Err(io::Error::other("a sync that fails"));
        }
        if !self.faults.lies {
            let inode = file.metadata()?.ino();
            self.unsynced.retain(|write| write.inode != inode);
        }
        Ok(())
    }

    /// Whether everything up to this write is on stable storage.
    pub(crate) fn is_stable(&self, write: u64) -> bool {
        self.unsynced.iter().all(|unsynced| unsynced.number > write)
    }

    /// Does to a copy of the journal what a power cut does: of each write since the last sync of its file nothing, a part in whole
    /// sectors, or all is there.
    pub(crate) fn cut_power(&self, journal: &Path, copy: &Path, rng: &mut Rng) -> io::Result<()> {
        let mut files = HashMap::new();
        #[expect(clippy::disallowed_methods, reason = "directories of the simulation")]
        for entry in std::fs::read_dir(journal)? {
            let entry = entry?;
            files.insert(entry.metadata()?.ino(), entry.file_name());
        }
        let mut open = HashMap::new();
        for write in &self.unsynced {
            let Some(name) = files.get(&write.inode) else {
                continue;
            };
            if let Entry::Vacant(place) = open.entry(write.inode) {
                place.insert(writable(&copy.join(name))?);
            }
        }
        for write in self.unsynced.iter().rev() {
            if let Some(file) = open.get(&write.inode) {
                file.write_all_at(&write.before, write.offset)?;
            }
        }
        // Many cuts take all: what the product promised must not need luck.
        let kept = [0, rng.index(self.unsynced.len() + 1)][rng.index(2)];
        for (index, write) in self.unsynced.iter().enumerate() {
            let Some(file) = open.get(&write.inode) else {
                continue;
            };
            let (whole, torn) = if self.faults.reorders {
                (rng.percent(50), rng.percent(50))
            } else {
                (index < kept, index == kept && kept > 0)
            };
            let sectors = rng.index(write.after.len() / SECTOR + 1);
            if whole {
                file.write_all_at(&write.after, write.offset)?;
            } else if torn {
                file.write_all_at(&write.after[..sectors * SECTOR], write.offset)?;
            }
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "directories of the simulation")]
fn writable(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().write(true).open(path)
}
