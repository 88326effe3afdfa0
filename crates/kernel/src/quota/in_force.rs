//! Which limits hold now: the tier's, replaced by the operator's overrides as long as those last.

use std::sync::atomic::{AtomicU64, Ordering};

use base::Timestamp;

use super::{Limits, Override, PartyKind, Quota, Scope};
use crate::error::KernelError;

/// Overrides of one tenant: every token with every quota, and some persons.
const OVERRIDES_MAX: usize = 20_000;

/// Numbers the values of [`LimitsInForce`], so that what was worked out from one is known to be stale under the next.
static GENERATION: AtomicU64 = AtomicU64::new(1);

/// The limits of a tier, or of a tenant: its own, and those of each person and each token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ScopedLimits {
    /// Of the tenant as a whole.
    pub tenant: Limits,
    /// Of each person, apart.
    pub each_person: Limits,
    /// Of each token, apart.
    pub each_token: Limits,
}

/// What holds for one tenant now. Immutable; a change makes a new value.
#[derive(Debug)]
pub(crate) struct LimitsInForce {
    pub(crate) for_all: ScopedLimits,
    /// Limits of single persons and tokens, already over those of each.
    named: Vec<(Scope, Limits)>,
    /// When the first of the temporary overrides ends that hold now.
    pub(crate) ends: Option<Timestamp>,
    pub(crate) generation: u64,
    /// What it was made from, where a part of it ends by itself: refusals say when.
    made_from: Option<Box<(ScopedLimits, Vec<Override>)>>,
}

/// A limit and the moment from which it holds; `None` does not limit.
pub(super) type Later = (Timestamp, Option<i128>);

