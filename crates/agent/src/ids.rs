//! Ids of sessions, runs and calls: a word, and 128 random bits in hex.

use kernel::Kernel;

/// `ses_…`
pub(crate) const SESSION: &str = "ses_";
/// `run_…`
pub(crate) const RUN: &str = "run_";
/// `call_…`
pub(crate) const CALL: &str = "call_";

/// A new id.
pub(crate) fn fresh(kernel: &Kernel, word: &str) -> String {
    let id = kernel.new_request_id();
    let digits = id.as_str().rsplit('_').next().unwrap_or_default();
    format!("{word}{digits}")
}

/// The hex digits of an id of that word, or `None` where it is none: such an id names nothing.
pub(crate) fn digits<'a>(id: &'a str, word: &str) -> Option<&'a str> {
    let digits = id.strip_prefix(word)?;
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (digits.len() == 32 && digits.bytes().all(hex)).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_id_is_one() {
        let good = format!("{RUN}{}", "0a".repeat(16));
        assert_eq!(digits(&good, RUN), Some(&*"0a".repeat(16)));
        for bad in [
            "",
            "run_",
            "run_0A",
            &good.to_uppercase(),
            &format!("{good}0"),
        ] {
            assert_eq!(digits(bad, RUN), None, "{bad}");
        }
        assert_eq!(digits(&good, SESSION), None);
    }
}
