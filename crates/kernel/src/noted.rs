//! What of the operator's holds for a tenant, noted in its log when it is another than before: the configuration that came of the
//! operator's file and the tenant's overlay, and the rate card.
//!
//! A tenant that is not open hears of it when it is opened next, before it is served. A crash between the entry and the note of it
//! makes the entry come twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};

use crate::audit::Entry;
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::sweep::Operator;

/// A rate card in force.
#[derive(Clone, Debug)]
pub(crate) struct RateCardInForce {
    version: Arc<str>,
    /// The file that it was imported from, where one was in this process.
    file: Option<Arc<str>>,
}

/// What a tenant's log said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    config: Option<String>,
    ratecard: Option<String>,
}

impl Kernel {
    /// Names the rate card in force, before the first tenant is opened.
    pub fn begin_with_ratecard(&self, version: &str) {
        self.ratecard().store(Some(Arc::new(RateCardInForce {
            version: version.into(),
            file: None,
        })));
    }

    /// Notes another rate card in the log of every open tenant; the others hear of it when they are opened. Returns when the
    /// entries are durable: then the card may come into force.
    ///
    /// # Errors
    /// [`KernelError::JournalDown`]: the card must not come into force.
    pub async fn change_ratecard(
        &self,
        _operator: &Operator,
        version: &str,
        file: &str,
    ) -> Result<(), KernelError> {
        let card = RateCardInForce {
            version: version.into(),
            file: Some(file.into()),
        };
        // Stored first: a tenant that is opened from now on hears of this one.
        let before = self.ratecard().swap(Some(Arc::new(card.clone())));
        if before.is_some_and(|before| before.version == card.version) {
            return Ok(());
        }
        let mut last = None;
        let mut heard = Vec::new();
        for resident in self.directory().all() {
            let open = resident.loaded.get().is_some() && !resident.is_dead();
            if open && resident.quarantine.load().is_none() {
                last = Some(self.record_ratecard(&resident, &card)?);
                heard.push(resident);
            }
        }
        if let Some(last) = last {
            self.durable(last).await?;
        }
        let kernel = self.clone();
        self.tasks().spawn(async move {
            for resident in heard {
                let version = card.version.to_string();
                kernel
                    .keep_noted(&resident, move |tx| set(tx, RATECARD, &version))
                    .await;
            }
        });
        Ok(())
    }

    /// Compares what holds for a tenant that is being opened with what its log said last, and says what is new.
    pub(crate) async fn note_in_force(&self, resident: &Resident) -> Result<(), KernelError> {
        let place = self.place(resident)?;
        let read = self.engine().read(&place, noted).await;
        let before = self.own_data(resident, read)?;
        let (card, settings) = (self.ratecard().load_full(), resident.settings.load_full());
        let now = Noted {
            config: Some(settings.config_hash.to_string()),
            ratecard: card
                .as_ref()
                .map(|card| card.version.to_string())
                .or_else(|| before.ratecard.clone()),
        };
        if now == before {
            return Ok(());
        }
        let mut last = None;
        // A log that has said nothing yet belongs to a new tenant: its first entries are of these already.
        if before.config.is_some() && before.config != now.config {
            last = Some(self.record_config(resident, "configuration")?);
        }
        if let Some(card) = card.filter(|_| before.ratecard.is_some())
            && before.ratecard != now.ratecard
        {
            last = Some(self.record_ratecard(resident, &card)?);
        }
        if let Some(last) = last {
            self.durable(last).await?;
        }
        let write = self
            .engine()
            .write(&place, move |tx| {
                for (name, value) in [(CONFIG, now.config), (RATECARD, now.ratecard)] {
                    if let Some(value) = value {
                        set(tx, name, &value)?;
                    }
                }
                Ok(())
            })
            .await;
        self.own_data(resident, write)
    }

    /// Notes the overlay that a tenant of this process has changed.
    pub(crate) fn note_overlay(&self, resident: &Arc<Resident>) {
        if self.record_config(resident, "overlay file").is_err() {
            self.log().event(
                self.now(),
                Some(&resident.id),
                "overlay change not recorded",
                &[],
            );
            return;
        }
        let (kernel, resident) = (self.clone(), Arc::clone(resident));
        self.tasks().spawn(async move {
            let hash = resident.settings.load().config_hash.to_string();
            kernel
                .keep_noted(&resident, move |tx| set(tx, CONFIG, &hash))
                .await;
        });
    }

    fn record_config(
        &self,
        resident: &Resident,
        actor: &'static str,
    ) -> Result<store::Seq, KernelError> {
        let (time, settings) = (self.now().to_string(), resident.settings.load_full());
        self.record_event(resident, |seq| Entry {
            action: "config.change",
            actor: Some(actor),
            config: Some(&settings.config_hash),
            decision: "allow",
            seq,
            tenant: resident.id.as_str(),
            time,
            ..Entry::default()
        })
    }

    fn record_ratecard(
        &self,
        resident: &Resident,
        card: &RateCardInForce,
    ) -> Result<store::Seq, KernelError> {
        let time = self.now().to_string();
        let file = card.file.as_deref().map(|file| ("file", file.to_owned()));
        self.record_event(resident, |seq| Entry {
            action: "ratecard.change",
            actor: Some("operator"),
            decision: "allow",
            detail: file.into_iter().collect::<BTreeMap<_, _>>(),
            ratecard_version: Some(&card.version),
            seq,
            tenant: resident.id.as_str(),
            time,
            ..Entry::default()
        })
    }

    // What is not kept is said once more when the tenant is opened next.
    async fn keep_noted(
        &self,
        resident: &Resident,
        write: impl FnOnce(&mut WriteTx<'_>) -> Result<(), StoreError> + Send + 'static,
    ) {
        if let Ok(place) = self.place(resident) {
            let written = self.engine().write(&place, write).await;
            let _quarantined_or_said_again = self.checked(resident, written);
        }
    }
}

const CONFIG: &str = "config";
const RATECARD: &str = "ratecard";

fn noted(tx: &ReadTx<'_>) -> Result<Noted, StoreError> {
    let value = |name: &str| {
        let sql = "SELECT value FROM in_force WHERE name = ?1";
        tx.query_one(sql, params![name], |row| Ok(row.get(0)?))
    };
    Ok(Noted {
        config: value(CONFIG)?,
        ratecard: value(RATECARD)?,
    })
}

fn set(tx: &mut WriteTx<'_>, name: &str, value: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO in_force (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    tx.execute(sql, params![name, value]).map(|_| ())
}
