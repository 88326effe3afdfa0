//! Every line that the documentation promises parses; what is wrong does not.

use clap::{CommandFactory, Parser};
use rpc::{Change, LimitsChange};

use super::*;

/// One line per command and option of the documented surface.
const GOOD: &[&str] = &[
    "init --data DIR",
    "serve --data DIR --config FILE --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0",
    "demo --data DIR --listen 127.0.0.1:9000",
    "demo --listen [::1]:9000 --admin-listen 127.0.0.1:9001",
    "rpc tenant.get",
    "rpc tenant.usage {} --token-file FILE --to 127.0.0.1:8080",
    "rpc secrets.set --params-file FILE",
    "chat --tenant acme",
    "chat --tenant acme --agent analyst hello",
    "chat --tenant acme --model sim-fast --token-file FILE",
    "chat --tenant acme --session ses_1 --url http://127.0.0.1:8080 hello",
    "tenants create acme",
    "tenants create acme --tier pro --tokens-per-day 1 --cost-per-day-usd 0.5 --cost-per-month-usd 20 --requests-per-minute 3 --tokens-per-minute 4",
    "tenants create acme --requests-per-second 1 --requests-per-day 2 --concurrent-requests 0",
    "tenants list",
    "tenants show acme",
    "tenants suspend acme",
    "tenants resume acme",
    "tenants freeze acme",
    "tenants check acme",
    "tenants repair acme --dry-run",
    "tenants repair acme --yes --anew",
    "tenants clone acme --as acme-2",
    "tenants delete acme --confirm acme",
    "tenants token rotate acme",
    "tenants token rotate acme --grace 10m --all",
    "tenants token rotate acme --name ci --grace 2027-01-01T00:00:00Z",
    "tenants token issue acme --name ci --role app",
    "tenants token issue acme --name ci --role auditor --expires 30d",
    "tenants token list acme",
    "tenants token revoke acme ci",
    "tenants quota show acme",
    "tenants quota set acme --tokens-per-day 5 --cost-per-day-usd none --tier basic",
    "tenants backup acme --to s3://bucket/key",
    "tenants restore --from file:///backup --as acme --force",
    "secrets set acme openai",
    "secrets set acme openai --from-file key.txt",
    "secrets list acme",
    "secrets rotate acme",
    "secrets delete acme openai",
    "billing report",
    "billing report --tenant acme --from 2026-11-01 --to 2026-11-30 --format csv --detail",
    "billing report --format json",
    "audit verify --tenant acme",
    "audit tail --tenant acme",
    "audit tail --tenant acme --limit 5 --follow",
    "audit export --tenant acme --to out",
    "audit content --tenant acme --seq 7",
    "audit forget --tenant acme --person ann",
    "audit forget --tenant acme --token ci",
    "ratecard show",
    "ratecard import card.json",
    "ratecard check",
    "ratecard check card.json",
    "config check",
    "config check --tenant acme",
    "config schema",
    "config show --tenant acme",
    "routes",
    "doctor",
    "status",
    "completions bash",
];

const BAD: &[&str] = &[
    "",
    "nuke",
    "tenants",
    "tenants create",
    "tenants create ACME",
    "tenants create ../etc",
    "tenants create -- --as",
    "tenants create acme --cost-per-day-usd -1",
    "tenants create acme --cost-per-day-usd=-1",
    "tenants create acme --tokens-per-day 1.5",
    "tenants delete acme",
    "tenants token rotate acme --all --name ci",
    "tenants token rotate acme --grace soon",
    "tenants token issue acme --name ci",
    "tenants token issue acme --name ci --role root",
    "tenants token issue acme --name CI --role app",
    "tenants quota set acme",
    "tenants quota set acme --tokens-per-day unlimited",
    "tenants quota set acme --until 2h",
    "tenants quota set acme --tokens-per-day 5 --until 99999999999d",
    "tenants quota set acme --tokens-per-day none --until 2h",
    "tenants quota set acme --tier pro --until 2h",
    "tenants quota set acme --tier pro --scope each-token",
    "tenants token issue acme --name ci --role app --expires 99999999999d",
    "tenants token rotate acme --grace 99999999999d",
    "secrets set acme openai sk-value",
    "secrets set acme ../openai",
    "billing report --from 22.11.2026",
    "billing report --format xml",
    "audit tail",
    "audit tail --tenant acme --limit 0",
    "chat",
    "chat --tenant acme --agent a --model b",
    "chat --tenant acme --agent a --session ses_1",
    "chat --tenant acme hello tk_acme_0",
    "serve --listen 8080",
    "completions ksh",
];

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("partywall").chain(line.split_whitespace()))
}

