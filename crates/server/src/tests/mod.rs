//! The process in one piece: a real data directory, both listeners, the control socket, a simulated provider.

mod api;
mod control;
mod life;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kernel::tasks::Tasks;
use rpc::{Answer, Command, Fault, Frame, NewTenant, Row, TenantCreated};
use simulator::{Options, Simulator};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};

use crate::config::Environment;
use crate::init::init_in;
use crate::serve::{Running, ServeOptions, start};

/// A gateway that runs in the test's own process.
pub(crate) struct House {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) running: Option<Running>,
    pub(crate) operator_key: String,
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Wire {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

impl House {
    /// A fresh data directory over a simulated provider, serving.
    pub(crate) async fn open() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        let made = tokio::task::spawn_blocking(move || init_in(&data, &Environment::of([])))
            .await
            .unwrap()
            .unwrap();
        let simulator = Simulator::bind("127.0.0.1:0".parse().unwrap(), Options::default())
            .await
            .unwrap();
        let provider = simulator.addr();
        Tasks::default().spawn(simulator.serve(std::future::pending()));
        let house = Self {
            temp,
            running: None,
            operator_key: made.operator_key.expose().to_owned(),
        };
        house.configure(&format!(
            "listen: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
             providers:\n  - {{ name: sim, kind: openai, base_url: \"http://{provider}/v1\", api_key: file:sim.key }}\n\
             models:\n  - {{ name: sim-fast, routes: [ {{ provider: sim, model: sim-fast }} ] }}\n\
             \u{20}\u{20}- {{ name: meta/hidden, routes: [ {{ provider: sim, model: sim-large }} ] }}\n\
             tiers:\n  basic: {{ models: [sim-fast], max_tokens: 2000 }}\n  pro: {{ max_tokens: 4000 }}\n\
             ratecards: [ sim.json ]\n"
        ));
        write(&house.data().join("sim.key"), "sk-sim");
        write(&house.data().join("sim.json"), simulator::PRICE_CARD);
        house.started().await
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.temp.path().join("data")
    }

    pub(crate) fn configure(&self, text: &str) {
        write(&self.data().join("partywall.yaml"), text);
    }

    pub(crate) async fn started(mut self) -> Self {
        let options = ServeOptions {
            data: self.data(),
            config: None,
            listen: None,
            admin_listen: None,
        };
        self.running = Some(start(options, &Environment::of([])).await.unwrap());
        self
    }

    pub(crate) async fn stopped(&mut self) -> Result<(), Fault> {
        self.running.take().unwrap().stop().await
    }

    pub(crate) fn public(&self) -> SocketAddr {
        self.running.as_ref().unwrap().listening.public
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.running.as_ref().unwrap().listening.admin
    }

    pub(crate) async fn tenant(&self, id: &str) -> TenantCreated {
        let new = NewTenant {
            id: id.parse().unwrap(),
            tier: None,
            limits: base::Limits::default(),
        };
        match self.ask(Command::TenantsCreate(new)).await {
            (_, Ok(Answer::TenantCreated(created))) => created,
            _ => panic!("no tenant {id}"),
        }
    }

    /// One command over the control socket.
    pub(crate) async fn ask(&self, command: Command) -> (Vec<Row>, Result<Answer, Fault>) {
        let mut stream = UnixStream::connect(self.data().join("control.sock"))
            .await
            .unwrap();
        stream.write_all(&command.to_line().unwrap()).await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut rows = Vec::new();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            match Frame::from_line(line.as_bytes()).unwrap() {
                Frame::Row(row) => rows.push(*row),
                Frame::Answer(answer) => return (rows, Ok(*answer)),
                Frame::Fault(fault) => return (rows, Err(fault)),
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "files of a test's own directory")]
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// A path of that pattern.
pub(crate) fn example(pattern: &str) -> String {
    pattern
        .replace("{model}", "sim-fast")
        .replace("{tenant}", "acme")
        .replace("{token}", "default")
        .replace("{seq}", "7")
}

/// One request on a connection of its own, with these header lines.
pub(crate) async fn call(at: SocketAddr, line: &str, headers: &[&str], body: &str) -> Wire {
    let mut head = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    raw(at, &format!("{head}{length}\r\n{body}")).await
}

/// One request as it stands; the answer is read to the end of the connection.
pub(crate) async fn raw(at: SocketAddr, request: &str) -> Wire {
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    read(&mut stream).await
}

pub(crate) async fn read(stream: &mut TcpStream) -> Wire {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        unchunked(body)
    } else {
        body.to_owned()
    };
    Wire {
        status,
        head: head.to_owned(),
        body,
    }
}

/// A chunked body put together; one that does not end properly gets a mark.
fn unchunked(mut text: &str) -> String {
    let mut body = String::new();
    loop {
        let Some((size, rest)) = text.split_once("\r\n") else {
            return body + "[broken]";
        };
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.push_str(&rest[..size]);
        text = &rest[size + 2..];
    }
}

pub(crate) fn json(wire: &Wire) -> serde_json::Value {
    serde_json::from_str(&wire.body).unwrap_or_else(|error| panic!("{error}: {}", wire.body))
}
