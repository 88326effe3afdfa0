//! Which routes a call tries, in which order, and how many retries a provider's failures may cause.
//!
//! Pure: the catalog, the call and one random number in; a list out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use base::limits;
use llm::Operation;

use crate::catalog::{Catalog, Model, ModelName, Provider, Route};

/// Fallbacks of fallbacks are followed this deep.
const FALLBACK_DEPTH_MAX: usize = 3;

/// One place to try.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The public name under which the route stands: the model asked for, or a fallback.
    pub model: ModelName,
    /// Who is asked.
    pub provider: Arc<Provider>,
    /// The model's name there.
    pub provider_model: Arc<str>,
}

/// The attempts of one call, in order: the routes of `model` by weighted draw without replacement,
/// then those of its fallbacks, breadth first. Each provider and model comes once, at most
/// [`limits::ATTEMPTS_MAX`] in all. A fallback that the caller may not see is passed over, as is
/// a provider that does not answer `operation`; the list may be empty.
#[must_use]
pub fn choose(
    catalog: &Catalog,
    model: &Model,
    operation: Operation,
    draw: u64,
    sees: impl Fn(&str) -> bool,
) -> Vec<Choice> {
    let mut draws = Draws(draw);
    let mut choices = Vec::with_capacity(model.routes.len().min(ATTEMPTS_MAX));
    add_routes(&mut choices, model, operation, &mut draws);
    let mut visited = vec![&model.name];
    let mut level: Vec<&ModelName> = model.fallback.iter().collect();
    for _ in 0..FALLBACK_DEPTH_MAX {
        let mut next = Vec::new();
        for name in level {
            if choices.len() >= ATTEMPTS_MAX {
                return choices;
            }
            if visited.contains(&name) || !sees(name.as_str()) {
                continue;
            }
            visited.push(name);
            if let Some(model) = catalog.model(name.as_str()) {
                add_routes(&mut choices, model, operation, &mut draws);
                next.extend(&model.fallback);
            }
        }
        level = next;
    }
    choices
}

const ATTEMPTS_MAX: usize = limits::ATTEMPTS_MAX as usize;

fn add_routes(choices: &mut Vec<Choice>, model: &Model, operation: Operation, draws: &mut Draws) {
    let same = |choice: &Choice, route: &Route| {
        choice.provider.name() == route.provider.name() && choice.provider_model == route.model
    };
    let mut open: Vec<&Route> = model
        .routes
        .iter()
        .filter(|route| {
            route.provider.answers(operation) && !choices.iter().any(|c| same(c, route))
        })
        .collect();
    while choices.len() < ATTEMPTS_MAX && !open.is_empty() {
        let route = open.remove(draws.weighted(&open));
        choices.push(Choice {
            model: model.name.clone(),
            provider: Arc::clone(&route.provider),
            provider_model: Arc::clone(&route.model),
        });
        open.retain(|other| !choices.iter().any(|c| same(c, other)));
    }
}

/// Numbers that follow from one random number (splitmix64).
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The index of one route, each with its weight's share. 0 for a list of one.
    fn weighted(&mut self, routes: &[&Route]) -> usize {
        if routes.len() < 2 {
            return 0;
        }
        let total: u128 = routes.iter().map(|route| u128::from(route.weight)).sum();
        let mut at = (u128::from(self.next()) * total) >> 64;
        for (index, route) in routes.iter().enumerate() {
            match at.checked_sub(u128::from(route.weight)) {
                Some(rest) => at = rest,
                None => return index,
            }
        }
        0
    }
}

/// Thousandths of a retry that one call earns: retries stay below a fifth of the calls.
const EARNED_PER_CALL: u64 = 200;
/// What can be saved up: the retries of the last hundred calls.
const EARNED_MAX: u64 = 20_000;
/// Retries per second that are always allowed, so that a quiet provider can be retried at all.
const FREE_PER_SECOND: u64 = 3;
const ONE_RETRY: u64 = 1_000;

/// How many retries the failures of one provider may cause. A provider that fails every call then
/// sends on a fifth of its load at most, instead of all of it at once.
#[derive(Debug)]
pub struct RetryBudget {
    // Held for a few additions.
    purse: Mutex<Purse>,
}

