use std::time::Duration;

use base::Money;
use proptest::prelude::*;

use super::*;

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

fn limits(pairs: &[(Quota, i128)]) -> LimitsInForce {
    scoped(&[], pairs)
}

/// Limits of each token, and of the tenant.
fn scoped(each_token: &[(Quota, i128)], tenant: &[(Quota, i128)]) -> LimitsInForce {
    let mut tier = ScopedLimits::default();
    for (limits, pairs) in [
        (&mut tier.each_token, each_token),
        (&mut tier.tenant, tenant),
    ] {
        for (quota, limit) in pairs {
            limits.set(*quota, Some(*limit));
        }
    }
    LimitsInForce::new(&tier, &[], at("2026-01-01"))
}

/// Nobody in particular.
const ANY: Caller = Caller {
    person: None,
    token: None,
};

fn token(meters: &mut Meters, name: &str) -> Caller {
    Caller {
        token: meters.party_id(PartyKind::Token, name, at("2026-01-01")),
        person: None,
    }
}

fn used(meters: &mut Meters, limits: &LimitsInForce, quota: Quota, now: Timestamp) -> (i128, i128) {
    let gauge = meters.gauges(limits, now)[quota as usize];
    (gauge.used, gauge.held)
}

#[test]
fn exactly_fifty_of_ten_cents_fit_into_five_dollars() {
    let limits = limits(&[(Quota::CostPerDay, Money::parse_usd("5").unwrap().pico())]);
    let now = at("2026-11-22T10:00:00Z");
    let mut meters = Meters::default();
    let mut fits = || meters.reserve(&limits, ANY, call(10, "0.1"), now);
    let admitted = (0..1000).filter(|_| fits().is_ok()).count();
    assert_eq!(admitted, 50);
    let refused = fits().unwrap_err();
    assert_eq!(refused.quota, Quota::CostPerDay);
    assert_eq!(refused.retry_at, Some(at("2026-11-23T00:00:00Z")));
}

#[test]
fn larger_than_the_limit_never_fits() {
    let limits = limits(&[(Quota::TokensPerDay, 100), (Quota::RequestsPerDay, 0)]);
    let now = at("2026-01-01");
    let refused = Meters::default()
        .reserve(&limits, ANY, call(101, "0"), now)
        .unwrap_err();
    // Waiting for the other one would not help.
    assert_eq!(
        (refused.quota, refused.retry_at),
        (Quota::TokensPerDay, None)
    );
}

#[test]
fn zero_admits_nothing_and_windows_reset() {
    let none = limits(&[(Quota::RequestsPerDay, 0)]);
    let mut meters = Meters::default();
    let refused = meters.reserve(&none, ANY, call(0, "0"), at("2026-01-01"));
    assert!(refused.is_err());
    let month = limits(&[(Quota::CostPerMonth, Money::parse_usd("1").unwrap().pico())]);
    let held = meters
        .reserve(&month, ANY, call(1, "1"), at("2026-12-31T23:59:59Z"))
        .unwrap();
    let refused = meters
        .reserve(&month, ANY, call(1, "1"), at("2026-12-31T23:59:59.9Z"))
        .unwrap_err();
    assert_eq!(refused.retry_at, Some(at("2027-01-01")));
    let new_year = at("2027-01-01");
    let next = meters.reserve(&month, ANY, call(1, "1"), new_year).unwrap();
    // The old month's settlement does not touch the new month.
    meters.settle(held, call(1, "0"));
    assert!(
        meters
            .reserve(&month, ANY, call(1, "0.1"), new_year)
            .is_err()
    );
    meters.settle(next, call(1, "0.5"));
    assert!(
        meters
            .reserve(&month, ANY, call(1, "0.5"), new_year)
            .is_ok()
    );
}

/// Temporary and lasting overrides over the tier's limits of the tenant and of each token.
fn overridden(tier: &ScopedLimits, lines: &[(&str, Quota, i128, Option<&str>)]) -> LimitsInForce {
    let over = |(scope, quota, limit, until): &(&str, Quota, i128, Option<&str>)| Override {
        scope: scope.parse().unwrap(),
        quota: *quota,
        limit: *limit,
        until: until.map(at),
    };
    let overrides: Vec<Override> = lines.iter().map(over).collect();
    LimitsInForce::new(tier, &overrides, at("2026-11-22T02:57:00Z"))
}

type Line = (&'static str, Quota, i128, Option<&'static str>);

