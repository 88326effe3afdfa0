//! Usage and ledger rows of one tenant, in the form of the protocol: for the operator's reports and for the tenant's own.

use std::collections::{BTreeMap, HashMap};

use base::{Money, TokenName, UsageSource, UtcDay};
use kernel::Tenant;
use kernel::report::{self, DailyRow, PAGE_MAX};
use rpc::{Fault, FaultCode, LedgerRow, Row, UsageRow};

use crate::fault::fault;
use crate::feed::Feed;

/// Days from `from` to `to`, both included; open where `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Period {
    pub(crate) from: Option<UtcDay>,
    pub(crate) to: Option<UtcDay>,
}

/// Who may see no more than what it has used itself.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) person: Option<String>,
    pub(crate) token: TokenName,
}

impl Own {
    fn has(&self, row: &report::LedgerRow) -> bool {
        let is_person = self.person.is_some() && self.person == row.person;
        is_person || row.token == self.token.as_str()
    }
}

/// Feeds a row per day and model, or with `detail` a row per attempt; with `own`, of what is its own only.
pub(crate) async fn feed(
    tenant: &Tenant,
    period: Period,
    detail: bool,
    own: Option<&Own>,
    to: &Feed,
) -> Result<(), Fault> {
    match own {
        _ if detail => attempts(tenant, period, own, to).await,
        None => days(tenant, period, to).await,
        Some(own) => own_days(tenant, period, own, to).await,
    }
}

async fn attempts(
    tenant: &Tenant,
    period: Period,
    own: Option<&Own>,
    to: &Feed,
) -> Result<(), Fault> {
    let mut pages = Pages::new(tenant, period, own);
    while let Some(page) = pages.next().await? {
        for row in page {
            to.push(Row::Ledger(Box::new(ledger_row(tenant, row)?)))
                .await?;
        }
    }
    Ok(())
}

/// The ledger's rows of a period, page by page, or of those what is somebody's own.
struct Pages<'a> {
    tenant: &'a Tenant,
    period: Period,
    own: Option<&'a Own>,
    /// Place of the last row that was read.
    after: Option<i64>,
    over: bool,
}

