//! The server through HTTP: both wires, streams, tools, orders.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{Options, Simulator, Watch};

mod script;

/// A simulator that serves until the test ends, and what a client got.
struct Fixture {
    addr: SocketAddr,
    watch: Watch,
    tasks: JoinSet<()>,
}

struct Got {
    status: u16,
    response: hyper::http::response::Parts,
    body: Vec<u8>,
    /// Whether the body ended as HTTP says it must.
    whole: bool,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(Options::for_tests()).await
    }

    async fn with(options: Options) -> Self {
        let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), options)
            .await
            .unwrap();
        let (addr, watch) = (simulator.addr(), simulator.watch());
        let mut tasks = JoinSet::new();
        tasks.spawn(simulator.serve(std::future::pending()));
        Self { addr, watch, tasks }
    }

    async fn send(&mut self, path: &str, body: &Value) -> Result<Response<Incoming>, hyper::Error> {
        let stream = TcpStream::connect(self.addr).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        let request = Request::post(path)
            .header("host", "sim")
            .header("authorization", "Bearer sk-test")
            .header("content-type", "application/json");
        let request = if path.starts_with("/v1/messages") {
            request
                .header("x-api-key", "sk-test")
                .header("anthropic-version", "2023-06-01")
        } else {
            request
        };
        sender
            .send_request(
                request
                    .body(Full::new(Bytes::from(body.to_string())))
                    .unwrap(),
            )
            .await
    }

    async fn post(&mut self, path: &str, body: &Value) -> Got {
        let (response, mut body) = self.send(path, body).await.unwrap().into_parts();
        let mut bytes = Vec::new();
        let whole = loop {
            match body.frame().await {
                Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => break false,
                None => break true,
            }
        };
        Got {
            status: response.status.as_u16(),
            response,
            body: bytes,
            whole,
        }
    }

    async fn chat(&mut self, text: &str) -> Got {
        self.post(
            "/v1/chat/completions",
            &json!({"model": "sim-fast", "messages": [{"role": "user", "content": text}]}),
        )
        .await
    }

    async fn chat_stream(&mut self, text: &str) -> Got {
        let body = json!({
            "model": "sim-fast",
            "stream": true,
            "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": text}],
        });
        self.post("/v1/chat/completions", &body).await
    }

    async fn message_stream(&mut self, text: &str) -> Got {
        let body = json!({
            "model": "sim-fast",
            "max_tokens": 4096,
            "stream": true,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "messages": [{"role": "user", "content": text}],
        });
        self.post("/v1/messages", &body).await
    }
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn events(&self) -> Vec<Value> {
        self.text()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap())
            .collect()
    }

    fn header(&self, name: &str) -> &str {
        self.response
            .headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

fn weather() -> Value {
    json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    })
}

#[tokio::test]
async fn only_loopback() {
    let refused = Simulator::bind("0.0.0.0:0".parse().unwrap(), Options::default()).await;
    assert_eq!(
        refused.err().map(|error| error.kind()),
        Some(std::io::ErrorKind::InvalidInput)
    );
}

