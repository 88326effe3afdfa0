//! One seed's world: its clock, its threads, its disk and its randomness, all decided by the seed and by one thread.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use base::{Clock, Timestamp};
use kernel::{Crew, Stage, Work};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::disk::{Disk, DiskFaults};
use crate::rng::Rng;
use crate::trace::Trace;

/// Bytes of a journal segment: small, so that journals roll.
const SEGMENT_BYTES: u64 = 32 * 1024;

/// How slow the store's threads are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pace {
    /// Work is done as soon as everything that is ready has run.
    Prompt,
    /// Now and then it takes milliseconds, seldom a second.
    Mixed,
}

pub(crate) struct World {
    own: Weak<Self>,
    start: Instant,
    epoch_ms: AtomicI64,
    handle: Handle,
    pace: Pace,
    state: Mutex<State>,
}

struct State {
    trace: Trace,
    pace: Rng,
    draws: Rng,
    queues: [VecDeque<Work>; 5],
    disk: Disk,
    /// The process has died: nothing that it does reaches the disk any more.
    dead: bool,
    /// Who waits for its death.
    mourner: Option<Waker>,
    /// What is done at an event of the trace: the end of the process.
    end: Option<(u64, End)>,
    /// The moment at which an operation of the disk failed first.
    failed_at: Option<u64>,
    /// Which call's future is being polled.
    current: Option<usize>,
    /// The ids that were drawn while a call's future was polled.
    drawn: Vec<(usize, [u8; 16])>,
}

/// Takes what the process leaves, from the disk as it is.
type End = Box<dyn FnOnce(&Disk) + Send>;

impl State {
    fn note(&mut self, at_ms: u64, what: &'static str, a: u64, b: u64) {
        if self.dead {
            return;
        }
        self.trace.note(at_ms, what, a, b);
        let now = self.trace.count();
        if self.end.as_ref().is_some_and(|(at, _)| *at <= now) {
            self.end();
        }
    }

    fn end(&mut self) {
        self.dead = true;
        if let Some((_, end)) = self.end.take() {
            end(&self.disk);
        }
        if let Some(mourner) = self.mourner.take() {
            mourner.wake();
        }
    }

    fn fails(&mut self, at_ms: u64, what: &'static str) {
        self.note(at_ms, what, 0, 0);
        let moment = self.trace.count();
        self.failed_at.get_or_insert(moment);
    }
}

