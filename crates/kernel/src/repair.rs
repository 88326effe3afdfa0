//! A quarantined tenant's database built anew, from what can still be read of it, its last good copy and the journal.
//!
//! 1. The new database is built beside the old one, and nothing else is touched.
//! 2. The registry notes that it is ready. From here on a repair that was interrupted is gone on with, not begun anew.
//! 3. The old database and its write-ahead log are put aside as evidence, and the new one is renamed into their place.
//! 4. What is in place is opened and verified as a whole. Only then the registry forgets the quarantine.
//!
//! Nothing is forged: an entry of the audit log that is lost stays lost, the entry about the repair names it, and the log verifies
//! because of that entry alone. The old log's checkpoints hold where the hashes of what is lost were not lost with it.

pub(crate) mod log;
mod numbers;
pub(crate) mod ranges;
mod rebuild;
pub(crate) mod salvage;

use std::collections::HashSet;
use std::sync::Arc;

use base::TenantId;
use cap_std::fs::Dir;
use store::sql::params;
use store::{Place, Seq, WriteTx};

use crate::audit::seen::{Seen as Head, keep_head};
use crate::audit::tree::signed;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::quarantine::Quarantine;
use crate::resident::{Pending, Resident, WrappedKeys};
use crate::root::{io_error, sync_dir};
use crate::sweep::Operator;
use crate::tenant::Tenant;
use ranges::Ranges;

/// The action of the entry about a repair.
pub(crate) const REPAIR: &str = "tenant.repair";
/// The new database, until it is in place.
const NEW: &str = "tenant.db.new";
/// The last good copy.
pub(crate) const COPY: &str = "tenant.db.copy";
/// What the names of databases that were put aside begin with.
const ASIDE: &str = "tenant.db.damaged-";
/// Databases that are kept aside.
const ASIDE_MAX: usize = 2;

/// How far a repair is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Builds the new database, says what it holds, and takes it away again.
    Try,
    /// Puts it in place, unless nothing could be read of the old one or a copy.
    Repair,
    /// Puts it in place also where it holds nothing but what the journal has.
    BeginAnew,
}

/// What a repair kept and lost.
#[derive(Clone, Default, Debug)]
pub struct Kept {
    /// Databases that something could be read of: the old one, the last good copy.
    pub sources: u32,
    /// Rows of the ledger.
    pub rows: u64,
    /// Attempts that the sums or the audit log know and that have no row.
    pub rows_lost: u64,
    /// Entries of the log, the one about the repair included.
    pub entries: u64,
    /// Records that came from the journal.
    pub from_journal: u64,
    /// Secrets.
    pub secrets: u64,
    /// Whether the log goes on from every checkpoint that is known of it.
    pub log_fits: bool,
    /// Whether it is in place, and the tenant is served.
    pub in_place: bool,
    pub(crate) secrets_lost: Vec<String>,
    pub(crate) entries_lost: Ranges,
    pub(crate) entries_replaced: Ranges,
    whole: HashSet<&'static str>,
    damaged: HashSet<&'static str>,
}

impl Kept {
    /// Places of entries that are lost and whose hash is known.
    #[must_use]
    pub fn lost_entries(&self) -> String {
        self.entries_lost.clone().shortened()
    }

    /// Places where other entries stand, because what was there is lost with its hash.
    #[must_use]
    pub fn replaced_entries(&self) -> String {
        self.entries_replaced.clone().shortened()
    }

    /// Secrets that do not open, by name.
    #[must_use]
    pub fn lost_secrets(&self) -> &[String] {
        &self.secrets_lost
    }

    /// Tables of which the old database could not be read to the end.
    #[must_use]
    pub fn damaged_tables(&self) -> Vec<&'static str> {
        let mut tables: Vec<_> = self.damaged.iter().copied().collect();
        tables.sort_unstable();
        tables
    }

    /// Whether nothing is known to be lost.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rows_lost == 0
            && self.log_fits
            && self.entries_lost.is_empty()
            && self.entries_replaced.is_empty()
            && self.secrets_lost.is_empty()
    }
}