#[tokio::test]
async fn a_stream_says_what_the_whole_answer_says() {
    let mut sim = Fixture::start().await;
    let whole = sim.chat("Tell me something.").await.json();
    let said = whole["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(said.starts_with("This is a simulated answer"), "{said}");
    assert!(said.contains("Tell me something."));
    let stream = sim.chat_stream("Tell me something.").await;
    assert!(stream.whole && stream.text().ends_with("data: [DONE]\n\n"));
    let events = stream.events();
    let streamed: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(streamed, said);
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
    assert_eq!(events.last().unwrap()["choices"], json!([]));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
}

#[tokio::test]
async fn messages_think_sign_and_check_their_signature() {
    let mut sim = Fixture::start().await;
    let stream = sim.message_stream("Hello").await;
    let kinds: Vec<Value> = stream
        .events()
        .iter()
        .map(|event| event["type"].clone())
        .collect();
    assert_eq!(
        (&kinds[0], kinds.last().unwrap()),
        (&json!("message_start"), &json!("message_stop"))
    );
    assert!(stream.text().contains("signature_delta") && stream.text().contains("thinking_delta"));
    let mut body = json!({
        "model": "sim-fast",
        "max_tokens": 4096,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let answer = sim.post("/v1/messages", &body).await.json();
    assert_eq!(answer["content"][0]["type"], "thinking");
    let history = json!([
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": "Again"},
    ]);
    body["messages"] = history;
    assert_eq!(sim.post("/v1/messages", &body).await.status, 200);
    body["messages"][1]["content"][0]["signature"] = json!("forged");
    let refused = sim.post("/v1/messages", &body).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (400, &json!("invalid_request_error"))
    );
}

#[tokio::test]
async fn tools_on_both_wires() {
    let mut sim = Fixture::start().await;
    let question = "What is the weather in Paris and Rome?";
    let mut body = json!({
        "model": "sim-fast",
        "messages": [{"role": "user", "content": question}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": weather()}}],
    });
    let answer = sim.post("/v1/chat/completions", &body).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    let calls = message["tool_calls"].as_array().unwrap();
    let arguments: Vec<&str> = calls
        .iter()
        .map(|call| call["function"]["arguments"].as_str().unwrap())
        .collect();
    assert_eq!(
        arguments,
        [
            r#"{"city":"Paris","unit":"celsius"}"#,
            r#"{"city":"Rome","unit":"celsius"}"#
        ]
    );
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(message.clone());
    messages.push(json!({"role": "tool", "tool_call_id": calls[0]["id"], "content": "18 degrees"}));
    assert_eq!(
        sim.post("/v1/chat/completions", &body).await.status,
        400,
        "one result is missing"
    );
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "tool", "tool_call_id": calls[1]["id"], "content": "24 degrees"}));
    let last = sim.post("/v1/chat/completions", &body).await.json();
    let said = last["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(
        said.contains("18 degrees") && said.contains("24 degrees"),
        "{said}"
    );

    let body = json!({
        "model": "sim-fast",
        "max_tokens": 500,
        "stream": true,
        "messages": [{"role": "user", "content": question}],
        "tools": [{"name": "get_weather", "input_schema": weather()}],
    });
    let stream = sim.post("/v1/messages", &body).await;
    let json: String = stream
        .events()
        .iter()
        .filter(|event| event["index"] == 1)
        .filter_map(|event| event["delta"]["partial_json"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap(),
        json!({"city": "Paris", "unit": "celsius"})
    );
    assert!(stream.text().contains(r#""stop_reason":"tool_use""#));
}

#[tokio::test]
async fn limits_stops_and_schemas() {
    let mut sim = Fixture::start().await;
    let body = json!({"model": "sim-fast", "max_tokens": 3, "messages": [{"role": "user", "content": "x"}]});
    let answer = sim.post("/v1/chat/completions", &body).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let body = json!({"model": "sim-fast", "max_tokens": 99, "stop_sequences": ["simulated"],
        "messages": [{"role": "user", "content": "x"}]});
    let answer = sim.post("/v1/messages", &body).await.json();
    assert_eq!(
        (&answer["stop_reason"], &answer["stop_sequence"]),
        (&json!("stop_sequence"), &json!("simulated"))
    );
    let body = json!({"model": "sim-reasoning", "n": 2, "messages": [{"role": "user", "content": "x"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": weather()}}});
    let answer = sim.post("/v1/chat/completions", &body).await.json();
    let content = answer["choices"][1]["message"]["content"].as_str().unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(content).unwrap()["unit"],
        "celsius"
    );
    assert_eq!(
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
        64
    );
}

#[tokio::test]
async fn usage_is_exact_on_demand_and_odd_on_demand() {
    let mut sim = Fixture::start().await;
    let fixed = "[[sim:fixed_usage=1000:500 cache_read=200 reasoning=100]]";
    let usage = sim.chat(fixed).await.json()["usage"].clone();
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(1200), &json!(500))
    );
    let body = json!({"model": "sim-fast", "max_tokens": 9, "messages": [{"role": "user", "content": fixed}]});
    let usage = sim.post("/v1/messages", &body).await.json()["usage"].clone();
    assert_eq!(
        (&usage["input_tokens"], &usage["cache_read_input_tokens"]),
        (&json!(1000), &json!(200))
    );
    for (odd, want) in [
        ("negative", json!(-5)),
        ("string", json!("12")),
        ("huge", json!(9_223_372_036_854_775_808_u64)),
    ] {
        let usage = sim.chat(&format!("[[sim:usage={odd}]]")).await.json()["usage"].clone();
        assert_eq!(usage["completion_tokens"], want, "{odd}");
    }
    assert!(
        sim.chat("[[sim:usage=missing]]")
            .await
            .json()
            .get("usage")
            .is_none()
    );
    let stream = sim.chat_stream("[[sim:usage=on_choices]]").await.events();
    let last = stream.last().unwrap();
    assert!(
        last["usage"]["total_tokens"].is_u64() && last["choices"][0]["finish_reason"] == "stop"
    );
}

#[tokio::test]
async fn caches_count_reads_and_writes() {
    let mut sim = Fixture::start().await;
    let system = "Long instructions. ".repeat(300);
    let body = json!({
        "model": "sim-fast",
        "max_tokens": 50,
        "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        "messages": [{"role": "user", "content": "Hello"}],
    });
    let first = sim.post("/v1/messages", &body).await.json()["usage"].clone();
    let second = sim.post("/v1/messages", &body).await.json()["usage"].clone();
    assert!(first["cache_creation_input_tokens"].as_u64().unwrap() > 1000);
    assert_eq!(
        first["cache_creation_input_tokens"],
        second["cache_read_input_tokens"]
    );
    assert_eq!(second["cache_creation_input_tokens"], 0);
}

#[tokio::test]
async fn streams_break_as_ordered() {
    let mut sim = Fixture::start().await;
    for fault in ["cut_after:3", "reset_after:3"] {
        let got = sim.chat_stream(&format!("[[sim:fault={fault}]]")).await;
        assert!(!got.whole, "{fault}");
        assert_eq!(
            got.events().len(),
            4,
            "{fault}: the opening and three pieces"
        );
        assert!(
            !sim.message_stream(&format!("[[sim:fault={fault}]]"))
                .await
                .whole
        );
        assert!(!sim.chat(&format!("[[sim:fault={fault}]]")).await.whole);
    }
    let ended = sim.chat_stream("[[sim:fault=end_after:2]]").await;
    assert!(ended.whole && !ended.text().contains("[DONE]") && !ended.text().contains("\"stop\""));
    assert!(
        !sim.message_stream("[[sim:fault=no_end]]")
            .await
            .text()
            .contains("message_stop")
    );
    assert!(
        sim.message_stream("[[sim:fault=error_event:1]]")
            .await
            .text()
            .contains("event: error\n")
    );
    assert_eq!(
        sim.chat_stream("[[sim:fault=double_done]]")
            .await
            .text()
            .matches("[DONE]")
            .count(),
        2
    );
    assert!(
        sim.chat_stream("[[sim:fault=crlf]]")
            .await
            .text()
            .ends_with("[DONE]\r\n\r\n")
    );
    assert!(
        sim.chat_stream("[[sim:fault=long_line:100000]]")
            .await
            .body
            .len()
            > 100_000
    );
    assert!(String::from_utf8(sim.chat_stream("[[sim:fault=bad_utf8]]").await.body).is_err());
    assert!(
        serde_json::from_slice::<Value>(&sim.chat("[[sim:fault=malformed]]").await.body).is_err()
    );
}

#[tokio::test]
async fn a_hanging_stream_neither_goes_on_nor_ends() {
    let mut sim = Fixture::start().await;
    let order = "[[sim:fault=hang_after:2]]";
    for _ in 0..2 {
        let waited = tokio::time::timeout(Duration::from_millis(300), sim.chat_stream(order)).await;
        assert!(waited.is_err());
        let waited = tokio::time::timeout(Duration::from_millis(300), sim.chat(order)).await;
        assert!(waited.is_err());
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(sim.watch.stats().finished, 0);
    assert_eq!(
        sim.watch.stats().requests_open,
        0,
        "a hang-up of the client ends the exchange"
    );
}

#[tokio::test]
async fn heads_break_as_ordered() {
    let mut sim = Fixture::start().await;
    for code in [400, 401, 403, 404, 429, 500, 503, 529] {
        let got = sim.chat(&format!("[[sim:fault=status:{code}:9]]")).await;
        assert_eq!((got.status, got.header("retry-after")), (code, "9"));
        assert!(got.json()["error"]["message"].is_string());
    }
    let moved = sim.chat("[[sim:fault=redirect]]").await;
    assert_eq!(
        (moved.status, moved.header("location")),
        (302, "http://169.254.169.254/latest/meta-data/")
    );
    assert_eq!(
        sim.chat("[[sim:fault=echo_key]]")
            .await
            .header("x-echo-key"),
        "sk-test"
    );
    let zipped = sim.chat("[[sim:fault=gzip]]").await;
    assert_eq!(
        (zipped.header("content-encoding"), &zipped.body[..2]),
        ("gzip", &[0x1f, 0x8b][..])
    );
    assert_eq!(
        sim.chat_stream("[[sim:fault=content_type]]")
            .await
            .header("content-type"),
        "text/html"
    );
    let body = json!({"model": "sim-fast[[sim:fault=disconnect]]", "messages": [{"role": "user", "content": "x"}]});
    assert!(sim.send("/v1/chat/completions", &body).await.is_err());
    let hang = json!({"model": "sim-fast[[sim:fault=hang]]", "messages": [{"role": "user", "content": "x"}]});
    let waited = tokio::time::timeout(
        Duration::from_millis(200),
        sim.send("/v1/chat/completions", &hang),
    )
    .await;
    assert!(waited.is_err());
    assert_eq!(sim.chat("[[sim:fault=no_such_fault]]").await.status, 400);
}

#[tokio::test]
async fn faults_can_be_limited() {
    let mut sim = Fixture::start().await;
    let statuses = async |sim: &mut Fixture| {
        let mut all = Vec::new();
        for _ in 0..3 {
            all.push(
                sim.chat("[[sim:times=2 fault=status:500 tag=a]]")
                    .await
                    .status,
            );
        }
        all
    };
    assert_eq!(statuses(&mut sim).await, [500, 500, 200]);
    assert_eq!(
        sim.chat("[[sim:on=sim-large fault=status:500]]")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn keys_are_checked() {
    let options = Options {
        api_key: Some("another".to_owned()),
        ..Options::default()
    };
    let mut sim = Fixture::with(options).await;
    assert_eq!(sim.chat("hello").await.status, 401);
    let refused = sim.message_stream("hello").await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (401, &json!("authentication_error"))
    );
    assert_eq!(
        sim.post("/sim/stats", &json!({})).await.status,
        401,
        "no control routes unless asked for"
    );
}

#[tokio::test]
async fn embeddings_come_in_both_forms() {
    use base64::Engine as _;
    let mut sim = Fixture::start().await;
    let mut body = json!({"model": "sim-embed", "input": ["a", "b"], "dimensions": 8});
    let floats = sim.post("/v1/embeddings", &body).await.json();
    body["encoding_format"] = json!("base64");
    let packed = sim.post("/v1/embeddings", &body).await.json();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(packed["data"][1]["embedding"].as_str().unwrap())
        .unwrap();
    let first = f32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert!((f64::from(first) - floats["data"][1]["embedding"][0].as_f64().unwrap()).abs() < 1e-6);
    assert_eq!(bytes.len(), 32);
    assert_eq!(sim.chat("x [[sim:on=sim-embed]]").await.status, 200);
    let wrong = json!({"model": "sim-embed", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(sim.post("/v1/chat/completions", &wrong).await.status, 400);
}

#[tokio::test]
async fn the_ledger_knows_what_was_finished() {
    let mut sim = Fixture::start().await;
    sim.chat("[[sim:fixed_usage=10:20]]").await;
    sim.chat_stream("[[sim:fault=cut_after:1]]").await;
    sim.chat("[[sim:fault=status:500]]").await;
    let records = sim.watch.requests();
    let seen: Vec<(u16, bool, bool)> = records
        .iter()
        .map(|record| (record.status, record.finished, record.usage.is_some()))
        .collect();
    assert_eq!(
        seen,
        [(200, true, true), (200, false, true), (500, true, false)]
    );
    assert_eq!(records[0].usage.unwrap().output, 20);
    assert!(records[0].body.as_ref().unwrap().contains("fixed_usage"));
    assert!(
        records[0]
            .headers
            .contains(&("authorization".to_owned(), "Bearer sk-test".to_owned()))
    );
    let stats = sim.watch.stats();
    assert_eq!(
        (stats.requests, stats.finished, stats.requests_open),
        (3, 2, 0)
    );
    sim.watch.reset();
    assert!(sim.watch.requests().is_empty());
}
