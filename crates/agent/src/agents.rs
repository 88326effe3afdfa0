//! All agents of a process: what conversations and runs share.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use base::TenantUid;
use gateway::Gateway;
use gateway::agents::PREFIX;
use kernel::{Admission, Deed, Kernel, Operator, Trail};
use policy::Act;
use sandbox::Sandbox;
use tokio::sync::{Notify, OnceCell};
use tokio_util::sync::CancellationToken;

use crate::error::AgentError;
use crate::events::Event;
use crate::queue::{Place, Queue};
use crate::runs::{self, Run, State};
use crate::send::{self, Sent, Wish};
use crate::sessions::{self, Eyes, NewSession, Said, Session};
use crate::settings::{self, Agent, AgentSettings};
use crate::tools::{TOOLS, ToolView};
use crate::{approve, events, ids, summary};

/// Messages, runs, sessions and events of one page.
pub(crate) const PAGE_MAX: usize = 200;

/// Opens the directory in which the sandbox keeps its runtime.
pub type SandboxPlace = Box<dyn Fn() -> Result<OwnedFd, String> + Send + Sync>;

/// One per process.
pub struct Agents {
    me: Weak<Self>,
    pub(crate) gateway: Arc<Gateway>,
    /// For runs that an earlier process left, and for those whose credential has ended.
    pub(crate) operator: Arc<Operator>,
    place: SandboxPlace,
    sandbox: OnceCell<Sandbox>,
    queue: Mutex<Queue>,
    /// Runs that work, by tenant and number, with what ends them early.
    working: Mutex<BTreeMap<(TenantUid, i64), CancellationToken>>,
    /// Whether the registry knows of a tenant's runs. Held while that changes, by each tenant for itself.
    noted: Mutex<BTreeMap<TenantUid, Arc<tokio::sync::Mutex<bool>>>>,
    /// Runs whose end could not be stored: left to the next start.
    lost: Mutex<BTreeSet<(TenantUid, i64)>>,
    /// Sessions that are being summed up on somebody's wish.
    compacting: Mutex<BTreeSet<(TenantUid, i64)>>,
    /// Rung when something may have changed in a tenant's sessions, for whoever watches there.
    news: Mutex<BTreeMap<TenantUid, Arc<Notify>>>,
}

