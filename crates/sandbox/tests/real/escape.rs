//! All probes in the real sandbox, as root and as an ordinary user; and all of them without one, where they must get out.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use sandbox::probe::{self, Outside, Probe, Setting, Verdict};
use sandbox::{End, Limit, Mechanism, Program, UidWall};

use crate::support::{again_as_ordinary, bench, grant, is_root, is_second_pass, shell};

/// Attempts at the same time.
const AT_ONCE: usize = 6;

/// What stands outside and must not be reached; open as long as the value lives.
struct World {
    setting: Setting,
    _port: TcpListener,
    _socket: UnixListener,
}

fn world(dir: &Path) -> World {
    let sibling = dir.join("sibling-secret");
    fs::write(&sibling, "secret of another tenant").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = port.local_addr().unwrap().port();
    let name = format!("sandbox-test-{number}");
    let socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    World {
        setting: Setting {
            port: number,
            abstract_socket: name,
            ..Setting::of_this_process(sibling.to_str().unwrap().to_owned())
        },
        _port: port,
        _socket: socket,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_probe_escapes() {
    let Some(bench) = bench().await else {
        return;
    };
    let report = bench.sandbox.report();
    let wall = if is_root() {
        UidWall::PerTenant
    } else {
        UidWall::Absent
    };
    assert_eq!(report.uid_wall, wall);
    let each = (Limit::Memory, Mechanism::EachProcess);
    let grouped = !report.limits.contains(&each);
    let python = report.interpreters.contains(&"python3");
    let world = world(bench.dir.path());
    let mut failed = Vec::new();
    let mut held = 0;
    let probes: Vec<&Probe> = probe::all()
        .filter(|probe| (python || !probe.needs_python()) && (grouped || !probe.of_all))
        .collect();
    for batch in probes.chunks(AT_ONCE) {
        let tries = batch.iter().map(|probe| {
            let grant = grant(&bench.workspace(probe.name), probe.ceilings());
            Box::pin(bench.sandbox.run(grant, probe.program(&world.setting)))
        });
        for (probe, outcome) in batch.iter().zip(join_all(tries).await) {
            match outcome.map(|outcome| probe.judge(&outcome)) {
                Ok(Verdict::Held) => held += 1,
                other => failed.push(format!("{}: {other:?}", probe.name)),
            }
        }
    }
    assert!(failed.is_empty(), "{held} held, but\n{}", failed.join("\n"));
    assert!(!python || held >= 100, "{held}");
    let offer = &report.offered[0];
    assert!(!python || offer.untried.is_empty(), "{:?}", offer.untried);
    eprintln!(
        "{held} probes held; self-test: {} probes in {:?}; {:?}",
        offer.probes, offer.tested_in, report.limits
    );
}

#[test]
fn no_probe_escapes_for_an_ordinary_user() {
    again_as_ordinary("escape::no_probe_escapes");
}

/// In a container the gateway is often process 1, and each sandbox has a process of that number too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_a_small_number_is_not_taken_for_one_that_is_seen() {
    let Some(bench) = bench().await else {
        return;
    };
    let world = world(bench.dir.path());
    for pid in 1..=3 {
        let setting = Setting {
            pid,
            ..world.setting.clone()
        };
        for probe in probe::all().filter(|probe| probe.quick && !probe.needs_python()) {
            let workspace = bench.workspace(&format!("{pid} {}", probe.name));
            let run = bench
                .sandbox
                .run(grant(&workspace, probe.ceilings()), probe.program(&setting));
            let verdict = probe.judge(&Box::pin(run).await.unwrap());
            assert_eq!(verdict, Verdict::Held, "{pid}: {}", probe.name);
        }
    }
}

#[test]
fn a_gateway_of_an_ordinary_user_with_a_small_number_is_not_taken_for_seen() {
    again_as_ordinary("escape::a_gateway_with_a_small_number_is_not_taken_for_one_that_is_seen");
}

/// The silence of a program that is missing is not that of a wall.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_whose_programs_are_missing_does_not_count_as_held() {
    let Some(bench) = bench().await else {
        return;
    };
    let world = world(bench.dir.path());
    let mut tried = 0;
    for probe in probe::all().filter(|probe| !probe.needs.is_empty()) {
        let script = probe.argv().pop().unwrap();
        let mut program = Program::new("/bin/sh").args(["-c", &script]);
        for (name, value) in world.setting.env() {
            program = program.env(name, value);
        }
        let workspace = bench.workspace(&format!("bare {}", probe.name));
        let run = bench.sandbox.run(
            grant(&workspace, probe.ceilings()),
            program.env("PATH", "/nowhere"),
        );
        let verdict = probe.judge(&Box::pin(run).await.unwrap());
        assert!(
            matches!(verdict, Verdict::Untried(_)),
            "{}: {verdict:?}",
            probe.name
        );
        tried += 1;
    }
    assert!(tried >= 30, "{tried}");
}

