//! Opening a connection to a provider, through the checks that every connection to the outside passes.

use kernel::egress::{DialError, Dialer};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::{NotSent, SendError};
use crate::catalog::Endpoint;

/// Makes fresh connections.
pub(super) struct Connector {
    dialer: Dialer,
}

impl Connector {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    /// A connection to an allowed address of the endpoint, ready for a request.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<Connection>, SendError> {
        let (origin, ca) = (&endpoint.origin, endpoint.ca.as_ref());
        let stream = self
            .dialer
            .dial(origin, endpoint.reach, ca, deadline)
            .await
            .map_err(|error| SendError::NotSent(error.into()))?;
        match timeout_at(deadline, Connection::open(stream)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(_)) => Err(SendError::NotSent(NotSent::Connect)),
            Err(_) => Err(SendError::NotSent(NotSent::Timeout)),
        }
    }
}

impl From<DialError> for NotSent {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Resolve => Self::Resolve,
            DialError::Address => Self::Address,
            DialError::Connect => Self::Connect,
            DialError::Tls => Self::Tls,
            DialError::Timeout => Self::Timeout,
        }
    }
}
