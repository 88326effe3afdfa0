//! What holds for one tenant: its tier, the operator's overrides, its own overlay, merged once per change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{Markup, limits};
use policy::{Layers, ModelList};
use vault::Sha256;

use crate::alerts::{AlertSettings, DEFAULT_THRESHOLDS};
use crate::audit::level::Level;
use crate::egress::AllowedHost;
use crate::overlay::Overlay;
use crate::policies::{self, BaseRules, Own};
use crate::quota::{Limits, ScopedLimits};

/// Defaults and limits that an operator sells under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Models that tenants of the tier can see; `None` shows all of the catalog.
    pub models: Option<ModelList>,
    /// The model of a call that names none.
    pub model: Option<String>,
    /// Largest output of one call, in tokens.
    pub max_tokens: Option<u64>,
    /// Sampling temperature of calls that give none: decimal text.
    pub temperature: Option<String>,
    /// Limits of each tenant of the tier, and of each of its persons and tokens.
    pub limits: ScopedLimits,
    /// Factor on list prices.
    pub markup: Markup,
    /// Percents of a limit at which tenants of the tier are told; `None`: [`DEFAULT_THRESHOLDS`].
    pub alert_thresholds: Option<Arc<[u8]>>,
    /// How long audit entries of tenants of the tier are kept; `None`: [`limits::AUDIT_RETENTION`].
    pub audit_retention: Option<Duration>,
    /// How much the audit entry of a call says; a tenant may choose less for itself, not more.
    pub audit_level: Level,
    /// Share of a provider's slots among tenants that wait for one, at least 1.
    pub weight: u32,
    /// Slots of each provider that are kept for each tenant of the tier.
    pub guaranteed_slots: u32,
}

impl Default for Tier {
    fn default() -> Self {
        Self {
            models: None,
            model: None,
            max_tokens: None,
            temperature: None,
            limits: ScopedLimits::default(),
            markup: Markup::NONE,
            alert_thresholds: None,
            audit_retention: None,
            audit_level: Level::Basic,
            weight: 1,
            guaranteed_slots: 1,
        }
    }
}

/// All tiers, the deployment's task table, and the hash of the configuration that they came from.
#[derive(Clone, Debug, Default)]
pub struct Tiers {
    /// Tiers by name.
    pub tiers: BTreeMap<String, Tier>,
    /// Task name to model name.
    pub tasks: BTreeMap<String, String>,
    /// What the operator's own rules permit.
    pub base: BaseRules,
    /// Hosts, each with or without its port, that tenants' webhooks may reach though their addresses are private.
    pub webhook_hosts: BTreeSet<AllowedHost>,
    /// SHA-256 of the admin configuration, in hex: part of each audit entry.
    pub config_hash: String,
}

/// The settings in force for one tenant. Immutable; a change makes a new value.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model of a call that names none.
    pub model: Option<String>,
    /// Models that the tenant can see: `None` shows all.
    pub models: Option<Arc<[String]>>,
    /// Output of a call that gives no maximum.
    pub max_tokens_default: Option<u64>,
    /// Output that no call may exceed.
    pub max_tokens_cap: Option<u64>,
    /// Temperature of a call that gives none: decimal text.
    pub temperature: Option<String>,
    /// Text that precedes the client's own system prompt.
    pub system_prompt: Option<String>,
    /// Task name to model name.
    pub tasks: BTreeMap<String, String>,
    /// Limits of the tenant as a whole in force.
    pub limits: Limits,
    /// Factor on list prices.
    pub markup: Markup,
    /// Share of a provider's slots among tenants that wait for one, at least 1.
    pub weight: u32,
    /// Slots of each provider that are kept for the tenant.
    pub guaranteed_slots: u32,
    /// What the tenant is told of its budgets, and where.
    pub alerts: AlertSettings,
    /// How long audit entries are kept.
    pub audit_retention: Duration,
    /// How much the audit entry of a call says.
    pub audit_level: Level,
    /// Hash of everything above and of the admin configuration.
    pub config_hash: Arc<str>,
    /// The rules by which everything is decided: the operator's, the lists of visible models, the tenant's own.
    pub policy: Arc<Layers>,
}

