//! The sync thread: signs and syncs groups, and answers those who wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::journal::append::{Cut, Tail};
use crate::journal::frame::GroupSeal;
use crate::journal::{JournalError, Seq, Shared, lock};

/// Somebody who waits for a record to be durable.
pub(super) enum Waiter {
    Task(oneshot::Sender<Outcome>),
    Thread(SyncSender<Outcome>),
}

type Outcome = Result<(), JournalError>;

/// Whether there is anything to wait for.
pub(super) enum Enlisted {
    Already,
    /// The first one of its group, who wakes the sync thread.
    First,
    Waiting,
}

/// Tasks that are to hear how their group ended, and the task that tells them: waking a task from another thread is a system call,
/// waking it from the runtime that it runs in is none.
#[derive(Default)]
pub(super) struct Spread {
    untold: Mutex<Vec<(oneshot::Sender<Outcome>, Outcome)>>,
    wake: Notify,
    running: AtomicBool,
}

impl Spread {
    pub(super) async fn run(&self) {
        let running = Running(self);
        self.running.store(true, Ordering::Release);
        loop {
            self.wake.notified().await;
            running.0.tell();
        }
    }

    // From the sync thread: without the task it tells by itself.
    fn hand_over(&self, told: impl Iterator<Item = (oneshot::Sender<Outcome>, Outcome)>) {
        lock(&self.untold).extend(told);
        if self.running.load(Ordering::Acquire) {
            self.wake.notify_one();
        } else {
            self.tell();
        }
    }

    fn tell(&self) {
        for (sender, outcome) in std::mem::take(&mut *lock(&self.untold)) {
            let _who_no_longer_waits = sender.send(outcome);
        }
    }
}

/// Ends with the task, wherever it is dropped.
struct Running<'a>(&'a Spread);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
        self.0.tell();
    }
}

/// Wakes the sync thread when it is dropped, wherever its owner got to.
pub(super) struct Nudge(pub(super) Arc<Shared>);

impl Drop for Nudge {
    fn drop(&mut self) {
        let was_sleeping = std::mem::take(&mut lock(&self.0.tail).sleeping);
        if was_sleeping {
            self.0.rouse();
        }
    }
}

/// A group that is written and will be durable when it is signed and synced.
pub(super) struct Round {
    cuts: Vec<Cut>,
    to: u64,
}

// Records for which nobody waits are synced after this, which bounds what a power cut can take.
pub(super) const UNSYNCED_MAX: Duration = Duration::from_millis(250);

// Under load a group takes in what comes within this time of the beginning of the one before: a signature, a sync and the changes of
// thread cost as much as some dozens of records.
const GROUP_EVERY: Duration = Duration::from_micros(500);
// Records of a group from which on that is load; one caller after another stays below.
const BUSY_RECORDS: u64 = 12;

impl Shared {
    pub(super) fn enlist(&self, seq: Seq, waiter: Waiter) -> Result<Enlisted, JournalError> {
        let mut tail = lock(&self.tail);
        if seq.number() <= tail.synced_to {
            return Ok(Enlisted::Already);
        }
        if self.poisoned.load(Ordering::Acquire) {
            return Err(JournalError::Poisoned);
        }
        if seq.number() > tail.last_seq() {
            return Err(JournalError::Closed);
        }
        let first = tail.waiters.is_empty();
        tail.waiters.push((seq.number(), waiter));
        // A thread that works looks for waiters before it sleeps again.
        Ok(if first && tail.sleeping {
            Enlisted::First
        } else {
            Enlisted::Waiting
        })
    }

    pub(super) fn run_sync(&self) {
        let mut tail = lock(&self.tail);
        let mut pace = None;
        loop {
            let stopping = self.stopping.load(Ordering::Acquire);
            if self.poisoned.load(Ordering::Acquire) {
                let waiters = std::mem::take(&mut tail.waiters);
                self.answer(waiters, Err(JournalError::Poisoned));
                if stopping {
                    return;
                }
                tail = self.sleep(tail);
            } else if tail.is_due(stopping) {
                tail = self.gather(tail, pace, stopping);
                pace = tail.pace();
                tail = self.sync_round(tail);
            } else if stopping {
                return;
            } else {
                tail = self.sleep(tail);
            }
        }
    }

