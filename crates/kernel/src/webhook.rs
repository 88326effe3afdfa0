//! Signatures of outgoing webhooks, as the Standard Webhooks specification writes them.

use std::fmt;

use base::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use vault::Secret;

const PREFIX: &[u8] = b"whsec_";
/// Bytes of a signing key, by the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A signing key, from its form `whsec_<base64>`.
pub struct Signer(Secret);

/// A text that is not such a key. It is not repeated: it is a secret all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignerError;

impl fmt::Display for SignerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a signing secret: whsec_ and the base64 of 24 to 64 random bytes")
    }
}

impl std::error::Error for SignerError {}

impl Signer {
    /// Reads a secret.
    ///
    /// # Errors
    /// [`SignerError`] for anything but `whsec_` and the base64 of 24 to 64 bytes.
    pub fn parse(secret: &Secret) -> Result<Self, SignerError> {
        let encoded = secret
            .expose()
            .trim_ascii()
            .strip_prefix(PREFIX)
            .ok_or(SignerError)?;
        // Padding is left out by some tools.
        let forgiving =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, forgiving);
        let key = engine.decode(encoded).map_err(|_| SignerError)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(SignerError);
        }
        Secret::new(key).map(Self).map_err(|_| SignerError)
    }

    /// The three headers of one attempt. `id` holds no full stop and stays the same over all attempts.
    #[must_use]
    pub fn headers(&self, id: &str, at: Timestamp, body: &[u8]) -> HeaderMap {
        let seconds = at.unix_seconds().to_string();
        let parts = [id.as_bytes(), b".", seconds.as_bytes(), b".", body];
        let signature = STANDARD.encode(vault::hmac_sha256_of(&self.0, &parts));
        let mut headers = HeaderMap::with_capacity(8);
        for (name, value) in [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", seconds),
            ("webhook-signature", format!("v1,{signature}")),
        ] {
            // Digits, letters, '_', ',', '+', '/' and '=' only.
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers
    }
}

/// A fresh id of a message.
pub(crate) fn message_id() -> String {
    format!("msg_{}", hex::encode(vault::random::<16>()))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD_NO_PAD;

    use super::*;

    fn signer(text: &str) -> Result<Signer, SignerError> {
        Signer::parse(&Secret::from_text(text.to_owned()).unwrap())
    }

    #[test]
    fn signs_as_the_specification_does() {
        // The example of the specification's own libraries.
        let signer = signer("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let at = Timestamp::from_unix_ms(1_614_265_330_000);
        let headers = signer.headers(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            at,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(
            headers["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
    }

    #[test]
    fn a_secret_has_its_form_or_is_refused() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        for good in [of(24), of(32), of(64), format!("{}\n", of(24))] {
            assert!(signer(&good).is_ok(), "{good}");
        }
        let unpadded = format!("whsec_{}", STANDARD_NO_PAD.encode([7; 25]));
        assert!(signer(&unpadded).is_ok());
        for bad in [
            of(23),
            of(65),
            "whsec_".to_owned(),
            "whsec_***".to_owned(),
            STANDARD.encode([7; 32]),
            "whsk_".to_owned() + &STANDARD.encode([7; 32]),
        ] {
            assert!(signer(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_hold_no_full_stop_and_differ() {
        let (one, two) = (message_id(), message_id());
        assert!(one != two && !one.contains('.') && one.starts_with("msg_"));
    }
}
