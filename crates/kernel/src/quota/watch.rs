//! What others are told of a tenant's quotas: thresholds that it reached, calls that were refused, what it spends. Asked about
//! once a second, beside the calls.

use base::quota::Window;
use base::{Timestamp, UtcMonth};

use super::meters::Meters;
use super::{Gauge, LimitsInForce, Quota};

/// A threshold that a tenant's quota has reached: once per threshold, window and limit of one process. After a restart it is told
/// again, so who tells others keeps what it has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crossing {
    /// Which quota.
    pub quota: Quota,
    /// The threshold in percent of the limit.
    pub percent: u8,
    /// Used for good. What is held may come back, so it reaches no threshold.
    pub used: i128,
    /// The limit.
    pub limit: i128,
    /// Whether calls were refused by it.
    pub refused: bool,
    /// When the window began; `None` for stored bytes.
    pub window: Option<Timestamp>,
    /// When it ends.
    pub resets_at: Option<Timestamp>,
}

/// What of one quota was told already.
#[derive(Clone, Copy, Default)]
pub(super) struct Told {
    window: Option<Timestamp>,
    limit: i128,
    percent: u8,
    /// A call was refused by it since thresholds were last looked at: in the window that began then.
    refused: Option<Option<Timestamp>>,
    /// The same since throttling was last looked at.
    throttled: bool,
}

impl Told {
    pub(super) fn refused(&mut self, window: Option<Timestamp>) {
        (self.refused, self.throttled) = (Some(window), true);
    }
}

/// Percents past which a refused call can mean that a quota is used up, whatever the thresholds are.
const NEAR: u8 = 80;

impl Meters {
    /// The thresholds, in percent and ascending, that the tenant's quotas have reached since this was last asked: those by day
    /// and month, and storage. 100 is also reached when a call is refused past the threshold below it, and past 80: little is left
    /// then, and no call fits into it. Costs nothing where nothing happened since.
    pub(crate) fn crossed(
        &mut self,
        in_force: &LimitsInForce,
        percents: &[u8],
        now: Timestamp,
    ) -> Vec<Crossing> {
        if !std::mem::take(&mut self.touched) {
            return Vec::new();
        }
        let moment = self.moment(now);
        self.tenant.advance(moment);
        let below_whole = percents.iter().copied().filter(|p| *p < 100).max();
        let near = below_whole.map_or(NEAR, |percent| percent.max(NEAR));
        let mut crossings = Vec::new();
        for (quota, limit) in in_force.for_all.tenant.iter() {
            let fixed = matches!(quota.window(), Window::Day | Window::Month | Window::Stored);
            if !fixed {
                continue;
            }
            let gauge = self.tenant.gauge(quota, &in_force.for_all.tenant);
            let window = self.tenant.window(quota);
            let told = &mut self.told[quota as usize];
            let reaches =
                |percent: u8| limit > 0 && gauge.used * 100 >= limit * i128::from(percent);
            // Another window, or another limit: told anew.
            if told.window != window || told.limit != limit {
                *told = Told {
                    window,
                    limit,
                    percent: 0,
                    ..*told
                };
            }
            // Bytes were deleted: told anew is what they fell below, and no more than that.
            if quota.window() == Window::Stored && !reaches(told.percent) {
                let still = percents.iter().copied().filter(|p| reaches(*p)).max();
                told.percent = still.unwrap_or(0);
            }
            let refused = told.refused.take() == Some(window);
            let spent = refused && (limit == 0 || reaches(near));
            for &percent in percents {
                let reached = reaches(percent) || (spent && percent == 100);
                if percent > told.percent && reached {
                    told.percent = percent;
                    crossings.push(Crossing {
                        quota,
                        percent,
                        used: gauge.used,
                        limit,
                        refused,
                        window,
                        resets_at: gauge.resets_at,
                    });
                }
            }
        }
        crossings
    }

    /// The tenant's quotas that refused a call since this was last asked. Those of single persons and tokens are not among them.
    pub(crate) fn throttled(&mut self, in_force: &LimitsInForce) -> Vec<Gauge> {
        let mut gauges = Vec::new();
        for quota in Quota::ALL {
            if std::mem::take(&mut self.told[quota as usize].throttled) {
                gauges.push(self.tenant.gauge(quota, &in_force.for_all.tenant));
            }
        }
        gauges
    }

    /// What was spent in this month, in pico-USD, without what is held.
    pub(crate) fn spent(&mut self, now: Timestamp) -> (UtcMonth, i128) {
        let moment = self.moment(now);
        self.tenant.advance(moment);
        let sum = self.tenant.sum(Quota::CostPerMonth);
        (now.day().month(), sum.total - sum.held)
    }
}
