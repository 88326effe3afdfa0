//! A run from one stored state to the next: the model's turn, or a tool's. What comes next is read from the store each time, so that
//! a run goes on after anything.

use std::sync::Arc;
use std::time::Duration;

use base::TenantUid;
use gateway::door;
use gateway::refusal::Refusal;
use kernel::sql::params;
use kernel::{
    Admission, Caller, Deed, KernelError, Purpose, ReadTx, StoreError, Tenant, Trail, WriteTx,
};
use policy::{Cap, Outcome};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::limits::{APPROVAL_WAIT, COMPACT_FROM_BYTES, PROMPT_BYTES_MAX, QUEUE_WAIT_MAX};
use crate::model::{self, Answer, NoAnswer, Question};
use crate::queue::Place;
use crate::runs::{self, Run, State, ToolCall};
use crate::sessions::Session;
use crate::settings::{self, AgentSettings};
use crate::tools::{self, Bench, Caps, Done, Prepared};
use crate::transcript::{self, Before};
use crate::{approve, ids, summary};

/// How often a model that says *later* is asked again within one step.
const TRIES: u32 = 3;
/// How long one such wait may be.
const LATER_MAX: Duration = Duration::from_secs(20);
/// What a call is answered with that was under way when the process died.
const INTERRUPTED: &str = "The call was under way when the system stopped. Whether it took effect is not known; it is not repeated.";

/// Where a run stands when its turn is over.
enum Turn {
    /// There is more to do.
    Go,
    /// It waits for an approval, so long at most.
    Waits(Duration),
    /// It has ended.
    Ended,
}

/// Why a run ends without an answer: a stable code.
struct Failed(String);

impl From<KernelError> for Failed {
    fn from(error: KernelError) -> Self {
        Self(match error {
            KernelError::Revoked => "credential_ended".to_owned(),
            KernelError::Quarantined(_) => "tenant_quarantined".to_owned(),
            _ => "unavailable".to_owned(),
        })
    }
}

fn failed(code: &str) -> Failed {
    Failed(code.to_owned())
}

/// What a turn needs of the store.
struct Standing {
    run: Run,
    session: Session,
    settings: AgentSettings,
}

/// The model that a session talks to; empty is the tenant's own.
pub(crate) fn model_of<'a>(session: &'a Session, settings: &'a AgentSettings) -> &'a str {
    match (session.model.as_str(), settings.model.as_deref()) {
        ("", Some(own)) => own,
        ("", None) => "default",
        (model, _) => model,
    }
}