#[test]
fn the_documented_surface_parses() {
    for line in GOOD {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn every_command_takes_json_and_data() {
    for line in GOOD {
        let data = if line.contains("--data") {
            ""
        } else {
            "--data elsewhere"
        };
        let cli = parse(&format!("{line} --json {data}"))
            .unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(
            cli.common.json
                && cli.common.data.is_some() == (line.contains("--data") || !data.is_empty()),
            "{line}"
        );
        let before = parse(&format!("--json {line}")).unwrap();
        assert!(before.common.json, "{line}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    for line in BAD {
        match parse(line) {
            Ok(_) => panic!("parsed: {line}"),
            Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
        }
    }
}

#[test]
fn a_secret_is_never_an_argument() {
    fn walk(command: &clap::Command) {
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            assert!(
                !["value", "secret", "password", "key", "token"].contains(&id),
                "{}: {id}",
                command.get_name()
            );
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&Cli::command());
}

#[test]
fn the_definition_is_sound_and_helps() {
    fn walk(command: &mut clap::Command) {
        assert!(
            command.get_about().is_some(),
            "{} has no help line",
            command.get_name()
        );
        for line in command.render_help().to_string().lines() {
            assert!(
                line.chars().count() <= 120,
                "{}: {line}",
                command.get_name()
            );
        }
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{} {} has no help",
                command.get_name(),
                argument.get_id()
            );
        }
        command.get_subcommands_mut().for_each(walk);
    }
    Cli::command().debug_assert();
    walk(&mut Cli::command());
}

#[test]
fn changes_become_what_was_typed() {
    let typed = |line: &str| {
        let Ask::Tenants(Tenants::Quota(Quota::Set { change, .. })) = parse(line).unwrap().ask
        else {
            panic!("another command")
        };
        LimitsChange::from(change)
    };
    let change =
        typed("tenants quota set acme --tokens-per-day 5 --cost-per-day-usd none --scope token:ci");
    assert_eq!(change.limits.of(base::Quota::TokensPerDay), Change::Set(5));
    assert_eq!(change.limits.of(base::Quota::CostPerDay), Change::Clear);
    assert_eq!(
        change.limits.of(base::Quota::RequestsPerMinute),
        Change::Keep
    );
    assert_eq!(change.scope.to_string(), "token:ci");
    let change = typed("tenants quota set acme --cost-per-month-usd 0.5 --until 2027-01-01");
    let pico = Change::Set(500_000_000_000);
    assert_eq!(change.limits.of(base::Quota::CostPerMonth), pico);
    assert_eq!(change.scope, base::Scope::Tenant);
    assert!(change.until.is_some());
    // Each quota of the table has its flag, here and at creation.
    for quota in base::Quota::ALL {
        let set = typed(&format!("tenants quota set acme --{} 7", quota.flag()));
        assert_ne!(set.limits.of(quota), Change::Keep, "{}", quota.name());
        let line = format!("tenants create acme --{} 7", quota.flag());
        let Ask::Tenants(Tenants::Create { limits, .. }) = parse(&line).unwrap().ask else {
            panic!("another command")
        };
        assert!(base::Limits::from(limits).limit(quota).is_some());
    }
}
