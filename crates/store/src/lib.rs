//! The engines: one encrypted SQLite database per tenant, and the journal that all tenants share.
//!
//! Only `kernel` depends on this crate: whoever cannot name the engine cannot open a database.
//!
//! **Invariant:** a database is opened only by its own key, at its own place, and says itself
//! whose it is; a planted link, a copy of another tenant's file or a file of another owner is
//! refused ([`Place`]).
//!
//! **Invariant:** code inside a [`ReadTx`] or [`WriteTx`] reaches the rows of that one database
//! and nothing else: no ATTACH, PRAGMA, extension, schema or transaction statement.
//!
//! **Invariant:** a connection never leaves the thread that opened it, and no two tenants share
//! one ([`Engine`]).
//!
//! **Invariant:** what [`Journal::synced`] confirmed is signed and on disk; a failed sync is
//! never retried ([`Journal`]).

pub mod database;
mod error;
mod files;
mod ground;
pub mod journal;
pub mod sql;

pub use database::{Engine, EngineConfig, Place, ReadTx, Schema, WriteTx};
pub use error::StoreError;
pub use ground::{Crew, Ground, Stage, Work};
pub use journal::{
    Damage, DamageCause, Journal, JournalError, JournalOptions, JournalStats, RecordHead,
    RecordKind, RecordRef, Recovered, Seq,
};
