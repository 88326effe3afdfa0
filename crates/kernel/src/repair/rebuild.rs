//! A tenant's database built anew beside the old one, out of everything that can still be read.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::sql::{Value, params};
use store::{Place, ReadTx, StoreError, WriteTx};
use vault::tlog::{Checkpoint, Edge, Hash, LogKey, SignedCheckpoint};

use super::log::{Log, Regrown, Trusted};
use super::salvage::{
    AGENTS, AUDIT, CONTENT, IN_FORCE, KEYS, LEDGER, MESSAGES, OUTBOX, PERSON_KEYS, POLICY, RUNS,
    SECRETS, SESSION_EVENTS, SESSIONS, SUMMARIES, TILES, TOOL_CALLS, Table,
};
use super::{Kept, REPAIR};
use crate::audit::Entry;
use crate::audit::seen::Seen as Head;
use crate::audit::tree::{Signer, log_key, signed, stored_head};
use crate::error::KernelError;
use crate::fold;
use crate::open::Kernel;
use crate::resident::{Pending, Resident};

/// Rows written in one transaction.
const BATCH: usize = 1_000;
/// Days and models, or days and parties, that are carried over.
const SUMS_MAX: usize = 1_000_000;

/// What is known of the log beside its entries.
#[derive(Default)]
struct LogFacts {
    /// Keys that checkpoints of this log are by.
    keys: Vec<LogKey>,
    /// Hashes after the last full tile, and the size that they belong to.
    edge: Vec<Hash>,
    size: u64,
    heads: Vec<Head>,
}

/// Sums by day and model, and by day and party, as the old database has them.
#[derive(Default)]
struct Sums {
    models: Vec<Vec<Value>>,
    parties: Vec<Vec<Value>>,
}

impl Kernel {
    /// Fills `new` from `sources`, the best one first, and from the records of the journal. Returns what was kept and lost.
    pub(super) async fn rebuild(
        &self,
        resident: &Arc<Resident>,
        new: &Arc<Place>,
        sources: &[Arc<Place>],
        records: Vec<Pending>,
        why: &str,
    ) -> Result<Kept, KernelError> {
        let mut kept = Kept::default();
        let first = Signer::first(resident, self.keys(resident)?.as_ref())?;
        let latest = log_key(resident, resident.account.load().audit_key)?;
        let mut facts = LogFacts {
            keys: vec![latest, first.public().clone()],
            ..LogFacts::default()
        };
        let mut sums = Sums::default();
        for (number, source) in sources.iter().enumerate() {
            let read = self
                .take_source(source, new, number == 0, &mut kept)
                .await?;
            self.log_facts(source, &mut facts).await;
            // The copy's sums are older than its rows and those of the journal together.
            if number == 0 && read {
                sums = self
                    .engine()
                    .read(source, sums_of)
                    .await
                    .unwrap_or_default();
            }
        }
        if let Some(head) = self.registered_head(resident).await? {
            facts.heads.push(head);
        }
        kept.from_journal = u64::try_from(records.len()).unwrap_or_default();
        self.put_records(new, records).await?;
        self.recount(new, sums, &mut kept).await?;
        let now = self.now();
        let lost = move |tx: &mut WriteTx<'_>| crate::policies::note_if_lost(tx, now);
        self.engine().write(new, lost).await?;
        self.drop_unreadable_secrets(resident, new, &mut kept)
            .await?;
        let grown = self.grow_log(resident, new, &mut facts).await?;
        kept.entries_lost = grown.lost.clone();
        kept.entries_replaced = grown.replaced.clone();
        kept.log_fits = grown.fits();
        let signer = self.signer_in(resident, new).await?;
        let about = self.entry_about(resident, &grown, &kept, why);
        let head = self.write_log(new, grown, about, signer).await?;
        kept.entries = head.size;
        Ok(kept)
    }

    /// Copies what can be read of one source. Whether anything could be.
    async fn take_source(
        &self,
        source: &Arc<Place>,
        new: &Arc<Place>,
        first: bool,
        kept: &mut Kept,
    ) -> Result<bool, KernelError> {
        match self.engine().read(source, |_tx| Ok(())).await {
            Ok(()) => {}
            // That says nothing about the file: without it more would be lost than is.
            Err(error @ (StoreError::Busy | StoreError::Closed | StoreError::Full)) => {
                return Err(error.into());
            }
            Err(_) => return Ok(false),
        }
        kept.sources += 1;
        for table in [&LEDGER, &AUDIT, &TILES] {
            let whole = self.salvage(table, source, new).await?;
            kept.note(table, whole, first);
        }
        // What changes is taken from one place only, unless a part of it cannot be read there.
        for table in [
            &KEYS,
            &SECRETS,
            &POLICY,
            &OUTBOX,
            &IN_FORCE,
            &PERSON_KEYS,
            &CONTENT,
            &AGENTS,
            &SESSIONS,
            &MESSAGES,
            &RUNS,
            &TOOL_CALLS,
            &SESSION_EVENTS,
            &SUMMARIES,
        ] {
            if kept.whole.contains(table.name) {
                continue;
            }
            let whole = self.salvage(table, source, new).await?;
            kept.note(table, whole, first);
        }
        // The copy has them as they were when it was made, where the old database cannot say.
        if !self.carry_numbers(source, new).await? && first {
            kept.damaged.insert("sqlite_sequence");
        }
        Ok(true)
    }

