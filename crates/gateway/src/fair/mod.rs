//! The line in front of each provider: its slots are shared fairly among tenants, and waiting is bounded in length and time.
//!
//! [`queue`] decides who is next; here stand the lock, the waiting and the guard. Where nobody waits, taking a slot and giving it back
//! are one short lock each.

mod queue;
pub(crate) mod turnstile;

#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::TenantUid;
use kernel::Admission;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use self::queue::WEIGHT_MAX;
use self::queue::{Claim, Queue, Ticket};

/// The size of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineSpec {
    /// Calls at the same time, at least 1.
    pub slots: u32,
    /// Calls that wait, over all tenants; one tenant may have as many as it leaves places for all others.
    pub queue: u32,
    /// A call waits no longer than this.
    pub wait: Duration,
}

impl Default for LineSpec {
    /// Half of what one process holds in calls, so that no provider takes it whole: a backstop. Who knows the provider's own limit
    /// sets that.
    fn default() -> Self {
        Self {
            slots: 10_000,
            queue: 2_000,
            wait: Duration::from_secs(10),
        }
    }
}

/// One line. Cheap to share; it outlives the configuration that it was made from while a slot of it is held.
pub struct Line {
    // Held for a few map operations; never across an await, a send or a wake.
    state: Mutex<State>,
    persons: RandomState,
}

struct State {
    queue: Queue<oneshot::Sender<Slot>>,
    wait: Duration,
}

/// A slot of a line, given back when it is dropped.
pub(crate) struct Slot {
    line: Arc<Line>,
    tenant: TenantUid,
}

/// No slot came in time, or too many wait already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Busy {
    /// Seconds after which another try makes sense: by then everybody who waits now was served or sent away.
    pub(crate) retry_after_s: u32,
}

/// Until when one call waits, over all lines that it stands in.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Patience(Option<Instant>);

impl Line {
    /// A line.
    #[must_use]
    pub fn new(spec: LineSpec) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: Queue::new(spec.slots, spec.queue),
                wait: spec.wait,
            }),
            persons: RandomState::new(),
        })
    }

    /// Changes the size. Slots that are held stay held.
    pub(crate) fn resize(self: &Arc<Self>, spec: LineSpec) {
        let mut state = self.lock();
        state.queue.resize(spec.slots, spec.queue);
        state.wait = spec.wait;
        drop(state);
        self.serve();
    }

    /// Forgets tenants that have been idle. Call it now and then.
    pub(crate) fn sweep(self: &Arc<Self>) {
        self.lock().queue.forget_idle();
        self.serve();
    }

    /// Slots in use, and calls that wait.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        let state = self.lock();
        (state.queue.used(), state.queue.waiting())
    }

    /// A slot for a call of this caller: at once, or after waiting for its turn. Dropping the future leaves the line.
    pub(crate) async fn slot(
        self: &Arc<Self>,
        caller: &Admission,
        patience: &mut Patience,
    ) -> Result<Slot, Busy> {
        let claim = claim(caller);
        if self.lock().queue.take(&claim) {
            return Ok(Slot {
                line: Arc::clone(self),
                tenant: claim.tenant,
            });
        }
        let person = caller
            .person()
            .unwrap_or_else(|| caller.token_name().as_str());
        let person = self.persons.hash_one(person);
        // Boxed, so that the calls that need not wait do not carry it.
        Box::pin(self.turn(claim, person, patience)).await
    }

    async fn turn(
        self: &Arc<Self>,
        claim: Claim,
        person: u64,
        patience: &mut Patience,
    ) -> Result<Slot, Busy> {
        let (sender, receiver) = oneshot::channel();
        let (ticket, wait) = {
            let mut state = self.lock();
            // Between the first look and this one a slot may have come back.
            if state.queue.take(&claim) {
                drop(state);
                return Ok(Slot {
                    line: Arc::clone(self),
                    tenant: claim.tenant,
                });
            }
            let wait = state.wait;
            let ticket = state.queue.join(&claim, person, sender);
            (ticket.ok_or_else(|| busy(wait))?, wait)
        };
        let mut place = Place {
            line: self,
            ticket,
            receiver,
        };
        let until = *patience.0.get_or_insert_with(|| Instant::now() + wait);
        if let Ok(Ok(slot)) = timeout_at(until, &mut place.receiver).await {
            return Ok(slot);
        }
        // The turn may have come in the same moment: then the slot is here already.
        place.leave();
        place.receiver.try_recv().map_err(|_| busy(wait))
    }

    /// Gives free slots to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        let mut next = self.lock().queue.next();
        while let Some((tenant, waiter)) = next {
            let line = Arc::clone(self);
            // A waiter that has just gone leaves the slot here, and dropping it gives it back.
            drop(waiter.send(Slot { line, tenant }));
            next = self.lock().queue.next();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half-way through a change of more than one count.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.line.lock();
        state.queue.release(self.tenant);
        let next = state.queue.next();
        drop(state);
        if let Some((tenant, waiter)) = next {
            let line = Arc::clone(&self.line);
            drop(waiter.send(Slot { line, tenant }));
            self.line.serve();
        }
    }
}

/// A waiting call's place in the line; left when it is dropped.
struct Place<'a> {
    line: &'a Arc<Line>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Slot>,
}

impl Place<'_> {
    fn leave(&self) {
        let left = self.line.lock().queue.leave(self.ticket);
        drop(left);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // A slot that was sent meanwhile is given back with the receiver.
        self.leave();
    }
}

fn claim(caller: &Admission) -> Claim {
    let settings = caller.settings();
    Claim {
        tenant: caller.tenant().uid(),
        weight: settings.weight,
        guaranteed: settings.guaranteed_slots,
    }
}

fn busy(wait: Duration) -> Busy {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() != 0);
    Busy {
        retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX).max(1),
    }
}
