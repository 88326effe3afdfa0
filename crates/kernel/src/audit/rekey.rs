//! A fresh signing key for a tenant's log: an entry that the old and the new key sign says so, and checkpoints after it are by the
//! new one.
//!
//! 1. The fresh key is laid, sealed, into the tenant's database.
//! 2. The entry is made durable.
//! 3. The fold that takes the entry in puts the key in force, in the same transaction: the first checkpoint over the entry is by
//!    the fresh key. Then the registry takes the public half over.
//!
//! After a crash the log says which key is in force: the laid one when its entry is there, otherwise the old one.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use tokio::sync::oneshot;
use vault::SigningKey;
use vault::tlog::LogKey;

use crate::audit::tree::{Signer, log_key, signed};
use crate::error::KernelError;
use crate::open::Kernel;
use crate::registry;
use crate::resident::{Account, Resident};
use crate::sweep::Operator;
use crate::tenant::Tenant;

/// The action of the entry.
pub(crate) const ROTATE_KEY: &str = "audit.rotate_key";
/// What both keys sign begins with this line.
const CONTEXT: &str = "partywall audit key rotation v1";
/// Keys of one log.
const KEYS_MAX: usize = 10_000;

/// A key that is to take the place of the one in force.
struct Laid {
    number: i64,
    sealed: Vec<u8>,
    /// Where its entry is, once it is there.
    place: Option<i64>,
}

impl Kernel {
    /// Gives the tenant's log a fresh signing key; returns it. Old checkpoints verify with the old keys, which every export names.
    ///
    /// # Errors
    /// When a store cannot be written: then one of the two keys is in force, and the next rotation or start ends what was begun.
    pub async fn rotate_audit_key(
        &self,
        _operator: &Operator,
        tenant: &Tenant,
    ) -> Result<LogKey, KernelError> {
        tenant.live()?;
        let resident = tenant.resident();
        self.load(resident).await?;
        let (done, rotated) = oneshot::channel();
        let (kernel, resident) = (self.clone(), Arc::clone(resident));
        // In a task of its own: a caller that goes away must not leave it half done.
        self.tasks().spawn(async move {
            // The caller may be gone; the key is rotated all the same.
            let _nobody_waits = done.send(kernel.rekey(&resident).await);
        });
        rotated.await.unwrap_or(Err(KernelError::Busy))
    }

    async fn rekey(&self, resident: &Arc<Resident>) -> Result<LogKey, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        self.forget_laid_key(resident).await?;
        let fresh = SigningKey::generate();
        let new = log_key(resident, fresh.verifying_key())?;
        self.lay_audit_key(resident, &fresh, &new).await?;
        self.record_rotation(resident, &fresh, &new).await?;
        self.fold(resident).await?;
        self.register_audit_key(resident).await?;
        Ok(new)
    }

    /// Step 1.
    pub(super) async fn lay_audit_key(
        &self,
        resident: &Resident,
        fresh: &SigningKey,
        public: &LogKey,
    ) -> Result<(), KernelError> {
        let signer = self.audit_signer(resident)?;
        let sealed = signer.sealed(fresh);
        let (old, new) = (signer.public().to_string(), public.to_string());
        let after = resident.books().audit_next;
        let place = self.place(resident)?;
        let laid = self
            .engine()
            .write(&place, move |tx| lay(tx, &old, &new, &sealed, after))
            .await;
        self.own_data(resident, laid)
    }

    /// Step 2.
    pub(super) async fn record_rotation(
        &self,
        resident: &Resident,
        fresh: &SigningKey,
        new: &LogKey,
    ) -> Result<(), KernelError> {
        let signer = self.audit_signer(resident)?;
        let (origin, old, new) = (new.name(), signer.public().to_string(), new.to_string());
        let signed = |seq: u64| {
            let text = format!("{CONTEXT}\n{origin}\n{old}\n{new}\n{seq}\n");
            let by = |key: &SigningKey| STANDARD.encode(key.sign(text.as_bytes()));
            [
                ("new_key", new.clone()),
                ("old_key", old.clone()),
                ("signature_new", by(fresh)),
                ("signature_old", by(signer.key())),
            ]
            .into()
        };
        self.record_done(resident, "operator", ROTATE_KEY, signed)
            .await
    }

    /// Takes back a key that was laid and whose entry never came to be: a rotation that a crash or a fault ended.
    pub(crate) async fn forget_laid_key(&self, resident: &Resident) -> Result<(), KernelError> {
        let place = self.place(resident)?;
        let sql = "DELETE FROM audit_key WHERE place IS NULL";
        let forgotten = self
            .engine()
            .write(&place, move |tx| tx.execute(sql, params![]).map(|_| ()))
            .await;
        self.own_data(resident, forgotten)
    }

    /// The key in force, from the tenant's database or, as long as it is the first one, from its keys.
    pub(crate) async fn open_audit_key(&self, resident: &Resident) -> Result<(), KernelError> {
        let first = Signer::first(resident, self.keys(resident)?.as_ref())?;
        let place = self.place(resident)?;
        let read = self
            .engine()
            .read(&place, move |tx| match in_force(tx)? {
                None => Ok(first),
                Some(sealed) => first.successor(&sealed),
            })
            .await;
        let signer = self.own_data(resident, read)?;
        resident.audit_signer.store(Some(Arc::new(signer)));
        Ok(())
    }

    // The registry's copy is what is shown of tenants that are not open.
    pub(crate) async fn register_audit_key(&self, resident: &Resident) -> Result<(), KernelError> {
        let key = *self.audit_signer(resident)?.public().key();
        let account = resident.account.load_full();
        if account.audit_key == key {
            return Ok(());
        }
        let uid = resident.uid;
        self.registry_write(move |tx| registry::set_audit_key(tx, uid, &key))
            .await?;
        resident.account.rcu(|account| Account {
            audit_key: key,
            ..account.as_ref().clone()
        });
        Ok(())
    }
}

