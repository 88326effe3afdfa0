//! The sandbox as others hold it: opened once, tested before anything is offered, then asked to run.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::error::SandboxError;
use crate::grant::{Demand, Floor, Grant, OsUser, Program};
use crate::outcome::Outcome;
use crate::probe::{self, Probe, Setting, Verdict};
use crate::report::{self, Offer, Report, UidWall};
use crate::run;
use crate::runtime;
use crate::walls::{Backend, Walls};

/// Programs that run at once: each has processes, descriptors and a directory that is watched.
pub const RUNS_MAX: usize = 64;
/// Probes of the self-test that run at once.
const PROBES_AT_ONCE: usize = 4;
/// The user of the self-test: the last one, which no tenant is likely to have.
const PROBE_USER: u32 = 99_999;
/// What one of the quick probes makes.
const LEAVES_A_LINK: &str = "follow a planted link/link";

/// Runs programs, by what is offered on this machine.
#[derive(Debug)]
pub struct Sandbox {
    offered: Vec<Backend>,
    report: Report,
    runs: Semaphore,
}

impl Sandbox {
    /// Finds the backends of this machine, builds the runtime below `place` where it is missing, and lets the quick ones of
    /// [`probe::all`] try to escape. What fails one of them is not offered. Never fails: [`Sandbox::report`] tells what there is,
    /// and where there is nothing, each run is refused with the reason.
    ///
    /// `place` is a directory of the operator's that no tenant can write.
    pub async fn open(place: OwnedFd) -> Self {
        let place = Arc::new(place);
        let mut report = Report::default();
        let mut offered = Vec::new();
        match walls(&place).await {
            Ok(walls) => match test(&walls, &place).await {
                Ok(offer) => {
                    if walls.is_root {
                        report.uid_wall = UidWall::PerTenant;
                    }
                    report.limits = report::limits(&walls.cgroups);
                    report.interpreters = interpreters(&walls);
                    report.offered.push(offer);
                    offered.push(Backend::Bubblewrap(walls));
                }
                Err(why) => report.refused.push(format!("bubblewrap: {why}")),
            },
            Err(why) => report.refused.push(format!("bubblewrap: {why}")),
        }
        Self {
            offered,
            report,
            runs: Semaphore::new(RUNS_MAX),
        }
    }

    /// What is offered, and why not more.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Runs a program within a grant, and answers when its last process is dead. Dropping the future ends it.
    ///
    /// # Errors
    /// [`SandboxError::NotOffered`] where nothing walls off as far as the grant demands, [`SandboxError::Busy`] where
    /// [`RUNS_MAX`] run, and whatever kept the walls from standing. A program that fails is an outcome.
    pub async fn run(&self, grant: Grant, program: Program) -> Result<Outcome, SandboxError> {
        let backend = self.choose(grant.demand)?;
        let _place = self.runs.try_acquire().map_err(|_| SandboxError::Busy)?;
        match backend {
            Backend::Bubblewrap(walls) => run::run(walls, grant, program).await,
        }
    }

    /// The least isolation that will do, since more costs time. Never less.
    fn choose(&self, demand: Demand) -> Result<&Backend, SandboxError> {
        let enough = self
            .offered
            .iter()
            .filter(|backend| backend.isolation() >= demand.isolation());
        enough
            .min_by_key(|backend| backend.isolation())
            .ok_or_else(|| {
                let names: Vec<_> = self.offered.iter().map(Backend::name).collect();
                SandboxError::NotOffered(if names.is_empty() {
                    self.report.refused.join("; ")
                } else {
                    format!(
                        "{:?} is demanded, there is {}",
                        demand.isolation(),
                        names.join(", ")
                    )
                })
            })
    }
}

async fn walls(place: &Arc<OwnedFd>) -> Result<Arc<Walls>, SandboxError> {
    let place = Arc::clone(place);
    let built = tokio::task::spawn_blocking(move || Walls::new(&place)).await;
    let built = built.map_err(|error| SandboxError::System(error.to_string()))?;
    Ok(Arc::new(built?))
}

fn interpreters(walls: &Walls) -> Vec<&'static str> {
    let has = [
        (walls.runtime.has_python(), "python3"),
        (walls.runtime.has_node(), "node"),
    ];
    has.into_iter()
        .filter(|(has, _)| *has)
        .map(|(_, name)| name)
        .collect()
}

/// Lets the quick probes try. Says which one was not held.
async fn test(walls: &Arc<Walls>, place: &Arc<OwnedFd>) -> Result<Offer, SandboxError> {
    let began = Instant::now();
    let room = Scratch::new(Arc::clone(place))?;
    let setting = Setting::of_this_process(room.canary()?);
    let quick: Vec<&Probe> = probe::all()
        .filter(|probe| probe.quick && (!probe.needs_python() || walls.runtime.has_python()))
        .collect();
    for batch in quick.chunks(PROBES_AT_ONCE) {
        let mut tries: Vec<_> = batch
            .iter()
            .map(|probe| Box::pin(attempt(walls, &room, probe, &setting)))
            .collect();
        for (probe, tried) in batch.iter().zip(together(&mut tries).await) {
            match tried? {
                Verdict::Held => {}
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
        isolation: Backend::Bubblewrap(Arc::clone(walls)).isolation(),
        probes: quick.len(),
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
    let demand = Floor::at(crate::grant::Isolation::Namespaces).raised(None);
    let grant = Grant::new(room.workspace(probe.name)?, user, demand, probe.ceilings())?;
    let outcome = run::run(walls, grant, probe.program(setting)).await?;
    Ok(probe.judge(&outcome))
}

fn probe_user() -> Result<OsUser, SandboxError> {
    let user = OsUser::numbered(PROBE_USER);
    user.ok_or_else(|| SandboxError::System("there is no user for probes".to_owned()))
}

/// Waits for all of a few futures, which run at the same time.
async fn together<F: Future + Unpin>(futures: &mut [F]) -> Vec<F::Output> {
    let mut done: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in futures.iter_mut().zip(done.iter_mut()) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = std::pin::Pin::new(future).poll(context)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Isolation;

    fn with(refused: &str) -> Sandbox {
        Sandbox {
            offered: Vec::new(),
            report: Report {
                refused: vec![refused.to_owned()],
                ..Report::default()
            },
            runs: Semaphore::new(1),
        }
    }

    #[test]
    fn where_nothing_is_offered_each_run_is_refused_with_the_reason() {
        for isolation in [Isolation::Namespaces, Isolation::OwnKernel] {
            let refused = with("bubblewrap: not installed")
                .choose(Floor::at(isolation).raised(None))
                .err();
            assert_eq!(
                refused,
                Some(SandboxError::NotOffered(
                    "bubblewrap: not installed".to_owned()
                ))
            );
        }
    }
}
