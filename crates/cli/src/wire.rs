//! Calls of the tenant's own API from this machine, by POST in plain HTTP: asked with a token, answered or not, and whether it makes sense to
//! ask again.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use base::limits::{RPC_ANSWER_BYTES_MAX, RPC_PAGE_BYTES_MAX};
use rpc::client::{self, NoAnswer};
use rpc::jsonrpc::ErrorObject;
use rpc::method::Method;
use rpc::{Answer, Closed, Command, Credential, Fault, FaultCode, Row, Rows};
use serde::{Deserialize, Serialize};

use crate::backend::Place;
use crate::client::ask;

/// The id of the one call of each message.
const ID: u64 = 1;
/// Silence of the gateway before a call is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer with its head: nothing that the gateway sends is longer.
const ANSWER_MAX: usize = RPC_ANSWER_BYTES_MAX + RPC_PAGE_BYTES_MAX + 64 * 1024;
/// Longest pause that an answer may ask for.
const LATER_MAX: Duration = Duration::from_secs(60);

/// A gateway of this machine, and a token for it.
pub(crate) struct Wire {
    at: SocketAddr,
    token: Credential,
}

/// A call without a result.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Why.
    pub(crate) fault: Fault,
    /// The gateway's name for it, where it answered.
    pub(crate) code: String,
    /// The same call may go through after so long. Whether this one was carried out is not known then.
    pub(crate) again: Option<Duration>,
}

impl From<Fault> for Unanswered {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            code: String::new(),
            again: None,
        }
    }
}

impl Wire {
    pub(crate) fn new(at: SocketAddr, token: Credential) -> Self {
        Self { at, token }
    }

    /// Asks one method.
    pub(crate) fn ask<M: Method>(&self, params: &M::Params) -> Result<M::Answer, Unanswered> {
        self.ask_named(M::ROW.name, params)
    }

    /// Asks a method of which only the name is known.
    pub(crate) fn ask_named<A: for<'de> Deserialize<'de>>(
        &self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<A, Unanswered> {
        let message = client::written(ID, method, params).map_err(|no| unanswered(&no))?;
        let answer = exchange(self.at, &self.token, &message)?;
        client::read(ID, &answer).map_err(|no| unanswered(&no))
    }
}

/// The public listener of the gateway that serves the data directory.
pub(crate) fn listening(place: &Place) -> Result<SocketAddr, Fault> {
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
            "no gateway runs over this data directory; start one, or give its address (rpc --to, chat --url)",
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

/// The address of a URL such as `http://127.0.0.1:8080`.
pub(crate) fn address(url: &str) -> Result<SocketAddr, Fault> {
    let wrong = |text: &str| Fault::new(FaultCode::Invalid, format!("--url {url}: {text}"));
    if url.starts_with("https://") {
        return Err(wrong(
            "plain HTTP to a gateway of this machine is what is spoken here; bring one of another machine near by: ssh -L 8080:127.0.0.1:8080 HOST",
        ));
    }
    let host = url.strip_prefix("http://").unwrap_or(url);
    let host = host.strip_suffix('/').unwrap_or(host);
    let host = match host.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => host.to_owned(),
        _ => format!("{host}:80"),
    };
    let found = host.to_socket_addrs().ok();
    found
        .and_then(|mut all| all.find(|at| at.ip().is_loopback()))
        .ok_or_else(|| wrong("no address of this machine, such as http://127.0.0.1:8080"))
}

/// One POST in plain HTTP, which is why it goes to this machine only.
fn exchange(at: SocketAddr, token: &Credential, message: &str) -> Result<String, Unanswered> {
    if !at.ip().is_loopback() {
        let text = format!("{at} is not on this machine: a token is not sent there in the clear");
        return Err(Fault::new(FaultCode::Refused, text).into());
    }
    let token = token.expose();
    if token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let text = "what was given is not a token";
        return Err(Fault::new(FaultCode::Invalid, text).into());
    }
    let head = format!(
        "POST /rpc HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        message.len()
    );
    let answer = carry(at, &[head.as_bytes(), message.as_bytes()]);
    let answer = answer.map_err(|error| Unanswered {
        fault: Fault::new(FaultCode::Unreachable, format!("{at}: {error}")),
        code: String::new(),
        again: Some(Duration::ZERO),
    })?;
    body(&answer)
}

