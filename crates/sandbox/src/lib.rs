//! Runs one program inside one grant: a directory, a time, some memory, and nothing else. The only crate that starts programs.
//!
//! ```no_run
//! # async fn example(place: std::os::fd::OwnedFd, workspace: std::os::fd::OwnedFd)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! use sandbox::{Ceilings, Floor, Grant, Isolation, OsUser, Program, Sandbox};
//!
//! let sandbox = Sandbox::open(place).await;
//! let user = OsUser::numbered(7).ok_or("too many tenants")?;
//! let demand = Floor::at(Isolation::Namespaces).raised(None);
//! let grant = Grant::new(workspace, user, demand, Ceilings::default())?;
//! let outcome = sandbox.run(grant, Program::new("sh").args(["-c", "echo hello"])).await?;
//! assert_eq!(outcome.stdout.text(), "hello\n");
//! # Ok(()) }
//! ```
//!
//! **Invariant:** a program runs behind walls whose escape probes were held when the sandbox was opened, at least as far off as
//! is demanded, or it does not run.
//!
//! **Invariant:** when a run has an outcome, or its future was dropped, its processes are dead or dying; none outlives the
//! process that started it.

#![cfg_attr(
    not(target_os = "linux"),
    expect(
        dead_code,
        reason = "elsewhere there is no backend, and every run is refused"
    )
)]

mod backend;
#[cfg(target_os = "linux")]
mod bubblewrap;
#[cfg(target_os = "linux")]
mod cgroup;
mod error;
#[cfg(target_os = "linux")]
mod filter;
mod grant;
mod outcome;
pub mod probe;
mod report;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod runtime;
mod sandbox;
#[cfg(target_os = "linux")]
mod selftest;
#[cfg(target_os = "linux")]
mod start;
#[cfg(target_os = "linux")]
mod subuid;
#[cfg(target_os = "linux")]
mod walls;
#[cfg(target_os = "linux")]
mod workspace;

pub use error::SandboxError;
pub use grant::{Ceilings, Demand, Floor, Grant, Isolation, OsUser, Program};
pub use outcome::{CHANGES_MAX, Captured, Ceiling, Change, ChangeKind, End, FileKind, Outcome};
pub use report::{Limit, Mechanism, Offer, Report, UidWall};
pub use sandbox::{RUNS_MAX, Sandbox};
