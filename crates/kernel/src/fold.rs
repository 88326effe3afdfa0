//! From the journal into a tenant's own database. Idempotent: a record that is there already changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Timestamp, Usage, limits};
use store::sql::params;
use store::{ReadTx, Seq, StoreError, WriteTx};
use tokio::sync::oneshot;

use crate::audit::content;
use crate::audit::tree::{Grown, Growth, Signer, signed};
use crate::error::KernelError;
use crate::journal_record::{Row, UsageWire};
use crate::open::Kernel;
use crate::quota::PartyKind;
use crate::resident::{Pending, Resident};

/// Records over all tenants that may wait for their fold; past it, smaller batches are folded too.
const PENDING_MAX: usize = 32_768;

impl Kernel {
    /// Asks for a fold in the background when enough has gathered.
    pub(crate) fn fold_if_due(&self, resident: &Arc<Resident>) {
        let due = {
            let mut books = resident.books();
            let crowded = self.pending_total() > PENDING_MAX
                && books.pending.len() >= limits::FOLD_RECORDS / 8;
            let enough = books.pending.len() >= limits::FOLD_RECORDS
                || crowded
                || self.content_is_due(&books);
            let due = enough && !books.fold_asked;
            books.fold_asked |= due;
            due
        };
        if due {
            let (kernel, resident) = (self.clone(), Arc::clone(resident));
            self.tasks().spawn(async move {
                // A failure quarantines the tenant inside and is logged there.
                let _reported = kernel.fold(&resident).await;
            });
        }
    }

    /// Writes everything that waits into the tenant's database, durably, and releases it from the journal. The work is a task of
    /// its own: a reader that goes away does not cut it in half.
    pub(crate) async fn fold(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        let idle = resident.folding.try_lock().is_ok() && resident.books().pending.is_empty();
        if idle {
            return Ok(());
        }
        let (done, folded) = oneshot::channel();
        let (kernel, folding) = (self.clone(), Arc::clone(resident));
        self.tasks().spawn(async move {
            // The reader may be gone.
            let _nobody_waits = done.send(kernel.fold_now(&folding).await);
        });
        folded.await.unwrap_or(Err(KernelError::Busy))
    }

    async fn fold_now(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        let _one_at_a_time = resident.folding.lock().await;
        // What can be missing is looked for before anything is taken out of the books.
        let place = self.place(resident)?;
        let signer = self.audit_signer(resident)?;
        let batch: Arc<Vec<Pending>> = {
            let mut books = resident.books();
            books.fold_asked = false;
            books.oldest = None;
            self.content_goes(&mut books);
            Arc::new(books.pending.drain(..).collect())
        };
        if batch.is_empty() {
            return Ok(());
        }
        self.pending().fetch_sub(batch.len(), Ordering::Relaxed);
        let rows = Arc::clone(&batch);
        match self
            .engine()
            .write(&place, move |tx| insert(tx, &rows, &signer))
            .await
        {
            Ok(grown) => {
                resident.audit_grew(grown);
                let seqs: Vec<Seq> = batch
                    .iter()
                    .flat_map(|pending| pending.sent.into_iter().chain([pending.seq]))
                    .collect();
                self.journal().folded(&seqs);
                Ok(())
            }
            Err(error) => {
                self.put_back(resident, batch);
                self.own_data(resident, Err(error))
            }
        }
    }

    fn put_back(&self, resident: &Resident, batch: Arc<Vec<Pending>>) {
        let batch = Arc::try_unwrap(batch).unwrap_or_else(|shared| shared.to_vec());
        self.pending().fetch_add(batch.len(), Ordering::Relaxed);
        let mut books = resident.books();
        books.oldest = Some(self.now());
        for pending in batch.into_iter().rev() {
            self.content_comes(&mut books, pending.content_bytes());
            books.pending.push_front(pending);
        }
    }
}

