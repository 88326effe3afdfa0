//! A run from one stored state to the next: the model's turn, or a tool's. What comes next is read from the store each time, so that
//! a run goes on after anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{Role, TenantUid};
use gateway::door;
use gateway::refusal::Refusal;
use kernel::workspace::FileError;
use kernel::{Admission, Caller, Deed, KernelError, Purpose, ReadTx, StoreError, Tenant, Trail};
use policy::{Act, Cap, Decision, Outcome};
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::limits::{APPROVAL_WAIT, COMPACT_FROM_BYTES, PROMPT_BYTES_MAX, QUEUE_WAIT_MAX};
use crate::model::{self, Answer, NoAnswer, Question};
use crate::queue::Place;
use crate::runs::{self, Run, State, ToolCall};
use crate::sessions::Session;
use crate::settings::{self, AgentSettings};
use crate::steps::{ask_for_approval, begin, finish, keep_answer, mark_begun};
use crate::tools::{self, Bench, Caps, Done, Prepared};
use crate::transcript::{self, Before};
use crate::{approve, ids, summary};

/// How often a model that says *later* is asked again within one step.
const TRIES: u32 = 3;
/// How long one such wait may be.
const LATER_MAX: Duration = Duration::from_secs(20);
/// What is under way has so long to end when the process stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
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
    /// The process stops; the next one takes it up.
    Left,
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
        let stopping = self.kernel().tasks().stopping();
        let patience = async {
            stopping.cancelled().await;
            tokio::time::sleep(STOP_PATIENCE).await;
        };
        let worked = tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Turn::Ended),
            worked = self.turns(uid, place) => worked,
            () = patience => Ok(Turn::Left),
        };
        self.working().remove(&(uid, place.run));
        if let Ok(Turn::Left) = worked {
            return false;
        }
        if let Ok(Turn::Waits(wait)) = worked {
            self.wake_later(uid, place, wait);
            return false;
        }
        let code = match worked {
            Err(Failed(code)) => code,
            Ok(_) => "interrupted".to_owned(),
        };
        if let Some(tenant) = self.operators(uid) {
            self.put_away(&tenant, place.run, code).await;
        }
        true
    }

    /// Sees to it that a run which is worked on no longer has ended, and that nothing which had begun is left without a word.
    pub(crate) async fn put_away(&self, tenant: &Tenant, run: i64, code: String) {
        let put = async {
            for (id, call) in tenant.read(move |tx| runs::begun(tx, run)).await? {
                let detail = [
                    ("name", call.tool),
                    ("run", id),
                    ("call", call.id),
                    ("outcome", "unknown".to_owned()),
                ];
                let (kernel, detail) = (self.kernel(), detail.into());
                kernel
                    .record_end(&self.operator, tenant, "tool.ended", detail)
                    .await?;
            }
            let now = tenant.now();
            tenant
                .write(move |tx| {
                    runs::end_begun(tx, run)?;
                    runs::end(tx, run, State::Failed, Some(&code), now)
                })
                .await
        };
        if let Err(error) = put.await {
            // It is tried again when the tenant's next run has ended, and at the next start.
            self.lost().insert((tenant.uid(), run));
            self.log(Some(tenant.id()), "a run's end was not stored", &error);
        }
    }

    async fn turns(self: &Arc<Self>, uid: TenantUid, place: Place) -> Result<Turn, Failed> {
        let tenant = self.operators(uid);
        let tenant = tenant.ok_or_else(|| failed("credential_ended"))?;
        let run = place.run;
        let caller = tenant.read(move |tx| runs::by_number(tx, run)).await?;
        let Some(found) = caller.filter(|run| run.ended_at.is_none()) else {
            return Ok(Turn::Ended);
        };
        drop(tenant);
        let caller = Caller::from_bytes(found.caller);
        let stopping = self.kernel().tasks().stopping();
        loop {
            if stopping.is_cancelled() {
                return Ok(Turn::Left);
            }
            // The credential is verified anew for each step: what happened to it or its tenant since holds for this one.
            let (trail, admission) = self.enter(&caller, &found).await?;
            if admission.tenant().uid() != uid {
                return Err(failed("credential_ended"));
            }
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
            None if now.since(run.created_at) > QUEUE_WAIT_MAX => Err(failed("queue_timeout")),
            None => {
                begin(admission, run.number).await?;
                // Not waited for by anybody but this run, which has not said anything yet.
                let compacted = summary::compact(
                    &self.gateway,
                    admission,
                    &standing.session,
                    COMPACT_FROM_BYTES,
                );
                let most = Duration::from_secs(standing.settings.seconds()) / 2;
                let compacted = tokio::time::timeout(most, compacted).await;
                // Without it the prompt is longer, or cut at its beginning.
                drop(compacted);
                Ok(Turn::Go)
            }
            Some(started) => {
                let worked = now.since(started).saturating_sub(waited(&run.calls, now));
                let left = Duration::from_secs(standing.settings.seconds()).saturating_sub(worked);
                if left.is_zero() {
                    return Err(failed("time_exceeded"));
                }
                if let Some(call) = run.calls.iter().find(|call| call.state != "ended") {
                    return self
                        .tool_turn(trail, admission, &standing, call, left)
                        .await;
                }
                let turn = self.model_turn(admission, &standing);
                let turn = tokio::time::timeout(left, turn).await;
                turn.unwrap_or_else(|_late| Err(failed("time_exceeded")))
            }
        }
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
            let summary = summary::newest(tx, &looked, upto)?;
            let from = summary.as_ref().map_or(looked.begins, |(upto, _)| upto + 1);
            let stored = summary::stored(tx, &looked, from, upto, PROMPT_BYTES_MAX)?;
            let size = runs::size(tx, looked.number, upto)?;
            Ok((stored, summary, size))
        });
        let (stored, summary, size) = read.await?;
        // Its own messages are never left out of a prompt.
        if size.bytes > PROMPT_BYTES_MAX {
            return Err(failed("prompt_too_large"));
        }
        let before = Before {
            instructions: settings.instructions.as_deref(),
            summary: summary.as_ref().map(|(upto, text)| (*upto, text.as_str())),
        };
        let question = Question {
            model: model_of(session, settings),
            settings,
            messages: transcript::view(&before, &stored, PROMPT_BYTES_MAX),
            tools: &settings.tools,
            trace: ids::digits(&run.id, ids::RUN).unwrap_or_default(),
        };
        let answer = self.ask(admission, &question).await?;
        let unknown = answer.cost.is_none() && settings.cost_max().is_some();
        let ids: Vec<String> = answer
            .calls
            .iter()
            .map(|_| ids::fresh(self.kernel(), ids::CALL))
            .collect();
        let (run, now) = (run.clone(), admission.tenant().now());
        let ended = admission
            .tenant()
            .write(move |tx| keep_answer(tx, &run, &answer, &ids, size.messages, now))
            .await?;
        match ended {
            true => Ok(Turn::Ended),
            // What is not known cannot be kept below a limit.
            false if unknown => Err(failed("cost_unknown")),
            false => Ok(Turn::Go),
        }
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
        left: Duration,
    ) -> Result<Turn, Failed> {
        let run = &standing.run;
        let ended = |done: Done| end_call(admission, run, call, done);
        // Only what its agent has is there.
        let offered = standing.settings.tools.contains(&call.tool);
        let prepared = match tools::prepare(&call.tool, &call.arguments) {
            Ok(prepared) if offered => prepared,
            Ok(_) => return ended(Done::failed(tools::NO_TOOL)).await,
            Err(why) => return ended(Done::failed(why)).await,
        };
        match call.state.as_str() {
            "denied" => return ended(Done::failed("A person denied this call.")).await,
            "begun" if !prepared.tool.only_reads() => {
                record_ended(trail, admission, run, call, "unknown", BTreeMap::new()).await?;
                return ended(Done::failed(INTERRUPTED)).await;
            }
            "waiting" => {
                let wait = call.until.map_or(Duration::ZERO, |until| {
                    until.since(admission.tenant().now())
                });
                if !wait.is_zero() {
                    return Ok(Turn::Waits(wait));
                }
                return ended(Done::failed("Nobody approved this call in time.")).await;
            }
            _ => {}
        }
        match self.judge(trail, admission, run, call, &prepared).await? {
            Judged::May(rules, mut caps) => {
                // A run's time bounds what it starts.
                let seconds = left.as_secs().max(1);
                caps.seconds = Some(caps.seconds.map_or(seconds, |cap| cap.min(seconds)));
                self.carry_out(trail, admission, run, call, &prepared, &rules, caps)
                    .await
            }
            Judged::Waits(wait) => Ok(Turn::Waits(wait)),
            Judged::Not(text) => ended(Done::failed(text)).await,
            Judged::Over => Ok(Turn::Ended),
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
        let mut approvers: Option<Vec<Role>> = None;
        for act in prepared.acts() {
            let decision = admission.decide(act);
            let Outcome::Allowed(obligations) = &decision.outcome else {
                return refused(trail, admission, &act, &decision).await;
            };
            rules.extend(decision.rules.split(' ').map(str::to_owned));
            let lower = |known: Option<u64>, new: Option<u64>| known.into_iter().chain(new).min();
            caps.seconds = lower(caps.seconds, obligations.cap(Cap::Seconds));
            caps.bytes = lower(caps.bytes, obligations.cap(Cap::Bytes));
            if let Some(roles) = obligations.approvers() {
                // Whoever approves must be able to for all that the call does.
                let known = approvers.get_or_insert_with(|| roles.to_vec());
                known.retain(|role| roles.contains(role));
            }
        }
        rules.sort();
        rules.dedup();
        let rules = rules.join(" ");
        let Some(roles) = approvers else {
            return Ok(Judged::May(rules, caps));
        };
        if roles.is_empty() {
            return Ok(Judged::Not(format!(
                "Rules ask for approvals that nobody can give: {rules}"
            )));
        }
        let in_time = call
            .until
            .is_some_and(|until| until > admission.tenant().now());
        let by = approve::approver(call).filter(|_| call.state == "approved" && in_time);
        if by.is_some_and(|by| roles.iter().any(|role| role.as_str() == by)) {
            return Ok(Judged::May(rules, caps));
        }
        match ask_for_approval(admission, run, call, &approve::roles_text(&roles)).await? {
            Some(wait) => Ok(Judged::Waits(wait)),
            None => Ok(Judged::Over),
        }
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
        let texts = [("name", &call.tool), ("run", &run.id), ("call", &call.id)];
        let mut detail = BTreeMap::from(texts.map(|(name, text)| (name, text.clone())));
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
        let facts = std::mem::take(&mut done.facts);
        record_ended(trail, admission, run, call, done.outcome, facts).await?;
        end_call(admission, run, call, done).await
    }
}

