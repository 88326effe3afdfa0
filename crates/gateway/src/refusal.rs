//! Every way of saying no, and the one table that turns it into a response.
//!
//! Nothing else in the gateway names a status code of ours. What stands in a message is safe for
//! the caller: no internals, no keys, no upstream text but a bounded, redacted one.

use std::borrow::Cow;
use std::sync::Arc;

use base::{RequestId, Timestamp};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use kernel::quota::{Exceeded, Unit, Whose};
use kernel::{KernelError, QuotaRefusal, StoreError};
use llm::{Dialect, ErrorFacts, ReplyError, UpstreamError, error_body};

use crate::fair::Busy;
use crate::upstream::{BodyError, NotSent, Passage, SendError, Unknown, passage};

mod rate_limit;
mod redact;

pub(crate) use rate_limit::put_standing;
pub use redact::redacted;

/// Why a call is refused. Closed: a new case does not compile without its row in the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No credential was given.
    NoCredential,
    /// Malformed, unknown, expired or revoked: indistinguishable from [`Self::NoCredential`].
    BadCredential,
    /// More than one credential was given.
    AmbiguousCredential,
    /// A token stood in the URL. It must be thought of as lost.
    TokenInUrl,
    /// A web page asks whose origin the deployment does not let in.
    ForeignOrigin,
    /// The tenant is suspended.
    Suspended,
    /// The tenant is frozen: it may read, and this would do more.
    Frozen,
    /// The credential's role does not allow the route.
    Forbidden {
        /// The role of the credential.
        role: &'static str,
    },
    /// The rules of the tenant or its operator do not allow it.
    Policy {
        /// How they came to that.
        why: PolicyRefusal,
        /// The rules that decided, as `origin.id` joined by blanks.
        rules: Arc<str>,
    },
    /// The request is not one that can be served as it is.
    BadRequest {
        /// What is wrong, naming field and limit; made by us, safe to show.
        message: String,
        /// The field.
        param: Option<String>,
    },
    /// No such model, or none that the caller may see.
    ModelNotFound {
        /// The name asked for.
        model: String,
    },
    /// The model has no price for what the call would consume.
    Unpriced {
        /// The public name of the model.
        model: String,
        /// The bucket without a price.
        bucket: Cow<'static, str>,
    },
    /// A quota is used up until its window moves on.
    QuotaExceeded(QuotaFacts),
    /// The call is larger than a quota as a whole: waiting does not help.
    TooLargeForQuota(QuotaFacts),
    /// The body is above the limit.
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The body did not arrive in time.
    BodyTimeout,
    /// Too much is waiting already.
    Overloaded {
        /// Seconds after which another try makes sense.
        retry_after_s: u32,
    },
    /// The tenant holds as much of something as it leaves for all others.
    TenantBusy {
        /// What.
        what: &'static str,
        /// Seconds after which another try makes sense.
        retry_after_s: u32,
    },
    /// No slot of the provider came free in time, or too many wait for one.
    ProviderBusy {
        /// Seconds after which another try makes sense.
        retry_after_s: u32,
    },
    /// The tenant's store is out of service.
    Quarantined,
    /// The journal cannot be written: nobody is served.
    JournalDown,
    /// The disk has no room for more than what is under way.
    DiskShort,
    /// The provider answered with an error. Made by [`Refusal::upstream`].
    UpstreamStatus {
        /// The status for the client.
        status: StatusCode,
        /// A code of the provider that clients act on.
        code: Option<&'static str>,
        /// The provider's text, bounded and redacted; only where the fault is the caller's.
        message: Option<String>,
        /// The provider's wish, bounded.
        retry_after_s: Option<u32>,
    },
    /// No provider could be reached; nothing was sent.
    UpstreamUnreachable,
    /// The provider did not answer in time; it may have worked.
    UpstreamTimeout,
    /// The provider's answer broke or was not understood; it may have worked.
    UpstreamMalformed,
    /// The agent's run ended without an answer. What it did is done: the same call would do it again.
    RunFailed {
        /// A stable code.
        why: String,
    },
    /// No such route or object, or one of another tenant.
    NotFound,
    /// What is asked for was erased for good.
    Erased,
    /// The route exists under other methods.
    MethodNotAllowed {
        /// The methods, as in the `allow` header.
        allow: &'static str,
    },
    /// The body is not JSON by its content type, or is compressed.
    UnsupportedMedia,
    /// The process is stopping.
    Draining,
    /// A fault of ours. What it was stands in the log under the request id.
    Internal,
}

