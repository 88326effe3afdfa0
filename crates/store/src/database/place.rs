//! Where one database is, whose it is, and the key that opens it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::TenantUid;
use rustix::fs::{AtFlags, CWD, OFlags, fstat, fsync, openat, statat, unlinkat};
use rustix::io::Errno;
use vault::{Key, ct_eq};

use crate::database::wal;
use crate::error::StoreError;
use crate::files::{FileFault, Found, PRIVATE, look, open, sync_dir};

/// The tables of one kind of database. Migrations run in order, once each, in a transaction of
/// their own; one that shipped is never edited.
pub struct Schema {
    /// The kind of database, stored in it: a registry is not taken for a tenant's database.
    pub name: &'static str,
    /// SQL of each version, from the empty database on.
    pub migrations: &'static [&'static str],
}

/// One database. Holding a `Place` is holding its key: make it only behind admission.
pub struct Place {
    dir: OwnedFd,
    folder: PathBuf,
    file: &'static str,
    pub(super) key: Arc<Key>,
    pub(super) uid: TenantUid,
    pub(super) schema: &'static Schema,
    pub(super) secure_delete: bool,
    must_exist: bool,
    pub(super) reads_only: bool,
}

/// Names a database among the open ones. The key is compared as well, see [`Place::same_key`].
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct PlaceName {
    uid: TenantUid,
    path: PathBuf,
}

/// Written to see whether there is room.
const ROOM: &str = ".room";
/// As much as a large fold writes.
const ROOM_BYTES: u64 = 1024 * 1024;

impl Place {
    /// The database `file` in the directory `dir`, which must also be reachable as `folder`: an
    /// absolute path without symbolic links. SQLite takes paths, not handles; the engine opens by
    /// path and compares what it opened through the handle.
    #[must_use]
    pub fn new(
        dir: OwnedFd,
        folder: PathBuf,
        file: &'static str,
        key: Arc<Key>,
        uid: TenantUid,
        schema: &'static Schema,
    ) -> Self {
        Self {
            dir,
            folder,
            file,
            key,
            uid,
            schema,
            secure_delete: false,
            must_exist: false,
            reads_only: false,
        }
    }

    /// Overwrites deleted rows with zeros: for the registry, whose wrapped keys must be gone.
    #[must_use]
    pub fn with_secure_delete(self) -> Self {
        Self {
            secure_delete: true,
            ..self
        }
    }

    /// Takes a missing or empty file for damage instead of making a new database.
    #[must_use]
    pub fn existing(self) -> Self {
        Self {
            must_exist: true,
            ..self
        }
    }

    /// Leaves the file as it is: a database that would have to be made or migrated first is not opened.
    #[must_use]
    pub fn for_reading(self) -> Self {
        Self {
            must_exist: true,
            reads_only: true,
            ..self
        }
    }

    /// Whose database it is.
    #[must_use]
    pub fn uid(&self) -> TenantUid {
        self.uid
    }

    pub(super) fn name(&self) -> PlaceName {
        PlaceName {
            uid: self.uid,
            path: self.path(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(self.file)
    }

    pub(super) fn same_key(&self, other: &Self) -> bool {
        ct_eq(self.key.expose(), other.key.expose())
    }

    /// Finds the file, or `None` where it is still to be made.
    pub(super) fn find(&self) -> Result<Option<Found>, StoreError> {
        self.check_folder()?;
        for suffix in ["-wal", "-shm", "-journal"] {
            look(&self.dir, &format!("{}{suffix}", self.file)).map_err(refused)?;
        }
        match look(&self.dir, self.file).map_err(refused)? {
            Some(found) if found.len > 0 => Ok(Some(found)),
            _ if self.must_exist => Err(StoreError::Damaged),
            // Empty: an earlier start died before the first page.
            found => Ok(found),
        }
    }

    /// Whether the write-ahead log gives back what was committed.
    pub(super) fn check_log(&self) -> Result<(), StoreError> {
        wal::check(&self.dir, self.file)
    }

    /// Makes the empty file, mode 0600, which SQLite would make readable to others.
    pub(super) fn create(&self) -> Result<Found, StoreError> {
        open(
            &self.dir,
            self.file,
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        )
        .map_err(refused)?;
        sync_dir(&self.dir)?;
        self.find()?.ok_or(StoreError::Io)
    }

    /// Syncs the write-ahead log, its length above all. None is as good as an empty one.
    pub(super) fn sync_log(&self) -> Result<(), StoreError> {
        match open(&self.dir, &format!("{}-wal", self.file), OFlags::RDONLY) {
            Ok(log) => Ok(fsync(log)?),
            Err(FileFault::Io(Errno::NOENT)) => Ok(()),
            Err(fault) => Err(refused(fault)),
        }
    }

    /// Whether the file system, or a quota on it, refuses what a transaction may need. Asked by writing: a quota shows in no
    /// other way.
    pub(super) fn lacks_room(&self) -> bool {
        let asked = self.take_room();
        // Left over, it is emptied by the next question.
        let _ = unlinkat(&self.dir, ROOM, AtFlags::empty());
        matches!(asked, Err(Errno::NOSPC | Errno::DQUOT))
    }

    fn take_room(&self) -> Result<(), Errno> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.dir, ROOM, flags, PRIVATE)?;
        let bytes = [0; 16 * 1024];
        let mut at = 0;
        while at < ROOM_BYTES {
            let written = rustix::io::pwrite(&file, &bytes, at)?;
            // A file that takes nothing and says no reason would be asked for ever.
            at += u64::try_from(written.max(1)).unwrap_or(ROOM_BYTES);
        }
        rustix::fs::fdatasync(&file)
    }

    // The path and the handle must lead to the same directory.
    fn check_folder(&self) -> Result<(), StoreError> {
        let by_handle = fstat(&self.dir)?;
        let by_path = folder_stat(&self.folder)?;
        let same = (by_handle.st_dev, by_handle.st_ino) == (by_path.st_dev, by_path.st_ino);
        if same {
            Ok(())
        } else {
            Err(StoreError::Foreign)
        }
    }
}

fn folder_stat(folder: &Path) -> Result<rustix::fs::Stat, StoreError> {
    statat(CWD, folder, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => StoreError::Damaged,
        errno => errno.into(),
    })
}

fn refused(fault: FileFault) -> StoreError {
    match fault {
        FileFault::Foreign => StoreError::Foreign,
        FileFault::Io(errno) => errno.into(),
    }
}
