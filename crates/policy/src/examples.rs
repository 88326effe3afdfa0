//! Puts a document's examples to rules.

use base::Timestamp;

use crate::decide::{Cap, Decision, Outcome};
use crate::document::{Example, Expect};
use crate::layer::Layers;

/// An example that was not decided as it must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failed {
    /// The example's name.
    pub name: String,
    /// What was decided instead, and by which rules.
    pub message: String,
}

/// Puts every example to `layers` and gives back those that fail.
#[must_use]
pub fn run(layers: &Layers, examples: &[Example], now: Timestamp) -> Vec<Failed> {
    let mut failed = Vec::new();
    for example in examples {
        let at = example.at.unwrap_or(now);
        let decision = example.asked.put(|request| layers.decide_anew(request, at));
        let wrong = match &decision {
            Err(error) => Some(error.to_string()),
            Ok(decision) => differs(example, decision),
        };
        if let Some(message) = wrong {
            failed.push(Failed {
                name: example.name.clone(),
                message,
            });
        }
    }
    failed
}

fn differs(example: &Example, decision: &Decision) -> Option<String> {
    let found = decision.outcome.as_str();
    let as_expected = match example.expect {
        Expect::Allow => found == "allow",
        Expect::Deny => !matches!(decision.outcome, Outcome::Allowed(_)),
        Expect::Absent => found == "absent",
        Expect::RequireApproval => match &decision.outcome {
            Outcome::Allowed(obligations) => obligations.approvers().is_some(),
            _ => false,
        },
        Expect::Cap => match &decision.outcome {
            Outcome::Allowed(obligations) => {
                Cap::ALL.iter().any(|cap| obligations.cap(*cap).is_some())
            }
            _ => false,
        },
    };
    let by = match &*decision.rules {
        "" => "no rule".to_owned(),
        rules => rules.to_owned(),
    };
    if !as_expected {
        let expected = example.expect.as_str();
        return Some(format!("expected {expected}, got {found} by {by}"));
    }
    let named = example.rule.as_ref()?;
    let decided = decision.rules.split(' ').any(|rule| rule == named);
    (!decided).then(|| format!("expected {named} to decide; it was {by}"))
}
