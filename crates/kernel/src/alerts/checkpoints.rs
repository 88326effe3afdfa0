//! The audit log's checkpoints, told to the tenant on a schedule: the copy outside without which a log proves consistency only.

use std::sync::Arc;
use std::time::Duration;

use base::Timestamp;
use serde::Deserialize;

use super::About;
use crate::audit::tree::stored_head;
use crate::open::Kernel;
use crate::resident::Resident;

/// How often a tenant is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointSchedule {
    /// Once in each UTC hour in which the tenant is open.
    Hourly,
    /// Once in each UTC day in which the tenant is open.
    Daily,
}

impl CheckpointSchedule {
    fn every(self) -> Duration {
        match self {
            Self::Hourly => Duration::from_secs(3_600),
            Self::Daily => Duration::from_secs(86_400),
        }
    }

    /// The hour or day that `now` lies in, counted from 1970, as its first second.
    fn begin(self, now: Timestamp) -> i64 {
        let every = i64::try_from(self.every().as_secs()).unwrap_or(i64::MAX);
        now.unix_seconds().div_euclid(every) * every
    }
}

impl Kernel {
    /// Puts the latest checkpoint among what a tenant is to be told, once per hour or day. Everything recorded by then is folded
    /// first. A store that fails is looked at again with the next look.
    pub(super) async fn look_at_checkpoint(
        &self,
        resident: &Arc<Resident>,
        schedule: CheckpointSchedule,
    ) {
        let now = self.now();
        let begin = schedule.begin(now);
        if resident.alerts.state().checkpoint_begin == Some(begin) {
            return;
        }
        let folded = self.fold(resident).await.is_ok();
        let (true, Ok(place)) = (folded, self.place(resident)) else {
            return;
        };
        let read = self.engine().read(&place, stored_head).await;
        let Ok(note) = self.checked(resident, read) else {
            return;
        };
        let about = About {
            id: &resident.id,
            uid: resident.uid,
            now,
        };
        // Before its first entry a log has no checkpoint, and then the hour or day passes without one.
        let message = note.and_then(|note| about.checkpoint(begin, &note));
        let taken = message.is_none_or(|message| self.to_tenant(resident, message));
        if taken {
            resident.alerts.state().checkpoint_begin = Some(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_begin_in_utc() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let now = at("2026-03-01T13:59:59.999Z");
        for (schedule, begin) in [
            (CheckpointSchedule::Hourly, "2026-03-01T13:00:00Z"),
            (CheckpointSchedule::Daily, "2026-03-01T00:00:00Z"),
        ] {
            assert_eq!(schedule.begin(now), at(begin).unix_seconds());
        }
        assert_eq!(
            CheckpointSchedule::Daily.begin(Timestamp::from_unix_ms(-1)),
            -86_400
        );
    }
}
