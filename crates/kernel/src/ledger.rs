//! Attempts: reserved, recorded as sent, settled exactly once.
//!
//! An [`OpenAttempt`] cannot be lost: settling consumes it, and dropping it records `unknown`, charged at its hold. Neither appending
//! to the journal nor giving the record to the operating system needs a task: `Drop` does both in place.

use std::sync::Arc;

use base::{Money, RequestId, Timestamp, TraceId, Usage, UsageSource};
use store::{RecordHead, RecordKind, Seq};

use crate::audit::notes::Notes;
use crate::audit::standing;
use crate::audit::{Entry, attempt, content, record_aad};
use crate::error::KernelError;
use crate::journal_record::{self, Row, Sent, UsageWire, pico_i64};
use crate::log::Field;
use crate::open::Kernel;
use crate::quota::{Demand, Reservation, Standing};
use crate::resident::{Pending, Resident};
use crate::share::Share;
use crate::tenant::admit::Admission;

/// An amount set aside for one attempt. Dropping it gives it back.
#[must_use = "dropping a reserved amount gives it back"]
pub struct Reserved {
    kernel: Kernel,
    resident: Arc<Resident>,
    reservation: Option<Reservation>,
}

impl Reserved {
    pub(crate) fn new(kernel: Kernel, resident: Arc<Resident>, reservation: Reservation) -> Self {
        Self {
            kernel,
            resident,
            reservation: Some(reservation),
        }
    }

    /// What is set aside.
    #[must_use]
    pub fn demand(&self) -> Demand {
        self.reservation
            .map(|held| held.demand())
            .unwrap_or_default()
    }

    /// Gives back what is above `to`.
    pub fn shrink_to(&mut self, to: Demand) {
        if let Some(reservation) = &mut self.reservation {
            self.resident.books().counters.shrink(reservation, to);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.resident.books().counters.release(reservation);
        }
    }
}

/// What identifies an attempt and what is known when it is sent.
#[derive(Clone, Debug)]
pub struct AttemptFacts {
    /// The inbound request.
    pub request: RequestId,
    /// Number of the attempt within its call, from 1.
    pub attempt: u32,
    /// Whether its row counts as the call's one request: so does the first attempt that leaves.
    pub counts_call: bool,
    /// The model asked for.
    pub model: String,
    /// The provider chosen.
    pub provider: String,
    /// The provider's name of the model.
    pub provider_model: String,
    /// Version of the rate card that prices it.
    pub ratecard_version: Arc<str>,
    /// The rules that allowed it, as `origin.id` joined by blanks.
    pub rule: Arc<str>,
    /// Where the provider processes data, as far as the operator has said it.
    pub region: Option<String>,
    /// The trace that the caller names.
    pub trace: Option<TraceId>,
    /// Where the caller's limits stood when the call was let in.
    pub standing: Standing,
    /// SHA-256 of the request as the client sent it.
    pub request_received: [u8; 32],
    /// SHA-256 of the request as it goes to the provider.
    pub request_sent: [u8; 32],
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The provider finished and said what was used.
    Finished,
    /// The provider answered with an error and no usage: cost 0.
    Failed,
    /// The client went away; what was produced is charged.
    Abandoned,
    /// The provider's answer broke off or was malformed; what was produced is charged.
    Broken,
    /// Nothing is known: charged at its hold.
    Unknown,
    /// No byte left for the provider: an audit entry, no row.
    NotSent,
}

impl Outcome {
    /// The name on reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Broken => "broken",
            Self::Unknown => "unknown",
            Self::NotSent => "not_sent",
        }
    }
}

/// What an attempt counts against quotas, where that is not what it is billed at.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Charge {
    /// Its cost and its tokens; its hold where the cost is unknown.
    #[default]
    AsBilled,
    /// The most that the provider can bill for it, and never more than its hold. The requests of the bound are not looked at.
    AtMost(Demand),
    /// Its hold.
    Hold,
}

/// The end of an attempt.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// How it ended.
    pub outcome: Outcome,
    /// What was used; `None` when it cannot be known.
    pub usage: Option<Usage>,
    /// Where `usage` comes from.
    pub usage_source: UsageSource,
    /// The price of `usage`; `None` when it cannot be known: then the hold is charged.
    pub cost: Option<Money>,
    /// What counts against quotas.
    pub charge: Charge,
    /// SHA-256 of the answer as the provider gave it, where one came.
    pub answer_received: Option<[u8; 32]>,
    /// SHA-256 of the answer as the client gets it, where one leaves.
    pub answer_delivered: Option<[u8; 32]>,
}

