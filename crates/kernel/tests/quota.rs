//! Quotas over a real kernel: scopes, ends, restarts, and kills at any moment.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::future::{Future, poll_fn};
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Money, Role, Timestamp, Usage, UsageSource};
use kernel::ledger::Reserved;
use kernel::lifecycle::QuotaChange;
use kernel::quota::{Demand, Gauge, Quota, Scope, Whose};
use kernel::tokens::NewToken;
use kernel::{
    Admission, CallSlot, Caller, Charge, Exceeded, KernelError, Limits, OpenAttempt, Outcome,
    Settlement, Tenant,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use testkit::{TempKernel, facts};

/// One pico-USD for each token: the sums of both units are the same.
fn demand(tokens: u64) -> Demand {
    Demand {
        requests: 1,
        tokens,
        cost: Money::from_pico(i128::from(tokens)),
    }
}

fn used_up(tokens: u64) -> Settlement {
    Settlement {
        outcome: Outcome::Finished,
        usage: Some(Usage {
            input: tokens,
            ..Usage::default()
        }),
        usage_source: UsageSource::Provider,
        cost: Some(Money::from_pico(i128::from(tokens))),
        ..Settlement::unknown()
    }
}

fn limits(pairs: &[(Quota, i128)]) -> Limits {
    let mut limits = Limits::default();
    for (quota, limit) in pairs {
        limits.set(*quota, Some(*limit));
    }
    limits
}

async fn admit(home: &TempKernel, token: &str) -> Admission {
    home.kernel.admit(Caller::from_token(token)).await.unwrap()
}

/// A call as the gateway makes it: counted, held, recorded as sent.
async fn call(
    home: &TempKernel,
    admission: &Admission,
    tokens: u64,
) -> Result<(CallSlot, OpenAttempt), Exceeded> {
    let (slot, reserved, _) = admission.tenant().enter(demand(tokens))?;
    Ok((slot, sent(home, admission, reserved).await))
}

async fn sent(home: &TempKernel, admission: &Admission, reserved: Reserved) -> OpenAttempt {
    let trail = home.kernel.open_trail(None).unwrap();
    let facts = facts(*trail.request_id(), "sim-fast");
    let unwritten = reserved.open_attempt(admission, facts).unwrap();
    unwritten.written().await.unwrap()
}

async fn settled(home: &TempKernel, admission: &Admission, tokens: u64) -> Result<(), Exceeded> {
    let (slot, attempt) = call(home, admission, tokens).await?;
    let settling = attempt.settle(&used_up(tokens)).unwrap();
    settling.durable().await.unwrap();
    drop(slot);
    Ok(())
}

fn gauge(tenant: &Tenant, quota: Quota) -> Gauge {
    tenant.quotas().tenant[quota as usize]
}

async fn change(
    home: &TempKernel,
    tenant: &Tenant,
    scope: &str,
    limits: &[(Quota, Option<i128>)],
    until: Option<Timestamp>,
) -> Result<(), KernelError> {
    let change = QuotaChange {
        tier: None,
        scope: scope.parse::<Scope>().unwrap(),
        limits: limits.to_vec(),
        until,
    };
    home.kernel
        .change_quotas(&home.operator, tenant, change)
        .await
}

async fn the_tenant(home: &TempKernel) -> Tenant {
    let id = "acme".parse().unwrap();
    home.kernel.tenant(&home.operator, &id).unwrap()
}

fn text(token: &kernel::tokens::IssuedToken) -> String {
    token.text.expose_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_temporary_limit_ends_by_itself_over_a_restart_too() {
    let mut home = TempKernel::open().await.unwrap();
    let day = Quota::TokensPerDay;
    let (tenant, token) = home
        .tenant_with("acme", limits(&[(day, 100)]))
        .await
        .unwrap();
    let token = text(&token);
    let until = home.kernel.now().plus(Duration::from_secs(3_600));
    change(&home, &tenant, "tenant", &[(day, Some(500))], Some(until))
        .await
        .unwrap();
    drop(tenant);
    for _ in 0..2 {
        let admission = admit(&home, &token).await;
        assert_eq!(gauge(admission.tenant(), day).limit, Some(500));
        let more = admission.tenant().enter(demand(400));
        assert!(more.is_ok());
        drop((more, admission));
        home = home.crash_and_reopen().await.unwrap();
    }
    let admission = admit(&home, &token).await;
    home.clock.advance(Duration::from_millis(3_599_999));
    assert!(admission.tenant().enter(demand(101)).is_ok());
    home.clock.advance(Duration::from_millis(1));
    // The same capability, and nobody changed anything: the end alone.
    let over = admission.tenant().enter(demand(101)).err().unwrap();
    assert_eq!((over.quota, over.limit, over.retry_at), (day, 100, None));
    assert_eq!(gauge(admission.tenant(), day).limit, Some(100));
    drop(admission);
    home = home.crash_and_reopen().await.unwrap();
    let tenant = the_tenant(&home).await;
    assert_eq!(gauge(&tenant, day).limit, Some(100));
    let past = change(&home, &tenant, "tenant", &[(day, Some(1))], Some(until)).await;
    assert!(matches!(past, Err(KernelError::Refused(_))));
}

#[tokio::test]
async fn tokens_have_limits_and_counters_of_their_own_over_rotation_and_restart() {
    let mut home = TempKernel::open().await.unwrap();
    let day = Quota::TokensPerDay;
    let (tenant, first) = home
        .tenant_with("acme", limits(&[(day, 1_000)]))
        .await
        .unwrap();
    let ci = NewToken {
        name: "ci".parse().unwrap(),
        role: Role::App,
        person: None,
        expires: None,
    };
    let ci = home
        .kernel
        .issue_token(&home.operator, &tenant, ci)
        .await
        .unwrap();
    change(&home, &tenant, "each-token", &[(day, Some(100))], None)
        .await
        .unwrap();
    change(&home, &tenant, "token:ci", &[(day, Some(50))], None)
        .await
        .unwrap();
    let (first, ci) = (text(&first), text(&ci));
    settled(&home, &admit(&home, &first).await, 80)
        .await
        .unwrap();
    settled(&home, &admit(&home, &ci).await, 40).await.unwrap();
    // The one that a rotation makes takes over what was used under its name.
    let ci = home
        .kernel
        .rotate_token(&home.operator, &tenant, &"ci".parse().unwrap(), None)
        .await
        .unwrap();
    let ci = text(&ci);
    drop(tenant);
    for _ in 0..2 {
        let admission = admit(&home, &ci).await;
        let over = admission.tenant().enter(demand(11)).err().unwrap();
        let what = (over.whose, over.limit, over.used);
        assert_eq!(what, (Whose::Token, 50, 40));
        assert!(admission.tenant().enter(demand(10)).is_ok());
        assert_eq!(
            admission.tenant().left(kernel::quota::Unit::Tokens),
            Some(10)
        );
        let other = admit(&home, &first).await;
        assert!(other.tenant().enter(demand(20)).is_ok());
        let over = other.tenant().enter(demand(21)).err().unwrap();
        assert_eq!((over.whose, over.used), (Whose::Token, 80));
        let quotas = other.tenant().quotas();
        assert_eq!(quotas.tenant[day as usize].used, 120);
        let lines: Vec<_> = quotas
            .tokens
            .iter()
            .map(|(name, gauges)| {
                (
                    &**name,
                    gauges[day as usize].used,
                    gauges[day as usize].limit,
                )
            })
            .collect();
        assert_eq!(lines, [("ci", 40, Some(50)), ("default", 80, Some(100))]);
        drop((admission, other));
        home = home.killed().await.unwrap();
    }
}

#[tokio::test]
async fn a_minute_is_remembered_over_a_kill() {
    let mut home = TempKernel::open().await.unwrap();
    let (tenant, token) = home
        .tenant_with(
            "acme",
            limits(&[
                (Quota::TokensPerMinute, 100),
                (Quota::RequestsPerMinute, 3),
                (Quota::RequestsPerSecond, 2),
            ]),
        )
        .await
        .unwrap();
    let token = text(&token);
    drop(tenant);
    let admission = admit(&home, &token).await;
    settled(&home, &admission, 30).await.unwrap();
    home.clock.advance(Duration::from_secs(20));
    // One call is in flight when the process is killed: it stays charged at its hold.
    let in_flight = call(&home, &admission, 50).await.unwrap();
    home = home.killed().await.unwrap();
    drop((in_flight, admission));
    home.clock.advance(Duration::from_secs(1));
    let admission = admit(&home, &token).await;
    let tenant = admission.tenant();
    assert_eq!(gauge(tenant, Quota::TokensPerMinute).used, 80);
    assert_eq!(gauge(tenant, Quota::RequestsPerMinute).used, 2);
    assert_eq!(
        tenant.enter(demand(21)).err().unwrap().quota,
        Quota::TokensPerMinute
    );
    settled(&home, &admission, 20).await.unwrap();
    let over = tenant.enter(demand(0)).err().unwrap();
    assert_eq!(over.quota, Quota::RequestsPerMinute);
    // When the first call is a minute old, the second is not.
    let retry = over.retry_at.unwrap();
    home.clock.advance(retry.since(home.kernel.now()));
    settled(&home, &admission, 30).await.unwrap();
    assert!(tenant.enter(demand(0)).is_err());
}

#[tokio::test]
async fn a_call_that_waits_over_midnight_counts_in_one_day_also_after_a_restart() {
    let mut home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let token = text(&token);
    let admission = admit(&home, &token).await;
    home.clock.advance(Duration::from_secs(12 * 3_600 - 1));
    let (slot, reserved, _) = admission.tenant().enter(demand(40)).unwrap();
    // In the line of its provider.
    home.clock.advance(Duration::from_secs(2));
    let attempt = sent(&home, &admission, reserved).await;
    let settling = attempt.settle(&used_up(40)).unwrap();
    settling.durable().await.unwrap();
    drop((slot, admission));
    for _ in 0..2 {
        let admission = admit(&home, &token).await;
        let tenant = admission.tenant();
        assert_eq!(gauge(tenant, Quota::CostPerDay).used, 0);
        assert_eq!(gauge(tenant, Quota::CostPerMonth).used, 40);
        drop(admission);
        home = home.killed().await.unwrap();
    }
}

#[tokio::test]
async fn storage_is_limited_and_its_end_is_told() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, &text(&token)).await;
    let stored = tenant.stored().await.unwrap();
    assert!(stored.database > 0 && stored.total() >= stored.database);
    let full = i128::from(stored.total());
    change(
        &home,
        &tenant,
        "tenant",
        &[(Quota::StorageBytes, Some(full))],
        None,
    )
    .await
    .unwrap();
    let over = admission.tenant().enter(demand(1)).err().unwrap();
    assert_eq!(
        (over.quota, over.whose),
        (Quota::StorageBytes, Whose::Tenant)
    );
    let roomy = [(Quota::StorageBytes, Some(full + 1_000_000))];
    change(&home, &tenant, "tenant", &roomy, None)
        .await
        .unwrap();
    assert!(admission.tenant().enter(demand(1)).is_ok());
    let personal = [(Quota::StorageBytes, Some(1))];
    let refused = change(&home, &tenant, "each-token", &personal, None).await;
    assert!(matches!(refused, Err(KernelError::Refused(_))));
}

