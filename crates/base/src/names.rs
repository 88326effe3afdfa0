//! Names that people choose: tenants, tokens, roles.

use std::fmt;
use std::str::FromStr;

/// Why a name was refused. The text is safe to show to the person who typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Empty, too long, or a character outside the grammar.
    Grammar {
        /// What was being named: `tenant id`, `token name`, …
        what: &'static str,
        /// The grammar in words.
        rule: &'static str,
    },
    /// Inside the grammar but kept for the system's own use.
    Reserved {
        /// What was being named.
        what: &'static str,
    },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grammar { what, rule } => write!(f, "not a valid {what}: {rule}"),
            Self::Reserved { what } => write!(f, "this {what} is reserved; choose another"),
        }
    }
}

impl std::error::Error for NameError {}

const TENANT_RULE: &str =
    "1 to 32 characters: lowercase letters, digits and inner hyphens, starting with a letter";

/// Ids that would be confused with parts of the system (paths, log fields, the operator itself).
const RESERVED: &[&str] = &[
    "admin",
    "all",
    "aux",
    "com1",
    "con",
    "default",
    "global",
    "localhost",
    "lpt1",
    "none",
    "nul",
    "null",
    "operator",
    "partywall",
    "prn",
    "public",
    "registry",
    "root",
    "self",
    "shared",
    "system",
    "tenant",
    "tenants",
];

/// The public name of a tenant: `[a-z]([a-z0-9-]{0,30}[a-z0-9])?`, not reserved.
///
/// A name, never a key: no function reaches tenant state with it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Box<str>);

impl TenantId {
    /// Longest id in bytes.
    pub const MAX_LEN: usize = 32;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let grammar = bytes.len() <= Self::MAX_LEN
            && bytes.first().is_some_and(u8::is_ascii_lowercase)
            && bytes.last().is_some_and(|b| *b != b'-')
            && bytes.iter().all(inner);
        if !grammar {
            return Err(NameError::Grammar {
                what: "tenant id",
                rule: TENANT_RULE,
            });
        }
        if RESERVED.binary_search(&text).is_ok() {
            return Err(NameError::Reserved { what: "tenant id" });
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one token of a tenant, unique among its living tokens: `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TokenName(Box<str>);

impl TokenName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let first = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: &u8| first(b) || matches!(b, b'.' | b'_' | b'-');
        if bytes.len() <= 64 && bytes.first().is_some_and(first) && bytes.iter().all(inner) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar {
                what: "token name",
                rule: "1 to 64 characters: lowercase letters, digits, '.', '_' and '-', starting with a letter or digit",
            })
        }
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a natural person within a tenant, as the tenant knows it (an e-mail address, a number): 1 to 256 bytes without blanks
/// and control characters, so that it stands in lines of text and in reports.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PersonName(Box<str>);

impl PersonName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 256;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PersonName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let plain = |c: char| !c.is_whitespace() && !c.is_control();
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.chars().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Grammar {
                what: "name of a person",
                rule: "1 to 256 bytes without blanks and control characters",
            })
        }
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a credential may do inside its tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Role {
    /// Everything of the tenant: calls, configuration, tokens, usage, audit.
    Admin,
    /// Calls, own usage.
    Member,
    /// Calls only: the role for an application's key.
    App,
    /// Reads usage and configuration, makes no call.
    Readonly,
    /// Reads usage and the audit log, makes no call.
    Auditor,
}

impl Role {
    /// Every role, in the order of documentation.
    pub const ALL: [Self; 5] = [
        Self::Admin,
        Self::Member,
        Self::App,
        Self::Readonly,
        Self::Auditor,
    ];

    /// The role as users type it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::App => "app",
            Self::Readonly => "readonly",
            Self::Auditor => "auditor",
        }
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(NameError::Grammar {
                what: "role",
                rule: "one of admin, member, app, readonly, auditor",
            })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reserved_list_is_sorted() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn tenant_ids() {
        for good in ["a", "acme", "acme-2", "a0", &"a".repeat(32)] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        let long = "a".repeat(33);
        for bad in [
            "", "A", "1a", "-a", "a-", "a_b", "a.b", "a/b", "..", "a\0", "ä", " a", "a ", "root",
            "tenants", "nul", "a\n", &long,
        ] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_a_plain_file_name(text in "\\PC{0,40}") {
            if let Ok(id) = text.parse::<TenantId>() {
                prop_assert!(!id.as_str().contains(['/', '\\', '.', '\0', '_']));
                prop_assert_eq!(id.as_str(), text.as_str());
            }
        }
    }
}