impl Settlement {
    /// An attempt of which nothing is known.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            outcome: Outcome::Unknown,
            usage: None,
            usage_source: UsageSource::Unknown,
            cost: None,
            charge: Charge::AsBilled,
            answer_received: None,
            answer_delivered: None,
        }
    }

    /// An error answer without usage.
    #[must_use]
    pub fn failed() -> Self {
        Self {
            outcome: Outcome::Failed,
            usage: Some(Usage::default()),
            usage_source: UsageSource::Provider,
            cost: Some(Money::ZERO),
            ..Self::unknown()
        }
    }
}

/// An attempt whose record is not yet with the operating system. Dropped, it is recorded as not sent.
#[must_use = "an attempt that is not written must not be sent"]
pub struct UnwrittenAttempt(pub(crate) OpenAttempt);

/// An attempt that was recorded as sent and is not settled yet.
#[must_use = "an attempt that is dropped is recorded as unknown and charged at its hold"]
pub struct OpenAttempt {
    kernel: Kernel,
    resident: Arc<Resident>,
    reservation: Option<Reservation>,
    seq: Seq,
    sent: Box<Sent>,
    written: bool,
    /// What its entry says above the lowest logging level.
    pub(crate) notes: Option<Box<Notes>>,
}

/// A settlement on its way to the disk.
#[must_use = "nothing may be released before the settlement is durable"]
pub struct Settling {
    kernel: Kernel,
    seq: Seq,
}

impl Settling {
    /// Returns when the settlement and its audit entry are signed and on disk.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`]: the end of the answer must not leave.
    pub async fn durable(self) -> Result<(), KernelError> {
        self.kernel.durable(self.seq).await
    }

    /// Gives the settlement to the operating system, where nobody waits until it is durable: it survives a kill of the process, and
    /// a power cut from the next group on.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`]: the next start records `unknown`.
    pub fn written(self) -> Result<(), KernelError> {
        self.kernel
            .journal()
            .write_out(self.seq)
            .map_err(|_| KernelError::JournalDown)
    }
}

/// A call's place among the tenant's requests. Dropping it ends the call for the limit of concurrent requests; the request stays
/// counted: over a restart where an attempt of it left, in this process where none did.
#[must_use = "dropping it ends the call"]
pub struct CallSlot {
    resident: Arc<Resident>,
    reservation: Reservation,
}

impl CallSlot {
    pub(crate) fn new(resident: Arc<Resident>, reservation: Reservation) -> Self {
        Self {
            resident,
            reservation,
        }
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let counted = Demand {
            requests: 1,
            ..Demand::default()
        };
        self.resident
            .books()
            .counters
            .settle(self.reservation, counted);
    }
}

impl Reserved {
    /// Records the attempt as about to be sent.
    ///
    /// # Errors
    /// When the authority has ended or is for reading only; [`KernelError::JournalDown`]. The attempt must not be sent.
    pub fn open_attempt(
        mut self,
        admission: &Admission,
        facts: AttemptFacts,
    ) -> Result<UnwrittenAttempt, KernelError> {
        // The authority may have ended since admission: nothing is sent on a credential that no longer holds.
        admission.tenant().acts()?;
        let resident = Arc::clone(&self.resident);
        let kernel = self.kernel.clone();
        let keys = kernel.keys(&resident)?;
        let settings = admission.settings();
        let demand = self.demand();
        let commit = |digest: &[u8; 32]| {
            vault::digest::hex(&vault::hmac_sha256(&keys.commitment, &[digest]))
        };
        let sent = Box::new(Sent {
            request_id: facts.request.as_str().to_owned(),
            attempt: facts.attempt,
            person: admission.person().map(str::to_owned),
            token: admission.token_name().as_str().to_owned(),
            role: admission.role().as_str().to_owned(),
            model: facts.model,
            provider: facts.provider,
            provider_model: facts.provider_model,
            hold_pico: pico_i64(demand.cost),
            hold_tokens: demand.tokens,
            requests: u64::from(facts.counts_call),
            ratecard_version: facts.ratecard_version.to_string(),
            // A call may have waited since, over the end of a day: what counts it after a restart is what counted it before.
            started_ms: self
                .reservation
                .map_or_else(|| kernel.now(), |held| held.at())
                .unix_ms(),
            request_received: commit(&facts.request_received),
            request_sent: commit(&facts.request_sent),
            config: settings.config_hash.to_string(),
            policy_version: settings.policy_version().to_string(),
            rule: facts.rule,
            region: facts.region,
            trace_id: facts.trace.map(|trace| trace.as_str().to_owned()),
            limits: standing::seen(&facts.standing),
        });
        let head = RecordHead {
            kind: RecordKind::Sent,
            uid: resident.uid,
            reference: None,
        };
        let seq = kernel
            .journal()
            .append(head, |seq, out| {
                journal_record::write_sent(&sent, out);
                keys.journal.seal_into(&record_aad(&resident, seq), out);
            })
            .map_err(|_| KernelError::JournalDown)?;
        // From here on the attempt owns the reservation.
        let reservation = self.reservation.take();
        Ok(UnwrittenAttempt(OpenAttempt {
            kernel,
            resident,
            reservation,
            seq,
            sent,
            written: false,
            notes: None,
        }))
    }
}