#[tokio::test]
async fn a_call_that_settles_while_storage_is_measured_is_counted() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, &text(&token)).await;
    let (slot, attempt) = call(&home, &admission, 1).await.unwrap();
    // Under way when the reading of the directory begins, in the database when it ends.
    let measures = loop {
        let mut measures = Box::pin(tenant.stored());
        let begins = |cx: &mut Context<'_>| Poll::Ready(measures.as_mut().poll(cx).is_pending());
        // On a busy machine it may have ended before it was asked.
        if poll_fn(begins).await {
            break measures;
        }
    };
    attempt
        .settle(&used_up(1))
        .unwrap()
        .durable()
        .await
        .unwrap();
    drop(slot);
    tenant.audit_length().await.unwrap();
    let stored = measures.await;
    let used = gauge(&tenant, Quota::StorageBytes).used;
    assert!(used > i128::from(stored.unwrap().total()));
}

#[tokio::test]
async fn each_change_of_a_quota_is_an_entry_with_its_particulars() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    let until = home.kernel.now().plus(Duration::from_secs(60));
    let cost = [(Quota::CostPerDay, Some(500_000_000_000))];
    let lifted = [(Quota::TokensPerDay, None)];
    // What is lifted does not come back by itself.
    let refused = change(&home, &tenant, "token:ci", &lifted, Some(until)).await;
    assert!(matches!(refused, Err(KernelError::Refused(_))));
    for (limits, until) in [(&lifted, None), (&cost, Some(until))] {
        change(&home, &tenant, "token:ci", limits, until)
            .await
            .unwrap();
    }
    let entries = tenant.audit_page(0).await.unwrap();
    let [.., before, last] = entries.as_slice() else {
        panic!("two changes")
    };
    assert!(before.entry.contains("\"tokens_per_day\":\"none\""));
    let entry = &last.entry;
    for part in [
        "\"action\":\"quota.set\"",
        "\"cost_per_day_usd\":\"0.5\"",
        "\"scope\":\"token:ci\"",
        "\"until\":\"2026-11-22T12:01:00.000Z\"",
    ] {
        assert!(entry.contains(part), "{part} is not in {entry}");
    }
}

