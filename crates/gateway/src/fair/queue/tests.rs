use super::*;
use proptest::prelude::*;

fn claim(tenant: u8, weight: u32, guaranteed: u32) -> Claim {
    Claim {
        tenant: TenantUid::from_bytes([tenant; 16]),
        weight,
        guaranteed,
    }
}

/// Everything that must be true between two operations.
fn check<W>(queue: &Queue<W>) {
    let members = || queue.tenants.values();
    assert_eq!(queue.used, members().map(|member| member.used).sum::<u32>());
    assert_eq!(
        queue.waiting as usize,
        members().map(|member| member.waiters.len()).sum::<usize>()
    );
    let covered = |member: &Member<W>| member.used.min(member.guaranteed);
    assert_eq!(queue.covered, members().map(covered).sum::<u32>());
    let unused = |member: &Member<W>| u64::from(member.guaranteed.saturating_sub(member.used));
    assert_eq!(queue.unused, members().map(unused).sum::<u64>());
    let waits = members().filter(|member| !member.waiters.is_empty());
    assert_eq!(queue.ranks.len(), waits.clone().count());
    let claims = waits.filter(|member| member.used < member.guaranteed);
    assert_eq!(queue.claims.len(), claims.count());
}

/// A slot, or a place in the line.
fn ask(
    queue: &mut Queue<u64>,
    claim: &Claim,
    person: u64,
    waiter: u64,
) -> Option<Result<(), Ticket>> {
    if queue.take(claim) {
        return Some(Ok(()));
    }
    queue.join(claim, person, waiter).map(Err)
}

/// Tenants that always have something waiting, and calls that last as long as their tenant's last.
struct Crowd {
    queue: Queue<u64>,
    tenants: Vec<(Claim, u64)>,
    /// Ends by moment: a tenant each.
    ends: BTreeMap<(u64, u64), usize>,
    now: u64,
    calls: u64,
    /// Slot-moments held, and grants, by tenant.
    held: Vec<u64>,
    granted: Vec<u64>,
    /// Grants to others, their own guarantees apart, since the tenant, waiting, last got one or last held its weight or more.
    passed_over: Vec<u64>,
    passed_over_most: Vec<u64>,
}

impl Crowd {
    fn new(slots: u32, tenants: &[(u32, u32, u64)]) -> Self {
        let tenants: Vec<(Claim, u64)> = tenants
            .iter()
            .zip(1_u8..)
            .map(|((weight, guaranteed, lasts), id)| (claim(id, *weight, *guaranteed), *lasts))
            .collect();
        let zeros = vec![0; tenants.len()];
        Self {
            queue: Queue::new(slots, 10_000),
            tenants,
            ends: BTreeMap::new(),
            now: 0,
            calls: 0,
            held: zeros.clone(),
            granted: zeros.clone(),
            passed_over: zeros.clone(),
            passed_over_most: zeros,
        }
    }

    fn begin(&mut self, who: usize) {
        self.calls += 1;
        self.ends
            .insert((self.now + self.tenants[who].1, self.calls), who);
        self.granted[who] += 1;
        let (claim, _) = self.tenants[who];
        if self.queue.tenants[&claim.tenant].used <= claim.guaranteed {
            // Its own kept slot, which was nobody else's to have.
            self.passed_over[who] = 0;
            return;
        }
        for other in 0..self.tenants.len() {
            let (claim, _) = self.tenants[other];
            let member = self.queue.tenants.get(&claim.tenant);
            let low = member
                .is_some_and(|member| !member.waiters.is_empty() && member.used < claim.weight);
            self.passed_over[other] = if other == who || !low {
                0
            } else {
                self.passed_over[other] + 1
            };
            let most = &mut self.passed_over_most[other];
            *most = (*most).max(self.passed_over[other]);
        }
    }

    fn step(&mut self) {
        self.now += 1;
        for who in 0..self.tenants.len() {
            let (claim, _) = self.tenants[who];
            let waits = |queue: &Queue<u64>| {
                queue
                    .tenants
                    .get(&claim.tenant)
                    .map_or(0, |member| member.waiters.len())
            };
            while waits(&self.queue) < self.queue.slots as usize {
                match ask(&mut self.queue, &claim, 0, who as u64) {
                    Some(Ok(())) => self.begin(who),
                    Some(Err(_ticket)) => {}
                    None => panic!("the line is long enough"),
                }
            }
        }
        while let Some((&(at, call), &who)) = self.ends.first_key_value() {
            if at > self.now {
                break;
            }
            self.ends.remove(&(at, call));
            self.queue.release(self.tenants[who].0.tenant);
            while let Some((_, next)) = self.queue.next() {
                self.begin(usize::try_from(next).unwrap());
            }
        }
        check(&self.queue);
        for (held, (claim, _)) in self.held.iter_mut().zip(&self.tenants) {
            *held += u64::from(self.queue.tenants[&claim.tenant].used);
        }
    }

    fn share(&self, who: usize) -> f64 {
        self.held[who] as f64 / self.held.iter().sum::<u64>() as f64
    }
}

