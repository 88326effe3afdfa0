//! The registry: which tenants exist, their wrapped keys, their tokens. A database on disk, an index in memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use base::{PersonName, Role, TenantId, TenantUid, Timestamp, TokenName};
use store::sql::params;
use store::{ReadTx, StoreError, WriteTx};
use tokio_util::sync::CancellationToken;

use crate::error::KernelError;
use crate::quota::{Override, Quota, Scope};
use crate::resident::{Account, NextKeys, Resident, Status, Storm, TokenEntry, WrappedKeys};

const SHARDS: usize = 16;

/// The index that admission reads: tokens by hash, tenants by name. Nothing here touches a disk.
pub(crate) struct Directory {
    tokens: [RwLock<HashMap<[u8; 32], Arc<TokenEntry>>>; SHARDS],
    tenants: RwLock<BTreeMap<TenantId, Arc<Resident>>>,
}

impl Directory {
    pub(crate) fn new() -> Self {
        Self {
            tokens: std::array::from_fn(|_| RwLock::default()),
            tenants: RwLock::default(),
        }
    }

    pub(crate) fn token(&self, hash: &[u8; 32]) -> Option<Arc<TokenEntry>> {
        read(self.shard(hash)).get(hash).cloned()
    }

    pub(crate) fn tenant(&self, id: &TenantId) -> Option<Arc<Resident>> {
        read(&self.tenants).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Resident>> {
        read(&self.tenants).values().cloned().collect()
    }

    pub(crate) fn by_uid(&self, uid: &TenantUid) -> Option<Arc<Resident>> {
        read(&self.tenants)
            .values()
            .find(|resident| resident.uid == *uid)
            .cloned()
    }

    pub(crate) fn add_tenant(&self, resident: Arc<Resident>) {
        write(&self.tenants).insert(resident.id.clone(), resident);
    }

    /// Puts `fresh` in the place of a tenant whose every capability has ended: its tokens open `fresh` from now on.
    pub(crate) fn replace(&self, old: &Resident, fresh: &Arc<Resident>) {
        let tokens = self.tokens_of(old);
        write(&self.tenants).insert(fresh.id.clone(), Arc::clone(fresh));
        for token in tokens {
            self.add_token(token.of(fresh));
        }
    }

    pub(crate) fn remove_tenant(&self, resident: &Resident) {
        write(&self.tenants).remove(&resident.id);
        for shard in &self.tokens {
            write(shard).retain(|_, token| token.resident.uid != resident.uid);
        }
    }

    pub(crate) fn add_token(&self, token: Arc<TokenEntry>) {
        write(self.shard(&token.hash)).insert(token.hash, token);
    }

    /// The tokens of one tenant, by name and age.
    pub(crate) fn tokens_of(&self, resident: &Resident) -> Vec<Arc<TokenEntry>> {
        let mut tokens: Vec<_> = self
            .tokens
            .iter()
            .flat_map(|shard| {
                let shard = read(shard);
                let own = shard
                    .values()
                    .filter(|token| token.resident.uid == resident.uid);
                own.cloned().collect::<Vec<_>>()
            })
            .collect();
        tokens.sort_by(|a, b| (&a.name, a.created).cmp(&(&b.name, b.created)));
        tokens
    }

    pub(crate) fn all_tokens(&self) -> Vec<Arc<TokenEntry>> {
        self.tokens
            .iter()
            .flat_map(|shard| read(shard).values().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// Tokens that have just come to their end: expired, or past their grace period.
    pub(crate) fn tokens_ended_at(&self, now: Timestamp) -> Vec<Arc<TokenEntry>> {
        let ended = |token: &&Arc<TokenEntry>| !token.valid_at(now) && !token.ended.is_cancelled();
        self.tokens
            .iter()
            .flat_map(|shard| {
                read(shard)
                    .values()
                    .filter(ended)
                    .cloned()
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Counts a failed authentication that named a living tenant. Bounded: one number per tenant.
    pub(crate) fn count_failed_auth(&self, shown: &str) {
        if let Some(resident) = shown.parse().ok().and_then(|id| self.tenant(&id)) {
            resident.failed_auth.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn shard(&self, hash: &[u8; 32]) -> &RwLock<HashMap<[u8; 32], Arc<TokenEntry>>> {
        &self.tokens[usize::from(hash[0]) % SHARDS]
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A tenant as its registry row says.
pub(crate) struct TenantRow {
    pub(crate) uid: TenantUid,
    pub(crate) id: TenantId,
    pub(crate) account: Account,
    pub(crate) wrapped: Option<WrappedKeys>,
}

/// A token as its registry row says.
#[derive(Clone)]
pub(crate) struct TokenRow {
    pub(crate) hash: [u8; 32],
    pub(crate) uid: TenantUid,
    pub(crate) name: TokenName,
    /// Stays through rotations.
    pub(crate) serial: i64,
    pub(crate) role: Role,
    pub(crate) person: Option<PersonName>,
    pub(crate) created: Timestamp,
    pub(crate) expires: Option<i64>,
    pub(crate) revoked: Option<i64>,
    pub(crate) last_used: Option<i32>,
}

impl TokenRow {
    pub(crate) fn entry(self, resident: &Arc<Resident>) -> Arc<TokenEntry> {
        let last_used = self.last_used.unwrap_or(i32::MIN);
        Arc::new(TokenEntry {
            resident: Arc::clone(resident),
            hash: self.hash,
            name: self.name,
            serial: self.serial,
            role: self.role,
            person: self.person,
            created: self.created,
            expires_ms: AtomicI64::new(self.expires.unwrap_or(i64::MAX)),
            revoked_ms: AtomicI64::new(self.revoked.unwrap_or(i64::MAX)),
            last_used: AtomicI32::new(last_used),
            last_used_saved: AtomicI32::new(last_used),
            ended: CancellationToken::new(),
            party: AtomicU64::new(0),
            person_party: AtomicU64::new(0),
            refusals: Mutex::new(Storm::default()),
        })
    }
}

/// Rows of the registry that one process holds in memory; the bound of what `query` may return.
pub(crate) const ROWS_MAX: usize = 10_000_000;

pub(crate) fn tenants(tx: &ReadTx<'_>) -> Result<Vec<TenantRow>, StoreError> {
    let sql = "SELECT uid, id, status, tier, limits, created_ms, wrapped_root, sealed_keys, audit_key, next_root, next_keys FROM tenants ORDER BY id";
    tx.query(sql, params![], ROWS_MAX, |row| {
        let id: String = row.get(1)?;
        let status: String = row.get(2)?;
        let limits: String = row.get(4)?;
        let wrapped: Option<Vec<u8>> = row.get(6)?;
        let sealed: Option<Vec<u8>> = row.get(7)?;
        let next_root: Option<Vec<u8>> = row.get(9)?;
        let next_sealed: Option<Vec<u8>> = row.get(10)?;
        let next = next_root
            .zip(next_sealed)
            .map(|(root, sealed)| NextKeys { root, sealed });
        Ok(TenantRow {
            uid: TenantUid::from_bytes(row.get(0)?),
            id: id.parse().map_err(|_| StoreError::Damaged)?,
            account: Account {
                status: Status::from_name(&status).ok_or(StoreError::Damaged)?,
                tier: row.get(3)?,
                overrides: overrides_from_text(&limits).ok_or(StoreError::Damaged)?,
                created: Timestamp::from_unix_ms(row.get(5)?),
                audit_key: row.get(8)?,
            },
            wrapped: wrapped
                .zip(sealed)
                .map(|(root, sealed)| WrappedKeys { root, sealed, next }),
        })
    })
}

pub(crate) fn tokens(tx: &ReadTx<'_>) -> Result<Vec<TokenRow>, StoreError> {
    let sql = "SELECT hash, uid, name, role, created_ms, expires_ms, revoked_ms, last_used_day, person, serial FROM tokens";
    tx.query(sql, params![], ROWS_MAX, |row| {
        let name: String = row.get(2)?;
        let role: String = row.get(3)?;
        let person: Option<String> = row.get(8)?;
        let person = person.map(|name| name.parse()).transpose();
        Ok(TokenRow {
            hash: row.get(0)?,
            uid: TenantUid::from_bytes(row.get(1)?),
            name: name.parse().map_err(|_| StoreError::Damaged)?,
            serial: row.get(9)?,
            role: role.parse().map_err(|_| StoreError::Damaged)?,
            person: person.map_err(|_| StoreError::Damaged)?,
            created: Timestamp::from_unix_ms(row.get(4)?),
            expires: row.get(5)?,
            revoked: row.get(6)?,
            last_used: row.get(7)?,
        })
    })
}

pub(crate) fn insert_tenant(tx: &mut WriteTx<'_>, row: &TenantRow) -> Result<(), StoreError> {
    let (root, sealed) = row
        .wrapped
        .as_ref()
        .map(|keys| (&keys.root, &keys.sealed))
        .unzip();
    tx.execute(
        "INSERT INTO tenants (uid, id, status, tier, limits, created_ms, wrapped_root, sealed_keys, audit_key)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            row.uid.as_bytes(),
            row.id.as_str(),
            row.account.status.as_str(),
            row.account.tier,
            overrides_to_text(&row.account.overrides),
            row.account.created.unix_ms(),
            root,
            sealed,
            row.account.audit_key
        ],
    )
    .map(|_| ())
}

pub(crate) fn update_account(
    tx: &mut WriteTx<'_>,
    uid: TenantUid,
    account: &Account,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tenants SET status = ?2, tier = ?3, limits = ?4 WHERE uid = ?1",
        params![
            uid.as_bytes(),
            account.status.as_str(),
            account.tier,
            overrides_to_text(&account.overrides)
        ],
    )
    .map(|_| ())
}

/// The public half of the key that signs the tenant's audit log.
pub(crate) fn set_audit_key(
    tx: &mut WriteTx<'_>,
    uid: TenantUid,
    key: &[u8; 32],
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tenants SET audit_key = ?2 WHERE uid = ?1",
        params![uid.as_bytes(), key],
    )
    .map(|_| ())
}

/// The first step of a deletion: after this commit, and the truncation of the write-ahead log, nothing opens the tenant's data.
pub(crate) fn destroy_keys(tx: &mut WriteTx<'_>, uid: TenantUid) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tenants SET status = 'deleting', wrapped_root = NULL, sealed_keys = NULL, next_root = NULL, next_keys = NULL WHERE uid = ?1",
        params![uid.as_bytes()],
    )?;
    tx.execute("DELETE FROM tokens WHERE uid = ?1", params![uid.as_bytes()])
        .map(|_| ())
}

/// Lays the keys of a rotation beside those in force. Those of a tenant that is being deleted stay destroyed.
pub(crate) fn lay_next_keys(
    tx: &mut WriteTx<'_>,
    uid: TenantUid,
    next: &NextKeys,
) -> Result<usize, StoreError> {
    tx.execute(
        "UPDATE tenants SET next_root = ?2, next_keys = ?3 WHERE uid = ?1 AND sealed_keys IS NOT NULL",
        params![uid.as_bytes(), next.root, next.sealed],
    )
}

/// Puts the keys of a rotation in force; the old ones are overwritten.
pub(crate) fn take_next_keys(tx: &mut WriteTx<'_>, uid: TenantUid) -> Result<usize, StoreError> {
    tx.execute(
        "UPDATE tenants SET wrapped_root = next_root, sealed_keys = next_keys, next_root = NULL, next_keys = NULL
         WHERE uid = ?1 AND next_keys IS NOT NULL",
        params![uid.as_bytes()],
    )
}

/// Forgets the keys of a rotation that sealed nothing.
pub(crate) fn drop_next_keys(tx: &mut WriteTx<'_>, uid: TenantUid) -> Result<usize, StoreError> {
    tx.execute(
        "UPDATE tenants SET next_root = NULL, next_keys = NULL WHERE uid = ?1",
        params![uid.as_bytes()],
    )
}

/// The last step of a deletion.
pub(crate) fn remove_tenant(tx: &mut WriteTx<'_>, uid: TenantUid) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM tenants WHERE uid = ?1",
        params![uid.as_bytes()],
    )
    .map(|_| ())
}

pub(crate) fn insert_token(tx: &mut WriteTx<'_>, row: &TokenRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tokens (hash, uid, name, role, created_ms, expires_ms, revoked_ms, last_used_day, person, serial)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![
            row.hash,
            row.uid.as_bytes(),
            row.name.as_str(),
            row.role.as_str(),
            row.created.unix_ms(),
            row.expires,
            row.revoked,
            row.last_used,
            row.person.as_ref().map(PersonName::as_str),
            row.serial
        ],
    )
    .map(|_| ())
}

pub(crate) fn revoke_token(
    tx: &mut WriteTx<'_>,
    hash: &[u8; 32],
    at_ms: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tokens SET revoked_ms = MIN(COALESCE(revoked_ms, ?2), ?2) WHERE hash = ?1",
        params![hash, at_ms],
    )
    .map(|_| ())
}

pub(crate) fn save_last_used(
    tx: &mut WriteTx<'_>,
    used: &[([u8; 32], i32)],
) -> Result<(), StoreError> {
    for (hash, day) in used {
        tx.execute(
            "UPDATE tokens SET last_used_day = ?2 WHERE hash = ?1",
            params![hash, day],
        )?;
    }
    Ok(())
}

pub(crate) fn setting(tx: &ReadTx<'_>, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    tx.query_one(
        "SELECT value FROM settings WHERE name = ?1",
        params![name],
        |row| Ok(row.get(0)?),
    )
}

pub(crate) fn set_setting(
    tx: &mut WriteTx<'_>,
    name: &'static str,
    value: &[u8],
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO settings (name, value) VALUES (?1, ?2)",
        params![name, value],
    )
    .map(|_| ())
}

