//! What reports read from a tenant's ledger and audit record.

use base::{Money, Timestamp, Usage, UtcDay};
use store::sql::params;
use store::{ReadTx, StoreError};

use crate::error::KernelError;
use crate::journal_record::UsageWire;
use crate::tenant::Tenant;

/// One ledger row: one upstream attempt.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// Place in the ledger: later attempts have higher numbers. For paging.
    pub place: i64,
    /// The inbound request.
    pub request_id: String,
    /// Number of the attempt within its call.
    pub attempt: u32,
    /// The natural person, where known.
    pub person: Option<String>,
    /// Name of the token.
    pub token: String,
    /// The model asked for.
    pub model: String,
    /// The provider that was sent to.
    pub provider: String,
    /// The provider's name of the model.
    pub provider_model: String,
    /// What was used; `None` when unknown.
    pub usage: Option<Usage>,
    /// What it cost; `None` when unknown.
    pub cost: Option<Money>,
    /// What was set aside for it.
    pub hold: Money,
    /// What counts against quotas: the cost, or the hold where the cost is unknown.
    pub charged: Money,
    /// Rate card that priced it.
    pub ratecard_version: String,
    /// Where the usage comes from.
    pub usage_source: String,
    /// How it ended.
    pub outcome: String,
    /// When it was sent.
    pub started: Timestamp,
    /// When it was settled.
    pub finished: Timestamp,
    /// The trace that its caller named; of a run, the run's number.
    pub trace: Option<String>,
}

/// One line of the daily report.
#[derive(Clone, Debug)]
pub struct DailyRow {
    /// UTC day in which the attempts were sent.
    pub day: UtcDay,
    /// The model asked for.
    pub model: String,
    /// Calls.
    pub requests: u64,
    /// Attempts.
    pub attempts: u64,
    /// Input tokens, cache reads and writes included.
    pub tokens_in: u64,
    /// Output tokens, reasoning included.
    pub tokens_out: u64,
    /// Known cost.
    pub cost: Money,
    /// Cost plus the holds of attempts whose cost is unknown.
    pub charged: Money,
}

/// One audit entry: its place in the tenant's log and its canonical text.
#[derive(Clone, Debug)]
pub struct AuditRow {
    /// Place in the log, from 0.
    pub seq: u64,
    /// Canonical JSON.
    pub entry: String,
}

/// Which audit entries are asked for: those in which every field that is given has this value.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// `call_model`, `quota.set`, …
    pub action: Option<String>,
    /// `allow` or `deny`.
    pub decision: Option<String>,
    /// The model asked for.
    pub model: Option<String>,
    /// The natural person.
    pub person: Option<String>,
    /// Name of the token.
    pub token: Option<String>,
    /// The inbound request.
    pub request_id: Option<String>,
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
}

/// Entries that one search looks at: all tenants' reads share few threads.
pub const SEARCH_MAX: u64 = 5_000;

/// Rows of one page at most.
pub const PAGE_MAX: usize = 1_000;

impl Tenant {
    /// Daily sums per model from `from` to `to`, both included.
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn daily_usage(
        &self,
        from: Option<UtcDay>,
        to: Option<UtcDay>,
    ) -> Result<Vec<DailyRow>, KernelError> {
        let (from, to) = (
            from.map_or(i32::MIN, UtcDay::number),
            to.map_or(i32::MAX, UtcDay::number),
        );
        self.read(move |tx| {
            let sql = "SELECT day, model, requests, attempts, tokens_in, tokens_out, cost_pico, charged_pico FROM rollup
                       WHERE day BETWEEN ?1 AND ?2 ORDER BY day, model";
            tx.query(sql, params![from, to], 1_000_000, |row| {
                Ok(DailyRow {
                    day: UtcDay::from_number(row.get(0)?),
                    model: row.get(1)?,
                    requests: count(row.get(2)?),
                    attempts: count(row.get(3)?),
                    tokens_in: count(row.get(4)?),
                    tokens_out: count(row.get(5)?),
                    cost: money(row.get(6)?),
                    charged: money(row.get(7)?),
                })
            })
        })
        .await
    }

    /// One page of ledger rows, oldest first, sent from `from` to `to`, whose place is above `after`. At most [`PAGE_MAX`].
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn ledger_page(
        &self,
        from: Option<UtcDay>,
        to: Option<UtcDay>,
        after: Option<i64>,
    ) -> Result<Vec<LedgerRow>, KernelError> {
        let from = from.map_or(i64::MIN, |day| day.start().unix_ms());
        let to = to.map_or(i64::MAX, |day| day.next().start().unix_ms());
        let after = after.unwrap_or(-1);
        self.read(move |tx| {
            let sql = "SELECT sent_seq, request_id, attempt, person, token, model, provider, provider_model,
                input, cache_read, cache_write, cache_write_1h, audio_in, image_in, output, reasoning, audio_out, server_tool_calls,
                cost_pico, hold_pico, charged_pico, ratecard_version, usage_source, outcome, started_ms, finished_ms,
                trace FROM ledger WHERE sent_seq > ?1 AND started_ms >= ?2 AND started_ms < ?3 ORDER BY sent_seq LIMIT ?4";
            tx.query(sql, params![after, from, to, i64::try_from(PAGE_MAX).unwrap_or(1_000)], PAGE_MAX, ledger_row)
        })
        .await
    }

