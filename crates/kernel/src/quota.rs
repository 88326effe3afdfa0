//! Limits of a tenant, of its persons and of its tokens: counters in memory, reserve before and settle after. Which quotas there
//! are stands in [`base::quota`].
//!
//! Counters are never the truth: they are rebuilt from the ledger and its roll-ups when a tenant is opened, after the journal's
//! tail was folded into them. A reservation counts in the window in which it was made, and so does its settlement.

use base::{Money, Timestamp};

use base::quota::Window;
pub use base::quota::{Limits, Override, Quota, Scope, Unit};
pub use budget::Quotas;
use in_force::Later;
pub use in_force::ScopedLimits;
pub(crate) use in_force::{LimitsInForce, changed};
pub(crate) use meters::{Caller, Meters, PartyKind};
pub use meters::{Gauge, Standing, Whose};
pub use storage::Stored;
pub use watch::Crossing;

use window::{Amount, Counter, Moment};

mod budget;
mod in_force;
mod meters;
mod storage;
mod watch;
mod window;

/// What the records of one call take of the tenant's storage until it is measured anew: a ledger row, an audit entry, their
/// indexes.
pub(crate) const RECORD_BYTES: i128 = 8 * 1024;

/// A level has no reset: whether there is room again is known after the next measurement, or when a call ends.
const ASK_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_secs(1);

/// What a call may need at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// 1 for a call's first attempt, 0 for its further ones.
    pub requests: u64,
    /// Input bound plus output cap.
    pub tokens: u64,
    /// The same at card price.
    pub cost: Money,
}

impl Demand {
    fn of(&self, unit: Unit) -> i128 {
        match unit {
            Unit::Requests => i128::from(self.requests),
            Unit::Tokens => i128::from(self.tokens),
            Unit::Cost => self.cost.pico(),
            Unit::Bytes => i128::from(self.requests) * RECORD_BYTES,
        }
    }

    /// What of it is held until the settlement; the rest is used at once.
    fn held(&self, quota: Quota) -> i128 {
        match quota.unit() {
            Unit::Tokens | Unit::Cost => self.of(quota.unit()),
            Unit::Requests | Unit::Bytes => 0,
        }
    }
}

/// A reservation that stands in the counters until it is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "an unsettled reservation holds its amount for ever"]
pub struct Reservation {
    at: Timestamp,
    demand: Demand,
    by: Caller,
}

impl Reservation {
    /// The amount held.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// The moment whose windows it counts in.
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    /// The same amount as two reservations: the requests, and tokens with cost.
    pub fn split(self) -> (Self, Self) {
        let Demand {
            requests,
            tokens,
            cost,
        } = self.demand;
        let part = |demand| Self { demand, ..self };
        (
            part(Demand {
                requests,
                ..Demand::default()
            }),
            part(Demand {
                requests: 0,
                tokens,
                cost,
            }),
        )
    }
}

/// Why a reservation did not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// The quota that was hit. Where several are, the one that lasts longest.
    pub quota: Quota,
    /// Whose it is.
    pub whose: Whose,
    /// Its limit (count, or pico-USD).
    pub limit: i128,
    /// What is used and held.
    pub used: i128,
    /// What the call would have needed.
    pub needed: i128,
    /// When the same call can fit again, if nothing else is used and the limits change only as temporary ones end; `None` when it
    /// is larger than the limit that stays. Of a limit of 0 that stays, when to ask again: at the next UTC midnight, or with the
    /// next month where the quota counts by month.
    pub retry_at: Option<Timestamp>,
}

impl Exceeded {
    /// Whether waiting for this one takes longer than for `other`.
    fn outlasts(&self, other: &Self) -> bool {
        match (self.retry_at, other.retry_at) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(own), Some(others)) => own > others,
        }
    }
}

/// The counters of one tenant, person or token.
#[derive(Clone, Debug)]
pub(crate) struct Counters([Counter; Quota::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self(Quota::ALL.map(|quota| Counter::new(quota.window())))
    }
}

impl Counters {
    fn advance(&mut self, moment: Moment) {
        for counter in &mut self.0 {
            counter.advance(moment);
        }
    }

    /// Whether `demand` fits under every limit at the moment to which the counters were advanced; if not, the quota that lasts
    /// longest. `later` is what follows on the limit of a quota.
    fn refusal(
        &self,
        limits: &Limits,
        demand: &Demand,
        now: Timestamp,
        later: impl Fn(Quota) -> Vec<Later>,
    ) -> Option<Exceeded> {
        let mut longest: Option<Exceeded> = None;
        for quota in Quota::ALL {
            let Some(limit) = limits.limit(quota) else {
                continue;
            };
            let counter = &self.0[quota as usize];
            let (used, needed) = (counter.sum().total, demand.of(quota.unit()));
            if needed == 0 || used + needed <= limit {
                continue;
            }
            let (limit, retry_at) = match self.fits_at(quota, limit, needed, now, &later(quota)) {
                Ok(retry_at) => (limit, Some(retry_at)),
                Err(staying) => (staying, None),
            };
            let over = Exceeded {
                quota,
                whose: Whose::Tenant,
                limit,
                used,
                needed,
                retry_at,
            };
            if longest.is_none_or(|found| over.outlasts(&found)) {
                longest = Some(over);
            }
        }
        longest
    }

