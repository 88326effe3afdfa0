//! One run: a life of the process, its end, and what the next one finds.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base::{Clock, RequestId};
use gateway::Gateway;
use kernel::lifecycle::QuotaChange;
use kernel::quota::Quota;
use kernel::share::Good;
use kernel::{Kernel, Operator, Tenant};
use tokio::task::JoinSet;

use crate::check;
use crate::client::{Client, Fate, call};
use crate::disk::{Disk, DiskFaults};
use crate::home::{Home, Template, gateway, open, runtime};
use crate::network::{Network, Sighting};
use crate::plan::{Deed, Ends, Plan, TENANTS, When};
use crate::rng::Rng;
use crate::world::{Pace, WallClock, World, rest};

/// What one run showed.
pub(crate) struct Outcome {
    pub(crate) digest: u64,
    pub(crate) events: u64,
    pub(crate) problems: Vec<String>,
    pub(crate) tail: String,
    pub(crate) fates: Vec<Option<Fate>>,
    /// Requests that providers met.
    pub(crate) sightings: usize,
    pub(crate) rows: usize,
}

/// What the first life leaves for the second to be compared with.
pub(crate) struct Left {
    pub(crate) fates: Vec<Option<Fate>>,
    /// Request ids by call.
    pub(crate) ids: Vec<Option<String>>,
    pub(crate) sightings: Vec<Sighting>,
    /// For each sighting, whether what the journal held before it was on stable storage.
    pub(crate) stable: Vec<bool>,
    /// The moment of the disk's failure.
    pub(crate) failed_at: Option<u64>,
    /// What counted against the month's money at rest, by tenant.
    pub(crate) spent: Option<Vec<i128>>,
    pub(crate) problems: Vec<String>,
}

/// Runs a plan from the beginning to the end.
pub(crate) fn run(plan: &Plan) -> Outcome {
    let template = Template::get();
    let home = template.copy();
    let first = runtime();
    let (mut left, digest, events, tail, ends_at, copy) = first.block_on(async {
        let world = World::new(plan.seed, 0, plan.begins, plan.pace, plan.faults);
        let (left, copy) = live(plan, &world, &home, &template.tokens).await;
        let seen = (world.digest(), world.moment(), world.tail());
        let now = WallClock(Arc::clone(&world)).now();
        world.bury();
        (left, seen.0, seen.1, seen.2, now, copy)
    });
    drop(first);
    let mut rows = 0;
    let second = runtime();
    let problems = second.block_on(async {
        let world = World::new(plan.seed, 1, ends_at, Pace::Prompt, DiskFaults::default());
        let problems = match open(&copy, &world).await {
            Ok((kernel, operator)) => {
                let found = check::all(plan, &left, &kernel, &operator).await;
                rows = found.rows;
                found.problems
            }
            Err(error) => vec![format!("the kernel does not open again: {error}")],
        };
        world.bury();
        problems
    });
    drop(second);
    left.problems.extend(problems);
    Outcome {
        digest,
        events,
        problems: left.problems,
        tail,
        sightings: left.sightings.len(),
        fates: left.fates,
        rows,
    }
}

/// What is noted while the process lives, to be read when it is dead.
struct Notes {
    problems: Mutex<Vec<String>>,
    fates: Mutex<Vec<Option<Fate>>>,
    spent: Mutex<Option<Vec<i128>>>,
    network: OnceLock<Arc<Network>>,
}

