//! Upstreams that hang, cut, flood, redirect, lie about lengths or send what nobody asked for.

use super::*;
use std::future::pending;

#[tokio::test]
async fn a_host_is_refused_by_the_address_it_resolves_to() {
    let client = Upstream::new();
    for (url, allow_private) in [
        ("https://10.0.0.1/v1", false),
        ("https://[::ffff:127.0.0.1]:1/v1", false),
        ("https://127.1/v1", false),
        ("https://0x7f000001/v1", false),
        ("https://2130706433/v1", false),
        ("https://169.254.169.254/v1", false),
        ("https://169.254.169.254/v1", true),
        ("http://169.254.169.254/v1", true),
        ("https://[fd00:ec2::254]/v1", true),
        ("http://[fe80::1]/v1", true),
        ("http://8.8.8.8/v1", true),
    ] {
        let provider = Provider::new(ProviderSpec {
            allow_private,
            timeouts: QUICK,
            ..spec("p", ProviderKind::OpenAi, url)
        })
        .unwrap();
        let refused = send(&client, &provider, false).await.err();
        assert_eq!(refused, Some(SendError::NotSent(NotSent::Address)), "{url}");
    }
}

#[tokio::test]
async fn nothing_listening_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let provider = provider_at(at, ProviderKind::OpenAi, QUICK);
    assert_eq!(
        send(&Upstream::new(), &provider, false).await.err(),
        Some(SendError::NotSent(NotSent::Connect))
    );
    let nowhere = Provider::new(spec(
        "p",
        ProviderKind::OpenAi,
        "https://no-such-host.invalid/v1",
    ))
    .unwrap();
    assert_eq!(
        send(&Upstream::new(), &nowhere, false).await.err(),
        Some(SendError::NotSent(NotSent::Resolve))
    );
}

#[tokio::test]
async fn a_failed_handshake_is_not_sent() {
    let upstream =
        answering(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let url = format!("https://{}/v1", upstream.at);
    let provider = Provider::new(ProviderSpec {
        timeouts: QUICK,
        ..spec("p", ProviderKind::OpenAi, &url)
    })
    .unwrap();
    let refused = send(&Upstream::new(), &provider, false).await.err();
    assert!(
        matches!(
            refused,
            Some(SendError::NotSent(NotSent::Tls | NotSent::Timeout))
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn silence_before_the_head_is_unknown_within_the_deadline() {
    let upstream = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        pending::<()>().await;
    })
    .await;
    let outcome = timeout(Duration::from_secs(2), quick(&upstream, false))
        .await
        .unwrap();
    assert_eq!(outcome.err(), Some(SendError::Unknown(Unknown::Timeout)));
}

#[tokio::test]
async fn a_head_that_drips_is_cut() {
    let upstream = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        for byte in SIZED.iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let outcome = timeout(Duration::from_secs(2), quick(&upstream, false))
        .await
        .unwrap();
    assert_eq!(outcome.err(), Some(SendError::Unknown(Unknown::Timeout)));
}

#[tokio::test]
async fn answers_that_are_not_answers() {
    let flood: Vec<u8> = [
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"x-flood: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(4_000),
        b"\r\n".to_vec(),
    ]
    .concat();
    let many: Vec<u8> = [
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"a: b\r\n".repeat(500),
        b"\r\n".to_vec(),
    ]
    .concat();
    for (answer, unknown) in [
        (flood, Unknown::Malformed),
        (many, Unknown::Malformed),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(), Unknown::Malformed),
        (b"HTTP/1.1 999999 Huge\r\n\r\n".to_vec(), Unknown::Malformed),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc".to_vec(),
            Unknown::Malformed,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc".to_vec(),
            Unknown::Malformed,
        ),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"
                .to_vec(),
            Unknown::Malformed,
        ),
    ] {
        let text = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let upstream = answering(answer).await;
        assert_eq!(
            quick(&upstream, false).await.err(),
            Some(SendError::Unknown(unknown)),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_closed_connection_is_unknown_and_a_redirect_is_a_status() {
    let upstream = upstream(|mut stream| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert_eq!(
        quick(&upstream, false).await.err(),
        Some(SendError::Unknown(Unknown::Closed))
    );

    let redirect = b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n";
    let upstream = answering(redirect.to_vec()).await;
    let response = quick(&upstream, false).await.unwrap();
    assert_eq!(
        (passage(response.status), upstream.connections()),
        (Passage::BadGateway, 1)
    );
}

#[tokio::test]
async fn bodies_that_break_are_errors_and_never_ends() {
    for (answer, error) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"[..],
            BodyError::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            BodyError::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
            BodyError::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
            BodyError::Cut,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffffff\r\nx",
            BodyError::Cut,
        ),
    ] {
        let upstream = upstream(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(answer).await.unwrap();
        })
        .await;
        let mut response = quick(&upstream, true).await.unwrap();
        assert_eq!(
            response.body.whole().await,
            Err(error),
            "{}",
            String::from_utf8_lossy(answer)
        );
        assert!(http_body::Body::is_end_stream(&response.body));
    }
}

