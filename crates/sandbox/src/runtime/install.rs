//! Which files of the machine a runtime consists of, found out before anything is copied; and the copying.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::elf::{self, Needs};
use super::failed;
use crate::error::SandboxError;

/// Parts of Python's library that only serve developers, or that install more; and what is for linking (`config-…`).
const PYTHON_LEFT_OUT: [&str; 7] = [
    "dist-packages",
    "site-packages",
    "test",
    "idlelib",
    "tkinter",
    "ensurepip",
    "lib2to3",
];
/// Where libraries stand when no program says where, the machine's own kind first.
const LIBRARY_DIRS: [&str; 7] = [
    ARCHITECTURE_DIRS[0],
    ARCHITECTURE_DIRS[1],
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];
/// Where Debian and its kin keep the libraries of this architecture.
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE_DIRS: [&str; 2] = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE_DIRS: [&str; 2] = ["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
/// Directories within each other in a library of Python.
const DEPTH_MAX: usize = 16;

/// What a runtime consists of, by path: parents come before what is in them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    steps: BTreeMap<String, Step>,
}

/// What stands at one path.
#[derive(Debug)]
enum Step {
    Directory,
    Link(String),
    Text(String),
    Copy { host: String, mode: u32, seen: Seen },
}

/// A file of the machine as it was found: one that an upgrade put in its place is another in one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    bytes: i64,
    written: (i64, u64),
    inode: u64,
}

impl Plan {
    /// A directory whose parent is there.
    pub(super) fn directory(&mut self, path: &str) {
        self.add(path, Step::Directory);
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.add(path, Step::Link(target.to_owned()));
    }

    pub(super) fn text(&mut self, path: &str, text: &str) {
        self.add(path, Step::Text(text.to_owned()));
    }

    fn add(&mut self, path: &str, step: Step) {
        self.steps.entry(path.to_owned()).or_insert(step);
    }

    /// A program, its loader and its libraries; for Python its own library as well.
    pub(super) fn program(&mut self, name: &str, host: &str) -> Result<(), SandboxError> {
        if name == "python3" {
            return self.python(host);
        }
        self.elf(host, &format!("usr/bin/{name}"), 0o555)
    }

    /// The interpreter under its full name, `python3` as a link to it, and the library of that version.
    fn python(&mut self, host: &str) -> Result<(), SandboxError> {
        // A link to the versioned name on all distributions; where it is a file of its own, it has no version to go by.
        let Ok(target) = rustix::fs::readlink(host, Vec::new()) else {
            return Ok(());
        };
        let target = target.to_string_lossy().into_owned();
        let full = target.rsplit('/').next().unwrap_or_default().to_owned();
        let versioned = full.starts_with("python3.");
        let dirs = [format!("/usr/lib/{full}"), format!("/usr/lib64/{full}")];
        let library = dirs
            .iter()
            .find(|dir| rustix::fs::stat(dir.as_str()).is_ok());
        let (true, Some(library)) = (versioned, library) else {
            return Ok(());
        };
        let program = format!("/usr/bin/{full}");
        self.elf(&program, &format!("usr/bin/{full}"), 0o555)?;
        self.link("usr/bin/python3", &full);
        self.tree(library, library.trim_start_matches('/'), 0)
    }

    /// A directory of the machine, with what its libraries load.
    fn tree(&mut self, host: &str, path: &str, depth: usize) -> Result<(), SandboxError> {
        if depth == DEPTH_MAX {
            return Ok(());
        }
        self.directory(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(host, flags, Mode::empty())
            .map_err(|error| failed(format!("{host}: {error}")))?;
        for entry in Dir::read_from(&dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            let left_out = PYTHON_LEFT_OUT.contains(&name) || name.starts_with("config-");
            if matches!(name, "." | "..") || left_out {
                continue;
            }
            let (host, path) = (format!("{host}/{name}"), format!("{path}/{name}"));
            let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.tree(&host, &path, depth + 1)?,
                FileType::RegularFile => self.elf(&host, &path, 0o444)?,
                // A link would lead out of the library, as the machine's own `sitecustomize.py` does.
                _ => {}
            }
        }
        Ok(())
    }

