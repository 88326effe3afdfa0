//! What a run answers, what ends it, and that nothing is left of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sandbox::{
    Ceiling, Ceilings, ChangeKind, End, FileKind, Floor, Grant, Isolation, OsUser, Program,
    Sandbox, SandboxError,
};

use crate::support::{again_as_ordinary, bench, is_root, processes_with, shell, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_tells_output_code_and_changes() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("told");
    fs::write(workspace.join("old"), "old").unwrap();
    fs::write(workspace.join("gone"), "gone").unwrap();
    let program = shell(
        "cat; echo problem >&2; echo more >>old; rm gone; mkdir d; printf 12345 >d/new; exit 7",
    )
    .stdin("from outside\n");
    let outcome = bench
        .run_in(&workspace, program, Ceilings::default())
        .await
        .unwrap();
    assert_eq!(outcome.end, End::Exited(7), "{outcome:?}");
    assert_eq!(outcome.stdout.text(), "from outside\n");
    assert_eq!(outcome.stderr.text(), "problem\n");
    let changes: Vec<_> = outcome
        .changes
        .iter()
        .map(|change| (change.path.clone(), change.kind, change.what, change.bytes))
        .collect();
    let expected = [
        ("d", ChangeKind::Created, FileKind::Directory, None),
        ("d/new", ChangeKind::Created, FileKind::File, Some(5)),
        ("old", ChangeKind::Modified, FileKind::File, Some(8)),
        ("gone", ChangeKind::Removed, FileKind::File, Some(4)),
    ];
    assert_eq!(changes.len(), expected.len(), "{changes:?}");
    for ((path, kind, what, bytes), (name, expected_kind, expected_what, size)) in
        changes.into_iter().zip(expected)
    {
        assert_eq!(
            (path, kind, what),
            (PathBuf::from(name), expected_kind, expected_what)
        );
        assert!(size.is_none_or(|size| size == bytes), "{name}");
    }
    assert!(outcome.wall > Duration::ZERO && outcome.cpu < outcome.wall * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_run_with_an_environment_of_their_own() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("env");
    fs::create_dir(workspace.join("below")).unwrap();
    let program = shell("env | sort; pwd").env("NAME", "a value").dir("below");
    let outcome = bench
        .run_in(&workspace, program, Ceilings::default())
        .await
        .unwrap();
    let said = outcome.stdout.text();
    assert!(
        said.contains("NAME=a value\n") && said.ends_with("/box/below\n"),
        "{said}"
    );
    for line in said.lines().filter_map(|line| line.split_once('=')) {
        let known = [
            "HOME", "LANG", "NAME", "OLDPWD", "PATH", "PWD", "SHLVL", "TMPDIR", "_",
        ];
        assert!(known.contains(&line.0), "{line:?}");
    }
}

/// A variable that speaks to the loader would speak to that of the helpers which set the limits as well, before these stand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_variables_reach_its_program_alone() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("loader");
    let program = Program::new("/usr/bin/true")
        .env("LD_DEBUG", "files")
        .env("LD_DEBUG_OUTPUT", "/box/seen")
        .env("BASH_ENV", "/box/start")
        .env("ENV", "/box/start");
    fs::write(workspace.join("start"), "touch /box/started").unwrap();
    let outcome = bench
        .run_in(&workspace, program, Ceilings::default())
        .await
        .unwrap();
    assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
    let mut started = Vec::new();
    for entry in fs::read_dir(&workspace).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        assert_ne!(name, "started");
        if name.starts_with("seen") {
            let said = fs::read_to_string(entry.path()).unwrap();
            let controls = said
                .lines()
                .filter_map(|line| line.split_once("transferring control: "));
            started.extend(controls.map(|(_, program)| program.to_owned()));
        }
    }
    // Another C library says nothing.
    let own = ["/usr/bin/true"];
    assert!(started.is_empty() || started == own, "{started:?}");
    if Path::new("/lib64/ld-linux-x86-64.so.2").exists() {
        assert_eq!(started, own);
    }
}

#[test]
fn an_ordinary_users_variables_reach_its_program_alone() {
    again_as_ordinary("runs::a_tenants_variables_reach_its_program_alone");
}

