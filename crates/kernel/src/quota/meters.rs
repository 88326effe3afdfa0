//! The counters of a tenant together with those of its persons and tokens: reserved in all or in none.

use std::collections::HashMap;

use base::Timestamp;
use base::quota::Window;

use super::watch::Told;
use super::window::Moment;
use super::{Counters, Demand, Exceeded, Limits, LimitsInForce, Quota, Reservation, Unit};

/// Persons and tokens of one tenant that were active in this month, at most. Past it, further ones are refused: nobody is
/// served uncounted.
const PARTIES_MAX: usize = 10_000;

/// Whose quota a call did not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The tenant's as a whole.
    Tenant,
    /// That of the person who calls.
    Person,
    /// That of the token which was used.
    Token,
}

impl Whose {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Person => "person",
            Self::Token => "token",
        }
    }
}

/// A person or a token: who can have counters within a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum PartyKind {
    Person,
    Token,
}

impl PartyKind {
    /// The name in the roll-ups.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Token => "token",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Person, Self::Token]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }

    fn whose(self) -> Whose {
        match self {
            Self::Person => Whose::Person,
            Self::Token => Whose::Token,
        }
    }
}

/// The place of a person's or token's counters. It outlives its party harmlessly: the stamp tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartyId {
    place: u32,
    stamp: u32,
}

impl PartyId {
    /// As one number, never 0.
    pub(crate) fn packed(self) -> u64 {
        (u64::from(self.stamp) << 32) | u64::from(self.place)
    }

    pub(crate) fn unpacked(number: u64) -> Option<Self> {
        let stamp = u32::try_from(number >> 32)
            .ok()
            .filter(|stamp| *stamp > 0)?;
        let place = u32::try_from(number & u64::from(u32::MAX)).ok()?;
        Some(Self { place, stamp })
    }
}

/// Who acts within the tenant, as far as it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Caller {
    pub(crate) person: Option<PartyId>,
    pub(crate) token: Option<PartyId>,
}

impl Caller {
    fn parties(self) -> impl Iterator<Item = PartyId> {
        self.person.into_iter().chain(self.token)
    }
}

struct Party {
    kind: PartyKind,
    name: Box<str>,
    /// Counts up when the place is given to another party.
    stamp: u32,
    /// What holds for it under `generation`.
    limits: Limits,
    generation: u64,
    counters: Counters,
}

impl Party {
    fn limits(&mut self, in_force: &LimitsInForce) -> &Limits {
        if self.generation != in_force.generation {
            self.generation = in_force.generation;
            self.limits = match self.kind {
                PartyKind::Person => in_force.of_person(&self.name),
                PartyKind::Token => in_force.of_token(&self.name),
            };
        }
        &self.limits
    }
}

/// Where one limit stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gauge {
    /// Which limit.
    pub quota: Quota,
    /// The limit; `None` where the quota does not limit.
    pub limit: Option<i128>,
    /// Used for good in the current window.
    pub used: i128,
    /// Set aside for calls under way.
    pub held: i128,
    /// When the window begins anew, or all of a sliding one is free; `None` where nothing is to become free: a sliding window that
    /// is, open calls, stored bytes.
    pub resets_at: Option<Timestamp>,
}

impl Gauge {
    /// What may still be used; `None` where the quota does not limit.
    #[must_use]
    pub fn left(&self) -> Option<i128> {
        self.limit
            .map(|limit| (limit - self.used - self.held).max(0))
    }
}

/// Where a caller stands: of each unit, the limit with the least left, over tenant, person and token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Of the windows that count calls.
    pub requests: Option<Gauge>,
    /// Of those that count tokens.
    pub tokens: Option<Gauge>,
    /// Of those that count money.
    pub cost: Option<Gauge>,
}

impl Standing {
    fn take_in(&mut self, counters: &Counters, limits: &Limits) {
        for (quota, _) in limits.iter() {
            let windowed = !matches!(quota.window(), Window::WhileOpen | Window::Stored);
            let slot = match quota.unit() {
                Unit::Requests if windowed => &mut self.requests,
                Unit::Tokens => &mut self.tokens,
                Unit::Cost => &mut self.cost,
                Unit::Requests | Unit::Bytes => continue,
            };
            let gauge = counters.gauge(quota, limits);
            if slot.is_none_or(|other| gauge.left() < other.left()) {
                *slot = Some(gauge);
            }
        }
    }
}

impl Counters {
    pub(super) fn gauge(&self, quota: Quota, limits: &Limits) -> Gauge {
        let sum = self.sum(quota);
        Gauge {
            quota,
            limit: limits.limit(quota),
            used: sum.total - sum.held,
            held: sum.held,
            resets_at: self.0[quota as usize].resets_at(),
        }
    }

    fn gauges(&self, limits: &Limits) -> Vec<Gauge> {
        let gauge = |quota| self.gauge(quota, limits);
        Quota::ALL.into_iter().map(gauge).collect()
    }
}

