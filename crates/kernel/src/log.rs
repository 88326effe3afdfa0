//! `gateway.log`: JSON lines, each with a `tenant` key. Never content, never a secret.
//!
//! Lines gather in a bounded buffer and are written by one thread. A line that finds the buffer full is counted and the count is
//! written when there is room: a slow disk must not slow a request.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use base::{TenantId, Timestamp};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};

use crate::error::KernelError;
use crate::json_text::Object;

/// Bytes that wait for the disk at most.
const BUFFER_MAX: usize = 4 * 1024 * 1024;
/// Bytes after which the writer is woken early.
const WAKE_AT: usize = 64 * 1024;
/// Age of a line when it is written at the latest.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// The log of the process.
pub struct Log {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the writer: much to write, a flush, or the end.
    wake: Condvar,
    /// Wakes who waits for a flush.
    flushed: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    dropped: u64,
    flush_asked: u64,
    flush_done: u64,
    ending: bool,
}

/// A value of a log field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// Text; escaped.
    Text(&'a str),
    /// A number.
    Number(u64),
}

impl Log {
    pub(crate) fn open(dir: &Dir) -> Result<Self, KernelError> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let file = dir
            .open_with("gateway.log", &options)
            .map_err(|e| KernelError::Root(format!("cannot open gateway.log: {e}")))?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            flushed: Condvar::new(),
        });
        let for_writer = Arc::clone(&shared);
        #[expect(
            clippy::disallowed_methods,
            reason = "the log's one writer; joined on drop"
        )]
        let writer = std::thread::spawn(move || for_writer.write_all(file.into_std()));
        Ok(Self {
            shared,
            writer: Some(writer),
        })
    }

    /// Writes one line: `time`, `tenant`, `event`, then the fields in the order given.
    pub fn event(
        &self,
        at: Timestamp,
        tenant: Option<&TenantId>,
        event: &str,
        fields: &[(&str, Field<'_>)],
    ) {
        let mut state = self.shared.lock();
        if state.lines.len() > BUFFER_MAX {
            state.dropped += 1;
            return;
        }
        let was_below = state.lines.len() < WAKE_AT;
        write_line(&mut state.lines, at, tenant, event, fields);
        if was_below && state.lines.len() >= WAKE_AT {
            self.shared.wake.notify_one();
        }
    }

    /// Returns when every line so far is with the operating system, or after a second.
    pub fn flush(&self) {
        let mut state = self.shared.lock();
        state.flush_asked += 1;
        let asked = state.flush_asked;
        self.shared.wake.notify_one();
        let waiting = |state: &mut State| state.flush_done < asked;
        let _guard = self
            .shared
            .flushed
            .wait_timeout_while(state, Duration::from_secs(1), waiting);
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.wake.notify_one();
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has nothing left to say.
            let _ended = writer.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut file: impl Write) {
        let mut writing = Vec::new();
        loop {
            let (asked, ending) = {
                // What a disk did not take is offered again at the usual pace, however much waits behind it.
                let stuck = !writing.is_empty();
                let idle = |state: &mut State| {
                    (stuck || state.lines.len() < WAKE_AT)
                        && !state.ending
                        && state.flush_asked == state.flush_done
                };
                let (mut state, _timeout) = self
                    .wake
                    .wait_timeout_while(self.lock(), FLUSH_EVERY, idle)
                    .unwrap_or_else(PoisonError::into_inner);
                if writing.len() < BUFFER_MAX {
                    writing.append(&mut state.lines);
                    let dropped = std::mem::take(&mut state.dropped);
                    if dropped > 0 {
                        let line = format!(
                            "{{\"tenant\":null,\"event\":\"log lines dropped\",\"count\":{dropped}}}\n"
                        );
                        writing.extend_from_slice(line.as_bytes());
                    }
                }
                (state.flush_asked, state.ending)
            };
            // A log that cannot be written must not stop the gateway: the ledger and the audit record are elsewhere.
            offer(&mut file, &mut writing);
            self.lock().flush_done = asked;
            self.flushed.notify_all();
            if ending {
                return;
            }
        }
    }
}

/// Writes what the file takes. The rest stays for the next try, so that a disk that was full for a while cuts no line in two.
fn offer(file: &mut impl Write, writing: &mut Vec<u8>) {
    let mut taken = 0;
    while let Some(rest) = writing.get(taken..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => break,
            Ok(written) => taken += written,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_later) => break,
        }
    }
    writing.drain(..taken.min(writing.len()));
}

fn write_line(
    out: &mut Vec<u8>,
    at: Timestamp,
    tenant: Option<&TenantId>,
    event: &str,
    fields: &[(&str, Field<'_>)],
) {
    let mut line = Object::begin(out);
    line.text("time", &at.to_string());
    match tenant {
        Some(tenant) => line.text("tenant", tenant.as_str()),
        None => line.null("tenant"),
    }
    line.text("event", event);
    for (name, value) in fields {
        match value {
            Field::Text(text) => line.text(name, text),
            Field::Number(number) => line.number(name, *number),
        }
    }
    line.end();
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes, then none.
    struct Small {
        room: usize,
        bytes: Vec<u8>,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.bytes.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_is_full_for_a_while_cuts_no_line() {
        let mut disk = Small {
            room: 5,
            bytes: Vec::new(),
        };
        let mut writing = b"{\"a\":1}\n".to_vec();
        offer(&mut disk, &mut writing);
        assert_eq!(writing, b"1}\n");
        offer(&mut disk, &mut writing);
        writing.extend_from_slice(b"{\"b\":2}\n");
        disk.room = 100;
        offer(&mut disk, &mut writing);
        assert_eq!(disk.bytes, b"{\"a\":1}\n{\"b\":2}\n");
        assert!(writing.is_empty());
    }

    #[test]
    fn lines_are_json_with_a_tenant_and_cannot_be_forged() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient_dir(temp.path(), cap_std::ambient_authority()).unwrap();
        let log = Log::open(&dir).unwrap();
        let acme = "acme".parse().unwrap();
        let hostile = "x\"}\n{\"tenant\":\"globex\u{1b}[31m";
        log.event(
            Timestamp::default(),
            Some(&acme),
            "call",
            &[("model", Field::Text(hostile)), ("ms", Field::Number(3))],
        );
        log.event(Timestamp::default(), None, "start", &[]);
        log.flush();
        let text = dir.read_to_string("gateway.log").unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["tenant"], "acme");
        assert_eq!(lines[0]["model"], hostile);
        assert!(lines[1]["tenant"].is_null());
    }
}
