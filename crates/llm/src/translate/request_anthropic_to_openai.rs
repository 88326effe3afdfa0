//! An Anthropic message request as an `OpenAI` chat completion request.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::members::{Members, Path, elements, is_object, is_string, string};
use super::request_wire::{
    CalledFunction, ChatBody, Content, Function, FunctionCall, FunctionChoice, FunctionName,
    FunctionTool, ImageUrl, JsonSchema, Message, Part, ResponseFormat, StreamOptions,
};
use super::{body_text, encoded, number_text};
use crate::dialect::Dialect;
use crate::request::{Request, RequestError};
use crate::splice::{Edits, OutputCapField};

const TO: Dialect = Dialect::OpenAi;

/// Members without a counterpart that may be given as long as they say what their absence means.
/// `null` always may. Everything else that translation does not know is refused by name.
pub(super) const DEFAULTS: &[(&str, &[&str])] = &[
    ("mcp_servers", &["[]"]),
    ("service_tier", &["\"auto\""]),
    ("speed", &["\"standard\""]),
    ("thinking", &[r#"{"type":"disabled"}"#]),
];

const TOOL_DEFAULTS: &[(&str, &[&str])] = &[
    ("allowed_callers", &["[\"direct\"]"]),
    ("defer_loading", &["false"]),
    ("eager_input_streaming", &["false"]),
];

/// What blocks of an earlier reply carry when they are sent back.
const TEXT_DEFAULTS: &[(&str, &[&str])] = &[("citations", &["[]"])];
const TOOL_USE_DEFAULTS: &[(&str, &[&str])] = &[("caller", &[r#"{"type":"direct"}"#])];

pub(super) fn translate(request: &Request, edits: &Edits<'_>) -> Result<Bytes, RequestError> {
    let root = Path::Root;
    let mut top = Members::of(body_text(request)?, &root)?;
    let model = top.need_text("model")?;
    top.take("max_tokens");
    let temperature = match (top.number("temperature")?, edits.temperature) {
        (Some((raw, _)), _) => Some(raw),
        (None, Some(text)) => Some(number_text(text, &Path::Name(&root, "temperature"))?.0),
        (None, None) => None,
    };
    let top_p = top.number("top_p")?.map(|(raw, _)| raw);
    let stop = stop(&mut top)?;
    let tools = tools(&mut top)?;
    let (tool_choice, parallel_tool_calls) = tool_choice(&mut top)?;
    let response_format = response_format(&mut top)?;
    let user = user(&mut top)?;
    let user = edits.user_tag.map(Cow::Borrowed).or(user);
    let stream = top.flag("stream")?.unwrap_or(false);
    let mut messages = Vec::new();
    messages.extend(edits.system_prompt.map(|text| Message::System {
        content: Content::Text(Cow::Borrowed(text)),
    }));
    if let Some(raw) = top.take("system") {
        messages.push(Message::System {
            content: text_content(raw, &Path::Name(&root, "system"))?,
        });
    }
    let turns = elements(top.need("messages")?, &Path::Name(&root, "messages"))?;
    let at = Path::Name(&root, "messages");
    for (index, turn) in turns.iter().enumerate() {
        message(
            Members::of(turn.get(), &Path::Index(&at, index))?,
            &mut messages,
        )?;
    }
    if matches!(messages.last(), Some(Message::Assistant { .. })) {
        let last = Path::Index(&at, turns.len().saturating_sub(1));
        let why = "must be user: an OpenAI provider does not continue the assistant's message";
        return Err(Path::Name(&last, "role").wrong(why));
    }
    top.finish(TO, DEFAULTS)?;
    let cap = edits.max_output.or(request.max_output());
    let (max_completion_tokens, max_tokens) = match edits.max_output_field {
        OutputCapField::MaxCompletionTokens => (cap, None),
        OutputCapField::MaxTokens => (None, cap),
    };
    encoded(&ChatBody {
        model: edits.model.unwrap_or(&model),
        messages,
        max_completion_tokens,
        max_tokens,
        tools,
        tool_choice,
        parallel_tool_calls,
        temperature,
        top_p,
        stop,
        response_format,
        user,
        stream,
        // The end of an Anthropic stream carries usage always.
        stream_options: stream.then_some(StreamOptions {
            include_usage: true,
        }),
    })
}

fn stop<'a>(top: &mut Members<'a, '_>) -> Result<Vec<&'a RawValue>, RequestError> {
    let path = Path::Name(top.path(), "stop_sequences");
    let Some(raw) = top.take("stop_sequences") else {
        return Ok(Vec::new());
    };
    let list = elements(raw, &path)?;
    match list.iter().position(|element| !is_string(element)) {
        Some(index) => Err(Path::Index(&path, index).wrong("must be a string")),
        None => Ok(list),
    }
}

fn tools<'a>(top: &mut Members<'a, '_>) -> Result<Vec<FunctionTool<'a>>, RequestError> {
    let path = Path::Name(top.path(), "tools");
    let Some(raw) = top.take("tools") else {
        return Ok(Vec::new());
    };
    let mut tools = Vec::new();
    for (index, raw) in elements(raw, &path)?.into_iter().enumerate() {
        let at = Path::Index(&path, index);
        let mut tool = Members::of(raw.get(), &at)?;
        if tool.text("type")?.is_some_and(|kind| kind != "custom") {
            return Err(Path::Name(&at, "type").refused(TO));
        }
        let function = Function {
            name: tool.need_text("name")?,
            description: tool.text("description")?,
            parameters: object(tool.need("input_schema")?, &Path::Name(&at, "input_schema"))?,
            strict: tool.flag("strict")?,
        };
        tool.finish(TO, TOOL_DEFAULTS)?;
        tools.push(FunctionTool {
            kind: "function",
            function,
        });
    }
    Ok(tools)
}

type Choice<'a> = (Option<FunctionChoice<'a>>, Option<bool>);

fn tool_choice<'a>(top: &mut Members<'a, '_>) -> Result<Choice<'a>, RequestError> {
    let path = Path::Name(top.path(), "tool_choice");
    let Some(raw) = top.take("tool_choice") else {
        return Ok((None, None));
    };
    let mut choice = Members::of(raw.get(), &path)?;
    let parallel = choice
        .flag("disable_parallel_tool_use")?
        .and_then(|single| single.then_some(false));
    let kind = choice.need_text("type")?;
    let wanted = match &*kind {
        "auto" => FunctionChoice::Mode("auto"),
        "any" => FunctionChoice::Mode("required"),
        "none" => FunctionChoice::Mode("none"),
        "tool" => FunctionChoice::Named {
            kind: "function",
            function: FunctionName {
                name: choice.need_text("name")?,
            },
        },
        _ => return Err(Path::Name(&path, "type").refused(TO)),
    };
    choice.finish(TO, &[])?;
    Ok((Some(wanted), parallel))
}

fn response_format<'a>(
    top: &mut Members<'a, '_>,
) -> Result<Option<ResponseFormat<'a>>, RequestError> {
    let path = Path::Name(top.path(), "output_config");
    let Some(raw) = top.take("output_config") else {
        return Ok(None);
    };
    let mut config = Members::of(raw.get(), &path)?;
    let format = config.take("format");
    config.finish(TO, &[])?;
    let Some(raw) = format else { return Ok(None) };
    let inside = Path::Name(&path, "format");
    let mut format = Members::of(raw.get(), &inside)?;
    if format.need_text("type")? != "json_schema" {
        return Err(Path::Name(&inside, "type").refused(TO));
    }
    let schema = object(format.need("schema")?, &Path::Name(&inside, "schema"))?;
    format.finish(TO, &[])?;
    // Anthropic holds the model to the schema, which OpenAI does only when it is told to; the name
    // is a label without which OpenAI refuses.
    let json_schema = JsonSchema {
        name: "response",
        schema,
        strict: true,
    };
    Ok(Some(ResponseFormat {
        kind: "json_schema",
        json_schema,
    }))
}

fn user<'a>(top: &mut Members<'a, '_>) -> Result<Option<Cow<'a, str>>, RequestError> {
    let path = Path::Name(top.path(), "metadata");
    let Some(raw) = top.take("metadata") else {
        return Ok(None);
    };
    let mut metadata = Members::of(raw.get(), &path)?;
    let user = metadata.text("user_id")?;
    metadata.finish(TO, &[])?;
    Ok(user)
}

fn object<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<&'a RawValue, RequestError> {
    if is_object(raw) {
        Ok(raw)
    } else {
        Err(path.wrong("must be an object"))
    }
}

fn message<'a>(mut turn: Members<'a, '_>, out: &mut Vec<Message<'a>>) -> Result<(), RequestError> {
    let path = turn.path();
    let role = turn.need_text("role")?;
    let content = turn.need("content")?;
    turn.finish(TO, &[])?;
    let at = Path::Name(path, "content");
    match &*role {
        "user" => user_turn(content, &at, out),
        "assistant" => assistant_turn(content, &at).map(|message| out.push(message)),
        "system" => text_content(content, &at).map(|content| out.push(Message::System { content })),
        _ => Err(Path::Name(path, "role").refused(TO)),
    }
}

