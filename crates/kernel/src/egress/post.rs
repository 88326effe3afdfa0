//! One request to an address that a user gave, and how it was taken.

use std::fmt;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use base::limits;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::address::Reach;
use super::dial::{DialError, Dialer};
use super::origin::{Origin, OriginError};
use super::tls::CaBundle;

/// The longest URL that can be configured.
const URL_BYTES_MAX: usize = 2_048;
/// Bytes of an answer that are read, and dropped: its status says all.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// How long the rest of an answer is waited for once its status is known.
const DRAIN: Duration = Duration::from_secs(1);
/// hyper's buffer for the head of an answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where a request goes, checked as far as its text can be. The addresses of a name are checked when it is resolved, for each
/// request anew.
#[derive(Clone, Debug)]
pub struct Destination {
    origin: Origin,
    target: Uri,
    host: HeaderValue,
    reach: Reach,
    ca: Option<CaBundle>,
}

/// Why a URL cannot be a destination. The text says what would be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DestinationError {
    /// Not a URL of the plain kind.
    Url,
    /// Credentials stand in it.
    Credentials,
    /// Plain http beyond private addresses that are allowed.
    Plain,
    /// A private address that is not allowed.
    Private,
}

impl fmt::Display for DestinationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Url => "not a URL such as https://hooks.example/partywall, without a fragment",
            Self::Credentials => "credentials do not belong in a URL",
            Self::Plain => "must be https",
            Self::Private => "its address is not a public one",
        })
    }
}

impl std::error::Error for DestinationError {}

impl Destination {
    /// Reads a URL. `private` says whether its host may have a private address; it may then also be plain http.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn parse(url: &str, private: bool) -> Result<Self, DestinationError> {
        let (origin, rest) = split(url)?;
        let reach = if private {
            Reach::Private
        } else {
            Reach::Public
        };
        if !origin.tls && !private {
            return Err(DestinationError::Plain);
        }
        // A name is judged when it has resolved; localhost and its kind resolve to this machine.
        let literal = origin.host.parse::<IpAddr>();
        if literal.is_ok_and(|address| !reach.allows(address, origin.tls))
            || (!private && origin.is_loopback())
        {
            return Err(DestinationError::Private);
        }
        let rest = if rest.starts_with('/') {
            rest.to_owned()
        } else {
            format!("/{rest}")
        };
        let target = PathAndQuery::try_from(rest).map_err(|_| DestinationError::Url)?;
        let host = HeaderValue::from_str(&origin.authority()).map_err(|_| DestinationError::Url)?;
        Ok(Self {
            target: Uri::from(target),
            origin,
            host,
            reach,
            ca: None,
        })
    }

    /// The same, trusting these roots instead of the system's.
    #[must_use]
    pub fn with_ca(self, ca: Option<CaBundle>) -> Self {
        Self { ca, ..self }
    }

    /// Scheme, host and port: what may stand in a log line. The path may hold a secret of its owner.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Checks a URL for everything but where it leads.
    ///
    /// # Errors
    /// As [`Destination::parse`], without the rules about addresses.
    pub fn check_text(url: &str) -> Result<Origin, DestinationError> {
        let (origin, rest) = split(url)?;
        let target = PathAndQuery::try_from(if rest.is_empty() { "/" } else { rest });
        target.map(|_| origin).map_err(|_| DestinationError::Url)
    }
}

fn split(url: &str) -> Result<(Origin, &str), DestinationError> {
    let plain = url.len() <= URL_BYTES_MAX && !url.contains('#');
    let (origin, rest) = Origin::split(url).map_err(|error| match error {
        OriginError::Credentials => DestinationError::Credentials,
        OriginError::Scheme | OriginError::Host => DestinationError::Url,
    })?;
    if plain {
        Ok((origin, rest))
    } else {
        Err(DestinationError::Url)
    }
}

/// How a request was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posted {
    /// The status, as it came; a redirect is not followed.
    pub status: u16,
    /// Seconds to wait, where the answer says so.
    pub retry_after_s: Option<u64>,
}

/// Why there is no answer. The receiver may have taken the request all the same, except where it was not reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EgressError {
    /// No connection: nothing was sent.
    NotReached(DialError),
    /// No answer in time.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Broken,
}

impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReached(DialError::Resolve) => "the host name did not resolve",
            Self::NotReached(DialError::Address) => "the host has an address that is not allowed",
            Self::NotReached(DialError::Connect) => "the connection was refused",
            Self::NotReached(DialError::Tls) => "the TLS handshake failed",
            Self::NotReached(DialError::Timeout) => "connecting took too long",
            Self::Timeout => "no answer in time",
            Self::Broken => "the connection broke without an answer",
        })
    }
}

impl std::error::Error for EgressError {}

/// The client. One per process.
#[derive(Default)]
pub struct Egress {
    dialer: Dialer,
}

impl Egress {
    /// Posts a JSON body with these headers and returns the status of the answer, within `patience`. Each request has a
    /// connection of its own, so that no answer can be taken for that of another.
    ///
    /// # Errors
    /// See [`EgressError`]. An error status is not an error.
    pub async fn post(
        &self,
        to: &Destination,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Posted, EgressError> {
        let deadline = Instant::now() + patience;
        let connect = deadline.min(Instant::now() + limits::UPSTREAM_CONNECT);
        let stream = self
            .dialer
            .dial(&to.origin, to.reach, to.ca.as_ref(), connect)
            .await
            .map_err(EgressError::NotReached)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = to.target.clone();
        *request.headers_mut() = headers;
        let sent = request.headers_mut();
        sent.insert(header::HOST, to.host.clone());
        sent.insert(header::CONNECTION, HeaderValue::from_static("close"));
        sent.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        sent.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        sent.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("partywall/", env!("CARGO_PKG_VERSION"))),
        );
        exchange(TokioIo::new(stream), request, deadline).await
    }
}

async fn exchange<T>(
    stream: T,
    request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Posted, EgressError>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(stream)
        .await
        .map_err(|_| EgressError::Broken)?;
    let answered = answered(&mut sender, request, deadline);
    let (mut connection, mut answered) = (pin!(connection), pin!(answered));
    tokio::select! {
        biased;
        posted = answered.as_mut() => posted,
        // Over: the answer has come, or never will.
        _over = connection.as_mut() => answered.await,
    }
}

async fn answered(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    deadline: Instant,
) -> Result<Posted, EgressError> {
    let answer = timeout_at(deadline, sender.send_request(request))
        .await
        .map_err(|_late| EgressError::Timeout)?
        .map_err(|_| EgressError::Broken)?;
    let retry_after_s = answer
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    let posted = Posted {
        status: answer.status().as_u16(),
        retry_after_s,
    };
    // A short answer is read, so that its sender sees a clean end; what is longer, or does not come, is cut off. The status has
    // been said, whatever the body does.
    let (mut body, mut read) = (answer.into_body(), 0);
    let drain = async {
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
    };
    let _cut_off = timeout_at(deadline.min(Instant::now() + DRAIN), drain).await;
    Ok(posted)
}

#[cfg(test)]
mod tests;
