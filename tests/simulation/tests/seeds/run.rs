//! One run: a life of the process, its end, and what the next one finds.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::RequestId;
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
use crate::plan::{Deed, Ends, Plan, TENANTS};
use crate::rng::Rng;
use crate::world::{Pace, World, rest};

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
        let now = kernel_clock(&world);
        world.die();
        (left, seen.0, seen.1, seen.2, now, copy)
    });
    drop(first);
    let home = copy.unwrap_or(home);
    let mut rows = 0;
    let second = runtime();
    let problems = second.block_on(async {
        let world = World::new(plan.seed, 1, ends_at, Pace::Prompt, DiskFaults::default());
        let problems = match open(&home, &world).await {
            Ok((kernel, operator)) => {
                let found = check::all(plan, &left, &kernel, &operator).await;
                rows = found.rows;
                found.problems
            }
            Err(error) => vec![format!("the kernel does not open again: {error}")],
        };
        world.die();
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

fn kernel_clock(world: &Arc<World>) -> base::Timestamp {
    base::Clock::now(&crate::world::WallClock(Arc::clone(world)))
}

type Problems = Arc<Mutex<Vec<String>>>;

fn tell(problems: &Problems, problem: String) {
    let mut problems = problems.lock().unwrap_or_else(PoisonError::into_inner);
    if problems.len() < 20 {
        problems.push(problem);
    }
}

/// Everything of the first life that is alive.
struct Life {
    kernel: Kernel,
    operator: Operator,
    gateway: Arc<Gateway>,
    network: Arc<Network>,
    tenants: Vec<Tenant>,
    problems: Problems,
}

async fn live(
    plan: &Plan,
    world: &Arc<World>,
    home: &Home,
    tokens: &[String],
) -> (Left, Option<Home>) {
    let problems = Problems::default();
    let mut left = Left {
        fates: vec![None; plan.calls.len()],
        ids: vec![None; plan.calls.len()],
        sightings: Vec::new(),
        stable: Vec::new(),
        failed_at: None,
        spent: None,
        problems: Vec::new(),
    };
    let (kernel, operator) = match open(home, world).await {
        Ok(opened) => opened,
        Err(error) => {
            if !world.with_disk(|disk| disk.failed) {
                left.problems
                    .push(format!("the kernel does not open: {error}"));
            }
            return (left, Some(home.copy()));
        }
    };
    let network = Network::new(world, plan);
    let gateway = gateway(kernel.clone(), &network);
    let tenant = |id: &&str| kernel.tenant(&operator, &id.parse().unwrap()).unwrap();
    let tenants: Vec<_> = TENANTS.iter().map(tenant).collect();
    let life = Life {
        kernel,
        operator,
        gateway,
        network,
        tenants,
        problems,
    };
    if plan.maintains {
        life.kernel.start_maintenance();
    }
    let mut clients = life.clients(plan, world, tokens);
    let all = async {
        while let Some(done) = clients.join_next().await {
            match done {
                Ok((number, fate)) => left.fates[number] = Some(fate),
                Err(error) => tell(&life.problems, format!("a client's task died: {error}")),
            }
        }
    };
    let deeds = life.deeds(plan, world);
    let both = async { tokio::join!(all, deeds) };
    let ends = match plan.ends {
        Ends::Killed(at) | Ends::PowerCut(at) => at,
        Ends::Closed => None,
    };
    match ends {
        Some(at) => drop(tokio::time::timeout(Duration::from_millis(at), both).await),
        None => drop(both.await),
    }
    let at_rest = ends.is_none();
    if at_rest {
        life.rest(plan, world, &mut left).await;
    }
    let copy = life.end(plan, world, home, &mut left).await;
    // Whatever is dropped from here on is dropped in a process that is dead.
    clients.abort_all();
    drop((clients, life));
    (left, copy)
}

impl Life {
    fn clients(
        &self,
        plan: &Plan,
        world: &Arc<World>,
        tokens: &[String],
    ) -> JoinSet<(usize, Fate)> {
        let mut clients = JoinSet::new();
        let look = self.look();
        for (number, call_plan) in plan.calls.iter().enumerate() {
            let (gw, world, token) = (
                Arc::clone(&self.gateway),
                Arc::clone(world),
                tokens[call_plan.tenant].clone(),
            );
            let (plan, look) = (call_plan.clone(), Arc::clone(&look));
            clients.spawn(async move {
                rest(Duration::from_millis(plan.at_ms)).await;
                let leaves = plan.leaves;
                let work = call(gw, Arc::clone(&world), plan, number, token);
                (
                    number,
                    Client::new(work, leaves, number, &world, &look).await,
                )
            });
        }
        clients
    }

    /// What must hold at every moment: what is settled and held passes no limit.
    fn look(&self) -> Arc<dyn Fn() + Send + Sync> {
        let tenants = self.tenants.clone();
        let problems = Arc::clone(&self.problems);
        Arc::new(move || {
            for tenant in &tenants {
                for gauge in tenant.quotas().tenant.iter() {
                    if gauge
                        .limit
                        .is_some_and(|limit| gauge.used + gauge.held > limit)
                    {
                        tell(
                            &problems,
                            format!("{} passes a limit: {gauge:?}", tenant.id()),
                        );
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
    async fn rest(&self, plan: &Plan, world: &World, left: &mut Left) {
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
        left.spent = (!jumped).then(|| self.tenants.iter().map(month).collect());
        world.note("at rest", leaks.len() as u64, 0);
        leaks
            .into_iter()
            .for_each(|leak| tell(&self.problems, leak));
    }

    /// Ends the process in the way that the plan says. What it leaves on disk, where that is not what lies there.
    async fn end(
        &self,
        plan: &Plan,
        world: &Arc<World>,
        home: &Home,
        left: &mut Left,
    ) -> Option<Home> {
        left.failed_at = world.failed_at();
        left.sightings = self.network.sightings();
        let stable = |disk: &mut Disk| {
            left.sightings
                .iter()
                .map(|seen| disk.is_stable(seen.journal_write))
                .collect()
        };
        left.stable = world.with_disk(stable);
        for (call, bits) in world.drawn() {
            left.ids[call].get_or_insert_with(|| RequestId::from_random(bits).as_str().to_owned());
        }
        let problems =
            std::mem::take(&mut *self.problems.lock().unwrap_or_else(PoisonError::into_inner));
        left.problems.extend(problems);
        match plan.ends {
            Ends::Closed => {
                self.kernel.close(Duration::from_secs(30)).await;
                world.die();
                Some(home.copy())
            }
            Ends::Killed(_) => {
                let copy = home.copy();
                world.die();
                Some(copy)
            }
            Ends::PowerCut(_) => {
                let copy = home.copy();
                let (journal, its_copy) =
                    (home.data().join("journal"), copy.data().join("journal"));
                let mut rng = Rng::new(plan.seed, 11);
                world
                    .with_disk(|disk| disk.cut_power(&journal, &its_copy, &mut rng))
                    .unwrap();
                world.die();
                Some(copy)
            }
        }
    }
}
