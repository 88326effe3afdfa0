use std::path::Path;
use std::time::Duration;

use base::{Markup, Money, Quota};
use gateway::catalog::{HangUp, ProviderKind};
use gateway::upstream::Reach;
use kernel::audit::level::Level;
use proptest::prelude::*;
use serde_json::Value;

use super::keys::{Key, Kind, PERSONAL, TIER, TOP};
use super::*;

/// The example of the documentation, to the letter.
const EXAMPLE: &str = r#"
listen: 127.0.0.1:8080
tls: { cert: file:cert.pem, key: file:key.pem }     # or none behind a TLS balancer
admin: { listen: 127.0.0.1:8081 }
providers:
  - { name: openai,    kind: openai,    base_url: https://api.openai.com/v1, api_key: env:OPENAI_API_KEY, region: us }
  - { name: anthropic, kind: anthropic, base_url: https://api.anthropic.com, api_key: env:ANTHROPIC_API_KEY }
models:                       # what clients may ask for
  - { name: gpt-4o, routes: [ { provider: openai, model: gpt-4o, weight: 1 } ], fallback: [claude-sonnet] }
tasks: { reasoning: gpt-4o, classification: gpt-4o-mini, embedding: text-embedding-3-small }
tiers:
  basic:      { models: [gpt-4o-mini], model: gpt-4o-mini, max_tokens: 500, temperature: 0.7,
                tokens_per_day: 50000, tokens_per_minute: 1000, cost_per_month_usd: 20 }
  pro:        { model: gpt-4o, max_tokens: 2000, tokens_per_day: 500000,  tokens_per_minute: 10000 }
  enterprise: { model: gpt-4o, max_tokens: 4000, temperature: 0.3, tokens_per_day: 5000000, tokens_per_minute: 100000 }
ratecards: [ ratecards/default.json ]   # the field's usual per-token price file is accepted as it is
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/partywall"))
}

fn error(text: &str) -> String {
    parse(text)
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[test]
fn the_documented_example_is_accepted_whole() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.admin_listen.to_string(), "127.0.0.1:8081");
    let openai = config.catalog.provider("openai").unwrap();
    assert_eq!(
        (openai.kind(), openai.region()),
        (ProviderKind::OpenAi, Some("us"))
    );
    assert_eq!(
        config.provider_keys[1].secret,
        Some(SecretRef::Env("ANTHROPIC_API_KEY".into()))
    );
    assert_eq!(
        config.tls.as_ref().unwrap().cert,
        SecretRef::File("cert.pem".into())
    );
    assert_eq!(
        config.ratecards,
        [PathBuf::from("/etc/partywall/ratecards/default.json")]
    );
    let basic = &config.tiers["basic"];
    assert_eq!(
        basic.limits.tenant.limit(Quota::CostPerMonth),
        Some(Money::parse_usd("20").unwrap().pico())
    );
    assert_eq!(
        (basic.temperature.as_deref(), basic.max_tokens),
        (Some("0.7"), Some(500))
    );
    assert_eq!(
        basic.models.as_deref(),
        Some(&["gpt-4o-mini".to_owned()][..])
    );
    assert_eq!(
        (
            basic.markup,
            basic.limits.tenant.limit(Quota::RequestsPerMinute)
        ),
        (Markup::NONE, None)
    );
    assert_eq!(config.catalog.tasks().len(), 1);
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "config: line 9: models[0].fallback[0]: there is no model \"claude-sonnet\"; it is passed over",
            "config: line 10: tasks.classification: there is no model \"gpt-4o-mini\"; calls for this task find no model",
            "config: line 10: tasks.embedding: there is no model \"text-embedding-3-small\"; calls for this task find no model",
            "config: line 12: tiers.basic.models[0]: there is no model \"gpt-4o-mini\"; nobody sees it",
            "config: line 12: tiers.basic.model: there is no model \"gpt-4o-mini\"; calls that name no model find none",
        ]
    );
}

