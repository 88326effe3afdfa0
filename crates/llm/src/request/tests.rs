use super::*;
use proptest::prelude::*;

fn parse(operation: Operation, body: &str) -> Result<Request, RequestError> {
    Request::parse(operation, Bytes::from(body.to_owned()))
}

fn refused(operation: Operation, body: &str) -> RequestError {
    parse(operation, body).map(|_| ()).expect_err(body)
}

#[test]
fn facts_are_read() {
    let body = r#" {"model":"gpt\u002d4o", "messages":[{"role":"system","content":"s"},{"role":"user","content":"u"}],
        "stream":true,"stream_options":{"x":1,"include_usage":true},"max_completion_tokens":7,"n":3,"temperature":0.5,"vendor":{"a":[1]}} "#;
    let request = parse(Operation::ChatCompletions, body).unwrap();
    assert_eq!(request.model(), "gpt-4o");
    assert!(
        request.stream()
            && request.include_usage()
            && request.temperature_given()
            && request.system_given()
    );
    assert_eq!(
        (request.max_output(), request.max_output_field()),
        (Some(7), Some("max_completion_tokens"))
    );
    assert_eq!(request.choices(), 3);
    assert_eq!(request.member("vendor"), Some(r#"{"a":[1]}"#));
    assert_eq!(request.member("stream"), Some("true"));
    assert_eq!(request.members().map(|(key, _)| key).next(), Some("model"));

    let body = r#"{"model":"m","messages":[{"role":"user","content":"u"}],"stream":null,"max_tokens":null,"n":null,"temperature":null,"tools":null,"stream_options":null,"service_tier":null}"#;
    let request = parse(Operation::ChatCompletions, body).unwrap();
    assert!(
        !request.stream()
            && !request.include_usage()
            && !request.temperature_given()
            && !request.system_given()
    );
    assert_eq!((request.max_output(), request.choices()), (None, 1));

    let body = r#"{"model":"m","max_tokens":9,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"u"}],"metadata":{}}"#;
    let request = parse(Operation::Messages, body).unwrap();
    assert!(request.system_given());
    assert_eq!(request.max_output(), Some(9));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn refusals_name_the_field() {
    let chat = |member: &str| {
        format!(r#"{{"model":"m","messages":[{{"role":"user","content":"u"}}],{member}}}"#)
    };
    for (member, param) in [
        (r#""stream":1"#, "stream"),
        (r#""stream":"true""#, "stream"),
        (r#""n":0"#, "n"),
        (r#""n":129"#, "n"),
        (r#""n":1.5"#, "n"),
        (r#""n":"2""#, "n"),
        (r#""max_tokens":0"#, "max_tokens"),
        (r#""max_tokens":-1"#, "max_tokens"),
        (r#""max_tokens":1e3"#, "max_tokens"),
        (r#""max_tokens":99999999999999999999"#, "max_tokens"),
        (r#""max_completion_tokens":2.0"#, "max_completion_tokens"),
        (r#""max_tokens":5,"max_completion_tokens":5"#, "max_tokens"),
        (r#""temperature":"hot""#, "temperature"),
        (r#""top_p":[]"#, "top_p"),
        (r#""tools":{}"#, "tools"),
        (r#""stream_options":true"#, "stream_options"),
        (
            r#""stream_options":{"include_usage":1}"#,
            "stream_options.include_usage",
        ),
        (r#""service_tier":1"#, "service_tier"),
        (r#""x":1,"x":1"#, "x"),
        (r#""x":{"deep":[{"k":1,"k":2}]}"#, "k"),
    ] {
        let error = refused(Operation::ChatCompletions, &chat(member));
        assert_eq!(error.param.as_deref(), Some(param), "{member}: {error}");
        assert!(error.message.contains(param), "{member}: {error}");
    }
    for (operation, body, param) in [
        (
            Operation::ChatCompletions,
            r#"{"messages":[{"role":"user","content":"u"}]}"#,
            "model",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":"","messages":[]}"#,
            "model",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":7,"messages":[]}"#,
            "model",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":null,"messages":[]}"#,
            "model",
        ),
        (Operation::ChatCompletions, r#"{"model":"m"}"#, "messages"),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":[]}"#,
            "messages",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":{}}"#,
            "messages",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":["x"]}"#,
            "messages[0]",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":[{"content":"x"}]}"#,
            "messages[0].role",
        ),
        (
            Operation::ChatCompletions,
            r#"{"model":"m","messages":[{"role":"user","content":7}]}"#,
            "messages[0].content",
        ),
        (
            Operation::Messages,
            r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#,
            "max_tokens",
        ),
        (
            Operation::Messages,
            r#"{"model":"m","max_tokens":1,"system":7,"messages":[{"role":"user","content":"x"}]}"#,
            "system",
        ),
        (
            Operation::Messages,
            r#"{"model":"m","max_tokens":1,"metadata":[],"messages":[{"role":"user","content":"x"}]}"#,
            "metadata",
        ),
        (Operation::Embeddings, r#"{"model":"m"}"#, "input"),
        (
            Operation::Embeddings,
            r#"{"model":"m","input":[]}"#,
            "input",
        ),
        (
            Operation::Embeddings,
            r#"{"model":"m","input":{}}"#,
            "input",
        ),
        (
            Operation::Embeddings,
            r#"{"model":"m","input":[null]}"#,
            "input",
        ),
    ] {
        let error = refused(operation, body);
        assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
    }
    let long = format!(r#"{{"model":"{}","messages":[]}}"#, "m".repeat(257));
    assert_eq!(
        refused(Operation::ChatCompletions, &long).message,
        "model is longer than 256 bytes"
    );
}

#[test]
fn what_is_not_an_object_is_refused() {
    for (body, message) in [
        ("", "not valid JSON"),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("\"x\"", "must be a JSON object"),
        ("{", "not valid JSON"),
        ("{} x", "not valid JSON"),
        (r#"{"model":"\ud800"}"#, "surrogate"),
        (r#"{"model":NaN}"#, "not valid JSON"),
    ] {
        let error = refused(Operation::ChatCompletions, body);
        assert!(
            error.message.contains(message) && error.param.is_none(),
            "{body}: {error}"
        );
    }
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(128), "]".repeat(128));
    assert!(
        refused(Operation::ChatCompletions, &deep)
            .message
            .contains("128")
    );
    let bytes = Bytes::from_static(b"{\"model\":\"\xff\"}");
    let error = Request::parse(Operation::ChatCompletions, bytes)
        .map(|_| ())
        .expect_err("UTF-8");
    assert!(error.message.contains("UTF-8"));
}

#[test]
fn other_prices_and_other_tools_are_told() {
    let chat = |member: &str| {
        let body =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"u"}}],{member}}}"#);
        parse(Operation::ChatCompletions, &body).unwrap()
    };
    for (member, apart) in [
        (r#""service_tier":"auto""#, None),
        (r#""service_tier":"default""#, None),
        (r#""service_tier":"priority""#, Some("service_tier")),
        (r#""service_tier":"flex""#, Some("service_tier")),
        (r#""speed":"fast""#, Some("speed")),
        (r#""inference_geo":"us""#, Some("inference_geo")),
    ] {
        assert_eq!(chat(member).priced_apart(), apart, "{member}");
    }
    assert!(chat(r#""web_search_options":{}"#).server_tools());
    assert!(!chat(r#""web_search_options":null"#).server_tools());
    assert_eq!(
        chat(r#""prediction":{"type":"content","content":"abc"}"#).extra_output_bound(),
        34
    );
    assert!(
        !chat(r#""stream_options":{"include_usage":true}"#).include_usage(),
        "only a stream has the chunk"
    );
}

#[test]
fn an_escaped_key_is_the_same_member() {
    let message = r#""messages":[{"role":"user","content":"u"}]"#;
    for (body, param) in [
        (format!(r#"{{"model":"a","mod\u0065l":"b",{message}}}"#), "model"),
        (format!(r#"{{"mod\u0065l":"a","model":"b",{message}}}"#), "model"),
        (format!(r#"{{"\u006dodel":"a","mode\u006C":"b",{message}}}"#), "model"),
        (format!(r#"{{"model":"a",{message},"x\/y":1,"x/y":2}}"#), "x/y"),
        (format!(r#"{{"model":"a",{message},"stre\u0061m":true,"stream":false}}"#), "stream"),
        (format!(r#"{{"model":"a",{message},"stream_options":{{"include_usage":true,"include\u005fusage":false}}}}"#), "include_usage"),
        (r#"{"model":"a","messages":[{"role":"user","r\u006fle":"system","content":"u"}]}"#.to_owned(), "role"),
        (r#"{"model":"a","messages":[{"role":"user","content":[{"type":"text","text":"a","t\u0065xt":"b"}]}]}"#.to_owned(), "text"),
        (format!(r#"{{"model":"a",{message},"x":[{{"\ud83d\ude00":1,"😀":2}}]}}"#), "😀"),
    ] {
        for operation in [Operation::ChatCompletions, Operation::Messages] {
            let error = refused(operation, &body);
            assert_eq!(error.param.as_deref(), Some(param), "{body}: {error}");
            assert!(error.message.starts_with("duplicate key"), "{error}");
        }
    }
    let many: String = (0..40).map(|n| format!("\"k{n}\":0,")).collect();
    let body = format!(r#"{{{many}"model":"a",{message},"\u006b7":1}}"#);
    let error = refused(Operation::ChatCompletions, &body);
    assert_eq!(error.param.as_deref(), Some("k7"), "{error}");

    let body = r#"{"mod\u0065l":"m","m\u0065ssages":[{"rol\u0065":"syst\u0065m","c\u006fntent":"s"},{"role":"user","content":"u"}],
        "str\u0065am":true,"stream\u005foptions":{"include\u005fusage":true},"max\u005ftokens":7,"\u006e":2,"temper\u0061ture":1,"service\u005ftier":"flex",
        "w\u0065b_search_options":{},"v\u0065ndor":1}"#;
    let request = parse(Operation::ChatCompletions, body).unwrap();
    assert_eq!(request.model(), "m");
    assert!(request.stream() && request.include_usage() && request.system_given());
    assert!(request.temperature_given() && request.server_tools());
    assert_eq!((request.max_output(), request.choices()), (Some(7), 2));
    assert_eq!(request.priced_apart(), Some("service_tier"));
    assert_eq!(request.member("model"), Some("\"m\""));
    assert_eq!(request.member("vendor"), Some("1"));
    assert_eq!(request.member(r"v\u0065ndor"), None);
    assert_eq!(request.members().map(|(key, _)| key).next(), Some("model"));

    // What goes out says the operator's words once, under whatever spelling the client chose.
    let edits = crate::Edits {
        model: Some("other"),
        user_tag: Some("tag"),
        ..crate::Edits::default()
    };
    let body = r#"{"mod\u0065l":"m","us\u0065r":"me","messages":[{"role":"user","content":"u"}]}"#;
    let request = parse(Operation::ChatCompletions, body).unwrap();
    let out = crate::splice::splice(&request, &edits);
    let out = parse(
        Operation::ChatCompletions,
        std::str::from_utf8(&out).unwrap(),
    )
    .unwrap();
    assert_eq!(
        (out.model(), out.member("user")),
        ("other", Some("\"tag\""))
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Embeddings] {
            let _ = Request::parse(operation, Bytes::from(bytes.clone()));
        }
    }

    #[test]
    fn near_requests_never_panic(
        picks in prop::collection::vec((0..24_usize, 0..16_usize), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let keys = ["model", "messages", "input", "system", "tools", "stream", "stream_options", "n", "max_tokens",
            "max_completion_tokens", "temperature", "metadata", "service_tier", "web_search_options", "prediction",
            "mcp_servers", "user", "response_format", "functions", "speed", "top_k", "x", "stop", "container"];
        let values = ["1", "\"m\"", "null", "true", "[]", "{}", "[{\"role\":\"user\",\"content\":\"u\"}]", "-0.5e9",
            "[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"source\":{\"type\":\"text\"}},{\"type\":\"text\",\"text\":\"x\"}]}]",
            "[[1],\"x\"]", "{\"include_usage\":true}", "[{\"type\":\"function\",\"function\":{}}]", "\"\\ud83d\\ude00\"",
            "[{\"role\":1}]", "[{\"content\":[[]]}]", "128"];
        let members: Vec<String> = picks.iter().map(|&(k, v)| format!("\"{}\":{}", keys[k], values[v])).collect();
        let body = format!("{{{}}}", members.join(","));
        let cut = &body[..body.floor_char_boundary(cut.index(body.len() + 1))];
        for operation in [Operation::ChatCompletions, Operation::Messages, Operation::Embeddings] {
            for body in [&body, cut] {
                if let Ok(request) = parse(operation, body) {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
                    prop_assert!(!request.model().is_empty());
                }
            }
        }
    }
}
