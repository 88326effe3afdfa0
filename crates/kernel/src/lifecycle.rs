//! A tenant's life: create, change, freeze, suspend, resume, delete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Role, TenantId, TenantUid, Timestamp, TokenName};
use store::Place;
use vault::{Key, TenantKeys};

use crate::error::KernelError;
use crate::open::Kernel;
use crate::quota::{self, Limits, Override, Quota, Scope};
use crate::registry::{self, TenantRow};
use crate::removal::remove_tree;
use crate::resident::{Account, Resident, Status, WrappedKeys};
use crate::root::{TOPICS, open_sub, private_dir, sync_dir};
use crate::sweep::Operator;
use crate::tenant::Tenant;
use crate::tokens::{FIRST_TOKEN, IssuedToken, NewToken};

/// What a new tenant starts with.
#[derive(Clone, Debug)]
pub struct NewTenant {
    /// Its name.
    pub id: TenantId,
    /// Name of its tier.
    pub tier: String,
    /// Limits over its tier's.
    pub overrides: Limits,
}

/// A change of what a tenant, or one of its persons and tokens, may use.
#[derive(Clone, Debug, Default)]
pub struct QuotaChange {
    /// Moves the tenant to another tier.
    pub tier: Option<String>,
    /// Whose limits change.
    pub scope: Scope,
    /// Limits to set; `None` goes back to what holds without one of this scope.
    pub limits: Vec<(Quota, Option<i128>)>,
    /// When the limits that are set end by themselves; those without an end stay below them.
    pub until: Option<Timestamp>,
}

