//! A tenant's workspace: the directory that its programs write in and that its agents' file tools reach.
//!
//! A program may leave anything there and rearrange it at any moment. So every file is reached from the directory's own descriptor, in
//! one step that follows no link and enters no other file system, and is looked at after it was opened. All calls block, some of
//! them for a walk through the directory: they belong on a thread that may block.

mod beneath;
mod path;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

pub use self::path::{PART_BYTES_MAX, PARTS_MAX, PATH_BYTES_MAX, PathFault, WorkPath, parse};

use self::beneath::{create_file, is_plain, length, make_dir, open_dir, open_file, told, weight};
use self::walk::Used;
use crate::error::KernelError;
use crate::root::io_error;
use crate::tenant::Tenant;

/// Where the workspace lies in the tenant's directory.
const PLACE: [&str; 2] = ["sandbox", "work"];
/// Bytes that one reading gives, and that a search reads of one file, whatever was asked for.
pub const PIECE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes of a text that is searched for.
pub const SEARCHED_BYTES_MAX: usize = 1_024;

/// Authority over one tenant's workspace. It ends with the [`Tenant`] that it came from: then every call says
/// [`FileError::Ended`].
#[derive(Clone)]
pub struct Workspace {
    inner: Arc<Inner>,
}

struct Inner {
    tenant: Tenant,
    root: OwnedFd,
}

/// Bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// What was read.
    pub bytes: Vec<u8>,
    /// Length of the whole file when it was opened.
    pub total: u64,
}

/// What a workspace may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes on the disk, of everything in it.
    pub bytes_max: u64,
    /// Files, directories and whatever else has a name.
    pub files_max: u64,
    /// Length of one file.
    pub file_bytes_max: u64,
}

/// What a writing made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Length of the file now.
    pub bytes_total: u64,
    /// Whether nothing of that name was there before.
    pub created: bool,
}

/// What is in a directory, by path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// There is more than was asked for, or something could not be looked at.
    pub cut: bool,
}

/// One name in a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Below the workspace. What is no text in it, and control characters, stand as U+FFFD.
    pub path: String,
    /// What stands there.
    pub kind: EntryKind,
    /// Length of a file; 0 for the others.
    pub bytes: u64,
    /// Time of the last change that programs may set as they like, in Unix milliseconds.
    pub modified_ms: i64,
    /// Whether `path` can be asked for. Nothing below a directory that cannot is listed or searched.
    pub addressable: bool,
}

/// What stands under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A regular file with this one name.
    File,
    /// A directory.
    Directory,
    /// A symbolic link; never followed.
    Link,
    /// A file with several names, a fifo, a socket, a device; never opened for its content.
    Other,
}

impl EntryKind {
    /// Its name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "link",
            Self::Other => "other",
        }
    }
}

/// How far a search goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// Lines that are told.
    pub hits_max: usize,
    /// First bytes of each file that are read; at most [`PIECE_BYTES_MAX`] are.
    pub file_bytes_max: u64,
    /// Bytes that are read of all files.
    pub bytes_max: u64,
    /// No further file is begun after that.
    pub deadline: Instant,
}

/// Lines with the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// By path and line.
    pub hits: Vec<Hit>,
    /// A bound of the search was met, or something could not be read: there may be more.
    pub cut: bool,
}

/// One line with the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The file.
    pub path: String,
    /// The line, counted from 1.
    pub line: u64,
    /// The line, or of a long one at most 512 bytes around the text; what is no UTF-8 stands as U+FFFD.
    pub text: String,
}

/// A bound of a workspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// Bytes of all files.
    Bytes,
    /// Number of files and directories.
    Files,
    /// Directories within each other. A directory that this process may not read counts as too deep.
    Depth,
}

