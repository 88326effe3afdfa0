//! The boundary to `server`: every call into it stands here, so that the rest of the command line knows only `rpc`.

use std::net::SocketAddr;
use std::path::PathBuf;

use rpc::{Answer, Command, Credential, Fault, RouteView, Rows};

/// Where a command finds its data and configuration.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) data: PathBuf,
    /// Another file than `DATA/partywall.yaml`.
    pub(crate) config: Option<PathBuf>,
}

/// Addresses that stand in for those of the configuration.
#[derive(Clone, Copy, Default)]
pub(crate) struct Addresses {
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) admin: Option<SocketAddr>,
}

/// What `init` made.
pub(crate) struct Initialised {
    pub(crate) operator_key: Credential,
    pub(crate) data: PathBuf,
    pub(crate) config: PathBuf,
}

/// Makes a data directory with a configuration and a master key.
pub(crate) fn init(place: &Place) -> Result<Initialised, Fault> {
    let done = server::init(server::InitOptions {
        data: place.data.clone(),
    })?;
    Ok(Initialised {
        operator_key: done.operator_key,
        data: done.data,
        config: done.config,
    })
}

/// Runs the gateway until it was asked to stop and has drained. `ready` gets the bound addresses (public, admin) once both
/// listeners accept.
pub(crate) fn serve(
    place: &Place,
    addresses: Addresses,
    ready: impl FnOnce(SocketAddr, SocketAddr) + Send + 'static,
) -> Result<(), Fault> {
    let options = server::ServeOptions {
        data: place.data.clone(),
        config: place.config.clone(),
        listen: addresses.listen,
        admin_listen: addresses.admin,
    };
    server::serve(options, move |listening: server::Listening| {
        ready(listening.public, listening.admin)
    })
}

/// Carries a command out in this process, under the lock of the data directory.
pub(crate) fn offline(
    place: &Place,
    command: Command,
    rows: &mut dyn Rows,
) -> Result<Answer, Fault> {
    server::offline(
        &server::Place {
            data: place.data.clone(),
            config: place.config.clone(),
        },
        command,
        rows,
    )
}

/// The route table.
pub(crate) fn routes() -> Vec<RouteView> {
    server::routes()
}

/// The JSON Schema of `partywall.yaml`.
pub(crate) fn config_schema() -> String {
    server::config_schema()
}
