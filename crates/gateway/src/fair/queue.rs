//! Who is next: the pure part of a line. No lock, no clock, no I/O; each operation costs O(log n) in the tenants that wait.
//!
//! What is shared are *slots*, and they are shared by occupancy: a tenant whose calls last long holds its slots and gets no new ones
//! before tenants that hold fewer. Two rules decide, in this order:
//!
//! 1. **Guarantee.** A tenant that holds fewer slots than it is guaranteed takes any free one, before everybody else. So that there
//!    is a free one, the guaranteed slots that are not in use, and a few for tenants not seen yet, are kept out of everybody else's
//!    reach. At most half of all slots are ever given or kept by this rule: nobody without a guarantee starves.
//! 2. **Weight.** Among all that wait, the one on the lowest *level* is next. A tenant's level is the slots it holds over its weight,
//!    rounded down, so that tenants that always have something waiting come to hold slots in proportion to their weights. On one
//!    level, start-time fair queueing (Goyal, Vin and Cheng, 1996): each grant moves the tenant's start tag on by one over its
//!    weight, so that a tenant of weight 10 is served ten times as often as one of weight 1, and that one is served.
//!
//! Within a tenant its persons (or tokens, where no person is known) take turns by the same tags, all of weight one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use base::TenantUid;

#[cfg(test)]
mod tests;

/// One grant moves a tag on by this, over the weight. With [`WEIGHT_MAX`] a step still has three digits, and 64 bits last for
/// 10^13 grants out of a queue.
const STEP: u64 = 1 << 20;
/// The largest weight.
pub const WEIGHT_MAX: u32 = 1_000;
/// One slot in so many is kept for tenants that were not seen yet.
const NEWCOMERS: u32 = 16;
/// Looks of [`Queue::forget_idle`] that an idle tenant is remembered for.
const IDLE_LOOKS: u32 = 6;

/// Who asks for a slot, and what it is entitled to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) tenant: TenantUid,
    /// 1 to [`WEIGHT_MAX`].
    pub(crate) weight: u32,
    /// Slots that are kept for the tenant.
    pub(crate) guaranteed: u32,
}

/// A place in the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ticket {
    tenant: TenantUid,
    turn: Turn,
}

/// The order within a tenant: tag, then arrival.
type Turn = (u64, u64);

/// The state of one line. `W` is what is handed back when a waiter's turn comes.
pub(crate) struct Queue<W> {
    slots: u32,
    /// Waiters at most, over all tenants.
    room: u32,
    used: u32,
    waiting: u32,
    /// Slots in use under a guarantee: the sum of `min(used, guaranteed)`.
    covered: u32,
    /// Guaranteed slots that are not in use, over all tenants that are remembered.
    unused: u64,
    /// The largest guarantee that was ever asked with: what a tenant not seen yet may bring.
    largest: u32,
    /// Virtual time: the largest start tag that was served.
    clock: u64,
    arrivals: u64,
    looks: u32,
    tenants: HashMap<TenantUid, Member<W>, ByUid>,
    /// Waiting tenants below their guarantee, by start tag.
    claims: BTreeSet<(u64, TenantUid)>,
    /// All waiting tenants, by level and start tag.
    ranks: BTreeSet<(u32, u64, TenantUid)>,
}

/// What is remembered of one tenant.
struct Member<W> {
    weight: u32,
    guaranteed: u32,
    used: u32,
    /// The start tag of its next grant.
    tag: u64,
    /// Its keys in `ranks` and `claims`, while it waits.
    ranked: Option<Ranked>,
    waiters: Waiters<W>,
    /// The look at which it last asked.
    seen: u32,
}

#[derive(Clone, Copy)]
struct Ranked {
    level: u32,
    tag: u64,
    claims: bool,
}

impl<W> Queue<W> {
    /// A line with `slots` to give and places for `room` waiters.
    pub(crate) fn new(slots: u32, room: u32) -> Self {
        Self {
            slots,
            room,
            used: 0,
            waiting: 0,
            covered: 0,
            unused: 0,
            largest: 0,
            clock: 0,
            arrivals: 0,
            looks: 0,
            tenants: HashMap::default(),
            claims: BTreeSet::new(),
            ranks: BTreeSet::new(),
        }
    }

