//! Alerts with a clock of the test's own: what is told, once, to whom, and that it survives a crash.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Money, Usage, UsageSource};
use kernel::alerts::OperatorReceiver;
use kernel::lifecycle::QuotaChange;
use kernel::quota::{Demand, Quota};
use kernel::tokens::IssuedToken;
use kernel::{Caller, Limits, Outcome, Secret, Settlement, Tenant, Tier, Tiers};
use testkit::{TempKernel, facts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const DAY: Duration = Duration::from_secs(86_400);

/// A receiver on this machine: what it got, and what it answers.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Message>>>,
    answers: Arc<Mutex<Vec<u16>>>,
}

#[derive(Clone, Debug)]
struct Message {
    id: String,
    body: serde_json::Value,
}

impl Message {
    fn kind(&self) -> &str {
        self.body["type"].as_str().unwrap()
    }

    fn percent(&self) -> u64 {
        self.body["data"]["threshold_percent"].as_u64().unwrap()
    }
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got: Arc<Mutex<Vec<Message>>> = Arc::default();
        let answers: Arc<Mutex<Vec<u16>>> = Arc::default();
        let (seen, says) = (Arc::clone(&got), Arc::clone(&answers));
        kernel::tasks::Tasks::default().spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = Vec::new();
                let message = loop {
                    let mut piece = [0; 4096];
                    let n = stream.read(&mut piece).await.unwrap();
                    read.extend_from_slice(&piece[..n]);
                    if let Some(message) = parsed(&read) {
                        break message;
                    }
                    assert!(n > 0);
                };
                seen.lock().unwrap().push(message);
                let status = says.lock().unwrap().pop().unwrap_or(204);
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { port, got, answers }
    }

    fn got(&self) -> Vec<Message> {
        self.got.lock().unwrap().clone()
    }

    /// Answers the next requests with these, the first one first.
    fn answers(&self, statuses: &[u16]) {
        *self.answers.lock().unwrap() = statuses.iter().rev().copied().collect();
    }
}

fn parsed(read: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(read).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    assert!(head.starts_with("POST /hook HTTP/1.1"), "{head}");
    assert!(header("webhook-signature").unwrap().starts_with("v1,"));
    let length: usize = header("content-length")?.parse().ok()?;
    (body.len() == length).then(|| Message {
        id: header("webhook-id").unwrap().to_owned(),
        body: serde_json::from_str(body).unwrap(),
    })
}

/// Lets tenants' webhooks reach this machine.
fn allow_local(home: &TempKernel, hosts: &[&str]) {
    let tiers = Tiers {
        tiers: [("basic".to_owned(), Tier::default())].into(),
        webhook_hosts: hosts.iter().map(|&host| host.parse().unwrap()).collect(),
        ..Tiers::default()
    };
    let models = BTreeSet::from(["sim-fast".to_owned()]);
    home.kernel.set_tiers(tiers, models);
}

async fn with_receiver(home: &TempKernel, tenant: &Tenant, port: u16) {
    let value = Secret::from_text(SECRET.to_owned()).unwrap();
    home.kernel
        .set_secret(&home.operator, tenant, "alerts", value)
        .await
        .unwrap();
    let text =
        format!("alerts: {{ webhook: 'http://127.0.0.1:{port}/hook', secret: vault:alerts }}\n");
    tenant.files().unwrap().write("config.yaml", text).unwrap();
    assert_eq!(home.kernel.overlay_error(tenant), None);
}

fn tenant(home: &TempKernel) -> Tenant {
    let id = "acme".parse().unwrap();
    home.kernel.tenant(&home.operator, &id).unwrap()
}

fn daily(usd: &str) -> Limits {
    let mut limits = Limits::default();
    limits.set(
        Quota::CostPerDay,
        Some(Money::parse_usd(usd).unwrap().pico()),
    );
    limits
}

