//! The bounds of input tokens against real tokenizers and against the formulas that providers publish.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use bytes::Bytes;
use llm::{Dialect, InputBound, Operation, Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tiktoken_rs::CoreBPE;

/// `OpenAI`'s vocabularies, from the first to the newest.
fn vocabularies() -> [&'static CoreBPE; 5] {
    [
        tiktoken_rs::r50k_base_singleton(),
        tiktoken_rs::p50k_base_singleton(),
        tiktoken_rs::cl100k_base_singleton(),
        tiktoken_rs::o200k_base_singleton(),
        tiktoken_rs::o200k_harmony_singleton(),
    ]
}

/// The most tokens that any vocabulary makes of a text, with the names of special tokens read as text and as such.
fn tokens(text: &str) -> u64 {
    let count = |bpe: &CoreBPE| {
        let plain = bpe.encode_ordinary(text).len();
        plain.max(bpe.encode_with_special_tokens(text).len())
    };
    let most = vocabularies().into_iter().map(count).max().unwrap();
    u64::try_from(most).unwrap()
}

fn bound(operation: Operation, body: &Value) -> InputBound {
    Request::parse(operation, Bytes::from(body.to_string()))
        .unwrap()
        .input_bound()
}

fn text_bound(operation: Operation, body: &Value) -> u64 {
    let dialect = operation.dialect();
    bound(operation, body)
        .tokens(dialect, "gpt-4o", None)
        .unwrap()
}

/// Text of many scripts, runs of one character, code, and what tokenizers treat as special.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,40}",
        "[ -~]{0,60}",
        "[\\n\\t ]{0,30}",
        "[а-яё ]{0,40}",
        "[一-龥。，]{0,40}",
        "[ก-๛]{0,30}",
        "[\\u{1F300}-\\u{1FAFF}]{0,12}",
        "[\\u{300}-\\u{36f}a]{0,30}",
        "[\\u{10000}-\\u{10FFF}]{0,10}",
        "(a{1,80}|={1,80}|0{1,40})",
        Just("<|endoftext|><|im_start|>user<|im_sep|>".to_owned()),
        Just("fn main() {\n        let x = vec![1_000];\r\n}\n".to_owned()),
        Just("{\"a\":[1,-2.5e10,null,\"\\u00e9\"]}".to_owned()),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

/// A JSON schema as people write them for tools.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any_text().prop_map(|text| json!({ "type": "string", "description": text })),
        proptest::collection::vec(any_text(), 1..5)
            .prop_map(|names| json!({ "type": "string", "enum": names })),
        Just(json!({ "type": "number", "minimum": 0 })),
    ];
    proptest::collection::vec(("[a-z_]{1,12}", leaf), 0..6).prop_map(|members| {
        let members: serde_json::Map<String, Value> = members.into_iter().collect();
        json!({ "type": "object", "properties": members })
    })
}

/// What `OpenAI` documents for chats: 3 tokens a message and 1 for a name, and 3 that begin the answer.
fn documented_chat(messages: &[(String, String, Option<String>)]) -> u64 {
    let message = |(role, content, name): &(String, String, Option<String>)| {
        let name = name.as_ref().map_or(0, |name| tokens(name) + 1);
        3 + tokens(role) + tokens(content) + name
    };
    3 + messages.iter().map(message).sum::<u64>()
}

/// What `OpenAI` documents for tools of the 4o family: constants around each function, property and choice, and their texts in
/// one line each.
fn documented_tool(name: &str, description: &str, schema: &Value) -> u64 {
    let mut count = 7 + tokens(&format!("{name}:{description}"));
    let properties = schema["properties"].as_object().unwrap();
    if !properties.is_empty() {
        count += 3;
    }
    for (name, property) in properties {
        count += 3;
        if let Some(choices) = property["enum"].as_array() {
            let choice = |choice: &Value| 3 + tokens(choice.as_str().unwrap());
            count += choices.iter().map(choice).sum::<u64>();
        }
        let kind = property["type"].as_str().unwrap();
        let text = property["description"].as_str().unwrap_or_default();
        count += tokens(&format!("{name}:{kind}:{text}"));
    }
    count
}

