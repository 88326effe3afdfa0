//! What must hold of what the next life of the process finds.

use std::collections::{BTreeMap, BTreeSet};

use kernel::quota::Quota;
use kernel::report::{AuditRow, LedgerRow};
use kernel::{Kernel, Operator, Tenant};
use serde_json::Value;

use crate::client::{Seen, nonce};
use crate::home::PICO;
use crate::network::{NONCE, Sighting};
use crate::plan::{CallPlan, Plan, Speaks, TENANTS, Wrong};
use crate::run::Left;

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) rows: usize,
    pub(crate) problems: Vec<String>,
}

/// One tenant's books as they stand on disk.
#[derive(Default)]
struct Books {
    rows: Vec<LedgerRow>,
    entries: Vec<Value>,
}

pub(crate) async fn all(plan: &Plan, left: &Left, kernel: &Kernel, operator: &Operator) -> Found {
    let mut found = Found::default();
    let mut books = Vec::new();
    for (index, id) in TENANTS.iter().enumerate() {
        // A tenant that nothing was asked of is looked at now and then.
        let idle = !plan.calls.iter().any(|call| call.tenant == index) && plan.deeds.is_empty();
        if idle && !plan.seed.is_multiple_of(4) {
            books.push(Books::default());
            continue;
        }
        let tenant = kernel.tenant(operator, &id.parse().unwrap()).unwrap();
        match read(&tenant).await {
            Ok(own) => {
                found.rows += own.rows.len();
                check_tenant(plan, left, index, &tenant, &own, &mut found.problems).await;
                books.push(own);
            }
            Err(problem) => {
                found.problems.push(format!("{id}: {problem}"));
                return found;
            }
        }
    }
    for (number, call) in plan.calls.iter().enumerate() {
        let mut problems = Vec::new();
        check_call(plan, left, number, &books[call.tenant], &mut problems);
        let strangers = books
            .iter()
            .enumerate()
            .filter(|(index, _)| *index != call.tenant);
        for (_, other) in strangers {
            if left.ids[number]
                .as_ref()
                .is_some_and(|id| other.rows.iter().any(|row| row.request_id == *id))
            {
                problems.push("another tenant has its row".to_owned());
            }
        }
        found.problems.extend(
            problems
                .into_iter()
                .map(|problem| format!("call {number}: {problem}")),
        );
    }
    found
}

async fn read(tenant: &Tenant) -> Result<Books, String> {
    let mut rows = Vec::new();
    loop {
        let after = rows.last().map(|row: &LedgerRow| row.place);
        let page = tenant
            .ledger_page(None, None, after)
            .await
            .map_err(|error| error.to_string())?;
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    let mut entries = Vec::new();
    loop {
        let page = tenant
            .audit_page(entries.len() as u64)
            .await
            .map_err(|error| error.to_string())?;
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    for (place, entry) in entries.iter().enumerate() {
        if entry.seq != place as u64 {
            return Err(format!("audit entry {} stands at {place}", entry.seq));
        }
    }
    let parse =
        |entry: &AuditRow| serde_json::from_str(&entry.entry).map_err(|error| error.to_string());
    let entries = entries.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(Books { rows, entries })
}

async fn check_tenant(
    plan: &Plan,
    left: &Left,
    index: usize,
    tenant: &Tenant,
    books: &Books,
    problems: &mut Vec<String>,
) {
    let id = tenant.id();
    if let Some(found) = tenant.quarantine() {
        problems.push(format!("{id} is in quarantine: {}", found.why));
    }
    if let Err(error) = verify(tenant).await {
        problems.push(format!("{id}: the audit log does not verify: {error}"));
    }
    let now = tenant.now();
    let gauge = |quota: Quota| tenant.quotas().tenant[quota as usize];
    let charged = |same: &dyn Fn(&LedgerRow) -> bool| -> i128 {
        books
            .rows
            .iter()
            .filter(|row| same(row))
            .map(|row| row.charged.pico())
            .sum()
    };
    let month = charged(&|row| row.started.day().month() == now.day().month());
    let day = charged(&|row| row.started.day() == now.day());
    for (quota, rows) in [(Quota::CostPerMonth, month), (Quota::CostPerDay, day)] {
        let gauge = gauge(quota);
        if gauge.used != rows || gauge.held != 0 {
            problems.push(format!(
                "{id}: the ledger charges {rows}, the quota says {gauge:?}"
            ));
        }
    }
    // What a power cut or a broken disk takes is charged as unknown, or gone.
    let kept = !plan.ends.is_power_cut() && left.failed_at.is_none();
    if let Some(spent) = left.spent.as_ref().filter(|_| kept)
        && spent[index] != month
    {
        problems.push(format!(
            "{id}: {} was spent before the restart, {month} after it",
            spent[index]
        ));
    }
    for gauge in tenant.quotas().tenant.iter() {
        if gauge.quota == Quota::ConcurrentRequests && gauge.used != 0 {
            problems.push(format!("{id}: open calls after the restart: {gauge:?}"));
        }
    }
    let daily = tenant.daily_usage(None, None).await.unwrap_or_default();
    let calls: BTreeSet<_> = books.rows.iter().map(|row| &row.request_id).collect();
    let requests: u64 = daily.iter().map(|day| day.requests).sum();
    // A power cut can take the row that counted the call.
    if requests != calls.len() as u64 && !plan.ends.is_power_cut() {
        problems.push(format!(
            "{id}: {requests} requests by day, {} calls have rows",
            calls.len()
        ));
    }
    let attempts: u64 = daily.iter().map(|day| day.attempts).sum();
    if attempts != books.rows.len() as u64 {
        problems.push(format!(
            "{id}: {attempts} attempts by day, {} rows",
            books.rows.len()
        ));
    }
}

async fn verify(tenant: &Tenant) -> Result<(), String> {
    let mut walk = tenant
        .audit_walk(None)
        .await
        .map_err(|error| format!("{error:?}"))?;
    while walk
        .next()
        .await
        .map_err(|error| format!("{error:?}"))?
        .is_some()
    {}
    Ok(())
}

/// Of one call, everything that was written about it.
struct Written<'a> {
    rows: Vec<&'a LedgerRow>,
    attempts: Vec<&'a Value>,
    denials: usize,
}

fn written<'a>(books: &'a Books, id: &str) -> Written<'a> {
    let mut rows: Vec<_> = books
        .rows
        .iter()
        .filter(|row| row.request_id == id)
        .collect();
    rows.sort_by_key(|row| row.attempt);
    let own: Vec<_> = books
        .entries
        .iter()
        .filter(|entry| entry["request_id"] == id)
        .collect();
    let denials = own
        .iter()
        .filter(|entry| entry["decision"] == "deny")
        .count();
    let attempts = own
        .into_iter()
        .filter(|entry| entry["decision"] == "allow")
        .collect();
    Written {
        rows,
        attempts,
        denials,
    }
}

