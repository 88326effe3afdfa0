//! What happens beside requests: overlays re-read, old records folded, counts written down, expired tokens ended.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Timestamp, limits};
use cap_std::fs::{Dir, MetadataExt};
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::audit::Entry;
use crate::error::KernelError;
use crate::log::Field;
use crate::open::Kernel;
use crate::overlay::Overlay;
use crate::registry;
use crate::resident::{FileStamp, Resident};

const OVERLAY_FILE: &str = "config.yaml";
const TICK: Duration = Duration::from_millis(250);
/// Ticks between two looks for records that are old enough to be folded.
const TICKS_PER_SECOND: u64 = 4;
/// Ticks between two writings of counts and of last-used days.
const TICKS_PER_MINUTE: u64 = 240;
/// Ticks between two measurements of limited storage.
const TICKS_PER_MEASUREMENT: u64 = 40;

impl Kernel {
    /// Starts the background work of a serving process.
    pub fn start_maintenance(&self) {
        self.start_disk_watch();
        self.start_ending();
        self.start_alerts();
        self.start_spreading();
        let (kernel, mut ticks) = (self.clone(), Ticks::of(self));
        self.tasks().spawn(async move {
            kernel.open_recovered().await;
            while let Some(tick) = ticks.next().await {
                if tick.is_multiple_of(TICKS_PER_SECOND) {
                    kernel.fold_old().await;
                }
                if tick.is_multiple_of(TICKS_PER_MEASUREMENT) {
                    kernel.measure_limited().await;
                }
                if tick.is_multiple_of(TICKS_PER_MINUTE) {
                    kernel.flush_counts().await;
                    kernel.keep_audit_heads().await;
                    kernel.drop_old_entries().await;
                }
            }
        });
    }

    /// A task of its own: the end of a credential waits for nothing else.
    fn start_ending(&self) {
        let (kernel, mut ticks) = (self.clone(), Ticks::of(self));
        self.tasks().spawn(async move {
            while ticks.next().await.is_some() {
                kernel.end_expired();
            }
        });
    }

    /// A task that wakes those whose records became durable.
    fn start_spreading(&self) {
        let (spread, stopping) = (self.journal().spread(), self.tasks().stopping());
        self.tasks().spawn(async move {
            tokio::select! {
                () = spread => {}
                () = stopping.cancelled() => {}
            }
        });
    }

    /// A task of its own: a disk that is slow for alerts delays nothing else.
    fn start_alerts(&self) {
        let (kernel, mut ticks) = (self.clone(), Ticks::of(self));
        self.tasks().spawn(async move {
            kernel.open_waiting().await;
            while let Some(tick) = ticks.next().await {
                if tick.is_multiple_of(TICKS_PER_SECOND) {
                    kernel.look_at_budgets().await;
                }
                kernel.deliver_alerts();
            }
        });
    }

    /// Opens the tenants that an earlier run left records of, so that what a crash interrupted is settled at once, and what is
    /// damaged is noticed.
    pub async fn open_recovered(&self) {
        for uid in self.unopened_with_records() {
            if let Some(resident) = self.directory().by_uid(&uid) {
                // A failure quarantines that tenant and is in the log.
                let _reported = self.load(&resident).await;
            }
        }
    }

    /// Ends the streams of tokens whose expiry or grace period has passed.
    fn end_expired(&self) {
        let now = self.now();
        for token in self.directory().tokens_ended_at(now) {
            token.ended.cancel();
        }
    }

    async fn fold_old(&self) {
        let now = self.now();
        for resident in self.directory().all() {
            let old = resident
                .books()
                .oldest
                .is_some_and(|at| now.since(at) >= limits::FOLD_AGE_MAX);
            if old && resident.quarantine.load().is_none() {
                let _reported = self.fold(&resident).await;
            }
        }
    }

    /// Records waiting for their fold, over all tenants that are open.
    pub(crate) fn pending_total(&self) -> usize {
        self.pending().load(Ordering::Relaxed)
    }

    /// Writes counting entries and last-used days.
    pub(crate) async fn flush_counts(&self) {
        for resident in self.directory().all() {
            let count = resident.failed_auth.swap(0, Ordering::Relaxed);
            if count > 0 && self.load(&resident).await.is_ok() {
                // What cannot be recorded now stands in the log.
                if self.record_failed_auth(&resident, count).is_err() {
                    let fields = [("count", Field::Number(u64::from(count)))];
                    self.log().event(
                        self.now(),
                        Some(&resident.id),
                        "failed authentications not recorded",
                        &fields,
                    );
                }
            }
        }
        for token in self.directory().all_tokens() {
            let counted = token
                .refusals
                .lock()
                .map(|mut storm| std::mem::take(&mut storm.uncounted))
                .unwrap_or(0);
            if counted > 0 {
                let _journal_down_stops_admission = self.record_storm(&token, counted);
            }
        }
        self.save_last_used().await;
    }