impl World {
    /// To be made within the runtime of the run.
    pub(crate) fn new(
        seed: u64,
        life: u64,
        begins: Timestamp,
        pace: Pace,
        faults: DiskFaults,
    ) -> Arc<Self> {
        let purpose = |number: u64| Rng::new(seed, life * 100 + number);
        Arc::new_cyclic(|own| Self {
            own: Weak::clone(own),
            start: Instant::now(),
            epoch_ms: AtomicI64::new(begins.unix_ms()),
            handle: Handle::current(),
            pace,
            state: Mutex::new(State {
                trace: Trace::default(),
                pace: purpose(1),
                draws: purpose(2),
                queues: Default::default(),
                disk: Disk::with(faults),
                dead: false,
                mourner: None,
                end: None,
                failed_at: None,
                current: None,
                drawn: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Moves the wall clock, and nothing else.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.epoch_ms.fetch_add(by_ms, Ordering::Relaxed);
        self.note("clock jumps", by_ms.unsigned_abs(), u64::from(by_ms < 0));
    }

    pub(crate) fn note(&self, what: &'static str, a: u64, b: u64) {
        let at = self.elapsed_ms();
        self.state().note(at, what, a, b);
    }

    /// Has the process die at an event of the trace, or when [`World::end_now`] says so.
    pub(crate) fn end_at(&self, event: u64, end: End) {
        self.state().end = Some((event, end));
    }

    /// The process dies now, if it is alive: from here on the disk stays as it is.
    pub(crate) fn end_now(&self) {
        let mut state = self.state();
        if !state.dead {
            state.end();
        }
    }

    /// Returns when the process is dead.
    pub(crate) async fn died(&self) {
        poll_fn(|cx| {
            let mut state = self.state();
            state.mourner = Some(cx.waker().clone());
            if state.dead {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub(crate) fn moment(&self) -> u64 {
        self.state().trace.count()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.state().trace.digest()
    }

    pub(crate) fn tail(&self) -> String {
        self.state().trace.tail()
    }

    pub(crate) fn with_disk<T>(&self, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.state().disk)
    }

    /// The moment at which an operation of the disk failed first.
    pub(crate) fn failed_at(&self) -> Option<u64> {
        self.state().failed_at
    }

    /// Forgets what was still to be done.
    pub(crate) fn bury(&self) {
        let mut state = self.state();
        state.dead = true;
        let undone: Vec<Work> = state
            .queues
            .iter_mut()
            .flat_map(|queue| queue.drain(..))
            .collect();
        drop(state);
        drop(undone);
    }

    /// Whose future is polled from now on.
    pub(crate) fn set_current(&self, call: Option<usize>) {
        self.state().current = call;
    }

    /// The random bits that a call's first poll drew: its request id.
    pub(crate) fn drawn(&self) -> Vec<(usize, [u8; 16])> {
        self.state().drawn.clone()
    }

    fn work(&self, crew: Crew) {
        let work = self.state().queues[crew as usize].pop_front();
        if let Some(work) = work {
            self.note(name(crew), 0, 0);
            work();
        }
    }

    fn delay(&self) -> Duration {
        let mut state = self.state();
        let micros = match (self.pace, state.pace.below(20)) {
            (Pace::Prompt, _) | (_, 0..10) => 0,
            (Pace::Mixed, 10..16) => state.pace.within(50, 2_000),
            (Pace::Mixed, 16..19) => state.pace.within(2_000, 60_000),
            (Pace::Mixed, _) => state.pace.within(60_000, 1_500_000),
        };
        Duration::from_micros(micros)
    }
}

fn name(crew: Crew) -> &'static str {
    match crew {
        Crew::Readers => "store reads",
        Crew::Writers => "store writes",
        Crew::Groups => "journal group begins",
        Crew::Syncs => "journal group ends",
        Crew::Keeper => "journal keeper",
    }
}

impl Stage for World {
    fn take(&self, crew: Crew, delay: Duration, work: Work) {
        let Some(world) = self.own.upgrade() else {
            return;
        };
        if self.state().dead {
            return;
        }
        let wait = delay + self.delay();
        if crew == Crew::Groups {
            // One that is asked for at once must not wait for one that is due later.
            self.handle.spawn(async move {
                rest(wait).await;
                if !world.state().dead {
                    world.note(name(crew), 0, 0);
                    work();
                }
            });
            return;
        }
        self.state().queues[crew as usize].push_back(work);
        self.handle.spawn(async move {
            rest(wait).await;
            world.work(crew);
        });
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = self.elapsed_ms();
        let mut state = self.state();
        if state.dead {
            return Ok(());
        }
        state.note(at, "disk writes", offset, bytes.len() as u64);
        if state.dead {
            return Ok(());
        }
        let done = state.disk.write_at(file, bytes, offset);
        if done.is_err() {
            state.fails(at, "disk write fails");
        }
        done
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let at = self.elapsed_ms();
        let mut state = self.state();
        if state.dead {
            return Ok(());
        }
        let done = state.disk.sync(file);
        if done.is_err() {
            state.fails(at, "disk sync fails");
        } else {
            state.note(at, "disk syncs", 0, 0);
        }
        done
    }

    fn draw(&self) -> [u8; 16] {
        let mut state = self.state();
        let (low, high) = (state.draws.next(), state.draws.next());
        let mut bits = [0; 16];
        bits[..8].copy_from_slice(&low.to_le_bytes());
        bits[8..].copy_from_slice(&high.to_le_bytes());
        if let Some(call) = state.current {
            state.drawn.push((call, bits));
        }
        bits
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES
    }
}

/// Waits; not at all for no time, so that no timer is made.
pub(crate) async fn rest(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

/// The world's wall clock.
pub(crate) struct WallClock(pub(crate) Arc<World>);

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let World {
            start, epoch_ms, ..
        } = &*self.0;
        let elapsed = i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_unix_ms(epoch_ms.load(Ordering::Relaxed) + elapsed)
    }
}
