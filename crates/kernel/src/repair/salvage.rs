//! What can still be read of a table, page by page.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use store::sql::{Value, params, params_from_iter};
use store::{Place, StoreError, WriteTx};

use crate::error::KernelError;
use crate::open::Kernel;

/// A table whose rows have a number.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// The column that is the row's number.
    pub(crate) key: &'static str,
    pub(crate) columns: &'static [&'static str],
}

pub(crate) static LEDGER: Table = Table {
    name: "ledger",
    key: "sent_seq",
    columns: &[
        "sent_seq",
        "request_id",
        "attempt",
        "person",
        "token",
        "model",
        "provider",
        "provider_model",
        "input",
        "cache_read",
        "cache_write",
        "cache_write_1h",
        "audio_in",
        "image_in",
        "output",
        "reasoning",
        "audio_out",
        "server_tool_calls",
        "cost_pico",
        "hold_pico",
        "charged_pico",
        "ratecard_version",
        "usage_source",
        "outcome",
        "started_ms",
        "finished_ms",
        "charged_tokens",
        "requests",
        "trace",
    ],
};
pub(crate) static AUDIT: Table = Table {
    name: "audit",
    key: "seq",
    columns: &["seq", "journal_seq", "entry", "unsent_seq"],
};
pub(crate) static TILES: Table = Table {
    name: "audit_tile",
    key: "rowid",
    columns: &["level", "place", "hashes"],
};
pub(crate) static KEYS: Table = Table {
    name: "audit_key",
    key: "number",
    columns: &["number", "vkey", "sealed", "after", "place"],
};
pub(crate) static SECRETS: Table = Table {
    name: "secrets",
    key: "rowid",
    columns: &["name", "sealed", "created_ms"],
};
pub(crate) static POLICY: Table = Table {
    name: "policy",
    key: "number",
    columns: &[
        "number", "document", "version", "set_ms", "after", "in_force",
    ],
};
pub(crate) static AGENTS: Table = Table {
    name: "agent",
    key: "number",
    columns: &["number", "name", "version", "body", "set_ms"],
};
pub(crate) static SESSIONS: Table = Table {
    name: "session",
    key: "number",
    columns: &[
        "number",
        "id",
        "owner",
        "agent",
        "model",
        "channel",
        "title",
        "begins",
        "created_ms",
        "used_ms",
    ],
};
pub(crate) static MESSAGES: Table = Table {
    name: "message",
    key: "number",
    columns: &[
        "number",
        "session",
        "run",
        "body",
        "client_key",
        "client_digest",
        "created_ms",
    ],
};
pub(crate) static RUNS: Table = Table {
    name: "run",
    key: "number",
    columns: &[
        "number",
        "id",
        "session",
        "agent_version",
        "caller",
        "token",
        "state",
        "why",
        "steps",
        "cost_pico",
        "created_ms",
        "started_ms",
        "ended_ms",
    ],
};
pub(crate) static TOOL_CALLS: Table = Table {
    name: "tool_call",
    key: "number",
    columns: &[
        "number",
        "run",
        "step",
        "id",
        "call",
        "tool",
        "arguments",
        "state",
        "approvers",
        "decided_by",
        "until_ms",
        "begun_ms",
        "ended_ms",
    ],
};
pub(crate) static SESSION_EVENTS: Table = Table {
    name: "session_event",
    key: "number",
    columns: &["number", "session", "body", "created_ms"],
};
pub(crate) static SUMMARIES: Table = Table {
    name: "summary",
    key: "number",
    columns: &["number", "session", "upto", "body", "created_ms"],
};
pub(crate) static OUTBOX: Table = Table {
    name: "outbox",
    key: "rowid",
    columns: &[
        "id",
        "mark",
        "body",
        "created_ms",
        "attempts",
        "next_ms",
        "ended",
    ],
};

/// Never in a copy: a key that is destroyed must lie nowhere else.
pub(crate) static PERSON_KEYS: Table = Table {
    name: "person_key",
    key: "number",
    columns: &[
        "number",
        "kind",
        "name",
        "sealed",
        "created_ms",
        "erased_ms",
        "conversations",
    ],
};
/// Never in a copy: without its key it is of no use.
pub(crate) static CONTENT: Table = Table {
    name: "audit_content",
    key: "rowid",
    columns: &["seq", "part", "key", "sent_seq", "sealed"],
};
pub(crate) static IN_FORCE: Table = Table {
    name: "in_force",
    key: "rowid",
    columns: &["name", "value"],
};

/// Rows that one transaction reads.
const PAGE: i64 = 256;
/// Stretches that are looked into once both their ends cannot be read.
const STRETCHES: usize = 300;
/// How often a busy store is asked again.
const TRIES: usize = 20;

/// Numbers from the first to the last.
#[derive(Clone, Copy)]
struct Stretch {
    first: i64,
    last: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

type Rows = Vec<(i64, Vec<Value>)>;

impl Kernel {
    /// Copies every row of `from` that can be read into `to`; a row that is there already stays. Whether all could be read.
    pub(crate) async fn salvage(
        &self,
        table: &'static Table,
        from: &Arc<Place>,
        to: &Arc<Place>,
    ) -> Result<bool, KernelError> {
        self.salvage_from(table, 0, from, to).await
    }

