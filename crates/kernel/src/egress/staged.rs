//! Connections without sockets, for a simulation.

use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use super::dial::DialError;
use super::origin::Origin;

/// The other end of a connection that has no socket.
pub trait StagedPeer: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> StagedPeer for T {}

/// A connection on its way, or why there is none.
pub type Dialed<'a> =
    Pin<Box<dyn Future<Output = Result<Box<dyn StagedPeer>, DialError>> + Send + 'a>>;

/// Takes the place of name resolution, address checks, TCP and TLS.
pub trait StagedNetwork: Send + Sync {
    /// A connection to `origin`.
    fn dial<'a>(&'a self, origin: &'a Origin) -> Dialed<'a>;
}
