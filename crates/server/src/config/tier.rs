//! Tiers: defaults and limits that tenants are put under by name.

use std::sync::Arc;
use std::time::Duration;

use base::quota::Unit;
use base::{Limits, Markup, Quota};
use gateway::fair::WEIGHT_MAX;
use kernel::audit::level::Level;
use kernel::quota::ScopedLimits;

use super::ConfigError;
use super::alerts;
use super::low::{LowTier, Text};
use super::meaning::SLOTS_MAX;
use super::value::At;

/// One tier. An absent limit does not limit; a limit of 0 admits nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    /// Models that tenants of the tier can see; `None` shows all.
    pub models: Option<Vec<String>>,
    /// The model of a call that names none.
    pub model: Option<String>,
    /// Largest output of one call in tokens, at least 1.
    pub max_tokens: Option<u64>,
    /// Sampling temperature of calls that give none: a JSON number from 0 to 2, as text.
    pub temperature: Option<String>,
    /// Limits of each tenant of the tier, of each of its persons and of each of its tokens.
    pub limits: ScopedLimits,
    /// Factor on list prices.
    pub markup: Markup,
    /// Share of a provider's concurrency when tenants wait for it, at least 1.
    pub weight: u32,
    /// Calls at the same time that each provider keeps room for, for each tenant.
    pub guaranteed_slots: u32,
    /// Percents of a limit at which its tenants are told; `None`: 50, 80 and 100.
    pub alert_thresholds: Option<Arc<[u8]>>,
    /// How long audit entries are kept where a tenant does not say; `None`: 396 days.
    pub audit_retention: Option<Duration>,
    /// How much the audit entries of its tenants' calls say; a tenant may choose less.
    pub audit_level: Level,
}

impl Tier {
    pub(super) fn read(low: &LowTier, at: &str) -> Result<Self, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        Ok(Self {
            models: low
                .models
                .as_ref()
                .map(|names| names.iter().map(|name| name.value.clone()).collect()),
            model: low.model.as_ref().map(|name| name.value.clone()),
            max_tokens: low
                .max_tokens
                .as_ref()
                .map(|t| At::new(t, key("max_tokens")).positive())
                .transpose()?,
            temperature: low
                .temperature
                .as_ref()
                .map(|t| At::new(t, key("temperature")).temperature())
                .transpose()?,
            limits: ScopedLimits {
                tenant: limits(&low.limits, at)?,
                each_person: limits(&low.per_person.0, &key("per_person"))?,
                each_token: limits(&low.per_token.0, &key("per_token"))?,
            },
            markup: low
                .markup
                .as_ref()
                .map_or(Ok(Markup::NONE), |t| At::new(t, key("markup")).markup())?,
            weight: low
                .weight
                .as_ref()
                .map_or(Ok(1), |t| At::new(t, key("weight")).within(1..=WEIGHT_MAX))?,
            guaranteed_slots: low.guaranteed_slots.as_ref().map_or(Ok(1), |t| {
                At::new(t, key("guaranteed_slots")).within(0..=SLOTS_MAX)
            })?,
            alert_thresholds: low
                .alert_thresholds
                .as_ref()
                .map(|texts| alerts::percents(texts, &key("alert_thresholds")))
                .transpose()?,
            audit_retention: low
                .audit_retention_days
                .as_ref()
                .map(|text| {
                    let at = At::new(text, key("audit_retention_days"));
                    let days = at.within(0..=u32::MAX)?;
                    kernel::overlay::retention(days).map_err(|error| at.wrong(&error))
                })
                .transpose()?,
            audit_level: low
                .audit_level
                .as_ref()
                .map_or(Ok(Level::default()), |text| {
                    let at = At::new(text, key("audit_level"));
                    kernel::overlay::level(&text.value).map_err(|error| at.wrong(&error))
                })?,
        })
    }
}

fn limits(low: &[(Quota, Text)], at: &str) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    for (quota, text) in low {
        let at = At::new(text, format!("{at}.{}", quota.name()));
        let limit = match quota.unit() {
            Unit::Cost => at.money()?.pico(),
            Unit::Requests | Unit::Tokens | Unit::Bytes => i128::from(at.count()?),
        };
        limits.set(*quota, Some(limit));
    }
    Ok(limits)
}
