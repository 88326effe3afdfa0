//! Idle connections of one endpoint.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::connection::Connection;

/// More idle connections than any load of one process leaves behind.
const IDLE_MAX: usize = 1_024;
/// Idle connections are closed before usual balancers close them, so that a request rarely meets a
/// connection that is just going away.
const IDLE_AGE_MAX: Duration = Duration::from_secs(30);

/// The last one returned is the first one taken, so that a quiet hour lets the others go.
#[derive(Default)]
pub(super) struct Pool {
    // Oldest in front. Held for a push or a pop; connections are checked and dropped outside.
    idle: Mutex<VecDeque<Idle>>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    /// A connection that was open a moment ago and has nothing unread.
    pub(super) fn take(&self, now: Instant) -> Option<Box<Connection>> {
        loop {
            let mut idle = self.lock().pop_back()?;
            if now.saturating_duration_since(idle.since) > IDLE_AGE_MAX {
                // All others are older.
                self.sweep(now);
                return None;
            }
            if idle.connection.is_reusable() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection whose exchange is complete; closes any other.
    pub(super) fn put(&self, mut connection: Box<Connection>, now: Instant) {
        if !connection.is_reusable() {
            return;
        }
        let evicted = {
            let mut idle = self.lock();
            idle.push_back(Idle {
                connection,
                since: now,
            });
            if idle.len() > IDLE_MAX {
                idle.pop_front()
            } else {
                None
            }
        };
        drop(evicted);
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let old: Vec<Idle> = {
            let mut idle = self.lock();
            let kept =
                idle.partition_point(|i| now.saturating_duration_since(i.since) > IDLE_AGE_MAX);
            idle.drain(..kept).collect()
        };
        drop(old);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        // Push and pop leave the queue whole, so a poisoned lock hides no half-done change.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