    /// A file, and where it is a program or a library all that it loads.
    fn elf(&mut self, host: &str, path: &str, mode: u32) -> Result<(), SandboxError> {
        if self.steps.contains_key(path) {
            return Ok(());
        }
        let missing = |error: Errno| failed(format!("{host}: {error}"));
        let source = open(host).map_err(missing)?;
        let copy = Step::Copy {
            host: host.to_owned(),
            mode,
            seen: Seen::of(&source).map_err(missing)?,
        };
        self.add(path, copy);
        let Some(needs) = elf::needs(&source) else {
            return Ok(());
        };
        let Needs {
            loader,
            libraries,
            runpath,
        } = needs;
        if let Some(loader) = loader {
            self.library(&loader)?;
        }
        let origin = host.rsplit_once('/').map_or("/", |(dir, _)| dir);
        let runpath: Vec<String> = runpath
            .iter()
            .map(|dir| dir.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
            .filter(|dir| dir.starts_with('/') && !dir.contains(".."))
            .collect();
        for name in libraries {
            let dirs = runpath.iter().map(String::as_str).chain(LIBRARY_DIRS);
            let mut paths = dirs.map(|dir| format!("{dir}/{name}"));
            // One that is missing is the program's own misfortune, here as on the machine.
            if let Some(host) = paths.find(|path| rustix::fs::stat(path.as_str()).is_ok()) {
                self.library(&host)?;
            }
        }
        Ok(())
    }

    /// A library at the path where the loader will look: that of the machine, within `usr`.
    fn library(&mut self, host: &str) -> Result<(), SandboxError> {
        let below = host.strip_prefix("/usr/").or(host.strip_prefix('/'));
        let path = format!("usr/{}", below.unwrap_or(host));
        let mut at = 0;
        while let Some(slash) = path.get(at..).and_then(|rest| rest.find('/')) {
            at += slash;
            self.directory(path.get(..at).unwrap_or_default());
            at += 1;
        }
        self.elf(host, &path, 0o555)
    }

    /// Names the plan: whatever differs, be it one library, is another runtime. FNV-1a: no secret depends on it.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325;
        let mut take = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        };
        for (path, step) in &self.steps {
            take(path.as_bytes());
            match step {
                Step::Directory => take(&[0]),
                Step::Link(text) | Step::Text(text) => take(text.as_bytes()),
                Step::Copy { host, mode, seen } => {
                    take(host.as_bytes());
                    take(&mode.to_le_bytes());
                    take(&seen.bytes.to_le_bytes());
                    take(&seen.written.0.to_le_bytes());
                    take(&seen.written.1.to_le_bytes());
                    take(&seen.inode.to_le_bytes());
                }
            }
            // Ends a text, which has none of it.
            take(&[0]);
        }
        hash
    }

    /// Makes all of it below `root`, which is empty.
    pub(super) fn build(&self, root: BorrowedFd<'_>) -> Result<(), SandboxError> {
        for (path, step) in &self.steps {
            let made = match step {
                Step::Directory => directory(root, path),
                Step::Link(target) => {
                    rustix::fs::symlinkat(target.as_str(), root, path).map_err(io::Error::from)
                }
                Step::Text(text) => {
                    create(root, path, 0o444).and_then(|mut file| file.write_all(text.as_bytes()))
                }
                Step::Copy { host, mode, seen } => copy(host, *seen, root, path, *mode),
            };
            made.map_err(|error| failed(format!("{path}: {error}")))?;
        }
        Ok(())
    }
}

impl Seen {
    fn of(file: &File) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self {
            bytes: stat.st_size,
            written: (stat.st_mtime, stat.st_mtime_nsec),
            inode: stat.st_ino,
        })
    }
}

fn directory(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let open = Mode::from_raw_mode(0o755);
    rustix::fs::mkdirat(root, path, open)?;
    // Said again, because the mask of the process takes from it: a gateway's files are for its own user, and these are not.
    Ok(rustix::fs::chmodat(root, path, open, AtFlags::empty())?)
}

fn copy(host: &str, seen: Seen, root: BorrowedFd<'_>, path: &str, mode: u32) -> io::Result<()> {
    let source = open(host)?;
    // The name of the runtime tells which files it has.
    if Seen::of(&source)? != seen {
        return Err(io::Error::other("is being replaced on the machine"));
    }
    let mut file = create(root, path, mode)?;
    io::copy(&mut &source, &mut file)?;
    Ok(())
}

fn create(root: BorrowedFd<'_>, path: &str, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(root, path, flags, Mode::RUSR)?;
    // As with directories.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(File::from(file))
}

/// Removes a directory of ours with all that is in it, as far as that goes.
pub(crate) fn remove(at: BorrowedFd<'_>, name: &str) {
    let Ok(dir) = super::open_dir(at, name) else {
        return;
    };
    clear(dir.as_fd(), 0);
    // What cannot be removed stays; the next one has another name.
    let _stays = rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR);
}

fn clear(dir: BorrowedFd<'_>, depth: usize) {
    let Ok(entries) = Dir::read_from(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || depth > 64 {
            continue;
        }
        if rustix::fs::unlinkat(dir, name, AtFlags::empty()).is_ok() {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(below) = rustix::fs::openat(dir, name, flags, Mode::empty()) {
            clear(below.as_fd(), depth + 1);
        }
        // As in `remove`.
        let _stays = rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR);
    }
}

fn open(host: &str) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(File::from(rustix::fs::open(host, flags, Mode::empty())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_the_shell() -> Plan {
        let mut plan = Plan::default();
        plan.program("sh", "/bin/sh").unwrap();
        plan
    }

    #[test]
    fn another_library_is_another_runtime() {
        let plan = of_the_shell();
        assert_eq!(plan.fingerprint(), of_the_shell().fingerprint());
        let library = |plan: &Plan| {
            let mut paths = plan.steps.keys();
            paths
                .find(|path| path.contains("/libc.so"))
                .unwrap()
                .clone()
        };
        let changes: [fn(&mut Seen); 3] = [
            |seen| seen.bytes += 1,
            |seen| seen.written.1 ^= 1,
            |seen| seen.inode += 1,
        ];
        for change in changes {
            let mut other = of_the_shell();
            let path = library(&other);
            let Some(Step::Copy { seen, .. }) = other.steps.get_mut(&path) else {
                panic!("{path}");
            };
            change(seen);
            assert_ne!(plan.fingerprint(), other.fingerprint());
        }
    }

    #[test]
    fn a_file_that_was_replaced_after_the_plan_is_not_copied() {
        let mut plan = of_the_shell();
        for step in plan.steps.values_mut() {
            if let Step::Copy { seen, .. } = step {
                seen.inode += 1;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let opened = rustix::fs::open(dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&opened, "usr", Mode::RWXU).unwrap();
        rustix::fs::mkdirat(&opened, "usr/bin", Mode::RWXU).unwrap();
        plan.steps
            .retain(|_, step| matches!(step, Step::Copy { .. }));
        let refused = plan.build(opened.as_fd()).unwrap_err().to_string();
        assert!(refused.contains("is being replaced"), "{refused}");
    }
}
