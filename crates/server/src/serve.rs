//! The gateway's life: open, listen, serve, drain, close.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::Agents;
use base::limits::DRAIN;
use gateway::catalog::Keyring;
use gateway::upstream::Upstream;
use gateway::{Gateway, Parts};
use kernel::alerts::OperatorReceiver;
use kernel::log::Field;
use kernel::{DataRoot, Kernel, Operator};
use llm::prices::RateCard;
use rpc::{Fault, FaultCode};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::assemble::{self, CLOSE_WAIT, Place};
use crate::cards;
use crate::config::{Config, ConfigError, Environment};
use crate::connection::{Ending, Setting};
use crate::control::{self, Control};
use crate::dispatch::App;
use crate::fault::io;
use crate::jsonrpc;
use crate::listen::{self, Slots};
use crate::operate::{Desk, Office, doctor};
use crate::process;
use crate::routes::Listener;

/// Between two looks for upstream connections that were idle for too long.
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// What the runtime may still do after everything was closed.
const RUNTIME_WAIT: Duration = Duration::from_secs(1);

/// What to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The data directory.
    pub data: PathBuf,
    /// Another file than `DATA/partywall.yaml`.
    pub config: Option<PathBuf>,
    /// Stands in for the configuration's `listen`.
    pub listen: Option<SocketAddr>,
    /// Stands in for the configuration's `admin.listen`.
    pub admin_listen: Option<SocketAddr>,
}

/// The addresses that accept connections now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listening {
    /// For tenants.
    pub public: SocketAddr,
    /// For the operator.
    pub admin: SocketAddr,
}

/// Runs the gateway until SIGTERM or SIGINT and then lets calls and streams end, at most `limits::DRAIN`. A second signal ends it
/// at once. `ready` is called when both listeners accept.
///
/// # Errors
/// Why it could not start, or that calls had to be cut at the end.
pub fn serve(
    options: ServeOptions,
    ready: impl FnOnce(Listening) + Send + 'static,
) -> Result<(), Fault> {
    process::harden()?;
    let runtime = assemble::serving_runtime()?;
    let outcome = runtime.block_on(async {
        let ending = process::Ending::watch()?;
        run(options, &Environment::of_process(), ready, ending).await
    });
    runtime.shutdown_timeout(RUNTIME_WAIT);
    outcome
}

async fn run(
    options: ServeOptions,
    environment: &Environment,
    ready: impl FnOnce(Listening),
    mut signals: process::Ending,
) -> Result<(), Fault> {
    let running = start(options, environment).await?;
    log_panics(&running.kernel);
    ready(running.listening);
    signals.asked().await;
    tokio::select! {
        outcome = running.stop() => outcome,
        () = signals.asked() => Err(Fault::new(FaultCode::Refused, "stopped at once; what was under way is settled at the next start")),
    }
}

/// A gateway that serves.
pub(crate) struct Running {
    pub(crate) kernel: Kernel,
    pub(crate) listening: Listening,
    slots: Arc<Slots>,
    ending: Ending,
}

/// Everything that can be missing or taken, found before the first tenant's data is touched.
struct Prepared {
    path: PathBuf,
    root: DataRoot,
    config: Config,
    keyring: Keyring,
    receiver: Option<OperatorReceiver>,
    tls: Option<TlsAcceptor>,
    configured_cards: Vec<String>,
    prices: RateCard,
    public: TcpListener,
    admin: TcpListener,
    control: UnixListener,
}

async fn prepare(options: ServeOptions, environment: &Environment) -> Result<Prepared, Fault> {
    let place = Place {
        data: options.data,
        config: options.config,
    };
    let path = place.config_file();
    let root = assemble::root_of_the_gateway(&place.data)?;
    let config = assemble::load(&path)?;
    let wrong = |error: ConfigError| assemble::bad_config(&path, &error);
    let keyring = config.keyring(environment).map_err(wrong)?;
    let receiver = config.operator_receiver(environment);
    let receiver = receiver.map_err(wrong)?;
    let pem = config.tls_pem(environment).map_err(wrong)?;
    let tls = pem
        .map(|(cert, key)| listen::tls(&cert, &key))
        .transpose()?;
    let configured_cards = assemble::card_texts(&config)?;
    let prices = cards::in_force(&root, &configured_cards)?;
    let public = listen::bind(options.listen.unwrap_or(config.listen), "listen").await?;
    let admin = options.admin_listen.unwrap_or(config.admin_listen);
    let admin = listen::bind(admin, "admin.listen").await?;
    let control = control::bind(&root)?;
    Ok(Prepared {
        path,
        root,
        config,
        keyring,
        receiver,
        tls,
        configured_cards,
        prices,
        public,
        admin,
        control,
    })
}

