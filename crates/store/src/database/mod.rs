//! SQLCipher databases: where they are, how they are opened, and what may be done inside.

mod connection;
mod engine;
mod guard;
mod place;
mod tx;
mod wal;
mod worker;

pub use engine::{Engine, EngineConfig};
pub use place::{Place, Schema};
pub use tx::{ReadTx, WriteTx};
