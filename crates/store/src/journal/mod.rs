//! The journal: the only files synced on the hot path, shared by all tenants.
//!
//! A record is sealed by its caller with its tenant's key and gathered in memory; those gathered go into a preallocated segment
//! with one write, at the latest after a quarter of a second. [`Journal::synced`] confirms a record once the group that holds it
//! is signed and on disk. Appending never waits for a sync: a thread of its own takes what was appended since its last round,
//! hashes it onto the chain, signs once, syncs once and answers everybody who waits.
//!
//! What survives: a killed process loses nothing that [`Journal::write_out`] or [`Journal::synced`] had confirmed, a power cut
//! nothing that [`Journal::synced`] had; what is lost beyond that is at most the last quarter of a second. A failed write or sync
//! is never retried: the journal is poisoned, and every later append and wait fails until the process is started anew on a disk
//! that works.
//!
//! Measured on two cores and ext4, release build, records of 500 bytes: an append takes 2.4 µs in
//! one thread, 0.7 µs of it the caller's sealing; append and sync one after another 0.13 ms, in
//! batches of 64 together 8 µs a record.

mod append;
mod crc;
mod disk;
mod error;
mod frame;
mod keeper;
mod live;
mod recover;
mod scan;
mod segment;
mod staged;
mod sync;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use base::TenantUid;
use vault::{SigningKey, random};

use crate::files::{readable_dir, sync_dir};
use crate::ground::{Ground, Stage};
use crate::journal::append::Tail;
use crate::journal::disk::{Disk, RealDisk};
use crate::journal::frame::SegmentHeader;
use crate::journal::keeper::{Spare, Task};
use crate::journal::live::Live;
use crate::journal::recover::recover;
use crate::journal::segment::Segment;
use crate::journal::staged::Staged;
use crate::journal::sync::{Enlisted, Nudge, Spread, Waiter};

pub use error::JournalError;

/// The process-wide log. Share it by `Arc`; dropping it syncs what is open and joins its threads.
pub struct Journal {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What a record says about its attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// An attempt is about to leave for the upstream, with its hold.
    Sent,
    /// An attempt has ended, with usage, cost and audit entry. Refers to its `Sent`.
    Settled,
    /// A state change or refusal: an audit entry alone.
    Event,
}

/// The part of a record that is not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// What it says.
    pub kind: RecordKind,
    /// Whose it is.
    pub uid: TenantUid,
    /// The `Sent` record that a `Settled` one ends.
    pub reference: Option<Seq>,
}

/// A record's number: greater than every number before it, also over restarts and power cuts, and
/// never given twice; a restart leaves a gap. Fits a signed 64-bit column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Seq(u64);

/// How large segments are.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Bytes of one segment, 16 KiB to 64 MiB. A record may have a quarter of it, 256 KiB at most.
    pub segment_bytes: u64,
}

/// What an earlier process left: every whole record that is still in a segment, folded or not, in
/// order of sequence, and what was lost.
#[derive(Debug)]
pub struct Recovered {
    /// Whole records. Of those that were perhaps not synced only those before the first that is missing: what a power cut left
    /// behind it had been confirmed to nobody. Fold them, idempotently, and hand their numbers to [`Journal::folded`].
    pub records: Vec<RecordRef>,
    /// Damage. A segment with damage is kept until somebody removes the file, and reports again
    /// at every start.
    pub damaged: Vec<Damage>,
}

/// Where a recovered record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef {
    /// Its number.
    pub seq: Seq,
    /// What it says.
    pub kind: RecordKind,
    /// Whose it is.
    pub uid: TenantUid,
    /// The record that it refers to.
    pub reference: Option<Seq>,
    offset: u64,
    /// The bit of its frame that is put right when it is read.
    mended: Option<usize>,
}

/// A record that is lost or cannot be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose it was, where that can still be read.
    pub uid: Option<TenantUid>,
    /// Its number; for a damaged group or segment the last number it is about.
    pub seq: Seq,
    /// What is wrong.
    pub cause: DamageCause,
}

/// What is wrong with a damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageCause {
    /// A frame or a segment header is unreadable.
    Header,
    /// A record's header is whole, its content is not.
    Content,
    /// A record is missing, or in the wrong place.
    Order,
    /// Records are whole but not those that were hashed.
    Chain,
    /// The signature over a group is missing or not this node's.
    Signature,
    /// One flipped bit: what was written is known, and is among the records.
    Bit,
    /// Any of the first five in what was perhaps not synced when the process ended: the last group, and
    /// others where it went on into another segment. A power cut during a sync leaves such a
    /// state, and then nothing of it had been confirmed; it cannot be told from later damage.
    Tail,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Groups signed and synced.
    pub groups: u64,
    /// Records in them.
    pub synced_records: u64,
    /// Records appended.
    pub appended_records: u64,
    /// Segments on disk, the open one included.
    pub segments: usize,
}