    // Lets more records come where the last group was large.
    fn gather<'a>(
        &'a self,
        tail: MutexGuard<'a, Tail>,
        pace: Option<Instant>,
        stopping: bool,
    ) -> MutexGuard<'a, Tail> {
        let wait = pace.map(|from| GROUP_EVERY.saturating_sub(from.elapsed()));
        match wait {
            Some(wait) if !stopping && !wait.is_zero() => {
                drop(tail);
                std::thread::sleep(wait);
                lock(&self.tail)
            }
            _ => tail,
        }
    }

    fn sleep<'a>(&self, mut tail: MutexGuard<'a, Tail>) -> MutexGuard<'a, Tail> {
        tail.sleeping = true;
        let woken = self.wake.wait_timeout(tail, UNSYNCED_MAX);
        let mut tail = woken.unwrap_or_else(PoisonError::into_inner).0;
        tail.sleeping = false;
        tail
    }

    fn sync_round<'a>(&'a self, mut tail: MutexGuard<'a, Tail>) -> MutexGuard<'a, Tail> {
        let Ok(round) = tail.begin_round(self) else {
            // Poisoned; the loop answers.
            return tail;
        };
        drop(tail);
        self.end_round(&round);
        lock(&self.tail)
    }

    pub(super) fn end_round(&self, round: &Round) {
        let done = self.make_durable(&round.cuts);
        let mut tail = lock(&self.tail);
        if done.is_err() {
            self.poison();
            return;
        }
        tail.synced_to = round.to;
        let (ready, waiting) = std::mem::take(&mut tail.waiters)
            .into_iter()
            .partition(|(seq, _)| *seq <= round.to);
        tail.waiters = waiting;
        drop(tail);
        self.answer(ready, Ok(()));
    }

    /// Wakes whoever makes groups durable.
    pub(super) fn rouse(&self) {
        self.wake.notify_one();
        self.stage_group(Duration::ZERO);
    }

    // Senders do not block: one is dropped or has room for its one answer.
    pub(super) fn answer(&self, waiters: Vec<(u64, Waiter)>, outcome: Outcome) {
        let tasks = waiters.into_iter().filter_map(|(_, waiter)| match waiter {
            Waiter::Task(sender) => Some((sender, outcome)),
            Waiter::Thread(sender) => {
                let _who_no_longer_waits = sender.try_send(outcome);
                None
            }
        });
        self.spread.hand_over(tasks);
    }

    // Signs every group, then syncs every segment once, the older first.
    fn make_durable(&self, cuts: &[Cut]) -> std::io::Result<()> {
        for cut in cuts {
            let signature = self
                .signer
                .sign(&cut.segment.header.signed_text(&cut.group));
            let seal = GroupSeal::encode(&signature, cut.segment.salt);
            self.disk.write_at(&cut.segment.file, &seal, cut.seal_at)?;
        }
        for (index, cut) in cuts.iter().enumerate() {
            let number = cut.segment.header.number;
            if cuts[..index]
                .iter()
                .any(|earlier| earlier.segment.header.number == number)
            {
                continue;
            }
            self.disk.sync(&cut.segment.file)?;
            if !cut.segment.is_named() {
                self.disk.sync_names(&self.dir)?;
                cut.segment.set_named();
            }
        }
        let records: u64 = cuts
            .iter()
            .map(|cut| cut.group.to - cut.group.from + 1)
            .sum();
        self.groups.fetch_add(cuts.len() as u64, Ordering::Relaxed);
        self.synced_records.fetch_add(records, Ordering::Relaxed);
        Ok(())
    }
}

impl Tail {
    pub(super) fn begin_round(&mut self, shared: &Shared) -> Result<Round, JournalError> {
        self.cut(shared)?;
        self.unsynced_since = None;
        Ok(Round {
            cuts: std::mem::take(&mut self.cuts),
            to: self.last_seq(),
        })
    }

    // When the group that is now begun counts as load: its beginning.
    fn pace(&self) -> Option<Instant> {
        (self.last_seq() - self.synced_to >= BUSY_RECORDS).then(Instant::now)
    }

    // A waiter's record may be in a group that a full segment cut already, hence the look at the
    // waiters, not at the open group.
    fn is_due(&self, stopping: bool) -> bool {
        let old = |since: Instant| stopping || since.elapsed() >= UNSYNCED_MAX;
        !self.waiters.is_empty() || self.unsynced_since.is_some_and(old)
    }
}
