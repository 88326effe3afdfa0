//! Why a call was not carried out: a number of JSON-RPC, and a name that stays.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The numbers of the errors. Those of JSON-RPC itself are below -32600, ours follow -32000.
pub mod number {
    /// Not JSON, or JSON that two readers could understand differently.
    pub const PARSE: i32 = -32_700;
    /// JSON, and no request.
    pub const INVALID_REQUEST: i32 = -32_600;
    /// No such method.
    pub const METHOD_NOT_FOUND: i32 = -32_601;
    /// The params are not those of the method.
    pub const INVALID_PARAMS: i32 = -32_602;
    /// A fault of ours.
    pub const INTERNAL: i32 = -32_603;
    /// Refused for the reason that `data.code` names.
    pub const REFUSED: i32 = -32_000;
    /// The credential does not open the door, or no longer.
    pub const UNAUTHORIZED: i32 = -32_001;
    /// The role of the credential does not allow the method.
    pub const FORBIDDEN: i32 = -32_003;
    /// There is no such object, or it belongs to another tenant.
    pub const NOT_FOUND: i32 = -32_004;
    /// Too many calls.
    pub const RATE_LIMITED: i32 = -32_029;
}

/// A refusal or failure of one call. Its texts are ours and safe for whoever asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    number: i32,
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    field: Option<Box<str>>,
    limit: Option<Box<str>>,
    retry_after_ms: Option<u64>,
}

/// The `error` of an answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorObject {
    /// One of [`number`].
    pub code: i32,
    /// One sentence for people.
    pub message: String,
    /// For programs.
    pub data: ErrorData,
}

/// What programs read of an error.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorData {
    /// The stable name: `forbidden`, `not_found`, `invalid_params`, …
    pub code: String,
    /// The member of the params that is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The limit that was passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// When another try makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Found again in the log and in the audit entry.
    pub request_id: String,
}

impl Failure {
    /// A failure with that number, name and sentence.
    #[must_use]
    pub fn new(
        number: i32,
        code: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            number,
            code: code.into(),
            message: message.into(),
            field: None,
            limit: None,
            retry_after_ms: None,
        }
    }

    /// The message is not JSON, is nested too deep, or names a key twice.
    #[must_use]
    pub fn parse_error() -> Self {
        let text = "not JSON, nested too deep, or a name twice in one object";
        Self::new(number::PARSE, "parse_error", text)
    }

    /// The message is JSON and no request.
    #[must_use]
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(number::INVALID_REQUEST, "invalid_request", message)
    }

    /// There is no method of that name.
    #[must_use]
    pub fn method_not_found() -> Self {
        let text = "there is no such method; rpc.discover lists all";
        Self::new(number::METHOD_NOT_FOUND, "method_not_found", text)
    }

    /// One member of the params is wrong.
    #[must_use]
    pub fn invalid_params(field: impl Into<Cow<'static, str>>, what: &str) -> Self {
        let field = field.into();
        let text = format!("{field}: {what}");
        let mut failure = Self::new(number::INVALID_PARAMS, "invalid_params", text);
        failure.field = Some(field.into_owned().into());
        failure
    }

    /// There is no such object; one of another tenant looks the same.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(number::NOT_FOUND, "not_found", "not found")
    }

    /// Too many calls; another may be made after that time.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        Self::new(number::RATE_LIMITED, "rate_limited", "too many calls").retry_after(wait)
    }

    /// A fault of ours.
    #[must_use]
    pub fn internal() -> Self {
        let text = "internal error; the request id names it in the log";
        Self::new(number::INTERNAL, "internal_error", text)
    }

    /// The same, with the limit that was passed.
    #[must_use]
    pub fn limit(mut self, limit: impl fmt::Display) -> Self {
        self.limit = Some(limit.to_string().into());
        self
    }

    /// The same, with the time after which another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        // Rounded up: a try at that moment must not come too early.
        let ms = wait.as_nanos().div_ceil(1_000_000);
        self.retry_after_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        self
    }

    /// The number of JSON-RPC.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.number
    }

    /// The stable name.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.code
    }

    /// As it stands in the answer.
    #[must_use]
    pub fn object(&self, request_id: &str) -> ErrorObject {
        ErrorObject {
            code: self.number,
            message: self.message.clone().into_owned(),
            data: ErrorData {
                code: self.code.clone().into_owned(),
                field: self.field.clone().map(String::from),
                limit: self.limit.clone().map(String::from),
                retry_after_ms: self.retry_after_ms,
                request_id: request_id.to_owned(),
            },
        }
    }
}
