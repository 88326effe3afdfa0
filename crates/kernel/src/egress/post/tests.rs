//! The client against receivers that behave, and those that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PATIENCE: Duration = Duration::from_millis(500);

/// Answers each connection with these bytes, again and again where `endless`; counts connections.
async fn receiver(answer: &'static [u8], endless: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    crate::tasks::Tasks::default().spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            serve(&mut stream, answer, endless).await;
        }
    });
    (at, seen)
}

async fn serve(stream: &mut TcpStream, answer: &[u8], endless: bool) {
    let mut head = [0; 4096];
    let _read = stream.read(&mut head).await;
    loop {
        if stream.write_all(answer).await.is_err() || !endless {
            break;
        }
    }
}

async fn post(at: SocketAddr, private: bool) -> Result<Posted, EgressError> {
    let to = Destination {
        reach: if private {
            Reach::Private
        } else {
            Reach::Public
        },
        ..Destination::parse(&format!("http://{at}/hook"), true).unwrap()
    };
    let body = Bytes::from_static(b"{}");
    Egress::default()
        .post(&to, HeaderMap::new(), body, PATIENCE)
        .await
}

#[tokio::test]
async fn the_status_comes_back_whatever_follows_it() {
    for (answer, endless, expect) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], false, (204, None)),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            false,
            (200, None),
        ),
        // No end, no length: read to the limit and cut off.
        (
            b"HTTP/1.1 200 OK\r\n\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            true,
            (200, None),
        ),
        (
            b"HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
            false,
            (500, None),
        ),
        (
            b"HTTP/1.1 429 Slow\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n",
            false,
            (429, Some(7)),
        ),
        // The body breaks off: the status has been said.
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nok",
            false,
            (200, None),
        ),
    ] {
        let (at, _) = receiver(answer, endless).await;
        let posted = post(at, true).await.unwrap();
        assert_eq!((posted.status, posted.retry_after_s), expect);
    }
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_undo_the_status() {
    for (head, status) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nok", 200),
        (
            "HTTP/1.1 202 Taken\r\ntransfer-encoding: chunked\r\n\r\n",
            202,
        ),
        ("HTTP/1.1 503 Oh\r\ncontent-length: 5\r\n\r\n", 503),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        crate::tasks::Tasks::default().spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            serve(&mut stream, head.as_bytes(), false).await;
            std::future::pending::<()>().await;
        });
        let posted = post(at, true).await.map(|posted| posted.status);
        assert_eq!(posted, Ok(status));
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (target, seen) = receiver(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let text =
        format!("HTTP/1.1 307 Go\r\nlocation: http://{target}/\r\ncontent-length: 0\r\n\r\n");
    let (at, _) = receiver(Box::leak(text.into_bytes().into_boxed_slice()), false).await;
    assert_eq!(post(at, true).await.unwrap().status, 307);
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_is_not_an_answer_is_an_error_in_time() {
    let (at, _) = receiver(b"SSH-2.0-OpenSSH\r\n\r\n", false).await;
    assert_eq!(post(at, true).await, Err(EgressError::Broken));
    let (at, _) = receiver(b"", false).await;
    assert_eq!(post(at, true).await, Err(EgressError::Broken));
    // A head without end.
    let (at, _) = receiver(
        b"HTTP/1.1 200 OK\r\nx: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        true,
    )
    .await;
    assert_eq!(post(at, true).await, Err(EgressError::Broken));
    // Silence.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let begun = Instant::now();
    let at = listener.local_addr().unwrap();
    assert_eq!(post(at, true).await, Err(EgressError::Timeout));
    assert!(begun.elapsed() < PATIENCE * 3);
}

#[tokio::test]
async fn a_private_address_is_not_reached_even_by_a_name() {
    let (at, seen) = receiver(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", false).await;
    let refused = Err(EgressError::NotReached(DialError::Address));
    assert_eq!(post(at, false).await, refused);
    // Names that resolve to this machine, past the check of the text.
    for name in ["localhost", "127.1", "2130706433", "0x7f.1"] {
        let Ok(found) = std::net::ToSocketAddrs::to_socket_addrs(&(name, at.port())) else {
            continue;
        };
        assert!(found.count() > 0);
        let to = Destination {
            origin: Origin {
                tls: false,
                host: name.into(),
                port: at.port(),
            },
            reach: Reach::Public,
            ..Destination::parse("https://public.example/", false).unwrap()
        };
        let posted = Egress::default()
            .post(&to, HeaderMap::new(), Bytes::new(), PATIENCE)
            .await;
        assert_eq!(posted, refused, "{name}");
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}

#[test]
fn a_destination_says_what_is_wrong_with_it() {
    use DestinationError::{Credentials, Plain, Private, Url};
    for (url, private, wrong) in [
        ("https://hooks.example", false, None),
        ("https://hooks.example?tenant=acme", false, None),
        ("https://hooks.example:8443/in?key=1", false, None),
        ("https://1.1.1.1/", false, None),
        ("http://hooks.internal/", true, None),
        ("https://10.0.0.1/", true, None),
        ("http://hooks.example/", false, Some(Plain)),
        ("https://10.0.0.1/", false, Some(Private)),
        ("https://127.0.0.1/", false, Some(Private)),
        ("https://localhost/", false, Some(Private)),
        ("https://[::ffff:a9fe:a9fe]/", false, Some(Private)),
        ("https://[::1]/", false, Some(Private)),
        // Never, whatever is allowed.
        (
            "https://169.254.169.254/latest/meta-data",
            true,
            Some(Private),
        ),
        // A public address in the clear.
        ("http://1.1.1.1/", true, Some(Private)),
        ("hooks.example", false, Some(Url)),
        ("file:///etc/passwd", false, Some(Url)),
        ("gopher://a.b/", false, Some(Url)),
        ("https://hooks.example/#part", false, Some(Url)),
        ("https://hooks.example/a b", false, Some(Url)),
        ("https://hooks.example/\r\nx: y", false, Some(Url)),
        ("https://user:key@hooks.example/", false, Some(Credentials)),
    ] {
        assert_eq!(Destination::parse(url, private).err(), wrong, "{url}");
    }
    let long = format!("https://hooks.example/{}", "a".repeat(URL_BYTES_MAX));
    assert_eq!(Destination::parse(&long, false).err(), Some(Url));
}