/// One call that costs so much; `false`: it was refused.
async fn spend(home: &TempKernel, token: &IssuedToken, usd: &str) -> bool {
    let caller = Caller::from_token(token.text.expose_str().unwrap());
    let admission = home.kernel.admit(caller).await.unwrap();
    let cost = Money::parse_usd(usd).unwrap();
    let demand = Demand {
        requests: 1,
        tokens: 10,
        cost,
    };
    let Ok(reserved) = admission.tenant().reserve(demand) else {
        return false;
    };
    let trail = home.kernel.open_trail(None).unwrap();
    let facts = facts(*trail.request_id(), "sim-fast");
    let unwritten = reserved.open_attempt(&admission, facts).unwrap();
    let attempt = unwritten.written().await.unwrap();
    let settlement = Settlement {
        outcome: Outcome::Finished,
        usage: Some(Usage {
            input: 5,
            output: 5,
            ..Usage::default()
        }),
        usage_source: UsageSource::Provider,
        cost: Some(cost),
        ..Settlement::unknown()
    };
    attempt
        .settle(&settlement)
        .unwrap()
        .durable()
        .await
        .unwrap();
    true
}

/// Looks and delivers until nothing more comes; what came since the last time.
async fn told(home: &TempKernel, receiver: &Receiver) -> Vec<Message> {
    let before = receiver.got().len();
    home.kernel.look_at_budgets().await;
    let mut quiet = 0;
    let mut seen = before;
    while quiet < 10 {
        home.kernel.deliver_alerts();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = receiver.got().len();
        quiet = if now == seen { quiet + 1 } else { 0 };
        seen = now;
    }
    receiver.got().split_off(before)
}

/// The same, where something else has to happen first: waits up to ten seconds for the first to come.
async fn told_in_time(home: &TempKernel, receiver: &Receiver) -> Vec<Message> {
    let before = receiver.got().len();
    for _ in 0..500 {
        home.kernel.deliver_alerts();
        if receiver.got().len() > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    told(home, receiver).await;
    receiver.got().split_off(before)
}

fn percents(messages: &[Message]) -> Vec<u64> {
    messages.iter().map(Message::percent).collect()
}

#[tokio::test]
async fn each_threshold_is_told_once_for_each_window_also_after_a_crash() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    let (acme, token) = home.tenant_with("acme", daily("5")).await.unwrap();
    with_receiver(&home, &acme, receiver.port).await;
    assert!(spend(&home, &token, "2").await);
    assert!(told(&home, &receiver).await.is_empty());
    assert!(spend(&home, &token, "2.2").await);
    let first = told(&home, &receiver).await;
    assert_eq!(percents(&first), [50, 80]);
    assert!(first[0].id != first[1].id);
    let data = &first[1].body["data"];
    assert_eq!(
        (data["used"].as_str(), data["limit"].as_str()),
        (Some("4.2"), Some("5"))
    );
    assert_eq!(data["resets_at"], "2026-11-23T00:00:00.000Z");
    assert_eq!(data["calls_refused"], false);
    assert!(told(&home, &receiver).await.is_empty());

    // At the budget's end calls are refused; the rest of the tenant works.
    assert!(!spend(&home, &token, "1").await);
    let end = told(&home, &receiver).await;
    let kinds: BTreeSet<_> = end.iter().map(Message::kind).collect();
    assert_eq!(kinds, ["quota.threshold", "tenant.throttled"].into());
    let whole = end.iter().find(|m| m.kind() == "quota.threshold").unwrap();
    assert_eq!(whole.percent(), 100);
    assert_eq!(whole.body["data"]["calls_refused"], true);
    assert!(acme.audit_length().await.unwrap() > 0);
    assert_eq!(acme.ledger_page(None, None, None).await.unwrap().len(), 2);

    // A crash forgets nothing of it, and says nothing twice.
    drop(acme);
    let home = home.crash_and_reopen().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    assert!(!spend(&home, &token, "1").await);
    assert!(told(&home, &receiver).await.is_empty());

    // The next day is another window.
    home.clock.advance(DAY);
    assert!(spend(&home, &token, "2.6").await);
    assert_eq!(percents(&told(&home, &receiver).await), [50]);
    // Raised, calls are served again at once.
    assert!(!spend(&home, &token, "4").await);
    let raised = QuotaChange {
        limits: vec![(Quota::CostPerDay, daily("50").limit(Quota::CostPerDay))],
        ..QuotaChange::default()
    };
    home.kernel
        .change_quotas(&home.operator, &tenant(&home), raised)
        .await
        .unwrap();
    assert!(spend(&home, &token, "4").await);
}

