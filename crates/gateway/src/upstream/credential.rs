//! A provider's key, bound to the one place it may be sent to.

use std::fmt;

use bytes::Bytes;
use http::HeaderValue;
use kernel::Secret;
use zeroize::Zeroizing;

use crate::catalog::{Origin, Provider, ProviderKind};

/// A key and the origin it belongs to. Has no text form; wiped when the last copy is dropped.
pub struct Credential {
    provider: Box<str>,
    origin: Origin,
    // The header's value, ready to send; `None` for a provider that asks for no key.
    value: Option<HeaderValue>,
}

/// A key that cannot stand in a header. The key itself is not in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CredentialError;

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a provider key is 1 to 4096 visible ASCII characters")
    }
}

impl std::error::Error for CredentialError {}

/// Longer than any provider's key, short enough for one header.
const KEY_BYTES_MAX: usize = 4_096;

impl Credential {
    /// Binds a key to a provider as it is configured now. White space around it is dropped: keys
    /// are read from files that end in a newline.
    ///
    /// # Errors
    /// When the key is empty, too long or has characters that no key has.
    pub fn bind(provider: &Provider, key: &Secret) -> Result<Self, CredentialError> {
        let key = key.expose().trim_ascii();
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            return Err(CredentialError);
        }
        let prefix: &[u8] = match provider.kind() {
            ProviderKind::OpenAi => b"Bearer ",
            ProviderKind::Anthropic => b"",
        };
        let text = Zeroizing::new([prefix, key].concat());
        let mut value =
            HeaderValue::from_maybe_shared(Bytes::from_owner(text)).map_err(|_| CredentialError)?;
        value.set_sensitive(true);
        Ok(Self {
            value: Some(value),
            ..Self::keyless(provider)
        })
    }

    /// The credential of a provider that asks for none, such as a server on this machine.
    #[must_use]
    pub fn keyless(provider: &Provider) -> Self {
        Self {
            provider: provider.name().into(),
            origin: provider.origin().clone(),
            value: None,
        }
    }

    /// The provider it is bound to.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Whether it may be sent to this provider at its present origin.
    #[must_use]
    pub fn is_for(&self, provider: &Provider) -> bool {
        *self.provider == *provider.name() && self.origin == *provider.origin()
    }

    pub(super) fn header(&self) -> Option<&HeaderValue> {
        self.value.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::spec;

    fn provider(kind: ProviderKind, url: &str) -> Provider {
        Provider::new(spec("p", kind, url)).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn a_key_fits_one_origin() {
        let home = provider(ProviderKind::OpenAi, "https://api.example.com/v1");
        let key = Credential::bind(&home, &secret("sk-test\n")).unwrap();
        assert!(key.is_for(&home));
        for url in [
            "https://api.example.org/v1",
            "https://api.example.com:8443/v1",
            "https://evil.api.example.com/v1",
            "http://localhost/v1",
        ] {
            assert!(!key.is_for(&provider(ProviderKind::OpenAi, url)), "{url}");
        }
        assert!(
            !key.is_for(
                &Provider::new(spec(
                    "q",
                    ProviderKind::OpenAi,
                    "https://api.example.com/v1"
                ))
                .unwrap()
            )
        );
    }

    #[test]
    fn keys_become_header_values_or_nothing() {
        let openai = provider(ProviderKind::OpenAi, "https://api.example.com/v1");
        let anthropic = provider(ProviderKind::Anthropic, "https://api.example.com");
        let header = |provider: &Provider| {
            Credential::bind(provider, &secret(" sk-a "))
                .unwrap()
                .value
                .unwrap()
        };
        assert_eq!(header(&openai), "Bearer sk-a");
        assert_eq!(header(&anthropic), "sk-a");
        assert!(header(&openai).is_sensitive());
        for bad in ["a b", "a\r\nx-evil: 1", "ä", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert!(Credential::bind(&openai, &secret(bad)).is_err(), "{bad:?}");
        }
    }
}
