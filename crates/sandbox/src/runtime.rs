//! The read-only world of a program: a directory of copies, with a shell, the usual small programs, Python and Node.js where
//! the machine has them, and nothing else of the machine. Built once and kept under a name that its content decides.

mod elf;
mod install;

pub(crate) use self::install::remove;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use self::install::Install;
use crate::error::SandboxError;

/// Counted up when the layout changes, so that an older directory is not taken for a newer one.
const LAYOUT: u64 = 1;

/// Nothing is built where there is less room: the disk is the tenants' first.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// Where the machine keeps its programs.
const HOST_BIN: [&str; 3] = ["/usr/bin", "/bin", "/usr/local/bin"];

/// Programs that are taken along where the machine has them. [`MUST`] is a must.
pub(crate) const PROGRAMS: &[&str] = &[
    "sh",
    "bash",
    "[",
    "awk",
    "b2sum",
    "base32",
    "base64",
    "basename",
    "bzip2",
    "cat",
    "chmod",
    "cksum",
    "cmp",
    "comm",
    "cp",
    "csplit",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "du",
    "echo",
    "egrep",
    "env",
    "expand",
    "expr",
    "false",
    "fgrep",
    "file",
    "find",
    "fmt",
    "fold",
    "grep",
    "gunzip",
    "gzip",
    "head",
    "id",
    "install",
    "join",
    "jq",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mv",
    "nl",
    "nproc",
    "numfmt",
    "od",
    "paste",
    "patch",
    "pathchk",
    "pr",
    "printenv",
    "printf",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sha1sum",
    "sha256sum",
    "sha512sum",
    "shuf",
    "sleep",
    "sort",
    "split",
    "stat",
    "stdbuf",
    "sum",
    "sync",
    "tac",
    "tail",
    "tar",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "tsort",
    "uname",
    "unexpand",
    "uniq",
    "unlink",
    "unzip",
    "wc",
    "xargs",
    "xz",
    "yes",
    "zcat",
    "zip",
    "python3",
    "node",
];

/// What starts every program.
const MUST: [&str; 2] = ["sh", "env"];

/// Directories of the runtime. The last four are where bubblewrap mounts.
const DIRS: &[&str] = &[
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "etc",
    "var",
    "run",
    "proc",
    "dev",
    "tmp",
    "box",
];

/// Names at the top that lead into `usr`, as on systems whose `usr` was merged.
const LINKS: &[(&str, &str)] = &[
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

/// The files of `etc`: written here, never copied from the machine.
const ETC: &[(&str, &str)] = &[
    (
        "etc/passwd",
        "box:x:1000:1000:box:/box:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("etc/group", "box:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost box\n::1 localhost\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nhosts: files\n",
    ),
];

/// A built runtime.
#[derive(Debug)]
pub(crate) struct Runtime {
    directory: OwnedFd,
    has_python: bool,
    has_node: bool,
}

impl Runtime {
    /// The runtime below `place`, built where it is not there yet.
    pub(crate) fn open(place: BorrowedFd<'_>) -> Result<Self, SandboxError> {
        let found = found();
        if let Some(must) = MUST
            .iter()
            .find(|must| !found.iter().any(|(name, _)| name == *must))
        {
            return Err(failed(format!(
                "the machine has no `{must}` in /bin or /usr/bin"
            )));
        }
        let name = format!("runtime-{:016x}", fingerprint(&found));
        let directory = match open_dir(place, &name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => build(place, &name, &found)?,
            Err(error) => return Err(failed(format!("{name}: {error}"))),
        };
        let has =
            |path: &str| rustix::fs::statat(&directory, path, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Ok(Self {
            has_python: has("usr/bin/python3"),
            has_node: has("usr/bin/node"),
            directory,
        })
    }

    /// The directory that a program sees as `/`.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Whether there is a Python.
    pub(crate) const fn has_python(&self) -> bool {
        self.has_python
    }

    /// What it has beside the shell.
    pub(crate) fn interpreters(&self) -> Vec<&'static str> {
        let has = [(self.has_python, "python3"), (self.has_node, "node")];
        has.into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, name)| name)
            .collect()
    }
}

/// The programs that the machine has, each with its path.
fn found() -> Vec<(&'static str, String)> {
    let path = |name: &&'static str| {
        let paths = HOST_BIN.iter().map(|dir| format!("{dir}/{name}"));
        let path = paths
            .into_iter()
            .find(|path| rustix::fs::stat(path.as_str()).is_ok())?;
        Some((*name, path))
    };
    PROGRAMS.iter().filter_map(path).collect()
}

/// Names a set of programs: another version of one of them is another runtime. FNV-1a: no secret depends on it.
fn fingerprint(found: &[(&str, String)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ LAYOUT;
    let mut take = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for (_, path) in found {
        take(path.as_bytes());
        if let Ok(stat) = rustix::fs::stat(path.as_str()) {
            take(&stat.st_size.to_le_bytes());
            take(&stat.st_mtime.to_le_bytes());
        }
    }
    hash
}

/// Builds beside and renames, so that an interrupted build is never taken for a whole one.
fn build(
    place: BorrowedFd<'_>,
    name: &str,
    found: &[(&str, String)],
) -> Result<OwnedFd, SandboxError> {
    let stat = rustix::fs::fstatvfs(place).map_err(failed)?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < FREE_BYTES_MIN {
        return Err(failed(
            "there is less than 1 GiB free, and it takes some hundred MiB",
        ));
    }
    let (beside, directory) = fresh_dir(place, "building").map_err(failed)?;
    let built = fill(directory.as_fd(), found).and_then(|()| {
        match rustix::fs::renameat(place, beside.as_str(), place, name) {
            Ok(()) => Ok(()),
            // Somebody else was faster, with the same content.
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                install::remove(place, &beside);
                Ok(())
            }
            Err(error) => Err(failed(error)),
        }
    });
    if let Err(error) = built {
        install::remove(place, &beside);
        return Err(error);
    }
    open_dir(place, name).map_err(failed)
}

fn fill(directory: BorrowedFd<'_>, found: &[(&str, String)]) -> Result<(), SandboxError> {
    // Programs of other users find it as their root.
    rustix::fs::fchmod(directory, Mode::from_raw_mode(0o755)).map_err(failed)?;
    let mut install = Install::into(directory);
    for dir in DIRS {
        install.directory(dir)?;
    }
    for (link, target) in LINKS {
        install.link(link, target)?;
    }
    for (path, text) in ETC {
        install.text(path, text)?;
    }
    for (name, path) in found {
        install.program(name, path)?;
    }
    Ok(())
}

/// A new directory whose name begins with `what`. One that a killed process left keeps its name.
pub(crate) fn fresh_dir(place: BorrowedFd<'_>, what: &str) -> Result<(String, OwnedFd), Errno> {
    let mut number = 0_u32;
    loop {
        let name = format!("{what}-{}-{number}", std::process::id());
        match rustix::fs::mkdirat(place, name.as_str(), Mode::RWXU) {
            Ok(()) => {
                let directory = open_dir(place, &name)?;
                return Ok((name, directory));
            }
            Err(Errno::EXIST) if number < 1_000 => number += 1,
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn open_dir(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn failed(why: impl ToString) -> SandboxError {
    SandboxError::Start(format!("the runtime cannot be built: {}", why.to_string()))
}

impl elf::Image for File {
    fn read(&self, offset: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}
