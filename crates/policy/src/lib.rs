//! Decides who may do what: one engine for every decision, default-deny.
//!
//! Rules are written in [Cedar](https://docs.cedarpolicy.com) over a fixed [schema](SCHEMA). They come in layers: the operator's base
//! set, which alone can permit; lists of visible models; and the tenant's own set, which can only forbid. So a tenant narrows what it
//! was given and never widens it, whatever it writes. **Invariants:** what no rule permits is denied; a rule that cannot be evaluated
//! denies; the same rules and the same request give the same decision. No I/O, no clock.
//!
//! A `forbid` rule may say by annotation what lifts it: `@require_approval("admin")` (a person of one of these roles approves) or
//! `@cap("max_tokens=500")` (the act stays below). Such a rule is an *obligation* in the decision, and who enforces the decision
//! fulfils it or refuses.

mod cache;
mod decide;
mod document;
mod error;
mod examples;
mod layer;
mod model_list;
mod request;
mod rules;
mod scan;
mod schema;
pub mod yaml;

pub use cache::Decided;
pub use decide::{Cap, Decision, Obligations, Outcome};
pub use document::{Document, Example, Expect};
pub use error::PolicyError;
pub use examples::{Failed, run as run_examples};
pub use layer::{Explained, Layers};
pub use model_list::ModelList;
pub use request::{Act, Asked, Context, Principal, Request};
pub use rules::{Origin, Rules};
pub use schema::{BASE, SCHEMA};

/// Bytes of one set of rules, comments included.
pub const SET_BYTES_MAX: usize = 64 * 1024;
/// Rules of one set.
pub const RULES_MAX: usize = 256;
/// Bytes of one rule.
pub const RULE_BYTES_MAX: usize = 4 * 1024;
/// Bytes of one text in a rule.
pub const TEXT_BYTES_MAX: usize = 256;
/// Comparisons with a pattern (`like`) in one set.
pub const LIKES_MAX: usize = 32;
/// Brackets inside one another in a rule.
pub const DEPTH_MAX: usize = 24;
/// Examples that one set is tested with.
pub const EXAMPLES_MAX: usize = 256;