#[tokio::test]
async fn what_a_receiver_does_not_take_comes_again_under_the_same_id() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    let (acme, token) = home.tenant_with("acme", daily("1")).await.unwrap();
    with_receiver(&home, &acme, receiver.port).await;
    // A redirect is not followed: it is a failure like the others.
    receiver.answers(&[500, 302]);
    assert!(spend(&home, &token, "0.6").await);
    let first = told(&home, &receiver).await;
    assert_eq!(percents(&first), [50]);
    // Not before its time, and not twice.
    assert!(told(&home, &receiver).await.is_empty());
    home.clock.advance(Duration::from_secs(6));
    let second = told(&home, &receiver).await;
    assert_eq!(second.len(), 1);

    // What waits survives a crash; nobody has to call first.
    drop(acme);
    let home = home.crash_and_reopen().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    home.clock.advance(Duration::from_secs(400));
    home.kernel.start_maintenance();
    // The tenant is opened behind this test's back first.
    let third = told_in_time(&home, &receiver).await;
    assert_eq!(third.len(), 1);
    let ids: BTreeSet<_> = receiver.got().into_iter().map(|m| m.id).collect();
    assert_eq!(ids.len(), 1);
    home.clock.advance(DAY);
    assert!(told(&home, &receiver).await.is_empty());
}

#[tokio::test]
async fn the_logs_checkpoint_is_told_once_an_hour_also_after_a_crash() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    let (acme, token) = home.tenant_with("acme", daily("5")).await.unwrap();
    with_receiver(&home, &acme, receiver.port).await;
    assert!(told(&home, &receiver).await.is_empty());
    let text = format!(
        "alerts: {{ webhook: 'http://127.0.0.1:{}/hook', secret: vault:alerts, checkpoints: hourly }}\n",
        receiver.port
    );
    acme.files().unwrap().write("config.yaml", text).unwrap();
    assert_eq!(home.kernel.overlay_error(&acme), None);
    assert!(spend(&home, &token, "0.1").await);
    let first = told(&home, &receiver).await;
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].kind(), "audit.checkpoint");
    let kept = first[0].body["data"]["checkpoint"]
        .as_str()
        .unwrap()
        .to_owned();
    // It covers what had been answered, and the log goes on from it.
    let size: u64 = kept.lines().nth(1).unwrap().parse().unwrap();
    assert_eq!(size, acme.audit_length().await.unwrap());
    assert!(spend(&home, &token, "0.1").await);
    assert!(told(&home, &receiver).await.is_empty());
    let mut walk = acme.audit_walk(Some(&kept)).await.unwrap();
    while walk.next().await.unwrap().is_some() {}
    drop((walk, acme));

    let home = home.crash_and_reopen().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    assert!(spend(&home, &token, "0.1").await);
    assert!(told(&home, &receiver).await.is_empty());
    home.clock.advance(Duration::from_secs(3_600));
    let second = told(&home, &receiver).await;
    assert_eq!(second.len(), 1);
    assert_ne!(
        second[0].body["data"]["checkpoint"].as_str(),
        Some(kept.as_str())
    );
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    allow_local(&home, &["127.0.0.1"]);
    let (acme, token) = home.tenant_with("acme", daily("1")).await.unwrap();
    with_receiver(&home, &acme, receiver.port).await;
    receiver.answers(&[410]);
    assert!(spend(&home, &token, "0.6").await);
    assert_eq!(told(&home, &receiver).await.len(), 1);
    home.clock.advance(Duration::from_secs(3_600));
    assert!(told(&home, &receiver).await.is_empty());
}

