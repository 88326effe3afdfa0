//! Where groups may be made: found by reading the mounts, and by trying.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Controller, Group, Hierarchy, Version};
use crate::grant::Ceilings;

/// The control groups that this process may use.
#[derive(Debug)]
pub(crate) struct Cgroups {
    hierarchies: Vec<Hierarchy>,
    /// Names of groups are never used twice: an old one may still be dying.
    next: AtomicU64,
}

/// What the names of groups begin with; the number of the process follows.
const GROUP: &str = "partywall-";
const ALL: [(Controller, &str); 4] = [
    (Controller::Memory, "memory"),
    (Controller::Processes, "pids"),
    (Controller::Rate, "cpu"),
    (Controller::Account, "cpuacct"),
];

impl Cgroups {
    /// What there is, tried out. A controller with which no group can be made is left out.
    pub(crate) fn probe() -> Self {
        let text = |path: &str| -> String {
            let mut text = String::new();
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) {
                // Without it there is nothing to be found.
                let _unread = File::from(file).read_to_string(&mut text);
            }
            text
        };
        let found = find(
            &text("/proc/self/mountinfo"),
            &text("/proc/self/cgroup"),
            &mut |dir| text(&format!("{dir}/cgroup.controllers")),
        );
        for hierarchy in &found {
            sweep(hierarchy);
        }
        let mut usable = Vec::new();
        for mut hierarchy in found {
            if hierarchy.version == Version::V2 {
                delegate(&hierarchy);
            }
            let all = hierarchy.clone();
            hierarchy.controllers.retain(|controller| {
                let alone = Hierarchy {
                    controllers: vec![*controller],
                    ..all.clone()
                };
                let name = format!("{GROUP}{}-trial", std::process::id());
                let made = Group::make(&[alone], &name, &Ceilings::default());
                // Somebody else of this process tries at this moment: it can be made.
                matches!(made, Ok(_) | Err(Errno::EXIST))
            });
            if !hierarchy.controllers.is_empty() {
                usable.push(hierarchy);
            }
        }
        Self {
            hierarchies: usable,
            next: AtomicU64::new(0),
        }
    }

    /// A group for one run; `None` where there are no control groups.
    pub(crate) fn group(&self, ceilings: &Ceilings) -> Result<Option<Group>, Errno> {
        if self.hierarchies.is_empty() {
            return Ok(None);
        }
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let name = format!("{GROUP}{}-{number}", std::process::id());
            match Group::make(&self.hierarchies, &name, ceilings) {
                // Taken by another sandbox of this process.
                Err(Errno::EXIST) => {}
                made => return made.map(Some),
            }
        }
    }

    /// The version that has a controller.
    pub(crate) fn version(&self, controller: Controller) -> Option<Version> {
        let has = |hierarchy: &&Hierarchy| hierarchy.controllers.contains(&controller);
        self.hierarchies
            .iter()
            .find(has)
            .map(|hierarchy| hierarchy.version)
    }
}

/// Removes groups of gateways that are gone, and ends what still runs in them: one that was killed while a sandbox started
/// could do neither.
fn sweep(hierarchy: &Hierarchy) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(hierarchy.dir.as_str(), flags, Mode::empty());
    let Ok(entries) = opened.and_then(|dir| rustix::fs::Dir::read_from(&dir)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = owner(&name)
            && rustix::fs::stat(format!("/proc/{pid}")).is_err()
        {
            let left = Group {
                parts: vec![Hierarchy {
                    dir: format!("{}/{name}", hierarchy.dir),
                    ..hierarchy.clone()
                }],
            };
            left.kill();
            // Its end removes it.
            drop(left);
        }
    }
}

