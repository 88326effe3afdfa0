//! Runs and calls of tools as they are stored: the one truth about them.

use base::{Money, Timestamp};
use kernel::sql::{Row, params};
use kernel::{ReadTx, StoreError, WriteTx};
use serde_json::json;

use crate::events;
use crate::ids;
use crate::sessions::{self, Eyes, Session};

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It waits for its turn.
    Queued,
    /// It works.
    Running,
    /// It waits for somebody to approve a call.
    Waiting,
    /// It has answered.
    Finished,
    /// It ended without an answer.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// `run_` and 32 hex digits, which are the trace of all its calls of models.
    pub id: String,
    /// Its session's id.
    pub session: String,
    /// Its agent, empty without one, and the version that it keeps.
    pub agent: String,
    /// 0 without an agent.
    pub agent_version: i64,
    /// The credential that began it.
    pub token: String,
    /// `queued`, `running`, `waiting`, `finished`, `failed` or `cancelled`.
    pub state: String,
    /// Why it failed: a stable code.
    pub why: Option<String>,
    /// Calls of the model so far.
    pub steps: i64,
    /// What these cost, as far as it is known.
    pub cost: Money,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it began to work.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its calls of tools, in order.
    pub calls: Vec<ToolCall>,
    pub(crate) number: i64,
    pub(crate) session_number: i64,
    pub(crate) owner: String,
    pub(crate) caller: [u8; 32],
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// `call_` and 32 hex digits.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, as the model wrote them.
    pub arguments: String,
    /// `proposed`, `waiting`, `approved`, `denied`, `begun` or `ended`.
    pub state: String,
    /// Roles of which one has to approve, while it waits.
    pub approvers: Option<String>,
    /// Who decided: a role and the credential's name.
    pub decided_by: Option<String>,
    /// Until when it waits, or waited.
    pub until: Option<Timestamp>,
    /// When it began to take effect.
    pub begun_at: Option<Timestamp>,
    /// When its result was there.
    pub ended_at: Option<Timestamp>,
    pub(crate) number: i64,
    /// The id that the model gave it.
    pub(crate) call: String,
}

const RUN: &str = "r.number, r.id, r.session, s.id, s.owner, s.agent, r.agent_version, r.caller, r.token, r.state, r.why,
    r.steps, r.cost_pico, r.created_ms, r.started_ms, r.ended_ms";
const FROM: &str = "FROM run AS r JOIN session AS s ON s.number = r.session";

fn run(row: &Row<'_>) -> Result<Run, StoreError> {
    let moment = |ms: Option<i64>| ms.map(Timestamp::from_unix_ms);
    Ok(Run {
        number: row.get(0)?,
        id: row.get(1)?,
        session_number: row.get(2)?,
        session: row.get(3)?,
        owner: row.get(4)?,
        agent: row.get(5)?,
        agent_version: row.get(6)?,
        caller: row.get(7)?,
        token: row.get(8)?,
        state: row.get(9)?,
        why: row.get(10)?,
        steps: row.get(11)?,
        cost: Money::from_pico(i128::from(row.get::<_, i64>(12)?)),
        created_at: Timestamp::from_unix_ms(row.get(13)?),
        started_at: moment(row.get(14)?),
        ended_at: moment(row.get(15)?),
        calls: Vec::new(),
    })
}

