//! What a tenant's own admin changes, and tickets: authority over one tenant, which ends where the token's does.

#![expect(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use base::Role;
use base::limits::{TICKET_LIFE, TICKETS_PER_TOKEN};
use kernel::ticket::Tickets;
use kernel::tokens::{IssuedToken, NewToken};
use kernel::{KernelError, Purpose, Refused, Secret, Tenant};
use testkit::TempKernel;

const PAGE: &str = "https://console.example.com";

async fn issue(home: &TempKernel, tenant: &Tenant, name: &str, role: Role) -> IssuedToken {
    let new = NewToken {
        name: name.parse().unwrap(),
        role,
        person: None,
        expires: None,
    };
    home.kernel
        .issue_token(&home.operator, tenant, new)
        .await
        .unwrap()
}

fn secret() -> Secret {
    Secret::from_text("sk-of-the-tenant".to_owned()).unwrap()
}

#[tokio::test]
async fn only_an_admin_that_may_act_administers() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, admin) = home.tenant("acme").await.unwrap();
    let trail = home.kernel.open_trail(None).unwrap();
    let reading = home.admit(&admin, Purpose::Read).await.unwrap();
    assert!(matches!(
        trail.administrator(&reading),
        Err(KernelError::Refused(_))
    ));
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Admin) {
        let token = issue(&home, &tenant, role.as_str(), role).await;
        let admission = home.admit(&token, Purpose::Act).await.unwrap();
        let refused = trail.administrator(&admission);
        assert!(matches!(refused, Err(KernelError::Refused(_))), "{role}");
        assert!(matches!(
            admission.own_secrets().await,
            Err(KernelError::Refused(_))
        ));
    }
    let acting = home.admit(&admin, Purpose::Act).await.unwrap();
    let administrator = trail.administrator(&acting).unwrap();
    administrator.set_secret("openai", secret()).await.unwrap();
    // Suspended between the look and the change: the change is not made.
    home.kernel
        .suspend_tenant(&home.operator, &tenant)
        .await
        .unwrap();
    let refused = administrator.delete_secret("openai").await;
    assert!(matches!(refused, Err(KernelError::Revoked)));
    assert!(matches!(
        trail.administrator(&acting),
        Err(KernelError::Revoked)
    ));
    let known = home.known("acme").unwrap();
    let kept = home.kernel.list_secrets(&home.operator, &known);
    assert_eq!(kept.await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_admin_changes_its_own_tenant_and_the_entry_names_its_token() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, admin) = home.tenant("acme").await.unwrap();
    let (other, _) = home.tenant("globex").await.unwrap();
    let trail = home.kernel.open_trail(None).unwrap();
    let acting = home.admit(&admin, Purpose::Act).await.unwrap();
    let administrator = trail.administrator(&acting).unwrap();
    administrator.set_secret("openai", secret()).await.unwrap();
    assert!(tenant.secret("openai").is_some() && other.secret("openai").is_none());
    let names = acting.own_secrets().await.unwrap();
    assert_eq!(
        names
            .iter()
            .map(|info| info.name.as_str())
            .collect::<Vec<_>>(),
        ["openai"]
    );
    administrator.delete_secret("openai").await.unwrap();
    let twice = administrator.delete_secret("openai").await;
    assert!(matches!(twice, Err(KernelError::NotFound(_))));
    let log = tenant.audit_page(0).await.unwrap();
    let changes: Vec<_> = log
        .iter()
        .filter(|row| row.entry.contains("\"secret."))
        .collect();
    assert_eq!(changes.len(), 2);
    for row in changes {
        for said in [
            "\"actor\":\"admin\"",
            "\"role\":\"admin\"",
            "\"token\":\"default\"",
        ] {
            assert!(row.entry.contains(said), "{said}: {}", row.entry);
        }
        assert!(row.entry.contains(trail.request_id().as_str()));
        assert!(!row.entry.contains("sk-of-the-tenant"));
    }
    let foreign = other.audit_page(0).await.unwrap();
    assert!(foreign.iter().all(|row| !row.entry.contains("\"secret.")));
}

