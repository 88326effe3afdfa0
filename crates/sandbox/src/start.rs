//! The only place that starts programs, and the threads that do it and that put away what is left.
//!
//! A program dies with the thread that started it, which is how it cannot outlive a gateway that was killed. So one thread of
//! ours starts them all and lives as long as the sandbox: the executor's threads come and go. It does nothing that waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::cgroup::Group;

/// Orders that wait for the thread: each takes a millisecond or two.
const ORDERS_MAX: usize = 256;
/// The last processes of a sandbox are dead within this after its first one, or something is wrong with the kernel.
const DEATH_WAIT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

const NO_WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// The threads that start programs and put them away.
#[derive(Debug)]
pub(crate) struct Starter {
    // Options so that they can be dropped before the threads are waited for: these end when nobody can order any more.
    orders: Option<SyncSender<Order>>,
    burials: Option<SyncSender<Box<Remains>>>,
    starting: Option<JoinHandle<()>>,
    burying: Option<JoinHandle<()>>,
    /// Set when nobody waits for the death of what does not die.
    ending: Arc<AtomicBool>,
}

/// A program to start.
#[derive(Debug)]
struct Order {
    plan: Plan,
    burials: SyncSender<Box<Remains>>,
    answer: oneshot::Sender<io::Result<Running>>,
}

/// What is started, and what goes with it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) command: Command,
    /// Put away with the program.
    pub(crate) group: Option<Group>,
    /// Where the program reports.
    pub(crate) status: OwnedFd,
    /// One of those that may run at once; given back when the last process is dead, and not before.
    pub(crate) place: OwnedSemaphorePermit,
}

/// A sandbox that runs. Dropping it ends it at once; a thread of its own sees to the rest.
#[derive(Debug)]
pub(crate) struct Running {
    remains: Option<Box<Remains>>,
    burials: SyncSender<Box<Remains>>,
}

/// What must be put away after the end. Dropping it ends what still runs, and waits for that.
#[derive(Debug)]
pub(crate) struct Remains {
    /// `None` once it is buried.
    child: Option<Child>,
    outer: OwnedFd,
    inner: Arc<Inner>,
    /// Where bubblewrap tells it, for those who end it before they have read that.
    status: OwnedFd,
    group: Option<Group>,
    _place: OwnedSemaphorePermit,
}

/// The first process inside, once bubblewrap has told which it is. Its death is that of all the others.
#[derive(Debug)]
pub(crate) struct Inner {
    /// The number of bubblewrap, whose child it is.
    outer: u32,
    handle: OnceLock<OwnedFd>,
}

/// What is known of a sandbox when its processes are dead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buried {
    /// Whether the death of the last process was seen.
    pub(crate) all_dead: bool,
    /// Processor time of all of them.
    pub(crate) cpu: Duration,
    /// Whether the kernel killed one for want of memory.
    pub(crate) out_of_memory: bool,
}

impl Starter {
    /// Starts the threads.
    pub(crate) fn new() -> io::Result<Self> {
        let (orders, ordered) = sync_channel(ORDERS_MAX);
        let (burials, dead) = sync_channel(ORDERS_MAX);
        let ending = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ending);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let starting = thread("sandbox-starter").spawn(move || start_all(&ordered))?;
        let burying = thread("sandbox-burier").spawn(move || bury_all(&dead, &seen))?;
        Ok(Self {
            orders: Some(orders),
            burials: Some(burials),
            starting: Some(starting),
            burying: Some(burying),
            ending,
        })
    }

    /// Starts a program.
    pub(crate) async fn start(&self, plan: Plan) -> io::Result<Running> {
        let gone = || io::Error::other("the thread that starts programs is gone");
        let (answer, started) = oneshot::channel();
        let order = Order {
            plan,
            burials: self.burials.as_ref().ok_or_else(gone)?.clone(),
            answer,
        };
        match self.orders.as_ref().ok_or_else(gone)?.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(io::Error::other("too many programs start at once"));
            }
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        started.await.map_err(|_| gone())?
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        // The burials first: what is not yet dead dies with the thread that started it, and bubblewrap must not die alone.
        self.burials = None;
        let burying = self.burying.take().map(JoinHandle::join);
        self.orders = None;
        let starting = self.starting.take().map(JoinHandle::join);
        // A panic in them was printed by itself.
        let _panicked = (burying, starting);
    }
}

impl Running {
    /// Readable when bubblewrap has ended.
    pub(crate) fn outer(&self) -> io::Result<OwnedFd> {
        let remains = self
            .remains
            .as_ref()
            .ok_or_else(|| io::Error::other("ended"))?;
        remains.outer.try_clone()
    }

