//! One call of a model for a run: through the gateway's own pipeline, like a call of anybody else.

use std::sync::Arc;

use base::Money;
use bytes::Bytes;
use gateway::Gateway;
use gateway::pipeline::{self, Inbound};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use kernel::Caller;
use llm::Operation;
use serde_json::{Map, Value, json};

use crate::limits::{ARGUMENTS_BYTES_MAX, CALLS_PER_STEP_MAX, REPLY_BYTES_MAX};
use crate::settings::AgentSettings;
use crate::tools;

/// What a model is asked.
pub(crate) struct Question<'a> {
    pub(crate) model: &'a str,
    pub(crate) settings: &'a AgentSettings,
    /// Messages as JSON.
    pub(crate) messages: Vec<String>,
    /// Names of the tools that it may call.
    pub(crate) tools: &'a [String],
    /// 32 hex digits: the trace that the call belongs to.
    pub(crate) trace: &'a str,
}

/// What a model answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The assistant's message, as it is kept and sent again.
    pub(crate) message: String,
    pub(crate) calls: Vec<Called>,
    /// What it cost, where that is known.
    pub(crate) cost: Option<Money>,
}

/// A call of a tool that a model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Called {
    /// The model's own id of it.
    pub(crate) id: String,
    pub(crate) tool: String,
    pub(crate) arguments: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) struct NoAnswer {
    /// The gateway's code, or one of ours.
    pub(crate) code: String,
    /// Seconds after which the same call may go through.
    pub(crate) retry_after_s: Option<u64>,
}

impl NoAnswer {
    fn because(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            retry_after_s: None,
        }
    }
}

/// Asks, and waits for the whole answer.
pub(crate) async fn ask(
    gateway: &Arc<Gateway>,
    caller: Caller,
    question: &Question<'_>,
) -> Result<Answer, NoAnswer> {
    let body = body(question).map_err(|_| NoAnswer::because("internal"))?;
    let inbound = Inbound {
        operation: Operation::ChatCompletions,
        caller: Some(caller),
        headers: headers(question.trace),
        uri: Uri::from_static("/v1/chat/completions"),
        body: Full::new(Bytes::from(body)),
    };
    let (head, body) = Box::pin(pipeline::serve(gateway, inbound))
        .await
        .into_parts();
    let bytes = Limited::new(body, REPLY_BYTES_MAX).collect().await;
    let bytes = bytes
        .map_err(|_| NoAnswer::because("answer_broke_off"))?
        .to_bytes();
    if head.status != StatusCode::OK {
        return Err(refused(&head.headers, &bytes));
    }
    read(&bytes).ok_or_else(|| NoAnswer::because("answer_unreadable"))
}

fn headers(trace: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let cost = HeaderName::from_static("x-partywall-cost");
    headers.insert(cost, HeaderValue::from_static("include"));
    // The parent of the span is the run itself.
    let parent = trace.get(..16).unwrap_or(trace);
    if let Ok(value) = HeaderValue::from_str(&format!("00-{trace}-{parent}-01")) {
        headers.insert(HeaderName::from_static("traceparent"), value);
    }
    headers
}

fn refused(headers: &HeaderMap, body: &[u8]) -> NoAnswer {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &body["error"];
    let code = error["code"].as_str().or_else(|| error["type"].as_str());
    let retry = headers
        .get("retry-after")
        .and_then(|value| value.to_str().ok()?.parse().ok());
    NoAnswer {
        code: code.unwrap_or("upstream_error").to_owned(),
        retry_after_s: retry,
    }
}