impl LimitsInForce {
    pub(crate) fn new(tier: &ScopedLimits, overrides: &[Override], now: Timestamp) -> Self {
        let living = |over: &&Override| over.until.is_none_or(|until| now < until);
        // What ends by itself stands over what does not.
        let mut order: Vec<&Override> = overrides.iter().filter(living).collect();
        order.sort_by_key(|over| over.until.is_some());
        let mut for_all = *tier;
        for over in &order {
            let limits = match over.scope {
                Scope::Tenant => &mut for_all.tenant,
                Scope::EachPerson => &mut for_all.each_person,
                Scope::EachToken => &mut for_all.each_token,
                Scope::Person(_) | Scope::Token(_) => continue,
            };
            limits.set(over.quota, Some(over.limit));
        }
        let mut named: Vec<(Scope, Limits)> = Vec::new();
        for over in &order {
            let for_each = match over.scope {
                Scope::Person(_) => for_all.each_person,
                Scope::Token(_) => for_all.each_token,
                Scope::Tenant | Scope::EachPerson | Scope::EachToken => continue,
            };
            let place = named.iter().position(|(scope, _)| *scope == over.scope);
            let place = place.unwrap_or_else(|| {
                named.push((over.scope.clone(), for_each));
                named.len() - 1
            });
            named[place].1.set(over.quota, Some(over.limit));
        }
        let ends = order.iter().filter_map(|over| over.until).min();
        let living = || order.iter().map(|over| (*over).clone()).collect();
        Self {
            for_all,
            named,
            ends,
            made_from: ends.map(|_| Box::new((*tier, living()))),
            generation: GENERATION.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The limits of one person.
    pub(crate) fn of_person(&self, name: &str) -> Limits {
        let is_it = |scope: &Scope| matches!(scope, Scope::Person(own) if **own == *name);
        self.named_or(is_it, self.for_all.each_person)
    }

    /// The limits of one token.
    pub(crate) fn of_token(&self, name: &str) -> Limits {
        let is_it = |scope: &Scope| matches!(scope, Scope::Token(own) if own.as_str() == name);
        self.named_or(is_it, self.for_all.each_token)
    }

    fn named_or(&self, is_it: impl Fn(&Scope) -> bool, for_each: Limits) -> Limits {
        self.named
            .iter()
            .find(|(scope, _)| is_it(scope))
            .map_or(for_each, |(_, limits)| *limits)
    }

    /// What follows on the limit of one quota as temporary overrides end, of the tenant or of one of its persons and tokens:
    /// at most one's own and that of each. Walks all overrides: for refusals.
    pub(super) fn later(&self, of: Option<(PartyKind, &str)>, quota: Quota) -> Vec<Later> {
        let mut later = Vec::new();
        let Some((tier, overrides)) = self.made_from.as_deref() else {
            return later;
        };
        let is_own = |scope: &Scope| match (scope, of) {
            (Scope::Person(own), Some((PartyKind::Person, name))) => **own == *name,
            (Scope::Token(own), Some((PartyKind::Token, name))) => own.as_str() == name,
            _ => false,
        };
        let (for_each, at_last) = match of {
            None => (Scope::Tenant, &tier.tenant),
            Some((PartyKind::Person, _)) => (Scope::EachPerson, &tier.each_person),
            Some((PartyKind::Token, _)) => (Scope::EachToken, &tier.each_token),
        };
        let mut from: Option<Timestamp> = None;
        for own in [true, false] {
            let of_quota = overrides.iter().filter(|over| {
                let same = if own {
                    is_own(&over.scope)
                } else {
                    over.scope == for_each
                };
                same && over.quota == quota
            });
            let mut lasting = None;
            let mut temporary = None;
            for over in of_quota {
                match over.until {
                    Some(end) => temporary = Some((over.limit, end)),
                    None => lasting = Some(over.limit),
                }
            }
            if let Some((limit, end)) = temporary
                && from.is_none_or(|from| from < end)
            {
                later.extend(from.map(|from| (from, Some(limit))));
                from = Some(end);
            }
            if lasting.is_some() {
                later.extend(from.map(|from| (from, lasting)));
                return later;
            }
        }
        later.extend(from.map(|from| (from, at_last.limit(quota))));
        later
    }

    /// Whether a temporary override has ended since.
    pub(crate) fn stale_at(&self, now: Timestamp) -> bool {
        self.ends.is_some_and(|end| now >= end)
    }
}

/// The overrides after a change of one scope: `Some` sets a limit, until `until` where that is given; `None` lifts what was set.
/// Overrides that ended are dropped.
pub(crate) fn changed(
    before: &[Override],
    scope: &Scope,
    change: &[(Quota, Option<i128>)],
    until: Option<Timestamp>,
    now: Timestamp,
) -> Result<Vec<Override>, KernelError> {
    if until.is_some_and(|until| until <= now) {
        return Err(KernelError::Refused(
            "the end of the override lies in the past".to_owned(),
        ));
    }
    // What was lifted would not come back by itself.
    if let Some((quota, _)) = change.iter().find(|(_, limit)| limit.is_none())
        && until.is_some()
    {
        let name = quota.name();
        return Err(KernelError::Refused(format!(
            "{name} cannot be lifted for a time; set a high limit instead"
        )));
    }
    let personal = *scope != Scope::Tenant;
    if let Some((quota, _)) = change
        .iter()
        .find(|(quota, _)| personal && !quota.is_personal())
    {
        let name = quota.name();
        return Err(KernelError::Refused(format!(
            "{name} is the tenant's as a whole; it has no scope {scope}"
        )));
    }
    let mut after: Vec<Override> = before.to_vec();
    after.retain(|over| over.until.is_none_or(|end| now < end));
    for (quota, limit) in change {
        after.retain(|over| {
            let same = over.scope == *scope && over.quota == *quota;
            // A temporary limit leaves the lasting one below it; lifting takes both.
            let replaced = limit.is_none() || over.until.is_some() == until.is_some();
            !(same && replaced)
        });
        if let Some(limit) = limit {
            after.push(Override {
                scope: scope.clone(),
                quota: *quota,
                limit: (*limit).max(0),
                until,
            });
        }
    }
    if after.len() > OVERRIDES_MAX {
        return Err(KernelError::Refused(format!(
            "a tenant may have {OVERRIDES_MAX} limits of its own"
        )));
    }
    after.sort_by(|a, b| (&a.scope, a.quota, a.until).cmp(&(&b.scope, b.quota, b.until)));
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    const QUOTA: Quota = Quota::TokensPerDay;

    #[test]
    fn the_nearest_limit_holds_and_a_temporary_one_ends_by_itself() {
        let mut tier = ScopedLimits::default();
        tier.tenant.set(QUOTA, Some(100));
        tier.each_token.set(QUOTA, Some(10));
        tier.each_token.set(Quota::RequestsPerDay, Some(9));
        let now = at("2026-11-30T23:00:00Z");
        let end = at("2026-12-01");
        let set = |before: &[Override], who: &str, limit, until| {
            changed(before, &scope(who), &[(QUOTA, limit)], until, now).unwrap()
        };
        let mut overrides = set(&[], "tenant", Some(200), None);
        overrides = set(&overrides, "tenant", Some(900), Some(end));
        overrides = set(&overrides, "token:ci", Some(50), None);
        overrides = set(&overrides, "each-token", Some(20), None);
        let limits = LimitsInForce::new(&tier, &overrides, now);
        assert_eq!(limits.for_all.tenant.limit(QUOTA), Some(900));
        assert_eq!(limits.of_token("ci").limit(QUOTA), Some(50));
        assert_eq!(limits.of_token("ci").limit(Quota::RequestsPerDay), Some(9));
        assert_eq!(limits.of_token("other").limit(QUOTA), Some(20));
        assert_eq!(limits.of_person("ann").limit(QUOTA), None);
        assert!(!limits.stale_at(now) && limits.stale_at(end));
        let after = LimitsInForce::new(&tier, &overrides, end);
        assert_eq!(after.for_all.tenant.limit(QUOTA), Some(200));
        assert!(!after.stale_at(at("2030-01-01")));
        // Lifting takes the lasting and the temporary one.
        let lifted = LimitsInForce::new(&tier, &set(&overrides, "tenant", None, None), now);
        assert_eq!(lifted.for_all.tenant.limit(QUOTA), Some(100));
    }

    #[test]
    fn a_change_replaces_its_like_and_refuses_what_cannot_be() {
        let now = at("2026-11-30");
        let later = Some(at("2026-12-01"));
        let one = changed(&[], &Scope::Tenant, &[(QUOTA, Some(1))], None, now).unwrap();
        let two = changed(&one, &Scope::Tenant, &[(QUOTA, Some(2))], later, now).unwrap();
        let three = changed(&two, &Scope::Tenant, &[(QUOTA, Some(3))], later, now).unwrap();
        let limits: Vec<i128> = three.iter().map(|over| over.limit).collect();
        assert_eq!(limits, [1, 3]);
        let past = changed(&[], &Scope::Tenant, &[(QUOTA, Some(1))], Some(now), now);
        assert!(matches!(past, Err(KernelError::Refused(_))));
        // Lifting would not end: neither the lasting nor the temporary limit would come back.
        let lifted = changed(&three, &Scope::Tenant, &[(QUOTA, None)], later, now);
        assert!(matches!(lifted, Err(KernelError::Refused(text)) if text.contains(QUOTA.name())));
        let bytes = [(Quota::StorageBytes, Some(1))];
        assert!(changed(&[], &scope("token:ci"), &bytes, None, now).is_err());
        assert!(changed(&[], &Scope::Tenant, &bytes, None, now).is_ok());
        // What ended is gone with the next change.
        let later = changed(&three, &Scope::EachToken, &[], None, at("2026-12-02")).unwrap();
        assert_eq!(later.len(), 1);
    }
}
