//! What programs may leave in a workspace, and what they may do meanwhile: the attacks.

#![expect(
    clippy::disallowed_methods,
    reason = "a test plants what a program may plant"
)]

mod bounds;
mod known;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};

use super::*;
use crate::fixture::{acme, app_token, begun};
use crate::lifecycle::NewTenant;
use crate::{Caller, Kernel, Limits, Operator, Purpose};

const ROOM: Room = Room {
    bytes_max: 1 << 20,
    files_max: 1_000,
    file_bytes_max: 64 * 1024,
};
const CANARY: &str = "canary-of-somebody-else";
/// Everything may be known.
const ALL: &dyn Fn(&str) -> bool = &|_| true;

struct Home {
    kernel: Kernel,
    operator: Operator,
    tenant: Tenant,
    space: Workspace,
    /// The workspace by its path, as a program with a shell reaches it.
    path: PathBuf,
    /// A directory that is not the tenant's.
    outside: PathBuf,
    temp: tempfile::TempDir,
}

async fn home() -> Home {
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("data");
    let (kernel, operator) = begun(&data).await;
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    let outside = temp.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("f"), CANARY).unwrap();
    fs::write(outside.join("theirs"), CANARY).unwrap();
    fs::create_dir(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/f"), CANARY).unwrap();
    Home {
        space: tenant.workspace().unwrap(),
        path: data.join("tenants/acme/sandbox/work"),
        kernel,
        operator,
        tenant,
        outside,
        temp,
    }
}

impl Home {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        self.space.read(path, 0, 1 << 20).map(|piece| piece.bytes)
    }

    fn put(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<Written, FileError> {
        self.space.write(path, bytes.as_ref(), false, &ROOM)
    }

    fn add(&self, path: &str, bytes: impl AsRef<[u8]>) -> Result<Written, FileError> {
        self.space.write(path, bytes.as_ref(), true, &ROOM)
    }

    fn paths(&self) -> Vec<String> {
        let listing = self.space.list("", PARTS_MAX, 10_000, ALL).unwrap();
        listing
            .entries
            .into_iter()
            .map(|entry| entry.path)
            .collect()
    }

    fn search(&self, text: &str, below: &str) -> Found {
        self.space.search(text, below, &reach(), ALL).unwrap()
    }

    fn untouched(&self) {
        let count = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!(count(&self.outside), 3);
        assert_eq!(count(&self.outside.join("sub")), 1);
        for name in ["f", "theirs", "sub/f"] {
            let read = fs::read_to_string(self.outside.join(name)).unwrap();
            assert_eq!(read, CANARY, "{name}");
        }
    }
}

fn reach() -> Reach {
    Reach {
        hits_max: 100,
        file_bytes_max: 1 << 20,
        bytes_max: 1 << 24,
        deadline: Instant::now() + Duration::from_secs(60),
    }
}

