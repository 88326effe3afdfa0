//! What somebody who watches a session is told: stored with what it tells of, so that a watcher goes on where it broke off.

use base::Timestamp;
use kernel::sql::params;
use kernel::{ReadTx, StoreError, WriteTx};
use serde_json::Value;

/// One event of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its place among all events of the tenant; it grows.
    pub seq: i64,
    /// A JSON object with at least `type`: `run.queued`, `run.started`, `message`, `tool.started`, `tool.ended`,
    /// `approval.requested`, `approval.decided`, `run.ended`, `session.reset`, `session.compacted`.
    pub body: String,
    /// When it happened.
    pub at: Timestamp,
}

pub(crate) fn put(
    tx: &mut WriteTx<'_>,
    session: i64,
    body: &Value,
    now: Timestamp,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO session_event (session, body, created_ms) VALUES (?1, ?2, ?3)";
    tx.execute(sql, params![session, body.to_string(), now.unix_ms()])?;
    Ok(())
}

/// Events of a session after a place, oldest first.
pub(crate) fn after(
    tx: &ReadTx<'_>,
    session: i64,
    after: i64,
    limit: usize,
) -> Result<Vec<Event>, StoreError> {
    let sql =
        "SELECT number, body, created_ms FROM session_event WHERE session = ?1 AND number > ?2
        ORDER BY number LIMIT ?3";
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(sql, params![session, after, rows], limit, |row| {
        Ok(Event {
            seq: row.get(0)?,
            body: row.get(1)?,
            at: Timestamp::from_unix_ms(row.get(2)?),
        })
    })
}

/// The place of the newest event of a session, 0 without one.
pub(crate) fn last(tx: &ReadTx<'_>, session: i64) -> Result<i64, StoreError> {
    let sql = "SELECT COALESCE(MAX(number), 0) FROM session_event WHERE session = ?1";
    let last = tx.query_one(sql, params![session], |row| Ok(row.get(0)?))?;
    Ok(last.unwrap_or_default())
}
