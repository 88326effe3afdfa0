//! What is measured, and the bytes that are sent.

use std::time::Duration;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) concurrency: usize,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    /// A stream of [`CHUNKS`] with this pause between two chunks.
    Stream(Duration),
}

/// Pieces of text in a stream; the finish, the usage and the end mark come on top.
pub(crate) const CHUNKS: usize = 50;
/// Five chunks a second: many streams at once, too long for a quick run.
pub(crate) const SLOW_PACE: Duration = Duration::from_millis(200);
/// Model name at the mock and at the gateway.
pub(crate) const MODEL: &str = "bench-chat";
/// Marks the pause between chunks in the request, as the gateway passes no foreign header on.
pub(crate) const PACE_MARK: &str = "pace=";
/// Size of a request body and of a whole answer's body.
pub(crate) const BODY_BYTES: usize = 1024;

/// Every scenario, in the order of the table.
pub(crate) const SCENARIOS: [Scenario; 6] = [
    Scenario {
        name: "chat-c1",
        concurrency: 1,
        kind: Kind::Chat,
    },
    Scenario {
        name: "chat-c32",
        concurrency: 32,
        kind: Kind::Chat,
    },
    Scenario {
        name: "chat-c512",
        concurrency: 512,
        kind: Kind::Chat,
    },
    Scenario {
        name: "stream-paced",
        concurrency: 100,
        kind: Kind::Stream(Duration::from_millis(20)),
    },
    Scenario {
        name: "stream-burst",
        concurrency: 32,
        kind: Kind::Stream(Duration::ZERO),
    },
    Scenario {
        name: "stream-1000",
        concurrency: 1000,
        kind: Kind::Stream(SLOW_PACE),
    },
];

impl Scenario {
    /// The bytes of one request, head and body, with this bearer token.
    pub(crate) fn request(&self, token: &str) -> Vec<u8> {
        self.request_with(token, "")
    }

    /// The same with header lines more, each with its line end.
    pub(crate) fn request_with(&self, token: &str, headers: &str) -> Vec<u8> {
        let tail = match self.kind {
            Kind::Chat => String::new(),
            Kind::Stream(_) => {
                r#","stream":true,"stream_options":{"include_usage":true}"#.to_owned()
            }
        };
        let pace = match self.kind {
            Kind::Chat => String::new(),
            Kind::Stream(pause) => format!("{PACE_MARK}{}ms ", pause.as_millis()),
        };
        let mut request = request(token, MODEL, BODY_BYTES, &pace, &tail);
        let at = memchr::memmem::find(&request, b"\r\n").map_or(0, |at| at + 2);
        drop(request.splice(at..at, headers.bytes()));
        request
    }
}

/// The bytes of one request, head and body: this bearer token, model, body size, mark at the beginning of the text, and members at
/// the end of the body.
pub(crate) fn request(token: &str, model: &str, bytes: usize, pace: &str, tail: &str) -> Vec<u8> {
    let head = format!(
        r#"{{"model":"{model}","max_tokens":300,"temperature":0.7,"messages":[{{"role":"system","content":"You are a benchmark."}},{{"role":"user","content":"{pace}"#
    );
    let end = format!(r#""}}]{tail}}}"#);
    let text = filler(bytes.saturating_sub(head.len() + end.len()));
    let body = format!("{head}{text}{end}");
    let mut request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\naccept: application/json\r\nuser-agent: bench\r\n\
             content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body.as_bytes());
    request
}

/// The body of a whole answer.
pub(crate) fn chat_answer() -> String {
    let head = format!(
        r#"{{"id":"chatcmpl-bench","object":"chat.completion","created":1793491200,"model":"{MODEL}","choices":[{{"index":0,"message":{{"role":"assistant","content":""#
    );
    let end = r#"","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":250,"completion_tokens":150,"total_tokens":400,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0}},"service_tier":"default","system_fingerprint":"fp_bench"}"#;
    format!(
        "{head}{}{end}",
        filler(BODY_BYTES.saturating_sub(head.len() + end.len()))
    )
}

/// Prices of the upstream's model in the form of the field's price file.
pub(crate) fn rate_card(model: &str) -> String {
    format!(
        r#"{{"{model}":{{"litellm_provider":"openai","mode":"chat","max_input_tokens":128000,"max_output_tokens":16384,"input_cost_per_token":2.5e-06,"output_cost_per_token":1e-05,"cache_read_input_token_cost":1.25e-06}}}}"#
    )
}

fn filler(bytes: usize) -> String {
    "the quick brown fox jumps over the lazy dog "
        .chars()
        .cycle()
        .take(bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_the_stated_size() {
        for scenario in SCENARIOS {
            let request = scenario.request("tk");
            let at = memchr::memmem::find(&request, b"\r\n\r\n").unwrap() + 4;
            assert_eq!(request.len() - at, BODY_BYTES, "{}", scenario.name);
            serde_json::from_slice::<serde_json::Value>(&request[at..]).unwrap();
        }
        assert_eq!(chat_answer().len(), BODY_BYTES);
        serde_json::from_str::<serde_json::Value>(&chat_answer()).unwrap();
        serde_json::from_str::<serde_json::Value>(&rate_card(MODEL)).unwrap();
    }
}