impl Agents {
    /// Works on a run until it ends or waits for somebody. Whether it has ended.
    pub(crate) async fn work(self: &Arc<Self>, uid: TenantUid, place: Place) -> bool {
        let stop = CancellationToken::new();
        self.working().insert((uid, place.run), stop.clone());
        let worked = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Turn::Ended),
            worked = self.turns(uid, place) => worked,
        };
        self.working().remove(&(uid, place.run));
        let operators = || self.kernel().tenant_of(&self.operator, uid);
        match worked {
            Ok(Turn::Waits(wait)) => {
                if let Some(tenant) = operators() {
                    self.wake_later(&tenant, place, wait);
                }
                false
            }
            Ok(_) => true,
            Err(Failed(code)) => {
                if let Some(tenant) = operators() {
                    self.give_up(&tenant, place.run, code).await;
                }
                true
            }
        }
    }

    async fn give_up(&self, tenant: &Tenant, run: i64, code: String) {
        let now = tenant.now();
        let ended = tenant
            .write(move |tx| runs::end(tx, run, State::Failed, Some(&code), now))
            .await;
        if let Err(error) = ended {
            self.log(Some(tenant.id()), "a run's end was not stored", &error);
        }
    }

    async fn turns(self: &Arc<Self>, uid: TenantUid, place: Place) -> Result<Turn, Failed> {
        let operators = self.kernel().tenant_of(&self.operator, uid);
        let tenant = operators.ok_or_else(|| failed("credential_ended"))?;
        let run = place.run;
        let caller = tenant.read(move |tx| runs::by_number(tx, run)).await?;
        let Some(found) = caller.filter(|run| run.ended_at.is_none()) else {
            return Ok(Turn::Ended);
        };
        drop(tenant);
        let caller = Caller::from_bytes(found.caller);
        loop {
            // The credential is verified anew for each step: what happened to it or its tenant since holds for this one.
            let (trail, admission) = self.enter(&caller, &found).await?;
            let turn = tokio::select! {
                biased;
                () = admission.ended() => Err(failed("credential_ended")),
                turn = self.turn(&trail, &admission, run) => turn,
            };
            self.ring(uid);
            match turn? {
                Turn::Go => {}
                other => return Ok(other),
            }
        }
    }

    async fn enter(&self, caller: &Caller, run: &Run) -> Result<(Trail, Admission), Failed> {
        let header = ids::digits(&run.id, ids::RUN)
            .map(|digits| format!("00-{digits}-{}-01", &digits[..16]));
        let trace = header.and_then(|header| base::TraceId::from_traceparent(header.as_bytes()));
        let trail = self.kernel().open_trail(trace)?;
        let admission = door::admit(&self.gateway, &trail, caller.clone(), Purpose::Act).await;
        match admission {
            Ok(admission) => Ok((trail, admission)),
            Err(Refusal::BadCredential) => Err(failed("credential_ended")),
            Err(refusal) => Err(failed(refusal.code())),
        }
    }

    async fn turn(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        run: i64,
    ) -> Result<Turn, Failed> {
        let standing = admission.tenant().read(move |tx| standing(tx, run)).await?;
        let Some(standing) = standing else {
            return Ok(Turn::Ended);
        };
        let now = admission.tenant().now();
        let run = &standing.run;
        match run.started_at {
            None if now.since(run.created_at) > QUEUE_WAIT_MAX => {
                return Err(failed("queue_timeout"));
            }
            None => {
                begin(admission, run.number).await?;
                // Not waited for by anybody but this run, which has not said anything yet.
                let compacted = summary::compact(
                    &self.gateway,
                    admission,
                    &standing.session,
                    COMPACT_FROM_BYTES,
                )
                .await;
                // Without it the prompt is longer, or cut at its beginning.
                drop(compacted);
                return Ok(Turn::Go);
            }
            Some(started) => {
                let waited = waited(&run.calls, now);
                if now.since(started).saturating_sub(waited)
                    > Duration::from_secs(standing.settings.seconds())
                {
                    return Err(failed("time_exceeded"));
                }
            }
        }
        if let Some(call) = run.calls.iter().find(|call| call.state != "ended") {
            return self.tool_turn(trail, admission, &standing, call).await;
        }
        self.model_turn(admission, &standing).await
    }

    async fn model_turn(&self, admission: &Admission, standing: &Standing) -> Result<Turn, Failed> {
        let Standing {
            run,
            session,
            settings,
        } = standing;
        if u64::try_from(run.steps).unwrap_or_default() >= settings.steps() {
            return Err(failed("steps_exceeded"));
        }
        if settings.cost_max().is_some_and(|max| run.cost >= max) {
            return Err(failed("cost_exceeded"));
        }
        let (looked, upto) = (session.clone(), run.number);
        let read = admission.tenant().read(move |tx| {
            let summary = summary::newest(tx, &looked)?;
            let from = summary.as_ref().map_or(looked.begins, |(upto, _)| upto + 1);
            Ok((summary::stored(tx, &looked, from, upto)?, summary))
        });
        let (stored, summary) = read.await?;
        let before = Before {
            instructions: settings.instructions.as_deref(),
            summary: summary.as_ref().map(|(upto, text)| (*upto, text.as_str())),
        };
        // What is said to the run after this is not in the question.
        let seen = stored
            .iter()
            .filter(|message| message.run == run.number)
            .count();
        let question = Question {
            model: model_of(session, settings),
            settings,
            messages: transcript::view(&before, &stored, PROMPT_BYTES_MAX),
            tools: &settings.tools,
            trace: ids::digits(&run.id, ids::RUN).unwrap_or_default(),
        };
        let answer = self.ask(admission, &question).await?;
        let ids: Vec<String> = answer
            .calls
            .iter()
            .map(|_| ids::fresh(self.kernel(), ids::CALL))
            .collect();
        let (run, now) = (run.clone(), admission.tenant().now());
        let ended = admission
            .tenant()
            .write(move |tx| keep_answer(tx, &run, &answer, &ids, seen, now))
            .await?;
        Ok(if ended { Turn::Ended } else { Turn::Go })
    }

    async fn ask(&self, admission: &Admission, question: &Question<'_>) -> Result<Answer, Failed> {
        let mut tries = 0;
        loop {
            match model::ask(&self.gateway, admission.caller(), question).await {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer {
                    retry_after_s: Some(seconds),
                    ..
                }) if tries + 1 < TRIES && Duration::from_secs(seconds) <= LATER_MAX => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(seconds.max(1))).await;
                }
                Err(no) => return Err(Failed(format!("model_failed:{}", no.code))),
            }
        }
    }

    async fn tool_turn(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        standing: &Standing,
        call: &ToolCall,
    ) -> Result<Turn, Failed> {
        let run = &standing.run;
        let ended = |done: Done| finish(admission, run, call, done);
        // Only what its agent has is there.
        let offered = standing.settings.tools.contains(&call.tool);
        let prepared = match tools::prepare(&call.tool, &call.arguments) {
            Ok(prepared) if offered => prepared,
            Ok(_) => return ended(Done::failed("there is no such tool")).await,
            Err(why) => return ended(Done::failed(why)).await,
        };
        match call.state.as_str() {
            "denied" => return ended(Done::failed("A person denied this call.")).await,
            "begun" if !prepared.tool.only_reads() => {
                return ended(Done::failed(INTERRUPTED)).await;
            }
            "waiting" => {
                let left = call.until.map_or(Duration::ZERO, |until| {
                    until.since(admission.tenant().now())
                });
                if !left.is_zero() {
                    return Ok(Turn::Waits(left));
                }
                return ended(Done::failed("Nobody approved this call in time.")).await;
            }
            _ => {}
        }
        match self.judge(trail, admission, run, call, &prepared).await? {
            Judged::May(rules, caps) => {
                self.carry_out(trail, admission, run, call, &prepared, &rules, caps)
                    .await
            }
            Judged::Waits(wait) => Ok(Turn::Waits(wait)),
            Judged::Not(text) => ended(Done::failed(text)).await,
        }
    }

    /// Puts a call to the rules as they are now, an approval that was given included.
    async fn judge(
        &self,
        trail: &Trail,
        admission: &Admission,
        run: &Run,
        call: &ToolCall,
        prepared: &Prepared,
    ) -> Result<Judged, Failed> {
        let (mut rules, mut caps) = (Vec::new(), Caps::default());
        for act in prepared.acts() {
            let decision = admission.decide(act);
            if let Outcome::Allowed(obligations) = &decision.outcome {
                rules.extend(decision.rules.split(' ').map(str::to_owned));
                let lower =
                    |known: Option<u64>, new: Option<u64>| known.into_iter().chain(new).min();
                caps.seconds = lower(caps.seconds, obligations.cap(Cap::Seconds));
                caps.bytes = lower(caps.bytes, obligations.cap(Cap::Bytes));
                let Some(roles) = obligations.approvers() else {
                    continue;
                };
                let by = approve::approver(call).filter(|_| call.state == "approved");
                if !by.is_some_and(|by| roles.iter().any(|role| role.as_str() == by)) {
                    let wait =
                        ask_for_approval(admission, run, call, &approve::roles_text(roles)).await?;
                    return Ok(Judged::Waits(wait));
                }
                continue;
            }
            let refusal =
                gateway::policy::refusal(admission, &decision).unwrap_or(Refusal::Internal);
            door::denied(trail, admission, "invoke_tool", &refusal)
                .await
                .map_err(|_| failed("unavailable"))?;
            return Ok(Judged::Not(match &decision.outcome {
                Outcome::Absent => "there is no such tool, or no such file".to_owned(),
                _ => format!("A rule forbids this call: {}", decision.rules),
            }));
        }
        rules.sort();
        rules.dedup();
        Ok(Judged::May(rules.join(" "), caps))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "each is one fact of the call, used once"
    )]
    async fn carry_out(
        &self,
        trail: &Trail,
        admission: &Admission,
        run: &Run,
        call: &ToolCall,
        prepared: &Prepared,
        rules: &str,
        caps: Caps,
    ) -> Result<Turn, Failed> {
        let digest = hex::encode(kernel::digest::sha256(call.arguments.as_bytes()));
        let about = || {
            let texts = [("name", &call.tool), ("run", &run.id), ("call", &call.id)];
            texts.map(|(name, text)| (name, text.clone()))
        };
        let mut detail = std::collections::BTreeMap::from(about());
        detail.insert("arguments_sha256", digest);
        detail.extend(call.decided_by.clone().map(|by| ("approved_by", by)));
        let deed = Deed {
            action: "invoke_tool",
            rule: Some(rules),
            detail,
            ..Deed::default()
        };
        trail.record(admission, deed).await?;
        // From here on it counts as done, whatever happens.
        if !mark_begun(admission, run, call).await? {
            return Ok(Turn::Ended);
        }
        self.ring(admission.tenant().uid());
        let mut done = match tools::runs_code(prepared) {
            true => match self.sandbox().await {
                Ok(sandbox) => {
                    let bench = Bench {
                        kernel: self.kernel(),
                        sandbox,
                    };
                    tools::carry_out(Some(&bench), admission, prepared, caps).await
                }
                Err(_why) => Done::failed("code is not executed here: the sandbox did not open"),
            },
            false => tools::carry_out(None, admission, prepared, caps).await,
        };
        let mut detail = std::mem::take(&mut done.facts);
        detail.extend(about());
        let deed = Deed {
            action: "tool.ended",
            outcome: Some(done.outcome),
            detail,
            ..Deed::default()
        };
        trail.record(admission, deed).await?;
        finish(admission, run, call, done).await
    }
}

