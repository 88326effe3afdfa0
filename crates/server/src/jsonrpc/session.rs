//! One client's messages: read, each call admitted by itself, answered.

use std::sync::{Arc, Mutex, PoisonError};

use base::limits::RPC_ANSWER_BYTES_MAX;
use gateway::door;
use gateway::refusal::Refusal;
use kernel::{Admission, Caller, KernelError, Purpose, Trail};
use llm::json::Cursor;
use rpc::jsonrpc::{self, Failure, Message, Read, Request, number};
use rpc::method::{self, Effect};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::desk::Key;
use super::follow::Subscription;
use super::rate::Rate;
use crate::dispatch::App;

/// Who speaks, and how often.
pub(super) struct Session {
    pub(super) app: Arc<App>,
    /// The credential as presented: verified anew for each call.
    pub(super) caller: Caller,
    /// Of the web page, where one asks.
    pub(super) origin: Option<String>,
    pub(super) meter: Meter,
    /// Of a socket. Taken for a moment, never around an await.
    pub(super) subscriptions: Option<Mutex<Vec<Subscription>>>,
}

/// What calls are counted against.
pub(super) enum Meter {
    Posts(Key),
    Socket(Mutex<Rate>),
}

/// What a message is answered with.
#[derive(Default)]
pub(super) struct Told {
    /// `None` where nobody waits for an answer.
    pub(super) text: Option<String>,
    /// Whether it shows what is shown once: it leaves even if the credential ended with it.
    pub(super) lasting: bool,
}

/// One call of an admitted caller: what a method works with.
pub(super) struct Turn {
    pub(super) session: Arc<Session>,
    pub(super) trail: Arc<Trail>,
    pub(super) admission: Admission,
}

/// The method that makes tickets.
const TICKETS: &str = "ticket.issue";

impl Session {
    /// Answers one message.
    pub(super) async fn answer(self: &Arc<Self>, trail: &Arc<Trail>, message: &[u8]) -> Told {
        // One strict look decides what the text is: no second reader sees another key, or another depth.
        let text = std::str::from_utf8(message).ok();
        let text = text.filter(|text| is_strict(text));
        match text
            .ok_or_else(Failure::parse_error)
            .and_then(Message::read)
        {
            Err(failure) => self.told(trail, Err((None, failure))).await,
            Ok(Message::One(read)) => self.told(trail, read).await,
            Ok(Message::Batch(parts)) => self.batch(trail, parts).await,
        }
    }

    async fn batch(self: &Arc<Self>, trail: &Arc<Trail>, parts: Vec<Read<'_>>) -> Told {
        let mut all = Told::default();
        let mut text = String::new();
        for part in parts {
            let part = match part {
                Ok(request) if text.len() > RPC_ANSWER_BYTES_MAX => Err((request.id, no_room())),
                part => part,
            };
            let told = self.told(trail, part).await;
            all.lasting |= told.lasting;
            if let Some(one) = told.text {
                text.push(if text.is_empty() { '[' } else { ',' });
                text.push_str(&one);
            }
        }
        if !text.is_empty() {
            text.push(']');
            all.text = Some(text);
        }
        all
    }

    async fn told(self: &Arc<Self>, trail: &Arc<Trail>, read: Read<'_>) -> Told {
        let request_id = trail.request_id().as_str();
        // Whatever a message is, it counts.
        let metered = self.meter();
        let request = match read {
            Ok(request) => request,
            Err((id, failure)) => {
                let failure = metered.err().unwrap_or(failure);
                return Told {
                    text: Some(jsonrpc::refusal(id, &failure, request_id)),
                    lasting: false,
                };
            }
        };
        let outcome = match metered {
            Ok(()) => self.call(trail, &request).await,
            Err(limited) => Err(limited),
        };
        let Some(id) = request.id else {
            return Told::default();
        };
        Told {
            lasting: outcome.is_ok() && method::find(&request.method).is_some_and(lasts),
            text: Some(match outcome {
                Ok(result) => jsonrpc::answer(id, &result),
                Err(failure) => jsonrpc::refusal(Some(id), &failure, request_id),
            }),
        }
    }

