//! Containment: what a freeze leaves, what a suspension ends, and that a rotation of secrets survives a crash.

use std::time::Duration;

use kernel::{Admission, Demand, KernelError, Purpose, Refused, Secret};
use testkit::{TempKernel, facts};

async fn over(admission: &Admission) -> bool {
    tokio::time::timeout(Duration::from_millis(50), admission.ended())
        .await
        .is_ok()
}

#[tokio::test]
async fn a_freeze_ends_what_acts_and_leaves_what_reads() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let acting = home.admit(&token, Purpose::Act).await.unwrap();
    let reading = home.admit(&token, Purpose::Read).await.unwrap();
    assert!(!over(&acting).await);
    home.kernel
        .freeze_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    assert!(over(&acting).await && acting.authority().is_over());
    assert!(matches!(acting.tenant().live(), Err(KernelError::Revoked)));
    assert!(!over(&reading).await && !reading.authority().is_over());
    assert!(reading.refused_now().is_none());
    // Reading goes on: what was under way, and what comes.
    assert!(reading.tenant().audit_length().await.unwrap() > 0);
    let refused = home.admit(&token, Purpose::Act).await;
    assert!(matches!(refused, Err(Refused::Frozen)));
    let later = home.admit(&token, Purpose::Read).await.unwrap();
    assert!(later.tenant().audit_length().await.unwrap() > 0);
    let entries = tenant.audit_page(0).await.unwrap();
    assert!(
        entries
            .iter()
            .any(|row| row.entry.contains("tenant.freeze"))
    );

    // Frozen twice is frozen; it survives a restart, and a resumption undoes it for new callers only.
    home.kernel
        .freeze_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    drop((tenant, acting, reading, later));
    let home = home.crash_and_reopen().await.unwrap();
    let refused = home.admit(&token, Purpose::Act).await;
    assert!(matches!(refused, Err(Refused::Frozen)));
    let reading = home.admit(&token, Purpose::Read).await.unwrap();
    let tenant = home.known("acme").unwrap();
    home.kernel
        .resume_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    assert!(home.admit(&token, Purpose::Act).await.is_ok());
    assert!(reading.tenant().audit_length().await.unwrap() > 0);
}

#[tokio::test]
async fn a_capability_for_reading_cannot_write() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let reading = home.admit(&token, Purpose::Read).await.unwrap();
    let written = reading.tenant().write(|_tx| Ok(())).await;
    assert!(matches!(written, Err(KernelError::Refused(_))));
    let files = reading.tenant().files();
    assert!(matches!(files, Err(KernelError::Refused(_))));
    home.kernel.check_overlay(reading.tenant()).unwrap();
    let reserved = reading.tenant().reserve(Demand::default()).unwrap();
    let sent = reserved.open_attempt(&reading, facts(home.kernel.new_request_id(), "sim-fast"));
    assert!(matches!(sent, Err(KernelError::Refused(_))));
    let acting = home.admit(&token, Purpose::Act).await.unwrap();
    acting.tenant().write(|_tx| Ok(())).await.unwrap();
}

#[tokio::test]
async fn a_suspension_ends_reading_too_and_a_freeze_does_not_loosen_it() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    home.kernel
        .freeze_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    let reading = home.admit(&token, Purpose::Read).await.unwrap();
    home.kernel
        .suspend_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    assert!(over(&reading).await);
    assert!(matches!(
        reading.tenant().audit_length().await,
        Err(KernelError::Revoked)
    ));
    let refused = home.admit(&token, Purpose::Read).await;
    assert!(matches!(refused, Err(Refused::Suspended)));
    let tenant = home.known("acme").unwrap();
    let frozen = home.kernel.freeze_tenant(&home.operator, &tenant).await;
    assert!(matches!(frozen, Err(KernelError::Refused(_))));
    let refused = home.admit(&token, Purpose::Read).await;
    assert!(matches!(refused, Err(Refused::Suspended)));
}

#[tokio::test]
async fn secrets_survive_a_crash_after_their_rotation() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    let (neighbour, _) = home.tenant("globex").await.unwrap();
    for owner in [&tenant, &neighbour] {
        let value = Secret::from_text(format!("sk-{}", owner.id())).unwrap();
        home.kernel
            .set_secret(&home.operator, owner, "openai", value)
            .await
            .unwrap();
    }
    for _ in 0..3 {
        let sealed = home
            .kernel
            .rotate_secrets(&home.operator, &tenant)
            .await
            .unwrap();
        assert_eq!(sealed, 1);
    }
    drop((tenant, neighbour));
    let home = home.crash_and_reopen().await.unwrap();
    for name in ["acme", "globex"] {
        let tenant = home
            .kernel
            .tenant(&home.operator, &name.parse().unwrap())
            .unwrap();
        tenant.audit_length().await.unwrap();
        let secret = tenant.secret("openai").unwrap();
        assert_eq!(secret.expose_str(), Some(&*format!("sk-{name}")));
    }
}
