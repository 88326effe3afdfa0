//! What a call asks for beside its content, for its audit entry above the lowest logging level.

use kernel::audit::notes::Asked;
use llm::{Operation, Request};
use serde::Deserialize;
use serde::de::{IgnoredAny, SeqAccess, Visitor};

/// Bytes of a number as a client writes it; a longer one is left out.
const NUMBER_BYTES: usize = 32;

/// Reads what a request asks for.
pub(crate) fn asked(request: &Request) -> Asked {
    let operation = request.operation();
    let messages = match operation {
        Operation::Embeddings => "input",
        Operation::ChatCompletions | Operation::Messages => "messages",
    };
    let temperature = request.member("temperature");
    let number = |text: &&str| text.len() <= NUMBER_BYTES && *text != "null";
    Asked {
        operation: operation.as_str(),
        streamed: request.stream(),
        messages: request.member(messages).map(elements),
        max_tokens: request.max_output(),
        temperature: temperature.filter(number).map(str::to_owned),
        tools: tools(request),
    }
}

/// Elements of a list; what is no list is one.
fn elements(json: &str) -> u64 {
    serde_json::from_str(json).map_or(1, |Count(count)| count)
}

struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Counting)
    }
}

struct Counting;

impl<'de> Visitor<'de> for Counting {
    type Value = Count;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Count, A::Error> {
        let mut count = 0;
        while list.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Count(count))
    }
}

/// A tool in either dialect; older clients of `OpenAI`'s send the functions alone.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Tool {
    name: Option<String>,
    function: Option<Named>,
    custom: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// Names of the tools offered. A list that cannot be read, which no provider takes, has none.
fn tools(request: &Request) -> Vec<String> {
    let listed = ["tools", "functions"].into_iter();
    let read = |json| serde_json::from_str::<Vec<Tool>>(json).unwrap_or_default();
    let all = listed
        .filter_map(|name| request.member(name))
        .flat_map(read);
    let inner = |tool: Tool| tool.function.or(tool.custom).map(|named| named.name);
    all.map(|mut tool| tool.name.take().or_else(|| inner(tool)).unwrap_or_default())
        .collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn read(operation: Operation, body: &str) -> Asked {
        asked(&Request::parse(operation, Bytes::copy_from_slice(body.as_bytes())).unwrap())
    }

    #[test]
    fn each_dialect_says_what_it_asks() {
        let chat = read(
            Operation::ChatCompletions,
            r#"{"model":"m","stream":true,"temperature":0.70,"max_completion_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"user","content":"y"}],"tools":[{"type":"function","function":{"name":"look"}},{"type":"custom","custom":{"name":"grep"}}]}"#,
        );
        let expect = Asked {
            operation: "chat.completions",
            streamed: true,
            messages: Some(2),
            max_tokens: Some(9),
            temperature: Some("0.70".to_owned()),
            tools: vec!["look".to_owned(), "grep".to_owned()],
        };
        assert_eq!(chat, expect);
        let messages = read(
            Operation::Messages,
            r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"x"}],"tools":[{"name":"look","input_schema":{"type":"object"}}]}"#,
        );
        assert_eq!((messages.messages, messages.streamed), (Some(1), false));
        assert_eq!(messages.tools, ["look"]);
        let plain = read(Operation::Embeddings, r#"{"model":"m","input":"one text"}"#);
        assert_eq!((plain.messages, plain.temperature), (Some(1), None));
        let many = read(
            Operation::Embeddings,
            r#"{"model":"m","input":["one","two"]}"#,
        );
        assert_eq!((many.messages, many.tools.len()), (Some(2), 0));
    }
}
