//! Opening beneath a directory: the only calls that reach into a workspace, and what their failures mean.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;

use super::FileError;
use super::path::WorkPath;

/// A rename elsewhere, a signal or a lease that a program took on its file can each make an opening fail once.
const TRIES: usize = 4;

/// Private to the gateway until the sandbox hands it to the tenant's user.
const PRIVATE_DIR: Mode = Mode::RWXU;
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Opens `path` beneath `at`. No link of either kind is followed in any part of it and no
/// other file system entered: the machine's kernel holds that in one step, whatever is renamed meanwhile. A kernel without that call
/// fails it; nothing weaker stands in.
fn open(at: impl AsFd, path: impl Arg + Copy, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    // Nothing waits at a fifo or a lease, and no terminal becomes the gateway's.
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        result = rustix::fs::openat2(&at, path, flags, mode, resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    result
}

/// A directory, for reading its names and for reaching into it.
pub(super) fn open_dir(at: impl AsFd, path: impl Arg + Copy) -> Result<OwnedFd, Errno> {
    open(at, path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
}

/// A directory right below `at`, made where there is none.
pub(super) fn make_dir(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match open_dir(&at, name) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    match rustix::fs::mkdirat(&at, name, PRIVATE_DIR) {
        // Another was faster: what it made is opened under the same conditions.
        Ok(()) | Err(Errno::EXIST) => open_dir(&at, name),
        Err(error) => Err(error),
    }
}

/// A regular file with one name. Anything else that was opened is closed unread.
pub(super) fn open_file(
    at: impl AsFd,
    path: &WorkPath,
    flags: OFlags,
) -> Result<(OwnedFd, Stat), FileError> {
    let file = open(at, path.beneath(), flags, Mode::empty()).map_err(told)?;
    let stat = rustix::fs::fstat(&file).map_err(told)?;
    if is_plain(&stat) {
        return Ok((file, stat));
    }
    Err(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => FileError::IsDirectory,
        FileType::RegularFile if stat.st_nlink == 0 => FileError::NotFound,
        _ => FileError::NotRegular,
    })
}

/// A new file right below `at`. Fails where the name is taken, by a link too.
pub(super) fn create_file(at: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    open(at, name, flags, PRIVATE_FILE)
}

/// What stands under a name right below `at`; a link is not followed.
pub(super) fn stat(at: impl AsFd, name: impl Arg) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is a regular file that has one name: with two, one of them may stand outside.
pub(super) fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode).is_file() && stat.st_nlink == 1
}

/// Bytes on the disk. Blocks, not lengths: a file with holes is as long as it likes. They are units of 512 everywhere.
pub(super) fn weight(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512)
}

pub(super) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// What a failure within the workspace means to whoever asked.
pub(super) fn told(error: Errno) -> FileError {
    match error {
        Errno::NOENT => FileError::NotFound,
        Errno::NOTDIR => FileError::NotDirectory,
        Errno::ISDIR => FileError::IsDirectory,
        Errno::NOTEMPTY => FileError::NotEmpty,
        // A link; another file system; a fifo or a socket that nobody reads.
        Errno::LOOP | Errno::XDEV | Errno::NXIO | Errno::NODEV => FileError::NotRegular,
        Errno::AGAIN | Errno::EXIST | Errno::BUSY | Errno::TXTBSY => FileError::Busy,
        Errno::NOSPC | Errno::DQUOT => FileError::Io(ErrorKind::StorageFull),
        other => FileError::Io(other.kind()),
    }
}
