//! Ed25519 signatures.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use crate::aead::{Aad, Key};
use crate::error::VaultError;
use crate::random::{impossible, random};

/// A private signing key. Wiped on drop.
///
/// ```
/// let key = vault::SigningKey::generate();
/// let signature = key.sign(b"entry");
/// vault::verify(&key.verifying_key(), b"entry", &signature)?;
/// assert!(vault::verify(&key.verifying_key(), b"other", &signature).is_err());
/// # Ok::<(), vault::VaultError>(())
/// ```
///
/// ```compile_fail
/// println!("{:?}", vault::SigningKey::generate());
/// ```
pub struct SigningKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(random()))
    }

    /// The key that grows from this seed, always the same.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        match Ed25519KeyPair::from_seed_unchecked(seed) {
            Ok(pair) => Self {
                seed: Zeroizing::new(*seed),
                pair,
            },
            // Refused only for a wrong length, and the type fixes it.
            Err(_) => impossible(),
        }
    }

    /// The seed, for sealing.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        self.seed.clone()
    }

    /// The key sealed under another; [`SigningKey::open`] with the same `aad` opens it.
    #[must_use]
    pub fn seal(&self, under: &Key, aad: &Aad) -> Vec<u8> {
        under.seal(aad, self.seed.as_slice())
    }

    /// Opens what [`SigningKey::seal`] made.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`] for another key, other associated data or altered bytes.
    pub fn open(under: &Key, aad: &Aad, sealed: &[u8]) -> Result<Self, VaultError> {
        let plain = under.open(aad, sealed)?;
        let seed = <[u8; 32]>::try_from(plain.as_slice()).map(Zeroizing::new);
        Ok(Self::from_seed(&*seed.map_err(|_| VaultError::Malformed)?))
    }

    /// Signs the message (about 20 µs).
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        match <[u8; 64]>::try_from(self.pair.sign(message).as_ref()) {
            Ok(signature) => signature,
            Err(_) => impossible(),
        }
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> [u8; 32] {
        match <[u8; 32]>::try_from(self.pair.public_key().as_ref()) {
            Ok(public) => public,
            Err(_) => impossible(),
        }
    }
}

/// Checks a signature of [`SigningKey::sign`] (about 80 µs).
///
/// # Errors
/// [`VaultError::BadSignature`].
pub fn verify(public: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), VaultError> {
    UnparsedPublicKey::new(&ED25519, public)
        .verify(message, signature)
        .map_err(|_| VaultError::BadSignature)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_8032_test_1() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let key = SigningKey::from_seed(&hex::decode(seed).unwrap().try_into().unwrap());
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(hex::encode(key.verifying_key()), public);
        let signature = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";
        assert_eq!(hex::encode(key.sign(b"")), signature);
        assert_eq!(hex::encode(key.seed().as_slice()), seed);
    }

    #[test]
    fn a_sealed_key_opens_for_its_purpose_only() {
        let (under, key) = (Key::generate(), SigningKey::generate());
        let aad = || Aad::new("test signing key");
        let sealed = key.seal(&under, &aad());
        let again = SigningKey::open(&under, &aad(), &sealed).unwrap();
        assert_eq!(again.verifying_key(), key.verifying_key());
        assert!(SigningKey::open(&under, &Aad::new("another purpose"), &sealed).is_err());
        assert!(SigningKey::open(&Key::generate(), &aad(), &sealed).is_err());
    }

    proptest! {
        #[test]
        fn one_flipped_bit_does_not_verify(message: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let key = SigningKey::generate();
            let public = key.verifying_key();
            let mut all = message.clone();
            all.extend_from_slice(&key.sign(&message));
            prop_assert!(verify(&public, &all[..message.len()], &all[message.len()..]).is_ok());
            let at = at.index(all.len());
            all[at] ^= 1 << bit;
            prop_assert!(verify(&public, &all[..message.len()], &all[message.len()..]).is_err());
        }
    }
}
