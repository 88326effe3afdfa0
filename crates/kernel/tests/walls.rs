//! What lies on disk: deleted tenants, sealed secrets, overlays, the operator's key.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test reads and plants files, and may fail loudly"
)]

use std::time::Duration;

use kernel::tokens::IssuedToken;
use kernel::{Admission, Caller, Refused, Secret};
use testkit::TempKernel;

fn text(token: &IssuedToken) -> &str {
    token.text.expose_str().unwrap()
}

async fn admit(home: &TempKernel, token: &str) -> Result<Admission, Refused> {
    home.kernel.admit(Caller::from_token(token)).await
}

#[tokio::test]
async fn a_deleted_tenants_database_opens_for_nobody() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let secret = Secret::from_text("sk-canary-1234".to_owned()).unwrap();
    home.kernel
        .set_secret(&home.operator, &tenant, "openai", secret)
        .await
        .unwrap();
    let folder = home.path().join("tenants/acme");
    let stolen = std::fs::read(folder.join("tenant.db")).unwrap();
    home.kernel
        .delete_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    assert!(!folder.exists());
    assert!(matches!(
        admit(&home, text(&token)).await,
        Err(Refused::Unknown)
    ));
    let (_, fresh) = home.tenant("acme").await.unwrap();
    let (globex, _) = home.tenant("globex").await.unwrap();
    drop((tenant, globex));
    let home = home.crash_and_reopen().await.unwrap();
    std::fs::write(folder.join("tenant.db"), stolen).unwrap();
    for tail in ["tenant.db-wal", "tenant.db-shm"] {
        let _may_be_absent = std::fs::remove_file(folder.join(tail));
    }
    assert!(matches!(
        admit(&home, text(&fresh)).await,
        Err(Refused::Quarantined(_))
    ));
    let globex = home.known("globex").unwrap();
    assert!(
        globex.read(|_tx| Ok(())).await.is_ok(),
        "neighbours are served"
    );
}

#[tokio::test]
async fn secrets_are_sealed_and_come_back() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, _) = home.tenant("acme").await.unwrap();
    let secret = Secret::from_text("sk-canary-5678".to_owned()).unwrap();
    home.kernel
        .set_secret(&home.operator, &tenant, "openai", secret)
        .await
        .unwrap();
    assert!(
        home.kernel
            .set_secret(
                &home.operator,
                &tenant,
                "../x",
                Secret::from_text("a".into()).unwrap()
            )
            .await
            .is_err()
    );
    drop(tenant);
    let home = home.crash_and_reopen().await.unwrap();
    let tenant = home.known("acme").unwrap();
    assert_eq!(
        home.kernel
            .list_secrets(&home.operator, &tenant)
            .await
            .unwrap()[0]
            .name,
        "openai"
    );
    assert_eq!(tenant.secret("openai").unwrap().expose(), b"sk-canary-5678");
    home.kernel
        .delete_secret(&home.operator, &tenant, "openai")
        .await
        .unwrap();
    assert!(tenant.secret("openai").is_none());
    for file in walk(&home.path()) {
        // The journal's keeper may delete a segment meanwhile.
        let Ok(bytes) = std::fs::read(&file) else {
            continue;
        };
        assert!(
            !bytes.windows(14).any(|part| part == b"sk-canary-5678"),
            "{}",
            file.display()
        );
    }
}

#[tokio::test]
async fn a_good_overlay_applies_and_a_bad_one_keeps_the_last() {
    let home = TempKernel::open().await.unwrap();
    let (_, token) = home.tenant("acme").await.unwrap();
    let file = home.path().join("tenants/acme/config.yaml");
    let model = async |home: &TempKernel| {
        admit(home, text(&token))
            .await
            .unwrap()
            .settings()
            .model
            .clone()
    };
    assert_eq!(model(&home).await, None);
    for (text, expected) in [
        ("model: sim-large\n", "sim-large"),
        ("model: [\n", "sim-large"),
        ("model: absent\n", "sim-large"),
        ("model: sim-fast\n", "sim-fast"),
    ] {
        std::fs::write(&file, text).unwrap();
        home.clock.advance(Duration::from_secs(2));
        assert_eq!(model(&home).await.as_deref(), Some(expected), "{text}");
    }
    let tenant = home.known("acme").unwrap();
    let changes = tenant
        .audit_page(0)
        .await
        .unwrap()
        .iter()
        .filter(|row| row.entry.contains("config.change"))
        .count();
    assert_eq!(changes, 2);
}

#[tokio::test]
async fn the_operators_key_is_only_that() {
    let home = TempKernel::open().await.unwrap();
    let key = home.kernel.new_operator_key(&home.operator).await.unwrap();
    assert!(home.kernel.operator(key.expose_str().unwrap()).is_some());
    for wrong in [
        "",
        "pk_",
        "pk_00000000000000000000000000000000",
        "tk_acme_00000000000000000000000000000000",
    ] {
        assert!(home.kernel.operator(wrong).is_none(), "{wrong}");
    }
    assert!(matches!(
        admit(&home, key.expose_str().unwrap()).await,
        Err(Refused::Unknown)
    ));
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
