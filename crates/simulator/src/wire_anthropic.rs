//! The Anthropic wire: requests in, replies and stream frames out.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::answer::{Answer, Choice, Finish, Pieces, Tokens};
use crate::call::{
    BadRequest, Call, Format, Prefix, Thinking, Tool, ToolChoice, Wire, count, digest, stops,
    text_of, tokens,
};
use crate::directive::{Directives, OddUsage};
use crate::frame::{Frame, Part};
use crate::models::Model;
use crate::script::{self, Progress};

/// Tokens that one image costs, whatever its size.
const IMAGE_TOKENS: u64 = 85;
/// Smallest thinking budget that is accepted.
const THINKING_BUDGET_MIN: u64 = 1_024;

/// Reads a messages request and takes the orders out of its last user message. `counting` is
/// `count_tokens`, which has no `max_tokens`.
pub(crate) fn read(
    body: &Value,
    model: &'static Model,
    orders: &mut Directives,
    counting: bool,
) -> Result<Call, BadRequest> {
    let messages = body["messages"]
        .as_array()
        .filter(|messages| !messages.is_empty())
        .ok_or_else(|| BadRequest::new("messages: at least one message is required"))?;
    let max_output = count(body, "max_tokens")?;
    if !counting && max_output.is_none_or(|most| most == 0) {
        return Err(BadRequest::new("max_tokens: Field required"));
    }
    let mut call = Call {
        wire: Wire::Anthropic,
        model,
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: true,
        question: String::new(),
        images: 0,
        tool_results: Vec::new(),
        scripted: None,
        fingerprint: 0,
        tools: tools(body)?,
        tool_choice: tool_choice(&body["tool_choice"]),
        parallel: !body["tool_choice"]["disable_parallel_tool_use"]
            .as_bool()
            .unwrap_or(false),
        choices: 1,
        max_output,
        stops: stops(&body["stop_sequences"]),
        format: format(body),
        logprobs: None,
        thinking: thinking(body, max_output)?,
        input_tokens: 3,
        prefixes: Vec::new(),
    };
    cacheable(body, messages, &mut call);
    conversation(messages, &mut call, orders)?;
    Ok(call)
}

/// The whole answer as one JSON text.
pub(crate) fn reply(answer: &Answer, call: &Call, orders: &Directives, id: &str) -> Value {
    let mut content = Vec::new();
    if answer.thinking.len() > 0 {
        let thinking = answer.thinking.text();
        content.push(
            json!({"type": "thinking", "thinking": thinking, "signature": signature(thinking)}),
        );
    }
    let ids = call.ids(id);
    let choice = answer.choices.first();
    if let Some(choice) = choice {
        if choice.text.len() > 0 {
            content.push(json!({"type": "text", "text": choice.text.text()}));
        }
        for (index, tool) in choice.tool_calls.iter().enumerate() {
            // A model that writes no JSON: there is no other place for its words.
            let input: Value =
                serde_json::from_str(&tool.arguments).unwrap_or_else(|_| json!(tool.arguments));
            content.push(json!({"type": "tool_use", "id": tool_id(&ids, index), "name": tool.name, "input": input}));
        }
    }
    let (reason, sequence) = stop_reason(choice);
    let mut reply = json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": call.model.name,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": sequence,
    });
    if let Some(usage) = usage(&answer.usage, orders.odd_usage) {
        reply["usage"] = usage;
    }
    reply
}

