//! The workspace from outside: what is in it, how much, and what changed. It is read without following a link and never by a
//! path, since a program may rearrange it at the same time.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::error::SandboxError;
use crate::outcome::{CHANGES_MAX, Change, ChangeKind, FileKind};

/// Directories within each other: each costs a descriptor while it is read.
const DEPTH_MAX: usize = 64;
/// Bytes of all paths together: a listing holds each, and two of them are held by every run. Two hundred for each of 20,000.
const PATH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of the disk that programs leave free; of a small disk an eighth.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// What is in a workspace at one moment, by path.
pub(crate) type Listing = BTreeMap<Vec<u8>, Entry>;

/// One path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    what: FileKind,
    bytes: u64,
    inode: u64,
    mode: u32,
    /// Time of the last change of the inode, which a program cannot set as it can the time of writing.
    changed: (i64, u64),
}

/// Why a walk ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overfull {
    /// More paths than allowed, or paths too long in sum, or directories too deep within each other.
    Files,
    /// More bytes on the disk than allowed.
    Bytes,
}

/// Bounds of a walk.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// What is done with each path: its directory, its name in it, the whole path, and what stands there.
type Visit<'a> = dyn FnMut(BorrowedFd<'_>, &CStr, &[u8], &Stat) -> Result<(), Errno> + 'a;

/// Where a walk stands.
struct Walk<'a, 'b> {
    room: Room,
    files: usize,
    path_bytes: usize,
    bytes: u64,
    visit: &'a mut Visit<'b>,
}

enum Stop {
    Overfull(Overfull),
    System(Errno),
}

/// Lists everything below `root`.
pub(crate) fn list(
    root: BorrowedFd<'_>,
    room: Room,
) -> Result<Result<Listing, Overfull>, SandboxError> {
    let mut listing = Listing::new();
    let walked = walk(root, room, &mut |_, _, path, stat| {
        listing.insert(path.to_vec(), entry(stat));
        Ok(())
    })?;
    Ok(walked.map(|()| listing))
}

/// Whether everything below `root` fits.
pub(crate) fn measure(
    root: BorrowedFd<'_>,
    room: Room,
) -> Result<Result<(), Overfull>, SandboxError> {
    walk(root, room, &mut |_, _, _, _| Ok(()))
}

