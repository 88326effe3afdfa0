//! Tries to open a tenant that end half-way: the next one finds everything, and does nothing twice.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use store::RecordHead;

use super::*;
use crate::fixture::{acme, begun, open, sent};
use crate::journal_record::Sent;
use crate::resident::{Account, Status};

/// Records an attempt as sent, as a process does that is killed before it ends.
fn left_open(kernel: &Kernel, resident: &Resident, hold_pico: i64) {
    let sent = Sent {
        started_ms: kernel.now().unix_ms(),
        ..sent(hold_pico)
    };
    let head = RecordHead {
        kind: RecordKind::Sent,
        uid: resident.uid,
        reference: None,
    };
    let keys = kernel.keys(resident).unwrap();
    kernel
        .journal()
        .append(head, |seq, out| {
            journal_record::write_sent(&sent, out);
            keys.journal.seal_into(&record_aad(resident, seq), out);
        })
        .unwrap();
}

fn resident(kernel: &Kernel) -> Arc<Resident> {
    kernel.directory().tenant(&acme()).unwrap()
}

#[tokio::test]
async fn what_an_earlier_try_recorded_is_counted_again_and_not_recorded_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    let (kernel, operator) = begun(&path).await;
    for hold_pico in [5, 7] {
        left_open(&kernel, &resident(&kernel), hold_pico);
    }
    drop((kernel, operator));
    let (kernel, operator) = open(&path).await;
    let acme = resident(&kernel);
    // A try that gets as far as can be without having ended.
    kernel.recover(&acme).await.unwrap();
    kernel.load(&acme).await.unwrap();
    assert_eq!(acme.books().counters.spent(kernel.now()).1, 12);
    // Its audit entries follow on those of the first try, so both fold.
    let tenant = kernel.tenant(&operator, &acme.id).unwrap();
    kernel.rotate_secrets(&operator, &tenant).await.unwrap();
    let entries = tenant.audit_page(0).await.unwrap();
    assert!((0..).zip(&entries).all(|(seq, row)| row.seq == seq));
    let unknown = |row: &&crate::report::AuditRow| row.entry.contains(r#""outcome":"unknown""#);
    assert_eq!(entries.iter().filter(unknown).count(), 2);
    assert_eq!(tenant.ledger_page(None, None, None).await.unwrap().len(), 2);
}

#[tokio::test]
async fn files_that_go_with_a_deletion_are_no_damage() {
    for (status, dead) in [(Status::Deleting, true), (Status::Active, false)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(begun(&path).await);
        let (kernel, _operator) = open(&path).await;
        let acme = resident(&kernel);
        acme.account.rcu(|account| Account {
            status,
            ..account.as_ref().clone()
        });
        // As a reader finds it that was let in before.
        let folder = kernel.root().tenant_dir(&acme.id).unwrap();
        folder.remove_file("tenant.db").unwrap();
        let refused = kernel.load(&acme).await.unwrap_err();
        assert_eq!(matches!(refused, KernelError::Revoked), dead, "{refused}");
        assert_eq!(acme.quarantine.load().is_none(), dead);
    }
}

/// Keeps the one reader of this kernel's databases busy and its queue full until the value is dropped.
fn busy_reader(kernel: &Kernel, resident: &Resident) -> impl Sized + use<> {
    let place = kernel.place(resident).unwrap();
    let (end, wait) = sync_channel::<()>(0);
    let (begins, begun) = sync_channel(1);
    let blocked = kernel.engine().read(&place, move |_tx| {
        begins.send(()).unwrap();
        // Ends with an error when the other half is dropped.
        let _dropped = wait.recv();
        Ok(())
    });
    begun.recv().unwrap();
    let waiting: Vec<_> = (0..2_000)
        .map(|_| kernel.engine().read(&place, |_tx| Ok(())))
        .collect();
    (end, blocked, waiting)
}

#[tokio::test]
async fn a_try_that_fails_leaves_the_journal_to_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data");
    drop(begun(&path).await);
    let (kernel, operator) = open(&path).await;
    let acme = resident(&kernel);
    let busy = busy_reader(&kernel, &acme);
    assert!(matches!(kernel.load(&acme).await, Err(KernelError::Busy)));
    drop(busy);
    // Long enough for the journal to delete a segment whose records are all in databases.
    tokio::time::sleep(Duration::from_millis(300)).await;
    kernel.load(&acme).await.unwrap();
    let tenant = kernel.tenant(&operator, &acme.id).unwrap();
    assert!(!tenant.audit_page(0).await.unwrap().is_empty());
}
