//! What became of a program.

use std::path::PathBuf;
use std::time::Duration;

/// How a program ended and what it left. Everything in it comes from the program and is to be taken for hostile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What it wrote to standard output.
    pub stdout: Captured,
    /// What it wrote to standard error.
    pub stderr: Captured,
    /// What is different in the workspace, by path; the first [`CHANGES_MAX`].
    pub changes: Vec<Change>,
    /// Changes beyond those.
    pub changes_cut: usize,
    /// From the start of the sandbox to the death of its last process.
    pub wall: Duration,
    /// Processor time of all its processes, the walls' own included.
    pub cpu: Duration,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(u8),
    /// By a signal. As in a shell, a program that exits with 128 and the number of a signal looks the same.
    Signalled(u8),
    /// By the sandbox, because it reached a ceiling.
    Limited(Ceiling),
}

/// The ceiling that ended a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ceiling {
    /// Time by the clock.
    Wall,
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Bytes of the workspace or of one file.
    Disk,
    /// Files of the workspace, the bytes of their paths, or directories within each other.
    Files,
    /// Bytes of output.
    Output,
}

/// One stream of output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The beginning of it.
    pub bytes: Vec<u8>,
    /// How many bytes came after that and were read and dropped.
    pub cut: u64,
}

/// One path of the workspace that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Below the workspace; any bytes.
    pub path: PathBuf,
    /// What happened.
    pub kind: ChangeKind,
    /// What stands there, or stood there.
    pub what: FileKind,
    /// Its size, or what it was.
    pub bytes: u64,
}

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// Its content, its rights or its kind is another.
    Modified,
    /// It is gone.
    Removed,
}

/// What stands at a path. Whoever reads it opens it without following links, and only where it is a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, to anywhere.
    Link,
    /// A pipe, a socket or a device.
    Other,
}

/// Changes that are listed.
pub const CHANGES_MAX: usize = 1_000;

impl Captured {
    /// The text, with what is no UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
