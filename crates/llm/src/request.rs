//! One borrowed parse of an inbound body: facts, and where its top-level members stand.

use crate::bound::{InputBound, Measure, require};
use crate::dialect::Operation;
use crate::json::{Cursor, Fault, Kind};
use bytes::Bytes;
use std::ops::Range;

/// Why a body is refused. Both texts are safe for outsiders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestError {
    /// One sentence that names the field and the limit.
    pub message: String,
    /// The field by its path (`messages`, `messages[2].role`).
    pub param: Option<String>,
}

impl RequestError {
    /// A refusal of one field.
    #[must_use]
    pub fn of(param: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: Some(param.to_owned()),
        }
    }

    fn body(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            param: None,
        }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RequestError {}

impl From<Fault> for RequestError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Grammar(at) => Self::body(format!("the body is not valid JSON at byte {at}")),
            Fault::Depth => {
                let limit = base::limits::JSON_DEPTH_MAX;
                Self::body(format!("the body is nested deeper than {limit} levels"))
            }
            Fault::Duplicate(mut key) => {
                key.truncate(key.floor_char_boundary(KEY_SHOWN_BYTES));
                Self {
                    message: format!("duplicate key {key:?} in the body"),
                    param: Some(key),
                }
            }
            Fault::Surrogate(at) => Self::body(format!(
                "the body escapes half of a surrogate pair at byte {at}"
            )),
        }
    }
}

/// A client's request: its bytes, where the members stand, and the facts the pipeline needs.
#[derive(Debug)]
pub struct Request {
    body: Bytes,
    operation: Operation,
    members: Vec<Member>,
    facts: Facts,
    input: InputBound,
    system: bool,
    server_tools: bool,
}

#[derive(Debug)]
struct Member {
    /// The key with its escapes undone.
    key: Box<str>,
    value: Range<usize>,
}

/// What single members say.
#[derive(Default, Debug)]
struct Facts {
    model: Option<String>,
    input: bool,
    stream: bool,
    include_usage: bool,
    max_output: Option<(&'static str, u64)>,
    choices: Option<u64>,
    temperature: bool,
    extra_output: u64,
    priced_apart: Option<&'static str>,
}

impl Request {
    /// Reads and validates a body: strict JSON (no duplicate key at any depth, no half surrogate pair,
    /// depth at most [`JSON_DEPTH_MAX`](base::limits::JSON_DEPTH_MAX)), an object, with the members the
    /// operation needs and the types it counts on. Members not known here pass unread.
    ///
    /// # Errors
    /// [`RequestError`] naming the field and the limit.
    pub fn parse(operation: Operation, body: Bytes) -> Result<Self, RequestError> {
        let text = std::str::from_utf8(&body)
            .map_err(|_| RequestError::body("the body is not valid UTF-8"))?;
        let mut cursor = Cursor::strict(text);
        if cursor.kind()? != Kind::Object {
            return Err(RequestError::body("the body must be a JSON object"));
        }
        let mut members = Vec::with_capacity(16);
        let mut facts = Facts::default();
        let mut measure = Measure::new(operation.dialect());
        let mut open = cursor.object()?;
        while let Some(key) = cursor.key(&mut open)? {
            let key = key.decoded();
            cursor.kind()?;
            let start = cursor.position();
            member(operation, &key, &mut cursor, &mut facts, &mut measure)?;
            members.push(Member {
                key: key.into(),
                value: start..cursor.position(),
            });
        }
        cursor.end()?;
        facts.complete(operation)?;
        let (input, system, server_tools) =
            (measure.bound(), measure.system(), measure.server_tools());
        Ok(Self {
            body,
            operation,
            members,
            facts,
            input,
            system,
            server_tools,
        })
    }

    /// What is asked.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The bytes as they came.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The model's name as asked: 1 to 256 bytes.
    #[must_use]
    pub fn model(&self) -> &str {
        self.facts.model.as_deref().unwrap_or_default()
    }

    /// Whether the answer is to be streamed.
    #[must_use]
    pub fn stream(&self) -> bool {
        self.facts.stream
    }

    /// Whether the client asked for the usage chunk of a stream.
    #[must_use]
    pub fn include_usage(&self) -> bool {
        self.facts.stream && self.facts.include_usage
    }

    /// The most output tokens the client wants, per choice.
    #[must_use]
    pub fn max_output(&self) -> Option<u64> {
        self.facts.max_output.map(|(_, tokens)| tokens)
    }

    /// The member in which the client said so.
    #[must_use]
    pub fn max_output_field(&self) -> Option<&'static str> {
        self.facts.max_output.map(|(field, _)| field)
    }

    /// `n`, from 1 to 128; 1 where absent.
    #[must_use]
    pub fn choices(&self) -> u64 {
        self.facts.choices.unwrap_or(1)
    }

    /// Whether the client gave a temperature.
    #[must_use]
    pub fn temperature_given(&self) -> bool {
        self.facts.temperature
    }

    /// Whether the client gave a system prompt (a system or developer message, `system`).
    #[must_use]
    pub fn system_given(&self) -> bool {
        self.system
    }

