//! An `OpenAI` chat completion request as an Anthropic message request.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::members::{Members, Path, elements, is_object, is_string, string};
use super::request_wire::{
    Block, Content, ImageSource, MessagesBody, Metadata, OutputConfig, OutputFormat, Tool,
    ToolChoice, Turn,
};
use super::{body_text, encoded, number_text};
use crate::dialect::Dialect;
use crate::request::{Request, RequestError};
use crate::splice::Edits;

const TO: Dialect = Dialect::Anthropic;

/// Members without a counterpart that may be given as long as they say what their absence means.
/// `null` always may. Everything else that translation does not know is refused by name.
pub(super) const DEFAULTS: &[(&str, &[&str])] = &[
    ("frequency_penalty", &["0"]),
    ("function_call", &["\"none\""]),
    ("functions", &["[]"]),
    ("logit_bias", &["{}"]),
    ("logprobs", &["false"]),
    ("metadata", &["{}"]),
    ("modalities", &["[\"text\"]"]),
    ("n", &["1"]),
    ("presence_penalty", &["0"]),
    ("service_tier", &["\"auto\""]),
    ("store", &["false"]),
    ("top_logprobs", &["0"]),
    ("verbosity", &["\"medium\""]),
];

/// What an assistant message of an earlier reply carries without a counterpart. `reasoning_content`
/// and `reasoning` are the listed loss: see the module documentation of `translate`.
const MESSAGE_DEFAULTS: &[(&str, &[&str])] = &[("annotations", &["[]"])];

pub(super) fn translate(request: &Request, edits: &Edits<'_>) -> Result<Bytes, RequestError> {
    let root = Path::Root;
    let mut top = Members::of(body_text(request)?, &root)?;
    let model = top.need_text("model")?;
    let cap = cap(&mut top, request, edits)?;
    let (temperature, top_p) = sampling(&mut top, edits)?;
    let stop_sequences = stop(&mut top)?;
    let tools = tools(&mut top)?;
    let tool_choice = tool_choice(&mut top, !tools.is_empty())?;
    let output_config = output_config(&mut top)?;
    let user = top.text("user")?;
    let user = edits.user_tag.map(Cow::Borrowed).or(user);
    let stream = top.flag("stream")?.unwrap_or(false);
    stream_options(&mut top)?;
    let mut conversation = Conversation::default();
    conversation.system.extend(
        edits
            .system_prompt
            .map(|text| Block::from(Cow::Borrowed(text))),
    );
    let messages = elements(top.need("messages")?, &Path::Name(&root, "messages"))?;
    let at = Path::Name(&root, "messages");
    for (index, message) in messages.iter().enumerate() {
        conversation.message(Members::of(message.get(), &Path::Index(&at, index))?)?;
    }
    conversation.system.retain(speaks);
    if conversation
        .turns
        .last()
        .is_some_and(|turn| turn.role == "assistant")
    {
        let last = Path::Index(&at, messages.len().saturating_sub(1));
        let why =
            "must be user or tool: an Anthropic provider would continue the assistant's message";
        return Err(Path::Name(&last, "role").wrong(why));
    }
    top.finish(TO, DEFAULTS)?;
    encoded(&MessagesBody {
        model: edits.model.unwrap_or(&model),
        max_tokens: cap,
        system: short(conversation.system),
        messages: conversation.turns,
        tools,
        tool_choice,
        temperature,
        top_p,
        stop_sequences,
        output_config,
        metadata: user.map(|user_id| Metadata { user_id }),
        stream,
    })
}

/// Anthropic wants a cap with every request.
fn cap(
    top: &mut Members<'_, '_>,
    request: &Request,
    edits: &Edits<'_>,
) -> Result<u64, RequestError> {
    let path = top.path();
    top.take("max_tokens");
    top.take("max_completion_tokens");
    edits.max_output.or(request.max_output()).ok_or_else(|| {
        Path::Name(path, "max_tokens").wrong("is required for an Anthropic provider")
    })
}

type Number<'a> = Option<&'a RawValue>;

fn sampling<'a>(
    top: &mut Members<'a, '_>,
    edits: &Edits<'a>,
) -> Result<(Number<'a>, Number<'a>), RequestError> {
    let at = Path::Name(top.path(), "temperature");
    let temperature = match (top.number("temperature")?, edits.temperature) {
        (Some(given), _) => Some(given),
        (None, Some(text)) => Some(number_text(text, &at)?),
        (None, None) => None,
    };
    if temperature.is_some_and(|(_, value)| !(0.0..=1.0).contains(&value)) {
        return Err(at.wrong("must be between 0 and 1 for an Anthropic provider"));
    }
    let top_p = top.number("top_p")?;
    Ok((temperature.map(|(raw, _)| raw), top_p.map(|(raw, _)| raw)))
}

