//! The kernel over real databases and a real journal.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use base::{Money, Role, Timestamp, Usage, UsageSource};
use kernel::quota::{Demand, Quota};
use kernel::tokens::{IssuedToken, NewToken};
use kernel::{
    Admission, Caller, KernelError, Limits, OpenAttempt, Outcome, Refused, Settlement, Tenant,
};
use testkit::{TempKernel, facts};

fn text(token: &IssuedToken) -> &str {
    token.text.expose_str().unwrap()
}

async fn admit(home: &TempKernel, token: &str) -> Result<Admission, Refused> {
    home.kernel.admit(Caller::from_token(token)).await
}

fn demand(usd: &str) -> Demand {
    Demand {
        requests: 1,
        tokens: 100,
        cost: Money::parse_usd(usd).unwrap(),
    }
}

async fn attempt(home: &TempKernel, admission: &Admission, usd: &str) -> OpenAttempt {
    let trail = home.kernel.open_trail(None).unwrap();
    let reserved = admission.tenant().reserve(demand(usd)).unwrap();
    let facts = facts(*trail.request_id(), "sim-fast");
    let unwritten = reserved.open_attempt(admission, facts).unwrap();
    unwritten.written().await.unwrap()
}

fn finished(usd: &str) -> Settlement {
    Settlement {
        outcome: Outcome::Finished,
        usage: Some(Usage {
            input: 7,
            output: 5,
            reasoning: 2,
            ..Usage::default()
        }),
        usage_source: UsageSource::Provider,
        cost: Some(Money::parse_usd(usd).unwrap()),
        ..Settlement::unknown()
    }
}

async fn rows(tenant: &Tenant) -> Vec<kernel::report::LedgerRow> {
    tenant.ledger_page(None, None, None).await.unwrap()
}

#[tokio::test]
async fn a_token_opens_its_tenant_and_no_other_text_does() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let (_, other) = home.tenant("globex").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    assert_eq!(admission.tenant().id().as_str(), "acme");
    assert_eq!(admission.role(), Role::Admin);
    assert_eq!(
        admit(&home, text(&other))
            .await
            .unwrap()
            .tenant()
            .id()
            .as_str(),
        "globex"
    );
    let swapped = text(&token).replace("acme", "globex");
    for wrong in [
        swapped.as_str(),
        "",
        "tk_acme_0",
        "' OR '1'='1",
        &text(&token).to_uppercase(),
        &format!("{} ", text(&token)),
    ] {
        assert!(
            matches!(admit(&home, wrong).await, Err(Refused::Unknown)),
            "{wrong}"
        );
    }
}

fn app(expires: Option<Timestamp>) -> NewToken {
    NewToken {
        name: "ci".parse().unwrap(),
        role: Role::App,
        person: None,
        expires,
    }
}

#[tokio::test]
async fn expiry_rotation_grace_and_revocation_bite_at_once() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, first) = home.tenant("acme").await.unwrap();
    let expires = home.kernel.now().plus(Duration::from_secs(60));
    let ci = home
        .kernel
        .issue_token(&home.operator, &tenant, app(Some(expires)))
        .await
        .unwrap();
    let again = home
        .kernel
        .issue_token(&home.operator, &tenant, app(None))
        .await;
    assert!(matches!(again, Err(KernelError::Exists(_))));
    let admission = admit(&home, text(&ci)).await.unwrap();
    home.clock.advance(Duration::from_secs(60));
    assert!(matches!(
        admit(&home, text(&ci)).await,
        Err(Refused::Unknown)
    ));
    assert!(
        matches!(admission.tenant().live(), Err(KernelError::Revoked)),
        "an open capability ends too"
    );

    let name = "default".parse().unwrap();
    let old = admit(&home, text(&first)).await.unwrap();
    let grace = Some(Duration::from_secs(10));
    let second = home
        .kernel
        .rotate_token(&home.operator, &tenant, &name, grace)
        .await
        .unwrap();
    assert!(admit(&home, text(&first)).await.is_ok() && admit(&home, text(&second)).await.is_ok());
    home.clock.advance(Duration::from_secs(10));
    assert!(matches!(
        admit(&home, text(&first)).await,
        Err(Refused::Unknown)
    ));
    assert!(old.tenant().live().is_err());
    let ended = admit(&home, text(&second)).await.unwrap().ended();
    home.kernel
        .revoke_token(&home.operator, &tenant, &name)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(1), ended)
        .await
        .expect("streams end with their token");
    assert!(matches!(
        admit(&home, text(&second)).await,
        Err(Refused::Unknown)
    ));
}

