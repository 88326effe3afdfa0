//! A tenant's own secrets (provider keys, channel credentials): sealed in its database, bound to tenant and name.

use std::collections::HashMap;
use std::sync::Arc;

use base::Timestamp;
use store::sql::params;
use store::{ReadTx, StoreError};
use vault::{Aad, Key, Secret};

use crate::administer::By;
use crate::error::KernelError;
use crate::open::Kernel;
use crate::resident::Resident;
use crate::sweep::Operator;
use crate::tenant::Tenant;

mod rotate;

/// Secrets that one tenant may keep.
const SECRETS_MAX: usize = 1_000;

/// A secret's name and age; its value leaves only toward its provider.
#[derive(Clone, Debug)]
pub struct SecretInfo {
    /// Its name.
    pub name: String,
    /// When it was last set.
    pub set_at: Timestamp,
}

fn aad(resident: &Resident, name: &str) -> Aad {
    Aad::new("partywall tenant secret v1")
        .uid(&resident.uid)
        .bytes(name.as_bytes())
}

/// `[a-z0-9][a-z0-9._-]{0,63}`: the grammar of secret names.
fn valid_name(name: &str) -> Result<(), KernelError> {
    name.parse::<base::TokenName>().map(|_| ()).map_err(|_| {
        KernelError::Refused(format!(
            "{name:?} is not a secret's name: use lowercase letters, digits, '.', '_' and '-'"
        ))
    })
}

impl Kernel {
    /// Seals and stores a secret; calls that start after this use it.
    ///
    /// # Errors
    /// When the name is not one, or the store cannot be written.
    pub async fn set_secret(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        name: &str,
        value: Secret,
    ) -> Result<(), KernelError> {
        self.seal_secret(&By::Operator(operator), tenant, name, value)
            .await
    }

    pub(crate) async fn seal_secret(
        &self,
        by: &By<'_>,
        tenant: &Tenant,
        name: &str,
        value: Secret,
    ) -> Result<(), KernelError> {
        valid_name(name)?;
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        self.load(resident).await?;
        let known = resident.secrets.load_full();
        if !known.contains_key(name) && known.len() >= SECRETS_MAX {
            return Err(KernelError::Refused(format!(
                "a tenant may keep {SECRETS_MAX} secrets; delete one first"
            )));
        }
        self.end_open_rotation(resident).await?;
        let keys = self.keys(resident)?;
        let sealed = keys.secrets().seal(&aad(resident, name), value.expose());
        let now = self.now().unix_ms();
        self.record_by(
            by,
            resident,
            "secret.set",
            [("name", name.to_owned())].into(),
        )
        .await?;
        let owned = name.to_owned();
        tenant
            .write(move |tx| {
                let sql =
                    "INSERT OR REPLACE INTO secrets (name, sealed, created_ms) VALUES (?1, ?2, ?3)";
                tx.execute(sql, params![owned, sealed, now])
            })
            .await?;
        let mut secrets = known.as_ref().clone();
        secrets.insert(name.to_owned(), Arc::new(value));
        resident.secrets.store(Arc::new(secrets));
        Ok(())
    }

    /// Names and ages of a tenant's secrets.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn list_secrets(
        &self,
        _operator: &Operator,
        tenant: &Tenant,
    ) -> Result<Vec<SecretInfo>, KernelError> {
        listed(tenant).await
    }

    /// Removes a secret.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] when there is none of that name.
    pub async fn delete_secret(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        name: &str,
    ) -> Result<(), KernelError> {
        self.remove_secret(&By::Operator(operator), tenant, name)
            .await
    }

    pub(crate) async fn remove_secret(
        &self,
        by: &By<'_>,
        tenant: &Tenant,
        name: &str,
    ) -> Result<(), KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        self.load(resident).await?;
        let mut secrets = resident.secrets.load().as_ref().clone();
        if secrets.remove(name).is_none() {
            return Err(KernelError::NotFound(format!(
                "{} has no secret named {name}",
                resident.id
            )));
        }
        self.record_by(
            by,
            resident,
            "secret.delete",
            [("name", name.to_owned())].into(),
        )
        .await?;
        let owned = name.to_owned();
        tenant
            .write(move |tx| tx.execute("DELETE FROM secrets WHERE name = ?1", params![owned]))
            .await?;
        resident.secrets.store(Arc::new(secrets));
        Ok(())
    }
}

pub(crate) async fn listed(tenant: &Tenant) -> Result<Vec<SecretInfo>, KernelError> {
    tenant
        .read(|tx| {
            tx.query(
                "SELECT name, created_ms FROM secrets ORDER BY name",
                params![],
                SECRETS_MAX,
                |row| {
                    Ok(SecretInfo {
                        name: row.get(0)?,
                        set_at: Timestamp::from_unix_ms(row.get(1)?),
                    })
                },
            )
        })
        .await
}

/// Sealed secrets as stored.
pub(crate) fn stored(tx: &ReadTx<'_>) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    tx.query(
        "SELECT name, sealed FROM secrets",
        params![],
        SECRETS_MAX,
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Opens what [`stored`] read.
///
/// # Errors
/// When one of them was sealed for another tenant, under another name, or altered.
pub(crate) fn open_all(
    resident: &Resident,
    key: &Key,
    stored: Vec<(String, Vec<u8>)>,
) -> Result<HashMap<String, Arc<Secret>>, KernelError> {
    let mut secrets = HashMap::with_capacity(stored.len());
    for (name, sealed) in stored {
        let damaged = || KernelError::Quarantined(format!("the secret {name} does not open"));
        let plain = key
            .open(&aad(resident, &name), &sealed)
            .map_err(|_| damaged())?;
        let secret = Secret::new(plain.to_vec()).map_err(|_| damaged())?;
        secrets.insert(name, Arc::new(secret));
    }
    Ok(secrets)
}
