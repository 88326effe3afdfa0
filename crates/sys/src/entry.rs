//! The way of a child process into its walls.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Directories that a child can take along: runtime and workspace, and room for two more.
const TREES_MAX: usize = 4;

/// What is done in the child, in the order of the fields.
#[derive(Default)]
pub struct Entry {
    /// Files of cgroups (`cgroup.procs`), open for writing: the child joins each.
    pub groups: Vec<OwnedFd>,
    /// Whom the child becomes, where this process is root.
    pub identity: Option<Identity>,
    /// Limits in the units of `setrlimit`, soft and hard alike; of processor time the hard one is a second later, so that the
    /// signal tells why the program ended.
    pub limits: Vec<(Resource, u64)>,
    /// The only descriptors beside standard input, output and error that the program finds open, under the same numbers.
    pub keep: Vec<OwnedFd>,
}

/// A user to become, and the directories to take along that this user could not reach by their paths.
pub struct Identity {
    /// User and group, as numbers of the machine.
    pub uid: u32,
    /// Directories by descriptor, each with the place where the child sees it; no other process sees it there.
    pub trees: Vec<Tree>,
}

/// One directory that the child sees in a place of its own.
pub struct Tree {
    /// The directory itself: no path is walked.
    pub directory: OwnedFd,
    /// Where the child sees it: a name directly below `/tmp`, which is an empty file system of the child's own.
    pub place: &'static CStr,
}

/// A resource that the kernel limits for each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bytes of address space.
    AddressSpace,
    /// Seconds of processor time.
    Cpu,
    /// Bytes of one file.
    FileSize,
    /// Open descriptors.
    Descriptors,
    /// Bytes of a core dump.
    Core,
}

/// Arranges that the program of `command` starts behind `entry`; it does not start where one step fails.
///
/// The child dies with the thread that starts it, so that thread must live as long as the program may.
pub fn prepare(command: &mut Command, entry: Entry) {
    let parent = std::process::id();
    let steps = move || {
        join_groups(&entry.groups)?;
        if let Some(identity) = &entry.identity {
            take_trees(&identity.trees)?;
            become_user(identity.uid)?;
        }
        // After whatever opens a descriptor: this process may have more open than the program is to have.
        set_limits(&entry.limits)?;
        die_with(parent)?;
        close_all_but(&entry.keep)
    };
    // SAFETY: the steps run in the child of `fork`. They call the system only, with pointers into `entry`, which was built
    // before the fork and is copied with the address space; errors are numbers, so nothing is allocated on any path.
    unsafe {
        command.pre_exec(steps);
    }
}

fn join_groups(groups: &[OwnedFd]) -> io::Result<()> {
    for group in groups {
        let text = b"0";
        // SAFETY: the buffer is one byte long and lives through the call.
        done(unsafe { libc::write(group.as_raw_fd(), text.as_ptr().cast(), text.len()) } as i64)?;
    }
    Ok(())
}

fn set_limits(limits: &[(Resource, u64)]) -> io::Result<()> {
    for (resource, most) in limits {
        let hard = match resource {
            Resource::Cpu => most.saturating_add(1),
            _ => *most,
        };
        let limit = libc::rlimit {
            rlim_cur: *most,
            rlim_max: hard,
        };
        let resource = match resource {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::Descriptors => libc::RLIMIT_NOFILE,
            Resource::Core => libc::RLIMIT_CORE,
        };
        // SAFETY: `limit` is a whole `rlimit` and lives through the call.
        done(i64::from(unsafe {
            libc::setrlimit(resource, &raw const limit)
        }))?;
    }
    Ok(())
}

/// Shows each directory at its place, in a mount namespace of the child's own. A mount is cloned from the descriptor, so
/// neither the rights of the later user nor a rename of any parent plays a part.
fn take_trees(trees: &[Tree]) -> io::Result<()> {
    const ROOM: &CStr = c"/tmp";
    let mut cloned: [RawFd; TREES_MAX] = [-1; TREES_MAX];
    if trees.len() > TREES_MAX {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    // In the old namespace: a descriptor that was opened there cannot be cloned in the new one.
    for (slot, tree) in cloned.iter_mut().zip(trees) {
        *slot = clone_tree(&tree.directory)?;
    }
    // SAFETY: takes a number only.
    done(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNS) }))?;
    mount(c"none", c"/", c"none", libc::MS_REC | libc::MS_PRIVATE, c"")?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(
        c"tmpfs",
        ROOM,
        c"tmpfs",
        flags,
        c"size=16k,nr_inodes=16,mode=0755",
    )?;
    for (cloned, tree) in cloned.iter().zip(trees) {
        // SAFETY: the path is a C string and lives through the call.
        done(i64::from(unsafe {
            libc::mkdir(tree.place.as_ptr(), 0o755)
        }))?;
        attach(*cloned, tree.place)?;
    }
    Ok(())
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    // SAFETY: all four are C strings that live through the call.
    done(i64::from(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    }))
}

