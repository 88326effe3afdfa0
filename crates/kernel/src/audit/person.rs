//! Keys of persons: what a tenant's people said is sealed under a random key of each, so that one of them can be forgotten. Where no
//! person is known, the token takes that place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::{TenantUid, TokenName, limits};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use tokio::sync::oneshot;
use vault::{Aad, Key, TenantKeys, VaultError};

use super::conversations;
use crate::error::KernelError;
use crate::open::Kernel;
use crate::quota::PartyKind;
use crate::resident::Resident;
use crate::sweep::Operator;
use crate::tenant::Tenant;
use crate::tenant::admit::Admission;

/// Keys of one tenant that stay in memory; past it they are read again.
const KNOWN_MAX: usize = 1_024;
/// Erasures that are not yet told of.
const UNTOLD_MAX: usize = 10_000;

/// A person's key in force.
pub(crate) struct PersonKey {
    number: u64,
    key: Key,
}

impl PersonKey {
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// The keys of one tenant that were used lately.
#[derive(Default)]
pub(crate) struct PersonKeys(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Counts what was forgotten: a key that was read before is not to be known after.
    forgotten: u64,
    keys: HashMap<(PartyKind, Box<str>), Arc<PersonKey>>,
}

impl PersonKeys {
    fn known(&self) -> MutexGuard<'_, Known> {
        // A panic while the lock was held cannot leave it half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key as the database has it, with whose it is.
pub(super) struct KeyRow {
    number: Option<i64>,
    kind: Option<String>,
    name: Option<String>,
    sealed: Option<Vec<u8>>,
}

impl KeyRow {
    /// Reads number, kind, name and key from four columns.
    pub(super) fn read(row: &store::sql::Row<'_>, at: usize) -> Result<Self, StoreError> {
        Ok(Self {
            number: row.get(at)?,
            kind: row.get(at + 1)?,
            name: row.get(at + 2)?,
            sealed: row.get(at + 3)?,
        })
    }

    /// The key; `None` where it was destroyed.
    ///
    /// # Errors
    /// When there never was one, or it was sealed for somebody else.
    pub(super) fn open(
        &self,
        keys: &TenantKeys,
        uid: &TenantUid,
    ) -> Result<Option<Key>, VaultError> {
        let (Some(number), Some(kind)) = (self.number, &self.kind) else {
            return Err(VaultError::Malformed);
        };
        let Some(sealed) = &self.sealed else {
            return Ok(None);
        };
        let name = self.name.as_deref().unwrap_or_default();
        let plain = keys.journal.open(&aad(uid, kind, name, number), sealed)?;
        let bytes = <[u8; 32]>::try_from(plain.as_slice()).map_err(|_| VaultError::Malformed)?;
        Ok(Some(Key::from_bytes(bytes)))
    }
}

// Under the key for journal records, because that one stays with the tenant; the context keeps the two apart.
fn aad(uid: &TenantUid, kind: &str, name: &str, number: i64) -> Aad {
    Aad::new("partywall person key v1")
        .uid(uid)
        .bytes(kind.as_bytes())
        .bytes(name.as_bytes())
        .number(number.cast_unsigned())
}

/// Who is to be forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whose {
    /// What a person said.
    Person(String),
    /// What was said by a token that stands for no person.
    Token(TokenName),
}

impl Whose {
    fn party(&self) -> (PartyKind, &str) {
        match self {
            Self::Person(name) => (PartyKind::Person, name),
            Self::Token(name) => (PartyKind::Token, name.as_str()),
        }
    }
}

impl Admission {
    /// The key that what this caller says is sealed under: laid at its first call, on disk when this returns.
    pub(super) async fn person_key(&self) -> Result<Arc<PersonKey>, KernelError> {
        let (kernel, resident) = (self.tenant().kernel(), self.tenant().resident());
        if kernel.content_waiting() > limits::CONTENT_WAITING_BYTES_MAX {
            kernel.fold(resident).await?;
        }
        let (kind, name) = match self.person() {
            Some(person) => (PartyKind::Person, person),
            None => (PartyKind::Token, self.token_name().as_str()),
        };
        let party: (PartyKind, Box<str>) = (kind, name.into());
        let forgotten = {
            let known = resident.person_keys.known();
            if let Some(key) = known.keys.get(&party) {
                return Ok(Arc::clone(key));
            }
            known.forgotten
        };
        let key = Arc::new(kernel.laid_key(resident, kind, name).await?);
        let mut known = resident.person_keys.known();
        if known.forgotten == forgotten {
            if known.keys.len() >= KNOWN_MAX {
                known.keys.clear();
            }
            known.keys.insert(party, Arc::clone(&key));
        }
        Ok(key)
    }
}

impl Kernel {
    async fn laid_key(
        &self,
        resident: &Arc<Resident>,
        kind: PartyKind,
        name: &str,
    ) -> Result<PersonKey, KernelError> {
        let (keys, place, uid) = (self.keys(resident)?, self.place(resident)?, resident.uid);
        let (name, now) = (name.to_owned(), self.now().unix_ms());
        let laying = Arc::clone(&keys);
        let written = self
            .engine()
            .write(&place, move |tx| lay(tx, &laying, &uid, (kind, &name), now))
            .await;
        let row = self.own_data(resident, written)?;
        let damaged = || KernelError::Quarantined("a person's key does not open".to_owned());
        let opened = row.open(&keys, &uid).map_err(|_| damaged())?;
        let number = row.number.and_then(|number| u64::try_from(number).ok());
        match (opened, number) {
            (Some(key), Some(number)) => Ok(PersonKey { number, key }),
            _ => Err(damaged()),
        }
    }

