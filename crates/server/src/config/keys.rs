//! The keys of the file as a table: the JSON schema is made of it, and a test holds it against what
//! the reader accepts.

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
        "ratecards",
        Kind::Texts,
        "Price files, later ones win; paths start at this file's folder.",
    ),
    key(
        "body_limit",
        Kind::Text,
        "Largest request body, such as 32MiB (the default).",
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

const TIER: &[Key] = &[
    key(
        "models",
        Kind::Texts,
        "The full visible list; absent shows all.",
    ),
    key("model", Kind::Text, "The model of a call that names none."),
    key("max_tokens", Kind::Count, "Largest output of one call."),
    key("temperature", Kind::Decimal, "Of calls that give none."),
    key("requests_per_second", Kind::Count, "Limit in any second."),
    key("requests_per_minute", Kind::Count, "Limit in any minute."),
    key("requests_per_day", Kind::Count, "Limit in a UTC day."),
    key(
        "tokens_per_minute",
        Kind::Count,
        "Limit in any minute, input and output.",
    ),
    key(
        "tokens_per_day",
        Kind::Count,
        "Limit in a UTC day, input and output.",
    ),
    key("cost_per_day_usd", Kind::Decimal, "Limit in a UTC day."),
    key("cost_per_month_usd", Kind::Decimal, "Limit in a UTC month."),
    key(
        "concurrent_requests",
        Kind::Count,
        "Calls at the same time.",
    ),
    key("markup", Kind::Decimal, "Factor on list prices; default 1."),
];

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
        Kind::Secret => json!({ "type": "string", "pattern": "^(env|file|vault):.+" }),
        Kind::Choice(names) => json!({ "enum": names }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::TextMap => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
        Kind::Object(keys) => object(keys),
        Kind::Objects(keys) => json!({ "type": "array", "items": object(keys) }),
        Kind::ObjectMap(keys) => json!({ "type": "object", "additionalProperties": object(keys) }),
    }
}
