//! Streams that the golden files do not show: what servers do that are almost compatible, and faults.

use super::StreamTranslator;
use crate::dialect::Dialect;
use crate::reply::ReplyError;
use crate::stream::EventRole;

/// What the client gets for these events, and how it ended.
fn carry(from: Dialect, include_usage: bool, events: &[&str]) -> (String, Result<(), ReplyError>) {
    let to = if from == Dialect::OpenAi {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    };
    let mut translator = StreamTranslator::new(from, to, "m", 7, include_usage);
    let mut out = Vec::new();
    let mut ending = Ok(());
    for event in events {
        ending = translator.event("", event.as_bytes(), &mut out).map(|_| ());
        if ending.is_err() {
            break;
        }
    }
    let ending = ending.and_then(|()| translator.finish(&mut out));
    (String::from_utf8(out).unwrap(), ending)
}

fn openai(deltas: &[&str], finish: &str) -> (String, Result<(), ReplyError>) {
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"{{"id":"c","choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#
        )
    };
    let mut events: Vec<String> = deltas.iter().map(|delta| chunk(delta, "null")).collect();
    events.push(chunk("{}", &format!("\"{finish}\"")));
    events.push("[DONE]".to_owned());
    carry(
        Dialect::OpenAi,
        false,
        &events.iter().map(String::as_str).collect::<Vec<_>>(),
    )
}

const START: &str = r#"{"type":"message_start","message":{"id":"a","type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":1}}}"#;
const END: &str =
    r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":9}}"#;
const STOP: &str = r#"{"type":"message_stop"}"#;

#[test]
fn who_did_not_ask_for_usage_gets_no_chunk_without_choices() {
    let (out, ending) = carry(Dialect::Anthropic, false, &[START, END, STOP]);
    assert_eq!(ending, Ok(()));
    assert!(!out.contains("usage"), "{out}");
    assert!(!out.contains(r#""choices":[]"#), "{out}");
    assert!(out.ends_with("data: [DONE]\n\n"), "{out}");
}

#[test]
fn input_counts_that_come_only_at_the_end_count() {
    let start = r#"{"type":"message_start","message":{"id":"a","type":"message","content":[]}}"#;
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":30,"cache_read_input_tokens":4,"output_tokens":9}}"#;
    let (out, _) = carry(Dialect::Anthropic, true, &[start, end, STOP]);
    assert!(
        out.contains(r#""prompt_tokens":34,"completion_tokens":9,"total_tokens":43"#),
        "{out}"
    );
}

#[test]
fn a_whole_input_at_the_start_of_a_call_is_its_arguments() {
    let call = r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"t","name":"f","input":{"a":1}}}"#;
    let stop = r#"{"type":"content_block_stop","index":0}"#;
    let (out, ending) = carry(Dialect::Anthropic, false, &[START, call, stop, END, STOP]);
    assert_eq!(ending, Ok(()));
    assert!(
        out.contains(r#""arguments":"{\"a\":1}""#) && !out.contains(r#""arguments":"{}""#),
        "{out}"
    );
}

#[test]
fn calls_without_index_are_told_apart_by_id() {
    let first = r#"{"tool_calls":[{"id":"x","function":{"name":"f","arguments":"{\"a\""}}]}"#;
    let more = r#"{"tool_calls":[{"function":{"arguments":":1}"}}]}"#;
    let second = r#"{"tool_calls":[{"id":"y","function":{"name":"g","arguments":"{}"}}]}"#;
    let (out, ending) = openai(&[first, more, second], "tool_calls");
    assert_eq!(ending, Ok(()));
    assert!(
        out.contains(r#""index":0,"content_block":{"type":"tool_use","id":"x","name":"f""#),
        "{out}"
    );
    assert!(
        out.contains(r#""index":1,"content_block":{"type":"tool_use","id":"y","name":"g""#),
        "{out}"
    );
    assert!(out.contains(r#""partial_json":":1}""#), "{out}");
}

#[test]
fn arguments_that_the_cap_cut_off_pass_as_they_are() {
    let call =
        r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{\"a\""}}]}"#;
    let (out, ending) = openai(&[call], "length");
    assert_eq!(ending, Ok(()));
    assert!(out.contains(r#""stop_reason":"max_tokens""#), "{out}");
    let (_, ending) = openai(&[call], "tool_calls");
    assert_eq!(
        ending,
        Err(ReplyError::Malformed("tool_calls.function.arguments"))
    );
}

#[test]
fn what_is_held_is_bounded() {
    let text = "a".repeat(1 << 20);
    let call = r#"{"tool_calls":[{"index":0,"id":"x","function":{"name":"f","arguments":"{}"}}]}"#;
    let late = format!(r#"{{"content":"{text}"}}"#);
    let mut deltas = vec![call];
    deltas.extend(std::iter::repeat_n(late.as_str(), 5));
    assert_eq!(openai(&deltas, "stop").1, Err(ReplyError::TooLarge));
}

#[test]
fn what_is_not_the_dialect_is_malformed() {
    for delta in [
        r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}}]}"#,
        r#"{"function_call":{"name":"f"}}"#,
        r#"{"content":[{"type":"text"}]}"#,
    ] {
        assert!(
            matches!(openai(&[delta], "stop").1, Err(ReplyError::Malformed(_))),
            "{delta}"
        );
    }
    assert!(matches!(
        openai(&["{}"], "surprise").1,
        Err(ReplyError::Malformed(_))
    ));
    assert_eq!(openai(&["{}"], "error").1, Err(ReplyError::Upstream));
    let other = r#"{"id":"c","choices":[{"index":1,"delta":{"content":"a"}}]}"#;
    assert!(matches!(
        carry(Dialect::OpenAi, false, &[other]).1,
        Err(ReplyError::Malformed(_))
    ));
    for event in [
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"server_tool_use","id":"s","name":"web_search","input":{}}}"#,
        r#"{"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"a"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"surprise"}}"#,
        START,
        STOP,
    ] {
        assert!(
            matches!(
                carry(Dialect::Anthropic, false, &[START, event]).1,
                Err(ReplyError::Malformed(_))
            ),
            "{event}"
        );
    }
    assert!(matches!(
        carry(Dialect::Anthropic, false, &[END]).1,
        Err(ReplyError::Malformed(_))
    ));
}

#[test]
fn the_end_is_known_from_the_event_that_carries_it() {
    let mut translator = StreamTranslator::new(Dialect::OpenAi, Dialect::Anthropic, "m", 0, false);
    let mut role = |event: &str| {
        translator
            .event("", event.as_bytes(), &mut Vec::new())
            .unwrap()
    };
    assert_eq!(
        role(r#"{"id":"c","choices":[{"delta":{"content":"a"}}]}"#),
        EventRole::Body
    );
    assert_eq!(
        role(r#"{"id":"c","choices":[{"delta":{},"finish_reason":"stop"}]}"#),
        EventRole::End
    );
    assert_eq!(
        role(r#"{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#),
        EventRole::End
    );
    assert_eq!(role("[DONE]"), EventRole::End);
    assert_eq!(role("anything"), EventRole::End);
}

#[test]
fn streams_of_one_dialect_have_no_business_here() {
    let mut translator = StreamTranslator::new(Dialect::OpenAi, Dialect::OpenAi, "m", 0, false);
    assert!(translator.event("", b"[DONE]", &mut Vec::new()).is_err());
    assert_eq!(
        translator.finish(&mut Vec::new()),
        Err(ReplyError::Truncated)
    );
}