/// All counters of one tenant.
#[derive(Default)]
pub(crate) struct Meters {
    pub(super) tenant: Counters,
    parties: Vec<Party>,
    index: [HashMap<Box<str>, u32>; 2],
    /// The latest moment seen: a clock that goes back opens no second window.
    latest: Timestamp,
    pub(super) told: [Told; Quota::COUNT],
    /// Something was reserved, refused or settled since thresholds were last looked at.
    pub(super) touched: bool,
}

impl Meters {
    /// Sets `demand` aside in every window of the tenant, the person and the token, or in none.
    ///
    /// # Errors
    /// Of the quotas that it does not fit, the one that lasts longest.
    pub(crate) fn reserve(
        &mut self,
        in_force: &LimitsInForce,
        by: Caller,
        demand: Demand,
        now: Timestamp,
    ) -> Result<Reservation, Exceeded> {
        let moment = self.moment(now);
        let at = moment.now;
        self.touched = true;
        self.tenant.advance(moment);
        let limits = &in_force.for_all.tenant;
        let later = |quota| in_force.later(None, quota);
        let mut longest = self.tenant.refusal(limits, &demand, at, later);
        if let Some(over) = &longest {
            let window = self.tenant.window(over.quota);
            self.told[over.quota as usize].refused(window);
        }
        for id in by.parties() {
            let Some(party) = party(&mut self.parties, id) else {
                continue;
            };
            party.counters.advance(moment);
            let whose = party.kind.whose();
            let limits = *party.limits(in_force);
            let later = |quota| in_force.later(Some((party.kind, &party.name)), quota);
            if let Some(over) = party.counters.refusal(&limits, &demand, at, later)
                && longest.is_none_or(|found| over.outlasts(&found))
            {
                longest = Some(Exceeded { whose, ..over });
            }
        }
        if let Some(over) = longest {
            return Err(over);
        }
        self.tenant.hold(&demand);
        for id in by.parties() {
            if let Some(party) = party(&mut self.parties, id) {
                party.counters.hold(&demand);
            }
        }
        Ok(Reservation { at, demand, by })
    }

    /// Replaces what was held by what was charged, in the windows of the reservation; the open call is over.
    pub(crate) fn settle(&mut self, reservation: Reservation, charged: Demand) {
        let Reservation { at, demand, by } = reservation;
        self.touched = true;
        self.each(by, |counters| counters.settle(at, &demand, &charged));
    }

    /// Lowers a reservation; nothing is ever raised here.
    pub(crate) fn shrink(&mut self, reservation: &mut Reservation, to: Demand) {
        let held = reservation.demand;
        let to = Demand {
            requests: held.requests,
            tokens: to.tokens.min(held.tokens),
            cost: to.cost.min(held.cost),
        };
        if to == held {
            return;
        }
        let part = Demand {
            requests: 0,
            tokens: held.tokens - to.tokens,
            cost: held.cost - to.cost,
        };
        let at = reservation.at;
        self.each(reservation.by, |counters| counters.give_back(at, &part));
        reservation.demand = to;
    }

    /// Gives a reservation back whole: nothing was sent.
    pub(crate) fn release(&mut self, reservation: Reservation) {
        let Reservation { at, demand, by } = reservation;
        self.each(by, |counters| counters.give_back(at, &demand));
    }

    /// Counts in the windows by day and month what is found on disk at opening: for the tenant, or for one party.
    pub(crate) fn restore_day(
        &mut self,
        of: Option<(PartyKind, &str)>,
        at: Timestamp,
        charged: Demand,
        now: Timestamp,
    ) {
        self.restore(of, now, |counters| counters.restore_days(at, &charged));
    }

    /// Counts one row of the ledger in the sliding windows.
    pub(crate) fn restore_recent(
        &mut self,
        of: Option<(PartyKind, &str)>,
        at: Timestamp,
        charged: Demand,
        now: Timestamp,
    ) {
        self.restore(of, now, |counters| counters.restore_sliding(at, &charged));
    }

    fn restore(
        &mut self,
        of: Option<(PartyKind, &str)>,
        now: Timestamp,
        change: impl FnOnce(&mut Counters),
    ) {
        let moment = self.moment(now);
        self.touched = true;
        let counters = match of {
            None => Some(&mut self.tenant),
            Some((kind, name)) => self
                .party_id(kind, name, now)
                .and_then(|id| party(&mut self.parties, id))
                .map(|party| &mut party.counters),
        };
        if let Some(counters) = counters {
            counters.advance(moment);
            change(counters);
        }
    }

    /// The counters of a person or token, made at its first call. `None` when too many are active.
    pub(crate) fn party_id(
        &mut self,
        kind: PartyKind,
        name: &str,
        now: Timestamp,
    ) -> Option<PartyId> {
        if let Some(place) = self.index[kind as usize].get(name) {
            return self.id_at(*place);
        }
        let place = self.free_place(now)?;
        let index = usize::try_from(place).ok()?;
        let stamp = self.parties.get(index).map_or(0, |party| party.stamp);
        let party = Party {
            kind,
            name: name.into(),
            stamp: stamp.wrapping_add(1).max(1),
            limits: Limits::default(),
            generation: 0,
            counters: Counters::default(),
        };
        if index == self.parties.len() {
            self.parties.push(party);
        } else {
            self.parties[index] = party;
        }
        self.index[kind as usize].insert(name.into(), place);
        self.id_at(place)
    }

