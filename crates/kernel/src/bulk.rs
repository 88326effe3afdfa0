//! Threads of the lower class: for work that takes long and that nobody else should wait for. The system runs them when the threads
//! that serve leave time, and a little even when they do not.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Builder, JoinHandle};

use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Nice levels below the threads that serve: a tenth of their time where both want all of it.
const LOWER_BY: i32 = 10;
/// Jobs that wait for a thread. Whoever hands work in takes turns before; this is the backstop.
const JOBS_MAX: usize = 64;

/// Some threads of the lower class. Dropping it finishes what was handed in.
pub struct Bulk {
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// The work was not done: too much waits, or it panicked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotDone;

impl Bulk {
    /// Starts the threads, at least one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel::<Job>(JOBS_MAX);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut bulk = Self {
            jobs: Some(jobs),
            threads: Vec::new(),
        };
        for index in 0..threads.max(1) {
            let waiting = Arc::clone(&waiting);
            let thread = Builder::new()
                .name(format!("bulk-{index}"))
                .spawn(move || work(&waiting))?;
            bulk.threads.push(thread);
        }
        Ok(bulk)
    }

    /// Threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Runs `work` on one of the threads. Dropping the future does not stop it.
    ///
    /// # Errors
    /// [`NotDone`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (done, result) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Whoever asked may be gone; what was made is dropped here then.
            drop(done.send(work()));
        });
        match self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => result.await.map_err(|_| NotDone),
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => Err(NotDone),
        }
    }
}

fn work(waiting: &Mutex<Receiver<Job>>) {
    lower(LOWER_BY);
    loop {
        let job = waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        match job {
            // A panic ends that job and no other; its text went to the log by the hook.
            Ok(job) => drop(catch_unwind(AssertUnwindSafe(job))),
            Err(_closed) => return,
        }
    }
}

/// On Linux this is about the calling thread alone. A system that does not allow it runs the thread like any other.
fn lower(by: i32) {
    let _not_allowed_here = rustix::process::nice(by);
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.jobs = None;
        let this = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last one who held it may have been a job: a thread does not wait for itself.
            if thread.thread().id() != this {
                drop(thread.join());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_below_the_others_and_a_panic_ends_one_job() {
        let bulk = Bulk::start(1).unwrap();
        let here = rustix::process::getpriority_process(None).unwrap();
        let there = bulk
            .run(|| rustix::process::getpriority_process(None).unwrap())
            .await
            .unwrap();
        assert!(there > here || here == 19, "{there} and {here}");
        assert_eq!(bulk.run(|| panic!("this job")).await, Err::<(), _>(NotDone));
        assert_eq!(bulk.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn what_was_handed_in_is_finished_and_a_job_may_hold_the_last_handle() {
        let bulk = Arc::new(Bulk::start(1).unwrap());
        let held = Arc::clone(&bulk);
        let (seen, saw) = sync_channel(1);
        let running = tokio::time::timeout(
            std::time::Duration::from_millis(20),
            bulk.run(move || {
                thread::sleep(std::time::Duration::from_millis(100));
                drop(held);
                seen.send(()).unwrap();
            }),
        );
        assert!(running.await.is_err());
        drop(bulk);
        saw.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    }
}
