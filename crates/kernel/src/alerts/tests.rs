//! What is looked at and what is said, below the kernel's public face.

use store::Seq;

use super::*;
use crate::fixture::{acme, begun, sent};
use crate::journal_record::Row;
use crate::resident::Pending;

fn message(mark: &str) -> Message {
    Message {
        id: format!("msg_{mark}"),
        mark: mark.to_owned(),
        body: "{}".to_owned(),
    }
}

#[tokio::test]
async fn nothing_is_put_into_the_store_of_a_quarantined_tenant() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, _operator) = begun(&dir.path().join("data")).await;
    let resident = kernel.directory().tenant(&acme()).unwrap();
    let waiting = || resident.alerts.state().unsaid.len();
    assert!(kernel.to_tenant(&resident, message("a")));
    kernel.look_at_budgets().await;
    assert_eq!(waiting(), 0);
    assert!(kernel.to_tenant(&resident, message("b")));
    kernel.quarantine(&resident, "a test");
    kernel.look_at_budgets().await;
    assert_eq!(waiting(), 1);
}

#[tokio::test]
async fn nothing_is_put_in_while_a_delivery_sets_when_it_is_due_next() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, _operator) = begun(&dir.path().join("data")).await;
    let post = &kernel.alerts().post;
    assert!(kernel.to_operator(message("a")));
    let set_due = post.waits.lock().await;
    let looks = kernel.look_at_budgets();
    let delivery = async {
        // Longer than a registry takes.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        // It found nothing.
        post.due.store(i64::MAX, Ordering::Relaxed);
        drop(set_due);
    };
    let ((), ()) = tokio::join!(looks, delivery);
    assert!(post.due.load(Ordering::Relaxed) <= kernel.now().unix_ms());
}

/// Whose delivery is under way.
fn busy(kernel: &Kernel) -> Vec<String> {
    let all = kernel.directory().all();
    let busy = all
        .iter()
        .filter(|resident| resident.alerts.post.busy.load(Ordering::Relaxed));
    busy.map(|resident| resident.id.to_string()).collect()
}

#[tokio::test]
async fn the_next_free_place_is_for_the_one_that_found_none() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, operator) = begun(&dir.path().join("data")).await;
    for name in ["globex", "initech"] {
        let new = crate::lifecycle::NewTenant {
            id: name.parse().unwrap(),
            tier: "basic".to_owned(),
            overrides: crate::Limits::default(),
        };
        kernel.create_tenant(&operator, new).await.unwrap();
    }
    let others = u32::try_from(DELIVERIES_MAX - 1).unwrap();
    let slots = Arc::clone(&kernel.alerts().slots.0);
    let _taken = slots.acquire_many_owned(others).await.unwrap();
    let mut served = Vec::new();
    for _ in 0..4 {
        for resident in kernel.directory().all() {
            resident.alerts.post.due.store(0, Ordering::Relaxed);
        }
        kernel.deliver_alerts();
        served.extend(busy(&kernel));
        while !busy(&kernel).is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    assert_eq!(served, ["acme", "globex", "initech", "acme"]);
}

#[tokio::test]
async fn absurd_amounts_do_not_hide_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let (kernel, _operator) = begun(&dir.path().join("data")).await;
    let resident = kernel.directory().tenant(&acme()).unwrap();
    let now = kernel.now();
    let yesterday = now.unix_ms() - 86_400_000;
    kernel.fold(&resident).await.unwrap();
    let place_in_log = resident.books().audit_next;
    let row = |number, model: &str, audit_seq| Pending {
        content: None,
        seq: Seq::from_number(number),
        sent: None,
        row: Some(Row {
            model: model.to_owned(),
            started_ms: yesterday,
            ..Row::unknown(number, &sent(i64::MAX), now)
        }),
        audit_seq,
        entry: "{}".to_owned(),
    };
    let batch = [
        row(1 << 40, "a", place_in_log),
        row((1 << 40) + 1, "b", place_in_log + 1),
    ];
    let place = kernel.place(&resident).unwrap();
    let signer = kernel.audit_signer(&resident).unwrap();
    let written = kernel
        .engine()
        .write(&place, move |tx| crate::fold::insert(tx, &batch, &signer));
    written.await.unwrap();
    let read = kernel
        .engine()
        .read(&place, move |tx| history(tx, now, true));
    let (dearest, minutes) = read.await.unwrap();
    let most = Money::from_pico(9_200_000_000_000_000_000);
    assert_eq!(dearest, most);
    assert_eq!(minutes, [(now.unix_ms() / 60_000, most.pico())]);
}