/// What a random life of a tenant consists of.
#[derive(Clone, Debug)]
enum Step {
    Call { tokens: u64 },
    Settle { which: usize, tokens: u64 },
    Fail { which: usize },
    NotSent { which: usize },
    Drop { which: usize },
    Kill,
}

fn any_step() -> impl Strategy<Value = Step> {
    let which = 0_usize..8;
    prop_oneof![
        6 => (0_u64..30).prop_map(|tokens| Step::Call { tokens }),
        3 => (which.clone(), 0_u64..30).prop_map(|(which, tokens)| Step::Settle { which, tokens }),
        1 => which.clone().prop_map(|which| Step::Fail { which }),
        1 => which.clone().prop_map(|which| Step::NotSent { which }),
        1 => which.prop_map(|which| Step::Drop { which }),
        1 => Just(Step::Kill),
    ]
}

const DAY_LIMIT: u64 = 120;
const CALLS_AT_ONCE: usize = 4;

/// A tenant, the calls that are under way, and what must have been counted.
struct Life {
    home: TempKernel,
    admission: Admission,
    token: String,
    open: Vec<(u64, CallSlot, OpenAttempt)>,
    charged: u64,
}

impl Life {
    async fn begin() -> Self {
        let home = TempKernel::open().await.unwrap();
        let day = i128::from(DAY_LIMIT);
        let (_, token) = home
            .tenant_with(
                "acme",
                limits(&[
                    (Quota::TokensPerDay, day),
                    (Quota::CostPerMonth, day),
                    (Quota::ConcurrentRequests, CALLS_AT_ONCE as i128),
                ]),
            )
            .await
            .unwrap();
        let token = text(&token);
        let admission = admit(&home, &token).await;
        Self {
            home,
            admission,
            token,
            open: Vec::new(),
            charged: 0,
        }
    }