/// What the rules say of a call.
enum Judged {
    May(String, Caps),
    Waits(Duration),
    Not(String),
}

fn standing(tx: &ReadTx<'_>, run: i64) -> Result<Option<Standing>, StoreError> {
    let Some(run) = runs::by_number(tx, run)?.filter(|run| run.ended_at.is_none()) else {
        return Ok(None);
    };
    let Some(session) = runs::session_of(tx, &run)? else {
        return Ok(None);
    };
    let settings = match session.agent.as_str() {
        "" => AgentSettings::default(),
        name => settings::version(tx, name, run.agent_version)?
            .map(|agent| agent.settings)
            .unwrap_or_default(),
    };
    Ok(Some(Standing {
        run,
        session,
        settings,
    }))
}

/// How long a run has waited for approvals: that counts as nobody's time.
fn waited(calls: &[ToolCall], now: base::Timestamp) -> Duration {
    let waits = calls.iter().filter_map(|call| {
        let until = call.until?;
        let over = call.begun_at.or(call.ended_at).unwrap_or(now).since(until);
        // `since` is never below zero: what is left of the wait was not waited.
        let left = until.since(call.begun_at.or(call.ended_at).unwrap_or(now));
        Some(APPROVAL_WAIT.saturating_sub(left).saturating_add(over))
    });
    waits.sum()
}

