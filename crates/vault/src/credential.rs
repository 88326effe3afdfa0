//! Credentials: what they look like, how they are made, and what is stored of them.
//!
//! A credential is refused by its grammar before anything is looked up with it, and looked up by
//! the SHA-256 of its whole text, never by a part. 128 random bits need no slow hash.

use base::TenantId;
use zeroize::Zeroizing;

use crate::digest::sha256;
use crate::random::{impossible, random};
use crate::secret::Secret;

/// A tenant's token: `tk_<tenant>_<32 lowercase hex digits>`.
pub enum Token {}

/// What the grammar of a token shows. The tenant is a claim, not a fact: only the stored hash of
/// the whole text says whose token it is.
#[derive(Clone, Copy)]
pub struct TokenParts<'a> {
    /// The tenant id inside the text, in the grammar of an id.
    pub tenant: &'a str,
    text: &'a str,
}

impl Token {
    /// A new token of the tenant and the hash to store. The text is shown once and kept nowhere.
    #[must_use]
    pub fn generate(tenant: &TenantId) -> (Secret, [u8; 32]) {
        credential(&format!("tk_{tenant}_"))
    }

    /// Reads a token by its grammar. Looks nothing up, allocates nothing.
    #[must_use]
    pub fn parse(text: &str) -> Option<TokenParts<'_>> {
        let (tenant, digits) = text.strip_prefix("tk_")?.split_once('_')?;
        (is_tenant_id(tenant) && is_random_part(digits)).then_some(TokenParts { tenant, text })
    }
}

impl TokenParts<'_> {
    /// SHA-256 of the whole text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.text.as_bytes())
    }
}

/// The operator's key: `pk_<32 lowercase hex digits>`.
#[derive(Clone, Copy)]
pub struct OperatorKey<'a>(&'a str);

impl<'a> OperatorKey<'a> {
    /// A new key and the hash to store.
    #[must_use]
    pub fn generate() -> (Secret, [u8; 32]) {
        credential("pk_")
    }

    /// Reads a key by its grammar.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        is_random_part(text.strip_prefix("pk_")?).then_some(Self(text))
    }

    /// SHA-256 of the whole text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

fn credential(prefix: &str) -> (Secret, [u8; 32]) {
    let digits = Zeroizing::new(hex::encode(Zeroizing::new(random::<16>()).as_slice()));
    let mut text = String::with_capacity(prefix.len() + digits.len());
    text.push_str(prefix);
    text.push_str(&digits);
    let hash = sha256(text.as_bytes());
    match Secret::from_text(text) {
        Ok(secret) => (secret, hash),
        // Neither empty nor long.
        Err(_) => impossible(),
    }
}

// The grammar of `base::TenantId` without its list of reserved names and without allocating: a
// reserved name has no tokens, so the lookup finds none.
fn is_tenant_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= TenantId::MAX_LEN
        && bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(|byte| *byte != b'-')
        && bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

fn is_random_part(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_token_parses_to_its_tenant_and_hash() {
        let tenant: TenantId = "acme-2".parse().unwrap();
        let (text, hash) = Token::generate(&tenant);
        let text = text.expose_str().unwrap();
        let parts = Token::parse(text).unwrap();
        assert_eq!(parts.tenant, "acme-2");
        assert_eq!(parts.hash(), hash);
        assert_eq!(text.len(), "tk_acme-2_".len() + 32);
    }

    #[test]
    fn a_new_operator_key_parses_to_its_hash() {
        let (text, hash) = OperatorKey::generate();
        let text = text.expose_str().unwrap();
        assert_eq!(OperatorKey::parse(text).unwrap().hash(), hash);
        assert!(Token::parse(text).is_none());
    }

    #[test]
    fn everything_else_is_no_token() {
        let hex = "0123456789abcdef0123456789abcdef";
        assert!(Token::parse(&format!("tk_acme_{hex}")).is_some());
        for bad in [
            String::new(),
            "tk_".to_owned(),
            format!("tk_{hex}"),
            format!("tk__{hex}"),
            format!("tk_-a_{hex}"),
            format!("tk_a-_{hex}"),
            format!("tk_Acme_{hex}"),
            format!("tk_1acme_{hex}"),
            format!("tk_ac me_{hex}"),
            format!("tk_{}_{hex}", "a".repeat(33)),
            format!("TK_acme_{hex}"),
            format!("tk_acme_{hex}0"),
            format!("tk_acme_{}", &hex[1..]),
            format!("tk_acme_{}", hex.to_uppercase()),
            format!("tk_acme_{hex} "),
            format!(" tk_acme_{hex}"),
            format!("tk_acme__{}", &hex[1..]),
            format!("tk_acme_' OR '1'='1{}", &hex[15..]),
            format!("tk_acm\u{e9}_{hex}"),
        ] {
            assert!(Token::parse(&bad).is_none(), "{bad}");
            assert!(OperatorKey::parse(&bad).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_grammar_agrees_with_the_tenant_id(tenant in "[a-z0-9_-]{0,34}") {
            let text = format!("tk_{tenant}_0123456789abcdef0123456789abcdef");
            let reserved = matches!(
                tenant.parse::<TenantId>(),
                Err(base::NameError::Reserved { .. })
            );
            prop_assert_eq!(
                Token::parse(&text).is_some(),
                tenant.parse::<TenantId>().is_ok() || reserved
            );
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = Token::parse(&text).is_some() || OperatorKey::parse(&text).is_some();
        }
    }
}