    fn held(&self) -> u64 {
        self.open.iter().map(|(tokens, ..)| tokens).sum()
    }

    fn take(&mut self, which: usize) -> Option<(u64, CallSlot, OpenAttempt)> {
        (!self.open.is_empty()).then(|| self.open.remove(which % self.open.len()))
    }

    async fn step(mut self, step: &Step) -> Self {
        match *step {
            Step::Call { tokens } => {
                let fits = self.charged + self.held() + tokens <= DAY_LIMIT
                    && self.open.len() < CALLS_AT_ONCE;
                match call(&self.home, &self.admission, tokens).await {
                    Ok((slot, attempt)) => {
                        assert!(fits, "a call passed the limit");
                        self.open.push((tokens, slot, attempt));
                    }
                    Err(over) => assert!(!fits, "a call was refused though it fits: {over:?}"),
                }
            }
            Step::Settle { which, tokens } => {
                if let Some((held, _slot, attempt)) = self.take(which) {
                    let used = tokens.min(held);
                    let settling = attempt.settle(&used_up(used)).unwrap();
                    settling.durable().await.unwrap();
                    self.charged += used;
                }
            }
            Step::Fail { which } => {
                if let Some((_, _slot, attempt)) = self.take(which) {
                    let settling = attempt.settle(&Settlement::failed()).unwrap();
                    settling.durable().await.unwrap();
                }
            }
            Step::NotSent { which } => {
                if let Some((_, _slot, attempt)) = self.take(which) {
                    let settling = attempt.not_sent().unwrap();
                    settling.durable().await.unwrap();
                }
            }
            // What the provider did is not known: charged at the hold.
            Step::Drop { which } => {
                if let Some((held, slot, attempt)) = self.take(which) {
                    drop((slot, attempt));
                    self.charged += held;
                }
            }
            Step::Kill => {
                let charged = self.charged + self.held();
                let Self {
                    home, token, open, ..
                } = self;
                let home = home.killed().await.unwrap();
                drop(open);
                let admission = admit(&home, &token).await;
                self = Self {
                    home,
                    admission,
                    token,
                    open: Vec::new(),
                    charged,
                };
            }
        }
        self
    }

