//! The read-only world of a program: a directory of copies, with a shell, the usual small programs, Python and Node.js where
//! the machine has them, and nothing else of the machine. Built once and kept under a name that its content decides.

mod elf;
mod install;
mod tidy;

pub(crate) use self::install::remove;

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use self::install::Plan;
use crate::error::SandboxError;
use crate::selftest::FREE_AND_RESTART;

/// What the names of runtimes begin with; sixteen digits follow.
const NAME: &str = "runtime-";
/// What the names of those begin with that are not whole: being built, or being removed.
const BESIDE: &str = "building";

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
        let plan = plan(&found)?;
        let name = format!("{NAME}{:016x}", plan.fingerprint());
        let unusable = |error: Errno| failed(format!("{name}: {error}"));
        let directory = match take(place, &name) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => {
                build(place, &name, &plan)?;
                take(place, &name).map_err(unusable)?
            }
            Err(error) => return Err(unusable(error)),
        };
        tidy::remove_others(place, &name);
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

/// All that a runtime with these programs has.
fn plan(found: &[(&str, String)]) -> Result<Plan, SandboxError> {
    let mut plan = Plan::default();
    for dir in DIRS {
        plan.directory(dir);
    }
    for (link, target) in LINKS {
        plan.link(link, target);
    }
    for (path, text) in ETC {
        plan.text(path, text);
    }
    for (name, path) in found {
        plan.program(name, path)?;
    }
    Ok(plan)
}

/// Opens a runtime and marks it as used for as long as the descriptor is open, also by a run that outlives this process.
fn take(place: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let directory = open_dir(place, name)?;
    // Where the file system has no such marks, nothing is removed either.
    let _unmarked = rustix::fs::flock(&directory, FlockOperation::LockShared);
    // Whoever removed it had it marked until now.
    let there = rustix::fs::statat(place, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if there.st_ino == rustix::fs::fstat(&directory)?.st_ino {
        Ok(directory)
    } else {
        Err(Errno::NOENT)
    }
}

/// Builds beside and renames, so that an interrupted build is never taken for a whole one.
fn build(place: BorrowedFd<'_>, name: &str, plan: &Plan) -> Result<(), SandboxError> {
    let stat = rustix::fs::fstatvfs(place).map_err(failed)?;
    if stat.f_bavail.saturating_mul(stat.f_frsize) < FREE_BYTES_MIN {
        return Err(failed(format!(
            "there is less than 1 GiB of disk free, and it takes some hundred MiB: {FREE_AND_RESTART}"
        )));
    }
    let (beside, directory) = fresh_dir(place, BESIDE).map_err(failed)?;
    // Programs of other users find it as their root.
    let opened = rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(failed);
    let filled = opened.and_then(|()| plan.build(directory.as_fd()));
    let built = filled.and_then(|()| {
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
    Ok(())
}

/// A new directory whose name begins with `what`. One that a killed process left keeps its name until it is removed.
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