impl Settings {
    /// Merges tier, the limits in force (the tier's under the operator's overrides) and the tenant's overlay. An overlay narrows: it cannot show a model that
    /// the tier hides, nor raise the tier's output cap or its logging level.
    #[must_use]
    pub(crate) fn merge(
        tier: &Tier,
        tiers: &Tiers,
        limits: &Limits,
        overlay: &Overlay,
        own: &Own,
    ) -> Self {
        let cap = tier.max_tokens;
        let visible = match (&tier.models, &overlay.models) {
            (None, None) => None,
            (Some(list), None) | (None, Some(list)) => Some(list.names().to_vec()),
            (Some(tier), Some(own)) => Some(
                own.names()
                    .iter()
                    .filter(|name| tier.names().contains(name))
                    .cloned()
                    .collect(),
            ),
        };
        let lists = [tier.models.as_ref(), overlay.models.as_ref()];
        let mut tasks = tiers.tasks.clone();
        tasks.extend(overlay.tasks.clone());
        let own_max = overlay
            .max_tokens
            .map(|own| cap.map_or(own, |cap| own.min(cap)));
        let mut settings = Self {
            model: overlay.model.clone().or_else(|| tier.model.clone()),
            models: visible.map(Arc::from),
            max_tokens_default: own_max.or(cap),
            max_tokens_cap: cap,
            temperature: overlay
                .temperature
                .clone()
                .or_else(|| tier.temperature.clone()),
            system_prompt: overlay.system_prompt.clone(),
            tasks,
            limits: *limits,
            markup: tier.markup,
            weight: tier.weight.max(1),
            guaranteed_slots: tier.guaranteed_slots,
            alerts: AlertSettings {
                thresholds: overlay
                    .thresholds
                    .clone()
                    .or_else(|| tier.alert_thresholds.clone())
                    .unwrap_or_else(|| DEFAULT_THRESHOLDS.into()),
                receiver: overlay.receiver.clone(),
            },
            audit_retention: overlay
                .audit_retention
                .or(tier.audit_retention)
                .unwrap_or(limits::AUDIT_RETENTION)
                .max(limits::AUDIT_RETENTION_MIN),
            audit_level: overlay
                .audit_level
                .map_or(tier.audit_level, |own| own.min(tier.audit_level)),
            config_hash: Arc::from(""),
            policy: Arc::new(policies::layers(&tiers.base, lists, own)),
        };
        settings.config_hash = hash(&format!("{}\n{settings:?}", tiers.config_hash));
        settings
    }

    /// The version of the rules by which everything is decided: part of each audit entry.
    #[must_use]
    pub fn policy_version(&self) -> &Arc<str> {
        self.policy.version()
    }
}

fn hash(text: &str) -> Arc<str> {
    let mut hasher = Sha256::new();
    hasher.update(text.as_bytes());
    Arc::from(&hex::encode(hasher.finish())[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sees(settings: &Settings, model: &str) -> bool {
        let request = policy::Request {
            principal: policy::Principal {
                role: base::Role::Admin,
                token: Some("t"),
                person: None,
            },
            act: policy::Act::CallModel {
                model,
                providers: &[],
                regions: &[],
                operation: "chat.completions",
                stream: false,
                tools: false,
            },
        };
        let now = base::Timestamp::from_unix_ms(0);
        !settings.policy.decide(&request, now).hidden
    }

    #[test]
    fn an_overlay_narrows_and_never_widens() {
        let tier = Tier {
            models: Some(vec!["a".into(), "b".into()].into()),
            max_tokens: Some(100),
            ..Tier::default()
        };
        let overlay = Overlay {
            models: Some(vec!["b".into(), "c".into()].into()),
            max_tokens: Some(500),
            ..Overlay::default()
        };
        let settings = Settings::merge(
            &tier,
            &Tiers::default(),
            &Limits::default(),
            &overlay,
            &Own::default(),
        );
        assert!(sees(&settings, "b") && !sees(&settings, "a") && !sees(&settings, "c"));
        assert_eq!(settings.max_tokens_default, Some(100));
        assert_eq!(settings.max_tokens_cap, Some(100));
    }

    #[test]
    fn a_tenant_may_have_less_logged_than_its_tier_and_never_more() {
        for tier_level in Level::ALL {
            let tier = Tier {
                audit_level: tier_level,
                ..Tier::default()
            };
            let merged = |audit_level| {
                let overlay = Overlay {
                    audit_level,
                    ..Overlay::default()
                };
                let limits = Limits::default();
                Settings::merge(&tier, &Tiers::default(), &limits, &overlay, &Own::default())
                    .audit_level
            };
            assert_eq!(merged(None), tier_level);
            for own in Level::ALL {
                assert_eq!(merged(Some(own)), own.min(tier_level));
            }
        }
    }

    proptest! {
        #[test]
        fn no_overlay_touches_what_is_the_operators(max in proptest::option::of(1_u64..10_000), names in proptest::option::of(proptest::collection::vec("[a-d]", 0..4))) {
            let tier = Tier { models: Some(vec!["a".into(), "b".into()].into()), max_tokens: Some(100), ..Tier::default() };
            let bare = Settings::merge(&tier, &Tiers::default(), &Limits::default(), &Overlay::default(), &Own::default());
            let overlay = Overlay { max_tokens: max, models: names.map(ModelList::from), ..Overlay::default() };
            let settings = Settings::merge(&tier, &Tiers::default(), &Limits::default(), &overlay, &Own::default());
            prop_assert_eq!(settings.limits, bare.limits);
            prop_assert_eq!(settings.markup, bare.markup);
            prop_assert_eq!(settings.max_tokens_cap, bare.max_tokens_cap);
            for name in ["a", "b", "c", "d"] {
                prop_assert!(!sees(&settings, name) || sees(&bare, name));
            }
        }
    }
}
