//! A file as the field publishes it: models of every mode, other units, members of later days, nulls.

use super::*;
use crate::InputBound;

fn published() -> RateCard {
    RateCard::parse(include_str!("../../tests/cards/published_form.json")).unwrap()
}

fn model(card: &RateCard, name: &str) -> ModelPrices {
    card.lookup("nobody", name, name).unwrap().clone()
}

fn refusal(found: Result<(), UnpricedBucket>) -> Option<&'static str> {
    found.err().map(|unpriced| unpriced.bucket)
}

/// Model, what every call of it is refused for, what a call with pictures or sound is refused for.
const CALLS: [(&str, Option<&str>, Option<&str>); 25] = [
    each("1024-x-1024/pixel-painter", "input_cost_per_pixel"),
    each("image-painter", "output_cost_per_image"),
    each("image-chat", "output_cost_per_image_token"),
    each("listener", "output_cost_per_second"),
    each("listener-by-token", "input_cost_per_second"),
    each("speaker", "input_cost_per_character"),
    none("audio-chat"),
    (
        "sound-by-second-chat",
        None,
        Some("input_cost_per_video_per_second"),
    ),
    none("long-context-chat"),
    each("ranges-chat", "tiered_pricing"),
    each("ranges-beside-prices-chat", "tiered_pricing"),
    none("searching-chat"),
    each("citing-chat", "citation_cost_per_token"),
    none("thinking-chat"),
    none("nulls-chat"),
    each("unpriced-chat", "input"),
    none("free-chat"),
    none("later-chat"),
    none("rounded-chat"),
    none("embedder"),
    ("embedder-of-pictures", None, Some("input_cost_per_image")),
    each("sorter", "input_cost_per_query"),
    ("page-reader", Some("input"), Some("ocr_cost_per_page")),
    each("film-maker", "output_cost_per_video_per_second"),
    none("guard"),
];

const fn each(
    name: &'static str,
    bucket: &'static str,
) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    (name, Some(bucket), Some(bucket))
}

const fn none(name: &'static str) -> (&'static str, Option<&'static str>, Option<&'static str>) {
    (name, None, None)
}

#[test]
fn every_entry_is_taken_and_what_it_cannot_bill_is_refused() {
    let card = published();
    let mut names: Vec<&str> = CALLS.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    let taken: Vec<&str> = card.models().map(|(name, _)| name).collect();
    assert_eq!(taken, names);
    let text = InputBound::default();
    let picture = InputBound { images: 1, ..text };
    let sound = InputBound {
        unknown_part: true,
        ..text
    };
    for (name, every, parts) in CALLS {
        let prices = model(&card, name);
        assert_eq!(refusal(prices.supports()), every, "{name}");
        assert_eq!(refusal(prices.supports_input(&text)), every, "{name}");
        for input in [&picture, &sound] {
            assert_eq!(refusal(prices.supports_input(input)), parts, "{name}");
        }
        let hold = prices.bound(1, 1, Markup::NONE);
        assert_eq!(refusal(hold.map(drop)), every, "{name}");
        let call = Usage {
            input: 1,
            ..Usage::default()
        };
        if every.is_some() {
            assert!(prices.cost(&call, Markup::NONE).is_err(), "{name}");
        }
    }
}

#[test]
fn what_it_can_bill_has_the_published_price() {
    let card = published();
    let million = 1_000_000;
    let cost = |name: &str, usage: Usage| {
        model(&card, name)
            .cost(&usage, Markup::NONE)
            .map(|money| money.to_string())
            .map_err(|unpriced| unpriced.bucket)
    };
    let input = |tokens| Usage {
        input: tokens,
        ..Usage::default()
    };
    let output = |tokens| Usage {
        output: tokens,
        ..Usage::default()
    };
    let search = Usage {
        server_tool_calls: 1,
        ..Usage::default()
    };
    let reasoning = Usage {
        reasoning: million,
        ..Usage::default()
    };
    let written = Usage {
        cache_write_1h: million,
        ..Usage::default()
    };
    let read = Usage {
        cache_read: 1,
        ..Usage::default()
    };
    for (name, usage, expect) in [
        ("sound-by-second-chat", input(100_000), Ok("0.0075")),
        ("sound-by-second-chat", input(million), Ok("1")),
        ("long-context-chat", input(100_000), Ok("0.3")),
        ("long-context-chat", input(million), Ok("6")),
        ("long-context-chat", written, Ok("12")),
        ("long-context-chat", search, Ok("0.01")),
        ("searching-chat", search, Err("server_tool_calls")),
        ("thinking-chat", reasoning, Ok("2.5")),
        ("nulls-chat", input(million), Ok("1")),
        ("nulls-chat", read, Err("cache_read")),
        ("nulls-chat", search, Err("server_tool_calls")),
        ("free-chat", input(million), Ok("0")),
        ("later-chat", input(million), Ok("0.15")),
        ("later-chat", output(million), Ok("0.6")),
        ("rounded-chat", input(million), Ok("0.2")),
        ("embedder", input(million), Ok("0.02")),
    ] {
        let found = cost(name, usage);
        assert_eq!(found.as_deref().map_err(|bucket| *bucket), expect, "{name}");
    }
    assert_eq!(model(&card, "later-chat").max_input_tokens(), Some(128_000));
    assert_eq!(model(&card, "nulls-chat").max_input_tokens(), None);
}

#[test]
fn each_bucket_shows_its_own_price() {
    let card = published();
    let long = model(&card, "long-context-chat");
    let usd = |text: &str| Some(Price::parse_usd(text).unwrap());
    assert_eq!(long.input(), usd("3e-6"), "not that of the tier");
    assert_eq!(long.output(), usd("1.5e-5"));
    assert_eq!(long.cache_read(), usd("3e-7"));
    assert_eq!(long.cache_write(), usd("3.75e-6"));
    assert_eq!(long.cache_write_1h(), usd("6e-6"));
    assert_eq!(long.reasoning(), usd("1.5e-5"), "billed as output");
    assert_eq!((long.audio_in(), long.audio_out()), (None, None));
    let audio = model(&card, "audio-chat");
    assert_eq!(
        (audio.audio_in(), audio.audio_out()),
        (usd("4e-5"), usd("8e-5"))
    );
    assert_eq!(model(&card, "thinking-chat").reasoning(), usd("2.5e-6"));
    // A refused model still shows what the card says, and free is not the same as nothing.
    assert_eq!(model(&card, "citing-chat").input(), usd("2e-6"));
    assert_eq!(model(&card, "free-chat").input(), Some(Price::ZERO));
    assert_eq!(model(&card, "unpriced-chat").input(), None);
    assert_eq!(model(&card, "unpriced-chat").reasoning(), None);
}
