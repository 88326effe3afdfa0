//! The protocol's JSON: every command and answer survives the way over the wire, hostile input is refused with a sentence.

use std::collections::BTreeSet;

use base::Quota;
use rpc::{Answer, Change, Command, Fault, FaultCode, Frame, LimitsChange, Row};

/// One line per command, as `control.sock` carries it.
const COMMANDS: &[&str] = &[
    r#"{"command":"status"}"#,
    r#"{"command":"tenants.create","id":"acme","tier":"pro","limits":{"requests_per_second":null,"requests_per_minute":null,"requests_per_day":null,"tokens_per_minute":null,"tokens_per_day":5,"cost_per_day_usd":"0.5","cost_per_month_usd":null,"concurrent_requests":null,"storage_bytes":null}}"#,
    r#"{"command":"tenants.list"}"#,
    r#"{"command":"tenants.show","id":"acme"}"#,
    r#"{"command":"tenants.suspend","id":"acme"}"#,
    r#"{"command":"tenants.freeze","id":"acme"}"#,
    r#"{"command":"tenants.check","id":"acme"}"#,
    r#"{"command":"tenants.repair","id":"acme","dry_run":true,"anew":false}"#,
    r#"{"command":"tenants.resume","id":"acme"}"#,
    r#"{"command":"tenants.delete","id":"acme","confirm":"acme"}"#,
    r#"{"command":"tenants.token.rotate","id":"acme","name":"ci","all":false,"grace":"600000ms"}"#,
    r#"{"command":"tenants.token.issue","id":"acme","name":"ci","role":"app","expires":"2027-01-01T00:00:00.000Z"}"#,
    r#"{"command":"tenants.token.list","id":"acme"}"#,
    r#"{"command":"tenants.token.revoke","id":"acme","name":"ci"}"#,
    r#"{"command":"tenants.quota.show","id":"acme"}"#,
    r#"{"command":"tenants.quota.set","id":"acme","change":{"tokens_per_minute":null,"tokens_per_day":7,"cost_per_day_usd":"5"}}"#,
    r#"{"command":"tenants.quota.set","id":"acme","change":{"tier":"pro","scope":"token:ci","until":"2027-01-01T00:00:00.000Z","tokens_per_day":7}}"#,
    r#"{"command":"secrets.set","tenant":"acme","name":"openai","value":"sk-x"}"#,
    r#"{"command":"secrets.list","tenant":"acme"}"#,
    r#"{"command":"secrets.delete","tenant":"acme","name":"openai"}"#,
    r#"{"command":"secrets.rotate","tenant":"acme"}"#,
    r#"{"command":"policy.get","tenant":"acme","base":true}"#,
    r#"{"command":"policy.set","tenant":"acme","document":"policy: ''"}"#,
    r#"{"command":"policy.test","tenant":"acme","document":"policy: ''"}"#,
    r#"{"command":"policy.explain","tenant":"acme","role":"app","token":"ci","person":"ann","action":"egress","resource":"example.com","operation":"messages","stream":true,"tools":false,"port":8443}"#,
    r#"{"command":"billing.report","tenant":"acme","from":"2026-11-01","to":"2026-11-30","detail":true}"#,
    r#"{"command":"audit.tail","tenant":"acme","limit":20,"follow":false}"#,
    r#"{"command":"audit.verify","tenant":"acme","since":"origin\n1\nroot\n"}"#,
    r#"{"command":"audit.export","tenant":"acme"}"#,
    r#"{"command":"audit.checkpoint","tenant":"acme"}"#,
    r#"{"command":"audit.rotate_key","tenant":"acme"}"#,
    r#"{"command":"audit.content","tenant":"acme","seq":7}"#,
    r#"{"command":"audit.forget","tenant":"acme","person":null,"token":"ci"}"#,
    r#"{"command":"ratecard.show"}"#,
    r#"{"command":"ratecard.import","name":"card.json","card":"{}"}"#,
    r#"{"command":"ratecard.check","card":"{}"}"#,
    r#"{"command":"config.check","tenant":"acme"}"#,
    r#"{"command":"config.show","tenant":null}"#,
    r#"{"command":"doctor"}"#,
];