#[tokio::test]
async fn files_are_written_read_listed_found_and_removed() {
    let home = home().await;
    assert_eq!(
        home.put("a/b/c.txt", "one\ntwo\n").unwrap(),
        written(8, true)
    );
    assert_eq!(
        home.put("/box/a/b/c.txt", "one\nzwei\n").unwrap(),
        written(9, false)
    );
    assert_eq!(home.add("a/b/c.txt", "three").unwrap(), written(14, false));
    assert_eq!(home.add("new", "x").unwrap(), written(1, true));
    assert_eq!(home.read("a/b/c.txt").unwrap(), b"one\nzwei\nthree");
    let piece = home.space.read("a/b/c.txt", 4, 4).unwrap();
    assert_eq!(
        (piece.bytes.as_slice(), piece.total),
        (b"zwei".as_slice(), 14)
    );
    assert!(
        home.space
            .read("new", u64::MAX, 9)
            .unwrap()
            .bytes
            .is_empty()
    );
    assert_eq!(home.paths(), ["a", "a/b", "a/b/c.txt", "new"]);
    let flat = home.space.list("/box", 0, 10, ALL).unwrap();
    assert_eq!(flat.entries.len(), 2);
    let cut = home.space.list("", 9, 3, ALL).unwrap();
    assert!(cut.cut && cut.entries.len() == 3 && !flat.cut);
    let found = home.search("wei", "");
    assert!(!found.cut);
    assert_eq!(
        (found.hits[0].path.as_str(), found.hits[0].line),
        ("a/b/c.txt", 2)
    );
    assert_eq!(home.search("e", "a/b/c.txt").hits.len(), 3);
    assert!(matches!(home.read("a"), Err(FileError::IsDirectory)));
    assert!(matches!(home.read(""), Err(FileError::IsDirectory)));
    assert!(matches!(home.put("a", ""), Err(FileError::IsDirectory)));
    assert!(matches!(home.add("a", ""), Err(FileError::IsDirectory)));
    assert!(matches!(
        home.put("new/x", ""),
        Err(FileError::NotDirectory)
    ));
    assert!(matches!(home.read("none/x"), Err(FileError::NotFound)));
    assert!(matches!(
        home.space.list("new", 1, 9, ALL),
        Err(FileError::NotDirectory)
    ));
    assert!(matches!(home.space.remove("a"), Err(FileError::NotEmpty)));
    for path in ["a/b/c.txt", "a/b", "a"] {
        home.space.remove(path).unwrap();
    }
    assert!(matches!(home.space.remove("a"), Err(FileError::NotFound)));
    assert!(matches!(home.space.remove(""), Err(FileError::IsDirectory)));
    assert_eq!(home.paths(), ["new"]);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(
        (mode(home.path.join("new")), mode(home.path.clone())),
        (0o600, 0o700)
    );
}

