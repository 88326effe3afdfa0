//! What all tenants have to share in one process, and how much of it one may hold.
//!
//! One rule for every room: a tenant may hold as much as it leaves free for all others. Alone it gets half, two get a third each, and
//! there is always something left for who comes next; nothing has to be configured (Choudhury and Hahne, dynamic thresholds, 1998).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A thing that is shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Good {
    /// Calls under way: streams that are open and calls that wait included.
    Calls,
    /// Bytes of large request bodies.
    BodyBytes,
    /// Answers read on without a client.
    Drains,
}

const GOODS: usize = 3;

/// What one tenant holds of each good.
#[derive(Default, Debug)]
pub struct Share([AtomicUsize; GOODS]);

/// All of one good that the process has.
#[derive(Debug)]
pub struct Room {
    good: Good,
    size: usize,
    held: AtomicUsize,
}

/// A part of a room that one tenant holds; given back when dropped.
#[must_use = "dropping it gives it back"]
#[derive(Debug)]
pub struct Part {
    room: Arc<Room>,
    share: Arc<Share>,
    amount: usize,
}

/// Why nothing was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// The tenant would hold more than it leaves.
    Share,
    /// All is held.
    Room,
}

impl Share {
    /// What the tenant holds of a good.
    #[must_use]
    pub fn held(&self, good: Good) -> usize {
        self.0[good as usize].load(Ordering::Relaxed)
    }
}

impl Room {
    /// A room of `size` units of one good.
    #[must_use]
    pub fn new(good: Good, size: usize) -> Arc<Self> {
        Arc::new(Self {
            good,
            size,
            held: AtomicUsize::new(0),
        })
    }

    /// What is held of it, over all tenants.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes `amount` for a tenant.
    ///
    /// # Errors
    /// [`Full`]; nothing is held then.
    pub fn take(self: &Arc<Self>, share: &Arc<Share>, amount: usize) -> Result<Part, Full> {
        self.add(share, amount)?;
        Ok(Part {
            room: Arc::clone(self),
            share: Arc::clone(share),
            amount,
        })
    }

    // Both counts are raised first and looked at then: two that come at once may both be refused at the edge, and never both be
    // let past it.
    fn add(&self, share: &Share, amount: usize) -> Result<(), Full> {
        let own = &share.0[self.good as usize];
        let mine = own
            .fetch_add(amount, Ordering::Relaxed)
            .saturating_add(amount);
        let all = self
            .held
            .fetch_add(amount, Ordering::Relaxed)
            .saturating_add(amount);
        let why = match self.size.checked_sub(all) {
            Some(left) if mine <= left => return Ok(()),
            Some(_) => Full::Share,
            None => Full::Room,
        };
        self.sub(share, amount);
        Err(why)
    }

    fn sub(&self, share: &Share, amount: usize) {
        share.0[self.good as usize].fetch_sub(amount, Ordering::Relaxed);
        self.held.fetch_sub(amount, Ordering::Relaxed);
    }
}

impl Part {
    /// Takes `amount` more.
    ///
    /// # Errors
    /// [`Full`]; what was held stays held.
    pub fn grow(&mut self, amount: usize) -> Result<(), Full> {
        self.room.add(&self.share, amount)?;
        self.amount += amount;
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.room.sub(&self.share, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(room: &Arc<Room>, share: &Arc<Share>) -> Vec<Part> {
        std::iter::from_fn(|| room.take(share, 1).ok()).collect()
    }

    #[test]
    fn one_gets_half_two_a_third_each_and_something_is_always_left() {
        let room = Room::new(Good::Calls, 60);
        let shares: Vec<Arc<Share>> = (0..3).map(|_| Arc::default()).collect();
        let first = fill(&room, &shares[0]);
        assert_eq!(first.len(), 30);
        assert_eq!(room.take(&shares[0], 1).unwrap_err(), Full::Share);
        let second = fill(&room, &shares[1]);
        assert_eq!(second.len(), 15);
        let third = fill(&room, &shares[2]);
        assert!(third.len() >= 7, "{}", third.len());
        drop((first, second, third));
        assert_eq!((room.held(), shares[0].held(Good::Calls)), (0, 0));
        // Each that holds little gets its third when both want all.
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for _ in 0..60 {
            left.extend(room.take(&shares[0], 1));
            right.extend(room.take(&shares[1], 1));
        }
        assert_eq!((left.len(), right.len()), (20, 20));
    }

    #[test]
    fn a_full_room_says_so_and_parts_grow() {
        let room = Room::new(Good::BodyBytes, 100);
        let (mine, other): (Arc<Share>, Arc<Share>) = Default::default();
        let mut part = room.take(&mine, 10).unwrap();
        part.grow(40).unwrap();
        assert_eq!(part.grow(1), Err(Full::Share));
        assert_eq!(room.take(&other, 51).unwrap_err(), Full::Room);
        assert_eq!((room.held(), other.held(Good::BodyBytes)), (50, 0));
        drop(part);
        assert_eq!((room.held(), mine.held(Good::BodyBytes)), (0, 0));
    }

    proptest! {
        #[test]
        fn never_more_than_the_room_and_newcomers_find_a_place(steps in proptest::collection::vec((0_usize..5, 1_usize..20, any::<bool>()), 1..200)) {
            let room = Room::new(Good::BodyBytes, 1_000);
            let shares: Vec<Arc<Share>> = (0..5).map(|_| Arc::default()).collect();
            let mut held: Vec<(usize, Part)> = Vec::new();
            for (who, amount, give_back) in steps {
                if give_back {
                    let at = held.iter().position(|(owner, _)| *owner == who);
                    drop(at.map(|at| held.remove(at)));
                } else if let Ok(part) = room.take(&shares[who], amount) {
                    held.push((who, part));
                }
                let all: usize = held.iter().map(|(_, part)| part.amount).sum();
                prop_assert_eq!(room.held(), all);
                // Five that take all they can leave a sixth of the room.
                prop_assert!(all <= 1_000 * 5 / 6 + 1);
                for (index, share) in shares.iter().enumerate() {
                    let own: usize = held.iter().filter(|(owner, _)| *owner == index).map(|(_, part)| part.amount).sum();
                    prop_assert_eq!(share.held(Good::BodyBytes), own);
                }
            }
        }
    }
}
