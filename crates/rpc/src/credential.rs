//! Tokens, keys and sealed values on their way through the protocol.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret in transit: an issued token, the operator key, a value to be sealed. Never empty, wiped when dropped.
///
/// It is `Serialize` because showing a token once is what the protocol is for; it has neither `Debug` nor `Display`, so
/// that it enters no log line and no error by accident.
#[derive(Clone)]
pub struct Credential(Zeroizing<String>);

/// There was nothing in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyCredential;

impl fmt::Display for EmptyCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the secret is empty")
    }
}

impl std::error::Error for EmptyCredential {}

impl Credential {
    /// Takes the text over.
    ///
    /// # Errors
    /// When it is empty.
    pub fn new(text: String) -> Result<Self, EmptyCredential> {
        if text.is_empty() {
            Err(EmptyCredential)
        } else {
            Ok(Self(Zeroizing::new(text)))
        }
    }

    /// The secret itself. Every use of it is meant to be found by searching for this name.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Serialize for Credential {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
    }
}