impl Notes {
    fn tell(&self, problem: String) {
        let mut problems = lock(&self.problems);
        if problems.len() < 20 {
            problems.push(problem);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Everything of the first life that is alive.
struct Life {
    kernel: Kernel,
    operator: Operator,
    gateway: Arc<Gateway>,
    network: Arc<Network>,
    tenants: Vec<Tenant>,
    notes: Arc<Notes>,
}

/// The first life. What it leaves on disk is a directory of its own.
async fn live(plan: &Plan, world: &Arc<World>, home: &Home, tokens: &[String]) -> (Left, Home) {
    let notes = Arc::new(Notes {
        problems: Mutex::default(),
        fates: Mutex::new(vec![None; plan.calls.len()]),
        spent: Mutex::default(),
        network: OnceLock::new(),
    });
    let remains: Arc<Mutex<Option<Home>>> = Arc::default();
    let at = match plan.ends.when() {
        Some(When::Event(event)) => event,
        _ => u64::MAX,
    };
    world.end_at(at, end(plan, home, &remains));
    tokio::select! {
        biased;
        // Whatever is dropped from here on is dropped in a process that is dead.
        () = world.died() => {}
        () = lives(plan, world, home, tokens, &notes) => {}
    }
    world.end_now();
    let mut left = Left {
        fates: std::mem::take(&mut lock(&notes.fates)),
        ids: vec![None; plan.calls.len()],
        sightings: notes
            .network
            .get()
            .map(|network| network.sightings())
            .unwrap_or_default(),
        stable: Vec::new(),
        failed_at: world.failed_at(),
        spent: lock(&notes.spent).take(),
        problems: std::mem::take(&mut lock(&notes.problems)),
    };
    let sightings = &left.sightings;
    left.stable = world.with_disk(|disk| {
        let stable = sightings
            .iter()
            .map(|seen| disk.is_stable(seen.journal_write));
        stable.collect()
    });
    for (call, bits) in world.drawn() {
        left.ids[call].get_or_insert_with(|| RequestId::from_random(bits).as_str().to_owned());
    }
    let copy = lock(&remains).take().unwrap();
    (left, copy)
}

/// Takes what a kill or a power cut leaves at the moment at which it is called.
fn end(
    plan: &Plan,
    home: &Home,
    remains: &Arc<Mutex<Option<Home>>>,
) -> Box<dyn FnOnce(&Disk) + Send> {
    let (data, remains) = (home.data(), Arc::clone(remains));
    let (power_cut, seed) = (plan.ends.is_power_cut(), plan.seed);
    Box::new(move |disk| {
        let copy = Home::copy_of(&data);
        if power_cut {
            let (journal, its_copy) = (data.join("journal"), copy.data().join("journal"));
            disk.cut_power(&journal, &its_copy, &mut Rng::new(seed, 11))
                .unwrap();
        }
        *lock(&remains) = Some(copy);
    })
}

async fn lives(
    plan: &Plan,
    world: &Arc<World>,
    home: &Home,
    tokens: &[String],
    notes: &Arc<Notes>,
) {
    let (kernel, operator) = match open(home, world).await {
        Ok(opened) => opened,
        Err(error) => {
            if !world.with_disk(|disk| disk.failed) {
                notes.tell(format!("the kernel does not open: {error}"));
            }
            return;
        }
    };
    let network = Network::new(world, plan);
    let network = Arc::clone(notes.network.get_or_init(|| network));
    let gateway = gateway(kernel.clone(), &network, plan.line);
    let tenant = |id: &&str| kernel.tenant(&operator, &id.parse().unwrap()).unwrap();
    let tenants: Vec<_> = TENANTS.iter().map(tenant).collect();
    let life = Life {
        kernel,
        operator,
        gateway,
        network,
        tenants,
        notes: Arc::clone(notes),
    };
    if plan.maintains {
        life.kernel.start_maintenance();
    }
    let mut clients = life.clients(plan, world, tokens);
    let all = async {
        while let Some(done) = clients.join_next().await {
            if let Err(error) = done {
                notes.tell(format!("a client's task died: {error}"));
            }
        }
    };
    let deeds = life.deeds(plan, world);
    let both = async {
        tokio::join!(all, deeds);
    };
    if let Some(When::Time(at)) = plan.ends.when() {
        drop(tokio::time::timeout(Duration::from_millis(at), both).await);
        world.end_now();
        return;
    }
    both.await;
    life.rest(plan, world).await;
    if plan.ends == Ends::Closed {
        life.kernel.close(Duration::from_secs(30)).await;
    }
    world.end_now();
}

impl Life {
    fn clients(&self, plan: &Plan, world: &Arc<World>, tokens: &[String]) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        let look = self.look();
        for (number, call_plan) in plan.calls.iter().enumerate() {
            let (gw, world, token) = (
                Arc::clone(&self.gateway),
                Arc::clone(world),
                tokens[call_plan.tenant].clone(),
            );
            let (plan, look, notes) = (
                call_plan.clone(),
                Arc::clone(&look),
                Arc::clone(&self.notes),
            );
            clients.spawn(async move {
                rest(Duration::from_millis(plan.at_ms)).await;
                let leaves = plan.leaves;
                let work = call(gw, Arc::clone(&world), plan, number, token);
                let fate = Client::new(work, leaves, number, &world, &look).await;
                if !world.is_dead() {
                    lock(&notes.fates)[number] = Some(fate);
                }
            });
        }
        clients
    }

    /// What must hold at every moment: what is settled and held passes no limit.
    fn look(&self) -> Arc<dyn Fn() + Send + Sync> {
        let tenants = self.tenants.clone();
        let notes = Arc::clone(&self.notes);
        Arc::new(move || {
            for tenant in &tenants {
                for gauge in tenant.quotas().tenant.iter() {
                    if gauge
                        .limit
                        .is_some_and(|limit| gauge.used + gauge.held > limit)
                    {
                        notes.tell(format!("{} passes a limit: {gauge:?}", tenant.id()));
                    }
                }
            }
        })
    }

    async fn deeds(&self, plan: &Plan, world: &Arc<World>) {
        let mut deeds = plan.deeds.clone();
        deeds.sort_by_key(|(at, _)| *at);
        let mut now = 0;
        for (at, deed) in deeds {
            rest(Duration::from_millis(at - now)).await;
            now = at;
            world.note("deed", at, 0);
            self.deed(deed, world).await;
        }
    }

    async fn deed(&self, deed: Deed, world: &World) {
        let (kernel, operator) = (&self.kernel, &self.operator);
        // Refused where the state of the tenant or of the journal does not allow it; what it leaves is checked at the end.
        match deed {
            Deed::Suspend(tenant) => {
                drop(kernel.suspend_tenant(operator, &self.tenants[tenant]).await)
            }
            Deed::Freeze(tenant) => {
                drop(kernel.freeze_tenant(operator, &self.tenants[tenant]).await)
            }
            Deed::Resume(tenant) => {
                drop(kernel.resume_tenant(operator, &self.tenants[tenant]).await)
            }
            Deed::ReadUsage(tenant) => drop(self.tenants[tenant].daily_usage(None, None).await),
            Deed::ReadAudit(tenant) => drop(self.tenants[tenant].audit_checkpoint().await),
            Deed::Limit(tenant) => {
                let change = QuotaChange {
                    // Above what is held: a lower one is no limit for what was admitted before.
                    limits: vec![(Quota::TokensPerDay, Some(1_000_000_000_000))],
                    ..QuotaChange::default()
                };
                drop(
                    kernel
                        .change_quotas(operator, &self.tenants[tenant], change)
                        .await,
                );
            }
            Deed::ClockJumps(by_ms) => world.jump(by_ms),
        }
    }

    /// Waits until nothing is under way, and looks whether anything was left behind.
    async fn rest(&self, plan: &Plan, world: &World) {
        // Longer than any answer is read on, and than a connection is kept.
        tokio::time::sleep(Duration::from_secs(60)).await;
        self.gateway.sweep();
        let mut leaks = Vec::new();
        let mut zero = |what: &str, count: u64| {
            if count != 0 {
                leaks.push(format!("{count} {what} left behind"));
            }
        };
        zero("calls", self.gateway.calls() as u64);
        zero("connections", self.network.open() as u64);
        for provider in self.gateway.catalog().providers() {
            let (used, waiting) = provider.line().load();
            zero("slots", u64::from(used));
            zero("places in line", u64::from(waiting));
        }
        for tenant in &self.tenants {
            for good in [Good::Calls, Good::BodyBytes, Good::Drains] {
                zero("parts of a share", tenant.share().held(good) as u64);
            }
            for gauge in tenant.quotas().tenant.iter() {
                zero("holds", u64::from(gauge.held != 0));
                let open = gauge.quota == Quota::ConcurrentRequests && gauge.used != 0;
                zero("open calls", u64::from(open));
            }
        }
        if !self.kernel.tasks().shut_down(Duration::from_secs(30)).await {
            leaks.push("tasks left behind".to_owned());
        }
        let month = |tenant: &Tenant| tenant.quotas().tenant[Quota::CostPerMonth as usize].used;
        let jumped = plan
            .deeds
            .iter()
            .any(|(_, deed)| matches!(deed, Deed::ClockJumps(_)));
        *lock(&self.notes.spent) = (!jumped).then(|| self.tenants.iter().map(month).collect());
        world.note("at rest", leaks.len() as u64, 0);
        leaks.into_iter().for_each(|leak| self.notes.tell(leak));
    }
}
