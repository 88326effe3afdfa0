//! Whose turn it is: runs of one session one after another, a few of a tenant at once, and no more in the process than it can carry.

use std::collections::{BTreeMap, VecDeque};

use base::TenantUid;

use crate::limits::{RUNS_AT_ONCE, RUNS_AT_ONCE_OF_ALL, RUNS_WAITING_MAX};

/// A run that waits, with its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) run: i64,
    pub(crate) session: i64,
}

/// What a run does that holds its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    /// It works; `again` where it was woken meanwhile.
    Works { again: bool },
    /// It waits for an approval.
    Parked,
}

/// One tenant's runs.
#[derive(Default, Debug)]
struct Lane {
    waiting: VecDeque<Place>,
    /// Places for runs that are about to be stored.
    reserved: usize,
    /// By session, the run that holds it.
    held: BTreeMap<i64, (i64, Doing)>,
}

/// All tenants' runs. Tenants take turns: whoever has many does not keep one who has few from its own.
///
/// A run is here at most once: it waits, works or is parked. So nothing drives one run twice.
#[derive(Default, Debug)]
pub(crate) struct Queue {
    lanes: BTreeMap<TenantUid, Lane>,
    working: usize,
    /// Whose turn comes after whose.
    turn: VecDeque<TenantUid>,
}

impl Queue {
    /// Keeps a place for a run that is about to be stored. `false` where as many are under way as may.
    pub(crate) fn reserve(&mut self, tenant: TenantUid) -> bool {
        let lane = self.lanes.entry(tenant).or_default();
        let has_room = lane.waiting.len() + lane.parked() + lane.reserved < RUNS_WAITING_MAX;
        lane.reserved += usize::from(has_room);
        has_room
    }

    /// Gives a place back, used or not.
    pub(crate) fn release(&mut self, tenant: TenantUid) {
        if let Some(lane) = self.lanes.get_mut(&tenant) {
            lane.reserved = lane.reserved.saturating_sub(1);
        }
        self.forget_if_idle(tenant);
    }

    /// Takes a run in that is stored, once.
    pub(crate) fn push(&mut self, tenant: TenantUid, place: Place) {
        let lane = self.lanes.entry(tenant).or_default();
        if !lane.knows(place) {
            lane.waiting.push_back(place);
            self.line_up(tenant);
        }
    }

    /// A run that is parked goes on, before others of its tenant; one that works looks again before it parks. Any other is left.
    pub(crate) fn wake(&mut self, tenant: TenantUid, place: Place) {
        let Some(lane) = self.lanes.get_mut(&tenant) else {
            return;
        };
        match lane.held.get_mut(&place.session) {
            Some((run, Doing::Works { again })) if *run == place.run => *again = true,
            Some((run, Doing::Parked)) if *run == place.run => {
                if !lane.waiting.contains(&place) {
                    lane.waiting.push_front(place);
                }
                self.line_up(tenant);
            }
            _ => {}
        }
    }

    /// A run of an earlier process that was at work: it holds its session and goes on before others.
    pub(crate) fn take_up(&mut self, tenant: TenantUid, place: Place) {
        let lane = self.lanes.entry(tenant).or_default();
        if lane.knows(place) || lane.held.contains_key(&place.session) {
            return;
        }
        lane.held.insert(place.session, (place.run, Doing::Parked));
        lane.waiting.push_front(place);
        self.line_up(tenant);
    }

    fn line_up(&mut self, tenant: TenantUid) {
        if !self.turn.contains(&tenant) {
            self.turn.push_back(tenant);
        }
    }

    /// The next run that may work, which then does.
    pub(crate) fn next(&mut self) -> Option<(TenantUid, Place)> {
        for _ in 0..self.turn.len() {
            if self.working >= RUNS_AT_ONCE_OF_ALL {
                return None;
            }
            let tenant = self.turn.pop_front()?;
            let Some(lane) = self.lanes.get_mut(&tenant) else {
                continue;
            };
            let found = lane.take();
            if !lane.waiting.is_empty() {
                self.turn.push_back(tenant);
            }
            if let Some(place) = found {
                self.working += 1;
                return Some((tenant, place));
            }
        }
        None
    }

    /// A run works no longer and waits for an approval: it holds its session on. It goes on at once where it was woken meanwhile.
    pub(crate) fn park(&mut self, tenant: TenantUid, place: Place) {
        let Some(lane) = self.lanes.get_mut(&tenant) else {
            return;
        };
        let Some((run, doing)) = lane.held.get_mut(&place.session) else {
            return;
        };
        if *run != place.run {
            return;
        }
        let Doing::Works { again } = *doing else {
            return;
        };
        *doing = Doing::Parked;
        self.working = self.working.saturating_sub(1);
        if again {
            self.wake(tenant, place);
        }
    }

    /// A run has ended, whatever it did: it waits for nothing and holds nothing.
    pub(crate) fn end(&mut self, tenant: TenantUid, place: Place) {
        let Some(lane) = self.lanes.get_mut(&tenant) else {
            return;
        };
        lane.waiting.retain(|other| *other != place);
        if let Some((run, doing)) = lane.held.get(&place.session).copied()
            && run == place.run
        {
            lane.held.remove(&place.session);
            if doing != Doing::Parked {
                self.working = self.working.saturating_sub(1);
            }
        }
        self.forget_if_idle(tenant);
    }