    async fn call(
        self: &Arc<Self>,
        trail: &Arc<Trail>,
        request: &Request<'_>,
    ) -> Result<Box<RawValue>, Failure> {
        let row = method::find(&request.method).ok_or_else(Failure::method_not_found)?;
        if row.effect == Effect::ShowsOnce && request.id.is_none() {
            return Err(Failure::invalid_request("this method is asked with an id"));
        }
        if self.is_a_pages_socket() && (row.effect == Effect::ShowsOnce || row.name == TICKETS) {
            let text = "a web page that came by a ticket gets no token and no further ticket";
            return Err(Failure::new(number::FORBIDDEN, "forbidden", text));
        }
        let purpose = match row.effect {
            Effect::Reads => Purpose::Read,
            Effect::Changes | Effect::ShowsOnce | Effect::Works => Purpose::Act,
        };
        let gateway = &self.app.gateway;
        let refused = |refusal: Refusal| {
            door::log_refusal(gateway, trail, &refusal);
            failure(&refusal)
        };
        let caller = self.caller.clone();
        let admission =
            door::admit_call(gateway, trail, caller, purpose, row.action, row.access).await;
        let admission = admission.map_err(refused)?;
        let turn = Arc::new(Turn {
            session: Arc::clone(self),
            trail: Arc::clone(trail),
            admission,
        });
        let outcome = match row.effect {
            Effect::Reads => Box::pin(method::dispatch(row, request.params, &*turn)).await,
            Effect::Changes | Effect::ShowsOnce | Effect::Works => {
                self.to_its_end(row, request.params, Arc::clone(&turn))
                    .await
            }
        };
        let admission = &turn.admission;
        if row.effect == Effect::Reads && admission.authority().is_over() {
            // What was read is no longer the caller's to see.
            return Err(refused(door::told_now(admission)));
        }
        if outcome
            .as_ref()
            .is_err_and(|failure| failure.number() == number::NOT_FOUND)
        {
            let recorded = door::denied(trail, admission, row.action, &Refusal::NotFound).await;
            recorded.map_err(refused)?;
        }
        outcome
    }

    /// Carries out a change in a task of its own: a client that hangs up does not leave it recorded and not made.
    async fn to_its_end(
        &self,
        row: &'static method::Row,
        params: Option<&RawValue>,
        turn: Arc<Turn>,
    ) -> Result<Box<RawValue>, Failure> {
        let params = params.map(|params| Zeroizing::new(params.get().to_owned()));
        let (done, outcome) = oneshot::channel();
        self.app.gateway.kernel().tasks().spawn(async move {
            let params = params
                .as_ref()
                .map(|text| serde_json::from_str::<&RawValue>(text));
            let outcome = match params.transpose() {
                Ok(params) => method::dispatch(row, params, &*turn).await,
                Err(_) => Err(Failure::internal()),
            };
            // Whoever asked may be gone; the change is made all the same.
            let _nobody_waits = done.send(outcome);
        });
        outcome
            .await
            .unwrap_or_else(|_panicked| Err(Failure::internal()))
    }

    /// A page that holds a ticket must not be able to turn it into what lives longer.
    fn is_a_pages_socket(&self) -> bool {
        self.origin.is_some() && self.subscriptions.is_some()
    }

    fn meter(&self) -> Result<(), Failure> {
        let taken = match &self.meter {
            Meter::Posts(token) => self.app.rpc.post(token),
            Meter::Socket(rate) => {
                let mut rate = rate.lock().unwrap_or_else(PoisonError::into_inner);
                rate.take(Instant::now())
            }
        };
        taken.map_err(Failure::rate_limited)
    }
}

fn lasts(row: &method::Row) -> bool {
    row.effect == Effect::ShowsOnce
}

fn is_strict(text: &str) -> bool {
    let mut cursor = Cursor::strict(text);
    cursor.skip().is_ok() && cursor.end().is_ok()
}

fn no_room() -> Failure {
    let text = "the answers before this one fill the batch; ask again by itself";
    Failure::new(number::REFUSED, "answer_too_large", text).limit(RPC_ANSWER_BYTES_MAX)
}

/// A refusal of the gateway, as a call is told it.
pub(super) fn failure(refusal: &Refusal) -> Failure {
    let number = match refusal {
        Refusal::NoCredential | Refusal::BadCredential => number::UNAUTHORIZED,
        Refusal::Forbidden { .. } => number::FORBIDDEN,
        Refusal::NotFound => return Failure::not_found(),
        Refusal::Internal => return Failure::internal(),
        _ => number::REFUSED,
    };
    let failure = Failure::new(number, refusal.code(), refusal.text().into_owned());
    match refusal.retry_after_s() {
        Some(seconds) => failure.retry_after(std::time::Duration::from_secs(seconds)),
        None => failure,
    }
}

/// An error below, as a call is told it.
pub(super) fn kernel_failure(error: KernelError) -> Failure {
    match error {
        KernelError::NotFound(_) => Failure::not_found(),
        // These say to the tenant's own admin what to do, and nothing of anybody else.
        KernelError::Refused(text) => Failure::new(number::REFUSED, "refused", text),
        error => failure(&Refusal::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use rpc::method::{Effect, METHODS};

    /// A change that no rule can forbid would be one that nobody thought of. Of work the rules decide each step.
    #[test]
    fn rules_can_speak_of_every_change() {
        let changes =
            |row: &&rpc::method::Row| !matches!(row.effect, Effect::Reads | Effect::Works);
        for row in METHODS.iter().filter(changes) {
            assert!(kernel::setting_of(row.action).is_some(), "{}", row.name);
        }
    }
}
