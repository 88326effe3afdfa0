//! `partywall demo`: a gateway to try in one command. Answers come from the simulator on this machine, real providers join
//! where their keys are in the environment, and the tenants acme and globex are ready to call.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use base::TenantId;
use rpc::frame::SOCKET_NAME;
use rpc::{Answer, Closed, Command, Credential, Fault, FaultCode, NewTenant, Row, Rows};
use simulator::{Options, Simulator};

use crate::backend::{self, Addresses, Place};
use crate::pages::{self, Served};
use crate::{client, files};

/// Where the demo lives when nothing else is said: never the directory of a real deployment.
const DATA: &str = "./data-demo";
/// The public address when nothing else is said.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// The tenants of the demo.
const TENANTS: [&str; 2] = ["acme", "globex"];
/// What the simulator takes as a key: it accepts anything.
const SIMULATOR_KEY: &[u8] = b"sk-simulated-no-secret\n";

/// Sets the demo up and serves until it is interrupted.
pub(crate) fn run(
    data: Option<PathBuf>,
    config: Option<PathBuf>,
    typed: Addresses,
    json: bool,
) -> Result<(), Fault> {
    if config.is_some() {
        return Err(refused(
            "the demo writes its own configuration; leave --config out".to_owned(),
        ));
    }
    let place = Place {
        data: data.unwrap_or_else(|| PathBuf::from(DATA)),
        config: None,
    };
    refuse_foreign(&place.data)?;
    let simulator = Running::start()?;
    let operator_key = if is_demo(&place.data)? {
        None
    } else {
        Some(backend::init(&place)?.operator_key)
    };
    let addresses = addresses(typed);
    let providers = pages::Providers {
        simulator: simulator.addr,
        openai: has_key("OPENAI_API_KEY"),
        anthropic: has_key("ANTHROPIC_API_KEY"),
    };
    write_files(&place.data, &pages::config(&providers, addresses))?;
    let tokens = TENANTS.map(|name| token_of(&place, name));
    let [acme, globex] = tokens;
    let (acme, globex) = (acme?, globex?);
    let data = place.data.display().to_string();
    let bound = Addresses {
        listen: Some(addresses.0),
        admin: Some(addresses.1),
    };
    let served = backend::serve(&place, bound, move |public, admin| {
        pages::greet(
            &Served {
                public,
                admin,
                acme,
                globex,
                operator_key,
                data,
                providers,
            },
            json,
        );
    });
    simulator.stop();
    served
}

/// The demo rotates tokens and rewrites the configuration: never in a directory that it did not make, or that is in use.
fn refuse_foreign(data: &Path) -> Result<(), Fault> {
    let shown = data.display();
    if client::is_served(data)? {
        return Err(refused(format!(
            "a gateway runs on {shown} already; stop it first, or give another --data"
        )));
    }
    let occupied = ["registry.db", "master.key", "partywall.yaml", SOCKET_NAME]
        .iter()
        .any(|name| files::exists(&data.join(name)));
    if occupied && !is_demo(data)? {
        return Err(refused(format!(
            "{shown} is not a directory of the demo; give another --data"
        )));
    }
    Ok(())
}

fn is_demo(data: &Path) -> Result<bool, Fault> {
    let begins = files::beginning(&data.join("partywall.yaml"), pages::MARK.len())?;
    Ok(begins.is_some_and(|bytes| bytes == pages::MARK.as_bytes()))
}

fn write_files(data: &Path, config: &str) -> Result<(), Fault> {
    files::private_directory(&data.join("ratecards"))?;
    files::replace_private(
        &data.join("ratecards/sim.json"),
        simulator::PRICE_CARD.as_bytes(),
    )?;
    files::replace_private(&data.join("simulator.key"), SIMULATOR_KEY)?;
    files::replace_private(&data.join("partywall.yaml"), config.as_bytes())
}

