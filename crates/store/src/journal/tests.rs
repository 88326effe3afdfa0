//! The journal on real files, with a disk that fails when told to.

mod damage;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::TenantUid;
use rustix::fs::{Mode, OFlags};
use vault::SigningKey;

use super::disk::{Disk, RealDisk};
use super::*;

const A: TenantUid = TenantUid::from_bytes([0xa; 16]);
const B: TenantUid = TenantUid::from_bytes([0xb; 16]);
const SMALL: JournalOptions = JournalOptions {
    segment_bytes: 16 * 1024,
};

fn signer() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

/// A handle that only names the directory, as those of capability libraries are.
fn dir(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn open(path: &Path) -> (Journal, Recovered) {
    Journal::open(dir(path), signer(), SMALL).unwrap()
}

fn open_on(path: &Path, disk: &Arc<Faulty>) -> Journal {
    Journal::open_on(dir(path), signer(), SMALL, Box::new(Arc::clone(disk)))
        .unwrap()
        .0
}

fn put(journal: &Journal, uid: TenantUid, payload: &[u8]) -> Result<Seq, JournalError> {
    let head = RecordHead {
        kind: RecordKind::Sent,
        uid,
        reference: None,
    };
    journal.append(head, |_, out| out.extend_from_slice(payload))
}

fn names(path: &Path) -> BTreeSet<String> {
    #[expect(clippy::disallowed_methods, reason = "the directory of a test")]
    let entries = std::fs::read_dir(path).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A disk that can be stopped and broken.
#[derive(Default)]
struct Faulty {
    fail_writes: AtomicBool,
    fail_syncs: AtomicBool,
    hold_syncs: AtomicBool,
    syncs: AtomicU64,
    /// The segments that had a name at each sync of names.
    named: Mutex<Vec<Vec<u64>>>,
}

impl Disk for Arc<Faulty> {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.fail_writes.load(Ordering::SeqCst) {
            return Err(io::Error::other("write"));
        }
        RealDisk.write_at(file, bytes, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        while self.hold_syncs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fail_syncs.load(Ordering::SeqCst) {
            return Err(io::Error::other("sync"));
        }
        RealDisk.sync(file)
    }

    fn sync_names(&self, dir: &OwnedFd) -> io::Result<()> {
        let named = segment::list(dir).map_err(|_| io::Error::other("list"))?;
        lock(&self.named).push(named);
        RealDisk.sync_names(dir)
    }
}

#[test]
fn records_read_back_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (journal, left) = open(home.path());
    assert!(left.records.is_empty() && left.damaged.is_empty());
    let sent = put(&journal, A, b"sent").unwrap();
    let head = RecordHead {
        kind: RecordKind::Settled,
        uid: A,
        reference: Some(sent),
    };
    let settled = journal
        .append(head, |seq, out| {
            out.extend_from_slice(&seq.number().to_le_bytes())
        })
        .unwrap();
    let event = journal
        .append(
            RecordHead {
                kind: RecordKind::Event,
                uid: B,
                reference: None,
            },
            |_, _| {},
        )
        .unwrap();
    block_on(journal.synced(settled)).unwrap();
    journal.synced_blocking(event).unwrap();
    drop(journal);
    let (journal, left) = open(home.path());
    assert_eq!(left.damaged, []);
    let seen: Vec<_> = left
        .records
        .iter()
        .map(|r| (r.seq, r.kind, r.uid, r.reference))
        .collect();
    assert_eq!(
        seen,
        [
            (sent, RecordKind::Sent, A, None),
            (settled, RecordKind::Settled, A, Some(sent)),
            (event, RecordKind::Event, B, None),
        ]
    );
    let payloads: Vec<_> = left
        .records
        .iter()
        .map(|r| journal.read(r).unwrap())
        .collect();
    assert_eq!(
        payloads,
        [
            b"sent".to_vec(),
            settled.number().to_le_bytes().to_vec(),
            Vec::new()
        ]
    );
}

#[test]
fn numbers_only_grow_over_restarts() {
    let home = tempfile::tempdir().unwrap();
    let mut last = Seq::from_number(0);
    for round in 0..6 {
        let (journal, left) = open(home.path());
        for _ in 0..3 {
            let seq = put(&journal, A, b"x").unwrap();
            assert!(seq > last, "{round}");
            last = seq;
        }
        // Even when every record was folded and its file is gone.
        if round % 2 == 1 {
            journal.folded(
                &left
                    .records
                    .iter()
                    .map(|record| record.seq)
                    .collect::<Vec<_>>(),
            );
        }
    }
    assert!(i64::try_from(last.number()).is_ok());
}

#[test]
fn many_appenders_share_groups_and_the_chain_holds() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(
        dir(home.path()),
        signer(),
        JournalOptions {
            segment_bytes: 64 * 1024,
        },
    )
    .unwrap();
    let seqs: Vec<Seq> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    let append = |n: usize| {
                        let seq = put(&journal, A, &vec![1; n * 37]).unwrap();
                        journal.synced_blocking(seq).unwrap();
                        seq
                    };
                    (0..20).map(append).collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let stats = journal.stats();
    assert_eq!((stats.appended_records, stats.synced_records), (1280, 1280));
    assert!(stats.groups < 1280, "{stats:?}");
    assert!(stats.segments > 5, "{stats:?}");
    drop(journal);
    let (_, left) = open(home.path());
    assert_eq!(left.damaged, []);
    let expected: BTreeSet<Seq> = seqs.into_iter().collect();
    assert_eq!(expected.len(), 1280);
    assert_eq!(
        left.records.iter().map(|r| r.seq).collect::<BTreeSet<_>>(),
        expected
    );
    assert!(left.records.is_sorted_by_key(|record| record.seq));
}