impl Kernel {
    /// Creates a tenant: directory, keys, database, first token (role `admin`).
    ///
    /// # Errors
    /// [`KernelError::Exists`] when the name is taken, [`KernelError::NotFound`] for an unknown tier.
    pub async fn create_tenant(
        &self,
        operator: &Operator,
        new: NewTenant,
    ) -> Result<(Tenant, IssuedToken), KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        if self.directory().tenant(&new.id).is_some() {
            return Err(KernelError::Exists(format!(
                "there is a tenant {} already",
                new.id
            )));
        }
        self.known_tier(&new.tier)?;
        let uid = TenantUid::from_bytes(self.ground().draw());
        let (root_key, keys) = (Key::generate(), TenantKeys::generate());
        let wrapped = || WrappedKeys {
            root: self.master().wrap(&uid, &root_key),
            sealed: keys.seal(&root_key, &uid),
            next: None,
        };
        let account = Account {
            status: Status::Active,
            tier: new.tier.clone(),
            overrides: lasting(&new.overrides),
            created: self.now(),
            audit_key: keys.audit.verifying_key(),
        };
        self.make_directories(&new.id)?;
        // The database exists before the registry names it: afterwards a missing one is damage.
        let database = Arc::new(self.tenant_place(&new.id, uid, &keys)?);
        self.engine().write(&database, |_tx| Ok(())).await?;
        self.engine().close(&database).await?;
        let row = TenantRow {
            uid,
            id: new.id.clone(),
            account: account.clone(),
            wrapped: Some(wrapped()),
        };
        self.registry_write(move |tx| registry::insert_tenant(tx, &row))
            .await?;
        let in_force = self.first_settings(&account);
        let resident = Resident::new(new.id, uid, account, Some(wrapped()), in_force);
        self.directory().add_tenant(Arc::clone(&resident));
        self.load(&resident).await?;
        let detail = [("tier", new.tier), ("uid", uid.to_string())].into();
        self.record_change(operator, &resident, "tenant.create", detail)
            .await?;
        let name: TokenName = FIRST_TOKEN.parse().map_err(|_| KernelError::Busy)?;
        let first = NewToken {
            name,
            role: Role::Admin,
            person: None,
            expires: None,
        };
        let token = self.add_token(&resident, first).await?;
        Ok((Tenant::mint_for_operator(self, &resident, operator), token))
    }

    /// Refuses every call of the tenant from now on and ends its open streams. Data stays.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for a tenant that is being deleted; when the change cannot be recorded.
    pub async fn suspend_tenant(
        &self,
        operator: &Operator,
        tenant: &Tenant,
    ) -> Result<(), KernelError> {
        self.contain(operator, tenant.resident(), Status::Suspended)
            .await
    }

    /// Refuses calls and changes by the tenant's own credentials from now on and ends its open calls and streams. What reads
    /// goes on: usage, models, configuration, audit log.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for a suspended tenant, which a freeze would open; when the change cannot be recorded.
    pub async fn freeze_tenant(
        &self,
        operator: &Operator,
        tenant: &Tenant,
    ) -> Result<(), KernelError> {
        self.contain(operator, tenant.resident(), Status::Frozen)
            .await
    }

    /// Contains a tenant in memory at once, and again when its turn among the changes has come, to write it down. A caller that
    /// goes away between the two, or a disk that fails, leaves it contained until a resumption or a restart.
    async fn contain(
        &self,
        operator: &Operator,
        resident: &Arc<Resident>,
        status: Status,
    ) -> Result<(), KernelError> {
        // What other tenants' changes wait for, a disk above all, must not keep a runaway tenant running.
        confine(resident, status)?;
        end(resident, status);
        let _changes_one_at_a_time = self.changes().lock().await;
        let (before, account) = confine(resident, status)?;
        if before != status {
            end(resident, status);
        }
        self.save_account(resident, &account, account.as_ref().clone())
            .await?;
        let action = match status {
            Status::Frozen => "tenant.freeze",
            _ => "tenant.suspend",
        };
        self.record_if_possible(operator, resident, action).await
    }

    /// Serves a suspended or frozen tenant again.
    ///
    /// # Errors
    /// [`KernelError::Refused`] for a tenant that is being deleted, or was contained while this waited for its turn; when the
    /// change cannot be recorded.
    pub async fn resume_tenant(
        &self,
        operator: &Operator,
        tenant: &Tenant,
    ) -> Result<(), KernelError> {
        let resident = tenant.resident();
        let asked_in = resident.epoch.load(Ordering::SeqCst);
        let _changes_one_at_a_time = self.changes().lock().await;
        let before = resident.account.load_full();
        still_there(resident)?;
        if asked_in != resident.epoch.load(Ordering::SeqCst) {
            return Err(KernelError::Refused(format!(
                "{} was suspended or frozen meanwhile",
                resident.id
            )));
        }
        self.load(resident).await?;
        self.record_change(operator, resident, "tenant.resume", BTreeMap::new())
            .await?;
        let mut account = before.as_ref().clone();
        account.status = Status::Active;
        self.save_account(resident, &before, account).await
    }

    /// Changes the tier, or limits over it.
    ///
    /// # Errors
    /// [`KernelError::NotFound`] for an unknown tier, [`KernelError::Refused`] for an end in the past or a quota that the scope
    /// does not have.
    pub async fn change_quotas(
        &self,
        operator: &Operator,
        tenant: &Tenant,
        change: QuotaChange,
    ) -> Result<(), KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        let before = resident.account.load_full();
        let mut account = before.as_ref().clone();
        let mut detail: BTreeMap<&'static str, String> = BTreeMap::new();
        let QuotaChange {
            tier,
            scope,
            limits,
            until,
        } = change;
        if let Some(tier) = tier {
            self.known_tier(&tier)?;
            account.tier.clone_from(&tier);
            detail.insert("tier", tier);
        }
        account.overrides = quota::changed(&account.overrides, &scope, &limits, until, self.now())?;
        for (quota, limit) in limits {
            let limit = limit.map_or_else(|| "none".to_owned(), |limit| quota.shown(limit));
            detail.insert(quota.name(), limit);
            detail.insert("scope", scope.to_string());
        }
        if let Some(until) = until {
            detail.insert("until", until.to_string());
        }
        self.load(resident).await?;
        self.record_change(operator, resident, "quota.set", detail)
            .await?;
        self.save_account(resident, &before, account).await?;
        self.refresh_settings(resident);
        self.measure_storage(resident).await;
        Ok(())
    }

    /// Deletes a tenant: keys first, then files. After this returns, and after a crash at any point of it, nothing opens the data.
    ///
    /// # Errors
    /// When the keys could not be destroyed; once they are, the removal of files is finished at the next start if it fails here.
    pub async fn delete_tenant(
        &self,
        operator: &Operator,
        tenant: &Tenant,
    ) -> Result<(), KernelError> {
        let _changes_one_at_a_time = self.changes().lock().await;
        let resident = tenant.resident();
        // The last entry of its log goes with it; it stands in the journal until the segment is retired.
        self.record_if_possible(operator, resident, "tenant.delete")
            .await?;
        set_status(resident, |_any| true, Status::Deleting);
        resident.end_all();
        self.finish_deletion(resident).await
    }

    /// Carries a deletion from wherever it stopped to its end.
    pub(crate) async fn finish_deletion(
        &self,
        resident: &Arc<Resident>,
    ) -> Result<(), KernelError> {
        let uid = resident.uid;
        self.registry_write(move |tx| registry::destroy_keys(tx, uid))
            .await?;
        // The old row's pages lie in the write-ahead log until it is truncated.
        self.truncate_registry_log().await?;
        resident
            .wrapped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        // A fold that is under way would open the database again, and have its records waiting for ever.
        let folds_no_more = resident.folding.lock().await;
        if let Some(place) = resident.place.get() {
            self.engine().close(place).await?;
        }
        self.forget_pending(resident);
        drop(folds_no_more);
        self.remove_directories(&resident.id)?;
        self.registry_write(move |tx| registry::remove_tenant(tx, uid))
            .await?;
        self.truncate_registry_log().await?;
        self.directory().remove_tenant(resident);
        Ok(())
    }

    /// A reader in the way makes it busy: tried again for two seconds.
    pub(crate) async fn truncate_registry_log(&self) -> Result<(), KernelError> {
        self.truncate_log(self.registry_place()).await
    }

    /// The same for any database.
    pub(crate) async fn truncate_log(&self, place: &Arc<Place>) -> Result<(), KernelError> {
        let mut result = self.engine().checkpoint(place).await;
        for _ in 0..20 {
            if !matches!(result, Err(store::StoreError::Busy)) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            result = self.engine().checkpoint(place).await;
        }
        Ok(result?)
    }

    /// Writes an account down that was made from `before`, and puts it in force. A containment that came meanwhile keeps its
    /// status: it is next to be written.
    async fn save_account(
        &self,
        resident: &Resident,
        before: &Arc<Account>,
        account: Account,
    ) -> Result<(), KernelError> {
        let (uid, stored) = (resident.uid, account.clone());
        self.registry_write(move |tx| registry::update_account(tx, uid, &stored))
            .await?;
        resident.account.rcu(|now| {
            let unchanged = Arc::ptr_eq(now, before);
            Account {
                status: if unchanged {
                    account.status
                } else {
                    now.status
                },
                ..account.clone()
            }
        });
        Ok(())
    }

    /// A tenant whose store does not open has no log to write to; suspending and deleting it must work all the same.
    async fn record_if_possible(
        &self,
        operator: &Operator,
        resident: &Arc<Resident>,
        action: &'static str,
    ) -> Result<(), KernelError> {
        match self.load(resident).await {
            Ok(()) => {
                self.record_change(operator, resident, action, BTreeMap::new())
                    .await
            }
            // Without its keys it is one that an earlier deletion did not bring to its end.
            Err(KernelError::Quarantined(_) | KernelError::Revoked) => Ok(()),
            Err(other) => Err(other),
        }
    }

    fn make_directories(&self, id: &TenantId) -> Result<(), KernelError> {
        let tenants = self.root().sub("tenants")?;
        let shown = self.root().tenant_path(id);
        let error = |e: std::io::Error| crate::root::io_error(&shown, "create", &e);
        if tenants.symlink_metadata(id.as_str()).is_ok() {
            // A name without a registry row whose directory exists: the rest of an interrupted creation, or planted files.
            remove_tree(&tenants, id.as_str()).map_err(error)?;
        }
        tenants
            .create_dir_with(id.as_str(), &private_dir())
            .map_err(error)?;
        let own = open_sub(&tenants, id.as_str()).map_err(error)?;
        for topic in TOPICS {
            own.create_dir_with(topic, &private_dir()).map_err(error)?;
        }
        sync_dir(&own)
            .and_then(|()| sync_dir(&tenants))
            .map_err(error)
    }

    fn remove_directories(&self, id: &TenantId) -> Result<(), KernelError> {
        let tenants = self.root().sub("tenants")?;
        let shown = self.root().tenant_path(id);
        remove_tree(&tenants, id.as_str())
            .map_err(|e| crate::root::io_error(&shown, "remove", &e))?;
        sync_dir(&tenants).map_err(|e| crate::root::io_error(&shown, "sync", &e))
    }
}