/// Why a file was not read or changed. `Display` is for models and tenants: it names nothing of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileError {
    /// The path cannot be asked for.
    Path(PathFault),
    /// The text to search for is empty, longer than [`SEARCHED_BYTES_MAX`], or has a line break.
    Text,
    /// Nothing of that name.
    NotFound,
    /// A link, a file with several names, a device, or the way leads over one.
    NotRegular,
    /// A directory where a file was asked for.
    IsDirectory,
    /// Something else where a directory was asked for, or on the way.
    NotDirectory,
    /// A directory that is not empty is not removed.
    NotEmpty,
    /// The file would be longer than a file may be.
    TooLarge {
        /// Bytes of a file.
        limit: u64,
    },
    /// The workspace would hold more than it may, or does already.
    Full {
        /// What there is too much of.
        bound: Bound,
        /// How much there may be.
        limit: u64,
    },
    /// A program changed or held the file at the same moment: trying again may help.
    Busy,
    /// The authority over the tenant ended.
    Ended,
    /// The operating system refused. The kind is for the operator.
    Io(ErrorKind),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(fault) => fault.fmt(f),
            Self::Text => write!(
                f,
                "the text to search for has one line of 1 to {SEARCHED_BYTES_MAX} bytes"
            ),
            Self::NotFound => f.write_str("there is no such file or directory"),
            Self::NotRegular => f.write_str(
                "not an ordinary file: links, files with several names and devices are not opened",
            ),
            Self::IsDirectory => f.write_str("that is a directory"),
            Self::NotDirectory => f.write_str("that, or a part of its path, is not a directory"),
            Self::NotEmpty => f.write_str("the directory is not empty"),
            Self::TooLarge { limit } => write!(f, "a file has at most {limit} bytes"),
            Self::Full { bound, limit } => match bound {
                Bound::Bytes => write!(f, "the workspace holds at most {limit} bytes"),
                Bound::Files => write!(
                    f,
                    "the workspace holds at most {limit} files and directories"
                ),
                Bound::Depth => write!(
                    f,
                    "the workspace has at most {limit} readable directories within each other"
                ),
            },
            Self::Busy => f.write_str("a program is changing that; try again"),
            Self::Ended => f.write_str("the credential ended"),
            Self::Io(ErrorKind::StorageFull) => f.write_str("there is no room on the disk"),
            Self::Io(ErrorKind::PermissionDenied) => {
                f.write_str("the file's own mode forbids that")
            }
            Self::Io(_) => f.write_str("the workspace could not be read or written"),
        }
    }
}

impl std::error::Error for FileError {}

impl From<PathFault> for FileError {
    fn from(fault: PathFault) -> Self {
        Self::Path(fault)
    }
}

impl Bound {
    fn passed(self, limit: u64) -> FileError {
        FileError::Full { bound: self, limit }
    }
}

impl Room {
    fn holds(&self, used: Used) -> Result<(), FileError> {
        if used.files > self.files_max {
            return Err(Bound::Files.passed(self.files_max));
        }
        if used.bytes > self.bytes_max {
            return Err(Bound::Bytes.passed(self.bytes_max));
        }
        Ok(())
    }

    fn holds_file(&self, bytes: u64) -> Result<(), FileError> {
        if bytes > self.file_bytes_max {
            return Err(FileError::TooLarge {
                limit: self.file_bytes_max,
            });
        }
        Ok(())
    }
}

impl Tenant {
    /// The tenant's workspace, made where there is none. Blocks for a moment.
    ///
    /// # Errors
    /// As [`Tenant::files`]; when something else than a directory stands in its place, or the machine's kernel has no `openat2`.
    pub fn workspace(&self) -> Result<Workspace, KernelError> {
        let dir = self.files()?;
        let shown = || self.kernel().root().tenant_path(self.id());
        let failed = |e: Errno| io_error(&shown().join(PLACE.join("/")), "open", &e.into());
        let mut root: OwnedFd = dir.into_std_file().into();
        for name in PLACE {
            root = make_dir(&root, name).map_err(failed)?;
        }
        let tenant = self.clone();
        Ok(Workspace {
            inner: Arc::new(Inner { tenant, root }),
        })
    }
}

impl Workspace {
    /// A descriptor of the directory itself, to hand to what runs programs in it.
    ///
    /// # Errors
    /// [`FileError::Ended`], or no descriptor is left.
    pub fn descriptor(&self) -> Result<OwnedFd, FileError> {
        open_dir(self.root()?, ".").map_err(told)
    }