/// Refuses a call of 70 tokens after one of 30, and holds the refusal to its word.
fn refused_until(lines: &[Line], retry: Option<&str>) {
    let now = at("2026-11-22T02:58:00Z");
    let mut tier = ScopedLimits::default();
    tier.tenant.set(Quota::StorageBytes, Some(1 << 30));
    let before = scoped(&[], &[]);
    let mut meters = Meters::default();
    let ci = token(&mut meters, "ci");
    let first = meters.reserve(&before, ci, call(30, "0"), now).unwrap();
    meters.settle(first, call(30, "0"));
    let limits = overridden(&tier, lines);
    let demand = call(70, "0");
    let over = meters.reserve(&limits, ci, demand, now).unwrap_err();
    assert_eq!(over.retry_at, retry.map(at), "{lines:?}");
    if over.retry_at.is_none() {
        assert_eq!(over.limit, 50);
    }
    // What was said is true: not a millisecond before, and then.
    let fits = |meters: &mut Meters, now: Timestamp| {
        let living: Vec<_> = lines
            .iter()
            .filter(|line| line.3.is_none_or(|end| now < at(end)))
            .copied()
            .collect();
        meters
            .reserve(&overridden(&tier, &living), ci, demand, now)
            .is_ok()
    };
    let retry = over.retry_at.unwrap_or(at("2030-01-01"));
    assert!(
        !fits(&mut meters, Timestamp::from_unix_ms(retry.unix_ms() - 1)),
        "{lines:?}"
    );
    assert_eq!(
        fits(&mut meters, retry),
        over.retry_at.is_some(),
        "{lines:?}"
    );
}

#[test]
fn a_refusal_under_a_temporary_limit_names_its_end_where_that_comes_first() {
    use Quota::{ConcurrentRequests, RequestsPerMinute, StorageBytes, TokensPerDay};
    let soon = "2026-11-22T02:58:03Z";
    let tomorrow = "2026-11-23T00:00:00Z";
    let later = "2026-11-24T12:00:00Z";
    let lasting = ("tenant", TokensPerDay, 50, None);
    for (lines, retry) in [
        // Nothing else limits: at the end.
        (&[("tenant", TokensPerDay, 0, Some(soon))][..], Some(soon)),
        (&[("tenant", TokensPerDay, 20, Some(soon))], Some(soon)),
        (&[("tenant", ConcurrentRequests, 0, Some(soon))], Some(soon)),
        (&[("tenant", RequestsPerMinute, 0, Some(soon))], Some(soon)),
        (&[("tenant", StorageBytes, 0, Some(soon))], Some(soon)),
        (&[("tenant", TokensPerDay, 20, Some(later))], Some(later)),
        // The window is over before.
        (&[("tenant", TokensPerDay, 95, Some(later))], Some(tomorrow)),
        // The limit below it is too small until the window is over, or for ever.
        (
            &[
                ("tenant", TokensPerDay, 20, Some(soon)),
                ("tenant", TokensPerDay, 95, None),
            ],
            Some(tomorrow),
        ),
        (&[("tenant", TokensPerDay, 20, Some(soon)), lasting], None),
        (&[("tenant", TokensPerDay, 20, Some(later)), lasting], None),
        // A limit that ends, but not that of this call.
        (
            &[lasting, ("each-person", TokensPerDay, 500, Some(soon))],
            None,
        ),
        (
            &[lasting, ("tenant", RequestsPerMinute, 500, Some(soon))],
            None,
        ),
        // Of one token: its own ends, then that of each.
        (&[("token:ci", TokensPerDay, 0, Some(soon))], Some(soon)),
        (
            &[
                ("token:ci", TokensPerDay, 0, Some(soon)),
                ("each-token", TokensPerDay, 1, Some(later)),
            ],
            Some(later),
        ),
        (
            &[
                ("token:ci", TokensPerDay, 0, Some(soon)),
                ("each-token", TokensPerDay, 95, Some(later)),
            ],
            Some(tomorrow),
        ),
        (
            &[
                ("token:ci", TokensPerDay, 0, Some(later)),
                ("each-token", TokensPerDay, 0, Some(soon)),
            ],
            Some(later),
        ),
    ] {
        refused_until(lines, retry);
    }
}

