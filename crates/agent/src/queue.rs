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

/// One tenant's runs.
#[derive(Default, Debug)]
struct Lane {
    waiting: VecDeque<Place>,
    working: usize,
    /// Sessions with a run that works or waits for an approval.
    taken: BTreeMap<i64, i64>,
}

/// All tenants' runs. Tenants take turns: whoever has many does not keep one who has few from its own.
#[derive(Default, Debug)]
pub(crate) struct Queue {
    lanes: BTreeMap<TenantUid, Lane>,
    working: usize,
    /// Whose turn comes after whose.
    turn: VecDeque<TenantUid>,
}

impl Queue {
    /// Takes a run in. `false` where as many wait as may.
    pub(crate) fn push(&mut self, tenant: TenantUid, place: Place) -> bool {
        let lane = self.lanes.entry(tenant).or_default();
        if lane.waiting.len() >= RUNS_WAITING_MAX {
            return false;
        }
        lane.waiting.push_back(place);
        self.line_up(tenant);
        true
    }

    /// Whether one more may wait.
    pub(crate) fn has_room(&self, tenant: TenantUid) -> bool {
        self.lanes
            .get(&tenant)
            .is_none_or(|lane| lane.waiting.len() < RUNS_WAITING_MAX)
    }

    /// A run that waited for an approval goes on, before others of its tenant; it holds its session still.
    pub(crate) fn go_on(&mut self, tenant: TenantUid, place: Place) {
        let lane = self.lanes.entry(tenant).or_default();
        if lane.waiting.contains(&place) {
            return;
        }
        lane.taken.insert(place.session, place.run);
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
            let lane = self.lanes.get_mut(&tenant)?;
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

    /// A run works no longer: it has ended, or it waits for an approval and holds its session on.
    pub(crate) fn stop(&mut self, tenant: TenantUid, place: Place, ended: bool) {
        let Some(lane) = self.lanes.get_mut(&tenant) else {
            return;
        };
        lane.working = lane.working.saturating_sub(1);
        self.working = self.working.saturating_sub(1);
        if ended {
            self.forget(tenant, place);
        }
    }

    /// A run has ended without working: it waits for nothing and holds nothing.
    pub(crate) fn forget(&mut self, tenant: TenantUid, place: Place) {
        let Some(lane) = self.lanes.get_mut(&tenant) else {
            return;
        };
        lane.waiting.retain(|other| *other != place);
        if lane.taken.get(&place.session) == Some(&place.run) {
            lane.taken.remove(&place.session);
        }
        let idle = lane.waiting.is_empty() && lane.taken.is_empty() && lane.working == 0;
        if idle {
            self.lanes.remove(&tenant);
            self.turn.retain(|other| *other != tenant);
        }
    }

    /// Whether the tenant has a run that works, waits for its turn, or waits for an approval.
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
    fn take(&mut self) -> Option<Place> {
        if self.working >= RUNS_AT_ONCE {
            return None;
        }
        let own = |place: &Place| self.taken.get(&place.session) == Some(&place.run);
        let free = |place: &Place| !self.taken.contains_key(&place.session);
        let at = self
            .waiting
            .iter()
            .position(|place| own(place) || free(place))?;
        let place = self.waiting.remove(at)?;
        self.taken.insert(place.session, place.run);
        self.working += 1;
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
            assert!(queue.push(uid(1), place(run, 7)));
        }
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        assert_eq!(queue.next(), None);
        // It waits for an approval: the session stays taken, the work does not.
        queue.stop(uid(1), place(1, 7), false);
        assert_eq!(queue.next(), None);
        queue.go_on(uid(1), place(1, 7));
        queue.go_on(uid(1), place(1, 7));
        assert_eq!(queue.next(), Some((uid(1), place(1, 7))));
        queue.stop(uid(1), place(1, 7), true);
        assert_eq!(queue.next(), Some((uid(1), place(2, 7))));
    }

    #[test]
    fn who_has_many_leaves_others_their_turn() {
        let mut queue = Queue::default();
        for run in 0..100 {
            assert!(queue.push(uid(1), place(run, run)));
        }
        assert!(!queue.push(uid(1), place(100, 100)) && !queue.has_room(uid(1)));
        assert!(queue.push(uid(2), place(0, 0)));
        let mut first = Vec::new();
        while let Some((tenant, _)) = queue.next() {
            first.push(tenant);
        }
        assert_eq!(
            first.iter().filter(|tenant| **tenant == uid(1)).count(),
            RUNS_AT_ONCE
        );
        assert!(first.iter().take(2).any(|tenant| *tenant == uid(2)));
        assert_eq!(queue.depth(), (RUNS_AT_ONCE + 1, 100 - RUNS_AT_ONCE));
    }

    #[test]
    fn no_more_work_at_once_than_may_and_nothing_is_left_behind() {
        let mut queue = Queue::default();
        for tenant in 0..100 {
            for run in 0..3 {
                assert!(queue.push(uid(tenant), place(run, run)));
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
            queue.stop(tenant, place, true);
            done += 1;
        }
        assert_eq!(done, 300);
        assert!(queue.lanes.is_empty() && queue.turn.is_empty() && queue.working == 0);
    }
}