fn body(question: &Question<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = Map::new();
    body.insert("model".to_owned(), json!(question.model));
    let messages: Result<Vec<Value>, _> = question
        .messages
        .iter()
        .map(|text| serde_json::from_str(text))
        .collect();
    body.insert("messages".to_owned(), Value::Array(messages?));
    if let Some(temperature) = question.settings.temperature {
        body.insert("temperature".to_owned(), json!(temperature));
    }
    if let Some(max) = question.settings.max_tokens {
        body.insert("max_tokens".to_owned(), json!(max));
    }
    let tools: Vec<Value> = question
        .tools
        .iter()
        .filter_map(|name| tools::find(name))
        .map(tools::Tool::described)
        .collect();
    if !tools.is_empty() {
        body.insert("tools".to_owned(), Value::Array(tools));
    }
    serde_json::to_vec(&body)
}

/// Reads a whole answer in the shape of chat completions. Only what a later request may repeat is kept of its message.
fn read(bytes: &[u8]) -> Option<Answer> {
    let body: Value = serde_json::from_slice(bytes).ok()?;
    let message = body["choices"].get(0)?["message"].as_object()?;
    let mut calls = Vec::new();
    for call in message
        .get("tool_calls")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let function = &call["function"];
        let arguments = function["arguments"].as_str().unwrap_or_default();
        let cut = arguments.len() > ARGUMENTS_BYTES_MAX;
        calls.push(Called {
            id: call["id"].as_str()?.to_owned(),
            tool: function["name"].as_str()?.chars().take(64).collect(),
            // What is not read whole is not read at all.
            arguments: if cut {
                "null".to_owned()
            } else {
                arguments.to_owned()
            },
        });
    }
    calls.truncate(CALLS_PER_STEP_MAX);
    let mut kept = Map::new();
    kept.insert("role".to_owned(), json!("assistant"));
    let content = message.get("content").cloned().unwrap_or(Value::Null);
    kept.insert("content".to_owned(), content);
    if !calls.is_empty() {
        let told: Vec<Value> = calls.iter().map(Called::told).collect();
        kept.insert("tool_calls".to_owned(), Value::Array(told));
    }
    let cost = match &body["usage"]["cost"] {
        Value::String(text) => Money::parse_usd(text).ok(),
        Value::Number(number) => Money::parse_usd(&number.to_string()).ok(),
        _ => None,
    };
    Some(Answer {
        message: Value::Object(kept).to_string(),
        calls,
        cost,
    })
}

impl Called {
    fn told(&self) -> Value {
        json!({
            "id": self.id,
            "type": "function",
            "function": { "name": self.tool, "arguments": self.arguments },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_keeps_what_may_be_sent_again() {
        let answer = read(
            br#"{"choices":[{"message":{"role":"assistant","content":null,"refusal":null,"annotations":[],
                "tool_calls":[{"id":"c1","type":"function","function":{"name":"exec","arguments":"{\"command\":\"ls\"}"}}]}}],
                "usage":{"cost":0.000123}}"#,
        )
        .unwrap();
        assert_eq!(answer.calls.len(), 1);
        assert_eq!(answer.calls[0].arguments, r#"{"command":"ls"}"#);
        assert_eq!(answer.cost, Money::parse_usd("0.000123").ok());
        let message: Value = serde_json::from_str(&answer.message).unwrap();
        let mut names: Vec<_> = message.as_object().unwrap().keys().cloned().collect();
        names.sort();
        assert_eq!(names, ["content", "role", "tool_calls"]);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"choices":[]}"#,
            r#"{"choices":[{"message":{"tool_calls":[{"id":1}]}}]}"#,
        ] {
            assert!(read(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn calls_are_bounded_in_number_and_size() {
        let call = json!({ "id": "c", "type": "function", "function": { "name": "exec", "arguments": "x".repeat(ARGUMENTS_BYTES_MAX + 1) } });
        let calls = vec![call; CALLS_PER_STEP_MAX + 5];
        let body = json!({ "choices": [{ "message": { "content": "", "tool_calls": calls } }] });
        let answer = read(body.to_string().as_bytes()).unwrap();
        assert_eq!(answer.calls.len(), CALLS_PER_STEP_MAX);
        assert!(answer.calls.iter().all(|call| call.arguments == "null"));
    }
}