    /// Upper bound of the input.
    #[must_use]
    pub fn input_bound(&self) -> InputBound {
        self.input
    }

    /// Output tokens that may be billed beyond [`max_output`](Self::max_output), per choice: rejected
    /// parts of a `prediction` are output.
    #[must_use]
    pub fn extra_output_bound(&self) -> u64 {
        self.facts.extra_output
    }

    /// Whether a tool runs at the provider: calls of it are billed, and what it reads is input that no
    /// bound covers.
    #[must_use]
    pub fn server_tools(&self) -> bool {
        self.server_tools
    }

    /// The member, if any, that asks for service at another price than the card's: a service tier
    /// other than the standard one, fast mode, a fixed region, a container, a stored file.
    #[must_use]
    pub fn priced_apart(&self) -> Option<&'static str> {
        self.facts.priced_apart
    }

    /// The JSON text of a top-level member.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&str> {
        self.member_span(name).map(|span| self.text(span))
    }

    /// All top-level members in their order: key (escapes undone) and JSON text.
    pub fn members(&self) -> impl Iterator<Item = (&str, &str)> {
        self.members
            .iter()
            .map(|member| (&*member.key, self.text(member.value.clone())))
    }

    /// Where the value of a top-level member stands.
    pub(crate) fn member_span(&self, name: &str) -> Option<Range<usize>> {
        self.members
            .iter()
            .find(|member| &*member.key == name)
            .map(|member| member.value.clone())
    }

    /// Where the last member ends; there is one, for every request has a model.
    pub(crate) fn members_end(&self) -> usize {
        self.members.last().map_or(1, |member| member.value.end)
    }

    fn text(&self, span: Range<usize>) -> &str {
        // The body was checked when parsed, and spans start and end at ASCII bytes.
        self.body
            .get(span)
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .unwrap_or("")
    }
}

impl Facts {
    /// Nothing that the operation needs is missing.
    fn complete(&self, operation: Operation) -> Result<(), RequestError> {
        let missing = |name: &str| Err(RequestError::of(name, format!("{name} is required")));
        let input = if operation == Operation::Embeddings {
            "input"
        } else {
            "messages"
        };
        if self.model.is_none() {
            return missing("model");
        }
        if !self.input {
            return missing(input);
        }
        if operation == Operation::Messages && self.max_output.is_none() {
            return missing("max_tokens");
        }
        Ok(())
    }

    fn cap(&mut self, cursor: &mut Cursor<'_>, field: &'static str) -> Result<(), RequestError> {
        let Some(tokens) = whole(cursor, field, 1, MAX_OUTPUT_TOKENS)? else {
            return Ok(());
        };
        if self.max_output.is_some() {
            return Err(RequestError::of(
                "max_tokens",
                "max_tokens and max_completion_tokens must not both be given",
            ));
        }
        self.max_output = Some((field, tokens));
        Ok(())
    }
}

/// Longer names of models are nobody's.
const MODEL_BYTES_MAX: usize = 256;
/// `n`; the provider's own limit.
const CHOICES_MAX: u64 = 128;
/// Keeps products with prices far from overflow; no model writes a thousandth of it.
const MAX_OUTPUT_TOKENS: u64 = 1_000_000_000;
/// What is shown of an offending key.
const KEY_SHOWN_BYTES: usize = 64;

/// Reads one top-level member.
fn member(
    operation: Operation,
    name: &str,
    cursor: &mut Cursor<'_>,
    facts: &mut Facts,
    measure: &mut Measure,
) -> Result<(), RequestError> {
    match name {
        "model" => {
            facts.model = Some(model(cursor)?);
            return Ok(());
        }
        "stream" if operation != Operation::Embeddings => {
            facts.stream = flag(cursor, "stream")?;
            return Ok(());
        }
        "service_tier" | "speed" | "inference_geo" => return tier(name, cursor, facts),
        _ => {}
    }
    match operation {
        Operation::ChatCompletions => chat_member(name, cursor, facts, measure),
        Operation::Messages => messages_member(name, cursor, facts, measure),
        Operation::Embeddings if name == "input" => {
            facts.input = true;
            measure.embedding(cursor)
        }
        Operation::Embeddings => Ok(cursor.skip().map(drop)?),
    }
}

fn chat_member(
    name: &str,
    cursor: &mut Cursor<'_>,
    facts: &mut Facts,
    measure: &mut Measure,
) -> Result<(), RequestError> {
    match name {
        "messages" => {
            facts.input = true;
            measure.messages(cursor)?;
        }
        "max_tokens" => facts.cap(cursor, "max_tokens")?,
        "max_completion_tokens" => facts.cap(cursor, "max_completion_tokens")?,
        "n" => facts.choices = whole(cursor, "n", 1, CHOICES_MAX)?,
        "temperature" => facts.temperature = number(cursor, name)?,
        "top_p" | "presence_penalty" | "frequency_penalty" => {
            number(cursor, name)?;
        }
        "stream_options" => facts.include_usage = stream_options(cursor)?,
        "tools" | "functions" => measure.tools(cursor, name)?,
        "web_search_options" => {
            if cursor.kind()? != Kind::Null {
                measure.note_server_tools();
            }
            cursor.skip()?;
        }
        "prediction" => {
            let span = cursor.skip()?;
            facts.extra_output = span.len() as u64;
        }
        _ if is_not_text(name) => {
            cursor.skip()?;
        }
        _ => measure.raw(cursor)?,
    }
    Ok(())
}

