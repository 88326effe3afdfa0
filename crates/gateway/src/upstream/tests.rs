//! The client against upstreams that behave; those that do not are in `hostile`.

mod hostile;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kernel::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::*;
use crate::catalog::tests::spec;
use crate::catalog::{ProviderKind, ProviderSpec, Timeouts};

/// A local upstream: each connection is handed to `script`.
struct Upstreamed {
    at: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Upstreamed {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own server, gone with its runtime"
)]
fn background(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

async fn upstream<F, W>(script: F) -> Upstreamed
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    background(async move {
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            background(script(stream));
        }
    });
    Upstreamed { at, connections }
}

/// Reads one request; `None` when the peer closed.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|l| l.strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if read.len() >= end + 4 + length {
                return Some(String::from_utf8_lossy(&read).into_owned());
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

/// Answers every request of a connection with the same bytes.
async fn answering(answer: Vec<u8>) -> Upstreamed {
    let answer: Arc<[u8]> = answer.into();
    upstream(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move {
            while read_request(&mut stream).await.is_some() {
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

const QUICK: Timeouts = Timeouts {
    connect: Duration::from_secs(2),
    first_byte: Duration::from_millis(300),
    idle: Duration::from_millis(300),
    total: Duration::from_secs(2),
};

fn provider_at(at: SocketAddr, kind: ProviderKind, timeouts: Timeouts) -> Provider {
    let path = if kind == ProviderKind::OpenAi {
        "/v1"
    } else {
        ""
    };
    Provider::new(ProviderSpec {
        timeouts,
        ..spec("local", kind, &format!("http://{at}{path}"))
    })
    .unwrap()
}

fn call(stream: bool) -> OutboundCall {
    OutboundCall {
        operation: Operation::ChatCompletions,
        body: Bytes::from_static(b"{\"model\":\"m\"}"),
        stream,
        anthropic_beta: None,
    }
}

fn key_for(provider: &Provider) -> Credential {
    Credential::bind(provider, &Secret::new(b"sk-test-key".to_vec()).unwrap()).unwrap()
}

async fn send(client: &Upstream, provider: &Provider, stream: bool) -> Result<Response, SendError> {
    client
        .send(provider, &key_for(provider), call(stream))
        .await
}

async fn quick(upstream: &Upstreamed, stream: bool) -> Result<Response, SendError> {
    send(
        &Upstream::new(),
        &provider_at(upstream.at, ProviderKind::OpenAi, QUICK),
        stream,
    )
    .await
}

const SIZED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
    7\r\ndata: 1\r\n2\r\n\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

#[tokio::test]
async fn a_thousand_requests_use_one_connection() {
    for (answer, stream, whole) in [
        (SIZED, false, &b"{\"ok\":true}"[..]),
        (SIZED, true, b"{\"ok\":true}"),
        (CHUNKED, false, b"data: 1\n\ndata: [DONE]\n\n"),
        (CHUNKED, true, b"data: 1\n\ndata: [DONE]\n\n"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", false, b""),
        (
            b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}",
            true,
            b"{}",
        ),
    ] {
        let upstream = answering(answer.to_vec()).await;
        let client = Upstream::new();
        let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
        for _ in 0..1_000 {
            let mut response = send(&client, &provider, stream).await.unwrap();
            assert_eq!(response.body.whole().await.unwrap(), whole);
        }
        assert_eq!(
            upstream.connections(),
            1,
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

/// A reader that stops at `is_end_stream`, as hyper's server does with a sized body, also gives
/// the connection back.
#[tokio::test]
async fn a_body_that_is_not_polled_to_none_returns_its_connection() {
    let upstream = answering(SIZED.to_vec()).await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for _ in 0..100 {
        let mut response = send(&client, &provider, false).await.unwrap();
        while !http_body::Body::is_end_stream(&response.body) {
            response.body.chunk().await.unwrap();
        }
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn thirty_two_at_once_use_thirty_two_connections() {
    let upstream = answering(SIZED.to_vec()).await;
    let client = Arc::new(Upstream::new());
    let provider = Arc::new(provider_at(
        upstream.at,
        ProviderKind::OpenAi,
        Timeouts::default(),
    ));
    let done = Arc::new(AtomicUsize::new(0));
    for _ in 0..32 {
        let (client, provider, done) = (
            Arc::clone(&client),
            Arc::clone(&provider),
            Arc::clone(&done),
        );
        background(async move {
            for _ in 0..50 {
                send(&client, &provider, false)
                    .await
                    .unwrap()
                    .body
                    .whole()
                    .await
                    .unwrap();
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
    }
    while done.load(Ordering::SeqCst) < 32 {
        sleep(Duration::from_millis(5)).await;
    }
    assert!(
        (1..=32).contains(&upstream.connections()),
        "{}",
        upstream.connections()
    );
}

#[tokio::test]
async fn only_our_own_headers_go_out() {
    for (kind, operation, line, own) in [
        (
            ProviderKind::OpenAi,
            Operation::ChatCompletions,
            "POST /v1/chat/completions HTTP/1.1",
            &["authorization: bearer sk-test-key"][..],
        ),
        (
            ProviderKind::OpenAi,
            Operation::Embeddings,
            "POST /v1/embeddings HTTP/1.1",
            &["authorization: bearer sk-test-key"],
        ),
        (
            ProviderKind::Anthropic,
            Operation::Messages,
            "POST /v1/messages HTTP/1.1",
            &[
                "x-api-key: sk-test-key",
                "anthropic-version: 2023-06-01",
                "anthropic-beta: pdfs-2024-09-25",
            ],
        ),
    ] {
        let (seen, mut heads) = tokio::sync::mpsc::channel(1);
        let upstream = upstream(move |mut stream| {
            let seen = seen.clone();
            async move {
                seen.send(read_request(&mut stream).await.unwrap())
                    .await
                    .unwrap();
                stream.write_all(SIZED).await.unwrap();
            }
        })
        .await;
        let provider = provider_at(upstream.at, kind, QUICK);
        let beta = http::HeaderValue::from_static("pdfs-2024-09-25");
        let anthropic_beta = AnthropicBeta::parse([&beta]).unwrap();
        let call = OutboundCall {
            operation,
            anthropic_beta,
            ..call(false)
        };
        Upstream::new()
            .send(&provider, &key_for(&provider), call)
            .await
            .unwrap();
        let request = heads.recv().await.unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "{\"model\":\"m\"}");
        let mut lines = head.split("\r\n");
        assert_eq!(lines.next(), Some(line));
        let mut found: Vec<String> = lines.map(str::to_ascii_lowercase).collect();
        let mut expect: Vec<String> = own.iter().map(|s| (*s).to_owned()).collect();
        expect.extend([
            format!("host: {}", upstream.at),
            "accept: application/json".to_owned(),
            "accept-encoding: identity".to_owned(),
            "content-length: 13".to_owned(),
            "content-type: application/json".to_owned(),
            "user-agent: partywall".to_owned(),
        ]);
        found.sort();
        expect.sort();
        assert_eq!(found, expect);
    }
}

#[tokio::test]
async fn a_key_never_leaves_for_another_origin() {
    let upstream = answering(SIZED.to_vec()).await;
    let home = Provider::new(spec(
        "local",
        ProviderKind::OpenAi,
        "https://api.example.com/v1",
    ))
    .unwrap();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, QUICK);
    let refused = Upstream::new()
        .send(&provider, &key_for(&home), call(false))
        .await;
    assert_eq!(
        refused.err(),
        Some(SendError::NotSent(NotSent::ForeignCredential))
    );
    let anthropic = provider_at(upstream.at, ProviderKind::Anthropic, QUICK);
    let embeddings = OutboundCall {
        operation: Operation::Embeddings,
        ..call(false)
    };
    let refused = Upstream::new()
        .send(&anthropic, &key_for(&anthropic), embeddings)
        .await;
    assert_eq!(
        refused.err(),
        Some(SendError::NotSent(NotSent::Unsupported))
    );
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn dropping_an_answer_closes_its_connection_and_the_next_call_takes_another() {
    let (closed, mut closes) = tokio::sync::mpsc::channel(4);
    let upstream = upstream(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            stream
                .write_all(&CHUNKED[..CHUNKED.len() - 30])
                .await
                .unwrap();
            let mut rest = [0; 16];
            let gone = !matches!(stream.read(&mut rest).await, Ok(1..));
            closed.send(gone).await.unwrap();
        }
    })
    .await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for expected in 1..=2 {
        let mut response = send(&client, &provider, true).await.unwrap();
        response.body.chunk().await.unwrap();
        drop(response);
        assert_eq!(
            timeout(Duration::from_millis(100), closes.recv()).await,
            Ok(Some(true))
        );
        assert_eq!(upstream.connections(), expected);
    }
}

#[tokio::test]
async fn cancelling_before_the_head_closes_the_connection() {
    let (closed, mut closes) = tokio::sync::mpsc::channel(4);
    let upstream = upstream(move |mut stream| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            let mut rest = [0; 16];
            closed
                .send(!matches!(stream.read(&mut rest).await, Ok(1..)))
                .await
                .unwrap();
        }
    })
    .await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    assert!(
        timeout(Duration::from_millis(100), send(&client, &provider, false))
            .await
            .is_err()
    );
    assert_eq!(
        timeout(Duration::from_millis(100), closes.recv()).await,
        Ok(Some(true))
    );
}

/// The provider closes idle connections; calls after that open new ones and none fails.
#[tokio::test]
async fn a_pooled_connection_that_closed_is_replaced() {
    let upstream = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(SIZED).await.unwrap();
    })
    .await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for round in 1..=5 {
        let mut response = send(&client, &provider, false).await.unwrap();
        assert_eq!(response.body.whole().await.unwrap(), "{\"ok\":true}");
        sleep(Duration::from_millis(30)).await;
        assert_eq!(upstream.connections(), round);
    }
    let close = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let upstream = answering(close.to_vec()).await;
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for round in 1..=3 {
        send(&client, &provider, false)
            .await
            .unwrap()
            .body
            .whole()
            .await
            .unwrap();
        assert_eq!(upstream.connections(), round);
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let upstream = upstream(|mut stream| async move {
        while let Some(request) = read_request(&mut stream).await {
            let body = request.split_once("\r\n\r\n").unwrap().1;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body.as_bytes()).await.unwrap();
        }
    })
    .await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for _ in 0..3 {
        let big = OutboundCall {
            body: Bytes::from(vec![b'x'; 3 * 1024 * 1024]),
            ..call(false)
        };
        let mut response = client
            .send(&provider, &key_for(&provider), big)
            .await
            .unwrap();
        assert_eq!(response.body.whole().await.unwrap().len(), 3 * 1024 * 1024);
    }
    assert_eq!(upstream.connections(), 1);
}

/// Idle connections go by age, without any request.
#[tokio::test]
async fn idle_connections_are_swept() {
    let upstream = answering(SIZED.to_vec()).await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    let exchange = async || {
        send(&client, &provider, false)
            .await
            .unwrap()
            .body
            .whole()
            .await
            .unwrap()
    };
    exchange().await;
    let pool = client.pool(provider.endpoint());
    pool.sweep(Instant::now() + Duration::from_secs(29));
    exchange().await;
    assert_eq!(upstream.connections(), 1);
    pool.sweep(Instant::now() + Duration::from_secs(31));
    exchange().await;
    assert_eq!(upstream.connections(), 2);
    assert!(
        pool.take(Instant::now() + Duration::from_secs(31))
            .is_none()
    );
    exchange().await;
    assert_eq!(upstream.connections(), 3);
}