/// Damage of the registry is the deployment's: no tenant answers for it.
pub(crate) fn registry_fault(error: StoreError) -> KernelError {
    match error {
        StoreError::Busy | StoreError::Full | StoreError::Closed => error.into(),
        error => KernelError::Root(format!("the registry: {error}")),
    }
}

/// One override per line: `[scope ]quota=limit[ until=unix ms]`. A line without a scope is the tenant's: so were they all once.
fn overrides_to_text(overrides: &[Override]) -> String {
    let line = |over: &Override| {
        let scope = match &over.scope {
            Scope::Tenant => String::new(),
            scope => format!("{scope} "),
        };
        let until = over
            .until
            .map_or_else(String::new, |until| format!(" until={}", until.unix_ms()));
        format!("{scope}{}={}{until}", over.quota.name(), over.limit)
    };
    overrides.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn overrides_from_text(text: &str) -> Option<Vec<Override>> {
    let read = |line: &str| {
        let (rest, until) = match line.split_once(" until=") {
            Some((rest, until)) => (rest, Some(Timestamp::from_unix_ms(until.parse().ok()?))),
            None => (line, None),
        };
        let (scope, rest) = match rest.split_once(' ') {
            Some((scope, rest)) => (scope.parse().ok()?, rest),
            None => (Scope::Tenant, rest),
        };
        let (name, limit) = rest.split_once('=')?;
        Some(Override {
            scope,
            quota: Quota::from_name(name)?,
            limit: limit.parse().ok()?,
            until,
        })
    };
    text.lines().map(read).collect()
}

impl crate::open::Kernel {
    /// Writes to the registry.
    pub(crate) async fn registry_write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let written = self.engine().write(self.registry_place(), job).await;
        written.map_err(registry_fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_round_trip() {
        let over = |scope: &str, quota, limit, until: Option<i64>| Override {
            scope: scope.parse().unwrap(),
            quota,
            limit,
            until: until.map(Timestamp::from_unix_ms),
        };
        let overrides = vec![
            over("tenant", Quota::CostPerDay, 5_000_000_000_000, None),
            over(
                "tenant",
                Quota::RequestsPerMinute,
                0,
                Some(1_800_000_000_000),
            ),
            over("token:ci", Quota::TokensPerDay, 7, None),
            over("person:a=b", Quota::TokensPerDay, 7, Some(-1)),
            over("each-token", Quota::TokensPerDay, 7, None),
        ];
        let text = overrides_to_text(&overrides);
        assert_eq!(overrides_from_text(&text), Some(overrides));
        assert_eq!(overrides_from_text(""), Some(Vec::new()));
        assert_eq!(overrides_from_text("nonsense"), None);
        // As the first version wrote it.
        let old = overrides_from_text("tokens_per_day=5\ncost_per_day_usd=7").unwrap();
        assert_eq!(old[1], over("tenant", Quota::CostPerDay, 7, None));
    }
}
