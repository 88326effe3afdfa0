//! A fresh key for all secrets of a tenant, in three steps that each leave one key that opens everything:
//!
//! 1. the fresh keys are laid beside the old ones in the registry;
//! 2. one transaction of the tenant's database seals every secret under the fresh key;
//! 3. the registry overwrites the old keys with the fresh ones, and its write-ahead log is cut.
//!
//! After a crash the secrets say which key they are under: the fresh one leads to step 3, the old one back to the start. The root
//! key is renewed too, so that no earlier copy of the wrapped keys opens by what is left.

use std::sync::{Arc, PoisonError};

use store::sql::params;
use store::{StoreError, WriteTx};
use tokio::sync::oneshot;
use vault::{Key, TenantKeys};

use super::{aad, open_all, stored};
use crate::error::KernelError;
use crate::open::Kernel;
use crate::registry;
use crate::resident::{NextKeys, Resident, WrappedKeys};
use crate::sweep::Operator;
use crate::tenant::Tenant;

impl Kernel {
    /// Seals every secret of the tenant under a fresh key and destroys the old one. Returns how many there are.
    ///
    /// # Errors
    /// When a store cannot be written: then one of the two keys is in force, and the next rotation, start or
    /// [`Kernel::set_secret`] ends what was begun.
    pub async fn rotate_secrets(
        &self,
        operator: &Operator,
        tenant: &Tenant,
    ) -> Result<usize, KernelError> {
        tenant.live()?;
        let resident = tenant.resident();
        self.load(resident).await?;
        self.record_change(operator, resident, "secret.rotate", [].into())
            .await?;
        // In a task of its own: a caller that goes away must not leave it half done.
        let (done, rotated) = oneshot::channel();
        let (kernel, resident) = (self.clone(), Arc::clone(resident));
        self.tasks().spawn(async move {
            // The caller may be gone; the secrets are sealed all the same.
            let _nobody_waits = done.send(kernel.rotate_now(&resident).await);
        });
        rotated.await.unwrap_or(Err(KernelError::Busy))
    }

    async fn rotate_now(&self, resident: &Arc<Resident>) -> Result<usize, KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        self.end_open_rotation(resident).await?;
        let fresh = self.lay_fresh_keys(resident).await?;
        let sealed = self.reseal(resident, &fresh).await?;
        self.take_fresh_keys(resident).await?;
        Ok(sealed)
    }

    /// Step 1.
    async fn lay_fresh_keys(&self, resident: &Resident) -> Result<TenantKeys, KernelError> {
        let fresh = self.keys(resident)?.with_fresh_secrets();
        let root = Key::generate();
        let next = NextKeys {
            root: self.master().wrap(&resident.uid, &root),
            sealed: fresh.seal(&root, &resident.uid),
        };
        let (uid, row) = (resident.uid, next.clone());
        let laid = self
            .registry_write(move |tx| registry::lay_next_keys(tx, uid, &row))
            .await?;
        if laid == 0 {
            return Err(KernelError::Revoked);
        }
        with_wrapped(resident, |wrapped| wrapped.next = Some(next))?;
        Ok(fresh)
    }

    /// Step 2. From its commit on the fresh key is the one to use.
    async fn reseal(
        &self,
        resident: &Arc<Resident>,
        fresh: &TenantKeys,
    ) -> Result<usize, KernelError> {
        let keys = self.keys(resident)?;
        let (old, new, owner) = (keys.secrets(), fresh.secrets(), Arc::clone(resident));
        let place = self.place(resident)?;
        let written = self
            .engine()
            .write(&place, move |tx| reseal(tx, &owner, &old, &new))
            .await;
        let sealed = self.own_data(resident, written)?;
        keys.adopt_secrets(fresh);
        Ok(sealed)
    }

    /// Step 3.
    async fn take_fresh_keys(&self, resident: &Resident) -> Result<(), KernelError> {
        let uid = resident.uid;
        self.registry_write(move |tx| registry::take_next_keys(tx, uid))
            .await?;
        with_wrapped(resident, |wrapped| {
            if let Some(next) = wrapped.next.take() {
                (wrapped.root, wrapped.sealed) = (next.root, next.sealed);
            }
        })?;
        self.truncate_registry_log().await
    }

    /// Brings a rotation that a crash or a fault interrupted to its end, forward or back. Nothing to do is the usual case.
    pub(crate) async fn end_open_rotation(
        &self,
        resident: &Arc<Resident>,
    ) -> Result<(), KernelError> {
        let Some(next) = with_wrapped(resident, |wrapped| wrapped.next.clone())? else {
            return Ok(());
        };
        let damaged = |_| KernelError::Quarantined("the keys of a rotation do not open".to_owned());
        let root = self
            .master()
            .unwrap(&resident.uid, &next.root)
            .map_err(damaged)?;
        let fresh = TenantKeys::open(&root, &resident.uid, &next.sealed).map_err(damaged)?;
        let keys = self.keys(resident)?;
        let place = self.place(resident)?;
        let sealed = self.engine().read(&place, stored).await?;
        let ended = if open_all(resident, &fresh.secrets(), sealed.clone()).is_ok() {
            keys.adopt_secrets(&fresh);
            self.take_fresh_keys(resident).await?;
            "an interrupted rotation of secrets is finished"
        } else {
            open_all(resident, &keys.secrets(), sealed)?;
            let uid = resident.uid;
            self.registry_write(move |tx| registry::drop_next_keys(tx, uid))
                .await?;
            with_wrapped(resident, |wrapped| wrapped.next = None)?;
            "an interrupted rotation of secrets is undone"
        };
        self.log().event(self.now(), Some(&resident.id), ended, &[]);
        Ok(())
    }
}

