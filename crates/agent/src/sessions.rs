//! Conversations. A session belongs to the person behind a credential, or to the credential where it stands for nobody; others of the
//! tenant do not see it, except its admins, who may read and delete.

use base::limits::RPC_PAGE_BYTES_MAX;
use base::{Role, Timestamp};
use kernel::sql::{Row, params};
use kernel::{Admission, Deed, ReadTx, StoreError, Trail, WriteTx};

use crate::error::AgentError;
use crate::limits::{SESSIONS_MAX, SESSIONS_PER_OWNER_MAX};
use crate::{events, ids, settings};

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `ses_` and 32 hex digits.
    pub id: String,
    pub(crate) owner: String,
    /// Its agent; empty where it talks to a model alone.
    pub agent: String,
    /// The model in place of the agent's; empty without one.
    pub model: String,
    /// Where it comes from: `rpc`, `api`, …
    pub channel: String,
    /// What its owner calls it.
    pub title: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When something was said last.
    pub used_at: Timestamp,
    pub(crate) number: i64,
    /// The first run that is shown.
    pub(crate) begins: i64,
}

/// What a new session is to be.
#[derive(Clone, Debug, Default)]
pub struct NewSession {
    /// Its agent.
    pub agent: Option<String>,
    /// Its model, without an agent or in place of the agent's.
    pub model: Option<String>,
    /// What it is called.
    pub title: Option<String>,
    /// Where it comes from.
    pub channel: &'static str,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its place among all messages of the tenant; it grows.
    pub seq: i64,
    /// The run that it belongs to.
    pub run: String,
    /// The message in the shape of chat completions: canonical where Partywall made it.
    pub body: String,
    /// When it was stored.
    pub at: Timestamp,
}

const COLUMNS: &str =
    "number, id, owner, agent, model, channel, title, begins, created_ms, used_ms";

fn session(row: &Row<'_>) -> Result<Session, StoreError> {
    Ok(Session {
        number: row.get(0)?,
        id: row.get(1)?,
        owner: row.get(2)?,
        agent: row.get(3)?,
        model: row.get(4)?,
        channel: row.get(5)?,
        title: row.get(6)?,
        begins: row.get(7)?,
        created_at: Timestamp::from_unix_ms(row.get(8)?),
        used_at: Timestamp::from_unix_ms(row.get(9)?),
    })
}

impl Session {
    /// Whose it is: `person:NAME` or `token:NAME`.
    #[must_use]
    pub fn owner(&self) -> &str {
        // A person's name may hold that character.
        match self.owner.starts_with("token:") {
            true => self.owner.split('#').next().unwrap_or_default(),
            false => &self.owner,
        }
    }
}

/// Whose sessions an admission's are.
pub(crate) fn owner(admission: &Admission) -> String {
    match admission.person() {
        Some(person) => format!("person:{person}"),
        // A token that is issued anew under an old name is another one, and inherits nothing.
        None => format!(
            "token:{}#{}",
            admission.token_name(),
            admission.credential_id()
        ),
    }
}

/// Who looks for a session.
#[derive(Clone, Debug)]
pub(crate) enum Eyes {
    /// Its owner only.
    Owner(String),
    /// All of the tenant's.
    All,
}

impl Eyes {
    /// Who may talk in it.
    pub(crate) fn talking(admission: &Admission) -> Self {
        Self::Owner(owner(admission))
    }

    /// Who may read and delete it.
    pub(crate) fn reading(admission: &Admission) -> Self {
        match admission.role() {
            Role::Admin => Self::All,
            _ => Self::talking(admission),
        }
    }

    pub(crate) fn see(&self, owner: &str) -> bool {
        match self {
            Self::Owner(own) => own == owner,
            Self::All => true,
        }
    }
}

/// The session of that id, where these eyes see it.
pub(crate) fn find(tx: &ReadTx<'_>, id: &str, eyes: &Eyes) -> Result<Option<Session>, StoreError> {
    if ids::digits(id, ids::SESSION).is_none() {
        return Ok(None);
    }
    let sql = format!("SELECT {COLUMNS} FROM session WHERE id = ?1");
    let found = tx.query_one(&sql, params![id], session)?;
    Ok(found.filter(|session| eyes.see(&session.owner)))
}

