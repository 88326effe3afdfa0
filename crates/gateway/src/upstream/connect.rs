//! Opening a connection: resolve once, check every address, connect to the checked one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::tls::{CaBundle, Stream, system_config};
use super::{NotSent, SendError};
use crate::catalog::Endpoint;

/// Names resolved at once. The system's resolver blocks a thread and cannot be cancelled; a dead
/// one must not take the whole thread pool.
const LOOKUPS_MAX: usize = 16;
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// Makes fresh connections.
pub(super) struct Connector {
    lookups: Arc<Semaphore>,
    system: Option<Arc<ClientConfig>>,
    // One TLS configuration, and so one session cache, per bundle. Held for a look-up.
    bundles: Mutex<HashMap<CaBundle, Arc<ClientConfig>>>,
}

impl Connector {
    pub(super) fn new() -> Self {
        Self {
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            system: system_config(),
            bundles: Mutex::default(),
        }
    }

    /// A connection to an allowed address of the endpoint, ready for a request.
    pub(super) async fn connect(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<Connection>, SendError> {
        let opened = timeout_at(deadline, self.open(endpoint, deadline)).await;
        opened
            .unwrap_or(Err(NotSent::Timeout))
            .map_err(SendError::NotSent)
    }

    async fn open(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Box<Connection>, NotSent> {
        let addresses = self.resolve(endpoint).await?;
        // One address out of bounds refuses the host: a name that answers with a private address
        // beside a public one is an attack or a mistake.
        if !addresses
            .iter()
            .all(|at| endpoint.reach.allows(at.ip(), endpoint.origin.tls))
        {
            return Err(NotSent::Address);
        }
        let tcp = dial(&addresses, deadline).await?;
        tcp.set_nodelay(true).map_err(|_| NotSent::Connect)?;
        let stream = if endpoint.origin.tls {
            self.secure(endpoint, tcp).await?
        } else {
            Stream::Plain(tcp)
        };
        Connection::open(stream).await.map_err(|_| NotSent::Connect)
    }

    async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, NotSent> {
        let port = endpoint.origin.port;
        if let Ok(address) = endpoint.origin.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let host = endpoint.origin.host.clone();
        let permit = Arc::clone(&self.lookups)
            .acquire_owned()
            .await
            .map_err(|_| NotSent::Resolve)?;
        let found = tokio::task::spawn_blocking(move || {
            // Held by the thread: a look-up that outlives its deadline still counts.
            let _permit = permit;
            (&*host, port)
                .to_socket_addrs()
                .map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>())
        });
        match found.await {
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            _ => Err(NotSent::Resolve),
        }
    }

    async fn secure(&self, endpoint: &Endpoint, tcp: TcpStream) -> Result<Stream, NotSent> {
        let config = match &endpoint.ca {
            None => self.system.clone(),
            Some(bundle) => self.bundle_config(bundle),
        };
        let name =
            ServerName::try_from(endpoint.origin.host.to_string()).map_err(|_| NotSent::Tls)?;
        let connector = TlsConnector::from(config.ok_or(NotSent::Tls)?);
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|_| NotSent::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    fn bundle_config(&self, bundle: &CaBundle) -> Option<Arc<ClientConfig>> {
        let mut bundles = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = bundles.get(bundle) {
            return Some(Arc::clone(config));
        }
        let config = bundle.client_config()?;
        bundles.insert(bundle.clone(), Arc::clone(&config));
        Some(config)
    }
}

/// Tries the addresses in the resolver's order; each gets its share of the time that is left, so
/// that a silent first one leaves time for the others.
async fn dial(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, NotSent> {
    let mut failure = NotSent::Connect;
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let waiting = u32::try_from(addresses.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(now) / waiting;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) => failure = NotSent::Connect,
            Err(_) => failure = NotSent::Timeout,
        }
    }
    Err(failure)
}
