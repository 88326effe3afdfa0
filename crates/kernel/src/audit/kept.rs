//! What is kept of calls: written, read, altered, forgotten, dropped.

mod conversations;

use std::path::Path;
use std::sync::Arc;

use base::{Money, Usage, UsageSource, limits};
use store::sql::params;
use store::{StoreError, WriteTx};

use crate::audit::content::{Kept, Part};
use crate::audit::level::Level;
use crate::audit::notes::Asked;
use crate::audit::person::Whose;
use crate::audit::verify::{AuditError, LogFault};
use crate::fixture::{acme, app_token, begun, open};
use crate::{
    Admission, AttemptFacts, Caller, Demand, Kernel, KernelError, OpenAttempt, Operator, Outcome,
    Settlement, Tenant, Tier, Tiers,
};

const ASKED: &str = r#"{"messages":"Ann asks"}"#;
const SAID: &str = r#"{"choices":"Ann is told"}"#;

fn at_level(kernel: &Kernel, audit_level: Level) {
    let tier = Tier {
        audit_level,
        ..Tier::default()
    };
    let tiers = Tiers {
        tiers: [("basic".to_owned(), tier)].into(),
        ..Tiers::default()
    };
    kernel.set_tiers(tiers, ["m".to_owned()].into());
}

/// A house whose tenant has this level, and a caller.
async fn house(path: &Path, level: Level) -> (Kernel, Operator, Admission) {
    let (kernel, operator) = begun(path).await;
    at_level(&kernel, level);
    let caller = caller(&kernel, &operator, "ci").await;
    (kernel, operator, caller)
}

async fn caller(kernel: &Kernel, operator: &Operator, name: &str) -> Admission {
    let tenant = kernel.tenant(operator, &acme()).unwrap();
    let issued = kernel.issue_token(operator, &tenant, app_token(name));
    let text = issued.await.unwrap().text;
    let text = String::from_utf8(text.expose().to_vec()).unwrap();
    kernel.admit(Caller::from_token(&text)).await.ok().unwrap()
}

async fn attempt(kernel: &Kernel, caller: &Admission, request: &str) -> OpenAttempt {
    let trail = kernel.open_trail(None).unwrap();
    let demand = Demand {
        requests: 1,
        tokens: 1,
        cost: Money::ZERO,
    };
    let facts = AttemptFacts {
        request: *trail.request_id(),
        attempt: 1,
        counts_call: true,
        model: "m".into(),
        provider: "p".into(),
        provider_model: "pm".into(),
        ratecard_version: Arc::from("v"),
        rule: "base.callers-work".into(),
        region: None,
        trace: None,
        standing: crate::quota::Standing::default(),
        request_received: [1; 32],
        request_sent: [2; 32],
    };
    let asked = Asked {
        operation: "chat.completions",
        streamed: false,
        messages: Some(1),
        max_tokens: None,
        temperature: None,
        tools: vec!["look".to_owned()],
    };
    let notes = match caller.settings().audit_level {
        Level::Basic => None,
        _ => Some(caller.begin_notes(asked, request.as_bytes()).await.unwrap()),
    };
    let reserved = caller.tenant().reserve(demand).unwrap();
    let unwritten = reserved.open_attempt(caller, facts).unwrap().noted(notes);
    unwritten.written().await.unwrap()
}

async fn say(kernel: &Kernel, caller: &Admission, request: &str, answer: &str) {
    let mut open = attempt(kernel, caller, request).await;
    open.answer_begins();
    if let Some(notes) = open.notes() {
        let (first, rest) = answer.split_at(answer.len() / 2);
        notes.delivered(first.as_bytes());
        notes.delivered(rest.as_bytes());
        notes.finished(Some("stop"));
    }
    let settlement = Settlement {
        outcome: Outcome::Finished,
        usage: Some(Usage::default()),
        usage_source: UsageSource::Provider,
        cost: Some(Money::ZERO),
        ..Settlement::unknown()
    };
    open.settle(&settlement).unwrap().durable().await.unwrap();
}

fn tenant(kernel: &Kernel, operator: &Operator) -> Tenant {
    kernel.tenant(operator, &acme()).unwrap()
}

