//! Sealed envelopes: AES-256-GCM-SIV with random nonces.
//!
//! Why SIV: one key seals millions of values (every journal record of a tenant) under random
//! 96-bit nonces. Should a nonce ever repeat, plain GCM loses its authentication key; GCM-SIV only
//! shows whether the two plaintexts were equal.

use std::sync::OnceLock;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad as AeadAad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use base::TenantUid;
use zeroize::Zeroizing;

use crate::error::VaultError;
use crate::random::{impossible, random};

/// Bytes that sealing adds: the tag (16) and the nonce (12), in this order, after the ciphertext.
pub const SEAL_OVERHEAD: usize = TAG_LEN + NONCE_LEN;

const TAG_LEN: usize = 16;

/// A 256-bit key: seals values, keys a database or a keyed hash. Wiped on drop.
///
/// ```
/// use vault::{Aad, Key};
/// let key = Key::generate();
/// let aad = Aad::new("example").number(7);
/// let sealed = key.seal(&aad, b"value");
/// assert_eq!(key.open(&aad, &sealed)?.as_slice(), b"value");
/// assert!(key.open(&Aad::new("example").number(8), &sealed).is_err());
/// # Ok::<(), vault::VaultError>(())
/// ```
///
/// ```compile_fail
/// println!("{:?}", vault::Key::generate());
/// ```
pub struct Key {
    bytes: Zeroizing<[u8; 32]>,
    // The expanded form, made once: expanding costs as much as sealing a short value. AWS-LC wipes
    // memory that it frees.
    cipher: LessSafeKey,
    // Made at its first keyed hash, for the same reason.
    mac: OnceLock<hmac::Key>,
}

impl Key {
    /// A new random key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(random())
    }

    /// The key with these bytes, read from storage or unwrapped.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        match UnboundKey::new(&AES_256_GCM_SIV, bytes.as_slice()) {
            Ok(key) => Self {
                cipher: LessSafeKey::new(key),
                mac: OnceLock::new(),
                bytes,
            },
            // Refused only for a wrong length, and the type fixes it.
            Err(_) => impossible(),
        }
    }

    /// The bytes, for an engine that takes a raw key and for wrapping.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    pub(crate) fn mac(&self) -> &hmac::Key {
        self.mac
            .get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, self.expose()))
    }

    /// Seals a copy of `plain`: [`SEAL_OVERHEAD`] bytes longer.
    #[must_use]
    pub fn seal(&self, aad: &Aad, plain: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(plain.len() + SEAL_OVERHEAD);
        sealed.extend_from_slice(plain);
        self.seal_into(aad, &mut sealed);
        sealed
    }

    /// Seals the whole of `plain` in place and appends tag and nonce. The plaintext is
    /// overwritten, unless the buffer has to grow: reserve [`SEAL_OVERHEAD`] bytes beforehand.
    pub fn seal_into(&self, aad: &Aad, plain: &mut Vec<u8>) {
        let nonce = random::<NONCE_LEN>();
        let bound = AeadAad::from(aad.encoded());
        plain.reserve(SEAL_OVERHEAD);
        let sealed = Nonce::assume_unique_for_key(nonce);
        if self
            .cipher
            .seal_in_place_append_tag(sealed, bound, plain)
            .is_err()
        {
            // Refused only beyond 2^36 bytes; every caller's buffer is bounded far below.
            impossible();
        }
        plain.extend_from_slice(&nonce);
    }

    /// Opens what [`Key::seal`] made with the same associated data.
    ///
    /// # Errors
    /// [`VaultError::DoesNotOpen`], whatever the reason.
    pub fn open(&self, aad: &Aad, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (body, nonce) = sealed
            .split_last_chunk::<NONCE_LEN>()
            .ok_or(VaultError::DoesNotOpen)?;
        let mut plain = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let len = self
            .cipher
            .open_in_place(nonce, AeadAad::from(aad.encoded()), plain.as_mut_slice())
            .map_err(|_| VaultError::DoesNotOpen)?
            .len();
        plain.truncate(len);
        Ok(plain)
    }
}

/// Associated data: what a sealed value is for and whose it is. Every part is written with its
/// kind and length, so that no two different lists of parts have the same bytes.
pub struct Aad {
    // Nearly every use is a context, a uid and a number, which fit without the heap.
    inline: [u8; INLINE],
    len: usize,
    // Holds everything once `inline` was too short.
    spilled: Vec<u8>,
}

