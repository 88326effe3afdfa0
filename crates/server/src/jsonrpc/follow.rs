//! What a socket is sent unasked: entries of the log, and events of conversations.

use std::sync::{Mutex, PoisonError};

use agent::AgentError;
use base::limits::RPC_SUBSCRIPTIONS_MAX;
use kernel::report::AuditFilter;
use kernel::{Admission, KernelError};
use rpc::jsonrpc::{self, Failure, number};
use rpc::method::{AUDIT_EVENT, SESSION_EVENT};
use rpc::params::{AuditEvent, Subscribed};
use rpc::session::SessionEvent;
use serde_json::value::{RawValue, to_raw_value};
use tokio_tungstenite::tungstenite::Message;

use super::line::Line;
use super::session::Session;
use super::socket::Cut;
use super::{agents, handlers};
use crate::operate;

/// Entries or events that a subscription takes in one look.
const FOLLOW_PAGE: usize = 200;

/// What a subscription is of.
#[derive(Clone)]
pub(super) enum Followed {
    /// Entries of the audit log.
    Audit,
    /// Events of the session of that id.
    Session(String),
}

/// What a socket is sent unasked, from `next` on.
#[derive(Clone)]
pub(super) struct Subscription {
    pub(super) name: String,
    pub(super) what: Followed,
    pub(super) next: u64,
}

/// Begins a subscription of a socket.
pub(super) fn follow(
    subscriptions: &Mutex<Vec<Subscription>>,
    what: Followed,
    next: u64,
) -> Result<Subscribed, Failure> {
    let mut open = subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
    if open.len() >= RPC_SUBSCRIPTIONS_MAX {
        let text = "this socket has as many subscriptions as it may have";
        let failure = Failure::new(number::REFUSED, "too_many_subscriptions", text);
        return Err(failure.limit(RPC_SUBSCRIPTIONS_MAX));
    }
    let word = match what {
        Followed::Audit => "audit",
        Followed::Session(_) => "session",
    };
    // The lowest name that is free: one that has ended can come again.
    let names = (1..).map(|number: usize| format!("{word}-{number}"));
    let mut free = names.filter(|name| open.iter().all(|other| other.name != *name));
    let subscription = free.next().unwrap_or_default();
    open.push(Subscription {
        name: subscription.clone(),
        what,
        next,
    });
    Ok(Subscribed { subscription, next })
}

fn subscriptions(session: &Session) -> Vec<Subscription> {
    let open = session.subscriptions.as_ref();
    open.map(|open| open.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .unwrap_or_default()
}

pub(super) fn follows(session: &Session) -> bool {
    let open = session.subscriptions.as_ref();
    open.is_some_and(|open| {
        !open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    })
}

/// Sends what is new to each subscription.
pub(super) async fn pump(session: &Session, admission: &Admission, line: &Line) -> Result<(), Cut> {
    for subscription in subscriptions(session) {
        let Subscription { name, what, next } = &subscription;
        match what {
            Followed::Audit => pump_audit(session, admission, line, name, *next).await?,
            Followed::Session(id) => {
                pump_session(session, admission, line, name, id, *next).await?
            }
        }
    }
    Ok(())
}

async fn pump_audit(
    session: &Session,
    admission: &Admission,
    line: &Line,
    name: &str,
    next: u64,
) -> Result<(), Cut> {
    let tenant = admission.tenant();
    // Mostly nothing is new, and then nothing is read.
    if tenant.audit_count().map_err(cut_of)? <= next {
        return Ok(());
    }
    let filter = AuditFilter::default();
    let rows = match tenant.audit_search(next, FOLLOW_PAGE, filter).await {
        Ok((rows, _)) => rows,
        Err(KernelError::Busy) => return Ok(()),
        Err(error) => return Err(cut_of(error)),
    };
    for row in rows {
        let event = AuditEvent {
            subscription: name.to_owned(),
            seq: row.seq,
            entry: handlers::entry(row).map_err(|_| Cut::Unavailable)?,
        };
        let params = to_raw_value(&event).map_err(|_| Cut::Unavailable)?;
        tell(session, line, AUDIT_EVENT, &params, name, event.seq).await?;
    }
    Ok(())
}

async fn pump_session(
    session: &Session,
    admission: &Admission,
    line: &Line,
    name: &str,
    id: &str,
    next: u64,
) -> Result<(), Cut> {
    let after = i64::try_from(next.saturating_sub(1)).unwrap_or(i64::MAX);
    let agents = &session.app.agents;
    let events = match agents.events(admission, id, after, FOLLOW_PAGE).await {
        Ok((events, _)) => events,
        Err(AgentError::Kernel(KernelError::Busy)) => return Ok(()),
        Err(AgentError::Kernel(error)) => return Err(cut_of(error)),
        // It was deleted: nothing more comes of it.
        Err(_) => return Ok(()),
    };
    for event in events {
        let seq = agents::count(event.seq);
        let event = SessionEvent {
            subscription: name.to_owned(),
            seq,
            at: event.at,
            event: operate::raw(event.body).map_err(|_| Cut::Unavailable)?,
        };
        let params = to_raw_value(&event).map_err(|_| Cut::Unavailable)?;
        tell(session, line, SESSION_EVENT, &params, name, seq).await?;
    }
    Ok(())
}

async fn tell(
    session: &Session,
    line: &Line,
    method: &str,
    params: &RawValue,
    name: &str,
    seq: u64,
) -> Result<(), Cut> {
    let text = jsonrpc::notification(method, params);
    line.send(Message::text(text), false).await?;
    advance(session, name, seq.saturating_add(1));
    Ok(())
}

fn cut_of(error: KernelError) -> Cut {
    match error {
        KernelError::Revoked => Cut::Ended,
        _ => Cut::Unavailable,
    }
}

fn advance(session: &Session, name: &str, next: u64) {
    if let Some(open) = &session.subscriptions {
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(subscription) = open.iter_mut().find(|other| other.name == name) {
            subscription.next = next;
        }
    }
}