/// The schema as a provider may render it into a prompt.
fn rendered(schema: &Value) -> u64 {
    let compact = tokens(&schema.to_string());
    compact.max(tokens(&serde_json::to_string_pretty(schema).unwrap()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn a_text_has_no_more_tokens_than_bytes(text in any_text()) {
        prop_assert!(tokens(&text) <= text.len() as u64);
    }

    #[test]
    fn chats_stay_below_their_bound(
        messages in proptest::collection::vec((prop_oneof![Just("user"), Just("system"), Just("developer"), Just("assistant"), Just("tool")], any_text(), proptest::option::of("[a-z]{1,16}")), 1..6),
        parts: bool,
    ) {
        let messages: Vec<(String, String, Option<String>)> = messages.into_iter().map(|(role, text, name)| (role.to_owned(), text, name)).collect();
        let wire: Vec<Value> = messages.iter().map(|(role, text, name)| {
            let content = if parts { json!([{ "type": "text", "text": text }]) } else { json!(text) };
            let mut message = json!({ "role": role, "content": content });
            if let Some(name) = name {
                message["name"] = json!(name);
            }
            message
        }).collect();
        let body = json!({ "model": "gpt-4o", "messages": wire });
        prop_assert!(documented_chat(&messages) <= text_bound(Operation::ChatCompletions, &body));
        let anthropic: Vec<Value> = messages.iter().map(|(_, text, _)| json!({ "role": "user", "content": text })).collect();
        let body = json!({ "model": "claude", "max_tokens": 1, "system": messages[0].1, "messages": anthropic });
        // The tokenizer of Claude is not public: the others stand for it, and that it splits bytes.
        let text: u64 = messages.iter().map(|(_, text, _)| tokens(text)).sum::<u64>() + tokens(&messages[0].1);
        prop_assert!(text <= text_bound(Operation::Messages, &body));
    }

    #[test]
    fn tools_stay_below_their_bound(tools in proptest::collection::vec(("[a-z_]{1,20}", any_text(), any_schema()), 1..4)) {
        let wire: Vec<Value> = tools.iter().map(|(name, text, schema)| json!({ "type": "function", "function": { "name": name, "description": text, "parameters": schema } })).collect();
        let body = json!({ "model": "gpt-4o", "messages": [{ "role": "user", "content": "hi" }], "tools": wire });
        let bound = text_bound(Operation::ChatCompletions, &body);
        let documented: u64 = tools.iter().map(|(name, text, schema)| documented_tool(name, text, schema)).sum::<u64>() + 12;
        let as_prompt: u64 = tools.iter().map(|(name, text, schema)| tokens(name) + tokens(text) + rendered(schema)).sum();
        let chat = documented_chat(&[("user".to_owned(), "hi".to_owned(), None)]);
        prop_assert!(documented + chat <= bound);
        prop_assert!(as_prompt + chat <= bound);
        let wire: Vec<Value> = tools.iter().map(|(name, text, schema)| json!({ "name": name, "description": text, "input_schema": schema })).collect();
        let body = json!({ "model": "claude", "max_tokens": 1, "messages": [{ "role": "user", "content": "hi" }], "tools": wire });
        // Anthropic adds at most 804 tokens of instructions where there are tools.
        prop_assert!(as_prompt + 804 <= text_bound(Operation::Messages, &body));
    }

    #[test]
    fn calls_of_tools_in_the_history_stay_below_their_bound(arguments in any_schema(), result in any_text()) {
        let call = json!({ "id": "call_1", "type": "function", "function": { "name": "look", "arguments": arguments.to_string() } });
        let body = json!({ "model": "gpt-4o", "messages": [
            { "role": "user", "content": "hi" },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "call_1", "content": result },
        ] });
        let least = tokens("look") + tokens(&arguments.to_string()) + tokens(&result) + 3 * 3 + 3;
        prop_assert!(least <= text_bound(Operation::ChatCompletions, &body));
        let body = json!({ "model": "claude", "max_tokens": 1, "messages": [
            { "role": "user", "content": "hi" },
            { "role": "assistant", "content": [{ "type": "tool_use", "id": "t", "name": "look", "input": arguments }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "t", "content": [{ "type": "text", "text": result }] }] },
        ] });
        prop_assert!(tokens("look") + rendered(&arguments) + tokens(&result) <= text_bound(Operation::Messages, &body));
    }

    #[test]
    fn embeddings_stay_below_their_bound(texts in proptest::collection::vec(any_text(), 1..6)) {
        let body = json!({ "model": "text-embedding-3-small", "input": texts });
        let counted: u64 = texts.iter().map(|text| tokens(text)).sum();
        prop_assert!(counted <= text_bound(Operation::Embeddings, &body));
    }

    #[test]
    fn images_stay_below_the_bound_of_their_family(width in 1_u32..30_000, height in 1_u32..30_000) {
        let (w, h) = (f64::from(width), f64::from(height));
        let image = |model: &str| image_bound(Dialect::OpenAi, model);
        for (model, base, tile) in [
            ("gpt-4o", 85, 170),
            ("gpt-4.1", 85, 170),
            ("gpt-4o-mini", 2_833, 5_667),
            ("gpt-5", 70, 140),
            ("o1", 75, 150),
            ("o3", 75, 150),
        ] {
            prop_assert!(base + tile * openai_tiles(w, h) <= image(model), "{model}");
        }
        for (model, factor) in [("gpt-4.1-mini", 1.62), ("gpt-4.1-nano", 2.46), ("gpt-5-mini", 1.62), ("gpt-5-nano", 2.46), ("o4-mini", 1.72)] {
            let patches = openai_patches(w, h) * factor;
            prop_assert!(patches.ceil() <= image(model) as f64, "{model}: {patches}");
        }
        for (model, edge, most) in [("claude-3-opus", 1_568.0, 1_568.0), ("claude-sonnet-4-5", 1_568.0, 1_568.0), ("claude-opus-4-7", 2_576.0, 4_784.0)] {
            let counted = anthropic_image(w, h, edge, most);
            prop_assert!(counted <= image_bound(Dialect::Anthropic, model) as f64, "{model}: {counted}");
        }
    }
}