/// How rules came to refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyRefusal {
    /// One of them forbids it.
    Forbidden,
    /// Somebody has to approve it first, and who calls like this can ask nobody.
    NeedsApproval,
    /// One of them could not be evaluated.
    Broken,
}

/// The quota that refused a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuotaFacts {
    /// Its name in configuration and reports.
    pub quota: &'static str,
    /// Whose it is.
    pub whose: Whose,
    /// What it counts.
    pub unit: Unit,
    /// The limit in its unit: a count, or plain USD.
    pub limit: String,
    /// What was left, in the same unit.
    pub remaining: String,
    /// Seconds until the call can fit.
    pub retry_after_s: u64,
    /// That moment.
    pub retry_at: Timestamp,
}

/// How one refusal looks: a row of the table.
struct Row {
    status: u16,
    openai_type: &'static str,
    code: &'static str,
    anthropic_type: &'static str,
    retry: Retry,
}

/// What the client is told about trying again.
enum Retry {
    /// The status says it; SDKs retry 408, 409, 429 and 5xx by themselves.
    AsUsual,
    /// As usual, but not before so many seconds.
    After(u64),
    /// `x-should-retry: false`: the same call would be refused again, or would be paid twice.
    No,
    /// Not now, and not by itself: the time is said for the caller's own schedule.
    NoUntil(u64),
}

impl Refusal {
    /// The refusal of a call that did not fit a quota at `now`.
    #[must_use]
    pub fn quota(exceeded: &Exceeded, now: Timestamp) -> Self {
        let quota = exceeded.quota;
        let retry_at = exceeded.retry_at.unwrap_or(now);
        let facts = QuotaFacts {
            quota: quota.name(),
            whose: exceeded.whose,
            unit: quota.unit(),
            limit: quota.shown(exceeded.limit),
            remaining: quota.shown((exceeded.limit - exceeded.used).max(0)),
            retry_after_s: rate_limit::seconds_until(retry_at, now).max(1),
            retry_at,
        };
        match exceeded.retry_at {
            Some(_) => Self::QuotaExceeded(facts),
            None => Self::TooLargeForQuota(facts),
        }
    }

    /// What the audit entry says of the quota that decided, where one did.
    /// The rules that decided, where rules did.
    pub(crate) fn rules(&self) -> Option<&str> {
        match self {
            Self::Policy { rules, .. } if !rules.is_empty() => Some(rules),
            _ => None,
        }
    }

