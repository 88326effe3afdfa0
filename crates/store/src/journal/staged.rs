//! The work of the journal's threads in a simulation: each round of a group is two pieces of work, and between them anything may
//! happen that happens beside the threads.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::ground::{Crew, Stage};
use crate::journal::keeper::Task;
use crate::journal::sync::UNSYNCED_MAX;
use crate::journal::{JournalError, Shared, lock};

/// The stage that works for a journal.
pub(super) struct Staged {
    pub(super) stage: Arc<dyn Stage>,
    /// The journal's own state, as long as it is open.
    pub(super) own: Weak<Shared>,
}

impl Shared {
    /// The stage and this journal, in a simulation.
    pub(super) fn staged(&self) -> Option<(Arc<dyn Stage>, Arc<Self>)> {
        let Staged { stage, own } = self.staged.as_ref()?;
        Some((Arc::clone(stage), own.upgrade()?))
    }

    /// What the threads begin with.
    pub(super) fn stage_begin(&self) {
        lock(&self.tail).sleeping = true;
        self.ask_keeper(Task::Prepare);
    }

    pub(super) fn stage_group(&self, delay: Duration) {
        if let Some((stage, shared)) = self.staged() {
            stage.take(Crew::Groups, delay, Box::new(move || shared.begin_staged()));
        }
    }

    /// Records for which nobody waits are synced too, a little later.
    pub(super) fn stage_late_group(&self) {
        if let Some((stage, shared)) = self.staged() {
            let late = move || shared.begin_late();
            stage.take(Crew::Groups, UNSYNCED_MAX, Box::new(late));
        }
    }

    fn begin_late(&self) {
        let mut tail = lock(&self.tail);
        if tail.unsynced_since.is_none() {
            return;
        }
        let was_sleeping = std::mem::take(&mut tail.sleeping);
        drop(tail);
        if was_sleeping {
            self.begin_staged();
        } else {
            // A round is under way and may be an older group's.
            self.stage_late_group();
        }
    }

    // Only when no round is under way.
    fn begin_staged(&self) {
        let mut tail = lock(&self.tail);
        if self.poisoned.load(Ordering::Acquire) {
            let waiters = std::mem::take(&mut tail.waiters);
            tail.sleeping = true;
            drop(tail);
            return self.answer(waiters, Err(JournalError::Poisoned));
        }
        let Ok(round) = tail.begin_round(self) else {
            // The poisoning has asked for another look.
            return;
        };
        drop(tail);
        if let Some((stage, shared)) = self.staged() {
            let end = move || {
                shared.end_round(&round);
                shared.look_again();
            };
            stage.take(Crew::Syncs, Duration::ZERO, Box::new(end));
        }
    }

    fn look_again(&self) {
        let mut tail = lock(&self.tail);
        if self.poisoned.load(Ordering::Acquire) || tail.waiters.is_empty() {
            tail.sleeping = true;
        } else {
            drop(tail);
            self.begin_staged();
        }
    }

    /// What the threads end with.
    pub(super) fn stage_end(&self) {
        if self.staged.is_none() {
            return;
        }
        let mut tail = lock(&self.tail);
        if !self.poisoned.load(Ordering::Acquire)
            && let Ok(round) = tail.begin_round(self)
        {
            drop(tail);
            self.end_round(&round);
            tail = lock(&self.tail);
        }
        let waiters = std::mem::take(&mut tail.waiters);
        drop(tail);
        self.answer(waiters, Err(JournalError::Poisoned));
    }
}