fn stop<'a>(top: &mut Members<'a, '_>) -> Result<Vec<&'a RawValue>, RequestError> {
    let path = Path::Name(top.path(), "stop");
    let Some(raw) = top.take("stop") else {
        return Ok(Vec::new());
    };
    if is_string(raw) {
        return Ok(vec![raw]);
    }
    let list = elements(raw, &path)?;
    match list.iter().position(|element| !is_string(element)) {
        Some(index) => Err(Path::Index(&path, index).wrong("must be a string")),
        None => Ok(list),
    }
}

fn stream_options(top: &mut Members<'_, '_>) -> Result<(), RequestError> {
    let path = Path::Name(top.path(), "stream_options");
    let Some(raw) = top.take("stream_options") else {
        return Ok(());
    };
    let mut options = Members::of(raw.get(), &path)?;
    // Read by `Request::include_usage`; the reply is written accordingly.
    options.flag("include_usage")?;
    options.finish(TO, &[("include_obfuscation", &["false"])])
}

fn tools<'a>(top: &mut Members<'a, '_>) -> Result<Vec<Tool<'a>>, RequestError> {
    let path = Path::Name(top.path(), "tools");
    let Some(raw) = top.take("tools") else {
        return Ok(Vec::new());
    };
    let mut tools = Vec::new();
    for (index, raw) in elements(raw, &path)?.into_iter().enumerate() {
        let at = Path::Index(&path, index);
        let mut outer = Members::of(raw.get(), &at)?;
        only_function(&mut outer)?;
        let function = outer.need("function")?;
        outer.finish(TO, &[])?;
        let inside = Path::Name(&at, "function");
        let mut function = Members::of(function.get(), &inside)?;
        tools.push(Tool {
            name: function.need_text("name")?,
            description: function.text("description")?,
            input_schema: input_schema(
                function.take("parameters"),
                &Path::Name(&inside, "parameters"),
            )?,
            strict: function.flag("strict")?,
        });
        function.finish(TO, &[])?;
    }
    Ok(tools)
}

/// `OpenAI` reads absent and empty parameters as "none"; Anthropic wants that spelt out.
fn input_schema<'a>(
    given: Option<&'a RawValue>,
    path: &Path<'_>,
) -> Result<Cow<'a, RawValue>, RequestError> {
    const NO_PARAMETERS: &str = r#"{"type":"object","properties":{}}"#;
    match given {
        Some(raw) if !is_object(raw) => Err(path.wrong("must be an object")),
        // An object without a colon has no member.
        Some(raw) if raw.get().contains(':') => Ok(Cow::Borrowed(raw)),
        _ => match serde_json::from_str(NO_PARAMETERS) {
            Ok(raw) => Ok(Cow::Borrowed(raw)),
            Err(_) => Err(path.wrong("must be an object")),
        },
    }
}

fn only_function(members: &mut Members<'_, '_>) -> Result<(), RequestError> {
    let path = members.path();
    match members.text("type")?.as_deref() {
        None | Some("function") => Ok(()),
        Some(_) => Err(Path::Name(path, "type").refused(TO)),
    }
}

fn tool_choice<'a>(
    top: &mut Members<'a, '_>,
    tools: bool,
) -> Result<Option<ToolChoice<'a>>, RequestError> {
    let parallel = Path::Name(top.path(), "parallel_tool_calls");
    let path = Path::Name(top.path(), "tool_choice");
    let single = top.flag("parallel_tool_calls")? == Some(false);
    let plain = |kind| ToolChoice {
        kind,
        name: None,
        disable_parallel_tool_use: single,
    };
    let Some(raw) = top.take("tool_choice") else {
        return match (single, tools) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(plain("auto"))),
            (true, false) => Err(parallel.wrong("is only allowed when tools are given")),
        };
    };
    if is_string(raw) {
        return match &*string(raw, &path)? {
            "auto" => Ok(Some(plain("auto"))),
            "required" => Ok(Some(plain("any"))),
            // No call at all is no parallel call either.
            "none" => Ok(Some(ToolChoice {
                kind: "none",
                name: None,
                disable_parallel_tool_use: false,
            })),
            _ => Err(path.refused(TO)),
        };
    }
    let mut choice = Members::of(raw.get(), &path)?;
    only_function(&mut choice)?;
    let function = choice.need("function")?;
    choice.finish(TO, &[])?;
    let inside = Path::Name(&path, "function");
    let mut function = Members::of(function.get(), &inside)?;
    let name = function.need_text("name")?;
    function.finish(TO, &[])?;
    Ok(Some(ToolChoice {
        kind: "tool",
        name: Some(name),
        disable_parallel_tool_use: single,
    }))
}

