//! Rate cards in the field's per-token price file form (`model_prices_and_context_window.json`).
//!
//! **Form.** An object of models; per model USD per unit as JSON numbers or strings, exponents allowed.
//! Members not known here are ignored, so are the entries `sample_spec` and `fallback_generalizations`;
//! of two entries with one name the later stands, as for every reader of that file. Prices stay decimal
//! text until they are whole atto-USD; digits below that (traces of floating point in published files)
//! are rounded half to even.
//!
//! **Tiers.** `…_above_Nk_tokens` prices apply to the whole call as soon as all its input, cache
//! included, exceeds `N` thousand tokens. A bucket without a price in that tier has no price there.
//!
//! **What is not billed by tokens** imports, and [`ModelPrices::supports`] refuses the call. Prices of
//! other service (`_flex`, `_priority`, `_batches`, regional uplifts) are ignored; whoever lets a call ask
//! for such service must refuse it ([`Request::priced_apart`](crate::Request::priced_apart)).

mod card;

use base::money::RowTotal;
use base::{Markup, Money, Price, Usage};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;

/// The text of [`RateCard::built_in`], for versions that are hashes of content.
pub const BUILT_IN: &str = include_str!("../prices/default.json");

/// The prices of many models.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RateCard {
    models: BTreeMap<String, ModelPrices>,
    version: String,
}

impl RateCard {
    /// Reads a card.
    ///
    /// # Errors
    /// [`CardError`] naming the entry and the field; then nothing of the card is to be used.
    pub fn parse(text: &str) -> Result<Self, CardError> {
        let entries: BTreeMap<String, &RawValue> = serde_json::from_str(text)
            .map_err(|error| CardError::of(None, None, format!("not a rate card: {error}")))?;
        let mut models = BTreeMap::new();
        for (name, entry) in entries {
            if card::NOT_MODELS.contains(&&*name) {
                continue;
            }
            let prices = ModelPrices::parse(&name, entry)?;
            models.insert(name, prices);
        }
        Ok(Self {
            models,
            version: String::new(),
        })
    }

    /// The card that ships inside: list prices of common models. Not in it are models whose bill has
    /// parts that their answers are not known to name (`OpenAI`'s from `gpt-5.6` on charge cache writes).
    #[must_use]
    pub fn built_in() -> Self {
        // A test parses it; an empty card prices nothing, and what has no price is refused.
        Self::parse(BUILT_IN).unwrap_or_default()
    }

    /// One card of many: a later card's entry replaces an earlier one's as a whole. It has no version
    /// until [`with_version`](Self::with_version).
    #[must_use]
    pub fn merged(cards: Vec<Self>) -> Self {
        let models = cards.into_iter().flat_map(|card| card.models).collect();
        Self {
            models,
            version: String::new(),
        }
    }

    /// The card under a version: a hash of its content, which the caller takes.
    #[must_use]
    pub fn with_version(self, version: String) -> Self {
        Self { version, ..self }
    }

    /// The version that stands on every row priced by this card.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The prices of a model. The first of these that has an entry: the provider's name of the model,
    /// the public name, `provider/model`. The provider's name comes first because it is what is billed.
    #[must_use]
    pub fn lookup(
        &self,
        provider: &str,
        provider_model: &str,
        public_name: &str,
    ) -> Option<&ModelPrices> {
        self.models
            .get(provider_model)
            .or_else(|| self.models.get(public_name))
            .or_else(|| self.models.get(&format!("{provider}/{provider_model}")))
    }

    /// All entries by name.
    pub fn models(&self) -> impl Iterator<Item = (&str, &ModelPrices)> {
        self.models
            .iter()
            .map(|(name, prices)| (name.as_str(), prices))
    }
}

/// Why a card is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CardError {
    /// The entry at fault; `None` for the file as a whole.
    pub entry: Option<String>,
    /// The field at fault.
    pub field: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl CardError {
    fn of(entry: Option<&str>, field: Option<&str>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            entry: entry.map(str::to_owned),
            field: field.map(str::to_owned),
            message,
        }
    }
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.entry, &self.field) {
            (Some(entry), Some(field)) => write!(f, "{entry}: {field} {}", self.message),
            (Some(entry), None) => write!(f, "{entry}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for CardError {}

/// A call consumes, or may consume, what the card has no price for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnpricedBucket {
    /// The bucket (`cache_read`) or the card's field of a unit that is not supported.
    pub bucket: &'static str,
}

impl fmt::Display for UnpricedBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the rate card has no supported price for {}",
            self.bucket
        )
    }
}

