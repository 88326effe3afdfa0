//! The load generator: closed loop, one connection per worker, every answer checked.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::now_us;
use crate::scenario::{CHUNKS, Kind};

/// One round of load.
pub(crate) struct Plan {
    pub(crate) addr: SocketAddr,
    /// Requests that the workers send in turn, one per tenant.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) concurrency: usize,
    pub(crate) kind: Kind,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
}

/// What one round saw. Times are in microseconds.
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) chunks: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Histogram<u64>,
    pub(crate) first_byte: Histogram<u64>,
    pub(crate) chunk_lag: Histogram<u64>,
}

/// An answer slower than this is an error.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Errors after which a round gives up.
const ERRORS_MAX: u64 = 1_000;
/// Connections are opened with this many at once, so that no backlog overflows.
const CONNECT_BATCH: usize = 64;

/// Runs one round; `sample` is taken at the start and at the end of the measured window.
pub(crate) async fn run<S>(plan: Plan, sample: impl Fn() -> Result<S>) -> Result<(Seen, S, S)> {
    let shared = Rc::new(Shared {
        state: RefCell::new(State::new()?),
        plan,
    });
    let plan = &shared.plan;
    let mut workers = JoinSet::new();
    for worker in 0..plan.concurrency {
        workers.spawn_local(work(Rc::clone(&shared), worker));
        if worker % CONNECT_BATCH == CONNECT_BATCH - 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::sleep(plan.warmup).await;
    let before = sample()?;
    let started = Instant::now();
    shared.state.borrow_mut().phase = Phase::Measured;
    tokio::time::sleep(plan.window).await;
    shared.state.borrow_mut().phase = Phase::Over;
    let elapsed = started.elapsed();
    let after = sample()?;
    while workers.join_next().await.is_some() {}
    let mut state = shared.state.borrow_mut();
    state.seen.elapsed = elapsed;
    let seen = std::mem::replace(&mut state.seen, Seen::new()?);
    Ok((seen, before, after))
}

/// One request on a fresh connection: how the start of a server is awaited.
pub(crate) async fn once(addr: SocketAddr, request: &[u8]) -> Result<()> {
    let mut connection = Connection::open(addr).await?;
    connection
        .exchange(request, Kind::Chat, &mut |_, _| {})
        .await
        .map(|_| ())
}

/// Connections accepted and requests answered by the mock so far.
pub(crate) async fn mock_counters(addr: SocketAddr) -> Result<(u64, u64)> {
    let mut connection = Connection::open(addr).await?;
    connection
        .stream
        .write_all(b"GET /stats HTTP/1.1\r\nhost: mock\r\n\r\n")
        .await?;
    let mut reply = Reply::default();
    while !reply.done {
        connection.fill().await?;
        reply.feed(&connection.buffer)?;
        connection.buffer.clear();
    }
    let text = String::from_utf8(reply.body)?;
    let (connections, requests) = text.split_once(' ').unwrap_or_default();
    Ok((connections.parse()?, requests.parse()?))
}

struct Shared {
    plan: Plan,
    state: RefCell<State>,
}

struct State {
    phase: Phase,
    seen: Seen,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Warmup,
    Measured,
    Over,
}

impl State {
    fn new() -> Result<Self> {
        Ok(Self {
            phase: Phase::Warmup,
            seen: Seen::new()?,
        })
    }
}

impl Seen {
    fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3);
        Ok(Self {
            requests: 0,
            chunks: 0,
            errors: 0,
            first_error: None,
            elapsed: Duration::ZERO,
            latency: histogram()?,
            first_byte: histogram()?,
            chunk_lag: histogram()?,
        })
    }
}

async fn work(shared: Rc<Shared>, worker: usize) {
    let plan = &shared.plan;
    let mut next = worker;
    let mut open: Option<Connection> = None;
    loop {
        let phase = shared.state.borrow().phase;
        if phase == Phase::Over || shared.state.borrow().seen.errors > ERRORS_MAX {
            return;
        }
        let request = &plan.requests[next % plan.requests.len()];
        next += plan.concurrency;
        let outcome = tokio::time::timeout(ANSWER_MAX, attempt(&shared, &mut open, request)).await;
        let failure = match outcome {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => format!("no whole answer within {ANSWER_MAX:?}"),
        };
        open = None;
        let mut state = shared.state.borrow_mut();
        state.seen.errors += 1;
        state.seen.first_error.get_or_insert(failure);
    }
}

