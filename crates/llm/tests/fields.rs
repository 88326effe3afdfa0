//! Every field that the two request references name is carried across, accepted where it says what
//! its absence means, or refused by name; and none is dropped.
//!
//! `fields/<client>.json` lists the top-level fields, by the API references and SDKs of November
//! 2026, beta fields included. `fate` is `refused`, `read` (it decides about the reply or the call,
//! not about the outbound body) or the JSON pointer at which it stands in the outbound body; `idle`
//! are values that mean the same as absence. `fields/<client>.nested.json` lists what stands deeper
//! and is refused by its path.

#[cfg(test)]
mod fields {
    use bytes::Bytes;
    use llm::{Dialect, Edits, Operation, Request, RequestError, translate};
    use serde_json::{Value, json};

    const WAYS: [(Dialect, Dialect); 2] = [
        (Dialect::OpenAi, Dialect::Anthropic),
        (Dialect::Anthropic, Dialect::OpenAi),
    ];

    #[test]
    fn every_top_level_field_has_its_fate() {
        for (client, provider) in WAYS {
            let fields = match client {
                Dialect::OpenAi => include_str!("fields/openai.json"),
                Dialect::Anthropic => include_str!("fields/anthropic.json"),
            };
            for field in rows(fields) {
                let name = field["name"].as_str().unwrap();
                let base = base(client, name);
                let without = outbound(client, provider, &base).unwrap();
                let with = outbound(client, provider, &with(&base, name, &field["value"]));
                match (field["fate"].as_str().unwrap(), with) {
                    ("refused", Err(error)) => {
                        assert_eq!(error.param.as_deref(), Some(name), "{error}");
                        assert!(error.message.contains(name), "{error}");
                    }
                    ("read", Ok(with)) => assert_eq!(with, without, "{name}"),
                    (pointer, Ok(with)) => {
                        assert!(
                            with.pointer(pointer).is_some(),
                            "{name} is not at {pointer}: {with}"
                        );
                        assert_ne!(with.pointer(pointer), without.pointer(pointer), "{name}");
                    }
                    (_, other) => panic!("{name}: {other:?}"),
                }
                // `null` is absence, which for these four means something else.
                let needed =
                    ["messages", "model", "max_tokens", "max_completion_tokens"].contains(&name);
                let null = [Value::Null];
                let idle = field["idle"].as_array().into_iter().flatten();
                for idle in idle.chain(null.iter().filter(|_| !needed)) {
                    let idle = outbound(client, provider, &self::with(&base, name, idle));
                    assert_eq!(idle.as_ref(), Ok(&without), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_stands_deeper_is_refused_by_its_path() {
        for (client, provider) in WAYS {
            let nested = match client {
                Dialect::OpenAi => include_str!("fields/openai.nested.json"),
                Dialect::Anthropic => include_str!("fields/anthropic.nested.json"),
            };
            for row in rows(nested) {
                let (name, param) = (
                    row["name"].as_str().unwrap(),
                    row["param"].as_str().unwrap(),
                );
                let body = with(&base(client, name), name, &row["value"]);
                let error = outbound(client, provider, &body).expect_err(param);
                assert_eq!(error.param.as_deref(), Some(param), "{error}");
                assert!(error.message.contains(param), "{error}");
            }
        }
    }

    #[test]
    fn anthropic_wants_a_cap_and_embeddings_do_not_cross() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
        let error = outbound(Dialect::OpenAi, Dialect::Anthropic, &body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("max_tokens"));
        let body = Bytes::from(json!({"model": "m", "input": "a"}).to_string());
        let request = Request::parse(Operation::Embeddings, body).unwrap();
        translate::request(&request, Dialect::Anthropic, &Edits::default()).unwrap_err();
    }

    #[test]
    fn a_configured_temperature_beyond_the_range_is_refused_too() {
        let body = Bytes::from(base(Dialect::OpenAi, "temperature").to_string());
        let request = Request::parse(Operation::ChatCompletions, body).unwrap();
        for temperature in ["1.5", "-0.1", "warm", ""] {
            let edits = Edits {
                temperature: Some(temperature),
                ..Edits::default()
            };
            let error = translate::request(&request, Dialect::Anthropic, &edits).unwrap_err();
            assert_eq!(error.param.as_deref(), Some("temperature"));
        }
    }

    fn rows(text: &str) -> Vec<Value> {
        let rows: Vec<Value> = serde_json::from_str(text).unwrap();
        assert!(rows.len() > 20, "{}", rows.len());
        rows
    }

    fn outbound(client: Dialect, provider: Dialect, body: &Value) -> Result<Value, RequestError> {
        let operation = match client {
            Dialect::OpenAi => Operation::ChatCompletions,
            Dialect::Anthropic => Operation::Messages,
        };
        let request = Request::parse(operation, Bytes::from(body.to_string()))?;
        let body = translate::request(&request, provider, &Edits::default())?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    /// A request in which the field may stand: with a cap, and with a tool where tools are chosen.
    fn base(client: Dialect, name: &str) -> Value {
        let mut body = json!({"model": "base", "messages": [{"role": "user", "content": "base"}]});
        let cap = if name == "max_completion_tokens" {
            name
        } else {
            "max_tokens"
        };
        body[cap] = json!(99);
        if name == "tool_choice" || name == "parallel_tool_calls" {
            body["tools"] = match client {
                Dialect::OpenAi => json!([{"type": "function", "function": {"name": "now"}}]),
                Dialect::Anthropic => json!([{"name": "now", "input_schema": {"type": "object"}}]),
            };
        }
        body
    }

    fn with(body: &Value, name: &str, value: &Value) -> Value {
        let mut body = body.clone();
        body[name] = value.clone();
        body
    }
}
