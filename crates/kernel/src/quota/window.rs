//! Windows that count: sliding, by UTC day and month, and open. Each knows what it has used and what of that is held.

use base::quota::Window;
use base::{Timestamp, UtcDay};

const SLOTS: usize = 60;

/// A moment and its day, worked out once for all counters of a call.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Timestamp,
    day: UtcDay,
}

impl Moment {
    pub(super) fn of(now: Timestamp) -> Self {
        Self {
            now,
            day: now.day(),
        }
    }
}

/// What stands in one window.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Amount {
    /// Used and held together: what is compared with a limit.
    pub(super) total: i128,
    /// The part that is set aside for calls under way.
    pub(super) held: i128,
}

impl Amount {
    fn add(&mut self, total: i128, held: i128) {
        self.total += total;
        self.held += held;
    }
}

/// A sliding window of 60 slots: amounts leave when their slot is a full window old.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    slot_ms: i64,
    /// Number of the newest slot since the epoch.
    newest: i64,
    slots: [Slot; SLOTS],
    sum: Amount,
}

/// One slot. An amount beyond 2^63 cannot be a count of tokens; it saturates in the limits' own check before it is added.
#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    total: i64,
    held: i64,
}

impl Slot {
    fn add(&mut self, total: i128, held: i128) -> (i128, i128) {
        let before = *self;
        self.total = clamp(i128::from(self.total) + total);
        self.held = clamp(i128::from(self.held) + held);
        (
            i128::from(self.total) - i128::from(before.total),
            i128::from(self.held) - i128::from(before.held),
        )
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl Sliding {
    pub(super) fn new(window_ms: i64) -> Self {
        // One slot more than the window would need keeps the bound strict: nothing leaves early.
        Self {
            slot_ms: (window_ms + SLOTS as i64 - 2) / (SLOTS as i64 - 1),
            newest: 0,
            slots: [Slot::default(); SLOTS],
            sum: Amount::default(),
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        let slot = now.unix_ms().div_euclid(self.slot_ms);
        if slot <= self.newest {
            return;
        }
        let steps = (slot - self.newest).min(SLOTS as i64);
        for step in 1..=steps {
            let old = std::mem::take(&mut self.slots[Self::index(slot - steps + step)]);
            self.sum.add(-i128::from(old.total), -i128::from(old.held));
        }
        self.newest = slot;
    }

    pub(super) fn add(&mut self, at: Timestamp, total: i128, held: i128) {
        let slot = at.unix_ms().div_euclid(self.slot_ms).min(self.newest);
        if slot > self.newest - SLOTS as i64 {
            let (total, held) = self.slots[Self::index(slot)].add(total, held);
            self.sum.add(total, held);
        }
    }

    fn add_newest(&mut self, total: i128, held: i128) {
        let (total, held) = self.slots[Self::index(self.newest)].add(total, held);
        self.sum.add(total, held);
    }

    /// When `needed` fits under `limit`, given that nothing more is added.
    fn fits_at(&self, limit: i128, needed: i128) -> Timestamp {
        let mut left = self.sum.total;
        for age in (0..SLOTS as i64).rev() {
            let slot = self.newest - age;
            left -= i128::from(self.slots[Self::index(slot)].total);
            if left + needed <= limit {
                return self.leaves_at(slot);
            }
        }
        self.leaves_at(self.newest)
    }

    fn leaves_at(&self, slot: i64) -> Timestamp {
        Timestamp::from_unix_ms((slot + SLOTS as i64) * self.slot_ms)
    }

    /// When all that was used is free again; `None` when all is free.
    fn empty_at(&self) -> Option<Timestamp> {
        let used = |slot: &i64| self.slots[Self::index(*slot)].total != 0;
        (self.newest - SLOTS as i64 + 1..=self.newest)
            .rev()
            .find(used)
            .map(|slot| self.leaves_at(slot))
    }

    fn index(slot: i64) -> usize {
        usize::try_from(slot.rem_euclid(SLOTS as i64)).unwrap_or(0)
    }
}

/// A day or a month.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    monthly: bool,
    from: UtcDay,
    /// The first day of the next window.
    until: UtcDay,
    sum: Amount,
}

impl Calendar {
    fn at(monthly: bool, day: UtcDay) -> Self {
        let (from, until) = if monthly {
            (day.month().first_day(), day.month().next().first_day())
        } else {
            (day, day.next())
        };
        Self {
            monthly,
            from,
            until,
            sum: Amount::default(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Counter {
    Sliding(Box<Sliding>),
    Calendar(Calendar),
    /// What is there until somebody takes it away: open calls, stored bytes.
    Level(Amount),
}

impl Counter {
    pub(super) fn new(window: Window) -> Self {
        let epoch = Timestamp::default().day();
        match window {
            Window::Sliding { ms } => Self::Sliding(Box::new(Sliding::new(ms))),
            Window::Day => Self::Calendar(Calendar::at(false, epoch)),
            Window::Month => Self::Calendar(Calendar::at(true, epoch)),
            Window::WhileOpen | Window::Stored => Self::Level(Amount::default()),
        }
    }

    pub(super) fn advance(&mut self, moment: Moment) {
        match self {
            Self::Sliding(sliding) => sliding.advance(moment.now),
            Self::Calendar(window) if moment.day >= window.until => {
                *window = Calendar::at(window.monthly, moment.day);
            }
            Self::Calendar(_) | Self::Level(_) => {}
        }
    }

    pub(super) fn sum(&self) -> Amount {
        match self {
            Self::Sliding(sliding) => sliding.sum,
            Self::Calendar(Calendar { sum, .. }) | Self::Level(sum) => *sum,
        }
    }

    /// Adds to the current window. A clock that went back does not lead into a window that nobody counts.
    pub(super) fn hold(&mut self, total: i128, held: i128) {
        match self {
            Self::Sliding(sliding) => sliding.add_newest(total, held),
            Self::Calendar(Calendar { sum, .. }) | Self::Level(sum) => sum.add(total, held),
        }
    }

    /// Adds to the window that holds `at`; an amount of a past window changes nothing.
    pub(super) fn add(&mut self, at: Timestamp, total: i128, held: i128) {
        match self {
            Self::Sliding(sliding) => sliding.add(at, total, held),
            Self::Calendar(window) => {
                if at.day() >= window.from && at.day() < window.until {
                    window.sum.add(total, held);
                }
            }
            Self::Level(sum) => sum.add(total, held),
        }
    }

    /// Replaces what is there by what was measured.
    pub(super) fn set_level(&mut self, measured: i128) {
        if let Self::Level(sum) = self {
            sum.total = measured;
        }
    }

    /// When `needed` fits under `limit`; for a level, when it makes sense to ask again.
    pub(super) fn retry_at(&self, limit: i128, needed: i128, ask_again: Timestamp) -> Timestamp {
        match self {
            Self::Sliding(sliding) => sliding.fits_at(limit, needed),
            Self::Calendar(window) => window.until.start(),
            Self::Level(_) => ask_again,
        }
    }

    /// When the window begins anew, or all of a sliding one is free; `None` for a level, and for a sliding one that is free.
    pub(super) fn resets_at(&self) -> Option<Timestamp> {
        match self {
            Self::Sliding(sliding) => sliding.empty_at(),
            Self::Calendar(window) => Some(window.until.start()),
            Self::Level(_) => None,
        }
    }

    /// When the current window began; `None` where it has no beginning.
    pub(super) fn began(&self) -> Option<Timestamp> {
        match self {
            Self::Calendar(window) => Some(window.from.start()),
            Self::Sliding(_) | Self::Level(_) => None,
        }
    }
}
