//! Limits over all processes of a run together, by control groups of version 2 or 1, whichever the machine has.

mod place;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::grant::Ceilings;

pub(crate) use place::Cgroups;

/// What a controller bounds or counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Controller {
    Memory,
    Processes,
    Rate,
    Account,
}

/// The interface of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One hierarchy below which groups may be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) dir: String,
    pub(crate) controllers: Vec<Controller>,
}

/// The group of one run, in each hierarchy. Removed with the value, when its processes are dead.
#[derive(Debug)]
pub(crate) struct Group {
    parts: Vec<Hierarchy>,
}

/// The processes of the walls themselves: bubblewrap outside and inside.
const PROCESSES_OF_WALLS: u32 = 2;
/// Microseconds over which the rate of the processor is measured out.
const PERIOD_US: u64 = 100_000;
/// How often a removal is tried while the kernel still puts the last process away, with a millisecond in between.
const REMOVALS: u32 = 200;

impl Group {
    /// Makes a group called `name` with its limits in each hierarchy.
    pub(crate) fn make(
        hierarchies: &[Hierarchy],
        name: &str,
        ceilings: &Ceilings,
    ) -> Result<Self, Errno> {
        let mut group = Self { parts: Vec::new() };
        for hierarchy in hierarchies {
            let dir = format!("{}/{name}", hierarchy.dir);
            rustix::fs::mkdir(dir.as_str(), Mode::from_raw_mode(0o755))?;
            // Before the limits, so that an error removes it.
            group.parts.push(Hierarchy {
                dir: dir.clone(),
                ..hierarchy.clone()
            });
            for controller in &hierarchy.controllers {
                for (file, value, need) in settings(hierarchy.version, *controller, ceilings) {
                    match write(&dir, file, &value) {
                        Err(error) if need == Need::Must => return Err(error),
                        // A kernel without accounts of swap, for one, has no file for it.
                        _ => {}
                    }
                }
            }
        }
        Ok(group)
    }

    /// The files that a process joins by writing `0` to each.
    pub(crate) fn doors(&self) -> Result<Vec<OwnedFd>, Errno> {
        self.parts
            .iter()
            .map(|part| open(&part.dir, "cgroup.procs", OFlags::WRONLY))
            .collect()
    }

    /// Processor time so far; `None` where nothing counts it.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let part = self.with(Controller::Account)?;
        match part.version {
            Version::V1 => {
                let text = read(&part.dir, "cpuacct.usage")?;
                Some(Duration::from_nanos(text.trim().parse().ok()?))
            }
            Version::V2 => {
                let text = read(&part.dir, "cpu.stat")?;
                Some(Duration::from_micros(row(&text, "usage_usec")?))
            }
        }
    }

    /// Whether the kernel killed a process for want of memory.
    pub(crate) fn out_of_memory(&self) -> bool {
        let killed = || {
            let part = self.with(Controller::Memory)?;
            let file = match part.version {
                Version::V1 => "memory.oom_control",
                Version::V2 => "memory.events",
            };
            row(&read(&part.dir, file)?, "oom_kill")
        };
        killed().is_some_and(|killed| killed > 0)
    }

    /// Kills what is left. The death of the first process of their namespace has killed them before; this is for a kernel or
    /// a bubblewrap that does otherwise.
    pub(crate) fn kill(&self) {
        for part in &self.parts {
            if part.version == Version::V2 && write(&part.dir, "cgroup.kill", "1").is_ok() {
                continue;
            }
            let left = read(&part.dir, "cgroup.procs").unwrap_or_default();
            for pid in left
                .lines()
                .filter_map(|line| Pid::from_raw(line.parse().ok()?))
            {
                // Dead already, or about to be.
                let _gone = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.parts
            .iter()
            .find(|part| part.controllers.contains(&controller))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for part in &self.parts {
            for _ in 0..REMOVALS {
                match rustix::fs::rmdir(part.dir.as_str()) {
                    Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(1)),
                    _ => break,
                }
            }
        }
    }
}

/// Whether a setting that cannot be made makes the group worthless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Must,
    May,
}

/// What is written for a controller: file, value, and whether it must succeed.
fn settings(
    version: Version,
    controller: Controller,
    ceilings: &Ceilings,
) -> Vec<(&'static str, String, Need)> {
    let memory = ceilings.memory_bytes.to_string();
    let processes = ceilings
        .processes
        .saturating_add(PROCESSES_OF_WALLS)
        .to_string();
    let quota = u64::from(ceilings.cpu_rate_milli).saturating_mul(PERIOD_US) / 1000;
    match (version, controller) {
        (Version::V1, Controller::Memory) => vec![
            ("memory.limit_in_bytes", memory.clone(), Need::Must),
            ("memory.memsw.limit_in_bytes", memory, Need::May),
        ],
        (Version::V2, Controller::Memory) => vec![
            ("memory.max", memory, Need::Must),
            ("memory.swap.max", "0".to_owned(), Need::May),
            ("memory.oom.group", "1".to_owned(), Need::May),
        ],
        (_, Controller::Processes) => vec![("pids.max", processes, Need::Must)],
        (Version::V1, Controller::Rate) => vec![
            ("cpu.cfs_period_us", PERIOD_US.to_string(), Need::Must),
            ("cpu.cfs_quota_us", quota.to_string(), Need::Must),
        ],
        (Version::V2, Controller::Rate) => {
            vec![("cpu.max", format!("{quota} {PERIOD_US}"), Need::Must)]
        }
        (_, Controller::Account) => Vec::new(),
    }
}

fn open(dir: &str, file: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        format!("{dir}/{file}"),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn write(dir: &str, file: &str, value: &str) -> Result<(), Errno> {
    let mut file = File::from(open(dir, file, OFlags::WRONLY)?);
    file.write_all(value.as_bytes())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn read(dir: &str, file: &str) -> Option<String> {
    let mut text = String::new();
    let mut file = File::from(open(dir, file, OFlags::RDONLY).ok()?);
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

/// The number in the row that begins with `name`.
fn row(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(row(text, "oom_kill"), Some(3));
        assert_eq!(row(text, "oom"), None);
    }

    #[test]
    fn both_versions_bound_memory_processes_and_rate() {
        let ceilings = Ceilings {
            memory_bytes: 64 << 20,
            processes: 10,
            cpu_rate_milli: 500,
            ..Ceilings::default()
        };
        for (version, written) in [
            (
                Version::V1,
                [
                    "memory.limit_in_bytes=67108864",
                    "pids.max=12",
                    "cpu.cfs_quota_us=50000",
                ],
            ),
            (
                Version::V2,
                ["memory.max=67108864", "pids.max=12", "cpu.max=50000 100000"],
            ),
        ] {
            let musts: Vec<String> = [Controller::Memory, Controller::Processes, Controller::Rate]
                .into_iter()
                .flat_map(|controller| settings(version, controller, &ceilings))
                .filter(|(_, _, need)| *need == Need::Must)
                .map(|(file, value, _)| format!("{file}={value}"))
                .collect();
            for line in written {
                assert!(musts.iter().any(|must| must == line), "{line} in {musts:?}");
            }
        }
    }
}
