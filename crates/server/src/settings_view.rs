//! The settings in force for one tenant, as its own API and `config show --tenant` print them. No secrets, no prices.

use std::collections::BTreeMap;

use kernel::{Settings, Tenant};
use rpc::{Fault, Limits};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::fault::internal;
use crate::operate::outward;

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
    limits: Limits,
    policy_version: &'a str,
    config_hash: &'a str,
}

/// The settings as one JSON object.
pub(crate) fn json(tenant: &Tenant, settings: &Settings) -> Result<Box<RawValue>, Fault> {
    let account = tenant.account();
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
        limits: outward(&settings.limits),
        policy_version: &settings.policy_version,
        config_hash: &settings.config_hash,
    };
    to_raw_value(&view).map_err(|error| internal(error.to_string()))
}
