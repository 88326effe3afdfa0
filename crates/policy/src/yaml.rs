//! Documents that tenants write: YAML in which what a reader sees is what holds.

use serde::de::DeserializeOwned;
use serde_saphyr::{DuplicateKeyPolicy, Error, MergeKeyPolicy, Options};

/// Whether there is nothing but blanks and comments, which no YAML reader takes for an object.
#[must_use]
pub fn says_nothing(text: &str) -> bool {
    let silent = |line: &str| line.trim().is_empty() || line.trim().starts_with('#');
    text.lines().all(silent)
}

/// Reads one document: no anchors, aliases or merge keys, no key twice.
///
/// # Errors
/// The first thing that is wrong, with its place.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut options = Options::default();
    options.duplicate_keys = DuplicateKeyPolicy::Error;
    options.merge_keys = MergeKeyPolicy::Error;
    options.with_snippet = false;
    if let Some(budget) = options.budget.as_mut() {
        budget.max_anchors = 0;
        budget.max_aliases = 0;
        budget.max_documents = 1;
    }
    serde_saphyr::from_str_with_options(text, options)
}