/// Tool results become messages of their own; what the user says beside them follows.
fn user_turn<'a>(
    raw: &'a RawValue,
    path: &Path<'_>,
    out: &mut Vec<Message<'a>>,
) -> Result<(), RequestError> {
    if is_string(raw) {
        out.push(Message::User {
            content: Content::Text(string(raw, path)?),
        });
        return Ok(());
    }
    let mut parts = Vec::new();
    let mut answered = false;
    for (index, block) in elements(raw, path)?.into_iter().enumerate() {
        let at = Path::Index(path, index);
        let mut block = Members::of(block.get(), &at)?;
        match &*block.need_text("type")? {
            "text" => {
                parts.push(Part::Text {
                    text: block.need_text("text")?,
                });
                block.finish(TO, TEXT_DEFAULTS)?;
            }
            "image" => {
                let source = block.need("source")?;
                block.finish(TO, &[])?;
                parts.push(image(source, &Path::Name(&at, "source"))?);
            }
            // OpenAI wants the answers right behind the calls, and so does Anthropic.
            "tool_result" if parts.is_empty() => {
                out.push(tool_result(block)?);
                answered = true;
            }
            "tool_result" => return Err(at.wrong("must stand before text and images")),
            _ => return Err(Path::Name(&at, "type").refused(TO)),
        }
    }
    if !(answered && parts.is_empty()) {
        out.push(Message::User {
            content: short(parts),
        });
    }
    Ok(())
}

