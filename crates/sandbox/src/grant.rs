//! What a program may do, and what it is: the two arguments of a run.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::FileType;

use crate::error::SandboxError;

/// How far a program is walled off. A later value walls off more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isolation {
    /// Namespaces, a filter of system calls and limits, on the machine's kernel.
    Namespaces,
    /// A kernel between the program and the machine's, in a process without rights.
    OwnKernel,
}

/// The least isolation that the operator accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor(Isolation);

/// The isolation that a run needs: the operator's floor, or more where the tenant asked for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand(Isolation);

/// A user number of the machine that no account has; each tenant has its own. What accounts were promised for their containers
/// may hold it: [`crate::Report::promised`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsUser(u32);

/// What bounds a program. Of each run, not of all runs of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceilings {
    /// From start to end.
    pub wall: Duration,
    /// Processor time of all processes together.
    pub cpu: Duration,
    /// Thousandths of a processor at any time.
    pub cpu_rate_milli: u32,
    /// Memory of all processes together, with `/tmp` and `/dev/shm`.
    pub memory_bytes: u64,
    /// Processes and threads at once.
    pub processes: u32,
    /// The workspace, with what was in it.
    pub disk_bytes: u64,
    /// The largest file.
    pub file_bytes: u64,
    /// Files and directories of the workspace, with those that were in it.
    pub files: usize,
    /// `/tmp` and `/dev/shm`, each.
    pub temporary_bytes: u64,
    /// Standard output and standard error together; more ends the program.
    pub output_bytes: u64,
    /// What is kept of each of the two.
    pub kept_bytes: usize,
    /// Open descriptors of each process.
    pub descriptors: u32,
}

/// What one run may touch. Whoever makes it has decided that it may.
#[derive(Debug)]
pub struct Grant {
    pub(crate) workspace: OwnedFd,
    pub(crate) user: OsUser,
    pub(crate) demand: Demand,
    pub(crate) ceilings: Ceilings,
}

/// What is run: arguments, environment and input. It begins in the workspace, which it sees as `/box`.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) dir: Option<String>,
}

/// First number of [`OsUser`]: far above accounts. The ranges that distributions give accounts for their containers begin at
/// 100,000 and go on by 65,536, so that from the second account on they must be looked at.
const USER_FIRST: u32 = 200_000;
/// Numbers of [`OsUser`]: as many tenants as one process is made for, ten times over.
const USERS: u32 = 100_000;
/// Bytes of arguments and environment: far below what the kernel takes, so that its refusal is never met.
const ARGUMENT_BYTES_MAX: usize = 96 * 1024;
/// Bytes of input: it is held in memory.
const STDIN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Below this no interpreter starts.
const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;
/// Two processes of the walls, and one to run.
const PROCESSES_MIN: u32 = 4;

impl Floor {
    /// The operator's choice.
    #[must_use]
    pub const fn at(least: Isolation) -> Self {
        Self(least)
    }

    /// What a run needs where the tenant asked for `asked`: never less than the floor.
    #[must_use]
    pub fn raised(self, asked: Option<Isolation>) -> Demand {
        Demand(asked.map_or(self.0, |asked| asked.max(self.0)))
    }
}

impl Demand {
    /// The least that will do.
    #[must_use]
    pub const fn isolation(self) -> Isolation {
        self.0
    }
}

impl OsUser {
    /// The user of the tenant with this number; `None` where there are too many.
    #[must_use]
    pub fn numbered(tenant: u32) -> Option<Self> {
        (tenant < USERS).then_some(Self(USER_FIRST.saturating_add(tenant)))
    }

    /// The numbers that tenants may get.
    #[must_use]
    pub const fn range() -> Range<u32> {
        USER_FIRST..USER_FIRST + USERS
    }

    /// The number for the system.
    #[must_use]
    pub const fn uid(self) -> u32 {
        self.0
    }
}

impl Default for Ceilings {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            wall: Duration::from_secs(60),
            cpu: Duration::from_secs(30),
            cpu_rate_milli: 1_000,
            memory_bytes: 512 * MIB,
            processes: 64,
            disk_bytes: 256 * MIB,
            file_bytes: 128 * MIB,
            files: 20_000,
            temporary_bytes: 64 * MIB,
            output_bytes: 16 * MIB,
            kept_bytes: 256 * 1024,
            descriptors: 256,
        }
    }
}

