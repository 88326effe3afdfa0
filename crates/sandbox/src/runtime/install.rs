//! Copies programs of the machine, with all that they load, into a runtime.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
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

/// A runtime that is being built.
pub(super) struct Install<'a> {
    root: BorrowedFd<'a>,
    /// Paths that are there already.
    there: BTreeSet<String>,
}

impl<'a> Install<'a> {
    pub(super) fn into(root: BorrowedFd<'a>) -> Self {
        Self {
            root,
            there: BTreeSet::new(),
        }
    }

    /// Makes a directory whose parent is there.
    pub(super) fn directory(&mut self, path: &str) -> Result<(), SandboxError> {
        if !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        let open = Mode::from_raw_mode(0o755);
        // Said again, because the mask of the process takes from it: a gateway's files are for its own user, and these are not.
        match rustix::fs::mkdirat(self.root, path, open)
            .and_then(|()| rustix::fs::chmodat(self.root, path, open, AtFlags::empty()))
        {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(failed(format!("{path}: {error}"))),
        }
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<(), SandboxError> {
        if !self.there.insert(path.to_owned()) {
            return Ok(());
        }
        rustix::fs::symlinkat(target, self.root, path)
            .map_err(|error| failed(format!("{path}: {error}")))
    }

    pub(super) fn text(&mut self, path: &str, text: &str) -> Result<(), SandboxError> {
        let mut file = self.create(path, 0o444)?;
        file.write_all(text.as_bytes()).map_err(failed)
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
        self.link("usr/bin/python3", &full)?;
        self.tree(library, library.trim_start_matches('/'), 0)
    }

    /// A directory of the machine, with what its libraries load.
    fn tree(&mut self, host: &str, path: &str, depth: usize) -> Result<(), SandboxError> {
        if depth == DEPTH_MAX {
            return Ok(());
        }
        self.directory(path)?;
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
        if self.there.contains(path) {
            return Ok(());
        }
        let source = open(host).map_err(|error| failed(format!("{host}: {error}")))?;
        self.copy(&source, path, mode)?;
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
            self.directory(path.get(..at).unwrap_or_default())?;
            at += 1;
        }
        self.elf(host, &path, 0o555)
    }

    fn copy(&mut self, source: &File, path: &str, mode: u32) -> Result<(), SandboxError> {
        let mut file = self.create(path, mode)?;
        std::io::copy(&mut &*source, &mut file)
            .map_err(|error| failed(format!("{path}: {error}")))?;
        self.there.insert(path.to_owned());
        Ok(())
    }

    fn create(&mut self, path: &str, mode: u32) -> Result<File, SandboxError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let failed = |error: Errno| failed(format!("{path}: {error}"));
        let file = rustix::fs::openat(self.root, path, flags, Mode::RUSR).map_err(failed)?;
        // As with directories.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(failed)?;
        Ok(File::from(file))
    }
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
