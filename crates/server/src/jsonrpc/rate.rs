//! How often something may happen.

use std::time::Duration;

use tokio::time::Instant;

/// So many in a second, and so many at once. Kept as the moment at which all that was taken is paid off.
pub(super) struct Rate {
    each: Duration,
    burst: Duration,
    paid_off: Instant,
}

impl Rate {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self {
            each,
            burst: each * burst,
            paid_off: now,
        }
    }

    /// Takes one, or says how long to wait for it.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let after = self.paid_off.max(now) + self.each;
        let owed = after - now;
        if owed > self.burst {
            return Err(owed - self.burst);
        }
        self.paid_off = after;
        Ok(())
    }

    /// Whether it is as if nothing had ever been taken.
    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.paid_off <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(10, 5, start);
        assert!(rate.is_full(start));
        assert!((0..5).all(|_| rate.take(start).is_ok()));
        assert_eq!(rate.take(start), Err(Duration::from_millis(100)));
        let later = start + Duration::from_millis(100);
        assert!(rate.take(later).is_ok() && rate.take(later).is_err());
        let much_later = start + Duration::from_secs(60);
        assert!(rate.is_full(much_later));
        assert_eq!((0..99).filter(|_| rate.take(much_later).is_ok()).count(), 5);
    }
}
