//! From an outbox to its receiver.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{TenantId, Timestamp, limits};
use bytes::Bytes;
use store::sql::params;
use store::{Place, StoreError};

use super::{OperatorReceiver, Post};
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::outbox::{self, Due, Next};
use crate::resident::{Resident, Status};
use crate::webhook::Signer;

/// An outbox that cannot be read is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Whose outbox it is.
#[derive(Clone)]
enum Owner {
    Tenant(Arc<Resident>),
    Operator,
}

impl Owner {
    fn post<'a>(&'a self, kernel: &'a Kernel) -> &'a Post {
        match self {
            Self::Tenant(resident) => &resident.alerts.post,
            Self::Operator => &kernel.alerts().post,
        }
    }

    fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Tenant(resident) => Some(&resident.id),
            Self::Operator => None,
        }
    }

    fn place(&self, kernel: &Kernel) -> Result<Arc<Place>, KernelError> {
        match self {
            Self::Tenant(resident) => kernel.place(resident),
            Self::Operator => Ok(Arc::clone(kernel.registry_place())),
        }
    }
}

/// How a delivery went.
enum Delivered {
    Taken,
    /// Not taken; the words are for the log.
    Not {
        why: String,
        wish: Option<u64>,
    },
    /// The receiver asks to be spared, or there is none any more.
    Never(&'static str),
}

impl Kernel {
    /// Starts the delivery of what is due: one message of each outbox at a time, each in a task of its own.
    pub fn deliver_alerts(&self) {
        let now = self.now().unix_ms();
        let due = |post: &Post| {
            post.due.load(Ordering::Relaxed) <= now && !post.busy.load(Ordering::Relaxed)
        };
        let desk = self.alerts();
        if due(&desk.post) && desk.operator.load().is_some() {
            self.start_delivery(Owner::Operator, None);
        }
        let all = self.directory().all();
        let first = desk.next.load(Ordering::Relaxed) % all.len().max(1);
        for (index, resident) in (0..).zip(&all).cycle().skip(first).take(all.len()) {
            if !due(&resident.alerts.post) || resident.quarantine.load().is_some() {
                continue;
            }
            let status = resident.account.load().status;
            // What waits for a suspended tenant leaves when it is resumed.
            if !matches!(status, Status::Active | Status::Frozen) {
                continue;
            }
            let Ok(slot) = Arc::clone(&desk.slots.0).try_acquire_owned() else {
                // First next time, so that those whose receivers hang do not keep the places among themselves.
                desk.next.store(index, Ordering::Relaxed);
                return;
            };
            self.start_delivery(Owner::Tenant(Arc::clone(resident)), Some(slot));
        }
    }

    fn start_delivery(&self, owner: Owner, slot: Option<tokio::sync::OwnedSemaphorePermit>) {
        owner.post(self).busy.store(true, Ordering::Relaxed);
        let (kernel, stopping) = (self.clone(), self.tasks().stopping());
        self.tasks().spawn(async move {
            let delivered = tokio::select! {
                delivered = kernel.deliver_one(&owner) => delivered,
                // Not recorded as tried: it is sent again after the start.
                () = stopping.cancelled() => Ok(()),
            };
            let post = owner.post(&kernel);
            if delivered.is_err() {
                let again = kernel.now().plus(LOOK_AGAIN);
                post.due.store(again.unix_ms(), Ordering::Relaxed);
            }
            post.busy.store(false, Ordering::Relaxed);
            drop(slot);
        });
    }

    async fn deliver_one(&self, owner: &Owner) -> Result<(), KernelError> {
        let (place, now) = (owner.place(self)?, self.now());
        let read = self
            .engine()
            .read(&place, move |tx| outbox::due(tx, now))
            .await;
        if let Some(due) = self.judged(owner, read)? {
            let delivered = self.attempt(owner, &due).await;
            let (attempts, now) = (due.attempts.saturating_add(1), self.now());
            let next = self.next(owner, attempts, now, delivered);
            let written = self
                .engine()
                .write(&place, move |tx| {
                    outbox::attempted(tx, &due.id, attempts, next)
                })
                .await;
            self.judged(owner, written)?;
        }
        self.set_due(owner, &place).await
    }

