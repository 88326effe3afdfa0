//! How often a gateway is asked again, and how long one is waited for that does not answer.

use std::time::{Duration, Instant};

use rpc::Fault;

use crate::wire::Unanswered;

/// The first pause between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest of them.
pub(crate) const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a gateway may be away: longer than a restart takes.
const AWAY_MAX: Duration = Duration::from_secs(90);

/// Pauses that grow, and begin again with what is new.
#[derive(Default)]
pub(crate) struct Patience {
    last: Option<Duration>,
    away_since: Option<Instant>,
}

impl Patience {
    /// The gateway answered; pauses are short again where that was something new.
    pub(crate) fn answered(&mut self, is_new: bool) {
        self.away_since = None;
        if is_new {
            self.last = None;
        }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let next = self
            .last
            .map_or(PAUSE_MIN, |last| (last * 3 / 2).min(PAUSE_MAX));
        self.last = Some(next);
        next
    }

    /// The pause after a call without a result.
    ///
    /// # Errors
    /// Its fault, where another try makes no sense any more.
    pub(crate) fn after(&mut self, no: Unanswered) -> Result<Duration, Fault> {
        let since = *self.away_since.get_or_insert_with(Instant::now);
        match no.again {
            Some(again) if since.elapsed() < AWAY_MAX => Ok(self.pause().max(again)),
            _ => Err(no.fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use rpc::FaultCode;

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_with_news() {
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..8).map(|_| patience.pause().as_millis()).collect();
        assert_eq!(pauses, [50, 75, 112, 168, 253, 379, 500, 500]);
        patience.answered(false);
        assert_eq!(patience.pause(), PAUSE_MAX);
        patience.answered(true);
        assert_eq!(patience.pause(), PAUSE_MIN);
    }

    #[test]
    fn only_what_may_go_through_is_asked_again() {
        let no = |again| Unanswered {
            fault: Fault::new(FaultCode::Refused, "no"),
            code: String::new(),
            again,
        };
        let mut patience = Patience::default();
        let later = Duration::from_secs(3);
        assert_eq!(patience.after(no(Some(later))).unwrap(), later);
        assert_eq!(
            patience
                .after(no(Some(Duration::ZERO)))
                .unwrap()
                .as_millis(),
            75
        );
        assert!(patience.after(no(None)).is_err());
        patience.away_since = Instant::now().checked_sub(AWAY_MAX);
        assert!(patience.after(no(Some(Duration::ZERO))).is_err());
    }
}
