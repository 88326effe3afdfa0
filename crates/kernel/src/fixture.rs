//! A kernel with one tenant, for tests that look below its public face.

use std::path::Path;
use std::sync::Arc;

use base::{Clock, Role, TenantId};

use crate::journal_record::Sent;
use crate::lifecycle::NewTenant;
use crate::tokens::NewToken;
use crate::{DataRoot, Kernel, KernelOptions, Limits, Operator, SystemClock, Tier, Tiers};

/// The name of the one tenant.
pub(crate) fn acme() -> TenantId {
    "acme".parse().unwrap()
}

/// A new data directory with the tenant in it.
pub(crate) async fn begun(path: &Path) -> (Kernel, Operator) {
    begun_at(path, Arc::new(SystemClock)).await
}

/// The same, by another clock.
pub(crate) async fn begun_at(path: &Path, clock: Arc<dyn Clock>) -> (Kernel, Operator) {
    DataRoot::create(path).unwrap();
    DataRoot::open(path)
        .unwrap()
        .write_private_new(crate::root::MASTER_KEY_FILE, "0b".repeat(32).as_bytes())
        .unwrap();
    let (kernel, operator) = open_at(path, clock).await;
    let new = NewTenant {
        id: acme(),
        tier: "basic".to_owned(),
        overrides: Limits::default(),
    };
    kernel.create_tenant(&operator, new).await.unwrap();
    (kernel, operator)
}

/// Opens a data directory. One thread reads and one writes.
pub(crate) async fn open(path: &Path) -> (Kernel, Operator) {
    open_at(path, Arc::new(SystemClock)).await
}

/// The same, by another clock.
pub(crate) async fn open_at(path: &Path, clock: Arc<dyn Clock>) -> (Kernel, Operator) {
    let root = DataRoot::open(path).unwrap();
    let tiers = Tiers {
        tiers: [("basic".to_owned(), Tier::default())].into(),
        ..Tiers::default()
    };
    let master = root.master_key().unwrap();
    let options = KernelOptions {
        root,
        master,
        clock,
        tiers,
        models: ["m".to_owned()].into(),
        writers: 1,
        open_databases: 8,
    };
    Kernel::open(options).await.unwrap()
}

/// A token of this name for an application.
pub(crate) fn app_token(name: &str) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        role: Role::App,
        person: None,
        expires: None,
    }
}

/// An attempt of the first token, with this hold.
pub(crate) fn sent(hold_pico: i64) -> Sent {
    Sent {
        request_id: format!("req_{hold_pico}"),
        attempt: 1,
        person: None,
        token: "default".into(),
        role: "app".into(),
        model: "m".into(),
        provider: "p".into(),
        provider_model: "pm".into(),
        hold_pico,
        hold_tokens: 1,
        requests: 1,
        ratecard_version: "v".into(),
        started_ms: 0,
        request_received: String::new(),
        request_sent: String::new(),
        config: String::new(),
        policy_version: String::new(),
        rule: "".into(),
        region: None,
        trace_id: None,
        limits: [None; 3],
    }
}
