//! The table: refusal to status, type, code, retry, message.

use std::borrow::Cow;

use kernel::quota::Unit;

use super::{PolicyRefusal, Refusal, Retry, Row};

const INVALID: &str = "invalid_request_error";
const PERMISSION: &str = "permission_error";
const SERVER: &str = "server_error";

const fn row(
    status: u16,
    openai_type: &'static str,
    code: &'static str,
    anthropic_type: &'static str,
    retry: Retry,
) -> Row {
    Row {
        status,
        openai_type,
        code,
        anthropic_type,
        retry,
    }
}

impl Refusal {
    #[rustfmt::skip]
    pub(super) fn row(&self) -> Row {
        use Retry::{After, AsUsual, No, NoUntil};
        match self {
            Self::NoCredential | Self::BadCredential
                                        => row(401, INVALID, "invalid_api_key", "authentication_error", No),
            Self::AmbiguousCredential   => row(400, INVALID, "ambiguous_credential", INVALID, No),
            Self::TokenInUrl            => row(400, INVALID, "token_in_url", INVALID, No),
            Self::ForeignOrigin         => row(403, PERMISSION, "origin_not_allowed", PERMISSION, No),
            Self::Suspended             => row(403, PERMISSION, "tenant_suspended", PERMISSION, No),
            Self::Frozen                => row(403, PERMISSION, "tenant_frozen", PERMISSION, No),
            Self::Forbidden { .. }      => row(403, PERMISSION, "forbidden", PERMISSION, No),
            Self::Policy { why, .. }    => match why {
                PolicyRefusal::Forbidden     => row(403, PERMISSION, "policy_denied", PERMISSION, No),
                PolicyRefusal::NeedsApproval => row(403, PERMISSION, "approval_required", PERMISSION, No),
                PolicyRefusal::Broken        => row(403, PERMISSION, "policy_broken", PERMISSION, No),
            },
            Self::BadRequest { .. }     => row(400, INVALID, "invalid_request", INVALID, No),
            Self::ModelNotFound { .. }  => row(404, INVALID, "model_not_found", "not_found_error", No),
            Self::Unpriced { .. }       => row(400, INVALID, "model_not_priced", INVALID, No),
            Self::QuotaExceeded(facts)  => match facts.unit {
                Unit::Requests => row(429, "requests", "rate_limit_exceeded", "rate_limit_error", NoUntil(facts.retry_after_s)),
                Unit::Tokens   => row(429, "tokens", "rate_limit_exceeded", "rate_limit_error", NoUntil(facts.retry_after_s)),
                Unit::Cost     => row(429, "insufficient_quota", "insufficient_quota", "rate_limit_error", NoUntil(facts.retry_after_s)),
                Unit::Bytes    => row(429, "storage", "insufficient_quota", "rate_limit_error", NoUntil(facts.retry_after_s)),
            },
            Self::TooLargeForQuota(_)   => row(400, INVALID, "request_larger_than_quota", INVALID, No),
            Self::TooLarge { .. }       => row(413, INVALID, "request_too_large", "request_too_large", No),
            Self::BodyTimeout           => row(408, INVALID, "request_timeout", INVALID, AsUsual),
            Self::Overloaded { retry_after_s }
                                        => row(503, SERVER, "server_is_overloaded", "overloaded_error", After((*retry_after_s).into())),
            Self::TenantBusy { retry_after_s, .. }
                                        => row(503, SERVER, "tenant_busy", "overloaded_error", After((*retry_after_s).into())),
            Self::ProviderBusy { retry_after_s }
                                        => row(503, SERVER, "provider_busy", "overloaded_error", After((*retry_after_s).into())),
            Self::Quarantined           => row(503, SERVER, "tenant_unavailable", "api_error", After(30)),
            Self::JournalDown           => row(503, SERVER, "service_unavailable", "api_error", After(30)),
            Self::DiskShort             => row(503, SERVER, "storage_short", "overloaded_error", After(30)),
            Self::UpstreamStatus { .. } => self.upstream_row(),
            Self::UpstreamUnreachable   => row(502, SERVER, "provider_unreachable", "api_error", AsUsual),
            Self::UpstreamTimeout       => row(504, SERVER, "provider_timeout", "timeout_error", No),
            Self::UpstreamMalformed     => row(502, SERVER, "provider_answer_broken", "api_error", No),
            Self::RunFailed { .. }      => row(502, SERVER, "run_failed", "api_error", No),
            Self::NotFound              => row(404, INVALID, "not_found", "not_found_error", No),
            Self::Erased                => row(410, INVALID, "content_erased", "not_found_error", No),
            Self::MethodNotAllowed {..} => row(405, INVALID, "method_not_allowed", INVALID, No),
            Self::UnsupportedMedia      => row(415, INVALID, "unsupported_media_type", INVALID, No),
            Self::Draining              => row(503, SERVER, "shutting_down", "overloaded_error", After(1)),
            Self::Internal              => row(500, SERVER, "internal_error", "api_error", AsUsual),
        }
    }