#[test]
fn a_limit_of_zero_that_stays_promises_nothing_near() {
    let now = at("2026-11-22T10:00:00Z");
    for quota in Quota::ALL {
        let limits = limits(&[(quota, 0)]);
        let over = Meters::default()
            .reserve(&limits, ANY, call(1, "1"), now)
            .unwrap_err();
        let month = quota == Quota::CostPerMonth;
        let expect = if month { "2026-12-01" } else { "2026-11-23" };
        assert_eq!((over.quota, over.limit), (quota, 0));
        assert_eq!(over.retry_at, Some(at(expect)), "{quota:?}");
    }
}

#[test]
fn what_lasts_longest_is_what_the_caller_is_told() {
    let limits = scoped(
        &[(Quota::TokensPerDay, 10)],
        &[
            (Quota::RequestsPerMinute, 1),
            (Quota::CostPerMonth, Money::parse_usd("1").unwrap().pico()),
        ],
    );
    let now = at("2026-11-22T10:00:00Z");
    let mut meters = Meters::default();
    let ci = token(&mut meters, "ci");
    let _held = meters.reserve(&limits, ci, call(10, "0.1"), now).unwrap();
    let told = |meters: &mut Meters, demand| meters.reserve(&limits, ci, demand, now).unwrap_err();
    // The minute is over long before the day is.
    let over = told(&mut meters, call(1, "0.1"));
    assert_eq!(
        (over.quota, over.whose),
        (Quota::TokensPerDay, Whose::Token)
    );
    assert_eq!(over.retry_at, Some(at("2026-11-23")));
    let over = told(&mut meters, call(1, "0.95"));
    assert_eq!(
        (over.quota, over.whose),
        (Quota::CostPerMonth, Whose::Tenant)
    );
    assert_eq!(over.retry_at, Some(at("2026-12-01")));
}

#[test]
fn each_token_has_counters_of_its_own_and_a_refusal_counts_for_nobody() {
    let limits = scoped(&[(Quota::TokensPerDay, 100)], &[(Quota::TokensPerDay, 150)]);
    let now = at("2026-11-22T10:00:00Z");
    let mut meters = Meters::default();
    let (a, b) = (token(&mut meters, "a"), token(&mut meters, "b"));
    let one = meters.reserve(&limits, a, call(100, "0"), now).unwrap();
    let over = meters.reserve(&limits, a, call(1, "0"), now).unwrap_err();
    assert_eq!(over.whose, Whose::Token);
    let over = meters.reserve(&limits, b, call(60, "0"), now).unwrap_err();
    assert_eq!(over.whose, Whose::Tenant);
    assert_eq!(meters.left(&limits, b, Unit::Tokens, now), Some(50));
    let two = meters.reserve(&limits, b, call(50, "0"), now).unwrap();
    meters.settle(one, call(10, "0"));
    assert_eq!(meters.left(&limits, a, Unit::Tokens, now), Some(90));
    meters.release(two);
    let lines = meters.party_gauges(PartyKind::Token, &limits, now);
    let tokens: Vec<_> = lines
        .iter()
        .map(|(name, gauges)| (&**name, gauges[Quota::TokensPerDay as usize].used))
        .collect();
    // The other one has used nothing.
    assert_eq!(tokens, [("a", 10)]);
    assert_eq!(
        used(&mut meters, &limits, Quota::TokensPerDay, now),
        (10, 0)
    );
}

#[test]
fn standing_names_the_tightest_limit_of_each_unit() {
    let limits = scoped(
        &[(Quota::TokensPerMinute, 1_000)],
        &[
            (Quota::TokensPerDay, 500),
            (Quota::RequestsPerDay, 3),
            (Quota::ConcurrentRequests, 1),
        ],
    );
    let now = at("2026-11-22T10:00:00Z");
    let mut meters = Meters::default();
    let ci = token(&mut meters, "ci");
    let _held = meters.reserve(&limits, ci, call(100, "0"), now).unwrap();
    let standing = meters.standing(&limits, ci);
    let tokens = standing.tokens.unwrap();
    assert_eq!(
        (tokens.quota, tokens.left()),
        (Quota::TokensPerDay, Some(400))
    );
    assert_eq!((tokens.used, tokens.held), (0, 100));
    assert_eq!(tokens.resets_at, Some(at("2026-11-23")));
    let requests = standing.requests.unwrap();
    assert_eq!(
        (requests.quota, requests.left()),
        (Quota::RequestsPerDay, Some(2))
    );
    assert_eq!(standing.cost, None);
}

