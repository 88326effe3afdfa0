//! What stands in the file: every value as the text it was written as, with its line.

use std::collections::BTreeMap;

use serde::Deserialize;
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
    pub(super) ratecards: Option<Vec<Text>>,
    pub(super) body_limit: Option<Text>,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LowTier {
    pub(super) models: Option<Vec<Text>>,
    pub(super) model: Option<Text>,
    pub(super) max_tokens: Option<Text>,
    pub(super) temperature: Option<Text>,
    pub(super) requests_per_second: Option<Text>,
    pub(super) requests_per_minute: Option<Text>,
    pub(super) requests_per_day: Option<Text>,
    pub(super) tokens_per_minute: Option<Text>,
    pub(super) tokens_per_day: Option<Text>,
    pub(super) cost_per_day_usd: Option<Text>,
    pub(super) cost_per_month_usd: Option<Text>,
    pub(super) concurrent_requests: Option<Text>,
    pub(super) markup: Option<Text>,
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
