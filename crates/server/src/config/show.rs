//! The configuration in force, written back in the form of the file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use base::{Limits, Markup, Quota};
use gateway::catalog::{HangUp, Model, Provider};
use gateway::fair::LineSpec;
use gateway::upstream::Reach;

use super::{Alerts, Config, Tier};

pub(super) fn yaml(config: &Config) -> String {
    let mut out = Text::default();
    out.line(
        0,
        &format!("listen: {}", quoted(&config.listen.to_string())),
    );
    if let Some(tls) = &config.tls {
        let (cert, key) = (quoted(&tls.cert.to_string()), quoted(&tls.key.to_string()));
        out.line(0, &format!("tls: {{ cert: {cert}, key: {key} }}"));
    }
    out.line(
        0,
        &format!(
            "admin: {{ listen: {} }}",
            quoted(&config.admin_listen.to_string())
        ),
    );
    out.line(0, &format!("body_limit: {}", config.body_limit));
    out.section("providers", config.catalog.providers().is_empty(), "[]");
    for provider in config.catalog.providers() {
        let key = config
            .provider_keys
            .iter()
            .find(|key| key.provider == provider.name());
        let secret = key
            .and_then(|key| key.secret.as_ref())
            .map(ToString::to_string);
        out.provider(
            provider,
            secret.as_deref(),
            key.and_then(|key| key.ca.as_deref()),
        );
    }
    out.section("models", config.catalog.models().is_empty(), "[]");
    config
        .catalog
        .models()
        .iter()
        .for_each(|model| out.model(model));
    out.section("tasks", config.catalog.tasks().is_empty(), "{}");
    for (task, model) in config.catalog.tasks() {
        out.line(1, &format!("{}: {}", quoted(task), quoted(model.as_str())));
    }
    out.tiers(&config.tiers);
    if let Some(path) = &config.policy {
        out.line(
            0,
            &format!("policy: {}", quoted(&path.display().to_string())),
        );
    }
    out.section("ratecards", config.ratecards.is_empty(), "[]");
    for path in &config.ratecards {
        out.line(1, &format!("- {}", quoted(&path.display().to_string())));
    }
    out.alerts(&config.alerts);
    let (reserve, warn) = (config.disk.reserve, config.disk.warn);
    out.line(0, &format!("disk: {{ reserve: {reserve}, warn: {warn} }}"));
    let origins: Vec<String> = config.origins.iter().map(quoted).collect();
    out.line(0, &format!("origins: [{}]", origins.join(", ")));
    out.0
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a string cannot fail.
        let _written = writeln!(self.0, "{:indent$}{text}", "", indent = 2 * depth);
    }

    fn section(&mut self, name: &str, empty: bool, nothing: &str) {
        self.line(
            0,
            &if empty {
                format!("{name}: {nothing}")
            } else {
                format!("{name}:")
            },
        );
    }

    fn alerts(&mut self, alerts: &Alerts) {
        let Alerts {
            webhook,
            tenant_hosts,
        } = alerts;
        self.line(0, "alerts:");
        if let Some(webhook) = webhook {
            self.line(1, &format!("webhook: {}", quoted(&webhook.url)));
            let secret = quoted(&webhook.secret.to_string());
            self.line(1, &format!("secret: {secret}"));
            self.line(1, &format!("allow_private: {}", webhook.allow_private));
            if let Some((ca, _)) = &webhook.ca {
                self.line(1, &format!("ca: {}", quoted(ca)));
            }
        }
        let hosts: Vec<String> = tenant_hosts
            .iter()
            .map(|host| quoted(&host.to_string()))
            .collect();
        self.line(1, &format!("tenant_hosts: [{}]", hosts.join(", ")));
    }

    fn provider(&mut self, provider: &Provider, key: Option<&str>, ca: Option<&str>) {
        let timeouts = provider.timeouts();
        let url = format!("{}{}", provider.origin(), provider.base_path());
        self.line(1, &format!("- name: {}", quoted(provider.name())));
        self.line(2, &format!("kind: {}", provider.kind().as_str()));
        self.line(2, &format!("base_url: {}", quoted(&url)));
        if let Some(key) = key {
            self.line(2, &format!("api_key: {}", quoted(key)));
        }
        if let Some(region) = provider.region() {
            self.line(2, &format!("region: {}", quoted(region)));
        }
        if let Some(ca) = ca {
            self.line(2, &format!("ca: {}", quoted(ca)));
        }
        self.line(
            2,
            &format!("allow_private: {}", provider.reach() == Reach::Private),
        );
        self.line(
            2,
            &format!(
                "hang_up: {}",
                if provider.hang_up() == HangUp::Drain {
                    "drain"
                } else {
                    "abort"
                }
            ),
        );
        self.line(
            2,
            &format!("max_output_field: {}", provider.max_output_field().as_str()),
        );
        self.line(
            2,
            &format!(
                "timeouts: {{ connect: {}, first_byte: {}, idle: {}, total: {} }}",
                duration(timeouts.connect),
                duration(timeouts.first_byte),
                duration(timeouts.idle),
                duration(timeouts.total)
            ),
        );
        self.line_spec(provider.line_spec());
    }

    fn line_spec(&mut self, spec: LineSpec) {
        self.line(2, &format!("concurrency: {}", spec.slots));
        self.line(2, &format!("queue_length: {}", spec.queue));
        self.line(2, &format!("queue_wait: {}", duration(spec.wait)));
    }

    fn model(&mut self, model: &Model) {
        self.line(1, &format!("- name: {}", quoted(model.name.as_str())));
        self.line(2, "routes:");
        for route in &model.routes {
            let (provider, name) = (quoted(route.provider.name()), quoted(&route.model));
            self.line(
                3,
                &format!(
                    "- {{ provider: {provider}, model: {name}, weight: {} }}",
                    route.weight
                ),
            );
        }
        if !model.fallback.is_empty() {
            let names: Vec<String> = model
                .fallback
                .iter()
                .map(|name| quoted(name.as_str()))
                .collect();
            self.line(2, &format!("fallback: [{}]", names.join(", ")));
        }
    }

    fn tiers(&mut self, tiers: &BTreeMap<String, Tier>) {
        self.section("tiers", tiers.is_empty(), "{}");
        for (name, tier) in tiers {
            let values = tier_values(tier);
            let values: Vec<String> = values
                .iter()
                .map(|(key, value)| format!("{key}: {value}"))
                .collect();
            self.line(1, &format!("{}: {{ {} }}", quoted(name), values.join(", ")));
        }
    }
}