/// Entries of calls: their places and texts.
async fn calls(tenant: &Tenant) -> Vec<(u64, String)> {
    let rows = tenant.audit_page(0).await.unwrap();
    let call = |entry: &str| entry.contains(r#""action":"call_model""#);
    rows.into_iter()
        .filter(|row| call(&row.entry))
        .map(|row| (row.seq, row.entry))
        .collect()
}

/// What is kept of the call there: request, answer. `None` where it was erased.
async fn read(tenant: &Tenant, seq: u64) -> Option<(String, String)> {
    match tenant.audit_content(seq).await.ok().unwrap().unwrap() {
        Kept::Erased => None,
        Kept::Parts(parts) => {
            let text = |wanted: Part| {
                let part = parts.iter().find(|part| part.part == wanted);
                part.map_or_else(String::new, |part| {
                    String::from_utf8(part.kept.clone()).unwrap()
                })
            };
            Some((text(Part::Request), text(Part::Answer)))
        }
    }
}

async fn verified(tenant: &Tenant) -> Result<u64, AuditError> {
    let mut walk = tenant.audit_walk(None).await?;
    while walk.next().await?.is_some() {}
    Ok(walk.first())
}

async fn fault(tenant: &Tenant) -> Option<LogFault> {
    match verified(tenant).await {
        Err(AuditError::Log(fault)) => Some(fault),
        _ => None,
    }
}

async fn alter(tenant: &Tenant, sql: &'static str) {
    let job =
        move |tx: &mut WriteTx<'_>| -> Result<usize, StoreError> { tx.execute(sql, params![]) };
    assert!(tenant.write(job).await.unwrap() > 0, "{sql}");
}

fn token(name: &str) -> Whose {
    Whose::Token(name.parse().unwrap())
}

#[tokio::test]
async fn each_level_says_what_the_one_before_says_and_more() {
    for level in Level::ALL {
        let home = tempfile::tempdir().unwrap();
        let (kernel, operator, caller) = house(&home.path().join("data"), level).await;
        say(&kernel, &caller, ASKED, SAID).await;
        let tenant = tenant(&kernel, &operator);
        let [(seq, entry)] = &calls(&tenant).await[..] else {
            panic!("one call, one entry")
        };
        let value: serde_json::Value = serde_json::from_str(entry).unwrap();
        assert_eq!(&serde_json_canonicalizer::to_string(&value).unwrap(), entry);
        assert!(!entry.contains("Ann"), "{entry}");
        assert_eq!(value["call"].is_object(), level >= Level::Detailed);
        assert_eq!(value["content"].is_array(), level == Level::Full);
        if level >= Level::Detailed {
            let call = &value["call"];
            assert_eq!(call["bytes_in"], ASKED.len());
            assert_eq!(call["bytes_out"], SAID.len());
            assert_eq!(
                (&call["finish_reason"], &call["tools"]),
                (&"stop".into(), &1.into())
            );
            assert!(call["first_byte_ms"].as_u64().unwrap() < 60_000);
        }
        if level == Level::Full {
            let kept = read(&tenant, *seq).await.unwrap();
            assert_eq!(kept, (ASKED.to_owned(), SAID.to_owned()));
            assert_eq!(value["content"][1]["bytes"], SAID.len());
        } else {
            assert!(tenant.audit_content(*seq).await.ok().unwrap().is_none());
        }
        // Where nothing is kept, and where no entry is, the answer is the same.
        for nothing in [0, 1_000, u64::MAX] {
            assert!(tenant.audit_content(nothing).await.ok().unwrap().is_none());
        }
        assert_eq!(verified(&tenant).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_is_long_is_cut_and_its_length_said() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, operator, caller) = house(&home.path().join("data"), Level::Full).await;
    let long = "ä".repeat(limits::CONTENT_PART_BYTES_MAX);
    say(&kernel, &caller, &long, &long).await;
    let tenant = tenant(&kernel, &operator);
    let (seq, entry) = calls(&tenant).await.remove(0);
    let (request, answer) = read(&tenant, seq).await.unwrap();
    assert!(long.starts_with(&request) && request == answer);
    assert!(request.len() > limits::CONTENT_PART_BYTES_MAX - 2);
    assert!(entry.contains(&format!(r#""bytes":{}"#, long.len())));
}

#[tokio::test]
async fn what_is_forgotten_is_read_by_nobody_and_the_log_verifies() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, one) = house(&path, Level::Full).await;
    let other = caller(&kernel, &operator, "web").await;
    say(&kernel, &one, "first of ci", SAID).await;
    say(&kernel, &other, "of web", SAID).await;
    let tenant = tenant(&kernel, &operator);
    let kept = tenant.audit_checkpoint().await.unwrap();
    // What is under way while its key is destroyed is erased with the rest; what follows has a key of its own.
    let mut under_way = attempt(&kernel, &one, "under way").await;
    under_way.notes().unwrap().delivered(b"half");
    kernel
        .forget_person(&operator, &tenant, token("ci"))
        .await
        .unwrap();
    drop(under_way);
    say(&kernel, &one, "after", SAID).await;
    let again = kernel.forget_person(&operator, &tenant, token("nobody"));
    assert!(matches!(again.await, Err(KernelError::NotFound(_))));
    drop((kernel, operator, one, other, tenant));
    for _ in 0..2 {
        let (kernel, operator) = open(&path).await;
        let tenant = self::tenant(&kernel, &operator);
        let calls = calls(&tenant).await;
        let mut read_back = Vec::new();
        for (seq, _) in &calls {
            read_back.push(read(&tenant, *seq).await.map(|(request, _)| request));
        }
        let expect = [None, Some("of web"), None, Some("after")];
        assert_eq!(read_back, expect.map(|text| text.map(str::to_owned)));
        let mut walk = tenant.audit_walk(Some(&kept)).await.unwrap();
        while walk.next().await.unwrap().is_some() {}
        let erasures = tenant.audit_page(0).await.unwrap();
        let erasures: Vec<_> = erasures
            .iter()
            .filter(|row| row.entry.contains("person.erase"))
            .collect();
        assert_eq!(erasures.len(), 1);
        let named = r#""detail":{"conversations":"0","kind":"token","name":"ci"}"#;
        assert!(erasures[0].entry.contains(named));
    }
}

#[tokio::test]
async fn an_erasure_that_was_cut_short_is_ended_by_asking_again() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, operator, caller) = house(&home.path().join("data"), Level::Full).await;
    say(&kernel, &caller, ASKED, SAID).await;
    let resident = kernel.directory().tenant(&acme()).unwrap();
    let ci = token("ci");
    kernel.destroy_person_key(&resident, &ci).await.unwrap();
    let tenant = tenant(&kernel, &operator);
    let again = kernel.forget_person(&operator, &tenant, token("ci"));
    again.await.unwrap();
    let told = tenant.audit_page(0).await.unwrap();
    let told = told.iter().filter(|row| row.entry.contains("person.erase"));
    assert_eq!(told.count(), 1);
    let more = kernel.forget_person(&operator, &tenant, token("ci"));
    assert!(matches!(more.await, Err(KernelError::NotFound(_))));
}

#[tokio::test]
async fn an_erasure_that_a_crash_cut_short_is_told_at_the_next_opening() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, caller) = house(&path, Level::Full).await;
    say(&kernel, &caller, ASKED, SAID).await;
    let resident = kernel.directory().tenant(&acme()).unwrap();
    kernel
        .destroy_person_key(&resident, &token("ci"))
        .await
        .unwrap();
    drop((kernel, operator, caller, resident));
    for _ in 0..2 {
        let (kernel, operator) = open(&path).await;
        let tenant = tenant(&kernel, &operator);
        assert!(read(&tenant, calls(&tenant).await[0].0).await.is_none());
        let told = tenant.audit_page(0).await.unwrap();
        let told = told.iter().filter(|row| row.entry.contains("person.erase"));
        assert_eq!(told.count(), 1);
        assert_eq!(verified(&tenant).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn content_that_was_altered_swapped_or_taken_away_is_found() {
    for sql in [
        "UPDATE audit_content SET sealed = zeroblob(length(sealed)) WHERE part = 'answer'",
        "UPDATE audit_content SET sealed = (SELECT other.sealed FROM audit_content other WHERE other.seq > audit_content.seq AND other.part = audit_content.part) WHERE seq = (SELECT MIN(seq) FROM audit_content)",
        "UPDATE audit_content SET part = CASE part WHEN 'answer' THEN 'x' ELSE part END",
        "DELETE FROM audit_content WHERE part = 'request'",
        "INSERT INTO audit_content SELECT seq, 'more', key, sent_seq, sealed FROM audit_content WHERE part = 'answer'",
    ] {
        let home = tempfile::tempdir().unwrap();
        let (kernel, operator, caller) = house(&home.path().join("data"), Level::Full).await;
        say(&kernel, &caller, "the first", SAID).await;
        say(&kernel, &caller, "the other", SAID).await;
        let tenant = tenant(&kernel, &operator);
        let first = calls(&tenant).await[0].0;
        alter(&tenant, sql).await;
        assert_eq!(
            fault(&tenant).await,
            Some(LogFault::Content(first)),
            "{sql}"
        );
        let read = tenant.audit_content(first).await;
        let found = matches!(read, Err(AuditError::Log(LogFault::Content(at))) if at == first);
        assert!(found, "{sql}");
    }
    // Another person's key, or another attempt, opens nothing, though entry and content agree.
    for sql in [
        "UPDATE audit_content SET sent_seq = sent_seq + 1",
        "UPDATE audit_content SET key = key + 1",
        "UPDATE person_key SET name = 'web' WHERE name = 'ci'",
    ] {
        let home = tempfile::tempdir().unwrap();
        let (kernel, operator, one) = house(&home.path().join("data"), Level::Full).await;
        say(&kernel, &one, "the first", SAID).await;
        if !sql.contains("name") {
            let other = caller(&kernel, &operator, "web").await;
            say(&kernel, &other, "the other", SAID).await;
        }
        let tenant = tenant(&kernel, &operator);
        let first = calls(&tenant).await[0].0;
        alter(&tenant, sql).await;
        let read = tenant.audit_content(first).await;
        let found = matches!(read, Err(AuditError::Log(LogFault::Content(at))) if at == first);
        assert!(found, "{sql}");
    }
}

#[tokio::test]
async fn much_content_is_folded_before_many_records_are() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, _operator, caller) = house(&home.path().join("data"), Level::Full).await;
    let long = "x".repeat(limits::CONTENT_PART_BYTES_MAX);
    let resident = kernel.directory().tenant(&acme()).unwrap();
    let mut most = 0;
    for _ in 0..60 {
        say(&kernel, &caller, &long, &long).await;
        most = most.max(resident.books().content_bytes);
        assert_eq!(kernel.content_waiting(), resident.books().content_bytes);
    }
    // 60 calls are 11 MiB: far fewer than the records that make a fold, more than the bytes that do.
    assert!(most < 2 * limits::FOLD_CONTENT_BYTES, "{most}");
    kernel.fold(&resident).await.unwrap();
    assert_eq!(
        (kernel.content_waiting(), resident.books().content_bytes),
        (0, 0)
    );
}

#[tokio::test]
async fn content_goes_with_its_entries() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, operator, caller) = house(&home.path().join("data"), Level::Full).await;
    for number in 0..300 {
        say(&kernel, &caller, &format!("number {number}"), SAID).await;
    }
    let resident = kernel.directory().tenant(&acme()).unwrap();
    let tenant = tenant(&kernel, &operator);
    verified(&tenant).await.unwrap();
    alter(
        &tenant,
        "UPDATE audit SET entry = replace(entry, '\"time\":\"20', '\"time\":\"19') WHERE seq = 255",
    )
    .await;
    let dropped = kernel.drop_entries_before_their_time(&resident).await;
    assert_eq!(dropped.unwrap(), 256);
    let sql = "SELECT MIN(seq), COUNT(*) FROM audit_content";
    let left = tenant.read(move |tx| {
        tx.query_one(sql, params![], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
    });
    let (first, pieces) = left.await.unwrap().unwrap();
    assert!(
        first >= 256 && pieces > 0 && pieces % 2 == 0,
        "{first} {pieces}"
    );
    assert_eq!(verified(&tenant).await.unwrap(), 256);
}