#[test]
fn every_command_survives_the_wire() {
    let mut tried = BTreeSet::new();
    for text in COMMANDS {
        let command =
            Command::from_json(text.as_bytes()).unwrap_or_else(|fault| panic!("{text}: {fault}"));
        assert!(text.contains(&format!("\"{}\"", command.name())), "{text}");
        tried.insert(command.name());
        let line = command.to_line().unwrap();
        assert_eq!(std::str::from_utf8(&line).unwrap(), format!("{text}\n"));
    }
    // A command that is not one is told all that are.
    let Err(unknown) = Command::from_json(br#"{"command":"nuke"}"#) else {
        panic!("taken: nuke")
    };
    let known: BTreeSet<&str> = unknown.message.split('`').skip(3).step_by(2).collect();
    assert_eq!(tried, known, "each command has its line here");
}

#[test]
fn short_forms_are_taken() {
    for text in [
        r#"{"command":"tenants.create","id":"acme"}"#,
        r#"{"command":"tenants.token.rotate","id":"acme"}"#,
        r#"{"command":"tenants.token.issue","id":"acme","name":"a","role":"app","expires":"30d"}"#,
        r#"{"command":"billing.report"}"#,
        r#"{"id":"acme","command":"tenants.show"}"#,
    ] {
        assert!(Command::from_json(text.as_bytes()).is_ok(), "{text}");
    }
}

