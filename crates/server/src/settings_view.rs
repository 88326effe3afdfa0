//! The settings in force for one tenant, as its own API and `config show --tenant` print them. No secrets, no prices.

use std::collections::BTreeMap;

use base::Limits;
use kernel::Tenant;
use rpc::Fault;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

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