/// Makes everything below `root`, and `root`, the property of a user. A file with several names is left and refused where it
/// is not that user's already: one of the names may stand elsewhere.
pub(crate) fn adopt(root: BorrowedFd<'_>, uid: u32, room: Room) -> Result<(), SandboxError> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    let mut linked = false;
    let walked = walk(root, room, &mut |dir, name, _, stat| {
        if stat.st_uid == uid {
            return Ok(());
        }
        if stat.st_nlink > 1 && !FileType::from_raw_mode(stat.st_mode).is_dir() {
            linked = true;
            return Ok(());
        }
        rustix::fs::chownat(
            dir,
            name,
            Some(user),
            Some(group),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    })?;
    if linked {
        return Err(SandboxError::Workspace(
            "holds a file of somebody else that has more than one name".to_owned(),
        ));
    }
    if walked.is_err() {
        return Err(SandboxError::Workspace(
            "holds more than is allowed".to_owned(),
        ));
    }
    let own = || -> Result<(), Errno> {
        // Through the directory itself: the descriptor may be one that only stands for a path.
        let root = rustix::fs::openat(root, c".", READ, Mode::empty())?;
        rustix::fs::fchown(&root, Some(user), Some(group))?;
        rustix::fs::fchmod(&root, Mode::RWXU)
    };
    own().map_err(unreadable)
}

/// Whether the file system of the workspace is so full that no program may write to it: what is left belongs to the gateway
/// and to the other tenants.
pub(crate) fn is_short(root: BorrowedFd<'_>) -> Result<bool, SandboxError> {
    let stat = rustix::fs::fstatvfs(root).map_err(unreadable)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(bytes(stat.f_bavail) < FREE_BYTES_MIN.min(bytes(stat.f_blocks) / 8))
}

/// What differs, as the first of it and the number of the rest.
pub(crate) fn compare(before: &Listing, after: &Listing) -> (Vec<Change>, usize) {
    let mut changes = Vec::new();
    let mut cut = 0;
    let mut tell = |path: &[u8], entry: &Entry, kind| {
        if changes.len() == CHANGES_MAX {
            cut += 1;
            return;
        }
        changes.push(Change {
            path: PathBuf::from(OsString::from_vec(path.to_vec())),
            kind,
            what: entry.what,
            bytes: entry.bytes,
        });
    };
    for (path, entry) in after {
        match before.get(path) {
            None => tell(path, entry, ChangeKind::Created),
            Some(was) if differs(was, entry) => tell(path, entry, ChangeKind::Modified),
            Some(_) => {}
        }
    }
    for (path, entry) in before {
        if !after.contains_key(path) {
            tell(path, entry, ChangeKind::Removed);
        }
    }
    (changes, cut)
}

const READ: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory changes with each name in it; that is told by the names.
fn differs(was: &Entry, is: &Entry) -> bool {
    if was.what == FileKind::Directory && is.what == FileKind::Directory {
        return was.inode != is.inode || was.mode != is.mode;
    }
    was != is
}

fn entry(stat: &Stat) -> Entry {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    Entry {
        what,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        mode: stat.st_mode,
        changed: (stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn walk(
    root: BorrowedFd<'_>,
    room: Room,
    visit: &mut Visit<'_>,
) -> Result<Result<(), Overfull>, SandboxError> {
    let mut walk = Walk {
        room,
        files: 0,
        path_bytes: 0,
        bytes: 0,
        visit,
    };
    let opened = rustix::fs::openat(root, c".", READ, Mode::empty()).map_err(unreadable)?;
    match walk.directory(&opened, &mut Vec::new(), 0) {
        Ok(()) => Ok(Ok(())),
        Err(Stop::Overfull(why)) => Ok(Err(why)),
        Err(Stop::System(error)) => Err(unreadable(error)),
    }
}

fn unreadable(error: Errno) -> SandboxError {
    SandboxError::Workspace(format!("cannot be read: {error}"))
}

impl Walk<'_, '_> {
    fn directory(&mut self, dir: &OwnedFd, path: &mut Vec<u8>, depth: usize) -> Result<(), Stop> {
        if depth == DEPTH_MAX {
            return Err(Stop::Overfull(Overfull::Files));
        }
        for entry in Dir::read_from(dir).map_err(Stop::System)? {
            let name: CString = entry.map_err(Stop::System)?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Gone in between.
                Err(Errno::NOENT) => continue,
                // As below, where a directory is opened.
                Err(Errno::ACCESS) => return Err(Stop::Overfull(Overfull::Files)),
                Err(error) => return Err(Stop::System(error)),
            };
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            self.take(dir.as_fd(), &name, path, &stat)?;
            if FileType::from_raw_mode(stat.st_mode).is_dir() {
                match rustix::fs::openat(dir, &name, READ, Mode::empty()) {
                    Ok(below) => self.directory(&below, path, depth + 1)?,
                    // Another thing by now.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                    // Closed to its own owner, which is us where this process is not root: a place to hide bytes in.
                    Err(Errno::ACCESS) => return Err(Stop::Overfull(Overfull::Files)),
                    Err(error) => return Err(Stop::System(error)),
                }
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn take(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), Stop> {
        self.files += 1;
        self.path_bytes = self.path_bytes.saturating_add(path.len());
        // Blocks, not lengths: a file with holes is as long as it likes. They are units of 512 whatever the file system has.
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
        if self.files > self.room.files || self.path_bytes > PATH_BYTES_MAX {
            return Err(Stop::Overfull(Overfull::Files));
        }
        if self.bytes > self.room.bytes {
            return Err(Stop::Overfull(Overfull::Bytes));
        }
        match (self.visit)(dir, name, path, stat) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Stop::System(error)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "directories of tests")]
mod tests {
    use super::*;
    use std::fs;

    const ROOM: Room = Room {
        files: 100,
        bytes: 1 << 20,
    };

    fn open(dir: &tempfile::TempDir) -> OwnedFd {
        fs::File::open(dir.path()).unwrap().into()
    }

    #[test]
    fn tells_what_is_new_changed_and_gone_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("kept")).unwrap();
        fs::write(at("kept/same"), b"same").unwrap();
        fs::write(at("other"), b"one").unwrap();
        fs::write(at("gone"), b"12345").unwrap();
        let before = list(open(&dir).as_fd(), ROOM).unwrap().unwrap();
        fs::write(at("other"), b"two").unwrap();
        fs::remove_file(at("gone")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("kept/link")).unwrap();
        let after = list(open(&dir).as_fd(), ROOM).unwrap().unwrap();
        let (changes, cut) = compare(&before, &after);
        let told: Vec<_> = changes
            .iter()
            .map(|change| {
                (
                    change.path.to_str().unwrap(),
                    change.kind,
                    change.what,
                    change.bytes,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("kept/link", ChangeKind::Created, FileKind::Link, 11),
                ("other", ChangeKind::Modified, FileKind::File, 3),
                ("gone", ChangeKind::Removed, FileKind::File, 5),
            ]
        );
        assert_eq!(cut, 0);
    }

    #[test]
    fn a_time_that_was_set_back_hides_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, b"one").unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let before = list(open(&dir).as_fd(), ROOM).unwrap().unwrap();
        // The clock of the file system moves in steps of some milliseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(&path, b"two").unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(written).unwrap();
        let after = list(open(&dir).as_fd(), ROOM).unwrap().unwrap();
        assert_eq!(compare(&before, &after).0.len(), 1);
    }

    #[test]
    fn a_walk_ends_at_too_many_too_much_and_too_deep() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let room = |files, bytes| Room { files, bytes };
        assert_eq!(
            measure(open(&dir).as_fd(), room(1, 1 << 20)).unwrap(),
            Ok(())
        );
        assert_eq!(
            measure(open(&dir).as_fd(), room(0, 1 << 20)).unwrap(),
            Err(Overfull::Files)
        );
        assert_eq!(
            measure(open(&dir).as_fd(), room(10, 50_000)).unwrap(),
            Err(Overfull::Bytes)
        );
        let deep = vec!["d"; DEPTH_MAX].join("/");
        fs::create_dir_all(dir.path().join(deep)).unwrap();
        assert_eq!(
            measure(open(&dir).as_fd(), room(1_000, 1 << 20)).unwrap(),
            Err(Overfull::Files)
        );
    }

    /// Few files can have much of a name: each below directories whose names are as long as may be.
    #[test]
    fn a_walk_ends_where_the_paths_take_too_much_memory() {
        let dir = tempfile::tempdir().unwrap();
        let long = "d".repeat(255);
        let deep = dir.path().join([long.as_str(); 12].join("/"));
        fs::create_dir_all(&deep).unwrap();
        let room = Room {
            files: 20_000,
            bytes: 1 << 30,
        };
        let each = 12 * 256 + 4;
        for number in 0..PATH_BYTES_MAX / each - 20 {
            fs::write(deep.join(format!("{number:04}")), b"").unwrap();
        }
        assert_eq!(measure(open(&dir).as_fd(), room).unwrap(), Ok(()));
        for number in 0..40 {
            fs::write(deep.join(format!("more{number:02}")), b"").unwrap();
        }
        assert_eq!(
            list(open(&dir).as_fd(), room).unwrap().err(),
            Some(Overfull::Files)
        );
    }

    #[test]
    fn a_file_with_two_names_is_not_given_away() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let precious = elsewhere.path().join("precious");
        fs::write(&precious, b"x").unwrap();
        fs::write(dir.path().join("own"), b"x").unwrap();
        adopt(open(&dir).as_fd(), 200_001, ROOM).unwrap();
        fs::hard_link(&precious, dir.path().join("name")).unwrap();
        assert!(matches!(
            adopt(open(&dir).as_fd(), 200_001, ROOM),
            Err(SandboxError::Workspace(_))
        ));
        use std::os::unix::fs::MetadataExt;
        assert_eq!(fs::metadata(&precious).unwrap().uid(), 0);
        assert_eq!(fs::metadata(dir.path().join("own")).unwrap().uid(), 200_001);
        assert_eq!(fs::metadata(dir.path()).unwrap().uid(), 200_001);
    }
}