pub(crate) fn by_number(tx: &ReadTx<'_>, number: i64) -> Result<Option<Session>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM session WHERE number = ?1");
    tx.query_one(&sql, params![number], session)
}

/// Begins a conversation.
pub(crate) async fn create(
    admission: &Admission,
    id: String,
    new: NewSession,
) -> Result<Session, AgentError> {
    if new.agent.is_none() && new.model.is_none() {
        return Err(AgentError::wrong("agent", "name an agent, or a model"));
    }
    if new
        .model
        .as_ref()
        .is_some_and(|model| model.starts_with(gateway::agents::PREFIX))
    {
        return Err(AgentError::wrong(
            "model",
            "must be a model; an agent is named in agent",
        ));
    }
    let (owner, now) = (owner(admission), admission.tenant().now());
    let put = move |tx: &mut WriteTx<'_>| put(tx, id, owner, new, now);
    admission.tenant().write(put).await?
}

fn put(
    tx: &mut WriteTx<'_>,
    id: String,
    owner: String,
    new: NewSession,
    now: Timestamp,
) -> Result<Result<Session, AgentError>, StoreError> {
    if let Some(agent) = &new.agent
        && settings::latest(tx, agent)?.is_none()
    {
        let text = "there is no agent of that name; agents.list shows those that there are";
        return Ok(Err(AgentError::wrong("agent", text)));
    }
    let sql = "SELECT COUNT(*), COALESCE(SUM(owner = ?1), 0) FROM session";
    let counts = tx.query_one(sql, params![owner], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
    })?;
    let (all, own) = counts.unwrap_or_default();
    let is_full = all >= SESSIONS_MAX || own >= SESSIONS_PER_OWNER_MAX;
    if is_full && !drop_an_old_one(tx, &owner, now)? {
        let text = format!(
            "a tenant has at most {SESSIONS_MAX} sessions, and one owner at most {SESSIONS_PER_OWNER_MAX}; delete some"
        );
        return Ok(Err(AgentError::refused("too_many_sessions", text)));
    }
    let mut session = Session {
        id,
        owner,
        agent: new.agent.unwrap_or_default(),
        model: new.model.unwrap_or_default(),
        channel: new.channel.to_owned(),
        title: new.title.unwrap_or_default(),
        created_at: now,
        used_at: now,
        number: 0,
        begins: 0,
    };
    let sql =
        "INSERT INTO session (id, owner, agent, model, channel, title, begins, created_ms, used_ms)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7, ?7)";
    let Session {
        id,
        owner,
        agent,
        model,
        channel,
        title,
        ..
    } = &session;
    tx.execute(
        sql,
        params![id, owner, agent, model, channel, title, now.unix_ms()],
    )?;
    session.number = tx.last_insert_id();
    Ok(Ok(session))
}

/// Sessions that a client of chat completions left behind make room after an hour: nobody can name them any more.
fn drop_an_old_one(tx: &mut WriteTx<'_>, owner: &str, now: Timestamp) -> Result<bool, StoreError> {
    const HOUR_MS: i64 = 3_600_000;
    let sql = format!(
        "SELECT {COLUMNS} FROM session WHERE owner = ?2 AND channel = 'api' AND used_ms < ?1 AND number NOT IN
            (SELECT session FROM run WHERE ended_ms IS NULL) ORDER BY used_ms LIMIT 1"
    );
    let old = tx.query_one(&sql, params![now.unix_ms() - HOUR_MS, owner], session)?;
    match old {
        Some(old) => remove(tx, old.number).map(|()| true),
        None => Ok(false),
    }
}

/// Sessions that the eyes see, used last first, before a moment.
pub(crate) fn list(
    tx: &ReadTx<'_>,
    eyes: &Eyes,
    before: Option<Timestamp>,
    limit: usize,
) -> Result<Vec<Session>, StoreError> {
    let before = before.map_or(i64::MAX, Timestamp::unix_ms);
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    match eyes {
        Eyes::All => {
            let sql = format!(
                "SELECT {COLUMNS} FROM session WHERE used_ms < ?1 ORDER BY used_ms DESC, number DESC LIMIT ?2"
            );
            tx.query(&sql, params![before, rows], limit, session)
        }
        Eyes::Owner(owner) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM session WHERE owner = ?3 AND used_ms < ?1 ORDER BY used_ms DESC, number DESC LIMIT ?2"
            );
            tx.query(&sql, params![before, rows, owner], limit, session)
        }
    }
}