const INLINE: usize = 96;

impl Aad {
    /// Associated data of one purpose. Contexts are constants of the code that seals, one per kind
    /// of value.
    #[must_use]
    pub fn new(context: &'static str) -> Self {
        Self {
            inline: [0; INLINE],
            len: 0,
            spilled: Vec::new(),
        }
        .part(1, context.as_bytes())
    }

    /// Binds arbitrary bytes.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        self.part(2, bytes)
    }

    /// Binds the tenant.
    #[must_use]
    pub fn uid(self, uid: &TenantUid) -> Self {
        self.part(3, uid.as_bytes())
    }

    /// Binds a number: a sequence, a version.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.part(4, &number.to_le_bytes())
    }

    fn part(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.push(&[kind]);
        self.push(&(bytes.len() as u64).to_le_bytes());
        self.push(bytes);
        self
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.spilled.is_empty() {
            if let Some(room) = self.inline.get_mut(self.len..self.len + bytes.len()) {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
                return;
            }
            self.spilled.extend_from_slice(&self.inline[..self.len]);
        }
        self.spilled.extend_from_slice(bytes);
    }

    fn encoded(&self) -> &[u8] {
        if self.spilled.is_empty() {
            &self.inline[..self.len]
        } else {
            &self.spilled
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn aad(parts: &[Vec<u8>]) -> Aad {
        parts
            .iter()
            .fold(Aad::new("test"), |aad, part| aad.bytes(part))
    }

    proptest! {
        #[test]
        fn open_undoes_seal(plain: Vec<u8>, parts: Vec<Vec<u8>>) {
            let key = Key::generate();
            let sealed = key.seal(&aad(&parts), &plain);
            prop_assert_eq!(sealed.len(), plain.len() + SEAL_OVERHEAD);
            let opened = key.open(&aad(&parts), &sealed).unwrap();
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
        }

        #[test]
        fn one_flipped_bit_does_not_open(plain: Vec<u8>, at: prop::sample::Index, bit in 0..8u8) {
            let key = Key::generate();
            let mut sealed = key.seal(&Aad::new("test"), &plain);
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(key.open(&Aad::new("test"), &sealed).is_err());
        }

        #[test]
        fn other_parts_are_other_bytes(a: Vec<Vec<u8>>, b: Vec<Vec<u8>>) {
            prop_assert_eq!(a == b, aad(&a).encoded() == aad(&b).encoded());
        }

        #[test]
        fn shorter_does_not_open(plain: Vec<u8>, cut: prop::sample::Index) {
            let key = Key::generate();
            let sealed = key.seal(&Aad::new("test"), &plain);
            prop_assert!(key.open(&Aad::new("test"), &sealed[..cut.index(sealed.len())]).is_err());
        }
    }

    #[test]
    fn each_part_binds() {
        let key = Key::generate();
        let (one, two) = (
            TenantUid::from_bytes([1; 16]),
            TenantUid::from_bytes([2; 16]),
        );
        let sealed = key.seal(&Aad::new("journal").uid(&one).number(9), b"x");
        for wrong in [
            Aad::new("journal").uid(&two).number(9),
            Aad::new("journal").uid(&one).number(8),
            Aad::new("ledger").uid(&one).number(9),
            Aad::new("journal").number(9).uid(&one),
            Aad::new("journal").bytes(one.as_bytes()).number(9),
            Aad::new("journal").uid(&one),
        ] {
            assert!(key.open(&wrong, &sealed).is_err());
        }
        assert!(
            Key::generate()
                .open(&Aad::new("journal").uid(&one).number(9), &sealed)
                .is_err()
        );
        assert!(
            key.open(&Aad::new("journal").uid(&one).number(9), &sealed)
                .is_ok()
        );
    }

    #[test]
    fn equal_plaintexts_seal_differently() {
        let key = Key::generate();
        assert_ne!(
            key.seal(&Aad::new("t"), b"same"),
            key.seal(&Aad::new("t"), b"same")
        );
    }

    #[test]
    fn in_place_is_the_same_envelope() {
        let key = Key::generate();
        let mut buffer = b"value".to_vec();
        key.seal_into(&Aad::new("t"), &mut buffer);
        assert_eq!(
            key.open(&Aad::new("t"), &buffer).unwrap().as_slice(),
            b"value"
        );
    }
}
