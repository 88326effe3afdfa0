//! The audit log: it verifies whatever happens to the process, and not whatever happens to its rows.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]
#![expect(
    clippy::disallowed_methods,
    reason = "the attacker works on the files behind the kernel's back"
)]

use std::os::unix::fs::PermissionsExt;

use kernel::audit::verify::{AuditError, Bundle, LogFault};
use kernel::{KernelError, Secret, StoreError, Tenant, WriteTx};
use store::sql::params;
use testkit::TempKernel;

/// Verifies the whole log and gives its bundles.
async fn walked(tenant: &Tenant, kept: Option<&str>) -> Result<Vec<Bundle>, AuditError> {
    let mut walk = tenant.audit_walk(kept).await?;
    let mut bundles = Vec::new();
    while let Some(bundle) = walk.next().await? {
        bundles.push(bundle);
    }
    Ok(bundles)
}

async fn fault(tenant: &Tenant, kept: Option<&str>) -> LogFault {
    match walked(tenant, kept).await {
        Err(AuditError::Log(fault)) => fault,
        Err(AuditError::Kernel(error)) => panic!("the store: {error}"),
        Ok(_) => panic!("the log verifies"),
    }
}

async fn grow(home: &TempKernel, tenant: &Tenant, entries: usize) {
    for _ in 0..entries {
        let value = Secret::from_text("v".to_owned()).unwrap();
        let set = home.kernel.set_secret(&home.operator, tenant, "one", value);
        set.await.unwrap();
    }
}

/// Alters rows as somebody would who has the key of the database.
async fn alter(tenant: &Tenant, sql: &'static str) {
    let job =
        move |tx: &mut WriteTx<'_>| -> Result<usize, StoreError> { tx.execute(sql, params![]) };
    assert!(tenant.write(job).await.unwrap() > 0, "{sql}");
}

#[tokio::test]
async fn a_log_verifies_over_folds_restarts_and_kills() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    grow(&home, &tenant, 30).await;
    let early = tenant.audit_checkpoint().await.unwrap();
    let first = walked(&tenant, None).await.unwrap();
    grow(&home, &tenant, 260).await;
    drop(tenant);
    let home = home.crash_and_reopen().await.unwrap();
    let tenant = home.known("acme").unwrap();
    grow(&home, &tenant, 3).await;
    drop(tenant);
    let home = home.killed().await.unwrap();
    let tenant = home.known("acme").unwrap();
    let bundles = walked(&tenant, Some(&early)).await.unwrap();
    let entries: Vec<&String> = bundles.iter().flat_map(|bundle| &bundle.entries).collect();
    assert!(entries.len() > 293, "{}", entries.len());
    assert_eq!(bundles[0].tiles.len(), 1);
    assert!(
        first[0]
            .entries
            .iter()
            .eq(entries[..first[0].entries.len()].iter().copied())
    );
    assert!(
        tenant
            .audit_checkpoint()
            .await
            .unwrap()
            .contains(&format!("\n{}\n", entries.len()))
    );
}

#[tokio::test]
async fn what_is_altered_with_the_key_in_hand_is_found() {
    let home = TempKernel::open().await.unwrap();
    for (id, sql, expect) in [
        (
            "a1",
            "UPDATE audit SET entry = replace(entry, '\"one\"', '\"two\"') WHERE seq = 7",
            LogFault::Altered(7),
        ),
        (
            "a2",
            "DELETE FROM audit WHERE seq = 9",
            LogFault::Missing(9),
        ),
        (
            "a3",
            "DELETE FROM audit WHERE seq < 256",
            LogFault::Missing(255),
        ),
        (
            "a4",
            "DELETE FROM audit WHERE seq < 100",
            LogFault::Missing(99),
        ),
        (
            "a5",
            "DELETE FROM audit WHERE seq >= 260",
            LogFault::Missing(260),
        ),
        (
            "a6",
            "UPDATE audit SET entry = (SELECT other.entry FROM audit other WHERE other.seq = 12 - audit.seq) WHERE seq IN (5, 7)",
            LogFault::Altered(5),
        ),
        (
            "a7",
            "UPDATE audit_tile SET hashes = zeroblob(8192)",
            LogFault::Altered(0),
        ),
        (
            "a8",
            "UPDATE audit SET entry = replace(entry, 'secret', 'sekret') WHERE seq = 258",
            LogFault::Altered(258),
        ),
        (
            "a9",
            "UPDATE audit_edge SET hashes = zeroblob(length(hashes)) WHERE level = 1",
            LogFault::Checkpoint,
        ),
        ("b1", "DELETE FROM audit_edge", LogFault::Checkpoint),
    ] {
        let (tenant, _) = home.tenant(id).await.unwrap();
        grow(&home, &tenant, 262).await;
        walked(&tenant, None).await.unwrap();
        alter(&tenant, sql).await;
        assert_eq!(fault(&tenant, None).await, expect, "{sql}");
    }
}

