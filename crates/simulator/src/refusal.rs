//! Error answers in the shape of each provider.

use serde_json::{Value, json};

use crate::call::{BadRequest, Wire};

/// The error body of a status as the provider of that wire would write it.
pub(crate) fn body(wire: Wire, status: u16, message: &str, request_id: &str) -> Value {
    match wire {
        Wire::OpenAi => {
            let (kind, code) = match status {
                400 => ("invalid_request_error", None),
                401 => ("invalid_request_error", Some("invalid_api_key")),
                403 => (
                    "invalid_request_error",
                    Some("unsupported_country_region_territory"),
                ),
                404 => ("invalid_request_error", Some("model_not_found")),
                429 => ("requests", Some("rate_limit_exceeded")),
                503 => ("server_error", Some("server_is_overloaded")),
                402 | 405..=499 => ("invalid_request_error", None),
                _ => ("server_error", None),
            };
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        }
        Wire::Anthropic => {
            let kind = match status {
                401 => "authentication_error",
                402 => "billing_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                504 => "timeout_error",
                503 | 529 => "overloaded_error",
                400..=499 => "invalid_request_error",
                _ => "api_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
        }
    }
}

/// The body of a 400 that names what is wrong.
pub(crate) fn bad_request(wire: Wire, bad: &BadRequest, request_id: &str) -> Value {
    let mut answer = body(wire, 400, &bad.message, request_id);
    if wire == Wire::OpenAi {
        answer["error"]["param"] = json!(bad.param);
        answer["error"]["code"] = json!(bad.code);
    }
    answer
}