fn tier_values(tier: &Tier) -> Vec<(&'static str, String)> {
    let models = tier.models.as_ref().map(|names| {
        let names: Vec<String> = names.iter().map(|name| quoted(name)).collect();
        format!("[{}]", names.join(", "))
    });
    let count = |value: Option<u64>| value.map(|n| n.to_string());
    let all = [
        ("models", models),
        ("model", tier.model.as_deref().map(quoted)),
        ("max_tokens", count(tier.max_tokens)),
        ("temperature", tier.temperature.clone()),
        ("markup", Some(markup(tier.markup))),
        ("weight", Some(tier.weight.to_string())),
        ("guaranteed_slots", Some(tier.guaranteed_slots.to_string())),
        ("per_person", personal(&tier.limits.each_person)),
        ("per_token", personal(&tier.limits.each_token)),
        (
            "audit_retention_days",
            tier.audit_retention
                .map(|keep| (keep.as_secs() / 86_400).to_string()),
        ),
        ("audit_level", Some(tier.audit_level.as_str().to_owned())),
        (
            "alert_thresholds",
            tier.alert_thresholds
                .as_ref()
                .map(|percents| format!("{percents:?}")),
        ),
    ];
    let limits = &tier.limits.tenant;
    all.into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .chain(
            limits
                .iter()
                .map(|(quota, at)| (quota.name(), quota.shown(at))),
        )
        .collect()
}

fn personal(limits: &Limits) -> Option<String> {
    let limit = |(quota, at): (Quota, i128)| format!("{}: {}", quota.name(), quota.shown(at));
    let limits: Vec<String> = limits.iter().map(limit).collect();
    (!limits.is_empty()).then(|| format!("{{ {} }}", limits.join(", ")))
}

fn markup(markup: Markup) -> String {
    base::Money::from_pico(i128::from(markup.ppm()) * 1_000_000).to_string()
}

fn duration(duration: Duration) -> String {
    match (duration.as_millis(), duration.as_secs()) {
        (ms, _) if ms % 1_000 != 0 => format!("{ms}ms"),
        (_, seconds) if seconds % 60 != 0 => format!("{seconds}s"),
        (_, seconds) => format!("{}m", seconds / 60),
    }
}

/// A JSON string, which is a YAML string too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
