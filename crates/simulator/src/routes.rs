//! Routes, keys and response heads of both wires.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Response};
use serde_json::{Value, json};

use crate::body::Played;
use crate::call::Wire;
use crate::ledger::Entry;
use crate::models::{MODELS, Model, model};
use crate::{refusal, wire_openai};

/// The provider routes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Chat,
    Embeddings,
    Messages,
    CountTokens,
    Models,
}

pub(crate) fn operation(method: &Method, path: &str) -> Option<Operation> {
    match (method, path) {
        (&Method::POST, "/v1/chat/completions") => Some(Operation::Chat),
        (&Method::POST, "/v1/embeddings") => Some(Operation::Embeddings),
        (&Method::POST, "/v1/messages") => Some(Operation::Messages),
        (&Method::POST, "/v1/messages/count_tokens") => Some(Operation::CountTokens),
        (&Method::GET, path) if path == "/v1/models" || path.starts_with("/v1/models/") => {
            Some(Operation::Models)
        }
        _ => None,
    }
}

pub(crate) fn wire_of(path: &str, headers: &HeaderMap) -> Wire {
    let anthropic = path.starts_with("/v1/messages") || headers.contains_key("anthropic-version");
    if anthropic {
        Wire::Anthropic
    } else {
        Wire::OpenAi
    }
}

pub(crate) fn presented_key(wire: Wire, headers: &HeaderMap) -> Option<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let key = match wire {
        Wire::OpenAi => bearer,
        Wire::Anthropic => text("x-api-key").or(bearer),
    };
    key.map(str::trim)
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
}

pub(crate) fn unauthorized(wire: Wire, seq: u64) -> Value {
    let message = match wire {
        Wire::OpenAi => {
            "Incorrect API key provided. You can find your API key in your account settings."
        }
        Wire::Anthropic => "invalid x-api-key",
    };
    refusal::body(wire, 401, message, &request_id(seq))
}

pub(crate) fn request_id(seq: u64) -> String {
    format!("req_sim_{seq:08}")
}

pub(crate) fn answer_id(wire: Wire, seq: u64) -> String {
    match wire {
        Wire::OpenAi => format!("chatcmpl-sim-{seq:08}"),
        Wire::Anthropic => format!("msg_sim_{seq:08}"),
    }
}

pub(crate) fn models(mut entry: Entry, wire: Wire, path: &str, seq: u64) -> Response<Played> {
    let shown = |model: &Model| match wire {
        Wire::OpenAi => json!({
            "id": model.name,
            "object": "model",
            "created": wire_openai::CREATED_S,
            "owned_by": "simulator",
        }),
        Wire::Anthropic => json!({
            "type": "model",
            "id": model.name,
            "display_name": model.shown,
            "created_at": "2026-11-01T00:00:00Z",
        }),
    };
    let body = match path.strip_prefix("/v1/models/") {
        Some(name) => match model(name) {
            Some(model) => shown(model),
            None => {
                let body = refusal::body(
                    wire,
                    404,
                    &format!("The model '{name}' does not exist"),
                    &request_id(seq),
                );
                return refuse(entry, wire, 404, &body, seq);
            }
        },
        None => {
            let all: Vec<Value> = MODELS.iter().map(shown).collect();
            match wire {
                Wire::OpenAi => json!({"object": "list", "data": all}),
                Wire::Anthropic => json!({
                    "data": all,
                    "has_more": false,
                    "first_id": MODELS.first().map(|model| model.name),
                    "last_id": MODELS.last().map(|model| model.name),
                }),
            }
        }
    };
    entry.record.status = 200;
    let mut response = plain(200, &body, Some(entry));
    dress(response.headers_mut(), wire, seq);
    response
}

pub(crate) fn refuse(
    mut entry: Entry,
    wire: Wire,
    status: u16,
    body: &Value,
    seq: u64,
) -> Response<Played> {
    entry.record.status = status;
    let mut response = plain(status, body, Some(entry));
    dress(response.headers_mut(), wire, seq);
    response
}

pub(crate) fn plain(status: u16, body: &Value, entry: Option<Entry>) -> Response<Played> {
    let mut response = Response::new(Played::whole(Bytes::from(body.to_string()), entry));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Headers that real providers send and that a gateway must not pass on unseen.
pub(crate) fn dress(headers: &mut HeaderMap, wire: Wire, seq: u64) {
    let id = HeaderValue::from_str(&request_id(seq)).unwrap_or(HeaderValue::from_static("req_sim"));
    headers.insert(header::SERVER, HeaderValue::from_static("simulator"));
    headers.insert(
        header::SET_COOKIE,
        HeaderValue::from_static("__sim=simulated; HttpOnly"),
    );
    match wire {
        Wire::OpenAi => {
            headers.insert("x-request-id", id);
            headers.insert(
                "openai-organization",
                HeaderValue::from_static("simulated-organization"),
            );
            headers.insert("openai-version", HeaderValue::from_static("2020-10-01"));
            headers.insert(
                "x-ratelimit-remaining-requests",
                HeaderValue::from_static("9999"),
            );
        }
        Wire::Anthropic => {
            headers.insert("request-id", id);
            headers.insert(
                "anthropic-organization-id",
                HeaderValue::from_static("simulated-organization"),
            );
            headers.insert(
                "anthropic-ratelimit-requests-remaining",
                HeaderValue::from_static("9999"),
            );
        }
    }
}
