//! The tree over a tenant's audit entries, grown in the transaction that folds them, and the checkpoint over it.

use std::sync::Arc;

use base::TenantUid;
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use vault::tlog::{Checkpoint, Edge, Hash, LogKey, SignedCheckpoint, Tile, hashes_of, leaf_hash};
use vault::{Aad, Key, SigningKey, TenantKeys};

use crate::audit::rekey;
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::{Pending, Resident};

/// Entries of one page when the tree is grown over entries that were stored without it.
const CATCH_UP_PAGE: usize = 1_024;

/// Signs the checkpoints of one tenant's log.
pub(crate) struct Signer {
    key: Arc<SigningKey>,
    public: LogKey,
    /// Seals the keys that follow. It is the one for journal records, because that one stays with the tenant; the context keeps
    /// the two apart.
    sealing: Arc<Key>,
    uid: TenantUid,
}

/// What a fold made of a log: the checkpoint, where the log grew, and the key that came into force, if one did.
pub(crate) type Grown = Option<(SignedCheckpoint, Option<Signer>)>;

impl Signer {
    /// The key that the tenant was created with.
    pub(crate) fn first(resident: &Resident, keys: &TenantKeys) -> Result<Self, KernelError> {
        Ok(Self {
            key: Arc::clone(&keys.audit),
            public: log_key(resident, keys.audit.verifying_key())?,
            sealing: Arc::clone(&keys.journal),
            uid: resident.uid,
        })
    }

    fn aad(&self) -> Aad {
        Aad::new("partywall audit signing key v1").uid(&self.uid)
    }

    /// A key of this log as it is laid into the database.
    pub(crate) fn sealed(&self, key: &SigningKey) -> Vec<u8> {
        key.seal(&self.sealing, &self.aad())
    }

    /// The signer with a key that [`Signer::sealed`] sealed.
    pub(crate) fn successor(&self, sealed: &[u8]) -> Result<Self, StoreError> {
        let key = SigningKey::open(&self.sealing, &self.aad(), sealed)
            .map_err(|_| StoreError::Damaged)?;
        let public = LogKey::new(self.public.name(), key.verifying_key())
            .map_err(|_| StoreError::Damaged)?;
        Ok(Self {
            key: Arc::new(key),
            public,
            sealing: Arc::clone(&self.sealing),
            uid: self.uid,
        })
    }

    pub(crate) fn key(&self) -> &SigningKey {
        &self.key
    }

    pub(crate) fn public(&self) -> &LogKey {
        &self.public
    }

    pub(crate) fn sign(&self, edge: &Edge) -> SignedCheckpoint {
        let checkpoint = Checkpoint {
            origin: self.public.name().to_owned(),
            size: edge.size(),
            root: edge.root(),
        };
        checkpoint.sign(&self.key, &self.public)
    }
}

impl Kernel {
    /// The key in force of an open tenant.
    pub(crate) fn audit_signer(&self, resident: &Resident) -> Result<Arc<Signer>, KernelError> {
        resident.audit_signer.load_full().ok_or(KernelError::Busy)
    }
}

/// A public key under the origin of the tenant's log. The origin holds the uid: an id that is deleted and taken again is another
/// log.
pub(crate) fn log_key(resident: &Resident, key: [u8; 32]) -> Result<LogKey, KernelError> {
    LogKey::new(&format!("partywall/{}", resident.uid), key)
        .map_err(|error| KernelError::Root(error.to_string()))
}

/// The tree while a batch goes in.
pub(crate) struct Growth {
    edge: Edge,
    before: u64,
    filled: Vec<Tile>,
}

impl Growth {
    /// Takes up the tree where the last fold left it; over entries from before there was one it is grown first.
    pub(crate) fn begin(tx: &ReadTx<'_>) -> Result<Self, StoreError> {
        let edge = stored_edge(tx)?;
        let mut growth = Self {
            before: edge.size(),
            edge,
            filled: Vec::new(),
        };
        while growth.catch_up(tx)? == CATCH_UP_PAGE {}
        Ok(growth)
    }

    fn catch_up(&mut self, tx: &ReadTx<'_>) -> Result<usize, StoreError> {
        let sql = "SELECT seq, entry FROM audit WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let page = params![signed(self.edge.size()), signed(CATCH_UP_PAGE as u64)];
        let mut taken = 0;
        tx.for_each(sql, page, |row| {
            let (seq, entry): (i64, String) = (row.get(0)?, row.get(1)?);
            if seq != signed(self.edge.size()) {
                return Err(StoreError::Damaged);
            }
            self.grow(&entry);
            taken += 1;
            Ok(())
        })?;
        Ok(taken)
    }

