//! Content against the tenant boundary: prompts before they are sent, answers before they leave.
//!
//! Every call passes here. This version has no rule that looks at content: redaction, retrieval checks and tool results bring them.

use crate::policy::Permit;
use crate::send::Sent;

/// Looks at the prompt. The permit is what was asked, so far unchanged.
#[must_use]
pub fn prompt(permit: Permit) -> Permit {
    permit
}

/// Looks at the answer before it is settled.
#[must_use]
pub(crate) fn reply(sent: Sent) -> Sent {
    sent
}