/// The run of that id, with its calls, where these eyes see its session.
pub(crate) fn find(tx: &ReadTx<'_>, id: &str, eyes: &Eyes) -> Result<Option<Run>, StoreError> {
    if ids::digits(id, ids::RUN).is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT {RUN} {FROM} WHERE r.id = ?1");
    let found = tx.query_one(&sql, params![id], run)?;
    match found.filter(|run| eyes.see(&run.owner)) {
        Some(run) => with_calls(tx, run).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn by_number(tx: &ReadTx<'_>, number: i64) -> Result<Option<Run>, StoreError> {
    let sql = format!("SELECT {RUN} {FROM} WHERE r.number = ?1");
    let found = tx.query_one(&sql, params![number], run)?;
    found.map(|run| with_calls(tx, run)).transpose()
}

fn with_calls(tx: &ReadTx<'_>, mut run: Run) -> Result<Run, StoreError> {
    run.calls = calls(tx, run.number)?;
    Ok(run)
}

/// What a run has said and was told so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

pub(crate) fn size(tx: &ReadTx<'_>, session: i64, run: i64) -> Result<Size, StoreError> {
    let sql = "SELECT COUNT(*), COALESCE(SUM(OCTET_LENGTH(body)), 0) FROM message WHERE session = ?1 AND run = ?2";
    let whole = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
    let size = tx.query_one(sql, params![session, run], |row| {
        Ok(Size {
            messages: whole(row.get(0)?),
            bytes: whole(row.get(1)?),
        })
    })?;
    size.ok_or(StoreError::Damaged)
}

/// Calls that have begun in a run and not ended, each with the run's id.
pub(crate) fn begun(tx: &ReadTx<'_>, run: i64) -> Result<Vec<(String, ToolCall)>, StoreError> {
    let Some(found) = by_number(tx, run)? else {
        return Ok(Vec::new());
    };
    let left = found.calls.into_iter().filter(|call| call.state == "begun");
    Ok(left.map(|call| (found.id.clone(), call)).collect())
}

/// Ends them.
pub(crate) fn end_begun(tx: &mut WriteTx<'_>, run: i64) -> Result<(), StoreError> {
    let sql = "UPDATE tool_call SET state = 'ended', ended_ms = begun_ms WHERE run = ?1 AND state = 'begun'";
    tx.execute(sql, params![run])?;
    Ok(())
}

/// How a run ended; `None` while it has not. One that is not there any more has ended too.
pub(crate) fn ended(
    tx: &ReadTx<'_>,
    id: &str,
) -> Result<Option<(String, Option<String>)>, StoreError> {
    let sql = "SELECT state, why, ended_ms FROM run WHERE id = ?1";
    let found = tx.query_one(sql, params![id], |row| {
        let over = row.get::<_, Option<i64>>(2)?.is_some();
        Ok((over, (row.get(0)?, row.get(1)?)))
    })?;
    Ok(match found {
        Some((over, how)) => Some(how).filter(|_| over),
        None => Some((
            State::Failed.as_str().to_owned(),
            Some("deleted".to_owned()),
        )),
    })
}

/// Characters of a call's arguments that are shown of one that has ended.
const SHOWN: i64 = 4 * 1024;

/// Calls of tools that one run may hold: each step has a few, and there are a hundred steps.
const CALLS_MAX: usize = 2_000;

pub(crate) fn calls(tx: &ReadTx<'_>, run: i64) -> Result<Vec<ToolCall>, StoreError> {
    // Of those that are over the beginning will do: a run may hold many.
    let sql = "SELECT number, id, call, tool, CASE state WHEN 'ended' THEN SUBSTR(arguments, 1, ?2) ELSE arguments END,
        state, approvers, decided_by, until_ms, begun_ms, ended_ms FROM tool_call WHERE run = ?1 ORDER BY number";
    let moment = |ms: Option<i64>| ms.map(Timestamp::from_unix_ms);
    tx.query(sql, params![run, SHOWN], CALLS_MAX, |row| {
        Ok(ToolCall {
            number: row.get(0)?,
            id: row.get(1)?,
            call: row.get(2)?,
            tool: row.get(3)?,
            arguments: row.get(4)?,
            state: row.get(5)?,
            approvers: row.get(6)?,
            decided_by: row.get(7)?,
            until: moment(row.get(8)?),
            begun_at: moment(row.get(9)?),
            ended_at: moment(row.get(10)?),
        })
    })
}

/// Runs that the eyes see, newest first, without their calls.
pub(crate) fn list(
    tx: &ReadTx<'_>,
    eyes: &Eyes,
    session: Option<&Session>,
    before: Option<i64>,
    limit: usize,
) -> Result<Vec<Run>, StoreError> {
    let owner = match eyes {
        Eyes::All => None,
        Eyes::Owner(owner) => Some(owner.as_str()),
    };
    let sql = format!(
        "SELECT {RUN} {FROM} WHERE (?1 IS NULL OR s.owner = ?1) AND (?2 IS NULL OR r.session = ?2) AND r.number < ?3
            ORDER BY r.number DESC LIMIT ?4"
    );
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let session = session.map(|session| session.number);
    tx.query(
        &sql,
        params![owner, session, before.unwrap_or(i64::MAX), rows],
        limit,
        run,
    )
}

/// Runs that have not ended, oldest first, without their calls.
pub(crate) fn open(tx: &ReadTx<'_>, limit: usize) -> Result<Vec<Run>, StoreError> {
    let sql = format!("SELECT {RUN} {FROM} WHERE r.ended_ms IS NULL ORDER BY r.number LIMIT ?1");
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    tx.query(&sql, params![rows], limit, run)
}

/// Whether the run is still to be worked on: what ended meanwhile takes no further row.
pub(crate) fn is_open(tx: &ReadTx<'_>, run: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM run WHERE number = ?1 AND ended_ms IS NULL";
    Ok(tx.query_one(sql, params![run], |_| Ok(()))?.is_some())
}

/// Ends a run, once. `false` where it had ended.
pub(crate) fn end(
    tx: &mut WriteTx<'_>,
    run: i64,
    state: State,
    why: Option<&str>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let sql =
        "UPDATE run SET state = ?2, why = ?3, ended_ms = ?4 WHERE number = ?1 AND ended_ms IS NULL";
    if tx.execute(sql, params![run, state.as_str(), why, now.unix_ms()])? == 0 {
        return Ok(false);
    }
    tell(
        tx,
        run,
        now,
        |run| json!({ "type": "run.ended", "run": run, "state": state.as_str(), "why": why }),
    )?;
    Ok(true)
}

/// Stores an event of a run's session.
pub(crate) fn tell(
    tx: &mut WriteTx<'_>,
    run: i64,
    now: Timestamp,
    body: impl FnOnce(&str) -> serde_json::Value,
) -> Result<(), StoreError> {
    let sql = "SELECT id, session FROM run WHERE number = ?1";
    let found: Option<(String, i64)> =
        tx.query_one(sql, params![run], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match found {
        Some((id, session)) => events::put(tx, session, &body(&id), now),
        None => Ok(()),
    }
}

/// Puts a run into another state in which it has not ended.
pub(crate) fn set_state(tx: &mut WriteTx<'_>, run: i64, state: State) -> Result<(), StoreError> {
    let sql = "UPDATE run SET state = ?2 WHERE number = ?1 AND ended_ms IS NULL";
    tx.execute(sql, params![run, state.as_str()])?;
    Ok(())
}

/// Appends a message to a run; its place.
pub(crate) fn say(
    tx: &mut WriteTx<'_>,
    run: i64,
    session: i64,
    body: &str,
    now: Timestamp,
) -> Result<i64, StoreError> {
    let sql = "INSERT INTO message (session, run, body, created_ms) VALUES (?1, ?2, ?3, ?4)";
    tx.execute(sql, params![session, run, body, now.unix_ms()])?;
    let seq = tx.last_insert_id();
    // Whoever reads the event gets the message with it; it is stored once.
    tell(
        tx,
        run,
        now,
        |run| json!({ "type": "message", "run": run, "seq": seq }),
    )?;
    let sql = "UPDATE session SET used_ms = MAX(used_ms, ?2) WHERE number = ?1";
    tx.execute(sql, params![session, now.unix_ms()])?;
    Ok(seq)
}

/// The session of a run.
pub(crate) fn session_of(tx: &ReadTx<'_>, run: &Run) -> Result<Option<Session>, StoreError> {
    sessions::by_number(tx, run.session_number)
}

/// The newest message of a run.
pub(crate) fn last_message(tx: &ReadTx<'_>, run: &Run) -> Result<Option<String>, StoreError> {
    let sql =
        "SELECT body FROM message WHERE session = ?1 AND run = ?2 ORDER BY number DESC LIMIT 1";
    tx.query_one(sql, params![run.session_number, run.number], |row| {
        Ok(row.get(0)?)
    })
}