/// The same answer as the frames of a stream.
pub(crate) fn frames(
    answer: Answer,
    call: &Call,
    orders: &Directives,
    id: &str,
) -> impl Iterator<Item = Frame> + Send + use<> {
    let odd = orders.odd_usage;
    let (reason, sequence) = stop_reason(answer.choices.first());
    let start = start_frame(&answer.usage, call, odd, id);
    let mut end = json!({
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
    });
    if let Some(mut usage) = usage(&answer.usage, odd) {
        if odd == Some(OddUsage::DeltaOutput) {
            usage = json!({"output_tokens": answer.usage.output});
        }
        end["usage"] = usage;
    }
    let thinking = Arc::clone(&answer.thinking);
    let shift = usize::from(thinking.len() > 0);
    let signed = signature(thinking.text());
    let thought = (shift == 1).then(|| {
        let opening = json!({"type": "thinking", "thinking": "", "signature": ""});
        let signing = json!({"type": "signature_delta", "signature": signed});
        let pieces = deltas(
            0,
            thinking,
            |text| json!({"type": "thinking_delta", "thinking": text}),
        );
        let signing = delta(Part::Open, 0, &signing);
        block(0, &opening, pieces.chain(std::iter::once(signing)))
    });
    let choice = answer.choices.into_iter().next();
    let text = choice
        .as_ref()
        .map(|choice| Arc::clone(&choice.text))
        .filter(|text| text.len() > 0);
    let tools_from = shift + usize::from(text.is_some());
    let spoken = text.map(|text| {
        let pieces = deltas(
            shift,
            text,
            |text| json!({"type": "text_delta", "text": text}),
        );
        block(shift, &json!({"type": "text", "text": ""}), pieces)
    });
    let ids = call.ids(id);
    let calls = choice.map(|choice| choice.tool_calls).unwrap_or_default();
    let called = calls.into_iter().enumerate().flat_map(move |(n, tool)| {
        let opening =
            json!({"type": "tool_use", "id": tool_id(&ids, n), "name": tool.name, "input": {}});
        let arguments = Arc::new(Pieces::of(tool.arguments));
        let pieces = deltas(
            tools_from + n,
            arguments,
            |text| json!({"type": "input_json_delta", "partial_json": text}),
        );
        block(tools_from + n, &opening, pieces)
    });
    let ping = Frame::event(Part::Open, "ping", json!({"type": "ping"}).to_string());
    [start, ping]
        .into_iter()
        .chain(thought.into_iter().flatten())
        .chain(spoken.into_iter().flatten())
        .chain(called)
        .chain([
            Frame::event(Part::Finish, "message_delta", end.to_string()),
            Frame::event(
                Part::End,
                "message_stop",
                json!({"type": "message_stop"}).to_string(),
            ),
        ])
}

/// The usage object, or `None` where it is to be missing.
pub(crate) fn usage(tokens: &Tokens, odd: Option<OddUsage>) -> Option<Value> {
    let mut usage = json!({
        "input_tokens": tokens.input,
        "cache_creation_input_tokens": tokens.cache_write.saturating_add(tokens.cache_write_1h),
        "cache_read_input_tokens": tokens.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": tokens.cache_write,
            "ephemeral_1h_input_tokens": tokens.cache_write_1h,
        },
        "output_tokens": tokens.output,
        "service_tier": "standard",
    });
    let strange = match odd {
        Some(OddUsage::Missing) => return None,
        Some(OddUsage::Null) => return Some(Value::Null),
        Some(OddUsage::Zero) => return Some(json!({"input_tokens": 0, "output_tokens": 0})),
        Some(OddUsage::Negative) => json!(-5),
        Some(OddUsage::Text) => json!("12"),
        Some(OddUsage::Float) => json!(1.5),
        Some(OddUsage::Huge) => json!(1_u64 << 63),
        Some(OddUsage::OnChoices | OddUsage::DeltaOnly | OddUsage::DeltaOutput) | None => {
            return Some(usage);
        }
    };
    usage["output_tokens"] = strange;
    Some(usage)
}

fn start_frame(tokens: &Tokens, call: &Call, odd: Option<OddUsage>, id: &str) -> Frame {
    let at_start = match odd {
        Some(OddUsage::DeltaOnly) => usage(&Tokens::default(), None),
        _ => usage(
            &Tokens {
                output: 1.min(tokens.output),
                ..*tokens
            },
            odd,
        ),
    };
    let mut message = json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": call.model.name,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
    });
    if let Some(usage) = at_start {
        message["usage"] = usage;
    }
    Frame::event(
        Part::Open,
        "message_start",
        json!({"type": "message_start", "message": message}).to_string(),
    )
}

