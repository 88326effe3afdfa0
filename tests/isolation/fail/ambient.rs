//! The engine cannot be named: not as a crate, not through a crate that uses it, not below it.

pub fn count_calls() {
    let _ = store::Engine::new(1, 1);
    let _ = isolation::kernel::store::Engine::new(1, 1);
    let _ = isolation::store::Engine::new(1, 1);
    let _ = rusqlite::Connection::open("data/tenants/acme/tenant.db");
}
