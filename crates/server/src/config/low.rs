//! What stands in the file: every value as the text it was written as, with its line.

use std::collections::BTreeMap;
use std::fmt;

use base::Quota;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, Spanned};

use super::{CONFIG_BYTES_MAX, ConfigError};

/// One value. Numbers stay text, so that money is never a float.
pub(super) type Text = Spanned<String>;

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct LowConfig {
    pub(super) listen: Option<Text>,
    pub(super) tls: Option<LowTls>,
    pub(super) admin: Option<LowAdmin>,
    pub(super) providers: Option<Vec<LowProvider>>,
    pub(super) models: Option<Vec<LowModel>>,
    pub(super) tasks: Option<BTreeMap<String, Text>>,
    pub(super) tiers: Option<BTreeMap<String, LowTier>>,
    pub(super) policy: Option<Text>,
    pub(super) ratecards: Option<Vec<Text>>,
    pub(super) body_limit: Option<Text>,
    pub(super) alerts: Option<LowAlerts>,
    pub(super) disk: Option<LowDisk>,
    pub(super) origins: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowDisk {
    pub(super) reserve: Option<Text>,
    pub(super) warn: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowAlerts {
    pub(super) webhook: Option<Text>,
    pub(super) secret: Option<Text>,
    pub(super) allow_private: Option<Text>,
    pub(super) ca: Option<Text>,
    pub(super) tenant_hosts: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowTls {
    pub(super) cert: Text,
    pub(super) key: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowAdmin {
    pub(super) listen: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowProvider {
    pub(super) name: Text,
    pub(super) kind: Text,
    pub(super) base_url: Option<Text>,
    pub(super) api_key: Option<Text>,
    pub(super) region: Option<Text>,
    pub(super) timeouts: Option<LowTimeouts>,
    pub(super) hang_up: Option<Text>,
    pub(super) allow_private: Option<Text>,
    pub(super) max_output_field: Option<Text>,
    pub(super) ca: Option<Text>,
    pub(super) concurrency: Option<Text>,
    pub(super) queue_length: Option<Text>,
    pub(super) queue_wait: Option<Text>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct LowTimeouts {
    pub(super) connect: Option<Text>,
    pub(super) first_byte: Option<Text>,
    pub(super) idle: Option<Text>,
    pub(super) total: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowModel {
    pub(super) name: Text,
    pub(super) routes: Vec<LowRoute>,
    pub(super) fallback: Option<Vec<Text>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowRoute {
    pub(super) provider: Text,
    pub(super) model: Text,
    pub(super) weight: Option<Text>,
}

/// A tier. The names of its limits are those of the table of quotas.
#[derive(Default)]
pub(super) struct LowTier {
    pub(super) models: Option<Vec<Text>>,
    pub(super) model: Option<Text>,
    pub(super) max_tokens: Option<Text>,
    pub(super) temperature: Option<Text>,
    pub(super) markup: Option<Text>,
    pub(super) weight: Option<Text>,
    pub(super) guaranteed_slots: Option<Text>,
    pub(super) alert_thresholds: Option<Vec<Text>>,
    pub(super) audit_retention_days: Option<Text>,
    pub(super) audit_level: Option<Text>,
    pub(super) limits: Vec<(Quota, Text)>,
    pub(super) per_person: LowLimits,
    pub(super) per_token: LowLimits,
}

/// Limits of each person or token.
#[derive(Default)]
pub(super) struct LowLimits(pub(super) Vec<(Quota, Text)>);

/// What a tier can say beside its limits.
const TIER_KEYS: [&str; 12] = [
    "models",
    "model",
    "max_tokens",
    "temperature",
    "markup",
    "weight",
    "guaranteed_slots",
    "per_person",
    "per_token",
    "alert_thresholds",
    "audit_retention_days",
    "audit_level",
];

/// Every key of a tier.
static ALL_TIER_KEYS: [&str; TIER_KEYS.len() + Quota::COUNT] = {
    let mut keys = [""; TIER_KEYS.len() + Quota::COUNT];
    let mut place = 0;
    while place < keys.len() {
        keys[place] = if place < TIER_KEYS.len() {
            TIER_KEYS[place]
        } else {
            Quota::ALL[place - TIER_KEYS.len()].name()
        };
        place += 1;
    }
    keys
};

/// Every key of the limits of persons and tokens: all quotas but that of storage, which stands last.
static PERSONAL_KEYS: [&str; Quota::COUNT - 1] = {
    let mut keys = [""; Quota::COUNT - 1];
    let mut place = 0;
    while place < keys.len() {
        assert!(Quota::ALL[place].is_personal());
        keys[place] = Quota::ALL[place].name();
        place += 1;
    }
    keys
};

impl<'de> Deserialize<'de> for LowTier {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(TierVisitor)
    }
}

struct TierVisitor;

impl<'de> Visitor<'de> for TierVisitor {
    type Value = LowTier;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tier")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LowTier, A::Error> {
        let mut tier = LowTier::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "models" => tier.models = map.next_value()?,
                "model" => tier.model = map.next_value()?,
                "max_tokens" => tier.max_tokens = map.next_value()?,
                "temperature" => tier.temperature = map.next_value()?,
                "markup" => tier.markup = map.next_value()?,
                "weight" => tier.weight = map.next_value()?,
                "guaranteed_slots" => tier.guaranteed_slots = map.next_value()?,
                "per_person" => tier.per_person = map.next_value()?,
                "per_token" => tier.per_token = map.next_value()?,
                "alert_thresholds" => tier.alert_thresholds = map.next_value()?,
                "audit_retention_days" => tier.audit_retention_days = map.next_value()?,
                "audit_level" => tier.audit_level = map.next_value()?,
                key => {
                    let quota = Quota::from_name(key)
                        .ok_or_else(|| A::Error::unknown_field(key, &ALL_TIER_KEYS))?;
                    tier.limits
                        .extend(map.next_value::<Option<Text>>()?.map(|text| (quota, text)));
                }
            }
        }
        Ok(tier)
    }
}

impl<'de> Deserialize<'de> for LowLimits {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(LimitsVisitor)
    }
}

struct LimitsVisitor;

impl<'de> Visitor<'de> for LimitsVisitor {
    type Value = LowLimits;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limits")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LowLimits, A::Error> {
        let mut limits = LowLimits::default();
        while let Some(key) = map.next_key::<String>()? {
            let quota = Quota::from_name(&key)
                .filter(|quota| quota.is_personal())
                .ok_or_else(|| A::Error::unknown_field(&key, &PERSONAL_KEYS))?;
            limits
                .0
                .extend(map.next_value::<Option<Text>>()?.map(|text| (quota, text)));
        }
        Ok(limits)
    }
}

/// Reads a text: unknown keys, duplicate keys, anchors, merge keys and second documents are errors.
pub(super) fn parse(text: &str) -> Result<LowConfig, ConfigError> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(ConfigError::whole(format!(
            "larger than the limit of {CONFIG_BYTES_MAX} bytes"
        )));
    }
    if text
        .lines()
        .map(str::trim_start)
        .all(|line| line.is_empty() || line.starts_with('#'))
    {
        return Ok(LowConfig::default());
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 1, max_anchors: 0, max_aliases: 0, max_depth: 16, },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| ConfigError::from(&error).on(text))
}