fn check_call(plan: &Plan, left: &Left, number: usize, books: &Books, problems: &mut Vec<String>) {
    let call = &plan.calls[number];
    let seen = left.fates[number]
        .as_ref()
        .and_then(|fate| fate.seen.as_ref());
    if let Some(seen) = seen {
        check_echo(number, &seen.body, problems);
        check_admission(left, seen, problems);
    }
    let Some(id) = &left.ids[number] else {
        if seen.is_some_and(|seen| seen.status == 200) {
            problems.push("an answer without an id".to_owned());
        }
        return;
    };
    let written = written(books, id);
    check_entries(&written, problems);
    check_sightings(plan, left, number, &written, problems);
    let Some(seen) = seen else { return };
    if seen.request_id != *id {
        problems.push(format!(
            "its id is {id}, its answer says {}",
            seen.request_id
        ));
    }
    let own: Vec<_> = left
        .sightings
        .iter()
        .filter(|sighting| sighting.call == number)
        .collect();
    if seen.status == 200 && seen.clean {
        check_finished(call, seen, &written, &own, problems);
    } else if seen.status != 200 && written.rows.is_empty() && written.attempts.is_empty() {
        check_refused(call, left, seen, &written, problems);
    }
}

/// No word of another call's answer.
fn check_echo(number: usize, body: &[u8], problems: &mut Vec<String>) {
    let text = String::from_utf8_lossy(body);
    let own = nonce(number);
    let stranger = text.match_indices(NONCE).find(|(at, _)| {
        let word = &text[*at..];
        // A broken stream may end within a word, a garbled one lose it.
        let number = word.get(NONCE.len()..own.len());
        let is_whole =
            number.is_some_and(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'x'));
        is_whole && !word.starts_with(&own)
    });
    if let Some((at, _)) = stranger {
        let end = text.len().min(at + 40);
        problems.push(format!("another call's words: {:?}", text.get(at..end)));
    }
}

/// Nobody is admitted once the journal is down.
fn check_admission(left: &Left, seen: &Seen, problems: &mut Vec<String>) {
    if left.failed_at.is_some_and(|failed| seen.began > failed) && seen.status != 503 {
        problems.push(format!(
            "it was answered {} though the journal was down",
            seen.status
        ));
    }
}