fn image<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Part<'a>, RequestError> {
    let mut source = Members::of(raw.get(), path)?;
    let url = match &*source.need_text("type")? {
        "base64" => {
            let media_type = source.need_text("media_type")?;
            let data = source.need_text("data")?;
            Cow::Owned(format!("data:{media_type};base64,{data}"))
        }
        "url" => source.need_text("url")?,
        _ => return Err(Path::Name(path, "type").refused(TO)),
    };
    source.finish(TO, &[])?;
    Ok(Part::ImageUrl {
        image_url: ImageUrl { url },
    })
}

fn tool_result<'a>(mut block: Members<'a, '_>) -> Result<Message<'a>, RequestError> {
    let path = block.path();
    let tool_call_id = block.need_text("tool_use_id")?;
    let failed = block.flag("is_error")?.unwrap_or(false);
    let mut content = match block.take("content") {
        Some(raw) => text_content(raw, &Path::Name(path, "content"))?,
        None => Content::Text(Cow::Borrowed("")),
    };
    block.finish(TO, &[])?;
    if failed {
        mark_failed(&mut content);
    }
    Ok(Message::Tool {
        tool_call_id,
        content,
    })
}

/// `OpenAI` has no flag for a failed tool: the text says it.
fn mark_failed(content: &mut Content<'_, Part<'_>>) {
    const MARK: &str = "Error: ";
    match content {
        Content::Text(text) => *text = Cow::Owned(format!("{MARK}{text}")),
        Content::Parts(parts) => match parts.first_mut() {
            Some(Part::Text { text }) => *text = Cow::Owned(format!("{MARK}{text}")),
            _ => parts.insert(
                0,
                Part::Text {
                    text: Cow::Borrowed(MARK),
                },
            ),
        },
    }
}

