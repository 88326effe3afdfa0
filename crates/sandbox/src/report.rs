//! What the sandbox found out about itself and the machine: for `doctor`, and for whoever is refused.

use std::fmt;
use std::time::Duration;

#[cfg(target_os = "linux")]
use crate::cgroup::{Cgroups, Controller, Version};
use crate::grant::Isolation;

/// What is offered on this machine, and why not more.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Backends that passed their self-test.
    pub offered: Vec<Offer>,
    /// What is not offered, each with its reason.
    pub refused: Vec<String>,
    /// Which user programs run as.
    pub uid_wall: UidWall,
    /// Accounts that the machine has promised users of tenants to, in `/etc/subuid`: programs of their containers may be such a
    /// user too. Looked at where each tenant has a user of its own.
    pub promised: Vec<String>,
    /// What keeps each limit; empty where nothing is offered.
    pub limits: Vec<(Limit, Mechanism)>,
    /// Interpreters of the runtime beside the shell.
    pub interpreters: Vec<&'static str>,
}

/// A backend that passed.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// How far it walls off.
    pub isolation: Isolation,
    /// Probes of the self-test that were tried, all of which were held.
    pub probes: usize,
    /// Probes of the self-test that could not be tried, each with the reason: nothing shows that these walls stand.
    pub untried: Vec<(&'static str, String)>,
    /// How long the self-test took.
    pub tested_in: Duration,
}

/// Whether the operating system itself keeps tenants' programs apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UidWall {
    /// All programs run as the gateway's own user: the walls of the sandbox alone keep them apart.
    #[default]
    Absent,
    /// Each tenant's programs run as a user of their own, whose files no other may open.
    PerTenant,
}

/// Something that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Memory.
    Memory,
    /// Processes at once.
    Processes,
    /// Thousandths of a processor.
    CpuRate,
    /// Processor time.
    CpuTime,
    /// Bytes and files of the workspace.
    Disk,
    /// Bytes of output.
    Output,
    /// Time by the clock.
    Wall,
}

/// What keeps a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// A control group of version 2, for all processes of a run together.
    CgroupV2,
    /// Control groups of version 1, for all processes of a run together.
    CgroupV1,
    /// Limits of the kernel for each process by itself.
    EachProcess,
    /// A limit of the kernel within the sandbox's own namespace of users.
    UserNamespace,
    /// The gateway looks from time to time, and ends the run.
    Watched,
    /// The gateway counts what passes through it, and ends the run.
    Counted,
    /// Nothing.
    Nothing,
}

impl fmt::Display for UidWall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Absent => "absent",
            Self::PerTenant => "per tenant",
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::CpuRate => "processor rate",
            Self::CpuTime => "processor time",
            Self::Disk => "disk",
            Self::Output => "output",
            Self::Wall => "wall time",
        })
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::CgroupV2 => "cgroup v2",
            Self::CgroupV1 => "cgroup v1",
            Self::EachProcess => "rlimit of each process",
            Self::UserNamespace => "rlimit of the namespace",
            Self::Watched => "watched",
            Self::Counted => "counted",
            Self::Nothing => "not limited",
        })
    }
}

/// What keeps each limit with these control groups.
#[cfg(target_os = "linux")]
pub(crate) fn limits(cgroups: &Cgroups) -> Vec<(Limit, Mechanism)> {
    let by = |controller, otherwise| match cgroups.version(controller) {
        Some(Version::V2) => Mechanism::CgroupV2,
        Some(Version::V1) => Mechanism::CgroupV1,
        None => otherwise,
    };
    vec![
        (
            Limit::Memory,
            by(Controller::Memory, Mechanism::EachProcess),
        ),
        (
            Limit::Processes,
            by(Controller::Processes, Mechanism::UserNamespace),
        ),
        (Limit::CpuRate, by(Controller::Rate, Mechanism::Nothing)),
        (
            Limit::CpuTime,
            by(Controller::Account, Mechanism::EachProcess),
        ),
        (Limit::Disk, Mechanism::Watched),
        (Limit::Output, Mechanism::Counted),
        (Limit::Wall, Mechanism::Counted),
    ]
}