    /// At most `max` bytes from `offset` on, and never more than [`PIECE_BYTES_MAX`]; none at the file's end and behind it.
    ///
    /// # Errors
    /// [`FileError::NotRegular`] for what is no file with one name; the others as they say.
    pub fn read(&self, path: &str, offset: u64, max: usize) -> Result<Piece, FileError> {
        let (file, stat) = open_file(self.root()?, &parse(path)?, OFlags::RDONLY)?;
        let total = length(&stat);
        let max = max.min(PIECE_BYTES_MAX);
        let bytes = if offset < total {
            read_at(&file, offset, max).map_err(told)?
        } else {
            Vec::new()
        };
        Ok(Piece { bytes, total })
    }

    /// Replaces a file by `bytes`, or adds them at its end; makes it, and directories on the way, where there are none.
    ///
    /// A replacement is whole or not at all for whoever reads meanwhile, and takes the place of a link instead of following it. What is
    /// added may be there in part after a failure. Nothing is synced: a power cut may take it back. A crash may leave a hidden file
    /// `.partywall-*` beside it. Writings of one tenant wait for each other, and the room counts for each; programs that
    /// write meanwhile are not counted.
    ///
    /// # Errors
    /// [`FileError::TooLarge`] and [`FileError::Full`] before anything was made; [`FileError::NotRegular`] for adding to
    /// what is no file with one name; the others as they say.
    pub fn write(
        &self,
        path: &str,
        bytes: &[u8],
        append: bool,
        room: &Room,
    ) -> Result<Written, FileError> {
        let path = parse(path)?;
        let (parent, name) = path.split().ok_or(FileError::IsDirectory)?;
        let more = bytes.len() as u64;
        room.holds_file(more)?;
        let root = self.root()?;
        if self.inner.tenant.kernel().is_short_of_disk() {
            return Err(FileError::Io(ErrorKind::StorageFull));
        }
        // Guards nothing in memory: a panic leaves nothing half-made behind it.
        let _one_writing_at_a_time = self
            .writing()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut used = walk::measure(root, room)?;
        let before = target(root, &parent, name)?;
        if before
            .as_ref()
            .is_some_and(|stat| is(stat, FileType::Directory))
        {
            return Err(FileError::IsDirectory);
        }
        let kept = before.as_ref().filter(|stat| is_plain(stat));
        if append {
            room.holds_file(kept.map_or(0, length).saturating_add(more))?;
        } else {
            used.bytes -= kept.map_or(0, weight).min(used.bytes);
        }
        used.bytes = used.bytes.saturating_add(more);
        used.files += u64::from(before.is_none());
        room.holds(used)?;
        let parent = make_parents(root, &parent, used, room)?;
        match before {
            Some(_) if append => add(root, &path, bytes, room),
            None if append => {
                let file = create_file(&parent, name).map_err(told)?;
                write_all(&file, bytes).map_err(told)?;
                Ok(written(more, true))
            }
            before => {
                replace(&parent, name, bytes)?;
                Ok(written(more, before.is_none()))
            }
        }
    }

    /// What is in a directory and, with a `depth` of more than 1, in those below it, level by level up to `entries_max` names. An empty
    /// path is the workspace. At most 50 000 names are looked at.
    ///
    /// `may` is asked for each path, as [`Entry::path`] shows it, the one that was asked for among them unless it is the workspace. What it
    /// says no to is not there: it is neither shown nor gone into, and nothing is told as cut because of it. Past 200 000 such names the
    /// walk ends.
    ///
    /// # Errors
    /// When the path is no directory; one further below that cannot be read is told as cut.
    pub fn list(
        &self,
        path: &str,
        depth: usize,
        entries_max: usize,
        may: &dyn Fn(&str) -> bool,
    ) -> Result<Listing, FileError> {
        walk::list(self.root()?, parse(path)?, depth, entries_max, may)
    }

    /// The lines with `text`, as it stands, in the files in and below a directory, or in one file. Files with a NUL in their first 8 KiB are
    /// passed over. At most 50 000 names are looked at. `may` is as for [`Workspace::list`]; what it says no to is not opened.
    ///
    /// # Errors
    /// [`FileError::Text`]; when the path is neither file nor directory. What cannot be read below it is told as cut.
    pub fn search(
        &self,
        text: &str,
        below: &str,
        reach: &Reach,
        may: &dyn Fn(&str) -> bool,
    ) -> Result<Found, FileError> {
        if text.is_empty() || text.len() > SEARCHED_BYTES_MAX || text.contains(['\n', '\r']) {
            return Err(FileError::Text);
        }
        walk::search(self.root()?, text, parse(below)?, reach, may)
    }

