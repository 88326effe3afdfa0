//! Prices: shown, checked, imported.

use base::Price;
use gateway::catalog::Catalog;
use kernel::Operator;
use llm::prices::{ModelPrices, RateCard};
use rpc::{Answer, Fault, PriceRow, RatecardChecked, RatecardImported, Row};

use super::Office;
use crate::cards;
use crate::fault::fault;
use crate::feed::Feed;

impl Office {
    pub(super) async fn show_prices(&self, to: &Feed) -> Result<Answer, Fault> {
        let card = self.desk.prices();
        for (model, prices) in card.models() {
            to.push(Row::Price(Box::new(price_row(model, prices))))
                .await?;
        }
        Ok(Answer::Ratecard {
            version: card.version().to_owned(),
            rows: to.pushed(),
        })
    }

    /// Stored first: a card that is in force is there again after the next start.
    pub(super) async fn import_card(
        &self,
        operator: &Operator,
        name: &str,
        text: &str,
    ) -> Result<Answer, Fault> {
        let _one_at_a_time = self.importing.lock().await;
        let own = cards::parsed(text)?;
        let root = self.kernel.root();
        let card = cards::with_candidate(root, &self.configured_cards, text)?;
        cards::store(root, text)?;
        let version = card.version().to_owned();
        // In the logs before the first call at these prices.
        let noted = self.kernel.change_ratecard(operator, &version, name).await;
        noted.map_err(fault)?;
        self.desk.set_prices(card);
        let fields = [
            ("file", kernel::log::Field::Text(name)),
            ("version", kernel::log::Field::Text(&version)),
        ];
        self.kernel
            .log()
            .event(self.kernel.now(), None, "rate card imported", &fields);
        let models = u64::try_from(own.models().count()).unwrap_or(u64::MAX);
        let warning = |(name, prices): (&str, &ModelPrices)| {
            prices.supports().err().map(|why| format!("{name}: {why}"))
        };
        let warnings = own.models().filter_map(warning).collect();
        Ok(Answer::RatecardImported(RatecardImported {
            version,
            models,
            warnings,
        }))
    }

    pub(super) fn check_prices(&self, candidate: Option<&str>) -> Result<Answer, Fault> {
        let catalog = self.desk.catalog();
        let checked = match candidate {
            None => checked(&catalog, &self.desk.prices()),
            Some(text) => checked(
                &catalog,
                &cards::with_candidate(self.kernel.root(), &self.configured_cards, text)?,
            ),
        };
        Ok(Answer::RatecardChecked(checked))
    }
}

fn checked(catalog: &Catalog, card: &RateCard) -> RatecardChecked {
    let mut priced = 0;
    let mut problems = Vec::new();
    for model in catalog.models() {
        for route in &model.routes {
            let (provider, name) = (route.provider.name(), model.name.as_str());
            let at = format!("{name} at {provider} ({})", route.model);
            match card
                .lookup(provider, &route.model, name)
                .map(ModelPrices::supports)
            {
                Some(Ok(())) => priced += 1,
                Some(Err(why)) => problems.push(format!("{at}: {why}")),
                None => problems.push(format!("{at}: has no price")),
            }
        }
    }
    RatecardChecked {
        version: card.version().to_owned(),
        priced,
        problems,
    }
}

fn price_row(model: &str, prices: &ModelPrices) -> PriceRow {
    let shown = |price: Option<Price>| price.map(|price| usd(price.atto()));
    PriceRow {
        model: model.to_owned(),
        litellm_provider: None,
        input_cost_per_token: shown(prices.input()),
        output_cost_per_token: shown(prices.output()),
        cache_read_input_token_cost: shown(prices.cache_read()),
        cache_creation_input_token_cost: shown(prices.cache_write()),
        output_cost_per_reasoning_token: shown(prices.reasoning()),
        max_input_tokens: prices.max_input_tokens(),
        max_output_tokens: prices.max_output_tokens(),
        refused: prices.supports().err().map(|why| why.to_string()),
    }
}

/// Atto-USD as plain digits.
fn usd(atto: i128) -> String {
    const ONE: i128 = 1_000_000_000_000_000_000;
    let (whole, rest) = (atto / ONE, atto % ONE);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{}", format!("{rest:018}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_shown_exactly_and_absent_ones_are_absent() {
        let card = RateCard::parse(
            r#"{"m":{"input_cost_per_token":1.5e-07,"output_cost_per_token":"6e-07","input_cost_per_token_above_200k_tokens":1,
                "output_cost_per_token_above_200k_tokens":1},"free":{"input_cost_per_token":0,"output_cost_per_token":0}}"#,
        )
        .unwrap();
        let rows: Vec<_> = card
            .models()
            .map(|(name, prices)| price_row(name, prices))
            .collect();
        assert_eq!(rows[0].input_cost_per_token.as_deref(), Some("0"));
        assert_eq!(rows[1].input_cost_per_token.as_deref(), Some("0.00000015"));
        assert_eq!(rows[1].output_cost_per_token.as_deref(), Some("0.0000006"));
        assert_eq!(rows[1].cache_read_input_token_cost, None);
        assert_eq!(usd(2_000_000_000_000_000_000), "2");
    }
}
