//! Why a set of rules was not taken.

use std::fmt;

/// Why a set of rules, or its tests, was not taken. The text is for who wrote them: it names the rule, the field or the limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyError {
    /// Line in the rules or in the document, from 1, where known.
    pub line: Option<u64>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl PolicyError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            line: None,
            message: message.into(),
        }
    }

    pub(crate) fn at(line: u64, message: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            message: message.into(),
        }
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for PolicyError {}