/// Opens everything and begins to accept.
pub(crate) async fn start(
    options: ServeOptions,
    environment: &Environment,
) -> Result<Running, Fault> {
    let ready = prepare(options, environment).await?;
    let listening = Listening {
        public: address(&ready.public)?,
        admin: address(&ready.admin)?,
    };
    let (kernel, operator) = assemble::open_kernel(ready.root, environment, &ready.config).await?;
    log_warnings(&kernel, &ready.config);
    let (first_tier, body_limit) = (assemble::first_tier(&ready.config), ready.config.body_limit);
    let (catalog, keyring, prices) = (ready.config.catalog, ready.keyring, ready.prices);
    kernel.begin_with_ratecard(prices.version());
    let parts = Parts {
        catalog,
        keyring,
        prices,
        upstream: Upstream::new(),
        body_limit,
    };
    let gateway = Gateway::new(kernel.clone(), parts);
    let since = kernel.now();
    let desk = Desk::Serving {
        gateway: Arc::clone(&gateway),
        since,
        public: listening.public.to_string(),
        admin: listening.admin.to_string(),
    };
    let office = Arc::new(Office {
        kernel: kernel.clone(),
        desk,
        config: ready.path,
        configured_cards: ready.configured_cards,
        first_tier,
        importing: tokio::sync::Mutex::default(),
    });
    let ending = Ending::default();
    let draining = ending.draining.clone();
    let since_s = since.unix_seconds();
    let operator = Arc::new(operator);
    let of_sandbox = kernel.clone();
    let sandbox = Box::new(move || doctor::sandbox_place(of_sandbox.root()));
    let agents = Agents::new(Arc::clone(&gateway), Arc::clone(&operator), sandbox);
    let app = Arc::new(App {
        gateway,
        agents,
        office: Arc::clone(&office),
        since_s,
        draining,
        rpc: jsonrpc::Desk::new(ready.config.origins),
    });
    kernel.set_operator_receiver(ready.receiver);
    kernel.start_maintenance();
    let slots = Slots::new(process::connections_max(process::raise_descriptor_limit()));
    let running = Running {
        kernel,
        listening,
        slots,
        ending,
    };
    running.accept(&app, Listener::Public, ready.public, ready.tls.as_ref());
    running.accept(&app, Listener::Admin, ready.admin, ready.tls.as_ref());
    running.kernel.start_checks(Arc::clone(&operator));
    running.command(&office, operator, ready.control);
    running.sweep(&app);
    running.resume(&app);
    running.log_start();
    Ok(running)
}

impl Running {
    fn accept(
        &self,
        app: &Arc<App>,
        listener: Listener,
        socket: TcpListener,
        tls: Option<&TlsAcceptor>,
    ) {
        let setting = Arc::new(Setting {
            app: Arc::clone(app),
            listener,
            tls: tls.cloned(),
            slots: Arc::clone(&self.slots),
            ending: self.ending.clone(),
        });
        self.kernel.tasks().spawn(listen::accept(socket, setting));
    }

    fn command(&self, office: &Arc<Office>, operator: Arc<Operator>, socket: UnixListener) {
        let control = Control {
            office: Arc::clone(office),
            operator,
            stopping: self.ending.draining.clone(),
            cutting: self.ending.cutting.clone(),
        };
        self.kernel
            .tasks()
            .spawn(control::serve(socket, Arc::new(control)));
    }

    /// Runs of an earlier process go on.
    fn resume(&self, app: &Arc<App>) {
        let agents = Arc::clone(&app.agents);
        self.kernel
            .tasks()
            .spawn(async move { agents.resume().await });
    }

    fn sweep(&self, app: &Arc<App>) {
        let (app, draining) = (Arc::clone(app), self.ending.draining.clone());
        self.kernel.tasks().spawn(async move {
            while tokio::time::timeout(SWEEP_EVERY, draining.cancelled())
                .await
                .is_err()
            {
                app.gateway.sweep();
            }
        });
    }

    fn log_start(&self) {
        let (public, admin) = (
            self.listening.public.to_string(),
            self.listening.admin.to_string(),
        );
        let fields = [
            ("version", Field::Text(env!("CARGO_PKG_VERSION"))),
            ("listen", Field::Text(&public)),
            ("admin_listen", Field::Text(&admin)),
        ];
        self.kernel
            .log()
            .event(self.kernel.now(), None, "start", &fields);
    }

    /// Takes nothing new, lets what is under way end, then closes.
    pub(crate) async fn stop(self) -> Result<(), Fault> {
        let open = u64::try_from(self.slots.open()).unwrap_or(u64::MAX);
        self.kernel.log().event(
            self.kernel.now(),
            None,
            "drain",
            &[("connections", Field::Number(open))],
        );
        control::unbind(self.kernel.root());
        self.ending.draining.cancel();
        let drained = tokio::time::timeout(DRAIN, self.slots.all_closed())
            .await
            .is_ok();
        let left = self.slots.open();
        // Dropping a connection drops its replies, which settles what they produced.
        self.ending.cutting.cancel();
        self.kernel.close(CLOSE_WAIT).await;
        if drained {
            return Ok(());
        }
        let text = format!(
            "{left} connections were still open after {} s and were cut",
            DRAIN.as_secs()
        );
        Err(Fault::new(FaultCode::Busy, text))
    }
}

fn address(listener: &TcpListener) -> Result<SocketAddr, Fault> {
    listener
        .local_addr()
        .map_err(|error| io("a listener has no address", &error))
}

fn log_warnings(kernel: &Kernel, config: &Config) {
    for warning in &config.warnings {
        let text = warning.to_string();
        kernel.log().event(
            kernel.now(),
            None,
            "configuration warning",
            &[("warning", Field::Text(&text))],
        );
    }
}

/// A panic is logged by its place in the code; its text may hold what a client sent.
fn log_panics(kernel: &Kernel) {
    let kernel = kernel.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let at = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        kernel
            .log()
            .event(kernel.now(), None, "panic", &[("at", Field::Text(&at))]);
    }));
}
