//! The way in for tenants that have much under way. Reading and preparing a call takes a fraction of a millisecond of the thread that
//! serves everybody; a tenant that sends a thousand at once would have a thousand of them done before its neighbour's one.
//!
//! So the calls of such a tenant pass a few at a time: in each turn of the runtime, in which everything that is ready runs once, some
//! calls go in, in fair order. A tenant that has few calls under way does not come here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::TenantUid;
use kernel::Admission;
use kernel::tasks::Tasks;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::queue::{Claim, Queue, Ticket};
use super::{Busy, busy};

/// Calls of a tenant that may be under way before its next ones come here.
pub(crate) const FEW: usize = 32;
/// Calls that go in per turn and thread: half a millisecond of work.
const PASSES: u32 = 8;
/// A call waits no longer than this.
const WAIT: Duration = Duration::from_secs(10);

/// One per process.
pub(crate) struct Turnstile {
    // Held for a few map operations; never across an await, a send or a wake.
    state: Mutex<State>,
}

struct State {
    queue: Queue<oneshot::Sender<()>>,
    /// Who went in this turn.
    passed: Vec<TenantUid>,
    /// Whether the task that begins the next turn runs.
    turning: bool,
}

impl Turnstile {
    /// A turnstile in front of so many threads; `room` calls may wait.
    pub(crate) fn new(threads: usize, room: usize) -> Arc<Self> {
        let threads = u32::try_from(threads).unwrap_or(1).max(1);
        let state = State {
            queue: Queue::new(
                PASSES.saturating_mul(threads),
                u32::try_from(room).unwrap_or(u32::MAX),
            ),
            passed: Vec::new(),
            turning: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    /// Waits for this caller's turn. Dropping the future leaves the line.
    pub(crate) async fn pass(
        self: &Arc<Self>,
        tasks: &Tasks,
        caller: &Admission,
    ) -> Result<(), Busy> {
        let claim = Claim {
            tenant: caller.tenant().uid(),
            weight: caller.settings().weight,
            // Nothing is kept free here: a turn is over in a moment.
            guaranteed: 0,
        };
        let (sender, mut receiver) = oneshot::channel();
        let ticket = {
            let mut state = self.lock();
            if state.queue.take(&claim) {
                state.passed.push(claim.tenant);
                let begins = !std::mem::replace(&mut state.turning, true);
                drop(state);
                if begins {
                    let stile = Arc::clone(self);
                    tasks.spawn(async move { stile.turn().await });
                }
                return Ok(());
            }
            let ticket = state.queue.join(&claim, 0, sender);
            ticket.ok_or_else(|| busy(WAIT))?
        };
        let _place = Place {
            stile: self,
            ticket,
        };
        match timeout(WAIT, &mut receiver).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(busy(WAIT)),
        }
    }

    /// Lets the next ones in each time that all that was ready has run, until nobody comes any more.
    async fn turn(&self) {
        loop {
            tokio::task::yield_now().await;
            let mut state = self.lock();
            let State { queue, passed, .. } = &mut *state;
            for tenant in passed.drain(..) {
                queue.release(tenant);
            }
            let mut next = Vec::new();
            while let Some((tenant, waiter)) = queue.next() {
                passed.push(tenant);
                next.push(waiter);
            }
            if next.is_empty() {
                state.turning = false;
                state.queue.forget_idle();
                return;
            }
            drop(state);
            for waiter in next {
                // One that has just gone leaves its place in this turn unused.
                let _gone = waiter.send(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way through a change of more than one count.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiting call's place; left when it is dropped, if its turn has not come.
struct Place<'a> {
    stile: &'a Turnstile,
    ticket: Ticket,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let left = self.stile.lock().queue.leave(self.ticket);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::super::tests::callers;
    use super::*;
    use testkit::TempKernel;

    #[tokio::test(flavor = "current_thread")]
    async fn a_thousand_at_once_do_not_stand_before_a_neighbours_one() {
        let home = TempKernel::open().await.unwrap();
        let callers = callers(&home, &["noisy", "victim"]).await;
        let stile = Turnstile::new(1, 10_000);
        let order = Rc::new(RefCell::new(Vec::new()));
        let local = tokio::task::LocalSet::new();
        let pass = |who: usize| {
            let (stile, caller, order) =
                (Arc::clone(&stile), callers[who].clone(), Rc::clone(&order));
            let tasks = home.kernel.tasks().clone();
            async move {
                // Those that came before and wait no longer have been let in.
                let waiting = stile.lock().queue.waiting();
                let came = if who == 1 { 1_000 - waiting } else { 0 };
                stile.pass(&tasks, &caller).await.unwrap();
                order.borrow_mut().push((who, came));
            }
        };
        for _ in 0..1_000 {
            local.spawn_local(pass(0));
        }
        local.spawn_local(pass(1));
        local.await;
        let order = order.take();
        assert_eq!(order.len(), 1_001);
        let passed = order.iter().position(|(who, _)| *who == 1).unwrap();
        let came = order[passed].1 as usize;
        assert!(came < 500, "most of the noise was still to come: {came}");
        // What went in together with the victim, and what was on its way when it came.
        assert!(passed - came <= 2 * PASSES as usize, "{came} to {passed}");
        // The task that turned it has gone, and nothing is left.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let state = stile.lock();
        assert_eq!(
            (state.queue.used(), state.queue.waiting(), state.turning),
            (0, 0, false)
        );
    }
}
