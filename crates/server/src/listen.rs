//! The two listeners: who may connect how often, TLS, and the loops that accept.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::limits::CONNECTIONS_PER_ADDRESS_MAX;
use kernel::Secret;
use rpc::{Fault, FaultCode};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;

use crate::connection::{self, Setting};
use crate::fault::io;

/// After a failed accept (descriptors used up), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Binds one listener.
pub(crate) async fn bind(at: SocketAddr, key: &str) -> Result<TcpListener, Fault> {
    let failed = |error| io(&format!("{key}: cannot listen on {at}"), &error);
    TcpListener::bind(at)
        .await
        .map_err(|error: std::io::Error| failed(error))
}

/// Accepts until the gateway drains.
pub(crate) async fn accept(listener: TcpListener, setting: Arc<Setting>) {
    loop {
        let accepted = tokio::select! {
            () = setting.ending.draining.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Whoever holds too many, or comes when all are taken, is closed without a word.
        let Some(slot) = setting.slots.take(peer.ip()) else {
            continue;
        };
        let setting = Arc::clone(&setting);
        let tasks = setting.app.gateway.kernel().tasks().clone();
        tasks.spawn(async move {
            connection::serve(&setting, stream).await;
            drop(slot);
        });
    }
}

/// Places for connections: in all, and by address.
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    size: u32,
    // Taken for a moment when a connection comes and when it goes.
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; given back when dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    address: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Slots {
    pub(crate) fn new(size: usize) -> Arc<Self> {
        let size = u32::try_from(size).unwrap_or(u32::MAX).max(1);
        let all = Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(usize::MAX)));
        Arc::new(Self {
            all,
            size,
            by_address: Mutex::default(),
        })
    }

    /// A place for one more connection of this address; `None` when there is none.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Slot> {
        let place = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let address = counted_as(address);
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let held = by_address.entry(address).or_default();
        if *held >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        *held += 1;
        Some(Slot {
            slots: Arc::clone(self),
            address,
            _place: place,
        })
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        usize::try_from(self.size)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.all.available_permits())
    }

    /// Resolves when no connection is open. No new one gets a place while this waits.
    pub(crate) async fn all_closed(&self) {
        // Never closed, so this only resolves with every place.
        let _every_place = self.all.acquire_many(self.size).await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut by_address = self
            .slots
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = by_address.get_mut(&self.address) {
            *held -= 1;
            if *held == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

/// One customer holds a /64 of IPv6; its addresses count together.
fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)))
        }
        other => other,
    }
}

/// TLS of both listeners from PEM texts: HTTP/2 and HTTP/1.1 by ALPN.
pub(crate) fn tls(cert: &Secret, key: &Secret) -> Result<TlsAcceptor, Fault> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        Fault::new(FaultCode::BadConfig, format!("tls.{what}: {error}"))
    };
    let chain = CertificateDer::pem_slice_iter(cert.expose()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| wrong("cert", &error))?;
    if chain.is_empty() {
        return Err(wrong("cert", &"holds no certificate in PEM"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.expose())
        .map_err(|_| wrong("key", &"holds no private key in PEM"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong("cert", &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_bounded_alone_and_places_come_back() {
        let slots = Slots::new(2 * CONNECTIONS_PER_ADDRESS_MAX);
        let (one, other): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let held: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX)
            .map(|_| slots.take(one).unwrap())
            .collect();
        assert!(held.len() >= 1_100);
        assert!(
            slots.take(one).is_none() && slots.take("::ffff:192.0.2.1".parse().unwrap()).is_none()
        );
        assert!(slots.take(other).is_some());
        drop(held);
        assert!(slots.take(one).is_some());
        assert_eq!(
            (slots.open(), slots.by_address.lock().unwrap().len()),
            (0, 0)
        );
    }

    #[test]
    fn all_places_are_bounded() {
        let slots = Slots::new(2);
        let held = [
            slots.take("10.0.0.1".parse().unwrap()),
            slots.take("10.0.0.2".parse().unwrap()),
        ];
        assert!(
            held.iter().all(Option::is_some) && slots.take("10.0.0.3".parse().unwrap()).is_none()
        );
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let counted = |text: &str| counted_as(text.parse().unwrap());
        assert_eq!(counted("2001:db8:0:1::1"), counted("2001:db8:0:1:ffff::2"));
        assert_ne!(counted("2001:db8:0:1::1"), counted("2001:db8:0:2::1"));
        assert_eq!(counted("::1"), "::1".parse::<IpAddr>().unwrap());
    }
}
