//! Walks through a workspace. Each is bounded by itself: whatever stands there, it ends and holds few descriptors.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::fs::{Dir, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::beneath::{is_plain, length, open_dir, open_file, stat, told, weight};
use super::path::{PARTS_MAX, WorkPath};
use super::{
    Bound, Entry, EntryKind, FileError, Found, Hit, Listing, PIECE_BYTES_MAX, Reach, Room, read_at,
};

/// Names that one listing or search looks at.
const LOOKED_MAX: usize = 50_000;
/// Names that it passes over because they are not to be shown.
const PASSED_MAX: usize = 200_000;
/// Directories within each other that are measured, as many as the sandbox measures: each costs a descriptor meanwhile.
const MEASURED_DEPTH_MAX: usize = 64;
/// A NUL in so many first bytes: it is no text.
const TEXT_SEEN_BYTES: usize = 8 * 1024;
/// Bytes of a line that a hit shows.
const HIT_BYTES_MAX: usize = 512;
/// Bytes before the text in a line that is cut.
const HIT_BEFORE: usize = 128;

/// What a workspace holds.
#[derive(Clone, Copy, Default)]
pub(super) struct Used {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Counts everything in the workspace, up to the first bound that is passed.
pub(super) fn measure(root: BorrowedFd<'_>, room: &Room) -> Result<Used, FileError> {
    let mut used = Used::default();
    let dir = open_dir(root, ".").map_err(told)?;
    count(dir, room, 0, &mut used)?;
    Ok(used)
}

fn count(dir: OwnedFd, room: &Room, depth: usize, used: &mut Used) -> Result<(), FileError> {
    if depth == MEASURED_DEPTH_MAX {
        return Err(Bound::Depth.passed(MEASURED_DEPTH_MAX as u64));
    }
    let mut dir = Dir::new(dir).map_err(told)?;
    while let Some(entry) = dir.read() {
        let name = entry.map_err(told)?.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let at = dir.fd().map_err(told)?;
        let Some(found) = stat(at, name.as_c_str()).map_err(hidden)? else {
            continue;
        };
        used.files += 1;
        used.bytes = used.bytes.saturating_add(weight(&found));
        room.holds(*used)?;
        if !FileType::from_raw_mode(found.st_mode).is_dir() {
            continue;
        }
        match open_dir(at, name.as_c_str()) {
            Ok(below) => count(below, room, depth + 1, used)?,
            // Gone, or another thing by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(hidden(error)),
        }
    }
    Ok(())
}

/// A directory closed to its own owner, which is this process where it is not root, is a place to hide bytes in.
fn hidden(error: Errno) -> FileError {
    match error {
        Errno::ACCESS => Bound::Depth.passed(MEASURED_DEPTH_MAX as u64),
        error => told(error),
    }
}

pub(super) fn list(
    root: BorrowedFd<'_>,
    path: WorkPath,
    depth: usize,
    entries_max: usize,
    may: May<'_>,
) -> Result<Listing, FileError> {
    // One level below what paths reach: that there is something is shown.
    let mut walk = Walk::begin(root, path, depth.clamp(1, PARTS_MAX + 1), may)?;
    let mut entries = Vec::new();
    while let Some(seen) = walk.next() {
        if entries.len() == entries_max {
            walk.cut = true;
            break;
        }
        entries.push(Entry {
            path: seen.shown,
            kind: kind(&seen.stat),
            bytes: if is_plain(&seen.stat) {
                length(&seen.stat)
            } else {
                0
            },
            modified_ms: modified_ms(&seen.stat),
            addressable: seen.path.is_some(),
        });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Listing {
        entries,
        cut: walk.cut,
    })
}

fn kind(stat: &Stat) -> EntryKind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Link,
        FileType::RegularFile if stat.st_nlink == 1 => EntryKind::File,
        _ => EntryKind::Other,
    }
}

