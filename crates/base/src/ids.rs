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

/// The trace that a request belongs to, as its caller names it: 128 bits in 32 lower-case hex digits, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 32]);

impl TraceId {
    /// The trace in a `traceparent` header (W3C Trace Context, level 1): `00-<trace id>-<parent id>-<flags>`. A later version may have
    /// more behind the flags; version `ff` does not exist. `None` for anything else: tracing never refuses a call.
    #[must_use]
    pub fn from_traceparent(header: &[u8]) -> Option<Self> {
        let (version, rest) = header.split_first_chunk::<2>()?;
        let (trace, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<32>()?;
        let (parent, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<16>()?;
        let (flags, rest) = rest.strip_prefix(b"-")?.split_first_chunk::<2>()?;
        let hex = |digits: &[u8]| {
            let digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
            digits.iter().all(digit)
        };
        let zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
        let known = match version {
            b"ff" => false,
            b"00" => rest.is_empty(),
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let ids = hex(version) && hex(trace) && hex(parent) && hex(flags);
        (known && ids && !zero(trace) && !zero(parent)).then_some(Self(*trace))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Made of ASCII digits only, so the conversion cannot fail.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_its_specification_says() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: &str| TraceId::from_traceparent(text.as_bytes());
        let with = |version: &str, tail: &str| format!("{version}-{trace}-00f067aa0ba902b7-{tail}");
        for good in [
            with("00", "01"),
            with("cc", "01"),
            with("cc", "01-what-the-future-holds"),
        ] {
            assert_eq!(
                of(&good).map(|id| id.to_string()).as_deref(),
                Some(trace),
                "{good}"
            );
        }
        for bad in [
            String::new(),
            with("ff", "01"),
            with("00", "01-more"),
            with("cc", "01.more"),
            with("00", "0"),
            with("00", "0g"),
            with("0", "01"),
            with("00", "01").to_uppercase(),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-00f067aa0ba902b-01"),
            "00".repeat(200),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn request_id_shows_every_bit() {
        let id = RequestId::from_random([0xab; 16]);
        assert_eq!(id.as_str(), "req_abababababababababababababababab");
    }
}