async fn attempt(shared: &Shared, open: &mut Option<Connection>, request: &[u8]) -> Result<()> {
    let plan = &shared.plan;
    let connection = match open {
        Some(connection) => connection,
        None => open.insert(Connection::open(plan.addr).await?),
    };
    let began = Instant::now();
    let began_in = shared.state.borrow().phase;
    let mut first: Option<Duration> = None;
    let mut on_chunk = |body: &[u8], known: usize| {
        first.get_or_insert_with(|| began.elapsed());
        if plan.kind != Kind::Chat {
            chunks(shared, body, known);
        }
    };
    connection
        .exchange(request, plan.kind, &mut on_chunk)
        .await?;
    let took = began.elapsed();
    let mut state = shared.state.borrow_mut();
    if state.phase == Phase::Measured {
        state.seen.requests += 1;
    }
    // An answer that began before the window or ended after it would bend the percentiles.
    let streamed = plan.kind != Kind::Chat;
    if began_in == Phase::Measured && (state.phase == Phase::Measured || streamed) {
        state.seen.latency.saturating_record(micros(took));
        state
            .seen
            .first_byte
            .saturating_record(micros(first.unwrap_or(took)));
    }
    Ok(())
}

/// Counts the chunks in the payload after `known` and how late each is against the mock's time stamp.
fn chunks(shared: &Shared, body: &[u8], known: usize) {
    const MARK: &[u8] = b"\"content\":\"t";
    const DIGITS: usize = 16;
    let mut state = shared.state.borrow_mut();
    if state.phase != Phase::Measured {
        return;
    }
    let now = now_us();
    // A mark that began in the bytes already seen ends in the new ones and counts here.
    let fresh = &body[known.saturating_sub(MARK.len() - 1)..];
    for at in memmem::find_iter(fresh, MARK) {
        state.seen.chunks += 1;
        let stamp = fresh.get(at + MARK.len()..at + MARK.len() + DIGITS);
        let sent = stamp.and_then(|digits| std::str::from_utf8(digits).ok()?.parse::<u64>().ok());
        if let Some(sent) = sent {
            state
                .seen
                .chunk_lag
                .saturating_record(now.saturating_sub(sent).max(1));
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(u64::MAX)
        .max(1)
}

/// One connection to a server.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(16 * 1024),
        })
    }

    async fn fill(&mut self) -> Result<()> {
        ensure!(
            self.stream.read_buf(&mut self.buffer).await? > 0,
            "the connection closed in the middle of an answer"
        );
        Ok(())
    }

    /// Sends one request and reads its whole answer, whatever it is: the status.
    pub(crate) async fn status(&mut self, request: &[u8]) -> Result<u16> {
        Ok(self.answer(request).await?.0)
    }

    /// Sends one request and reads its whole answer, whatever it is: the status and the body.
    pub(crate) async fn answer(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>)> {
        self.stream.write_all(request).await?;
        let mut reply = Reply::default();
        while !reply.done {
            self.fill().await?;
            reply.feed(&self.buffer)?;
            self.buffer.clear();
        }
        Ok((reply.status, reply.body))
    }

    /// Sends one request and reads its whole answer, which must be right.
    pub(crate) async fn exchange(
        &mut self,
        request: &[u8],
        kind: Kind,
        on_payload: &mut impl FnMut(&[u8], usize),
    ) -> Result<()> {
        self.stream.write_all(request).await?;
        let mut reply = Reply::default();
        while !reply.done {
            self.fill().await?;
            let before = reply.body.len();
            reply.feed(&self.buffer)?;
            self.buffer.clear();
            if reply.body.len() > before {
                on_payload(&reply.body, before);
            }
        }
        reply.check(kind)
    }
}

/// An answer as it arrives.
#[derive(Default)]
struct Reply {
    head: Vec<u8>,
    status: u16,
    framing: Framing,
    body: Vec<u8>,
    done: bool,
}

