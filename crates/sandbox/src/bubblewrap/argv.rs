//! The arguments of bubblewrap, as a pure function of what a run needs.

use crate::grant::Program;

/// Where the workspace stands for the program.
pub(crate) const WORKSPACE: &str = "/box";
/// What is started first inside, before the program: both are of the runtime, found by no search path and told nothing of the
/// tenant's environment.
pub(crate) const HELPERS: [&str; 2] = [SHELL, ENVIRONMENT];
const SHELL: &str = "/bin/sh";
const ENVIRONMENT: &str = "/usr/bin/env";
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
    let below = program.dir.as_ref();
    let dir = below.map(|below| format!("{WORKSPACE}/{below}"));
    let dir = dir.as_deref().unwrap_or(WORKSPACE);
    add(&["--chdir", dir, "--"]);
    if let Some(processes) = shape.processes {
        add(&[SHELL, "-c", LIMIT_PROCESSES, &processes.to_string()]);
    }
    // Here and not as options of bubblewrap: some variables tell a loader or a shell what to do first, and the shell that sets
    // the limit must not hear of them.
    add(&[ENVIRONMENT, "-i"]);
    let own = [
        ("PATH", "/usr/bin"),
        ("HOME", WORKSPACE),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PWD", dir),
    ];
    for (name, value) in own {
        add(&[&format!("{name}={value}")]);
    }
    for (name, value) in &program.env {
        add(&[&format!("{name}={value}")]);
    }
    argv.extend(program.argv.iter().cloned());
    argv
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_variable_is_told_to_what_starts_before_the_program() {
        for processes in [None, Some(10)] {
            let shape = Shape {
                sources: Sources::Handed {
                    runtime: 7,
                    workspace: 8,
                },
                filters: [3, 4],
                status: 5,
                temporary_bytes: 1 << 20,
                processes,
            };
            let program = Program::new("tool")
                .args(["arg"])
                .env("LD_PRELOAD", "/box/evil.so");
            let argv = argv(&shape, &program);
            let split = argv.iter().position(|word| word == ENVIRONMENT).unwrap();
            let (before, after) = argv.split_at(split);
            assert!(before.iter().all(|word| !word.contains("LD_PRELOAD")));
            let last = ["LD_PRELOAD=/box/evil.so", "tool", "arg"];
            assert!(after.starts_with(&[ENVIRONMENT.to_owned(), "-i".to_owned()]));
            assert!(after.ends_with(&last.map(str::to_owned)));
        }
    }
}
