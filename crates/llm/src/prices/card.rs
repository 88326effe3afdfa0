//! Reading the entries of a card.

use super::{CardError, ModelPrices, SearchPrices, Tier, TokenPrices};
use base::Price;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Entries of the file that are not models.
pub(super) const NOT_MODELS: [&str; 2] = ["sample_spec", "fallback_generalizations"];

/// Units by which every call of a model is billed.
const OTHER_UNITS: [&str; 13] = [
    "tiered_pricing",
    "input_cost_per_character",
    "output_cost_per_character",
    "input_cost_per_second",
    "output_cost_per_second",
    "input_cost_per_query",
    "input_cost_per_request",
    "input_cost_per_pixel",
    "output_cost_per_pixel",
    "output_cost_per_image",
    "output_cost_per_image_token",
    "output_cost_per_video_per_second",
    "citation_cost_per_token",
];

/// Units by which single parts of a call are billed.
const PART_UNITS: [&str; 4] = [
    "input_cost_per_image",
    "input_cost_per_audio_per_second",
    "input_cost_per_video_per_second",
    "ocr_cost_per_page",
];

impl ModelPrices {
    pub(super) fn parse(name: &str, entry: &RawValue) -> Result<Self, CardError> {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(entry.get())
            .map_err(|_| CardError::of(Some(name), None, "must be an object"))?;
        let mut model = Self::default();
        let mut tiers: BTreeMap<u64, TokenPrices> = BTreeMap::new();
        for (field, value) in fields {
            let wrong = |message: &str| CardError::of(Some(name), Some(&field), message);
            let (base, above_tokens) = split_tier(&field);
            let prices = match above_tokens {
                Some(tokens) if TokenPrices::default().bucket(base).is_some() => {
                    tiers.entry(tokens).or_default()
                }
                Some(_) => continue,
                None => &mut model.base,
            };
            if let Some(bucket) = prices.bucket(base) {
                *bucket = price(value).map_err(wrong)?;
                continue;
            }
            match &*field {
                "max_input_tokens" => model.max_input_tokens = tokens(value).map_err(wrong)?,
                "max_output_tokens" => model.max_output_tokens = tokens(value).map_err(wrong)?,
                "mode" => model.embedding = value.get() == "\"embedding\"",
                "supports_reasoning" => model.reasons = value.get() == "true",
                "search_context_cost_per_query" => model.search = searches(value).map_err(wrong)?,
                _ => model.note_unit(&field, value).map_err(wrong)?,
            }
        }
        tiers.retain(|_, prices| *prices != TokenPrices::default());
        model.tiers = tiers
            .into_iter()
            .map(|(above_tokens, prices)| Tier {
                above_tokens,
                prices,
            })
            .collect();
        Ok(model)
    }

    /// Notes a price by another unit than tokens, unless it is zero.
    fn note_unit(&mut self, field: &str, value: &RawValue) -> Result<(), &'static str> {
        let known = |units: &[&'static str]| units.iter().copied().find(|unit| *unit == field);
        let (slot, unit) = match (known(&OTHER_UNITS), known(&PART_UNITS)) {
            (Some(unit), _) => (&mut self.other_unit, unit),
            (_, Some(unit)) => (&mut self.part_unit, unit),
            _ => return Ok(()),
        };
        let charged = match value.get().as_bytes().first() {
            Some(b'[' | b'{') => true,
            _ => price(value)?.is_some_and(|price| price > Price::ZERO),
        };
        if charged {
            *slot = Some(unit);
        }
        Ok(())
    }
}

/// The field without its `_above_<N>k_tokens`, and `N` thousand.
fn split_tier(field: &str) -> (&str, Option<u64>) {
    let tier = || {
        let (base, thousands) = field.strip_suffix("k_tokens")?.rsplit_once("_above_")?;
        let thousands: u64 = thousands.parse().ok()?;
        Some((base, thousands.checked_mul(1_000)?))
    };
    tier().map_or((field, None), |(base, tokens)| (base, Some(tokens)))
}

