//! Hashes, keyed hashes and comparison in constant time.

use aws_lc_rs::{constant_time, digest, hmac};

use crate::aead::Key;
use crate::secret::Secret;

/// SHA-256 of the bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    array(&digest::digest(&digest::SHA256, bytes))
}

/// SHA-1 of the bytes: the answer to a WebSocket's opening (RFC 6455), which proves nothing and is asked for by the
/// protocol. For nothing else.
#[must_use]
pub fn sha1_of_handshake(bytes: &[u8]) -> [u8; 20] {
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let mut out = [0; 20];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

/// SHA-256 of bytes that arrive in pieces.
#[derive(Clone)]
pub struct Sha256(digest::Context);

impl Sha256 {
    /// Nothing hashed yet.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything taken in.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        array(&self.0.finish())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// HMAC-SHA-256 of the parts one after another, without separators: a caller with more than one
/// part of variable length puts the lengths in between.
#[must_use]
pub fn hmac_sha256(key: &Key, parts: &[&[u8]]) -> [u8; 32] {
    sign(key.mac(), parts)
}

fn sign(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    out
}

/// HMAC-SHA-256 under a secret of any length, for schemes of others: webhooks that a receiver verifies.
#[must_use]
pub fn hmac_sha256_of(secret: &Secret, parts: &[&[u8]]) -> [u8; 32] {
    sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), parts)
}

/// A digest as lower-case hexadecimal text. Its time depends on the length alone.
#[must_use]
pub fn hex(bytes: &[u8; 32]) -> String {
    let digit = |value: u8| value + if value < 10 { b'0' } else { b'a' - 10 };
    let mut text = vec![0; 64];
    for (two, byte) in text.chunks_exact_mut(2).zip(bytes) {
        two[0] = digit(byte >> 4);
        two[1] = digit(byte & 15);
    }
    // Digits and letters.
    String::from_utf8(text).unwrap_or_default()
}

/// Equality whose time depends on the lengths only.
#[must_use]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

fn array(digest: &digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_is_the_usual_one() {
        let bytes = std::array::from_fn(|index| u8::try_from(index * 7 % 256).unwrap());
        assert_eq!(hex(&bytes), hex::encode(bytes));
    }

    #[test]
    fn sha256_is_the_published_one() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(sha256(b"abc")), abc);
        let mut pieces = Sha256::new();
        pieces.update(b"a");
        pieces.update(b"bc");
        assert_eq!(hex::encode(pieces.finish()), abc);
    }

    #[test]
    fn hmac_is_the_published_one() {
        // Computed with two other implementations (Python's hmac, OpenSSL).
        let key = Key::from_bytes(std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let whole = hmac_sha256(&key, &[b"partywall"]);
        assert_eq!(whole, hmac_sha256(&key, &[b"party", b"", b"wall"]));
        assert_eq!(hex::encode(whole), HMAC_PARTYWALL);
    }

    #[test]
    fn hmac_of_a_secret_of_any_length_is_the_published_one() {
        // RFC 4231, cases 1 and 6.
        for (key, data, expect) in [
            (
                vec![0x0b; 20],
                &b"Hi There"[..],
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                vec![0xaa; 131],
                &b"Test Using Larger Than Block-Size Key - Hash Key First"[..],
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ] {
            let key = Secret::new(key).unwrap();
            assert_eq!(hex::encode(hmac_sha256_of(&key, &[data])), expect);
        }
    }

    const HMAC_PARTYWALL: &str = "42b31143b195307a43dba9aee977b80fdf5d94bce8edf53d8a0fae7847549c12";

    #[test]
    fn comparison_sees_every_byte() {
        assert!(ct_eq(b"abc", b"abc"));
        assert!(!ct_eq(b"abc", b"abd"));
        assert!(!ct_eq(b"abc", b"ab"));
    }
}