/// What one image part adds to a request.
fn image_bound(dialect: Dialect, model: &str) -> u64 {
    let one = InputBound {
        images: 1,
        ..InputBound::default()
    };
    one.tokens(dialect, model, None).unwrap()
}

/// `OpenAI`: fitted into a square of 2,048, then the shorter side brought down to 768, then cut into tiles of 512.
fn openai_tiles(width: f64, height: f64) -> u64 {
    let fit = (2_048.0 / width.max(height)).min(1.0);
    let (width, height) = (width * fit, height * fit);
    let short = (768.0 / width.min(height)).min(1.0);
    let tiles = (width * short / 512.0).ceil() * (height * short / 512.0).ceil();
    // Whole and small: at most 16.
    format!("{tiles:.0}").parse().unwrap()
}

/// `OpenAI`: patches of 32 pixels, scaled down until there are at most 1,536.
fn openai_patches(width: f64, height: f64) -> f64 {
    ((width / 32.0).ceil() * (height / 32.0).ceil()).min(1_536.0)
}

/// Anthropic: the longer edge is brought down to `edge`, then the whole until there are at most `most` patches of 28 pixels. By
/// the older formula a token is 750 pixels; the larger of the two counts here.
fn anthropic_image(width: f64, height: f64, edge: f64, most: f64) -> f64 {
    let fit = (edge / width.max(height)).min(1.0);
    let (width, height) = (width * fit, height * fit);
    let patches = ((width / 28.0).ceil() * (height / 28.0).ceil()).min(most);
    patches.max((width * height / 750.0).min(1_600.0))
}

#[test]
fn a_document_counts_as_the_whole_window() {
    // 1,500 to 3,000 tokens a page by its provider's word, and as many pages as its bytes hold: no bound but the window.
    let pdf = json!({ "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK" } });
    let file = json!({ "type": "file", "file": { "file_id": "f" } });
    let messages = |part: &Value| json!([{ "role": "user", "content": [part, { "type": "text", "text": "hi" }] }]);
    let body = json!({ "model": "claude", "max_tokens": 1, "messages": messages(&pdf) });
    let counted = bound(Operation::Messages, &body);
    assert_eq!(
        counted.tokens(Dialect::Anthropic, "claude-sonnet-4-5", Some(200_000)),
        Some(200_000)
    );
    let body = json!({ "model": "gpt-4o", "messages": messages(&file) });
    let counted = bound(Operation::ChatCompletions, &body);
    assert_eq!(
        counted.tokens(Dialect::OpenAi, "gpt-4o", Some(128_000)),
        Some(128_000)
    );
    // Plain text in a document is text.
    let words = "Ein Wort, noch eins. ".repeat(50);
    let text = json!({ "type": "document", "source": { "type": "text", "media_type": "text/plain", "data": words } });
    let body = json!({ "model": "claude", "max_tokens": 1, "messages": messages(&text) });
    assert!(tokens(&words) <= text_bound(Operation::Messages, &body));
}