#[tokio::test]
async fn a_tenants_webhook_reaches_no_private_address() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    let (acme, token) = home.tenant_with("acme", daily("1")).await.unwrap();
    let refused = |text: &str| {
        acme.files().unwrap().write("config.yaml", text).unwrap();
        home.kernel.overlay_error(&acme).unwrap()
    };
    for host in [
        "127.0.0.1",
        "localhost",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
    ] {
        let text = format!("alerts: {{ webhook: 'https://{host}/hook', secret: vault:alerts }}\n");
        assert!(refused(&text).contains("alerts.webhook"), "{host}");
    }
    let text = "alerts: { webhook: 'http://hooks.example/', secret: vault:alerts }\n";
    assert!(refused(text).contains("must be https"));
    let text = format!("alerts: {{ webhook: 'https://hooks.example/', secret: {SECRET} }}\n");
    let said = refused(&text);
    assert!(said.contains("alerts.secret") && !said.contains(SECRET));
    let text = "alerts: { webhook: 'https://hooks.example/', secret: vault:a, thresholds: [0] }\n";
    assert!(refused(text).contains("alerts.thresholds"));

    // Allowed once, then no more: what waits is not sent there.
    allow_local(&home, &[&format!("127.0.0.1:{}", receiver.port)]);
    with_receiver(&home, &acme, receiver.port).await;
    assert!(spend(&home, &token, "0.6").await);
    allow_local(&home, &["127.0.0.1:1"]);
    assert!(told(&home, &receiver).await.is_empty());
    // The metadata service is never allowed.
    allow_local(&home, &["169.254.169.254"]);
    let text = "alerts: { webhook: 'http://169.254.169.254/', secret: vault:alerts }\n";
    assert!(refused(text).contains("not a public one"));
}

fn tell_operator(home: &TempKernel, receiver: &Receiver) {
    let secret = Secret::from_text(SECRET.to_owned()).unwrap();
    let url = format!("http://127.0.0.1:{}/hook", receiver.port);
    let to = OperatorReceiver::new(&url, false, None, &secret).unwrap();
    home.kernel.set_operator_receiver(Some(to));
}

#[tokio::test]
async fn the_operator_is_told_of_a_throttled_tenant_once() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    tell_operator(&home, &receiver);
    let mut limits = daily("1");
    limits.set(Quota::RequestsPerMinute, Some(3));
    let (_, token) = home.tenant_with("acme", limits).await.unwrap();
    assert!(spend(&home, &token, "0.9").await);
    assert!(told(&home, &receiver).await.is_empty());
    for _ in 0..5 {
        assert!(!spend(&home, &token, "0.2").await);
    }
    let throttled = told(&home, &receiver).await;
    assert_eq!(throttled.len(), 1);
    assert_eq!(throttled[0].kind(), "tenant.throttled");
    let data = &throttled[0].body["data"];
    assert_eq!(data["tenant"], "acme");
    assert_eq!(data["quota"], "cost_per_day_usd");
    assert_eq!(data["resets_at"], "2026-11-23T00:00:00.000Z");
    assert!(!spend(&home, &token, "0.2").await);
    assert!(told(&home, &receiver).await.is_empty());
    // Another quota is another matter.
    assert!(spend(&home, &token, "0.01").await);
    assert!(spend(&home, &token, "0.01").await);
    assert!(!spend(&home, &token, "0.01").await);
    let more = told(&home, &receiver).await;
    assert_eq!(more.len(), 1);
    assert_eq!(more[0].body["data"]["quota"], "requests_per_minute");
}

