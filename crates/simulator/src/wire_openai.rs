//! The `OpenAI` wire: requests in, replies and stream frames out.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::answer::{Answer, Choice, Finish, Pieces, Tokens, ToolCall};
use crate::call::{
    BadRequest, Call, Format, Prefix, Thinking, Tool, ToolChoice, Wire, count, digest, stops,
    text_of, tokens,
};
use crate::directive::{Directives, OddUsage};
use crate::frame::{Frame, Part};
use crate::models::{Kind, Model};
use crate::script::Progress;

/// Creation time on every answer: a simulator has no need of a clock.
pub(crate) const CREATED_S: i64 = 1_793_491_200;
/// Tokens that one image costs, whatever its size.
const IMAGE_TOKENS: u64 = 85;
/// Shortest prompt that is cached unasked.
const CACHED_PROMPT_TOKENS: u64 = 1_024;
/// Alternatives of one request.
const CHOICES_MAX: u64 = 128;

/// Reads a chat completion request and takes the orders out of its last user message.
pub(crate) fn read(
    body: &Value,
    model: &'static Model,
    orders: &mut Directives,
) -> Result<Call, BadRequest> {
    let messages = body["messages"]
        .as_array()
        .filter(|messages| !messages.is_empty())
        .ok_or_else(|| BadRequest::at("messages", "Missing required parameter: 'messages'."))?;
    let choices = count(body, "n")?.unwrap_or(1);
    if !(1..=CHOICES_MAX).contains(&choices) {
        return Err(BadRequest::at(
            "n",
            format!("Invalid 'n': expected 1 to {CHOICES_MAX}."),
        ));
    }
    let mut call = Call {
        wire: Wire::OpenAi,
        model,
        stream: body["stream"].as_bool().unwrap_or(false),
        include_usage: body["stream_options"]["include_usage"]
            .as_bool()
            .unwrap_or(false),
        question: String::new(),
        images: 0,
        tool_results: Vec::new(),
        scripted: None,
        fingerprint: 0,
        tools: tools(body)?,
        tool_choice: tool_choice(&body["tool_choice"]),
        parallel: body["parallel_tool_calls"].as_bool().unwrap_or(true),
        choices,
        max_output: count(body, "max_completion_tokens")?.or(count(body, "max_tokens")?),
        stops: stops(&body["stop"]),
        format: format(&body["response_format"])?,
        logprobs: logprobs(body)?,
        thinking: thinking(body, model),
        input_tokens: 3 + tokens_of(&body["tools"]),
        prefixes: Vec::new(),
    };
    conversation(messages, &mut call, orders)?;
    Ok(call)
}

/// The whole answer as one JSON text.
pub(crate) fn reply(answer: &Answer, call: &Call, orders: &Directives, id: &str) -> Value {
    let ids = call.ids(id);
    let choices: Vec<Value> = answer
        .choices
        .iter()
        .enumerate()
        .map(|(index, choice)| {
            let mut message = json!({
                "role": "assistant",
                "content": content(choice),
                "refusal": null,
                "annotations": [],
            });
            if !choice.tool_calls.is_empty() {
                let calls = choice.tool_calls.iter().enumerate().map(|(n, tool)| tool_call(tool, &ids, index, n));
                message["tool_calls"] = calls.collect();
            }
            let logprobs = call.logprobs.map(|top| {
                let pieces = (0..choice.text.len()).map(|n| logprob(choice.text.piece(n), top));
                json!({"content": pieces.collect::<Vec<_>>(), "refusal": null})
            });
            json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish(&choice.finish)})
        })
        .collect();
    let mut reply = json!({
        "id": id,
        "object": "chat.completion",
        "created": CREATED_S,
        "model": call.model.name,
        "choices": choices,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    });
    if let Some(usage) = usage(&answer.usage, orders.odd_usage) {
        reply["usage"] = usage;
    }
    reply
}