    async fn log_facts(&self, source: &Arc<Place>, facts: &mut LogFacts) {
        let edge = self.engine().read(source, edge_of).await;
        if let Ok((edge, size)) = edge
            && size >= facts.size
        {
            (facts.edge, facts.size) = (edge, size);
        }
        let note = self.engine().read(source, stored_head).await;
        if let Ok(Some(note)) = note
            && let Ok(SignedCheckpoint { checkpoint, .. }) = Checkpoint::open(&note, &facts.keys)
        {
            facts.heads.push(Head {
                size: checkpoint.size,
                root: checkpoint.root,
            });
        }
    }

    async fn put_records(
        &self,
        new: &Arc<Place>,
        records: Vec<Pending>,
    ) -> Result<(), KernelError> {
        for batch in records.chunks(BATCH) {
            let batch = batch.to_vec();
            let written = self.engine().write(new, move |tx| {
                for record in &batch {
                    put_record(tx, record)?;
                }
                Ok(())
            });
            written.await?;
        }
        Ok(())
    }

    async fn recount(
        &self,
        new: &Arc<Place>,
        sums: Sums,
        kept: &mut Kept,
    ) -> Result<(), KernelError> {
        let mut count = fold::Recount::default();
        let mut after = -1;
        loop {
            // What sums are made of.
            let page = self
                .engine()
                .read(new, move |tx| fold::counted_rows(tx, after))
                .await?;
            let Some(last) = page.last() else { break };
            after = signed(last.sent_seq);
            kept.rows += u64::try_from(page.len()).unwrap_or_default();
            page.iter().for_each(|row| count.add(row));
        }
        let had = self
            .engine()
            .write(new, move |tx| {
                count.write(tx)?;
                sums.keep_larger(tx)?;
                let sql = "SELECT COALESCE(SUM(attempts), 0) FROM rollup";
                Ok(tx
                    .query_one(sql, params![], |row| Ok(row.get::<_, i64>(0)?))?
                    .unwrap_or_default())
            })
            .await?;
        let summed = u64::try_from(had)
            .unwrap_or_default()
            .saturating_sub(kept.rows);
        let logged = self.engine().read(new, attempts_in_the_log).await?;
        kept.rows_lost = summed.max(logged.saturating_sub(kept.rows));
        Ok(())
    }

    /// Secrets of a copy that were sealed under keys that are gone.
    async fn drop_unreadable_secrets(
        &self,
        resident: &Arc<Resident>,
        new: &Arc<Place>,
        kept: &mut Kept,
    ) -> Result<(), KernelError> {
        let keys = self.keys(resident)?;
        let stored = self.engine().read(new, crate::secrets::stored).await?;
        for (name, sealed) in stored {
            kept.secrets += 1;
            let one = vec![(name.clone(), sealed)];
            if crate::secrets::open_all(resident, &keys.secrets(), one).is_ok() {
                continue;
            }
            kept.secrets -= 1;
            kept.secrets_lost.push(name.clone());
            let sql = "DELETE FROM secrets WHERE name = ?1";
            self.engine()
                .write(new, move |tx| tx.execute(sql, params![name]))
                .await?;
        }
        Ok(())
    }

    async fn grow_log(
        &self,
        resident: &Resident,
        new: &Arc<Place>,
        facts: &mut LogFacts,
    ) -> Result<Regrown, KernelError> {
        let stored = self.engine().read(new, extent).await?;
        let heads = facts.heads.iter().map(|head| head.size).max();
        let size = stored.max(facts.size).max(heads.unwrap_or_default());
        let width = vault::tlog::TILE_WIDTH as u64;
        let log = Log {
            size,
            edge_bundle: facts.size / width,
            edge: &facts.edge,
        };
        let by_entries = self
            .regrow(resident, new, &log, &facts.heads, Trusted::Entries)
            .await?;
        if by_entries.fits() || facts.heads.is_empty() {
            return Ok(by_entries);
        }
        let mut by_hashes = self
            .regrow(resident, new, &log, &facts.heads, Trusted::Hashes)
            .await?;
        by_hashes.replaced = by_entries.replaced;
        Ok(by_hashes)
    }

    /// The key in force, as the new database has it; the tenant's first one where that is lost.
    async fn signer_in(
        &self,
        resident: &Resident,
        new: &Arc<Place>,
    ) -> Result<Arc<Signer>, KernelError> {
        let first = Signer::first(resident, self.keys(resident)?.as_ref())?;
        let sealed = self
            .engine()
            .read(new, crate::audit::rekey::in_force)
            .await?;
        Ok(Arc::new(match sealed {
            None => first,
            Some(sealed) => first.successor(&sealed)?,
        }))
    }

