//! The threads that own connections, and how work reaches them.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use base::TenantUid;

use crate::database::place::Place;
use crate::database::tx::{ReadTx, WriteTx};
use crate::database::worker::{Job, Kind, Reply, Worker};
use crate::error::StoreError;
use crate::ground::{Crew, Ground, Stage};

/// How many threads and open databases.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Threads that write. A tenant's writes all run on one of them.
    pub writers: usize,
    /// Threads that read. A tenant's reads all run on one of them.
    pub readers: usize,
    /// Databases open at once for writing, and as many for reading; spread evenly over the
    /// threads, and the one used longest ago gives way.
    pub open_max: usize,
    /// A database that nobody used for so long is closed; its next use opens it again.
    pub idle_max: Duration,
}

/// Runs transactions on databases, each on the thread of its tenant.
///
/// Dropping it finishes the work in its queues, empties the logs and joins the threads.
pub struct Engine {
    // Dropped in this order: readers hold queues of writers, and the last connection to close a
    // database, the writer's, is the one that empties its log.
    readers: Pool,
    writers: Pool,
    open_now: Arc<AtomicUsize>,
}

/// The way to one thread, or to what stands in its place.
#[derive(Clone)]
pub(super) enum Queue {
    Thread(SyncSender<Job>),
    Staged(StagedQueue),
}

/// A worker without a thread: its stage runs the jobs.
#[derive(Clone)]
pub(super) struct StagedQueue {
    worker: Arc<Mutex<Worker>>,
    crew: Crew,
    // `None`: jobs run where they are handed in. Readers, who block, hand theirs to writers so.
    stage: Option<Arc<dyn Stage>>,
}

struct Pool {
    queues: Vec<Queue>,
    threads: Vec<JoinHandle<()>>,
}

// Jobs that wait for one thread; a read takes about 50 µs, so a full queue is 50 ms of work.
const QUEUE_JOBS: usize = 1024;

/// A job that waited longer is refused instead of run, if somebody still waits for its answer.
pub(super) const QUEUE_WAIT: Duration = Duration::from_secs(5);

impl Engine {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the system gives no thread.
    pub fn start(config: EngineConfig) -> Result<Self, StoreError> {
        Self::on(&Ground::system(), config)
    }

