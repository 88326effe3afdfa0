//! What the methods of agents, sessions and runs do: `agent` does it, for the caller who was admitted.

use agent::{Agent, AgentError, AgentSettings, NewSession, Run, Session, ToolCall, Wish};
use rpc::agent::{AgentList, AgentView, NamedAgent, SetAgent, ToolList, ToolView};
use rpc::jsonrpc::{Failure, number};
use rpc::method::{self, Handle};
use rpc::params::{Done, NamedSubscription, Nothing, Subscribed};
use rpc::run::{CallView, NamedCall, NamedRun, RunList, RunView, RunsWish};
use rpc::session::{
    Aborted, History, HistoryWish, Message, NamedSession, SendMessage, SentMessage, SessionList,
    SessionView, SessionsWish, Watch,
};
use serde_json::value::to_raw_value;

use super::follow::{Followed, follow};
use super::session::{Turn, kernel_failure};
use crate::operate;

/// Items of a page without a wish.
const PAGE: u64 = 50;

type Told<T> = Result<T, Failure>;

impl Handle<method::AgentsList> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<AgentList> {
        let found = self
            .agents()
            .agents(&self.admission)
            .await
            .map_err(failure)?;
        let agents = found.into_iter().map(agent_view).collect();
        Ok(AgentList { agents })
    }
}

impl Handle<method::AgentsGet> for Turn {
    async fn handle(&self, NamedAgent { name }: NamedAgent) -> Told<AgentView> {
        let found = self.agents().agent(&self.admission, &name).await;
        found.map(agent_view).map_err(failure)
    }
}

impl Handle<method::AgentsSet> for Turn {
    async fn handle(&self, wish: SetAgent) -> Told<AgentView> {
        let settings = AgentSettings {
            model: wish.model,
            instructions: wish.instructions,
            tools: wish.tools,
            temperature: wish.temperature,
            max_tokens: wish.max_tokens,
            max_steps: wish.max_steps,
            max_seconds: wish.max_seconds,
            max_cost_usd: wish.max_cost_usd,
        };
        let set = self
            .agents()
            .set_agent(&self.trail, &self.admission, &wish.name, settings)
            .await;
        set.map(agent_view).map_err(failure)
    }
}

impl Handle<method::ToolsList> for Turn {
    async fn handle(&self, Nothing {}: Nothing) -> Told<ToolList> {
        let view = |tool: agent::ToolView| {
            Ok(ToolView {
                name: tool.name.to_owned(),
                description: tool.description.to_owned(),
                parameters: to_raw_value(&tool.parameters).map_err(|_| Failure::internal())?,
            })
        };
        let tools = self.agents().tools().map(view).collect::<Told<_>>()?;
        Ok(ToolList { tools })
    }
}

impl Handle<method::SessionsCreate> for Turn {
    async fn handle(&self, wish: rpc::session::NewSession) -> Told<SessionView> {
        let new = NewSession {
            agent: wish.agent,
            model: wish.model,
            title: wish.title,
            channel: "rpc",
        };
        let made = self
            .agents()
            .create_session(&self.trail, &self.admission, new)
            .await;
        made.map(session_view).map_err(failure)
    }
}

impl Handle<method::SessionsList> for Turn {
    async fn handle(&self, SessionsWish { before, limit }: SessionsWish) -> Told<SessionList> {
        let found = self
            .agents()
            .sessions(&self.admission, before, page(limit))
            .await;
        let sessions = found.map_err(failure)?.into_iter().map(session_view);
        Ok(SessionList {
            sessions: sessions.collect(),
        })
    }
}

impl Handle<method::SessionsGet> for Turn {
    async fn handle(&self, NamedSession { id }: NamedSession) -> Told<SessionView> {
        let found = self.agents().session(&self.admission, &id).await;
        found.map(session_view).map_err(failure)
    }
}