impl Kernel {
    /// Rebuilds a quarantined tenant's database and serves the tenant again.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for a tenant that is not quarantined or whose calls have not all ended, and where nothing could be
    /// read; [`KernelError::Quarantined`] when what was built does not verify.
    pub async fn repair_tenant(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        extent: Extent,
    ) -> Result<Kept, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        let found = resident
            .quarantine
            .load_full()
            .ok_or_else(|| KernelError::Refused(format!("{} is not quarantined", resident.id)))?;
        if resident.is_dead() {
            return Err(KernelError::Revoked);
        }
        if resident.books().counters.open_calls() > 0 {
            return Err(KernelError::Refused(format!(
                "calls of {} have not ended yet; try again",
                resident.id
            )));
        }
        let _no_fold_meanwhile = resident.folding.lock().await;
        let keys = self.keys(resident)?;
        let dir = self.root().tenant_dir(&resident.id)?;
        let (records, unreadable) = self.journal_of(resident)?;
        let kept = if self.is_ready(resident).await? {
            // What it kept and lost stands in its entry of the log.
            Kept::default()
        } else {
            let kept = self.build(resident, &dir, records, &found, extent).await?;
            if extent == Extent::Try {
                self.take_away(&dir, &resident.id, NEW)?;
                return Ok(kept);
            }
            kept
        };
        let damaged = self.damage_of(resident);
        let accounted = damaged.iter().map(|damage| damage.seq).chain(unreadable);
        let accounted: Vec<Seq> = accounted.collect();
        self.put_in_place(resident, &dir).await?;
        self.damage_is_settled(resident);
        self.forget_recovered(resident, &accounted);
        let fresh = self.successor(resident, &keys);
        if let Err(error) = self.verified(operator, &fresh).await {
            self.set_ready(resident, false).await?;
            return Err(error);
        }
        self.lift(resident, &fresh, accounted).await?;
        self.log().event(
            self.now(),
            Some(&resident.id),
            "tenant repaired",
            &[("reason", Field::Text(&found.why))],
        );
        Ok(Kept {
            in_place: true,
            ..kept
        })
    }

    /// Step 1 and 2.
    async fn build(
        &self,
        resident: &Arc<Resident>,
        dir: &Dir,
        records: Vec<Pending>,
        found: &Quarantine,
        extent: Extent,
    ) -> Result<Kept, KernelError> {
        self.take_away(dir, &resident.id, NEW)?;
        let place = |file| self.named_place(resident, file);
        let sources = [
            Arc::new(place("tenant.db")?.for_reading()),
            Arc::new(place(COPY)?.for_reading()),
        ];
        let new = Arc::new(place(NEW)?);
        self.engine().write(&new, |_tx| Ok(())).await?;
        let built = self
            .rebuild(resident, &new, &sources, records, &found.why)
            .await;
        for place in sources.iter().chain([&new]) {
            self.engine().close(place).await?;
        }
        let kept = built?;
        if dir.symlink_metadata(format!("{NEW}-wal")).is_ok() {
            // Its log could not be emptied.
            return Err(KernelError::Busy);
        }
        if extent == Extent::Repair && kept.sources == 0 {
            self.take_away(dir, &resident.id, NEW)?;
            return Err(KernelError::Refused(format!(
                "nothing of {}'s database can be read, and there is no copy of it: everything but {} records of the journal is lost. \
                 --anew begins with those",
                resident.id, kept.from_journal
            )));
        }
        if extent != Extent::Try {
            self.set_ready(resident, true).await?;
        }
        Ok(kept)
    }

    /// What the journal holds of the tenant, records of earlier runs that were never folded and those of this one; and which of its
    /// records do not open.
    fn journal_of(&self, resident: &Resident) -> Result<(Vec<Pending>, Vec<Seq>), KernelError> {
        let keys = self.keys(resident)?;
        let (mut records, mut unreadable) = (Vec::new(), Vec::new());
        if resident.loaded.get().is_none() {
            (records, unreadable) = self.readable_records(resident, &keys);
        }
        records.extend(resident.books().pending.iter().cloned());
        Ok((records, unreadable))
    }

    /// Step 3. Each rename may be the last one before the process ends.
    async fn put_in_place(&self, resident: &Resident, dir: &Dir) -> Result<(), KernelError> {
        // Nobody has the old file open when the new one is opened by the same name.
        let place = Arc::new(self.named_place(resident, "tenant.db")?);
        self.engine().abandon(&place).await?;
        self.rename_into_place(resident, dir)?;
        Ok(self.engine().abandon(&place).await?)
    }

    fn rename_into_place(&self, resident: &Resident, dir: &Dir) -> Result<(), KernelError> {
        let failed = |verb, error| io_error(&self.root().tenant_path(&resident.id), verb, &error);
        if dir.symlink_metadata(NEW).is_err() {
            // An earlier repair came so far.
            return Ok(());
        }
        let aside = format!("{ASIDE}{}", self.now().unix_seconds());
        // The log first: it must never lie beside the new database.
        for (from, to) in [
            ("tenant.db-wal", format!("{aside}-wal")),
            ("tenant.db", aside.clone()),
        ] {
            match dir.rename(from, dir, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("put aside a file in", error)),
            }
            sync_dir(dir).map_err(|error| failed("sync", error))?;
        }
        remove(dir, "tenant.db-shm").map_err(|error| failed("remove a file of", error))?;
        dir.rename(NEW, dir, "tenant.db")
            .and_then(|()| sync_dir(dir))
            .map_err(|error| failed("put the new database into", error))?;
        // What stays takes space, nothing else.
        let _best_effort = self.drop_evidence(resident, ASIDE_MAX);
        Ok(())
    }

    /// Removes what repairs have set aside, but for the last `keep`.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(crate) fn drop_evidence(
        &self,
        resident: &Resident,
        keep: usize,
    ) -> Result<(), KernelError> {
        let failed = |error| {
            let path = self.root().tenant_path(&resident.id);
            io_error(&path, "remove an old file of", &error)
        };
        let dir = self.root().tenant_dir(&resident.id)?;
        let entries = dir.entries().map_err(failed)?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut aside: Vec<_> = names
            .filter(|name| name.starts_with(ASIDE) && !name.ends_with("-wal"))
            .collect();
        aside.sort_unstable();
        let many = aside.len().saturating_sub(keep);
        for name in aside.into_iter().take(many) {
            let both = remove(&dir, &name).and_then(|()| remove(&dir, &format!("{name}-wal")));
            both.map_err(failed)?;
        }
        Ok(())
    }

    /// Step 4, first half: opens what is in place, and reads all of it.
    async fn verified(
        &self,
        operator: &Operator,
        fresh: &Arc<Resident>,
    ) -> Result<(), KernelError> {
        let uid = fresh.uid;
        let place = Arc::new(self.named_place(fresh, "tenant.db")?.for_reading());
        let edge = self
            .engine()
            .read(&place, crate::audit::tree::stored_edge)
            .await?;
        let head = Head {
            size: edge.size(),
            root: edge.root(),
        };
        // The one that the registry has may be one that the log does not go on from, as the entry about the repair says.
        let before = self.registered_head(fresh).await?;
        self.registry_write(move |tx| keep_head(tx, uid, &head))
            .await?;
        let read = self.opened_and_read(operator, fresh).await;
        if let (Err(_), Some(before)) = (&read, before) {
            self.registry_write(move |tx| keep_head(tx, uid, &before))
                .await?;
        }
        read
    }

    async fn opened_and_read(
        &self,
        operator: &Operator,
        fresh: &Arc<Resident>,
    ) -> Result<(), KernelError> {
        self.load(fresh).await?;
        let tenant = Tenant::mint_for_operator(self, fresh, operator);
        self.read_through(&tenant, std::time::Duration::ZERO).await
    }

    /// Step 4, second half.
    async fn lift(
        &self,
        old: &Arc<Resident>,
        fresh: &Arc<Resident>,
        accounted: Vec<Seq>,
    ) -> Result<(), KernelError> {
        let uid = old.uid;
        self.registry_write(move |tx| {
            for seq in accounted {
                let sql = "INSERT OR IGNORE INTO journal_losses (uid, seq) VALUES (?1, ?2)";
                tx.execute(sql, params![uid.as_bytes(), signed(seq.number())])?;
            }
            tx.execute(
                "DELETE FROM quarantines WHERE uid = ?1",
                params![uid.as_bytes()],
            )
        })
        .await?;
        // What waited in memory is in the database now.
        self.forget_pending(old);
        self.directory().replace(old, fresh);
        Ok(())
    }

    /// The tenant as it is served after its repair. Its journal's damage is behind it.
    fn successor(&self, old: &Resident, keys: &Arc<vault::TenantKeys>) -> Arc<Resident> {
        let account = old.account.load_full();
        let wrapped = old
            .wrapped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .as_ref()
            .map(|wrapped| WrappedKeys {
                root: wrapped.root.clone(),
                sealed: wrapped.sealed.clone(),
                next: wrapped.next.clone(),
            });
        let in_force = self.first_settings(&account);
        let fresh = Resident::new(
            old.id.clone(),
            old.uid,
            account.as_ref().clone(),
            wrapped,
            in_force,
        );
        // Those in use, with what a rotation of secrets has adopted.
        let _first_one = fresh.keys.set(Arc::clone(keys));
        fresh
    }

    fn named_place(&self, resident: &Resident, file: &'static str) -> Result<Place, KernelError> {
        let keys = self.keys(resident)?;
        self.tenant_place_named(&resident.id, resident.uid, &keys, file)
    }

    pub(crate) fn take_away(
        &self,
        dir: &Dir,
        id: &TenantId,
        name: &str,
    ) -> Result<(), KernelError> {
        for tail in ["", "-wal", "-shm"] {
            remove(dir, &format!("{name}{tail}")).map_err(|error| {
                io_error(&self.root().tenant_path(id), "remove a file of", &error)
            })?;
        }
        Ok(())
    }

    async fn is_ready(&self, resident: &Resident) -> Result<bool, KernelError> {
        let uid = resident.uid;
        let read = self.engine().read(self.registry_place(), move |tx| {
            let sql = "SELECT ready FROM quarantines WHERE uid = ?1";
            tx.query_one(sql, params![uid.as_bytes()], |row| {
                Ok(row.get::<_, bool>(0)?)
            })
        });
        let ready = read.await.map_err(crate::registry::registry_fault)?;
        Ok(ready.unwrap_or_default())
    }

    pub(crate) async fn set_ready(
        &self,
        resident: &Resident,
        ready: bool,
    ) -> Result<(), KernelError> {
        let uid = resident.uid;
        let changed = self
            .registry_write(move |tx: &mut WriteTx<'_>| {
                let sql = "UPDATE quarantines SET ready = ?2 WHERE uid = ?1";
                tx.execute(sql, params![uid.as_bytes(), ready])
            })
            .await?;
        match changed {
            0 => Err(KernelError::Busy),
            _ => Ok(()),
        }
    }
}

fn remove(dir: &Dir, name: &str) -> std::io::Result<()> {
    match dir.remove_file(name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod steps;