fn assistant_turn<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Message<'a>, RequestError> {
    let mut parts = Vec::new();
    let mut reasoning: Option<Cow<'a, str>> = None;
    let mut tool_calls = Vec::new();
    if is_string(raw) {
        parts.push(Part::Text {
            text: string(raw, path)?,
        });
        return Ok(Message::Assistant {
            content: Some(short(parts)),
            reasoning_content: None,
            tool_calls,
        });
    }
    for (index, block) in elements(raw, path)?.into_iter().enumerate() {
        let at = Path::Index(path, index);
        let mut block = Members::of(block.get(), &at)?;
        match &*block.need_text("type")? {
            "text" => {
                parts.push(Part::Text {
                    text: block.need_text("text")?,
                });
                block.finish(TO, TEXT_DEFAULTS)?;
            }
            "tool_use" => tool_calls.push(tool_call(block)?),
            "thinking" => {
                let thought = thinking(block)?;
                match &mut reasoning {
                    Some(earlier) => earlier.to_mut().push_str(&thought),
                    None => reasoning = Some(thought),
                }
            }
            _ => return Err(Path::Name(&at, "type").refused(TO)),
        }
    }
    let content = (!parts.is_empty() || tool_calls.is_empty()).then(|| short(parts));
    Ok(Message::Assistant {
        content,
        reasoning_content: reasoning,
        tool_calls,
    })
}

fn tool_call<'a>(mut block: Members<'a, '_>) -> Result<FunctionCall<'a>, RequestError> {
    let path = block.path();
    let id = block.need_text("id")?;
    let name = block.need_text("name")?;
    let arguments = object(block.need("input")?, &Path::Name(path, "input"))?.get();
    block.finish(TO, TOOL_USE_DEFAULTS)?;
    Ok(FunctionCall {
        id,
        kind: "function",
        function: CalledFunction { name, arguments },
    })
}

/// A thought without signature came from a provider of the `OpenAI` dialect and goes back to it as
/// it came. A signature is another provider's seal and means nothing there.
fn thinking<'a>(mut block: Members<'a, '_>) -> Result<Cow<'a, str>, RequestError> {
    let path = block.path();
    let thought = block.need_text("thinking")?;
    if block
        .text("signature")?
        .is_some_and(|signature| !signature.is_empty())
    {
        return Err(Path::Name(path, "signature").refused(TO));
    }
    block.finish(TO, &[])?;
    Ok(thought)
}

/// Content that may hold text only.
fn text_content<'a>(
    raw: &'a RawValue,
    path: &Path<'_>,
) -> Result<Content<'a, Part<'a>>, RequestError> {
    if is_string(raw) {
        return string(raw, path).map(Content::Text);
    }
    let mut parts = Vec::new();
    for (index, block) in elements(raw, path)?.into_iter().enumerate() {
        let at = Path::Index(path, index);
        let mut block = Members::of(block.get(), &at)?;
        if block.need_text("type")? != "text" {
            return Err(Path::Name(&at, "type").refused(TO));
        }
        parts.push(Part::Text {
            text: block.need_text("text")?,
        });
        block.finish(TO, TEXT_DEFAULTS)?;
    }
    Ok(short(parts))
}

/// A single text, or none, in the short form that every compatible server takes.
fn short<'a>(mut parts: Vec<Part<'a>>) -> Content<'a, Part<'a>> {
    match (parts.pop(), parts.is_empty()) {
        (None, _) => Content::Text(Cow::Borrowed("")),
        (Some(Part::Text { text }), true) => Content::Text(text),
        (Some(last), _) => {
            parts.push(last);
            Content::Parts(parts)
        }
    }
}
