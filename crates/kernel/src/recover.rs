//! Opening a tenant: keys, database, what a crash left in the journal, counters, secrets.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use base::{Money, TenantId, TenantUid, Timestamp, UtcDay};
use rustix::io::Errno;
use store::sql::params;
use store::{Place, ReadTx, RecordKind, RecordRef, StoreError};
use tokio::sync::oneshot;
use vault::TenantKeys;

use crate::audit::record_aad;
use crate::error::KernelError;
use crate::journal_record::{self, Payload, Row};
use crate::ledger::{Ended, Settlement, append_settled};
use crate::log::Field;
use crate::open::Kernel;
use crate::policies::{self, OwnPolicy};
use crate::quota::{Demand, Meters, PartyKind};
use crate::resident::{Pending, Resident};
use crate::{fold, schema, secrets};

/// Days and models of one month that are read back.
const ROLLUPS_MAX: usize = 1_000_000;
/// The longest sliding window, and a slot more.
const RECENT_MS: i64 = 62_000;

impl Kernel {
    /// Opens a tenant once: later calls return at once. A failure that is the tenant's own puts it in quarantine.
    pub(crate) async fn load(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        if let Some(found) = resident.quarantine.load_full() {
            return Err(KernelError::Quarantined(found.why.clone()));
        }
        if resident.loaded.get().is_some() {
            return Ok(());
        }
        // In a task of its own: a caller that goes away must not leave a tenant half open.
        let (done, opened) = oneshot::channel();
        let (kernel, opening) = (self.clone(), Arc::clone(resident));
        self.tasks().spawn(async move {
            let opened = opening
                .loaded
                .get_or_try_init(|| kernel.open_tenant(&opening))
                .await;
            // The caller may be gone; the tenant is open all the same.
            let _nobody_waits = done.send(opened.copied());
        });
        match opened.await.unwrap_or(Err(KernelError::Busy)) {
            Ok(()) => Ok(()),
            Err(KernelError::Store(error)) => self.own_data(resident, Err(error)),
            Err(KernelError::Busy) => {
                if let Some(place) = resident.place.get() {
                    // What a lack of descriptors made the engine open for reading only stays so until nobody has it open.
                    let _still_open_at_worst = self.engine().close(place).await;
                }
                Err(KernelError::Busy)
            }
            Err(KernelError::Quarantined(why)) => Err(self.out_of_service(resident, why)),
            Err(other) => Err(other),
        }
    }

    async fn open_tenant(&self, resident: &Arc<Resident>) -> Result<(), KernelError> {
        // A fold between two tries would move what the second one looks for.
        let _no_fold_meanwhile = resident.folding.lock().await;
        let recovered = self.recover(resident).await?;
        // Only now, when nothing can fail any more: a second try reads these records again.
        self.journal().folded(&recovered);
        self.recovered_is_done(resident);
        self.measure_storage(resident).await;
        self.read_overlay(resident);
        if let Err(error) = self.note_in_force(resident).await {
            // It is said when the tenant is opened next: no reason not to serve it, and its store's own trouble is told apart.
            let text = error.to_string();
            let fields = [("error", Field::Text(&text))];
            self.log().event(
                self.now(),
                Some(&resident.id),
                "configuration and rate card not noted",
                &fields,
            );
        }
        Ok(())
    }