impl Handle<method::SessionsSend> for Turn {
    async fn handle(&self, wish: SendMessage) -> Told<SentMessage> {
        let wish = Wish {
            session: wish.id,
            message: wish.message,
            key: wish.idempotency_key,
            steer: wish.steer.unwrap_or(false),
        };
        let sent = self.agents().send(&self.trail, &self.admission, wish).await;
        sent.map_err(failure).map(|sent| SentMessage {
            run: sent.run,
            repeated: sent.repeated,
        })
    }
}

impl Handle<method::ChatSend> for Turn {
    async fn handle(&self, wish: SendMessage) -> Told<SentMessage> {
        Handle::<method::SessionsSend>::handle(self, wish).await
    }
}

impl Handle<method::ChatHistory> for Turn {
    async fn handle(&self, HistoryWish { id, after, limit }: HistoryWish) -> Told<History> {
        let opened = self
            .agents()
            .open_session(&self.trail, &self.admission, &id)
            .await;
        opened.map_err(failure)?;
        let said = self
            .agents()
            .history(&self.admission, &id, place(after), page(limit))
            .await;
        let view = |said: agent::Said| {
            Ok(Message {
                seq: count(said.seq),
                run: said.run,
                at: said.at,
                message: operate::raw(said.body).map_err(|_| Failure::internal())?,
            })
        };
        let messages = said.map_err(failure)?.into_iter().map(view);
        Ok(History {
            messages: messages.collect::<Told<_>>()?,
        })
    }
}

impl Handle<method::SessionsAbort> for Turn {
    async fn handle(&self, NamedSession { id }: NamedSession) -> Told<Aborted> {
        let ended = self.agents().abort(&self.trail, &self.admission, &id).await;
        ended.map(|runs| Aborted { runs }).map_err(failure)
    }
}

impl Handle<method::ChatAbort> for Turn {
    async fn handle(&self, named: NamedSession) -> Told<Aborted> {
        Handle::<method::SessionsAbort>::handle(self, named).await
    }
}

impl Handle<method::SessionsReset> for Turn {
    async fn handle(&self, NamedSession { id }: NamedSession) -> Told<Done> {
        done(
            self.agents()
                .reset_session(&self.trail, &self.admission, &id)
                .await,
        )
    }
}

impl Handle<method::SessionsCompact> for Turn {
    async fn handle(&self, NamedSession { id }: NamedSession) -> Told<Done> {
        done(
            self.agents()
                .compact_session(&self.trail, &self.admission, &id)
                .await,
        )
    }
}

impl Handle<method::SessionsDelete> for Turn {
    async fn handle(&self, NamedSession { id }: NamedSession) -> Told<Done> {
        done(
            self.agents()
                .delete_session(&self.trail, &self.admission, &id)
                .await,
        )
    }
}

impl Handle<method::SessionsSubscribe> for Turn {
    async fn handle(&self, Watch { id, after }: Watch) -> Told<Subscribed> {
        let subscriptions = self.subscriptions()?;
        let opened = self
            .agents()
            .open_session(&self.trail, &self.admission, &id)
            .await;
        opened.map_err(failure)?;
        let (_, last) = self
            .agents()
            .events(&self.admission, &id, i64::MAX, 1)
            .await
            .map_err(failure)?;
        let after = after.unwrap_or_else(|| count(last));
        follow(
            subscriptions,
            Followed::Session(id),
            after.saturating_add(1),
        )
    }
}

impl Handle<method::SessionsUnsubscribe> for Turn {
    async fn handle(&self, named: NamedSubscription) -> Told<Done> {
        Handle::<method::AuditUnsubscribe>::handle(self, named).await
    }
}

impl Handle<method::RunsList> for Turn {
    async fn handle(&self, wish: RunsWish) -> Told<RunList> {
        let limit = page(wish.limit);
        let found = self
            .agents()
            .runs(&self.admission, wish.session, wish.before, limit)
            .await;
        let runs = found.map_err(failure)?.into_iter().map(run_view);
        Ok(RunList {
            runs: runs.collect(),
        })
    }
}

