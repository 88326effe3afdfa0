use super::tests::card;
use super::*;
use proptest::prelude::*;

fn any_prices() -> impl Strategy<Value = ModelPrices> {
    let price = || {
        prop::option::weighted(
            0.8,
            (0_u32..10_000, 6_u8..19).prop_map(|(n, e)| format!("{n}e-{e}")),
        )
    };
    let fields = [
        "input_cost_per_token",
        "output_cost_per_token",
        "cache_read_input_token_cost",
        "cache_creation_input_token_cost",
        "cache_creation_input_token_cost_above_1hr",
        "input_cost_per_audio_token",
        "input_cost_per_image_token",
        "output_cost_per_reasoning_token",
        "output_cost_per_audio_token",
        "input_cost_per_token_above_1k_tokens",
        "output_cost_per_token_above_1k_tokens",
        "cache_read_input_token_cost_above_1k_tokens",
        "input_cost_per_token_above_2k_tokens",
        "output_cost_per_token_above_2k_tokens",
        "output_cost_per_reasoning_token_above_2k_tokens",
        "input_cost_per_audio_token_above_2k_tokens",
    ];
    prop::collection::vec(price(), fields.len()).prop_map(move |prices| {
        let members: Vec<String> = fields
            .iter()
            .zip(prices)
            .filter_map(|(field, price)| Some(format!("\"{field}\":{}", price?)))
            .collect();
        card(&format!("{{{}}}", members.join(",")))
    })
}

fn any_usage() -> impl Strategy<Value = Usage> {
    prop::array::uniform9(prop_oneof![Just(0_u64), 0_u64..1_500]).prop_map(|n| Usage {
        input: n[0],
        cache_read: n[1],
        cache_write: n[2],
        cache_write_1h: n[3],
        audio_in: n[4],
        image_in: n[5],
        output: n[6],
        reasoning: n[7],
        audio_out: n[8],
        server_tool_calls: 0,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_hold_is_never_below_the_charge(
        prices in any_prices(), usage in any_usage(), more_in in 0_u64..2_000, more_out in 0_u64..2_000, ppm in 0_u32..3_000_000,
    ) {
        let markup = Markup::parse(&format!("{ppm}e-6")).unwrap();
        let bound = prices.bound(usage.tokens_in() + more_in, usage.tokens_out() + more_out, markup);
        if let (Ok(bound), Ok(cost)) = (bound, prices.cost(&usage, markup)) {
            prop_assert!(bound >= cost, "{bound} {cost}");
        }
    }

    #[test]
    fn more_of_a_bucket_never_costs_less_within_a_tier(prices in any_prices(), usage in any_usage(), more in 0_u64..1_000) {
        let dearer = Usage { output: usage.output + more, ..usage };
        if let (Ok(less), Ok(more)) = (prices.cost(&usage, Markup::NONE), prices.cost(&dearer, Markup::NONE)) {
            prop_assert!(more >= less);
        }
    }

    #[test]
    fn arbitrary_cards_never_panic(text in r#"[\[\]{}":,.0-9eE+a-z_\- ]{0,60}"#, value in r#""?[0-9.eE+\-]{0,50}"?"#) {
        let _ = RateCard::parse(&text);
        let _ = RateCard::parse(&format!(r#"{{"m":{{"input_cost_per_token":{value}}}}}"#));
        let _ = RateCard::parse(&format!(r#"{{"m":{{"max_input_tokens":{value}}}}}"#));
    }
}
