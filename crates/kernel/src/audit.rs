//! The audit record: one canonical entry per decision and per state change, durable before anything is released.
//!
//! Entries are canonical JSON (RFC 8785): the fields of [`Entry`] stand in the order of their names, values are strings and
//! integers, so that plain compact text is canonical.

pub(crate) mod attempt;
pub mod content;
mod conversations;
pub mod level;
pub mod notes;
pub mod person;
pub(crate) mod rekey;
pub(crate) mod retention;
pub(crate) mod seen;
pub(crate) mod standing;
pub(crate) mod tree;
pub mod verify;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{OnceLock, PoisonError};

use base::{RequestId, TenantId, Timestamp, TraceId};
use store::{RecordHead, RecordKind, Seq};
use vault::Aad;
use vault::tlog::ENTRY_MAX;

use crate::audit::standing::{Limits, QuotaRefusal};
use crate::error::KernelError;
use crate::journal_record;
use crate::json_text::Object;
use crate::open::Kernel;
use crate::resident::{Books, Pending, Resident, TokenEntry};
use crate::tenant::admit::Admission;

/// Refusals of one token in one second that get an entry each; the rest of that second is counted.
const REFUSALS_PER_SECOND: u32 = 10;

/// Bytes of a detail that stands whole in an entry that would be too long otherwise.
const DETAIL_WHOLE: usize = 256;

/// One audit entry. Field order is name order: it is the canonical form.
#[derive(Default, Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) action: &'a str,
    pub(crate) actor: Option<&'a str>,
    pub(crate) answer_delivered: Option<&'a str>,
    pub(crate) answer_received: Option<&'a str>,
    pub(crate) attempt: Option<u32>,
    /// Facts of a call above the lowest level: canonical JSON.
    pub(crate) call: Option<&'a str>,
    pub(crate) config: Option<&'a str>,
    /// What of a call is kept: canonical JSON.
    pub(crate) content: Option<&'a str>,
    pub(crate) cost_usd: Option<String>,
    pub(crate) count: Option<u32>,
    pub(crate) decision: &'a str,
    pub(crate) detail: BTreeMap<&'static str, String>,
    pub(crate) model: Option<&'a str>,
    pub(crate) outcome: Option<&'a str>,
    pub(crate) person: Option<&'a str>,
    pub(crate) policy_version: Option<&'a str>,
    pub(crate) provider: Option<&'a str>,
    pub(crate) provider_model: Option<&'a str>,
    pub(crate) quotas: Limits<'a>,
    pub(crate) ratecard_version: Option<&'a str>,
    pub(crate) reason: Option<&'a str>,
    pub(crate) region: Option<&'a str>,
    pub(crate) request_id: Option<&'a str>,
    pub(crate) request_received: Option<&'a str>,
    pub(crate) request_sent: Option<&'a str>,
    pub(crate) role: Option<&'a str>,
    pub(crate) rule: Option<&'a str>,
    pub(crate) seq: u64,
    pub(crate) tenant: &'a str,
    pub(crate) time: String,
    pub(crate) token: Option<&'a str>,
    pub(crate) tokens_in: Option<u64>,
    pub(crate) tokens_out: Option<u64>,
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) usage_source: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// What an entry says of who was admitted, and under what: the rest is the act's.
    pub(crate) fn of(admission: &'a Admission) -> Self {
        let (token, settings) = (admission.entry(), admission.settings());
        Self {
            config: Some(&settings.config_hash),
            person: admission.person(),
            policy_version: Some(settings.policy_version()),
            role: Some(token.role.as_str()),
            tenant: token.resident.id.as_str(),
            token: Some(token.name.as_str()),
            ..Self::default()
        }
    }
}

