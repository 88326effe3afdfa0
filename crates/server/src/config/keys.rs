//! The keys of the file as a table: the JSON schema is made of it, and a test holds it against what
//! the reader accepts.

use base::Quota;
use base::quota::Unit;
use serde_json::{Value, json};

pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) required: bool,
    doc: &'static str,
}

pub(super) enum Kind {
    Text,
    Count,
    Decimal,
    Duration,
    Flag,
    Secret,
    Choice(&'static [&'static str]),
    Texts,
    Percents,
    TextMap,
    Object(&'static [Key]),
    Objects(&'static [Key]),
    ObjectMap(&'static [Key]),
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        required: false,
        doc,
    }
}

const fn must(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        required: true,
        doc,
    }
}

pub(super) const TOP: &[Key] = &[
    key(
        "listen",
        Kind::Text,
        "Public listener; default 127.0.0.1:8080.",
    ),
    key(
        "tls",
        Kind::Object(TLS),
        "Certificate of both listeners; none behind a TLS balancer.",
    ),
    key("admin", Kind::Object(ADMIN), "Operators' listener."),
    key(
        "providers",
        Kind::Objects(PROVIDER),
        "Where calls are answered.",
    ),
    key("models", Kind::Objects(MODEL), "What clients may ask for."),
    key("tasks", Kind::TextMap, "Task name to model name."),
    key(
        "tiers",
        Kind::ObjectMap(TIER),
        "Defaults and limits by tier name.",
    ),
    key(
        "policy",
        Kind::Text,
        "Document with the base rules, which alone permit; its path starts at this file's folder.",
    ),
    key(
        "ratecards",
        Kind::Texts,
        "Price files, later ones win; paths start at this file's folder.",
    ),
    key(
        "body_limit",
        Kind::Text,
        "Largest request body, such as 32MiB (the default).",
    ),
    key(
        "alerts",
        Kind::Object(ALERTS),
        "Where the operator is told what is out of hand.",
    ),
    key(
        "disk",
        Kind::Object(DISK),
        "Room on the file system of the data directory.",
    ),
    key(
        "origins",
        Kind::Texts,
        "Origins of web pages that may use /rpc, such as https://console.example.com; none by default.",
    ),
];

const DISK: &[Key] = &[
    key(
        "reserve",
        Kind::Text,
        "With less free, new calls are refused; default 256MiB, at most a tenth of the file system.",
    ),
    key(
        "warn",
        Kind::Text,
        "With less free, the operator is told; default 1GiB, at most a fifth of the file system.",
    ),
];

const ALERTS: &[Key] = &[
    key(
        "webhook",
        Kind::Text,
        "https, or plain http on this machine.",
    ),
    key(
        "secret",
        Kind::Secret,
        "Signing secret: whsec_ and the base64 of 24 to 64 bytes.",
    ),
    key(
        "allow_private",
        Kind::Flag,
        "Lets the webhook's host have a private address; default false.",
    ),
    key(
        "ca",
        Kind::Secret,
        "file:PATH of the roots to trust instead of the system's.",
    ),
    key(
        "tenant_hosts",
        Kind::Texts,
        "Hosts that tenants' webhooks may reach though they are private; default none.",
    ),
];

const TLS: &[Key] = &[
    must("cert", Kind::Secret, "PEM chain, leaf first."),
    must("key", Kind::Secret, "PEM private key."),
];

const ADMIN: &[Key] = &[key("listen", Kind::Text, "Default 127.0.0.1:8081.")];

const PROVIDER: &[Key] = &[
    must(
        "name",
        Kind::Text,
        "Name in routes, reports and rate cards.",
    ),
    must(
        "kind",
        Kind::Choice(&["openai", "anthropic"]),
        "The wire it speaks.",
    ),
    key(
        "base_url",
        Kind::Text,
        "Ends in /v1 for openai, has no path for anthropic.",
    ),
    key(
        "api_key",
        Kind::Secret,
        "May be absent on loopback and with allow_private.",
    ),
    key("region", Kind::Text, "Where the provider processes data."),
    key(
        "timeouts",
        Kind::Object(TIMEOUTS),
        "Deadlines of one exchange.",
    ),
    key(
        "hang_up",
        Kind::Choice(&["abort", "drain"]),
        "What a client's hang-up does upstream; default abort.",
    ),
    key(
        "allow_private",
        Kind::Flag,
        "Lets the host have a private address; default false.",
    ),
    key(
        "max_output_field",
        Kind::Choice(&["max_tokens", "max_completion_tokens"]),
        "Where the output cap is written.",
    ),
    key(
        "ca",
        Kind::Secret,
        "file:PATH of the roots to trust instead of the system's.",
    ),
    key(
        "concurrency",
        Kind::Count,
        "Calls at the same time, shared fairly by tenants; default 10000.",
    ),
    key(
        "queue_length",
        Kind::Count,
        "Calls that may wait for one of them; default 2000.",
    ),
    key(
        "queue_wait",
        Kind::Duration,
        "A call waits no longer than this; default 10s.",
    ),
];

