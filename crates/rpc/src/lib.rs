//! Partywall's own API: what an operator may ask ([`Command`]) and what comes back ([`Row`]s, then one [`Answer`] or one
//! [`Fault`]).
//!
//! The same types are spoken over `control.sock`, by the command line under the lock of the data directory, and by the
//! admin HTTP API. What a tenant may ask is a registry of its own ([`method`]), spoken as JSON-RPC. **Invariant:** this crate is the only place where our own JSON is defined; the core types below it are
//! not `Serialize`. No I/O.

pub mod agent;
pub mod answer;
pub mod audit;
pub mod client;
pub mod command;
pub mod credential;
pub mod fault;
pub mod field;
pub mod file;
pub mod frame;
pub mod jsonrpc;
pub mod ledger;
pub mod limits;
pub mod method;
pub mod names;
pub mod openrpc;
pub mod params;
pub mod policy;
pub mod report;
pub mod run;
pub mod session;
pub mod tenant;
pub mod text;

pub use answer::{
    Answer, Check, CheckState, ConfigChecked, ConfigView, Doctor, PriceRow, RatecardChecked,
    RatecardImported, RouteView, Row, SecretView, StatusView,
};
pub use audit::{AuditCheckpoint, AuditVerified, ContentPart, FilePiece, Progress};
pub use command::{Command, Forget, LimitsChange, NewTenant};
pub use credential::Credential;
pub use fault::{Fault, FaultCode};
pub use frame::{Closed, Frame, Rows};
pub use ledger::{LedgerRow, UsageRow};
pub use limits::Changes;
pub use names::{Change, SecretName, Until};
pub use policy::{PolicyChecked, PolicyExplained, PolicyQuestion, PolicyRule, PolicyView};
pub use tenant::{
    DatabaseState, DatabaseView, IssuedToken, OverrideView, PartyQuotas, QuotaLine, QuotaView,
    Repaired, RotatedTokens, Status, StorageView, TenantCreated, TenantLine, TenantView,
    TokenState, TokenView,
};