impl UnwrittenAttempt {
    /// Returns when the record is in the operating system's hands: it survives a kill of the process, and a power cut from the next
    /// group on. Calls that are ready at the same moment share one write.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`]: the attempt must not be sent.
    pub async fn written(mut self) -> Result<OpenAttempt, KernelError> {
        tokio::task::yield_now().await;
        self.0
            .kernel
            .journal()
            .write_out(self.0.seq)
            .map_err(|_| KernelError::JournalDown)?;
        self.0.written = true;
        Ok(self.0)
    }
}

impl OpenAttempt {
    /// What its tenant holds of what the process has for all.
    #[must_use]
    pub fn share(&self) -> &Arc<Share> {
        &self.resident.share
    }

    pub(crate) fn ms_since_sent(&self) -> u64 {
        let ms = self.kernel.now().unix_ms() - self.sent.started_ms;
        u64::try_from(ms).unwrap_or_default()
    }

    /// What was set aside for this attempt.
    #[must_use]
    pub fn hold(&self) -> Money {
        Money::from_pico(i128::from(self.sent.hold_pico))
    }

    /// Records the end. The answer's last byte may leave when the returned value is durable.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`]: nothing may be released.
    pub fn settle(mut self, settlement: &Settlement) -> Result<Settling, KernelError> {
        let seq = self.record(settlement)?;
        Ok(Settling {
            kernel: self.kernel.clone(),
            seq,
        })
    }

    /// Records that nothing left for the provider: no row, no charge, an audit entry.
    ///
    /// # Errors
    /// As [`OpenAttempt::settle`].
    pub fn not_sent(mut self) -> Result<Settling, KernelError> {
        let seq = self.record_not_sent()?;
        Ok(Settling {
            kernel: self.kernel.clone(),
            seq,
        })
    }

    fn record_not_sent(&mut self) -> Result<Seq, KernelError> {
        if let Some(reservation) = self.reservation.take() {
            self.resident.books().counters.release(reservation);
        }
        let settlement = Settlement {
            outcome: Outcome::NotSent,
            ..Settlement::unknown()
        };
        let at = self.kernel.now();
        append_settled(
            &self.kernel,
            &self.resident,
            self.seq,
            &self.sent,
            Ended {
                row: None,
                at,
                notes: self.notes.take(),
            },
            &settlement,
        )
    }

    fn record(&mut self, settlement: &Settlement) -> Result<Seq, KernelError> {
        // Taken first: whatever happens below, `Drop` does not record a second time.
        let reservation = self.reservation.take();
        let row = self.row(settlement);
        if let Some(reservation) = reservation {
            let charged = Demand {
                requests: row.requests,
                tokens: row.charged_tokens,
                cost: Money::from_pico(i128::from(row.charged_pico)),
            };
            self.resident.books().counters.settle(reservation, charged);
        }
        let ended = Ended {
            at: Timestamp::from_unix_ms(row.finished_ms),
            row: Some(row),
            notes: self.notes.take(),
        };
        let seq = append_settled(
            &self.kernel,
            &self.resident,
            self.seq,
            &self.sent,
            ended,
            settlement,
        )?;
        self.log(settlement);
        self.kernel.fold_if_due(&self.resident);
        Ok(seq)
    }