#[tokio::test]
async fn silence_and_dripping_end_at_the_deadlines() {
    let silent = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(&CHUNKED[..CHUNKED.len() - 30])
            .await
            .unwrap();
        pending::<()>().await;
    })
    .await;
    let mut response = quick(&silent, true).await.unwrap();
    let ended = timeout(Duration::from_secs(2), response.body.whole())
        .await
        .unwrap();
    assert_eq!(ended, Err(BodyError::Idle));

    let dripping = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
            sleep(Duration::from_millis(30)).await;
        }
    })
    .await;
    let mut response = quick(&dripping, true).await.unwrap();
    let ended = timeout(Duration::from_secs(4), response.body.whole())
        .await
        .unwrap();
    assert_eq!(ended, Err(BodyError::Total));
}

#[tokio::test]
async fn a_body_without_end_is_cut_at_the_limit() {
    let upstream = upstream(|mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let zeros = vec![0_u8; 1024 * 1024];
        while stream.write_all(&zeros).await.is_ok() {}
    })
    .await;
    let timeouts = Timeouts {
        total: Duration::from_secs(60),
        ..QUICK
    };
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, timeouts);
    let mut response = send(&Upstream::new(), &provider, false).await.unwrap();
    assert_eq!(response.body.whole().await, Err(BodyError::TooLarge));
}

/// An answer that nobody asked for must not become the answer of the next caller.
#[tokio::test]
async fn a_connection_with_unasked_bytes_is_never_used_again() {
    let planted = b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nplanted";
    for gap in [Duration::ZERO, Duration::from_millis(20)] {
        let upstream = upstream(move |mut stream| async move {
            while read_request(&mut stream).await.is_some() {
                if gap.is_zero() {
                    stream.write_all(&[SIZED, planted].concat()).await.unwrap();
                } else {
                    stream.write_all(SIZED).await.unwrap();
                    sleep(gap).await;
                    stream.write_all(planted).await.unwrap();
                }
            }
        })
        .await;
        let client = Upstream::new();
        let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
        for round in 1..=3 {
            let mut response = send(&client, &provider, false).await.unwrap();
            assert_eq!(response.body.whole().await.unwrap(), "{\"ok\":true}");
            sleep(Duration::from_millis(60)).await;
            assert_eq!(upstream.connections(), round);
        }
    }
}

/// The provider answers and goes on reading nothing: the rest of the request is never sent, so the
/// connection cannot carry another one.
#[tokio::test]
async fn an_answer_before_the_end_of_the_request_ends_the_connection() {
    let upstream = upstream(|mut stream| async move {
        stream.read_exact(&mut [0; 1024]).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")
            .await
            .unwrap();
        sleep(Duration::from_millis(500)).await;
    })
    .await;
    let client = Upstream::new();
    let provider = provider_at(upstream.at, ProviderKind::OpenAi, Timeouts::default());
    for round in 1..=2 {
        let big = OutboundCall {
            body: Bytes::from(vec![b'x'; 16 * 1024 * 1024]),
            ..call(false)
        };
        let mut response = client
            .send(&provider, &key_for(&provider), big)
            .await
            .unwrap();
        assert_eq!(response.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(response.body.whole().await.unwrap(), "{}");
        assert_eq!(upstream.connections(), round);
    }
}
