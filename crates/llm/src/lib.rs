//! Wire types of each dialect, translation between them, SSE, usage and prices.
//!
//! **Invariant:** pure. Bytes in, bytes out: no I/O, no clock, no randomness, no async. Where the
//! client's dialect and the provider's agree, what is not edited passes byte for byte.

mod answer;
pub mod bound;
pub mod cost;
pub mod dialect;
pub mod error_body;
pub mod json;
pub mod prices;
pub mod reply;
pub mod request;
pub mod splice;
pub mod sse;
pub mod stream;
pub mod translate;
pub mod usage;

pub use bound::InputBound;
pub use dialect::{Dialect, Operation};
pub use error_body::{ErrorFacts, UpstreamError};
pub use prices::{CardError, ModelPrices, RateCard, UnpricedBucket};
pub use reply::{ReplyError, ReplyFacts};
pub use request::{Request, RequestError};
pub use splice::{Edits, OutputCapField};
pub use stream::{Backstop, EventRole, Fed, ReplyStream, StreamPlan};
