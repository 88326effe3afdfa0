//! `agent/<name>` for clients of chat completions: the same runs, in the shape that they know.
//!
//! Such a client sends the whole conversation each time. Each call is a session of its own, or goes on with the session that
//! `metadata.session` names; then the last message alone is new.

use std::sync::Arc;
use std::time::Duration;

use base::Role;
use bytes::Bytes;
use gateway::agents::{Agents as AnswersCalls, Answering, PREFIX};
use gateway::door;
use gateway::refusal::Refusal;
use gateway::reply::{BodyError, ReplyBody};
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use kernel::{Admission, Trail};
use llm::Request;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::agents::{Agents, deed, may_begin};
use crate::error::AgentError;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::send::{self, NewRun};
use crate::sessions::{self, Eyes, NewSession, Session};
use crate::{ids, runs, transcript};

/// Who may have an agent work.
const CALLERS: &[Role] = &[Role::Admin, Role::Member, Role::App];
/// Messages that one call may bring.
const MESSAGES_MAX: usize = 500;
/// Pieces that may wait for a client.
const PIECES: usize = 16;
/// Between two looks at a run, should news be missed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two signs of life on a stream.
const COMMENT_EVERY: Duration = Duration::from_secs(15);

impl AnswersCalls for Agents {
    fn answer<'a>(
        &'a self,
        trail: &'a Arc<Trail>,
        admission: Admission,
        request: Request,
    ) -> Answering<'a> {
        Box::pin(async move {
            let agents = self.shared().ok_or(Refusal::Draining)?;
            serve(&agents, trail, admission, request).await
        })
    }
}

/// A run that a client of chat completions waits for.
struct Waiting {
    agents: Arc<Agents>,
    admission: Admission,
    run: String,
    session: String,
    model: String,
    created: i64,
}

async fn serve(
    agents: &Arc<Agents>,
    trail: &Arc<Trail>,
    admission: Admission,
    request: Request,
) -> Result<Response<ReplyBody>, Refusal> {
    if !CALLERS.contains(&admission.role()) {
        let role = admission.role().as_str();
        let refusal = Refusal::Forbidden { role };
        door::denied(trail, &admission, "call_model", &refusal).await?;
        return Err(refusal);
    }
    let model = request.model().to_owned();
    let name = model.strip_prefix(PREFIX).unwrap_or_default().to_owned();
    match agents.agent(&admission, &name).await {
        Ok(_there) => {}
        Err(AgentError::NotFound) => {
            let refusal = Refusal::ModelNotFound { model };
            door::denied(trail, &admission, "call_model", &refusal).await?;
            return Err(refusal);
        }
        Err(error) => return Err(refusal(error)),
    }
    let streams = request.stream();
    let asked = Asked {
        messages: read_messages(&request)?,
        session: session_of(&request),
        name,
        model,
    };
    let waiting = Arc::clone(agents)
        .begin_apart(trail, admission, asked)
        .await?;
    match streams {
        true => Ok(waiting.streamed(trail)),
        false => waiting.whole(trail).await,
    }
}

/// What a client of chat completions asks of an agent.
struct Asked {
    messages: Vec<String>,
    session: Option<String>,
    name: String,
    model: String,
}

fn session_of(request: &Request) -> Option<String> {
    let metadata = request.member("metadata")?;
    let metadata: Value = serde_json::from_str(metadata).ok()?;
    metadata["session"].as_str().map(str::to_owned)
}

impl Agents {
    /// Begins a run in a task of its own: a client that goes away meanwhile leaves no run behind that nobody takes up.
    async fn begin_apart(
        self: Arc<Self>,
        trail: &Arc<Trail>,
        admission: Admission,
        asked: Asked,
    ) -> Result<Waiting, Refusal> {
        let (begun, told) = oneshot::channel();
        let trail = Arc::clone(trail);
        self.kernel().tasks().clone().spawn(async move {
            let waiting = begin(&self, &trail, admission, asked).await;
            if let Err(Ok(waiting)) = begun.send(waiting) {
                drop(Ends(Some(&waiting)));
            }
        });
        told.await.unwrap_or(Err(Refusal::Internal))
    }
}