impl Handle<method::RunsGet> for Turn {
    async fn handle(&self, NamedRun { id }: NamedRun) -> Told<RunView> {
        let found = self
            .agents()
            .open_run(&self.trail, &self.admission, &id)
            .await;
        found.map(run_view).map_err(failure)
    }
}

impl Handle<method::RunsCancel> for Turn {
    async fn handle(&self, NamedRun { id }: NamedRun) -> Told<Done> {
        done(
            self.agents()
                .cancel(&self.trail, &self.admission, &id)
                .await,
        )
    }
}

impl Handle<method::RunsApprove> for Turn {
    async fn handle(&self, NamedCall { id, call }: NamedCall) -> Told<Done> {
        self.decide(&id, &call, true).await
    }
}

impl Handle<method::RunsDeny> for Turn {
    async fn handle(&self, NamedCall { id, call }: NamedCall) -> Told<Done> {
        self.decide(&id, &call, false).await
    }
}

impl Turn {
    pub(super) fn agents(&self) -> &std::sync::Arc<agent::Agents> {
        &self.session.app.agents
    }

    async fn decide(&self, run: &str, call: &str, approve: bool) -> Told<Done> {
        done(
            self.agents()
                .decide(&self.trail, &self.admission, run, call, approve)
                .await,
        )
    }
}

fn done(done: Result<(), AgentError>) -> Told<Done> {
    done.map(|()| Done { done: true }).map_err(failure)
}

fn page(limit: Option<u64>) -> usize {
    usize::try_from(limit.unwrap_or(PAGE)).unwrap_or(usize::MAX)
}

fn place(after: Option<u64>) -> i64 {
    after.map_or(0, |after| i64::try_from(after).unwrap_or(i64::MAX))
}

/// Places and versions are never below zero.
pub(super) fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// An error of agents, as a call is told it.
pub(super) fn failure(error: AgentError) -> Failure {
    match error {
        AgentError::NotFound => Failure::not_found(),
        AgentError::Refused { code, text } => Failure::new(number::REFUSED, code, text),
        AgentError::Wrong { field, text } => Failure::invalid_params(field, &text),
        AgentError::Kernel(error) => kernel_failure(error),
    }
}

fn agent_view(agent: Agent) -> AgentView {
    let settings = agent.settings;
    AgentView {
        name: agent.name,
        version: count(agent.version),
        set_at: agent.set_at,
        max_steps: settings.steps(),
        max_seconds: settings.seconds(),
        model: settings.model,
        instructions: settings.instructions,
        tools: settings.tools,
        temperature: settings.temperature,
        max_tokens: settings.max_tokens,
        max_cost_usd: settings.max_cost_usd,
    }
}

fn session_view(session: Session) -> SessionView {
    SessionView {
        owner: session.owner().to_owned(),
        id: session.id,
        agent: given(session.agent),
        model: given(session.model),
        channel: session.channel,
        title: given(session.title),
        created_at: session.created_at,
        used_at: session.used_at,
    }
}

fn run_view(run: Run) -> RunView {
    RunView {
        id: run.id,
        session: run.session,
        agent: given(run.agent),
        agent_version: Some(count(run.agent_version)).filter(|version| *version > 0),
        token: run.token,
        state: run.state,
        why: run.why,
        steps: count(run.steps),
        cost_usd: run.cost,
        created_at: run.created_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
        calls: run.calls.into_iter().map(call_view).collect(),
    }
}

fn call_view(call: ToolCall) -> CallView {
    let approvers = call.approvers.unwrap_or_default();
    let approvers = approvers.split(',').filter(|role| !role.is_empty());
    CallView {
        id: call.id,
        tool: call.tool,
        arguments: call.arguments,
        state: call.state,
        approvers: approvers.map(str::to_owned).collect(),
        decided_by: call.decided_by,
        until: call.until,
        begun_at: call.begun_at,
        ended_at: call.ended_at,
    }
}
