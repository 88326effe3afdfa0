//! A simulated provider of language models.
//!
//! A loopback HTTP server that speaks the `OpenAI` and the Anthropic wire, for the demo and for
//! tests. No model stands behind it: every answer says that it is simulated, prices are
//! fictitious, and the same request gives the same answer. A message (or model name) can order it
//! to be slow or faulty: `[[sim:delay=200ms chunks=50 gap=20ms fault=cut_after:3]]`; README.md
//! lists the orders.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use simulator::{Options, Simulator};
//!
//! let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), Options::default()).await?;
//! println!("http://{}/v1", simulator.addr());
//! simulator.serve(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```

mod answer;
mod body;
mod call;
mod directive;
mod embeddings;
mod fence;
mod frame;
mod gzip;
mod ledger;
mod models;
mod refusal;
mod routes;
mod schema;
mod script;
mod service;
mod wire_anthropic;
mod wire_openai;

use std::fs::File;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub use crate::ledger::{Billed, Record, Stats};

use crate::ledger::{Connection, Ledger};
use crate::service::Service;

#[cfg(test)]
mod tests;

/// Fictitious prices of the simulated models, in the form of the field's price file.
pub const PRICE_CARD: &str = include_str!("../prices.json");

/// Pause after a failed accept (descriptors used up), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How a simulator behaves. The default is the demo's: any key, no bodies kept, no `/sim/` routes.
#[derive(Debug, Default)]
pub struct Options {
    /// The one key that is accepted; any non-empty key where `None`.
    pub api_key: Option<String>,
    /// Serves `/sim/stats`, `/sim/requests` and `/sim/reset`, to anyone who reaches the address.
    pub control: bool,
    /// Request bodies up to this many bytes stay in the records; 0 keeps none.
    pub body_bytes_kept: usize,
    /// Every closed record is appended here as one JSON line, headers with keys included.
    pub record: Option<File>,
}

/// A bound simulator.
pub struct Simulator {
    listener: TcpListener,
    addr: SocketAddr,
    service: Arc<Service>,
}

/// A view into a running simulator's ledger.
#[derive(Clone)]
pub struct Watch(Arc<Service>);

impl Options {
    /// The options of test suites: `/sim/` routes on, bodies up to 256 KiB kept.
    #[must_use]
    pub fn for_tests() -> Self {
        Self {
            control: true,
            body_bytes_kept: 256 * 1024,
            ..Self::default()
        }
    }
}

impl Simulator {
    /// Binds to a loopback address; port 0 takes a free one.
    ///
    /// # Errors
    /// `InvalidInput` for an address that is not loopback: a simulator is never a public service.
    /// Otherwise what the system says.
    pub async fn bind(addr: SocketAddr, options: Options) -> io::Result<Self> {
        if !addr.ip().is_loopback() {
            let message =
                format!("the simulator listens on loopback addresses only, not on {addr}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let mut options = options;
        let ledger = Ledger::new(options.body_bytes_kept, options.record.take());
        Ok(Self {
            listener,
            addr,
            service: Arc::new(Service { options, ledger }),
        })
    }

    /// The address it is bound to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// A view of the ledger that outlives [`Simulator::serve`].
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.service))
    }

    /// Serves until `shutdown` is ready, then drops all connections at once.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, Arc::clone(&self.service)));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
            }
        }
    }
}

impl Watch {
    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.ledger.stats()
    }

    /// The closed requests, oldest first; the oldest of very many have fallen out.
    #[must_use]
    pub fn requests(&self) -> Vec<Record> {
        self.0.ledger.records()
    }

    /// Forgets records, counters, cached prefixes and counted orders.
    pub fn reset(&self) {
        self.0.ledger.reset();
    }
}

async fn connection(stream: TcpStream, service: Arc<Service>) {
    let _open: Connection = service.ledger.connection();
    // Without it a stream is slower, not wrong.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let wire = body::Wire::new(stream, Arc::clone(&reset));
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        let reset = Arc::clone(&reset);
        async move { service.answer(request, reset).await }
    });
    // A connection that breaks is the peer's affair, or ordered.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(wire), answer)
        .await;
}