    pub(crate) fn quota_seen(&self) -> Option<QuotaRefusal<'_>> {
        match self {
            Self::QuotaExceeded(facts) | Self::TooLargeForQuota(facts) => Some(QuotaRefusal {
                quota: facts.quota,
                left: &facts.remaining,
                limit: &facts.limit,
                whose: facts.whose.as_str(),
            }),
            _ => None,
        }
    }

    /// The refusal that a provider's error answer becomes. `body` is read for its class; its text
    /// reaches the client only where the fault is the caller's, shortened and redacted.
    #[must_use]
    pub fn upstream(status: StatusCode, body: &[u8], retry_after_s: Option<u32>) -> Self {
        let Passage::Status(status) = passage(status) else {
            return Self::UpstreamStatus {
                status: StatusCode::BAD_GATEWAY,
                code: None,
                message: None,
                retry_after_s: None,
            };
        };
        let error = UpstreamError::parse(body);
        let callers_fault = matches!(status.as_u16(), 400 | 413 | 415 | 422);
        let too_long = |error: &UpstreamError| {
            error.code.as_deref() == Some("context_length_exceeded")
                || error
                    .message
                    .as_deref()
                    .is_some_and(|text| text.starts_with("prompt is too long"))
        };
        let code = match status.as_u16() {
            400 | 413 if too_long(&error) => Some("context_length_exceeded"),
            400 if error.code.as_deref() == Some("content_policy_violation") => {
                Some("content_policy_violation")
            }
            _ => None,
        };
        let message = error
            .message
            .filter(|_| callers_fault)
            .map(|text| redacted(&text))
            .filter(|t| !t.is_empty());
        Self::UpstreamStatus {
            status,
            code,
            message,
            retry_after_s,
        }
    }

    /// A stable name for log and audit entry; also the `code` of `OpenAI`'s error body.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.row().code
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The sentence for the caller.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        self.message()
    }

    /// Seconds after which another try makes sense, where that is known.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u64> {
        match self.row().retry {
            Retry::After(seconds) | Retry::NoUntil(seconds) => Some(seconds),
            Retry::AsUsual | Retry::No => None,
        }
    }

    /// The body in a dialect. Routes of no dialect take [`Dialect::OpenAi`].
    #[must_use]
    pub fn body(&self, dialect: Dialect, id: &RequestId) -> Vec<u8> {
        self.with_facts(dialect, id, |facts| error_body::error_body(dialect, facts))
    }

    /// The event that ends a stream which had begun.
    #[must_use]
    pub fn stream_event(&self, dialect: Dialect, id: &RequestId) -> Bytes {
        self.with_facts(dialect, id, |facts| {
            error_body::stream_error_event(dialect, facts)
        })
        .into()
    }

    /// The whole response.
    #[must_use]
    pub fn response(&self, dialect: Dialect, id: &RequestId) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(dialect, id)));
        *response.status_mut() = self.status();
        *response.headers_mut() = self.headers(dialect, id);
        response
    }

    fn with_facts<T>(
        &self,
        dialect: Dialect,
        id: &RequestId,
        write: impl FnOnce(&ErrorFacts<'_>) -> T,
    ) -> T {
        let row = self.row();
        let message = self.message();
        write(&ErrorFacts {
            http_status: row.status,
            kind: match dialect {
                Dialect::OpenAi => row.openai_type,
                Dialect::Anthropic => row.anthropic_type,
            },
            code: Some(row.code),
            param: self.param(),
            message: &message,
            request_id: id.as_str(),
        })
    }

    fn headers(&self, dialect: Dialect, id: &RequestId) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        put(
            &mut headers,
            HeaderName::from_static("x-request-id"),
            id.as_str(),
        );
        let (after, never) = match self.row().retry {
            Retry::AsUsual => (None, false),
            Retry::After(seconds) => (Some(seconds), false),
            Retry::No => (None, true),
            Retry::NoUntil(seconds) => (Some(seconds), true),
        };
        if let Some(seconds) = after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if never {
            headers.insert(
                HeaderName::from_static("x-should-retry"),
                HeaderValue::from_static("false"),
            );
        }
        match self {
            Self::NoCredential | Self::BadCredential => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::MethodNotAllowed { allow } => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::QuotaExceeded(facts) => rate_limit::put_refused(&mut headers, facts, dialect),
            _ => {}
        }
        headers
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::BadRequest { param, .. } => param.as_deref(),
            Self::ModelNotFound { .. } | Self::Unpriced { .. } => Some("model"),
            _ => None,
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // Digits and ids only; a value that cannot stand in a header is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

mod table;

#[cfg(test)]
mod tests;

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        Self::ProviderBusy {
            retry_after_s: busy.retry_after_s,
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotSent(NotSent::ForeignCredential | NotSent::Unsupported) => Self::Internal,
            SendError::NotSent(_) => Self::UpstreamUnreachable,
            SendError::Unknown(Unknown::Timeout) => Self::UpstreamTimeout,
            SendError::Unknown(Unknown::Closed | Unknown::Malformed) => Self::UpstreamMalformed,
        }
    }
}

impl From<KernelError> for Refusal {
    fn from(error: KernelError) -> Self {
        match error {
            // The authority ended while the call was under way: from outside, a credential that does not open the door.
            KernelError::Revoked => Self::BadCredential,
            KernelError::Quarantined(_) => Self::Quarantined,
            KernelError::JournalDown => Self::JournalDown,
            KernelError::Busy => Self::Overloaded { retry_after_s: 1 },
            KernelError::Store(StoreError::Full) => Self::DiskShort,
            _ => Self::Internal,
        }
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Idle | BodyError::Total => Self::UpstreamTimeout,
            BodyError::Cut | BodyError::TooLarge => Self::UpstreamMalformed,
        }
    }
}

impl From<ReplyError> for Refusal {
    fn from(_error: ReplyError) -> Self {
        Self::UpstreamMalformed
    }
}
