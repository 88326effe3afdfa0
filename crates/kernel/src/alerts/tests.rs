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