    #[rustfmt::skip]
    fn upstream_row(&self) -> Row {
        let Self::UpstreamStatus { status, code, retry_after_s, .. } = self else {
            return Self::Internal.row();
        };
        let retry = || retry_after_s.map_or(Retry::AsUsual, |seconds| Retry::After(seconds.into()));
        match status.as_u16() {
            status @ 429       => row(status, "requests", "provider_rate_limited", "rate_limit_error", retry()),
            status @ 413       => row(status, INVALID, code.unwrap_or("request_too_large"), "request_too_large", Retry::No),
            status @ 404       => row(status, INVALID, "model_not_found", "not_found_error", Retry::No),
            status @ 408       => row(status, SERVER, "provider_timeout", "timeout_error", retry()),
            status @ 400..=499 => row(status, INVALID, code.unwrap_or("invalid_request"), INVALID, Retry::No),
            status @ 502       => row(status, SERVER, "provider_error", "api_error", Retry::No),
            status @ 504       => row(status, SERVER, "provider_timeout", "timeout_error", retry()),
            status @ (503 | 529) => row(status, SERVER, "provider_overloaded", "overloaded_error", retry()),
            status             => row(status, SERVER, "provider_error", "api_error", retry()),
        }
    }

    pub(super) fn message(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::NoCredential | Self::BadCredential => {
                "no valid credential: send a token as 'Authorization: Bearer', 'x-api-key', 'api-key' or 'x-goog-api-key'"
            }
            Self::AmbiguousCredential => {
                "more than one credential in one request; send exactly one"
            }
            Self::TokenInUrl => {
                "a token in a URL is refused and should be rotated now; send it in a header"
            }
            Self::ForeignOrigin => {
                "web pages of this origin are not let in; the operator can list it under origins"
            }
            Self::Suspended => "this tenant is suspended",
            Self::Frozen => {
                "this tenant is frozen: it may read, and nothing else, until its operator resumes it"
            }
            Self::Forbidden { role } => return format!("the role {role} may not do this").into(),
            Self::Policy { why, rules } => return policy_message(*why, rules).into(),
            Self::BadRequest { message, .. } => message,
            Self::ModelNotFound { model } => {
                return format!("the model {model:?} does not exist").into();
            }
            Self::Unpriced { model, bucket } => {
                return format!("the model {model:?} has no price for {bucket}; the operator can add one to the rate card").into();
            }
            Self::QuotaExceeded(_) | Self::TooLargeForQuota(_) => return self.quota_message(),
            Self::TooLarge { limit } => {
                return format!("the request body is larger than the limit of {limit} bytes")
                    .into();
            }
            Self::BodyTimeout => "the request body did not arrive in time",
            Self::Overloaded { .. } | Self::TenantBusy { .. } | Self::ProviderBusy { .. } => {
                return self.busy_message();
            }
            Self::Quarantined => "this tenant is temporarily out of service",
            Self::JournalDown => "the service cannot record calls at the moment and refuses them",
            Self::DiskShort => {
                "the service is short of storage and takes no new calls at the moment"
            }
            Self::UpstreamStatus {
                status, message, ..
            } => match message {
                Some(text) => text,
                None => upstream_message(status.as_u16()),
            },
            Self::UpstreamUnreachable => "the provider cannot be reached",
            Self::UpstreamTimeout => "the provider did not answer in time",
            Self::UpstreamMalformed => "the provider's answer broke off or was not understood",
            Self::RunFailed { why } => {
                return format!("the agent's run ended without an answer: {why}").into();
            }
            Self::NotFound => "not found",
            Self::Erased => "this content was erased for good; its entry stays",
            Self::MethodNotAllowed { allow } => {
                return format!("method not allowed; use {allow}").into();
            }
            Self::UnsupportedMedia => "the request body must be application/json, not compressed",
            Self::Draining => "the service is restarting",
            Self::Internal => "internal error; the request id names it in the log",
        })
    }

    fn quota_message(&self) -> Cow<'static, str> {
        Cow::Owned(match self {
            Self::QuotaExceeded(facts) => format!(
                "quota {} of this {} is used up: limit {}, remaining {}; try again in {} s",
                facts.quota,
                facts.whose.as_str(),
                facts.limit,
                facts.remaining,
                facts.retry_after_s
            ),
            Self::TooLargeForQuota(facts) => format!(
                "this call needs more than the whole quota {} of this {}: limit {}",
                facts.quota,
                facts.whose.as_str(),
                facts.limit
            ),
            _ => return Cow::Borrowed("a quota is used up"),
        })
    }

    fn busy_message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::TenantBusy { what, .. } => {
                return format!(
                    "this tenant holds its share of {what}; try again when some have ended"
                )
                .into();
            }
            Self::ProviderBusy { .. } => {
                "no place at the provider came free in time; try again after the wait that retry-after names"
            }
            _ => "too many calls are waiting; try again shortly",
        })
    }
}

fn upstream_message(status: u16) -> &'static str {
    match status {
        400 | 413 | 415 | 422 => "the provider refused the request",
        404 => "the provider does not have this model",
        408 | 504 => "the provider timed out",
        429 => "the provider's rate limit is reached",
        502 => "the provider refused the gateway",
        503 | 529 => "the provider is overloaded",
        _ => "the provider failed",
    }
}

fn policy_message(why: PolicyRefusal, rules: &str) -> String {
    match why {
        PolicyRefusal::Forbidden => format!("the policy forbids this: {rules}"),
        PolicyRefusal::NeedsApproval => format!(
            "the policy asks for an approval, which only a run of an agent can wait for: {rules}"
        ),
        PolicyRefusal::Broken => {
            format!(
                "a rule of the policy cannot be evaluated, so nothing is allowed that it might forbid: {rules}"
            )
        }
    }
}
