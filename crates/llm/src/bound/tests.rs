use super::*;
use crate::{Operation, Request};
use bytes::Bytes;

fn bound(operation: Operation, body: &str) -> InputBound {
    Request::parse(operation, Bytes::from(body.to_owned()))
        .unwrap()
        .input_bound()
}

fn chat(content: &str) -> InputBound {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}]}}"#);
    bound(Operation::ChatCompletions, &body)
}

fn messages(content: &str) -> InputBound {
    let body = format!(
        r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user","content":{content}}}]}}"#
    );
    bound(Operation::Messages, &body)
}

#[test]
fn text_counts_by_its_bytes() {
    let empty = chat(r#""""#).text_tokens;
    assert_eq!(empty, REQUEST_TOKENS + MESSAGE_TOKENS + 4);
    assert_eq!(chat(r#""hello""#).text_tokens, empty + 5);
    assert_eq!(chat(r#""\u00e9\n""#).text_tokens, empty + 3);
    assert_eq!(
        chat(r#"[{"type":"text","text":"hello"}]"#).text_tokens,
        empty + PART_TOKENS + 5
    );
    let three = r#"{"model":"m","input":["ab","c"],"encoding_format":"base64"}"#;
    assert_eq!(
        bound(Operation::Embeddings, three).text_tokens,
        REQUEST_TOKENS + 3 + 3 * INPUT_TOKENS
    );
    let tokens = r#"{"model":"m","input":[[1,2,3],[4]]}"#;
    assert_eq!(
        bound(Operation::Embeddings, tokens).text_tokens,
        REQUEST_TOKENS + 4 + 3 * INPUT_TOKENS
    );
}

#[test]
fn images_count_by_family_and_never_as_text() {
    let data = "A".repeat(100_000);
    let openai = chat(&format!(
        r#"[{{"image_url":{{"url":"data:image/png;base64,{data}"}},"type":"image_url"}}]"#
    ));
    let anthropic = messages(&format!(
        r#"[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{data}"}}}},{{"type":"tool_result","tool_use_id":"t","content":[{{"type":"image","source":{{"type":"url","url":"http://x"}}}}]}}]"#
    ));
    assert!(openai.text_tokens < 1_000 && anthropic.text_tokens < 1_000);
    assert_eq!((openai.images, anthropic.images), (1, 2));
    for (bound, dialect, model, window, expect) in [
        (openai, Dialect::OpenAi, "gpt-4o", None, Some(1_445)),
        (
            openai,
            Dialect::OpenAi,
            "gpt-4o-2024-08-06",
            None,
            Some(1_445),
        ),
        (openai, Dialect::OpenAi, "gpt-4o-mini", None, Some(48_169)),
        (openai, Dialect::OpenAi, "gpt-5.4", None, None),
        (
            anthropic,
            Dialect::Anthropic,
            "claude-sonnet-4-5",
            None,
            Some(3_400),
        ),
        (
            anthropic,
            Dialect::Anthropic,
            "claude-opus-4-7",
            None,
            Some(9_800),
        ),
    ] {
        let tokens = bound.tokens(dialect, model, window);
        assert_eq!(
            tokens,
            expect.map(|images| images + bound.text_tokens),
            "{model}"
        );
    }
    assert_eq!(
        openai.tokens(Dialect::OpenAi, "llava", Some(4_096)),
        Some(4_096)
    );
}

#[test]
fn what_has_no_bound_is_the_context_window() {
    for part in [
        r#"{"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}"#,
        r#"{"type":"file","file":{"file_id":"f"}}"#,
        r#"{"type":"video_url","video_url":{"url":"http://x"}}"#,
        r#"{"text":"no type"}"#,
    ] {
        let bound = chat(&format!("[{part}]"));
        assert!(bound.unknown_part, "{part}");
        assert_eq!(
            bound.tokens(Dialect::OpenAi, "gpt-4o", Some(128_000)),
            Some(128_000)
        );
        assert_eq!(bound.tokens(Dialect::OpenAi, "gpt-4o", None), None);
    }
    let pdf = r#"[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}}]"#;
    assert!(messages(pdf).unknown_part);
    let text = r#"[{"type":"document","source":{"type":"text","media_type":"text/plain","data":"0123456789"}}]"#;
    let text = messages(text);
    assert!(!text.unknown_part && text.text_tokens > REQUEST_TOKENS + 10);
    assert!(messages(r#"[{"type":"container_upload","file_id":"f"}]"#).unknown_part);
}

#[test]
fn tools_count_and_those_of_the_provider_are_known() {
    let with = |operation, tools: &str| {
        let body = format!(
            r#"{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":"x"}}],"tools":{tools}}}"#
        );
        let request = Request::parse(operation, Bytes::from(body)).unwrap();
        (request.input_bound().text_tokens, request.server_tools())
    };
    let none = with(Operation::ChatCompletions, "[]").0;
    let tool = r#"{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object","properties":{"a":{"type":"string"}}}}}"#;
    let (one, server) = with(Operation::ChatCompletions, &format!("[{tool}]"));
    assert!(
        one > none + TOOLS_TOKENS + tool.len() as u64 - 20 && !server,
        "{one} {none}"
    );
    for (operation, tools, server) in [
        (
            Operation::ChatCompletions,
            r#"[{"type":"web_search_preview"}]"#,
            true,
        ),
        (
            Operation::Messages,
            r#"[{"name":"f","input_schema":{"type":"object"}}]"#,
            false,
        ),
        (
            Operation::Messages,
            r#"[{"type":"custom","name":"f","input_schema":{}}]"#,
            false,
        ),
        (
            Operation::Messages,
            r#"[{"type":"bash_20250124","name":"bash"}]"#,
            false,
        ),
        (
            Operation::Messages,
            r#"[{"type":"web_search_20250305","name":"web_search","max_uses":5}]"#,
            true,
        ),
        (
            Operation::Messages,
            r#"[{"type":"code_execution_20250825","name":"c"}]"#,
            true,
        ),
    ] {
        assert_eq!(with(operation, tools).1, server, "{tools}");
    }
}
