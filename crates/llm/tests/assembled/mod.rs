//! Replies put together the way the official SDKs do it, strictly: what an SDK would stumble over
//! panics here.

use serde_json::Value;

/// What a client has in hands when a reply is over.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Assembled {
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) refusal: String,
    pub(crate) calls: Vec<Call>,
    /// In `OpenAI`'s words.
    pub(crate) reason: String,
    pub(crate) usage: Option<Counts>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Call {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

/// All input, all output, and what of the input was read from a cache.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Counts {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cached: u64,
}

impl Assembled {
    /// What is left when what the dialects cannot both say is taken away: ids, and whether refusing
    /// words stand in a field of their own.
    pub(crate) fn meaning(&self) -> Self {
        let mut meaning = self.clone();
        meaning.id.clear();
        for call in &mut meaning.calls {
            call.id.clear();
        }
        if !meaning.refusal.is_empty() {
            meaning.text.push_str(&std::mem::take(&mut meaning.refusal));
            meaning.reason = "content_filter".to_owned();
        }
        if meaning.reason == "stop" && !meaning.calls.is_empty() {
            meaning.reason = "tool_calls".to_owned();
        }
        meaning
    }
}

pub(crate) fn openai_json(body: &[u8]) -> Assembled {
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert!(body["created"].is_i64());
    let choice = &body["choices"][0];
    assert_eq!(choice["index"], 0);
    let message = &choice["message"];
    assert_eq!(message["role"], "assistant");
    let calls = message["tool_calls"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    Assembled {
        id: text(&body["id"]),
        model: text(&body["model"]),
        text: optional(&message["content"]),
        reasoning: optional(&message["reasoning_content"]),
        refusal: optional(&message["refusal"]),
        calls: calls
            .iter()
            .map(|call| openai_call(call, &text(&call["function"]["arguments"])))
            .collect(),
        reason: text(&choice["finish_reason"]),
        usage: openai_counts(&body["usage"]),
    }
}

pub(crate) fn openai_sse(stream: &str) -> Assembled {
    let mut whole = Assembled::default();
    let mut arguments: Vec<(Value, String)> = Vec::new();
    let mut done = false;
    let mut first = true;
    for (name, data) in frames(stream) {
        assert!(name.is_empty(), "OpenAI events have no name");
        assert!(!done, "nothing comes after [DONE]");
        if data == "[DONE]" {
            done = true;
            continue;
        }
        let chunk: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk["created"].is_i64() && chunk["id"].is_string());
        whole.model = text(&chunk["model"]);
        whole.usage = openai_counts(&chunk["usage"]).or(whole.usage);
        let Some(choice) = chunk["choices"].as_array().unwrap().first() else {
            continue;
        };
        assert!(whole.reason.is_empty(), "a choice ends once");
        let delta = &choice["delta"];
        if std::mem::take(&mut first) {
            assert_eq!(delta["role"], "assistant", "the first delta says the role");
            whole.id = text(&chunk["id"]);
        }
        assert_eq!(text(&chunk["id"]), whole.id);
        whole.text += &optional(&delta["content"]);
        whole.reasoning += &optional(&delta["reasoning_content"]);
        whole.refusal += &optional(&delta["refusal"]);
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
            if at == arguments.len() {
                arguments.push((call.clone(), String::new()));
            }
            arguments[at].1 += &optional(&call["function"]["arguments"]);
        }
        whole.reason = optional(&choice["finish_reason"]);
    }
    assert!(done, "the stream ends with [DONE]");
    whole.calls = arguments
        .iter()
        .map(|(call, arguments)| openai_call(call, arguments))
        .collect();
    whole
}

pub(crate) fn anthropic_json(body: &[u8]) -> Assembled {
    anthropic_message(&serde_json::from_slice(body).unwrap())
}

