//! What code above the kernel may name, and programs that must not compile with it.
//!
//! A feature crate reaches tenants through these crates and no others; above all not through `store`. Each file in `fail/` tries to
//! get past one wall and is refused by the compiler; the file of the same name in `pass/` does the same thing the right way and
//! compiles. `tests/cases.rs` checks both.

pub use {base, gateway, kernel, llm, policy, serde_json};