fn block<I: Iterator<Item = Frame> + Send>(
    index: usize,
    opening: &Value,
    inside: I,
) -> impl Iterator<Item = Frame> + Send + use<I> {
    let start = json!({"type": "content_block_start", "index": index, "content_block": opening});
    let stop = json!({"type": "content_block_stop", "index": index});
    std::iter::once(Frame::event(
        Part::Open,
        "content_block_start",
        start.to_string(),
    ))
    .chain(inside)
    .chain(std::iter::once(Frame::event(
        Part::Open,
        "content_block_stop",
        stop.to_string(),
    )))
}

fn deltas(
    index: usize,
    pieces: Arc<Pieces>,
    shape: impl Fn(&str) -> Value + Send,
) -> impl Iterator<Item = Frame> + Send {
    (0..pieces.len()).map(move |n| delta(Part::Content, index, &shape(pieces.piece(n))))
}

fn delta(part: Part, index: usize, delta: &Value) -> Frame {
    let data = json!({"type": "content_block_delta", "index": index, "delta": delta});
    Frame::event(part, "content_block_delta", data.to_string())
}

fn stop_reason(choice: Option<&Choice>) -> (&'static str, Option<&str>) {
    match choice.map(|choice| &choice.finish) {
        Some(Finish::Stop) | None => ("end_turn", None),
        Some(Finish::Length) => ("max_tokens", None),
        Some(Finish::Tools) => ("tool_use", None),
        Some(Finish::StopSequence(stop)) => ("stop_sequence", Some(stop)),
    }
}

fn tool_id(ids: &str, index: usize) -> String {
    format!("toolu_sim_{ids}_{index}")
}

/// What the real provider would sign: it comes back with the block and is checked.
fn signature(thinking: &str) -> String {
    STANDARD.encode(format!(
        "simulated-signature-{:016x}",
        digest(7, thinking.as_bytes())
    ))
}

fn conversation(
    messages: &[Value],
    call: &mut Call,
    orders: &mut Directives,
) -> Result<(), BadRequest> {
    let mut open_calls: Vec<&str> = Vec::new();
    let mut progress = Progress::default();
    for (index, message) in messages.iter().enumerate() {
        let blocks = message["content"].as_array().map_or(&[][..], Vec::as_slice);
        let of_kind = |kind: &'static str| blocks.iter().filter(move |block| block["type"] == kind);
        match message["role"].as_str() {
            Some("user") => {
                let mut answered = 0;
                for result in of_kind("tool_result") {
                    let id = result["tool_use_id"].as_str().unwrap_or_default();
                    let known = open_calls.len();
                    open_calls.retain(|open| *open != id);
                    if open_calls.len() == known {
                        return Err(BadRequest::new(format!(
                            "messages.{index}.content: unexpected `tool_use_id` found in `tool_result` blocks: {id}"
                        )));
                    }
                    answered += 1;
                    call.tool_results.push(text_of(&result["content"]));
                }
                if !open_calls.is_empty() {
                    return Err(unanswered(index, &open_calls));
                }
                call.images += of_kind("image").count();
                let text = text_of(&message["content"]);
                if answered == 0 || script::carries(&text) {
                    call.tool_results.clear();
                    progress.said(&text);
                    call.question = text;
                }
            }
            Some("assistant") => {
                open_calls = of_kind("tool_use")
                    .filter_map(|block| block["id"].as_str())
                    .collect();
                if !open_calls.is_empty() {
                    call.tool_results.clear();
                    progress.called();
                }
                for (at, block) in of_kind("thinking").enumerate() {
                    let thinking = block["thinking"].as_str().unwrap_or_default();
                    if block["signature"] != signature(thinking).as_str() {
                        return Err(BadRequest::new(format!(
                            "messages.{index}.content.{at}: Invalid `signature` in `thinking` block"
                        )));
                    }
                }
            }
            _ => {
                return Err(BadRequest::new(format!(
                    "messages.{index}.role: Input should be 'user' or 'assistant'"
                )));
            }
        }
    }
    if !open_calls.is_empty() {
        return Err(unanswered(messages.len(), &open_calls));
    }
    call.question = crate::directive::take(&call.question, orders).map_err(BadRequest::new)?;
    call.scripted = progress.due(orders).map_err(BadRequest::new)?;
    Ok(())
}