    fn record_failed_auth(&self, resident: &Resident, count: u32) -> Result<(), KernelError> {
        let time = self.now().to_string();
        self.record_event(resident, |seq| Entry {
            action: "authenticate",
            count: Some(count),
            decision: "deny",
            reason: Some("credentials that named this tenant and were not valid"),
            seq,
            tenant: resident.id.as_str(),
            time,
            ..Entry::default()
        })
        .map(|_seq| ())
    }

    async fn save_last_used(&self) {
        let mut used = Vec::new();
        for token in self.directory().all_tokens() {
            let day = token.last_used.load(Ordering::Relaxed);
            if token.last_used_saved.swap(day, Ordering::Relaxed) != day {
                used.push((token.hash, day));
            }
        }
        if !used.is_empty() {
            let saved = self
                .registry_write(move |tx| registry::save_last_used(tx, &used))
                .await;
            if let Err(error) = saved {
                let text = error.to_string();
                self.log().event(
                    self.now(),
                    None,
                    "last-used days not saved",
                    &[("error", Field::Text(&text))],
                );
            }
        }
    }

    pub(crate) fn log_quarantine(&self, resident: &Resident, why: &str) {
        self.log().event(
            self.now(),
            Some(&resident.id),
            "tenant quarantined",
            &[("reason", Field::Text(why))],
        );
    }

    /// Looks at the overlay file when the last look is a second old.
    pub(crate) fn poll_overlay(&self, resident: &Arc<Resident>, now: Timestamp) {
        let last = resident.overlay_checked_ms.load(Ordering::Relaxed);
        let due = now.unix_ms() - last
            >= i64::try_from(limits::OVERLAY_POLL.as_millis()).unwrap_or(1_000);
        let taken = due
            && resident
                .overlay_checked_ms
                .compare_exchange(last, now.unix_ms(), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if taken {
            self.read_overlay(resident);
        }
    }

    /// Reads the overlay if the file changed; an error keeps the last good one and is shown by `tenants show`.
    pub(crate) fn read_overlay(&self, resident: &Arc<Resident>) {
        let Ok(dir) = self.root().tenant_dir(&resident.id) else {
            return;
        };
        let stamp = file_stamp(&dir);
        let mut watch = resident
            .overlay
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if watch.seen == stamp {
            return;
        }
        let first_look = watch.seen.is_none() && resident.loaded.get().is_none();
        watch.seen = stamp;
        let read = match stamp {
            None => Ok(Overlay::default()),
            Some(_) => self.overlay_of(&dir),
        };
        match read {
            Ok(overlay) if *watch.overlay == overlay && watch.error.is_none() => {}
            Ok(overlay) => {
                watch.overlay = Arc::new(overlay);
                watch.error = None;
                drop(watch);
                self.refresh_settings(resident);
                if !first_look {
                    self.note_overlay(resident);
                }
            }
            Err(error) => {
                self.log().event(
                    self.now(),
                    Some(&resident.id),
                    "overlay not taken",
                    &[("error", Field::Text(&error))],
                );
                watch.error = Some(error);
                if first_look {
                    // No good overlay is known: nothing is shown rather than more than the tenant wants.
                    watch.overlay = Arc::new(Overlay {
                        models: Some(crate::policies::no_models()),
                        ..Overlay::default()
                    });
                    drop(watch);
                    self.refresh_settings(resident);
                }
            }
        }
    }

    fn overlay_of(&self, dir: &Dir) -> Result<Overlay, String> {
        let overlay = read_overlay_file(dir)
            .and_then(|text| Overlay::parse(&text).map_err(|error| error.to_string()))?;
        overlay
            .check_models(|name| self.knows_model(name))
            .and_then(|()| overlay.check_receiver(&self.tiers().webhook_hosts))
            .map_err(|error| error.to_string())?;
        Ok(overlay)
    }

    /// Checks a tenant's overlay file as it lies on disk.
    ///
    /// # Errors
    /// The reason in one line, with key and line of the file.
    pub fn check_overlay(&self, tenant: &crate::Tenant) -> Result<(), KernelError> {
        tenant.live()?;
        let dir = self.root().tenant_dir(tenant.id())?;
        if file_stamp(&dir).is_none() {
            return Ok(());
        }
        self.overlay_of(&dir)
            .map(|_| ())
            .map_err(KernelError::Refused)
    }

    /// Why the overlay on disk is not in force, if it is not.
    #[must_use]
    pub fn overlay_error(&self, tenant: &crate::Tenant) -> Option<String> {
        self.read_overlay(tenant.resident());
        tenant
            .resident()
            .overlay
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .error
            .clone()
    }

    /// Works out what is in force from the configuration, the account and the overlay as they are now.
    pub(crate) fn refresh_settings(&self, resident: &Resident) {
        // Held to the end: of two that work it out at the same time, the later one must not be overtaken by the earlier.
        let watch = resident
            .overlay
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (settings, limits) = self.merge_settings(
            &resident.account.load(),
            &watch.overlay,
            &resident.policy.load(),
        );
        resident.settings.store(Arc::new(settings));
        resident.limits.store(Arc::new(limits));
        drop(watch);
    }

    /// Forgets what waits for a fold: the tenant is being deleted.
    pub(crate) fn forget_pending(&self, resident: &Resident) {
        let pending: Vec<_> = {
            let mut books = resident.books();
            self.content_goes(&mut books);
            books.pending.drain(..).collect()
        };
        self.pending().fetch_sub(pending.len(), Ordering::Relaxed);
        let seqs: Vec<_> = pending
            .iter()
            .flat_map(|record| record.sent.into_iter().chain([record.seq]))
            .collect();
        self.journal().folded(&seqs);
    }
}

/// Four times a second, until the process stops.
struct Ticks {
    interval: Interval,
    stopping: CancellationToken,
    number: u64,
}

impl Ticks {
    /// To be made in the process's runtime.
    fn of(kernel: &Kernel) -> Self {
        let mut interval = tokio::time::interval(TICK);
        // After work that took longer than a tick the next one comes a whole tick later: what was missed is not made up for.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            interval,
            stopping: kernel.tasks().stopping(),
            number: 0,
        }
    }

