//! Room on the data directory's file system: what is kept for calls under way, and when the operator is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::fstatvfs;

use crate::log::Field;
use crate::open::Kernel;

/// How often the room is measured. A disk that is written at 100 MB/s loses less than half of the usual reserve in between.
const EVERY: Duration = Duration::from_secs(1);
/// A level that was reached ends when there is an eighth more than what began it, so that it does not come and go.
const BACK: u64 = 8;
const MIB: u64 = 1024 * 1024;

/// How much room is to be left on the data directory's file system, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskLimits {
    /// With less than this free, new calls are refused: calls under way settle into it. On a small file system a tenth of it
    /// counts instead. 0: nothing is refused.
    pub reserve: u64,
    /// With less than this free, the operator is told. On a small file system a fifth of it counts instead; never below what
    /// counts as the reserve.
    pub warn: u64,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            reserve: 256 * MIB,
            warn: 1024 * MIB,
        }
    }
}

/// What the room on the disk allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Room {
    /// All is well.
    #[default]
    Enough,
    /// The operator should see to it.
    Low,
    /// New calls are refused.
    Short,
}

/// The room as it was measured, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskState {
    /// Free for this process.
    pub free: u64,
    /// The reserve that counts on this file system.
    pub reserve: u64,
    /// The warning that counts on this file system.
    pub warn: u64,
    /// What follows from it.
    pub room: Room,
}

impl DiskLimits {
    /// What follows from a measurement, where `before` followed from the one before.
    #[must_use]
    pub fn judge(self, free: u64, size: u64, before: Room) -> DiskState {
        let reserve = self.reserve.min(size / 10);
        let warn = self.warn.min(size / 5).max(reserve);
        let below = |level: u64, reached: bool| {
            let back = level.saturating_add(if reached { level / BACK } else { 0 });
            free < back
        };
        let room = if below(reserve, before == Room::Short) {
            Room::Short
        } else if below(warn, before != Room::Enough) {
            Room::Low
        } else {
            Room::Enough
        };
        DiskState {
            free,
            reserve,
            warn,
            room,
        }
    }
}

/// What the process knows of its disk.
#[derive(Default)]
pub(crate) struct Disk {
    limits: Mutex<DiskLimits>,
    room: Mutex<Room>,
    short: AtomicBool,
    /// Refusals since the last line about them: a line for each would fill the reserve.
    unlogged: AtomicU64,
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // Single assignments: a panic cannot leave one half-made.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kernel {
    /// Sets how much room is to be left. Before the maintenance starts.
    pub fn set_disk_limits(&self, limits: DiskLimits) {
        *lock(&self.disk().limits) = limits;
    }

    /// Measures the room on the data directory's file system; changes nothing.
    ///
    /// # Errors
    /// When the file system does not say.
    pub fn disk_state(&self) -> std::io::Result<DiskState> {
        let stat = fstatvfs(self.root().dir())?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        let (limits, before) = (*lock(&self.disk().limits), *lock(&self.disk().room));
        Ok(limits.judge(bytes(stat.f_bavail), bytes(stat.f_blocks), before))
    }

    /// Whether the room is short: then what costs is refused, and refusals are counted instead of logged.
    #[must_use]
    pub fn is_short_of_disk(&self) -> bool {
        self.disk().short.load(Ordering::Relaxed)
    }

    /// Counts a refusal that is not logged because the room is short.
    pub fn count_unlogged_refusal(&self) {
        self.disk().unlogged.fetch_add(1, Ordering::Relaxed);
    }

