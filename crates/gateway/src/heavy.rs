//! Work on large bodies: hashing, parsing and rewriting many megabytes. It is done beside the threads that serve everybody, in the
//! lower class, and in turns among tenants, so that one who sends nothing but large bodies waits for itself.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;
use std::time::Duration;

use kernel::Admission;
use kernel::bulk::Bulk;

use crate::fair::{Line, LineSpec, Patience};
use crate::refusal::Refusal;

/// Bytes of a body that is no longer worked on where it was read: a millisecond of work.
pub(crate) const HEAVY_BYTES: usize = 256 * 1024;
/// Calls whose bodies wait; they are bounded by the room for bodies too.
const QUEUE: u32 = 1_000;
/// A body waits no longer than this.
const WAIT: Duration = Duration::from_secs(10);

/// The threads for large bodies, started with the first one, and the line in front of them.
pub(crate) struct Heavy {
    bulk: OnceLock<io::Result<Bulk>>,
    line: Arc<Line>,
    threads: usize,
}

impl Heavy {
    pub(crate) fn new() -> Self {
        // Half of the processors at most: what is left serves.
        let threads = available_parallelism().map_or(1, |all| all.get().div_ceil(2));
        let line = Line::new(LineSpec {
            slots: u32::try_from(threads).unwrap_or(1),
            queue: QUEUE,
            wait: WAIT,
        });
        Self {
            bulk: OnceLock::new(),
            line,
            threads,
        }
    }

    /// Runs `work` when it is this tenant's turn. Dropping the future leaves the line; work that has begun is finished.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] when its turn does not come in time, [`Refusal::Internal`] when it could not be done.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        caller: &Admission,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.line.slot(caller, &mut Patience::default()).await;
        let turn = turn.map_err(|busy| Refusal::Overloaded {
            retry_after_s: busy.retry_after_s,
        })?;
        let bulk = self.bulk.get_or_init(|| Bulk::start(self.threads));
        let bulk = bulk.as_ref().map_err(|_| Refusal::Internal)?;
        // The turn ends with the work, whoever still waits for it.
        let work = move || {
            let made = work();
            drop(turn);
            made
        };
        bulk.run(work).await.map_err(|_| Refusal::Internal)
    }

    /// Forgets idle tenants. Call it now and then.
    pub(crate) fn sweep(&self) {
        self.line.sweep();
    }
}
