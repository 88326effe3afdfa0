//! A fresh signing key for a tenant's log: an entry that the old and the new key sign says so, and checkpoints after it are by the
//! new one.
//!
//! 1. The fresh key is laid, sealed, into the tenant's database.
//! 2. The entry is made durable, and folded.
//! 3. One transaction puts the key in force and signs the checkpoint anew; then the registry takes the public half over.
//!
//! After a crash the log says which key is in force: the laid one when its entry is there, otherwise the old one.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use tokio::sync::oneshot;
use vault::tlog::{LogKey, SignedCheckpoint};
use vault::{Aad, SigningKey, TenantKeys};

use crate::audit::Entry;
use crate::audit::tree::{Signer, log_key, signed, stored_edge};
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

/// A key that took the place of the first one, or is to.
struct Laid {
    number: i64,
    sealed: Vec<u8>,
    /// Where its entry is; none while that is not known.
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
        self.settle_audit_key(resident).await?;
        let fresh = SigningKey::generate();
        let new = log_key(resident, fresh.verifying_key())?;
        self.lay_audit_key(resident, &fresh, &new).await?;
        self.record_rotation(resident, &fresh, &new).await?;
        self.fold(resident).await?;
        self.settle_audit_key(resident).await?;
        Ok(new)
    }

    /// Step 1.
    pub(super) async fn lay_audit_key(
        &self,
        resident: &Resident,
        fresh: &SigningKey,
        public: &LogKey,
    ) -> Result<(), KernelError> {
        let keys = self.keys(resident)?;
        let sealed = fresh.seal(&keys.journal, &aad(resident));
        let (old, new) = (
            self.audit_signer(resident)?.public().to_string(),
            public.to_string(),
        );
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
        let time = self.now().to_string();
        let seq = self.record_event(resident, |seq| {
            let text = format!("{CONTEXT}\n{origin}\n{old}\n{new}\n{seq}\n");
            let by = |key: &SigningKey| STANDARD.encode(key.sign(text.as_bytes()));
            Entry {
                action: ROTATE_KEY,
                actor: Some("operator"),
                decision: "allow",
                detail: [
                    ("new_key", new.clone()),
                    ("old_key", old.clone()),
                    ("signature_new", by(fresh)),
                    ("signature_old", by(signer.key())),
                ]
                .into(),
                seq,
                tenant: resident.id.as_str(),
                time,
                ..Entry::default()
            }
        })?;
        self.durable(seq).await
    }

    /// Step 3, or the end of a rotation that was interrupted: forward when the log has its entry, otherwise back.
    pub(crate) async fn settle_audit_key(&self, resident: &Resident) -> Result<(), KernelError> {
        let place = self.place(resident)?;
        let keys = self.keys(resident)?;
        // No fold signs with the old key after the new one is in force.
        let _no_fold = resident.folding.lock().await;
        let (of, key) = (log_key(resident, [0; 32])?, Arc::clone(&keys));
        let aad = aad(resident);
        let open = move |sealed: &[u8]| signer_of(&key, &aad, &of, sealed);
        let settled = self
            .engine()
            .write(&place, move |tx| settle(tx, &open))
            .await;
        if let Some((signer, head)) = self.own_data(resident, settled)? {
            resident.audit_signer.store(Some(Arc::new(signer)));
            resident.audit_grew_to(Some(head));
        }
        self.register_audit_key(resident).await
    }

    /// The key in force, from the tenant's database or, as long as it is the first one, from its keys.
    pub(crate) async fn open_audit_key(&self, resident: &Resident) -> Result<(), KernelError> {
        let keys = self.keys(resident)?;
        let place = self.place(resident)?;
        let signer = match self.engine().read(&place, in_force).await? {
            None => Signer::new(Arc::clone(&keys.audit), log_key(resident, [0; 32])?.name())?,
            Some(laid) => {
                let origin = log_key(resident, [0; 32])?;
                signer_of(&keys, &aad(resident), &origin, &laid.sealed)?
            }
        };
        resident.audit_signer.store(Some(Arc::new(signer)));
        Ok(())
    }

    // The registry's copy is what is shown of tenants that are not open.
    async fn register_audit_key(&self, resident: &Resident) -> Result<(), KernelError> {
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

// Under the key that seals journal records, because that one stays with the tenant; the context keeps the two apart.
fn aad(resident: &Resident) -> Aad {
    Aad::new("partywall audit signing key v1").uid(&resident.uid)
}

fn signer_of(
    keys: &TenantKeys,
    aad: &Aad,
    origin: &LogKey,
    sealed: &[u8],
) -> Result<Signer, StoreError> {
    let key = SigningKey::open(&keys.journal, aad, sealed).map_err(|_| StoreError::Damaged)?;
    Signer::new(Arc::new(key), origin.name()).map_err(|_| StoreError::Damaged)
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

fn settle(
    tx: &mut WriteTx<'_>,
    open: &dyn Fn(&[u8]) -> Result<Signer, StoreError>,
) -> Result<Option<(Signer, SignedCheckpoint)>, StoreError> {
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
    let Some(laid) = laid else {
        return Ok(None);
    };
    if laid.place.is_none() {
        tx.execute(
            "DELETE FROM audit_key WHERE number = ?1",
            params![laid.number],
        )?;
        return Ok(None);
    }
    let signer = open(&laid.sealed)?;
    tx.execute(
        "UPDATE audit_key SET place = ?2 WHERE number = ?1",
        params![laid.number, laid.place],
    )?;
    // A key that signs nothing any more is not kept.
    tx.execute(
        "UPDATE audit_key SET sealed = NULL WHERE number < ?1",
        params![laid.number],
    )?;
    let head = signer.sign(&stored_edge(tx)?);
    tx.execute("UPDATE audit_head SET checkpoint = ?1", params![head.note])?;
    Ok(Some((signer, head)))
}

fn in_force(tx: &ReadTx<'_>) -> Result<Option<Laid>, StoreError> {
    let sql =
        "SELECT number, sealed, place FROM audit_key WHERE place IS NOT NULL AND sealed IS NOT NULL
        ORDER BY number DESC LIMIT 1";
    tx.query_one(sql, params![], |row| {
        Ok(Laid {
            number: row.get(0)?,
            sealed: row.get(1)?,
            place: row.get(2)?,
        })
    })
}

/// Keys that were in force before the present one, the latest first.
pub(crate) fn retired(tx: &ReadTx<'_>) -> Result<Vec<LogKey>, StoreError> {
    let sql = "SELECT vkey FROM audit_key WHERE place IS NOT NULL AND sealed IS NULL ORDER BY number DESC";
    tx.query(sql, params![], KEYS_MAX, |row| {
        let text: String = row.get(0)?;
        LogKey::parse(&text).map_err(|_| StoreError::Damaged)
    })
}
