//! Turns of runs: begun, gone on with after an approval, and taken up again after a restart.

use std::sync::Arc;
use std::time::Duration;

use base::{TenantId, TenantUid};
use kernel::log::Field;
use kernel::{KernelError, Tenant};

use crate::agents::Agents;
use crate::error::AgentError;
use crate::queue::Place;
use crate::runs::{self, Run, State};

/// Runs of one tenant that are taken up at once: more than may be under way.
const OPEN_MAX: usize = 1_000;

/// A place for a run that is about to be stored; given back when this is dropped.
pub(crate) struct Reserved {
    agents: Arc<Agents>,
    uid: TenantUid,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.agents.queue().release(self.uid);
    }
}

/// A run at work. However that ends, it does not stay in the queue as if it still worked.
struct AtWork {
    agents: Arc<Agents>,
    uid: TenantUid,
    place: Place,
    waits: bool,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mark = (self.uid, self.place.run);
        self.agents.working().remove(&mark);
        match self.waits {
            true => self.agents.queue().park(self.uid, self.place),
            false => self.agents.queue().end(self.uid, self.place),
        }
        if std::thread::panicking() {
            self.agents.pump();
        }
    }
}

impl Agents {
    /// Keeps a place for a run, and notes in the registry that the tenant has some.
    pub(crate) async fn reserve(self: &Arc<Self>, tenant: &Tenant) -> Result<Reserved, AgentError> {
        let uid = tenant.uid();
        // The note is not taken back between the two.
        let note = self.noted(uid);
        let mut noted = note.lock().await;
        if !self.queue().reserve(uid) {
            let text =
                "as many runs of the tenant are under way as may; try again when some have ended";
            return Err(AgentError::refused("too_many_runs", text));
        }
        let reserved = Reserved {
            agents: Arc::clone(self),
            uid,
        };
        if !*noted {
            tenant.has_runs().await?;
            *noted = true;
        }
        Ok(reserved)
    }

    /// Begins runs whose turn it is.
    pub(crate) fn pump(self: &Arc<Self>) {
        let stopping = self.kernel().tasks().stopping();
        while !stopping.is_cancelled() {
            let next = self.queue().next();
            let Some((uid, place)) = next else { return };
            let mut at_work = AtWork {
                agents: Arc::clone(self),
                uid,
                place,
                waits: false,
            };
            self.kernel().tasks().spawn(async move {
                let agents = Arc::clone(&at_work.agents);
                at_work.waits = !agents.work(uid, place).await;
                drop(at_work);
                agents.ring(uid);
                agents.pump();
                agents.settle(uid).await;
                agents.pump();
            });
        }
    }

    /// A run that waited for an approval goes on.
    pub(crate) fn wake(self: &Arc<Self>, uid: TenantUid, place: Place) {
        self.queue().wake(uid, place);
        self.pump();
        self.ring(uid);
    }

    /// Where nothing of a tenant is under way any more: takes up what is stored all the same, or takes the registry's note back.
    async fn settle(self: &Arc<Self>, uid: TenantUid) {
        if self.queue().has(uid) {
            return;
        }
        let note = self.noted(uid);
        let mut noted = note.lock().await;
        let Some(tenant) = self.operators(uid).filter(|_| !self.queue().has(uid)) else {
            return;
        };
        let lost: Vec<i64> = {
            let mut lost = self.lost();
            let own = lost.extract_if(.., |(tenant, _)| *tenant == uid);
            own.map(|(_, run)| run).collect()
        };
        for run in lost {
            self.put_away(&tenant, run, "interrupted".to_owned()).await;
        }
        match tenant.read(|tx| runs::open(tx, OPEN_MAX)).await {
            Ok(open) if open.is_empty() => {
                // A note that stays opens a tenant for nothing, once; whether it stays may not be known.
                *noted = false;
                let _stays = tenant.has_no_runs().await;
            }
            Ok(open) => open.iter().for_each(|run| self.take_up_stored(uid, run)),
            // They stay noted for the next start.
            Err(error) => self.log(Some(tenant.id()), "runs were not looked for", &error),
        }
    }

    /// A tenant by the operator's authority; one that is being deleted is left alone.
    pub(crate) fn operators(&self, uid: TenantUid) -> Option<Tenant> {
        let tenant = self.kernel().tenant_of(&self.operator, uid);
        tenant.filter(|tenant| !tenant.is_being_deleted())
    }

    /// Takes up what an earlier process left under way. Call it once, when calls can be served.
    pub async fn resume(self: &Arc<Self>) {
        let tenants = match self.kernel().tenants_with_runs(&self.operator).await {
            Ok(tenants) => tenants,
            Err(error) => return self.log(None, "runs of before were not found", &error),
        };
        for tenant in tenants {
            let note = self.noted(tenant.uid());
            *note.lock().await = true;
            match tenant.read(|tx| runs::open(tx, OPEN_MAX)).await {
                Ok(open) => open
                    .iter()
                    .for_each(|run| self.take_up_stored(tenant.uid(), run)),
                Err(error) => {
                    self.log(
                        Some(tenant.id()),
                        "runs of before were not taken up",
                        &error,
                    );
                }
            }
            self.pump();
            self.settle(tenant.uid()).await;
        }
    }

    /// One that is under way in this process already is left.
    fn take_up_stored(&self, uid: TenantUid, run: &Run) {
        let place = Place {
            run: run.number,
            session: run.session_number,
        };
        if self.lost().contains(&(uid, run.number)) {
            return;
        }
        match run.state == State::Queued.as_str() {
            true => self.queue().push(uid, place),
            // Whatever it did last is stored: it goes on from there, before those that have not begun.
            false => self.queue().take_up(uid, place),
        }
    }

    /// Wakes a run when its approval is due. One that was decided and has gone on is left.
    pub(crate) fn wake_later(self: &Arc<Self>, uid: TenantUid, place: Place, wait: Duration) {
        let agents = Arc::clone(self);
        let stop = self.kernel().tasks().stopping();
        self.kernel().tasks().spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => agents.wake(uid, place),
                () = stop.cancelled() => {}
            }
        });
    }

    pub(crate) fn log(&self, tenant: Option<&TenantId>, event: &'static str, error: &KernelError) {
        let text = error.to_string();
        let fields = [("error", Field::Text(&text))];
        self.kernel()
            .log()
            .event(self.kernel().now(), tenant, event, &fields);
    }
}