/// The same answer as the frames of a stream, made one by one as they are asked for.
pub(crate) fn frames(
    answer: Answer,
    call: &Call,
    orders: &Directives,
    id: &str,
) -> impl Iterator<Item = Frame> + Send + use<> {
    let shape = Arc::new(Shape {
        id: id.to_owned(),
        ids: call.ids(id),
        model: call.model.name,
        include_usage: call.include_usage,
        logprobs: call.logprobs,
    });
    let odd = orders.odd_usage;
    let reported = if call.include_usage {
        usage(&answer.usage, odd)
    } else {
        None
    };
    let on_choices = odd == Some(OddUsage::OnChoices);
    let last = answer.choices.len().saturating_sub(1);
    let with_finish = if on_choices { reported.clone() } else { None };
    let per_choice = Arc::clone(&shape);
    let body = answer
        .choices
        .into_iter()
        .enumerate()
        .flat_map(move |(index, choice)| {
            let usage = if index == last {
                with_finish.clone()
            } else {
                None
            };
            choice_frames(&per_choice, index, choice, usage)
        });
    let tail = reported.filter(|_| !on_choices).map(|usage| {
        let mut chunk = shape.chunk(json!([]));
        chunk["usage"] = usage;
        Frame::data(Part::Usage, chunk.to_string())
    });
    body.chain(tail)
        .chain(std::iter::once(Frame::data(Part::End, "[DONE]".to_owned())))
}

/// The usage object, or `None` where it is to be missing.
pub(crate) fn usage(tokens: &Tokens, odd: Option<OddUsage>) -> Option<Value> {
    let prompt = tokens
        .input
        .saturating_add(tokens.cache_read)
        .saturating_add(tokens.cache_write);
    let mut usage = json!({
        "prompt_tokens": prompt,
        "completion_tokens": tokens.output,
        "total_tokens": prompt.saturating_add(tokens.output),
        "prompt_tokens_details": {"cached_tokens": tokens.cache_read, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    });
    let strange = match odd {
        Some(OddUsage::Missing) => return None,
        Some(OddUsage::Null) => return Some(Value::Null),
        Some(OddUsage::Zero) => {
            return Some(json!({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}));
        }
        Some(OddUsage::Negative) => json!(-5),
        Some(OddUsage::Text) => json!("12"),
        Some(OddUsage::Float) => json!(1.5),
        Some(OddUsage::Huge) => json!(1_u64 << 63),
        Some(OddUsage::OnChoices | OddUsage::DeltaOnly | OddUsage::DeltaOutput) | None => {
            return Some(usage);
        }
    };
    usage["completion_tokens"] = strange;
    Some(usage)
}

struct Shape {
    id: String,
    /// What ids of tool calls are made of.
    ids: String,
    model: &'static str,
    include_usage: bool,
    logprobs: Option<usize>,
}

impl Shape {
    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": CREATED_S,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulated",
            "choices": choices,
        });
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, part: Part, index: usize, delta: &Value, finish: Option<&str>) -> Frame {
        let mut choice =
            json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": finish});
        if let (Some(top), Some(text)) = (
            self.logprobs,
            delta["content"].as_str().filter(|text| !text.is_empty()),
        ) {
            choice["logprobs"] = json!({"content": [logprob(text, top)], "refusal": null});
        }
        Frame::data(part, self.chunk(json!([choice])).to_string())
    }
}