async fn begin(admission: &Admission, run: i64) -> Result<(), KernelError> {
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
fn keep_answer(
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
    let sql = "SELECT COUNT(*) FROM message WHERE session = ?1 AND run = ?2";
    let said: Option<i64> = tx.query_one(sql, params![run.session_number, run.number], |row| {
        Ok(row.get(0)?)
    })?;
    runs::say(tx, run.number, run.session_number, &answer.message, now)?;
    let cost = answer
        .cost
        .map_or(0, |cost| i64::try_from(cost.pico()).unwrap_or(i64::MAX));
    let sql = "UPDATE run SET steps = steps + 1, cost_pico = MIN(cost_pico, 9000000000000000000 - ?2) + ?2 WHERE number = ?1";
    tx.execute(
        sql,
        params![run.number, cost.clamp(0, 1_000_000_000_000_000_000)],
    )?;
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
    let seen = i64::try_from(seen).unwrap_or(i64::MAX);
    let steered = said.unwrap_or_default() > seen;
    if answer.calls.is_empty() && !steered {
        runs::end(tx, run.number, State::Finished, None, now)?;
        return Ok(true);
    }
    Ok(false)
}

/// Puts a call to whoever may approve it. How long that is waited for.
async fn ask_for_approval(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    roles: &str,
) -> Result<Duration, KernelError> {
    let now = admission.tenant().now();
    let until = now.plus(APPROVAL_WAIT);
    let (number, run, roles, call) = (call.number, run.number, roles.to_owned(), call.clone());
    let asked = admission.tenant().write(move |tx| {
        let sql = "UPDATE tool_call SET state = 'waiting', approvers = ?2, until_ms = ?3, decided_by = NULL WHERE number = ?1";
        tx.execute(sql, params![number, roles, until.unix_ms()])?;
        runs::set_state(tx, run, State::Waiting)?;
        runs::tell(tx, run, now, |run| {
            json!({
                "type": "approval.requested", "run": run, "call": call.id, "tool": call.tool,
                "arguments": call.arguments, "approvers": roles, "until": until.to_string(),
            })
        })
    });
    asked.await?;
    Ok(APPROVAL_WAIT)
}

/// Stores that the effect begins. `false` where the run has ended meanwhile: then it does not.
async fn mark_begun(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
) -> Result<bool, KernelError> {
    let (run, call, now) = (run.number, call.clone(), admission.tenant().now());
    let begun = admission.tenant().write(move |tx| {
        if !runs::is_open(tx, run)? {
            return Ok(false);
        }
        let sql = "UPDATE tool_call SET state = 'begun', begun_ms = ?2 WHERE number = ?1";
        tx.execute(sql, params![call.number, now.unix_ms()])?;
        runs::set_state(tx, run, State::Running)?;
        runs::tell(tx, run, now, |run| {
            json!({ "type": "tool.started", "run": run, "call": call.id, "tool": call.tool, "arguments": call.arguments })
        })?;
        Ok(true)
    });
    begun.await
}

/// Stores a call's result, with which it has ended.
async fn finish(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    done: Done,
) -> Result<Turn, Failed> {
    let (run, call, now) = (run.clone(), call.clone(), admission.tenant().now());
    let stored = admission.tenant().write(move |tx| {
        if !runs::is_open(tx, run.number)? {
            return Ok(false);
        }
        let sql = "UPDATE tool_call SET state = 'ended', ended_ms = ?2 WHERE number = ?1 AND state <> 'ended'";
        if tx.execute(sql, params![call.number, now.unix_ms()])? == 0 {
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
    Ok(if stored.await? { Turn::Go } else { Turn::Ended })
}
