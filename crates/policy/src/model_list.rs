//! A list of visible models, and the rule that it stands for.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use crate::rules::{Origin, Rules};

/// Models that can be seen, by their public names: all others look as if they did not exist.
#[derive(Clone, Default, Debug)]
pub struct ModelList {
    names: Vec<String>,
    /// Made at first use: a list is read for each tenant of a tier, and few of them call at once.
    rules: OnceLock<Arc<Rules>>,
}

impl PartialEq for ModelList {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for ModelList {}

impl From<Vec<String>> for ModelList {
    fn from(names: Vec<String>) -> Self {
        Self {
            names,
            rules: OnceLock::new(),
        }
    }
}

impl ModelList {
    /// The names.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The rule. `None` where it cannot be made, which must deny everything.
    #[must_use]
    pub fn rules(&self) -> Option<Arc<Rules>> {
        if let Some(rules) = self.rules.get() {
            return Some(Arc::clone(rules));
        }
        // What could not be read now, for want of a thread, may be read the next time.
        let read = Rules::read(Origin::Models, &self.text()).ok()?;
        Some(Arc::clone(self.rules.get_or_init(|| Arc::new(read))))
    }

    fn text(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
        let condition = match names.is_empty() {
            true => "true".to_owned(),
            false => format!("!([{}].contains(resource.name))", names.join(", ")),
        };
        format!(
            "@id(\"visible\") @answer(\"absent\")\nforbid (principal, action == Action::\"call_model\", resource)\nwhen {{ {condition} }};\n"
        )
    }
}

/// A text in Cedar: whatever is not plainly harmless stands as its number.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' | ':' | '/' | ' ' => {
                out.push(character)
            }
            // Writing into a text does not fail.
            other => drop(write!(out, "\\u{{{:x}}}", u32::from(other))),
        }
    }
    out.push('"');
    out
}
