//! Limits of a tenant: one typed table, counters in memory, reserve before and settle after.
//!
//! Counters are never the truth: they are rebuilt from the folded roll-ups and the journal's tail when a tenant is opened.
//! A reservation counts in the window in which it was made, and so does its settlement.

use base::{Money, Timestamp};

use window::{Counter, Window};

mod window;

/// One limit of the table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(usize)]
pub enum Quota {
    /// Calls in any second.
    RequestsPerSecond,
    /// Calls in any minute.
    RequestsPerMinute,
    /// Calls in a UTC day.
    RequestsPerDay,
    /// Tokens in any minute, input and output.
    TokensPerMinute,
    /// Tokens in a UTC day, input and output.
    TokensPerDay,
    /// Cost in a UTC day.
    CostPerDay,
    /// Cost in a UTC month.
    CostPerMonth,
    /// Calls at the same time.
    ConcurrentRequests,
}

/// What a quota counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Calls.
    Requests,
    /// Tokens.
    Tokens,
    /// pico-USD.
    Cost,
}

impl Quota {
    /// Every quota, in the order in which they are checked and shown.
    pub const ALL: [Self; 8] = [
        Self::RequestsPerSecond,
        Self::RequestsPerMinute,
        Self::RequestsPerDay,
        Self::TokensPerMinute,
        Self::TokensPerDay,
        Self::CostPerDay,
        Self::CostPerMonth,
        Self::ConcurrentRequests,
    ];

    /// The name in configuration, headers, messages and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RequestsPerSecond => "requests_per_second",
            Self::RequestsPerMinute => "requests_per_minute",
            Self::RequestsPerDay => "requests_per_day",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::TokensPerDay => "tokens_per_day",
            Self::CostPerDay => "cost_per_day_usd",
            Self::CostPerMonth => "cost_per_month_usd",
            Self::ConcurrentRequests => "concurrent_requests",
        }
    }

    /// The quota of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quota| quota.name() == name)
    }

    /// What it counts.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::TokensPerMinute | Self::TokensPerDay => Unit::Tokens,
            Self::CostPerDay | Self::CostPerMonth => Unit::Cost,
            _ => Unit::Requests,
        }
    }

    fn window(self) -> Window {
        match self {
            Self::RequestsPerSecond => Window::Sliding { ms: 1_000 },
            Self::RequestsPerMinute | Self::TokensPerMinute => Window::Sliding { ms: 60_000 },
            Self::RequestsPerDay | Self::TokensPerDay | Self::CostPerDay => Window::Day,
            Self::CostPerMonth => Window::Month,
            Self::ConcurrentRequests => Window::Open,
        }
    }
}

/// The limits of one tenant; an absent one does not limit, a limit of 0 admits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits([Option<i128>; Quota::ALL.len()]);

impl Limits {
    /// One limit: a count, or pico-USD for costs.
    #[must_use]
    pub fn limit(&self, quota: Quota) -> Option<i128> {
        self.0[quota as usize]
    }

    /// Sets one limit, or lifts it.
    pub fn set(&mut self, quota: Quota, limit: Option<i128>) {
        self.0[quota as usize] = limit.map(|value| value.max(0));
    }

    /// These limits, replaced by those that `over` has.
    #[must_use]
    pub fn overridden_by(&self, over: &Self) -> Self {
        let mut merged = *self;
        for (slot, replacement) in merged.0.iter_mut().zip(over.0) {
            if replacement.is_some() {
                *slot = replacement;
            }
        }
        merged
    }
}

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
        }
    }
}

/// A reservation that stands in the counters until it is settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "an unsettled reservation holds its amount for ever"]
pub struct Reservation {
    at: Timestamp,
    demand: Demand,
}

impl Reservation {
    /// The amount held.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.demand
    }

    /// The same amount as two reservations: the requests, and tokens with cost.
    pub fn split(self) -> (Self, Self) {
        let Demand {
            requests,
            tokens,
            cost,
        } = self.demand;
        let call = Demand {
            requests,
            ..Demand::default()
        };
        let rest = Demand {
            requests: 0,
            tokens,
            cost,
        };
        (
            Self {
                at: self.at,
                demand: call,
            },
            Self {
                at: self.at,
                demand: rest,
            },
        )
    }
}

/// Why a reservation did not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exceeded {
    /// The quota that was hit.
    pub quota: Quota,
    /// Its limit (count, or pico-USD).
    pub limit: i128,
    /// What is used and held.
    pub used: i128,
    /// What the call would have needed.
    pub needed: i128,
    /// When the same call can fit again; `None` when it is larger than the whole limit.
    pub retry_at: Option<Timestamp>,
}

/// The counters of one tenant.
#[derive(Clone, Debug)]
pub struct Counters([Counter; Quota::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self(Quota::ALL.map(|quota| Counter::new(quota.window())))
    }
}

