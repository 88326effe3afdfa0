//! From a request to its answer: checks of the head, the matched route, its access, its handler.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use base::RequestId;
use base::limits::HEADER_BYTES_MAX;
use bytes::Bytes;
use gateway::Gateway;
use gateway::door;
use gateway::pipeline::{self, Inbound};
use gateway::refusal::Refusal;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use llm::Dialect;
use tokio_util::sync::CancellationToken;

use crate::body::AnswerBody;
use crate::operate::Office;
use crate::routes::{self, Access, Found, Handler, Listener, Params, Route};
use crate::{admin, jsonrpc, tenant_views};

/// What every request is answered from.
pub(crate) struct App {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) office: Arc<Office>,
    /// When the process began to serve: the age of the list of models.
    pub(crate) since_s: i64,
    pub(crate) draining: CancellationToken,
    /// Conversations and runs.
    pub(crate) agents: Arc<agent::Agents>,
    /// What `/rpc` shares.
    pub(crate) rpc: jsonrpc::Desk,
}

/// An answer of this crate, before its request id is on it.
pub(crate) type Answer = Response<AnswerBody>;

/// Answers one request. A panic below becomes a 500 of this request and of no other.
pub(crate) async fn answer(
    app: &Arc<App>,
    listener: Listener,
    request: Request<Incoming>,
) -> Answer {
    let dialect = routes::dialect_of(request.uri().path());
    // On the heap: the connection around it stays small to move and to keep.
    let mut handled = Box::pin(handle(app, listener, request));
    let caught = poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| handled.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(answer)) => Poll::Ready(Some(answer)),
            // What panicked is not polled again; the panic's text goes to the log by the hook and to nobody else.
            Err(_panic) => Poll::Ready(None),
        },
    );
    match caught.await {
        Some(answer) => answer,
        None => refuse(app, &Refusal::Internal, dialect),
    }
}

async fn handle(app: &Arc<App>, listener: Listener, request: Request<Incoming>) -> Answer {
    let dialect = routes::dialect_of(request.uri().path());
    if let Err(wrong) = check_head(&request) {
        return refuse(app, &bad_request(wrong), dialect);
    }
    if app.draining.is_cancelled() {
        return refuse(app, &Refusal::Draining, dialect);
    }
    let (parts, body) = request.into_parts();
    let (route, params) = match routes::find(listener, &parts.method, parts.uri.path()) {
        Found::Route(route, params) => (route, params),
        Found::OtherMethod(allow) => {
            return refuse(app, &Refusal::MethodNotAllowed { allow }, dialect);
        }
        Found::Nothing => return refuse(app, &Refusal::NotFound, dialect),
    };
    let http::request::Parts { headers, uri, .. } = &parts;
    match (route.access(), route.handler) {
        (Access::Tenant { .. }, Handler::Rpc) => {
            drop(params);
            Box::pin(jsonrpc::post(app, parts, body)).await
        }
        (Access::Tenant { .. }, Handler::RpcSocket) => {
            drop(params);
            Box::pin(jsonrpc::open(app, parts)).await
        }
        (Access::Tenant { .. }, Handler::Call(operation)) => {
            drop(params);
            let inbound = Inbound {
                operation,
                caller: None,
                headers: parts.headers,
                uri: parts.uri,
                body,
            };
            pipeline::serve(&app.gateway, inbound)
                .await
                .map(AnswerBody::Reply)
        }
        (Access::Tenant { roles }, Handler::Tenant(what)) => {
            Box::pin(tenant_views::answer(
                app, what, roles, headers, uri, &params,
            ))
            .await
        }
        (Access::Operator, Handler::Admin(action)) => {
            Box::pin(admin::answer(app, action, headers, uri, &params, body)).await
        }
        (Access::Public, Handler::Healthz) => said(app, StatusCode::OK, "ok"),
        (Access::Public, Handler::Readyz) => readiness(app),
        // A test walks the table: no route pairs an access with another kind of handler. Should one, it is closed.
        (access, _) => closed(app, route, access, dialect),
    }
}

fn closed(app: &App, route: &Route, access: Access, dialect: Dialect) -> Answer {
    let field = kernel::log::Field::Text(route.path());
    app.gateway.kernel().log().event(
        app.gateway.kernel().now(),
        None,
        "route without a fitting handler",
        &[("path", field)],
    );
    debug_assert!(false, "{} has {access:?}", route.path());
    refuse(app, &Refusal::NotFound, dialect)
}

fn readiness(app: &App) -> Answer {
    if app.gateway.kernel().open_trail(None).is_ok() {
        said(app, StatusCode::OK, "ready")
    } else {
        said(app, StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    }
}

fn said(app: &App, status: StatusCode, word: &'static str) -> Answer {
    let body = format!("{{\"status\":\"{word}\"}}");
    finished(
        &app.gateway.kernel().new_request_id(),
        status,
        "application/json",
        AnswerBody::bytes(body),
    )
}

/// An answer of ours: the only headers are those that stand here.
pub(crate) fn finished(
    id: &RequestId,
    status: StatusCode,
    content_type: &'static str,
    body: AnswerBody,
) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(id.as_str()) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    answer
}

