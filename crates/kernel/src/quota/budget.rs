//! What a tenant's capability reserves and reads of its quotas.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::Guard;
use base::Timestamp;

use super::meters::PartyId;
use super::{
    Caller, Demand, Exceeded, Gauge, Limits, LimitsInForce, Meters, Override, PartyKind,
    Reservation, Standing, Unit,
};
use crate::ledger::{CallSlot, Reserved};
use crate::resident::{Resident, TokenEntry};
use crate::tenant::Tenant;

/// Where a tenant's limits stand, its own and those of its persons and tokens.
#[derive(Clone, Debug)]
pub struct Quotas {
    /// The tenant's, in the order of the table.
    pub tenant: Vec<Gauge>,
    /// Of each person that called in this month, by name.
    pub persons: Vec<(Box<str>, Vec<Gauge>)>,
    /// Of each token that called in this month, by name.
    pub tokens: Vec<(Box<str>, Vec<Gauge>)>,
    /// What the operator set over the tier's limits.
    pub overrides: Vec<Override>,
}

impl Tenant {
    /// Counts a call and sets its worst case aside, together or not at all. Says where the caller stands after it.
    ///
    /// # Errors
    /// Of the quotas that it does not fit, the one that lasts longest.
    pub fn enter(&self, worst: Demand) -> Result<(CallSlot, Reserved, Standing), Exceeded> {
        let resident = self.resident();
        let demand = Demand {
            requests: 1,
            ..worst
        };
        let (limits, now) = self.limits_now();
        let (reservation, standing) = {
            let mut books = resident.books();
            let by = caller(&mut books.counters, self.token(), now)?;
            let reservation = books.counters.reserve(&limits, by, demand, now)?;
            (reservation, books.counters.standing(&limits, by))
        };
        let (call, rest) = reservation.split();
        let slot = CallSlot::new(Arc::clone(resident), call);
        Ok((slot, self.reserved(rest), standing))
    }

    /// Sets `demand` aside under every limit of the tenant.
    ///
    /// # Errors
    /// Of the quotas that it does not fit, the one that lasts longest.
    pub fn reserve(&self, demand: Demand) -> Result<Reserved, Exceeded> {
        let (limits, now) = self.limits_now();
        let reservation = {
            let mut books = self.resident().books();
            let by = caller(&mut books.counters, self.token(), now)?;
            books.counters.reserve(&limits, by, demand, now)?
        };
        Ok(self.reserved(reservation))
    }

    fn reserved(&self, reservation: Reservation) -> Reserved {
        Reserved::new(
            self.kernel().clone(),
            Arc::clone(self.resident()),
            reservation,
        )
    }

    /// What is left of a unit under the limits in force for the tenant and for who calls; `None` where nothing limits it.
    #[must_use]
    pub fn left(&self, unit: Unit) -> Option<i128> {
        let (limits, now) = self.limits_now();
        let mut books = self.resident().books();
        // One for whom no counters can be made is refused when the call is counted.
        let by = caller(&mut books.counters, self.token(), now).unwrap_or_default();
        books.counters.left(&limits, by, unit, now)
    }

    /// Where every limit stands. Right once the tenant's books are loaded, which any [`Tenant::read`] does.
    #[must_use]
    pub fn quotas(&self) -> Quotas {
        let (limits, now) = self.limits_now();
        let overrides = self.account().overrides.clone();
        let mut books = self.resident().books();
        let counters = &mut books.counters;
        Quotas {
            tenant: counters.gauges(&limits, now),
            persons: counters.party_gauges(PartyKind::Person, &limits, now),
            tokens: counters.party_gauges(PartyKind::Token, &limits, now),
            overrides,
        }
    }

    /// The limits of the tenant as a whole that hold now.
    #[must_use]
    pub fn limits_in_force(&self) -> Limits {
        self.limits_now().0.for_all.tenant
    }

    /// The limits that hold now: a temporary override that has ended is taken out first.
    fn limits_now(&self) -> (Guard<Arc<LimitsInForce>>, Timestamp) {
        let (resident, now): (&Resident, _) = (self.resident(), self.kernel().now());
        let limits = resident.limits.load();
        if !limits.stale_at(now) {
            return (limits, now);
        }
        self.kernel().refresh_settings(resident);
        (resident.limits.load(), now)
    }
}

/// The counters of the one who calls, and of the person whom it stands for.
fn caller(
    counters: &mut Meters,
    token: Option<&TokenEntry>,
    now: Timestamp,
) -> Result<Caller, Exceeded> {
    let Some(token) = token else {
        return Ok(Caller::default());
    };
    let mut party = |place: &AtomicU64, kind, name: &str| party(counters, place, (kind, name), now);
    let own = party(&token.party, PartyKind::Token, token.name.as_str())?;
    let person = token.person.as_ref().map(|person| {
        let name = person.as_str();
        party(&token.person_party, PartyKind::Person, name)
    });
    Ok(Caller {
        person: person.transpose()?,
        token: Some(own),
    })
}

/// One party's counters. The token keeps their place, so that a name is looked up at its first call only.
fn party(
    counters: &mut Meters,
    place: &AtomicU64,
    (kind, name): (PartyKind, &str),
    now: Timestamp,
) -> Result<PartyId, Exceeded> {
    let known = PartyId::unpacked(place.load(Ordering::Relaxed)).filter(|id| counters.knows(*id));
    if let Some(id) = known {
        return Ok(id);
    }
    let id = counters
        .party_id(kind, name, now)
        .ok_or_else(|| Meters::crowded(now))?;
    place.store(id.packed(), Ordering::Relaxed);
    Ok(id)
}