#[derive(Debug)]
struct Purse {
    earned: u64,
    free: u64,
    // Up to when `free` is filled.
    filled: Option<Instant>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            purse: Mutex::new(Purse {
                earned: 0,
                free: FREE_PER_SECOND * ONE_RETRY,
                filled: None,
            }),
        }
    }
}

impl RetryBudget {
    /// Counts the first attempt of a call.
    pub fn earn(&self) {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        purse.earned = (purse.earned + EARNED_PER_CALL).min(EARNED_MAX);
    }

    /// Takes one retry; `false` when the budget is spent, and the failure goes to the client.
    #[must_use]
    pub fn spend(&self, now: Instant) -> bool {
        let mut purse = self.purse.lock().unwrap_or_else(PoisonError::into_inner);
        purse.fill(now);
        let Purse { earned, free, .. } = &mut *purse;
        for pot in [free, earned] {
            if let Some(rest) = pot.checked_sub(ONE_RETRY) {
                *pot = rest;
                return true;
            }
        }
        false
    }
}

impl Purse {
    fn fill(&mut self, now: Instant) {
        let since = *self.filled.get_or_insert(now);
        let elapsed_ms =
            u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
        if elapsed_ms > 0 {
            let max = FREE_PER_SECOND * ONE_RETRY;
            self.free = self
                .free
                .saturating_add(elapsed_ms.saturating_mul(FREE_PER_SECOND))
                .min(max);
            self.filled = Some(now);
        }
    }
}

/// One budget per provider of a catalog.
#[derive(Debug, Default)]
pub struct RetryBudgets {
    by_provider: HashMap<Box<str>, RetryBudget>,
}

impl RetryBudgets {
    /// Fresh budgets for all providers.
    #[must_use]
    pub fn new(catalog: &Catalog) -> Self {
        let names = catalog.providers().iter().map(|provider| provider.name());
        Self {
            by_provider: names
                .map(|name| (name.into(), RetryBudget::default()))
                .collect(),
        }
    }

    /// Counts the first attempt of a call, at this provider.
    pub fn earn(&self, provider: &Provider) {
        if let Some(budget) = self.by_provider.get(provider.name()) {
            budget.earn();
        }
    }

