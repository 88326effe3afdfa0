//! What the provider knows of its requests: the other side of every reconciliation.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::HeaderMap;
use serde::Serialize;

use crate::answer::{CacheUse, Tokens};
use crate::call::Prefix;

/// Requests that are remembered; older ones fall out.
const RECORDS_MAX: usize = 20_000;
/// Bytes of bodies that are remembered, over all records.
const BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Prompt prefixes that count as cached.
const PREFIXES_MAX: usize = 1_024;
/// Order texts that are counted for `times`.
const ORDERS_MAX: usize = 4_096;
/// Bytes of one header value in a record.
const HEADER_BYTES: usize = 1_024;

/// Counters over the life of the simulator, or since the last reset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// TCP connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// Requests to provider routes.
    pub requests: u64,
    /// Requests whose answer has not ended.
    pub requests_open: u64,
    /// Answers given to their last byte.
    pub finished: u64,
}

/// One request that reached the simulator.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Place in the order of arrival, from 1.
    pub seq: u64,
    /// Request path.
    pub path: String,
    /// Model as the request named it, orders included; empty where there was none.
    pub model: String,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Request headers, names in lower case; long values are shortened.
    pub headers: Vec<(String, String)>,
    /// Bytes of the request body.
    pub body_bytes: usize,
    /// The request body, where the options keep bodies and it is short enough.
    pub body: Option<String>,
    /// HTTP status of the answer; 0 where there was none.
    pub status: u16,
    /// What the provider bills for it, whatever the answer said.
    pub usage: Option<Billed>,
    /// Whether the answer was given to its last byte.
    pub finished: bool,
}

/// Tokens as billed. Cache counts stand beside `input`, reasoning stands inside `output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Billed {
    /// Uncached input.
    pub input: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache, any lifetime.
    pub cache_write: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// Reasoning within the output.
    pub reasoning: u64,
}

/// The ledger of one simulator.
#[derive(Clone)]
pub(crate) struct Ledger {
    // Held for a few map operations, never across an await.
    state: Arc<Mutex<State>>,
    body_bytes_kept: usize,
}

#[derive(Default)]
struct State {
    stats: Stats,
    sequence: u64,
    records: VecDeque<Record>,
    bodies_bytes: usize,
    prefixes: VecDeque<u64>,
    orders: HashMap<String, u32>,
    file: Option<File>,
}

/// One open request: what becomes of it is written when this is dropped.
pub(crate) struct Entry {
    ledger: Ledger,
    pub(crate) record: Record,
}

/// One open connection.
pub(crate) struct Connection(Ledger);

impl Ledger {
    pub(crate) fn new(body_bytes_kept: usize, file: Option<File>) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                file,
                ..State::default()
            })),
            body_bytes_kept,
        }
    }

    pub(crate) fn connection(&self) -> Connection {
        let mut state = self.lock();
        state.stats.connections += 1;
        state.stats.connections_open += 1;
        drop(state);
        Connection(self.clone())
    }

    pub(crate) fn open(&self, path: &str, headers: &HeaderMap) -> Entry {
        let mut state = self.lock();
        state.stats.requests += 1;
        state.stats.requests_open += 1;
        state.sequence += 1;
        let headers = headers
            .iter()
            .map(|(name, value)| {
                let bytes = value.as_bytes();
                let text =
                    String::from_utf8_lossy(&bytes[..bytes.len().min(HEADER_BYTES)]).into_owned();
                (name.as_str().to_owned(), text)
            })
            .collect();
        let record = Record {
            seq: state.sequence,
            path: path.to_owned(),
            model: String::new(),
            stream: false,
            headers,
            body_bytes: 0,
            body: None,
            status: 0,
            usage: None,
            finished: false,
        };
        drop(state);
        Entry {
            ledger: self.clone(),
            record,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        self.lock().stats
    }

    pub(crate) fn records(&self) -> Vec<Record> {
        self.lock().records.iter().cloned().collect()
    }

    /// Forgets records, counters, cached prefixes and counted orders; open ones stay counted.
    pub(crate) fn reset(&self) {
        let mut state = self.lock();
        state.stats = Stats {
            connections: state.stats.connections_open,
            connections_open: state.stats.connections_open,
            requests_open: state.stats.requests_open,
            ..Stats::default()
        };
        state.records.clear();
        state.bodies_bytes = 0;
        state.prefixes.clear();
        state.orders.clear();
    }

    /// Counts one more request with these orders under this key: how many there were before.
    pub(crate) fn times(&self, key: &str, orders: &str) -> u32 {
        let mut state = self.lock();
        if state.orders.len() >= ORDERS_MAX {
            state.orders.clear();
        }
        let count = state.orders.entry(format!("{key} {orders}")).or_default();
        *count += 1;
        *count - 1
    }

    /// Reads what is cached of these prefixes and caches the rest. `writes`: whether the provider bills writes.
    pub(crate) fn cache(&self, key: u64, prefixes: &[Prefix], writes: bool) -> CacheUse {
        let mut state = self.lock();
        let known =
            |state: &State, prefix: &Prefix| state.prefixes.contains(&(prefix.digest ^ key));
        let read = prefixes
            .iter()
            .rfind(|prefix| known(&state, prefix))
            .map_or(0, |prefix| prefix.tokens);
        let mut cache = CacheUse {
            read,
            ..CacheUse::default()
        };
        let mut upto = read;
        for prefix in prefixes {
            if writes && prefix.tokens > upto {
                let bucket = if prefix.one_hour {
                    &mut cache.write_1h
                } else {
                    &mut cache.write
                };
                *bucket += prefix.tokens - upto;
                upto = prefix.tokens;
            }
            if !known(&state, prefix) {
                if state.prefixes.len() >= PREFIXES_MAX {
                    state.prefixes.pop_front();
                }
                state.prefixes.push_back(prefix.digest ^ key);
            }
        }
        cache
    }

    fn close(&self, mut record: Record) {
        let mut state = self.lock();
        state.stats.requests_open = state.stats.requests_open.saturating_sub(1);
        state.stats.finished += u64::from(record.finished);
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        if let Some(file) = &mut state.file
            && file.write_all(&line).is_err()
        {
            // A disk that is full ends the recording, not the simulation.
            state.file = None;
        }
        let bytes = record.body.as_ref().map_or(0, String::len);
        if state.bodies_bytes + bytes > BODIES_BYTES_MAX {
            record.body = None;
        } else {
            state.bodies_bytes += bytes;
        }
        if state.records.len() >= RECORDS_MAX
            && let Some(oldest) = state.records.pop_front()
        {
            state.bodies_bytes -= oldest.body.map_or(0, |body| body.len());
        }
        state.records.push_back(record);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    pub(crate) fn body(&mut self, body: &[u8]) {
        self.record.body_bytes = body.len();
        if self.ledger.body_bytes_kept > 0 && body.len() <= self.ledger.body_bytes_kept {
            self.record.body = Some(String::from_utf8_lossy(body).into_owned());
        }
    }

    pub(crate) fn bill(&mut self, tokens: &Tokens) {
        self.record.usage = Some(Billed {
            input: tokens.input,
            cache_read: tokens.cache_read,
            cache_write: tokens.cache_write.saturating_add(tokens.cache_write_1h),
            output: tokens.output,
            reasoning: tokens.reasoning,
        });
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.close(self.record.clone());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.stats.connections_open = state.stats.connections_open.saturating_sub(1);
    }
}