fn lay(
    tx: &mut WriteTx<'_>,
    old: &str,
    new: &str,
    sealed: &[u8],
    after: u64,
) -> Result<(), StoreError> {
    // The first key stands in the registry; here its public half is remembered.
    tx.execute(
        "INSERT INTO audit_key (number, vkey, after, place) SELECT 0, ?1, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM audit_key)",
        params![old],
    )?;
    tx.execute(
        "INSERT INTO audit_key (number, vkey, sealed, after) SELECT MAX(number) + 1, ?1, ?2, ?3 FROM audit_key",
        params![new, sealed, signed(after)],
    )?;
    Ok(())
}

/// Step 3: the key that the log's latest entries put in force, if they did.
pub(crate) fn put_in_force(
    tx: &mut WriteTx<'_>,
    present: &Signer,
) -> Result<Option<Signer>, StoreError> {
    let sql = "SELECT number, sealed,
            (SELECT MIN(seq) FROM audit WHERE seq >= audit_key.after
                AND json_extract(entry, '$.action') = ?1 AND json_extract(entry, '$.detail.new_key') = audit_key.vkey)
        FROM audit_key WHERE place IS NULL";
    let laid = tx.query_one(sql, params![ROTATE_KEY], |row| {
        Ok(Laid {
            number: row.get(0)?,
            sealed: row.get(1)?,
            place: row.get(2)?,
        })
    })?;
    let Some(laid) = laid.filter(|laid| laid.place.is_some()) else {
        return Ok(None);
    };
    let signer = present.successor(&laid.sealed)?;
    tx.execute(
        "UPDATE audit_key SET place = ?2 WHERE number = ?1",
        params![laid.number, laid.place],
    )?;
    // A key that signs nothing any more is not kept.
    tx.execute(
        "UPDATE audit_key SET sealed = NULL WHERE number < ?1",
        params![laid.number],
    )?;
    Ok(Some(signer))
}

/// The sealed key in force, where it is not the first one.
pub(crate) fn in_force(tx: &ReadTx<'_>) -> Result<Option<Vec<u8>>, StoreError> {
    let sql = "SELECT sealed FROM audit_key WHERE place IS NOT NULL AND sealed IS NOT NULL
        ORDER BY number DESC LIMIT 1";
    tx.query_one(sql, params![], |row| Ok(row.get(0)?))
}

/// The key that was in force when the log had `size` entries, where there was ever more than one.
pub(crate) fn in_force_at(tx: &ReadTx<'_>, size: u64) -> Result<Option<LogKey>, StoreError> {
    // A key's own entry is the first that it signs for; the first key has no entry.
    let sql =
        "SELECT vkey FROM audit_key WHERE number = 0 OR place < ?1 ORDER BY number DESC LIMIT 1";
    let text = tx.query_one(sql, params![signed(size)], |row| {
        Ok(row.get::<_, String>(0)?)
    })?;
    text.map(|text| LogKey::parse(&text).map_err(|_| StoreError::Damaged))
        .transpose()
}

/// Keys that were in force before the present one, the latest first.
pub(crate) fn retired(tx: &ReadTx<'_>) -> Result<Vec<LogKey>, StoreError> {
    let sql = "SELECT vkey FROM audit_key WHERE place IS NOT NULL AND sealed IS NULL ORDER BY number DESC";
    tx.query(sql, params![], KEYS_MAX, |row| {
        let text: String = row.get(0)?;
        LogKey::parse(&text).map_err(|_| StoreError::Damaged)
    })
}
