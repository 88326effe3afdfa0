//! What is wrong with a configuration, in one line that says where.

use std::fmt;

use serde_saphyr::Error as YamlError;
use serde_saphyr::budget::BudgetBreach;

/// One thing that is wrong: `config: line 12: providers[0].api_key: …`. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Line in the file, from 1.
    pub line: Option<u64>,
    /// The key, as a path from the top; empty where the file as a whole is meant.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("config: ")?;
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

impl ConfigError {
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self {
            line: None,
            key: String::new(),
            message: message.into(),
        }
    }

    /// Names the key that stands on the error's line, where the parser named none.
    pub(super) fn on(mut self, file: &str) -> Self {
        let line = self
            .line
            .and_then(|line| usize::try_from(line).ok()?.checked_sub(1));
        let key = line.and_then(|index| {
            Some(
                file.lines()
                    .nth(index)?
                    .split_once(':')?
                    .0
                    .trim_start_matches(['-', ' ', '{'])
                    .trim(),
            )
        });
        let plain = |key: &&str| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if let (true, Some(key)) = (self.key.is_empty(), key.filter(plain)) {
            key.clone_into(&mut self.key);
        }
        self
    }

    pub(super) fn at(line: u64, key: &str, message: impl Into<String>) -> Self {
        Self {
            line: Some(line).filter(|line| *line > 0),
            key: key.to_owned(),
            message: message.into(),
        }
    }
}

/// Parts of the system that have a place in the configuration but do not work yet.
const LATER_KEYS: &[&str] = &[
    "agents",
    "audit",
    "backup",
    "cache",
    "channels",
    "cron",
    "devices",
    "edge",
    "fleet",
    "guardrails",
    "inspection",
    "issuers",
    "jwt",
    "kms",
    "mcp",
    "memory",
    "nodes",
    "oidc",
    "otel",
    "plugins",
    "policies",
    "policy",
    "postgres",
    "redis",
    "sandbox",
    "sessions",
    "skills",
    "storage",
    "store",
    "telemetry",
    "terminal",
    "tools",
    "webhooks",
    "widget",
];

impl From<&YamlError> for ConfigError {
    fn from(error: &YamlError) -> Self {
        let error = error.without_snippet();
        let line = error
            .location()
            .map(|at| at.line())
            .filter(|line| *line > 0);
        let (key, message) = match error {
            YamlError::SerdeUnknownField { field, .. } if LATER_KEYS.contains(&field.as_str()) => (
                shown(field),
                "this part is not in this version; remove it".to_owned(),
            ),
            YamlError::SerdeUnknownField {
                field, expected, ..
            } => (
                shown(field),
                format!("unknown key; known here are {}", expected.join(", ")),
            ),
            YamlError::SerdeMissingField { field, .. } => {
                ((*field).to_owned(), "is missing".to_owned())
            }
            YamlError::DuplicateMappingKey { key, .. } => (
                shown(key.as_deref().unwrap_or_default()),
                "stands twice".to_owned(),
            ),
            YamlError::MergeKeyNotAllowed { .. } => {
                ("<<".to_owned(), "merge keys are not allowed".to_owned())
            }
            YamlError::Budget {
                breach: BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. },
                ..
            } => (
                String::new(),
                "anchors and aliases are not allowed".to_owned(),
            ),
            YamlError::Budget {
                breach: BudgetBreach::Documents { .. },
                ..
            } => (String::new(), "one document only".to_owned()),
            YamlError::Budget { .. } => (String::new(), "too large or too deep".to_owned()),
            other => (String::new(), structural(&other.to_string())),
        };
        Self { line, key, message }
    }
}

/// The parser's words, without its position and in the words of this file.
fn structural(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = text.rsplit_once(" at line ").map_or(text, |(text, _)| text);
    match text {
        "expected string scalar" => "expected one value, not a list or a mapping".to_owned(),
        "expected sequence start" => "expected a list".to_owned(),
        "expected mapping start" => "expected a mapping".to_owned(),
        text if text.starts_with("cannot deserialize null") => "a value is missing".to_owned(),
        text => text.to_owned(),
    }
}

/// A key of the file as it is shown: a key that somebody wrote a secret into is cut short.
fn shown(key: &str) -> String {
    key.chars().filter(|c| !c.is_control()).take(40).collect()
}