    /// Looks when the outbox is due next. Where nothing waits any more, the registry's note goes too.
    async fn set_due(&self, owner: &Owner, place: &Arc<Place>) -> Result<(), KernelError> {
        let post = owner.post(self);
        let mut waits = post.waits.lock().await;
        let read = self.engine().read(place, outbox::next_due).await;
        let next = self.judged(owner, read)?;
        post.due.store(next.unwrap_or(i64::MAX), Ordering::Relaxed);
        if let (Owner::Tenant(resident), None) = (owner, next) {
            let uid = resident.uid;
            self.registry_write(move |tx| {
                tx.execute(
                    "DELETE FROM outbox_waits WHERE uid = ?1",
                    params![uid.as_bytes()],
                )
            })
            .await?;
            *waits = false;
        }
        Ok(())
    }

    async fn attempt(&self, owner: &Owner, due: &Due) -> Delivered {
        match owner {
            Owner::Operator => match self.alerts().operator.load_full() {
                Some(receiver) => {
                    let OperatorReceiver { to, signer } = &*receiver;
                    self.post(to, signer, due).await
                }
                None => Delivered::Never("no receiver"),
            },
            Owner::Tenant(resident) => self.attempt_for(resident, due).await,
        }
    }

    async fn attempt_for(&self, resident: &Resident, due: &Due) -> Delivered {
        let settings = resident.settings.load_full();
        let Some(receiver) = &settings.alerts.receiver else {
            return Delivered::Never("no receiver");
        };
        let not = |why: String| Delivered::Not { why, wish: None };
        let secrets = resident.secrets.load_full();
        let Some(secret) = secrets.get(&*receiver.secret) else {
            return not(format!("there is no secret {}", receiver.secret));
        };
        let signer = match Signer::parse(secret) {
            Ok(signer) => signer,
            Err(error) => return not(format!("the secret {} is {error}", receiver.secret)),
        };
        match receiver.destination(&self.tiers().webhook_hosts) {
            Ok(to) => self.post(&to, &signer, due).await,
            Err(error) => not(error.to_string()),
        }
    }

    async fn post(&self, to: &crate::egress::Destination, signer: &Signer, due: &Due) -> Delivered {
        let body = Bytes::from(due.body.clone());
        let headers = signer.headers(&due.id, self.now(), &body);
        let posted = self
            .alerts()
            .egress
            .post(to, headers, body, limits::WEBHOOK_TOTAL)
            .await;
        match posted {
            Ok(posted) if (200..300).contains(&posted.status) => Delivered::Taken,
            Ok(posted) if posted.status == 410 => Delivered::Never("gone"),
            Ok(posted) => Delivered::Not {
                why: format!("{} answered {}", to.origin(), posted.status),
                wish: posted.retry_after_s,
            },
            Err(error) => Delivered::Not {
                why: format!("{}: {error}", to.origin()),
                wish: None,
            },
        }
    }

    fn next(&self, owner: &Owner, attempts: u32, now: Timestamp, delivered: Delivered) -> Next {
        let draw = u64::from_le_bytes(vault::random());
        let (why, next) = match delivered {
            Delivered::Taken => return Next::Ended("delivered"),
            Delivered::Never(why) => (why.to_owned(), Next::Ended(why)),
            Delivered::Not { why, wish } => match outbox::wait_after(attempts, wish, draw) {
                Some(wait) => (why, Next::At(now.plus(wait))),
                None => (why, Next::Ended("given up")),
            },
        };
        let event = match next {
            Next::At(_) => "alert not delivered",
            Next::Ended(_) => "alert given up",
        };
        let fields = [
            ("reason", Field::Text(&why)),
            ("attempts", Field::Number(attempts.into())),
        ];
        self.log().event(now, owner.tenant(), event, &fields);
        next
    }

    fn judged<T>(&self, owner: &Owner, result: Result<T, StoreError>) -> Result<T, KernelError> {
        match owner {
            Owner::Tenant(resident) => self.checked(resident, result),
            Owner::Operator => Ok(result?),
        }
    }
}
