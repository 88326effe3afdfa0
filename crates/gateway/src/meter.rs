//! From what a provider said, or did not say, to the settlement of an attempt.

use std::sync::Arc;

use base::{Markup, Usage, UsageSource};
use kernel::{Outcome, Settlement};
use llm::prices::RateCard;
use llm::{Backstop, ReplyStream};

/// Bytes of text per token in estimates. Real tokenizers give 3 to 5 for prose; estimates stand on rows marked `estimate` only.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens beyond which a count is no count: a hundred times the largest context window.
const TOKENS_MAX: u64 = 200_000_000;

/// Whether a provider's count can be true. One that cannot leaves the usage unknown, charged at the hold.
fn plausible(usage: &Usage) -> bool {
    usage.tokens_in() <= TOKENS_MAX && usage.tokens_out() <= TOKENS_MAX
}

/// Prices the usage of one attempt with the card that was in force when it was sent.
pub(crate) struct Meter {
    pub(crate) card: Arc<RateCard>,
    pub(crate) provider: String,
    pub(crate) provider_model: String,
    pub(crate) public: String,
    pub(crate) markup: Markup,
    /// Upper bound of the input, in tokens.
    pub(crate) input_bound: u64,
    /// The output that was bought, per choice, and how many choices; `None` where there is no output.
    pub(crate) bought: Option<(u64, u64)>,
}

impl Meter {
    /// The settlement of an answer that the provider finished.
    pub(crate) fn finished(&self, usage: Option<Usage>) -> Settlement {
        self.of(Outcome::Finished, usage, UsageSource::Provider)
    }

    /// The settlement of a stream that came to its end. One that was ended here is settled at what was bought: more was not
    /// ordered, whatever the provider sent.
    pub(crate) fn ended(&self, reply: &ReplyStream) -> Settlement {
        let source = if reply.was_cut() {
            UsageSource::Estimate
        } else {
            UsageSource::Provider
        };
        self.of(Outcome::Finished, reply.usage(), source)
    }

    /// Where a stream is ended here because its provider does not.
    pub(crate) fn backstop(&self) -> Option<Backstop> {
        self.bought.map(|(output, choices)| Backstop {
            output,
            choices,
            input: self.input_bound.div_ceil(BYTES_PER_TOKEN),
        })
    }

    /// The settlement of an answer that ended early: what the provider said so far where it said anything of the output, an
    /// estimate from the bytes produced where it did not.
    pub(crate) fn cut_short(
        &self,
        outcome: Outcome,
        said: Option<Usage>,
        produced_bytes: u64,
    ) -> Settlement {
        let produced = produced_bytes.div_ceil(BYTES_PER_TOKEN);
        let input_only = |usage: &Usage| usage.tokens_out() < produced;
        match said {
            Some(usage) if !input_only(&usage) => {
                self.of(outcome, Some(usage), UsageSource::Provider)
            }
            Some(usage) => {
                let estimated = Usage {
                    output: produced.saturating_sub(usage.reasoning + usage.audio_out),
                    ..usage
                };
                self.of(outcome, Some(estimated), UsageSource::Estimate)
            }
            None => {
                let input = self.input_bound.div_ceil(BYTES_PER_TOKEN);
                let estimated = Usage {
                    input,
                    output: produced,
                    ..Usage::default()
                };
                self.of(outcome, Some(estimated), UsageSource::Estimate)
            }
        }
    }

    fn of(&self, outcome: Outcome, usage: Option<Usage>, source: UsageSource) -> Settlement {
        let unknown = Settlement {
            outcome,
            ..Settlement::unknown()
        };
        let Some(usage) = usage.filter(plausible) else {
            return unknown;
        };
        let prices = self
            .card
            .lookup(&self.provider, &self.provider_model, &self.public);
        // A bucket without a price leaves the cost unknown: the hold is charged, nothing is approximated.
        let cost = prices.and_then(|prices| prices.cost(&usage, self.markup).ok());
        Settlement {
            usage: Some(usage),
            usage_source: source,
            cost,
            ..unknown
        }
    }
}