    /// The counters are what they must be, and nothing is above its limit.
    fn check(&self) {
        let tenant = self.admission.tenant();
        for quota in [Quota::TokensPerDay, Quota::CostPerMonth] {
            let gauge = gauge(tenant, quota);
            let counted = (gauge.used, gauge.held);
            assert_eq!(counted, (i128::from(self.charged), i128::from(self.held())));
            assert!(gauge.used + gauge.held <= i128::from(DAY_LIMIT));
        }
        let open = gauge(tenant, Quota::ConcurrentRequests).used;
        assert_eq!(open, self.open.len() as i128);
    }
}

#[test]
fn settled_and_held_never_pass_the_limit_and_no_hold_is_lost_whatever_happens() {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let steps = proptest::collection::vec(any_step(), 1..40);
    TestRunner::new(config)
        .run(&steps, |steps| {
            runtime.block_on(async {
                let mut life = Life::begin().await;
                for step in &steps {
                    life = life.step(step).await;
                    life.check();
                }
                // At the end everything that is still open is killed, and the sum stands in the ledger.
                let life = life.step(&Step::Kill).await;
                life.check();
                let rows = life.admission.tenant().ledger_page(None, None, None).await;
                let charged: i128 = rows.unwrap().iter().map(|row| row.charged.pico()).sum();
                assert_eq!(charged, i128::from(life.charged));
            });
            Ok(())
        })
        .unwrap();
}

#[tokio::test]
async fn what_counts_may_differ_from_what_is_billed_and_survives_a_kill() {
    let mut home = TempKernel::open().await.unwrap();
    let (day, cost) = (Quota::TokensPerDay, Quota::CostPerDay);
    let (tenant, token) = home
        .tenant_with("acme", limits(&[(day, 1_000), (cost, 1_000)]))
        .await
        .unwrap();
    let token = text(&token);
    drop(tenant);
    // Of a hold of 100 and a bill of 10: the hold, a bound below it, and a bound above it.
    let charges = [
        Charge::Hold,
        Charge::AtMost(demand(30)),
        Charge::AtMost(demand(500)),
    ];
    let admission = admit(&home, &token).await;
    for charge in charges {
        let (slot, attempt) = call(&home, &admission, 100).await.unwrap();
        let settlement = Settlement {
            charge,
            ..used_up(10)
        };
        let settling = attempt.settle(&settlement).unwrap();
        settling.durable().await.unwrap();
        drop(slot);
    }
    drop(admission);
    for _ in 0..2 {
        let admission = admit(&home, &token).await;
        let tenant = admission.tenant();
        assert_eq!(gauge(tenant, day).used, 230);
        assert_eq!(gauge(tenant, cost).used, 230);
        let rows = tenant.ledger_page(None, None, None).await.unwrap();
        let mut seen: Vec<_> = rows
            .iter()
            .map(|row| (row.cost.map(Money::pico), row.charged.pico()))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(Some(10), 30), (Some(10), 100), (Some(10), 100)]);
        drop(admission);
        home = home.killed().await.unwrap();
    }
}
