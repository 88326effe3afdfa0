//! Rotation of the signing key and retention, step by step.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base::{Clock, Timestamp};
use vault::{Secret, SigningKey};

use crate::audit::tree::{log_key, stored_edge};
use crate::audit::verify::{AuditError, LogFault};
use crate::fixture::{acme, begun_at, open_at};
use crate::resident::Resident;
use crate::{Kernel, Operator, Tenant};

struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_ms(self.0.load(Ordering::SeqCst))
    }
}

async fn first(path: &Path) -> (Kernel, Operator, Arc<Hands>) {
    let clock = Arc::new(Hands(AtomicI64::new(1_800_000_000_000)));
    let (kernel, operator) = begun_at(path, Arc::<Hands>::clone(&clock)).await;
    (kernel, operator, clock)
}

async fn grow(kernel: &Kernel, operator: &Operator, entries: usize) {
    let tenant = kernel.tenant(operator, &acme()).unwrap();
    for _ in 0..entries {
        let value = Secret::from_text("v".to_owned()).unwrap();
        kernel
            .set_secret(operator, &tenant, "one", value)
            .await
            .unwrap();
    }
}

async fn verified(tenant: &Tenant) -> Result<u64, AuditError> {
    let mut walk = tenant.audit_walk(None).await?;
    while walk.next().await?.is_some() {}
    Ok(walk.first())
}

fn resident(kernel: &Kernel) -> Arc<Resident> {
    kernel.directory().tenant(&acme()).unwrap()
}

#[tokio::test]
async fn a_kill_after_any_step_of_a_rotation_leaves_the_key_that_the_log_names() {
    for steps in 1..=3 {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let (kernel, operator, clock) = first(&path).await;
        let owner = resident(&kernel);
        let old = owner.account.load().audit_key;
        let fresh = SigningKey::generate();
        let public = log_key(&owner, fresh.verifying_key()).unwrap();
        kernel.lay_audit_key(&owner, &fresh, &public).await.unwrap();
        if steps > 1 {
            kernel
                .record_rotation(&owner, &fresh, &public)
                .await
                .unwrap();
        }
        if steps > 2 {
            kernel.fold(&owner).await.unwrap();
        }
        drop((kernel, operator, owner));
        for again in [false, true] {
            let (kernel, operator) = open_at(&path, Arc::<Hands>::clone(&clock)).await;
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            assert_eq!(verified(&tenant).await.unwrap(), 0);
            let expect = if steps == 1 { old } else { *public.key() };
            if !again {
                assert_eq!(
                    *tenant.audit_keys().await.unwrap()[0].key(),
                    expect,
                    "{steps}"
                );
                assert_eq!(tenant.account().audit_key, expect, "{steps}");
            }
            grow(&kernel, &operator, 1).await;
            // Another rotation can follow, whatever became of this one.
            let next = kernel.rotate_audit_key(&operator, &tenant).await.unwrap();
            assert_eq!(tenant.audit_keys().await.unwrap()[0], next);
            assert_eq!(verified(&tenant).await.unwrap(), 0);
        }
    }
}

#[tokio::test]
async fn a_retired_key_signs_nothing_more() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, _clock) = first(&path).await;
    let owner = resident(&kernel);
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    let before = tenant.audit_checkpoint().await.unwrap();
    let old = kernel.audit_signer(&owner).unwrap();
    kernel.rotate_audit_key(&operator, &tenant).await.unwrap();
    let after = tenant.audit_checkpoint().await.unwrap();
    for kept in [&before, &after] {
        tenant.audit_walk(Some(kept)).await.unwrap();
    }
    // The checkpoint of today, signed by whoever kept the old key.
    let place = kernel.place(&owner).unwrap();
    let edge = kernel.engine().read(&place, stored_edge).await.unwrap();
    let forged = old.sign(&edge).note;
    assert!(matches!(
        tenant.audit_walk(Some(&forged)).await,
        Err(AuditError::Log(LogFault::KeptNote(_)))
    ));
}

#[tokio::test]
async fn a_fold_that_cannot_sign_leaves_what_waits_where_it_is() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, _clock) = first(&path).await;
    let owner = resident(&kernel);
    kernel.fold(&owner).await.unwrap();
    let signer = owner.audit_signer.swap(None);
    grow(&kernel, &operator, 1).await;
    let waiting = owner.books().pending.len();
    assert!(waiting > 0 && kernel.fold(&owner).await.is_err());
    assert_eq!(owner.books().pending.len(), waiting);
    owner.audit_signer.store(signer);
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    assert_eq!(verified(&tenant).await.unwrap(), 0);
    assert!(owner.books().pending.is_empty());
}

#[tokio::test]
async fn what_is_too_old_goes_by_whole_bundles_and_an_entry_says_so() {
    let day = Duration::from_secs(86_400);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, clock) = first(&path).await;
    let pass = |days: u32| {
        let ms = i64::try_from((day * days).as_millis()).unwrap();
        clock.0.fetch_add(ms, Ordering::SeqCst);
    };
    grow(&kernel, &operator, 300).await;
    pass(300);
    grow(&kernel, &operator, 300).await;
    let owner = resident(&kernel);
    kernel.fold(&owner).await.unwrap();
    // Thirteen months are not over yet.
    assert_eq!(
        kernel.drop_entries_before_their_time(&owner).await.unwrap(),
        0
    );
    pass(97);
    assert_eq!(
        kernel.drop_entries_before_their_time(&owner).await.unwrap(),
        256
    );
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    assert_eq!(verified(&tenant).await.unwrap(), 256);
    let kept = tenant.audit_page(0).await.unwrap();
    assert_eq!(kept[0].seq, 256);
    assert!(
        kept.last()
            .unwrap()
            .entry
            .contains(r#""entries_before":"256","kept_days":"396""#)
    );
    // The same look again drops and says nothing.
    let length = tenant.audit_length().await.unwrap();
    assert_eq!(
        kernel.drop_entries_before_their_time(&owner).await.unwrap(),
        256
    );
    assert_eq!(tenant.audit_length().await.unwrap(), length);
    // What goes without an entry is missed.
    let place = kernel.place(&owner).unwrap();
    let sql = "DELETE FROM audit WHERE seq < 512";
    let taken = kernel
        .engine()
        .write(&place, move |tx| tx.execute(sql, []).map(|_| ()))
        .await;
    taken.unwrap();
    assert!(matches!(
        verified(&tenant).await,
        Err(AuditError::Log(LogFault::Missing(511)))
    ));
}

#[tokio::test]
async fn a_kill_between_the_entry_and_the_dropping_leaves_a_log_that_verifies() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let (kernel, operator, clock) = first(&path).await;
    grow(&kernel, &operator, 300).await;
    let owner = resident(&kernel);
    kernel.fold(&owner).await.unwrap();
    clock.0.fetch_add(400 * 86_400_000, Ordering::SeqCst);
    kernel
        .record_retention(&owner, 256, Duration::from_secs(396 * 86_400))
        .await
        .unwrap();
    drop((kernel, operator, owner));
    let (kernel, operator) = open_at(&path, Arc::<Hands>::clone(&clock)).await;
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    assert_eq!(verified(&tenant).await.unwrap(), 0);
    assert_eq!(
        kernel
            .drop_entries_before_their_time(&resident(&kernel))
            .await
            .unwrap(),
        256
    );
    assert_eq!(verified(&tenant).await.unwrap(), 256);
}