/// A probe that could not fail would show nothing.
#[test]
fn every_probe_gets_out_where_there_are_no_walls() {
    let dir = tempfile::tempdir_in(if is_second_pass() {
        "/var/tmp"
    } else {
        env!("CARGO_TARGET_TMPDIR")
    })
    .unwrap();
    let world = world(dir.path());
    let python = Path::new("/usr/bin/python3").exists();
    let applies = |probe: &&Probe| match probe.outside {
        Outside::Escapes => true,
        Outside::EscapesAsRoot => is_root(),
        Outside::Untried(_) => false,
    };
    let probes: Vec<&Probe> = probe::all()
        .filter(|probe| applies(probe) && (python || !probe.needs_python()))
        .collect();
    let tried = probes.len();
    let mut inside = Vec::new();
    for batch in probes.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let tries: Vec<_> = batch
                .iter()
                .map(|probe| scope.spawn(|| without_walls(probe, dir.path(), &world.setting)))
                .collect();
            for (probe, tried) in batch.iter().zip(tries) {
                let said = tried.join().unwrap();
                if !said.contains("ESCAPED") {
                    inside.push(format!("{}: {said}", probe.name));
                }
            }
        });
    }
    assert!(
        inside.is_empty(),
        "{tried} tried, but these found walls\n{}",
        inside.join("\n")
    );
    assert!(!python || tried >= 60, "{tried}");
}

#[test]
fn as_an_ordinary_user_too_the_probes_get_out_where_there_are_no_walls() {
    again_as_ordinary("escape::every_probe_gets_out_where_there_are_no_walls");
}

/// Runs the same program in an empty directory, with two descriptors that somebody forgot.
fn without_walls(probe: &Probe, dir: &Path, setting: &Setting) -> String {
    let work = dir.join(probe.name.replace(['/', ' '], "-"));
    fs::create_dir(&work).unwrap();
    let output = Command::new("/bin/sh")
        .args(["-c", "exec 8</dev/null 9</dev/null; exec \"$@\"", "sh"])
        .args(probe.argv())
        .current_dir(&work)
        .env("PATH", "/usr/bin:/bin")
        .envs(setting.env())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    said
}

/// CVE-2026-87766: a tenant plants links under the names of everything that bubblewrap mounts, and of what an earlier version
/// might mount into the workspace; the next start must create nothing on the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_link_creates_nothing_on_the_machine() {
    let Some(bench) = bench().await else {
        return;
    };
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let workspace = bench.workspace("planted");
    let targets = [
        outside.clone(),
        Path::new("/oldroot").join(outside.strip_prefix("/").unwrap()),
    ];
    for (number, target) in targets.iter().enumerate() {
        for name in [
            "box", "tmp", "dev", "proc", "usr", "etc", "skills", "local", ".config",
        ] {
            std::os::unix::fs::symlink(target, workspace.join(format!("{name}{number}"))).unwrap();
            if number == 1 {
                std::os::unix::fs::symlink(target, workspace.join(name)).unwrap();
            }
        }
    }
    for _ in 0..2 {
        let program = shell("ls -la >listing; mkdir -p tmp/x skills/y 2>/dev/null; true");
        let outcome = bench
            .sandbox
            .run(grant(&workspace, Default::default()), program)
            .await
            .unwrap();
        assert_eq!(outcome.end, End::Exited(0));
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_planted_link_creates_nothing_for_an_ordinary_user_either() {
    again_as_ordinary("escape::a_planted_link_creates_nothing_on_the_machine");
}

/// A workspace that is itself reached by a link, or swapped for one after the grant was made, is the directory that was opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_is_swapped_for_a_link_after_the_grant_leads_nowhere_else() {
    let Some(bench) = bench().await else {
        return;
    };
    let victim = bench.workspace("victim");
    fs::write(victim.join("secret"), "of the victim").unwrap();
    let workspace = bench.workspace("swapped");
    let grant = grant(&workspace, Default::default());
    let moved = bench.dir.path().join("moved");
    fs::rename(&workspace, &moved).unwrap();
    std::os::unix::fs::symlink(&victim, &workspace).unwrap();
    let ran = bench
        .sandbox
        .run(grant, shell("cat secret; echo mine >mark"))
        .await;
    // Refused, or in the directory that was granted: never in the other.
    if let Ok(outcome) = ran {
        assert_eq!(outcome.stdout.text(), "");
        assert!(moved.join("mark").exists());
    }
    assert!(!victim.join("mark").exists());
}

#[test]
fn a_swapped_workspace_leads_nowhere_else_for_an_ordinary_user_either() {
    again_as_ordinary(
        "escape::a_workspace_that_is_swapped_for_a_link_after_the_grant_leads_nowhere_else",
    );
}

/// Two tenants do not even meet in the file system of the machine: their files belong to different users.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_a_tenant_belong_to_a_user_of_its_own() {
    use std::os::unix::fs::MetadataExt;
    let Some(bench) = bench().await else {
        return;
    };
    let workspace = bench.workspace("owned");
    let program = shell("echo x >file");
    bench
        .sandbox
        .run(grant(&workspace, Default::default()), program)
        .await
        .unwrap();
    let owner = File::open(workspace.join("file"))
        .unwrap()
        .metadata()
        .unwrap()
        .uid();
    assert_eq!(
        owner,
        if is_root() {
            200_003
        } else {
            rustix::process::geteuid().as_raw()
        }
    );
}
