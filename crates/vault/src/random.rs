//! Randomness, from the operating system through AWS-LC's generator.

/// `N` unpredictable bytes.
///
/// Does not fail: AWS-LC aborts the process when the operating system gives no randomness, and so
/// does this function should it ever report the failure instead.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        impossible();
    }
    bytes
}

/// Ends the process where going on would mean a predictable key or an unsealed value.
pub(crate) fn impossible() -> ! {
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(random::<32>(), random::<32>());
    }
}
