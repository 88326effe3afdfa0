//! A tenant's own set over restarts, kills, repairs.

use std::time::Duration;

use base::Role;
use policy::{Context, Outcome};

use super::*;
use crate::fixture::{acme, begun, open};
use crate::repair::Extent;

const STOP: &str =
    "policy: '@id(\"stop\") forbid (principal, action == Action::\"call_model\", resource);'";

fn a_call() -> Asked {
    Asked {
        role: Role::App,
        token: Some("ci".to_owned()),
        person: None,
        action: "call_model".to_owned(),
        resource: "m".to_owned(),
        context: Context::default(),
    }
}

async fn decided(kernel: &Kernel, operator: &Operator) -> Outcome {
    let tenant = kernel.tenant(operator, &acme()).unwrap();
    let explained = kernel.explain_policy(&tenant, &a_call()).await;
    explained.unwrap().decision.outcome
}

fn is_allowed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Allowed(_))
}

#[tokio::test]
async fn a_set_holds_over_a_restart_and_an_empty_one_takes_it_away() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator) = begun(&path).await;
    assert!(is_allowed(&decided(&kernel, &operator).await));
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    let set = kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
    assert_eq!(decided(&kernel, &operator).await, Outcome::Forbidden);
    drop(tenant);
    kernel.tasks().shut_down(Duration::from_secs(5)).await;
    drop((kernel, operator));

    let (kernel, operator) = open(&path).await;
    assert_eq!(decided(&kernel, &operator).await, Outcome::Forbidden);
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    let own = kernel.own_policy(&tenant).await.unwrap().unwrap();
    assert_eq!(
        (&*own.document, &*own.version),
        (STOP, set.version.as_str())
    );
    kernel.set_policy(&operator, &tenant, "").await.unwrap();
    assert!(is_allowed(&decided(&kernel, &operator).await));
}

/// Killed before its entry, between entry and mark, and after.
#[tokio::test]
async fn a_kill_at_any_step_of_a_change_leaves_what_the_log_says() {
    for (entry, marked) in [(false, false), (true, false), (true, true)] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let resident = tenant.resident();
        kernel.load(resident).await.unwrap();
        let (version, after) = (version_of(STOP), resident.books().audit_next);
        let set = OwnPolicy {
            document: STOP.into(),
            version: version.as_str().into(),
            set_at: kernel.now(),
        };
        tenant
            .write(move |tx| insert(tx, &set, after))
            .await
            .unwrap();
        if entry {
            let detail = [("version", version)].into();
            let recorded = kernel.record_change(&operator, resident, "policy.set", detail);
            recorded.await.unwrap();
        }
        if marked {
            tenant.write(mark).await.unwrap();
        }
        drop(tenant);
        kernel.tasks().shut_down(Duration::from_secs(5)).await;
        drop((kernel, operator));
        let (kernel, operator) = open(&path).await;
        assert_eq!(!is_allowed(&decided(&kernel, &operator).await), entry);
    }
}

#[tokio::test]
async fn no_more_versions_are_kept_than_the_limit() {
    let home = tempfile::tempdir().unwrap();
    let (kernel, operator) = begun(&home.path().join("data")).await;
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    kernel.load(tenant.resident()).await.unwrap();
    let count = |tx: &ReadTx<'_>| {
        tx.query_one("SELECT COUNT(*) FROM policy", params![], |row| {
            Ok(row.get::<_, i64>(0)?)
        })
    };
    for number in 0..VERSIONS_MAX + 3 {
        let set = OwnPolicy {
            document: format!("# {number}\n").into(),
            version: number.to_string().into(),
            set_at: kernel.now(),
        };
        let put = tenant.write(move |tx| insert(tx, &set, 0).and_then(|()| mark(tx)));
        put.await.unwrap();
    }
    assert_eq!(tenant.read(count).await.unwrap(), Some(VERSIONS_MAX));
}

/// Whoever changes what is stored, or loses it, opens nothing by that.
#[tokio::test]
async fn a_set_that_was_altered_or_lost_denies_everything() {
    for sql in [
        "UPDATE policy SET document = ''",
        "UPDATE policy SET document = 'policy: permit (principal, action, resource);'",
        "DELETE FROM policy",
    ] {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
        // Its entry is in the log for whoever repairs.
        tenant.audit_length().await.unwrap();
        let altered = tenant.write(move |tx| tx.execute(sql, params![])).await;
        altered.unwrap();
        kernel.quarantine(tenant.resident(), "a test");
        while kernel.set_ready(tenant.resident(), false).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let repaired = kernel.repair_tenant(&operator, &tenant, Extent::Repair);
        assert!(repaired.await.unwrap().in_place, "{sql}");
        assert_eq!(decided(&kernel, &operator).await, Outcome::Broken, "{sql}");
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        kernel.set_policy(&operator, &tenant, STOP).await.unwrap();
        assert_eq!(
            decided(&kernel, &operator).await,
            Outcome::Forbidden,
            "{sql}"
        );
    }
}