pub(crate) fn anthropic_sse(stream: &str) -> Assembled {
    let mut message = Value::Null;
    let mut partial = String::new();
    let mut open = None;
    let mut stopped = false;
    for (name, data) in frames(stream) {
        assert!(!stopped, "nothing comes after message_stop");
        let event: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(event["type"], name, "the event's name is its type");
        match name.as_str() {
            "message_start" => {
                assert!(message.is_null());
                message = event["message"].clone();
                assert_eq!(message["content"], Value::Array(Vec::new()));
            }
            "content_block_start" => {
                assert_eq!(open, None, "blocks come one after the other");
                let content = message["content"].as_array_mut().unwrap();
                assert_eq!(event["index"], content.len());
                content.push(event["content_block"].clone());
                open = event["index"].as_u64();
                partial.clear();
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                delta(
                    message["content"]
                        .as_array_mut()
                        .unwrap()
                        .last_mut()
                        .unwrap(),
                    &event["delta"],
                    &mut partial,
                );
            }
            "content_block_stop" => {
                assert_eq!(event["index"].as_u64(), open.take());
            }
            "message_delta" => {
                assert_eq!(open, None);
                message["stop_reason"] = event["delta"]["stop_reason"].clone();
                if event["delta"].get("stop_details").is_some() {
                    message["stop_details"] = event["delta"]["stop_details"].clone();
                }
                assert!(event["usage"]["output_tokens"].is_u64());
                for (key, count) in event["usage"].as_object().unwrap() {
                    message["usage"][key] = count.clone();
                }
            }
            "message_stop" => stopped = true,
            "ping" => {}
            other => panic!("{other}"),
        }
    }
    assert!(stopped, "the stream ends with message_stop");
    anthropic_message(&message)
}

fn delta(block: &mut Value, delta: &Value, partial: &mut String) {
    let append =
        |value: &mut Value, more: &Value| *value = Value::String(text(value) + &text(more));
    match (text(&block["type"]).as_str(), text(&delta["type"]).as_str()) {
        ("text", "text_delta") => append(&mut block["text"], &delta["text"]),
        ("thinking", "thinking_delta") => append(&mut block["thinking"], &delta["thinking"]),
        ("thinking", "signature_delta") => append(&mut block["signature"], &delta["signature"]),
        ("tool_use", "input_json_delta") => {
            partial.push_str(&text(&delta["partial_json"]));
            // Unfinished JSON stays what it was until the rest comes.
            if let Ok(input) = serde_json::from_str(partial) {
                block["input"] = input;
            }
        }
        other => panic!("{other:?}"),
    }
}

fn anthropic_message(message: &Value) -> Assembled {
    assert_eq!(message["type"], "message");
    assert_eq!(message["role"], "assistant");
    let mut whole = Assembled {
        id: text(&message["id"]),
        model: text(&message["model"]),
        ..Assembled::default()
    };
    for block in message["content"].as_array().unwrap() {
        match text(&block["type"]).as_str() {
            "text" => whole.text += &text(&block["text"]),
            "thinking" => {
                assert!(block["signature"].is_string());
                whole.reasoning += &text(&block["thinking"]);
            }
            "tool_use" => {
                assert!(block["input"].is_object());
                whole.calls.push(Call {
                    id: text(&block["id"]),
                    name: text(&block["name"]),
                    arguments: block["input"].clone(),
                });
            }
            other => panic!("{other}"),
        }
    }
    whole.refusal = optional(&message["stop_details"]["explanation"]);
    whole.reason = match text(&message["stop_reason"]).as_str() {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        other => panic!("{other}"),
    }
    .to_owned();
    let usage = &message["usage"];
    let count = |key: &str| usage[key].as_u64().unwrap_or(0);
    whole.usage = Some(Counts {
        input: usage["input_tokens"].as_u64().unwrap()
            + count("cache_creation_input_tokens")
            + count("cache_read_input_tokens"),
        output: usage["output_tokens"].as_u64().unwrap(),
        cached: count("cache_read_input_tokens"),
    });
    whole
}

fn openai_call(call: &Value, arguments: &str) -> Call {
    assert_eq!(call["type"], "function");
    Call {
        id: text(&call["id"]),
        name: text(&call["function"]["name"]),
        arguments: serde_json::from_str(arguments).unwrap(),
    }
}

fn openai_counts(usage: &Value) -> Option<Counts> {
    let usage = usage.as_object()?;
    let counts = Counts {
        input: usage["prompt_tokens"].as_u64().unwrap(),
        output: usage["completion_tokens"].as_u64().unwrap(),
        cached: usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap_or(0),
    };
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        counts.input + counts.output
    );
    Some(counts)
}

/// Name and data of each event; comments and marks of the golden files are none.
pub(crate) fn frames(stream: &str) -> Vec<(String, String)> {
    let mut frames = Vec::new();
    for frame in stream.split("\n\n") {
        let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name));
        if let Some(data) = field("data: ") {
            frames.push((
                field("event: ").unwrap_or_default().to_owned(),
                data.to_owned(),
            ));
        }
    }
    frames
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

fn optional(value: &Value) -> String {
    if value.is_null() {
        String::new()
    } else {
        text(value)
    }
}
