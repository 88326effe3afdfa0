//! `partywall rpc`: one method of the tenant's own API, asked of the gateway of this machine with a token.

use std::net::SocketAddr;
use std::path::PathBuf;

use base::limits::RPC_MESSAGE_BYTES_MAX;
use rpc::method::{self, Method};
use rpc::{Fault, FaultCode};
use serde_json::value::RawValue;

use crate::backend::Place;
use crate::files;
use crate::print::Out;
use crate::wire::{self, Wire};

/// What to ask, as it was typed.
pub(crate) struct Call {
    pub(crate) method: String,
    pub(crate) params: Option<String>,
    pub(crate) params_file: Option<PathBuf>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) to: Option<SocketAddr>,
}

/// Asks and prints the result.
pub(crate) fn run(place: &Place, call: &Call) -> Result<(), Fault> {
    let Some(row) = method::find(&call.method) else {
        let text = format!(
            "there is no method {}; partywall routes lists them",
            call.method
        );
        return Err(Fault::new(FaultCode::Invalid, text));
    };
    if row.name == method::SecretsSet::ROW.name && call.params.is_some() {
        let text = "a secret is not given as an argument; write the params to a file and give --params-file";
        return Err(Fault::new(FaultCode::Invalid, text));
    }
    let params = params(call)?;
    let token = files::secret(call.token_file.as_deref())?;
    let at = match call.to {
        Some(at) => at,
        None => wire::listening(place)?,
    };
    let asked = Wire::new(at, token).ask_named(row.name, &params);
    let value: serde_json::Value = asked.map_err(|no| no.fault)?;
    let mut out = Out::new();
    out.json(&value)?;
    out.flush()
}

fn params(call: &Call) -> Result<Box<RawValue>, Fault> {
    let text = match (&call.params, &call.params_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => files::text(path, RPC_MESSAGE_BYTES_MAX)?,
        (None, None) => "{}".to_owned(),
    };
    let params = RawValue::from_string(text)
        .ok()
        .filter(|raw| raw.get().starts_with('{'));
    params.ok_or_else(|| {
        Fault::new(
            FaultCode::Invalid,
            "params are a JSON object: '{\"limit\": 10}'",
        )
    })
}