    fn id_at(&self, place: u32) -> Option<PartyId> {
        let party = self.parties.get(usize::try_from(place).ok()?)?;
        let stamp = party.stamp;
        Some(PartyId { place, stamp })
    }

    /// Whether the counters of that place are still that party's.
    pub(crate) fn knows(&self, id: PartyId) -> bool {
        self.id_at(id.place) == Some(id)
    }

    /// A new place, or that of a party that has used nothing in any window.
    fn free_place(&mut self, now: Timestamp) -> Option<u32> {
        if self.parties.len() < PARTIES_MAX {
            return u32::try_from(self.parties.len()).ok();
        }
        let moment = self.moment(now);
        let idle = self.parties.iter_mut().position(|party| {
            party.counters.advance(moment);
            party.counters.is_idle()
        })?;
        let gone = &self.parties[idle];
        self.index[gone.kind as usize].remove(&gone.name);
        u32::try_from(idle).ok()
    }

    /// The refusal of a caller for whom no counters can be made.
    pub(crate) fn crowded(now: Timestamp) -> Exceeded {
        let limit = i128::try_from(PARTIES_MAX).unwrap_or(i128::MAX);
        Exceeded {
            quota: Quota::ConcurrentRequests,
            whose: Whose::Tenant,
            limit,
            used: limit,
            needed: 1,
            retry_at: Some(now.day().month().next().first_day().start()),
        }
    }

    /// What is left of `unit` under every limit; `None` where nothing limits it.
    pub(crate) fn left(
        &mut self,
        in_force: &LimitsInForce,
        by: Caller,
        unit: Unit,
        now: Timestamp,
    ) -> Option<i128> {
        let moment = self.moment(now);
        self.tenant.advance(moment);
        let mut least = self.tenant.left(&in_force.for_all.tenant, unit);
        for id in by.parties() {
            let Some(party) = party(&mut self.parties, id) else {
                continue;
            };
            party.counters.advance(moment);
            let limits = *party.limits(in_force);
            least = least
                .into_iter()
                .chain(party.counters.left(&limits, unit))
                .min();
        }
        least
    }

    /// Where a caller stands after its reservation: the counters are at its moment.
    pub(crate) fn standing(&mut self, in_force: &LimitsInForce, by: Caller) -> Standing {
        let mut standing = Standing::default();
        standing.take_in(&self.tenant, &in_force.for_all.tenant);
        for id in by.parties() {
            if let Some(party) = party(&mut self.parties, id) {
                let limits = *party.limits(in_force);
                standing.take_in(&party.counters, &limits);
            }
        }
        standing
    }

    /// Where every limit of the tenant stands.
    pub(crate) fn gauges(&mut self, in_force: &LimitsInForce, now: Timestamp) -> Vec<Gauge> {
        let moment = self.moment(now);
        self.tenant.advance(moment);
        self.tenant.gauges(&in_force.for_all.tenant)
    }

    /// Where every limit of each person or token stands that was active in this month, by name.
    pub(crate) fn party_gauges(
        &mut self,
        kind: PartyKind,
        in_force: &LimitsInForce,
        now: Timestamp,
    ) -> Vec<(Box<str>, Vec<Gauge>)> {
        let moment = self.moment(now);
        let own = self.parties.iter_mut().filter_map(|party| {
            party.counters.advance(moment);
            (party.kind == kind && !party.counters.is_idle()).then_some(party)
        });
        let mut lines: Vec<_> = own
            .map(|party| {
                let limits = *party.limits(in_force);
                let mut gauges = party.counters.gauges(&limits);
                gauges.retain(|gauge| gauge.quota.is_personal());
                (party.name.clone(), gauges)
            })
            .collect();
        lines.sort_by(|a, b| a.0.cmp(&b.0));
        lines
    }

    /// Calls under way.
    pub(crate) fn open_calls(&self) -> i128 {
        self.tenant.sum(Quota::ConcurrentRequests).total
    }

    /// Takes a measurement of the tenant's storage. What is still to be written, `records` of calls, keeps its bound on top of it.
    pub(crate) fn measured(&mut self, bytes: u64, records: i128) {
        let level = i128::from(bytes) + records * super::RECORD_BYTES;
        self.tenant.0[Quota::StorageBytes as usize].set_level(level);
        self.touched = true;
    }

    pub(super) fn moment(&mut self, now: Timestamp) -> Moment {
        self.latest = self.latest.max(now);
        Moment::of(self.latest)
    }

    fn each(&mut self, by: Caller, mut change: impl FnMut(&mut Counters)) {
        change(&mut self.tenant);
        for id in by.parties() {
            if let Some(party) = party(&mut self.parties, id) {
                change(&mut party.counters);
            }
        }
    }
}

fn party(parties: &mut [Party], id: PartyId) -> Option<&mut Party> {
    parties
        .get_mut(usize::try_from(id.place).ok()?)
        .filter(|party| party.stamp == id.stamp)
}