    fn forget_if_idle(&mut self, tenant: TenantUid) {
        let idle =
            |lane: &Lane| lane.waiting.is_empty() && lane.held.is_empty() && lane.reserved == 0;
        if self.lanes.get(&tenant).is_some_and(idle) {
            self.lanes.remove(&tenant);
            self.turn.retain(|other| *other != tenant);
        }
    }

    /// Whether the tenant has a run that waits, works, is parked, or is about to be stored.
    pub(crate) fn has(&self, tenant: TenantUid) -> bool {
        self.lanes.contains_key(&tenant)
    }

    /// Runs that work and runs that wait for their turn.
    pub(crate) fn depth(&self) -> (usize, usize) {
        let waiting = self.lanes.values().map(|lane| lane.waiting.len()).sum();
        (self.working, waiting)
    }
}

impl Lane {
    fn parked(&self) -> usize {
        let parked = |(_, doing): &&(i64, Doing)| *doing == Doing::Parked;
        self.held.values().filter(parked).count()
    }

    fn knows(&self, place: Place) -> bool {
        let holds = |(run, _): &(i64, Doing)| *run == place.run;
        self.waiting.contains(&place) || self.held.get(&place.session).is_some_and(holds)
    }

    fn take(&mut self) -> Option<Place> {
        if self.held.len() - self.parked() >= RUNS_AT_ONCE {
            return None;
        }
        let may = |place: &Place| match self.held.get(&place.session) {
            Some((run, doing)) => *run == place.run && *doing == Doing::Parked,
            None => true,
        };
        let at = self.waiting.iter().position(may)?;
        let place = self.waiting.remove(at)?;
        let doing = Doing::Works { again: false };
        self.held.insert(place.session, (place.run, doing));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(number: u8) -> TenantUid {
        TenantUid::from_bytes([number; 16])
    }

    fn place(run: i64, session: i64) -> Place {
        Place { run, session }
    }

    #[test]
    fn runs_of_one_session_follow_each_other() {
        let mut queue = Queue::default();
        for run in 1..=3 {
            queue.push(uid(1), place(run, 7));
        }
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        assert_eq!(queue.next(), None);
        // It waits for an approval: the session stays held, the work does not.
        queue.park(uid(1), place(1, 7));
        assert_eq!(queue.next(), None);
        queue.wake(uid(1), place(1, 7));
        queue.wake(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        assert_eq!(queue.next(), None);
        queue.end(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(2, 7))));
    }

    #[test]
    fn a_late_wake_frees_no_session_that_another_run_holds() {
        let mut queue = Queue::default();
        queue.push(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        queue.end(uid(1), place(1, 7));
        queue.push(uid(1), place(2, 7));
        assert_eq!(queue.next(), Some((uid(1), place(2, 7))));
        queue.push(uid(1), place(3, 7));
        queue.wake(uid(1), place(1, 7));
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_decision_that_comes_while_a_run_parks_is_not_lost() {
        let mut queue = Queue::default();
        queue.push(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        queue.wake(uid(1), place(1, 7));
        assert_eq!(queue.next(), None);
        queue.park(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
    }

    #[test]
    fn no_run_is_here_twice() {
        let mut queue = Queue::default();
        queue.push(uid(1), place(1, 7));
        queue.push(uid(1), place(1, 7));
        queue.take_up(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        queue.push(uid(1), place(1, 7));
        queue.take_up(uid(1), place(1, 7));
        assert_eq!(queue.next(), None);
        queue.end(uid(1), place(1, 7));
        assert!(!queue.has(uid(1)));
    }

    #[test]
    fn who_has_many_leaves_others_their_turn() {
        let mut queue = Queue::default();
        for run in 0..100 {
            assert!(queue.reserve(uid(1)));
            queue.push(uid(1), place(run, run));
            queue.release(uid(1));
        }
        assert!(!queue.reserve(uid(1)));
        queue.push(uid(2), place(0, 0));
        let mut first = Vec::new();
        while let Some((tenant, _)) = queue.next() {
            first.push(tenant);
        }
        let of_one = first.iter().filter(|tenant| **tenant == uid(1)).count();
        assert_eq!(of_one, RUNS_AT_ONCE);
        assert!(first.iter().take(2).any(|tenant| *tenant == uid(2)));
        assert_eq!(queue.depth(), (RUNS_AT_ONCE + 1, 100 - RUNS_AT_ONCE));
    }

    #[test]
    fn no_more_work_at_once_than_may_and_nothing_is_left_behind() {
        let mut queue = Queue::default();
        for tenant in 0..100 {
            for run in 0..3 {
                queue.push(uid(tenant), place(run, run));
            }
        }
        let mut working = Vec::new();
        let mut done = 0;
        loop {
            while let Some(next) = queue.next() {
                working.push(next);
            }
            assert!(working.len() <= RUNS_AT_ONCE_OF_ALL);
            let Some((tenant, place)) = working.pop() else {
                break;
            };
            queue.end(tenant, place);
            done += 1;
        }
        assert_eq!(done, 300);
        assert!(queue.lanes.is_empty() && queue.turn.is_empty() && queue.working == 0);
    }
}