impl Counters {
    /// Sets `demand` aside in every window, or in none.
    ///
    /// # Errors
    /// The first quota of the table that it does not fit.
    pub fn reserve(
        &mut self,
        limits: &Limits,
        demand: Demand,
        now: Timestamp,
    ) -> Result<Reservation, Exceeded> {
        for quota in Quota::ALL {
            let counter = &mut self.0[quota as usize];
            counter.advance(now);
            let needed = demand.of(quota.unit());
            let Some(limit) = limits.limit(quota) else {
                continue;
            };
            let used = counter.used();
            if needed > 0 && used + needed > limit {
                // A limit of 0 is hit like any other; a call larger than a positive limit never fits.
                let retry_at =
                    (needed <= limit || limit == 0).then(|| counter.retry_at(limit, needed, now));
                return Err(Exceeded {
                    quota,
                    limit,
                    used,
                    needed,
                    retry_at,
                });
            }
        }
        for quota in Quota::ALL {
            self.0[quota as usize].hold(demand.of(quota.unit()));
        }
        Ok(Reservation { at: now, demand })
    }

    /// Replaces what was held by what was charged, in the windows of the reservation; the open call is over.
    pub fn settle(&mut self, reservation: Reservation, charged: Demand) {
        for quota in Quota::ALL {
            let unit = quota.unit();
            let change = match (quota, unit) {
                (Quota::ConcurrentRequests, _) => -reservation.demand.of(unit),
                (_, Unit::Requests) => 0,
                _ => charged.of(unit) - reservation.demand.of(unit),
            };
            self.0[quota as usize].add(reservation.at, change);
        }
    }

    /// Lowers a reservation; nothing is ever raised here.
    pub fn shrink(&mut self, reservation: &mut Reservation, to: Demand) {
        let held = reservation.demand;
        let to = Demand {
            requests: held.requests,
            tokens: to.tokens.min(held.tokens),
            cost: to.cost.min(held.cost),
        };
        for quota in Quota::ALL {
            let unit = quota.unit();
            self.0[quota as usize].add(reservation.at, to.of(unit) - held.of(unit));
        }
        reservation.demand = to;
    }

    /// Gives a reservation back whole: nothing was sent.
    pub fn release(&mut self, reservation: Reservation) {
        for quota in Quota::ALL {
            self.0[quota as usize].add(reservation.at, -reservation.demand.of(quota.unit()));
        }
    }

    /// Counts a charge that was found on disk at opening.
    pub fn restore(&mut self, at: Timestamp, charged: Demand, now: Timestamp) {
        for quota in Quota::ALL {
            if quota != Quota::ConcurrentRequests {
                self.0[quota as usize].advance(now);
                self.0[quota as usize].add(at, charged.of(quota.unit()));
            }
        }
    }

    /// What is used and held now.
    pub fn used(&mut self, quota: Quota, now: Timestamp) -> i128 {
        self.0[quota as usize].advance(now);
        self.0[quota as usize].used()
    }

    /// What is left of `unit` under every limit; `None` where nothing limits it.
    pub fn left(&mut self, limits: &Limits, unit: Unit, now: Timestamp) -> Option<i128> {
        Quota::ALL
            .into_iter()
            .filter(|quota| quota.unit() == unit)
            .filter_map(|quota| {
                limits
                    .limit(quota)
                    .map(|limit| (limit - self.used(quota, now)).max(0))
            })
            .min()
    }