fn messages_member(
    name: &str,
    cursor: &mut Cursor<'_>,
    facts: &mut Facts,
    measure: &mut Measure,
) -> Result<(), RequestError> {
    match name {
        "messages" => {
            facts.input = true;
            measure.messages(cursor)?;
        }
        "system" => measure.system_prompt(cursor)?,
        "max_tokens" => facts.cap(cursor, "max_tokens")?,
        "temperature" => facts.temperature = number(cursor, name)?,
        "top_p" | "top_k" => {
            number(cursor, name)?;
        }
        "tools" => measure.tools(cursor, name)?,
        "metadata" => {
            if cursor.kind()? != Kind::Null {
                require(cursor, Kind::Object, name, "must be an object")?;
            }
            cursor.skip()?;
        }
        "mcp_servers" | "container" => {
            if cursor.kind()? != Kind::Null {
                measure.note_server_tools();
            }
            cursor.skip()?;
        }
        _ if is_not_text(name) => {
            cursor.skip()?;
        }
        _ => measure.raw(cursor)?,
    }
    Ok(())
}

/// Members that steer the provider and are never read by the model. Others count as text.
fn is_not_text(name: &str) -> bool {
    [
        "audio",
        "cache_control",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning_effort",
        "safety_identifier",
        "seed",
        "stop",
        "stop_sequences",
        "store",
        "thinking",
        "tool_choice",
        "function_call",
        "top_logprobs",
        "user",
        "verbosity",
    ]
    .contains(&name)
}

fn model(cursor: &mut Cursor<'_>) -> Result<String, RequestError> {
    require(cursor, Kind::String, "model", "must be a string")?;
    let text = cursor.string()?;
    match text.decoded().into_owned() {
        name if name.is_empty() => Err(RequestError::of("model", "model must not be empty")),
        name if name.len() > MODEL_BYTES_MAX => {
            let message = format!("model is longer than {MODEL_BYTES_MAX} bytes");
            Err(RequestError::of("model", message))
        }
        name => Ok(name),
    }
}

/// `true` or `false`; null is absent.
fn flag(cursor: &mut Cursor<'_>, name: &str) -> Result<bool, RequestError> {
    if !matches!(cursor.kind()?, Kind::Bool | Kind::Null) {
        return Err(RequestError::of(
            name,
            format!("{name} must be true or false"),
        ));
    }
    Ok(cursor.raw()? == "true")
}

/// Whether a number is there; null is absent.
fn number(cursor: &mut Cursor<'_>, name: &str) -> Result<bool, RequestError> {
    match cursor.kind()? {
        Kind::Number => cursor.skip().map(|_| true).map_err(RequestError::from),
        Kind::Null => cursor.skip().map(|_| false).map_err(RequestError::from),
        _ => Err(RequestError::of(name, format!("{name} must be a number"))),
    }
}

/// A whole number in a range, written without point or exponent; null is absent.
fn whole(
    cursor: &mut Cursor<'_>,
    name: &str,
    min: u64,
    max: u64,
) -> Result<Option<u64>, RequestError> {
    let text = cursor.raw()?;
    if text == "null" {
        return Ok(None);
    }
    match text.parse::<u64>() {
        Ok(value) if (min..=max).contains(&value) => Ok(Some(value)),
        _ => {
            let message = format!("{name} must be a whole number from {min} to {max}");
            Err(RequestError::of(name, message))
        }
    }
}

fn stream_options(cursor: &mut Cursor<'_>) -> Result<bool, RequestError> {
    if cursor.kind()? == Kind::Null {
        return Ok(cursor.skip().map(|_| false)?);
    }
    require(cursor, Kind::Object, "stream_options", "must be an object")?;
    let mut include = false;
    let mut open = cursor.object()?;
    while let Some(key) = cursor.key(&mut open)? {
        if key.is("include_usage") {
            include = flag(cursor, "stream_options.include_usage")?;
        } else {
            cursor.skip()?;
        }
    }
    Ok(include)
}

/// Notes a request for other than the standard service. `auto` leaves the choice to the operator's
/// own account, whose prices are the operator's card.
fn tier(name: &str, cursor: &mut Cursor<'_>, facts: &mut Facts) -> Result<(), RequestError> {
    let standard = match cursor.kind()? {
        Kind::Null => {
            cursor.skip()?;
            true
        }
        Kind::String => {
            let value = cursor.string()?.decoded();
            ["auto", "default", "standard", "standard_only", "global"].contains(&&*value)
        }
        _ => return Err(RequestError::of(name, format!("{name} must be a string"))),
    };
    if !standard {
        facts.priced_apart = match name {
            "service_tier" => Some("service_tier"),
            "speed" => Some("speed"),
            _ => Some("inference_geo"),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