fn modified_ms(stat: &Stat) -> i64 {
    let within = i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0);
    stat.st_mtime.saturating_mul(1_000).saturating_add(within)
}

pub(super) fn search(
    root: BorrowedFd<'_>,
    text: &str,
    below: WorkPath,
    reach: &Reach,
    may: May<'_>,
) -> Result<Found, FileError> {
    let mut search = Search {
        root,
        text,
        reach,
        left: reach.bytes_max,
        hits: Vec::new(),
        cut: false,
    };
    match Walk::begin(root, below.clone(), PARTS_MAX, may) {
        Ok(mut walk) => {
            while let Some(seen) = walk.next() {
                if search.is_over() {
                    search.cut = true;
                    break;
                }
                if let Some(path) = seen.path.filter(|_| is_plain(&seen.stat)) {
                    search.file(&path);
                }
            }
            search.cut |= walk.cut;
        }
        Err(FileError::NotDirectory) => {
            open_file(root, &below, OFlags::RDONLY)?;
            search.file(&below);
        }
        Err(error) => return Err(error),
    }
    search
        .hits
        .sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(Found {
        hits: search.hits,
        cut: search.cut,
    })
}

struct Search<'a> {
    root: BorrowedFd<'a>,
    text: &'a str,
    reach: &'a Reach,
    left: u64,
    hits: Vec<Hit>,
    cut: bool,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        self.left == 0
            || self.hits.len() >= self.reach.hits_max
            || Instant::now() >= self.reach.deadline
    }

    /// What cannot be read is left out and told as cut, unless it is gone or no file any more.
    fn file(&mut self, path: &WorkPath) {
        let (file, stat) = match open_file(self.root, path, OFlags::RDONLY) {
            Ok(opened) => opened,
            Err(FileError::NotFound | FileError::NotRegular | FileError::IsDirectory) => return,
            Err(_) => {
                self.cut = true;
                return;
            }
        };
        let most = self
            .reach
            .file_bytes_max
            .min(self.left)
            .min(PIECE_BYTES_MAX as u64);
        let most_now = usize::try_from(most).unwrap_or(usize::MAX);
        let first = most_now.min(TEXT_SEEN_BYTES);
        let Ok(mut bytes) = read_at(&file, 0, first) else {
            self.cut = true;
            return;
        };
        if !bytes.contains(&0) && bytes.len() == first {
            match read_at(&file, first as u64, most_now - first) {
                Ok(rest) => bytes.extend_from_slice(&rest),
                Err(_) => self.cut = true,
            }
        }
        self.left -= (bytes.len() as u64).min(self.left);
        if bytes.iter().take(TEXT_SEEN_BYTES).any(|byte| *byte == 0) {
            return;
        }
        self.cut |= length(&stat) > bytes.len() as u64;
        self.lines(path, &String::from_utf8_lossy(&bytes));
    }

    fn lines(&mut self, path: &WorkPath, content: &str) {
        for (line, number) in content.lines().zip(1..) {
            let Some(at) = line.find(self.text) else {
                continue;
            };
            if self.hits.len() >= self.reach.hits_max {
                self.cut = true;
                return;
            }
            self.hits.push(Hit {
                path: path.as_str().to_owned(),
                line: number,
                text: excerpt(line, at).to_owned(),
            });
        }
    }
}

/// The part of a line around what was found at `at`.
fn excerpt(line: &str, at: usize) -> &str {
    if line.len() <= HIT_BYTES_MAX {
        return line;
    }
    let from = line.ceil_char_boundary(at.saturating_sub(HIT_BEFORE));
    let to = line.floor_char_boundary((from + HIT_BYTES_MAX).min(line.len()));
    &line[from..to]
}

/// One name that was met.
struct Seen {
    /// As it can be asked for; `None` where it cannot be written as a path.
    path: Option<WorkPath>,
    shown: String,
    stat: Stat,
}