#[derive(Default)]
enum Framing {
    #[default]
    Head,
    Length(usize),
    /// Bytes left of this chunk, its line end included; 0 while a size line is read into `line`.
    Chunked {
        left: usize,
        line: Vec<u8>,
        last: bool,
    },
}

impl Reply {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        if matches!(self.framing, Framing::Head) {
            let known = self.head.len();
            self.head.extend_from_slice(bytes);
            let Some(end) = memmem::find(&self.head, b"\r\n\r\n") else {
                return Ok(());
            };
            bytes = &bytes[end + 4 - known..];
            self.head.truncate(end);
            self.read_head()?;
        }
        match &mut self.framing {
            Framing::Head => {}
            Framing::Length(left) => {
                ensure!(bytes.len() <= *left, "more bytes than the answer announced");
                self.body.extend_from_slice(bytes);
                *left -= bytes.len();
                self.done = *left == 0;
            }
            Framing::Chunked { left, line, last } => {
                while !bytes.is_empty() {
                    ensure!(!self.done, "bytes after the last chunk");
                    if *left == 0 {
                        let (byte, rest) = (bytes[0], &bytes[1..]);
                        bytes = rest;
                        line.push(byte);
                        if byte != b'\n' {
                            continue;
                        }
                        let text = std::str::from_utf8(line)?.trim_end();
                        if *last {
                            self.done = text.is_empty();
                        } else {
                            let size = text.split(';').next().unwrap_or_default();
                            let size = usize::from_str_radix(size, 16)?;
                            *last = size == 0;
                            *left = if size == 0 { 0 } else { size + 2 };
                        }
                        line.clear();
                        continue;
                    }
                    let taken = bytes.len().min(*left);
                    let payload = taken.min(left.saturating_sub(2));
                    self.body.extend_from_slice(&bytes[..payload]);
                    *left -= taken;
                    bytes = &bytes[taken..];
                }
            }
        }
        Ok(())
    }

    fn read_head(&mut self) -> Result<()> {
        let head = std::str::from_utf8(&self.head)?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        self.status = status.unwrap_or(0);
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                bail!("a header line without a colon")
            };
            if name.eq_ignore_ascii_case("content-length") {
                self.framing = Framing::Length(value.trim().parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.framing = Framing::Chunked {
                    left: 0,
                    line: Vec::new(),
                    last: false,
                };
            }
        }
        match self.framing {
            Framing::Head => bail!("an answer without content-length and without chunks"),
            Framing::Length(0) => self.done = true,
            _ => {}
        }
        Ok(())
    }

    fn check(&self, kind: Kind) -> Result<()> {
        if self.status != 200 {
            let text = String::from_utf8_lossy(&self.body);
            bail!(
                "status {}: {}",
                self.status,
                text.chars().take(300).collect::<String>()
            );
        }
        match kind {
            Kind::Chat => {
                let whole = self.body.starts_with(b"{") && self.body.ends_with(b"}");
                ensure!(
                    whole && memmem::find(&self.body, b"\"usage\"").is_some(),
                    "the answer is not whole"
                );
            }
            Kind::Stream(_) => {
                ensure!(
                    self.body.ends_with(b"data: [DONE]\n\n"),
                    "the stream does not end with [DONE]"
                );
                let events = memmem::find_iter(&self.body, b"data: {").count();
                ensure!(
                    events == CHUNKS + 2,
                    "{events} events instead of {}",
                    CHUNKS + 2
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_any_pieces() {
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n";
        for size in 1..wire.len() {
            let mut reply = Reply::default();
            for piece in wire.chunks(size) {
                assert!(!reply.done);
                reply.feed(piece).unwrap();
            }
            assert!(reply.done && reply.body == b"hello world", "{size}");
        }
    }

    #[test]
    fn bad_answers_are_errors() {
        let read = |wire: &str| {
            let mut reply = Reply::default();
            reply.feed(wire.as_bytes())?;
            ensure!(reply.done, "not done");
            reply.check(Kind::Chat)
        };
        assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"usage\":1}").is_ok());
        assert!(read("HTTP/1.1 500 No\r\ncontent-length: 11\r\n\r\n{\"usage\":1}").is_err());
        assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n{\"usage\":1}").is_err());
        assert!(read("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").is_err());
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