    /// Everything of an opening that can fail; a second try does nothing twice. Returns the journal's records that the database
    /// has now.
    async fn recover(&self, resident: &Arc<Resident>) -> Result<Vec<store::Seq>, KernelError> {
        let place = self.place(resident)?;
        let keys = self.keys(resident)?;
        self.check_journal_damage(resident).await?;
        self.end_open_rotation(resident).await?;
        let Recovered {
            orphans,
            durable,
            mut folded,
            audit_next,
        } = self.recovered_payloads(resident, &keys)?;
        self.open_audit_key(resident).await?;
        let signer = self.audit_signer(resident)?;
        let grown = self
            .engine()
            .write(&place, move |tx| fold::insert(tx, &durable, &signer))
            .await?;
        resident.audit_grew(grown);
        self.forget_laid_key(resident).await?;
        self.register_audit_key(resident).await?;
        self.check_audit_head(resident).await?;
        let since = Since {
            month: self.now().day().month().first_day(),
            recent_ms: self.now().unix_ms() - RECENT_MS,
        };
        let sent: Vec<i64> = orphans
            .iter()
            .map(|orphan| i64::try_from(orphan.seq.number()).unwrap_or(i64::MAX))
            .collect();
        let state = self
            .engine()
            .read(&place, move |tx| stored_state(tx, &since, &sent))
            .await?;
        self.find_alerts(resident).await?;
        let opened = secrets::open_all(resident, &keys.secrets(), state.secrets)?;
        resident.secrets.store(Arc::new(opened));
        self.open_policy(resident, state.policy).await;
        self.restore_counters(resident, state.audit_next.max(audit_next), &state.used);
        for (orphan, ended) in orphans.into_iter().zip(state.ended) {
            if ended {
                // A `sent` record can outlive the segment of its settlement: the database knows how it ended.
                folded.push(orphan.seq);
            } else {
                self.settle_orphan(resident, &orphan).await?;
            }
        }
        self.tell_erased(resident).await?;
        Ok(folded)
    }

    fn restore_counters(&self, resident: &Resident, audit_next: u64, used: &[Used]) {
        let now = self.now();
        let mut books = resident.books();
        // From nothing: an earlier try that failed half-way may have counted already.
        books.counters = Meters::default();
        // What that try recorded waits for its fold, so the database does not know its numbers yet.
        books.audit_next = books.audit_next.max(audit_next);
        for Used { by, at, charged } in used {
            let by = by.as_ref().map(|(kind, name)| (*kind, name.as_str()));
            match at {
                When::Day(day) => books.counters.restore_day(by, day.start(), *charged, now),
                When::Recent(at) => books.counters.restore_recent(by, *at, *charged, now),
            }
        }
    }

    /// An attempt that a crash left open: recorded as unknown, charged at its hold, once.
    async fn settle_orphan(
        &self,
        resident: &Arc<Resident>,
        orphan: &Orphan,
    ) -> Result<(), KernelError> {
        let earlier = settled_before(resident, orphan.seq);
        if let Some((settled, row)) = earlier {
            self.count_orphan(resident, &row);
            return self.durable(settled).await;
        }
        let row = Row::unknown(orphan.seq.number(), &orphan.sent, self.now());
        self.count_orphan(resident, &row);
        let ended = Ended {
            at: self.now(),
            row: Some(row),
            notes: None,
        };
        let settled = append_settled(
            self,
            resident,
            orphan.seq,
            &orphan.sent,
            ended,
            &Settlement::unknown(),
        )?;
        self.durable(settled).await
    }

    fn count_orphan(&self, resident: &Resident, row: &Row) {
        let (now, started) = (self.now(), Timestamp::from_unix_ms(row.started_ms));
        let mut books = resident.books();
        for by in [None].into_iter().chain(row.parties().map(Some)) {
            let charged = row.charged();
            books.counters.restore_day(by, started, charged, now);
            books.counters.restore_recent(by, started, charged, now);
        }
    }

