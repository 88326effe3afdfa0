//! A request of either wire, reduced to what an answer depends on.

use serde_json::Value;

use crate::answer::ToolCall;
use crate::models::Model;

/// The wire a request came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    OpenAi,
    Anthropic,
}

/// A chat request of either wire.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) wire: Wire,
    pub(crate) model: &'static Model,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Text of the last user message that has any, orders taken out.
    pub(crate) question: String,
    pub(crate) images: usize,
    /// Results of the last round of tools, where it came after the question.
    pub(crate) tool_results: Vec<String>,
    /// Calls that a script has the model make now, none for a text; `None` leaves it to the model.
    pub(crate) scripted: Option<Vec<ToolCall>>,
    /// Names the prompt apart from others.
    pub(crate) fingerprint: u64,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) parallel: bool,
    pub(crate) choices: u64,
    pub(crate) max_output: Option<u64>,
    pub(crate) stops: Vec<String>,
    pub(crate) format: Format,
    /// Alternatives to list per token; `None` without log probabilities.
    pub(crate) logprobs: Option<usize>,
    pub(crate) thinking: Thinking,
    pub(crate) input_tokens: u64,
    /// Prefixes that the caller asks to cache (Anthropic), or that are cached unasked (`OpenAI`), short to long.
    pub(crate) prefixes: Vec<Prefix>,
}

#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Value,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    Auto,
    None,
    Required,
    Named(String),
}

#[derive(Debug, PartialEq)]
pub(crate) enum Format {
    Text,
    JsonObject,
    JsonSchema(Value),
}

/// Whether the model reasons, and whether the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    Off,
    Hidden(u64),
    Shown(u64),
}

/// A cacheable beginning of the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) digest: u64,
    pub(crate) tokens: u64,
    pub(crate) one_hour: bool,
}

/// A request that the real provider would refuse with 400.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadRequest {
    pub(crate) message: String,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<&'static str>,
}

impl Call {
    /// What ids of tool calls are made of: the answer's id, or for a script the prompt, so that a
    /// round that is asked for again has the ids it had.
    pub(crate) fn ids(&self, answer: &str) -> String {
        match self.scripted {
            Some(_) => format!("{:016x}", self.fingerprint),
            None => answer.rsplit(['-', '_']).next().unwrap_or("0").to_owned(),
        }
    }
}

impl BadRequest {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: None,
            code: None,
        }
    }

    pub(crate) fn at(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.into()),
            code: None,
        }
    }
}

/// Tokens of a text as the simulator counts them: a quarter of its bytes, rounded up.
pub(crate) fn tokens(text: &str) -> u64 {
    (text.len() as u64).div_ceil(4)
}

/// FNV-1a: names things apart in a simulator, protects nothing.
pub(crate) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

/// All text of a `content` member: a string, or the text of its parts joined by line feeds.
pub(crate) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts
                .iter()
                .filter_map(|part| part["text"].as_str())
                .collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// A member that must be a non-negative integer where present.
pub(crate) fn count(body: &Value, name: &str) -> Result<Option<u64>, BadRequest> {
    match &body[name] {
        Value::Null => Ok(None),
        value => value.as_u64().map(Some).ok_or_else(|| {
            BadRequest::at(
                name,
                format!("Invalid type for '{name}': expected a non-negative integer."),
            )
        }),
    }
}

/// `stop` or `stop_sequences`: a string, a list of strings, or nothing.
pub(crate) fn stops(value: &Value) -> Vec<String> {
    match value {
        Value::String(stop) => vec![stop.clone()],
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}