async fn begin(
    agents: &Arc<Agents>,
    trail: &Trail,
    admission: Admission,
    asked: Asked,
) -> Result<Waiting, Refusal> {
    may_begin(trail, &admission, &asked.name)
        .await
        .map_err(refusal)?;
    let reserved = agents.reserve(admission.tenant()).await.map_err(refusal)?;
    let (session, messages) = place(agents, trail, &admission, &asked).await?;
    deed(trail, &admission, "session.send", &session.id)
        .await
        .map_err(refusal)?;
    let new = NewRun {
        id: ids::fresh(agents.kernel(), ids::RUN),
        caller: admission.caller().to_bytes(),
        token: admission.token_name().as_str().to_owned(),
        messages,
        key: None,
    };
    let (id, now) = (session.id.clone(), admission.tenant().now());
    let eyes = Eyes::talking(&admission);
    let stored = admission
        .tenant()
        .write(move |tx| match sessions::find(tx, &id, &eyes)? {
            Some(session) => send::begin(tx, &session, new, now),
            None => Ok(Err(AgentError::NotFound)),
        });
    let sent = stored.await.map_err(Refusal::from)?.map_err(refusal)?;
    agents.take_up(&admission, &sent);
    drop(reserved);
    Ok(Waiting {
        agents: Arc::clone(agents),
        created: admission.tenant().now().unix_seconds(),
        admission,
        run: sent.run,
        session: session.id,
        model: asked.model,
    })
}

/// The session that a call goes into, and what is new in it.
async fn place(
    agents: &Arc<Agents>,
    trail: &Trail,
    admission: &Admission,
    asked: &Asked,
) -> Result<(Session, Vec<String>), Refusal> {
    let Some(id) = &asked.session else {
        let new = NewSession {
            agent: Some(asked.name.clone()),
            channel: "api",
            ..NewSession::default()
        };
        let made = agents.create_session(trail, admission, new).await;
        return Ok((made.map_err(refusal)?, asked.messages.clone()));
    };
    let eyes = Eyes::talking(admission);
    let found = match agents.session(admission, id).await {
        Ok(session) => Some(session).filter(|session| eyes.see(&session.owner)),
        Err(AgentError::NotFound) => None,
        Err(error) => return Err(refusal(error)),
    };
    let found = found.filter(|session| session.agent == asked.name);
    let no_session = || wrong("metadata.session", "there is no such session of this agent");
    let session = found.ok_or_else(no_session)?;
    let last = asked.messages.last().filter(|text| is_users(text));
    let last = last.ok_or_else(|| wrong("messages", "the last message must be the user's"))?;
    Ok((session, vec![last.clone()]))
}

fn is_users(message: &str) -> bool {
    let message: Value = serde_json::from_str(message).unwrap_or_default();
    message["role"] == "user"
}

fn wrong(param: &str, text: &str) -> Refusal {
    Refusal::BadRequest {
        message: format!("{param}: {text}"),
        param: Some(param.to_owned()),
    }
}

