//! The engine cannot be named: not as a crate, not through a crate that uses it, not below it.

pub async fn count_calls() {
    let _ = store::Engine::start;
    let _ = isolation::store::Engine::start;
    let _ = isolation::kernel::store::Engine::start;
    let _ = rusqlite::Connection::open("data/tenants/acme/tenant.db");
}
