//! One run from start to end.

use std::io::{self, PipeReader, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use sys::{Entry, Identity, Resource, Tree};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use crate::bubblewrap::argv::{Shape, Sources, argv};
use crate::bubblewrap::lint::lint;
use crate::cgroup::{Controller, Group};
use crate::error::SandboxError;
use crate::grant::{Ceilings, Grant, OsUser, Program};
use crate::outcome::{Captured, Ceiling, End, Outcome};
use crate::start::{self, Buried, Inner, Plan, Running, number_after};
use crate::walls::Walls;
use crate::workspace::{self, Listing, Overfull, Room};

/// How often processor time and memory are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// The workspace is walked so much more rarely than a walk takes, so that watching costs a tenth at most.
const WALK_REST: u32 = 10;
/// Output that is still in the pipes after the end is read for so long.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// A killed process is dead within this.
const DEATH: Duration = Duration::from_secs(5);
/// Bytes that bubblewrap reports: two short lines.
const STATUS_BYTES_MAX: usize = 4096;
/// Bytes of a refusal of bubblewrap that are passed on.
const REFUSAL_BYTES_MAX: usize = 500;
/// Where the child sees runtime and workspace when it becomes another user.
const STAGED: [(&std::ffi::CStr, &str); 2] = [
    (c"/tmp/runtime", "/tmp/runtime"),
    (c"/tmp/workspace", "/tmp/workspace"),
];

/// What is ready before the start.
struct Prepared {
    plan: Plan,
    workspace: Arc<OwnedFd>,
    before: Listing,
    stdout: PipeReader,
    stderr: PipeReader,
    status: PipeReader,
}

/// What came out of the pipes.
#[derive(Default)]
struct Heard {
    stdout: Captured,
    stderr: Captured,
    status: Vec<u8>,
}

/// Runs one program behind the walls, and answers when its last process is dead. Dropping the future ends the program, whose
/// place is given back when that has happened.
pub(crate) async fn run(
    walls: &Arc<Walls>,
    grant: Grant,
    program: Program,
    place: OwnedSemaphorePermit,
) -> Result<Outcome, SandboxError> {
    program.check()?;
    let ceilings = grant.ceilings;
    let behind = Arc::clone(walls);
    let prepared = blocking(move || prepare(&behind, grant, &program, place)).await??;
    let Prepared {
        plan,
        workspace,
        before,
        stdout,
        stderr,
        status,
    } = prepared;
    let started = Instant::now();
    let running = walls.starter.start(plan).await;
    let running = running.map_err(|error| SandboxError::Start(error.to_string()))?;
    let (heard, limited) = attend(&running, [stdout, stderr, status], &workspace, &ceilings)
        .await
        .map_err(|error| SandboxError::System(error.to_string()))?;
    let room = room(&ceilings);
    let (buried, after) = blocking(move || {
        let buried = running.bury();
        (buried, workspace::list(workspace.as_fd(), room))
    })
    .await?;
    let wall = started.elapsed();
    let buried = buried.filter(|buried| buried.all_dead);
    let buried = buried.ok_or_else(|| SandboxError::System("a process does not die".to_owned()))?;
    let (after, limited) = match after? {
        Ok(after) => (after, limited),
        Err(overfull) => (before.clone(), limited.or(Some(overfull.into()))),
    };
    let (changes, changes_cut) = workspace::compare(&before, &after);
    Ok(Outcome {
        end: end(limited, &buried, &heard, &ceilings)?,
        stdout: heard.stdout,
        stderr: heard.stderr,
        changes,
        changes_cut,
        wall,
        cpu: buried.cpu,
    })
}

impl From<Overfull> for Ceiling {
    fn from(overfull: Overfull) -> Self {
        match overfull {
            Overfull::Files => Self::Files,
            Overfull::Bytes => Self::Disk,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SandboxError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| SandboxError::System(error.to_string()))
}

fn room(ceilings: &Ceilings) -> Room {
    Room {
        files: ceilings.files,
        bytes: ceilings.disk_bytes,
    }
}

/// Everything that touches the disk or the system before the start.
fn prepare(
    walls: &Walls,
    grant: Grant,
    program: &Program,
    place: OwnedSemaphorePermit,
) -> Result<Prepared, SandboxError> {
    let failed = |error: io::Error| SandboxError::Start(error.to_string());
    let Grant {
        workspace,
        user,
        ceilings,
        ..
    } = grant;
    let become_user = walls.is_root.then_some(user);
    let before = take_over(&workspace, become_user, room(&ceilings))?;
    let made = walls.cgroups.group(&ceilings);
    let group = made.map_err(|error| failed(error.into()))?;
    let mut entry = Entry {
        limits: limits(walls, &ceilings),
        ..Entry::default()
    };
    if let Some(group) = &group {
        entry.groups = group.doors().map_err(|error| failed(error.into()))?;
    }
    let (stdout, stdout_end) = io::pipe().map_err(failed)?;
    let (stderr, stderr_end) = io::pipe().map_err(failed)?;
    let (status, status_end) = io::pipe().map_err(failed)?;
    let sources = sources(walls, &workspace, become_user, &mut entry).map_err(failed)?;
    let filters = [memory(&walls.filters[0])?, memory(&walls.filters[1])?];
    let counted = walls.cgroups.version(Controller::Processes).is_some();
    let shape = Shape {
        sources,
        filters: [filters[0].as_raw_fd(), filters[1].as_raw_fd()],
        status: status_end.as_raw_fd(),
        temporary_bytes: ceilings.temporary_bytes,
        processes: (!counted).then_some(ceilings.processes),
    };
    entry.keep.extend(filters);
    entry.keep.push(status_end.into());
    let argv = argv(&shape, program);
    lint(&argv).map_err(|why| SandboxError::Start(format!("bubblewrap is not started: {why}")))?;
    let mut command = start::command(walls.bubblewrap.path);
    command.args(argv).stdout(stdout_end).stderr(stderr_end);
    if !program.stdin.is_empty() {
        command.stdin(Stdio::from(memory(&program.stdin)?));
    }
    sys::prepare(&mut command, entry);
    let plan = Plan {
        command,
        group,
        status: status.try_clone().map_err(failed)?.into(),
        place,
    };
    Ok(Prepared {
        plan,
        workspace: Arc::new(workspace),
        before,
        stdout,
        stderr,
        status,
    })
}

/// Makes the workspace the user's, where there is one, and lists what is in it.
fn take_over(
    workspace: &OwnedFd,
    user: Option<OsUser>,
    room: Room,
) -> Result<Listing, SandboxError> {
    let refused = |why: &str| SandboxError::Workspace(why.to_owned());
    if workspace::is_short(workspace.as_fd())? {
        return Err(refused("is on a disk that is nearly full"));
    }
    if let Some(user) = user {
        workspace::adopt(workspace.as_fd(), user.uid(), room)?;
    }
    workspace::list(workspace.as_fd(), room)?.map_err(|_| refused("holds more than is allowed"))
}

/// Hands runtime and workspace over. Another user could not reach them, below directories that are closed to all others; so
/// the child takes them along before it becomes that user.
fn sources(
    walls: &Walls,
    workspace: &OwnedFd,
    become_user: Option<OsUser>,
    entry: &mut Entry,
) -> io::Result<Sources> {
    let directories = [
        walls.runtime.directory().try_clone_to_owned()?,
        workspace.try_clone()?,
    ];
    let Some(user) = become_user else {
        let [runtime, workspace] = directories.each_ref().map(AsRawFd::as_raw_fd);
        entry.keep.extend(directories);
        return Ok(Sources::Handed { runtime, workspace });
    };
    let places = STAGED.iter().map(|(place, _)| *place);
    let trees = directories.into_iter().zip(places);
    entry.identity = Some(Identity {
        uid: user.uid(),
        trees: trees
            .map(|(directory, place)| Tree { directory, place })
            .collect(),
    });
    Ok(Sources::Staged {
        runtime: STAGED[0].1,
        workspace: STAGED[1].1,
    })
}

/// A file in memory, to be read from its beginning.
fn memory(bytes: &[u8]) -> Result<OwnedFd, SandboxError> {
    let make = || -> io::Result<OwnedFd> {
        let mut file =
            std::fs::File::from(rustix::fs::memfd_create("sandbox", MemfdFlags::CLOEXEC)?);
        file.write_all(bytes)?;
        io::Seek::rewind(&mut file)?;
        Ok(file.into())
    };
    make().map_err(|error| SandboxError::Start(error.to_string()))
}

/// What holds for each process by itself. Memory is among it only where no control group bounds it for all: interpreters
/// reserve far more addresses than they use.
fn limits(walls: &Walls, ceilings: &Ceilings) -> Vec<(Resource, u64)> {
    let mut limits = vec![
        (Resource::Core, 0),
        (Resource::Descriptors, u64::from(ceilings.descriptors)),
        (Resource::FileSize, ceilings.file_bytes),
        (Resource::Cpu, ceilings.cpu.as_secs().saturating_add(1)),
    ];
    if walls.cgroups.version(Controller::Memory).is_none() {
        limits.push((Resource::AddressSpace, ceilings.memory_bytes));
    }
    limits
}

/// Listens and watches until the end, which it brings about where a ceiling is reached.
async fn attend(
    running: &Running,
    pipes: [PipeReader; 3],
    workspace: &Arc<OwnedFd>,
    ceilings: &Ceilings,
) -> io::Result<(Heard, Option<Ceiling>)> {
    let mut heard = Heard::default();
    #[expect(
        deprecated,
        reason = "unsound only for types that may answer with a closed descriptor; an owned one cannot, and the new form is unsafe"
    )]
    let outer = AsyncFd::with_interest(running.outer()?, Interest::READABLE)?;
    let limited = {
        let receiver = |pipe: PipeReader| pipe::Receiver::from_owned_fd(pipe.into());
        let [stdout, stderr, status] = pipes;
        let (stdout, stderr, status) = (receiver(stdout)?, receiver(stderr)?, receiver(status)?);
        let total = AtomicU64::new(0);
        let (kept, most) = (ceilings.kept_bytes, ceilings.output_bytes);
        let inner = running.inner()?;
        let listening = async {
            tokio::try_join!(
                listen(stdout, &mut heard.stdout, kept, &total, most),
                listen(stderr, &mut heard.stderr, kept, &total, most),
                follow(status, &mut heard.status, &inner),
            )
        };
        let mut listening = Box::pin(listening);
        let mut watching = Box::pin(watch(running.group(), workspace, ceilings));
        let mut deadline = Box::pin(sleep(ceilings.wall));
        let mut silent = false;
        let limited = loop {
            tokio::select! {
                biased;
                said = &mut listening, if !silent => match said {
                    Ok(_) => silent = true,
                    Err(Deaf::TooMuch) => {
                        silent = true;
                        break Some(Ceiling::Output);
                    }
                    Err(Deaf::System(error)) => return Err(error),
                },
                ended = outer.readable() => {
                    ended?.retain_ready();
                    break None;
                }
                () = &mut deadline => break Some(Ceiling::Wall),
                reached = &mut watching => break Some(reached?),
            }
        };
        running.kill();
        // What the kernel holds in some call does not die of that.
        timeout(DEATH, outer.readable()).await??.retain_ready();
        if !silent {
            // What is not read within that was written by nobody that lives.
            let _unread = timeout(LAST_WORDS, &mut listening).await;
        }
        limited
    };
    Ok((heard, limited))
}