fn unanswered(index: usize, open: &[&str]) -> BadRequest {
    BadRequest::new(format!(
        "messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {}",
        open.join(", ")
    ))
}

/// Counts the prompt block by block and notes each place that asks to be cached.
fn cacheable(body: &Value, messages: &[Value], call: &mut Call) {
    let tools = body["tools"].as_array().into_iter().flatten();
    let system = match &body["system"] {
        Value::Array(blocks) => blocks.iter().collect(),
        Value::Null => Vec::new(),
        text => vec![text],
    };
    let said = messages
        .iter()
        .flat_map(|message| match &message["content"] {
            Value::Array(blocks) => blocks.iter().collect(),
            text => vec![text],
        });
    let mut seen = digest(1, call.model.name.as_bytes());
    call.input_tokens += 4 * messages.len() as u64;
    for block in tools.chain(system).chain(said) {
        let mut bare = block.clone();
        let mark = bare
            .as_object_mut()
            .and_then(|object| object.remove("cache_control"));
        call.input_tokens += match (
            block["type"].as_str(),
            block.as_str().or(block["text"].as_str()),
        ) {
            (Some("image"), _) => IMAGE_TOKENS,
            (_, Some(text)) => tokens(text),
            _ => tokens(&bare.to_string()),
        };
        seen = digest(seen, bare.to_string().as_bytes());
        if let Some(mark) = mark.filter(|mark| !mark.is_null()) {
            let one_hour = mark["ttl"] == "1h";
            call.prefixes.push(Prefix {
                digest: seen,
                tokens: call.input_tokens,
                one_hour,
            });
        }
    }
    call.fingerprint = seen;
}

fn tools(body: &Value) -> Result<Vec<Tool>, BadRequest> {
    let mut tools = Vec::new();
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        let name = tool["name"]
            .as_str()
            .ok_or_else(|| BadRequest::new(format!("tools.{index}.custom.name: Field required")))?;
        tools.push(Tool {
            name: name.to_owned(),
            description: tool["description"].as_str().unwrap_or_default().to_owned(),
            schema: tool["input_schema"].clone(),
        });
    }
    Ok(tools)
}

fn tool_choice(value: &Value) -> ToolChoice {
    match value["type"].as_str() {
        Some("none") => ToolChoice::None,
        Some("any") => ToolChoice::Required,
        Some("tool") => ToolChoice::Named(value["name"].as_str().unwrap_or_default().to_owned()),
        _ => ToolChoice::Auto,
    }
}

fn format(body: &Value) -> Format {
    let asked = if body["output_config"]["format"].is_object() {
        &body["output_config"]["format"]
    } else {
        &body["output_format"]
    };
    match asked["type"].as_str() {
        Some("json_schema") => Format::JsonSchema(asked["schema"].clone()),
        _ => Format::Text,
    }
}

fn thinking(body: &Value, max_output: Option<u64>) -> Result<Thinking, BadRequest> {
    let asked = &body["thinking"];
    match asked["type"].as_str() {
        Some("enabled") => {
            let budget = asked["budget_tokens"].as_u64().unwrap_or(0);
            if budget < THINKING_BUDGET_MIN {
                return Err(BadRequest::new(
                    "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024",
                ));
            }
            if max_output.is_some_and(|most| most <= budget) {
                return Err(BadRequest::new(
                    "`max_tokens` must be greater than `thinking.budget_tokens`",
                ));
            }
            Ok(Thinking::Shown(budget))
        }
        Some("adaptive") => Ok(Thinking::Shown(THINKING_BUDGET_MIN)),
        _ => Ok(Thinking::Off),
    }
}