    /// Removes a file, whatever it is, a link itself and never what it leads to, or an empty directory.
    ///
    /// # Errors
    /// [`FileError::NotEmpty`]; the others as they say.
    pub fn remove(&self, path: &str) -> Result<(), FileError> {
        let path = parse(path)?;
        let (parent, name) = path.split().ok_or(FileError::IsDirectory)?;
        let parent = open_dir(self.root()?, parent.beneath()).map_err(told)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR) => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
            done => done,
        }
        .map_err(told)
    }

    /// The directory, while the authority holds.
    fn root(&self) -> Result<BorrowedFd<'_>, FileError> {
        self.inner.tenant.acts().map_err(|_| FileError::Ended)?;
        Ok(self.inner.root.as_fd())
    }

    fn writing(&self) -> &std::sync::Mutex<()> {
        &self.inner.tenant.resident().writing
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

fn written(bytes_total: u64, created: bool) -> Written {
    Written {
        bytes_total,
        created,
    }
}

/// What stands where it is to be written.
fn target(root: BorrowedFd<'_>, parent: &WorkPath, name: &str) -> Result<Option<Stat>, FileError> {
    match open_dir(root, parent.beneath()) {
        Ok(parent) => beneath::stat(&parent, name).map_err(told),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(told(error)),
    }
}

/// The directory that a file is to stand in. Nothing is made where not all of it fits.
fn make_parents(
    root: BorrowedFd<'_>,
    path: &WorkPath,
    mut used: Used,
    room: &Room,
) -> Result<OwnedFd, FileError> {
    let mut at = open_dir(root, ".").map_err(told)?;
    let mut parts: VecDeque<&str> = path.parts().collect();
    while let Some(part) = parts.front() {
        match open_dir(&at, *part) {
            Ok(below) => at = below,
            Err(Errno::NOENT) => break,
            Err(error) => return Err(told(error)),
        }
        parts.pop_front();
    }
    used.files += parts.len() as u64;
    room.holds(used)?;
    for part in parts {
        at = make_dir(&at, part).map_err(told)?;
    }
    Ok(at)
}

/// Adds to a file that is there. Its length is asked for after it was opened: before, it may have been another.
fn add(
    root: BorrowedFd<'_>,
    path: &WorkPath,
    bytes: &[u8],
    room: &Room,
) -> Result<Written, FileError> {
    let (file, stat) = open_file(root, path, OFlags::WRONLY | OFlags::APPEND)?;
    let total = length(&stat).saturating_add(bytes.len() as u64);
    room.holds_file(total)?;
    write_all(&file, bytes).map_err(told)?;
    Ok(written(total, false))
}

fn replace(parent: &OwnedFd, name: &str, bytes: &[u8]) -> Result<(), FileError> {
    let hidden = format!(".partywall-{}", hex::encode(vault::random::<16>()));
    let file = create_file(parent, &hidden).map_err(told)?;
    let put =
        write_all(&file, bytes).and_then(|()| rustix::fs::renameat(parent, &hidden, parent, name));
    if let Err(error) = put {
        // The first failure is the one to tell, and what stays behind is the tenant's own.
        let _may_be_gone = rustix::fs::unlinkat(parent, &hidden, AtFlags::empty());
        return Err(match error {
            // A program took it away.
            Errno::NOENT => FileError::Busy,
            error => told(error),
        });
    }
    Ok(())
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Up to `max` bytes, as far as the file goes. Memory grows with what is there, not with what was asked for.
fn read_at(file: &OwnedFd, offset: u64, max: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    while bytes.len() < max {
        let have = bytes.len();
        bytes.resize(max.min(have + READ_BYTES), 0);
        let at = offset.saturating_add(have as u64);
        match rustix::io::pread(file, &mut bytes[have..], at) {
            Ok(0) => {
                bytes.truncate(have);
                break;
            }
            Ok(count) => bytes.truncate(have + count),
            Err(Errno::INTR) => bytes.truncate(have),
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

/// Bytes of one call to the operating system.
const READ_BYTES: usize = 64 * 1024;