/// Each row has one entry, and they agree.
fn check_entries(written: &Written<'_>, problems: &mut Vec<String>) {
    let numbers: BTreeSet<u32> = written.rows.iter().map(|row| row.attempt).collect();
    if numbers.len() != written.rows.len() {
        problems.push("two rows of one attempt".to_owned());
    }
    let mut entries: BTreeMap<u64, Vec<&Value>> = BTreeMap::new();
    for entry in &written.attempts {
        entries
            .entry(entry["attempt"].as_u64().unwrap_or(0))
            .or_default()
            .push(entry);
    }
    for (attempt, of_it) in &entries {
        if of_it.len() != 1 {
            problems.push(format!("{} entries of attempt {attempt}", of_it.len()));
        }
    }
    for row in &written.rows {
        let Some(entry) = entries
            .get(&u64::from(row.attempt))
            .and_then(|of_it| of_it.first())
        else {
            problems.push(format!("attempt {} has a row and no entry", row.attempt));
            continue;
        };
        let tokens = |name: &str| entry[name].as_u64();
        let usage = row.usage.as_ref();
        let same = entry["outcome"] == row.outcome.as_str()
            && tokens("tokens_in") == usage.map(|usage| usage.tokens_in())
            && tokens("tokens_out") == usage.map(|usage| usage.tokens_out());
        if !same {
            problems.push(format!("row and entry differ: {row:?}, {entry}"));
        }
        if row.charged.pico() > row.hold.pico() {
            problems.push(format!("more is charged than was held: {row:?}"));
        }
    }
    for (attempt, of_it) in &entries {
        let row = numbers.iter().any(|number| u64::from(*number) == *attempt);
        if of_it
            .iter()
            .any(|entry| (entry["outcome"] == "not_sent") == row)
        {
            problems.push(format!(
                "attempt {attempt} has a row: {row}, and its entry says {}",
                of_it[0]
            ));
        }
    }
}

/// What a provider saw is in the ledger.
fn check_sightings(
    plan: &Plan,
    left: &Left,
    number: usize,
    written: &Written<'_>,
    problems: &mut Vec<String>,
) {
    let power_cut = plan.ends.is_power_cut();
    let own = left
        .sightings
        .iter()
        .zip(&left.stable)
        .filter(|(sighting, _)| sighting.call == number);
    let certain = own
        .filter(|(sighting, stable)| sighting.taken && (**stable || !power_cut))
        .count();
    if written.rows.len() < certain {
        problems.push(format!(
            "a provider met it {certain} times, the ledger has {} rows",
            written.rows.len()
        ));
    }
}

/// A finished answer has one finished row, of the provider's own numbers.
fn check_finished(
    call: &CallPlan,
    seen: &Seen,
    written: &Written<'_>,
    own: &[&Sighting],
    problems: &mut Vec<String>,
) {
    let finished: Vec<_> = written
        .rows
        .iter()
        .filter(|row| row.outcome == "finished")
        .collect();
    let [row] = finished.as_slice() else {
        problems.push(format!(
            "a finished answer has {} finished rows: {:?}",
            finished.len(),
            written.rows
        ));
        return;
    };
    let Some(last) = own.last() else {
        problems.push("an answer that no provider gave".to_owned());
        return;
    };
    if !last.is_over() {
        problems.push(format!(
            "it ended cleanly, its provider's answer did not: {last:?}"
        ));
    }
    if call.stream {
        let end = if call.speaks == Speaks::Chat {
            "[DONE]"
        } else {
            "message_stop"
        };
        if !String::from_utf8_lossy(&seen.body).contains(end) {
            problems.push("a clean end without a terminal event".to_owned());
        }
    }
    if let Some((input, output)) = last
        .truth
        .said
        .filter(|_| last.truth.sound && last.emitted >= last.truth.said_at)
    {
        let usage = row
            .usage
            .as_ref()
            .map(|usage| (usage.tokens_in(), usage.tokens_out()));
        let cost = i128::from(input * PICO.0 + output * PICO.1);
        let right = usage == Some((input, output))
            && row.cost.map(|cost| cost.pico()) == Some(cost)
            && row.charged.pico() == cost;
        if !right {
            problems.push(format!("the provider said {input} and {output}: {row:?}"));
        }
    } else if row.usage.is_some_and(|usage| usage.tokens_in() == 0) {
        problems.push(format!("unknown usage became zero: {row:?}"));
    }
}

/// A refusal after admission has its entry.
fn check_refused(
    call: &CallPlan,
    left: &Left,
    seen: &Seen,
    written: &Written<'_>,
    problems: &mut Vec<String>,
) {
    let before_admission = call.wrong == Wrong::Token || matches!(seen.status, 401 | 403);
    let journal_down = left.failed_at.is_some() && seen.status == 503;
    // Past ten in one second of one token they are counted together.
    let expected = usize::from(!before_admission && !journal_down);
    if written.denials != expected && !(journal_down || left.fates.len() > 10) {
        problems.push(format!(
            "a refusal with {} has {} entries",
            seen.status, written.denials
        ));
    }
}