impl std::error::Error for UnpricedBucket {}

/// The prices of one model.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ModelPrices {
    base: TokenPrices,
    /// By rising threshold.
    tiers: Vec<Tier>,
    search: SearchPrices,
    /// A field that bills every call by another unit.
    other_unit: Option<&'static str>,
    /// A field that bills parts of a call (images, sound) by another unit.
    part_unit: Option<&'static str>,
    embedding: bool,
    /// The card says that the model can reason.
    reasons: bool,
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Tier {
    /// Applies when all input exceeds this.
    above_tokens: u64,
    prices: TokenPrices,
}

/// USD per token by bucket.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct TokenPrices {
    input: Option<Price>,
    cache_read: Option<Price>,
    cache_write: Option<Price>,
    cache_write_1h: Option<Price>,
    audio_in: Option<Price>,
    image_in: Option<Price>,
    output: Option<Price>,
    reasoning: Option<Price>,
    audio_out: Option<Price>,
}

/// USD per web search by size of context.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct SearchPrices(Vec<Price>);

/// Prices per token of a call below every tier. `None` is "no price", which is not free.
impl ModelPrices {
    /// Input that no other bucket holds.
    #[must_use]
    pub fn input(&self) -> Option<Price> {
        self.base.input
    }

    /// Input read from the prompt cache.
    #[must_use]
    pub fn cache_read(&self) -> Option<Price> {
        self.base.cache_read
    }

    /// Input written to the prompt cache for its default time.
    #[must_use]
    pub fn cache_write(&self) -> Option<Price> {
        self.base.cache_write
    }

    /// Input written to the prompt cache for one hour.
    #[must_use]
    pub fn cache_write_1h(&self) -> Option<Price> {
        self.base.cache_write_1h
    }

    /// Audio input.
    #[must_use]
    pub fn audio_in(&self) -> Option<Price> {
        self.base.audio_in
    }

    /// Output that no other bucket holds.
    #[must_use]
    pub fn output(&self) -> Option<Price> {
        self.base.output
    }

    /// Reasoning: its own price, or that of output where it has none.
    #[must_use]
    pub fn reasoning(&self) -> Option<Price> {
        self.reasoning_at(&self.base)
    }

    /// Audio output.
    #[must_use]
    pub fn audio_out(&self) -> Option<Price> {
        self.base.audio_out
    }
}

impl ModelPrices {
    /// Whether the model may reason: it has a price for reasoning, or its entry says `supports_reasoning`.
    #[must_use]
    pub fn may_reason(&self) -> bool {
        let tiers = self.tiers.iter().map(|tier| &tier.prices);
        self.reasons
            || std::iter::once(&self.base)
                .chain(tiers)
                .any(|prices| prices.reasoning.is_some())
    }

    /// The most input tokens of a call: the context window as far as the card knows it.
    #[must_use]
    pub fn max_input_tokens(&self) -> Option<u64> {
        self.max_input_tokens
    }