    /// Waits for the next one and returns its number, from 1; `None` when the process stops.
    async fn next(&mut self) -> Option<u64> {
        tokio::select! {
            _ = self.interval.tick() => {}
            () = self.stopping.cancelled() => return None,
        }
        self.number += 1;
        Some(self.number)
    }
}

fn file_stamp(dir: &Dir) -> Option<FileStamp> {
    let meta = dir.symlink_metadata(OVERLAY_FILE).ok()?;
    let mtime_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Some(FileStamp {
        inode: meta.ino(),
        size: meta.size(),
        mtime_ns,
    })
}

fn read_overlay_file(dir: &Dir) -> Result<String, String> {
    let meta = dir
        .symlink_metadata(OVERLAY_FILE)
        .map_err(|error| format!("config.yaml: {error}"))?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err("config.yaml: must be a plain file with one link".to_owned());
    }
    let file = dir
        .open(OVERLAY_FILE)
        .map_err(|error| format!("config.yaml: {error}"))?;
    let mut bytes = Vec::new();
    let max = u64::try_from(limits::OVERLAY_BYTES_MAX)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    file.take(max)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("config.yaml: {error}"))?;
    String::from_utf8(bytes).map_err(|_| "config.yaml: not valid UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::fixture::{acme, begun};
    use crate::quota::{Override, Quota, Scope};
    use crate::resident::Account;

    #[tokio::test]
    async fn limits_that_were_set_later_stay_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, _operator) = begun(&dir.path().join("data")).await;
        let resident = kernel.directory().tenant(&acme()).unwrap();
        let before = resident.account.load_full();
        let with = |limit, also: usize| {
            let over = |scope, limit| Override {
                scope,
                quota: Quota::TokensPerDay,
                limit,
                until: None,
            };
            let others = (0..also).map(|n| over(format!("token:t{n}").parse().unwrap(), 1));
            let overrides = others.chain([over(Scope::Tenant, limit)]).collect();
            Arc::new(Account {
                overrides,
                ..before.as_ref().clone()
            })
        };
        // One that takes long to work out, and one that does not.
        let (older, newer) = (with(1, 2_000), with(2, 0));
        let (rounds, mut seen) = (20, Vec::new());
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..rounds {
                    both.wait();
                    kernel.refresh_settings(&resident);
                    both.wait();
                }
            });
            for _ in 0..rounds {
                resident.account.store(Arc::clone(&older));
                both.wait();
                std::thread::sleep(Duration::from_micros(200));
                resident.account.store(Arc::clone(&newer));
                kernel.refresh_settings(&resident);
                both.wait();
                let limits = resident.limits.load();
                seen.push(limits.for_all.tenant.limit(Quota::TokensPerDay));
            }
        });
        assert_eq!(seen, vec![Some(2); rounds]);
    }
}