/// Ends the capabilities that a suspension or a freeze ends.
fn end(resident: &Resident, status: Status) {
    match status {
        Status::Frozen => resident.end_acting(),
        Status::Active | Status::Suspended | Status::Deleting => resident.end_all(),
    }
}

/// Suspends or freezes a tenant in memory. Returns the status that it had, and the account.
fn confine(resident: &Resident, status: Status) -> Result<(Status, Arc<Account>), KernelError> {
    let freezes = status == Status::Frozen;
    let may = |now: Status| match now {
        Status::Active | Status::Frozen => true,
        Status::Suspended => !freezes,
        Status::Deleting => false,
    };
    let (before, after) = set_status(resident, may, status);
    still_there(resident)?;
    if !may(before) {
        return Err(KernelError::Refused(format!(
            "{} is {}; a freeze would let it read",
            resident.id,
            before.as_str()
        )));
    }
    Ok((before, after))
}

/// Changes the status where it `may` be changed from what it is. Returns that, and the account as it is now.
fn set_status(
    resident: &Resident,
    may: impl Fn(Status) -> bool,
    status: Status,
) -> (Status, Arc<Account>) {
    let mut after = Arc::clone(&resident.account.load());
    let before = resident.account.rcu(|now| {
        after = match may(now.status) {
            true => Arc::new(Account {
                status,
                ..now.as_ref().clone()
            }),
            false => Arc::clone(now),
        };
        Arc::clone(&after)
    });
    (before.status, after)
}

