//! What a run's turns store: each in one transaction, and only on top of what the turn has seen.

use std::time::Duration;

use kernel::sql::params;
use kernel::{Admission, KernelError, StoreError, WriteTx};
use serde_json::json;

use crate::limits::APPROVAL_WAIT;
use crate::model::Answer;
use crate::runs::{self, Run, State, ToolCall};
use crate::tools::Done;
use crate::transcript;

pub(crate) async fn begin(admission: &Admission, run: i64) -> Result<(), KernelError> {
    let now = admission.tenant().now();
    let begun = admission.tenant().write(move |tx| {
        let sql = "UPDATE run SET started_ms = ?2, state = 'running' WHERE number = ?1 AND ended_ms IS NULL";
        if tx.execute(sql, params![run, now.unix_ms()])? > 0 {
            runs::tell(tx, run, now, |run| json!({ "type": "run.started", "run": run }))?;
        }
        Ok(())
    });
    begun.await
}

/// Stores a model's answer with the calls that it asks for. Where it asks for none, and nothing was said to the run meanwhile, it is the
/// run's reply, and the run has ended: in one transaction, so that there is one reply. Whether it has.
pub(crate) fn keep_answer(
    tx: &mut WriteTx<'_>,
    run: &Run,
    answer: &Answer,
    ids: &[String],
    seen: usize,
    now: base::Timestamp,
) -> Result<bool, StoreError> {
    if !runs::is_open(tx, run.number)? {
        return Ok(true);
    }
    let said = runs::size(tx, run.session_number, run.number)?.messages;
    let cost = answer
        .cost
        .map_or(0, |cost| i64::try_from(cost.pico()).unwrap_or(i64::MAX));
    let sql = "UPDATE run SET steps = steps + 1, cost_pico = MIN(cost_pico, 9000000000000000000 - ?2) + ?2
        WHERE number = ?1 AND steps = ?3";
    let cost = cost.clamp(0, 1_000_000_000_000_000_000);
    if tx.execute(sql, params![run.number, cost, run.steps])? == 0 {
        return Ok(true);
    }
    runs::say(tx, run.number, run.session_number, &answer.message, now)?;
    for (called, id) in answer.calls.iter().zip(ids) {
        let sql = "INSERT INTO tool_call (run, step, id, call, tool, arguments, state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'proposed')";
        tx.execute(
            sql,
            params![
                run.number,
                run.steps + 1,
                id,
                called.id,
                called.tool,
                called.arguments
            ],
        )?;
    }
    // What was said to the run after the question was put is not answered by this.
    let steered = said > seen;
    if answer.calls.is_empty() && !steered {
        runs::end(tx, run.number, State::Finished, None, now)?;
        return Ok(true);
    }
    Ok(false)
}

/// Puts a call to whoever may approve it. How long that is waited for; `None` where the run has ended meanwhile.
pub(crate) async fn ask_for_approval(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    roles: &str,
) -> Result<Option<Duration>, KernelError> {
    let now = admission.tenant().now();
    let until = now.plus(APPROVAL_WAIT);
    let (number, run, roles, call) = (call.number, run.number, roles.to_owned(), call.clone());
    let asked = admission.tenant().write(move |tx| {
        let sql = "UPDATE tool_call SET state = 'waiting', approvers = ?2, until_ms = ?3, decided_by = NULL
            WHERE number = ?1 AND state IN ('proposed', 'approved')";
        let is_open = runs::is_open(tx, run)?;
        if !is_open || tx.execute(sql, params![number, roles, until.unix_ms()])? == 0 {
            return Ok(None);
        }
        runs::set_state(tx, run, State::Waiting)?;
        runs::tell(tx, run, now, |run| {
            json!({
                "type": "approval.requested", "run": run, "call": call.id, "tool": call.tool,
                "arguments": call.arguments, "approvers": roles, "until": until.to_string(),
            })
        })?;
        Ok(Some(APPROVAL_WAIT))
    });
    asked.await
}

/// Stores that the effect begins. `false` where the run has ended meanwhile: then it does not.
pub(crate) async fn mark_begun(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
) -> Result<bool, KernelError> {
    let (run, call, now) = (run.number, call.clone(), admission.tenant().now());
    let begun = admission.tenant().write(move |tx| {
        if !runs::is_open(tx, run)? {
            return Ok(false);
        }
        // From the state that was looked at, and from no other: nothing begins twice.
        let sql = "UPDATE tool_call SET state = 'begun', begun_ms = ?2 WHERE number = ?1 AND state = ?3";
        if tx.execute(sql, params![call.number, now.unix_ms(), call.state])? == 0 {
            return Ok(false);
        }
        runs::set_state(tx, run, State::Running)?;
        runs::tell(tx, run, now, |run| {
            json!({ "type": "tool.started", "run": run, "call": call.id, "tool": call.tool, "arguments": call.arguments })
        })?;
        Ok(true)
    });
    begun.await
}

/// Stores a call's result, with which it has ended. `false` where its run has ended meanwhile.
pub(crate) async fn finish(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    done: Done,
) -> Result<bool, KernelError> {
    let (run, call, now) = (run.clone(), call.clone(), admission.tenant().now());
    let stored = admission.tenant().write(move |tx| {
        if !runs::is_open(tx, run.number)? {
            return Ok(false);
        }
        let sql = "UPDATE tool_call SET state = 'ended', ended_ms = ?2
            WHERE number = ?1 AND state IN (?3, 'begun')";
        if tx.execute(sql, params![call.number, now.unix_ms(), call.state])? == 0 {
            // It was decided at the last moment: look again.
            return Ok(true);
        }
        runs::set_state(tx, run.number, State::Running)?;
        runs::tell(tx, run.number, now, |run| {
            json!({ "type": "tool.ended", "run": run, "call": call.id, "tool": call.tool, "outcome": done.outcome })
        })?;
        let body = transcript::result(&call.call, &done.text);
        runs::say(tx, run.number, run.session_number, &body, now)?;
        Ok(true)
    });
    stored.await
}
