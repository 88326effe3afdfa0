//! The settings in force for one tenant, as its own API and `config show --tenant` print them. No secrets, no prices.

use std::collections::BTreeMap;

use base::Limits;
use kernel::Tenant;
use rpc::Fault;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};

use crate::fault::internal;

#[derive(Serialize)]
struct SettingsView<'a> {
    tenant: &'a str,
    tier: &'a str,
    model: Option<&'a str>,
    /// `None`: every model of the deployment.
    models: Option<&'a [String]>,
    max_tokens: Option<u64>,
    max_tokens_cap: Option<u64>,
    temperature: Option<&'a RawValue>,
    system_prompt: Option<&'a str>,
    tasks: &'a BTreeMap<String, String>,
    #[serde(with = "rpc::limits")]
    limits: Limits,
    weight: u32,
    guaranteed_slots: u32,
    alert_thresholds: &'a [u8],
    /// Where alerts are posted, without its path, which may hold a secret.
    alert_webhook: Option<String>,
    audit_retention_days: u64,
    audit_level: &'a str,
    policy_version: &'a str,
    config_hash: &'a str,
}

/// The JSON Schema of an overlay, `tenants/<id>/config.yaml`. Everything else is refused by name.
pub(crate) fn overlay_schema() -> Value {
    let model = json!({ "type": "string", "minLength": 1, "maxLength": 256 });
    let days = base::limits::AUDIT_RETENTION_MIN.as_secs() / 86_400;
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "model": model,
            "models": { "type": "array", "items": model },
            "max_tokens": { "type": "integer", "minimum": 1 },
            "temperature": { "type": "number", "minimum": 0, "maximum": 2 },
            "system_prompt": { "type": "string" },
            "tasks": { "type": "object", "additionalProperties": model },
            "alerts": {
                "type": "object",
                "additionalProperties": false,
                "required": ["webhook", "secret"],
                "properties": {
                    "webhook": { "type": "string", "format": "uri" },
                    "secret": { "type": "string", "pattern": "^vault:[a-z0-9][a-z0-9._-]{0,63}$" },
                    "thresholds": {
                        "type": "array",
                        "maxItems": 10,
                        "items": { "type": "integer", "minimum": 1, "maximum": 100 },
                    },
                    "checkpoints": { "enum": ["hourly", "daily"] },
                },
            },
            "audit": {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "retention_days": { "type": "integer", "minimum": days, "maximum": 36_500 },
                    "level": { "enum": ["basic", "detailed", "full"] },
                },
            },
        },
    })
}

/// The settings as one JSON object.
pub(crate) fn json(tenant: &Tenant) -> Result<Box<RawValue>, Fault> {
    // The limits first: where a temporary one has ended, the settings are made anew with them.
    let limits = tenant.limits_in_force();
    let (settings, account) = (tenant.settings(), tenant.account());
    let view = SettingsView {
        tenant: tenant.id().as_str(),
        tier: &account.tier,
        model: settings.model.as_deref(),
        models: settings.models.as_deref(),
        max_tokens: settings.max_tokens_default,
        max_tokens_cap: settings.max_tokens_cap,
        // Decimal text by its own check, so it stands as the number that goes upstream.
        temperature: settings
            .temperature
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok()),
        system_prompt: settings.system_prompt.as_deref(),
        tasks: &settings.tasks,
        limits,
        weight: settings.weight,
        guaranteed_slots: settings.guaranteed_slots,
        alert_thresholds: &settings.alerts.thresholds,
        alert_webhook: settings.alerts.receiver.as_ref().and_then(|receiver| {
            let (origin, _path) = kernel::egress::Origin::split(&receiver.url).ok()?;
            Some(origin.to_string())
        }),
        audit_retention_days: settings.audit_retention.as_secs() / 86_400,
        audit_level: settings.audit_level.as_str(),
        policy_version: settings.policy_version(),
        config_hash: &settings.config_hash,
    };
    to_raw_value(&view).map_err(|error| internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use kernel::overlay::Overlay;

    use super::*;

    #[test]
    fn the_schema_has_the_keys_that_an_overlay_may_have() {
        let example = "model: m\nmodels: [m]\nmax_tokens: 1\ntemperature: 0.5\nsystem_prompt: x\ntasks: { a: m }\n\
            alerts: { webhook: 'https://example.com/x', secret: 'vault:x', thresholds: [80], checkpoints: daily }\n\
            audit: { retention_days: 200, level: basic }\n";
        Overlay::parse(example).unwrap();
        let said = Overlay::parse("colour: red\n").unwrap_err().to_string();
        let known = said.split("known are ").nth(1).unwrap();
        let mut known: Vec<_> = known.split(", ").collect();
        known.sort_unstable();
        let schema = overlay_schema();
        let described: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
        let mut described: Vec<_> = described.iter().map(|key| key.as_str()).collect();
        described.sort_unstable();
        assert_eq!(described, known);
        for (part, key) in [("alerts", "thresholds"), ("audit", "level")] {
            assert!(schema["properties"][part]["properties"][key].is_object());
        }
    }
}
