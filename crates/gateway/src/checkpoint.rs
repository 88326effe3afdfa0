//! The audit log's latest checkpoint in an answer's headers, for clients that keep one outside.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use kernel::Tenant;

/// `include` in a request asks for it; in the answer it is the signed note in base64.
const CHECKPOINT: HeaderName = HeaderName::from_static("x-partywall-checkpoint");

/// Whether a request asks for the checkpoint.
#[must_use]
pub fn wanted(headers: &HeaderMap) -> bool {
    headers
        .get(CHECKPOINT)
        .is_some_and(|wish| wish == "include")
}

/// Puts the checkpoint over everything that is settled by now into an answer's headers. Without one, as before a tenant's first
/// entry or where its store fails, the answer goes without.
pub async fn put(headers: &mut HeaderMap, tenant: &Tenant) {
    let checkpoint = tenant.audit_checkpoint().await;
    let value = checkpoint
        .ok()
        .and_then(|note| HeaderValue::try_from(STANDARD.encode(note)).ok());
    if let Some(value) = value {
        headers.insert(CHECKPOINT, value);
    }
}