const TIMEOUTS: &[Key] = &[
    key("connect", Kind::Duration, "Default 5s."),
    key("first_byte", Kind::Duration, "Default 60s."),
    key(
        "idle",
        Kind::Duration,
        "Silence inside an answer; default 60s.",
    ),
    key("total", Kind::Duration, "Default 10m."),
];

const MODEL: &[Key] = &[
    must("name", Kind::Text, "The name clients use."),
    must(
        "routes",
        Kind::Objects(ROUTE),
        "Where it is answered; chosen by weight.",
    ),
    key(
        "fallback",
        Kind::Texts,
        "Models tried after all routes failed, in order.",
    ),
];

const ROUTE: &[Key] = &[
    must("provider", Kind::Text, "Name of a provider."),
    must("model", Kind::Text, "The model's name there."),
    key("weight", Kind::Count, "Share of calls; default 1."),
];

pub(super) const TIER: &[Key] = &[
    key(
        "models",
        Kind::Texts,
        "The full visible list; absent shows all.",
    ),
    key("model", Kind::Text, "The model of a call that names none."),
    key("max_tokens", Kind::Count, "Largest output of one call."),
    key("temperature", Kind::Decimal, "Of calls that give none."),
    key("markup", Kind::Decimal, "Factor on list prices; default 1."),
    key(
        "weight",
        Kind::Count,
        "Share of a provider's concurrency when tenants wait for it, 1 to 1000; default 1.",
    ),
    key(
        "guaranteed_slots",
        Kind::Count,
        "Calls at the same time that each provider keeps room for, for each tenant; default 1.",
    ),
    key(
        "per_person",
        Kind::Object(PERSONAL),
        "Limits of each person of the tenant, apart.",
    ),
    key(
        "per_token",
        Kind::Object(PERSONAL),
        "Limits of each token of the tenant, apart.",
    ),
    key(
        "alert_thresholds",
        Kind::Percents,
        "Percents of a limit at which its tenants are told; default 50, 80, 100.",
    ),
    key(
        "audit_retention_days",
        Kind::Count,
        "How long audit entries are kept where a tenant does not say, from 183; default 396.",
    ),
    key(
        "audit_level",
        Kind::Choice(&["basic", "detailed", "full"]),
        "How much the audit entry of a call says; a tenant may choose less, not more; default basic.",
    ),
    of_quota(Quota::RequestsPerSecond),
    of_quota(Quota::RequestsPerMinute),
    of_quota(Quota::RequestsPerDay),
    of_quota(Quota::TokensPerMinute),
    of_quota(Quota::TokensPerDay),
    of_quota(Quota::CostPerDay),
    of_quota(Quota::CostPerMonth),
    of_quota(Quota::ConcurrentRequests),
    of_quota(Quota::StorageBytes),
];

/// Limits of a person or a token.
pub(super) const PERSONAL: &[Key] = &[
    of_quota(Quota::RequestsPerSecond),
    of_quota(Quota::RequestsPerMinute),
    of_quota(Quota::RequestsPerDay),
    of_quota(Quota::TokensPerMinute),
    of_quota(Quota::TokensPerDay),
    of_quota(Quota::CostPerDay),
    of_quota(Quota::CostPerMonth),
    of_quota(Quota::ConcurrentRequests),
];

/// The key of a quota: its name and meaning are those of the table.
const fn of_quota(quota: Quota) -> Key {
    let kind = match quota.unit() {
        Unit::Cost => Kind::Decimal,
        Unit::Requests | Unit::Tokens | Unit::Bytes => Kind::Count,
    };
    key(quota.name(), kind, quota.doc())
}

/// The JSON schema of the file, for editors.
#[must_use]
pub fn schema() -> String {
    let mut schema = object(TOP);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("partywall.yaml");
    format!("{schema:#}\n")
}

fn object(keys: &[Key]) -> Value {
    let properties = keys.iter().map(|key| {
        let mut value = value(&key.kind);
        value["description"] = json!(key.doc);
        (key.name.to_owned(), value)
    });
    let required: Vec<&str> = keys
        .iter()
        .filter(|key| key.required)
        .map(|key| key.name)
        .collect();
    json!({
        "type": "object",
        "properties": Value::Object(properties.collect()),
        "required": required,
        "additionalProperties": false,
    })
}

fn value(kind: &Kind) -> Value {
    match kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Count => json!({ "type": "integer", "minimum": 0 }),
        Kind::Decimal => json!({ "type": ["number", "string"] }),
        Kind::Duration => json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Secret => json!({ "type": "string", "pattern": "^(env|file):.+" }),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        // As many as a list of thresholds may hold.
        Kind::Percents => json!({
            "type": "array",
            "items": { "type": "integer", "minimum": 1, "maximum": 100 },
            "maxItems": 10,
        }),
        Kind::TextMap => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Object(keys) => object(keys),
        Kind::Objects(keys) => json!({ "type": "array", "items": object(keys) }),
        Kind::ObjectMap(keys) => json!({ "type": "object", "additionalProperties": object(keys) }),
    }
}
