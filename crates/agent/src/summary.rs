//! Compaction: the older part of a conversation summed up by a model, for prompts. What was said stays stored as it was, and intake
//! never waits for it.

use std::sync::Arc;

use gateway::Gateway;
use kernel::sql::params;
use kernel::{Admission, ReadTx, StoreError};
use serde_json::json;

use crate::error::AgentError;
use crate::events;
use crate::limits::{COMPACT_KEEPS_RUNS, MESSAGES_PER_RUN_MAX, PROMPT_BYTES_MAX};
use crate::model::{self, Question};
use crate::sessions::{self, Eyes, Session};
use crate::settings::{self, AgentSettings};
use crate::transcript::{self, Before, Stored};

/// Tokens of a summary.
const SUMMARY_TOKENS: u64 = 1_500;
/// What the model is asked to do.
const TASK: &str = "Sum up the conversation above for yourself, so that you can go on without it. Keep names, numbers, decisions, \
    open questions and the paths of files. Write at most 400 words, and nothing but the summary.";

/// The newest summary of what was said before a run: the run up to which it goes, and its text.
pub(crate) fn newest(
    tx: &ReadTx<'_>,
    session: &Session,
    before: i64,
) -> Result<Option<(i64, String)>, StoreError> {
    let sql = "SELECT upto, body FROM summary WHERE session = ?1 AND upto >= ?2 AND upto < ?3 ORDER BY number DESC LIMIT 1";
    tx.query_one(
        sql,
        params![session.number, session.begins, before],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Messages of a session from a run on and up to another, in the order in which a model gets them.
pub(crate) fn stored(
    tx: &ReadTx<'_>,
    session: &Session,
    from: i64,
    upto: i64,
    bytes_max: usize,
) -> Result<Vec<Stored>, StoreError> {
    // The newest runs, as wholes; the last of them always. Beyond that no prompt goes, and no more is held.
    // Lengths are added up first: no body is held that is not needed. Where there are more rows than are looked at, the oldest run may
    // lack its beginning.
    let sql = "SELECT m.run, m.body FROM (SELECT number, run, MAX(so_far) OVER (PARTITION BY run) AS whole,
                COUNT(*) OVER () AS looked, MIN(run) OVER () AS oldest FROM
            (SELECT number, run, SUM(bytes) OVER (ORDER BY run DESC, number DESC) AS so_far FROM
                (SELECT number, run, OCTET_LENGTH(body) AS bytes FROM message WHERE session = ?1 AND run >= ?2 AND run <= ?3
                    ORDER BY run DESC, number DESC LIMIT ?4))) AS w
        JOIN message AS m ON m.number = w.number
        WHERE w.run = ?3 OR (w.whole <= ?5 AND NOT (w.looked = ?4 AND w.run = w.oldest)) ORDER BY m.run, m.number";
    let bytes = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    let most = i64::try_from(MESSAGES_PER_RUN_MAX).unwrap_or(i64::MAX);
    let from = from.max(session.begins);
    tx.query(
        sql,
        params![session.number, from, upto, most, bytes],
        MESSAGES_PER_RUN_MAX,
        |row| {
            Ok(Stored {
                run: row.get(0)?,
                body: row.get(1)?,
            })
        },
    )
}

/// What there is to sum up.
struct Older {
    settings: AgentSettings,
    summary: Option<(i64, String)>,
    messages: Vec<Stored>,
    upto: i64,
}

fn older(
    tx: &ReadTx<'_>,
    session: &Session,
    from_bytes: usize,
) -> Result<Option<Older>, StoreError> {
    let sql = "SELECT number FROM run WHERE session = ?1 AND number >= ?2 AND ended_ms IS NOT NULL
        AND number < COALESCE((SELECT MIN(number) FROM run WHERE session = ?1 AND ended_ms IS NULL AND started_ms IS NOT NULL), ?4)
        ORDER BY number DESC LIMIT 1 OFFSET ?3";
    let keeps = if from_bytes == 0 {
        0
    } else {
        COMPACT_KEEPS_RUNS
    };
    let upto: Option<i64> = tx.query_one(
        sql,
        params![session.number, session.begins, keeps, i64::MAX],
        |row| Ok(row.get(0)?),
    )?;
    let summary = newest(tx, session, i64::MAX)?;
    let from = summary
        .as_ref()
        .map_or(session.begins, |(upto, _)| upto + 1);
    let Some(upto) = upto.filter(|upto| *upto >= from) else {
        return Ok(None);
    };
    let messages = stored(tx, session, from, upto, PROMPT_BYTES_MAX / 2)?;
    let bytes: usize = messages.iter().map(|message| message.body.len()).sum();
    if bytes < from_bytes || messages.is_empty() {
        return Ok(None);
    }
    let settings = match session.agent.as_str() {
        "" => AgentSettings::default(),
        name => settings::latest(tx, name)?
            .map(|agent| agent.settings)
            .unwrap_or_default(),
    };
    Ok(Some(Older {
        settings,
        summary,
        messages,
        upto,
    }))
}

/// Sums up the older part of a session, where it has at least so many bytes; 0 takes all of it. `false` where there is nothing to do.
///
/// The call is metered like any other and is in no run: nobody is told anything by it.
pub(crate) async fn compact(
    gateway: &Arc<Gateway>,
    admission: &Admission,
    session: &Session,
    from_bytes: usize,
) -> Result<bool, AgentError> {
    let looked = session.clone();
    let found = admission
        .tenant()
        .read(move |tx| older(tx, &looked, from_bytes))
        .await?;
    let Some(older) = found else {
        return Ok(false);
    };
    let before = Before {
        instructions: None,
        summary: older
            .summary
            .as_ref()
            .map(|(upto, text)| (*upto, text.as_str())),
    };
    let mut messages = transcript::view(&before, &older.messages, PROMPT_BYTES_MAX / 2);
    messages.push(json!({ "role": "user", "content": TASK }).to_string());
    let settings = AgentSettings {
        max_tokens: Some(SUMMARY_TOKENS),
        ..older.settings
    };
    let trace = hex::encode(gateway.kernel().new_request_id().as_str().as_bytes());
    let question = Question {
        model: crate::drive::model_of(session, &settings),
        settings: &settings,
        messages,
        tools: &[],
        trace: trace.get(..32).unwrap_or_default(),
    };
    let answer = model::ask(gateway, admission.caller(), &question)
        .await
        .map_err(|no| {
            AgentError::refused(
                "model_failed",
                format!("the model did not sum up: {}", no.code),
            )
        })?;
    let text = transcript::text_of(&answer.message);
    if text.trim().is_empty() {
        return Err(AgentError::refused(
            "model_failed",
            "the model's summary is empty",
        ));
    }
    let (session, upto, now) = (session.clone(), older.upto, admission.tenant().now());
    let eyes = Eyes::talking(admission);
    let kept = admission.tenant().write(move |tx| {
        // The model took its time: what it summed up may be gone, or forgotten.
        let same = sessions::find(tx, &session.id, &eyes)?;
        if same.is_none_or(|same| same.begins != session.begins) {
            return Ok(false);
        }
        let sql = "INSERT INTO summary (session, upto, body, created_ms) VALUES (?1, ?2, ?3, ?4)";
        tx.execute(sql, params![session.number, upto, text, now.unix_ms()])?;
        let body = json!({ "type": "session.compacted" });
        events::put(tx, session.number, &body, now)?;
        Ok(true)
    });
    Ok(kept.await?)
}