#[tokio::test]
async fn no_link_is_followed_wherever_it_stands() {
    let home = home().await;
    let at = |name: &str| home.path.join(name);
    home.put("real/f", "inside").unwrap();
    symlink(&home.outside, at("dir")).unwrap();
    symlink("../../../../../outside", at("climbs")).unwrap();
    symlink(home.outside.join("f"), at("end")).unwrap();
    symlink(home.outside.join("fresh"), at("dangling")).unwrap();
    symlink("real", at("within")).unwrap();
    symlink("/proc/self/root", at("magic")).unwrap();
    symlink("/proc/self/cwd", at("cwd")).unwrap();
    symlink(".", at("round")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let climbs = fs::read_to_string(at("climbs/f")).unwrap();
    assert_eq!(climbs, CANARY, "the attack is one");
    for path in [
        "dir/f",
        "climbs/f",
        "within/f",
        "magic/etc/hostname",
        "cwd/f",
        "round/real/f",
        "loop/f",
    ] {
        let parent = path.split_once('/').unwrap().0;
        let refusals = [
            home.read(path).err(),
            home.put(path, "x").err(),
            home.add(path, "x").err(),
            home.space.remove(path).err(),
            home.space.list(parent, 9, 9, ALL).err(),
        ];
        for refusal in refusals {
            let link = [FileError::NotRegular, FileError::NotDirectory];
            assert!(refusal.is_some_and(|why| link.contains(&why)), "{path}");
        }
        let found = home.space.search("c", parent, &reach(), ALL);
        assert!(matches!(found, Err(FileError::NotRegular)), "{path}");
    }
    for path in ["end", "dangling", "dir"] {
        assert!(
            matches!(home.read(path), Err(FileError::NotRegular)),
            "{path}"
        );
        assert!(
            matches!(home.add(path, "x"), Err(FileError::NotRegular)),
            "{path}"
        );
    }
    assert!(home.search("canary", "").hits.is_empty());
    let listing = home.space.list("", 9, 99, ALL).unwrap();
    let links = listing
        .entries
        .iter()
        .filter(|entry| entry.kind == EntryKind::Link);
    assert_eq!(links.count(), 9);
    assert!(
        !listing
            .entries
            .iter()
            .any(|entry| entry.path.starts_with("dir/"))
    );
    // A replacement takes the place of the link; a removal removes the link.
    for path in ["end", "dangling", "dir"] {
        assert_eq!(home.put(path, "own").unwrap(), written(3, false));
        assert_eq!(home.read(path).unwrap(), b"own");
    }
    home.space.remove("climbs").unwrap();
    home.untouched();
}

#[tokio::test]
async fn a_file_with_two_names_is_neither_read_nor_added_to() {
    let home = home().await;
    fs::hard_link(home.outside.join("f"), home.path.join("name")).unwrap();
    assert!(matches!(home.read("name"), Err(FileError::NotRegular)));
    assert!(matches!(home.add("name", "x"), Err(FileError::NotRegular)));
    assert!(home.search("canary", "").hits.is_empty());
    let named = home.space.search("canary", "name", &reach(), ALL);
    assert!(matches!(named, Err(FileError::NotRegular)));
    let listing = home.space.list("", 1, 9, ALL).unwrap();
    assert_eq!(
        (listing.entries[0].kind, listing.entries[0].bytes),
        (EntryKind::Other, 0)
    );
    home.put("name", "own").unwrap();
    home.untouched();
    assert_eq!(home.read("name").unwrap(), b"own");
}

#[tokio::test]
async fn fifos_sockets_and_devices_make_nobody_wait() {
    let home = home().await;
    let at = |name: &str| home.path.join(name);
    mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let mut names = vec!["fifo", "socket"];
    // Only root makes one.
    let null = rustix::fs::makedev(1, 3);
    if mknodat(CWD, at("null"), FileType::CharacterDevice, Mode::RWXU, null).is_ok() {
        names.push("null");
    }
    let begun = Instant::now();
    for name in names {
        assert!(
            matches!(home.read(name), Err(FileError::NotRegular)),
            "{name}"
        );
        assert!(
            matches!(home.add(name, "x"), Err(FileError::NotRegular)),
            "{name}"
        );
        assert!(home.search("x", "").hits.is_empty());
        assert_eq!(home.put(name, "own").unwrap(), written(3, false));
        home.space.remove(name).unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Exchanges two names in one step for as long as `go` says, as a program in the sandbox can.
fn exchange(at: &Path, one: &str, other: &str, go: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while go.load(Ordering::Relaxed) {
        let (one, other) = (at.join(one), at.join(other));
        // A writing may have taken a name away for a moment.
        if renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).is_ok() {
            rounds += 1;
        }
    }
    rounds
}

#[tokio::test]
async fn what_is_swapped_for_a_link_during_access_leads_nowhere() {
    let home = home().await;
    let at = |name: &str| home.path.join(name);
    home.put("dir/sub/f", "inside").unwrap();
    home.put("file", "inside").unwrap();
    symlink(&home.outside, at("away")).unwrap();
    symlink(home.outside.join("f"), at("link")).unwrap();
    fs::hard_link(home.outside.join("theirs"), at("name")).unwrap();
    let go = AtomicBool::new(true);
    let mut outcomes = [0_u32; 2];
    let swapped = thread::scope(|scope| {
        let swaps = [("dir", "away"), ("file", "link"), ("file", "name")];
        let threads = swaps.map(|(one, other)| {
            let (go, path) = (&go, &home.path);
            scope.spawn(move || exchange(path, one, other, go))
        });
        let mut round = |number: u32| {
            for path in ["dir/sub/f", "file"] {
                let read = home.read(path);
                outcomes[usize::from(read.is_ok())] += 1;
                if let Ok(bytes) = read {
                    assert!(!String::from_utf8_lossy(&bytes).contains("canary"));
                }
                let _refused_at_times = home.add(path, "+");
            }
            let fresh = format!("dir/sub/new-{}", number % 8);
            let _refused_at_times = home.put(&fresh, "x");
            let _refused_at_times = home.put("dir/sub/deep/er", "x");
            let _refused_at_times = home.put("dir/sub/f", "inside");
            let _refused_at_times = home.space.remove("dir/sub/f");
            let _refused_at_times = home.put("dir/sub/f", "inside");
            for entry in home.space.list("", 9, 100, ALL).unwrap().entries {
                assert!(!entry.path.ends_with("theirs"), "{entry:?}");
            }
            if let Ok(found) = home.space.search("canary", "dir/sub", &reach(), ALL) {
                assert!(found.hits.is_empty());
            }
            assert!(home.search("canary", "").hits.is_empty());
        };
        // Bounded by time as well: a slow machine has fewer rounds.
        let until = Instant::now() + Duration::from_secs(5);
        let rounds = (0..3_000).take_while(|_| Instant::now() < until);
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rounds.for_each(&mut round)));
        go.store(false, Ordering::Relaxed);
        let swapped = threads.map(|thread| thread.join().unwrap());
        done.unwrap();
        swapped
    });
    home.untouched();
    assert!(swapped.iter().all(|rounds| *rounds > 0), "{swapped:?}");
    assert!(
        outcomes.iter().all(|seen| *seen > 0),
        "the race was none: {outcomes:?}"
    );
}