fn output_config<'a>(top: &mut Members<'a, '_>) -> Result<Option<OutputConfig<'a>>, RequestError> {
    let path = Path::Name(top.path(), "response_format");
    let Some(raw) = top.take("response_format") else {
        return Ok(None);
    };
    let mut format = Members::of(raw.get(), &path)?;
    match &*format.need_text("type")? {
        "text" => format.finish(TO, &[]).map(|()| None),
        "json_schema" => {
            let inside = Path::Name(&path, "json_schema");
            let mut schema = Members::of(format.need("json_schema")?.get(), &inside)?;
            // A label that OpenAI insists on, and a promise that Anthropic always makes.
            schema.text("name")?;
            schema.flag("strict")?;
            let body = schema.need("schema")?;
            schema.finish(TO, &[])?;
            format.finish(TO, &[])?;
            Ok(Some(OutputConfig {
                format: OutputFormat {
                    kind: "json_schema",
                    schema: body,
                },
            }))
        }
        _ => Err(Path::Name(&path, "type").refused(TO)),
    }
}

#[derive(Default)]
struct Conversation<'a> {
    system: Vec<Block<'a>>,
    turns: Vec<Turn<'a>>,
    /// The last turn answers tool calls: what the user says next belongs into the same turn.
    answering: bool,
}

impl<'a> Conversation<'a> {
    fn message(&mut self, mut message: Members<'a, '_>) -> Result<(), RequestError> {
        let role = message.need_text("role")?;
        match &*role {
            "system" | "developer" => {
                let path = message.path();
                let content = content(
                    message.need("content")?,
                    &Path::Name(path, "content"),
                    Inside::Text,
                )?;
                self.system.extend(content.into_parts());
                message.finish(TO, &[])
            }
            "user" => {
                let path = message.path();
                let content = content(
                    message.need("content")?,
                    &Path::Name(path, "content"),
                    Inside::User,
                )?;
                message.finish(TO, &[])?;
                self.user(content);
                Ok(())
            }
            "tool" => {
                let path = message.path();
                let tool_use_id = message.need_text("tool_call_id")?;
                let content = content(
                    message.need("content")?,
                    &Path::Name(path, "content"),
                    Inside::Text,
                )?;
                message.finish(TO, &[])?;
                self.answer(Block::ToolResult {
                    tool_use_id,
                    content,
                });
                Ok(())
            }
            "assistant" => {
                let content = assistant(message)?;
                self.answering = false;
                self.turns.push(Turn {
                    role: "assistant",
                    content,
                });
                Ok(())
            }
            _ => Err(Path::Name(message.path(), "role").refused(TO)),
        }
    }

    fn user(&mut self, content: Content<'a, Block<'a>>) {
        if let (
            true,
            Some(Turn {
                content: Content::Parts(blocks),
                ..
            }),
        ) = (self.answering, self.turns.last_mut())
        {
            blocks.extend(content.into_parts());
        } else {
            self.turns.push(Turn {
                role: "user",
                content,
            });
        }
        self.answering = false;
    }

    fn answer(&mut self, result: Block<'a>) {
        if let (
            true,
            Some(Turn {
                content: Content::Parts(blocks),
                ..
            }),
        ) = (self.answering, self.turns.last_mut())
        {
            blocks.push(result);
        } else {
            self.turns.push(Turn {
                role: "user",
                content: Content::Parts(vec![result]),
            });
        }
        self.answering = true;
    }
}

/// Which parts a content may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Text,
    User,
    Assistant,
}

fn content<'a>(
    raw: &'a RawValue,
    path: &Path<'_>,
    inside: Inside,
) -> Result<Content<'a, Block<'a>>, RequestError> {
    if is_string(raw) {
        return string(raw, path).map(Content::Text);
    }
    let mut blocks = Vec::new();
    for (index, part) in elements(raw, path)?.into_iter().enumerate() {
        blocks.push(part_block(
            Members::of(part.get(), &Path::Index(path, index))?,
            inside,
        )?);
    }
    Ok(Content::Parts(blocks))
}

fn part_block<'a>(mut part: Members<'a, '_>, inside: Inside) -> Result<Block<'a>, RequestError> {
    let path = part.path();
    let kind = part.need_text("type")?;
    let block = match (&*kind, inside) {
        ("text", _) => Block::Text {
            text: part.need_text("text")?,
        },
        ("refusal", Inside::Assistant) => Block::Text {
            text: part.need_text("refusal")?,
        },
        ("image_url", Inside::User) => {
            image(part.need("image_url")?, &Path::Name(path, "image_url"))?
        }
        _ => return Err(Path::Name(path, "type").refused(TO)),
    };
    part.finish(TO, &[])?;
    Ok(block)
}