impl Entry<'_> {
    /// The entry as it is hashed, at most [`ENTRY_MAX`] bytes: a detail too long to stand in it is named by its digest.
    pub(crate) fn canonical(mut self) -> String {
        let text = self.written();
        if text.len() <= ENTRY_MAX {
            return text;
        }
        for value in self.detail.values_mut() {
            if value.len() > DETAIL_WHOLE {
                *value = format!(
                    "sha256:{}",
                    vault::digest::hex(&vault::sha256(value.as_bytes()))
                );
            }
        }
        self.written()
    }

    /// What the action was on: its kind, and its name where it has one.
    fn resource(&self) -> Option<(&str, &str)> {
        if self.action == "call_model" {
            return self.model.map(|model| ("model", model));
        }
        let name = self.detail.get("name").map_or("", String::as_str);
        match self.action.split_once('.') {
            Some(("operator", _)) => self.detail.get("read").map(|what| (what.as_str(), "")),
            Some((kind, _)) => Some((kind, name)),
            None => self.action.strip_prefix("read_").map(|what| (what, "")),
        }
    }

    fn written(&self) -> String {
        let mut out = Vec::with_capacity(1_280);
        let mut object = Object::begin(&mut out);
        object.text("action", self.action);
        texts(&mut object, "actor", self.actor);
        texts(&mut object, "answer_delivered", self.answer_delivered);
        texts(&mut object, "answer_received", self.answer_received);
        numbers(&mut object, "attempt", self.attempt.map(u64::from));
        raw(&mut object, "call", self.call);
        texts(&mut object, "config", self.config);
        raw(&mut object, "content", self.content);
        texts(&mut object, "cost_usd", self.cost_usd.as_deref());
        numbers(&mut object, "count", self.count.map(u64::from));
        object.text("decision", self.decision);
        if !self.detail.is_empty() {
            object.member("detail", |out| details(out, &self.detail));
        }
        texts(&mut object, "model", self.model);
        texts(&mut object, "outcome", self.outcome);
        texts(&mut object, "person", self.person);
        texts(&mut object, "policy_version", self.policy_version);
        texts(&mut object, "provider", self.provider);
        texts(&mut object, "provider_model", self.provider_model);
        standing::write(&mut object, &self.quotas);
        texts(&mut object, "ratecard_version", self.ratecard_version);
        texts(&mut object, "reason", self.reason);
        texts(&mut object, "region", self.region);
        texts(&mut object, "request_id", self.request_id);
        texts(&mut object, "request_received", self.request_received);
        texts(&mut object, "request_sent", self.request_sent);
        if let Some((kind, name)) = self.resource() {
            object.path("resource", kind, name);
        }
        texts(&mut object, "role", self.role);
        texts(&mut object, "rule", self.rule);
        object.number("seq", self.seq);
        object.text("tenant", self.tenant);
        object.text("time", &self.time);
        texts(&mut object, "token", self.token);
        numbers(&mut object, "tokens_in", self.tokens_in);
        numbers(&mut object, "tokens_out", self.tokens_out);
        texts(&mut object, "trace_id", self.trace_id);
        texts(&mut object, "usage_source", self.usage_source);
        object.end();
        // Only texts went in.
        String::from_utf8(out).unwrap_or_default()
    }
}

fn texts(object: &mut Object<'_>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        object.text(name, value);
    }
}

fn raw(object: &mut Object<'_>, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        object.member(name, |out| out.extend_from_slice(value.as_bytes()));
    }
}

fn numbers(object: &mut Object<'_>, name: &str, value: Option<u64>) {
    if let Some(value) = value {
        object.number(name, value);
    }
}

fn details(out: &mut Vec<u8>, detail: &BTreeMap<&'static str, String>) {
    let mut object = Object::begin(out);
    for (name, value) in detail {
        object.text(name, value);
    }
    object.end();
}

/// The record of one inbound request, opened before anything is known about it.
///
/// Stages write to it; none reads from it what another stage should have handed over.
pub struct Trail {
    kernel: Kernel,
    request: RequestId,
    draw: u64,
    opened: Timestamp,
    tenant: OnceLock<TenantId>,
    model: OnceLock<Box<str>>,
    trace: Option<TraceId>,
}

/// Why an admitted caller was refused: what the audit entry keeps of it.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// What was asked: `call_model`, `read_usage`, …
    pub action: &'a str,
    /// A stable code: `model_not_found`, `quota_exceeded`, …
    pub reason: &'a str,
    /// The rule that decided.
    pub rule: &'a str,
    /// The limit that decided, where one did.
    pub quota: Option<QuotaRefusal<'a>>,
}

impl Kernel {
    /// Opens the audit record of a request, of the trace that its caller names. No trail, no service.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`] when nothing can be recorded any more.
    pub fn open_trail(&self, trace: Option<TraceId>) -> Result<Trail, KernelError> {
        if self.journal().poisoned() {
            return Err(KernelError::JournalDown);
        }
        let random = self.ground().draw();
        let (draw, _) = random.split_at(8);
        Ok(Trail {
            kernel: self.clone(),
            request: RequestId::from_random(random),
            draw: draw.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
            opened: self.now(),
            tenant: OnceLock::new(),
            model: OnceLock::new(),
            trace,
        })
    }

