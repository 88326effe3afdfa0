//! Scripted tool calls and fenced code, through HTTP on both wires.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Fixture, Got};

const OPENAI: &str = "/v1/chat/completions";
const ANTHROPIC: &str = "/v1/messages";

/// What an agent sees of one answer, whatever the wire.
#[derive(Debug, PartialEq)]
struct Said {
    finish: String,
    text: String,
    /// Id, name and arguments as text.
    calls: Vec<(String, String, String)>,
}

impl Said {
    fn arguments(&self) -> Vec<&str> {
        self.calls.iter().map(|call| call.2.as_str()).collect()
    }

    fn of(path: &str, stream: bool, got: &Got) -> Self {
        assert_eq!(got.status, 200, "{}", got.text());
        match (path, stream) {
            (OPENAI, false) => Self::of_openai(&got.json()["choices"][0], "message"),
            (OPENAI, true) => got
                .events()
                .iter()
                .map(|event| Self::of_openai(&event["choices"][0], "delta"))
                .fold(Self::nothing(), Self::and),
            (_, false) => {
                let reply = got.json();
                let mut said = Self::nothing();
                for block in reply["content"].as_array().unwrap() {
                    said = said.and(Self::of_block(block, &block["input"].to_string()));
                }
                said.finish = word(&reply["stop_reason"]);
                said
            }
            (_, true) => got
                .events()
                .iter()
                .map(|event| {
                    let delta = &event["delta"];
                    let mut said = Self::of_block(&event["content_block"], "");
                    said.text.push_str(delta["text"].as_str().unwrap_or(""));
                    said.finish = word(&delta["stop_reason"]);
                    if let Some(part) = delta["partial_json"].as_str() {
                        said.calls
                            .push((String::new(), String::new(), part.to_owned()));
                    }
                    said
                })
                .fold(Self::nothing(), Self::and),
        }
    }

    fn nothing() -> Self {
        Self {
            finish: String::new(),
            text: String::new(),
            calls: Vec::new(),
        }
    }

    fn of_openai(choice: &Value, member: &str) -> Self {
        let calls = choice[member]["tool_calls"].as_array();
        let call = |call: &Value| {
            let function = &call["function"];
            (
                word(&call["id"]),
                word(&function["name"]),
                word(&function["arguments"]),
            )
        };
        Self {
            finish: word(&choice["finish_reason"]),
            text: word(&choice[member]["content"]),
            calls: calls.into_iter().flatten().map(call).collect(),
        }
    }

    fn of_block(block: &Value, arguments: &str) -> Self {
        let mut said = Self::nothing();
        match block["type"].as_str() {
            Some("text") => said.text = word(&block["text"]),
            Some("tool_use") => said.calls.push((
                word(&block["id"]),
                word(&block["name"]),
                arguments.to_owned(),
            )),
            _ => {}
        }
        said
    }