    /// Destroys the key of a person, or of a token, so that what it sealed can be read by nobody any more, and deletes the conversations
    /// of the same, runs that are under way among them. Returns how many these were. Entries, tree and proofs stay as they are. What
    /// the same person says afterwards has a fresh key.
    ///
    /// Key and conversations go first, then an entry says so: an erasure that the log names has happened. Where a crash comes between the
    /// two, the entry follows when the tenant is opened.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when nothing of that name can be read anyway; when a store cannot be written.
    pub async fn forget_person(
        &self,
        _operator: &Operator,
        tenant: &Tenant,
        whose: Whose,
    ) -> Result<u64, KernelError> {
        tenant.live()?;
        self.load(tenant.resident()).await?;
        if self.journal().poisoned() {
            return Err(KernelError::JournalDown);
        }
        // In a task of its own: a caller that goes away must not leave it half done.
        let (done, forgotten) = oneshot::channel();
        let (kernel, resident) = (self.clone(), Arc::clone(tenant.resident()));
        self.tasks().spawn(async move {
            let _changes_one_at_a_time = kernel.changes().lock().await;
            let told = match kernel.destroy_person_key(&resident, &whose).await {
                Ok(()) => kernel.tell_erased(&resident).await,
                Err(error) => Err(error),
            };
            let (kind, name) = whose.party();
            let own = |told: &&Untold| told.kind == kind.as_str() && told.name == name;
            let count = |told: Vec<Untold>| told.iter().filter(own).map(Untold::count).sum();
            // The caller may be gone.
            let _nobody_waits = done.send(told.map(count));
        });
        forgotten.await.unwrap_or(Err(KernelError::Busy))
    }

    /// The first step: the key is overwritten, the conversations are deleted.
    pub(super) async fn destroy_person_key(
        &self,
        resident: &Arc<Resident>,
        whose: &Whose,
    ) -> Result<(), KernelError> {
        let (place, now) = (self.place(resident)?, self.now().unix_ms());
        let (kind, name) = whose.party();
        let party = (kind, name.to_owned());
        let untold = self
            .engine()
            .write(&place, move |tx| destroy(tx, (party.0, &party.1), now))
            .await;
        let untold = self.own_data(resident, untold)?;
        {
            let mut known = resident.person_keys.known();
            known.forgotten += 1;
            known.keys.remove(&(kind, name.into()));
        }
        if untold == 0 {
            let kind = kind.as_str();
            return Err(KernelError::NotFound(format!(
                "{} keeps nothing readable of a {kind} named {name}; it may have been erased before",
                resident.id
            )));
        }
        Ok(())
    }