/// The client's messages as they are kept: texts of the user and the assistant. Tools are the agent's own.
fn read_messages(request: &Request) -> Result<Vec<String>, Refusal> {
    for foreign in ["tools", "functions", "tool_choice", "response_format", "n"] {
        let given = request
            .member(foreign)
            .is_some_and(|text| text != "null" && text != "1");
        if given {
            return Err(wrong(foreign, "an agent has its own; leave it out"));
        }
    }
    let messages: Vec<Value> = request
        .member("messages")
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or_else(|| wrong("messages", "must be a list"))?;
    if messages.len() > MESSAGES_MAX {
        return Err(wrong("messages", &format!("are more than {MESSAGES_MAX}")));
    }
    let mut kept = Vec::with_capacity(messages.len());
    let mut bytes = 0;
    for (place, message) in messages.iter().enumerate() {
        let role = match message["role"].as_str() {
            Some(role @ ("user" | "assistant" | "system")) => role,
            Some("developer") => "system",
            _ => {
                return Err(wrong(
                    &format!("messages[{place}].role"),
                    "must be user, assistant or system",
                ));
            }
        };
        let text = transcript::text_of(&message.to_string());
        if text.is_empty() {
            return Err(wrong(&format!("messages[{place}].content"), "must be text"));
        }
        bytes += text.len();
        kept.push(json!({ "role": role, "content": text }).to_string());
    }
    if bytes > MESSAGE_BYTES_MAX {
        return Err(wrong(
            "messages",
            &format!("are longer than {MESSAGE_BYTES_MAX} bytes together"),
        ));
    }
    match kept.is_empty() {
        true => Err(wrong("messages", "is empty")),
        false => Ok(kept),
    }
}

/// What a client of chat completions is told.
fn refusal(error: AgentError) -> Refusal {
    match error {
        AgentError::NotFound => Refusal::NotFound,
        AgentError::Refused {
            code: "too_many_runs",
            ..
        } => Refusal::TenantBusy {
            what: "runs of agents",
            retry_after_s: 5,
        },
        AgentError::Refused { text, .. } => Refusal::BadRequest {
            message: text,
            param: None,
        },
        AgentError::Wrong { field, text } => wrong(field, &text),
        AgentError::Kernel(error) => Refusal::from(error),
    }
}

/// How a run ended.
struct End {
    state: String,
    why: Option<String>,
}

impl Waiting {
    async fn ended(&self) -> Result<Option<End>, Refusal> {
        let run = self.run.clone();
        let found = self
            .admission
            .tenant()
            .read(move |tx| runs::ended(tx, &run));
        let found = found.await.map_err(Refusal::from)?;
        Ok(found.map(|(state, why)| End { state, why }))
    }

    /// The text with which the run ended.
    async fn reply(&self) -> Result<String, Refusal> {
        let run = self.run.clone();
        let read = self.admission.tenant().read(move |tx| {
            let found = runs::find(tx, &run, &Eyes::All)?;
            found.map(|run| runs::last_message(tx, &run)).transpose()
        });
        let body = read
            .await
            .map_err(Refusal::from)?
            .flatten()
            .unwrap_or_default();
        Ok(transcript::text_of(&body))
    }

