//! Windows that count: sliding, by UTC day and month, and open.

use base::{Timestamp, UtcDay, UtcMonth};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Window {
    Sliding { ms: i64 },
    Day,
    Month,
    Open,
}

const SLOTS: usize = 60;

/// A sliding window of 60 slots: amounts leave when their slot is a full window old.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    slot_ms: i64,
    /// Number of the newest slot since the epoch.
    newest: i64,
    slots: [i128; SLOTS],
    total: i128,
}

impl Sliding {
    pub(super) fn new(window_ms: i64) -> Self {
        // One slot more than the window would need keeps the bound strict: nothing leaves early.
        Self {
            slot_ms: (window_ms + SLOTS as i64 - 2) / (SLOTS as i64 - 1),
            newest: 0,
            slots: [0; SLOTS],
            total: 0,
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        let slot = now.unix_ms().div_euclid(self.slot_ms);
        if slot <= self.newest {
            return;
        }
        let steps = (slot - self.newest).min(SLOTS as i64);
        for step in 1..=steps {
            let index = Self::index(slot - steps + step);
            self.total -= self.slots[index];
            self.slots[index] = 0;
        }
        self.newest = slot;
    }

    pub(super) fn add(&mut self, at: Timestamp, amount: i128) {
        let slot = at.unix_ms().div_euclid(self.slot_ms).min(self.newest);
        if slot > self.newest - SLOTS as i64 {
            self.slots[Self::index(slot)] += amount;
            self.total += amount;
        }
    }

    fn add_newest(&mut self, amount: i128) {
        self.slots[Self::index(self.newest)] += amount;
        self.total += amount;
    }

    /// When `needed` fits under `limit`, given that nothing more is added.
    fn fits_at(&self, limit: i128, needed: i128) -> Timestamp {
        let mut left = self.total;
        for age in (0..SLOTS as i64).rev() {
            let slot = self.newest - age;
            left -= self.slots[Self::index(slot)];
            if left + needed <= limit {
                return Timestamp::from_unix_ms((slot + SLOTS as i64) * self.slot_ms);
            }
        }
        Timestamp::from_unix_ms((self.newest + SLOTS as i64) * self.slot_ms)
    }

    fn index(slot: i64) -> usize {
        usize::try_from(slot.rem_euclid(SLOTS as i64)).unwrap_or(0)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Counter {
    Sliding(Box<Sliding>),
    Day { day: UtcDay, used: i128 },
    Month { month: UtcMonth, used: i128 },
    Open { used: i128 },
}

impl Counter {
    pub(super) fn new(window: Window) -> Self {
        let epoch = Timestamp::default().day();
        match window {
            Window::Sliding { ms } => Self::Sliding(Box::new(Sliding::new(ms))),
            Window::Day => Self::Day {
                day: epoch,
                used: 0,
            },
            Window::Month => Self::Month {
                month: epoch.month(),
                used: 0,
            },
            Window::Open => Self::Open { used: 0 },
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        match self {
            Self::Sliding(sliding) => sliding.advance(now),
            Self::Day { day, used } if now.day() > *day => (*day, *used) = (now.day(), 0),
            // The month is looked at only when the day could have changed it.
            Self::Month { month, used } if now.day() >= month.next().first_day() => {
                (*month, *used) = (now.day().month(), 0);
            }
            _ => {}
        }
    }

    pub(super) fn used(&self) -> i128 {
        match self {
            Self::Sliding(sliding) => sliding.total,
            Self::Day { used, .. } | Self::Month { used, .. } | Self::Open { used } => *used,
        }
    }

    /// Adds to the current window. A clock that went back does not lead into a window that nobody counts.
    pub(super) fn hold(&mut self, amount: i128) {
        match self {
            Self::Sliding(sliding) => sliding.add_newest(amount),
            Self::Day { used, .. } | Self::Month { used, .. } | Self::Open { used } => {
                *used += amount
            }
        }
    }

    /// Adds to the window that holds `at`; an amount of a past window changes nothing.
    pub(super) fn add(&mut self, at: Timestamp, amount: i128) {
        match self {
            Self::Sliding(sliding) => sliding.add(at, amount),
            Self::Day { day, used } if at.day() == *day => *used += amount,
            Self::Month { month, used } if at.day() >= month.first_day() => *used += amount,
            Self::Open { used } => *used += amount,
            _ => {}
        }
    }

    pub(super) fn retry_at(&self, limit: i128, needed: i128, now: Timestamp) -> Timestamp {
        match self {
            Self::Sliding(sliding) => sliding.fits_at(limit, needed),
            Self::Day { day, .. } => day.next().start(),
            Self::Month { month, .. } => month.next().first_day().start(),
            Self::Open { .. } => now.plus(std::time::Duration::from_secs(1)),
        }
    }
}