    /// Takes a retry that the failure of `failed` causes. An attempt that was never sent needs
    /// none: it put no load on anybody.
    #[must_use]
    pub fn spend(&self, failed: &Provider, now: Instant) -> bool {
        self.by_provider
            .get(failed.name())
            .is_some_and(|budget| budget.spend(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{model, provider, spec};
    use crate::catalog::{Catalog, ProviderKind};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn catalog(models: Vec<Model>) -> Catalog {
        Catalog::new(vec![provider("a"), provider("b")], models, BTreeMap::new()).unwrap()
    }

    fn names(choices: &[Choice]) -> Vec<String> {
        choices
            .iter()
            .map(|c| format!("{}:{}@{}", c.model, c.provider_model, c.provider.name()))
            .collect()
    }

    fn chosen(catalog: &Catalog, model: &str, draw: u64) -> Vec<String> {
        names(&choose(
            catalog,
            catalog.model(model).unwrap(),
            Operation::ChatCompletions,
            draw,
            |_| true,
        ))
    }

    #[test]
    fn routes_first_then_fallbacks_breadth_first() {
        let catalog = catalog(vec![
            model("m", &[("a", 1)], &["n", "o"]),
            model("n", &[("a", 1)], &["p", "m"]),
            model("o", &[("a", 1)], &["n"]),
            model("p", &[("a", 1)], &["m", "p"]),
        ]);
        assert_eq!(
            chosen(&catalog, "m", 7),
            ["m:m@a", "n:n@a", "o:o@a", "p:p@a"]
        );
    }

    #[test]
    fn the_same_place_is_tried_once() {
        let mut twin = model("n", &[("a", 1), ("b", 1)], &[]);
        for route in &mut twin.routes {
            route.model = "m".into();
        }
        let catalog = catalog(vec![model("m", &[("a", 5), ("a", 1)], &["n"]), twin]);
        assert_eq!(chosen(&catalog, "m", 1), ["m:m@a", "n:m@b"]);
    }

    #[test]
    fn hidden_fallbacks_and_unfit_providers_are_passed_over() {
        let catalog = catalog(vec![
            model("m", &[("a", 1)], &["n"]),
            model("n", &[("a", 1)], &["o"]),
            model("o", &[("a", 1)], &[]),
        ]);
        let asked = catalog.model("m").unwrap();
        let seen = choose(&catalog, asked, Operation::ChatCompletions, 1, |name| {
            name != "n"
        });
        assert_eq!(names(&seen), ["m:m@a"]);

        let mut claude = model("m", &[("a", 1)], &[]);
        claude.routes[0].provider = Arc::new(
            Provider::new(spec(
                "c",
                ProviderKind::Anthropic,
                "https://api.example.com",
            ))
            .unwrap(),
        );
        let catalog = Catalog::new(vec![], vec![claude], BTreeMap::new()).unwrap();
        let asked = catalog.model("m").unwrap();
        assert_eq!(
            choose(&catalog, asked, Operation::Embeddings, 1, |_| true).len(),
            0
        );
        assert_eq!(
            choose(&catalog, asked, Operation::ChatCompletions, 1, |_| true).len(),
            1
        );
        assert_eq!(
            choose(&catalog, asked, Operation::Messages, 1, |_| true).len(),
            1
        );
    }

    #[test]
    fn first_picks_follow_the_weights() {
        let catalog = catalog(vec![model("m", &[("a", 1), ("b", 2), ("c", 7)], &[])]);
        let mut first = BTreeMap::<String, u32>::new();
        let mut draws = Draws(42);
        for _ in 0..20_000 {
            let choices = chosen(&catalog, "m", draws.next());
            assert_eq!(choices.len(), 3);
            *first.entry(choices[0].clone()).or_default() += 1;
        }
        // Six standard deviations of a binomial of 20,000.
        for (route, expect, slack) in [
            ("m:m@a", 2_000, 255),
            ("m:m@b", 4_000, 340),
            ("m:m@c", 14_000, 390),
        ] {
            assert!(first[route].abs_diff(expect) <= slack, "{first:?}");
        }
    }

    #[test]
    fn a_budget_lets_a_fifth_through() {
        let now = Instant::now();
        let budget = RetryBudget::default();
        let spent = (0..1_000)
            .filter(|_| {
                budget.earn();
                budget.spend(now)
            })
            .count();
        assert_eq!(spent, 203);
        assert!(!RetryBudgets::default().spend(&provider("a"), now));
    }

    proptest! {
        #[test]
        fn attempts_are_bounded_unique_and_known(
            routes in proptest::collection::vec(proptest::collection::vec(("[a-c]", 1_u32..1_000), 1..6), 1..8),
            fallbacks in proptest::collection::vec(proptest::collection::vec(0_usize..8, 0..4), 8),
            draw: u64,
        ) {
            let count = routes.len();
            let models: Vec<Model> = routes.iter().enumerate().map(|(index, routes)| {
                let routes: Vec<(&str, u32)> = routes.iter().map(|(at, weight)| (at.as_str(), *weight)).collect();
                let fallback: Vec<String> = fallbacks[index].iter().map(|to| format!("m{}", to % count)).collect();
                let fallback: Vec<&str> = fallback.iter().map(String::as_str).collect();
                model(&format!("m{index}"), &routes, &fallback)
            }).collect();
            let catalog = catalog(models);
            let choices = chosen(&catalog, "m0", draw);
            prop_assert!((1..=ATTEMPTS_MAX).contains(&choices.len()));
            prop_assert!(choices[0].starts_with("m0:"));
            let mut unique = choices.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(unique.len(), choices.len());
            prop_assert_eq!(choices, chosen(&catalog, "m0", draw));
        }

        #[test]
        fn retries_stay_within_a_fifth_plus_three_a_second(steps in proptest::collection::vec((0_u64..400, 0_u32..4, 0_u32..4), 1..200)) {
            let start = Instant::now();
            let budget = RetryBudget::default();
            let (mut at, mut calls, mut retries) = (0_u64, 0_u64, 0_u64);
            for (wait_ms, earns, spends) in steps {
                at += wait_ms;
                for _ in 0..earns {
                    budget.earn();
                    calls += 1;
                }
                for _ in 0..spends {
                    retries += u64::from(budget.spend(start + Duration::from_millis(at)));
                }
            }
            prop_assert!(retries * 1_000 <= calls * 200 + at * 3 + 3_000, "{retries} of {calls} in {at} ms");
        }
    }
}