fn run(slots: u32, steps: u64, tenants: &[(u32, u32, u64)]) -> Crowd {
    let mut crowd = Crowd::new(slots, tenants);
    // The beginning belongs to who comes first.
    for _ in 0..steps / 4 {
        crowd.step();
    }
    crowd.held.fill(0);
    crowd.granted.fill(0);
    crowd.passed_over_most.fill(0);
    for _ in 0..steps {
        crowd.step();
    }
    crowd
}

#[test]
fn shares_follow_the_weights_with_many_slots_and_with_few() {
    for (slots, tenants) in [
        (64, vec![(1, 0, 7), (2, 0, 7), (5, 0, 7)]),
        (
            4,
            vec![(10, 0, 7), (1, 0, 7), (1, 0, 7), (1, 0, 7), (1, 0, 7)],
        ),
        (1, vec![(3, 0, 5), (1, 0, 5)]),
    ] {
        let crowd = run(slots, 4_000, &tenants);
        let all: u32 = tenants.iter().map(|(weight, ..)| weight).sum();
        for (who, (weight, ..)) in tenants.iter().enumerate() {
            let (share, due) = (crowd.share(who), f64::from(*weight) / f64::from(all));
            assert!(
                (share - due).abs() < 0.05,
                "{slots} slots, weight {weight}: {share} for {due}"
            );
        }
    }
}

#[test]
fn long_calls_gain_nothing() {
    // One holds each slot sixty times as long. Both come to hold as many slots.
    let crowd = run(32, 6_000, &[(1, 0, 60), (1, 0, 1)]);
    assert!((crowd.share(0) - 0.5).abs() < 0.05, "{}", crowd.share(0));
    assert!(crowd.granted[1] > 30 * crowd.granted[0]);
}

#[test]
fn a_guarantee_is_there_at_once_for_who_was_never_seen() {
    for slots in [2, 4, 7, 64, 1_000] {
        let mut queue: Queue<u64> = Queue::new(slots, 10_000);
        let noisy = claim(1, 1, 1);
        let taken = (0..slots).filter(|_| queue.take(&noisy)).count();
        assert!(
            taken >= slots as usize / 2 && taken <= slots as usize,
            "{taken} of {slots}"
        );
        if slots >= 4 {
            assert!(queue.take(&claim(2, 1, 1)), "{slots}");
        }
        check(&queue);
    }
    // Everybody who was seen before has it, as long as the guarantees are half of all at most.
    let mut queue: Queue<u64> = Queue::new(20, 10_000);
    let tenants: Vec<Claim> = (1..=10).map(|id| claim(id, 1, 1)).collect();
    for tenant in &tenants {
        assert!(queue.take(tenant));
        queue.release(tenant.tenant);
    }
    while queue.take(&tenants[0]) {}
    for tenant in &tenants[1..] {
        assert!(queue.take(tenant));
    }
    assert_eq!(queue.used(), 20);
}

#[test]
fn guarantees_over_the_half_starve_nobody() {
    // Nine with a guarantee would take all four slots for ever; the one without is served all the same.
    let mut tenants = vec![(1, 4, 3); 9];
    tenants.push((1, 0, 3));
    let crowd = run(4, 2_000, &tenants);
    assert!(crowd.granted[9] > 50, "{:?}", crowd.granted);
}

#[test]
fn the_line_is_bounded_for_all_and_for_each() {
    let mut queue: Queue<u64> = Queue::new(1, 8);
    let (one, other, third) = (claim(1, 1, 0), claim(2, 1, 0), claim(3, 1, 0));
    assert!(queue.take(&one) && !queue.take(&one) && !queue.take(&other) && !queue.take(&third));
    let join =
        |queue: &mut Queue<u64>, claim| std::iter::from_fn(|| queue.join(claim, 0, 0)).count();
    assert_eq!(join(&mut queue, &one), 4);
    assert_eq!(join(&mut queue, &other), 2);
    assert_eq!(join(&mut queue, &third), 1);
    let mut none: Queue<u64> = Queue::new(1, 0);
    assert!(none.take(&one) && !none.take(&other) && none.join(&other, 0, 0).is_none());
}

#[test]
fn persons_of_one_tenant_take_turns() {
    let mut queue: Queue<u64> = Queue::new(1, 1_000);
    let tenant = claim(1, 1, 0);
    assert!(queue.take(&tenant) && !queue.take(&tenant));
    // One person fills the line before the others come.
    for waiter in 0..20 {
        queue.join(&tenant, 7, 100 + waiter).unwrap();
    }
    for (person, waiter) in [(8, 200), (8, 201), (9, 300)] {
        queue.join(&tenant, person, waiter).unwrap();
    }
    let mut served = Vec::new();
    for _ in 0..8 {
        queue.release(tenant.tenant);
        served.push(queue.next().unwrap().1);
    }
    assert_eq!(served, [100, 200, 300, 101, 201, 102, 103, 104]);
    check(&queue);
}