/// The refusal of somebody who was not admitted, or of a request that no tenant is behind.
pub(crate) fn refuse(app: &App, refusal: &Refusal, dialect: Dialect) -> Answer {
    match app.gateway.kernel().open_trail(None) {
        Ok(trail) => door::respond(&app.gateway, &trail, refusal, dialect).map(AnswerBody::Reply),
        Err(_journal_down) => {
            let id = app.gateway.kernel().new_request_id();
            refusal
                .response(dialect, &id)
                .map(|body: Bytes| AnswerBody::bytes(body))
        }
    }
}

/// A request that is not one; `message` is safe for outsiders.
pub(crate) fn bad_request(message: impl Into<String>) -> Refusal {
    Refusal::BadRequest {
        message: message.into(),
        param: None,
    }
}

/// The head must be bounded, the target a path, and the host a host: what a proxy in front and this process read must be the same.
fn check_head<B>(request: &Request<B>) -> Result<(), &'static str> {
    let uri = request.uri();
    let target_bytes = uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let header_bytes =
        |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    // The connection's buffer bounds it too, but not exactly.
    if target_bytes + request.headers().iter().map(header_bytes).sum::<usize>() > HEADER_BYTES_MAX {
        return Err("target and headers are larger than 65536 bytes together");
    }
    let is_http2 = request.version() == Version::HTTP_2;
    if !uri.path().starts_with('/')
        || (!is_http2 && (uri.scheme().is_some() || uri.authority().is_some()))
    {
        return Err("the request target must be a path");
    }
    match one_host(request.headers(), uri, is_http2)? {
        Some(host) if !is_host(host) => Err("the host is not a valid host name or address"),
        None if request.version() == Version::HTTP_11 => Err("the host header is missing"),
        _ => Ok(()),
    }
}

fn one_host<'a>(
    headers: &'a HeaderMap,
    uri: &'a Uri,
    is_http2: bool,
) -> Result<Option<&'a str>, &'static str> {
    let mut values = headers.get_all(HOST).iter();
    let header = values.next().map(|value| {
        value
            .to_str()
            .map_err(|_| "the host is not a valid host name or address")
    });
    let header = header.transpose()?;
    if values.next().is_some() {
        return Err("the host header is given twice");
    }
    let authority = uri
        .authority()
        .map(http::uri::Authority::as_str)
        .filter(|_| is_http2);
    match (authority, header) {
        (Some(authority), Some(header)) if authority != header => Err("host and authority differ"),
        (authority, header) => Ok(authority.or(header)),
    }
}

/// `name[:port]` or `[address][:port]`, and nothing that some parser could take for more.
fn is_host(text: &str) -> bool {
    let is_port =
        |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else {
            return false;
        };
        let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return port_fits && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (name, port) = text
        .split_once(':')
        .map_or((text, None), |(name, port)| (name, Some(port)));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= 255 && name.bytes().all(plain) && port.is_none_or(is_port)
}

/// Whether the request came for Anthropic's shape of a path that both dialects have.
pub(crate) fn shared_dialect(headers: &HeaderMap) -> Dialect {
    if headers.contains_key("anthropic-version") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

/// The parameters of a route and the request's head, for handlers.
pub(crate) type PathParams<'a> = Params<'a>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "[::1]",
            "gw.example.com",
            "a_b:1",
        ] {
            assert!(is_host(good), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:+1",
            "a:99999",
            "x/?#",
            "a b",
            "a@b",
            "[::1",
            "[::1]x",
            "[fe80::1%25eth0]",
            "a\u{0}",
            "a,b",
            "ä",
            "a:80:80",
            "x/v1/models?#",
        ] {
            assert!(!is_host(bad), "{bad}");
        }
    }

    fn head(version: Version, uri: &str, hosts: &[&str]) -> Result<(), &'static str> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check_head(&request.body(()).unwrap())
    }

    #[test]
    fn targets_are_paths_and_hosts_are_single() {
        assert!(head(Version::HTTP_11, "/v1/models?x=1", &["a"]).is_ok());
        assert!(head(Version::HTTP_10, "/healthz", &[]).is_ok());
        assert!(head(Version::HTTP_2, "https://a/v1/models", &[]).is_ok());
        assert!(head(Version::HTTP_2, "https://a/v1/models", &["a"]).is_ok());
        for (version, uri, hosts) in [
            (Version::HTTP_11, "/v1/models", &[][..]),
            (Version::HTTP_11, "/v1/models", &["a", "a"]),
            (Version::HTTP_11, "/v1/models", &["x/?#"]),
            (Version::HTTP_11, "http://a/v1/models", &["a"]),
            (Version::HTTP_11, "a:80", &["a"]),
            (Version::HTTP_11, "*", &["a"]),
            (Version::HTTP_2, "https://a/v1/models", &["b"]),
        ] {
            assert!(
                head(version, uri, hosts).is_err(),
                "{version:?} {uri} {hosts:?}"
            );
        }
    }
}