/// Longest payload of a record.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 16 * 1024..=64 * 1024 * 1024;

// The first segment of a process is small when no prepared one is left over: it has to be written
// and synced before the first request.
const FIRST_SEGMENT_BYTES: u64 = 1024 * 1024;

/// State of all threads. Locks are taken in the order of the fields, `tail` first.
struct Shared {
    tail: Mutex<Tail>,
    /// Wakes the sync thread, which waits on `tail`.
    wake: Condvar,
    spread: Spread,
    live: Mutex<Live>,
    spare: Mutex<Option<Spare>>,
    dir: OwnedFd,
    disk: Box<dyn Disk>,
    signer: SigningKey,
    segment_bytes: u64,
    keeper: SyncSender<Task>,
    poisoned: AtomicBool,
    stopping: AtomicBool,
    groups: AtomicU64,
    synced_records: AtomicU64,
    /// In a simulation, who works in the threads' place.
    staged: Option<Staged>,
}

impl Journal {
    /// Reads what is left in the directory, checks it, and starts a new segment. The directory is
    /// the journal's alone, and one process has it open.
    ///
    /// # Errors
    /// [`JournalError::Foreign`] for a planted file, [`JournalError::Io`] and
    /// [`JournalError::Full`] from the disk. Damage is no error: it is in [`Recovered`].
    pub fn open(
        dir: OwnedFd,
        signer: SigningKey,
        options: JournalOptions,
    ) -> Result<(Self, Recovered), JournalError> {
        Self::open_on(dir, signer, options, Box::new(RealDisk))
    }