    /// Adds a part of the same answer; a call without an id goes on with the one before.
    fn and(mut self, part: Self) -> Self {
        self.finish.push_str(&part.finish);
        self.text.push_str(&part.text);
        for call in part.calls {
            match self.calls.last_mut() {
                Some(last) if call.0.is_empty() => last.2.push_str(&call.2),
                _ => self.calls.push(call),
            }
        }
        self
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn order(rounds: &Value) -> String {
    format!(
        "Work. [[sim:script={}]]",
        URL_SAFE_NO_PAD.encode(rounds.to_string())
    )
}

fn request(text: &str, tools: &[&str], path: &str) -> Value {
    let parameters = json!({"type": "object"});
    let tool = |name: &&str| match path {
        OPENAI => {
            json!({"type": "function", "function": {"name": name, "parameters": parameters}})
        }
        _ => json!({"name": name, "input_schema": parameters}),
    };
    json!({
        "model": "sim-fast",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": text}],
        "tools": tools.iter().map(tool).collect::<Vec<_>>(),
    })
}

/// Appends the calls and a result for each.
fn answer_calls(body: &mut Value, path: &str, said: &Said, result: &str) {
    let messages = body["messages"].as_array_mut().unwrap();
    let ids = said.calls.iter().map(|call| &call.0);
    if path == OPENAI {
        let call = |(id, name, arguments): &(String, String, String)| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let calls: Vec<Value> = said.calls.iter().map(call).collect();
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": calls}));
        messages
            .extend(ids.map(|id| json!({"role": "tool", "tool_call_id": id, "content": result})));
    } else {
        let call = |(id, name, _): &(String, String, String)| json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        let calls: Vec<Value> = said.calls.iter().map(call).collect();
        messages.push(json!({"role": "assistant", "content": calls}));
        let results: Vec<Value> = ids
            .map(|id| json!({"type": "tool_result", "tool_use_id": id, "content": result}))
            .collect();
        messages.push(json!({"role": "user", "content": results}));
    }
}

/// Asks twice without and once with a stream; the three answers must be the same, ids included.
async fn ask(sim: &mut Fixture, path: &str, body: &Value) -> Said {
    let whole = Said::of(path, false, &sim.post(path, body).await);
    let again = Said::of(path, false, &sim.post(path, body).await);
    let mut streaming = body.clone();
    streaming["stream"] = json!(true);
    let streamed = Said::of(path, true, &sim.post(path, &streaming).await);
    assert_eq!(whole, again);
    assert_eq!(whole, streamed);
    whole
}

#[tokio::test]
async fn a_script_is_followed_round_by_round() {
    let mut sim = Fixture::start().await;
    for (path, calls, stop) in [
        (OPENAI, "tool_calls", "stop"),
        (ANTHROPIC, "tool_use", "end_turn"),
    ] {
        let python = |code: &str| json!({"name": "python", "arguments": {"code": code}});
        let hostile = json!({"name": "no_such_tool", "arguments": {"code": 2}});
        let text = order(&json!([[python("0"), python("1")], [hostile]]));
        let mut body = request(&text, &["python"], path);
        body["max_tokens"] = json!(1);

        let first = ask(&mut sim, path, &body).await;
        assert_eq!((first.finish.as_str(), first.text.as_str()), (calls, ""));
        assert_eq!(first.arguments(), [r#"{"code":"0"}"#, r#"{"code":"1"}"#]);
        answer_calls(&mut body, path, &first, "result of the first round");

        let second = ask(&mut sim, path, &body).await;
        assert_eq!(second.finish, calls);
        assert_eq!(second.calls[0].1, "no_such_tool");
        answer_calls(&mut body, path, &second, "result of the second round");

        let mut ids: Vec<&String> = first
            .calls
            .iter()
            .chain(&second.calls)
            .map(|c| &c.0)
            .collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 3, "ids are unique");

        body["max_tokens"] = json!(100);
        let last = ask(&mut sim, path, &body).await;
        assert_eq!((last.finish.as_str(), last.calls.len()), (stop, 0));
        assert!(
            last.text
                .contains("The tool returned: result of the second round.")
        );
        assert!(!last.text.contains("first round") && last.text.contains("\"Work.\""));
    }
}

#[tokio::test]
async fn a_scripted_call_may_be_no_json_and_unwanted() {
    let mut sim = Fixture::start().await;
    let call = json!({"name": "python", "arguments": r#"{"code": "#});
    let text = order(&json!([[call.clone(), call]]));
    for path in [OPENAI, ANTHROPIC] {
        let mut body = request(&text, &[], path);
        body["stream"] = json!(true);
        body["tool_choice"] = match path {
            OPENAI => json!("none"),
            _ => json!({"type": "none", "disable_parallel_tool_use": true}),
        };
        let said = Said::of(path, true, &sim.post(path, &body).await);
        assert_eq!(said.arguments(), [r#"{"code": "#; 2], "{path}");
    }
    let whole = sim
        .post(ANTHROPIC, &request(&text, &[], ANTHROPIC))
        .await
        .json();
    let input = &whole["content"][1]["input"];
    assert_eq!(
        *input,
        json!(r#"{"code": "#),
        "words where an object belongs"
    );
}

#[tokio::test]
async fn an_empty_script_is_a_text_and_a_broken_one_is_refused() {
    let mut sim = Fixture::start().await;
    for path in [OPENAI, ANTHROPIC] {
        let body = request(&format!("python {}", order(&json!([]))), &["python"], path);
        let said = ask(&mut sim, path, &body).await;
        assert!(said.calls.is_empty() && said.text.contains("\"python Work.\""));
        let broken = request("[[sim:script=e30]]", &["python"], path);
        assert_eq!(sim.post(path, &broken).await.status, 400);
    }
}

#[tokio::test]
async fn another_message_ends_a_script_only_when_it_is_over() {
    let mut sim = Fixture::start().await;
    for path in [OPENAI, ANTHROPIC] {
        let rounds = json!([[{"name": "a", "arguments": {}}], [{"name": "b", "arguments": {}}]]);
        let mut body = request(&order(&rounds), &["python"], path);
        let more = json!({"role": "user", "content": "Go on.\n```python\n1\n```"});
        let first = ask(&mut sim, path, &body).await;
        answer_calls(&mut body, path, &first, "A");
        body["messages"].as_array_mut().unwrap().push(more.clone());
        let second = ask(&mut sim, path, &body).await;
        assert_eq!(second.calls[0].1, "b");
        answer_calls(&mut body, path, &second, "B");
        body["messages"].as_array_mut().unwrap().push(more);
        let third = ask_once(&mut sim, path, &body).await;
        assert_eq!(third.arguments(), [r#"{"code":"1"}"#]);
        let again = json!({"role": "user", "content": order(&rounds)});
        body["messages"].as_array_mut().unwrap().push(again);
        assert_eq!(ask(&mut sim, path, &body).await.calls[0].1, "a");
    }
}

#[tokio::test]
async fn fenced_code_is_run_and_its_result_is_quoted() {
    let mut sim = Fixture::start().await;
    let text = "Please run this.\n```python\nprint(6 * 7)\nx = \"é\"\n```\n```sh\nls -l\n```\n";
    for path in [OPENAI, ANTHROPIC] {
        let mut body = request(text, &["exec", "python"], path);
        let said = ask_once(&mut sim, path, &body).await;
        let names: Vec<&str> = said.calls.iter().map(|call| call.1.as_str()).collect();
        assert_eq!(names, ["python", "exec"]);
        assert_eq!(
            said.arguments(),
            [
                r#"{"code":"print(6 * 7)\nx = \"é\""}"#,
                r#"{"command":"ls -l"}"#
            ]
        );
        answer_calls(&mut body, path, &said, "42");
        let last = ask(&mut sim, path, &body).await;
        assert!(last.calls.is_empty() && last.text.contains("The tool returned: 42."));
        let only_python = request(text, &["python"], path);
        assert_eq!(ask_once(&mut sim, path, &only_python).await.calls.len(), 1);
        let none = request(text, &["another"], path);
        assert!(ask_once(&mut sim, path, &none).await.calls.is_empty());
    }
}

async fn ask_once(sim: &mut Fixture, path: &str, body: &Value) -> Said {
    Said::of(path, false, &sim.post(path, body).await)
}