#[tokio::test]
async fn suspension_ends_capabilities_and_resumption_does_not_revive_them() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let before = admit(&home, text(&token)).await.unwrap();
    let ended = before.ended();
    home.kernel
        .suspend_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(1), ended)
        .await
        .expect("streams end");
    assert!(matches!(
        admit(&home, text(&token)).await,
        Err(Refused::Suspended)
    ));
    let tenant = home.known("acme").unwrap();
    home.kernel
        .resume_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    assert!(admit(&home, text(&token)).await.is_ok());
    let read = before.tenant().read(|_tx| Ok(())).await;
    assert!(matches!(read, Err(KernelError::Revoked)));
}

#[tokio::test]
async fn settled_once_whatever_happens() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    attempt(&home, &admission, "0.5")
        .await
        .settle(&finished("0.25"))
        .unwrap()
        .durable()
        .await
        .unwrap();
    drop(attempt(&home, &admission, "0.5").await);
    attempt(&home, &admission, "0.5")
        .await
        .settle(&Settlement::failed())
        .unwrap()
        .durable()
        .await
        .unwrap();
    attempt(&home, &admission, "0.5")
        .await
        .not_sent()
        .unwrap()
        .durable()
        .await
        .unwrap();
    let rows = rows(&tenant).await;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.outcome.as_str(),
                row.cost.map(|cost| cost.to_string()),
                row.charged.to_string(),
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("finished", Some("0.25".to_owned()), "0.25".to_owned()),
            ("unknown", None, "0.5".to_owned()),
            ("failed", Some("0".to_owned()), "0".to_owned()),
        ]
    );
    assert_eq!(rows[0].usage.unwrap().tokens_out(), 7);
    let daily = tenant.daily_usage(None, None).await.unwrap();
    assert_eq!(
        (
            daily[0].attempts,
            daily[0].tokens_in,
            daily[0].cost.to_string()
        ),
        (3, 7, "0.25".to_owned())
    );
    let entries = tenant.audit_page(0).await.unwrap();
    let outcomes: Vec<_> = entries
        .iter()
        .map(|row| serde_json::from_str::<serde_json::Value>(&row.entry).unwrap())
        .filter_map(|entry| entry["outcome"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(outcomes, ["finished", "unknown", "failed", "not_sent"]);
    assert!(
        entries
            .iter()
            .enumerate()
            .all(|(index, row)| row.seq == index as u64)
    );
}

#[tokio::test]
async fn a_crash_leaves_exactly_one_unknown_row_charged_at_its_hold() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    attempt(&home, &admission, "0.5")
        .await
        .settle(&finished("0.25"))
        .unwrap()
        .durable()
        .await
        .unwrap();
    // Never settled, never dropped: the process dies with it.
    let open = attempt(&home, &admission, "0.75").await;
    let mut home = home.killed().await.unwrap();
    std::mem::forget(open);
    for _ in 0..2 {
        let tenant = home.known("acme").unwrap();
        let seen: Vec<_> = rows(&tenant)
            .await
            .iter()
            .map(|row| (row.outcome.clone(), row.charged.to_string()))
            .collect();
        assert_eq!(
            seen,
            [
                ("finished".to_owned(), "0.25".to_owned()),
                ("unknown".to_owned(), "0.75".to_owned())
            ]
        );
        let entries = tenant.audit_page(0).await.unwrap();
        assert_eq!(
            entries
                .iter()
                .filter(|row| row.entry.contains("\"outcome\":\"unknown\""))
                .count(),
            1
        );
        drop(tenant);
        home = home.crash_and_reopen().await.unwrap();
    }
}

#[tokio::test]
async fn a_settlement_that_nobody_waits_for_survives_a_kill() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    let abandoned = Settlement {
        outcome: Outcome::Abandoned,
        ..finished("0.25")
    };
    let settling = attempt(&home, &admission, "0.75").await.settle(&abandoned);
    settling.unwrap().written().unwrap();
    let home = home.killed().await.unwrap();
    let id = "acme".parse().unwrap();
    let tenant = home.kernel.tenant(&home.operator, &id).unwrap();
    let rows = rows(&tenant).await;
    assert_eq!(rows.len(), 1);
    assert_eq!(
        (rows[0].outcome.as_str(), rows[0].charged.to_string()),
        ("abandoned", "0.25".to_owned())
    );
}