    fn log(&self, settlement: &Settlement) {
        let now = self.kernel.now();
        let usage = settlement.usage.unwrap_or_default();
        let fields = [
            ("request_id", Field::Text(&self.sent.request_id)),
            ("attempt", Field::Number(u64::from(self.sent.attempt))),
            ("model", Field::Text(&self.sent.model)),
            ("provider", Field::Text(&self.sent.provider)),
            ("outcome", Field::Text(settlement.outcome.as_str())),
            ("tokens_in", Field::Number(usage.tokens_in())),
            ("tokens_out", Field::Number(usage.tokens_out())),
            (
                "duration_ms",
                Field::Number(u64::try_from(now.unix_ms() - self.sent.started_ms).unwrap_or(0)),
            ),
        ];
        self.kernel
            .log()
            .event(now, Some(&self.resident.id), "call", &fields);
    }

    fn row(&self, settlement: &Settlement) -> Row {
        let mut row = Row::unknown(self.seq.number(), &self.sent, self.kernel.now());
        row.usage = settlement.usage.as_ref().map(UsageWire::from);
        row.usage_source = settlement.usage_source.as_str().to_owned();
        row.outcome = settlement.outcome.as_str().to_owned();
        row.cost_pico = settlement.cost.map(pico_i64);
        match (settlement.charge, settlement.cost, settlement.usage) {
            (Charge::AsBilled, Some(cost), Some(usage)) => {
                row.charged_pico = pico_i64(cost);
                row.charged_tokens = usage.tokens_in().saturating_add(usage.tokens_out());
            }
            (Charge::AtMost(bound), ..) => {
                row.charged_pico = row.hold_pico.min(pico_i64(bound.cost));
                row.charged_tokens = self.sent.hold_tokens.min(bound.tokens);
            }
            // The row stands at its hold.
            (Charge::AsBilled | Charge::Hold, ..) => {}
        }
        row
    }
}

impl Drop for OpenAttempt {
    fn drop(&mut self) {
        if self.reservation.is_none() {
            return;
        }
        let recorded = if self.written {
            self.record(&Settlement::unknown())
        } else {
            self.record_not_sent()
        };
        // A journal that cannot be written keeps the `sent` record: the next start records `unknown` from it.
        let _lost_only_with_the_journal = recorded
            .ok()
            .map(|seq| self.kernel.journal().write_out(seq));
    }
}

/// The row of an attempt that ended, where it has one, and when it ended.
pub(crate) struct Ended {
    pub(crate) row: Option<Row>,
    pub(crate) at: Timestamp,
    pub(crate) notes: Option<Box<Notes>>,
}

/// Appends the settlement of `sent_seq`; also used at start for attempts that a crash left open.
pub(crate) fn append_settled(
    kernel: &Kernel,
    resident: &Resident,
    sent_seq: Seq,
    sent: &Sent,
    ended: Ended,
    settlement: &Settlement,
) -> Result<Seq, KernelError> {
    let keys = kernel.keys(resident)?;
    let (row, now) = (ended.row, ended.at);
    let notes = ended.notes;
    let noted = notes.map(|notes| notes.close(&keys, &resident.uid, sent_seq));
    let content = noted.as_ref().and_then(|noted| noted.blobs.clone());
    let commit =
        |digest: &[u8; 32]| vault::digest::hex(&vault::hmac_sha256(&keys.commitment, &[digest]));
    let answer_received = settlement.answer_received.as_ref().map(commit);
    let answer_delivered = settlement.answer_delivered.as_ref().map(commit);
    let mut entry = Entry {
        answer_delivered: answer_delivered.as_deref(),
        answer_received: answer_received.as_deref(),
        call: noted.as_ref().map(|noted| noted.call.as_str()),
        content: noted.as_ref().and_then(|noted| noted.named.as_deref()),
        tenant: resident.id.as_str(),
        time: now.to_string(),
        ..attempt::called(sent, settlement)
    };
    let head = RecordHead {
        kind: RecordKind::Settled,
        uid: resident.uid,
        reference: Some(sent_seq),
    };
    kernel
        .journal()
        .append(head, |seq, out| {
            let mut books = resident.books();
            entry.seq = books.audit_next;
            books.audit_next += 1;
            let audit_seq = entry.seq;
            let text = entry.canonical();
            journal_record::write_settled(row.as_ref(), audit_seq, &text, out);
            content::write(content.as_deref(), out);
            keys.journal.seal_into(&record_aad(resident, seq), out);
            let sent = Some(sent_seq);
            let record = Pending {
                seq,
                sent,
                row,
                audit_seq,
                entry: text,
                content,
            };
            kernel.await_fold(resident, &mut books, now, record);
        })
        .map_err(|_| KernelError::JournalDown)
        .inspect(|seq| kernel.release_if_dead(resident, &[sent_seq, *seq]))
}
