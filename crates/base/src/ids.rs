//! Identifiers that the system chooses. Randomness comes in as bytes.

use std::fmt;

/// The identity of a tenant for cryptography: 128 random bits, never reused, bound into every
/// ciphertext. A name can be deleted and taken again; a uid cannot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantUid([u8; 16]);

impl TenantUid {
    /// A uid from 16 bytes of a cryptographic random source, or read back from storage.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The raw bytes, for associated data and storage.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for TenantUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TenantUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of one inbound request: `req_` and 32 hex digits. It stands in the answer, the ledger
/// row, the audit entry and the log line.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; 36]);

impl RequestId {
    /// An id from 128 random bits.
    #[must_use]
    pub fn from_random(random: [u8; 16]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = *b"req_00000000000000000000000000000000";
        for (index, byte) in random.iter().enumerate() {
            text[4 + 2 * index] = DIGITS[usize::from(byte >> 4)];
            text[5 + 2 * index] = DIGITS[usize::from(byte & 15)];
        }
        Self(text)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Built from ASCII digits only, so the conversion cannot fail.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_id_shows_every_bit() {
        let id = RequestId::from_random([0xab; 16]);
        assert_eq!(id.as_str(), "req_abababababababababababababababab");
    }
}
