//! The sandbox as others hold it: opened once, tested before anything is offered, then asked to run.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::backend::Backend;
use crate::error::SandboxError;
use crate::grant::{Demand, Grant, Program};
use crate::outcome::Outcome;
use crate::report::Report;
#[cfg(target_os = "linux")]
use crate::report::{self, UidWall};
#[cfg(target_os = "linux")]
use crate::{run, selftest, subuid};

/// Programs that run at once: each has processes, descriptors and a directory that is watched.
pub const RUNS_MAX: usize = 64;

/// Runs programs, by what is offered on this machine.
#[derive(Debug)]
pub struct Sandbox {
    offered: Vec<Backend>,
    report: Report,
    /// A place is given back when the last process of its run is dead, which may be after the run was dropped.
    runs: Arc<Semaphore>,
}

impl Sandbox {
    /// Finds the backends of this machine, builds the runtime below `place` where it is missing, and lets the quick ones of
    /// [`crate::probe::all`] try to escape. What fails one of them is not offered. Never fails: [`Sandbox::report`] tells what there is,
    /// and where there is nothing, each run is refused with the reason.
    ///
    /// `place` is a directory of the operator's that no tenant can write.
    pub async fn open(place: OwnedFd) -> Self {
        let mut report = Report::default();
        let mut offered = Vec::new();
        #[cfg(target_os = "linux")]
        match selftest::bubblewrap(Arc::new(place)).await {
            Ok((walls, offer)) => {
                if walls.is_root {
                    report.uid_wall = UidWall::PerTenant;
                    report.promised = subuid::overlapping();
                }
                report.limits = report::limits(&walls.cgroups);
                report.interpreters = walls.runtime.interpreters();
                report.offered.push(offer);
                offered.push(Backend::Bubblewrap(walls));
            }
            Err(why) => report.refused.push(format!("bubblewrap: {why}")),
        }
        #[cfg(not(target_os = "linux"))]
        {
            drop(place);
            offered.clear();
            report
                .refused
                .push("bubblewrap: there is none but on Linux".to_owned());
        }
        Self {
            offered,
            report,
            runs: Arc::new(Semaphore::new(RUNS_MAX)),
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
        let place = Arc::clone(&self.runs).try_acquire_owned();
        let place = place.map_err(|_| SandboxError::Busy)?;
        #[cfg(not(target_os = "linux"))]
        drop((program, place));
        match *backend {
            #[cfg(target_os = "linux")]
            Backend::Bubblewrap(ref walls) => run::run(walls, grant, program, place).await,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::{Floor, Isolation};

    fn with(refused: &str) -> Sandbox {
        Sandbox {
            offered: Vec::new(),
            report: Report {
                refused: vec![refused.to_owned()],
                ..Report::default()
            },
            runs: Arc::new(Semaphore::new(1)),
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