/// Says of a path whether whoever walks may know of it.
pub(super) type May<'a> = &'a dyn Fn(&str) -> bool;

/// A walk level by level, each directory in the order of its names. Directories are opened anew from the root: it holds one at a time.
struct Walk<'a> {
    root: BorrowedFd<'a>,
    depth: usize,
    may: May<'a>,
    looked: usize,
    passed: usize,
    waiting: VecDeque<(WorkPath, usize)>,
    here: Here,
    /// Something was left out.
    cut: bool,
}

struct Here {
    path: WorkPath,
    dir: OwnedFd,
    level: usize,
    names: std::vec::IntoIter<CString>,
}

impl<'a> Walk<'a> {
    fn begin(
        root: BorrowedFd<'a>,
        path: WorkPath,
        depth: usize,
        may: May<'a>,
    ) -> Result<Self, FileError> {
        // The workspace itself is no secret.
        if !path.as_str().is_empty() && !may(path.as_str()) {
            return Err(FileError::NotFound);
        }
        let dir = open_dir(root, path.beneath()).map_err(told)?;
        let mut walk = Self {
            root,
            depth,
            may,
            looked: 0,
            passed: 0,
            waiting: VecDeque::new(),
            here: Here {
                path,
                dir,
                level: 1,
                names: Vec::new().into_iter(),
            },
            cut: false,
        };
        let names = walk.names(&walk.here.path, &walk.here.dir).map_err(told)?;
        walk.here.names = walk.counted(names);
        Ok(walk)
    }

    fn next(&mut self) -> Option<Seen> {
        loop {
            let Some(name) = self.here.names.next() else {
                let (path, level) = self.waiting.pop_front()?;
                self.enter(path, level);
                continue;
            };
            let stat = match stat(self.here.dir.as_fd(), name.as_c_str()) {
                Ok(Some(stat)) => stat,
                // Gone since the names were read.
                Ok(None) => continue,
                Err(_) => {
                    self.cut = true;
                    continue;
                }
            };
            let path = self.here.path.join(name.to_bytes());
            let below = FileType::from_raw_mode(stat.st_mode).is_dir();
            if let Some(path) = path
                .as_ref()
                .filter(|_| below && self.here.level < self.depth)
            {
                self.waiting.push_back((path.clone(), self.here.level + 1));
            }
            let shown = self.here.path.shown_with(name.to_bytes());
            return Some(Seen { path, shown, stat });
        }
    }

    fn enter(&mut self, path: WorkPath, level: usize) {
        let opened = open_dir(self.root, path.beneath());
        match opened.and_then(|dir| Ok((self.names(&path, &dir)?, dir))) {
            Ok((names, dir)) => {
                let names = self.counted(names);
                self.here = Here {
                    path,
                    dir,
                    level,
                    names,
                };
            }
            // Gone, or another thing by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(_) => self.cut = true,
        }
    }

    /// The names in a directory that may be known of, in their order, as many as are still looked at.
    fn names(&self, path: &WorkPath, dir: &OwnedFd) -> Result<Names, Errno> {
        let mut names = Names::default();
        for entry in Dir::read_from(dir)? {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            if !(self.may)(&path.shown_with(name.to_bytes())) {
                names.passed += 1;
                if self.passed + names.passed < PASSED_MAX {
                    continue;
                }
                names.cut = true;
                break;
            }
            if self.looked + names.names.len() == LOOKED_MAX {
                names.cut = true;
                break;
            }
            names.names.push(name);
        }
        names.names.sort_unstable();
        Ok(names)
    }

    fn counted(&mut self, names: Names) -> std::vec::IntoIter<CString> {
        self.looked += names.names.len();
        self.passed += names.passed;
        self.cut |= names.cut;
        names.names.into_iter()
    }
}

/// What was read of a directory.
#[derive(Default)]
struct Names {
    names: Vec<CString>,
    /// How many are not to be known of.
    passed: usize,
    /// There are more.
    cut: bool,
}