    /// Where to put the first process inside.
    pub(crate) fn inner(&self) -> io::Result<Arc<Inner>> {
        let remains = self.remains.as_ref();
        let inner = remains.map(|remains| Arc::clone(&remains.inner));
        inner.ok_or_else(|| io::Error::other("ended"))
    }

    /// The control group of all its processes.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.remains.as_ref()?.group.as_ref()
    }

    /// Ends it: bubblewrap dies, with it the first process inside, with that all others.
    pub(crate) fn kill(&self) {
        if let Some(remains) = &self.remains {
            remains.kill();
        }
    }

    /// Waits for the death of all processes. Blocks, for long only where the kernel holds one; that one is waited for elsewhere.
    pub(crate) fn bury(mut self) -> Option<Buried> {
        let buried = self.remains.as_mut()?.bury();
        if buried.all_dead {
            self.remains = None;
        }
        Some(buried)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(remains) = self.remains.take() else {
            return;
        };
        remains.kill();
        // Where the thread has too much to do, it comes back and is dropped here, which waits.
        drop(self.burials.try_send(remains));
    }
}

impl Inner {
    /// Takes a handle of it from what bubblewrap has reported so far. Where it is dead there is nothing to wait for, and its
    /// number may be somebody else's, whom nobody may kill in its place.
    pub(crate) fn note(&self, status: &[u8]) {
        if self.handle.get().is_none()
            && let Some(pid) = number_after(status, "\"child-pid\":")
            && let Ok(pid) = u32::try_from(pid)
            && let Ok(handle) = pidfd(pid)
            && parent_of(pid) == Some(self.outer)
            // Last: whoever lives still is the one whose parent was read.
            && !poll_for(handle.as_fd(), &NO_WAIT)
        {
            // Somebody else was faster, with the same one.
            let _set = self.handle.set(handle);
        }
    }
}

impl Remains {
    /// Ends all processes, where the first one inside is known. Bubblewrap alone must not be killed before: the one inside binds
    /// its life to it only when its walls stand, and would be left over.
    fn kill(&self) {
        if let Some(inner) = self.inner.handle.get() {
            for process in [inner, &self.outer] {
                // Dead already.
                let _gone = pidfd_send_signal(process, Signal::KILL);
            }
        }
    }

    /// Reads which is the first process inside, where nobody has done so yet. It is told within milliseconds; bubblewrap ends
    /// where there is none.
    fn find_inner(&self) {
        let mut told = Vec::new();
        let mut buffer = [0; 512];
        while self.inner.handle.get().is_none() && wait_for(self.status.as_fd()) {
            match rustix::io::read(&self.status, &mut buffer) {
                Ok(0) => return,
                Ok(read) => told.extend(buffer.iter().take(read)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return,
            }
            self.inner.note(&told);
        }
    }

    /// Waits for the death of all processes, and reads what their group counted. To be called again where one is not dead.
    fn bury(&mut self) -> Buried {
        self.find_inner();
        self.kill();
        // Where nothing is inside, or nothing was told in time.
        let _gone = pidfd_send_signal(&self.outer, Signal::KILL);
        let mut all_dead = wait_for(self.outer.as_fd());
        let mut cpu = None;
        if all_dead && let Some(mut child) = self.child.take() {
            // Read from the dead process before it is put away.
            cpu = cpu_of(child.id());
            all_dead = child.wait().is_ok();
        }
        // Where it never told, it was killed before, or nothing was started.
        if let Some(inner) = self.inner.handle.get() {
            all_dead &= wait_for(inner.as_fd());
        }
        let mut buried = Buried {
            all_dead,
            cpu: cpu.unwrap_or_default(),
            out_of_memory: false,
        };
        if let Some(group) = &self.group {
            group.kill();
            buried.cpu = group.cpu().unwrap_or(buried.cpu);
            buried.out_of_memory = group.out_of_memory();
        }
        if all_dead {
            self.group = None;
        }
        buried
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.bury();
        }
    }
}

/// A command with an empty environment and nothing to read. The only constructor of one.
pub(crate) fn command(program: &str) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the crate that starts programs, and the function that does it"
    )]
    let mut command = Command::new(program);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// What a program of the machine says of its version.
pub(crate) fn version(program: &str) -> io::Result<String> {
    let output = command(program).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn start_all(orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        let Order {
            plan,
            burials,
            answer,
        } = order;
        let running = spawn(plan).map(|remains| Running {
            remains: Some(remains),
            burials,
        });
        // Nobody waits any more: what comes back is dropped, which ends it.
        drop(answer.send(running));
    }
}

/// Each by a thread of its own, so that none waits for another: there are no more than may run at once.
fn bury_all(dead: &Receiver<Box<Remains>>, ending: &AtomicBool) {
    std::thread::scope(|threads| {
        while let Ok(mut remains) = dead.recv() {
            let burial =
                move || while !remains.bury().all_dead && !ending.load(Ordering::Relaxed) {};
            // Where there is no thread to be had, they are dropped here, which waits.
            drop(std::thread::Builder::new().spawn_scoped(threads, burial));
        }
    });
}

