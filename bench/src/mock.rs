//! The mock upstream: as little work per request as possible, so that the core it shares with the
//! load generator is not the bottleneck.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::process::now_us;
use crate::scenario::{CHUNKS, MODEL, PACE_MARK, chat_answer};

/// Largest request the mock reads: an attack with large bodies passes.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the mock counts: read through `GET /stats`.
#[derive(Default)]
struct Counters {
    connections: Cell<u64>,
    requests: Cell<u64>,
}

/// One request as far as the mock cares.
struct Asked {
    stats: bool,
    stream: bool,
    pace: Duration,
    bytes: usize,
}

/// Serves for ever.
pub(crate) async fn serve(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).await?;
    crate::announce(listener.local_addr()?)?;
    let body = chat_answer();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_bench\r\n";
    let whole: Rc<[u8]> = format!("{head}content-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
        .into();
    let counters = Rc::new(Counters::default());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                counters.connections.set(counters.connections.get() + 1);
                connections.spawn_local(connection(stream, Rc::clone(&whole), Rc::clone(&counters)));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(
    mut stream: TcpStream,
    whole: Rc<[u8]>,
    counters: Rc<Counters>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::with_capacity(16 * 1024);
    loop {
        let asked = loop {
            if let Some(asked) = parse(&buffer)? {
                break asked;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..asked.bytes);
        if asked.stats {
            let body = format!("{} {}", counters.connections.get(), counters.requests.get());
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await?;
            continue;
        }
        counters.requests.set(counters.requests.get() + 1);
        if asked.stream {
            send_stream(&mut stream, asked.pace).await?;
        } else {
            stream.write_all(&whole).await?;
        }
    }
}

async fn send_stream(stream: &mut TcpStream, pace: Duration) -> io::Result<()> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n\
                x-request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut out = String::with_capacity(1024);
    out.push_str(head);
    for index in 0..CHUNKS {
        let role = if index == 0 {
            r#""role":"assistant","#
        } else {
            ""
        };
        let choice = format!(
            r#"{{"index":0,"delta":{{{role}"content":"t{} token"}},"logprobs":null,"finish_reason":null}}"#,
            now_us()
        );
        event(&mut out, &chunk(&choice, "null"));
        stream.write_all(out.as_bytes()).await?;
        out.clear();
        if pace.is_zero() {
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(pace).await;
        }
    }
    let finish = r#"{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}"#;
    event(&mut out, &chunk(finish, "null"));
    event(
        &mut out,
        &chunk(
            "",
            r#"{"prompt_tokens":250,"completion_tokens":50,"total_tokens":300}"#,
        ),
    );
    event(&mut out, "data: [DONE]\n\n");
    out.push_str("0\r\n\r\n");
    stream.write_all(out.as_bytes()).await
}

fn chunk(choice: &str, usage: &str) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1793491200,\
         \"model\":\"{MODEL}\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_bench\",\
         \"choices\":[{choice}],\"usage\":{usage}}}\n\n"
    )
}

fn event(out: &mut String, data: &str) {
    // Writing to a string does not fail.
    let _ = write!(out, "{:x}\r\n{data}\r\n", data.len());
}

/// One whole request at the start of the buffer, or `None` while it is incomplete.
fn parse(buffer: &[u8]) -> io::Result<Option<Asked>> {
    if buffer.len() > REQUEST_BYTES_MAX {
        return Err(io::Error::other("request too large for the mock"));
    }
    let Some(head_end) = memmem::find(buffer, b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &buffer[..head_end];
    let stats = head.starts_with(b"GET /stats");
    let length = match header(head, b"content-length:") {
        Some(length) => length,
        None if stats => 0,
        None => {
            return Err(io::Error::other(
                "the mock reads bodies of stated length only",
            ));
        }
    };
    let bytes = head_end + 4 + length;
    if buffer.len() < bytes {
        return Ok(None);
    }
    let body = &buffer[head_end + 4..bytes];
    let stream = memmem::find(body, b"\"stream\":true").is_some()
        || memmem::find(body, b"\"stream\": true").is_some();
    let pace = if stream { pace(body) } else { Duration::ZERO };
    Ok(Some(Asked {
        stats,
        stream,
        pace,
        bytes,
    }))
}

fn header(head: &[u8], name: &[u8]) -> Option<usize> {
    let line = head
        .split(|byte| *byte == b'\n')
        .find(|line| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name))?;
    std::str::from_utf8(&line[name.len()..])
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn pace(body: &[u8]) -> Duration {
    let Some(at) = memmem::find(body, PACE_MARK.as_bytes()) else {
        return Duration::ZERO;
    };
    let digits = body[at + PACE_MARK.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Duration::from_millis(
        digits
            .take(6)
            .fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0')),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::SCENARIOS;

    #[test]
    fn reads_what_the_load_generator_sends() {
        for scenario in SCENARIOS {
            let request = scenario.request("tk");
            assert!(parse(&request[..request.len() - 1]).unwrap().is_none());
            let asked = parse(&request).unwrap().unwrap();
            assert_eq!(asked.bytes, request.len());
            let crate::scenario::Kind::Stream(pause) = scenario.kind else {
                assert!(!asked.stream);
                continue;
            };
            assert!(asked.stream && asked.pace == pause);
        }
    }
}