impl Grant {
    /// A grant of the directory `workspace`, which the program may read and write, and of nothing else.
    ///
    /// # Errors
    /// [`SandboxError::Workspace`] where it is no directory, [`SandboxError::Program`] where nothing could run within
    /// `ceilings`.
    pub fn new(
        workspace: OwnedFd,
        user: OsUser,
        demand: Demand,
        ceilings: Ceilings,
    ) -> Result<Self, SandboxError> {
        let stat = rustix::fs::fstat(workspace.as_fd())
            .map_err(|error| SandboxError::Workspace(error.to_string()))?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(SandboxError::Workspace("is no directory".to_owned()));
        }
        if ceilings.memory_bytes < MEMORY_BYTES_MIN || ceilings.processes < PROCESSES_MIN {
            return Err(SandboxError::Program(format!(
                "nothing runs in less than {MEMORY_BYTES_MIN} bytes and {PROCESSES_MIN} processes"
            )));
        }
        Ok(Self {
            workspace,
            user,
            demand,
            ceilings,
        })
    }
}

impl Program {
    /// A program by its path in the sandbox, or by a name in `/usr/bin` (or where a `PATH` of its own leads). Where there is
    /// none, the run ends with the code 127, as in a shell.
    #[must_use]
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            argv: vec![program.into()],
            ..Self::default()
        }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment, which holds nothing of the gateway's. It is the program's alone: what sets the
    /// limits before is not told.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What it reads from standard input; nothing where this is not called.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Where it begins, as a path below the workspace.
    #[must_use]
    pub fn dir(mut self, below: impl Into<String>) -> Self {
        self.dir = Some(below.into());
        self
    }

    /// Refuses what could not be handed over as it is.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let refuse = |why: &str| Err(SandboxError::Program(why.to_owned()));
        if self.argv.first().is_none_or(String::is_empty) {
            return refuse("has no name");
        }
        // Would be taken for a variable.
        if self.argv.first().is_some_and(|name| name.contains('=')) {
            return refuse("has a name with `=` in it");
        }
        let bytes: usize = self.argv.iter().map(|arg| arg.len() + 1).sum();
        let more: usize = self
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len() + 12)
            .sum();
        if bytes + more > ARGUMENT_BYTES_MAX {
            return refuse("has arguments that are too long");
        }
        if self.stdin.len() > STDIN_BYTES_MAX {
            return refuse("has input that is too long");
        }
        let texts = self
            .argv
            .iter()
            .chain(self.env.iter().map(|(_, value)| value));
        if texts.chain(&self.dir).any(|text| text.contains('\0')) {
            return refuse("has a zero byte in an argument");
        }
        if !self.env.iter().all(|(name, _)| is_variable(name)) {
            return refuse("has a variable whose name is none");
        }
        let below = |dir: &String| {
            !dir.is_empty() && dir.split('/').all(|part| !matches!(part, "" | "." | ".."))
        };
        if !self.dir.iter().all(below) {
            return refuse("begins in a directory that is not below the workspace");
        }
        Ok(())
    }
}

fn is_variable(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(plain) && !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Isolation::{Namespaces, OwnKernel};

    #[test]
    fn a_tenant_raises_the_floor_and_never_lowers_it() {
        for (floor, asked, needed) in [
            (Namespaces, None, Namespaces),
            (Namespaces, Some(OwnKernel), OwnKernel),
            (OwnKernel, None, OwnKernel),
            (OwnKernel, Some(Namespaces), OwnKernel),
        ] {
            assert_eq!(Floor::at(floor).raised(asked).isolation(), needed);
        }
    }

    #[test]
    fn users_are_far_from_accounts_and_bounded() {
        assert_eq!(OsUser::numbered(7).map(OsUser::uid), Some(200_007));
        assert_eq!(OsUser::numbered(USERS), None);
        assert_eq!(OsUser::numbered(u32::MAX), None);
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused() {
        let good = Program::new("sh")
            .args(["-c", "true"])
            .env("A_1", "x y")
            .dir("a/b");
        assert!(good.check().is_ok());
        for bad in [
            Program::default(),
            Program::new(""),
            Program::new("a=b").args(["c"]),
            Program::new("sh").args(["a\0b"]),
            Program::new("sh").args(["x".repeat(ARGUMENT_BYTES_MAX)]),
            Program::new("sh").env("1A", ""),
            Program::new("sh").env("A=B", ""),
            Program::new("sh").env("", ""),
            Program::new("sh").dir("../up"),
            Program::new("sh").dir("/etc"),
            Program::new("sh").dir("a//b"),
        ] {
            assert!(
                matches!(bad.check(), Err(SandboxError::Program(_))),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_workspace_is_a_directory() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let grant = Grant::new(
            file,
            OsUser::numbered(0).unwrap(),
            Floor::at(Namespaces).raised(None),
            Ceilings::default(),
        );
        assert!(matches!(grant, Err(SandboxError::Workspace(_))));
    }
}
