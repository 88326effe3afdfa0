//! What a call consumed, in buckets that do not overlap.

/// Token counts of one upstream attempt. The buckets are disjoint: a token stands in one of them.
///
/// `OpenAI` counts cached tokens inside the prompt and reasoning inside the completion; Anthropic
/// counts cache reads and writes beside the input. Both are brought to this form when parsed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Usage {
    /// Input tokens that no other input bucket holds.
    pub input: u64,
    /// Input read from the provider's prompt cache.
    pub cache_read: u64,
    /// Input written to the provider's prompt cache for five minutes (or its default time).
    pub cache_write: u64,
    /// Input written to the provider's prompt cache for one hour.
    pub cache_write_1h: u64,
    /// Audio input tokens.
    pub audio_in: u64,
    /// Image input tokens, where the provider counts them apart.
    pub image_in: u64,
    /// Output tokens that no other output bucket holds.
    pub output: u64,
    /// Hidden or visible reasoning tokens.
    pub reasoning: u64,
    /// Audio output tokens.
    pub audio_out: u64,
    /// Calls of provider-side tools (web search and the like).
    pub server_tool_calls: u64,
}

impl Usage {
    /// All input: cache reads and writes included. What reports call `tokens_in`.
    #[must_use]
    pub fn tokens_in(&self) -> u64 {
        [
            self.input,
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.audio_in,
            self.image_in,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// All output: reasoning included. What reports call `tokens_out`.
    #[must_use]
    pub fn tokens_out(&self) -> u64 {
        [self.output, self.reasoning, self.audio_out]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// Where a row's usage came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UsageSource {
    /// The provider said so.
    Provider,
    /// A public tokenizer counted what was produced.
    Tokenizer,
    /// Estimated from the bytes produced.
    Estimate,
    /// Not knowable; the row carries no cost of its own.
    Unknown,
}

impl UsageSource {
    /// The name on reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Tokenizer => "tokenizer",
            Self::Estimate => "estimate",
            Self::Unknown => "unknown",
        }
    }

    /// The source of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Provider,
            Self::Tokenizer,
            Self::Estimate,
            Self::Unknown,
        ]
        .into_iter()
        .find(|source| source.as_str() == name)
    }
}