fn choice_frames(
    shape: &Arc<Shape>,
    index: usize,
    choice: Choice,
    usage: Option<Value>,
) -> impl Iterator<Item = Frame> + Send + use<> {
    let first = if choice.tool_calls.is_empty() {
        json!("")
    } else {
        Value::Null
    };
    let open = shape.delta(
        Part::Open,
        index,
        &json!({"role": "assistant", "content": first, "refusal": null}),
        None,
    );
    let mut finish = shape.delta(
        Part::Finish,
        index,
        &json!({}),
        Some(finish(&choice.finish)),
    );
    if let Some(usage) = usage {
        let mut chunk: Value = serde_json::from_str(&finish.data).unwrap_or_default();
        chunk["usage"] = usage;
        finish.data = chunk.to_string();
    }
    let pieces: Arc<Pieces> = Arc::clone(&choice.text);
    let for_text = Arc::clone(shape);
    let text = (0..pieces.len()).map(move |n| {
        for_text.delta(
            Part::Content,
            index,
            &json!({"content": pieces.piece(n)}),
            None,
        )
    });
    let for_tools = Arc::clone(shape);
    let tools = choice.tool_calls.into_iter().enumerate().flat_map(move |(n, tool)| {
        let arguments = Pieces::of(tool.arguments.clone());
        let mut head = tool_call(&ToolCall { arguments: String::new(), ..tool }, &for_tools.ids, index, n);
        head["index"] = json!(n);
        let mut frames = vec![for_tools.delta(Part::Open, index, &json!({"tool_calls": [head]}), None)];
        for k in 0..arguments.len() {
            let part = json!({"tool_calls": [{"index": n, "function": {"arguments": arguments.piece(k)}}]});
            frames.push(for_tools.delta(Part::Content, index, &part, None));
        }
        frames
    });
    std::iter::once(open)
        .chain(text)
        .chain(tools)
        .chain(std::iter::once(finish))
}

fn content(choice: &Choice) -> Value {
    if choice.tool_calls.is_empty() {
        json!(choice.text.text())
    } else {
        Value::Null
    }
}

fn tool_call(tool: &ToolCall, ids: &str, choice: usize, index: usize) -> Value {
    json!({
        "id": format!("call_sim_{ids}_{choice}_{index}"),
        "type": "function",
        "function": {"name": tool.name, "arguments": tool.arguments},
    })
}

fn finish(finish: &Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::StopSequence(_) => "stop",
        Finish::Length => "length",
        Finish::Tools => "tool_calls",
    }
}

fn logprob(token: &str, top: usize) -> Value {
    let entry = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let mut chosen = entry(token, -0.125);
    let alternatives = (0..top).map(|rank| match rank {
        0 => entry(token, -0.125),
        _ => entry(&format!(" alternative{rank}"), -2.0 - rank as f64),
    });
    chosen["top_logprobs"] = alternatives.collect();
    chosen
}