    /// The same on other ground than the system's.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn on(
        ground: &Ground,
        dir: OwnedFd,
        signer: SigningKey,
        options: JournalOptions,
    ) -> Result<(Self, Recovered), JournalError> {
        let Some(stage) = ground.stage() else {
            return Self::open(dir, signer, options);
        };
        let options = JournalOptions {
            segment_bytes: stage.segment_bytes(),
        };
        let disk = Box::new(Arc::clone(stage));
        let (journal, found, _tasks) = Self::prepare(dir, signer, options, disk, Some(stage))?;
        journal.shared.stage_begin();
        Ok((journal, found))
    }

    fn open_on(
        dir: OwnedFd,
        signer: SigningKey,
        options: JournalOptions,
        disk: Box<dyn Disk>,
    ) -> Result<(Self, Recovered), JournalError> {
        let (mut journal, found, tasks) = Self::prepare(dir, signer, options, disk, None)?;
        let (syncing, keeping) = (Arc::clone(&journal.shared), Arc::clone(&journal.shared));
        journal.start("journal-sync", move || syncing.run_sync())?;
        journal.start("journal-keeper", move || keeping.run_keeper(&tasks))?;
        Ok((journal, found))
    }

    fn prepare(
        dir: OwnedFd,
        signer: SigningKey,
        options: JournalOptions,
        disk: Box<dyn Disk>,
        stage: Option<&Arc<dyn Stage>>,
    ) -> Result<(Self, Recovered, Receiver<Task>), JournalError> {
        let segment_bytes = options
            .segment_bytes
            .clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let dir = readable_dir(dir)?;
        let left = recover(&dir, &signer.verifying_key())?;
        let number = left.next_number;
        let (file, capacity) = keeper::first_file(&dir, number, segment_bytes)?;
        // A process's numbers start at its first segment's number times 2^32: whatever earlier
        // processes handed out and a power cut took back is below.
        let header = SegmentHeader {
            boot: random(),
            number,
            first_seq: number << 32,
            chain: left.chain,
        };
        disk.write_at(&file, &header.encode(), 0)?;
        disk.sync(&file)?;
        sync_dir(&dir)?;
        for number in left.useless {
            segment::delete(&dir, number)?;
        }
        let first = Arc::new(Segment::new(file, header, capacity));
        first.set_named();
        let (keeper, tasks) = sync_channel(keeper::TASKS_MAX);
        let mut live = left.live;
        live.add(&first);
        let shared = Arc::new_cyclic(|own| Shared {
            staged: stage.map(|stage| Staged {
                stage: Arc::clone(stage),
                own: Weak::clone(own),
            }),
            tail: Mutex::new(Tail::new(first)),
            wake: Condvar::new(),
            spread: Spread::default(),
            live: Mutex::new(live),
            spare: Mutex::new(None),
            dir,
            disk,
            signer,
            segment_bytes,
            keeper,
            poisoned: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            synced_records: AtomicU64::new(0),
        });
        let found = Recovered {
            records: left.records,
            damaged: left.damaged,
        };
        let threads = Vec::new();
        Ok((Self { shared, threads }, found, tasks))
    }

    /// Appends a record. `seal` writes the sealed payload into the empty buffer it is given, bound
    /// to the tenant and the number; it runs under the journal's lock, in the order of numbers,
    /// and must neither block nor call the journal. When this returns the record is in memory, and
    /// with the file within a quarter of a second; [`Journal::write_out`] and [`Journal::synced`] do not wait for that.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]; [`JournalError::Full`] or [`JournalError::Io`] when no new
    /// segment could be made (the next append tries again, `seal` has not run);
    /// [`JournalError::TooLarge`] for a payload beyond the bound (`seal` has run in vain).
    pub fn append(
        &self,
        head: RecordHead,
        seal: impl FnOnce(Seq, &mut Vec<u8>),
    ) -> Result<Seq, JournalError> {
        self.shared.append(&head, seal)
    }

    /// Gives the record, and all before it, to the operating system: when this returns they survive the death of the process,
    /// not yet a power cut.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: nothing may happen that rests on the record.
    pub fn write_out(&self, seq: Seq) -> Result<(), JournalError> {
        self.shared.write_out(seq)
    }

    /// Resolves once the record is signed and on disk. Poll it: the wait for the next group
    /// begins at the first poll, or a quarter of a second after the call.
    ///
    /// # Errors
    /// [`JournalError::Poisoned`]: the record must be taken for lost, and nothing released that
    /// rests on it.
    pub fn synced(
        &self,
        seq: Seq,
    ) -> impl Future<Output = Result<(), JournalError>> + Send + 'static + use<> {
        let (sender, answer) = tokio::sync::oneshot::channel();
        let enlisted = self.shared.enlist(seq, Waiter::Task(sender));
        let nudge =
            matches!(enlisted, Ok(Enlisted::First)).then(|| Nudge(Arc::clone(&self.shared)));
        async move {
            if matches!(enlisted?, Enlisted::Already) {
                return Ok(());
            }
            if let Some(nudge) = nudge {
                // Whatever else is ready to run may want to wait for the same group.
                tokio::task::yield_now().await;
                drop(nudge);
            }
            answer.await.unwrap_or(Err(JournalError::Closed))
        }
    }

    /// Tells those who wait in tasks, from a task: run it in their runtime until the process ends. Without it, as before its start
    /// and after its end, each is woken by the sync thread, which costs more and is as right.
    pub fn spread(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.spread.run().await }
    }

    /// [`Journal::synced`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Journal::synced`].
    pub fn synced_blocking(&self, seq: Seq) -> Result<(), JournalError> {
        let (sender, answer) = sync_channel(1);
        match self.shared.enlist(seq, Waiter::Thread(sender))? {
            Enlisted::Already => return Ok(()),
            Enlisted::First => drop(Nudge(Arc::clone(&self.shared))),
            Enlisted::Waiting => {}
        }
        answer.recv().unwrap_or(Err(JournalError::Closed))
    }

    /// These records are durable elsewhere. A segment all of whose records are is deleted, soon
    /// after and in the background. Numbers may come in any order, twice, or be unknown.
    pub fn folded(&self, seqs: &[Seq]) {
        let last = lock(&self.shared.tail).last_seq();
        let deletable = lock(&self.shared.live).fold(seqs, last);
        for number in deletable {
            self.shared.ask_keeper(Task::Delete(number));
        }
    }

    /// The sealed payload of a recovered record.
    ///
    /// # Errors
    /// [`JournalError::Folded`] when its segment is gone, [`JournalError::Damaged`] when it no
    /// longer reads as it did, [`JournalError::Io`].
    pub fn read(&self, record: &RecordRef) -> Result<Vec<u8>, JournalError> {
        let segment = lock(&self.shared.live)
            .segment(record.seq)
            .ok_or(JournalError::Folded)?;
        segment.read_record(record)
    }

    /// Whether a write or a sync failed: then nothing more is accepted.
    #[must_use]
    pub fn poisoned(&self) -> bool {
        self.shared.poisoned.load(Ordering::Acquire)
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> JournalStats {
        let appended_records = lock(&self.shared.tail).appended_records();
        JournalStats {
            groups: self.shared.groups.load(Ordering::Relaxed),
            synced_records: self.shared.synced_records.load(Ordering::Relaxed),
            appended_records,
            segments: lock(&self.shared.live).len(),
        }
    }

    fn start(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), JournalError> {
        let thread = Builder::new().name(name.to_owned()).spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        {
            // Under the lock, so that the sync thread is either before its look at the flag or
            // already waiting to be woken.
            let _tail = lock(&self.shared.tail);
            self.shared.stopping.store(true, Ordering::Release);
        }
        self.shared.wake.notify_all();
        // A keeper that is gone already needs no message.
        drop(self.shared.keeper.send(Task::Stop));
        self.shared.stage_end();
        for thread in self.threads.drain(..) {
            // A thread that panicked has answered nobody; its waiters see a closed channel.
            drop(thread.join());
        }
    }
}

impl Seq {
    /// The number, for associated data and storage.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// A number read back from storage.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

impl Default for JournalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
        }
    }
}

// A panic under a lock can only come from a caller's `seal`, which runs before anything changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
