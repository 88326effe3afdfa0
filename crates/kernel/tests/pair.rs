//! Two tenants in one job, over real databases.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use base::Money;
use kernel::{Caller, Demand, KernelError, Settlement, Tenant, pair, tokens::IssuedToken};
use testkit::{TempKernel, facts};

/// Settles one call of the tenant on `model`.
async fn call(home: &TempKernel, token: &IssuedToken, model: &str) {
    let caller = Caller::from_token(token.text.expose_str().unwrap());
    let admission = home.kernel.admit(caller).await.unwrap();
    let demand = Demand {
        requests: 1,
        tokens: 10,
        cost: Money::parse_usd("0.5").unwrap(),
    };
    let facts = facts(home.kernel.new_request_id(), model);
    let reserved = admission.tenant().reserve(demand).unwrap();
    let attempt = reserved.open_attempt(&admission, facts).unwrap();
    let attempt = attempt.written().await.unwrap();
    let settling = attempt.settle(&Settlement::failed()).unwrap();
    settling.durable().await.unwrap();
}

async fn two(home: &TempKernel) -> (Tenant, Tenant) {
    let (acme, acme_token) = home.tenant("acme").await.unwrap();
    let (globex, globex_token) = home.tenant("globex").await.unwrap();
    call(home, &acme_token, "sim-fast").await;
    call(home, &globex_token, "sim-large").await;
    (acme, globex)
}

#[tokio::test]
async fn each_scope_reads_its_own_tenant() {
    let home = TempKernel::open().await.unwrap();
    let (acme, globex) = two(&home).await;
    let seen = pair(&home.operator, &acme, &globex, async |a, b| {
        let rows_of_a = a.ledger_page(None, None, None).await?;
        let rows_of_b = b.ledger_page(None, None, None).await?;
        let entries_of_b = b.audit_page(0).await?;
        let models_of_a =
            a.open(rows_of_a.map(|rows| rows.into_iter().map(|row| row.model).collect::<Vec<_>>()));
        let rows_of_b = b.open(rows_of_b);
        assert_eq!(rows_of_b.len(), 1);
        assert_eq!(rows_of_b[0].model, "sim-large");
        let entries = b.open(entries_of_b);
        assert!(!entries.is_empty());
        for row in entries {
            assert!(row.entry.contains("\"tenant\":\"globex\""), "{}", row.entry);
        }
        Ok((a.id().to_string(), b.id().to_string(), models_of_a))
    })
    .await
    .unwrap();
    assert_eq!(
        seen,
        (
            "acme".to_owned(),
            "globex".to_owned(),
            vec!["sim-fast".to_owned()]
        )
    );
}

#[tokio::test]
async fn a_tenant_is_not_paired_with_itself() {
    let home = TempKernel::open().await.unwrap();
    let (acme, _) = home.tenant("acme").await.unwrap();
    let again = acme.clone();
    let refused: Result<(), _> = pair(&home.operator, &acme, &again, async |_, _| {
        panic!("the job must not start")
    })
    .await;
    let Err(KernelError::Refused(why)) = refused else {
        panic!("a tenant was paired with itself")
    };
    assert_eq!(why, "acme cannot be paired with itself");
}

#[tokio::test]
async fn a_scope_ends_with_its_tenants_authority() {
    let home = TempKernel::open().await.unwrap();
    let (acme, globex) = two(&home).await;
    let other = home.kernel.tenant(&home.operator, globex.id()).unwrap();
    let read = pair(&home.operator, &acme, &globex, async |a, b| {
        home.kernel.suspend_tenant(&home.operator, &other).await?;
        let still = a.ledger_page(None, None, None).await?;
        assert_eq!(a.open(still).len(), 1, "the other tenant is not touched");
        b.ledger_page(None, None, None).await.map(|_rows| ())
    })
    .await;
    assert!(matches!(read, Err(KernelError::Revoked)));
}