#[test]
fn everything_has_a_default_and_everything_can_be_said() {
    for empty in ["", "# nothing\n\n", "providers: []"] {
        let config = parse(empty).unwrap();
        assert_eq!(
            (config.listen.port(), config.admin_listen.port()),
            (8080, 8081)
        );
        assert_eq!(config.body_limit, 32 * 1024 * 1024);
        assert_eq!(config.disk, kernel::DiskLimits::default());
        assert!(config.catalog.models().is_empty() && config.warnings.is_empty());
    }
    let config = parse(
        "listen: '[::]:80'\nbody_limit: 1 MiB\ndisk: { reserve: 2 GiB, warn: 0 }\norigins: ['https://console.example.com']\nproviders:\n- name: local\n  kind: openai\n  base_url: http://vllm.internal:8000/v1\n  allow_private: true\n  hang_up: drain\n  max_output_field: max_completion_tokens\n  timeouts: { connect: 500ms, first_byte: 2m, idle: 30s, total: 1h }\n  concurrency: 40\n  queue_length: 7\n  queue_wait: 2s\nmodels:\n- name: m\n  routes: [{ provider: local, model: org/m:free }]\n- { name: n, routes: [{ provider: local, model: n, weight: 7 }], fallback: [m] }\ntiers:\n  t: { markup: 1.25, cost_per_day_usd: 0.000000000001, requests_per_second: 0, concurrent_requests: 9, temperature: '1', weight: 5, guaranteed_slots: 3, audit_retention_days: 200, audit_level: detailed }\n",
    )
    .unwrap();
    let local = config.catalog.provider("local").unwrap();
    assert_eq!(
        (local.reach(), local.hang_up()),
        (Reach::Private, HangUp::Drain)
    );
    assert_eq!(local.max_output_field().as_str(), "max_completion_tokens");
    assert_eq!(local.timeouts().connect, Duration::from_millis(500));
    assert_eq!(local.timeouts().total, Duration::from_secs(3_600));
    let line = local.line_spec();
    assert_eq!(
        (line.slots, line.queue, line.wait),
        (40, 7, Duration::from_secs(2))
    );
    assert_eq!(config.body_limit, 1024 * 1024);
    assert_eq!((config.disk.reserve, config.disk.warn), (2 << 30, 0));
    assert!(config.origins.hold("https://console.example.com"));
    assert_eq!(config.catalog.model("n").unwrap().routes[0].weight, 7);
    let tier = &config.tiers["t"];
    assert_eq!((tier.weight, tier.guaranteed_slots), (5, 3));
    assert_eq!(
        tier.audit_retention,
        Some(Duration::from_secs(200 * 86_400))
    );
    assert_eq!(tier.audit_level, Level::Detailed);
    assert_eq!(
        (
            tier.limits.tenant.limit(Quota::CostPerDay),
            tier.markup.ppm()
        ),
        (Some(1), 1_250_000)
    );
    assert_eq!(
        (
            tier.limits.tenant.limit(Quota::RequestsPerSecond),
            tier.temperature.as_deref()
        ),
        (Some(0), Some("1"))
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn errors_name_line_key_and_remedy() {
    let provider =
        |line: &str| format!("providers:\n- name: p\n  kind: openai\n  api_key: env:K\n  {line}\n");
    let model = |line: &str| format!("{}models:\n- name: m\n{line}\n", provider("region: eu"));
    for (text, expect) in [
        ("colour: red\n".to_owned(), "config: line 1: colour: unknown key; known here are listen, tls, admin, providers, models, tasks, tiers, policy, ratecards, body_limit, alerts, disk, origins"),
        ("listen: 127.0.0.1:1\ncache: { exact: true }\n".to_owned(), "config: line 2: cache: this part is not in this version; remove it"),
        ("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n".to_owned(), "config: line 2: listen: stands twice"),
        ("tasks: { a: m, a: n }".to_owned(), "config: line 1: a: stands twice"),
        ("listen: &a 127.0.0.1:1\n".to_owned(), "config: line 1: listen: anchors and aliases are not allowed"),
        ("tiers:\n  t:\n    <<: { model: m }\n".to_owned(), "config: line 3: <<: merge keys are not allowed"),
        ("listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:1\n".to_owned(), "config: line 2: one document only"),
        ("listen: [1]\n".to_owned(), "config: line 1: listen: expected one value, not a list or a mapping"),
        ("providers: 3\n".to_owned(), "config: line 1: providers: expected a list"),
        ("providers: [null]\n".to_owned(), "config: line 1: providers: expected a mapping"),
        ("listen: \"x\n".to_owned(), "config: line 1: listen: unclosed quote"),
        ("listen: localhost\n".to_owned(), "config: line 1: listen: \"localhost\" is not an address and a port, such as 127.0.0.1:8080"),
        ("listen: 127.0.0.1:9\nadmin: { listen: 127.0.0.1:9 }".to_owned(), "config: line 2: admin.listen: is the address of listen; operators have a listener of their own"),
        ("body_limit: 32MB\n".to_owned(), "config: line 1: body_limit: \"32MB\" is not a size from 1KiB to 1024MiB, such as 32MiB"),
        ("origins: ['*']\n".to_owned(), "config: line 1: origins[0]: is not an origin as browsers send it: https://host or https://host:port, in lower case and without a path; http for localhost only"),
        ("disk: { reserve: much }\n".to_owned(), "config: line 1: disk.reserve: \"much\" is not a size up to 1024GiB, such as 512MiB"),
        ("disk: { warn: 1025GiB }\n".to_owned(), "config: line 1: disk.warn: \"1025GiB\" is not a size up to 1024GiB, such as 512MiB"),
        ("tls: { cert: file:c.pem }\n".to_owned(), "config: line 1: key: is missing"),
        ("tls: { cert: c.pem, key: file:k }\n".to_owned(), "config: line 1: tls.cert: a secret does not belong in this file: put it in the environment (env:NAME) or in a file (file:PATH)"),
        ("providers:\n- kind: openai\n".to_owned(), "config: line 2: name: is missing"),
        ("providers:\n- name: P\n  kind: openai\n".to_owned(), "config: line 2: providers[0].name: \"P\" is not a name: 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"),
        ("providers:\n- name: g\n  kind: gemini\n".to_owned(), "config: line 3: providers[0].kind: the kind gemini is not in this version; available are openai (with every compatible server) and anthropic"),
        ("providers:\n- name: g\n  kind: skynet\n".to_owned(), "config: line 3: providers[0].kind: \"skynet\" is not one of openai, anthropic"),
        ("providers:\n- name: p\n  kind: openai\n".to_owned(), "config: line 2: providers[0].api_key: is missing; only a provider on loopback or with allow_private: true may have no key"),
        ("providers:\n- name: p\n  kind: openai\n  api_key: sk-live-canary\n".to_owned(), "config: line 4: providers[0].api_key: a secret does not belong in this file: put it in the environment (env:NAME) or in a file (file:PATH)"),
        ("providers:\n- name: p\n  kind: openai\n  api_key: env:A B\n".to_owned(), "config: line 4: providers[0].api_key: env: is followed by the name of an environment variable"),
        ("providers:\n- {name: p, kind: openai, api_key: env:K}\n- {name: p, kind: openai, api_key: env:K}\n".to_owned(), "config: line 3: providers[1].name: another provider has this name"),
        (provider("base_url: https://api.openai.com"), "config: line 5: providers[0].base_url: the path of an openai base_url ends in /v1"),
        (provider("base_url: http://api.openai.com/v1"), "config: line 5: providers[0].base_url: plain http is allowed on loopback, or with allow_private: true; use https"),
        (provider("base_url: https://u:p@api.openai.com/v1"), "config: line 5: providers[0].base_url: credentials do not belong in a URL; use api_key: env:NAME"),
        (provider("base_url: https://api.openai.com/v1?a=b"), "config: line 5: providers[0].base_url: a base_url has no query and no fragment"),
        (provider("timeouts: { idle: 60 }"), "config: line 5: providers[0].timeouts.idle: \"60\" is not a duration such as 500ms, 5s or 10m, up to 1h"),
        (provider("timeouts: { idle: 0s }"), "config: line 5: providers[0].timeouts.idle: \"0s\" is not a duration such as 500ms, 5s or 10m, up to 1h"),
        (provider("timeouts: { total: 2d }"), "config: line 5: providers[0].timeouts.total: \"2d\" is not a duration such as 500ms, 5s or 10m, up to 1h"),
        (provider("hang_up: ignore"), "config: line 5: providers[0].hang_up: \"ignore\" is not one of abort, drain"),
        (provider("allow_private: yes"), "config: line 5: providers[0].allow_private: \"yes\" is not true or false"),
        (provider("ca: ca.pem"), "config: line 5: providers[0].ca: a CA file is written file:PATH"),
        (provider("ca: file:no-such.pem"), "config: line 5: providers[0].ca: no-such.pem: there is no such file"),
        (provider("concurrency: 0"), "config: line 5: providers[0].concurrency: \"0\" is not a whole number from 1 to 100000"),
        (provider("queue_length: many"), "config: line 5: providers[0].queue_length: \"many\" is not a whole number from 0 to 100000"),
        (provider("queue_wait: 0s"), "config: line 5: providers[0].queue_wait: \"0s\" is not a duration such as 500ms, 5s or 10m, up to 1h"),
        (provider("proxy: http://p"), "config: line 5: proxy: unknown key; known here are name, kind, base_url, api_key, region, timeouts, hang_up, allow_private, max_output_field, ca, concurrency, queue_length, queue_wait"),
        (model("  routes: [{ provider: q, model: m }]"), "config: line 8: models[0].routes[0].provider: there is no provider \"q\""),
        (model("  routes: [{ provider: p, model: m, weight: 0 }]"), "config: line 8: models[0].routes[0].weight: \"0\" is not a weight from 1 to 1000000"),
        (model("  routes: []"), "config: line 7: models[0].routes: is empty; a model needs at least one route"),
        (model("  routes: [{ provider: p, model: a b }]"), "config: line 8: models[0].routes[0].model: not a model name: 1 to 128 printable ASCII characters without spaces, quotes or backslashes"),
        (model("  routes: [{ provider: p, model: m }]\n- name: m\n  routes: [{ provider: p, model: m }]"), "config: line 9: models[1].name: another model has this name"),
        ("tasks: { 'a b': m }".to_owned(), "config: line 1: tasks.a b: the task is not a name: 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit"),
    ] {
        assert_eq!(error(&text), expect, "{text}");
    }
}

#[test]
fn limits_out_of_range_are_named() {
    let tier = |line: &str| format!("tiers:\n  t:\n    {line}\n");
    for (text, expect) in [
        (
            tier("max_tokens: 0"),
            "config: line 3: tiers.t.max_tokens: \"0\" is not a whole number of 1 or more",
        ),
        (
            tier("tokens_per_day: 1.5"),
            "config: line 3: tiers.t.tokens_per_day: \"1.5\" is not a whole number of 0 or more",
        ),
        (
            tier("tokens_per_day: -1"),
            "config: line 3: tiers.t.tokens_per_day: \"-1\" is not a whole number of 0 or more",
        ),
        (
            tier("tokens_per_day: 99999999999999999999"),
            "config: line 3: tiers.t.tokens_per_day: \"99999999999999999999\" is not a whole number of 0 or more",
        ),
        (
            tier("cost_per_day_usd: 1e-13"),
            "config: line 3: tiers.t.cost_per_day_usd: \"1e-13\" is not an amount in USD of 0 or more, with at most 12 decimals",
        ),
        (
            tier("cost_per_day_usd: .nan"),
            "config: line 3: tiers.t.cost_per_day_usd: \".nan\" is not an amount in USD of 0 or more, with at most 12 decimals",
        ),
        (
            tier("markup: 1001"),
            "config: line 3: tiers.t.markup: \"1001\" is not a factor from 0 to 1000, with at most 6 decimals",
        ),
        (
            tier("temperature: 2.1"),
            "config: line 3: tiers.t.temperature: \"2.1\" is not a number from 0 to 2",
        ),
        (
            tier("weight: 0"),
            "config: line 3: tiers.t.weight: \"0\" is not a whole number from 1 to 1000",
        ),
        (
            tier("weight: 1.5"),
            "config: line 3: tiers.t.weight: \"1.5\" is not a whole number from 1 to 1000",
        ),
        (
            tier("guaranteed_slots: -1"),
            "config: line 3: tiers.t.guaranteed_slots: \"-1\" is not a whole number from 0 to 100000",
        ),
        (
            tier("models: [a]\n    model: b"),
            "config: line 4: tiers.t.model: is not in the models of this tier",
        ),
        (
            tier("tokens_per_year: 1"),
            "config: line 3: tokens_per_year: unknown key; known here are models, model, max_tokens, temperature, markup, weight, guaranteed_slots, per_person, per_token, alert_thresholds, audit_retention_days, audit_level, requests_per_second, requests_per_minute, requests_per_day, tokens_per_minute, tokens_per_day, cost_per_day_usd, cost_per_month_usd, concurrent_requests, storage_bytes",
        ),
    ] {
        assert_eq!(error(&text), expect, "{text}");
    }
    assert_eq!(
        error(&" ".repeat(CONFIG_BYTES_MAX + 1)),
        "config: larger than the limit of 1048576 bytes"
    );
    let many = "- {name: p, kind: openai}\n".repeat(2_001);
    assert_eq!(
        error(&format!("providers:\n{many}")),
        "config: providers: has 2001 entries; at most 2000 are allowed"
    );
    assert!(
        !error("providers:\n- {name: p, kind: openai, api_key: sk-live-canary}\n")
            .contains("canary")
    );
}

#[test]
fn audit_entries_are_kept_for_half_a_year_at_least() {
    assert_eq!(
        error("tiers: { t: { audit_retention_days: 182 } }"),
        "config: line 1: tiers.t.audit_retention_days: must be from 183 to 36500 days"
    );
}

#[test]
fn a_logging_level_is_one_of_three() {
    assert_eq!(
        error("tiers: { t: { audit_level: everything } }"),
        "config: line 1: tiers.t.audit_level: must be basic, detailed or full"
    );
    let plain = parse("tiers: { t: {} }").unwrap();
    assert_eq!(plain.tiers["t"].audit_level, Level::Basic);
}

#[test]
fn references_are_fetched_or_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        #[expect(clippy::disallowed_methods, reason = "a file in the test's own folder")]
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write("key", "sk-from-file\n");
    write("two", "sk-a\nsk-b\n");
    write("empty", "\n");
    write("big", &"x".repeat(70 * 1024));
    let outcome = |reference: &str| {
        let text = format!("providers:\n- name: p\n  kind: openai\n  api_key: {reference}\n");
        let config = match Config::parse(&text, folder.path()) {
            Ok(config) => config,
            Err(error) => return error.to_string(),
        };
        let environment = Environment::of([("SET", "sk-from-env"), ("BLANK", "")]);
        match config.keyring(&environment) {
            Ok(keyring) => keyring
                .key("p")
                .map(|key| key.provider().to_owned())
                .unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    };
    for (reference, expect) in [
        ("env:SET", "p"),
        ("file:key", "p"),
        (
            "env:UNSET",
            "config: line 4: providers[0].api_key: the environment variable UNSET is not set; set it and start again",
        ),
        (
            "env:BLANK",
            "config: line 4: providers[0].api_key: the environment variable BLANK is not set; set it and start again",
        ),
        (
            "file:gone",
            "config: line 4: providers[0].api_key: file:gone: there is no such file",
        ),
        (
            "file:.",
            "config: line 4: providers[0].api_key: file:.: is not a regular file",
        ),
        (
            "file:empty",
            "config: line 4: providers[0].api_key: file:empty: is empty or larger than 65536 bytes",
        ),
        (
            "file:big",
            "config: line 4: providers[0].api_key: file:big: is larger than the limit of 65536 bytes",
        ),
        (
            "file:two",
            "config: line 4: providers[0].api_key: file:two: a provider key is 1 to 4096 visible ASCII characters",
        ),
        (
            "vault:other",
            "config: line 4: providers[0].api_key: the operator's own secrets are not kept in a vault; use env:NAME or file:PATH",
        ),
    ] {
        assert_eq!(outcome(reference), expect, "{reference}");
    }
}

#[test]
fn files_are_loaded_beside_their_references() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("partywall.yaml");
    let missing = Config::load(&path).err().unwrap().to_string();
    assert!(
        missing.ends_with("partywall.yaml: there is no such file"),
        "{missing}"
    );
    #[expect(clippy::disallowed_methods, reason = "a file in the test's own folder")]
    {
        std::fs::write(
            &path,
            "tls: { cert: file:c, key: file:k }\nratecards: [r.json]\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("c"), "CERT").unwrap();
    }
    let config = Config::load(&path).unwrap();
    assert_eq!(config.ratecards, [folder.path().join("r.json")]);
    let tls = config
        .tls_pem(&Environment::of([]))
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        tls,
        "config: line 1: tls.key: file:k: there is no such file"
    );
}

#[test]
fn what_is_shown_is_accepted_and_means_the_same() {
    let rich = "tls: { cert: file:c, key: env:K }\nproviders:\n- { name: p, kind: openai, base_url: 'http://[::1]:1/v1', hang_up: drain, timeouts: { idle: 1500ms, total: 90s } }\nmodels:\n- { name: 'a\u{23}b', routes: [{ provider: p, model: 'x:y' }] }\n- { name: c, routes: [{ provider: p, model: 'true', weight: 3 }], fallback: ['a#b'] }\ntasks: { 'on': c }\ntiers: { t: { models: [c], model: c, markup: 0.5, cost_per_day_usd: 1e-3, temperature: 1.50 }, empty: { max_tokens: 1, storage_bytes: 9, per_token: { tokens_per_day: 7, cost_per_day_usd: 0.5 }, per_person: { requests_per_minute: 0 } } }\nratecards: [a.json, /b.json]\n";
    for text in ["", EXAMPLE, rich] {
        let shown = parse(text).unwrap().show();
        let again = parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.show(), shown);
        assert_eq!(again.tiers, parse(text).unwrap().tiers);
    }
    assert!(
        parse(EXAMPLE)
            .unwrap()
            .show()
            .contains("api_key: \"env:OPENAI_API_KEY\"")
    );
}

