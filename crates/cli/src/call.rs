//! `partywall rpc`: one method of the tenant's own API, asked of the gateway of this machine with a token.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use base::limits::{RPC_ANSWER_BYTES_MAX, RPC_MESSAGE_BYTES_MAX, RPC_PAGE_BYTES_MAX};
use rpc::client::{self, NoAnswer};
use rpc::jsonrpc::ErrorObject;
use rpc::method::{self, Method};
use rpc::{Answer, Closed, Command, Credential, Fault, FaultCode, Row, Rows};
use serde_json::value::RawValue;

use crate::backend::Place;
use crate::client::ask;
use crate::files;
use crate::print::Out;

/// The id of the one call.
const ID: u64 = 1;
/// Silence of the gateway before the call is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer with its head: nothing that the gateway sends is longer.
const ANSWER_MAX: usize = RPC_ANSWER_BYTES_MAX + RPC_PAGE_BYTES_MAX + 64 * 1024;

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
    let message = client::written(ID, row.name, &params).map_err(|no| fault(&no))?;
    let token = files::secret(call.token_file.as_deref())?;
    let at = match call.to {
        Some(at) => at,
        None => listening(place)?,
    };
    let answer = exchange(at, &token, &message)?;
    let result: Box<RawValue> = client::read(ID, &answer).map_err(|no| fault(&no))?;
    let mut out = Out::new();
    let value: serde_json::Value =
        serde_json::from_str(result.get()).map_err(|error| odd(&error.to_string()))?;
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

/// The public listener of the gateway that serves the data directory.
fn listening(place: &Place) -> Result<SocketAddr, Fault> {
    let answer = ask(place, &Command::Status, &mut NoRows)?;
    let Answer::Status(status) = answer else {
        return Err(Fault::new(
            FaultCode::Internal,
            "the gateway did not say where it listens",
        ));
    };
    let listen = status
        .listen
        .as_deref()
        .and_then(|text| text.parse::<SocketAddr>().ok());
    let mut at = listen.ok_or_else(|| {
        Fault::new(
            FaultCode::Unreachable,
            "no gateway runs over this data directory; start one, or give --to ADDR",
        )
    })?;
    // Who listens on every address listens on this machine's own.
    match at.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => at.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(ip) if ip.is_unspecified() => at.set_ip(IpAddr::V6(Ipv6Addr::LOCALHOST)),
        _ => {}
    }
    Ok(at)
}

/// One POST in plain HTTP, which is why it goes to this machine only.
fn exchange(at: SocketAddr, token: &Credential, message: &str) -> Result<String, Fault> {
    if !at.ip().is_loopback() {
        let text = format!("{at} is not on this machine: a token is not sent there in the clear");
        return Err(Fault::new(FaultCode::Refused, text));
    }
    let failed =
        |error: std::io::Error| Fault::new(FaultCode::Unreachable, format!("{at}: {error}"));
    let mut stream = TcpStream::connect(at).map_err(failed)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
    stream
        .set_write_timeout(Some(SILENCE_MAX))
        .map_err(failed)?;
    let token = token.expose();
    if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(Fault::new(
            FaultCode::Invalid,
            "what was given is not a token",
        ));
    }
    let head = format!(
        "POST /rpc HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        message.len()
    );
    stream.write_all(head.as_bytes()).map_err(failed)?;
    stream.write_all(message.as_bytes()).map_err(failed)?;
    let mut answer = Vec::new();
    let max = u64::try_from(ANSWER_MAX).unwrap_or(u64::MAX);
    stream.take(max).read_to_end(&mut answer).map_err(failed)?;
    body(&answer)
}

/// The body of a whole answer; what the gateway refuses before it reads a message is said in its own words.
fn body(answer: &[u8]) -> Result<String, Fault> {
    let text = std::str::from_utf8(answer).map_err(|_| odd("not text; does it speak TLS?"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| odd("no HTTP"))?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .unwrap_or_default();
    let lengths = lines.filter_map(|line| line.split_once(':'));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths
        .next()
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    if length != Some(body.len()) {
        return Err(odd("it broke off"));
    }
    if status == "200" {
        return Ok(body.to_owned());
    }
    #[derive(serde::Deserialize)]
    struct Refused {
        error: Told,
    }
    #[derive(serde::Deserialize)]
    struct Told {
        message: String,
    }
    let told = serde_json::from_str::<Refused>(body).map(|refused| refused.error.message);
    let text = told.unwrap_or_else(|_| format!("the gateway answered {status}"));
    Err(Fault::new(FaultCode::Refused, text))
}

fn odd(what: &str) -> Fault {
    Fault::new(
        FaultCode::Unreachable,
        format!("the answer is not understood: {what}"),
    )
}

fn fault(no: &NoAnswer) -> Fault {
    match no {
        NoAnswer::NotUnderstood(what) => odd(what),
        NoAnswer::Refused(error) => {
            let ErrorObject { message, data, .. } = &**error;
            let code = match data.code.as_str() {
                "invalid_params" => FaultCode::Invalid,
                "not_found" => FaultCode::NotFound,
                _ => FaultCode::Refused,
            };
            Fault::new(
                code,
                format!("{message} ({}, {})", data.code, data.request_id),
            )
        }
    }
}

struct NoRows;

impl Rows for NoRows {
    fn push(&mut self, _row: Row) -> Result<(), Closed> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_does_not_leave_this_machine_in_the_clear() {
        let token = Credential::new("tk_acme_0".to_owned()).unwrap();
        let refused = exchange("192.0.2.1:8080".parse().unwrap(), &token, "{}").unwrap_err();
        assert_eq!(refused.code, FaultCode::Refused);
    }

    #[test]
    fn only_a_whole_answer_is_one() {
        let answer = |text: &str| body(text.as_bytes());
        assert_eq!(
            answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").unwrap(),
            "{}"
        );
        for broken in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        ] {
            assert_eq!(
                answer(broken).unwrap_err().code,
                FaultCode::Unreachable,
                "{broken}"
            );
        }
        let refused =
            "HTTP/1.1 401 No\r\ncontent-length: 29\r\n\r\n{\"error\":{\"message\":\"gone\"}} ";
        let refused = answer(refused).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (FaultCode::Refused, "gone")
        );
    }
}
