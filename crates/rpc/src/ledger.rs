//! Usage and cost as reports show them.

use base::{Money, TenantId, Timestamp, TokenName, UsageSource, UtcDay};
use serde::{Deserialize, Serialize};

use crate::text;

/// What one tenant used of one model on one day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The day, in UTC.
    #[serde(with = "text")]
    pub date: UtcDay,
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The model by its public name.
    pub model: String,
    /// Input, cache reads and writes included.
    pub tokens_in: u64,
    /// Output, reasoning included.
    pub tokens_out: u64,
    /// The exact sum; `None` when no attempt of the row has a known cost.
    #[serde(with = "text::option")]
    pub cost_usd: Option<Money>,
    /// Attempts sent upstream.
    pub attempts: u64,
    /// Those of unknown usage: they are in none of the sums.
    pub unknown_attempts: u64,
}

/// One upstream attempt, with every bucket. `None` in a count or cost is "not known", never zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRow {
    /// The request, as its answer's `x-request-id` said.
    pub request_id: String,
    /// Which attempt of the request, from 1.
    pub attempt: u32,
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The natural person, where known.
    pub person: Option<String>,
    /// The token's name.
    #[serde(with = "text")]
    pub token: TokenName,
    /// The model by its public name.
    pub model: String,
    /// The provider by its name in the configuration.
    pub provider: String,
    /// The model by the provider's name.
    pub provider_model: String,
    /// All input: cache reads and writes included.
    pub tokens_in: Option<u64>,
    /// All output: reasoning included.
    pub tokens_out: Option<u64>,
    /// Of the input, read from the provider's prompt cache.
    pub cache_read_tokens: Option<u64>,
    /// Of the input, written to the provider's prompt cache.
    pub cache_write_tokens: Option<u64>,
    /// Of the cache writes, those for one hour.
    pub cache_write_1h_tokens: Option<u64>,
    /// Of the output, reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Of the input, audio.
    pub audio_in_tokens: Option<u64>,
    /// Of the output, audio.
    pub audio_out_tokens: Option<u64>,
    /// Of the input, images where the provider counts them apart.
    pub image_in_tokens: Option<u64>,
    /// Calls of provider-side tools.
    pub server_tool_calls: Option<u64>,
    /// The exact cost.
    #[serde(with = "text::option")]
    pub cost_usd: Option<Money>,
    /// What the attempt counts against budgets: its cost, or its hold while the cost is unknown.
    #[serde(with = "text")]
    pub charged_usd: Money,
    /// The rate card that priced it.
    pub ratecard_version: String,
    /// Where the counts came from.
    #[serde(with = "text")]
    pub usage_source: UsageSource,
    /// How it ended: `finished`, `failed`, `abandoned`, `broken`, `unknown`.
    pub outcome: String,
    /// When it was sent.
    #[serde(with = "text")]
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(with = "text")]
    pub finished_at: Timestamp,
    /// The trace that its caller named (W3C Trace Context); of an agent's run, the digits of the run's id.
    #[serde(default)]
    pub trace_id: Option<String>,
}