#[tokio::test]
async fn a_log_that_was_cut_or_rewritten_does_not_fit_a_kept_checkpoint() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    let (other, _) = home.tenant("globex").await.unwrap();
    grow(&home, &tenant, 5).await;
    let kept = tenant.audit_checkpoint().await.unwrap();
    walked(&tenant, Some(&kept)).await.unwrap();
    // Another tenant's checkpoint is not one of this log.
    let foreign = other.audit_checkpoint().await.unwrap();
    assert!(matches!(
        fault(&tenant, Some(&foreign)).await,
        LogFault::KeptNote(_)
    ));
    let size = kept.lines().nth(1).unwrap();
    let altered = kept.replacen(size, "4", 1);
    assert!(matches!(
        fault(&tenant, Some(&altered)).await,
        LogFault::KeptNote(_)
    ));
    // Grown anew from nothing, as the operator could with the keys in hand: signed rightly, and not the log that was seen.
    for sql in [
        "UPDATE audit SET entry = replace(entry, 'secret.set', 'secret.sat') WHERE seq = 4",
        "DELETE FROM audit_edge",
        "DELETE FROM audit_head",
    ] {
        alter(&tenant, sql).await;
    }
    grow(&home, &tenant, 1).await;
    walked(&tenant, None).await.unwrap();
    assert!(matches!(fault(&tenant, Some(&kept)).await, LogFault::Forked(size) if size > 5));
    for sql in [
        "DELETE FROM audit WHERE seq > 3",
        "DELETE FROM audit_edge",
        "DELETE FROM audit_head",
    ] {
        alter(&tenant, sql).await;
    }
    drop((tenant, other));
    // The registry remembers another log, once it was written down. What was cut the journal gave back; what was rewritten stays.
    home.kernel.close(std::time::Duration::from_secs(5)).await;
    let home = home.crash_and_reopen().await.unwrap();
    let tenant = home.known("acme").unwrap();
    let refused = tenant.audit_length().await;
    assert!(
        matches!(&refused, Err(KernelError::Quarantined(why)) if why.contains("another database was put in its place")),
        "{refused:?}"
    );
    // Nobody else notices.
    let other = home.known("globex").unwrap();
    walked(&other, Some(&foreign)).await.unwrap();
}

/// The files of these directories, and what is in them.
fn files(home: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let of = |dir: &str| std::fs::read_dir(home.join(dir)).unwrap();
    ["journal", "tenants/acme"]
        .into_iter()
        .flat_map(of)
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[tokio::test]
async fn yesterdays_database_put_back_is_noticed() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    grow(&home, &tenant, 3).await;
    drop(tenant);
    home.kernel.close(std::time::Duration::from_secs(5)).await;
    let home = home.crash_and_reopen().await.unwrap();
    let yesterday = files(&home.path());
    let tenant = home.known("acme").unwrap();
    grow(&home, &tenant, 3).await;
    drop(tenant);
    home.kernel.close(std::time::Duration::from_secs(5)).await;
    // The journal is put back with it: today's would make the database whole again.
    let path = home.path();
    let home = home.crash_and_reopen_after(|| {
        for (file, _) in files(&path) {
            std::fs::remove_file(file).unwrap();
        }
        for (file, bytes) in yesterday {
            std::fs::write(&file, bytes).unwrap();
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        }
    });
    let home = home.await.unwrap();
    let tenant = home.known("acme").unwrap();
    let refused = tenant.audit_length().await;
    assert!(
        matches!(&refused, Err(KernelError::Quarantined(why)) if why.contains("an older database")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_tree_is_grown_over_entries_from_before_there_was_one() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    grow(&home, &tenant, 300).await;
    let kept = tenant.audit_checkpoint().await.unwrap();
    for sql in [
        "DELETE FROM audit_edge",
        "DELETE FROM audit_tile",
        "DELETE FROM audit_head",
    ] {
        alter(&tenant, sql).await;
    }
    drop(tenant);
    let home = home.crash_and_reopen().await.unwrap();
    let tenant = home.known("acme").unwrap();
    walked(&tenant, Some(&kept)).await.unwrap();
}

#[tokio::test]
async fn checkpoints_from_before_a_rotation_of_the_key_still_count() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    let kept = tenant.audit_checkpoint().await.unwrap();
    let before = tenant.audit_keys().await.unwrap();
    for round in 1..=2 {
        let fresh = home
            .kernel
            .rotate_audit_key(&home.operator, &tenant)
            .await
            .unwrap();
        let keys = tenant.audit_keys().await.unwrap();
        assert_eq!(
            (keys.len(), &keys[0], keys.last()),
            (round + 1, &fresh, before.last())
        );
        assert_eq!(tenant.account().audit_key, *fresh.key());
        walked(&tenant, Some(&kept)).await.unwrap();
        grow(&home, &tenant, 2).await;
    }
    drop(tenant);
    let home = home.crash_and_reopen().await.unwrap();
    let tenant = home.known("acme").unwrap();
    let keys = tenant.audit_keys().await.unwrap();
    assert_eq!(keys.len(), 3);
    grow(&home, &tenant, 1).await;
    let bundles = walked(&tenant, Some(&kept)).await.unwrap();
    let rotations = bundles[0]
        .entries
        .iter()
        .filter(|entry| entry.contains("audit.rotate_key"));
    assert_eq!(rotations.count(), 2);
}
