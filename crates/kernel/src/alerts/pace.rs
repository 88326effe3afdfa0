//! How fast a tenant spends, against how it spent before.

use base::{Money, Timestamp, UtcDay, UtcMonth};

const MINUTES: i64 = 60;

/// What is spent in an hour is no runaway below this, whatever the history: one dollar.
pub(crate) const FLOOR: Money = Money::from_pico(1_000_000_000_000);
/// Whole UTC days before today that are looked back on: a job that runs once a week is usual.
pub(crate) const DAYS: i32 = 7;

/// The spend of the last sixty minutes, by minute.
#[derive(Debug)]
pub(crate) struct Pace {
    /// pico-USD of each minute, at its number modulo sixty.
    minutes: [i128; 60],
    newest: i64,
    /// Whether what the minutes before the first look cost is known.
    seeded: bool,
    /// The month's sum when it was last looked at.
    last: Option<(UtcMonth, i128)>,
    /// The dearest day of the history, looked up once per day.
    dearest: Option<(UtcDay, Option<Money>)>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            minutes: [0; 60],
            newest: 0,
            seeded: false,
            last: None,
            dearest: None,
        }
    }
}

impl Pace {
    /// Whether what was spent before the process began is still to be told by [`Pace::seed`].
    pub(crate) fn is_new(&self) -> bool {
        !self.seeded
    }

    /// Takes in the month's sum as it stands.
    pub(crate) fn observe(&mut self, now: Timestamp, month: UtcMonth, spent: i128) {
        self.advance(now);
        let more = match self.last {
            None => 0,
            Some((last, before)) if last == month => spent - before,
            Some(_) => spent,
        };
        self.last = Some((month, spent));
        self.minutes[index(self.newest)] += more;
    }

    /// Takes in what all minutes up to now cost, in place of what was seen of them: `(minute since the epoch, pico-USD)`.
    pub(crate) fn seed(&mut self, spent: &[(i64, i128)]) {
        self.seeded = true;
        self.minutes = [0; 60];
        for (minute, amount) in spent {
            if *minute > self.newest - MINUTES && *minute <= self.newest {
                self.minutes[index(*minute)] += amount;
            }
        }
    }

    /// The spend of the last sixty minutes.
    pub(crate) fn last_hour(&self) -> Money {
        Money::from_pico(self.minutes.iter().sum())
    }

    /// The dearest day as it was looked up today, if it was; the inner `None`: there is no history to judge by.
    pub(crate) fn dearest(&self, today: UtcDay) -> Option<Option<Money>> {
        self.dearest
            .filter(|(day, _)| *day == today)
            .map(|(_, dearest)| dearest)
    }

    pub(crate) fn set_dearest(&mut self, today: UtcDay, dearest: Option<Money>) {
        self.dearest = Some((today, dearest));
    }

    fn advance(&mut self, now: Timestamp) {
        let minute = now.unix_ms().div_euclid(60_000);
        let steps = (minute - self.newest).clamp(0, MINUTES);
        for step in 0..steps {
            self.minutes[index(minute - step)] = 0;
        }
        self.newest = self.newest.max(minute);
    }
}

/// Whether an hour's spend is a runaway: at least one and a half times the dearest whole day of the last seven, and at least
/// [`FLOOR`]. `None`, a tenant without a whole day of history, never is.
pub(crate) fn is_runaway(last_hour: Money, dearest_day: Option<Money>) -> bool {
    dearest_day.is_some_and(|day| last_hour >= FLOOR && last_hour.pico() * 2 >= day.pico() * 3)
}

fn index(minute: i64) -> usize {
    usize::try_from(minute.rem_euclid(MINUTES)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USD: i128 = 1_000_000_000_000;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn an_hour_is_what_was_spent_in_sixty_minutes() {
        let mut pace = Pace::default();
        let start = at("2026-11-30T23:30:00Z");
        let minutes = |n: u64| start.plus(std::time::Duration::from_secs(n * 60));
        let (november, december) = (start.day().month(), minutes(45).day().month());
        pace.observe(start, november, 100 * USD);
        // The first look is no spend: the sum is the month's.
        assert_eq!(pace.last_hour(), Money::ZERO);
        pace.observe(minutes(10), november, 103 * USD);
        pace.observe(minutes(10), november, 104 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(4 * USD));
        // Over the end of the month the sum begins anew.
        pace.observe(minutes(45), december, 2 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(6 * USD));
        pace.observe(minutes(69), december, 2 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(6 * USD));
        pace.observe(minutes(70), december, 2 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(2 * USD));
        pace.observe(minutes(500), december, 2 * USD);
        assert_eq!(pace.last_hour(), Money::ZERO);
        // A clock that goes back loses nothing.
        pace.observe(minutes(400), december, 3 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(USD));
    }

    #[test]
    fn earlier_minutes_are_told() {
        let mut pace = Pace::default();
        let now = at("2026-11-22T12:00:00Z");
        let minute = now.unix_ms() / 60_000;
        pace.observe(now, now.day().month(), 9 * USD);
        pace.seed(&[
            (minute, USD),
            (minute - 59, USD),
            (minute - 60, 50 * USD),
            (minute + 1, 50 * USD),
        ]);
        assert_eq!(pace.last_hour(), Money::from_pico(2 * USD));
    }

    #[test]
    fn earlier_minutes_can_be_told_late() {
        let mut pace = Pace::default();
        let now = at("2026-11-22T12:00:00Z");
        let month = now.day().month();
        pace.observe(now, month, 9 * USD);
        pace.observe(now, month, 10 * USD);
        // They could not be read at the first look.
        assert!(pace.is_new());
        let minute = now.unix_ms() / 60_000;
        pace.seed(&[(minute, 4 * USD), (minute - 1, USD)]);
        assert!(!pace.is_new());
        assert_eq!(pace.last_hour(), Money::from_pico(5 * USD));
        pace.observe(now, month, 11 * USD);
        assert_eq!(pace.last_hour(), Money::from_pico(6 * USD));
    }

    #[test]
    fn a_runaway_spends_more_in_an_hour_than_on_any_day() {
        let usd = |n: i128| Money::from_pico(n * USD);
        assert!(is_runaway(usd(15), Some(usd(10))));
        // A job that spends its whole day in one hour, every day, is usual.
        assert!(!is_runaway(usd(14), Some(usd(10))));
        // Small change is no runaway; without history nothing is.
        assert!(!is_runaway(Money::from_pico(USD - 1), Some(Money::ZERO)));
        assert!(is_runaway(usd(1), Some(Money::ZERO)));
        assert!(!is_runaway(usd(1_000), None));
    }
}
