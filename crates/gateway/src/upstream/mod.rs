//! The one HTTP client toward providers.
//!
//! A connection is driven by the task whose request it carries: no task per connection, no hop per
//! chunk, and dropping the answer closes the socket. Where it may lead is decided in
//! [`kernel::egress`], on the address of the socket; a key leaves for the origin it is bound to and for no other.

mod answer;
mod body;
mod connect;
mod connection;
mod credential;
mod headers;
mod outbound;
mod pool;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use kernel::egress::Dialer;
use llm::Operation;
use tokio::time::Instant;

pub use answer::{Passage, passage, retryable};
pub use body::{BodyError, UpstreamBody};
pub use credential::{Credential, CredentialError};
pub use headers::{AnthropicBeta, ContentType, UnknownBeta};
pub(crate) use outbound::PIECE_BYTES;

pub use kernel::egress::{CaBundle, CaBundleError, Place, Reach, place};

use crate::catalog::{Endpoint, Provider};
use connect::Connector;
use connection::{Connection, HeadError};
use outbound::OutboundBody;
use pool::Pool;

/// One request to a provider, already in the provider's dialect.
pub struct OutboundCall {
    /// What is asked; the provider knows the path.
    pub operation: Operation,
    /// The body, sent as it is.
    pub body: Bytes,
    /// Whether an event stream is asked for.
    pub stream: bool,
    /// Beta features of Anthropic, from [`AnthropicBeta::parse`]; not sent to other kinds.
    pub anthropic_beta: Option<AnthropicBeta>,
}

/// The head of a provider's answer, whatever its status, and its body.
pub struct Response {
    /// The provider's status, from 200 to 599.
    pub status: StatusCode,
    /// What kind of body follows.
    pub content_type: ContentType,
    /// Seconds to wait, where the provider gave a sensible number.
    pub retry_after_s: Option<u32>,
    /// The body. Read it to its end, or drop it to close the connection.
    pub body: UpstreamBody,
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// No byte of the request left: no attempt was made, another provider may be tried freely.
    NotSent(NotSent),
    /// Bytes were written and no usable answer came: the provider may have worked, and may bill.
    Unknown(Unknown),
}

/// Why nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// The credential is bound to another provider or origin.
    ForeignCredential,
    /// The provider has no endpoint for the operation.
    Unsupported,
    /// The host name did not resolve.
    Resolve,
    /// The host resolved to an address that is not allowed.
    Address,
    /// No address accepted a connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connect deadline passed.
    Timeout,
    /// Fresh connections closed before they took the request.
    Closed,
}

/// What is known about a request that went out without a usable answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// No head of an answer within the first-byte or total deadline.
    Timeout,
    /// The connection broke.
    Closed,
    /// What came was not HTTP, had oversized headers, or an encoding that was not asked for.
    Malformed,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent(NotSent::ForeignCredential) => "the credential belongs to another origin",
            Self::NotSent(NotSent::Unsupported) => "the provider has no such endpoint",
            Self::NotSent(NotSent::Resolve) => "the provider's host name did not resolve",
            Self::NotSent(NotSent::Address) => "the provider's address is not allowed",
            Self::NotSent(NotSent::Connect) => "the provider refused the connection",
            Self::NotSent(NotSent::Tls) => "the TLS handshake with the provider failed",
            Self::NotSent(NotSent::Timeout) => "connecting to the provider took too long",
            Self::NotSent(NotSent::Closed) => {
                "the provider closed the connection before the request"
            }
            Self::Unknown(Unknown::Timeout) => "the provider did not answer in time",
            Self::Unknown(Unknown::Closed) => {
                "the provider closed the connection without an answer"
            }
            Self::Unknown(Unknown::Malformed) => "the provider's answer was not usable",
        })
    }
}

impl std::error::Error for SendError {}

/// Connections to all providers. One per process; cheap to share behind an `Arc`.
pub struct Upstream {
    connector: Connector,
    // Written once per provider, read per request; no await under it.
    pools: RwLock<HashMap<Arc<Endpoint>, Arc<Pool>>>,
}

