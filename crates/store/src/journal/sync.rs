//! The sync thread: signs and syncs groups, and answers those who wait.

use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use crate::files::sync_dir;
use crate::journal::append::{Cut, Tail};
use crate::journal::frame::GroupSeal;
use crate::journal::{JournalError, Seq, Shared, lock};

/// Somebody who waits for a record to be durable.
pub(super) enum Waiter {
    Task(tokio::sync::oneshot::Sender<Result<(), JournalError>>),
    Thread(SyncSender<Result<(), JournalError>>),
}

/// Whether there is anything to wait for.
pub(super) enum Enlisted {
    Already,
    Waiting,
}

// Records for which nobody waits are synced after this, which bounds what a power cut can take.
const UNSYNCED_MAX: Duration = Duration::from_millis(250);

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
        tail.waiters.push((seq.number(), waiter));
        if std::mem::take(&mut tail.sleeping) {
            self.wake.notify_one();
        }
        Ok(Enlisted::Waiting)
    }

    pub(super) fn run_sync(&self) {
        let mut tail = lock(&self.tail);
        loop {
            let stopping = self.stopping.load(Ordering::Acquire);
            if self.poisoned.load(Ordering::Acquire) {
                // Senders do not block: one is dropped or has room for its one answer.
                answer(tail.waiters.drain(..), Err(JournalError::Poisoned));
                if stopping {
                    return;
                }
                tail = self.sleep(tail);
            } else if tail.is_due(stopping) {
                tail = self.sync_round(tail);
            } else if stopping {
                return;
            } else {
                tail = self.sleep(tail);
            }
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
        if tail.cut(self).is_err() {
            // Poisoned; the loop answers.
            return tail;
        }
        let cuts = std::mem::take(&mut tail.cuts);
        let to = tail.last_seq();
        tail.unsynced_since = None;
        drop(tail);
        let done = self.make_durable(&cuts);
        let mut tail = lock(&self.tail);
        if done.is_err() {
            self.poison();
            return tail;
        }
        tail.synced_to = to;
        let (ready, waiting) = std::mem::take(&mut tail.waiters)
            .into_iter()
            .partition(|(seq, _)| *seq <= to);
        tail.waiters = waiting;
        drop(tail);
        answer(Vec::into_iter(ready), Ok(()));
        lock(&self.tail)
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
                sync_dir(&self.dir)?;
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
    // A waiter's record may be in a group that a full segment cut already, hence the look at the
    // waiters, not at the open group.
    fn is_due(&self, stopping: bool) -> bool {
        let old = |since: std::time::Instant| stopping || since.elapsed() >= UNSYNCED_MAX;
        !self.waiters.is_empty() || self.unsynced_since.is_some_and(old)
    }
}

fn answer(waiters: impl Iterator<Item = (u64, Waiter)>, value: Result<(), JournalError>) {
    for (_, waiter) in waiters {
        // Who no longer waits need not be told.
        match waiter {
            Waiter::Task(sender) => drop(sender.send(value)),
            Waiter::Thread(sender) => drop(sender.try_send(value)),
        }
    }
}