    /// Measures once before anybody is served, then in a task of its own.
    pub(crate) fn start_disk_watch(&self) {
        self.watch_disk();
        let (kernel, stopping) = (self.clone(), self.tasks().stopping());
        self.tasks().spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => kernel.watch_disk(),
                    () = stopping.cancelled() => return,
                }
            }
        });
    }

    fn watch_disk(&self) {
        // What is not known is no reason to refuse: a write that fails says it too.
        let Ok(state) = self.disk_state() else { return };
        let before = std::mem::replace(&mut *lock(&self.disk().room), state.room);
        self.disk()
            .short
            .store(state.room == Room::Short, Ordering::Relaxed);
        if before == state.room {
            return;
        }
        let event = match state.room {
            Room::Short => "disk space short: new calls are refused",
            Room::Low => "disk space low",
            Room::Enough => "disk space is back",
        };
        let unlogged = self.disk().unlogged.swap(0, Ordering::Relaxed);
        let fields = [
            ("free_mib", Field::Number(state.free / MIB)),
            ("reserve_mib", Field::Number(state.reserve / MIB)),
            ("warn_mib", Field::Number(state.warn / MIB)),
            ("refusals_not_logged", Field::Number(unlogged)),
        ];
        self.log().event(self.now(), None, event, &fields);
        self.alert_of_disk(&state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{acme, app_token, begun};
    use crate::{Caller, Purpose, Refused};

    #[tokio::test]
    async fn without_room_who_acts_is_refused_and_who_reads_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let (kernel, _operator) = begun(&dir.path().join("data")).await;
        let resident = kernel.directory().tenant(&acme()).unwrap();
        let token = kernel.add_token(&resident, app_token("ci")).await;
        let text = token.unwrap().text;
        let caller = || Caller::from_token(text.expose_str().unwrap());
        assert!(kernel.admit(caller()).await.is_ok());
        kernel.disk().short.store(true, Ordering::Relaxed);
        let refused = kernel.admit(caller()).await;
        assert!(matches!(refused, Err(Refused::NoRoom)));
        let stranger = kernel.admit(Caller::from_token("tk_acme_x")).await;
        assert!(matches!(stranger, Err(Refused::Unknown)));
        let reads = kernel.admit_for(caller(), Purpose::Read).await;
        assert!(reads.is_ok());
        kernel.disk().short.store(false, Ordering::Relaxed);
        assert!(kernel.admit(caller()).await.is_ok());
    }

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn levels_follow_the_room_and_do_not_flutter() {
        let limits = DiskLimits::default();
        let room = |free: u64, before| limits.judge(free, 100 * GIB, before).room;
        assert_eq!(room(GIB, Room::Enough), Room::Enough);
        assert_eq!(room(GIB - 1, Room::Enough), Room::Low);
        assert_eq!(room(GIB + GIB / 8 - 1, Room::Low), Room::Low);
        assert_eq!(room(GIB + GIB / 8, Room::Low), Room::Enough);
        assert_eq!(room(256 * MIB, Room::Low), Room::Low);
        assert_eq!(room(256 * MIB - 1, Room::Low), Room::Short);
        assert_eq!(room(288 * MIB - 1, Room::Short), Room::Short);
        assert_eq!(room(288 * MIB, Room::Short), Room::Low);
        assert_eq!(room(2 * GIB, Room::Short), Room::Enough);
        assert_eq!(room(0, Room::Enough), Room::Short);
    }

    #[test]
    fn a_small_disk_keeps_a_tenth_and_warns_at_a_fifth() {
        let state = DiskLimits::default().judge(3 * MIB, 32 * MIB, Room::Enough);
        assert_eq!((state.reserve, state.warn), (32 * MIB / 10, 32 * MIB / 5));
        assert_eq!(state.room, Room::Short);
        let half = DiskLimits::default().judge(16 * MIB, 32 * MIB, Room::Enough);
        assert_eq!(half.room, Room::Enough);
    }

    #[test]
    fn nothing_is_refused_without_a_reserve_and_the_warning_is_never_below_it() {
        let none = DiskLimits {
            reserve: 0,
            warn: 0,
        };
        assert_eq!(none.judge(0, GIB, Room::Enough).room, Room::Enough);
        let upside_down = DiskLimits {
            reserve: 50 * MIB,
            warn: MIB,
        };
        assert_eq!(upside_down.judge(GIB, GIB, Room::Enough).warn, 50 * MIB);
    }
}