#[tokio::test]
async fn a_rotation_of_all_ends_with_the_admins_own() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, admin) = home.tenant("acme").await.unwrap();
    let others = ["a-first", "z-last"];
    for name in others {
        issue(&home, &tenant, name, Role::App).await;
    }
    let trail = home.kernel.open_trail(None).unwrap();
    let acting = home.admit(&admin, Purpose::Act).await.unwrap();
    let administrator = trail.administrator(&acting).unwrap();
    let fresh = administrator.rotate_all_tokens(None).await.unwrap();
    let names: Vec<_> = fresh.iter().map(|token| token.name.as_str()).collect();
    assert_eq!(names, ["a-first", "z-last", "default"]);
    assert!(home.admit(&admin, Purpose::Read).await.is_err());
    for token in &fresh {
        assert!(home.admit(token, Purpose::Act).await.is_ok());
    }
    assert!(matches!(
        administrator.rotate_own_token(None).await,
        Err(KernelError::Refused(_))
    ));
}

#[tokio::test]
async fn a_token_in_its_grace_gets_nothing_that_outlives_it() {
    let home = TempKernel::open().await.unwrap();
    let (_, admin) = home.tenant("acme").await.unwrap();
    let trail = home.kernel.open_trail(None).unwrap();
    let acting = home.admit(&admin, Purpose::Act).await.unwrap();
    let administrator = trail.administrator(&acting).unwrap();
    let grace = Some(Duration::from_secs(3_600));
    let fresh = administrator.rotate_own_token(grace).await.unwrap();
    for refused in [
        administrator.rotate_own_token(None).await.err(),
        administrator.rotate_all_tokens(None).await.err(),
    ] {
        assert!(matches!(refused, Some(KernelError::Refused(_))));
    }
    assert!(home.admit(&admin, Purpose::Act).await.is_ok());
    assert!(home.admit(&fresh, Purpose::Act).await.is_ok());
    home.clock.advance(Duration::from_secs(3_601));
    assert!(home.admit(&admin, Purpose::Act).await.is_err());
}

#[tokio::test]
async fn a_ticket_opens_once_for_its_page_in_its_time() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let tickets = Tickets::default();
    let admission = home.admit(&token, Purpose::Read).await.unwrap();
    let fresh = || tickets.issue(&admission, PAGE).unwrap().0;
    let redeem = |ticket: &Secret, page: &str| {
        tickets.redeem(ticket.expose_str().unwrap(), page, home.kernel.now())
    };
    let ticket = fresh();
    let caller = redeem(&ticket, PAGE).unwrap();
    let admitted = home.kernel.admit_for(caller, Purpose::Read).await.unwrap();
    assert_eq!(admitted.tenant().id(), tenant.id());
    assert!(redeem(&ticket, PAGE).is_none(), "a replay");
    let shown = fresh();
    assert!(redeem(&shown, "https://evil.example").is_none());
    assert!(redeem(&shown, PAGE).is_none(), "used up by the wrong page");
    assert!(tickets.redeem("", PAGE, home.kernel.now()).is_none());

    let late = fresh();
    home.clock.advance(TICKET_LIFE);
    assert!(redeem(&late, PAGE).is_none(), "expired");
    let just_in_time = fresh();
    home.clock.advance(TICKET_LIFE - Duration::from_millis(1));
    assert!(redeem(&just_in_time, PAGE).is_some());

    let many: Vec<_> = (0..=TICKETS_PER_TOKEN)
        .map(|_| {
            home.clock.advance(Duration::from_millis(1));
            fresh()
        })
        .collect();
    assert!(redeem(&many[0], PAGE).is_none(), "the oldest gave way");
    assert!(
        many[1..]
            .iter()
            .all(|ticket| redeem(ticket, PAGE).is_some())
    );
}

#[tokio::test]
async fn a_ticket_is_worth_what_its_token_is_worth_by_then() {
    let home = TempKernel::open().await.unwrap();
    let (tenant, token) = home.tenant("acme").await.unwrap();
    let tickets = Tickets::default();
    let admission = home.admit(&token, Purpose::Read).await.unwrap();
    let (ticket, _) = tickets.issue(&admission, PAGE).unwrap();
    home.kernel
        .revoke_token(&home.operator, &tenant, &token.name)
        .await
        .unwrap();
    let caller = tickets.redeem(ticket.expose_str().unwrap(), PAGE, home.kernel.now());
    let refused = home.kernel.admit_for(caller.unwrap(), Purpose::Read).await;
    assert!(matches!(refused, Err(Refused::Unknown)));
    assert!(matches!(
        tickets.issue(&admission, PAGE),
        Err(KernelError::Revoked)
    ));
}