fn spawn(plan: Plan) -> io::Result<Box<Remains>> {
    let Plan {
        mut command,
        group,
        status,
        place,
    } = plan;
    let mut child = command.spawn()?;
    let outer = match pidfd(child.id()) {
        Ok(outer) => outer,
        Err(error) => {
            // Nobody but us waits for it, so that the number is still its own.
            child.kill()?;
            child.wait()?;
            if let Some(group) = &group {
                group.kill();
            }
            return Err(error);
        }
    };
    // Fails where it is no child of ours: one that the system put away by itself, for a gateway that was started to have no news
    // of its children, would leave its number to others.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::PidFd(outer.as_fd()), options)?;
    let inner = Inner {
        outer: child.id(),
        handle: OnceLock::new(),
    };
    Ok(Box::new(Remains {
        child: Some(child),
        outer,
        inner: Arc::new(inner),
        status,
        group,
        _place: place,
    }))
}

/// A handle of a process that no later process of the same number answers to.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such number of a process"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// The number that follows a key in bubblewrap's one-line JSON, whose values are all numbers.
pub(crate) fn number_after(status: &[u8], key: &str) -> Option<u64> {
    let text = std::str::from_utf8(status).ok()?;
    let (_, after) = text.split_once(key)?;
    let after = after.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    after.get(..end)?.parse().ok()
}

/// Whether a process ends, or a pipe has something to say, before it is given up.
fn wait_for(process: BorrowedFd<'_>) -> bool {
    poll_for(process, &DEATH_WAIT)
}

fn poll_for(process: BorrowedFd<'_>, longest: &Timespec) -> bool {
    let mut one = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut one, Some(longest)).is_ok_and(|ready| ready == 1)
}

/// Processor time of a dead process and of all that died before it below it.
fn cpu_of(pid: u32) -> Option<Duration> {
    /// Always a hundred, whatever the kernel was built with.
    const TICKS_A_SECOND: u64 = 100;
    let fields = fields_of(pid)?;
    let ticks = fields.iter().skip(11).take(4);
    let ticks: u64 = ticks.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Some(Duration::from_millis(
        ticks.saturating_mul(1000 / TICKS_A_SECOND),
    ))
}

fn parent_of(pid: u32) -> Option<u32> {
    fields_of(pid)?.get(1)?.parse().ok()
}

/// What the kernel tells of a process in one line, from its state on.
fn fields_of(pid: u32) -> Option<Vec<String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel's about our own child, or its child"
    )]
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets too.
    let (_, after) = line.rsplit_once(')')?;
    Some(after.split_whitespace().map(ToOwned::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::sync::Semaphore;

    fn sleeping() -> Command {
        let mut command = command("/bin/sleep");
        command.arg("1000");
        command
    }

    async fn start(starter: &Starter, places: &Arc<Semaphore>) -> (Running, io::PipeWriter) {
        let (status, told) = io::pipe().unwrap();
        let plan = Plan {
            command: sleeping(),
            group: None,
            status: status.into(),
            place: Arc::clone(places).try_acquire_owned().unwrap(),
        };
        (starter.start(plan).await.unwrap(), told)
    }

    /// Nobody tells which is the first process inside, and the burial waits for that.
    #[tokio::test]
    async fn a_burial_that_takes_long_keeps_its_place_and_nobody_from_starting() {
        let starter = Starter::new().unwrap();
        let places = Arc::new(Semaphore::new(2));
        let (long, told) = start(&starter, &places).await;
        drop(long);
        let began = Instant::now();
        let other = start(&starter, &places).await;
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(places.available_permits(), 0);
        drop((told, other));
        let both = tokio::time::timeout(Duration::from_secs(4), places.acquire_many(2)).await;
        assert!(both.is_ok());
    }

    #[test]
    fn only_a_child_of_bubblewrap_is_taken_for_the_first_process_inside() {
        let mut child = sleeping().spawn().unwrap();
        let told = format!("{{ \"child-pid\": {} }}", child.id());
        let noted = |outer| {
            let inner = Inner {
                outer,
                handle: OnceLock::new(),
            };
            inner.note(told.as_bytes());
            inner.handle.get().is_some()
        };
        let (own, strange) = (noted(std::process::id()), noted(child.id()));
        child.kill().unwrap();
        assert!(own && !strange);
        // It is dead, and its number may be given to another as soon as it was waited for.
        poll_for(pidfd(child.id()).unwrap().as_fd(), &DEATH_WAIT);
        assert!(!noted(std::process::id()));
        child.wait().unwrap();
        assert!(!noted(std::process::id()));
    }
}
