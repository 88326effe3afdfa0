//! How long entries are kept. What is older is dropped by whole bundles, after an entry that says so; the tree's hashes stay, so that
//! what is left still verifies.

use std::sync::Arc;
use std::time::Duration;

use base::{Timestamp, limits};
use store::sql::params;
use store::{ReadTx, StoreError};
use vault::tlog::TILE_WIDTH;

use crate::audit::tree::signed;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::resident::Resident;

/// The action of the entry.
pub(crate) const RETENTION: &str = "audit.retention";
/// Bundles that one look drops at most: the next look goes on.
const BUNDLES_PER_LOOK: u64 = 4_096;
/// Entries deleted in one transaction.
const DELETE_PAGE: u64 = 4_096;

impl Kernel {
    /// Looks once a UTC day at each open tenant's log for entries that are too old.
    pub(crate) async fn drop_old_entries(&self) {
        let today = self.now().day();
        for resident in self.directory().all() {
            if resident.loaded.get().is_none() || resident.quarantine.load().is_some() {
                continue;
            }
            if resident
                .audit_looked
                .swap(today.number(), std::sync::atomic::Ordering::Relaxed)
                == today.number()
            {
                continue;
            }
            if let Err(error) = self.drop_entries_before_their_time(&resident).await {
                let text = error.to_string();
                self.log().event(
                    self.now(),
                    Some(&resident.id),
                    "old audit entries not dropped",
                    &[("error", Field::Text(&text))],
                );
            }
        }
    }

    /// Drops the bundles whose last entry is older than the tenant's retention. Returns the first entry that is left.
    pub(crate) async fn drop_entries_before_their_time(
        &self,
        resident: &Arc<Resident>,
    ) -> Result<u64, KernelError> {
        let keep = resident.settings.load().audit_retention;
        let before = ago(self.now(), keep).to_string();
        let place = self.place(resident)?;
        let found = self
            .engine()
            .read(&place, move |tx| old_bundles(tx, &before))
            .await;
        let (first, to) = self.own_data(resident, found)?;
        if to == first {
            return Ok(first);
        }
        self.record_retention(resident, to, keep).await?;
        let mut from = first;
        while from < to {
            let end = to.min(from + DELETE_PAGE);
            let deleted = self
                .engine()
                .write(&place, move |tx| {
                    let sql = "DELETE FROM audit WHERE seq < ?1";
                    tx.execute(sql, params![signed(end)])?;
                    let sql = "DELETE FROM audit_content WHERE seq < ?1";
                    tx.execute(sql, params![signed(end)]).map(|_| ())
                })
                .await;
            self.own_data(resident, deleted)?;
            from = end;
        }
        Ok(to)
    }

    pub(super) async fn record_retention(
        &self,
        resident: &Resident,
        to: u64,
        keep: Duration,
    ) -> Result<(), KernelError> {
        let detail = [
            ("entries_before", to.to_string()),
            ("kept_days", (keep.as_secs() / 86_400).to_string()),
        ];
        self.record_done(resident, "partywall", RETENTION, |_seq| detail.into())
            .await
    }
}

fn ago(now: Timestamp, keep: Duration) -> Timestamp {
    let keep = keep.max(limits::AUDIT_RETENTION_MIN);
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_unix_ms(now.unix_ms().saturating_sub(keep))
}

/// The first entry that is there, and the first one after the bundles that are too old.
fn old_bundles(tx: &ReadTx<'_>, before: &str) -> Result<(u64, u64), StoreError> {
    let width = TILE_WIDTH as u64;
    let first = tx.query_one("SELECT MIN(seq) FROM audit", params![], |row| {
        Ok(row.get::<_, Option<i64>>(0)?)
    })?;
    let first = first.flatten().and_then(|first| u64::try_from(first).ok());
    let first = first.unwrap_or_default();
    let mut to = first;
    // Times have one length and one form: their order as text is their order in time.
    let sql = "SELECT json_extract(entry, '$.time') < ?2 FROM audit WHERE seq = ?1";
    while to < first + BUNDLES_PER_LOOK * width {
        let next = (to / width + 1) * width;
        let old = tx.query_one(sql, params![signed(next - 1), before], |row| {
            Ok(row.get::<_, bool>(0)?)
        })?;
        if old != Some(true) {
            break;
        }
        to = next;
    }
    Ok((first, to))
}