    /// The same on other ground than the system's.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn on(ground: &Ground, config: EngineConfig) -> Result<Self, StoreError> {
        let open_now = Arc::new(AtomicUsize::new(0));
        let (open_max, open) = (config.open_max, &open_now);
        let stage = ground.stage();
        let writer = || Kind::Writer;
        let writers = match stage {
            None => Pool::start("store-writer", config.writers, &config, open, writer)?,
            Some(stage) => Pool::staged(Crew::Writers, stage, open_max, open, writer()),
        };
        let reader = || Kind::Reader {
            writers: writers.queues.iter().map(Queue::at_once).collect(),
        };
        let readers = match stage {
            None => Pool::start("store-reader", config.readers, &config, open, reader)?,
            Some(stage) => Pool::staged(Crew::Readers, stage, open_max, open, reader()),
        };
        Ok(Self {
            readers,
            writers,
            open_now,
        })
    }

    /// Runs `f` in a read transaction. The work is queued at once, not at the first poll; dropping
    /// the future abandons it.
    ///
    /// # Errors
    /// What `f` returns, or why the database could not be read; [`StoreError::Busy`] when the
    /// queue is full or the wait too long.
    pub fn read<T, F>(
        &self,
        place: &Arc<Place>,
        f: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job = read_job(place, f, Reply::Task(reply));
        later(self.readers.submit(&place.uid, job), answer)
    }

    /// Runs `f` in a write transaction: committed and synced when the future resolves to `Ok`. The
    /// work is queued at once; dropping the future does not take it back.
    ///
    /// # Errors
    /// What `f` returns, or why the database could not be written; then nothing of it is kept,
    /// except as [`StoreError::Io`] says. [`StoreError::Busy`]: it did not run.
    pub fn write<T, F>(
        &self,
        place: &Arc<Place>,
        f: F,
    ) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job = write_job(place, f, Reply::Task(reply));
        later(self.writers.submit(&place.uid, job), answer)
    }

    /// [`Engine::read`] for a thread that may block: start-up and the command line.
    ///
    /// # Errors
    /// As [`Engine::read`].
    pub fn read_blocking<T, F>(&self, place: &Arc<Place>, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        self.readers
            .submit(&place.uid, read_job(place, f, Reply::Thread(reply)))?;
        now(&answer)
    }

    /// [`Engine::write`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Engine::write`].
    pub fn write_blocking<T, F>(&self, place: &Arc<Place>, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (reply, answer) = sync_channel(1);
        self.writers
            .submit(&place.uid, write_job(place, f, Reply::Thread(reply)))?;
        now(&answer)
    }

    /// Closes the database on every thread, after the work queued before; its log is emptied. The
    /// caller has already made sure that nobody opens it again.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a queue is full: try again.
    pub fn close(
        &self,
        place: &Arc<Place>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        later(
            self.readers.submit(
                &place.uid,
                last_job(place, Reply::Task(reply), Worker::close),
            ),
            answer,
        )
    }

    /// As [`Engine::close`], but file and log stay as they are: for a database that is evidence.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn abandon(
        &self,
        place: &Arc<Place>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let job = last_job(place, Reply::Task(reply), Worker::abandon);
        later(self.readers.submit(&place.uid, job), answer)
    }

    /// Looks at every page in use, however long that takes: for start-up, where nobody waits for the thread.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a page is not as it was written; otherwise as [`Engine::read`].
    pub fn check(
        &self,
        place: &Arc<Place>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let checked = Arc::clone(place);
        let reply = Reply::Task(reply);
        let job: Job = Box::new(move |worker| reply.send(worker.check(&checked)));
        later(self.readers.submit(&place.uid, job), answer)
    }

    /// [`Engine::close`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Engine::close`].
    pub fn close_blocking(&self, place: &Arc<Place>) -> Result<(), StoreError> {
        let (reply, answer) = sync_channel(1);
        self.readers.submit(
            &place.uid,
            last_job(place, Reply::Thread(reply), Worker::close),
        )?;
        now(&answer)
    }

    /// Moves the log into the database and cuts it to nothing: what was deleted with secure delete
    /// is in no file afterwards.
    ///
    /// # Errors
    /// [`StoreError::Busy`] when a reader was in the way: try again.
    pub fn checkpoint(
        &self,
        place: &Arc<Place>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        later(
            self.writers
                .submit(&place.uid, checkpoint_job(place, Reply::Task(reply))),
            answer,
        )
    }

    /// [`Engine::checkpoint`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`].
    pub fn checkpoint_blocking(&self, place: &Arc<Place>) -> Result<(), StoreError> {
        let (reply, answer) = sync_channel(1);
        self.writers
            .submit(&place.uid, checkpoint_job(place, Reply::Thread(reply)))?;
        now(&answer)
    }

    /// Open connections over all threads: at most two per database.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.open_now.load(Ordering::Relaxed)
    }
}