#[test]
fn a_sliding_minute_never_admits_more_in_any_minute() {
    let limits = limits(&[(Quota::RequestsPerMinute, 10)]);
    let mut meters = Meters::default();
    let start = at("2026-01-01").unix_ms();
    let mut admitted = Vec::new();
    for tick in 0..4_000 {
        let now = Timestamp::from_unix_ms(start + tick * 97);
        if meters.reserve(&limits, ANY, call(1, "0"), now).is_ok() {
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
fn a_clock_that_goes_back_switches_no_limit_off() {
    for quota in [Quota::RequestsPerMinute, Quota::RequestsPerDay] {
        let limits = limits(&[(quota, 3)]);
        let mut meters = Meters::default();
        let _ahead = meters
            .reserve(&limits, ANY, call(1, "0"), at("2026-01-03"))
            .unwrap();
        let back = at("2026-01-01T12:00:00Z");
        let fits = |_: &i32| meters.reserve(&limits, ANY, call(1, "0"), back).is_ok();
        let admitted = (0..200).filter(fits).count();
        assert_eq!(admitted, 2, "{quota:?}");
    }
}

#[test]
fn what_a_clock_that_went_back_reserved_is_given_back() {
    let limits = limits(&[(Quota::TokensPerDay, 10), (Quota::TokensPerMinute, 10)]);
    let mut meters = Meters::default();
    let _none = meters
        .reserve(&limits, ANY, call(0, "0"), at("2026-01-03"))
        .unwrap();
    let back = at("2026-01-01");
    for _ in 0..5 {
        let held = meters.reserve(&limits, ANY, call(10, "0"), back).unwrap();
        meters.release(held);
    }
}

#[test]
fn storage_is_measured_and_open_calls_keep_their_bound_on_top() {
    let limits = limits(&[(Quota::StorageBytes, 10 * RECORD_BYTES)]);
    let now = at("2026-01-01");
    let mut meters = Meters::default();
    meters.measured(u64::try_from(7 * RECORD_BYTES).unwrap(), 1);
    let one = meters.reserve(&limits, ANY, call(1, "0"), now).unwrap();
    let _two = meters.reserve(&limits, ANY, call(1, "0"), now).unwrap();
    let over = meters.reserve(&limits, ANY, call(1, "0"), now).unwrap_err();
    assert_eq!(over.quota, Quota::StorageBytes);
    assert_eq!(over.retry_at, Some(now.plus(ASK_AGAIN_AFTER)));
    // A call that ended has written its record; the next measurement finds how large it was.
    meters.settle(one, call(1, "0"));
    assert!(meters.reserve(&limits, ANY, call(1, "0"), now).is_err());
    let open = meters.open_calls();
    meters.measured(u64::try_from(7 * RECORD_BYTES).unwrap() + 100, open);
    assert!(meters.reserve(&limits, ANY, call(1, "0"), now).is_ok());
}

#[test]
fn thresholds_are_told_once_for_each_window() {
    let limits = limits(&[
        (Quota::TokensPerDay, 100),
        (Quota::RequestsPerMinute, 1_000),
    ]);
    let percents = [50, 80, 100];
    let mut meters = Meters::default();
    let now = at("2026-11-22T10:00:00Z");
    let told = |meters: &mut Meters, now| -> Vec<(Quota, u8)> {
        let crossings = meters.crossed(&limits, &percents, now);
        crossings.iter().map(|c| (c.quota, c.percent)).collect()
    };
    assert!(told(&mut meters, now).is_empty());
    let day = Quota::TokensPerDay;
    let settled = |meters: &mut Meters, tokens: u64, now| {
        let held = meters
            .reserve(&limits, ANY, call(tokens, "0"), now)
            .unwrap();
        // What is held may come back: it reaches nothing.
        assert!(told(meters, now).is_empty());
        meters.settle(held, call(tokens, "0"));
    };
    settled(&mut meters, 49, now);
    assert!(told(&mut meters, now).is_empty());
    // A call that does not fit while half is left says nothing about the budget.
    assert!(meters.reserve(&limits, ANY, call(90, "0"), now).is_err());
    assert!(told(&mut meters, now).is_empty());
    settled(&mut meters, 36, now);
    assert_eq!(told(&mut meters, now), [(day, 50), (day, 80)]);
    assert!(told(&mut meters, now).is_empty());
    // The end of a budget is where calls are refused, though a few tokens are left.
    assert!(meters.reserve(&limits, ANY, call(30, "0"), now).is_err());
    assert_eq!(told(&mut meters, now), [(day, 100)]);
    assert_eq!(meters.throttled(&limits)[0].quota, day);
    assert!(meters.throttled(&limits).is_empty());
    let tomorrow = now.plus(Duration::from_secs(86_400));
    settled(&mut meters, 60, tomorrow);
    let crossing = meters.crossed(&limits, &percents, tomorrow)[0];
    assert_eq!((crossing.percent, crossing.used), (50, 60));
    assert!(!crossing.refused);
    assert_eq!(crossing.window, Some(at("2026-11-23")));
    assert_eq!(crossing.resets_at, Some(at("2026-11-24")));
}

#[test]
fn a_refused_call_says_that_a_budget_has_ended_only_where_little_is_left() {
    let limits = limits(&[(Quota::TokensPerDay, 100)]);
    let noon = at("2026-11-22T12:00:00Z");
    for percents in [&[100][..], &[1, 100], &[50, 100]] {
        let mut meters = Meters::default();
        let told = |meters: &mut Meters, now| -> Vec<u8> {
            let crossings = meters.crossed(&limits, percents, now);
            crossings.iter().map(|c| c.percent).collect()
        };
        let uses = |meters: &mut Meters, tokens| {
            let held = meters.reserve(&limits, ANY, call(tokens, "0"), noon);
            meters.settle(held.unwrap(), call(tokens, "0"));
        };
        let refused = |meters: &mut Meters, now| {
            assert!(meters.reserve(&limits, ANY, call(200, "0"), now).is_err());
        };
        uses(&mut meters, 60);
        refused(&mut meters, noon);
        assert!(!told(&mut meters, noon).contains(&100), "{percents:?}");
        uses(&mut meters, 30);
        assert!(!told(&mut meters, noon).contains(&100), "{percents:?}");
        // What was refused in a window that is over says nothing about the next.
        refused(&mut meters, noon);
        let tomorrow = at("2026-11-23T12:00:00Z");
        let held = meters.reserve(&limits, ANY, call(90, "0"), tomorrow);
        meters.settle(held.unwrap(), call(90, "0"));
        assert!(!told(&mut meters, tomorrow).contains(&100), "{percents:?}");
        refused(&mut meters, tomorrow);
        assert_eq!(told(&mut meters, tomorrow), [100]);
    }
}

#[test]
fn thresholds_of_storage_are_told_again_when_bytes_fell_below_them() {
    let limits = limits(&[(Quota::StorageBytes, 100)]);
    let mut meters = Meters::default();
    let mut told = |bytes| -> Vec<u8> {
        meters.measured(bytes, 0);
        let crossings = meters.crossed(&limits, &[50, 80, 100], at("2026-11-22"));
        crossings.iter().map(|c| c.percent).collect()
    };
    assert_eq!(told(85), [50, 80]);
    // Still past a half: of that nothing is new.
    assert!(told(70).is_empty());
    assert_eq!(told(81), [80]);
    assert!(told(10).is_empty());
    assert_eq!(told(60), [50]);
}

#[test]
fn places_of_idle_parties_are_given_to_new_ones() {
    let limits = scoped(&[(Quota::RequestsPerMinute, 1)], &[]);
    let now = at("2026-01-01");
    let mut meters = Meters::default();
    let ids: Vec<_> = (0..10_000)
        .map(|n| token(&mut meters, &format!("t{n}")))
        .collect();
    for by in &ids {
        let held = meters.reserve(&limits, *by, call(1, "0"), now).unwrap();
        meters.settle(held, call(1, "0"));
    }
    // Everybody is active in this month.
    assert_eq!(meters.party_id(PartyKind::Token, "new", now), None);
    let next_month = at("2026-02-02");
    let lines = |meters: &mut Meters, now| meters.party_gauges(PartyKind::Token, &limits, now);
    assert_eq!(lines(&mut meters, now).len(), 10_000);
    assert!(lines(&mut meters, next_month).is_empty());
    let new = meters
        .party_id(PartyKind::Token, "new", next_month)
        .unwrap();
    let gone = ids.iter().filter_map(|by| by.token);
    assert_eq!(gone.filter(|id| !meters.knows(*id)).count(), 1);
    assert!(meters.knows(new) && meters::PartyId::unpacked(new.packed()) == Some(new));
    assert_eq!(meters::PartyId::unpacked(0), None);
}

proptest! {
    #[test]
    fn settled_plus_held_never_passes_the_limit(steps in proptest::collection::vec((0_u8..4, 0_u64..40, 0_usize..40), 1..300)) {
        let limits = scoped(
            &[(Quota::TokensPerDay, 70), (Quota::CostPerDay, 30)],
            &[(Quota::TokensPerDay, 100), (Quota::ConcurrentRequests, 5), (Quota::CostPerMonth, 50)],
        );
        let now = at("2026-06-01T12:00:00Z");
        let mut meters = Meters::default();
        let tokens = [token(&mut meters, "a"), token(&mut meters, "b")];
        let mut open: Vec<(usize, Reservation)> = Vec::new();
        let mut settled = [0_u64; 2];
        for (action, amount, other) in steps {
            let who = other % 2;
            // Costs of one pico-USD a token: the sums are the same in both units.
            let demand = |tokens: u64| Demand { requests: 1, tokens, cost: Money::from_pico(i128::from(tokens)) };
            if action < 2 {
                if let Ok(held) = meters.reserve(&limits, tokens[who], demand(amount), now) {
                    open.push((who, held));
                }
            } else if !open.is_empty() {
                let (whose, held) = open.remove(other % open.len());
                if action == 2 {
                    let charged = held.demand().tokens.min(amount);
                    settled[whose] += charged;
                    meters.settle(held, demand(charged));
                } else {
                    meters.release(held);
                }
            }
            let held = |whose: usize| -> u64 { open.iter().filter(|(by, _)| *by == whose).map(|(_, held)| held.demand().tokens).sum() };
            let all = settled[0] + settled[1] + held(0) + held(1);
            prop_assert!(all <= 50 && open.len() <= 5);
            for whose in [0, 1] {
                prop_assert!(settled[whose] + held(whose) <= 30);
                let lines = meters.party_gauges(PartyKind::Token, &limits, now);
                let line = lines.iter().find(|(name, _)| **name == *["a", "b"][whose]);
                let gauge = line.map(|(_, gauges)| gauges[Quota::TokensPerDay as usize]);
                prop_assert_eq!(gauge.map_or((0, 0), |gauge| (gauge.used, gauge.held)), (i128::from(settled[whose]), i128::from(held(whose))));
            }
            prop_assert_eq!(used(&mut meters, &limits, Quota::TokensPerDay, now), (i128::from(settled[0] + settled[1]), i128::from(held(0) + held(1))));
            prop_assert_eq!(used(&mut meters, &limits, Quota::ConcurrentRequests, now).0, open.len() as i128);
        }
    }

    /// Whatever was used before: a millisecond before the moment that a refusal names the call does not fit, at it it does.
    #[test]
    fn the_moment_of_a_refusal_is_true(
        used in proptest::collection::vec((0_i64..90_000, 1_u64..30), 0..40),
        quota in proptest::sample::select(vec![Quota::RequestsPerSecond, Quota::RequestsPerMinute, Quota::TokensPerMinute, Quota::TokensPerDay, Quota::CostPerDay, Quota::CostPerMonth]),
        start in proptest::sample::select(vec!["2026-11-30T23:59:00Z", "2026-12-31T23:58:58.5Z", "2028-02-28T23:59:30Z", "2026-03-04T05:06:07.089Z"]),
        needed in 1_u64..30,
    ) {
        let limits = limits(&[(quota, 40)]);
        let mut meters = Meters::default();
        let mut now = at(start);
        for (wait_ms, amount) in used {
            now = now.plus(Duration::from_millis(u64::try_from(wait_ms / 10).unwrap()));
            let demand = Demand { requests: amount, tokens: amount, cost: Money::from_pico(i128::from(amount)) };
            let _held = meters.reserve(&limits, ANY, demand, now);
        }
        let demand = Demand { requests: needed, tokens: needed, cost: Money::from_pico(i128::from(needed)) };
        if let Err(over) = meters.reserve(&limits, ANY, demand, now) {
            let retry = over.retry_at.unwrap();
            prop_assert!(retry > now);
            let before = Timestamp::from_unix_ms(retry.unix_ms() - 1);
            prop_assert!(meters.reserve(&limits, ANY, demand, before).is_err());
            prop_assert!(meters.reserve(&limits, ANY, demand, retry).is_ok());
        }
    }
}