#[tokio::test]
async fn each_tenant_has_its_own_and_its_end_ends_it() {
    let home = home().await;
    let new = NewTenant {
        id: "globex".parse().unwrap(),
        tier: "basic".to_owned(),
        overrides: Limits::default(),
    };
    let (globex, _) = home
        .kernel
        .create_tenant(&home.operator, new)
        .await
        .unwrap();
    let other = globex.workspace().unwrap();
    home.put("f", "acme's").unwrap();
    assert_eq!(other.read("f", 0, 9), Err(FileError::NotFound));
    other.write("f", b"globex's", false, &ROOM).unwrap();
    assert_eq!(home.read("f").unwrap(), b"acme's");
    for path in ["../../../globex/sandbox/work/f", "/box/../work/f"] {
        assert_eq!(home.read(path), Err(FileError::Path(PathFault::Dots)));
    }
    let handed = fs::File::from(home.space.descriptor().unwrap());
    assert_eq!(
        handed.metadata().unwrap().ino(),
        fs::metadata(&home.path).unwrap().ino()
    );

    let token = home
        .kernel
        .add_token(home.tenant.resident(), app_token("ci"))
        .await
        .unwrap();
    let caller = || Caller::from_token(token.text.expose_str().unwrap());
    let reads = home
        .kernel
        .admit_for(caller(), Purpose::Read)
        .await
        .unwrap();
    assert!(matches!(
        reads.tenant().workspace(),
        Err(KernelError::Refused(_))
    ));
    let acts = home.kernel.admit(caller()).await.unwrap();
    let space = acts.tenant().workspace().unwrap();
    home.kernel
        .suspend_tenant(&home.operator, &home.tenant)
        .await
        .unwrap();
    for tenant in [acts.tenant(), &home.tenant] {
        assert!(matches!(tenant.workspace(), Err(KernelError::Revoked)));
    }
    assert_eq!(space.read("f", 0, 9), Err(FileError::Ended));
    assert_eq!(space.write("f", b"x", false, &ROOM), Err(FileError::Ended));
    assert_eq!(space.list("", 1, 9, ALL), Err(FileError::Ended));
    assert_eq!(space.search("x", "", &reach(), ALL), Err(FileError::Ended));
    assert_eq!(space.remove("f"), Err(FileError::Ended));
    assert!(matches!(space.descriptor(), Err(FileError::Ended)));
    assert!(other.read("f", 0, 9).is_ok(), "neighbours are served");
    drop(home.temp);
}

#[tokio::test]
async fn a_link_in_place_of_the_workspace_is_no_workspace() {
    let home = home().await;
    for place in ["work", "."] {
        let path = home
            .path
            .parent()
            .unwrap()
            .join(place)
            .canonicalize()
            .unwrap();
        fs::rename(&path, path.with_extension("was")).unwrap();
        symlink(&home.outside, &path).unwrap();
        let refused = home.tenant.workspace();
        assert!(matches!(refused, Err(KernelError::Root(_))));
    }
    home.untouched();
}

#[tokio::test]
async fn what_is_said_to_outsiders_names_nothing_of_the_machine() {
    let home = home().await;
    let faults = [
        home.read("/etc/passwd"),
        home.read("none"),
        home.read("a\0"),
        Err(FileError::Io(ErrorKind::Other)),
        Err(FileError::Io(ErrorKind::StorageFull)),
        Err(FileError::Full {
            bound: Bound::Depth,
            limit: 64,
        }),
    ];
    for fault in faults {
        let text = fault.unwrap_err().to_string();
        for secret in [
            "tenants",
            "sandbox",
            "acme",
            "etc",
            "os error",
            home.temp.path().to_str().unwrap(),
        ] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