impl<'a> Pages<'a> {
    fn new(tenant: &'a Tenant, period: Period, own: Option<&'a Own>) -> Self {
        Self {
            tenant,
            period,
            own,
            after: None,
            over: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Vec<report::LedgerRow>>, Fault> {
        if self.over {
            return Ok(None);
        }
        let Period { from, to } = self.period;
        let page = self.tenant.ledger_page(from, to, self.after).await;
        let mut page = page.map_err(fault)?;
        self.over = page.len() < PAGE_MAX;
        self.after = page.last().map(|row| row.place);
        page.retain(|row| self.own.is_none_or(|own| own.has(row)));
        Ok(Some(page))
    }
}

async fn days(tenant: &Tenant, period: Period, to: &Feed) -> Result<(), Fault> {
    let rows = tenant
        .daily_usage(period.from, period.to)
        .await
        .map_err(fault)?;
    let unknown = unknown_attempts(tenant, &rows).await?;
    for row in rows {
        let unknown_attempts = unknown
            .get(&(row.day, row.model.clone()))
            .copied()
            .unwrap_or_default();
        // A sum over nothing known is not zero, it is unknown.
        let known = row.attempts > unknown_attempts;
        let usage = UsageRow {
            date: row.day,
            tenant: tenant.id().clone(),
            model: row.model,
            tokens_in: row.tokens_in,
            tokens_out: row.tokens_out,
            cost_usd: known.then_some(row.cost),
            attempts: row.attempts,
            unknown_attempts,
        };
        to.push(Row::Usage(usage)).await?;
    }
    Ok(())
}

/// The daily sums of what is somebody's own. No rollup is kept for them: they are made of the ledger.
async fn own_days(tenant: &Tenant, period: Period, own: &Own, to: &Feed) -> Result<(), Fault> {
    let mut days: BTreeMap<(UtcDay, String), UsageRow> = BTreeMap::new();
    let mut pages = Pages::new(tenant, period, Some(own));
    while let Some(page) = pages.next().await? {
        for row in page {
            let date = row.started.day();
            let sum = days
                .entry((date, row.model))
                .or_insert_with_key(|(_, model)| UsageRow {
                    date,
                    tenant: tenant.id().clone(),
                    model: model.clone(),
                    tokens_in: 0,
                    tokens_out: 0,
                    cost_usd: None,
                    attempts: 0,
                    unknown_attempts: 0,
                });
            sum.attempts = sum.attempts.saturating_add(1);
            if let Some(usage) = row.usage {
                sum.tokens_in = sum.tokens_in.saturating_add(usage.tokens_in());
                sum.tokens_out = sum.tokens_out.saturating_add(usage.tokens_out());
            }
            match row.cost {
                Some(cost) => sum.cost_usd = Some(sum.cost_usd.unwrap_or(Money::ZERO) + cost),
                None => sum.unknown_attempts = sum.unknown_attempts.saturating_add(1),
            }
        }
    }
    for row in days.into_values() {
        to.push(Row::Usage(row)).await?;
    }
    Ok(())
}

/// Attempts without a cost, by day and model. Charges above costs say on which days there are any, so that the ledger is read
/// for those days only.
async fn unknown_attempts(
    tenant: &Tenant,
    rows: &[DailyRow],
) -> Result<HashMap<(UtcDay, String), u64>, Fault> {
    let mut unknown = HashMap::new();
    let mut days: Vec<_> = rows
        .iter()
        .filter(|row| row.charged != row.cost)
        .map(|row| row.day)
        .collect();
    days.dedup();
    for day in days {
        let period = Period {
            from: Some(day),
            to: Some(day),
        };
        let mut pages = Pages::new(tenant, period, None);
        while let Some(page) = pages.next().await? {
            for row in page.iter().filter(|row| row.cost.is_none()) {
                *unknown.entry((day, row.model.clone())).or_default() += 1;
            }
        }
    }
    Ok(unknown)
}

fn ledger_row(tenant: &Tenant, row: report::LedgerRow) -> Result<LedgerRow, Fault> {
    let token: TokenName = row.token.parse().map_err(|_| {
        Fault::new(
            FaultCode::Internal,
            format!(
                "row {} of {} names a token that is none",
                row.place,
                tenant.id()
            ),
        )
    })?;
    let usage = row.usage;
    Ok(LedgerRow {
        request_id: row.request_id,
        attempt: row.attempt,
        tenant: tenant.id().clone(),
        person: row.person,
        token,
        model: row.model,
        provider: row.provider,
        provider_model: row.provider_model,
        tokens_in: usage.map(|usage| usage.tokens_in()),
        tokens_out: usage.map(|usage| usage.tokens_out()),
        cache_read_tokens: usage.map(|usage| usage.cache_read),
        cache_write_tokens: usage
            .map(|usage| usage.cache_write.saturating_add(usage.cache_write_1h)),
        cache_write_1h_tokens: usage.map(|usage| usage.cache_write_1h),
        reasoning_tokens: usage.map(|usage| usage.reasoning),
        audio_in_tokens: usage.map(|usage| usage.audio_in),
        audio_out_tokens: usage.map(|usage| usage.audio_out),
        image_in_tokens: usage.map(|usage| usage.image_in),
        server_tool_calls: usage.map(|usage| usage.server_tool_calls),
        cost_usd: row.cost,
        charged_usd: row.charged,
        ratecard_version: row.ratecard_version,
        usage_source: UsageSource::from_name(&row.usage_source).unwrap_or(UsageSource::Unknown),
        outcome: row.outcome,
        started_at: row.started,
        finished_at: row.finished,
        trace_id: row.trace,
    })
}
