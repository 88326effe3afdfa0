//! What is looked at and what is said, below the kernel's public face.

use super::*;
use crate::fixture::{acme, begun};

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
    resident.put_in_quarantine("a test".to_owned());
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