/// The process that made the group of that name; `None` for a group that is not exactly of this form, whoever's it is.
fn owner(name: &str) -> Option<&str> {
    let (pid, run) = name.strip_prefix(GROUP)?.split_once('-')?;
    let is_number = |text: &str| {
        (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    (is_number(pid) && (run == "trial" || is_number(run))).then_some(pid)
}

/// Asks for the controllers in the groups below. In version 2 the kernel refuses that of a group with processes in it, and this
/// one has at least ours: it works in the root of the tree alone, which is exempt. A service of systemd is refused however much
/// was delegated to it. Then the trial fails, and the report says so.
fn delegate(hierarchy: &Hierarchy) {
    let _refused = super::write(
        &hierarchy.dir,
        "cgroup.subtree_control",
        "+memory +pids +cpu",
    );
}

/// The hierarchies by what the system says of its mounts and of this process, with `controllers` to read those of version 2.
fn find(mountinfo: &str, own: &str, controllers: &mut dyn FnMut(&str) -> String) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    let taken = |found: &[Hierarchy], controller| {
        found
            .iter()
            .any(|hierarchy| hierarchy.controllers.contains(&controller))
    };
    for (kind, options, root, point) in mountinfo.lines().filter_map(mount) {
        let (version, names) = match kind {
            "cgroup" => (Version::V1, options.to_owned()),
            "cgroup2" => (Version::V2, String::new()),
            _ => continue,
        };
        let Some(path) = own_path(own, version, &names) else {
            continue;
        };
        // Where this process sees another part of the tree than it is in, the part that it sees.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        let dir = format!("{point}{}", below.trim_end_matches('/'));
        let names = match version {
            Version::V1 => names,
            Version::V2 => controllers(&dir)
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(","),
        };
        let mut has: Vec<Controller> = ALL
            .iter()
            .filter(|(_, name)| names.split(',').any(|listed| listed == *name))
            .map(|(controller, _)| *controller)
            .collect();
        // Version 2 counts the processor's time in every group.
        if version == Version::V2 && has.contains(&Controller::Rate) {
            has.push(Controller::Account);
        }
        has.retain(|controller| !taken(&found, *controller));
        if !has.is_empty() {
            found.push(Hierarchy {
                version,
                dir,
                controllers: has,
            });
        }
    }
    found
}

/// Kind, options, root and mount point of one line of `mountinfo`.
fn mount(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let kind = right.next()?;
    Some((kind, right.nth(1)?, root, point))
}

/// The group that this process is in, by a line of `/proc/self/cgroup`.
fn own_path<'a>(own: &'a str, version: Version, options: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, names, path) = (parts.next()?, parts.next()?, parts.next()?);
        let ours = match version {
            Version::V2 => names.is_empty(),
            Version::V1 => {
                !names.is_empty()
                    && names
                        .split(',')
                        .all(|name| options.split(',').any(|option| option == name))
            }
        };
        ours.then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
22 27 0:21 / /proc rw - proc proc rw
30 27 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 27 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 27 0:32 / /sys/fs/cgroup/pids rw,relatime shared:3 - cgroup cgroup rw,pids
38 27 0:34 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_OWN: &str = "8:pids:/\n4:memory:/service/one\n2:cpu,cpuacct:/\n0::/\n";

    #[test]
    fn only_groups_of_our_own_form_are_swept() {
        assert_eq!(owner("partywall-12-0"), Some("12"));
        assert_eq!(owner("partywall-12-trial"), Some("12"));
        for other in [
            "partywall-2024-web",
            "partywall-12",
            "partywall-12-",
            "partywall--1",
            "partywall-12-0-1",
            "partywall-1x-0",
            "xpartywall-12-0",
            "partywall-12-trials",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_hybrid_machine_has_its_controllers_in_version_1() {
        let found = find(HYBRID, HYBRID_OWN, &mut |_| String::new());
        let told: Vec<_> = found
            .iter()
            .map(|one| (one.version, one.dir.as_str(), one.controllers.len()))
            .collect();
        assert_eq!(
            told,
            [
                (Version::V1, "/sys/fs/cgroup/cpu,cpuacct", 2),
                (Version::V1, "/sys/fs/cgroup/memory/service/one", 1),
                (Version::V1, "/sys/fs/cgroup/pids", 1),
            ]
        );
    }

    #[test]
    fn a_machine_of_version_2_has_them_in_its_own_group() {
        let mounts = "25 22 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "0::/system.slice/partywall.service\n";
        let found = find(mounts, own, &mut |dir| {
            assert_eq!(dir, "/sys/fs/cgroup/system.slice/partywall.service");
            "cpuset cpu io memory pids\n".to_owned()
        });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].controllers.len(), 4);
    }

    #[test]
    fn within_a_container_the_visible_part_counts() {
        let mounts = "25 22 0:22 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let found = find(mounts, "5:pids:/docker/abc\n", &mut |_| String::new());
        assert_eq!(found[0].dir, "/sys/fs/cgroup/pids");
    }

    /// As after a kill of the gateway: a group of a process that is not there any more, with somebody in it.
    #[test]
    fn what_a_killed_gateway_left_running_is_ended_by_the_next() {
        let cgroups = Cgroups::probe();
        let Some(hierarchy) = cgroups.hierarchies.first() else {
            return;
        };
        // No process has this number: it is the first one that the kernel never gives.
        let name = format!("{GROUP}4194305-0");
        let group = Group::make(std::slice::from_ref(hierarchy), &name, &Ceilings::default());
        let group = group.unwrap();
        let mut command = crate::start::command("/bin/sleep");
        command.arg("1000");
        let entry = sys::Entry {
            groups: group.doors().unwrap(),
            ..sys::Entry::default()
        };
        sys::prepare(&mut command, entry);
        let mut left = command.spawn().unwrap();
        std::mem::forget(group);
        // It is ended, and put away here only: the group goes with the next sweep at the latest.
        sweep(hierarchy);
        assert!(!left.wait().unwrap().success());
        sweep(hierarchy);
        assert!(rustix::fs::stat(format!("{}/{name}", hierarchy.dir)).is_err());
    }

    #[test]
    fn a_machine_without_any_has_none() {
        assert!(find("", "", &mut |_| String::new()).is_empty());
    }
}