    /// Stores an entry and takes it in; one that is there already changes nothing. Entries come in the order of their places.
    pub(crate) fn take(
        &mut self,
        tx: &mut WriteTx<'_>,
        record: &Pending,
        unsent: Option<i64>,
    ) -> Result<(), StoreError> {
        let (place, journal) = (signed(record.audit_seq), signed(record.seq.number()));
        if record.audit_seq < self.edge.size() {
            return same_record(tx, place, journal);
        }
        if record.audit_seq > self.edge.size() {
            return Err(StoreError::Damaged);
        }
        tx.execute(
            "INSERT INTO audit (seq, journal_seq, entry, unsent_seq) VALUES (?1, ?2, ?3, ?4)",
            params![place, journal, record.entry, unsent],
        )?;
        self.grow(&record.entry);
        Ok(())
    }

    fn grow(&mut self, entry: &str) {
        self.filled
            .extend(self.edge.append(leaf_hash(entry.as_bytes())));
    }

    /// Writes down what grew, with a checkpoint over it. `None` when nothing did.
    pub(crate) fn end(self, tx: &mut WriteTx<'_>, signer: &Signer) -> Result<Grown, StoreError> {
        if self.edge.size() == self.before {
            return Ok(None);
        }
        write_down(tx, &self.filled, &self.edge)?;
        let fresh = rekey::put_in_force(tx, signer)?;
        let head = fresh.as_ref().unwrap_or(signer).sign(&self.edge);
        write_head(tx, &head)?;
        Ok(Some((head, fresh)))
    }
}

/// Stores full tiles, and the hashes after them.
pub(crate) fn write_down(
    tx: &mut WriteTx<'_>,
    filled: &[Tile],
    edge: &Edge,
) -> Result<(), StoreError> {
    for tile in filled {
        tx.execute(
            "INSERT INTO audit_tile (level, place, hashes) VALUES (?1, ?2, ?3)",
            params![tile.level, signed(tile.index), tile.hashes],
        )?;
    }
    for (level, hashes) in edge.levels().iter().enumerate() {
        tx.execute(
            "INSERT INTO audit_edge (level, hashes) VALUES (?1, ?2)
             ON CONFLICT (level) DO UPDATE SET hashes = excluded.hashes",
            params![signed(level as u64), hashes.concat()],
        )?;
    }
    Ok(())
}

/// Stores the latest checkpoint.
pub(crate) fn write_head(tx: &mut WriteTx<'_>, head: &SignedCheckpoint) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO audit_head (one, checkpoint) VALUES (1, ?1)
         ON CONFLICT (one) DO UPDATE SET checkpoint = excluded.checkpoint",
        params![head.note],
    )
    .map(|_| ())
}

// A record that comes a second time must be the one that its place holds. A place that retention has emptied holds none.
fn same_record(tx: &ReadTx<'_>, place: i64, journal: i64) -> Result<(), StoreError> {
    let sql = "SELECT journal_seq FROM audit WHERE seq = ?1";
    let stored = tx.query_one(sql, params![place], |row| Ok(row.get::<_, i64>(0)?))?;
    match stored {
        Some(stored) if stored != journal => Err(StoreError::Damaged),
        _ => Ok(()),
    }
}

/// The right edge as the last fold left it.
pub(crate) fn stored_edge(tx: &ReadTx<'_>) -> Result<Edge, StoreError> {
    let sql = "SELECT level, hashes FROM audit_edge ORDER BY level";
    let mut levels = Vec::new();
    tx.for_each(sql, params![], |row| {
        let (level, bytes): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
        if level != signed(levels.len() as u64) {
            return Err(StoreError::Damaged);
        }
        levels.push(hashes_of(&bytes).ok_or(StoreError::Damaged)?);
        Ok(())
    })?;
    Edge::from_levels(&levels).ok_or(StoreError::Damaged)
}

/// A full tile's hashes. One that is missing is damage.
pub(crate) fn stored_tile(tx: &ReadTx<'_>, level: u8, index: u64) -> Result<Vec<Hash>, StoreError> {
    let sql = "SELECT hashes FROM audit_tile WHERE level = ?1 AND place = ?2";
    let bytes = tx.query_one(sql, params![level, signed(index)], |row| {
        Ok(row.get::<_, Vec<u8>>(0)?)
    })?;
    bytes
        .and_then(|bytes| hashes_of(&bytes))
        .ok_or(StoreError::Damaged)
}

/// The latest checkpoint, as signed. `None` before the first fold.
pub(crate) fn stored_head(tx: &ReadTx<'_>) -> Result<Option<String>, StoreError> {
    let sql = "SELECT checkpoint FROM audit_head";
    tx.query_one(sql, params![], |row| Ok(row.get(0)?))
}

/// `SQLite` integers are signed; a count beyond 2^63 saturates.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