    /// An id for an answer that has no trail.
    #[must_use]
    pub fn new_request_id(&self) -> RequestId {
        RequestId::from_random(self.ground().draw())
    }
}

impl Trail {
    /// The request's id.
    #[must_use]
    pub fn request_id(&self) -> &RequestId {
        &self.request
    }

    /// The trace that the request belongs to, where its caller names one.
    #[must_use]
    pub fn trace(&self) -> Option<TraceId> {
        self.trace
    }

    /// When the request came in.
    #[must_use]
    pub fn opened(&self) -> Timestamp {
        self.opened
    }

    /// 64 random bits of this request.
    #[must_use]
    pub fn draw(&self) -> u64 {
        self.draw
    }

    /// Names the tenant that the request was admitted to.
    pub fn bind(&self, admission: &Admission) {
        self.tenant.get_or_init(|| admission.tenant().id().clone());
    }

    /// The tenant, once admitted: for the log line.
    #[must_use]
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.get()
    }

    /// Names the model asked for.
    pub fn asked(&self, model: &str) {
        self.model
            .get_or_init(|| model.chars().take(256).collect::<String>().into());
    }

    /// Records the refusal of an admitted caller; returns when it is durable.
    ///
    /// Past ten refusals of a token in one second the rest of that second becomes one counting entry.
    ///
    /// # Errors
    /// When the journal cannot be written: the refusal must not leave either.
    pub async fn refuse(
        &self,
        admission: &Admission,
        refusal: Refusal<'_>,
    ) -> Result<(), KernelError> {
        let token = admission.entry();
        let now = self.kernel.now();
        let (own_entry, counted) = storm(token, now);
        if counted > 0 {
            self.kernel.record_storm(token, counted)?;
        }
        if !own_entry {
            return Ok(());
        }
        let seq = self.kernel.record_event(&token.resident, |seq| Entry {
            action: refusal.action,
            decision: "deny",
            model: self.model.get().map(AsRef::as_ref),
            quotas: refusal.quota.map_or(Limits::None, Limits::Refused),
            reason: Some(refusal.reason),
            request_id: Some(self.request.as_str()),
            rule: Some(refusal.rule),
            seq,
            time: now.to_string(),
            trace_id: self.trace.as_ref().map(TraceId::as_str),
            ..Entry::of(admission)
        })?;
        self.kernel.durable(seq).await
    }
}

/// Something done, or about to be, in a tenant: what the audit entry says of it.
#[derive(Clone, Debug, Default)]
pub struct Deed<'a> {
    /// What: `invoke_tool`, `run.cancel`, …
    pub action: &'a str,
    /// The rules that allowed it.
    pub rule: Option<&'a str>,
    /// How it ended, of what is over.
    pub outcome: Option<&'a str>,
    /// Facts that stand for themselves. No text of a person: that is content.
    pub detail: BTreeMap<&'static str, String>,
}

impl Trail {
    /// Records what an admitted caller does; returns when it is durable.
    ///
    /// # Errors
    /// When the journal cannot be written: then it must not be done.
    pub async fn record(&self, admission: &Admission, deed: Deed<'_>) -> Result<(), KernelError> {
        let token = admission.entry();
        let time = self.kernel.now().to_string();
        let seq = self.kernel.record_event(&token.resident, |seq| Entry {
            action: deed.action,
            decision: "allow",
            detail: deed.detail,
            outcome: deed.outcome,
            request_id: Some(self.request.as_str()),
            rule: deed.rule,
            seq,
            time,
            trace_id: self.trace.as_ref().map(TraceId::as_str),
            ..Entry::of(admission)
        })?;
        self.kernel.durable(seq).await
    }
}

/// Whether this refusal gets its own entry, and how many of an earlier second are to be recorded as counted.
fn storm(token: &TokenEntry, now: Timestamp) -> (bool, u32) {
    let mut storm = token
        .refusals
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let second = now.unix_seconds();
    let mut counted = 0;
    if storm.second != second {
        counted = std::mem::take(&mut storm.uncounted);
        storm.second = second;
        storm.seen = 0;
    }
    storm.seen = storm.seen.saturating_add(1);
    let own_entry = storm.seen <= REFUSALS_PER_SECOND;
    if !own_entry {
        storm.uncounted = storm.uncounted.saturating_add(1);
    }
    (own_entry, counted)
}

