//! What can go wrong in the vault. No variant carries key material.

use std::fmt;

/// Why a value did not open, parse or verify. Deliberately coarse: an attacker who alters a
/// ciphertext learns only that it was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultError {
    /// Wrong key, wrong associated data (another tenant, another purpose), or altered bytes.
    DoesNotOpen,
    /// The text or the bytes have not the form of a key.
    Malformed,
    /// The signature is not this key's over this message.
    BadSignature,
}

impl fmt::Display for VaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DoesNotOpen => "does not open: wrong key, wrong owner or altered",
            Self::Malformed => "not the form of a key",
            Self::BadSignature => "signature does not verify",
        })
    }
}

impl std::error::Error for VaultError {}