#[test]
fn idle_tenants_are_forgotten_and_their_guarantee_comes_free() {
    let mut queue: Queue<u64> = Queue::new(8, 10);
    let quiet = claim(9, 1, 3);
    assert!(queue.take(&quiet));
    queue.release(quiet.tenant);
    let noisy = claim(1, 1, 0);
    while queue.take(&noisy) {}
    assert_eq!(queue.used(), 4);
    for _ in 0..=IDLE_LOOKS {
        queue.forget_idle();
    }
    assert_eq!(queue.tenants.len(), 1);
    check(&queue);
    // What a newcomer may bring is still kept.
    while queue.take(&noisy) {}
    assert_eq!(queue.used(), 5);
}

#[test]
fn a_line_that_shrinks_takes_nothing_away() {
    let mut queue: Queue<u64> = Queue::new(8, 10);
    let tenant = claim(1, 1, 0);
    while queue.take(&tenant) {}
    assert_eq!(queue.used(), 8);
    queue.join(&tenant, 0, 1).unwrap();
    queue.resize(2, 10);
    for left in (2..8).rev() {
        queue.release(tenant.tenant);
        assert_eq!((queue.used(), queue.next()), (left, None));
    }
    queue.release(tenant.tenant);
    assert_eq!(queue.next(), Some((tenant.tenant, 1)));
    check(&queue);
}

proptest! {
    #[test]
    fn nobody_starves(
        slots in 1_u32..12,
        tenants in proptest::collection::vec((1_u32..20, 0_u32..3, 1_u64..9), 1..7),
    ) {
        let crowd = run(slots, 600, &tenants);
        for (who, (weight, ..)) in tenants.iter().enumerate() {
            // Start-time fair queueing: between two grants of one, each other gets its weight's worth and one more.
            let due: u32 = tenants.iter().map(|(other, ..)| other.div_ceil(*weight) + 1).sum();
            prop_assert!(
                crowd.passed_over_most[who] <= u64::from(due),
                "{who}: passed over {} times, {due} due", crowd.passed_over_most[who]
            );
            prop_assert!(crowd.granted[who] > 0);
        }
    }

    #[test]
    fn minimums_hold_and_nothing_is_left_behind(
        slots in 2_u32..40,
        guaranteed in proptest::collection::vec(0_u32..4, 2..6),
        steps in proptest::collection::vec((0_u8..4, 0_usize..6, 0_usize..64), 1..300),
    ) {
        let mut left = slots / 2;
        let tenants: Vec<Claim> = guaranteed.iter().zip(1_u8..).map(|(wanted, id)| {
            let given = (*wanted).min(left);
            left -= given;
            claim(id, u32::from(id), given)
        }).collect();
        let mut queue: Queue<u64> = Queue::new(slots, 30);
        for tenant in &tenants {
            prop_assert!(queue.take(tenant));
            queue.release(tenant.tenant);
        }
        let mut running: Vec<TenantUid> = Vec::new();
        let mut waiting: Vec<(Ticket, u64)> = Vec::new();
        let mut names = 0;
        for (action, who, which) in steps {
            let tenant = tenants[who % tenants.len()];
            match action {
                0 | 1 => {
                    names += 1;
                    let used = queue.tenants[&tenant.tenant].used;
                    match ask(&mut queue, &tenant, u64::from(action), names) {
                        Some(Ok(())) => running.push(tenant.tenant),
                        Some(Err(ticket)) => {
                            prop_assert!(used >= tenant.guaranteed, "a guaranteed slot was not there");
                            waiting.push((ticket, names));
                        }
                        None => prop_assert!(used >= tenant.guaranteed),
                    }
                }
                2 if !running.is_empty() => queue.release(running.swap_remove(which % running.len())),
                3 if !waiting.is_empty() => {
                    let (ticket, name) = waiting.swap_remove(which % waiting.len());
                    prop_assert_eq!(queue.leave(ticket), Some(name));
                    prop_assert_eq!(queue.leave(ticket), None);
                }
                _ => {}
            }
            while let Some((tenant, name)) = queue.next() {
                waiting.retain(|(_, other)| *other != name);
                running.push(tenant);
            }
            check(&queue);
            prop_assert!(queue.used() <= slots && queue.waiting() <= 30);
            prop_assert_eq!(queue.used() as usize, running.len());
            prop_assert_eq!(queue.waiting() as usize, waiting.len());
        }
        for (ticket, _) in waiting {
            prop_assert!(queue.leave(ticket).is_some());
        }
        for tenant in running {
            queue.release(tenant);
            prop_assert!(queue.next().is_none());
        }
        check(&queue);
        prop_assert_eq!((queue.used(), queue.waiting()), (0, 0));
        for _ in 0..=IDLE_LOOKS {
            queue.forget_idle();
        }
        prop_assert!(queue.tenants.is_empty() && queue.ranks.is_empty() && queue.claims.is_empty());
        prop_assert_eq!((queue.unused, queue.covered), (0, 0));
    }
}