    /// The most output tokens of a call.
    #[must_use]
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.max_output_tokens
    }

    /// The price of one call of a provider-side search, where it does not depend on the context size.
    #[must_use]
    pub fn search_price(&self) -> Option<Price> {
        let (first, rest) = self.search.0.split_first()?;
        rest.iter().all(|price| price == first).then_some(*first)
    }

    /// Whether calls of this model are billed by tokens alone.
    ///
    /// # Errors
    /// [`UnpricedBucket`] when input or output has no price (an embedding needs none for output), or
    /// when every call is billed by a unit that is not supported.
    pub fn supports(&self) -> Result<(), UnpricedBucket> {
        if let Some(bucket) = self.other_unit {
            return Err(UnpricedBucket { bucket });
        }
        self.base.input.ok_or(UnpricedBucket { bucket: "input" })?;
        if !self.embedding {
            self.base
                .output
                .ok_or(UnpricedBucket { bucket: "output" })?;
        }
        Ok(())
    }

    /// Whether a call with parts that are no text is billed by tokens alone.
    ///
    /// # Errors
    /// [`UnpricedBucket`] when this model bills such parts by a unit that is not supported.
    pub fn supports_input(&self, input: &crate::InputBound) -> Result<(), UnpricedBucket> {
        match self.part_unit {
            Some(bucket) if input.images > 0 || input.unknown_part => {
                Err(UnpricedBucket { bucket })
            }
            _ => self.supports(),
        }
    }

    /// What a call cost: exact, the markup on top, rounded once. Reasoning costs as output where it has
    /// no price of its own; no other bucket borrows a price.
    ///
    /// # Errors
    /// [`UnpricedBucket`] for a bucket that is not zero and has no price.
    pub fn cost(&self, usage: &Usage, markup: Markup) -> Result<Money, UnpricedBucket> {
        self.other_unit
            .map_or(Ok(()), |bucket| Err(UnpricedBucket { bucket }))?;
        let prices = self.at(usage.tokens_in());
        let mut total = RowTotal::default();
        for (bucket, tokens, price) in [
            ("input", usage.input, prices.input),
            ("cache_read", usage.cache_read, prices.cache_read),
            ("cache_write", usage.cache_write, prices.cache_write),
            (
                "cache_write_1h",
                usage.cache_write_1h,
                prices.cache_write_1h,
            ),
            ("audio_in", usage.audio_in, prices.audio_in),
            ("image_in", usage.image_in, prices.image_in),
            ("output", usage.output, prices.output),
            ("reasoning", usage.reasoning, self.reasoning_at(prices)),
            ("audio_out", usage.audio_out, prices.audio_out),
            (
                "server_tool_calls",
                usage.server_tool_calls,
                self.search_price(),
            ),
        ] {
            if tokens > 0 {
                total.add(tokens, price.ok_or(UnpricedBucket { bucket })?);
            }
        }
        Ok(total.round(markup))
    }

    /// The most a call can cost: all input at the dearest input price, all output at the dearest output
    /// price, in the dearest tier that this much input can reach, rounded up. No call within these
    /// tokens, and without calls of provider-side tools, costs more.
    ///
    /// # Errors
    /// [`UnpricedBucket`] as [`supports`](Self::supports), and when a tier in reach lacks a price that
    /// the base has.
    pub fn bound(
        &self,
        input_tokens: u64,
        output_tokens: u64,
        markup: Markup,
    ) -> Result<Money, UnpricedBucket> {
        self.supports()?;
        let reached = self
            .tiers
            .iter()
            .filter(|tier| tier.above_tokens < input_tokens);
        let mut most = Money::ZERO;
        for prices in std::iter::once(&self.base).chain(reached.map(|tier| &tier.prices)) {
            let input = prices
                .dearest_input()
                .ok_or(UnpricedBucket { bucket: "input" })?;
            let output = self.dearest_output(prices)?;
            let mut total = RowTotal::default();
            total.add(input_tokens, input);
            total.add(output_tokens, output);
            most = most.max(total.round_up(markup));
        }
        Ok(most)
    }

    /// The prices for a call with this much input.
    fn at(&self, tokens_in: u64) -> &TokenPrices {
        let tier = self
            .tiers
            .iter()
            .rev()
            .find(|tier| tier.above_tokens < tokens_in);
        tier.map_or(&self.base, |tier| &tier.prices)
    }

    /// The price of reasoning: its own, or that of output where the model has none at all.
    fn reasoning_at(&self, prices: &TokenPrices) -> Option<Price> {
        if self.base.reasoning.is_some() {
            prices.reasoning
        } else {
            prices.output
        }
    }

    fn dearest_output(&self, prices: &TokenPrices) -> Result<Price, UnpricedBucket> {
        let dearest = prices.output.max(prices.reasoning).max(prices.audio_out);
        match (dearest, prices.output, self.embedding) {
            (_, None, true) => Ok(dearest.unwrap_or(Price::ZERO)),
            (Some(dearest), Some(_), _) => Ok(dearest),
            _ => Err(UnpricedBucket { bucket: "output" }),
        }
    }
}

impl TokenPrices {
    fn dearest_input(&self) -> Option<Price> {
        self.input?;
        let others = [
            self.cache_read,
            self.cache_write,
            self.cache_write_1h,
            self.audio_in,
            self.image_in,
        ];
        others.into_iter().fold(self.input, Option::max)
    }

    /// The bucket that a field of the card prices.
    fn bucket(&mut self, field: &str) -> Option<&mut Option<Price>> {
        Some(match field {
            "input_cost_per_token" => &mut self.input,
            "cache_read_input_token_cost" => &mut self.cache_read,
            "cache_creation_input_token_cost" => &mut self.cache_write,
            "cache_creation_input_token_cost_above_1hr" => &mut self.cache_write_1h,
            "input_cost_per_audio_token" => &mut self.audio_in,
            "input_cost_per_image_token" => &mut self.image_in,
            "output_cost_per_token" => &mut self.output,
            "output_cost_per_reasoning_token" => &mut self.reasoning,
            "output_cost_per_audio_token" => &mut self.audio_out,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod published;
#[cfg(test)]
mod tests;
