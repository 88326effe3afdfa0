use super::*;

pub(super) fn card(entry: &str) -> ModelPrices {
    let card = RateCard::parse(&format!(r#"{{"m":{entry}}}"#)).unwrap();
    card.lookup("p", "m", "x").unwrap().clone()
}

fn cost(prices: &ModelPrices, usage: Usage) -> Result<String, &'static str> {
    prices
        .cost(&usage, Markup::NONE)
        .map(|money| money.to_string())
        .map_err(|unpriced| unpriced.bucket)
}

const FULL: &str = r#"{"input_cost_per_token":3e-06,"output_cost_per_token":"0.000015","cache_read_input_token_cost":3E-7,
    "cache_creation_input_token_cost":3.75e-06,"cache_creation_input_token_cost_above_1hr":6e-06,"input_cost_per_audio_token":1e-5,
    "output_cost_per_audio_token":2e-5,"output_cost_per_reasoning_token":3e-5,"max_input_tokens":200000,"max_output_tokens":"64000",
    "search_context_cost_per_query":{"search_context_size_low":0.01,"search_context_size_medium":0.01,"search_context_size_high":0.01},
    "supports_vision":true,"litellm_provider":"x","unknown":[1,{"a":null}]}"#;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_bucket_has_its_price() {
    let prices = card(FULL);
    let one = Usage::default();
    for (usage, expect) in [
        (one, "0"),
        (
            Usage {
                input: 1_000_000,
                ..one
            },
            "3",
        ),
        (
            Usage {
                output: 1_000_000,
                ..one
            },
            "15",
        ),
        (
            Usage {
                cache_read: 1_000_000,
                ..one
            },
            "0.3",
        ),
        (
            Usage {
                cache_write: 1_000_000,
                ..one
            },
            "3.75",
        ),
        (
            Usage {
                cache_write_1h: 1_000_000,
                ..one
            },
            "6",
        ),
        (
            Usage {
                audio_in: 1_000_000,
                ..one
            },
            "10",
        ),
        (
            Usage {
                audio_out: 1_000_000,
                ..one
            },
            "20",
        ),
        (
            Usage {
                reasoning: 1_000_000,
                ..one
            },
            "30",
        ),
        (
            Usage {
                server_tool_calls: 3,
                ..one
            },
            "0.03",
        ),
        (
            Usage {
                input: 1,
                output: 1,
                ..one
            },
            "0.000018",
        ),
    ] {
        assert_eq!(cost(&prices, usage).as_deref(), Ok(expect), "{usage:?}");
    }
    assert_eq!(
        (prices.max_input_tokens(), prices.max_output_tokens()),
        (Some(200_000), Some(64_000))
    );
    let markup = Markup::parse("1.2").unwrap();
    let million = Usage {
        input: 1_000_000,
        ..one
    };
    assert_eq!(
        prices.cost(&million, markup).map(|money| money.to_string()),
        Ok("3.6".to_owned())
    );
}

