//! The only place that starts programs, and the thread that does it.
//!
//! A program dies with the thread that started it, which is how it cannot outlive a gateway that was killed. So one thread of
//! ours starts them all and lives as long as the sandbox: the executor's threads come and go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::oneshot;

use crate::cgroup::Group;

/// Orders that wait for the thread: each takes a millisecond or two.
const ORDERS_MAX: usize = 256;
/// The last processes of a sandbox are dead within this after its first one, or something is wrong with the kernel.
const DEATH_WAIT: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// The thread that starts programs.
#[derive(Debug)]
pub(crate) struct Starter {
    // An option so that it can be dropped before the thread is waited for: the thread ends when nobody can order any more.
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    Start(
        Box<(Command, Option<Group>, OwnedFd)>,
        oneshot::Sender<io::Result<Box<Remains>>>,
    ),
    Bury(Box<Remains>),
}

/// A sandbox that runs. Dropping it ends it at once; the thread sees to the rest.
#[derive(Debug)]
pub(crate) struct Running {
    remains: Option<Box<Remains>>,
    orders: SyncSender<Order>,
}

/// What must be put away after the end. Dropping it ends what still runs, and waits for that.
#[derive(Debug)]
pub(crate) struct Remains {
    /// `None` once it is buried.
    child: Option<Child>,
    outer: OwnedFd,
    /// The first process inside, once bubblewrap has told which it is. Its death is that of all the others.
    inner: Arc<OnceLock<OwnedFd>>,
    /// Where bubblewrap tells it, for those who end it before they have read that.
    status: OwnedFd,
    group: Option<Group>,
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
    /// Starts the thread.
    pub(crate) fn new() -> io::Result<Self> {
        let (orders, waiting) = sync_channel(ORDERS_MAX);
        let thread = std::thread::Builder::new()
            .name("sandbox-starter".to_owned())
            .spawn(move || work(&waiting))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Starts `command`, whose group is put away with it and which reports to `status`.
    pub(crate) async fn start(
        &self,
        command: Command,
        group: Option<Group>,
        status: OwnedFd,
    ) -> io::Result<Running> {
        let gone = || io::Error::other("the thread that starts programs is gone");
        let (answer, started) = oneshot::channel();
        let order = Order::Start(Box::new((command, group, status)), answer);
        let orders = self.orders.as_ref().ok_or_else(gone)?.clone();
        match orders.try_send(order) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                return Err(io::Error::other("too many programs start at once"));
            }
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        let remains = started.await.map_err(|_| gone())??;
        Ok(Running {
            remains: Some(remains),
            orders,
        })
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it was printed by itself.
            let _panicked = thread.join();
        }
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
    pub(crate) fn inner(&self) -> Arc<OnceLock<OwnedFd>> {
        self.remains
            .as_ref()
            .map_or_else(Arc::default, |remains| Arc::clone(&remains.inner))
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

    /// What is left, for [`Remains::bury`].
    pub(crate) fn into_remains(mut self) -> Option<Box<Remains>> {
        self.remains.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(remains) = self.remains.take() else {
            return;
        };
        remains.kill();
        // Where the thread has too much to do, the order comes back and is dropped here, which waits.
        drop(self.orders.try_send(Order::Bury(remains)));
    }
}

impl Remains {
    /// Ends all processes, where the first one inside is known. Bubblewrap alone must not be killed before: the one inside binds
    /// its life to it only when its walls stand, and would be left over.
    fn kill(&self) {
        if let Some(inner) = self.inner.get() {
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
        while self.inner.get().is_none() && wait_for(self.status.as_fd()) {
            match rustix::io::read(&self.status, &mut buffer) {
                Ok(0) => return,
                Ok(read) => told.extend(buffer.iter().take(read)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return,
            }
            note_inner(&told, &self.inner);
        }
    }

    /// Waits for the death of all processes, and reads what their group counted. Blocks, for long only where the kernel does.
    pub(crate) fn bury(&mut self) -> Buried {
        self.find_inner();
        self.kill();
        // Where nothing is inside, or nothing was told in time.
        let _gone = pidfd_send_signal(&self.outer, Signal::KILL);
        let mut all_dead = wait_for(self.outer.as_fd());
        let mut cpu = None;
        // One that does not die, because the kernel holds it in some call, is not waited for: others want to start.
        if let Some(mut child) = self.child.take().filter(|_| all_dead) {
            // Read from the dead process before it is put away.
            cpu = cpu_of(child.id());
            all_dead = child.wait().is_ok();
        }
        // Where it never told, it was killed before, or nothing was started.
        if let Some(inner) = self.inner.get() {
            all_dead &= wait_for(inner.as_fd());
        }
        let mut buried = Buried {
            all_dead,
            cpu: cpu.unwrap_or_default(),
            out_of_memory: false,
        };
        if let Some(group) = self.group.take() {
            group.kill();
            buried.cpu = group.cpu().unwrap_or(buried.cpu);
            buried.out_of_memory = group.out_of_memory();
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

fn work(orders: &Receiver<Order>) {
    while let Ok(order) = orders.recv() {
        match order {
            Order::Start(plan, answer) => {
                let (command, group, status) = *plan;
                // Nobody waits any more: what comes back is dropped, which ends it.
                drop(answer.send(spawn(command, group, status)));
            }
            Order::Bury(remains) => drop(remains),
        }
    }
}

fn spawn(mut command: Command, group: Option<Group>, status: OwnedFd) -> io::Result<Box<Remains>> {
    let mut child = command.spawn()?;
    match pidfd(child.id()) {
        Ok(outer) => Ok(Box::new(Remains {
            child: Some(child),
            outer,
            inner: Arc::default(),
            status,
            group,
        })),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error)
        }
    }
}

/// A handle of a process that no later process of the same number answers to.
pub(crate) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no such number of a process"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Takes a handle of the first process inside from what bubblewrap has reported so far.
pub(crate) fn note_inner(status: &[u8], inner: &OnceLock<OwnedFd>) {
    if inner.get().is_none()
        && let Some(pid) = number_after(status, "\"child-pid\":")
        && let Ok(pid) = u32::try_from(pid)
        // Where it is dead already there is nothing to wait for.
        && let Ok(handle) = pidfd(pid)
    {
        // Somebody else was faster, with the same one.
        let _set = inner.set(handle);
    }
}

/// The number that follows a key in bubblewrap's one-line JSON, whose values are all numbers.
pub(crate) fn number_after(status: &[u8], key: &str) -> Option<u64> {
    let text = std::str::from_utf8(status).ok()?;
    let (_, after) = text.split_once(key)?;
    let after = after.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    after.get(..end)?.parse().ok()
}

/// Whether a process has ended, or a pipe has something to say.
fn wait_for(process: BorrowedFd<'_>) -> bool {
    let mut one = [PollFd::new(&process, PollFlags::IN)];
    poll(&mut one, Some(&DEATH_WAIT)).is_ok_and(|ready| ready == 1)
}

/// Processor time of a dead process and of all that died before it below it, in its line of `/proc`.
fn cpu_of(pid: u32) -> Option<Duration> {
    /// Always a hundred, whatever the kernel was built with.
    const TICKS_A_SECOND: u64 = 100;
    #[expect(
        clippy::disallowed_methods,
        reason = "a file of the kernel's about our own child"
    )]
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, brackets too.
    let (_, after) = line.rsplit_once(')')?;
    let fields = after.split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.map(|field| field.parse::<u64>().unwrap_or(0)).sum();
    Some(Duration::from_millis(
        ticks.saturating_mul(1000 / TICKS_A_SECOND),
    ))
}