impl Kernel {
    /// Appends the audit entry of a state change or refusal; not yet durable.
    pub(crate) fn record_event<'a>(
        &self,
        resident: &Resident,
        entry: impl FnOnce(u64) -> Entry<'a>,
    ) -> Result<Seq, KernelError> {
        let keys = self.keys(resident)?;
        let now = self.now();
        let head = RecordHead {
            kind: RecordKind::Event,
            uid: resident.uid,
            reference: None,
        };
        self.journal()
            .append(head, |seq, out| {
                let mut books = resident.books();
                let audit_seq = books.audit_next;
                books.audit_next += 1;
                let entry = entry(audit_seq).canonical();
                journal_record::write_event(audit_seq, &entry, out);
                keys.journal.seal_into(&record_aad(resident, seq), out);
                let (sent, row) = (None, None);
                self.await_fold(
                    resident,
                    &mut books,
                    now,
                    Pending {
                        seq,
                        sent,
                        row,
                        audit_seq,
                        entry,
                        content: None,
                    },
                );
            })
            .map_err(|_| KernelError::JournalDown)
            .inspect(|seq| self.release_if_dead(resident, &[*seq]))
    }

    /// Puts a record of the journal where its fold finds it. A deleted tenant has no database to fold into.
    pub(crate) fn await_fold(
        &self,
        resident: &Resident,
        books: &mut Books,
        now: Timestamp,
        record: Pending,
    ) {
        if !resident.is_dead() {
            books.oldest.get_or_insert(now);
            self.content_comes(books, record.content_bytes());
            books.pending.push_back(record);
            self.pending().fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records of a deleted tenant hold no segment of the journal.
    pub(crate) fn release_if_dead(&self, resident: &Resident, seqs: &[Seq]) {
        if resident.is_dead() {
            self.journal().folded(seqs);
        }
    }

    pub(crate) async fn durable(&self, seq: Seq) -> Result<(), KernelError> {
        self.journal()
            .synced(seq)
            .await
            .map_err(|_| KernelError::JournalDown)
    }

    pub(crate) fn record_storm(&self, token: &TokenEntry, counted: u32) -> Result<(), KernelError> {
        let time = self.now().to_string();
        self.record_event(&token.resident, |seq| Entry {
            action: "refusals",
            count: Some(counted),
            decision: "deny",
            reason: Some("more refusals in one second than are recorded singly"),
            seq,
            tenant: token.resident.id.as_str(),
            time,
            token: Some(token.name.as_str()),
            ..Entry::default()
        })
        .map(|_seq| ())
    }
}

/// Binds a record to its tenant and its place in the journal.
pub(crate) fn record_aad(resident: &Resident, seq: Seq) -> Aad {
    Aad::new("partywall journal record v1")
        .uid(&resident.uid)
        .number(seq.number())
}

#[cfg(test)]
mod kept;
#[cfg(test)]
mod steps;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_too_long_names_long_details_by_their_digest() {
        let of = |length: usize| {
            Entry {
                action: "quota.set",
                detail: [("long", "x".repeat(length)), ("short", "y".to_owned())].into(),
                ..Entry::default()
            }
            .canonical()
        };
        assert!(of(60_000).contains(&"x".repeat(60_000)));
        let entry = of(70_000);
        assert!(
            entry.len() < 1_000 && entry.contains("\"long\":\"sha256:"),
            "{entry}"
        );
        assert!(entry.contains("\"short\":\"y\""));
    }

    #[test]
    fn entries_are_canonical_json() {
        let entry = Entry {
            action: "call_model",
            answer_received: Some("ä\u{7}\"\\\n€"),
            attempt: Some(1),
            call: Some(r#"{"streamed":true}"#),
            config: Some("c"),
            content: Some("[]"),
            cost_usd: Some("0.1".into()),
            count: Some(3),
            detail: [("b", "2".to_owned()), ("a", "1".to_owned())].into(),
            decision: "allow",
            seq: 7,
            tenant: "acme",
            time: "2026-01-01T00:00:00.000Z".into(),
            tokens_in: Some(1),
            usage_source: Some("provider"),
            role: Some("app"),
            rule: Some("r"),
            ..Entry::default()
        };
        let text = entry.canonical();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json_canonicalizer::to_string(&value).unwrap(), text);
    }
}
