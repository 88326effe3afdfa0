//! What is kept of calls, over a kill of the process.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use base::{Money, Usage, UsageSource};
use kernel::audit::content::Kept;
use kernel::audit::level::Level;
use kernel::audit::notes::Asked;
use kernel::{Admission, Caller, Demand, OpenAttempt, Outcome, Settlement, Tier, Tiers};
use testkit::{TempKernel, facts};

async fn attempt(home: &TempKernel, caller: &Admission, request: &str) -> OpenAttempt {
    let trail = home.kernel.open_trail(None).unwrap();
    let facts = facts(*trail.request_id(), "sim-fast");
    let asked = Asked {
        operation: "chat.completions",
        streamed: true,
        messages: None,
        max_tokens: None,
        temperature: None,
        tools: Vec::new(),
    };
    let notes = caller.begin_notes(asked, request.as_bytes()).await.unwrap();
    let reserved = caller.tenant().reserve(Demand::default()).unwrap();
    let unwritten = reserved.open_attempt(caller, facts).unwrap();
    unwritten.noted(Some(notes)).written().await.unwrap()
}

#[tokio::test]
async fn content_is_there_after_a_kill_and_an_open_attempt_has_none() {
    let home = TempKernel::open().await.unwrap();
    let tier = Tier {
        audit_level: Level::Full,
        ..Tier::default()
    };
    let tiers = Tiers {
        tiers: [("basic".to_owned(), tier)].into(),
        ..Tiers::default()
    };
    home.kernel.set_tiers(tiers, ["sim-fast".to_owned()].into());
    let (_, token) = home.tenant("acme").await.unwrap();
    let text = std::str::from_utf8(token.text.expose()).unwrap();
    let caller = home
        .kernel
        .admit(Caller::from_token(text))
        .await
        .ok()
        .unwrap();
    let mut settled = attempt(&home, &caller, "what was asked").await;
    settled.notes().unwrap().delivered(b"what was answered");
    let settlement = Settlement {
        outcome: Outcome::Finished,
        usage: Some(Usage::default()),
        usage_source: UsageSource::Provider,
        cost: Some(Money::ZERO),
        ..Settlement::unknown()
    };
    let settling = settled.settle(&settlement).unwrap();
    settling.durable().await.unwrap();
    let mut under_way = attempt(&home, &caller, "never answered").await;
    under_way.notes().unwrap().delivered(b"half");
    // The directory as it lies: nothing is folded, and the second attempt is not settled.
    let home = home.killed().await.unwrap();
    let tenant = home.known("acme").unwrap();
    let calls: Vec<_> = tenant.audit_page(0).await.unwrap();
    let calls: Vec<_> = calls
        .iter()
        .filter(|row| row.entry.contains("call_model"))
        .collect();
    assert_eq!(calls.len(), 2);
    let kept = tenant.audit_content(calls[0].seq).await.ok().unwrap();
    let Some(Kept::Parts(parts)) = kept else {
        panic!("it was durable")
    };
    let texts: Vec<_> = parts.iter().map(|part| part.kept.as_slice()).collect();
    assert_eq!(texts, [&b"what was asked"[..], b"what was answered"]);
    assert!(calls[1].entry.contains(r#""outcome":"unknown""#));
    let none = tenant.audit_content(calls[1].seq).await.ok().unwrap();
    assert!(none.is_none());
    let mut walk = tenant.audit_walk(None).await.unwrap();
    while walk.next().await.unwrap().is_some() {}
    drop(under_way);
}
