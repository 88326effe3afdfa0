//! A repair that was killed between any two of its steps.

use std::time::Duration;

use super::*;
use crate::fixture::{acme, begun, open};

/// What the process had done when it was killed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Killed {
    Building,
    Ready,
    LogAside,
    OldAside,
    NewInPlace,
}

const ALL: [Killed; 5] = [
    Killed::Building,
    Killed::Ready,
    Killed::LogAside,
    Killed::OldAside,
    Killed::NewInPlace,
];

fn moved(dir: &Dir, from: &str, to: &str) {
    match dir.rename(from, dir, to) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.unwrap(),
    }
}

/// Begins a repair and does of it what `killed` says. Returns how many entries the log had.
async fn begun_and_killed(path: &std::path::Path, killed: Killed) -> u64 {
    let (kernel, operator) = begun(path).await;
    let tenant = kernel.tenant(&operator, &acme()).unwrap();
    let resident = tenant.resident();
    for _ in 0..300 {
        let action = kernel.record_change(&operator, resident, "quota.set", [].into());
        action.await.unwrap();
    }
    let entries = tenant.audit_length().await.unwrap();
    kernel.quarantine(resident, "a test");
    while kernel.set_ready(resident, false).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let dir = kernel.root().tenant_dir(&acme()).unwrap();
    let found = resident.quarantine.load_full().unwrap();
    let (records, _) = kernel.journal_of(resident).unwrap();
    let extent = match killed {
        Killed::Building => Extent::Try,
        _ => Extent::Repair,
    };
    let kept = kernel.build(resident, &dir, records, &found, extent).await;
    assert!(kept.unwrap().is_whole());
    if killed >= Killed::LogAside {
        moved(&dir, "tenant.db-wal", "tenant.db.damaged-1-wal");
    }
    if killed >= Killed::OldAside {
        moved(&dir, "tenant.db", "tenant.db.damaged-1");
    }
    if killed >= Killed::NewInPlace {
        moved(&dir, "tenant.db-shm", "tenant.db.damaged-1-shm");
        moved(&dir, NEW, "tenant.db");
    }
    kernel.tasks().shut_down(Duration::from_secs(5)).await;
    entries
}

#[tokio::test]
async fn a_repair_that_was_killed_at_any_step_is_gone_on_with() {
    for killed in ALL {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("data");
        let entries = begun_and_killed(&path, killed).await;
        let (kernel, operator) = open(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        assert!(tenant.quarantine().is_some(), "{killed:?}");
        let kept = kernel
            .repair_tenant(&operator, &tenant, Extent::Repair)
            .await;
        assert!(kept.unwrap().in_place, "{killed:?}");
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        assert!(tenant.quarantine().is_none());
        assert_eq!(
            tenant.audit_length().await.unwrap(),
            entries + 1,
            "{killed:?}"
        );
        kernel.read_through(&tenant, Duration::ZERO).await.unwrap();
        let again = kernel
            .repair_tenant(&operator, &tenant, Extent::Repair)
            .await;
        assert!(matches!(again, Err(KernelError::Refused(_))));
        let dir = kernel.root().tenant_dir(&acme()).unwrap();
        assert!(dir.symlink_metadata(NEW).is_err(), "{killed:?}");
    }
}
