use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

fn request(operation: Operation, body: &str) -> Request {
    Request::parse(operation, Bytes::from(body.to_owned())).unwrap()
}

fn check(operation: Operation, edits: &Edits<'_>, body: &str, expect: &str) {
    let out = splice(&request(operation, body), edits);
    assert_eq!(std::str::from_utf8(&out).unwrap(), expect, "{body}");
}

const NONE: Edits<'_> = Edits {
    model: None,
    max_output: None,
    max_output_field: OutputCapField::MaxCompletionTokens,
    include_usage: false,
    temperature: None,
    system_prompt: None,
    user_tag: None,
};

/// Bodies around a fixed set of messages: `chat("…")` puts members behind them.
fn chat(members: &str) -> String {
    format!(r#"{{"model":"m","messages":[{{"role":"user","content":"u"}}]{members}}}"#)
}

#[test]
fn nothing_to_change_is_the_same_bytes() {
    let body = Bytes::from(chat(
        r#","max_tokens":5,"temperature":1,"stream":true,"stream_options":{"include_usage":true}"#,
    ));
    let request = Request::parse(Operation::ChatCompletions, body.clone()).unwrap();
    let edits = Edits {
        model: Some("m"),
        max_output: Some(5),
        include_usage: true,
        temperature: Some("0.3"),
        ..NONE
    };
    assert_eq!(splice(&request, &edits).as_ptr(), body.as_ptr());
}

#[test]
fn chat_members_are_replaced_or_inserted() {
    use Operation::ChatCompletions as Chat;
    let cap = Edits {
        max_output: Some(9),
        ..NONE
    };
    check(
        Chat,
        &cap,
        &chat(""),
        &chat(r#","max_completion_tokens":9"#),
    );
    check(
        Chat,
        &cap,
        &chat(r#", "max_tokens" : 50 "#),
        &chat(r#", "max_tokens" : 9 "#),
    );
    check(
        Chat,
        &cap,
        &chat(r#","max_completion_tokens":50"#),
        &chat(r#","max_completion_tokens":9"#),
    );
    check(
        Chat,
        &cap,
        &chat(r#","max_completion_tokens":null"#),
        &chat(r#","max_completion_tokens":9"#),
    );
    let old = Edits {
        max_output_field: OutputCapField::MaxTokens,
        ..cap
    };
    check(Chat, &old, &chat(""), &chat(r#","max_tokens":9"#));

    let model = Edits {
        model: Some("a\"b"),
        ..NONE
    };
    check(
        Chat,
        &model,
        r#"{"messages":[{"role":"user"}], "model" : "m"}"#,
        r#"{"messages":[{"role":"user"}], "model" : "a\"b"}"#,
    );

    let temperature = Edits {
        temperature: Some("0.3"),
        ..NONE
    };
    check(
        Chat,
        &temperature,
        &chat(r#","temperature":null"#),
        &chat(r#","temperature":0.3"#),
    );
    check(
        Chat,
        &temperature,
        &chat(r#","temperature":1.5"#),
        &chat(r#","temperature":1.5"#),
    );

    let system = Edits {
        system_prompt: Some("be \"kind\""),
        ..NONE
    };
    check(
        Chat,
        &system,
        r#"{"model":"m","messages": [ {"role":"user","content":"u"}]}"#,
        r#"{"model":"m","messages": [{"role":"system","content":"be \"kind\""}, {"role":"user","content":"u"}]}"#,
    );
}

#[test]
fn stream_options_ask_for_usage() {
    let usage = Edits {
        include_usage: true,
        ..NONE
    };
    for (members, expect) in [
        ("", None),
        (r#","stream":false"#, None),
        (
            r#","stream":true"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true}"#),
        ),
        (
            r#","stream":true,"stream_options":null"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true}"#),
        ),
        (
            r#","stream":true,"stream_options":{}"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true}"#),
        ),
        (
            r#","stream":true,"stream_options": { } "#,
            Some(r#","stream":true,"stream_options": {"include_usage":true } "#),
        ),
        (
            r#","stream":true,"stream_options":{"include_usage":false}"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true}"#),
        ),
        (
            r#","stream":true,"stream_options":{"include_usage":null,"x":1}"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true,"x":1}"#),
        ),
        (
            r#","stream":true,"stream_options":{"x":[1]}"#,
            Some(r#","stream":true,"stream_options":{"include_usage":true,"x":[1]}"#),
        ),
        (
            r#","stream":true,"stream_options":{"include_usage":true}"#,
            None,
        ),
    ] {
        check(
            Operation::ChatCompletions,
            &usage,
            &chat(members),
            &chat(expect.unwrap_or(members)),
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn nothing_correlates_tenants_at_the_provider() {
    let tag = Edits {
        user_tag: Some("t4g"),
        ..NONE
    };
    for (members, expect) in [
        ("", r#","user":"t4g""#),
        (r#","user":"alice@acme.example""#, r#","user":"t4g""#),
        (r#","user":null"#, r#","user":"t4g""#),
        (
            r#","safety_identifier":"x","user":"y""#,
            r#","safety_identifier":"t4g","user":"t4g""#,
        ),
        (
            r#","prompt_cache_key":"k\n1""#,
            r#","prompt_cache_key":"t4g-k\n1","user":"t4g""#,
        ),
        (
            r#","prompt_cache_key":null"#,
            r#","prompt_cache_key":null,"user":"t4g""#,
        ),
        (
            r#","prompt_cache_key":7"#,
            r#","prompt_cache_key":"t4g-","user":"t4g""#,
        ),
    ] {
        check(
            Operation::ChatCompletions,
            &tag,
            &chat(members),
            &chat(expect),
        );
    }
    let long = format!(r#","user":"","prompt_cache_key":"{}""#, "k".repeat(64));
    let cut = format!(
        r#","user":"t4g","prompt_cache_key":"t4g-{}""#,
        "k".repeat(60)
    );
    check(Operation::ChatCompletions, &tag, &chat(&long), &chat(&cut));
    let everything = Edits {
        max_output: Some(1),
        temperature: Some("1"),
        system_prompt: Some("s"),
        include_usage: true,
        ..tag
    };
    check(
        Operation::Embeddings,
        &everything,
        r#"{"model":"m","input":"x"}"#,
        r#"{"model":"m","input":"x","user":"t4g"}"#,
    );

    let messages = |members: &str| {
        format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"role":"user"}}]{members}}}"#)
    };
    for (members, expect) in [
        ("", r#","metadata":{"user_id":"t4g"}"#),
        (r#","metadata":null"#, r#","metadata":{"user_id":"t4g"}"#),
        (r#","metadata":{}"#, r#","metadata":{"user_id":"t4g"}"#),
        (
            r#","metadata":{"user_id":"alice","x":1}"#,
            r#","metadata":{"user_id":"t4g","x":1}"#,
        ),
        (
            r#","metadata":{"x":1}"#,
            r#","metadata":{"user_id":"t4g","x":1}"#,
        ),
    ] {
        check(
            Operation::Messages,
            &tag,
            &messages(members),
            &messages(expect),
        );
    }
}

#[test]
fn anthropic_system_prompts_come_first() {
    let system = Edits {
        system_prompt: Some("be\nkind"),
        max_output: Some(7),
        ..NONE
    };
    let messages = |cap: u8, members: &str| {
        format!(r#"{{"model":"m","max_tokens":{cap},"messages":[{{"role":"user"}}]{members}}}"#)
    };
    for (members, expect) in [
        ("", r#","system":"be\nkind""#),
        (r#","system":null"#, r#","system":"be\nkind""#),
        (
            r#","system":"client's""#,
            r#","system":"be\nkind\n\nclient's""#,
        ),
        (r#","system":"""#, r#","system":"be\nkind\n\n""#),
        (
            r#","system":[]"#,
            r#","system":[{"type":"text","text":"be\nkind"}]"#,
        ),
        (
            r#","system":[ ]"#,
            r#","system":[{"type":"text","text":"be\nkind"} ]"#,
        ),
        (
            r#","system":[{"type":"text","text":"c","cache_control":{"type":"ephemeral"}}]"#,
            r#","system":[{"type":"text","text":"be\nkind"},{"type":"text","text":"c","cache_control":{"type":"ephemeral"}}]"#,
        ),
    ] {
        check(
            Operation::Messages,
            &system,
            &messages(9, members),
            &messages(7, expect),
        );
    }
}

/// The edits as one would make them on the parsed value.
fn model_of(body: &Value, edits: &Edits<'_>) -> Value {
    let mut out = body.clone();
    let null = |out: &Value, key: &str| out.get(key).is_none_or(Value::is_null);
    if let Some(model) = edits.model {
        out["model"] = json!(model);
    }
    if let Some(cap) = edits.max_output {
        let field = if !null(&out, "max_tokens") {
            "max_tokens"
        } else if !null(&out, "max_completion_tokens") {
            "max_completion_tokens"
        } else {
            edits.max_output_field.as_str()
        };
        out[field] = json!(cap);
    }
    if edits.include_usage && out["stream"] == json!(true) {
        if null(&out, "stream_options") {
            out["stream_options"] = json!({});
        }
        out["stream_options"]["include_usage"] = json!(true);
    }
    if let (Some(temperature), true) = (edits.temperature, null(&out, "temperature")) {
        out["temperature"] = serde_json::from_str(temperature).unwrap();
    }
    if let Some(prompt) = edits.system_prompt {
        out["messages"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"role": "system", "content": prompt}));
    }
    if let Some(tag) = edits.user_tag {
        out["user"] = json!(tag);
        if !null(&out, "safety_identifier") {
            out["safety_identifier"] = json!(tag);
        }
    }
    out
}

fn members() -> impl Strategy<Value = Vec<String>> {
    let space = "[ \n\t]{0,2}";
    let member = |key: &'static str, values: Vec<&'static str>| {
        prop::option::of(
            (prop::sample::select(values), space, space, space)
                .prop_map(move |(v, a, b, c)| format!("{a}\"{key}\"{b}:{c}{v}")),
        )
    };
    let optional = (
        member("stream", vec!["true", "false", "null"]),
        member(
            "stream_options",
            vec![
                "null",
                "{}",
                "{ \"x\" : 1 }",
                "{\"include_usage\":false}",
                "{\"y\":{},\"include_usage\": true }",
            ],
        ),
        member("temperature", vec!["null", "0", "1.50", "2e-1"]),
        prop_oneof![
            member("max_tokens", vec!["null", "7"]),
            member("max_completion_tokens", vec!["null", "8"])
        ],
        member("user", vec!["null", "\"al\\u0069ce\"", "{}"]),
        member("safety_identifier", vec!["null", "\"s\""]),
        member(
            "unknown",
            vec![
                "1.0",
                "1e400",
                "[ 1 , {\"a\":\"\\/\"} ]",
                "\"\\u00e9\"",
                "123456789012345678901234567890",
            ],
        ),
    );
    optional
        .prop_map(|(a, b, c, d, e, f, g)| {
            let fixed = [
                r#""model":"m\u006fdel""#,
                r#" "messages" : [ {"role":"user","content":"h\u0069"} ] "#,
            ]
            .map(str::to_owned);
            fixed
                .into_iter()
                .chain([a, b, c, d, e, f, g].into_iter().flatten())
                .collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_result_is_the_original_with_the_edits(
        members in members(),
        model in prop::option::of("\\PC{1,6}"),
        max_output in prop::option::of(1_u64..1000),
        newer in any::<bool>(),
        include_usage in any::<bool>(),
        temperature in prop::option::of(prop::sample::select(vec!["0", "0.70", "1e-1"])),
        system_prompt in prop::option::of(any::<String>()),
        user_tag in prop::option::of("[0-9a-f]{8}"),
    ) {
        let body = format!("{{{}}}", members.join(","));
        let max_output_field = if newer { OutputCapField::MaxCompletionTokens } else { OutputCapField::MaxTokens };
        let edits = Edits {
            model: model.as_deref(), max_output, max_output_field, include_usage, temperature,
            system_prompt: system_prompt.as_deref(), user_tag: user_tag.as_deref(),
        };
        let original = request(Operation::ChatCompletions, &body);
        let out = splice(&original, &edits);
        // Numbers beyond f64 have no serde value; they are covered by the byte comparison below.
        if !body.contains("1e400") {
            let expect = model_of(&serde_json::from_str(&body).unwrap(), &edits);
            prop_assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expect);
        }

        let spliced = Request::parse(Operation::ChatCompletions, out).unwrap();
        let edited = ["model", "max_tokens", "max_completion_tokens", "stream_options", "temperature", "messages", "user", "safety_identifier"];
        for (key, value) in original.members() {
            if !edited.contains(&key) {
                prop_assert_eq!(spliced.member(key), Some(value));
            }
        }
        let kept: Vec<&str> = original.members().map(|(key, _)| key).collect();
        let order: Vec<&str> = spliced.members().map(|(key, _)| key).collect();
        prop_assert_eq!(&order[..kept.len()], &kept[..], "members keep their order, new ones follow");
    }
}