/// Inserts a batch: rows, roll-ups of the rows that were new, audit entries and the tree over them. Returns what became
/// of the log.
pub(crate) fn insert(
    tx: &mut WriteTx<'_>,
    batch: &[Pending],
    signer: &Signer,
) -> Result<Grown, StoreError> {
    let mut log = Growth::begin(tx)?;
    let mut rollups: BTreeMap<(i32, &str), Rollup> = BTreeMap::new();
    let mut parties: BTreeMap<(i32, PartyKind, &str), Rollup> = BTreeMap::new();
    for pending in batch {
        if let Some(row) = &pending.row
            && insert_row(tx, row)?
        {
            let day = Timestamp::from_unix_ms(row.started_ms).day().number();
            rollups.entry((day, &row.model)).or_default().add(row);
            for (kind, name) in row.parties() {
                parties.entry((day, kind, name)).or_default().add(row);
            }
        }
        let unsent = pending
            .sent
            .filter(|_| pending.row.is_none())
            .map(|sent| signed(sent.number()));
        log.take(tx, pending, unsent)?;
        content::store(tx, pending)?;
    }
    for (of, rollup) in rollups {
        add_model(tx, of, &rollup)?;
    }
    for (party, rollup) in parties {
        add_party(tx, party, &rollup)?;
    }
    log.end(tx, signer)
}

fn add_model(
    tx: &mut WriteTx<'_>,
    (day, model): (i32, &str),
    rollup: &Rollup,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO rollup (day, model, attempts, tokens_in, tokens_out, cost_pico, charged_pico, charged_tokens, requests)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (day, model) DO UPDATE SET
            attempts = MIN(attempts, 9223372036854775807 - excluded.attempts) + excluded.attempts, tokens_in = MIN(tokens_in, 9223372036854775807 - excluded.tokens_in) + excluded.tokens_in,
            tokens_out = MIN(tokens_out, 9223372036854775807 - excluded.tokens_out) + excluded.tokens_out, cost_pico = MIN(cost_pico, 9223372036854775807 - excluded.cost_pico) + excluded.cost_pico,
            charged_pico = MIN(charged_pico, 9223372036854775807 - excluded.charged_pico) + excluded.charged_pico,
            charged_tokens = MIN(charged_tokens, 9223372036854775807 - excluded.charged_tokens) + excluded.charged_tokens, requests = MIN(requests, 9223372036854775807 - excluded.requests) + excluded.requests",
        params![
            day,
            model,
            rollup.attempts,
            rollup.tokens_in,
            rollup.tokens_out,
            rollup.cost_pico,
            rollup.charged_pico,
            rollup.charged_tokens,
            rollup.requests
        ],
    )
    .map(|_| ())
}

fn add_party(
    tx: &mut WriteTx<'_>,
    (day, kind, name): (i32, PartyKind, &str),
    rollup: &Rollup,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO party_rollup (day, kind, name, requests, charged_tokens, charged_pico)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (day, kind, name) DO UPDATE SET
            requests = MIN(requests, 9223372036854775807 - excluded.requests) + excluded.requests,
            charged_tokens = MIN(charged_tokens, 9223372036854775807 - excluded.charged_tokens) + excluded.charged_tokens,
            charged_pico = MIN(charged_pico, 9223372036854775807 - excluded.charged_pico) + excluded.charged_pico",
        params![
            day,
            kind.as_str(),
            name,
            rollup.requests,
            rollup.charged_tokens,
            rollup.charged_pico
        ],
    )
    .map(|_| ())
}

#[derive(Default)]
struct Rollup {
    attempts: i64,
    tokens_in: i64,
    tokens_out: i64,
    cost_pico: i64,
    charged_pico: i64,
    charged_tokens: i64,
    requests: i64,
}

impl Rollup {
    fn add(&mut self, row: &Row) {
        let usage = row.usage.map(Usage::from).unwrap_or_default();
        self.attempts += 1;
        self.tokens_in = self.tokens_in.saturating_add(signed(usage.tokens_in()));
        self.tokens_out = self.tokens_out.saturating_add(signed(usage.tokens_out()));
        self.cost_pico = self.cost_pico.saturating_add(row.cost_pico.unwrap_or(0));
        self.charged_pico = self.charged_pico.saturating_add(row.charged_pico);
        self.charged_tokens = self
            .charged_tokens
            .saturating_add(signed(row.charged_tokens));
        self.requests = self.requests.saturating_add(signed(row.requests));
    }
}