/// Why listening ended before the end.
enum Deaf {
    TooMuch,
    System(io::Error),
}

async fn listen(
    mut pipe: pipe::Receiver,
    captured: &mut Captured,
    kept: usize,
    total: &AtomicU64,
    most: u64,
) -> Result<(), Deaf> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = pipe.read(&mut buffer).await.map_err(Deaf::System)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(());
        };
        let room = kept.saturating_sub(captured.bytes.len()).min(read);
        captured.bytes.extend(bytes.iter().take(room));
        captured.cut += (read - room) as u64;
        let before = total.fetch_add(read as u64, Ordering::Relaxed);
        if before.saturating_add(read as u64) > most {
            return Err(Deaf::TooMuch);
        }
    }
}

/// Reads what bubblewrap reports; takes a handle of the first process inside as soon as it is told.
async fn follow(mut pipe: pipe::Receiver, status: &mut Vec<u8>, inner: &Inner) -> Result<(), Deaf> {
    let mut buffer = [0; 512];
    loop {
        let read = pipe.read(&mut buffer).await.map_err(Deaf::System)?;
        if read == 0 || status.len() > STATUS_BYTES_MAX {
            return Ok(());
        }
        status.extend(buffer.iter().take(read));
        inner.note(status);
    }
}

/// Ends when a ceiling is reached that only looking finds.
async fn watch(
    group: Option<&Group>,
    workspace: &Arc<OwnedFd>,
    ceilings: &Ceilings,
) -> io::Result<Ceiling> {
    let mut walk_after = Instant::now();
    loop {
        sleep(LOOK).await;
        if let Some(group) = group {
            if group.out_of_memory() {
                return Ok(Ceiling::Memory);
            }
            if group.cpu().is_some_and(|cpu| cpu > ceilings.cpu) {
                return Ok(Ceiling::Cpu);
            }
        }
        // What a walk does not see (a file that was removed and is still open) fills the disk as well.
        if workspace::is_short(workspace.as_fd()).map_err(io::Error::other)? {
            return Ok(Ceiling::Disk);
        }
        if Instant::now() < walk_after {
            continue;
        }
        let (walked, room) = (Arc::clone(workspace), room(ceilings));
        let began = Instant::now();
        let measured =
            tokio::task::spawn_blocking(move || workspace::measure(walked.as_fd(), room)).await?;
        if let Err(overfull) = measured.map_err(io::Error::other)? {
            return Ok(overfull.into());
        }
        walk_after = Instant::now() + began.elapsed() * WALK_REST;
    }
}