fn carry(at: SocketAddr, parts: &[&[u8]]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    for part in parts {
        stream.write_all(part)?;
    }
    let mut answer = Vec::new();
    let max = u64::try_from(ANSWER_MAX).unwrap_or(u64::MAX);
    stream.take(max).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of a whole answer; what the gateway refuses before it reads a message is said in its own words.
fn body(answer: &[u8]) -> Result<String, Unanswered> {
    let broken = |what: &str| Unanswered {
        fault: odd(what),
        code: String::new(),
        again: Some(Duration::ZERO),
    };
    let text = std::str::from_utf8(answer).map_err(|_| odd("not text; does it speak TLS?"))?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| broken("it broke off"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    let number = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(line, _)| line.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    if number("content-length") != u64::try_from(body.len()).ok() {
        return Err(broken("it broke off"));
    }
    if status == "200" {
        return Ok(body.to_owned());
    }
    #[derive(Deserialize)]
    struct Refused {
        error: Told,
    }
    #[derive(Deserialize)]
    struct Told {
        message: String,
    }
    let told = serde_json::from_str::<Refused>(body).map(|refused| refused.error.message);
    let text = told.unwrap_or_else(|_| format!("the gateway answered {status}"));
    let later = matches!(status, "429" | "502" | "503")
        .then(|| Duration::from_secs(number("retry-after").unwrap_or_default()));
    Err(Unanswered {
        fault: Fault::new(FaultCode::Refused, text),
        code: String::new(),
        again: later.map(|later| later.min(LATER_MAX)),
    })
}

fn odd(what: &str) -> Fault {
    Fault::new(
        FaultCode::Unreachable,
        format!("the answer is not understood: {what}"),
    )
}

fn unanswered(no: &NoAnswer) -> Unanswered {
    let error = match no {
        NoAnswer::NotUnderstood(what) => return odd(what).into(),
        NoAnswer::Refused(error) => error,
    };
    let ErrorObject { message, data, .. } = &**error;
    let code = match data.code.as_str() {
        "invalid_params" => FaultCode::Invalid,
        "not_found" => FaultCode::NotFound,
        _ => FaultCode::Refused,
    };
    let text = format!("{message} ({}, {})", data.code, data.request_id);
    Unanswered {
        fault: Fault::new(code, text),
        code: data.code.clone(),
        again: data
            .retry_after_ms
            .map(|ms| Duration::from_millis(ms).min(LATER_MAX)),
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
        assert_eq!(refused.fault.code, FaultCode::Refused);
        assert_eq!(refused.again, None);
        for url in [
            "http://192.0.2.1:8080",
            "https://127.0.0.1:8080",
            "http://",
            "ftp://localhost",
        ] {
            assert_eq!(address(url).unwrap_err().code, FaultCode::Invalid, "{url}");
        }
        for url in [
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8080/",
            "127.0.0.1:8080",
        ] {
            assert_eq!(
                address(url).unwrap(),
                "127.0.0.1:8080".parse().unwrap(),
                "{url}"
            );
        }
        assert_eq!(address("http://[::1]:9000").unwrap().port(), 9000);
        assert_eq!(address("http://127.0.0.1").unwrap().port(), 80);
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
            let no = answer(broken).unwrap_err();
            assert_eq!(no.fault.code, FaultCode::Unreachable, "{broken}");
            assert!(no.again.is_some(), "{broken}");
        }
        let refused =
            "HTTP/1.1 401 No\r\ncontent-length: 29\r\n\r\n{\"error\":{\"message\":\"gone\"}} ";
        let refused = answer(refused).unwrap_err();
        assert_eq!(
            (refused.fault.code, refused.fault.message.as_str()),
            (FaultCode::Refused, "gone")
        );
        assert_eq!(refused.again, None);
        let busy = "HTTP/1.1 503 No\r\nretry-after: 2\r\ncontent-length: 2\r\n\r\n{}";
        let busy = answer(busy).unwrap_err();
        assert_eq!(busy.again, Some(Duration::from_secs(2)));
    }
}