    /// When `needed` fits under the limit as it is from `now`, or as it is `later`. The limit that stays, where it is too small
    /// for ever.
    fn fits_at(
        &self,
        quota: Quota,
        limit: i128,
        needed: i128,
        now: Timestamp,
        later: &[Later],
    ) -> Result<Timestamp, i128> {
        let counter = &self.0[quota as usize];
        let used = counter.sum().total;
        let (mut from, mut limit) = (now, limit);
        let mut later = later.iter();
        loop {
            let next = later.next();
            let fits = if used + needed <= limit {
                Some(from)
            } else if needed <= limit {
                let ask_again = from.plus(ASK_AGAIN_AFTER);
                Some(counter.retry_at(limit, needed, ask_again).max(from))
            } else if limit == 0 && next.is_none() {
                Some(ask_after_nothing(quota, from))
            } else {
                None
            };
            match (fits, next) {
                (Some(at), None) => return Ok(at),
                (Some(at), Some((end, _))) if at < *end => return Ok(at),
                (_, Some((end, None))) => return Ok(*end),
                (_, Some((end, Some(following)))) => (from, limit) = (*end, *following),
                (None, None) => return Err(limit),
            }
        }
    }

    fn hold(&mut self, demand: &Demand) {
        for quota in Quota::ALL {
            self.0[quota as usize].hold(demand.of(quota.unit()), demand.held(quota));
        }
    }

    /// Replaces what was held by what was charged, in the windows of the reservation; the open call is over.
    fn settle(&mut self, at: Timestamp, held: &Demand, charged: &Demand) {
        for quota in Quota::ALL {
            let unit = quota.unit();
            let (change, freed) = match (quota, unit) {
                (Quota::ConcurrentRequests, _) => (-held.of(unit), 0),
                (_, Unit::Requests | Unit::Bytes) => continue,
                _ => (charged.of(unit) - held.of(unit), -held.held(quota)),
            };
            if (change, freed) != (0, 0) {
                self.0[quota as usize].add(at, change, freed);
            }
        }
    }

    /// Takes back a part of what was held.
    fn give_back(&mut self, at: Timestamp, part: &Demand) {
        for quota in Quota::ALL {
            let (total, held) = (part.of(quota.unit()), part.held(quota));
            if total != 0 {
                self.0[quota as usize].add(at, -total, -held);
            }
        }
    }

    /// Counts in the windows by day and month what is found on disk at opening.
    fn restore_days(&mut self, at: Timestamp, charged: &Demand) {
        for quota in Quota::ALL {
            let counter = &mut self.0[quota as usize];
            if matches!(counter, Counter::Calendar(_)) {
                counter.add(at, charged.of(quota.unit()), 0);
            }
        }
    }

    /// The same for the sliding windows.
    fn restore_sliding(&mut self, at: Timestamp, charged: &Demand) {
        for quota in Quota::ALL {
            let counter = &mut self.0[quota as usize];
            if matches!(counter, Counter::Sliding(_)) {
                counter.add(at, charged.of(quota.unit()), 0);
            }
        }
    }

    fn sum(&self, quota: Quota) -> Amount {
        self.0[quota as usize].sum()
    }

    /// When the window of a quota began that counts by day or month.
    fn window(&self, quota: Quota) -> Option<Timestamp> {
        self.0[quota as usize].began()
    }

    /// What is left of `unit` under every limit; `None` where nothing limits it.
    fn left(&self, limits: &Limits, unit: Unit) -> Option<i128> {
        limits
            .iter()
            .filter(|(quota, _)| quota.unit() == unit)
            .map(|(quota, limit)| (limit - self.sum(quota).total).max(0))
            .min()
    }

    /// Whether nothing personal was used in any window.
    fn is_idle(&self) -> bool {
        let used = |quota: &Quota| quota.is_personal() && self.sum(*quota).total != 0;
        !Quota::ALL.iter().any(used)
    }
}

/// When to ask again under a limit of 0 that does not end by itself: no moment is known at which a call fits, so none that is near
/// is promised.
fn ask_after_nothing(quota: Quota, from: Timestamp) -> Timestamp {
    let day = from.day();
    let next = match quota.window() {
        Window::Month => day.month().next().first_day(),
        _ => day.next(),
    };
    next.start()
}

#[cfg(test)]
mod tests;