impl Upstream {
    /// A client that trusts the system's root certificates, or Mozilla's where the system has none.
    #[must_use]
    pub fn new() -> Self {
        Self::over(Dialer::warm())
    }

    /// A client whose connections are opened by `dialer`.
    #[must_use]
    pub fn over(dialer: Dialer) -> Self {
        Self {
            connector: Connector::new(dialer),
            pools: RwLock::default(),
        }
    }

    /// Sends one request and waits for the head of its answer. Nothing is retried here but a pooled
    /// connection that was found closed before it took a byte of the request.
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`SendError::NotSent`] when no byte of the request left, [`SendError::Unknown`] when one may
    /// have. An error status is not an error.
    pub async fn send(
        &self,
        provider: &Provider,
        key: &Credential,
        call: OutboundCall,
    ) -> Result<Response, SendError> {
        if !key.is_for(provider) {
            return Err(SendError::NotSent(NotSent::ForeignCredential));
        }
        let stream = call.stream;
        let mut request = request(provider, key, call)?;
        let timeouts = provider.timeouts();
        let started = Instant::now();
        let total = started + timeouts.total;
        let pool = self.pool(provider.endpoint());
        // A pooled connection may close just as it is taken; a fresh one comes last.
        loop {
            let (mut connection, reused) = match pool.take(Instant::now()) {
                Some(connection) => (connection, true),
                None => {
                    let deadline = total.min(Instant::now() + timeouts.connect);
                    // Boxed: most calls find a connection, and would carry the way to a new one for nothing.
                    let fresh = Box::pin(self.connector.connect(provider.endpoint(), deadline));
                    (fresh.await?, false)
                }
            };
            let deadline = total.min(Instant::now() + timeouts.first_byte);
            match connection.head(request, deadline).await {
                Ok(head) => return response(head, connection, pool, stream, timeouts.idle, total),
                Err(HeadError::Unsent(unsent)) if reused => request = *unsent,
                Err(HeadError::Unsent(_)) => return Err(SendError::NotSent(NotSent::Closed)),
                Err(HeadError::Sent(unknown)) => return Err(SendError::Unknown(unknown)),
            }
        }
    }

    /// Closes pooled connections that were idle for too long. Call it now and then: without it they
    /// are closed when the next request for the same provider comes.
    pub fn sweep(&self) {
        let pools: Vec<Arc<Pool>> = self
            .pools
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        let now = Instant::now();
        pools.iter().for_each(|pool| pool.sweep(now));
    }

    fn pool(&self, endpoint: &Arc<Endpoint>) -> Arc<Pool> {
        if let Some(pool) = self
            .pools
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(endpoint)
        {
            return Arc::clone(pool);
        }
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pools.entry(Arc::clone(endpoint)).or_default())
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self::new()
    }
}

fn request(
    provider: &Provider,
    key: &Credential,
    call: OutboundCall,
) -> Result<Request<OutboundBody>, SendError> {
    let target = provider
        .target(call.operation)
        .ok_or(SendError::NotSent(NotSent::Unsupported))?;
    let headers = headers::outbound(provider, key, call.stream, call.anthropic_beta);
    let mut request = Request::new(OutboundBody::new(call.body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.clone();
    *request.headers_mut() = headers;
    Ok(request)
}

fn response(
    head: http::Response<hyper::body::Incoming>,
    connection: Box<Connection>,
    pool: Arc<Pool>,
    stream: bool,
    idle: std::time::Duration,
    total: Instant,
) -> Result<Response, SendError> {
    let (parts, incoming) = head.into_parts();
    if parts.status.is_informational() || !headers::is_identity(&parts.headers) {
        return Err(SendError::Unknown(Unknown::Malformed));
    }
    Ok(Response {
        status: parts.status,
        content_type: headers::content_type(&parts.headers),
        retry_after_s: headers::retry_after(&parts.headers),
        body: UpstreamBody::new(
            incoming,
            connection,
            pool,
            stream && parts.status.is_success(),
            idle,
            total,
        ),
    })
}