impl Agents {
    /// Agents over a gateway. `place` is asked for when the first program is to run: the sandbox tries its walls then.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>, operator: Arc<Operator>, place: SandboxPlace) -> Arc<Self> {
        let agents = Arc::new_cyclic(|me| Self {
            me: Weak::clone(me),
            gateway,
            operator,
            place,
            sandbox: OnceCell::new(),
            queue: Mutex::default(),
            working: Mutex::default(),
            noted: Mutex::default(),
            lost: Mutex::default(),
            compacting: Mutex::default(),
            news: Mutex::default(),
        });
        let known = Weak::clone(&agents.me);
        agents.gateway.set_agents(known);
        agents
    }

    /// Itself, for work that outlives the call.
    pub(crate) fn shared(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    pub(crate) fn kernel(&self) -> &Kernel {
        self.gateway.kernel()
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Every section is a few moves: a panic cannot leave it half-made.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn working(&self) -> MutexGuard<'_, BTreeMap<(TenantUid, i64), CancellationToken>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn compacting(&self) -> MutexGuard<'_, BTreeSet<(TenantUid, i64)>> {
        self.compacting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn noted(&self, tenant: TenantUid) -> Arc<tokio::sync::Mutex<bool>> {
        let mut all = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(tenant).or_default())
    }

    pub(crate) fn lost(&self) -> MutexGuard<'_, BTreeSet<(TenantUid, i64)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox; its self-test is done when it is first asked for, and no program runs before.
    pub(crate) async fn sandbox(&self) -> Result<&Sandbox, String> {
        let open = || async { Ok(Box::pin(Sandbox::open((self.place)()?)).await) };
        self.sandbox.get_or_try_init(open).await
    }

    /// Resolves when something may have happened in some session of the tenant. News between two waits are missed: look from time to
    /// time all the same.
    pub async fn news(&self, tenant: TenantUid) {
        let bell = Arc::clone(self.bells().entry(tenant).or_default());
        bell.notified().await;
    }

    pub(crate) fn ring(&self, tenant: TenantUid) {
        let mut bells = self.bells();
        let Some(bell) = bells.get(&tenant) else {
            return;
        };
        bell.notify_waiters();
        if Arc::strong_count(bell) == 1 {
            bells.remove(&tenant);
        }
    }

    fn bells(&self) -> MutexGuard<'_, BTreeMap<TenantUid, Arc<Notify>>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs that work, and runs that wait for their turn, of all tenants.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        self.queue().depth()
    }

    /// Puts a version of an agent in force.
    ///
    /// # Errors
    /// What is wrong with it, by its name.
    pub async fn set_agent(
        &self,
        trail: &Trail,
        admission: &Admission,
        name: &str,
        settings: AgentSettings,
    ) -> Result<Agent, AgentError> {
        settings::set(trail, admission, name, settings).await
    }

    /// The version of an agent that is in force.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where there is none of that name.
    pub async fn agent(&self, admission: &Admission, name: &str) -> Result<Agent, AgentError> {
        let name = name.to_owned();
        let found = admission
            .tenant()
            .read(move |tx| settings::latest(tx, &name))
            .await?;
        found.ok_or(AgentError::NotFound)
    }

    /// All agents of the tenant, at most a hundred.
    ///
    /// # Errors
    /// As [`Tenant::read`](kernel::Tenant::read).
    pub async fn agents(&self, admission: &Admission) -> Result<Vec<Agent>, AgentError> {
        Ok(admission.tenant().read(settings::all).await?)
    }

    /// Every tool that an agent may name.
    pub fn tools(&self) -> impl Iterator<Item = ToolView> {
        TOOLS.iter().map(crate::tools::Tool::view)
    }

    /// Begins a conversation.
    ///
    /// # Errors
    /// What is wrong with it, or that the tenant has too many.
    pub async fn create_session(
        &self,
        trail: &Trail,
        admission: &Admission,
        new: NewSession,
    ) -> Result<Session, AgentError> {
        let id = ids::fresh(self.kernel(), ids::SESSION);
        if let Some(agent) = &new.agent {
            may_begin(trail, admission, agent).await?;
        }
        deed(trail, admission, "session.create", &id).await?;
        sessions::create(admission, id, new).await
    }

    /// One session.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where it is not the caller's to see.
    pub async fn session(&self, admission: &Admission, id: &str) -> Result<Session, AgentError> {
        let (id, eyes) = (id.to_owned(), Eyes::reading(admission));
        let found = admission
            .tenant()
            .read(move |tx| sessions::find(tx, &id, &eyes))
            .await?;
        found.ok_or(AgentError::NotFound)
    }

    /// One session, to be read; where it is somebody else's, that is recorded first.
    ///
    /// # Errors
    /// As [`Agents::session`].
    pub async fn open_session(
        &self,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<Session, AgentError> {
        let session = self.session(admission, id).await?;
        if !Eyes::talking(admission).see(&session.owner) {
            deed(trail, admission, "read_session", &session.id).await?;
        }
        Ok(session)
    }

    /// One run with its calls, to be read; where it is somebody else's, that is recorded first.
    ///
    /// # Errors
    /// As [`Agents::run`].
    pub async fn open_run(
        &self,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<Run, AgentError> {
        let run = self.run(admission, id).await?;
        if !Eyes::talking(admission).see(&run.owner) {
            deed(trail, admission, "read_run", &run.id).await?;
        }
        Ok(run)
    }

    /// Sessions that the caller may see, used last first, before a moment.
    ///
    /// # Errors
    /// As [`Tenant::read`](kernel::Tenant::read).
    pub async fn sessions(
        &self,
        admission: &Admission,
        before: Option<base::Timestamp>,
        limit: usize,
    ) -> Result<Vec<Session>, AgentError> {
        let eyes = Eyes::reading(admission);
        let limit = limit.min(PAGE_MAX);
        Ok(admission
            .tenant()
            .read(move |tx| sessions::list(tx, &eyes, before, limit))
            .await?)
    }

    /// What was said in a session after a place, oldest first.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where it is not the caller's to see.
    pub async fn history(
        &self,
        admission: &Admission,
        id: &str,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Said>, AgentError> {
        let (id, eyes) = (id.to_owned(), Eyes::reading(admission));
        let limit = limit.min(PAGE_MAX);
        let said = admission.tenant().read(move |tx| {
            let session = sessions::find(tx, &id, &eyes)?;
            session
                .map(|session| sessions::history(tx, &session, after, limit))
                .transpose()
        });
        said.await?.ok_or(AgentError::NotFound)
    }

    /// What happened in a session after a place, oldest first, and the place of the newest.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where it is not the caller's to see.
    pub async fn events(
        &self,
        admission: &Admission,
        id: &str,
        after: i64,
        limit: usize,
    ) -> Result<(Vec<Event>, i64), AgentError> {
        let (id, eyes) = (id.to_owned(), Eyes::reading(admission));
        let limit = limit.min(PAGE_MAX);
        let found = admission.tenant().read(move |tx| {
            let Some(session) = sessions::find(tx, &id, &eyes)? else {
                return Ok(None);
            };
            let happened = events::after(tx, session.number, after, limit)?;
            Ok(Some((happened, events::last(tx, session.number)?)))
        });
        found.await?.ok_or(AgentError::NotFound)
    }

    /// Forgets what was said: what comes next begins anew.
    ///
    /// # Errors
    /// Where a run of it is under way.
    pub async fn reset_session(
        &self,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<(), AgentError> {
        let session = self.session(admission, id).await?;
        deed(trail, admission, "session.reset", &session.id).await?;
        let done = sessions::reset(admission, id.to_owned()).await;
        self.ring(admission.tenant().uid());
        done
    }

    /// Deletes a session with all that was said in it.
    ///
    /// # Errors
    /// Where a run of it is under way.
    pub async fn delete_session(
        &self,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<(), AgentError> {
        sessions::delete(trail, admission, id.to_owned()).await
    }

    /// Sums up the older part of a conversation now.
    ///
    /// # Errors
    /// Where there is nothing to sum up, or the model does not answer.
    pub async fn compact_session(
        &self,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<(), AgentError> {
        let session = {
            let (id, eyes) = (id.to_owned(), Eyes::talking(admission));
            admission
                .tenant()
                .read(move |tx| sessions::find(tx, &id, &eyes))
                .await?
        };
        let session = session.ok_or(AgentError::NotFound)?;
        let mark = (admission.tenant().uid(), session.number);
        if !self.compacting().insert(mark) {
            let text = "it is being summed up already";
            return Err(AgentError::refused("session_busy", text));
        }
        let _mark = Compacting { agents: self, mark };
        deed(trail, admission, "session.compact", &session.id).await?;
        let done = summary::compact(&self.gateway, admission, &session, 0).await;
        self.ring(admission.tenant().uid());
        match done? {
            true => Ok(()),
            false => {
                let text = "there is nothing yet to sum up";
                Err(AgentError::refused("nothing_to_compact", text))
            }
        }
    }

    /// Takes a message in, and begins its run.
    ///
    /// # Errors
    /// What is wrong with it, or that too much waits.
    pub async fn send(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        wish: Wish,
    ) -> Result<Sent, AgentError> {
        let session = self.session(admission, &wish.session).await?;
        if !Eyes::talking(admission).see(&session.owner) {
            return Err(AgentError::NotFound);
        }
        if !session.agent.is_empty() {
            may_begin(trail, admission, &session.agent).await?;
        }
        let reserved = self.reserve(admission.tenant()).await?;
        deed(trail, admission, "session.send", &session.id).await?;
        let id = ids::fresh(self.kernel(), ids::RUN);
        let sent = send::send(admission, id, wish).await?;
        self.take_up(admission, &sent);
        drop(reserved);
        Ok(sent)
    }

    pub(crate) fn take_up(self: &Arc<Self>, admission: &Admission, sent: &Sent) {
        let uid = admission.tenant().uid();
        if sent.is_new {
            let place = Place {
                run: sent.number,
                session: sent.session,
            };
            self.queue().push(uid, place);
            self.pump();
        }
        self.ring(uid);
    }

    /// One run, with its calls of tools.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where its session is not the caller's to see.
    pub async fn run(&self, admission: &Admission, id: &str) -> Result<Run, AgentError> {
        let (id, eyes) = (id.to_owned(), Eyes::reading(admission));
        let found = admission
            .tenant()
            .read(move |tx| runs::find(tx, &id, &eyes))
            .await?;
        found.ok_or(AgentError::NotFound)
    }

    /// Runs that the caller may see, newest first, of one session where one is named, before a run where one is named.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where that session or run is not the caller's to see.
    pub async fn runs(
        &self,
        admission: &Admission,
        session: Option<String>,
        before: Option<String>,
        limit: usize,
    ) -> Result<Vec<Run>, AgentError> {
        let eyes = Eyes::reading(admission);
        let limit = limit.min(PAGE_MAX);
        let found = admission.tenant().read(move |tx| {
            let in_session = match &session {
                Some(id) => match sessions::find(tx, id, &eyes)? {
                    Some(session) => Some(session),
                    None => return Ok(None),
                },
                None => None,
            };
            let before = match &before {
                Some(id) => match runs::find(tx, id, &eyes)? {
                    Some(run) => Some(run.number),
                    None => return Ok(None),
                },
                None => None,
            };
            runs::list(tx, &eyes, in_session.as_ref(), before, limit).map(Some)
        });
        found.await?.ok_or(AgentError::NotFound)
    }

    /// Ends a run. What it has done stays done.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where it is not the caller's to see, a refusal where it has ended.
    pub async fn cancel(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<(), AgentError> {
        let run = self.run(admission, id).await?;
        let over = || AgentError::refused("run_ended", "the run has ended already");
        if run.ended_at.is_some() {
            return Err(over());
        }
        deed(trail, admission, "run.cancel", &run.id).await?;
        let (number, now) = (run.number, admission.tenant().now());
        let ended = admission
            .tenant()
            .write(move |tx| runs::end(tx, number, State::Cancelled, None, now))
            .await?;
        if !ended {
            return Err(over());
        }
        self.let_go(admission, &run);
        Ok(())
    }

    /// Cancels what is under way in a session. How many runs that were.
    ///
    /// # Errors
    /// As [`Agents::cancel`].
    pub async fn abort(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        id: &str,
    ) -> Result<u64, AgentError> {
        let found = self
            .runs(admission, Some(id.to_owned()), None, PAGE_MAX)
            .await?;
        let mut ended = 0;
        for run in found.iter().filter(|run| run.ended_at.is_none()) {
            match self.cancel(trail, admission, &run.id).await {
                Ok(()) => ended += 1,
                // It came to its end by itself.
                Err(AgentError::Refused {
                    code: "run_ended", ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }

    fn let_go(self: &Arc<Self>, admission: &Admission, run: &Run) {
        let uid = admission.tenant().uid();
        let working = self.working().get(&(uid, run.number)).cloned();
        match working {
            Some(stop) => stop.cancel(),
            None => {
                let place = Place {
                    run: run.number,
                    session: run.session_number,
                };
                self.queue().end(uid, place);
            }
        }
        self.pump();
        self.ring(uid);
    }

    /// Approves or denies a call of a tool that waits for it.
    ///
    /// # Errors
    /// [`AgentError::NotFound`] where it is not the caller's to decide or to see, a refusal where it does not wait.
    pub async fn decide(
        self: &Arc<Self>,
        trail: &Trail,
        admission: &Admission,
        run: &str,
        call: &str,
        approve: bool,
    ) -> Result<(), AgentError> {
        let run = approve::decide(trail, admission, run, call, approve).await?;
        let place = Place {
            run: run.number,
            session: run.session_number,
        };
        self.wake(admission.tenant().uid(), place);
        Ok(())
    }
}

/// A session that is being summed up; it no longer is when this is dropped.
struct Compacting<'a> {
    agents: &'a Agents,
    mark: (TenantUid, i64),
}

impl Drop for Compacting<'_> {
    fn drop(&mut self) {
        self.agents.compacting().remove(&self.mark);
    }
}

/// Records one deed on one thing.
pub(crate) async fn deed(
    trail: &Trail,
    admission: &Admission,
    action: &'static str,
    name: &str,
) -> Result<(), AgentError> {
    let deed = Deed {
        action,
        detail: [("name", name.to_owned())].into(),
        ..Deed::default()
    };
    Ok(trail.record(admission, deed).await?)
}

/// Whether the rules let the caller have an agent work for it: to them it is a tool of that name.
pub(crate) async fn may_begin(
    trail: &Trail,
    admission: &Admission,
    agent: &str,
) -> Result<(), AgentError> {
    let tool = format!("{PREFIX}{agent}");
    let act = Act::InvokeTool { tool: &tool };
    let allowed = crate::files::allowed(trail, admission, "invoke_tool", act).await;
    allowed.map(|_allowed| ())
}
