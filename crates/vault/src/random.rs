//! Randomness, from the operating system through AWS-LC's generator.

use std::cell::RefCell;

/// `N` unpredictable bytes.
///
/// Up to 16 bytes (nonces, request ids) come from a small store of the thread, filled a kilobyte at a time and wiped as it is used:
/// asking the generator for a few bytes costs as much as for many. Keys are drawn one by one. The process does not fork.
///
/// Does not fail: AWS-LC aborts the process when the operating system gives no randomness, and so
/// does this function should it ever report the failure instead.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    if N <= STORED_MAX
        && let Ok(bytes) = STORE.try_with(|store| store.borrow_mut().take())
    {
        return bytes;
    }
    fresh()
}

const STORED_MAX: usize = 16;

thread_local! {
    static STORE: RefCell<Store> = const { RefCell::new(Store { bytes: [0; 1024], used: 1024 }) };
}

struct Store {
    bytes: [u8; 1024],
    used: usize,
}

impl Store {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        if self.bytes.len() - self.used < N {
            self.bytes = fresh();
            self.used = 0;
        }
        let mut taken = [0; N];
        let from = &mut self.bytes[self.used..self.used + N];
        taken.copy_from_slice(from);
        from.fill(0);
        self.used += N;
        taken
    }
}

fn fresh<const N: usize>() -> [u8; N] {
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

    #[test]
    fn the_store_gives_no_byte_twice() {
        // Several fillings, with lengths that do not divide one.
        let mut seen = std::collections::HashSet::new();
        for _ in 0..300 {
            assert!(seen.insert(random::<16>().to_vec()) && seen.insert(random::<12>().to_vec()));
        }
        let mut store = Store {
            bytes: [7; 1024],
            used: 1000,
        };
        assert_eq!(store.take::<16>(), [7; 16]);
        assert_eq!(store.bytes[1000..1016], [0; 16]);
        assert_ne!(store.take::<12>(), [7; 12]);
        assert_eq!(store.used, 12);
    }
}
