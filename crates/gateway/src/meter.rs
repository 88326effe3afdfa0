//! From what a provider said, or did not say, to the settlement of an attempt.

use std::sync::Arc;

use base::{Markup, Usage, UsageSource};
use kernel::quota::Demand;
use kernel::{Charge, Outcome, Settlement};
use llm::prices::{ModelPrices, RateCard};
use llm::{Backstop, ReplyStream};

/// Bytes of text per token in estimates. Real tokenizers give 3 to 5 for prose; estimates stand on rows marked `estimate` only.
const BYTES_PER_TOKEN: u64 = 4;

/// Tokens beyond which a count is no count: a hundred times the largest context window.
const TOKENS_MAX: u64 = 200_000_000;

/// Whether a provider's count can be true. One that cannot leaves the usage unknown, charged at the hold.
fn plausible(usage: &Usage) -> bool {
    usage.tokens_in() <= TOKENS_MAX && usage.tokens_out() <= TOKENS_MAX
}

/// Who ended a stream before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    /// It was aborted here: the client is gone, or its authority ended.
    Us,
    /// It broke off, or could not be read.
    Provider,
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

    /// The settlement of a stream that came to its end. One that was ended here is billed at what was bought: more was not
    /// ordered, whatever the provider sent. It counts its hold.
    pub(crate) fn ended(&self, reply: &ReplyStream) -> Settlement {
        let (source, charge) = if reply.was_cut() {
            (UsageSource::Estimate, Charge::Hold)
        } else {
            (UsageSource::Provider, Charge::AsBilled)
        };
        Settlement {
            charge,
            ..self.of(Outcome::Finished, reply.usage(), source)
        }
    }

    /// Where a stream is ended here because its provider does not.
    pub(crate) fn backstop(&self) -> Option<Backstop> {
        self.bought.map(|(output, choices)| Backstop {
            output,
            choices,
            input: self.input_bound.div_ceil(BYTES_PER_TOKEN),
        })
    }

    /// The settlement of a stream that ended early. It is billed at what the provider said so far where it said anything of the
    /// output, and at an estimate from the bytes produced where it did not. What counts against quotas is what the provider can
    /// bill for it, until its own count is final.
    pub(crate) fn cut_short(&self, outcome: Outcome, by: By, reply: &ReplyStream) -> Settlement {
        let produced = reply.produced_bytes();
        let billed = self.billed(outcome, reply.usage(), produced);
        // What stands before a finish reason is a count so far, and one of several choices may go on behind it.
        let one_choice = self.bought.is_none_or(|(_, choices)| choices <= 1);
        let counted = reply.finish_reason().is_some() && one_choice;
        let charge = match by {
            _ if counted && billed.usage_source == UsageSource::Provider => Charge::AsBilled,
            By::Us if !reply.reasoned() => self.bound(produced),
            By::Us | By::Provider => Charge::Hold,
        };
        Settlement { charge, ..billed }
    }

    /// All input and as many tokens as bytes were produced, at the dearest prices: no token has less than a byte. Of a model that
    /// may reason unseen, only the hold is sure.
    fn bound(&self, produced_bytes: u64) -> Charge {
        let prices = self.prices().filter(|prices| !prices.may_reason());
        let cost =
            prices.and_then(|of| of.bound(self.input_bound, produced_bytes, self.markup).ok());
        cost.map_or(Charge::Hold, |cost| {
            Charge::AtMost(Demand {
                requests: 0,
                tokens: self.input_bound.saturating_add(produced_bytes),
                cost,
            })
        })
    }

    fn billed(&self, outcome: Outcome, said: Option<Usage>, produced_bytes: u64) -> Settlement {
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

    fn prices(&self) -> Option<&ModelPrices> {
        self.card
            .lookup(&self.provider, &self.provider_model, &self.public)
    }

    fn of(&self, outcome: Outcome, usage: Option<Usage>, source: UsageSource) -> Settlement {
        let unknown = Settlement {
            outcome,
            ..Settlement::unknown()
        };
        let Some(usage) = usage.filter(plausible) else {
            return unknown;
        };
        let prices = self.prices();
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use llm::{Dialect, StreamPlan};

    use super::*;

    const CARD: &str = r#"{
        "plain":{"input_cost_per_token":1e-6,"output_cost_per_token":2e-6},
        "deep":{"input_cost_per_token":1e-6,"output_cost_per_token":2e-6,"supports_reasoning":true},
        "priced":{"input_cost_per_token":1e-6,"output_cost_per_token":2e-6,"output_cost_per_reasoning_token":2e-6}}"#;

    fn meter(model: &str) -> Meter {
        Meter {
            card: Arc::new(RateCard::parse(CARD).unwrap()),
            provider: "p".to_owned(),
            provider_model: model.to_owned(),
            public: model.to_owned(),
            markup: Markup::parse("1").unwrap(),
            input_bound: 400,
            bought: Some((1_000, 1)),
        }
    }

    fn reply(provider: Dialect, events: &[&str]) -> ReplyStream {
        let mut reply = ReplyStream::new(StreamPlan {
            provider,
            client: provider,
            model_shown: None,
            include_usage: true,
            created_s: 0,
        });
        for event in events {
            let fed = reply.feed(Bytes::from(format!("data: {event}\n\n")));
            drop(fed.unwrap());
        }
        reply
    }

    fn charge(model: &str, by: By, reply: &ReplyStream) -> Charge {
        let settled = meter(model).cut_short(Outcome::Abandoned, by, reply);
        assert!(settled.cost.is_some());
        settled.charge
    }

    const TEXT: &str = r#"{"choices":[{"index":0,"delta":{"content":"0123456789"}}]}"#;

    #[test]
    fn what_the_client_left_counts_a_token_for_each_byte_and_the_bound_of_the_input() {
        let reply = reply(Dialect::OpenAi, &[TEXT, TEXT]);
        let billed = meter("plain").cut_short(Outcome::Abandoned, By::Us, &reply);
        assert_eq!(billed.usage.map(|usage| usage.tokens_out()), Some(5));
        assert_eq!(
            billed.cost,
            Some(base::Money::parse_usd("0.00011").unwrap())
        );
        let most = Demand {
            requests: 0,
            tokens: 420,
            cost: base::Money::parse_usd("0.00044").unwrap(),
        };
        assert_eq!(billed.charge, Charge::AtMost(most));
    }

    #[test]
    fn what_the_provider_broke_and_what_may_reason_counts_its_hold() {
        let text = reply(Dialect::OpenAi, &[TEXT]);
        assert_eq!(charge("plain", By::Provider, &text), Charge::Hold);
        assert_eq!(charge("deep", By::Us, &text), Charge::Hold);
        assert_eq!(charge("priced", By::Us, &text), Charge::Hold);
        let shown = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}"#;
        let null = r#"{"choices":[{"index":0,"delta":{"content":"x","reasoning_content":null}}]}"#;
        let (shown, null) = (
            reply(Dialect::OpenAi, &[shown]),
            reply(Dialect::OpenAi, &[null]),
        );
        assert_eq!(charge("plain", By::Us, &shown), Charge::Hold);
        assert_ne!(charge("plain", By::Us, &null), Charge::Hold);
        for seen in [
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"redacted_thinking","data":"xyz"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
        ] {
            let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
            let thinking = reply(Dialect::Anthropic, &[start, seen]);
            assert_eq!(charge("plain", By::Us, &thinking), Charge::Hold, "{seen}");
        }
    }

    #[test]
    fn a_count_so_far_is_no_final_count() {
        let start =
            r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
        let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#;
        let begun = reply(Dialect::Anthropic, &[start]);
        assert_eq!(charge("plain", By::Provider, &begun), Charge::Hold);
        assert_ne!(charge("plain", By::Us, &begun), Charge::AsBilled);
        let counted = reply(Dialect::Anthropic, &[start, end]);
        assert_eq!(charge("plain", By::Provider, &counted), Charge::AsBilled);
        assert_eq!(charge("deep", By::Us, &counted), Charge::AsBilled);
    }
}