/// How it ended: by us, by a limit that the kernel kept, or by itself.
fn end(
    limited: Option<Ceiling>,
    buried: &Buried,
    heard: &Heard,
    ceilings: &Ceilings,
) -> Result<End, SandboxError> {
    if let Some(ceiling) = limited {
        return Ok(End::Limited(ceiling));
    }
    if buried.out_of_memory {
        return Ok(End::Limited(Ceiling::Memory));
    }
    let Some(code) = number_after(&heard.status, "\"exit-code\":") else {
        let said: String = heard
            .stderr
            .text()
            .chars()
            .take(REFUSAL_BYTES_MAX)
            .collect();
        return Err(SandboxError::Start(format!(
            "bubblewrap ended: {}",
            said.trim()
        )));
    };
    let code = u8::try_from(code).unwrap_or(u8::MAX);
    let signal = code
        .checked_sub(128)
        .filter(|signal| (1..=64).contains(signal));
    Ok(match signal.map(i32::from) {
        Some(libc::SIGXCPU) => End::Limited(Ceiling::Cpu),
        Some(libc::SIGXFSZ) => End::Limited(Ceiling::Disk),
        // The hard limit of one process, a second after the soft one.
        Some(libc::SIGKILL) if buried.cpu >= ceilings.cpu => End::Limited(Ceiling::Cpu),
        _ => signal.map_or(End::Exited(code), End::Signalled),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: &str, cpu: Duration) -> Result<End, SandboxError> {
        let heard = Heard {
            status: status.as_bytes().to_vec(),
            ..Heard::default()
        };
        let buried = Buried {
            all_dead: true,
            cpu,
            out_of_memory: false,
        };
        end(None, &buried, &heard, &Ceilings::default())
    }

    #[test]
    fn an_end_is_read_from_what_bubblewrap_reports() {
        let line = |code: u8| {
            format!("{{ \"child-pid\": 7, \"net-namespace\": 8 }}\n{{ \"exit-code\": {code} }}\n")
        };
        for (code, expected) in [
            (0, End::Exited(0)),
            (42, End::Exited(42)),
            (128, End::Exited(128)),
            (137, End::Signalled(9)),
            (159, End::Signalled(31)),
            (152, End::Limited(Ceiling::Cpu)),
            (153, End::Limited(Ceiling::Disk)),
            (255, End::Exited(255)),
        ] {
            assert_eq!(ended(&line(code), Duration::ZERO), Ok(expected));
        }
        assert_eq!(
            ended(&line(137), Duration::from_secs(31)),
            Ok(End::Limited(Ceiling::Cpu))
        );
    }

    #[test]
    fn without_a_code_nothing_was_run() {
        assert!(matches!(
            ended("{ \"child-pid\": 7 }\n", Duration::ZERO),
            Err(SandboxError::Start(_))
        ));
        assert!(matches!(
            ended("", Duration::ZERO),
            Err(SandboxError::Start(_))
        ));
    }

    #[test]
    fn a_number_is_whole_before_it_is_read() {
        assert_eq!(number_after(b"{ \"child-pid\": 31", "\"child-pid\":"), None);
        assert_eq!(
            number_after(b"{ \"child-pid\": 31665, ", "\"child-pid\":"),
            Some(31_665)
        );
    }
}