    async fn next_news(&self) {
        tokio::select! {
            () = self.agents.news(self.admission.tenant().uid()) => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    /// Waits for the run, and answers whole. A client that goes away ends it.
    async fn whole(self, trail: &Arc<Trail>) -> Result<Response<ReplyBody>, Refusal> {
        let ends = Ends(Some(&self));
        let end = loop {
            if let Some(end) = self.ended().await? {
                break end;
            }
            self.next_news().await;
        };
        ends.not();
        if let Some(refusal) = failure(&end) {
            return Err(refusal);
        }
        let body = json!({
            "id": self.id(), "object": "chat.completion", "created": self.created, "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": self.reply().await?, "refusal": null },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "metadata": { "session": self.session, "run": self.run },
        });
        Ok(door::json(trail, Bytes::from(body.to_string())))
    }

    fn id(&self) -> String {
        format!("chatcmpl-{}", self.run)
    }

    /// Streams the run: what its tools do as comments, which clients skip, and the reply as one piece.
    fn streamed(self, trail: &Arc<Trail>) -> Response<ReplyBody> {
        let (pieces, taken) = mpsc::channel(PIECES);
        let mut answer = Response::new(ReplyBody::Told(taken));
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(id) = HeaderValue::from_str(trail.request_id().as_str()) {
            headers.insert(HeaderName::from_static("x-request-id"), id);
        }
        let (tasks, trail) = (self.agents.kernel().tasks().clone(), Arc::clone(trail));
        tasks.spawn(async move {
            let ends = Ends(Some(&self));
            let told = tokio::select! {
                told = self.tell(&pieces) => told,
                () = pieces.closed() => return,
            };
            if matches!(told, Ok(()) | Err(Refusal::RunFailed { .. })) {
                ends.not();
            }
            if let Err(refusal) = told {
                // The run has ended and is recorded: nothing is missing behind this. There is no mark of a whole answer.
                let event = refusal.stream_event(llm::Dialect::OpenAi, trail.request_id());
                let _gone = pieces.send(Ok(event)).await;
            }
        });
        answer
    }

    async fn tell(&self, pieces: &mpsc::Sender<Result<Bytes, BodyError>>) -> Result<(), Refusal> {
        let say = |text: String| async {
            pieces
                .send(Ok(Bytes::from(text)))
                .await
                .map_err(|_| Refusal::Draining)
        };
        say(self.chunk(json!({ "role": "assistant", "content": "" }), None)).await?;
        let mut seen = 0;
        let mut silent = tokio::time::Instant::now();
        let end = loop {
            let (events, _) = self
                .agents
                .events(
                    &self.admission,
                    &self.session,
                    seen,
                    crate::agents::PAGE_MAX,
                )
                .await
                .map_err(refusal)?;
            for event in events {
                seen = event.seq;
                if let Some(comment) = comment(&event.body, &self.run) {
                    say(comment).await?;
                    silent = tokio::time::Instant::now();
                }
            }
            if let Some(end) = self.ended().await? {
                break end;
            }
            if silent.elapsed() >= COMMENT_EVERY {
                say(": working\n\n".to_owned()).await?;
                silent = tokio::time::Instant::now();
            }
            self.next_news().await;
        };
        if let Some(refusal) = failure(&end) {
            return Err(refusal);
        }
        say(self.chunk(json!({ "content": self.reply().await? }), None)).await?;
        say(self.chunk(json!({}), Some("stop"))).await?;
        say("data: [DONE]\n\n".to_owned()).await
    }

    fn chunk(&self, delta: Value, finish: Option<&str>) -> String {
        let chunk = json!({
            "id": self.id(), "object": "chat.completion.chunk", "created": self.created, "model": self.model,
            "choices": [{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }],
        });
        format!("data: {chunk}\n\n")
    }
}

/// Ends the run of a client that has gone: nobody would read its reply.
struct Ends<'a>(Option<&'a Waiting>);

impl Ends<'_> {
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let Some(waiting) = self.0 else { return };
        let (agents, admission, run) = (
            Arc::clone(&waiting.agents),
            waiting.admission.clone(),
            waiting.run.clone(),
        );
        let tasks = agents.kernel().tasks().clone();
        tasks.spawn(async move {
            if let Ok(trail) = agents.kernel().open_trail(None) {
                // It may have ended meanwhile, and that is as well.
                let _ended = agents.cancel(&trail, &admission, &run).await;
            }
        });
    }
}

/// What a comment tells of an event: which tool, and no argument of it.
fn comment(body: &str, run: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let what = body["type"]
        .as_str()
        .filter(|what| what.starts_with("tool.") || what.starts_with("approval."))?;
    let call = body["call"].as_str().unwrap_or_default();
    let tool = body["tool"]
        .as_str()
        .filter(|tool| crate::tools::find(tool).is_some())
        .unwrap_or_default();
    (body["run"] == run).then(|| format!(": {what} {tool} {call}\n\n"))
}

fn failure(end: &End) -> Option<Refusal> {
    let why = end.why.as_deref().unwrap_or("cancelled");
    (end.state != "finished").then(|| Refusal::RunFailed {
        why: why.chars().take(128).collect(),
    })
}