/// The search path too is the program's own matter: the helpers are not found by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_variable_input_and_directory_may_be_given() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("given");
    fs::create_dir(workspace.join("a b")).unwrap();
    fs::write(workspace.join("a b/told"), "#!/bin/sh\nexec /usr/bin/env\n").unwrap();
    fs::set_permissions(
        workspace.join("a b/told"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let program = Program::new("told")
        .env("PATH", "/box/a b")
        .env("TEXT", "two\nlines = \"$(id)\" 'x' \\")
        .env("EMPTY", "")
        .env("TWICE", "first")
        .env("TWICE", "second")
        .dir("a b");
    let outcome = bench
        .run_in(&workspace, program, Ceilings::default())
        .await
        .unwrap();
    let said = outcome.stdout.text();
    for line in [
        "PATH=/box/a b\n",
        "TEXT=two\nlines = \"$(id)\" 'x' \\\n",
        "EMPTY=\n",
        "TWICE=second\n",
        "HOME=/box\n",
        "PWD=/box/a b\n",
    ] {
        assert!(said.contains(line), "{line:?} in {outcome:?}");
    }
    assert!(!said.contains("TWICE=first"), "{said}");
    let program = shell("pwd; cat").dir("a b").stdin("of\0mine");
    let outcome = bench
        .run_in(&workspace, program, Ceilings::default())
        .await
        .unwrap();
    assert_eq!(outcome.stdout.bytes, b"/box/a b\nof\0mine");
}

#[test]
fn any_variable_input_and_directory_may_be_given_by_an_ordinary_user() {
    again_as_ordinary("runs::any_variable_input_and_directory_may_be_given");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_interpreters_that_are_reported_run() {
    let Some(bench) = bench().await else {
        return;
    };
    let groups = bench
        .sandbox
        .report()
        .limits
        .iter()
        .all(|(_, by)| by.to_string() != "rlimit of each process");
    for interpreter in &bench.sandbox.report().interpreters {
        let script = match *interpreter {
            "python3" => [
                "-c",
                "import json, sqlite3, ssl, hashlib, ctypes; print(6 * 7)",
            ],
            // Reserves more addresses than a limit of each process leaves it.
            _ if !groups => continue,
            _ => ["-e", "console.log(6 * 7)"],
        };
        let program = Program::new(*interpreter).args(script);
        let outcome = bench
            .run_in(&bench.workspace(interpreter), program, Ceilings::default())
            .await
            .unwrap();
        assert_eq!(outcome.stdout.text(), "42\n", "{interpreter}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_is_cut_and_counted() {
    let Some(bench) = bench().await else {
        return;
    };
    let ceilings = Ceilings {
        kept_bytes: 10,
        ..Ceilings::default()
    };
    let program = shell("head -c 100000 /dev/zero | tr '\\0' x; printf abc >&2");
    let outcome = bench
        .run_in(&bench.workspace("cut"), program, ceilings)
        .await
        .unwrap();
    assert_eq!(
        (outcome.stdout.text().as_str(), outcome.stdout.cut),
        ("xxxxxxxxxx", 99_990)
    );
    assert_eq!(
        (outcome.stderr.text().as_str(), outcome.stderr.cut),
        ("abc", 0)
    );
    assert_eq!(outcome.end, End::Exited(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_is_told() {
    let Some(bench) = bench().await else {
        return;
    };
    let outcome = bench.shell("signal", "kill -SEGV $$").await;
    assert_eq!(outcome.end, End::Signalled(11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_leaves_behind_is_dead_when_the_outcome_comes() {
    let Some(bench) = bench().await else {
        return;
    };
    let mark = format!("98765.{}", std::process::id());
    let outcome = bench
        .shell(
            "orphan",
            &format!("setsid sleep {mark} >/dev/null 2>&1 & sleep {mark} & sleep 0.1; exit 0"),
        )
        .await;
    assert_eq!(outcome.end, End::Exited(0));
    assert_eq!(processes_with(&mark), Vec::<u32>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_dropped_dies() {
    let Some(bench) = bench().await else {
        return;
    };
    let mark = format!("87654.{}", std::process::id());
    let workspace = bench.workspace("dropped");
    let program = shell(&format!(
        "setsid sleep {mark} & touch started; sleep {mark}"
    ));
    let run = bench.run_in(&workspace, program, Ceilings::default());
    let started = workspace.join("started");
    tokio::select! {
        ended = run => panic!("{ended:?}"),
        there = until(|| started.exists()) => assert!(there),
    }
    assert!(until(|| processes_with(&mark).is_empty()).await);
}

/// Set in the process that is killed: what it makes its program sleep, which is the mark to find it by.
const HOLD: &str = "SANDBOX_TEST_HOLD";

/// No test by itself: stands for a gateway that runs a program when it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_held() {
    let Ok(mark) = std::env::var(HOLD) else {
        return;
    };
    let Some(bench) = bench().await else {
        return;
    };
    let outcome = bench
        .shell("held", &format!("setsid sleep {mark} & sleep {mark}"))
        .await;
    eprintln!("ended by itself: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_takes_its_programs_along() {
    if bench().await.is_none() {
        return;
    }
    let mark = format!("65432.{}", std::process::id());
    let mut gateway = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runs::a_program_that_is_held"])
        .env(HOLD, &mark)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Bubblewrap's own two, and both that sleep; one of them may have taken the shell's place.
    let running = until(|| processes_with(&mark).len() >= 4).await;
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    assert!(running, "it was never started");
    assert!(until(|| processes_with(&mark).is_empty()).await);
}

/// At whatever moment a run is dropped, nothing stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_may_be_dropped_at_any_moment() {
    let Some(bench) = bench().await else {
        return;
    };
    let mark = format!("76543.{}", std::process::id());
    for step in 0..30_u64 {
        let workspace = bench.workspace(&format!("dropped-{step}"));
        let run = bench.run_in(
            &workspace,
            shell(&format!("sleep {mark}")),
            Ceilings::default(),
        );
        let ended = tokio::time::timeout(Duration::from_millis(step), run).await;
        assert!(ended.is_err(), "{ended:?}");
    }
    assert!(until(|| processes_with(&mark).is_empty()).await);
}

/// Without control groups nothing but the order of the kills ends what is just starting.
#[test]
fn a_run_of_an_ordinary_user_may_be_dropped_at_any_moment() {
    again_as_ordinary("runs::a_run_may_be_dropped_at_any_moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_at_once_are_all_answered() {
    let Some(bench) = bench().await else {
        return;
    };
    let began = Instant::now();
    let mut runs = Vec::new();
    for number in 0..20 {
        let workspace = bench.workspace(&format!("at-once-{number}"));
        let program = shell(&format!("sleep 0.3; echo {number}"));
        runs.push(Box::pin(bench.run_in_owned(workspace, program)));
    }
    let outcomes = join_all(runs).await;
    for (number, outcome) in outcomes.into_iter().enumerate() {
        let outcome = outcome.unwrap();
        assert_eq!(
            (outcome.end, outcome.stdout.text()),
            (End::Exited(0), format!("{number}\n"))
        );
    }
    eprintln!("20 at once took {:?}", began.elapsed());
    // One after the other the sleeping alone would take six seconds.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn twenty_at_once_are_all_answered_for_an_ordinary_user() {
    again_as_ordinary("runs::twenty_at_once_are_all_answered");
}

/// The figure that is promised is 40 ms; a machine that builds something else at the same time gets four times that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_takes_milliseconds() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("start");
    let mut took = Vec::new();
    for _ in 0..40 {
        let began = Instant::now();
        let outcome = bench
            .run_in(&workspace, Program::new("true"), Ceilings::default())
            .await
            .unwrap();
        assert_eq!(outcome.end, End::Exited(0));
        took.push(began.elapsed());
    }
    took.sort_unstable();
    eprintln!("start to outcome: p50 {:?}, p95 {:?}", took[20], took[38]);
    assert!(took[20] < Duration::from_millis(160), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_is_overfull_is_not_run_in() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("overfull");
    fs::write(workspace.join("big"), vec![1; 200_000]).unwrap();
    let ceilings = Ceilings {
        disk_bytes: 100_000,
        ..Ceilings::default()
    };
    let refused = bench
        .run_in(&workspace, Program::new("true"), ceilings)
        .await;
    assert!(
        matches!(refused, Err(SandboxError::Workspace(_))),
        "{refused:?}"
    );
}

/// A file system that is unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of 64 MiB.
    fn at(path: &Path) -> Self {
        let flags = rustix::mount::MountFlags::NOSUID;
        let mounted = rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(c"size=64m"));
        mounted.unwrap();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.0.as_path();
        let _gone = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    }
}

/// A walk does not see a file that was removed while it is open; the room that is left on the disk tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_without_a_name_does_not_fill_the_disk() {
    let Some(bench) = bench().await.filter(|_| is_root()) else {
        return;
    };
    let workspace = bench.workspace("small-disk");
    let disk = SmallDisk::at(&workspace);
    let script = "exec 5>hidden; rm hidden; head -c 60000000 /dev/zero >&5; sleep 20; echo ESCAPED";
    let outcome = bench
        .run_in(&workspace, shell(script), Ceilings::default())
        .await
        .unwrap();
    assert_eq!(outcome.end, End::Limited(Ceiling::Disk), "{outcome:?}");
    // What was hidden is free again.
    let free = rustix::fs::statvfs(&workspace).unwrap();
    assert!(free.f_bavail * free.f_frsize > 60_000_000);
    drop(disk);
}

/// It is not looked at again, so that whoever reads the refusal must be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_is_a_refusal_that_says_what_to_do() {
    let Some(bench) = bench().await.filter(|_| is_root()) else {
        return;
    };
    let place = bench.workspace("full-disk");
    let _disk = SmallDisk::at(&place);
    for filled in [false, true] {
        if filled {
            fs::write(place.join("fill"), vec![1; 60 << 20]).unwrap();
        }
        let sandbox = Sandbox::open(fs::File::open(&place).unwrap().into()).await;
        let refused = sandbox.report().refused.join(" ");
        assert!(
            refused.contains("free some of it, then restart the gateway"),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_isolation_than_there_is_is_refused_and_never_replaced() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("demanding");
    let opened = fs::File::open(&workspace).unwrap().into();
    let demand = Floor::at(Isolation::Namespaces).raised(Some(Isolation::OwnKernel));
    let grant = Grant::new(
        opened,
        OsUser::numbered(3).unwrap(),
        demand,
        Ceilings::default(),
    )
    .unwrap();
    let refused = bench.sandbox.run(grant, shell("touch ran")).await;
    assert!(
        matches!(refused, Err(SandboxError::NotOffered(_))),
        "{refused:?}"
    );
    assert!(!workspace.join("ran").exists());
}

/// As in a shell, and the same whatever keeps the limits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_ends_with_the_code_of_that() {
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("absent");
    let outcome = bench
        .run_in(
            &workspace,
            Program::new("no-such-program"),
            Ceilings::default(),
        )
        .await
        .unwrap();
    assert_eq!(outcome.end, End::Exited(127));
    let said = outcome.stderr.text();
    assert!(said.contains("no-such-program"), "{said}");
}

#[test]
fn a_program_that_is_not_there_ends_so_for_an_ordinary_user() {
    again_as_ordinary("runs::a_program_that_is_not_there_ends_with_the_code_of_that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_by_the_clock_ends_a_run() {
    let Some(bench) = bench().await else {
        return;
    };
    let ceilings = Ceilings {
        wall: Duration::from_millis(300),
        ..Ceilings::default()
    };
    let began = Instant::now();
    let outcome = bench
        .run_in(
            &bench.workspace("clock"),
            shell("echo begun; sleep 60"),
            ceilings,
        )
        .await
        .unwrap();
    assert_eq!(outcome.end, End::Limited(Ceiling::Wall));
    assert_eq!(outcome.stdout.text(), "begun\n");
    assert!(began.elapsed() < Duration::from_secs(5));
}

impl crate::support::Bench {
    async fn run_in_owned(
        &self,
        workspace: PathBuf,
        program: Program,
    ) -> Result<sandbox::Outcome, SandboxError> {
        self.run_in(&workspace, program, Ceilings::default()).await
    }
}