    /// When the window of `quota` next begins anew.
    #[must_use]
    pub fn resets_at(&self, quota: Quota, now: Timestamp) -> Timestamp {
        self.0[quota as usize].retry_at(0, 0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn call(tokens: u64, usd: &str) -> Demand {
        Demand {
            requests: 1,
            tokens,
            cost: Money::parse_usd(usd).unwrap(),
        }
    }

    fn limits(pairs: &[(Quota, i128)]) -> Limits {
        let mut limits = Limits::default();
        for (quota, limit) in pairs {
            limits.set(*quota, Some(*limit));
        }
        limits
    }

    #[test]
    fn exactly_fifty_of_ten_cents_fit_into_five_dollars() {
        let limits = limits(&[(Quota::CostPerDay, Money::parse_usd("5").unwrap().pico())]);
        let now = at("2026-11-22T10:00:00Z");
        let mut counters = Counters::default();
        let admitted = (0..1000)
            .filter(|_| counters.reserve(&limits, call(10, "0.1"), now).is_ok())
            .count();
        assert_eq!(admitted, 50);
        let refused = counters.reserve(&limits, call(10, "0.1"), now).unwrap_err();
        assert_eq!(refused.quota, Quota::CostPerDay);
        assert_eq!(refused.retry_at, Some(at("2026-11-23T00:00:00Z")));
    }

    #[test]
    fn larger_than_the_limit_never_fits() {
        let limits = limits(&[(Quota::TokensPerDay, 100)]);
        let refused = Counters::default()
            .reserve(&limits, call(101, "0"), at("2026-01-01"))
            .unwrap_err();
        assert_eq!(refused.retry_at, None);
    }

    #[test]
    fn zero_admits_nothing_and_windows_reset() {
        let none = limits(&[(Quota::RequestsPerDay, 0)]);
        let mut counters = Counters::default();
        assert!(
            counters
                .reserve(&none, call(0, "0"), at("2026-01-01"))
                .is_err()
        );
        let month = limits(&[(Quota::CostPerMonth, Money::parse_usd("1").unwrap().pico())]);
        let held = counters
            .reserve(&month, call(1, "1"), at("2026-12-31T23:59:59Z"))
            .unwrap();
        let refused = counters
            .reserve(&month, call(1, "1"), at("2026-12-31T23:59:59.9Z"))
            .unwrap_err();
        assert_eq!(refused.retry_at, Some(at("2027-01-01")));
        let next = counters
            .reserve(&month, call(1, "1"), at("2027-01-01"))
            .unwrap();
        // The old month's settlement does not touch the new month.
        counters.settle(
            held,
            Demand {
                requests: 1,
                tokens: 1,
                cost: Money::ZERO,
            },
        );
        assert!(
            counters
                .reserve(&month, call(1, "0.1"), at("2027-01-01"))
                .is_err()
        );
        counters.settle(next, call(1, "0.5"));
        assert!(
            counters
                .reserve(&month, call(1, "0.5"), at("2027-01-01"))
                .is_ok()
        );
    }

    #[test]
    fn a_sliding_minute_never_admits_more_in_any_minute() {
        let limits = limits(&[(Quota::RequestsPerMinute, 10)]);
        let mut counters = Counters::default();
        let start = at("2026-01-01").unix_ms();
        let mut admitted = Vec::new();
        for tick in 0..4_000 {
            let now = Timestamp::from_unix_ms(start + tick * 97);
            if counters.reserve(&limits, call(1, "0"), now).is_ok() {
                admitted.push(now.unix_ms());
            }
        }
        for window in admitted.windows(11) {
            assert!(
                window[10] - window[0] >= 60_000,
                "{} ms",
                window[10] - window[0]
            );
        }
        assert!(admitted.len() > 55);
    }

    #[test]
    fn the_retry_moment_of_a_sliding_window_is_true() {
        let limits = limits(&[(Quota::RequestsPerMinute, 1)]);
        let mut counters = Counters::default();
        let now = at("2026-01-01T00:00:30Z");
        let _held = counters.reserve(&limits, call(1, "0"), now).unwrap();
        let retry = counters
            .reserve(&limits, call(1, "0"), now)
            .unwrap_err()
            .retry_at
            .unwrap();
        assert!(retry.since(now).as_secs() <= 62);
        let before = Timestamp::from_unix_ms(retry.unix_ms() - 1);
        assert!(
            counters
                .clone()
                .reserve(&limits, call(1, "0"), before)
                .is_err()
        );
        assert!(counters.reserve(&limits, call(1, "0"), retry).is_ok());
    }

    #[test]
    fn a_clock_that_goes_back_switches_no_limit_off() {
        for quota in [Quota::RequestsPerMinute, Quota::RequestsPerDay] {
            let limits = limits(&[(quota, 3)]);
            let mut counters = Counters::default();
            let _ahead = counters
                .reserve(&limits, call(1, "0"), at("2026-01-03"))
                .unwrap();
            let back = at("2026-01-01T12:00:00Z");
            let admitted = (0..200)
                .filter(|_| counters.reserve(&limits, call(1, "0"), back).is_ok())
                .count();
            assert_eq!(admitted, 2, "{quota:?}");
        }
    }

    proptest! {
        #[test]
        fn settled_plus_held_never_passes_the_limit(steps in proptest::collection::vec((0_u8..3, 0_u64..40, 0_u64..40), 1..200)) {
            let limits = limits(&[(Quota::TokensPerDay, 100), (Quota::ConcurrentRequests, 5)]);
            let now = at("2026-06-01T12:00:00Z");
            let mut counters = Counters::default();
            let mut open: Vec<Reservation> = Vec::new();
            let mut settled = 0_u64;
            for (action, amount, other) in steps {
                if action < 2 {
                    if let Ok(held) = counters.reserve(&limits, call(amount, "0"), now) {
                        open.push(held);
                    }
                } else if !open.is_empty() {
                    let held = open.remove(usize::try_from(other).unwrap() % open.len());
                    let charged = held.demand().tokens.min(amount);
                    settled += charged;
                    counters.settle(held, call(charged, "0"));
                }
                let held: u64 = open.iter().map(|held| held.demand().tokens).sum();
                prop_assert!(settled + held <= 100);
                prop_assert!(open.len() <= 5);
                prop_assert_eq!(counters.used(Quota::TokensPerDay, now), i128::from(settled + held));
                prop_assert_eq!(counters.used(Quota::ConcurrentRequests, now), open.len() as i128);
            }
        }
    }
}