fn conversation(
    messages: &[Value],
    call: &mut Call,
    orders: &mut Directives,
) -> Result<(), BadRequest> {
    let mut open_calls: Vec<&str> = Vec::new();
    let mut progress = Progress::default();
    let mut seen = digest(0, call.model.name.as_bytes());
    for (index, message) in messages.iter().enumerate() {
        if index + 1 == messages.len() && call.input_tokens >= CACHED_PROMPT_TOKENS {
            let tokens = call.input_tokens / 128 * 128;
            call.prefixes.push(Prefix {
                digest: seen,
                tokens,
                one_hour: false,
            });
        }
        seen = digest(seen, message.to_string().as_bytes());
        let text = text_of(&message["content"]);
        call.input_tokens += 4 + tokens(&text) + tokens_of(&message["tool_calls"]);
        let role = message["role"].as_str().unwrap_or_default();
        if role != "tool" && !open_calls.is_empty() {
            return Err(unanswered(&open_calls));
        }
        match role {
            "user" => {
                let images = parts(message, "image_url");
                call.images += images;
                call.input_tokens += images as u64 * IMAGE_TOKENS;
                call.tool_results.clear();
                progress.said(&text);
                call.question = text;
            }
            "tool" => {
                let id = message["tool_call_id"].as_str().unwrap_or_default();
                let known = open_calls.len();
                open_calls.retain(|open| *open != id);
                if open_calls.len() == known {
                    return Err(BadRequest::at(
                        format!("messages.[{index}].role"),
                        "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
                    ));
                }
                call.tool_results.push(text);
            }
            "assistant" => {
                open_calls = message["tool_calls"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(id_of)
                    .collect();
                if !open_calls.is_empty() {
                    call.tool_results.clear();
                    progress.called();
                }
            }
            "system" | "developer" | "function" => {}
            other => {
                let param = format!("messages[{index}].role");
                return Err(BadRequest::at(param, format!("Invalid value: '{other}'.")));
            }
        }
    }
    if !open_calls.is_empty() {
        return Err(unanswered(&open_calls));
    }
    call.fingerprint = seen;
    call.question = crate::directive::take(&call.question, orders).map_err(BadRequest::new)?;
    call.scripted = progress.due(orders).map_err(BadRequest::new)?;
    Ok(())
}

fn unanswered(open: &[&str]) -> BadRequest {
    BadRequest::at(
        "messages",
        format!(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
             'tool_call_id'. The following tool_call_ids did not have response messages: {}",
            open.join(", ")
        ),
    )
}

fn id_of(call: &Value) -> Option<&str> {
    call["id"].as_str()
}

fn parts(message: &Value, kind: &str) -> usize {
    message["content"].as_array().map_or(0, |parts| {
        parts.iter().filter(|part| part["type"] == kind).count()
    })
}

fn tokens_of(value: &Value) -> u64 {
    if value.is_null() {
        0
    } else {
        tokens(&value.to_string())
    }
}

fn tools(body: &Value) -> Result<Vec<Tool>, BadRequest> {
    let mut tools = Vec::new();
    for (index, tool) in body["tools"].as_array().into_iter().flatten().enumerate() {
        let function = if tool["type"] == "custom" {
            &tool["custom"]
        } else {
            &tool["function"]
        };
        let name = function["name"].as_str().ok_or_else(|| {
            let param = format!("tools[{index}].function.name");
            BadRequest::at(
                param.clone(),
                format!("Missing required parameter: '{param}'."),
            )
        })?;
        tools.push(Tool {
            name: name.to_owned(),
            description: function["description"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            schema: function["parameters"].clone(),
        });
    }
    Ok(tools)
}

fn tool_choice(value: &Value) -> ToolChoice {
    match value {
        Value::String(word) if word == "none" => ToolChoice::None,
        Value::String(word) if word == "required" => ToolChoice::Required,
        Value::Object(choice) => choice
            .get("function")
            .and_then(|function| function["name"].as_str())
            .map_or(ToolChoice::Required, |name| {
                ToolChoice::Named(name.to_owned())
            }),
        _ => ToolChoice::Auto,
    }
}

fn format(value: &Value) -> Result<Format, BadRequest> {
    match value["type"].as_str() {
        None | Some("text") => Ok(Format::Text),
        Some("json_object") => Ok(Format::JsonObject),
        Some("json_schema") if value["json_schema"]["name"].is_string() => {
            Ok(Format::JsonSchema(value["json_schema"]["schema"].clone()))
        }
        Some("json_schema") => {
            let param = "response_format.json_schema.name";
            Err(BadRequest::at(
                param,
                format!("Missing required parameter: '{param}'."),
            ))
        }
        Some(other) => Err(BadRequest::at(
            "response_format.type",
            format!("Invalid value: '{other}'."),
        )),
    }
}

fn logprobs(body: &Value) -> Result<Option<usize>, BadRequest> {
    let top = count(body, "top_logprobs")?;
    match (body["logprobs"].as_bool().unwrap_or(false), top) {
        (false, Some(_)) => Err(BadRequest::at(
            "top_logprobs",
            "'top_logprobs' requires 'logprobs' to be true.",
        )),
        (false, None) => Ok(None),
        (true, top) => Ok(Some(usize::try_from(top.unwrap_or(0).min(20)).unwrap_or(0))),
    }
}

fn thinking(body: &Value, model: &Model) -> Thinking {
    if model.kind != Kind::Reasoning {
        return Thinking::Off;
    }
    match body["reasoning_effort"].as_str() {
        Some("none") => Thinking::Off,
        Some("minimal") => Thinking::Hidden(4),
        Some("low") => Thinking::Hidden(16),
        Some("high" | "xhigh") => Thinking::Hidden(256),
        _ => Thinking::Hidden(64),
    }
}
