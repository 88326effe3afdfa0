//! Taking a message in: stored with its run before it is confirmed, once for each key.

use base::Timestamp;
use kernel::sql::params;
use kernel::{Admission, StoreError, WriteTx};
use serde_json::json;

use crate::error::AgentError;
use crate::limits::{
    MESSAGE_BYTES_MAX, RUNS_PER_SESSION_MAX, STEERED_BYTES_MAX, STEERED_MESSAGES_MAX,
};
use crate::runs::{self, State};
use crate::sessions::{self, Eyes, Session};
use crate::settings;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The session's id.
    pub session: String,
    /// The text.
    pub message: String,
    /// Sent again with the same key, it is the same message.
    pub key: Option<String>,
    /// To the run that is under way, where there is one, in place of a run of its own.
    pub steer: bool,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The run that answers it.
    pub run: String,
    /// It had been sent before.
    pub repeated: bool,
    pub(crate) number: i64,
    pub(crate) session: i64,
    /// A run was begun.
    pub(crate) is_new: bool,
}

/// A run that is about to be stored.
pub(crate) struct NewRun {
    pub(crate) id: String,
    pub(crate) caller: [u8; 32],
    pub(crate) token: String,
    /// Messages that it begins with, as JSON; one, where there is a key.
    pub(crate) messages: Vec<String>,
    /// The client's key, and the digest of what was sent with it.
    pub(crate) key: Option<(String, [u8; 32])>,
}

/// Bytes of a key.
const KEY_BYTES_MAX: usize = 128;

pub(crate) async fn send(
    admission: &Admission,
    id: String,
    wish: Wish,
) -> Result<Sent, AgentError> {
    check(&wish)?;
    let eyes = Eyes::talking(admission);
    let now = admission.tenant().now();
    let digest = kernel::digest::sha256(wish.message.as_bytes());
    let body = json!({ "role": "user", "content": wish.message }).to_string();
    let new = NewRun {
        id,
        caller: admission.caller().to_bytes(),
        token: admission.token_name().as_str().to_owned(),
        messages: vec![body],
        key: wish.key.map(|key| (key, digest)),
    };
    let (session, steer) = (wish.session, wish.steer);
    let taken = admission.tenant().write(move |tx| {
        let Some(session) = sessions::find(tx, &session, &eyes)? else {
            return Ok(Err(AgentError::NotFound));
        };
        if let Some(known) = known(tx, &session, new.key.as_ref())? {
            return Ok(known);
        }
        if steer && let Some(sent) = steered(tx, &session, &new, now)? {
            return Ok(sent);
        }
        begin(tx, &session, new, now)
    });
    taken.await?
}

fn check(wish: &Wish) -> Result<(), AgentError> {
    if wish.message.len() > MESSAGE_BYTES_MAX {
        let text = format!("is longer than {MESSAGE_BYTES_MAX} bytes");
        return Err(AgentError::wrong("message", text));
    }
    if wish.message.trim().is_empty() {
        return Err(AgentError::wrong("message", "is empty"));
    }
    let wrong = |key: &String| key.is_empty() || key.len() > KEY_BYTES_MAX;
    if wish.key.as_ref().is_some_and(wrong) {
        let text = format!("must have 1 to {KEY_BYTES_MAX} bytes");
        return Err(AgentError::wrong("idempotency_key", text));
    }
    Ok(())
}

/// What was sent with this key before.
fn known(
    tx: &WriteTx<'_>,
    session: &Session,
    key: Option<&(String, [u8; 32])>,
) -> Result<Option<Result<Sent, AgentError>>, StoreError> {
    let Some((key, digest)) = key else {
        return Ok(None);
    };
    let sql =
        "SELECT r.number, r.id, m.client_digest FROM message AS m JOIN run AS r ON r.number = m.run
        WHERE m.session = ?1 AND m.client_key = ?2";
    let found = tx.query_one(sql, params![session.number, key], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, [u8; 32]>(2)?,
        ))
    })?;
    Ok(found.map(|(number, run, was)| match was == *digest {
        true => Ok(Sent {
            run,
            repeated: true,
            number,
            session: session.number,
            is_new: false,
        }),
        false => Err(AgentError::wrong(
            "idempotency_key",
            "was used for another message of this session",
        )),
    }))
}

/// Says it to the run that works, if the same credential began it; it is read at that run's next step.
fn steered(
    tx: &mut WriteTx<'_>,
    session: &Session,
    new: &NewRun,
    now: Timestamp,
) -> Result<Option<Result<Sent, AgentError>>, StoreError> {
    let sql = "SELECT number, id FROM run WHERE session = ?1 AND ended_ms IS NULL AND state IN ('running', 'waiting')
        AND caller = ?2 ORDER BY number LIMIT 1";
    let found: Option<(i64, String)> =
        tx.query_one(sql, params![session.number, new.caller], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let Some((number, run)) = found else {
        return Ok(None);
    };
    let size = runs::size(tx, session.number, number)?;
    if size.messages >= STEERED_MESSAGES_MAX || size.bytes >= STEERED_BYTES_MAX {
        let text = "the run has been told as much as it may be; send it without steer";
        return Ok(Some(Err(AgentError::refused("run_full", text))));
    }
    say_all(tx, number, session.number, new, now)?;
    Ok(Some(Ok(Sent {
        run,
        repeated: false,
        number,
        session: session.number,
        is_new: false,
    })))
}

/// Stores a run with the messages that it begins with.
pub(crate) fn begin(
    tx: &mut WriteTx<'_>,
    session: &Session,
    new: NewRun,
    now: Timestamp,
) -> Result<Result<Sent, AgentError>, StoreError> {
    let sql = "SELECT COUNT(*) FROM run WHERE session = ?1 AND number >= ?2";
    let count: Option<i64> = tx.query_one(sql, params![session.number, session.begins], |row| {
        Ok(row.get(0)?)
    })?;
    if count.is_some_and(|count| count >= RUNS_PER_SESSION_MAX) {
        let text =
            format!("a session has at most {RUNS_PER_SESSION_MAX} runs; reset it or begin another");
        return Ok(Err(AgentError::refused("session_full", text)));
    }
    let version = match session.agent.as_str() {
        "" => 0,
        name => match settings::latest(tx, name)? {
            Some(agent) => agent.version,
            None => {
                return Ok(Err(AgentError::refused(
                    "no_agent",
                    "its agent is not there any more",
                )));
            }
        },
    };
    let sql = "INSERT INTO run (id, session, agent_version, caller, token, state, steps, cost_pico, created_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?7)";
    let state = State::Queued.as_str();
    tx.execute(
        sql,
        params![
            new.id,
            session.number,
            version,
            new.caller,
            new.token,
            state,
            now.unix_ms()
        ],
    )?;
    let number = tx.last_insert_id();
    runs::tell(
        tx,
        number,
        now,
        |run| json!({ "type": "run.queued", "run": run }),
    )?;
    say_all(tx, number, session.number, &new, now)?;
    Ok(Ok(Sent {
        run: new.id,
        repeated: false,
        number,
        session: session.number,
        is_new: true,
    }))
}

fn say_all(
    tx: &mut WriteTx<'_>,
    run: i64,
    session: i64,
    new: &NewRun,
    now: Timestamp,
) -> Result<(), StoreError> {
    for body in &new.messages {
        let seq = runs::say(tx, run, session, body, now)?;
        if let Some((key, digest)) = &new.key {
            let sql = "UPDATE message SET client_key = ?2, client_digest = ?3 WHERE number = ?1";
            tx.execute(sql, params![seq, key, digest])?;
        }
    }
    Ok(())
}