    /// One page of audit entries from place `from` on, oldest first. At most [`PAGE_MAX`].
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn audit_page(&self, from: u64) -> Result<Vec<AuditRow>, KernelError> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.read(move |tx| {
            let sql = "SELECT seq, entry FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
            tx.query(
                sql,
                params![from, i64::try_from(PAGE_MAX).unwrap_or(1_000)],
                PAGE_MAX,
                audit_row,
            )
        })
        .await
    }

    /// At most `limit` audit entries from place `from` on that `filter` lets through, oldest first, and the place from which to go
    /// on. Looks at no more than [`SEARCH_MAX`] entries: a page may be short, or empty, before the end of the log.
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn audit_search(
        &self,
        from: u64,
        limit: usize,
        filter: AuditFilter,
    ) -> Result<(Vec<AuditRow>, u64), KernelError> {
        let limit = limit.min(PAGE_MAX);
        self.read(move |tx| {
            // What retention dropped is not waded through.
            let first = tx.query_one(
                "SELECT COALESCE(MIN(seq), 0) FROM audit",
                params![],
                |row| Ok(count(row.get(0)?)),
            )?;
            let from = from.max(first.unwrap_or_default());
            let end = from.saturating_add(SEARCH_MAX);
            let rows = search(tx, (from, end), limit, &filter)?;
            let next = match rows.last() {
                Some(last) if rows.len() == limit => last.seq.saturating_add(1),
                _ => end,
            };
            Ok((rows, next))
        })
        .await
    }

    /// Number of audit entries, those that wait for their fold included. Reads nothing: for whoever asks again and again.
    ///
    /// # Errors
    /// As [`Tenant::live`].
    pub fn audit_count(&self) -> Result<u64, KernelError> {
        self.live()?;
        Ok(self.resident().books().audit_next)
    }

    /// Number of audit entries.
    ///
    /// # Errors
    /// As [`Tenant::read`].
    pub async fn audit_length(&self) -> Result<u64, KernelError> {
        let length = self
            .read(|tx| {
                tx.query_one(
                    "SELECT COALESCE(MAX(seq) + 1, 0) FROM audit",
                    params![],
                    |row| Ok(row.get::<_, i64>(0)?),
                )
            })
            .await?;
        Ok(count(length.unwrap_or_default()))
    }
}

fn search(
    tx: &ReadTx<'_>,
    (from, end): (u64, u64),
    limit: usize,
    filter: &AuditFilter,
) -> Result<Vec<AuditRow>, StoreError> {
    let place = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let moment = |at: Option<Timestamp>| at.map(|at| at.to_string());
    // Times have one length and one form: their order as text is their order in time.
    let sql = "SELECT seq, entry FROM audit WHERE seq >= ?1 AND seq < ?2
        AND (?3 IS NULL OR json_extract(entry, '$.action') = ?3)
        AND (?4 IS NULL OR json_extract(entry, '$.decision') = ?4)
        AND (?5 IS NULL OR json_extract(entry, '$.model') = ?5)
        AND (?6 IS NULL OR json_extract(entry, '$.person') = ?6)
        AND (?7 IS NULL OR json_extract(entry, '$.token') = ?7)
        AND (?8 IS NULL OR json_extract(entry, '$.request_id') = ?8)
        AND (?9 IS NULL OR json_extract(entry, '$.time') >= ?9)
        AND (?10 IS NULL OR json_extract(entry, '$.time') < ?10)
        ORDER BY seq LIMIT ?11";
    let asked = params![
        place(from),
        place(end),
        filter.action,
        filter.decision,
        filter.model,
        filter.person,
        filter.token,
        filter.request_id,
        moment(filter.since),
        moment(filter.until),
        i64::try_from(limit).unwrap_or(i64::MAX)
    ];
    tx.query(sql, asked, PAGE_MAX, audit_row)
}

fn audit_row(row: &store::sql::Row<'_>) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        seq: count(row.get(0)?),
        entry: row.get(1)?,
    })
}

fn ledger_row(row: &store::sql::Row<'_>) -> Result<LedgerRow, StoreError> {
    let first: Option<i64> = row.get(8)?;
    let mut buckets = [0_u64; 10];
    for (offset, bucket) in buckets.iter_mut().enumerate() {
        *bucket = count(row.get::<_, Option<i64>>(8 + offset)?.unwrap_or_default());
    }
    Ok(LedgerRow {
        place: row.get(0)?,
        request_id: row.get(1)?,
        attempt: row.get(2)?,
        person: row.get(3)?,
        token: row.get(4)?,
        model: row.get(5)?,
        provider: row.get(6)?,
        provider_model: row.get(7)?,
        usage: first.map(|_| Usage::from(UsageWire(buckets))),
        cost: row.get::<_, Option<i64>>(18)?.map(money),
        hold: money(row.get(19)?),
        charged: money(row.get(20)?),
        ratecard_version: row.get(21)?,
        usage_source: row.get(22)?,
        outcome: row.get(23)?,
        started: Timestamp::from_unix_ms(row.get(24)?),
        finished: Timestamp::from_unix_ms(row.get(25)?),
        trace: row.get(26)?,
    })
}

fn count(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn money(pico: i64) -> Money {
    Money::from_pico(i128::from(pico))
}