fn image<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Block<'a>, RequestError> {
    let mut image = Members::of(raw.get(), path)?;
    let url = image.need_text("url")?;
    image.finish(TO, &[("detail", &["\"auto\""])])?;
    let at = Path::Name(path, "url");
    let source = if url
        .get(..5)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
    {
        let (media_type, data) =
            data_url(url).ok_or_else(|| at.wrong("is not a base64 data URL of an image"))?;
        ImageSource::Base64 { media_type, data }
    } else if url.starts_with("https://") || url.starts_with("http://") {
        ImageSource::Url { url }
    } else {
        return Err(at.wrong("must be an http, https or data URL"));
    };
    Ok(Block::Image { source })
}

/// Media type and data of `data:image/...;base64,...`.
fn data_url(url: Cow<'_, str>) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    match url {
        Cow::Borrowed(url) => {
            split_data_url(url).map(|(kind, data)| (Cow::Borrowed(kind), Cow::Borrowed(data)))
        }
        Cow::Owned(url) => split_data_url(&url)
            .map(|(kind, data)| (Cow::Owned(kind.to_owned()), Cow::Owned(data.to_owned()))),
    }
}

fn split_data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.get(5..)?.split_once(',')?;
    let media_type = head.strip_suffix(";base64")?;
    // Parameters (`;charset=...`) have no place in an Anthropic media type.
    let plain = media_type.starts_with("image/") && !media_type.contains(';');
    plain.then_some((media_type, data))
}

fn assistant<'a>(mut message: Members<'a, '_>) -> Result<Content<'a, Block<'a>>, RequestError> {
    let path = message.path();
    message.text("reasoning_content")?;
    message.text("reasoning")?;
    // What the SDK read out of `content`, which stands here too.
    message.take("parsed");
    let spoken = match message.take("content") {
        Some(raw) => Some(content(
            raw,
            &Path::Name(path, "content"),
            Inside::Assistant,
        )?),
        None => None,
    };
    let refusal = message.text("refusal")?.filter(|text| !text.is_empty());
    let calls = match message.take("tool_calls") {
        Some(raw) => tool_uses(raw, &Path::Name(path, "tool_calls"))?,
        None => Vec::new(),
    };
    message.finish(TO, MESSAGE_DEFAULTS)?;
    if refusal.is_none() && calls.is_empty() {
        return spoken.ok_or_else(|| Path::Name(path, "content").wrong("is required"));
    }
    let mut blocks = spoken.map(Content::into_parts).unwrap_or_default();
    blocks.retain(speaks);
    blocks.extend(refusal.map(Block::from));
    blocks.extend(calls);
    Ok(Content::Parts(blocks))
}

fn tool_uses<'a>(raw: &'a RawValue, path: &Path<'_>) -> Result<Vec<Block<'a>>, RequestError> {
    let mut blocks = Vec::new();
    for (index, raw) in elements(raw, path)?.into_iter().enumerate() {
        let at = Path::Index(path, index);
        let mut call = Members::of(raw.get(), &at)?;
        only_function(&mut call)?;
        let id = call.need_text("id")?;
        let function = call.need("function")?;
        // Where it stood in the stream; the SDK leaves that in when a client sends a message back.
        call.take("index");
        call.finish(TO, &[])?;
        let inside = Path::Name(&at, "function");
        let mut function = Members::of(function.get(), &inside)?;
        let name = function.need_text("name")?;
        let arguments = function.need_text("arguments")?;
        // What the SDK read out of `arguments`.
        function.take("parsed_arguments");
        function.finish(TO, &[])?;
        let input = super::tool_input(arguments.into_owned()).ok_or_else(|| {
            Path::Name(&inside, "arguments").wrong("must be the text of a JSON object")
        })?;
        blocks.push(Block::ToolUse { id, name, input });
    }
    Ok(blocks)
}

/// Beside others an empty text says nothing, and Anthropic does not accept one.
fn speaks(block: &Block<'_>) -> bool {
    !matches!(block, Block::Text { text } if text.is_empty())
}

/// A single text in its short form, nothing as nothing.
fn short(mut blocks: Vec<Block<'_>>) -> Option<Content<'_, Block<'_>>> {
    match (blocks.pop(), blocks.is_empty()) {
        (None, _) => None,
        (Some(Block::Text { text }), true) => Some(Content::Text(text)),
        (Some(last), _) => {
            blocks.push(last);
            Some(Content::Parts(blocks))
        }
    }
}