fn with_wrapped<T>(
    resident: &Resident,
    work: impl FnOnce(&mut WrappedKeys) -> T,
) -> Result<T, KernelError> {
    let mut wrapped = resident
        .wrapped
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    wrapped.as_mut().map(work).ok_or(KernelError::Revoked)
}

fn reseal(
    tx: &mut WriteTx<'_>,
    resident: &Resident,
    old: &Key,
    new: &Key,
) -> Result<usize, StoreError> {
    let secrets = stored(tx)?;
    for (name, sealed) in &secrets {
        let plain = old
            .open(&aad(resident, name), sealed)
            .map_err(|_| StoreError::Damaged)?;
        tx.execute(
            "UPDATE secrets SET sealed = ?2 WHERE name = ?1",
            params![name, new.seal(&aad(resident, name), &plain)],
        )?;
    }
    Ok(secrets.len())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use store::{Engine, EngineConfig};
    use vault::Secret;

    use super::*;
    use crate::fixture::{acme, app_token, begun, open};
    use crate::{Caller, Refused};

    /// A data directory whose tenant holds these secrets.
    async fn with_secrets(path: &Path, names: &[&str]) -> (Kernel, Operator) {
        let (kernel, operator) = begun(path).await;
        for name in names {
            set(&kernel, &operator, name).await;
        }
        (kernel, operator)
    }

    async fn set(kernel: &Kernel, operator: &Operator, name: &str) {
        let tenant = kernel.tenant(operator, &acme()).unwrap();
        let value = Secret::from_text(format!("value of {name}")).unwrap();
        kernel
            .set_secret(operator, &tenant, name, value)
            .await
            .unwrap();
    }

    /// Every secret opens with what the disk holds, and one more can be set.
    async fn all_open(kernel: &Kernel, operator: &Operator, names: &[&str]) {
        let tenant = kernel.tenant(operator, &acme()).unwrap();
        let stored = kernel.list_secrets(operator, &tenant).await.unwrap();
        assert_eq!(stored.len(), names.len());
        for name in names {
            let secret = tenant.secret(name).unwrap();
            assert_eq!(secret.expose(), format!("value of {name}").as_bytes());
        }
        let wrapped = tenant.resident().wrapped.lock().unwrap();
        assert!(wrapped.as_ref().unwrap().next.is_none());
    }

    #[tokio::test]
    async fn a_kill_after_any_step_leaves_one_key_that_opens_everything() {
        for steps in 0..=3 {
            for names in [&["a", "b"][..], &[]] {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("data");
                let (kernel, operator) = with_secrets(&path, names).await;
                let resident = kernel.directory().tenant(&acme()).unwrap();
                if steps > 0 {
                    let fresh = kernel.lay_fresh_keys(&resident).await.unwrap();
                    if steps > 1 {
                        assert_eq!(kernel.reseal(&resident, &fresh).await.unwrap(), names.len());
                    }
                    if steps > 2 {
                        kernel.take_fresh_keys(&resident).await.unwrap();
                    }
                }
                drop((kernel, operator, resident));
                let (kernel, operator) = open(&path).await;
                all_open(&kernel, &operator, names).await;
                set(&kernel, &operator, "later").await;
                drop((kernel, operator));
                let (kernel, operator) = open(&path).await;
                all_open(&kernel, &operator, &[names, &["later"]].concat()).await;
            }
        }
    }

    /// The same without a restart: what a fault of the disk interrupts, the next change ends.
    #[tokio::test]
    async fn an_interrupted_rotation_is_ended_before_the_next_change() {
        for steps in 1..=2 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("data");
            let (kernel, operator) = with_secrets(&path, &["a"]).await;
            let resident = kernel.directory().tenant(&acme()).unwrap();
            let fresh = kernel.lay_fresh_keys(&resident).await.unwrap();
            if steps > 1 {
                kernel.reseal(&resident, &fresh).await.unwrap();
            }
            set(&kernel, &operator, "b").await;
            all_open(&kernel, &operator, &["a", "b"]).await;
            drop((kernel, operator, resident));
            let (kernel, operator) = open(&path).await;
            all_open(&kernel, &operator, &["a", "b"]).await;
        }
    }

    /// Somebody who reads the registry keeps its log from being cut, and so an interrupted rotation from its end.
    #[tokio::test]
    async fn a_tenant_that_cannot_be_opened_just_now_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let (kernel, operator) = with_secrets(&path, &["a"]).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let issued = kernel.issue_token(&operator, &tenant, app_token("ci"));
        let token = issued.await.unwrap().text;
        let resident = kernel.directory().tenant(&acme()).unwrap();
        let fresh = kernel.lay_fresh_keys(&resident).await.unwrap();
        kernel.reseal(&resident, &fresh).await.unwrap();
        drop((kernel, operator, tenant, resident));

        let (kernel, operator) = open(&path).await;
        let text = std::str::from_utf8(token.expose()).unwrap();
        let admitted = || kernel.admit(Caller::from_token(text));
        let config = EngineConfig {
            writers: 1,
            readers: 1,
            open_max: 2,
            idle_max: base::limits::DATABASE_IDLE_MAX,
        };
        let other = Engine::start(config).unwrap();
        let ((begun, reads), (end, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        let reading = other.read(kernel.registry_place(), move |tx| {
            let one = tx.query_one("SELECT 1 FROM tenants", params![], |_| Ok(()))?;
            begun.send(one).unwrap();
            let _let_go = ended.recv();
            Ok(())
        });
        reads.recv().unwrap();
        assert!(matches!(admitted().await, Err(Refused::NotOpened)));
        drop(end);
        reading.await.unwrap();
        assert!(admitted().await.is_ok());
        all_open(&kernel, &operator, &["a"]).await;
        kernel.log().flush();
        let log = kernel.root().dir().read_to_string("gateway.log").unwrap();
        assert!(log.contains("a tenant does not open"), "{log}");
    }

    #[tokio::test]
    async fn the_old_key_opens_nothing_any_more_and_is_in_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let (kernel, operator) = with_secrets(&path, &["a", "b"]).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let resident = Arc::clone(tenant.resident());
        let old = kernel.keys(&resident).unwrap().secrets();
        let wrapped = |row: &Resident| {
            let wrapped = row.wrapped.lock().unwrap();
            let wrapped = wrapped.as_ref().unwrap();
            (wrapped.root.clone(), wrapped.sealed.clone())
        };
        let before = wrapped(&resident);
        assert_eq!(kernel.rotate_secrets(&operator, &tenant).await.unwrap(), 2);
        let after = wrapped(&resident);
        assert!(before.0 != after.0 && before.1 != after.1);
        let place = kernel.place(&resident).unwrap();
        let sealed = kernel.engine().read(&place, stored).await.unwrap();
        assert!(open_all(&resident, &old, sealed.clone()).is_err());
        let keys = kernel.keys(&resident).unwrap();
        assert!(open_all(&resident, &keys.secrets(), sealed).is_ok());
        // The registry's write-ahead log, where the old row's pages lay, is cut.
        let wal = kernel.root().dir().metadata("registry.db-wal").unwrap();
        assert_eq!(wal.len(), 0);
        let entries = tenant.audit_page(0).await.unwrap();
        assert!(
            entries
                .iter()
                .any(|row| row.entry.contains("secret.rotate"))
        );
        // A tenant whose keys are destroyed gets no new ones.
        kernel.delete_tenant(&operator, &tenant).await.unwrap();
        let dead = kernel.lay_fresh_keys(&resident).await;
        assert!(matches!(dead, Err(KernelError::Revoked)));
    }
}
