//! Answers of the same tenant to the same call.
//!
//! No tenant can switch a cache on in this version (an overlay that asks for one is refused by name), so every lookup is a miss.

use bytes::Bytes;

use crate::quota::Hold;

/// An answer that was given before, in the caller's dialect.
pub struct Hit {
    /// The whole body.
    pub body: Bytes,
}

/// Looks an answer up under the tenant that the hold is bound to.
#[must_use]
pub fn find(_hold: &Hold) -> Option<Hit> {
    None
}