/// What the rules say of a call.
enum Judged {
    May(String, Caps),
    Waits(Duration),
    Not(String),
    /// The run has ended meanwhile.
    Over,
}

/// Records that the rules refuse a call, and says it to the model.
async fn refused(
    trail: &Trail,
    admission: &Admission,
    act: &Act<'_>,
    decision: &Decision,
) -> Result<Judged, Failed> {
    let refusal = gateway::policy::refusal(admission, decision).unwrap_or(Refusal::Internal);
    let recorded = door::denied(trail, admission, "invoke_tool", &refusal).await;
    recorded.map_err(|_| failed("unavailable"))?;
    Ok(Judged::Not(match (&decision.outcome, act) {
        // The same words as for what is not there.
        (Outcome::Absent, Act::InvokeTool { .. }) => tools::NO_TOOL.to_owned(),
        (Outcome::Absent, _) => FileError::NotFound.to_string(),
        _ => format!("A rule forbids this call: {}", decision.rules),
    }))
}

/// Records how a call that had begun has ended.
async fn record_ended(
    trail: &Trail,
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    outcome: &'static str,
    mut detail: BTreeMap<&'static str, String>,
) -> Result<(), KernelError> {
    let texts = [("name", &call.tool), ("run", &run.id), ("call", &call.id)];
    detail.extend(texts.map(|(name, text)| (name, text.clone())));
    let deed = Deed {
        action: "tool.ended",
        outcome: Some(outcome),
        detail,
        ..Deed::default()
    };
    trail.record(admission, deed).await
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

async fn end_call(
    admission: &Admission,
    run: &Run,
    call: &ToolCall,
    done: Done,
) -> Result<Turn, Failed> {
    Ok(match finish(admission, run, call, done).await? {
        true => Turn::Go,
        false => Turn::Ended,
    })
}