/// A price as number or text; `null` is none.
fn price(value: &RawValue) -> Result<Option<Price>, &'static str> {
    const RULE: &str = "must be a decimal number of USD from 0 to 1e9";
    let Some(text) = number_text(value, RULE)? else {
        return Ok(None);
    };
    exact_or_rounded(&text).map(Some).ok_or(RULE)
}

/// A count of tokens as number or text; `null` is none.
fn tokens(value: &RawValue) -> Result<Option<u64>, &'static str> {
    const RULE: &str = "must be a whole number of tokens";
    let Some(text) = number_text(value, RULE)? else {
        return Ok(None);
    };
    let (mantissa, exponent) = decimal(&text).ok_or(RULE)?;
    let zeros = u32::try_from(exponent).map_err(|_| RULE)?;
    let scale = 10_u64.checked_pow(zeros).ok_or(RULE)?;
    mantissa
        .parse::<u64>()
        .ok()
        .and_then(|value| value.checked_mul(scale))
        .map(Some)
        .ok_or(RULE)
}

/// Search prices by context size; a single number stands for all sizes.
fn searches(value: &RawValue) -> Result<SearchPrices, &'static str> {
    if !value.get().starts_with('{') {
        return Ok(SearchPrices(price(value)?.into_iter().collect()));
    }
    let sizes: BTreeMap<String, &RawValue> =
        serde_json::from_str(value.get()).map_err(|_| "must be an object of prices")?;
    let prices: Result<Vec<_>, _> = sizes.into_values().map(price).collect();
    Ok(SearchPrices(prices?.into_iter().flatten().collect()))
}

fn number_text<'a>(
    value: &'a RawValue,
    rule: &'static str,
) -> Result<Option<Cow<'a, str>>, &'static str> {
    match value.get().as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => serde_json::from_str(value.get())
            .map(|text: String| Some(Cow::Owned(text)))
            .map_err(|_| rule),
        Some(b'-' | b'0'..=b'9') => Ok(Some(Cow::Borrowed(value.get()))),
        _ => Err(rule),
    }
}

/// The price in whole atto-USD; finer digits are rounded half to even. What would round to nothing is
/// no price: free must be said.
fn exact_or_rounded(text: &str) -> Option<Price> {
    let (digits, exponent) = decimal(text)?;
    let finer = usize::try_from(-18 - i64::from(exponent)).unwrap_or(0);
    if finer == 0 || digits == "0" {
        return Price::parse_usd(&format!("{digits}e{exponent}")).ok();
    }
    let (kept, cut) = digits.split_at(digits.len().checked_sub(finer)?);
    let mut atto: i128 = if kept.is_empty() {
        0
    } else {
        kept.parse().ok()?
    };
    let odd = atto % 2 != 0;
    let half = format!("5{}", "0".repeat(cut.len() - 1));
    if cut > half.as_str() || (cut == half && odd) {
        atto = atto.checked_add(1)?;
    }
    if atto == 0 {
        return None;
    }
    Price::parse_usd(&format!("{atto}e-18")).ok()
}

/// Significant digits and exponent of a decimal that is not negative: `1.50e-7` is (`15`, -8).
fn decimal(text: &str) -> Option<(String, i32)> {
    if text.len() > DECIMAL_BYTES_MAX {
        return None;
    }
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let zeros = i32::try_from(digits.len() - significant.len()).ok()?;
    let places = i32::try_from(fraction.len()).ok()?;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some(("0".to_owned(), 0));
    }
    let exponent = exponent.checked_sub(places)?.checked_add(zeros)?;
    // Beyond this no price lies, and digits would be written out.
    (exponent.unsigned_abs() <= 64).then(|| (significant.to_owned(), exponent))
}

/// A price with more digits is a mistake.
const DECIMAL_BYTES_MAX: usize = 48;
