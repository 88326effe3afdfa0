//! Turns of runs: begun, gone on with after an approval, and taken up again after a restart.

use std::sync::Arc;
use std::time::Duration;

use base::{TenantId, TenantUid};
use kernel::log::Field;
use kernel::{KernelError, Tenant};

use crate::agents::Agents;
use crate::queue::Place;
use crate::runs::{self, Run, State};

/// Runs of one tenant that a start takes up: more than may wait.
const OPEN_MAX: usize = 1_000;

impl Agents {
    /// Begins runs whose turn it is.
    pub(crate) fn pump(self: &Arc<Self>) {
        loop {
            let next = self.queue().next();
            let Some((uid, place)) = next else { return };
            let agents = Arc::clone(self);
            self.kernel().tasks().spawn(async move {
                let ended = agents.work(uid, place).await;
                agents.queue().stop(uid, place, ended);
                agents.ring(uid);
                agents.note_if_none(uid).await;
                agents.pump();
            });
        }
    }

    /// A run that waited for an approval goes on.
    pub(crate) fn go_on(self: &Arc<Self>, uid: TenantUid, place: Place) {
        // One that works sees the decision itself.
        if !self.working().contains_key(&(uid, place.run)) {
            self.queue().go_on(uid, place);
        }
        self.pump();
        self.ring(uid);
    }

    async fn note_if_none(&self, uid: TenantUid) {
        if self.queue().has(uid) {
            return;
        }
        let found = self.kernel().tenant_of(&self.operator, uid);
        if let Some(tenant) = found {
            // A note that stays opens a tenant for nothing, once.
            let _stays = self.settle_note(&tenant).await;
        }
    }

    /// Takes the registry's note back where no run is open.
    async fn settle_note(&self, tenant: &Tenant) -> Result<(), KernelError> {
        let open = tenant.read(|tx| runs::open(tx, 1)).await?;
        if open.is_empty() && !self.queue().has(tenant.uid()) {
            tenant.has_no_runs().await?;
        }
        Ok(())
    }

    /// Takes up what an earlier process left under way. Call it once, when calls can be served.
    pub async fn resume(self: &Arc<Self>) {
        let tenants = match self.kernel().tenants_with_runs(&self.operator).await {
            Ok(tenants) => tenants,
            Err(error) => return self.log(None, "runs of before were not found", &error),
        };
        for tenant in tenants {
            match tenant.read(|tx| runs::open(tx, OPEN_MAX)).await {
                Ok(open) => {
                    for run in &open {
                        self.resume_one(&tenant, run);
                    }
                    let _stays = self.settle_note(&tenant).await;
                }
                Err(error) => self.log(
                    Some(tenant.id()),
                    "runs of before were not taken up",
                    &error,
                ),
            }
        }
    }

    fn resume_one(self: &Arc<Self>, tenant: &Tenant, run: &Run) {
        let place = Place {
            run: run.number,
            session: run.session_number,
        };
        if run.state == State::Queued.as_str() {
            // What does not fit waits stored, until the next start.
            let _no_room = self.queue().push(tenant.uid(), place);
        } else {
            // Whatever it did last is stored: it goes on from there, before those that have not begun.
            self.queue().go_on(tenant.uid(), place);
        }
    }

    /// Wakes a run when its approval is due.
    pub(crate) fn wake_later(self: &Arc<Self>, tenant: &Tenant, place: Place, wait: Duration) {
        let (agents, uid) = (Arc::clone(self), tenant.uid());
        let stop = self.kernel().tasks().stopping();
        self.kernel().tasks().spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => agents.go_on(uid, place),
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