#[test]
fn no_bucket_borrows_a_price_but_reasoning() {
    let prices = card(r#"{"input_cost_per_token":1e-6,"output_cost_per_token":2e-6}"#);
    let one = Usage::default();
    for (usage, expect) in [
        (
            Usage {
                reasoning: 1_000_000,
                ..one
            },
            Ok("2"),
        ),
        (
            Usage {
                cache_read: 1,
                ..one
            },
            Err("cache_read"),
        ),
        (
            Usage {
                cache_write: 1,
                ..one
            },
            Err("cache_write"),
        ),
        (
            Usage {
                cache_write_1h: 1,
                ..one
            },
            Err("cache_write_1h"),
        ),
        (Usage { audio_in: 1, ..one }, Err("audio_in")),
        (Usage { image_in: 1, ..one }, Err("image_in")),
        (
            Usage {
                audio_out: 1,
                ..one
            },
            Err("audio_out"),
        ),
        (
            Usage {
                server_tool_calls: 1,
                ..one
            },
            Err("server_tool_calls"),
        ),
    ] {
        assert_eq!(
            cost(&prices, usage).as_deref().map_err(|bucket| *bucket),
            expect,
            "{usage:?}"
        );
    }
    let by_size = card(
        r#"{"input_cost_per_token":0,"output_cost_per_token":0,"search_context_cost_per_query":{"search_context_size_low":0.01,"search_context_size_high":0.03}}"#,
    );
    assert_eq!(
        cost(
            &by_size,
            Usage {
                server_tool_calls: 1,
                ..one
            }
        ),
        Err("server_tool_calls")
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn zero_is_a_price_and_nothing_is_none() {
    let free = card(
        r#"{"input_cost_per_token":0,"output_cost_per_token":"0.0","cache_read_input_token_cost":0e0}"#,
    );
    assert_eq!(free.supports(), Ok(()));
    assert_eq!(
        cost(
            &free,
            Usage {
                input: 9,
                cache_read: 9,
                output: 9,
                ..Usage::default()
            }
        )
        .as_deref(),
        Ok("0")
    );
    for (entry, bucket) in [
        ("{}", "input"),
        (r#"{"output_cost_per_token":1}"#, "input"),
        (
            r#"{"input_cost_per_token":null,"output_cost_per_token":1}"#,
            "input",
        ),
        (r#"{"input_cost_per_token":1}"#, "output"),
        (
            r#"{"input_cost_per_token":1,"output_cost_per_token":1,"output_cost_per_image":0.04}"#,
            "output_cost_per_image",
        ),
        (
            r#"{"input_cost_per_token":1,"output_cost_per_token":1,"tiered_pricing":[{}]}"#,
            "tiered_pricing",
        ),
        (
            r#"{"input_cost_per_token":1,"output_cost_per_token":1,"input_cost_per_second":"1e-4"}"#,
            "input_cost_per_second",
        ),
        (r#"{"input_cost_per_query":0.002}"#, "input_cost_per_query"),
    ] {
        let prices = card(entry);
        assert_eq!(prices.supports(), Err(UnpricedBucket { bucket }), "{entry}");
        assert_eq!(
            prices.bound(1, 1, Markup::NONE),
            Err(UnpricedBucket { bucket }),
            "{entry}"
        );
    }
    for entry in [
        r#"{"input_cost_per_token":1,"mode":"embedding"}"#,
        r#"{"input_cost_per_token":1,"output_cost_per_token":1,"input_cost_per_second":0,"output_cost_per_image":0.0}"#,
        r#"{"input_cost_per_token":1,"output_cost_per_token":1,"input_cost_per_token_priority":"7","output_cost_per_token_batches":0.5}"#,
    ] {
        assert_eq!(card(entry).supports(), Ok(()), "{entry}");
    }
    let images = card(
        r#"{"input_cost_per_token":1,"output_cost_per_token":1,"input_cost_per_image":0.001}"#,
    );
    let text = crate::InputBound::default();
    assert_eq!(images.supports_input(&text), Ok(()));
    assert!(
        images
            .supports_input(&crate::InputBound { images: 1, ..text })
            .is_err()
    );
    assert!(
        images
            .supports_input(&crate::InputBound {
                unknown_part: true,
                ..text
            })
            .is_err()
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_tier_reprices_the_whole_call() {
    let prices = card(
        r#"{"input_cost_per_token":3e-6,"output_cost_per_token":15e-6,"cache_read_input_token_cost":3e-7,"cache_creation_input_token_cost":1e-6,
        "input_cost_per_token_above_200k_tokens":6e-6,"output_cost_per_token_above_200k_tokens":22.5e-6,"cache_read_input_token_cost_above_200k_tokens":6e-7,
        "input_cost_per_token_above_512k_tokens":9e-6,"output_cost_per_token_above_512k_tokens":30e-6,
        "input_cost_per_token_above_200k_tokens_priority":1,"supports_above_9k_tokens":true}"#,
    );
    let one = Usage::default();
    for (usage, expect) in [
        (
            Usage {
                input: 200_000,
                ..one
            },
            Ok("0.6"),
        ),
        (
            Usage {
                input: 200_001,
                ..one
            },
            Ok("1.200006"),
        ),
        (
            Usage {
                input: 100_000,
                cache_read: 100_001,
                ..one
            },
            Ok("0.6600006"),
        ),
        (
            Usage {
                input: 200_001,
                output: 1_000,
                ..one
            },
            Ok("1.222506"),
        ),
        (
            Usage {
                input: 200_001,
                reasoning: 1_000,
                ..one
            },
            Ok("1.222506"),
        ),
        (
            Usage {
                input: 600_000,
                output: 1_000,
                ..one
            },
            Ok("5.43"),
        ),
        (
            Usage {
                input: 200_001,
                cache_write: 1,
                ..one
            },
            Err("cache_write"),
        ),
        (
            Usage {
                input: 600_000,
                cache_read: 1,
                ..one
            },
            Err("cache_read"),
        ),
    ] {
        assert_eq!(
            cost(&prices, usage).as_deref().map_err(|bucket| *bucket),
            expect,
            "{usage:?}"
        );
    }
    let bound = |input, output| {
        prices
            .bound(input, output, Markup::NONE)
            .map(|money| money.to_string())
    };
    assert_eq!(bound(200_000, 1_000).as_deref(), Ok("0.615"));
    assert_eq!(bound(200_001, 1_000).as_deref(), Ok("1.222506"));
    let half = card(
        r#"{"input_cost_per_token":3e-6,"output_cost_per_token":15e-6,"input_cost_per_token_above_128k_tokens":6e-6}"#,
    );
    assert!(half.bound(128_000, 1, Markup::NONE).is_ok());
    assert_eq!(
        half.bound(128_001, 1, Markup::NONE),
        Err(UnpricedBucket { bucket: "output" })
    );
}

#[test]
fn prices_are_exact_decimals() {
    let input = |text: &str| {
        card(&format!(r#"{{"input_cost_per_token":{text}}}"#))
            .base
            .input
            .map(Price::atto)
    };
    for (text, atto) in [
        ("1.5e-7", 150_000_000_000),
        ("0.00000015", 150_000_000_000),
        ("\"1.5e-7\"", 150_000_000_000),
        ("\"1\"", 1_000_000_000_000_000_000),
        ("1e-18", 1),
        ("3.0000000000000004e-07", 300_000_000_000),
        ("1.5000000000000000000e-07", 150_000_000_000),
        ("2.5e-18", 2),
        ("3.5e-18", 4),
        ("2.51e-18", 3),
        ("9e-19", 1),
        ("0.0000e-99", 0),
    ] {
        assert_eq!(input(text), Some(atto), "{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_bad_card_names_entry_and_field() {
    for bad in [
        "-1",
        "-1e-9",
        "true",
        "[]",
        "{}",
        "\"\"",
        "\"free\"",
        "\"1,5\"",
        "\"NaN\"",
        "1e30",
        "1e-40",
        "4e-19",
        "170141183460469231731687303715884105727.9e-18",
        "\"1e-2147483648\"",
        "\"1e99999999999\"",
        "\"+1\"",
        "\" 1\"",
        "\"0x1\"",
    ] {
        let text = format!(r#"{{"good":{{}},"bad":{{"input_cost_per_token":{bad}}}}}"#);
        let error = RateCard::parse(&text).unwrap_err();
        assert_eq!(
            (error.entry.as_deref(), error.field.as_deref()),
            (Some("bad"), Some("input_cost_per_token")),
            "{bad}"
        );
        assert!(
            error
                .to_string()
                .starts_with("bad: input_cost_per_token must be"),
            "{error}"
        );
    }
    for (text, entry, field) in [
        (r#"{"m":7}"#, Some("m"), None),
        (
            r#"{"m":{"max_input_tokens":1.5}}"#,
            Some("m"),
            Some("max_input_tokens"),
        ),
        (
            r#"{"m":{"max_output_tokens":"many"}}"#,
            Some("m"),
            Some("max_output_tokens"),
        ),
        (
            r#"{"m":{"output_cost_per_image":"x"}}"#,
            Some("m"),
            Some("output_cost_per_image"),
        ),
        (
            r#"{"m":{"cache_read_input_token_cost_above_200k_tokens":-1}}"#,
            Some("m"),
            Some("cache_read_input_token_cost_above_200k_tokens"),
        ),
        (
            r#"{"m":{"search_context_cost_per_query":{"search_context_size_low":-1}}}"#,
            Some("m"),
            Some("search_context_cost_per_query"),
        ),
        ("[]", None, None),
        ("{", None, None),
        ("", None, None),
    ] {
        let error = RateCard::parse(text).unwrap_err();
        assert_eq!(
            (error.entry.as_deref(), error.field.as_deref()),
            (entry, field),
            "{text}"
        );
    }
    let fine = r#"{"sample_spec":{"max_tokens":"text","input_cost_per_token":"free"},"fallback_generalizations":[],"m":{"max_input_tokens":1e6,"max_output_tokens":null}}"#;
    let card = RateCard::parse(fine).unwrap();
    assert_eq!(
        card.models().map(|(name, _)| name).collect::<Vec<_>>(),
        ["m"]
    );
    assert_eq!(
        card.lookup("p", "m", "m")
            .and_then(ModelPrices::max_input_tokens),
        Some(1_000_000)
    );
}

#[test]
fn lookup_has_an_order_and_later_cards_win() {
    let card = |text: &str| RateCard::parse(text).unwrap();
    let limit = |card: &RateCard, names: (&str, &str, &str)| {
        card.lookup(names.0, names.1, names.2)
            .and_then(ModelPrices::max_input_tokens)
    };
    let all = card(
        r#"{"pm":{"max_input_tokens":1},"pub":{"max_input_tokens":2},"p/pm":{"max_input_tokens":3}}"#,
    );
    assert_eq!(limit(&all, ("p", "pm", "pub")), Some(1));
    assert_eq!(limit(&all, ("p", "zz", "pub")), Some(2));
    assert_eq!(
        limit(
            &card(r#"{"p/pm":{"max_input_tokens":3}}"#),
            ("p", "pm", "pub")
        ),
        Some(3)
    );
    assert_eq!(all.lookup("q", "zz", "zz"), None);
    let own = card(r#"{"pm":{"max_output_tokens":9}}"#);
    let merged = RateCard::merged(vec![all, own]).with_version("v".to_owned());
    assert_eq!(
        limit(&merged, ("p", "pm", "pub")),
        None,
        "entries are replaced whole"
    );
    assert_eq!(limit(&merged, ("p", "zz", "pub")), Some(2));
    assert_eq!(merged.version(), "v");
    let twice = card(r#"{"m":{"max_input_tokens":1},"m":{"max_input_tokens":2}}"#);
    assert_eq!(limit(&twice, ("p", "m", "m")), Some(2));
}

#[test]
fn the_built_in_card_prices_common_models() {
    let card = RateCard::parse(BUILT_IN).unwrap();
    assert_eq!(RateCard::built_in(), card);
    assert!(card.models().count() > 60);
    for (name, prices) in card.models() {
        assert_eq!(prices.supports(), Ok(()), "{name}");
        assert!(
            !name.starts_with("sim-"),
            "fictitious prices have no place here: {name}"
        );
        // A long-context call has a price for all that a short one has.
        for tier in &prices.tiers {
            let missing =
                |base: Option<Price>, tier: Option<Price>| base.is_some() && tier.is_none();
            assert!(
                !missing(prices.base.cache_read, tier.prices.cache_read),
                "{name}"
            );
            assert!(
                !missing(prices.base.cache_write_1h, tier.prices.cache_write_1h),
                "{name}"
            );
        }
    }
    for (model, input, output) in [
        ("gpt-4o", "2.5", "10"),
        ("gpt-4o-mini", "0.15", "0.6"),
        ("gpt-4.1-nano", "0.1", "0.4"),
        ("gpt-5-mini", "0.25", "2"),
        ("o4-mini", "1.1", "4.4"),
        ("claude-3-5-haiku-20241022", "0.8", "4"),
        ("claude-haiku-4-5", "1", "5"),
        ("claude-opus-4-1", "15", "75"),
        ("claude-opus-4-5", "5", "25"),
    ] {
        let prices = card.lookup("openai", model, model).unwrap();
        let million = 1_000_000;
        let usage = Usage {
            output: million,
            ..Usage::default()
        };
        assert_eq!(cost(prices, usage).as_deref(), Ok(output), "{model}");
        let tenth = Usage {
            input: million / 10,
            ..Usage::default()
        };
        let ten = prices
            .cost(&tenth, Markup::parse("10").unwrap())
            .map(|money| money.to_string());
        assert_eq!(ten.as_deref(), Ok(input), "{model}");
    }
}