/// A detached copy of the mount at a directory; what is mounted below it does not come along.
fn clone_tree(directory: &OwnedFd) -> io::Result<RawFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    const EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;
    let flags = OPEN_TREE_CLONE | EMPTY_PATH | libc::O_CLOEXEC as libc::c_uint;
    // SAFETY: the path is an empty C string; the descriptor is open.
    let cloned = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    done(cloned)?;
    RawFd::try_from(cloned).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

fn attach(tree: RawFd, place: &CStr) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    // SAFETY: both paths are C strings that live through the call; the descriptor was just opened.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree,
            c"".as_ptr(),
            libc::AT_FDCWD,
            place.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

/// Gives up root for good: groups first, then the group, then the user, each in all three forms.
fn become_user(uid: u32) -> io::Result<()> {
    // The raw calls concern this thread alone, and the child has no other; the library's would signal threads that are not
    // there.
    // SAFETY: a length of zero, so the list is not read.
    done(unsafe { libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::syscall(libc::SYS_setresgid, uid, uid, uid) })?;
    // SAFETY: takes numbers only.
    done(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// After the change of user, which would undo it.
fn die_with(parent: u32) -> io::Result<()> {
    // SAFETY: takes numbers only.
    done(i64::from(unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
    }))?;
    // A parent that ended before that line sends nothing any more.
    // SAFETY: takes nothing.
    let now = unsafe { libc::getppid() };
    if u32::try_from(now) == Ok(parent) {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Marks everything beyond standard error as closed at `exec`, then takes the mark from what is to stay. Marking instead of
/// closing keeps the pipe open over which the standard library reports a failed start.
fn close_all_but(keep: &[OwnedFd]) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: takes numbers only.
    done(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    })?;
    for descriptor in keep {
        // SAFETY: takes numbers only; the descriptor is open.
        done(i64::from(unsafe {
            libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFD, 0)
        }))?;
    }
    Ok(())
}

fn done(answer: i64) -> io::Result<()> {
    if answer < 0 {
        // Reads a number of this thread; builds no text.
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "what is tested is the start of programs with descriptors of the machine"
)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::Stdio;

    fn shell(script: &str, entry: Entry) -> String {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).stdin(Stdio::null());
        prepare(&mut command, entry);
        let output = command.output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn only_the_kept_descriptors_stay_open() {
        let kept: OwnedFd = File::open("/dev/null").unwrap().into();
        // Open in the child for want of the mark, as a careless library would leave it; far from the numbers that a shell takes.
        // SAFETY: takes numbers only; the descriptor is open.
        let leaked = unsafe { libc::fcntl(kept.as_raw_fd(), libc::F_DUPFD, 100) };
        let number = kept.as_raw_fd();
        let entry = Entry {
            keep: vec![kept],
            ..Entry::default()
        };
        let seen = shell("cd /proc/self/fd && echo *", entry);
        let seen: Vec<i32> = seen
            .split_whitespace()
            .map(|name| name.parse().unwrap())
            .collect();
        assert!(seen.contains(&number), "{seen:?}");
        assert!(leaked >= 100 && !seen.contains(&leaked), "{seen:?}");
        assert!(seen.len() <= 5, "{seen:?}");
    }

    #[test]
    fn limits_are_soft_and_hard() {
        let entry = Entry {
            limits: vec![(Resource::Descriptors, 33), (Resource::Core, 0)],
            ..Entry::default()
        };
        assert_eq!(
            shell("ulimit -n; ulimit -H -n; ulimit -H -c", entry),
            "33\n33\n0\n"
        );
    }

    #[test]
    fn a_user_is_become_for_good_and_sees_the_trees_alone() {
        // SAFETY: takes nothing.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let entry = Entry {
            identity: Some(Identity {
                uid: 200_001,
                trees: vec![Tree {
                    directory: File::open("/usr/bin").unwrap().into(),
                    place: c"/tmp/bin",
                }],
            }),
            ..Entry::default()
        };
        let seen = shell(
            "id -u; id -g; id -G; ls /tmp; test -x /tmp/bin/env && echo there",
            entry,
        );
        assert_eq!(seen, "200001\n200001\n200001\nbin\nthere\n");
    }
}