/// Every key of the table is known to the reader, and the reader knows no other.
#[test]
fn the_schema_and_the_reader_know_the_same_keys() {
    fn check(at: &str, keys: &[Key], wrap: &dyn Fn(&str) -> String) {
        let unknown = error(&wrap("{ no_such_key: 1 }"));
        let known = unknown
            .split_once("known here are ")
            .map(|(_, known)| known)
            .unwrap_or_default();
        let table: Vec<&str> = keys.iter().map(|key| key.name).collect();
        assert_eq!(
            known.split(", ").collect::<Vec<_>>(),
            table,
            "{at}: {unknown}"
        );
        for key in keys {
            let deeper = |before: &'static str, after: &'static str| {
                move |inner: &str| wrap(&format!("{{ {}: {before}{inner}{after} }}", key.name))
            };
            match key.kind {
                Kind::Object(keys) => check(key.name, keys, &deeper("", "")),
                Kind::Objects(keys) => check(key.name, keys, &deeper("[", "]")),
                Kind::ObjectMap(keys) => check(key.name, keys, &deeper("{ x: ", " }")),
                _ => {}
            }
        }
    }
    check("", TOP, &|inner| inner.to_owned());
    // A tier's limits are read by the names of the quotas: each key is asked for by itself.
    for (keys, before, after) in [
        (TIER, "", ""),
        (PERSONAL, "per_person: {", "}"),
        (PERSONAL, "per_token: {", "}"),
    ] {
        for key in keys {
            let text = format!("tiers: {{ t: {{ {before}{}: null{after} }} }}", key.name);
            assert!(!error(&text).contains("known here are"), "{text}");
        }
    }
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    assert_eq!(
        schema["properties"]["providers"]["items"]["properties"]["kind"]["enum"][1],
        "anthropic"
    );
    assert_eq!(schema["additionalProperties"], false);
}

