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

mod bubblewrap;
mod cgroup;
mod error;
mod filter;
mod grant;
mod outcome;
pub mod probe;
mod report;
mod run;
mod runtime;
mod sandbox;
mod start;
mod walls;
mod workspace;

pub use error::SandboxError;
pub use grant::{Ceilings, Demand, Floor, Grant, Isolation, OsUser, Program};
pub use outcome::{CHANGES_MAX, Captured, Ceiling, Change, ChangeKind, End, FileKind, Outcome};
pub use report::{Limit, Mechanism, Offer, Report, UidWall};
pub use sandbox::{RUNS_MAX, Sandbox};
