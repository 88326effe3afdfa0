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
use tokio::time::Instant;

use super::desk::Key;
use super::rate::Rate;
use super::socket::Subscription;
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
pub(super) struct Turn<'a> {
    pub(super) session: &'a Session,
    pub(super) trail: &'a Trail,
    pub(super) admission: &'a Admission,
}

impl Session {
    /// Answers one message.
    pub(super) async fn answer(&self, trail: &Trail, message: &[u8]) -> Told {
        let whole = |failure: &Failure| Told {
            text: Some(jsonrpc::refusal(None, failure, trail.request_id().as_str())),
            lasting: false,
        };
        // One strict look decides what the text is: no second reader sees another key, or another depth.
        let text = std::str::from_utf8(message)
            .ok()
            .filter(|text| is_strict(text));
        let Some(text) = text else {
            return whole(&Failure::parse_error());
        };
        match Message::read(text) {
            Err(failure) => whole(&failure),
            Ok(Message::One(read)) => self.told(trail, read).await,
            Ok(Message::Batch(parts)) => self.batch(trail, parts).await,
        }
    }

    async fn batch(&self, trail: &Trail, parts: Vec<Read<'_>>) -> Told {
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

    async fn told(&self, trail: &Trail, read: Read<'_>) -> Told {
        let request_id = trail.request_id().as_str();
        let request = match read {
            Ok(request) => request,
            Err((id, failure)) => {
                return Told {
                    text: Some(jsonrpc::refusal(id, &failure, request_id)),
                    lasting: false,
                };
            }
        };
        let outcome = self.call(trail, &request).await;
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

    async fn call(&self, trail: &Trail, request: &Request<'_>) -> Result<Box<RawValue>, Failure> {
        self.meter(|rate| rate.take(Instant::now()))?;
        let row = method::find(&request.method).ok_or_else(Failure::method_not_found)?;
        if row.effect == Effect::ShowsOnce && request.id.is_none() {
            return Err(Failure::invalid_request("this method is asked with an id"));
        }
        let purpose = match row.effect {
            Effect::Reads => Purpose::Read,
            Effect::Changes | Effect::ShowsOnce => Purpose::Act,
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
        let turn = Turn {
            session: self,
            trail,
            admission: &admission,
        };
        let outcome = Box::pin(method::dispatch(row, request.params, &turn)).await;
        if row.effect == Effect::Reads && admission.authority().is_over() {
            // What was read is no longer the caller's to see.
            return Err(refused(door::told_now(&admission)));
        }
        if outcome
            .as_ref()
            .is_err_and(|failure| failure.number() == number::NOT_FOUND)
        {
            let recorded = door::denied(trail, &admission, row.action, &Refusal::NotFound).await;
            recorded.map_err(refused)?;
        }
        outcome
    }

    fn meter(
        &self,
        take: impl FnOnce(&mut Rate) -> Result<(), std::time::Duration>,
    ) -> Result<(), Failure> {
        let taken = match &self.meter {
            Meter::Posts(token) => self.app.rpc.post(token),
            Meter::Socket(rate) => take(&mut rate.lock().unwrap_or_else(PoisonError::into_inner)),
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