/// Whether a value fits a schema, by the words that ours uses.
fn fits(schema: &Value, value: &Value) -> bool {
    let is_kind = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        other => panic!("the schema speaks of {other}"),
    };
    let kinds = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|kind| kind.as_str().is_some_and(is_kind)),
        Value::String(kind) => is_kind(kind),
        _ => schema["enum"].as_array().unwrap().contains(value),
    };
    let within = |bound: &str, fits: fn(i64, i64) -> bool| {
        let bound = schema[bound].as_i64();
        bound.is_none_or(|bound| value.as_i64().is_some_and(|number| fits(number, bound)))
    };
    let items = value.as_array().is_none_or(|items| {
        let bounded = schema["maxItems"]
            .as_u64()
            .is_none_or(|most| items.len() as u64 <= most);
        bounded && items.iter().all(|item| fits(&schema["items"], item))
    });
    let members = value.as_object().is_none_or(|members| {
        members
            .iter()
            .all(|(name, value)| match &schema["properties"][name] {
                Value::Null => {
                    let others = &schema["additionalProperties"];
                    others.is_object() && fits(others, value)
                }
                schema => fits(schema, value),
            })
    });
    kinds
        && within("minimum", |a, b| a >= b)
        && within("maximum", |a, b| a <= b)
        && items
        && members
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema: Value = serde_json::from_str(&schema()).unwrap();
    let fits_all = |text: &str| {
        let value: Value = serde_saphyr::from_str(text).unwrap();
        fits(&schema, &value)
    };
    assert!(fits_all(EXAMPLE));
    for (text, good) in [
        ("tiers: { t: { alert_thresholds: [75, 100] } }", true),
        ("tiers: { t: { alert_thresholds: [] } }", true),
        (
            "tiers: { t: { alert_thresholds: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] } }",
            true,
        ),
        (
            "tiers: { t: { alert_thresholds: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] } }",
            false,
        ),
        ("tiers: { t: { alert_thresholds: [0] } }", false),
        ("tiers: { t: { alert_thresholds: [101] } }", false),
        ("tiers: { t: { alert_thresholds: [half] } }", false),
        (
            "tiers: { t: { per_token: { tokens_per_day: 5, cost_per_day_usd: 0.5 } } }",
            true,
        ),
        ("tiers: { t: { per_token: { storage_bytes: 5 } } }", false),
        (
            "alerts: { webhook: 'https://a.b/', secret: env:A, tenant_hosts: ['[::1]:8443'] }",
            true,
        ),
    ] {
        assert_eq!(
            (fits_all(text), parse(text).is_ok()),
            (good, good),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,300}") {
        let _checked = parse(&text);
    }

    #[test]
    fn no_mutation_of_the_example_panics(at in 0_usize..EXAMPLE.len(), byte in "[ -~\\n]") {
        let at = EXAMPLE.floor_char_boundary(at);
        let text = format!("{}{byte}{}", &EXAMPLE[..at], &EXAMPLE[at..]);
        if let Ok(config) = parse(&text) {
            prop_assert!(parse(&config.show()).is_ok());
        }
    }
}