pub(crate) fn insert_row(tx: &mut WriteTx<'_>, row: &Row) -> Result<bool, StoreError> {
    let buckets = row.usage.map(|UsageWire(buckets)| buckets.map(signed));
    let bucket = |index: usize| buckets.map(|buckets| buckets[index]);
    let inserted = tx.execute(
        "INSERT INTO ledger (sent_seq, request_id, attempt, person, token, model, provider, provider_model,
            input, cache_read, cache_write, cache_write_1h, audio_in, image_in, output, reasoning, audio_out, server_tool_calls,
            cost_pico, hold_pico, charged_pico, ratecard_version, usage_source, outcome, started_ms, finished_ms,
            charged_tokens, requests, trace)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29)
         ON CONFLICT (sent_seq) DO NOTHING",
        params![
            signed(row.sent_seq),
            row.request_id,
            row.attempt,
            row.person,
            row.token,
            row.model,
            row.provider,
            row.provider_model,
            bucket(0),
            bucket(1),
            bucket(2),
            bucket(3),
            bucket(4),
            bucket(5),
            bucket(6),
            bucket(7),
            bucket(8),
            bucket(9),
            row.cost_pico,
            row.hold_pico,
            row.charged_pico,
            row.ratecard_version,
            row.usage_source,
            row.outcome,
            row.started_ms,
            row.finished_ms,
            signed(row.charged_tokens),
            signed(row.requests),
            row.trace
        ],
    )?;
    Ok(inserted == 1)
}

/// Sums that are counted anew from the rows.
#[derive(Default)]
pub(crate) struct Recount {
    models: BTreeMap<(i32, String), Rollup>,
    parties: BTreeMap<(i32, PartyKind, String), Rollup>,
}

impl Recount {
    pub(crate) fn add(&mut self, row: &Row) {
        let day = Timestamp::from_unix_ms(row.started_ms).day().number();
        let model = self.models.entry((day, row.model.clone()));
        model.or_default().add(row);
        for (kind, name) in row.parties() {
            let party = self.parties.entry((day, kind, name.to_owned()));
            party.or_default().add(row);
        }
    }

    /// Writes the sums into tables that are empty.
    pub(crate) fn write(self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        for ((day, model), rollup) in &self.models {
            add_model(tx, (*day, model), rollup)?;
        }
        for ((day, kind, name), rollup) in &self.parties {
            add_party(tx, (*day, *kind, name), rollup)?;
        }
        Ok(())
    }
}

/// Rows of one page of a recount.
const RECOUNT_PAGE: usize = 1_000;

/// Stored rows above `after`, with what sums are made of.
pub(crate) fn counted_rows(tx: &ReadTx<'_>, after: i64) -> Result<Vec<Row>, StoreError> {
    let sql = "SELECT sent_seq, person, token, model, input, cache_read, cache_write, cache_write_1h, audio_in, image_in, output,
            reasoning, audio_out, server_tool_calls, cost_pico, charged_pico, charged_tokens, requests, started_ms
        FROM ledger WHERE sent_seq > ?1 ORDER BY sent_seq LIMIT ?2";
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    let page = signed(RECOUNT_PAGE as u64);
    tx.query(sql, params![after, page], RECOUNT_PAGE, |row| {
        let first: Option<i64> = row.get(4)?;
        let mut buckets = [0_u64; 10];
        for (offset, bucket) in buckets.iter_mut().enumerate() {
            *bucket = count(row.get::<_, Option<i64>>(4 + offset)?.unwrap_or_default());
        }
        Ok(Row {
            sent_seq: count(row.get(0)?),
            request_id: String::new(),
            attempt: 0,
            person: row.get(1)?,
            token: row.get(2)?,
            model: row.get(3)?,
            provider: String::new(),
            provider_model: String::new(),
            usage: first.map(|_| UsageWire(buckets)),
            cost_pico: row.get(14)?,
            hold_pico: 0,
            charged_pico: row.get(15)?,
            charged_tokens: count(row.get(16)?),
            requests: count(row.get(17)?),
            ratecard_version: String::new(),
            usage_source: String::new(),
            outcome: String::new(),
            started_ms: row.get(18)?,
            finished_ms: 0,
            trace: None,
        })
    })
}