    /// Takes a slot at once, if one is there for this claim. Nobody who waits is passed over: a slot that is free for the claim
    /// would be free for them.
    pub(crate) fn take(&mut self, claim: &Claim) -> bool {
        let (free, free_if_covered) = (self.is_free(false), self.is_free(true));
        match self.tenants.get_mut(&claim.tenant) {
            Some(member) if member.is_as_in(claim) => {
                member.seen = self.looks;
                let covered = member.used < member.guaranteed;
                if !(if covered { free_if_covered } else { free }) {
                    return false;
                }
                member.used += 1;
                self.count(covered);
                true
            }
            _ => {
                self.remember(claim);
                self.take(claim)
            }
        }
    }

    /// Joins the line; `None` when it is full, or when the tenant would have more waiters than it leaves places for all others.
    pub(crate) fn join(&mut self, claim: &Claim, person: u64, waiter: W) -> Option<Ticket> {
        let (clock, left) = (self.clock, self.room.saturating_sub(self.waiting));
        let member = self.tenants.get_mut(&claim.tenant)?;
        if member.waiters.len() >= left as usize {
            return None;
        }
        if member.waiters.is_empty() {
            member.tag = member.tag.max(clock);
        }
        self.arrivals += 1;
        let turn = member.waiters.push(person, self.arrivals, waiter);
        self.waiting += 1;
        self.rank(claim.tenant);
        Some(Ticket {
            tenant: claim.tenant,
            turn,
        })
    }

    /// Leaves the line; `None` when the waiter's turn had come.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<W> {
        let member = self.tenants.get_mut(&ticket.tenant)?;
        let waiter = member.waiters.remove(ticket.turn)?;
        self.waiting -= 1;
        self.rank(ticket.tenant);
        Some(waiter)
    }

    /// Gives a slot back. [`Self::next`] tells who gets it.
    pub(crate) fn release(&mut self, tenant: TenantUid) {
        let Some(member) = self.tenants.get_mut(&tenant) else {
            return;
        };
        self.used = self.used.saturating_sub(1);
        member.used = member.used.saturating_sub(1);
        if member.used < member.guaranteed {
            self.covered = self.covered.saturating_sub(1);
            self.unused += 1;
        }
        if member.ranked.is_some() {
            self.rank(tenant);
        }
    }

    /// The waiter whose turn has come, if a slot is free for anybody who waits. The slot is then that tenant's.
    pub(crate) fn next(&mut self) -> Option<(TenantUid, W)> {
        if self.waiting == 0 || self.used >= self.slots {
            return None;
        }
        let first = self
            .claims
            .first()
            .filter(|_| self.covered < self.coverable())
            .map(|(_, tenant)| *tenant);
        let tenant = match first {
            Some(tenant) => tenant,
            None if self.is_free(false) => self.ranks.first().map(|(_, _, tenant)| *tenant)?,
            None => return None,
        };
        let member = self.tenants.get_mut(&tenant)?;
        let waiter = member.waiters.pop()?;
        if first.is_none() {
            // All others on this level are behind the clock then, and nobody waits on a lower one. What a guarantee gives is not
            // charged: it would push the clock past those who have none.
            self.clock = self.clock.max(member.tag);
            member.tag += STEP / u64::from(member.weight.clamp(1, WEIGHT_MAX));
        }
        let covered = member.used < member.guaranteed;
        member.used += 1;
        self.waiting -= 1;
        self.count(covered);
        self.rank(tenant);
        Some((tenant, waiter))
    }

    /// Changes what there is to give. What is given stays given: a smaller line is reached as slots come back.
    pub(crate) fn resize(&mut self, slots: u32, room: u32) {
        (self.slots, self.room) = (slots, room);
    }

    /// Forgets tenants that hold nothing, wait for nothing and have not asked for some looks: their guarantee is kept no longer.
    pub(crate) fn forget_idle(&mut self) {
        self.looks = self.looks.wrapping_add(1);
        let looks = self.looks;
        let mut unused = self.unused;
        self.tenants.retain(|_, member| {
            let idle = member.used == 0 && member.waiters.is_empty();
            let kept = !idle || looks.wrapping_sub(member.seen) < IDLE_LOOKS;
            if !kept {
                unused -= u64::from(member.guaranteed);
            }
            kept
        });
        self.unused = unused;
    }

    /// Slots in use.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    /// Waiters, over all tenants.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Slots given or kept by the first rule, at most.
    fn coverable(&self) -> u32 {
        self.slots / 2
    }

    /// Slots out of reach for who is not covered by a guarantee.
    fn kept(&self) -> u32 {
        let newcomers = self.largest.max(self.slots / NEWCOMERS);
        let wanted = self.unused.saturating_add(u64::from(newcomers));
        let most = self.coverable().saturating_sub(self.covered);
        u32::try_from(wanted).map_or(most, |wanted| wanted.min(most))
    }

    /// Whether a slot is free for a tenant that is covered by its guarantee, or is not.
    fn is_free(&self, covered: bool) -> bool {
        let free = self.slots.saturating_sub(self.used);
        if covered && self.covered < self.coverable() {
            free > 0
        } else {
            free > self.kept()
        }
    }

    /// Counts one slot that was given.
    fn count(&mut self, covered: bool) {
        self.used += 1;
        if covered {
            self.covered += 1;
            self.unused = self.unused.saturating_sub(1);
        }
    }

    /// Makes the tenant known, under the weight and guarantee that it has now.
    fn remember(&mut self, claim: &Claim) {
        let (clock, looks) = (self.clock, self.looks);
        self.largest = self.largest.max(claim.guaranteed);
        let member = self.tenants.entry(claim.tenant).or_insert_with(|| Member {
            weight: claim.weight,
            guaranteed: 0,
            used: 0,
            tag: clock,
            ranked: None,
            waiters: Waiters::default(),
            seen: looks,
        });
        member.seen = looks;
        let (before, after) = (member.guaranteed, claim.guaranteed);
        self.covered -= member.used.min(before);
        self.covered += member.used.min(after);
        self.unused -= u64::from(before.saturating_sub(member.used));
        self.unused += u64::from(after.saturating_sub(member.used));
        (member.weight, member.guaranteed) = (claim.weight, after);
        if member.ranked.is_some() {
            self.rank(claim.tenant);
        }
    }

    /// Puts a tenant where it belongs among those that wait, or takes it out.
    fn rank(&mut self, tenant: TenantUid) {
        let clock = self.clock;
        let Some(member) = self.tenants.get_mut(&tenant) else {
            return;
        };
        let before = member.ranked;
        let level = member.used / member.weight.clamp(1, WEIGHT_MAX);
        // Who comes down a level starts there at its virtual time: what it missed above is no credit below.
        if before.is_some_and(|before| level < before.level) {
            member.tag = member.tag.max(clock);
        }
        let after = (!member.waiters.is_empty()).then_some(Ranked {
            level,
            tag: member.tag,
            claims: member.used < member.guaranteed,
        });
        member.ranked = after;
        if let Some(Ranked { level, tag, claims }) = before {
            self.ranks.remove(&(level, tag, tenant));
            if claims {
                self.claims.remove(&(tag, tenant));
            }
        }
        if let Some(Ranked { level, tag, claims }) = after {
            self.ranks.insert((level, tag, tenant));
            if claims {
                self.claims.insert((tag, tenant));
            }
        }
    }
}