    /// Reads what the journal held of this tenant at start, opened with its own key.
    fn recovered_payloads(
        &self,
        resident: &Resident,
        keys: &TenantKeys,
    ) -> Result<Recovered, KernelError> {
        let records = self.recovered_records(resident);
        let settled: HashSet<u64> = records
            .iter()
            .filter(|record| record.kind == RecordKind::Settled)
            .filter_map(|record| record.reference.map(|seq| seq.number()))
            .collect();
        let mut recovered = Recovered::default();
        for record in &records {
            let payload = self.open_payload(resident, keys, record)?;
            match payload {
                Payload::Sent(sent) if !settled.contains(&record.seq.number()) => {
                    recovered.orphans.push(Orphan {
                        seq: record.seq,
                        sent,
                    });
                }
                Payload::Sent(_) => recovered.folded.push(record.seq),
                Payload::Settled {
                    row,
                    audit_seq,
                    entry,
                    content,
                } => {
                    let (sent, row) = (record.reference, row.map(|row| *row));
                    recovered.durable.push(Pending {
                        seq: record.seq,
                        sent,
                        row,
                        audit_seq,
                        entry,
                        content,
                    });
                    recovered.folded.push(record.seq);
                }
                Payload::Event { audit_seq, entry } => {
                    recovered.durable.push(Pending {
                        seq: record.seq,
                        sent: None,
                        row: None,
                        audit_seq,
                        entry,
                        content: None,
                    });
                    recovered.folded.push(record.seq);
                }
            }
        }
        let last = recovered
            .durable
            .iter()
            .map(|record| record.audit_seq)
            .max();
        recovered.audit_next = last.map_or(0, |last| last + 1);
        Ok(recovered)
    }

    /// The records that say how something ended, as far as they open, and those that do not.
    pub(crate) fn readable_records(
        &self,
        resident: &Resident,
        keys: &TenantKeys,
    ) -> (Vec<Pending>, Vec<store::Seq>) {
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        for record in self.recovered_records(resident) {
            let payload = self.open_payload(resident, keys, &record);
            let (row, audit_seq, entry, content) = match payload {
                Ok(Payload::Sent(_)) => continue,
                Ok(Payload::Settled {
                    row,
                    audit_seq,
                    entry,
                    content,
                }) => (row.map(|row| *row), audit_seq, entry, content),
                Ok(Payload::Event { audit_seq, entry }) => (None, audit_seq, entry, None),
                Err(_) => {
                    unreadable.push(record.seq);
                    continue;
                }
            };
            records.push(Pending {
                seq: record.seq,
                sent: record.reference,
                row,
                audit_seq,
                entry,
                content,
            });
        }
        (records, unreadable)
    }

    fn open_payload(
        &self,
        resident: &Resident,
        keys: &TenantKeys,
        record: &RecordRef,
    ) -> Result<Payload, KernelError> {
        let damaged = || {
            KernelError::Quarantined(format!(
                "journal record {} does not open",
                record.seq.number()
            ))
        };
        let sealed = self.journal().read(record).map_err(|_| damaged())?;
        let plain = keys
            .journal
            .open(&record_aad(resident, record.seq), &sealed)
            .map_err(|_| damaged())?;
        journal_record::read(record.kind, &plain)
    }

    /// The tenant's keys, unwrapped at first use.
    pub(crate) fn keys(&self, resident: &Resident) -> Result<Arc<TenantKeys>, KernelError> {
        if let Some(keys) = resident.keys.get() {
            return Ok(Arc::clone(keys));
        }
        let wrapped = resident
            .wrapped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let wrapped = wrapped.as_ref().ok_or(KernelError::Revoked)?;
        let refused =
            |_| KernelError::Quarantined("its keys do not open under this master key".to_owned());
        let root = self
            .master()
            .unwrap(&resident.uid, &wrapped.root)
            .map_err(refused)?;
        let keys = TenantKeys::open(&root, &resident.uid, &wrapped.sealed).map_err(refused)?;
        Ok(Arc::clone(resident.keys.get_or_init(|| Arc::new(keys))))
    }

    /// Where the tenant's database is, and its key. A quarantined tenant's is not to be had: nothing is written to it.
    pub(crate) fn place(&self, resident: &Resident) -> Result<Arc<Place>, KernelError> {
        if let Some(found) = resident.quarantine.load_full() {
            return Err(KernelError::Quarantined(found.why.clone()));
        }
        if let Some(place) = resident.place.get() {
            return Ok(Arc::clone(place));
        }
        let keys = self.keys(resident)?;
        // A database that is gone is damage, not a reason to begin anew.
        let place = self
            .tenant_place(&resident.id, resident.uid, &keys)?
            .existing();
        Ok(Arc::clone(resident.place.get_or_init(|| Arc::new(place))))
    }

