//! Start, drain, stop.

use std::time::{Duration, Instant};

use super::*;

const SLOW: &str = r#"{"model":"sim-fast","stream":true,"messages":[{"role":"user","content":"[[sim: chunks=10 gap=100ms]]"}]}"#;

async fn begin_stream(house: &House, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(house.public()).await.unwrap();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{SLOW}",
        SLOW.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.peek(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_properly_while_the_gateway_drains() {
    let mut house = House::open().await;
    let token = house.tenant("acme").await.token.expose().to_owned();
    let public = house.public();
    let mut idle = TcpStream::connect(public).await.unwrap();
    let mut stream = begin_stream(&house, &token).await;
    let begun = Instant::now();
    let (stopped, answer) = tokio::join!(house.stopped(), read(&mut stream));
    stopped.unwrap();
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
    assert!(
        begun.elapsed() >= Duration::from_millis(500),
        "the stream was cut short"
    );
    let mut nothing = Vec::new();
    idle.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
    assert!(TcpStream::connect(public).await.is_err());

    let house = house.started().await;
    let command = Command::BillingReport {
        tenant: None,
        from: None,
        to: None,
        detail: true,
    };
    let (rows, _) = house.ask(command).await;
    assert!(
        matches!(rows.as_slice(), [Row::Ledger(row)] if row.outcome == "finished"),
        "{}",
        rows.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_follows_and_ends_with_the_gateway() {
    let mut house = House::open().await;
    house.tenant("acme").await;
    let id: base::TenantId = "acme".parse().unwrap();
    let mut stream = UnixStream::connect(house.data().join("control.sock"))
        .await
        .unwrap();
    let tail = Command::AuditTail {
        tenant: id.clone(),
        limit: 0,
        follow: true,
    };
    stream.write_all(&tail.to_line().unwrap()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut heard = async || {
        let line = tokio::time::timeout(Duration::from_secs(5), lines.next_line());
        line.await.unwrap().unwrap().unwrap()
    };
    // The look itself is an entry.
    let own = heard().await;
    assert!(own.contains("operator.access"), "{own}");
    house.ask(Command::TenantsSuspend { id }).await.1.unwrap();
    let next = heard().await;
    assert!(next.contains("tenant.suspend"), "{next}");
    house.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_oversized_heads_are_cut() {
    let house = House::open().await;
    let many = (0..200)
        .map(|n| format!("x-{n}: 1\r\n"))
        .collect::<String>();
    let refused = raw(
        house.public(),
        &format!("GET /healthz HTTP/1.1\r\nhost: a\r\n{many}\r\n"),
    )
    .await;
    assert_eq!(refused.status, 431, "{}", refused.head);
    let long = raw(
        house.public(),
        &format!(
            "GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx: {}\r\n\r\n",
            "y".repeat(90_000)
        ),
    )
    .await;
    assert!([400, 431].contains(&long.status), "{}", long.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_serves_once() {
    let house = House::open().await;
    let options = ServeOptions {
        data: house.data(),
        config: None,
        listen: None,
        admin_listen: None,
    };
    let second = start(options, &Environment::of([])).await.err().unwrap();
    assert_eq!(second.code, rpc::FaultCode::Locked);
}