/// A deletion goes on to its end: no other status takes its place.
fn still_there(resident: &Resident) -> Result<(), KernelError> {
    if resident.is_dead() {
        return Err(KernelError::Refused(format!(
            "{} is being deleted",
            resident.id
        )));
    }
    Ok(())
}

/// Limits of the tenant as a whole, as overrides without an end.
fn lasting(limits: &Limits) -> Vec<Override> {
    let lasting = |(quota, limit)| Override {
        scope: Scope::Tenant,
        quota,
        limit,
        until: None,
    };
    limits.iter().map(lasting).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;

    use super::*;
    use crate::fixture::{acme, begun};

    #[tokio::test]
    async fn a_deletion_that_stopped_half_way_is_not_turned_back() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&dir.path().join("data")).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        set_status(tenant.resident(), |_any| true, Status::Deleting);
        let suspended = kernel.suspend_tenant(&operator, &tenant).await;
        assert!(matches!(suspended, Err(KernelError::Refused(_))));
        let frozen = kernel.freeze_tenant(&operator, &tenant).await;
        assert!(matches!(frozen, Err(KernelError::Refused(_))));
        let resumed = kernel.resume_tenant(&operator, &tenant).await;
        assert!(matches!(resumed, Err(KernelError::Refused(_))));
        assert_eq!(tenant.account().status, Status::Deleting);
    }
    #[tokio::test]
    async fn a_containment_waits_for_no_other_change_and_is_undone_by_none_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&dir.path().join("data")).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let resident = tenant.resident();
        let contained = [
            (Status::Frozen, "tenant.freeze"),
            (Status::Suspended, "tenant.suspend"),
        ];
        for (status, action) in contained {
            // A change that has read the account and is still at its work.
            let change = kernel.changes().lock().await;
            let before = resident.account.load_full();
            let (ended, epoch) = (
                resident.acting_ended.load_full(),
                resident.epoch.load(SeqCst),
            );
            let waits = async {
                match status {
                    Status::Frozen => kernel.freeze_tenant(&operator, &tenant).await,
                    _ => kernel.suspend_tenant(&operator, &tenant).await,
                }
            };
            let others = async {
                tokio::task::yield_now().await;
                assert_eq!(tenant.account().status, status);
                assert!(ended.is_cancelled() && epoch != resident.epoch.load(SeqCst));
                let resumed = Account {
                    status: Status::Active,
                    tier: "other".to_owned(),
                    ..before.as_ref().clone()
                };
                let saved = kernel.save_account(resident, &before, resumed).await;
                saved.unwrap();
                assert_eq!(tenant.account().status, status);
                assert_eq!(tenant.account().tier, "other");
                drop(change);
            };
            // One that was asked for before, and whose turn comes first.
            let resumes = kernel.resume_tenant(&operator, &tenant);
            let (resumed, written, ()) = tokio::join!(resumes, waits, others);
            assert!(matches!(resumed, Err(KernelError::Refused(_))));
            written.unwrap();
            let read = kernel
                .engine()
                .read(kernel.registry_place(), registry::tenants);
            let stored = &read.await.unwrap()[0].account;
            assert_eq!((stored.status, stored.tier.as_str()), (status, "other"));
            let tenant = kernel.tenant(&operator, &acme()).unwrap();
            let entries = tenant.audit_page(0).await.unwrap();
            assert!(entries.iter().any(|row| row.entry.contains(action)));
        }
    }
    #[tokio::test]
    async fn a_deletion_that_failed_behind_the_keys_is_ended_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(begun(&path).await);
        let (kernel, operator) = crate::fixture::open(&path).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        set_status(tenant.resident(), |_any| true, Status::Deleting);
        tenant.resident().wrapped.lock().unwrap().take();
        kernel.delete_tenant(&operator, &tenant).await.unwrap();
        assert!(kernel.tenant(&operator, &acme()).is_err());
        assert!(!path.join("tenants/acme").exists());
    }
    #[tokio::test]
    async fn a_deletion_waits_for_a_fold_that_is_under_way() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&dir.path().join("data")).await;
        let tenant = kernel.tenant(&operator, &acme()).unwrap();
        let folder = tenant.files().unwrap();
        let fold = tenant.resident().folding.lock().await;
        let ends = async {
            while tenant.resident().wrapped.lock().unwrap().is_some() {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            assert!(folder.try_exists("tenant.db").unwrap());
            drop(fold);
        };
        let (deleted, ()) = tokio::join!(kernel.delete_tenant(&operator, &tenant), ends);
        deleted.unwrap();
        assert!(kernel.tenant(&operator, &acme()).is_err());
        assert_eq!(kernel.pending_total(), 0);
    }
}