    /// The other steps: what a run still wrote meanwhile goes, key and text leave the write-ahead log too, an entry for each that was
    /// destroyed says so, and its name goes. What was left of them by a crash or a busy disk is made up for by the next erasure, and when
    /// the tenant is opened. Returns what was told.
    pub(crate) async fn tell_erased(
        &self,
        resident: &Arc<Resident>,
    ) -> Result<Vec<Untold>, KernelError> {
        let place = self.place(resident)?;
        let untold = self.engine().read(&place, untold).await;
        if self.own_data(resident, untold)?.is_empty() {
            return Ok(Vec::new());
        }
        let untold = self.engine().write(&place, delete_rest).await;
        let untold = self.own_data(resident, untold)?;
        self.truncate_log(&place).await?;
        // What a repair has set aside holds key and text as well.
        self.drop_evidence(resident, 0)?;
        for erased in &untold {
            let detail = [
                ("conversations", erased.conversations.to_string()),
                ("kind", erased.kind.clone()),
                ("name", erased.name.clone()),
            ];
            let detail = detail.into();
            self.record_done(resident, "operator", "person.erase", |_seq| detail)
                .await?;
            let sql = "UPDATE person_key SET name = NULL WHERE number = ?1";
            let number = erased.number;
            let told = self
                .engine()
                .write(&place, move |tx| tx.execute(sql, params![number]))
                .await;
            self.own_data(resident, told)?;
        }
        Ok(untold)
    }
}

/// Destroys the key in force of a name, and deletes the conversations. Returns how many of its erasures are not told of.
fn destroy(
    tx: &mut WriteTx<'_>,
    (kind, name): (PartyKind, &str),
    now: i64,
) -> Result<i64, StoreError> {
    let sql = "UPDATE person_key SET sealed = NULL, erased_ms = ?3
        WHERE kind = ?1 AND name = ?2 AND sealed IS NOT NULL";
    tx.execute(sql, params![kind.as_str(), name, now])?;
    let deleted = conversations::delete(tx, (kind.as_str(), name), i64::MAX)?;
    if deleted > 0 {
        let sql = "UPDATE person_key SET conversations = conversations + ?3 WHERE number =
            (SELECT MAX(number) FROM person_key WHERE kind = ?1 AND name = ?2 AND sealed IS NULL)";
        let noted = tx.execute(sql, params![kind.as_str(), name, deleted])?;
        if noted == 0 {
            // Somebody who never had a key: the row stands for the erasure until it is told of.
            let sql =
                "INSERT INTO person_key (number, kind, name, created_ms, erased_ms, conversations)
                VALUES (?1, ?2, ?3, ?4, ?4, ?5)";
            let number = next_number(tx)?;
            tx.execute(sql, params![number, kind.as_str(), name, now, deleted])?;
        }
    }
    let sql = "SELECT COUNT(*) FROM person_key WHERE kind = ?1 AND name = ?2 AND sealed IS NULL";
    let untold = tx.query_one(sql, params![kind.as_str(), name], |row| Ok(row.get(0)?))?;
    Ok(untold.unwrap_or_default())
}

/// Deletes again what those wrote who are not told of yet. What they began since their erasure is theirs.
fn delete_rest(tx: &mut WriteTx<'_>) -> Result<Vec<Untold>, StoreError> {
    for erased in untold(tx)? {
        let whose = (erased.kind.as_str(), erased.name.as_str());
        let more = conversations::delete(tx, whose, erased.erased_ms)?;
        let sql = "UPDATE person_key SET conversations = conversations + ?2 WHERE number = ?1";
        tx.execute(sql, params![erased.number, more])?;
    }
    untold(tx)
}

/// An erasure that the log does not name yet.
pub(crate) struct Untold {
    number: i64,
    kind: String,
    name: String,
    conversations: i64,
    erased_ms: i64,
}

impl Untold {
    fn count(&self) -> u64 {
        u64::try_from(self.conversations).unwrap_or_default()
    }
}

fn untold(tx: &ReadTx<'_>) -> Result<Vec<Untold>, StoreError> {
    let sql = "SELECT number, kind, name, conversations, COALESCE(erased_ms, 0)
        FROM person_key WHERE sealed IS NULL AND name IS NOT NULL";
    tx.query(sql, params![], UNTOLD_MAX, |row| {
        Ok(Untold {
            number: row.get(0)?,
            kind: row.get(1)?,
            name: row.get(2)?,
            conversations: row.get(3)?,
            erased_ms: row.get(4)?,
        })
    })
}

// Rows stay, so that no number comes again.
fn next_number(tx: &ReadTx<'_>) -> Result<i64, StoreError> {
    let sql = "SELECT COALESCE(MAX(number), 0) + 1 FROM person_key";
    let number = tx.query_one(sql, params![], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(number.unwrap_or(1))
}

/// The key in force of a name, or a fresh one.
fn lay(
    tx: &mut WriteTx<'_>,
    keys: &TenantKeys,
    uid: &TenantUid,
    (kind, name): (PartyKind, &str),
    now: i64,
) -> Result<KeyRow, StoreError> {
    let sql = "SELECT number, kind, name, sealed FROM person_key
        WHERE kind = ?1 AND name = ?2 AND sealed IS NOT NULL";
    let there = tx.query_one(sql, params![kind.as_str(), name], |row| {
        KeyRow::read(row, 0)
    })?;
    if let Some(there) = there {
        return Ok(there);
    }
    let number = next_number(tx)?;
    let fresh = Key::generate();
    let sealed = keys
        .journal
        .seal(&aad(uid, kind.as_str(), name, number), fresh.expose());
    tx.execute(
        "INSERT INTO person_key (number, kind, name, sealed, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![number, kind.as_str(), name, sealed, now],
    )?;
    Ok(KeyRow {
        number: Some(number),
        kind: Some(kind.as_str().to_owned()),
        name: Some(name.to_owned()),
        sealed: Some(sealed),
    })
}
