//! Ids, money, time, limits and names: the words that every other crate speaks.
//!
//! **Invariant:** no I/O, no clock, no randomness, no async. A value enters as an argument.

pub mod ids;
pub mod limits;
pub mod money;
pub mod names;
pub mod quota;
pub mod time;
pub mod usage;

pub use ids::{RequestId, TenantUid, TraceId};
pub use money::{Markup, Money, Price};
pub use names::{NameError, PersonName, Role, TenantId, TokenName};
pub use quota::{Limits, Quota, Scope};
pub use time::{Clock, Timestamp, UtcDay, UtcMonth};
pub use usage::{Usage, UsageSource};
