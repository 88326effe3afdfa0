//! The trace that a request belongs to.

use base::TraceId;
use http::header::{HeaderMap, HeaderName};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the request's `traceparent` names (W3C Trace Context). One that cannot be read, or that comes twice, names nothing.
pub(crate) fn named(headers: &HeaderMap) -> Option<TraceId> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let first = values.next()?;
    let one = values.next().is_none();
    TraceId::from_traceparent(first.as_bytes()).filter(|_| one)
}
