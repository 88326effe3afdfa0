//! The arguments of bubblewrap, as a pure function of what a run needs.

use crate::grant::Program;

/// Where the workspace stands for the program.
pub(crate) const WORKSPACE: &str = "/box";
/// User and group as the program sees them.
const USER_INSIDE: &str = "1000";

/// Where the runtime and the workspace come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// Descriptors of directories that bubblewrap finds open. It resolves them to paths, mounts those and compares device and
    /// inode afterwards.
    Handed { runtime: i32, workspace: i32 },
    /// Places in a mount namespace of its own, where [`sys::Tree`] has put them.
    Staged {
        runtime: &'static str,
        workspace: &'static str,
    },
}

/// What one start needs beside the program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) sources: Sources,
    /// Descriptors of the compiled filters.
    pub(crate) filters: [i32; 2],
    /// Descriptor that bubblewrap reports to.
    pub(crate) status: i32,
    pub(crate) temporary_bytes: u64,
    /// Processes at once, where no cgroup bounds them.
    pub(crate) processes: Option<u32>,
}

/// Sets the limit of processes inside, where it counts those of this sandbox alone, then becomes the program. The two letters
/// are those of different shells; where neither is known the program does not start.
const LIMIT_PROCESSES: &str =
    r#"ulimit -u "$0" 2>/dev/null || ulimit -p "$0" || exit 126; exec "$@""#;

/// All arguments. The workspace is bound last, and nothing is mounted below it: a tenant can place a symbolic link there, and
/// before bubblewrap 0.12 a mount whose path led through it was made on the machine (CVE-2026-87766).
pub(crate) fn argv(shape: &Shape, program: &Program) -> Vec<String> {
    let mut argv: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| argv.extend(words.iter().map(|word| (*word).to_owned()));
    add(&["--unshare-all", "--unshare-user", "--disable-userns"]);
    add(&["--die-with-parent", "--new-session"]);
    add(&["--uid", USER_INSIDE, "--gid", USER_INSIDE]);
    add(&["--hostname", "box", "--cap-drop", "ALL", "--clearenv"]);
    let own = [
        ("PATH", "/usr/bin"),
        ("HOME", WORKSPACE),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
    ];
    let theirs = program
        .env
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in own.into_iter().chain(theirs) {
        add(&["--setenv", name, value]);
    }
    for filter in shape.filters {
        add(&["--add-seccomp-fd", &filter.to_string()]);
    }
    add(&["--json-status-fd", &shape.status.to_string()]);
    match shape.sources {
        Sources::Handed { runtime, .. } => add(&["--ro-bind-fd", &runtime.to_string(), "/"]),
        Sources::Staged { runtime, .. } => add(&["--ro-bind", runtime, "/"]),
    }
    let room = shape.temporary_bytes.to_string();
    add(&["--proc", "/proc", "--dev", "/dev"]);
    // The file system of /dev is in memory and has no bound of its own.
    add(&[
        "--size",
        &room,
        "--tmpfs",
        "/dev/shm",
        "--remount-ro",
        "/dev",
    ]);
    add(&["--size", &room, "--tmpfs", "/tmp"]);
    match shape.sources {
        Sources::Handed { workspace, .. } => add(&["--bind-fd", &workspace.to_string(), WORKSPACE]),
        Sources::Staged { workspace, .. } => add(&["--bind", workspace, WORKSPACE]),
    }
    let dir = program
        .dir
        .as_ref()
        .map(|below| format!("{WORKSPACE}/{below}"));
    add(&["--chdir", dir.as_deref().unwrap_or(WORKSPACE), "--"]);
    if let Some(processes) = shape.processes {
        add(&["/bin/sh", "-c", LIMIT_PROCESSES, &processes.to_string()]);
    }
    argv.extend(program.argv.iter().cloned());
    argv
}