#[test]
fn appending_goes_on_while_a_sync_is_under_way_and_waiters_wait_for_it() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    disk.hold_syncs.store(true, Ordering::SeqCst);
    let before = disk.syncs.load(Ordering::SeqCst);
    let first = put(&journal, A, b"first").unwrap();
    let mut waiting = Box::pin(journal.synced(first));
    wait_until("the sync begins", || {
        disk.syncs.load(Ordering::SeqCst) > before
    });
    let second = put(&journal, A, b"second").unwrap();
    let after = journal.synced(second);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    disk.hold_syncs.store(false, Ordering::SeqCst);
    assert_eq!(block_on(waiting), Ok(()));
    assert_eq!(block_on(after), Ok(()));
    assert_eq!(journal.stats().groups, 2);
}

#[test]
fn a_waiter_that_is_never_polled_holds_up_nobody() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let run = |spreading: bool| {
        block_on(async {
            let spread = async {
                if spreading {
                    journal.spread().await
                }
                std::future::pending::<()>().await
            };
            let stuck: Vec<_> = (0..3)
                .map(|_| journal.synced(put(&journal, A, b"x").unwrap()))
                .collect();
            let waiting = journal.synced(put(&journal, B, b"x").unwrap());
            tokio::select! {
                done = waiting => assert_eq!(done, Ok(())),
                () = spread => {}
            }
            drop(stuck);
        });
    };
    run(false);
    run(true);
    // The task is gone: the sync thread tells by itself again.
    run(false);
}

#[test]
fn a_record_is_with_the_file_once_it_is_written_out() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    disk.hold_syncs.store(true, Ordering::SeqCst);
    let seq = put(&journal, A, b"a record in the file").unwrap();
    journal.write_out(seq).unwrap();
    let segment = names(home.path())
        .into_iter()
        .find(|name| name != "spare")
        .unwrap();
    #[expect(clippy::disallowed_methods, reason = "the directory of a test")]
    let bytes = std::fs::read(home.path().join(segment)).unwrap();
    assert!(
        bytes
            .windows(20)
            .any(|window| window == b"a record in the file")
    );
    disk.hold_syncs.store(false, Ordering::SeqCst);
}

#[test]
fn a_record_nobody_waits_for_is_synced_soon() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    put(&journal, A, b"x").unwrap();
    wait_until("the record is synced", || {
        journal.stats().synced_records == 1
    });
}

#[test]
fn a_failed_sync_poisons_and_is_not_retried() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    let kept = put(&journal, A, b"kept").unwrap();
    assert_eq!(journal.synced_blocking(kept), Ok(()));
    disk.fail_syncs.store(true, Ordering::SeqCst);
    let lost = put(&journal, A, b"lost").unwrap();
    let (one, two) = (journal.synced(lost), journal.synced(lost));
    assert_eq!(block_on(one), Err(JournalError::Poisoned));
    assert_eq!(block_on(two), Err(JournalError::Poisoned));
    let syncs = disk.syncs.load(Ordering::SeqCst);
    disk.fail_syncs.store(false, Ordering::SeqCst);
    assert!(journal.poisoned());
    assert_eq!(put(&journal, A, b"more"), Err(JournalError::Poisoned));
    assert_eq!(journal.synced_blocking(lost), Err(JournalError::Poisoned));
    assert_eq!(journal.synced_blocking(kept), Ok(()));
    drop(journal);
    assert_eq!(disk.syncs.load(Ordering::SeqCst), syncs);
}

#[test]
fn a_failed_write_poisons() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    disk.hold_syncs.store(true, Ordering::SeqCst);
    let before = put(&journal, A, b"before").unwrap();
    let waiting = journal.synced(before);
    wait_until("the sync begins", || disk.syncs.load(Ordering::SeqCst) > 1);
    let unsynced = put(&journal, A, b"unsynced").unwrap();
    let never = journal.synced(unsynced);
    disk.fail_writes.store(true, Ordering::SeqCst);
    let unwritten = put(&journal, A, b"x").unwrap();
    assert_eq!(journal.write_out(unwritten), Err(JournalError::Poisoned));
    assert_eq!(put(&journal, A, b"x"), Err(JournalError::Poisoned));
    disk.fail_writes.store(false, Ordering::SeqCst);
    disk.hold_syncs.store(false, Ordering::SeqCst);
    // The sync under way ends well; what came after it is lost.
    assert_eq!(block_on(waiting), Ok(()));
    assert_eq!(block_on(never), Err(JournalError::Poisoned));
    assert_eq!(put(&journal, A, b"x"), Err(JournalError::Poisoned));
}

