//! Opening a connection: resolve once, check every address, connect to the checked one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::address::Reach;
use super::origin::Origin;
use super::tls::{CaBundle, Stream, system_config};

/// Names resolved at once. The system's resolver blocks a thread and cannot be cancelled; a dead
/// one must not take the whole thread pool.
const LOOKUPS_MAX: usize = 16;
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DialError {
    /// The host name did not resolve.
    Resolve,
    /// The host resolved to an address that is not allowed.
    Address,
    /// No address accepted a connection.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The deadline passed.
    Timeout,
}

/// Makes connections.
pub struct Dialer {
    lookups: Arc<Semaphore>,
    // Read when first needed: a process that dials nobody reads no certificates.
    system: Arc<OnceLock<Option<Arc<ClientConfig>>>>,
    // One TLS configuration, and so one session cache, per bundle. Held for a look-up.
    bundles: Mutex<HashMap<CaBundle, Arc<ClientConfig>>>,
    #[cfg(feature = "simulation")]
    staged: Option<Arc<dyn super::StagedNetwork>>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self {
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            system: Arc::default(),
            bundles: Mutex::default(),
            #[cfg(feature = "simulation")]
            staged: None,
        }
    }
}

impl Dialer {
    /// A dialer that has read the system's root certificates (Mozilla's where the system has none) before its first connection.
    #[must_use]
    pub fn warm() -> Self {
        let dialer = Self::default();
        dialer.system.get_or_init(system_config);
        dialer
    }

    /// A dialer that opens no socket.
    #[cfg(feature = "simulation")]
    #[must_use]
    pub fn staged(network: Arc<dyn super::StagedNetwork>) -> Self {
        Self {
            staged: Some(network),
            ..Self::default()
        }
    }

    /// A connection to an allowed address of `origin`, with TLS where it asks for it. `ca` replaces the system's roots.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        origin: &Origin,
        reach: Reach,
        ca: Option<&CaBundle>,
        deadline: Instant,
    ) -> Result<Stream, DialError> {
        let opened = timeout_at(deadline, self.open(origin, reach, ca, deadline)).await;
        opened.unwrap_or(Err(DialError::Timeout))
    }

    async fn open(
        &self,
        origin: &Origin,
        reach: Reach,
        ca: Option<&CaBundle>,
        deadline: Instant,
    ) -> Result<Stream, DialError> {
        #[cfg(feature = "simulation")]
        if let Some(network) = &self.staged {
            return network.dial(origin).await.map(Stream::Staged);
        }
        let addresses = self.resolve(origin).await?;
        // One address out of bounds refuses the host: a name that answers with a private address
        // beside a public one is an attack or a mistake.
        if !addresses.iter().all(|at| reach.allows(at.ip(), origin.tls)) {
            return Err(DialError::Address);
        }
        let tcp = connect(&addresses, deadline).await?;
        tcp.set_nodelay(true).map_err(|_| DialError::Connect)?;
        if origin.tls {
            self.secure(origin, ca, tcp).await
        } else {
            Ok(Stream::Plain(tcp))
        }
    }

    async fn resolve(&self, origin: &Origin) -> Result<Vec<SocketAddr>, DialError> {
        let port = origin.port;
        if let Ok(address) = origin.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let host = origin.host.clone();
        let permit = Arc::clone(&self.lookups)
            .acquire_owned()
            .await
            .map_err(|_| DialError::Resolve)?;
        let found = tokio::task::spawn_blocking(move || {
            // Held by the thread: a look-up that outlives its deadline still counts.
            let _permit = permit;
            (&*host, port)
                .to_socket_addrs()
                .map(|found| found.take(ADDRESSES_MAX).collect::<Vec<_>>())
        });
        match found.await {
            Ok(Ok(found)) if !found.is_empty() => Ok(found),
            _ => Err(DialError::Resolve),
        }
    }

    async fn secure(
        &self,
        origin: &Origin,
        ca: Option<&CaBundle>,
        tcp: TcpStream,
    ) -> Result<Stream, DialError> {
        let config = match ca {
            None => self.system_config().await,
            Some(bundle) => self.bundle_config(bundle),
        };
        let name = ServerName::try_from(origin.host.to_string()).map_err(|_| DialError::Tls)?;
        let connector = TlsConnector::from(config.ok_or(DialError::Tls)?);
        let stream = connector
            .connect(name, tcp)
            .await
            .map_err(|_| DialError::Tls)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    async fn system_config(&self) -> Option<Arc<ClientConfig>> {
        if let Some(config) = self.system.get() {
            return config.clone();
        }
        let system = Arc::clone(&self.system);
        let read = tokio::task::spawn_blocking(move || system.get_or_init(system_config).clone());
        read.await.ok().flatten()
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
async fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, DialError> {
    let mut failure = DialError::Connect;
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let waiting = u32::try_from(addresses.len() - index).unwrap_or(1);
        let share = deadline.saturating_duration_since(now) / waiting;
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(_)) => failure = DialError::Connect,
            Err(_) => failure = DialError::Timeout,
        }
    }
    Err(failure)
}
