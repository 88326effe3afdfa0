//! Records of the journal that are not as they were written: whose they were, and whether the tenant's database has them all the same.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;

use base::TenantUid;
use store::sql::params;
use store::{Damage, DamageCause, ReadTx, Seq, StoreError};

use crate::audit::tree::signed;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::resident::Resident;

/// Entries that are looked through, from the latest on, for a record that may be folded.
const ENTRIES_LOOKED_AT: i64 = 200_000;
/// Findings that belong to nobody and are shown.
const SHOWN_MAX: usize = 100;

/// What [`Kernel::open`] found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Damaged records by tenant, until each is known to be in the tenant's database.
    owned: HashMap<TenantUid, Vec<Damage>>,
    /// Damage that no tenant can be named for.
    unowned: Vec<JournalDamage>,
}

/// Damage of the journal that no tenant can be named for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalDamage {
    /// Where it is, in words.
    pub what: String,
    /// Whether a record may be lost by it.
    pub loses: bool,
}

impl Kernel {
    /// Sorts damage by tenant, but for what a repair has accounted for.
    pub(crate) fn take_in_damage(&self, damaged: Vec<Damage>, known: &HashSet<(TenantUid, u64)>) {
        let mut findings = Findings::default();
        for damage in damaged {
            let resident = damage.uid.and_then(|uid| self.directory().by_uid(&uid));
            match (damage.cause, resident) {
                // The last group before a power cut: nothing of it was confirmed to anybody.
                (DamageCause::Tail, _) => {
                    self.log_damage("journal tail of the last run is incomplete", &damage)
                }
                (_, Some(resident)) if known.contains(&(resident.uid, damage.seq.number())) => {}
                (_, Some(resident)) => findings.owned.entry(resident.uid).or_default().push(damage),
                // Of a tenant that is gone.
                (_, None) if damage.uid.is_some() => {}
                (cause, None) => {
                    self.log_damage("journal damage without an owner", &damage);
                    if findings.unowned.len() < SHOWN_MAX {
                        findings.unowned.push(JournalDamage {
                            what: shown(cause, damage.seq),
                            loses: !matches!(cause, DamageCause::Bit | DamageCause::Signature),
                        });
                    }
                }
            }
        }
        *self
            .findings()
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = findings;
    }

    fn log_damage(&self, event: &str, damage: &Damage) {
        let fields = [("record", Field::Number(damage.seq.number()))];
        self.log().event(self.now(), None, event, &fields);
    }

    /// Damage of the journal, as it was found at start, that no tenant can be named for.
    #[must_use]
    pub fn journal_damage(&self) -> Vec<JournalDamage> {
        let findings = self
            .findings()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        findings.unowned.clone()
    }

    /// The tenants with damaged records that were not looked at yet.
    pub(crate) fn tenants_with_damage(&self) -> Vec<TenantUid> {
        let findings = self
            .findings()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        findings.owned.keys().copied().collect()
    }

    pub(crate) fn damage_of(&self, resident: &Resident) -> Vec<Damage> {
        let findings = self
            .findings()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        findings
            .owned
            .get(&resident.uid)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn damage_is_settled(&self, resident: &Resident) {
        let mut findings = self
            .findings()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        findings.owned.remove(&resident.uid);
    }

    /// Passes over damaged records that the tenant's database has.
    ///
    /// # Errors
    /// [`KernelError::Quarantined`] for one that it does not have.
    pub(crate) async fn check_journal_damage(
        &self,
        resident: &Resident,
    ) -> Result<(), KernelError> {
        let damaged = self.damage_of(resident);
        if damaged.is_empty() {
            return Ok(());
        }
        // Of an attempt whose end is there nothing is missing.
        let ended: HashSet<Seq> = self
            .recovered_records(resident)
            .iter()
            .filter_map(|record| record.reference)
            .collect();
        let place = self.place(resident)?;
        let asked = damaged.clone();
        let read = self
            .engine()
            .read(&place, move |tx| {
                let missing = |damage: &Damage| Ok((!has(tx, damage.seq)?).then_some(*damage));
                asked
                    .iter()
                    .map(missing)
                    .collect::<Result<Vec<_>, StoreError>>()
            })
            .await;
        let missing = self.own_data(resident, read)?;
        let lost = missing
            .into_iter()
            .flatten()
            .find(|damage| !ended.contains(&damage.seq));
        match lost {
            Some(damage) => Err(KernelError::Quarantined(shown(damage.cause, damage.seq))),
            None => {
                self.damage_is_settled(resident);
                Ok(())
            }
        }
    }
}

fn shown(cause: DamageCause, seq: Seq) -> String {
    let number = seq.number();
    match cause {
        DamageCause::Bit => format!("journal record {number} has a flipped bit"),
        DamageCause::Signature | DamageCause::Chain => {
            format!("the journal's group that ends with record {number} is not as it was signed")
        }
        DamageCause::Header | DamageCause::Content | DamageCause::Order | DamageCause::Tail => {
            format!("journal record {number} is damaged")
        }
    }
}

/// Whether what the record said is in the database.
fn has(tx: &ReadTx<'_>, seq: Seq) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ledger WHERE sent_seq = ?1)
        OR EXISTS (SELECT 1 FROM audit WHERE unsent_seq = ?1)
        OR EXISTS (SELECT 1 FROM audit WHERE journal_seq = ?1 AND seq > (SELECT COALESCE(MAX(seq), 0) FROM audit) - ?2)";
    let found = tx.query_one(
        sql,
        params![signed(seq.number()), ENTRIES_LOOKED_AT],
        |row| Ok(row.get::<_, bool>(0)?),
    )?;
    Ok(found.unwrap_or_default())
}

/// Damaged records that a repair has accounted for.
pub(crate) fn accounted(tx: &ReadTx<'_>) -> Result<HashSet<(TenantUid, u64)>, StoreError> {
    let sql = "SELECT uid, seq FROM journal_losses";
    let rows = tx.query(sql, params![], crate::registry::ROWS_MAX, |row| {
        let seq: i64 = row.get(1)?;
        let seq = u64::try_from(seq).map_err(|_| StoreError::Damaged)?;
        Ok((TenantUid::from_bytes(row.get(0)?), seq))
    })?;
    Ok(rows.into_iter().collect())
}