#[test]
fn a_number_that_was_not_given_is_not_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let seq = put(&journal, A, b"x").unwrap();
    let next = Seq::from_number(seq.number() + 1);
    assert_eq!(journal.synced_blocking(next), Err(JournalError::Closed));
}

#[test]
fn a_payload_beyond_the_bound_is_refused_and_the_next_is_taken() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    assert_eq!(put(&journal, A, &[0; 4097]), Err(JournalError::TooLarge));
    let seq = put(&journal, A, &[0; 4096]).unwrap();
    assert_eq!(journal.synced_blocking(seq), Ok(()));
}

#[test]
fn a_panic_in_a_seal_stops_nobody_else() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let head = RecordHead {
        kind: RecordKind::Sent,
        uid: A,
        reference: None,
    };
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        journal.append(head, |_, _| panic!("a tenant's seal"))
    }));
    assert!(caught.is_err());
    let seq = put(&journal, B, b"x").unwrap();
    assert_eq!(journal.synced_blocking(seq), Ok(()));
}

#[test]
fn folded_segments_are_deleted_and_the_open_one_is_not() {
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    let seqs: Vec<Seq> = (0..40)
        .map(|_| put(&journal, A, &[1; 2000]).unwrap())
        .collect();
    assert!(journal.stats().segments >= 5);
    // Twice and with numbers that do not exist: counted once, or not at all.
    let (last, rest) = seqs.split_last().unwrap();
    let far = [
        Seq::from_number(0),
        Seq::from_number(u64::MAX),
        Seq::from_number(last.number() + 1),
    ];
    journal.folded(&far);
    journal.folded(&rest[1..]);
    journal.folded(&rest[1..]);
    assert_eq!(journal.stats().segments, 2);
    journal.folded(&rest[..1]);
    assert_eq!(journal.stats().segments, 1);
    wait_until("the files are gone", || {
        names(home.path())
            .iter()
            .filter(|name| name.parse::<u64>().is_ok())
            .count()
            == 1
    });
    drop(journal);
    let (journal, left) = open(home.path());
    assert!(left.records.iter().any(|record| record.seq == *last));
    assert_eq!(left.damaged, []);
    let all: Vec<Seq> = left.records.iter().map(|record| record.seq).collect();
    journal.folded(&all);
    assert_eq!(journal.read(&left.records[0]), Err(JournalError::Folded));
    assert_eq!(journal.stats().segments, 1);
}

#[test]
fn a_segment_goes_after_the_name_of_the_next_is_on_disk() {
    let home = tempfile::tempdir().unwrap();
    let disk = Arc::new(Faulty::default());
    let journal = open_on(home.path(), &disk);
    let mut seqs = vec![put(&journal, A, &[1; 2000]).unwrap()];
    // The sync of a group would sync the names as well.
    disk.hold_syncs.store(true, Ordering::SeqCst);
    while !names(home.path()).contains("0002") {
        journal.folded(&seqs);
        seqs.push(put(&journal, A, &[1; 2000]).unwrap());
    }
    wait_until("the first segment is gone", || {
        !names(home.path()).contains("0001")
    });
    let named = lock(&disk.named).clone();
    disk.hold_syncs.store(false, Ordering::SeqCst);
    assert!(named.contains(&vec![1, 2]), "{named:?}");
}

#[test]
fn a_prepared_segment_serves_the_next_start() {
    let home = tempfile::tempdir().unwrap();
    let options = JournalOptions {
        segment_bytes: 4 * 1024 * 1024,
    };
    let (journal, _) = Journal::open(dir(home.path()), signer(), options).unwrap();
    wait_until("the spare is there", || {
        names(home.path()).contains("spare")
    });
    drop(journal);
    let (journal, _) = Journal::open(dir(home.path()), signer(), options).unwrap();
    let (_, bytes) = segment::load(&dir(home.path()), 2).unwrap();
    assert_eq!(bytes.len() as u64, options.segment_bytes);
    put(&journal, A, b"x").unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "plants files")]
fn planted_files_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let outside = tempfile::NamedTempFile::new().unwrap();
    for name in ["0001", "spare"] {
        std::os::unix::fs::symlink(outside.path(), home.path().join(name)).unwrap();
        let opened = Journal::open(dir(home.path()), signer(), SMALL);
        assert!(matches!(opened, Err(JournalError::Foreign)), "{name}");
        std::fs::remove_file(home.path().join(name)).unwrap();
    }
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let (journal, _) = open(home.path());
    for _ in 0..20 {
        put(&journal, A, &[1; 2000]).unwrap();
    }
    for name in names(home.path())
        .iter()
        .filter(|name| name.parse::<u64>().is_ok())
    {
        #[expect(clippy::disallowed_methods, reason = "looks at a file")]
        let mode = std::fs::metadata(home.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}
