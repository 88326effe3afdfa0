//! The models that the simulator claims to have.

/// One simulated model and what it can do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) shown: &'static str,
    pub(crate) kind: Kind,
    pub(crate) max_input: u64,
    pub(crate) max_output: u64,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Kind {
    Chat,
    Reasoning,
    Embedding,
}

/// Every model. The price card has one entry for each; a test compares the two.
pub(crate) const MODELS: [Model; 4] = [
    Model {
        name: "sim-fast",
        shown: "Simulated Fast",
        kind: Kind::Chat,
        max_input: 131_072,
        max_output: 8_192,
    },
    Model {
        name: "sim-large",
        shown: "Simulated Large",
        kind: Kind::Chat,
        max_input: 1_048_576,
        max_output: 32_768,
    },
    Model {
        name: "sim-reasoning",
        shown: "Simulated Reasoning",
        kind: Kind::Reasoning,
        max_input: 262_144,
        max_output: 65_536,
    },
    Model {
        name: "sim-embed",
        shown: "Simulated Embedding",
        kind: Kind::Embedding,
        max_input: 8_192,
        max_output: 0,
    },
];

/// The model of that name, directives already taken off.
pub(crate) fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn card_and_models_agree() {
        let card: serde_json::Value = serde_json::from_str(crate::PRICE_CARD).unwrap();
        let entries = card.as_object().unwrap();
        assert_eq!(entries.len(), MODELS.len());
        for model in &MODELS {
            let entry = &entries[model.name];
            assert_eq!(entry["max_input_tokens"], model.max_input);
            assert_eq!(entry["max_output_tokens"], model.max_output);
            assert_eq!(entry["fictitious"], true);
        }
    }
}