impl Queue {
    /// The queue that serves the tenant, always the same one. Uids are random.
    pub(super) fn of<'a>(queues: &'a [Self], uid: &TenantUid) -> Option<&'a Self> {
        let [first, second, third, fourth, ..] = *uid.as_bytes();
        let hash = u32::from_le_bytes([first, second, third, fourth]) as usize;
        queues.get(hash.checked_rem(queues.len())?)
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), StoreError> {
        match self {
            Self::Thread(jobs) => jobs.try_send(job).map_err(|refused| match refused {
                TrySendError::Full(_) => StoreError::Busy,
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
            Self::Staged(queue) => {
                queue.submit(job);
                Ok(())
            }
        }
    }

    /// The same queue for those who block until their job is done.
    fn at_once(&self) -> Self {
        match self {
            Self::Thread(_) => self.clone(),
            Self::Staged(queue) => Self::Staged(StagedQueue {
                stage: None,
                ..queue.clone()
            }),
        }
    }
}

impl StagedQueue {
    fn submit(&self, job: Job) {
        let worker = Arc::clone(&self.worker);
        let work = move || job(&mut worker.lock().unwrap_or_else(PoisonError::into_inner));
        match &self.stage {
            Some(stage) => stage.take(self.crew, Duration::ZERO, Box::new(work)),
            None => work(),
        }
    }
}

impl Pool {
    fn start(
        name: &str,
        threads: usize,
        config: &EngineConfig,
        open_now: &Arc<AtomicUsize>,
        kind: impl Fn() -> Kind,
    ) -> Result<Self, StoreError> {
        let count = threads.max(1);
        let mut pool = Self {
            queues: Vec::with_capacity(count),
            threads: Vec::with_capacity(count),
        };
        for index in 0..count {
            let (sender, jobs) = sync_channel::<Job>(QUEUE_JOBS);
            let (kind, open_now) = (kind(), Arc::clone(open_now));
            let open_max = config.open_max.div_ceil(count);
            let idle_max = config.idle_max;
            let thread = Builder::new()
                .name(format!("{name}-{index}"))
                .spawn(move || {
                    kind.take_its_class();
                    Worker::new(kind, open_max, open_now).run(&jobs, idle_max);
                })
                .map_err(|_| StoreError::Io)?;
            pool.queues.push(Queue::Thread(sender));
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    fn staged(
        crew: Crew,
        stage: &Arc<dyn Stage>,
        open_max: usize,
        open_now: &Arc<AtomicUsize>,
        kind: Kind,
    ) -> Self {
        let worker = Worker::new(kind, open_max, Arc::clone(open_now));
        let queue = StagedQueue {
            worker: Arc::new(Mutex::new(worker)),
            crew,
            stage: Some(Arc::clone(stage)),
        };
        Self {
            queues: vec![Queue::Staged(queue)],
            threads: Vec::new(),
        }
    }

    fn submit(&self, uid: &TenantUid, job: Job) -> Result<(), StoreError> {
        Queue::of(&self.queues, uid)
            .ok_or(StoreError::Closed)?
            .submit(job)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for queue in self.queues.drain(..) {
            if let Queue::Staged(queue) = queue {
                let mut worker = queue.worker.lock().unwrap_or_else(PoisonError::into_inner);
                worker.close_all();
            }
        }
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to finish.
            drop(thread.join());
        }
    }
}

fn read_job<T, F>(place: &Arc<Place>, f: F, reply: Reply<T>) -> Job
where
    T: Send + 'static,
    F: FnOnce(&ReadTx<'_>) -> Result<T, StoreError> + Send + 'static,
{
    let (place, queued) = (Arc::clone(place), Instant::now());
    Box::new(move |worker| {
        if reply.is_abandoned() {
            return;
        }
        let late = queued.elapsed() > QUEUE_WAIT;
        reply.send(if late {
            Err(StoreError::Busy)
        } else {
            worker.read(&place, f)
        });
    })
}

fn write_job<T, F>(place: &Arc<Place>, f: F, reply: Reply<T>) -> Job
where
    T: Send + 'static,
    F: FnOnce(&mut WriteTx<'_>) -> Result<T, StoreError> + Send + 'static,
{
    let (place, queued) = (Arc::clone(place), Instant::now());
    Box::new(move |worker| {
        // A write that nobody waits for any more runs: there is nobody to tell that it did not.
        let late = queued.elapsed() > QUEUE_WAIT && !reply.is_abandoned();
        reply.send(if late {
            Err(StoreError::Busy)
        } else {
            worker.write(&place, f)
        });
    })
}

fn checkpoint_job(place: &Arc<Place>, reply: Reply<()>) -> Job {
    let place = Arc::clone(place);
    Box::new(move |worker| reply.send(worker.checkpoint(&place)))
}

// Runs on the reader, which hands it on to the writer: the writer must be the last to close.
fn last_job(place: &Arc<Place>, reply: Reply<()>, end: fn(&mut Worker, &Place)) -> Job {
    let place = Arc::clone(place);
    Box::new(move |worker| {
        end(worker, &place);
        let Some(writer) = worker.writer_of(&place) else {
            return reply.send(Ok(()));
        };
        let gate = Arc::new(Mutex::new(Some(reply)));
        let (then, closing) = (Arc::clone(&gate), Arc::clone(&place));
        let handed_on = writer.submit(Box::new(move |worker| {
            end(worker, &closing);
            answer(&then, Ok(()));
        }));
        if let Err(error) = handed_on {
            answer(&gate, Err(error));
        }
    })
}

fn answer(gate: &Mutex<Option<Reply<()>>>, value: Result<(), StoreError>) {
    let reply = gate.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(reply) = reply {
        reply.send(value);
    }
}

async fn later<T>(
    queued: Result<(), StoreError>,
    answer: tokio::sync::oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    queued?;
    answer.await.unwrap_or(Err(StoreError::Closed))
}

fn now<T>(answer: &Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.recv().unwrap_or(Err(StoreError::Closed))
}