#[tokio::test]
async fn limits_hold_over_a_restart() {
    let mut home = TempKernel::open().await.unwrap();
    let mut limits = Limits::default();
    limits.set(
        Quota::CostPerDay,
        Some(Money::parse_usd("1").unwrap().pico()),
    );
    let (_, token) = home.tenant_with("acme", limits).await.unwrap();
    let token = text(&token).to_owned();
    let admission = admit(&home, &token).await.unwrap();
    attempt(&home, &admission, "0.5")
        .await
        .settle(&finished("0.4"))
        .unwrap()
        .durable()
        .await
        .unwrap();
    drop(attempt(&home, &admission, "0.5").await);
    drop(admission);
    for _ in 0..2 {
        let admission = admit(&home, &token).await.unwrap();
        assert!(admission.tenant().reserve(demand("0.2")).is_err());
        assert!(
            admission.tenant().reserve(demand("0.1")).is_ok(),
            "a reservation that is dropped is given back"
        );
        drop(admission);
        home = home.crash_and_reopen().await.unwrap();
    }
}

#[tokio::test]
async fn a_grace_period_is_never_lengthened_not_even_by_a_restart() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, first) = home.tenant("acme").await.unwrap();
    let name = "default".parse().unwrap();
    for seconds in [3, 3_000_000] {
        let grace = Some(Duration::from_secs(seconds));
        home.kernel
            .rotate_token(&home.operator, &tenant, &name, grace)
            .await
            .unwrap();
    }
    home.clock.advance(Duration::from_secs(4));
    assert!(matches!(
        admit(&home, text(&first)).await,
        Err(Refused::Unknown)
    ));
    drop(tenant);
    let home = home.crash_and_reopen().await.unwrap();
    assert!(matches!(
        admit(&home, text(&first)).await,
        Err(Refused::Unknown)
    ));
}

#[tokio::test]
async fn a_call_counts_once_and_to_its_end_whatever_its_attempts_do() {
    let home = TempKernel::open().await.unwrap();
    let mut limits = Limits::default();
    limits.set(Quota::ConcurrentRequests, Some(1));
    limits.set(Quota::RequestsPerDay, Some(2));
    let (_, token) = home.tenant_with("acme", limits).await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    let (slot, reserved, _) = admission.tenant().enter(demand("0.1")).unwrap();
    drop(reserved);
    assert!(
        admission.tenant().enter(demand("0.1")).is_err(),
        "the call still runs"
    );
    drop(slot);
    drop(admission.tenant().enter(demand("0.1")).unwrap());
    let third = admission.tenant().enter(demand("0.1"));
    assert!(third.is_err_and(|over| over.quota == Quota::RequestsPerDay));
}

#[tokio::test]
async fn a_credential_that_ended_opens_no_attempt() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    let trail = home.kernel.open_trail(None).unwrap();
    let reserved = admission.tenant().reserve(demand("0.1")).unwrap();
    home.kernel
        .suspend_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    let facts = facts(*trail.request_id(), "m");
    let opened = reserved.open_attempt(&admission, facts);
    assert!(matches!(opened, Err(KernelError::Revoked)));
}

#[tokio::test]
async fn absurd_amounts_break_no_books() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    for _ in 0..3 {
        let most = Settlement {
            cost: Some(Money::MAX),
            usage: Some(Usage {
                output: u64::MAX,
                ..Usage::default()
            }),
            ..finished("0")
        };
        attempt(&home, &admission, "0.1")
            .await
            .settle(&most)
            .unwrap()
            .durable()
            .await
            .unwrap();
    }
    drop(admission);
    let home = home.crash_and_reopen().await.unwrap();
    assert!(admit(&home, text(&token)).await.is_ok());
    let tenant = home.known("acme").unwrap();
    assert_eq!(tenant.daily_usage(None, None).await.unwrap()[0].attempts, 3);
}

#[tokio::test]
async fn a_reader_that_goes_away_leaves_nothing_behind() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let admission = admit(&home, text(&token)).await.unwrap();
    attempt(&home, &admission, "0.5")
        .await
        .settle(&finished("0.25"))
        .unwrap()
        .durable()
        .await
        .unwrap();
    let mut open = Some(attempt(&home, &admission, "0.5").await);
    let home = home.killed().await.unwrap();
    std::mem::forget(open.take());
    for _ in 0..20 {
        // Cancelled at its first await: the opening of the tenant goes on without it.
        let _cancelled = tokio::time::timeout(Duration::ZERO, admit(&home, text(&token))).await;
    }
    let tenant = home.known("acme").unwrap();
    let seen: Vec<_> = rows(&tenant)
        .await
        .iter()
        .map(|row| row.outcome.clone())
        .collect();
    assert_eq!(seen, ["finished", "unknown"]);
    let entries = tenant.audit_page(0).await.unwrap();
    assert!(
        entries
            .iter()
            .enumerate()
            .all(|(index, row)| row.seq == index as u64)
    );
}
