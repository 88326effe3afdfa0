//! What an alert says: JSON as receivers read it, and the mark by which it is said once.

use base::quota::Window;
use base::{Money, TenantId, TenantUid, Timestamp};
use serde::Serialize;

use crate::disk::{DiskState, Room};
use crate::outbox::Message;
use crate::quota::{Crossing, Gauge, Quota};
use crate::webhook;

/// The form of every alert, as the Standard Webhooks specification proposes it.
#[derive(Serialize)]
struct Envelope<'a, D> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: D,
}

#[derive(Serialize)]
struct Threshold<'a> {
    tenant: &'a str,
    quota: &'a str,
    threshold_percent: u8,
    used: String,
    limit: String,
    calls_refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    window_start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<String>,
}

#[derive(Serialize)]
struct Throttled<'a> {
    tenant: &'a str,
    quota: &'a str,
    used: String,
    held: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<String>,
}

#[derive(Serialize)]
struct Runaway<'a> {
    tenant: &'a str,
    spent_last_hour_usd: String,
    dearest_day_usd: String,
}

#[derive(Serialize)]
struct Quarantined<'a> {
    tenant: &'a str,
    reason: &'a str,
}

#[derive(Serialize)]
struct LogCheckpoint<'a> {
    tenant: &'a str,
    checkpoint: &'a str,
}

#[derive(Serialize)]
struct Disk {
    free_bytes: u64,
    reserve_bytes: u64,
    warn_bytes: u64,
    calls_refused: bool,
}

/// The room on the disk has become low, or too short for new calls: once each per UTC hour.
pub(super) fn disk(state: &DiskState, now: Timestamp) -> Option<Message> {
    let kind = match state.room {
        Room::Enough => return None,
        Room::Low => "disk.low",
        Room::Short => "disk.short",
    };
    let data = Disk {
        free_bytes: state.free,
        reserve_bytes: state.reserve,
        warn_bytes: state.warn,
        calls_refused: state.room == Room::Short,
    };
    message(kind, format!("{kind}/hour {}", hour(now)), now, data)
}

/// Whose alert it is.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) id: &'a TenantId,
    pub(super) uid: TenantUid,
    pub(super) now: Timestamp,
}

impl About<'_> {
    /// A quota of the tenant has reached a threshold: once per threshold, window and limit.
    pub(super) fn threshold(&self, crossing: &Crossing) -> Option<Message> {
        let Crossing {
            quota,
            percent,
            limit,
            window,
            ..
        } = *crossing;
        // Stored bytes have no window: a day stands in.
        let window_start = window.map(|at| at.to_string());
        let began = window.map_or_else(|| self.now.day(), Timestamp::day);
        let data = Threshold {
            tenant: self.id.as_str(),
            quota: quota.name(),
            threshold_percent: percent,
            used: quota.shown(crossing.used),
            limit: quota.shown(limit),
            calls_refused: crossing.refused,
            window_start,
            resets_at: crossing.resets_at.map(|at| at.to_string()),
        };
        let mark = format!("{}/{}/{limit}/{percent}", quota.name(), began.number());
        self.message("quota.threshold", &mark, data)
    }

    /// Calls are refused by a quota: once per window by day or month, and once per hour for the others.
    pub(super) fn throttled(&self, gauge: &Gauge) -> Option<Message> {
        let quota = gauge.quota;
        let data = Throttled {
            tenant: self.id.as_str(),
            quota: quota.name(),
            used: quota.shown(gauge.used),
            held: quota.shown(gauge.held),
            limit: gauge.limit.map(|limit| quota.shown(limit)),
            resets_at: gauge.resets_at.map(|at| at.to_string()),
        };
        let window = match quota.window() {
            Window::Day => format!("day {}", self.now.day().number()),
            Window::Month => format!("month {}", self.now.day().month().first_day().number()),
            _ => format!("hour {}", hour(self.now)),
        };
        self.message("tenant.throttled", &mark(quota, &window), data)
    }

    /// The tenant spends in an hour more than on any day of its history: once per UTC day.
    pub(super) fn runaway(&self, last_hour: Money, dearest_day: Money) -> Option<Message> {
        let data = Runaway {
            tenant: self.id.as_str(),
            spent_last_hour_usd: last_hour.to_string(),
            dearest_day_usd: dearest_day.to_string(),
        };
        let mark = format!("day {}", self.now.day().number());
        self.message("tenant.runaway", &mark, data)
    }

    /// The tenant is out of service: once per UTC day.
    pub(super) fn quarantined(&self, reason: &str) -> Option<Message> {
        let data = Quarantined {
            tenant: self.id.as_str(),
            reason,
        };
        let mark = format!("day {}", self.now.day().number());
        self.message("tenant.quarantined", &mark, data)
    }

    /// The audit log's latest checkpoint: once for the hour or day that began at this second.
    pub(super) fn checkpoint(&self, begin: i64, note: &str) -> Option<Message> {
        let data = LogCheckpoint {
            tenant: self.id.as_str(),
            checkpoint: note,
        };
        self.message("audit.checkpoint", &format!("at {begin}"), data)
    }

    fn message(&self, kind: &str, mark: &str, data: impl Serialize) -> Option<Message> {
        // By uid: a name that is taken again is another tenant.
        let mark = format!("{kind}/{}/{mark}", self.uid);
        message(kind, mark, self.now, data)
    }
}

/// `None` only where JSON could not be written, which strings and numbers do not bring about.
fn message(kind: &str, mark: String, now: Timestamp, data: impl Serialize) -> Option<Message> {
    let envelope = Envelope {
        kind,
        timestamp: now.to_string(),
        data,
    };
    Some(Message {
        id: webhook::message_id(),
        mark,
        body: serde_json::to_string(&envelope).ok()?,
    })
}

fn hour(now: Timestamp) -> i64 {
    now.unix_seconds().div_euclid(3_600)
}

fn mark(quota: Quota, window: &str) -> String {
    format!("{}/{window}", quota.name())
}
