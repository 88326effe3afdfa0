//! The number of the operating-system user that a tenant's programs run as.

use base::TenantUid;
use store::sql::{Row, params};
use store::{StoreError, WriteTx};

use crate::error::KernelError;
use crate::open::Kernel;
use crate::tenant::Tenant;

/// Numbers there are: as many as the sandbox has users.
const NUMBERS: u32 = 100_000;

impl Kernel {
    /// The tenant's number among those whose programs ever ran, from 0 on and below 100 000: given at first use, the same ever after,
    /// and no other tenant's. That of a deleted tenant is free once its directory is gone, and is given again late: only the
    /// highest at once, the others when all above them are given.
    ///
    /// # Errors
    /// [`KernelError::Revoked`] and [`KernelError::Refused`] as [`Tenant::files`], also for a tenant that is being deleted;
    /// [`KernelError::Refused`] when every number is given; when the registry cannot be written.
    pub async fn os_number(&self, tenant: &Tenant) -> Result<u32, KernelError> {
        tenant.acts()?;
        let resident = tenant.resident();
        if let Some(number) = resident.os_number.get() {
            return Ok(*number);
        }
        let uid = resident.uid;
        let given = self
            .registry_write(move |tx| give(tx, uid, NUMBERS))
            .await?;
        // A deletion may have come while this waited.
        tenant.acts()?;
        match given {
            Given::Number(number) => Ok(*resident.os_number.get_or_init(|| number)),
            Given::None => Err(KernelError::Refused(format!(
                "all {NUMBERS} users for programs are given; delete tenants that are not needed"
            ))),
            Given::Gone => Err(KernelError::Revoked),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Given {
    Number(u32),
    /// Each has its tenant.
    None,
    /// No such tenant, or it is being deleted.
    Gone,
}

/// The number of a tenant, given to it if it has none. A row stays until the directory is removed, and its number with it.
fn give(tx: &mut WriteTx<'_>, uid: TenantUid, numbers: u32) -> Result<Given, StoreError> {
    let own = "SELECT os_number FROM tenants WHERE uid = ?1 AND status <> 'deleting'";
    let number = |row: &Row<'_>| Ok(row.get::<_, Option<u32>>(0)?);
    match tx.query_one(own, params![uid.as_bytes()], number)? {
        None => return Ok(Given::Gone),
        Some(Some(number)) => return Ok(Given::Number(number)),
        Some(None) => {}
    }
    // What a deleted tenant left anywhere under its number should meet no successor soon.
    let next = "SELECT COALESCE(MAX(os_number) + 1, 0) FROM tenants";
    let gap = "SELECT MIN(free) FROM (SELECT 0 AS free UNION ALL SELECT os_number + 1 FROM tenants WHERE os_number IS NOT NULL)
        WHERE free NOT IN (SELECT os_number FROM tenants WHERE os_number IS NOT NULL)";
    for candidate in [next, gap] {
        let Some(free) = tx.query_one(candidate, params![], number)?.flatten() else {
            continue;
        };
        if free < numbers {
            let set = "UPDATE tenants SET os_number = ?2 WHERE uid = ?1";
            tx.execute(set, params![uid.as_bytes(), free])?;
            return Ok(Given::Number(free));
        }
    }
    Ok(Given::None)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fixture::{acme, begun, open};
    use crate::lifecycle::NewTenant;
    use crate::{Limits, Operator};

    async fn create(kernel: &Kernel, operator: &Operator, id: &str) -> Tenant {
        let new = NewTenant {
            id: id.parse().unwrap(),
            tier: "basic".to_owned(),
            overrides: Limits::default(),
        };
        kernel.create_tenant(operator, new).await.unwrap().0
    }

    #[tokio::test]
    async fn each_tenant_has_its_own_number_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let first = kernel.tenant(&operator, &acme()).unwrap();
        let (second, third) = (
            create(&kernel, &operator, "second").await,
            create(&kernel, &operator, "third").await,
        );
        // Asked for at the same time, and several times each.
        let number = async |tenant: &Tenant| kernel.os_number(tenant).await.unwrap();
        let (a, b, c, d) = tokio::join!(
            number(&second),
            number(&first),
            number(&second),
            number(&first)
        );
        assert_eq!((a, b), (c, d));
        assert_eq!(a.min(b) + 1, a.max(b), "{a} {b}");
        assert_eq!(kernel.os_number(&third).await.unwrap(), 2);
        drop((first, second, third, kernel, operator));
        let (kernel, operator) = open(&path).await;
        for (id, number) in [("third", 2), ("acme", b), ("second", a)] {
            let tenant = kernel.tenant(&operator, &id.parse().unwrap()).unwrap();
            assert_eq!(kernel.os_number(&tenant).await.unwrap(), number, "{id}");
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "a test breaks a directory")]
    async fn a_deleted_tenants_number_is_nobodys_until_its_directory_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let (kernel, operator) = begun(&path).await;
        let stays = kernel.tenant(&operator, &acme()).unwrap();
        let goes = create(&kernel, &operator, "goes").await;
        assert_eq!(kernel.os_number(&stays).await.unwrap(), 0);
        assert_eq!(kernel.os_number(&goes).await.unwrap(), 1);
        // Its directory cannot be removed: a link stands where all of them are.
        let tenants = path.join("tenants");
        std::fs::rename(&tenants, path.join("aside")).unwrap();
        let link = |to: &Path| std::os::unix::fs::symlink(to, &tenants).unwrap();
        link(&path.join("aside"));
        assert!(kernel.delete_tenant(&operator, &goes).await.is_err());
        std::fs::remove_file(&tenants).unwrap();
        std::fs::rename(path.join("aside"), &tenants).unwrap();
        assert!(tenants.join("goes").exists());
        let gone = kernel.os_number(&goes).await;
        assert!(matches!(gone, Err(KernelError::Revoked)));
        let third = create(&kernel, &operator, "third").await;
        assert_eq!(kernel.os_number(&third).await.unwrap(), 2);
        kernel.delete_tenant(&operator, &goes).await.unwrap();
        assert!(!tenants.join("goes").exists());
        let again = create(&kernel, &operator, "goes").await;
        assert_eq!(kernel.os_number(&again).await.unwrap(), 3);
        kernel.delete_tenant(&operator, &again).await.unwrap();
        let last = create(&kernel, &operator, "last").await;
        assert_eq!(kernel.os_number(&last).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn when_all_are_given_the_lowest_free_one_is_next_and_then_none() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, operator) = begun(&dir.path().join("data")).await;
        let give_to = async |tenant: &Tenant, numbers: u32| {
            let uid = tenant.uid();
            let given = kernel.registry_write(move |tx| give(tx, uid, numbers));
            given.await.unwrap()
        };
        let a = kernel.tenant(&operator, &acme()).unwrap();
        let b = create(&kernel, &operator, "b").await;
        let c = create(&kernel, &operator, "c").await;
        assert_eq!(give_to(&a, 2).await, Given::Number(0));
        assert_eq!(give_to(&b, 2).await, Given::Number(1));
        assert_eq!(give_to(&c, 2).await, Given::None);
        assert_eq!(give_to(&b, 2).await, Given::Number(1));
        kernel.delete_tenant(&operator, &a).await.unwrap();
        assert_eq!(give_to(&a, 2).await, Given::Gone);
        assert_eq!(give_to(&c, 2).await, Given::Number(0));
    }
}
