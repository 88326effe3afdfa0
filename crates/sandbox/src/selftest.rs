//! What decides at the start whether a backend is offered: the quick probes, run as a tenant's programs would be.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::error::SandboxError;
use crate::grant::{Floor, Grant, Isolation, OsUser};
use crate::probe::{self, Probe, Setting, Verdict};
use crate::report::Offer;
use crate::run;
use crate::runtime;
use crate::walls::Walls;
use crate::workspace;

/// Probes of the self-test that run at once.
const PROBES_AT_ONCE: usize = 4;
/// The user of the self-test: the last one, which no tenant is likely to have.
const PROBE_USER: u32 = 99_999;
/// What is to be done about a disk that was full at the start: nothing looks at it again.
pub(crate) const FREE_AND_RESTART: &str = "free some of it, then restart the gateway";
/// What one of the quick probes makes.
const LEAVES_A_LINK: &str = "follow a planted link/link";

/// Puts the walls of bubblewrap up and lets the quick probes try to escape.
pub(crate) async fn bubblewrap(place: Arc<OwnedFd>) -> Result<(Arc<Walls>, Offer), SandboxError> {
    let walls = walls(&place).await?;
    let offer = test(&walls, &place).await?;
    Ok((walls, offer))
}

async fn walls(place: &Arc<OwnedFd>) -> Result<Arc<Walls>, SandboxError> {
    if workspace::is_short(place.as_fd())? {
        return Err(SandboxError::NotOffered(format!(
            "the disk is nearly full (less than 1 GiB, of a small disk an eighth, is free): {FREE_AND_RESTART}"
        )));
    }
    let place = Arc::clone(place);
    let built = tokio::task::spawn_blocking(move || Walls::new(&place)).await;
    let built = built.map_err(|error| SandboxError::System(error.to_string()))?;
    Ok(Arc::new(built?))
}

/// Lets the quick probes try. Says which one was not held.
async fn test(walls: &Arc<Walls>, place: &Arc<OwnedFd>) -> Result<Offer, SandboxError> {
    let began = Instant::now();
    let room = Scratch::new(Arc::clone(place))?;
    let setting = Setting::of_this_process(room.canary()?);
    let (quick, cannot): (Vec<&Probe>, Vec<&Probe>) = probe::all()
        .filter(|probe| probe.quick)
        .partition(|probe| !probe.needs_python() || walls.runtime.has_python());
    let no_python = |probe: &&Probe| (probe.name, "there is no python3".to_owned());
    let mut untried: Vec<_> = cannot.iter().map(no_python).collect();
    let mut held = 0;
    for batch in quick.chunks(PROBES_AT_ONCE) {
        let tries: Vec<_> = batch
            .iter()
            .map(|probe| Box::pin(attempt(walls, &room, probe, &setting)))
            .collect();
        for (probe, tried) in batch.iter().zip(join_all(tries).await) {
            match tried? {
                Verdict::Held => held += 1,
                Verdict::Untried(why) => untried.push((probe.name, why)),
                Verdict::Escaped(how) => {
                    return Err(SandboxError::NotOffered(format!(
                        "`{}` escaped: {how}",
                        probe.name
                    )));
                }
                Verdict::Unclear(what) => {
                    return Err(SandboxError::NotOffered(format!(
                        "`{}` did not end as it must: {what}",
                        probe.name
                    )));
                }
            }
        }
    }
    if walls.is_root && room.owner(LEAVES_A_LINK)? != probe_user()?.uid() {
        return Err(SandboxError::NotOffered(
            "what a program makes does not belong to its user".to_owned(),
        ));
    }
    Ok(Offer {
        name: "bubblewrap",
        version: walls.bubblewrap.version.clone(),
        isolation: Isolation::Namespaces,
        probes: held,
        untried,
        tested_in: began.elapsed(),
    })
}

async fn attempt(
    walls: &Arc<Walls>,
    room: &Scratch,
    probe: &Probe,
    setting: &Setting,
) -> Result<Verdict, SandboxError> {
    let user = probe_user()?;
    let demand = Floor::at(Isolation::Namespaces).raised(None);
    let grant = Grant::new(room.workspace(probe.name)?, user, demand, probe.ceilings())?;
    // Of its own: what is being opened is not asked to run anything yet.
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned();
    let place = place.map_err(|_| SandboxError::Busy)?;
    let outcome = run::run(walls, grant, probe.program(setting), place).await?;
    Ok(probe.judge(&outcome))
}

fn probe_user() -> Result<OsUser, SandboxError> {
    let user = OsUser::numbered(PROBE_USER);
    user.ok_or_else(|| SandboxError::System("there is no user for probes".to_owned()))
}

/// Workspaces of the self-test, removed with the value.
struct Scratch {
    place: Arc<OwnedFd>,
    name: String,
    directory: OwnedFd,
}

impl Scratch {
    fn new(place: Arc<OwnedFd>) -> Result<Self, SandboxError> {
        let (name, directory) = runtime::fresh_dir(place.as_fd(), "selftest").map_err(unusable)?;
        Ok(Self {
            place,
            name,
            directory,
        })
    }

    fn workspace(&self, name: &str) -> Result<OwnedFd, SandboxError> {
        rustix::fs::mkdirat(&self.directory, name, Mode::RWXU).map_err(unusable)?;
        runtime::open_dir(self.directory.as_fd(), name).map_err(unusable)
    }

    /// Whose file a probe left.
    fn owner(&self, path: &str) -> Result<u32, SandboxError> {
        let stat = rustix::fs::statat(&self.directory, path, AtFlags::SYMLINK_NOFOLLOW);
        Ok(stat.map_err(unusable)?.st_uid)
    }

    /// The path of a file that no program may find.
    fn canary(&self) -> Result<String, SandboxError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::openat(&self.directory, "canary", flags, mode).map_err(unusable)?;
        let link = format!("/proc/self/fd/{}", self.directory.as_raw_fd());
        let path = rustix::fs::readlink(link, Vec::new()).map_err(unusable)?;
        Ok(format!("{}/canary", path.to_string_lossy()))
    }
}

fn unusable(error: Errno) -> SandboxError {
    SandboxError::Workspace(format!("of the self-test cannot be used: {error}"))
}

impl Drop for Scratch {
    fn drop(&mut self) {
        runtime::remove(self.place.as_fd(), &self.name);
    }
}
