//! One thread and the databases that it alone has open.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::database::connection::{NotOpen, Open};
use crate::database::engine::{QUEUE_WAIT, Queue};
use crate::database::guard::Mode;
use crate::database::place::{Place, PlaceName};
use crate::database::tx::{ReadTx, WriteTx};
use crate::error::StoreError;

/// A piece of work for a thread.
pub(super) type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// The state of one thread.
pub(super) struct Worker {
    kind: Kind,
    open: HashMap<PlaceName, Slot>,
    open_max: usize,
    // Counts uses; the smallest stamp is the database used longest ago.
    clock: u64,
    // Over all threads, for the outside.
    open_now: Arc<AtomicUsize>,
}

/// What a thread is for. A reader asks writers to make and migrate databases; a writer waits for
/// nobody, so the two cannot block each other.
pub(super) enum Kind {
    Writer,
    Reader { writers: Vec<Queue> },
}

impl Kind {
    /// Puts the calling thread into its class. What a writer does, folds above all, is waited for by nobody or by one: it runs when
    /// the threads that serve leave time, and with about a quarter of theirs when they do not. Folding takes a tenth of the time
    /// of serving, so it keeps up.
    pub(super) fn take_its_class(&self) {
        if matches!(self, Self::Writer) {
            // On Linux this is about the calling thread alone. Where it is not allowed, the thread runs like any other.
            let _not_allowed_here = rustix::process::nice(WRITERS_LOWER_BY);
        }
    }
}

struct Slot {
    open: Open,
    used: u64,
    used_at: Instant,
}

// Nice levels below the threads that serve.
const WRITERS_LOWER_BY: i32 = 5;
// A statement that runs longer holds up every tenant of its thread.
const READ_TIME: Duration = Duration::from_secs(5);
const WRITE_TIME: Duration = Duration::from_secs(30);

impl Worker {
    pub(super) fn new(kind: Kind, open_max: usize, open_now: Arc<AtomicUsize>) -> Self {
        Self {
            kind,
            open: HashMap::new(),
            open_max: open_max.max(1),
            clock: 0,
            open_now,
        }
    }

    /// Works until every sender is gone, then closes the databases. One that nobody used for `idle_max` is closed before.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, idle_max: Duration) {
        let look_every = (idle_max / 4).max(Duration::from_millis(1));
        let mut looked = Instant::now();
        loop {
            match jobs.recv_timeout(look_every) {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if looked.elapsed() >= look_every {
                self.close_idle(idle_max);
                looked = Instant::now();
            }
        }
        self.close_all();
    }

