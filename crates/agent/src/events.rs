//! What somebody who watches a session is told: stored with what it tells of, so that a watcher goes on where it broke off.

use base::Timestamp;
use base::limits::RPC_PAGE_BYTES_MAX;
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
    let found = tx.query(sql, params![session, after, rows], limit, |row| {
        Ok(Event {
            seq: row.get(0)?,
            body: row.get(1)?,
            at: Timestamp::from_unix_ms(row.get(2)?),
        })
    })?;
    let (mut whole, mut bytes) = (Vec::with_capacity(found.len()), 0);
    for event in found {
        let event = with_message(tx, session, event)?;
        bytes += event.body.len();
        if bytes > RPC_PAGE_BYTES_MAX && !whole.is_empty() {
            break;
        }
        whole.push(event);
    }
    Ok(whole)
}

/// The event with the message that it tells of, where that is still there.
fn with_message(tx: &ReadTx<'_>, session: i64, mut event: Event) -> Result<Event, StoreError> {
    let mut body: Value = serde_json::from_str(&event.body).map_err(|_| StoreError::Damaged)?;
    let Some(seq) = body["seq"].as_i64().filter(|_| body["type"] == "message") else {
        return Ok(event);
    };
    let sql = "SELECT body FROM message WHERE number = ?1 AND session = ?2";
    let message: Option<String> =
        tx.query_one(sql, params![seq, session], |row| Ok(row.get(0)?))?;
    let message = message.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    body["message"] = message.unwrap_or_default();
    event.body = body.to_string();
    Ok(event)
}

/// The place of the newest event of a session, 0 without one.
pub(crate) fn last(tx: &ReadTx<'_>, session: i64) -> Result<i64, StoreError> {
    let sql = "SELECT COALESCE(MAX(number), 0) FROM session_event WHERE session = ?1";
    let last = tx.query_one(sql, params![session], |row| Ok(row.get(0)?))?;
    Ok(last.unwrap_or_default())
}
