//! What the tests share: a sandbox, workspaces, and a way to be somebody else.
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandbox::{
    Ceilings, Demand, Floor, Grant, Isolation, OsUser, Outcome, Program, Sandbox, SandboxError,
};
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Set in a process that runs a test again as an ordinary user: the directory that is prepared for it.
const AGAIN_IN: &str = "SANDBOX_TEST_AGAIN_IN";
/// Whom the second pass runs as.
pub(crate) const ORDINARY: u32 = 65_534;

/// Opened once for all tests: each opening runs the self-test.
static SANDBOX: OnceCell<Sandbox> = OnceCell::const_new();

/// A sandbox, and a directory for workspaces.
pub(crate) struct Bench {
    pub(crate) sandbox: &'static Sandbox,
    pub(crate) dir: TempDir,
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this process is the second pass of [`again_as_ordinary`].
pub(crate) fn is_second_pass() -> bool {
    std::env::var_os(AGAIN_IN).is_some()
}

/// A sandbox, or `None` where this machine cannot have one and need not.
pub(crate) async fn bench() -> Option<Bench> {
    // As a gateway has it: what it makes is for its own user.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let root = std::env::var_os(AGAIN_IN)
        .map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let place = root.join(format!("place-{}", rustix::process::geteuid().as_raw()));
    fs::create_dir_all(&place).unwrap();
    let sandbox = SANDBOX
        .get_or_init(|| Sandbox::open(File::open(&place).unwrap().into()))
        .await;
    if let Some(why) = sandbox.report().refused.first() {
        assert!(
            why.contains("not installed") && std::env::var_os("CI").is_none(),
            "{why}"
        );
        eprintln!("SKIP: {why}");
        return None;
    }
    let dir = tempfile::tempdir_in(root).unwrap();
    Some(Bench { sandbox, dir })
}

impl Bench {
    /// A new workspace of this name.
    pub(crate) fn workspace(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name.replace(['/', ' '], "-"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// Runs a program in a workspace.
    pub(crate) async fn run_in(
        &self,
        workspace: &Path,
        program: Program,
        ceilings: Ceilings,
    ) -> Result<Outcome, SandboxError> {
        self.sandbox.run(grant(workspace, ceilings), program).await
    }

    /// Runs a script of the shell in a new workspace.
    pub(crate) async fn shell(&self, name: &str, script: &str) -> Outcome {
        self.run_in(&self.workspace(name), shell(script), Ceilings::default())
            .await
            .unwrap()
    }
}

/// A grant of a directory for the tenant with the number 3.
pub(crate) fn grant(workspace: &Path, ceilings: Ceilings) -> Grant {
    let workspace: OwnedFd = File::open(workspace).unwrap().into();
    Grant::new(workspace, OsUser::numbered(3).unwrap(), demand(), ceilings).unwrap()
}

/// What the tests demand.
pub(crate) fn demand() -> Demand {
    Floor::at(Isolation::Namespaces).raised(None)
}

/// A script of the shell.
pub(crate) fn shell(script: &str) -> Program {
    Program::new("sh").args(["-c", script])
}

/// Runs the named test of this binary once more as an ordinary user, where this process is root, and fails with it.
pub(crate) fn again_as_ordinary(test: &str) {
    if !is_root() || is_second_pass() {
        return;
    }
    // Below a directory that anybody may enter: the build's may be closed to others.
    let dir = tempfile::Builder::new()
        .prefix("sandbox-test")
        .tempdir_in("/var/tmp")
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = dir.path().join("again");
    // By another process: what this one has open for writing, a child of another test may hold while it is started.
    let copied = Command::new("cp")
        .arg(std::env::current_exe().unwrap())
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let own = dir.path().join("own");
    let place = own.join(format!("place-{ORDINARY}"));
    fs::create_dir_all(&place).unwrap();
    for dir in [&own, &place] {
        std::os::unix::fs::chown(dir, Some(ORDINARY), Some(ORDINARY)).unwrap();
    }
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    if test != "escape::no_probe_escapes" {
        // The runtime that root has built, where it is there and on the same disk. Otherwise, and in the test of the probes,
        // that user builds its own.
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("place-0");
        for entry in fs::read_dir(built).into_iter().flatten().flatten() {
            let is_runtime = entry.file_name().to_string_lossy().starts_with("runtime-");
            if is_runtime {
                let linked = Command::new("cp")
                    .arg("-al")
                    .arg(entry.path())
                    .arg(&place)
                    .output()
                    .unwrap();
                if !linked.status.success() {
                    // Half a runtime would be taken for a whole one.
                    fs::remove_dir_all(place.join(entry.file_name())).unwrap();
                }
            }
        }
    }
    use std::os::unix::process::CommandExt;
    let output = Command::new(&program)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(AGAIN_IN, &own)
        .current_dir("/")
        .uid(ORDINARY)
        .gid(ORDINARY)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{error}"
    );
}

/// Waits until `done`, for ten seconds at most.
pub(crate) async fn until(mut done: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if done() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    false
}

/// The processes of the machine whose command line holds `text`.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}