/// Messages of a session after a place, oldest first.
pub(crate) fn history(
    tx: &ReadTx<'_>,
    session: &Session,
    after: i64,
    limit: usize,
) -> Result<Vec<Said>, StoreError> {
    // Lengths are added up first: what does not fit into a page is the next one's, and is not held.
    let sql = "SELECT m.number, r.id, m.body, m.created_ms FROM
            (SELECT number, SUM(bytes) OVER (ORDER BY number) AS so_far, ROW_NUMBER() OVER (ORDER BY number) AS place FROM
                (SELECT number, OCTET_LENGTH(body) AS bytes FROM message WHERE session = ?1 AND run >= ?2 AND number > ?3
                    ORDER BY number LIMIT ?4)) AS w
        JOIN message AS m ON m.number = w.number JOIN run AS r ON r.number = m.run
        WHERE w.so_far <= ?5 OR w.place = 1 ORDER BY m.number";
    let rows = i64::try_from(limit).unwrap_or(i64::MAX);
    let bytes = i64::try_from(RPC_PAGE_BYTES_MAX).unwrap_or(i64::MAX);
    tx.query(
        sql,
        params![session.number, session.begins, after, rows, bytes],
        limit,
        |row| {
            Ok(Said {
                seq: row.get(0)?,
                run: row.get(1)?,
                body: row.get(2)?,
                at: Timestamp::from_unix_ms(row.get(3)?),
            })
        },
    )
}

/// Forgets what was said so far: what comes next begins anew. The messages stay stored until the session is deleted.
pub(crate) async fn reset(admission: &Admission, id: String) -> Result<(), AgentError> {
    let (eyes, now) = (Eyes::talking(admission), admission.tenant().now());
    let done = admission.tenant().write(move |tx| {
        let Some(session) = find(tx, &id, &eyes)? else {
            return Ok(Err(AgentError::NotFound));
        };
        if is_busy(tx, session.number)? {
            return Ok(Err(busy()));
        }
        let sql = "UPDATE session SET begins = 1 + COALESCE((SELECT MAX(number) FROM run), 0) WHERE number = ?1";
        tx.execute(sql, params![session.number])?;
        let body = serde_json::json!({ "type": "session.reset" });
        events::put(tx, session.number, &body, now)?;
        Ok(Ok(()))
    });
    done.await?
}

/// Deletes a session with all that was said in it.
pub(crate) async fn delete(
    trail: &Trail,
    admission: &Admission,
    id: String,
) -> Result<(), AgentError> {
    let eyes = Eyes::reading(admission);
    let (looked, seen) = (id.clone(), eyes.clone());
    let found = admission
        .tenant()
        .read(move |tx| find(tx, &looked, &seen))
        .await?;
    let found = found.ok_or(AgentError::NotFound)?;
    let deed = Deed {
        action: "session.delete",
        detail: [("owner", found.owner().to_owned()), ("name", found.id)].into(),
        ..Deed::default()
    };
    trail.record(admission, deed).await?;
    let done = admission.tenant().write(move |tx| {
        let Some(session) = find(tx, &id, &eyes)? else {
            return Ok(Err(AgentError::NotFound));
        };
        if is_busy(tx, session.number)? {
            return Ok(Err(busy()));
        }
        remove(tx, session.number).map(Ok)
    });
    done.await?
}

fn busy() -> AgentError {
    AgentError::refused(
        "session_busy",
        "a run of this session is under way; cancel it first",
    )
}

pub(crate) fn is_busy(tx: &ReadTx<'_>, session: i64) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM run WHERE session = ?1 AND ended_ms IS NULL LIMIT 1";
    Ok(tx.query_one(sql, params![session], |_| Ok(()))?.is_some())
}

fn remove(tx: &mut WriteTx<'_>, session: i64) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM tool_call WHERE run IN (SELECT number FROM run WHERE session = ?1)",
        params![session],
    )?;
    for sql in [
        "DELETE FROM message WHERE session = ?1",
        "DELETE FROM session_event WHERE session = ?1",
        "DELETE FROM summary WHERE session = ?1",
        "DELETE FROM run WHERE session = ?1",
        "DELETE FROM session WHERE number = ?1",
    ] {
        tx.execute(sql, params![session])?;
    }
    Ok(())
}
