//! Looking at a file before trusting it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fsync, openat, statat};
use rustix::io::Errno;

/// Which file a name led to, and how long it was.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    device: u64,
    inode: u64,
    pub(crate) len: u64,
}

/// Why a name is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileFault {
    /// A link, a second name, another owner, another mode, or not a file.
    Foreign,
    /// The file system failed.
    Io(Errno),
}

impl Found {
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Mode of every file of the engine.
pub(crate) const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Looks at `name` without following it. `None` when there is nothing.
pub(crate) fn look(dir: impl AsFd, name: &str) -> Result<Option<Found>, FileFault> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => trusted(&stat).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(FileFault::Io(errno)),
    }
}

/// Opens `name` below `dir` without following links, and trusts what was opened, not what was
/// looked at before.
pub(crate) fn open(dir: impl AsFd, name: &str, flags: OFlags) -> Result<OwnedFd, FileFault> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(dir, name, flags, PRIVATE).map_err(|errno| match errno {
        Errno::LOOP => FileFault::Foreign,
        errno => FileFault::Io(errno),
    })?;
    trusted(&rustix::fs::fstat(&file).map_err(FileFault::Io)?)?;
    Ok(file)
}

/// Syncs the names in a directory.
pub(crate) fn sync_dir(dir: impl AsFd) -> Result<(), Errno> {
    fsync(readable_dir(dir)?)
}

/// The directory, opened anew: a handle that only names it (O_PATH), as those of capability
/// libraries are, can be neither listed nor synced.
pub(crate) fn readable_dir(dir: impl AsFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, ".", flags, Mode::empty())
}

fn trusted(stat: &Stat) -> Result<Found, FileFault> {
    let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let own = stat.st_uid == rustix::process::geteuid().as_raw();
    let private = Mode::from_raw_mode(stat.st_mode) == PRIVATE;
    if plain && own && private && stat.st_nlink == 1 {
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(Found {
            device: stat.st_dev,
            inode: stat.st_ino,
            len,
        })
    } else {
        Err(FileFault::Foreign)
    }
}