/// The token of a demo tenant: of a new one, or a fresh one where it lives already.
fn token_of(place: &Place, name: &str) -> Result<Credential, Fault> {
    let id: TenantId = name
        .parse()
        .map_err(|error| Fault::new(FaultCode::Internal, format!("{error}")))?;
    let create = Command::TenantsCreate(NewTenant {
        id: id.clone(),
        tier: Some("demo".to_owned()),
        limits: base::Limits::default(),
    });
    let answer = match backend::offline(place, create, &mut NoRows) {
        Err(fault) if fault.code == FaultCode::Exists => {
            let rotate = Command::TokenRotate {
                id,
                name: None,
                all: false,
                grace: None,
            };
            backend::offline(place, rotate, &mut NoRows)?
        }
        outcome => outcome?,
    };
    let unexpected = || {
        Fault::new(
            FaultCode::Internal,
            "the demo's tenant came without a token",
        )
    };
    match answer {
        Answer::TenantCreated(created) => Ok(created.token),
        Answer::Rotated(rotated) => rotated
            .tokens
            .into_iter()
            .next()
            .map(|issued| issued.token)
            .ok_or_else(unexpected),
        _ => Err(unexpected()),
    }
}

/// The admin listener takes the port after the public one, or a free one, always on loopback.
fn addresses(typed: Addresses) -> (SocketAddr, SocketAddr) {
    let listen = typed.listen.unwrap_or(LISTEN);
    let admin = typed.admin.unwrap_or_else(|| {
        let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        let next = if listen.port() == 0 {
            None
        } else {
            listen.port().checked_add(1)
        };
        next.map(loopback)
            .filter(|next| TcpListener::bind(next).is_ok())
            .unwrap_or_else(|| loopback(0))
    });
    (listen, admin)
}

#[expect(
    clippy::disallowed_methods,
    reason = "only whether a key is there; its value is read by reference, in server"
)]
fn has_key(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

fn refused(message: String) -> Fault {
    Fault::new(FaultCode::Refused, message)
}

/// The commands of the demo answer without rows.
struct NoRows;

impl Rows for NoRows {
    fn push(&mut self, _row: Row) -> Result<(), Closed> {
        Ok(())
    }
}

/// The simulator on its own thread, so that the gateway reaches it as it reaches any provider: over HTTP.
struct Running {
    addr: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Running {
    fn start() -> Result<Self, Fault> {
        let failed = |error: std::io::Error| {
            Fault::new(
                FaultCode::Io,
                format!("cannot start the simulator: {error}"),
            )
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(failed)?;
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let simulator = runtime
            .block_on(Simulator::bind(any, Options::default()))
            .map_err(failed)?;
        let addr = simulator.addr();
        // The runtime owns the task: it ends when the runtime is shut down.
        runtime.spawn(simulator.serve(std::future::pending()));
        Ok(Self { addr, runtime })
    }

    fn stop(self) {
        self.runtime.shutdown_background();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_deployment_is_never_touched() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path();
        assert!(refuse_foreign(data).is_ok());
        files::replace_private(&data.join("partywall.yaml"), b"listen: 127.0.0.1:8080\n").unwrap();
        assert_eq!(refuse_foreign(data).unwrap_err().code, FaultCode::Refused);
        files::replace_private(&data.join("partywall.yaml"), pages::MARK.as_bytes()).unwrap();
        assert!(refuse_foreign(data).is_ok() && is_demo(data).unwrap());
    }

    #[test]
    fn the_admin_listener_is_on_loopback() {
        let public = SocketAddr::from(([0, 0, 0, 0], 0));
        assert!(
            addresses(Addresses {
                listen: Some(public),
                admin: None
            })
            .1
            .ip()
            .is_loopback()
        );
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = SocketAddr::from(([127, 0, 0, 1], taken.local_addr().unwrap().port() - 1));
        assert_eq!(
            addresses(Addresses {
                listen: Some(before),
                admin: None
            })
            .1
            .port(),
            0
        );
        let given = SocketAddr::from(([127, 0, 0, 1], 7));
        assert_eq!(
            addresses(Addresses {
                listen: None,
                admin: Some(given)
            }),
            (LISTEN, given)
        );
    }

    #[test]
    fn files_are_private_and_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            write_files(temp.path(), "text").unwrap();
        }
        for name in ["partywall.yaml", "simulator.key", "ratecards/sim.json"] {
            let stat = rustix::fs::stat(temp.path().join(name)).unwrap();
            assert_eq!(
                std::fs::Permissions::from_mode(stat.st_mode).mode() & 0o077,
                0,
                "{name}"
            );
        }
    }
}
