//! The control socket, and the same commands without a gateway.

use std::os::unix::fs::MetadataExt;

use rpc::{CheckState, Closed, FaultCode, Rows};

use super::*;
use crate::assemble::{Place, offline};

#[derive(Default)]
struct Kept(Vec<Row>);

impl Rows for Kept {
    fn push(&mut self, row: Row) -> Result<(), Closed> {
        self.0.push(row);
        Ok(())
    }
}

async fn offline_at(house: &House, command: Command) -> (Vec<Row>, Result<Answer, Fault>) {
    let place = Place {
        data: house.data(),
        config: None,
    };
    let work = move || {
        let mut kept = Kept::default();
        let answer = offline(&place, command, &mut kept);
        (kept.0, answer)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_travel_over_a_private_socket() {
    let mut house = House::open().await;
    let socket = house.data().join("control.sock");
    assert_eq!(socket.metadata().unwrap().mode() & 0o777, 0o600);
    house.tenant("acme").await;
    house.tenant("globex").await;
    let (rows, answer) = house.ask(Command::TenantsList).await;
    assert!(matches!(answer, Ok(Answer::End { rows: 2 })) && rows.len() == 2);
    let (_, refused) = house
        .ask(Command::TenantsShow {
            id: "nobody".parse().unwrap(),
        })
        .await;
    assert_eq!(refused.err().unwrap().code, FaultCode::NotFound);
    let (_, locked) = offline_at(&house, Command::TenantsList).await;
    assert_eq!(locked.err().unwrap().code, FaultCode::Locked);

    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream
        .write_all(b"{\"command\":\"tenants.show\",\"id\":\"acme\",\"extra\":1}\n")
        .await
        .unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    assert!(
        line.contains("\"fault\"") && line.contains("invalid"),
        "{line}"
    );

    house.stopped().await.unwrap();
    assert!(!socket.exists());
    let (rows, answer) = offline_at(&house, Command::TenantsList).await;
    assert!(answer.is_ok() && rows.len() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_applies_at_once_and_again_after_a_restart_and_a_bad_one_never() {
    let mut house = House::open().await;
    let version = async |house: &House| match house.ask(Command::RatecardShow).await {
        (_, Ok(Answer::Ratecard { version, .. })) => version,
        _ => panic!("no card"),
    };
    let before = version(&house).await;
    assert_eq!(before.len(), 16);
    let bad = r#"{"good":{"input_cost_per_token":1e-6,"output_cost_per_token":1e-6},"broken-one":{"input_cost_per_token":"-3"}}"#;
    let import = |card: &str| Command::RatecardImport {
        name: "card.json".to_owned(),
        card: card.to_owned(),
    };
    let (_, refused) = house.ask(import(bad)).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code, FaultCode::BadConfig);
    assert!(
        refused.message.contains("broken-one"),
        "{}",
        refused.message
    );
    assert_eq!(version(&house).await, before);
    assert!(!house.data().join("ratecards").exists());

    let good = r#"{"sim-fast":{"input_cost_per_token":2e-6,"output_cost_per_token":4e-6}}"#;
    let (_, Ok(Answer::RatecardImported(imported))) = house.ask(import(good)).await else {
        panic!("refused")
    };
    assert_eq!(imported.models, 1);
    assert_ne!(imported.version, before);
    let (rows, _) = house.ask(Command::RatecardShow).await;
    let price = rows.iter().find_map(|row| match row {
        Row::Price(price) if price.model == "sim-fast" => price.input_cost_per_token.clone(),
        _ => None,
    });
    assert_eq!(price.as_deref(), Some("0.000002"));
    house.stopped().await.unwrap();
    let house = house.started().await;
    assert_eq!(version(&house).await, imported.version);
    let (_, Ok(Answer::RatecardChecked(checked))) =
        house.ask(Command::RatecardCheck { card: None }).await
    else {
        panic!()
    };
    assert_eq!((checked.priced, checked.problems.len()), (2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_secrets_and_log_answer() {
    let house = House::open().await;
    let acme: base::TenantId = "acme".parse().unwrap();
    house.tenant("acme").await;
    let mut change = rpc::LimitsChange::default();
    change
        .limits
        .set(base::Quota::TokensPerDay, rpc::Change::Set(7));
    let (_, Ok(Answer::Quota(quota))) = house
        .ask(Command::QuotaSet {
            id: acme.clone(),
            change,
        })
        .await
    else {
        panic!()
    };
    let line = quota
        .quotas
        .iter()
        .find(|line| line.name == "tokens_per_day")
        .unwrap();
    assert_eq!(
        (
            line.limit.as_deref(),
            line.source.as_str(),
            line.used.as_str()
        ),
        (Some("7"), "tenant", "0")
    );
    assert!(line.resets_at.is_some());

    let value = rpc::Credential::new("sk-canary-77".to_owned()).unwrap();
    let set = Command::SecretsSet {
        tenant: acme.clone(),
        name: "openai".parse().unwrap(),
        value,
    };
    assert!(house.ask(set).await.1.is_ok());
    let (rows, _) = house
        .ask(Command::SecretsList {
            tenant: acme.clone(),
        })
        .await;
    assert!(matches!(rows.as_slice(), [Row::Secret(view)] if view.name.as_str() == "openai"));

    let (rows, _) = house
        .ask(Command::AuditTail {
            tenant: acme.clone(),
            limit: 2,
            follow: false,
        })
        .await;
    let texts: Vec<_> = rows
        .iter()
        .map(|row| {
            if let Row::Audit(entry) = row {
                entry.get()
            } else {
                ""
            }
        })
        .collect();
    assert_eq!(texts.len(), 2);
    assert!(
        texts[1].contains("secret.set") && !texts[1].contains("canary"),
        "{texts:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_and_an_overlay_are_checked_and_shown() {
    let house = House::open().await;
    let acme: base::TenantId = "acme".parse().unwrap();
    house.tenant("acme").await;
    let (_, Ok(Answer::ConfigChecked(checked))) =
        house.ask(Command::ConfigCheck { tenant: None }).await
    else {
        panic!()
    };
    assert_eq!(checked.files.len(), 2);
    write(
        &house.data().join("tenants/acme/config.yaml"),
        "api_key: x\n",
    );
    let (_, refused) = house
        .ask(Command::ConfigCheck {
            tenant: Some(acme.clone()),
        })
        .await;
    let refused = refused.err().unwrap();
    assert!(
        refused.code == FaultCode::BadConfig && refused.message.contains("api_key"),
        "{}",
        refused.message
    );
    write(
        &house.data().join("tenants/acme/config.yaml"),
        "max_tokens: 100\n",
    );
    let (_, Ok(Answer::Config(shown))) =
        house.ask(Command::ConfigShow { tenant: Some(acme) }).await
    else {
        panic!()
    };
    assert!(
        shown.config.get().contains("\"max_tokens\":100"),
        "{}",
        shown.config.get()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_sees_a_healthy_house_and_a_broken_configuration() {
    let mut house = House::open().await;
    house.tenant("acme").await;
    let (_, Ok(Answer::Doctor(doctor))) = house.ask(Command::Doctor).await else {
        panic!()
    };
    assert!(!doctor.failed(), "{:?}", doctor.checks);
    for name in [
        "data directory",
        "master key",
        "journal",
        "disk",
        "clock",
        "open files",
        "configuration",
        "provider keys",
        "sqlite",
        "sandbox",
    ] {
        assert!(
            doctor.checks.iter().any(|check| check.name == name),
            "{name}"
        );
    }
    house.stopped().await.unwrap();
    house.configure("listen: nowhere\n");
    let (_, Ok(Answer::Doctor(doctor))) = offline_at(&house, Command::Doctor).await else {
        panic!()
    };
    let broken = doctor
        .checks
        .iter()
        .find(|check| check.name == "configuration")
        .unwrap();
    assert!(
        broken.state == CheckState::Fail && broken.found.contains("listen"),
        "{broken:?}"
    );
    let (_, refused) = offline_at(&house, Command::ConfigCheck { tenant: None }).await;
    assert_eq!(refused.err().unwrap().code, FaultCode::BadConfig);
}

#[test]
fn a_directory_that_was_never_made_is_said_so() {
    let temp = tempfile::tempdir().unwrap();
    let place = Place {
        data: temp.path().join("none"),
        config: None,
    };
    let fault = offline(&place, Command::TenantsList, &mut Kept::default())
        .err()
        .unwrap();
    assert_eq!(fault.code, FaultCode::NotInitialised);
    assert!(
        fault.message.contains("partywall init"),
        "{}",
        fault.message
    );
}
