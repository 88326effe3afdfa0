//! Approvals: a rule asks that somebody of a role agrees to one call of a tool, before it happens.

use base::Role;
use kernel::sql::params;
use kernel::{Admission, Deed, Trail, WriteTx};
use serde_json::json;

use crate::error::AgentError;
use crate::runs::{self, Run, ToolCall};
use crate::sessions::Eyes;

/// Roles as they are stored with a call that waits.
pub(crate) fn roles_text(roles: &[Role]) -> String {
    roles
        .iter()
        .map(|role| role.as_str())
        .collect::<Vec<_>>()
        .join(",")
}

fn may(call: &ToolCall, role: Role) -> bool {
    let roles = call.approvers.as_deref().unwrap_or_default();
    roles.split(',').any(|allowed| allowed == role.as_str())
}

/// Decides a call that waits. Whoever has a role that the rule names may, and sees it for that; to others it is not there.
pub(crate) async fn decide(
    trail: &Trail,
    admission: &Admission,
    run: &str,
    call: &str,
    approve: bool,
) -> Result<Run, AgentError> {
    let (id, wanted, role) = (run.to_owned(), call.to_owned(), admission.role());
    let own = Eyes::reading(admission);
    let found = admission
        .tenant()
        .read(move |tx| runs::find(tx, &id, &Eyes::All))
        .await?;
    let found = found.ok_or(AgentError::NotFound)?;
    let asked = found
        .calls
        .iter()
        .find(|call| call.id == wanted)
        .ok_or(AgentError::NotFound)?;
    if !may(asked, role) {
        // Its owner knows of it anyway.
        let known = own.see(&found.owner);
        let text = "a rule names the roles that may decide this call, and this is none of them";
        return Err(match known {
            true => AgentError::refused("not_an_approver", text),
            false => AgentError::NotFound,
        });
    }
    let now = admission.tenant().now();
    let waits = asked.state == "waiting" && asked.until.is_some_and(|until| until > now);
    if !waits || found.ended_at.is_some() {
        return Err(not_waiting());
    }
    let action = if approve { "run.approve" } else { "run.deny" };
    let deed = Deed {
        action,
        detail: [
            ("name", found.id.clone()),
            ("call", asked.id.clone()),
            ("tool", asked.tool.clone()),
        ]
        .into(),
        ..Deed::default()
    };
    trail.record(admission, deed).await?;
    let by = format!("{}:{}", role.as_str(), admission.token_name());
    let (number, call) = (found.number, asked.number);
    let decided = admission
        .tenant()
        .write(move |tx| mark(tx, number, call, approve, &by, now.unix_ms()));
    if !decided.await? {
        return Err(not_waiting());
    }
    Ok(found)
}

fn not_waiting() -> AgentError {
    let text = "the call does not wait for a decision any more";
    AgentError::refused("not_waiting", text)
}

fn mark(
    tx: &mut WriteTx<'_>,
    run: i64,
    call: i64,
    approve: bool,
    by: &str,
    now_ms: i64,
) -> Result<bool, kernel::StoreError> {
    let state = if approve { "approved" } else { "denied" };
    let sql = "UPDATE tool_call SET state = ?3, decided_by = ?4 WHERE number = ?1 AND run = ?2 AND state = 'waiting'
        AND until_ms > ?5 AND EXISTS (SELECT 1 FROM run WHERE number = ?2 AND ended_ms IS NULL)";
    let changed = tx.execute(sql, params![call, run, state, by, now_ms])?;
    if changed == 0 {
        return Ok(false);
    }
    let sql = "SELECT id FROM tool_call WHERE number = ?1";
    let id: Option<String> = tx.query_one(sql, params![call], |row| Ok(row.get(0)?))?;
    let now = base::Timestamp::from_unix_ms(now_ms);
    runs::tell(
        tx,
        run,
        now,
        |run| json!({ "type": "approval.decided", "run": run, "call": id, "approved": approve, "by": by }),
    )?;
    Ok(true)
}

/// The role of whoever approved a call.
pub(crate) fn approver(call: &ToolCall) -> Option<&str> {
    call.decided_by.as_deref()?.split(':').next()
}
