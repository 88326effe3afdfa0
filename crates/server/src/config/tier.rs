//! Tiers: defaults and limits that tenants are put under by name.

use base::{Markup, Money};

use super::ConfigError;
use super::low::{LowTier, Text};
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
    /// Calls in any second.
    pub requests_per_second: Option<u64>,
    /// Calls in any minute.
    pub requests_per_minute: Option<u64>,
    /// Calls in a UTC day.
    pub requests_per_day: Option<u64>,
    /// Tokens in any minute, input and output.
    pub tokens_per_minute: Option<u64>,
    /// Tokens in a UTC day, input and output.
    pub tokens_per_day: Option<u64>,
    /// Cost in a UTC day.
    pub cost_per_day_usd: Option<Money>,
    /// Cost in a UTC month.
    pub cost_per_month_usd: Option<Money>,
    /// Calls at the same time.
    pub concurrent_requests: Option<u64>,
    /// Factor on list prices.
    pub markup: Markup,
}

impl Tier {
    pub(super) fn read(low: &LowTier, at: &str) -> Result<Self, ConfigError> {
        let key = |name: &str| format!("{at}.{name}");
        let count = |text: &Option<Text>, name| {
            text.as_ref()
                .map(|t| At::new(t, key(name)).count())
                .transpose()
        };
        let money = |text: &Option<Text>, name| {
            text.as_ref()
                .map(|t| At::new(t, key(name)).money())
                .transpose()
        };
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
            requests_per_second: count(&low.requests_per_second, "requests_per_second")?,
            requests_per_minute: count(&low.requests_per_minute, "requests_per_minute")?,
            requests_per_day: count(&low.requests_per_day, "requests_per_day")?,
            tokens_per_minute: count(&low.tokens_per_minute, "tokens_per_minute")?,
            tokens_per_day: count(&low.tokens_per_day, "tokens_per_day")?,
            cost_per_day_usd: money(&low.cost_per_day_usd, "cost_per_day_usd")?,
            cost_per_month_usd: money(&low.cost_per_month_usd, "cost_per_month_usd")?,
            concurrent_requests: count(&low.concurrent_requests, "concurrent_requests")?,
            markup: low
                .markup
                .as_ref()
                .map_or(Ok(Markup::NONE), |t| At::new(t, key("markup")).markup())?,
        })
    }
}