    fn entry_about(&self, resident: &Resident, grown: &Regrown, kept: &Kept, why: &str) -> String {
        let mut detail: BTreeMap<&'static str, String> = BTreeMap::new();
        detail.insert("reason", why.chars().take(500).collect());
        detail.insert("lost_rows", kept.rows_lost.to_string());
        if !grown.lost.is_empty() {
            detail.insert("lost_entries", grown.lost.clone().shortened());
        }
        if !grown.replaced.is_empty() {
            detail.insert("replaced_entries", grown.replaced.clone().shortened());
        }
        if !kept.secrets_lost.is_empty() {
            detail.insert("lost_secrets", kept.secrets_lost.join(" "));
        }
        if !kept.damaged.is_empty() {
            detail.insert("damaged_tables", kept.damaged_tables().join(" "));
        }
        let fits = if kept.log_fits { "yes" } else { "no" };
        detail.insert("goes_on_from_checkpoints", fits.to_owned());
        Entry {
            action: REPAIR,
            actor: Some("operator"),
            decision: "allow",
            detail,
            seq: grown.size(),
            tenant: resident.id.as_str(),
            time: self.now().to_string(),
            ..Entry::default()
        }
        .canonical()
    }
}

fn put_record(tx: &mut WriteTx<'_>, record: &Pending) -> Result<(), StoreError> {
    if let Some(row) = &record.row {
        fold::insert_row(tx, row)?;
    }
    let unsent = record
        .sent
        .filter(|_| record.row.is_none())
        .map(|sent| signed(sent.number()));
    let sql =
        "INSERT OR IGNORE INTO audit (seq, journal_seq, entry, unsent_seq) VALUES (?1, ?2, ?3, ?4)";
    let (seq, journal) = (signed(record.audit_seq), signed(record.seq.number()));
    tx.execute(sql, params![seq, journal, record.entry, unsent])
        .map(|_| ())
}

fn edge_of(tx: &ReadTx<'_>) -> Result<(Vec<Hash>, u64), StoreError> {
    let edge: Edge = crate::audit::tree::stored_edge(tx)?;
    Ok((
        edge.levels().first().cloned().unwrap_or_default(),
        edge.size(),
    ))
}

/// How many entries the log has had at least, by its entries and by its tiles.
fn extent(tx: &ReadTx<'_>) -> Result<u64, StoreError> {
    let sql = "SELECT MAX(COALESCE((SELECT MAX(seq) + 1 FROM audit), 0),
        COALESCE((SELECT (MAX(place) + 1) * 256 FROM audit_tile WHERE level = 0), 0))";
    let extent = tx.query_one(sql, params![], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(extent
        .and_then(|extent| u64::try_from(extent).ok())
        .unwrap_or_default())
}

/// Attempts that the log has entries about and the ledger rows of.
fn attempts_in_the_log(tx: &ReadTx<'_>) -> Result<u64, StoreError> {
    let sql = "SELECT COUNT(*) FROM audit WHERE json_extract(entry, '$.action') = 'call_model'
        AND json_extract(entry, '$.outcome') <> 'not_sent'";
    let count = tx.query_one(sql, params![], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(count
        .and_then(|count| u64::try_from(count).ok())
        .unwrap_or_default())
}

const MODELS: &str = "day, model, attempts, tokens_in, tokens_out, cost_pico, charged_pico, charged_tokens, requests";
const PARTIES: &str = "day, kind, name, requests, charged_tokens, charged_pico";

fn sums_of(tx: &ReadTx<'_>) -> Result<Sums, StoreError> {
    let all = |columns: &str, table: &str| {
        let width = columns.split(',').count();
        let sql = format!("SELECT {columns} FROM {table}");
        tx.query(&sql, params![], SUMS_MAX, |row| {
            Ok((0..width)
                .map(|at| row.get(at))
                .collect::<Result<Vec<Value>, _>>()?)
        })
    };
    Ok(Sums {
        models: all(MODELS, "rollup")?,
        parties: all(PARTIES, "party_rollup")?,
    })
}

impl Sums {
    // Rows that are lost are in the sums of before; rows that were not folded yet are in the new ones only.
    fn keep_larger(self, tx: &mut WriteTx<'_>) -> Result<(), StoreError> {
        for (table, columns, key, counted, rows) in [
            ("rollup", MODELS, 2, "attempts", self.models),
            ("party_rollup", PARTIES, 3, "requests", self.parties),
        ] {
            let names: Vec<_> = columns.split(", ").collect();
            let marks: Vec<_> = (1..=names.len()).map(|at| format!("?{at}")).collect();
            let keep: Vec<_> = names[key..]
                .iter()
                .map(|name| format!("{name} = excluded.{name}"))
                .collect();
            let sql = format!(
                "INSERT INTO {table} ({columns}) VALUES ({}) ON CONFLICT DO UPDATE SET {} WHERE excluded.{counted} > {table}.{counted}",
                marks.join(", "),
                keep.join(", ")
            );
            for row in rows {
                tx.execute(&sql, store::sql::params_from_iter(row))?;
            }
        }
        Ok(())
    }
}

impl Kept {
    fn note(&mut self, table: &'static Table, whole: bool, first: bool) {
        if whole {
            self.whole.insert(table.name);
        } else if first {
            self.damaged.insert(table.name);
        }
    }
}