#[test]
fn hostile_commands_are_refused_as_usage() {
    for (text, said) in [
        (r#"{"command":"tenants.show","id":"../etc"}"#, "tenant id"),
        (r#"{"command":"tenants.show","id":"root"}"#, "reserved"),
        (r#"{"command":"tenants.show","id":"ACME"}"#, "tenant id"),
        (r#"{"command":"tenants.show","id":"a\u0000b"}"#, "tenant id"),
        (r#"{"command":"tenants.show","id":7}"#, "string"),
        (r#"{"command":"tenants.show","id":"acme","uid":"0"}"#, "uid"),
        (
            r#"{"command":"tenants.create","id":"acme","limits":{"tokens_per_week":1}}"#,
            "tokens_per_week",
        ),
        (
            r#"{"command":"tenants.create","id":"acme","limits":{"tokens_per_day":-1}}"#,
            "invalid value",
        ),
        (
            r#"{"command":"tenants.create","id":"acme","limits":{"cost_per_day_usd":"1,5"}}"#,
            "amount",
        ),
        (
            r#"{"command":"tenants.quota.set","id":"acme","change":{"tokens_per_week":1}}"#,
            "tokens_per_week",
        ),
        (
            r#"{"command":"tenants.quota.set","id":"acme","change":{"tokens_per_day":1,"tokens_per_day":2}}"#,
            "duplicate",
        ),
        (
            r#"{"command":"tenants.quota.set","id":"acme","change":{"scope":"everybody"}}"#,
            "not a scope",
        ),
        (
            r#"{"command":"tenants.token.issue","id":"acme","name":"x","role":"root"}"#,
            "role",
        ),
        (
            r#"{"command":"secrets.set","tenant":"acme","name":"openai","value":""}"#,
            "empty",
        ),
        (
            r#"{"command":"billing.report","from":"22.11.2026"}"#,
            "date",
        ),
        (r#"{"command":"nuke"}"#, "unknown variant"),
        (r#"{}"#, "command"),
        ("[", "EOF"),
        ("", "EOF"),
    ] {
        let Err(fault) = Command::from_json(text.as_bytes()) else {
            panic!("taken: {text}")
        };
        assert_eq!(
            (fault.code, fault.exit_code()),
            (FaultCode::Invalid, 2),
            "{text}"
        );
        assert!(fault.message.contains(said), "{text}: {}", fault.message);
    }
}

#[test]
fn a_change_has_three_states() {
    let change: LimitsChange =
        serde_json::from_str(r#"{"tokens_per_day":0,"requests_per_minute":null}"#).unwrap();
    assert_eq!(change.limits.of(Quota::TokensPerDay), Change::Set(0));
    assert_eq!(change.limits.of(Quota::RequestsPerMinute), Change::Clear);
    assert_eq!(change.limits.of(Quota::CostPerDay), Change::Keep);
    assert_eq!(
        serde_json::to_string(&change).unwrap(),
        r#"{"requests_per_minute":null,"tokens_per_day":0}"#
    );
    assert_eq!(change.check(), Ok(()));
}

#[test]
fn what_only_the_tenant_has_is_no_limit_of_its_parts() {
    for (change, taken) in [
        (r#"{"storage_bytes":5}"#, true),
        (r#"{"scope":"each-token","storage_bytes":5}"#, false),
        (r#"{"scope":"person:ann","storage_bytes":null}"#, false),
        (r#"{"scope":"each-token","tokens_per_day":5}"#, true),
    ] {
        let read: LimitsChange = serde_json::from_str(change).unwrap();
        assert_eq!(read.check().is_ok(), taken, "{change}");
    }
}

#[test]
fn every_frame_survives_the_wire() {
    let frames = [
        r#"{"row":{"tenant":{"id":"acme","status":"active","quarantined":false,"tier":"pro","tokens":2,"created_at":"2026-11-22T00:00:00.000Z"}}}"#,
        r#"{"row":{"audit":{"b":[1,2.50,"é"],"tenant":"acme"}}}"#,
        r#"{"row":{"secret":{"name":"openai","created_at":"2026-11-22T00:00:00.000Z"}}}"#,
        r#"{"answer":{"end":{"rows":3}}}"#,
        r#"{"answer":{"done":{"message":"x"}}}"#,
        r#"{"answer":{"issued":{"tenant":"acme","name":"ci","role":"app","token":"tk_acme_0","expires_at":null,"old_valid_until":null}}}"#,
        r#"{"answer":{"config":{"files":["partywall.yaml"],"config":{"listen":"127.0.0.1:8080"}}}}"#,
        r#"{"answer":{"doctor":{"checks":[{"name":"disk","state":"warn","found":"x","advice":null}]}}}"#,
        r#"{"fault":{"code":"not_found","message":"no tenant acme"}}"#,
    ];
    for text in frames {
        let line = Frame::from_line(text.as_bytes())
            .unwrap()
            .to_line()
            .unwrap();
        assert_eq!(std::str::from_utf8(&line).unwrap(), format!("{text}\n"));
    }
}

#[test]
fn an_audit_entry_keeps_its_bytes() {
    let entry = r#"{"a":1.0,"tenant":"acme"}"#;
    let raw = serde_json::value::RawValue::from_string(entry.to_owned()).unwrap();
    let line = Frame::Row(Box::new(Row::Audit(raw))).to_line().unwrap();
    let Ok(Frame::Row(row)) = Frame::from_line(&line) else {
        panic!("not a row")
    };
    let Row::Audit(back) = *row else {
        panic!("not an entry")
    };
    assert_eq!(back.get(), entry);
}

#[test]
fn a_line_is_bounded() {
    let long = Frame::Answer(Box::new(Answer::Done {
        message: "x".repeat(rpc::frame::ANSWER_LINE_BYTES_MAX),
    }));
    assert!(long.to_line().is_err());
    let huge = vec![b' '; rpc::frame::REQUEST_LINE_BYTES_MAX + 1];
    assert!(matches!(
        Command::from_json(&huge),
        Err(Fault {
            code: FaultCode::Invalid,
            ..
        })
    ));
}

#[test]
fn changes_of_limits_that_do_not_go_together_are_refused_by_name() {
    for (change, named) in [
        (r#"{}"#, "nothing would change"),
        (r#"{"until":"2h"}"#, "nothing would change"),
        (r#"{"scope":"each-token"}"#, "nothing would change"),
        (
            r#"{"tier":"pro","until":"2h"}"#,
            "tier does not go with until",
        ),
        (
            r#"{"tier":"pro","scope":"token:ci","tokens_per_day":7}"#,
            "tier does not go with scope token:ci",
        ),
        (
            r#"{"until":"2h","requests_per_day":7,"tokens_per_day":null}"#,
            "tokens_per_day none does not go with until",
        ),
    ] {
        let change: LimitsChange = serde_json::from_str(change).unwrap();
        let said = change.check().unwrap_err();
        assert!(said.starts_with(named), "{said}");
    }
    for good in [
        r#"{"tier":"pro","tokens_per_day":7}"#,
        r#"{"scope":"token:ci","tokens_per_day":null}"#,
        r#"{"scope":"token:ci","until":"2h","tokens_per_day":7}"#,
    ] {
        let change: LimitsChange = serde_json::from_str(good).unwrap();
        assert_eq!(change.check(), Ok(()), "{good}");
    }
}
