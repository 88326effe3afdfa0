//! Background work that shutdown waits for.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Every task of the process: spawned here, awaited at shutdown.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `work` to its end; shutdown waits for it.
    #[expect(clippy::disallowed_methods, reason = "the one owner of spawned tasks")]
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.tracker.track_future(work));
    }

    /// Fires when the process begins to stop. Loops select on it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks every loop to stop and waits for all tasks, at most `deadline`. `false`: some were still running.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
    }
}