    pub(crate) fn tenant_place(
        &self,
        id: &TenantId,
        uid: TenantUid,
        keys: &TenantKeys,
    ) -> Result<Place, KernelError> {
        self.tenant_place_named(id, uid, keys, "tenant.db")
    }

    /// A database in the tenant's directory.
    pub(crate) fn tenant_place_named(
        &self,
        id: &TenantId,
        uid: TenantUid,
        keys: &TenantKeys,
        file: &'static str,
    ) -> Result<Place, KernelError> {
        let refused = |error: std::io::Error| {
            let errno = error.raw_os_error().map(Errno::from_raw_os_error);
            match errno.map(StoreError::from) {
                // A lack of the machine's, not of the tenant's.
                Some(lack @ (StoreError::Busy | StoreError::Full)) => lack.into(),
                _ => KernelError::Quarantined("its directory cannot be opened".to_owned()),
            }
        };
        let tenants = self.root().sub("tenants")?;
        let dir = crate::root::open_sub(&tenants, id.as_str()).map_err(refused)?;
        let path = self.root().tenant_path(id);
        let handle = crate::root::syncable(&dir, &path)?;
        Ok(Place::new(
            handle,
            path,
            file,
            Arc::clone(&keys.database),
            uid,
            &schema::TENANT,
        )
        // The key of a person that is forgotten must not stay in a page that nothing refers to.
        .with_secure_delete())
    }

    /// Like [`Kernel::checked`] for our own statements over the tenant's data: one that fails is no passing trouble.
    pub(crate) fn own_data<T>(
        &self,
        resident: &Resident,
        result: Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        match result {
            Err(error @ StoreError::Query { .. }) => self.quarantined(resident, &error),
            other => self.checked(resident, other),
        }
    }

    /// Turns a store's failure into the tenant's quarantine where it is the tenant's own.
    pub(crate) fn checked<T>(
        &self,
        resident: &Resident,
        result: Result<T, StoreError>,
    ) -> Result<T, KernelError> {
        let error = match result {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if passing(&error) {
            return Err(error.into());
        }
        self.quarantined(resident, &error)
    }

    fn quarantined<T>(&self, resident: &Resident, error: &StoreError) -> Result<T, KernelError> {
        Err(self.out_of_service(resident, error.to_string()))
    }

    fn out_of_service(&self, resident: &Resident, why: String) -> KernelError {
        // A deletion takes the files away under those who still read them: nothing is damaged.
        if resident.is_dead() {
            return KernelError::Revoked;
        }
        self.quarantine(resident, &why);
        KernelError::Quarantined(why)
    }
}

/// What the journal held of one tenant.
#[derive(Default)]
struct Recovered {
    orphans: Vec<Orphan>,
    durable: Vec<Pending>,
    folded: Vec<store::Seq>,
    /// The audit sequence after the last one in the journal.
    audit_next: u64,
}

struct Orphan {
    seq: store::Seq,
    sent: Box<journal_record::Sent>,
}

/// What the database knows at opening.
struct Stored {
    secrets: Vec<(String, Vec<u8>)>,
    policy: Option<OwnPolicy>,
    audit_next: u64,
    used: Vec<Used>,
    /// For each attempt asked about: whether its end is recorded.
    ended: Vec<bool>,
}

/// An amount that counts against quotas: of the tenant, or of one person or token.
struct Used {
    by: Option<(PartyKind, String)>,
    at: When,
    charged: Demand,
}

/// Days and months are restored from roll-ups, sliding windows from single rows.
enum When {
    Day(UtcDay),
    Recent(Timestamp),
}

/// How far back counters are restored.
struct Since {
    month: UtcDay,
    recent_ms: i64,
}

/// What an earlier try to open the tenant recorded of an attempt and the database does not have yet.
fn settled_before(resident: &Resident, sent: store::Seq) -> Option<(store::Seq, Row)> {
    let books = resident.books();
    let found = books
        .pending
        .iter()
        .find(|pending| pending.sent == Some(sent))?;
    Some((found.seq, found.row.clone()?))
}

/// Whether a failure says nothing about the tenant's data.
fn passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Busy | StoreError::Full | StoreError::Closed | StoreError::Query { .. }
    )
}