    /// They cost memory and descriptors, and opening takes under a millisecond.
    fn close_idle(&mut self, idle_max: Duration) {
        let idle = |slot: &Slot| slot.used_at.elapsed() >= idle_max;
        let names: Vec<PlaceName> = self
            .open
            .iter()
            .filter(|(_, slot)| idle(slot))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(slot) = self.open.remove(&name) {
                close(slot.open, &self.open_now);
            }
        }
    }

    /// Closes every database.
    pub(super) fn close_all(&mut self) {
        for (_, slot) in self.open.drain() {
            close(slot.open, &self.open_now);
        }
    }

    pub(super) fn read<T>(
        &mut self,
        place: &Arc<Place>,
        f: impl FnOnce(&ReadTx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let done = self.open(place).and_then(|open| {
            open.conn.execute_batch("BEGIN")?;
            open.guard.enter(Mode::Read, READ_TIME);
            let done = caught(|| f(&ReadTx::new(&open.conn)));
            open.guard.leave();
            // Nothing was written; COMMIT and ROLLBACK are the same, and a failed end is followed
            // by the next use's failed BEGIN.
            let ended = open.conn.execute_batch("ROLLBACK");
            done.and_then(|value| Ok(ended.map(|()| value)?))
        });
        self.judged(place, done)
    }

    pub(super) fn write<T>(
        &mut self,
        place: &Arc<Place>,
        f: impl FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let done = self.open(place).and_then(|open| {
            open.conn.execute_batch("BEGIN IMMEDIATE")?;
            open.guard.enter(Mode::Write, WRITE_TIME);
            let done = caught(|| f(&mut WriteTx::new(&open.conn)));
            open.guard.leave();
            finish(open, done)
        });
        self.judged(place, done)
    }

    /// Opens the database, and with it makes and migrates it.
    pub(super) fn prepare(&mut self, place: &Arc<Place>) -> Result<(), StoreError> {
        let done = self.open(place).map(|_| ());
        self.judged(place, done)
    }

    pub(super) fn checkpoint(&mut self, place: &Arc<Place>) -> Result<(), StoreError> {
        let done = self.open(place).and_then(|open| open.checkpoint());
        self.judged(place, done)
    }

    /// Looks at every page in use.
    pub(super) fn check(&mut self, place: &Arc<Place>) -> Result<(), StoreError> {
        let done = self.open(place).and_then(|open| open.check());
        self.judged(place, done)
    }

    /// Forgets the database and leaves file and log as they are.
    pub(super) fn abandon(&mut self, place: &Place) {
        if let Some(slot) = self.open.remove(&place.name()) {
            self.open_now.fetch_sub(1, Ordering::Relaxed);
            slot.open.abandon();
        }
    }

    /// Forgets the database. A writer empties its log first where that is possible; where it is
    /// not, the log stays beside the file and nothing is lost.
    pub(super) fn close(&mut self, place: &Place) {
        if let Some(slot) = self.open.remove(&place.name()) {
            close(slot.open, &self.open_now);
        }
    }

    /// The queue of the writer that shares this reader's tenants.
    pub(super) fn writer_of(&self, place: &Place) -> Option<&Queue> {
        match &self.kind {
            Kind::Writer => None,
            Kind::Reader { writers } => Queue::of(writers, &place.uid),
        }
    }

    fn open(&mut self, place: &Arc<Place>) -> Result<&mut Open, StoreError> {
        let name = place.name();
        self.clock += 1;
        if !self.open.contains_key(&name) {
            self.make_room();
            let open = self.open_new(place)?;
            self.open_now.fetch_add(1, Ordering::Relaxed);
            self.open.insert(
                name.clone(),
                Slot {
                    open,
                    used: self.clock,
                    used_at: Instant::now(),
                },
            );
        }
        let slot = self.open.get_mut(&name).ok_or(StoreError::Closed)?;
        // Knowing the name is not enough to use what somebody else opened.
        if !Arc::ptr_eq(&slot.open.place, place) && !slot.open.place.same_key(place) {
            return Err(StoreError::WrongKey);
        }
        slot.used = self.clock;
        slot.used_at = Instant::now();
        Ok(&mut slot.open)
    }

    fn open_new(&self, place: &Arc<Place>) -> Result<Open, StoreError> {
        let Some(writer) = self.writer_of(place) else {
            return Open::writer(place);
        };
        match Open::reader(place) {
            Ok(open) => return Ok(open),
            Err(NotOpen::Failed(error)) => return Err(error),
            Err(NotOpen::NeedsWriter) if place.reads_only => return Err(StoreError::Schema),
            Err(NotOpen::NeedsWriter) => {}
        }
        let (reply, answer) = sync_channel(1);
        let due = Arc::clone(place);
        writer.submit(Box::new(move |worker| {
            // A reader that gave up waiting finds the database ready next time.
            let _ = reply.send(worker.prepare(&due));
        }))?;
        answer
            .recv_timeout(QUEUE_WAIT)
            .map_err(|_| StoreError::Busy)??;
        match Open::reader(place) {
            Ok(open) => Ok(open),
            Err(NotOpen::Failed(error)) => Err(error),
            Err(NotOpen::NeedsWriter) => Err(StoreError::Schema),
        }
    }

    fn make_room(&mut self) {
        if self.open.len() < self.open_max {
            return;
        }
        let oldest = self
            .open
            .iter()
            .min_by_key(|(_, slot)| slot.used)
            .map(|(name, _)| name.clone());
        if let Some(slot) = oldest.and_then(|name| self.open.remove(&name)) {
            close(slot.open, &self.open_now);
        }
    }

    // Closes a connection that can no longer be trusted, and tells a lack of room from a disk that fails: the engine names some
    // lacks, an exhausted quota above all, by the same word.
    fn judged<T>(&mut self, place: &Place, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if done.as_ref().is_err_and(StoreError::breaks_connection) {
            // What is broken is evidence.
            self.abandon(place);
        }
        match done {
            Err(StoreError::Io) if place.lacks_room() => Err(StoreError::Full),
            done => done,
        }
    }
}

/// The answer to a job, wherever it is awaited.
pub(super) enum Reply<T> {
    Task(tokio::sync::oneshot::Sender<Result<T, StoreError>>),
    Thread(SyncSender<Result<T, StoreError>>),
}

impl<T> Reply<T> {
    pub(super) fn send(self, value: Result<T, StoreError>) {
        // Nobody waits any more: a read has no effect, and a write has had its own.
        match self {
            Self::Task(sender) => drop(sender.send(value)),
            Self::Thread(sender) => drop(sender.send(value)),
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Task(sender) => sender.is_closed(),
            Self::Thread(_) => false,
        }
    }
}

fn finish<T>(open: &Open, done: Result<T, StoreError>) -> Result<T, StoreError> {
    let done = done.and_then(|value| {
        // SQLite rolls back by itself after some errors; a closure that swallowed one must not
        // believe that its writes are kept.
        if open.conn.is_autocommit() {
            return Err(StoreError::query(
                "the transaction was rolled back by an earlier error",
            ));
        }
        open.conn.execute_batch("COMMIT")?;
        Ok(value)
    });
    if done.is_err() && !open.conn.is_autocommit() {
        open.conn.execute_batch("ROLLBACK")?;
    }
    done
}

// A panic in one tenant's closure ends that closure, not the thread that serves the others.
fn caught<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(StoreError::query("the closure panicked")))
}

fn close(open: Open, open_now: &AtomicUsize) {
    open_now.fetch_sub(1, Ordering::Relaxed);
    // A log that could not be emptied stays beside the file and is read at the next opening.
    drop(open.conn.close());
}