    /// The same for the rows from a number on.
    pub(crate) async fn salvage_from(
        &self,
        table: &'static Table,
        first: i64,
        from: &Arc<Place>,
        to: &Arc<Place>,
    ) -> Result<bool, KernelError> {
        let all = Stretch {
            first,
            last: i64::MAX,
        };
        let (mut stretches, mut whole, mut looks) = (VecDeque::from([all]), true, 0);
        while let Some(stretch) = stretches.pop_front() {
            let Some(first) = self.read_on(table, from, to, stretch, Way::Up).await? else {
                continue;
            };
            whole = false;
            let rest = Stretch { first, ..stretch };
            let Some(last) = self.read_on(table, from, to, rest, Way::Down).await? else {
                continue;
            };
            looks += 1;
            if first < last && looks < STRETCHES {
                // Between two pages that cannot be read there may be others.
                let middle = first.midpoint(last);
                stretches.push_back(Stretch {
                    first,
                    last: middle,
                });
                stretches.push_back(Stretch {
                    first: middle + 1,
                    last,
                });
            }
        }
        Ok(whole)
    }

    /// Copies rows in one direction until one cannot be read. Returns the number from which on that is so, `None` at the end.
    async fn read_on(
        &self,
        table: &'static Table,
        from: &Arc<Place>,
        to: &Arc<Place>,
        mut stretch: Stretch,
        way: Way,
    ) -> Result<Option<i64>, KernelError> {
        loop {
            if stretch.first > stretch.last {
                return Ok(None);
            }
            let (rows, end) = self.page(table, from, stretch, way).await?;
            let last = rows.last().map(|(number, _)| *number);
            if !rows.is_empty() {
                self.put(table, to, rows).await?;
            }
            match (way, last) {
                (Way::Up, Some(i64::MAX)) | (Way::Down, Some(0)) => return Ok(None),
                (Way::Up, Some(last)) => stretch.first = last + 1,
                (Way::Down, Some(last)) => stretch.last = last - 1,
                (_, None) => {}
            }
            match (end, way) {
                (End::More, _) => {}
                (End::Last, _) => return Ok(None),
                (End::Unreadable, Way::Up) => return Ok(Some(stretch.first)),
                (End::Unreadable, Way::Down) => return Ok(Some(stretch.last)),
            }
        }
    }

    async fn page(
        &self,
        table: &'static Table,
        from: &Arc<Place>,
        stretch: Stretch,
        way: Way,
    ) -> Result<(Rows, End), KernelError> {
        let order = if way == Way::Up { "ASC" } else { "DESC" };
        let (key, name, columns) = (table.key, table.name, table.columns.join(", "));
        let sql = format!(
            "SELECT {key}, {columns} FROM {name} WHERE {key} BETWEEN ?1 AND ?2 ORDER BY {key} {order} LIMIT ?3"
        );
        let mut tries = 0;
        loop {
            // What was read before a page that cannot be read is kept.
            let read: Arc<Mutex<Rows>> = Arc::default();
            let (taken, sql) = (Arc::clone(&read), sql.clone());
            let width = table.columns.len();
            let done = self.engine().read(from, move |tx| {
                let asked = params![stretch.first, stretch.last, PAGE];
                tx.for_each(&sql, asked, |row| {
                    let values: Result<Vec<Value>, _> = (1..=width).map(|at| row.get(at)).collect();
                    let mut rows = taken.lock().unwrap_or_else(PoisonError::into_inner);
                    rows.push((row.get(0)?, values?));
                    Ok(())
                })
            });
            let done = done.await;
            let rows = std::mem::take(&mut *read.lock().unwrap_or_else(PoisonError::into_inner));
            match done {
                Ok(()) if rows.len() < usize::try_from(PAGE).unwrap_or_default() => {
                    return Ok((rows, End::Last));
                }
                Ok(()) => return Ok((rows, End::More)),
                Err(StoreError::Busy) if tries < TRIES => tries += 1,
                Err(error @ (StoreError::Busy | StoreError::Closed)) => return Err(error.into()),
                Err(_) => return Ok((rows, End::Unreadable)),
            }
        }
    }

    async fn put(
        &self,
        table: &'static Table,
        to: &Arc<Place>,
        rows: Rows,
    ) -> Result<(), KernelError> {
        Ok(self
            .engine()
            .write(to, move |tx| insert(tx, table, rows))
            .await?)
    }
}

enum End {
    More,
    Last,
    Unreadable,
}

fn insert(tx: &mut WriteTx<'_>, table: &Table, rows: Rows) -> Result<(), StoreError> {
    let sql = table.insertion();
    for (_, values) in rows {
        tx.execute(&sql, params_from_iter(values))?;
    }
    Ok(())
}

impl Table {
    /// The statement that puts a row in, where none of its number or name is there.
    pub(crate) fn insertion(&self) -> String {
        let marks: Vec<_> = (1..=self.columns.len())
            .map(|at| format!("?{at}"))
            .collect();
        let (name, columns, marks) = (self.name, self.columns.join(", "), marks.join(", "));
        format!("INSERT OR IGNORE INTO {name} ({columns}) VALUES ({marks})")
    }
}