fn stored_state(tx: &ReadTx<'_>, since: &Since, sent: &[i64]) -> Result<Stored, StoreError> {
    let secrets = secrets::stored(tx)?;
    let policy = policies::stored(tx)?;
    let next: i64 = tx
        .query_one(
            "SELECT COALESCE(MAX(seq) + 1, 0) FROM audit",
            params![],
            |row| Ok(row.get(0)?),
        )?
        .unwrap_or_default();
    let mut used = days_used(tx, since)?;
    used.extend(recently_used(tx, since)?);
    let ended = sent
        .iter()
        .map(|seq| has_ended(tx, *seq))
        .collect::<Result<_, _>>()?;
    Ok(Stored {
        secrets,
        policy,
        audit_next: u64::try_from(next).unwrap_or_default(),
        used,
        ended,
    })
}

fn days_used(tx: &ReadTx<'_>, since: &Since) -> Result<Vec<Used>, StoreError> {
    let sql = "SELECT day, requests, charged_tokens, charged_pico, NULL, '' FROM rollup WHERE day >= ?1
        UNION ALL SELECT day, requests, charged_tokens, charged_pico, kind, name FROM party_rollup WHERE day >= ?1";
    tx.query(sql, params![since.month.number()], ROLLUPS_MAX, |row| {
        let kind: Option<String> = row.get(4)?;
        let by = match kind.as_deref() {
            None => None,
            Some(kind) => Some((
                PartyKind::from_name(kind).ok_or(StoreError::Damaged)?,
                row.get(5)?,
            )),
        };
        Ok(Used {
            by,
            at: When::Day(UtcDay::from_number(row.get(0)?)),
            charged: charged(row.get(1)?, row.get(2)?, row.get(3)?),
        })
    })
}

/// The rows of the longest sliding window, each for the tenant and for its person and token.
fn recently_used(tx: &ReadTx<'_>, since: &Since) -> Result<Vec<Used>, StoreError> {
    let sql = "SELECT started_ms, requests, charged_tokens, charged_pico, person, token FROM ledger
        WHERE finished_ms >= ?1 AND started_ms >= ?1";
    let rows = tx.query(sql, params![since.recent_ms], ROLLUPS_MAX, |row| {
        let at = Timestamp::from_unix_ms(row.get(0)?);
        let charged = charged(row.get(1)?, row.get(2)?, row.get(3)?);
        let (person, token): (Option<String>, String) = (row.get(4)?, row.get(5)?);
        let person = person.map(|name| Some((PartyKind::Person, name)));
        let who = [None, Some((PartyKind::Token, token))];
        let used = who.into_iter().chain(person).map(|by| Used {
            by,
            at: When::Recent(at),
            charged,
        });
        Ok(used.collect::<Vec<_>>())
    })?;
    Ok(rows.into_iter().flatten().collect())
}

fn charged(requests: i64, tokens: i64, pico: i64) -> Demand {
    let count = |value: i64| u64::try_from(value).unwrap_or_default();
    Demand {
        requests: count(requests),
        tokens: count(tokens),
        cost: Money::from_pico(i128::from(pico)),
    }
}

fn has_ended(tx: &ReadTx<'_>, sent: i64) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ledger WHERE sent_seq = ?1) OR EXISTS (SELECT 1 FROM audit WHERE unsent_seq = ?1)";
    Ok(tx
        .query_one(sql, params![sent], |row| Ok(row.get::<_, bool>(0)?))?
        .unwrap_or_default())
}

#[cfg(test)]
mod tests;