impl<W> Member<W> {
    fn is_as_in(&self, claim: &Claim) -> bool {
        (self.weight, self.guaranteed) == (claim.weight, claim.guaranteed)
    }
}

/// The waiters of one tenant: persons in turn, each in the order of arrival.
struct Waiters<W> {
    line: BTreeMap<Turn, W>,
    /// The tag of the next waiter of each person that is ahead of the clock.
    persons: HashMap<u64, u64>,
    clock: u64,
}

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self {
            line: BTreeMap::new(),
            persons: HashMap::new(),
            clock: 0,
        }
    }
}

impl<W> Waiters<W> {
    fn len(&self) -> usize {
        self.line.len()
    }

    fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    fn push(&mut self, person: u64, arrival: u64, waiter: W) -> Turn {
        // Persons behind the clock are as good as new; forgetting them keeps the map as small as the line.
        if self.persons.len() > 2 * self.line.len() + 16 {
            let clock = self.clock;
            self.persons.retain(|_, tag| *tag > clock);
        }
        let next = self.persons.entry(person).or_insert(0);
        let turn = ((*next).max(self.clock), arrival);
        *next = turn.0 + 1;
        self.line.insert(turn, waiter);
        turn
    }

    fn pop(&mut self) -> Option<W> {
        let (turn, waiter) = self.line.pop_first()?;
        self.clock = turn.0;
        self.rest();
        Some(waiter)
    }

    fn remove(&mut self, turn: Turn) -> Option<W> {
        let waiter = self.line.remove(&turn)?;
        self.rest();
        Some(waiter)
    }

    fn rest(&mut self) {
        if self.line.is_empty() {
            self.persons.clear();
            self.clock = 0;
        }
    }
}

type ByUid = BuildHasherDefault<UidHasher>;

/// A uid is random and ours: its own first bytes are the hash.
#[derive(Default)]
struct UidHasher(u64);

impl Hasher for UidHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length that stands before the bytes says nothing.
    fn write_usize(&mut self, _length: usize) {}
}