#[tokio::test]
async fn the_operator_is_told_of_all_tenants_that_are_throttled_at_once() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    tell_operator(&home, &receiver);
    let names: BTreeSet<_> = (0..70).map(|n| format!("tenant-{n:02}")).collect();
    for name in &names {
        let (_, token) = home.tenant_with(name, daily("0.1")).await.unwrap();
        assert!(!spend(&home, &token, "0.2").await);
    }
    let mut told = told(&home, &receiver).await;
    // So many deliveries may pause for longer than a few take.
    for _ in 0..200 {
        if told.len() >= names.len() {
            break;
        }
        home.kernel.deliver_alerts();
        tokio::time::sleep(Duration::from_millis(50)).await;
        told = receiver.got();
    }
    let about = |message: &Message| message.body["data"]["tenant"].as_str().map(str::to_owned);
    assert_eq!(told.len(), names.len());
    assert_eq!(
        told.iter().filter_map(about).collect::<BTreeSet<_>>(),
        names
    );
}

#[tokio::test]
async fn the_operator_is_told_of_a_quarantined_tenant() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    tell_operator(&home, &receiver);
    let (acme, _) = home.tenant("acme").await.unwrap();
    drop(acme);
    let home = home.crash_and_reopen().await.unwrap();
    tell_operator(&home, &receiver);
    let path = home.path().join("tenants/acme/tenant.db");
    damage(&path);
    let acme = tenant(&home);
    assert!(acme.audit_length().await.is_err());
    assert!(acme.quarantine().is_some());
    let quarantined = told(&home, &receiver).await;
    assert_eq!(quarantined.len(), 1);
    assert_eq!(quarantined[0].kind(), "tenant.quarantined");
    assert_eq!(quarantined[0].body["data"]["tenant"], "acme");
    assert!(told(&home, &receiver).await.is_empty());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test damages a file of its own"
)]
fn damage(path: &std::path::Path) {
    std::fs::write(path, b"this is no database").unwrap();
}

#[tokio::test]
async fn a_runaway_is_told_against_the_tenants_own_history() {
    let receiver = Receiver::start().await;
    let home = TempKernel::open().await.unwrap();
    tell_operator(&home, &receiver);
    let (_, token) = home.tenant("acme").await.unwrap();
    let (_, young) = home.tenant("globex").await.unwrap();
    // Without history nothing is out of the usual.
    assert!(spend(&home, &young, "500").await);
    home.kernel.look_at_budgets().await;
    assert!(spend(&home, &young, "500").await);
    assert!(told(&home, &receiver).await.is_empty());
    // The rest of the day on which it was made is no history either.
    home.clock.advance(DAY);
    assert!(spend(&home, &young, "2000").await);
    assert!(told(&home, &receiver).await.is_empty());
    // Seven days of four dollars.
    for _ in 0..7 {
        assert!(spend(&home, &token, "4").await);
        home.kernel.look_at_budgets().await;
        home.clock.advance(DAY);
    }
    home.kernel.look_at_budgets().await;
    assert!(told(&home, &receiver).await.is_empty());
    // In single steps within an hour: told when the hour costs one and a half times what any day did.
    for minute in 0..5 {
        let before = told(&home, &receiver).await;
        assert!(before.is_empty(), "after {minute} steps: {before:?}");
        assert!(spend(&home, &token, if minute < 4 { "1.4" } else { "0.4" }).await);
        home.clock.advance(Duration::from_secs(60));
    }
    let runaway = told(&home, &receiver).await;
    assert_eq!(runaway.len(), 1);
    assert_eq!(runaway[0].kind(), "tenant.runaway");
    let data = &runaway[0].body["data"];
    assert_eq!(data["tenant"], "acme");
    assert_eq!(data["spent_last_hour_usd"], "6");
    assert_eq!(data["dearest_day_usd"], "4");
    assert!(spend(&home, &token, "4").await);
    assert!(told(&home, &receiver).await.is_empty());

    // A restart does not hide it: the last hour is read back.
    home.clock.advance(DAY);
    assert!(spend(&home, &token, "18").await);
    let home = home.crash_and_reopen().await.unwrap();
    tell_operator(&home, &receiver);
    tenant(&home).audit_length().await.unwrap();
    let again = told(&home, &receiver).await;
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].kind(), "tenant.runaway");
}
