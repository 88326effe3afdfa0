//! Files: other tenants', the machine's, and the sandbox's own read-only world.

use super::refusal::{ABSENT, PERMISSION, READ_ONLY, YES};
use super::{Held, Outside, Probe};

const READ_SIBLING: &str = r#"
if said=$(cat "$PROBE_SIBLING" 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const DOTDOT: &str = r#"
up=../../../../../../../../../../../..
if said=$(cat "$up$PROBE_SIBLING" 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const SYMLINK: &str = r#"
ln -s "$PROBE_SIBLING" link && if said=$(cat link 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const HARDLINK: &str = r#"
if said=$(ln "$PROBE_SIBLING" hard 2>&1); then echo "ESCAPED: linked"; else echo "held: $said"; fi"#;

const PROC_ROOT: &str = r#"
if said=$(cat "/proc/self/root$PROBE_SIBLING" 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const INIT_ROOT: &str = r#"
if said=$(cat "/proc/1/root$PROBE_SIBLING" 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const CWD_UP: &str = r#"
import os
root = os.stat("/")
for _ in range(40):
    os.chdir("..")
here = os.stat(".")
same = (root.st_dev, root.st_ino) == (here.st_dev, here.st_ino)
names = set(os.listdir("."))
print("held: yes" if same and not names & {"root", "home", "boot", "sys", "srv"} else f"ESCAPED: {names}")"#;

const HOST_ETC: &str = r#"
n=$(ls /etc | wc -l)
if [ "$n" -gt 8 ]; then echo "ESCAPED: $n files in /etc"; elif [ "$n" -gt 0 ]; then echo "held: yes"; fi"#;

const SHADOW: &str = r#"
if said=$(cat /etc/shadow 2>&1); then echo "ESCAPED: read"; else echo "held: $said"; fi"#;

const HOME: &str = r#"
if said=$(ls -d /home 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const SYS: &str = r#"
if said=$(ls -d /sys/kernel 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const USR: &str = r#"
f=/usr/bin/partywall-probe
if said=$(touch $f 2>&1); then rm -f $f; echo "ESCAPED: written"; else echo "held: $said"; fi"#;

const ROOT: &str = r#"
f=/partywall-probe
if said=$(touch $f 2>&1); then rm -f $f; echo "ESCAPED: written"; else echo "held: $said"; fi"#;

const ETC_WRITE: &str = r#"
f=/etc/partywall-probe
if said=$(touch $f 2>&1); then rm -f $f; echo "ESCAPED: written"; else echo "held: $said"; fi"#;

const DEV_WRITE: &str = r#"
f=/dev/partywall-probe
if said=$(touch $f 2>&1); then rm -f $f; echo "ESCAPED: written"; else echo "held: $said"; fi"#;

const REMOUNT: &str = r#"
flags = os.statvfs("/usr").f_flag
print("held: yes" if flags & os.ST_RDONLY and flags & os.ST_NOSUID else "ESCAPED: writable or setuid")"#;

const OVERWRITE: &str = r#"
attempt(lambda: open("/usr/bin/true", "ab"), "EROFS EACCES")"#;

const INIT_EXE: &str = r#"
attempt(lambda: open("/proc/1/exe", "ab"), "EACCES EPERM EROFS ETXTBSY")"#;

const SETUID: &str = r#"
n=$(find /usr/bin /usr/lib -perm /6000 -type f 2>/dev/null | wc -l)
if [ "$n" -gt 0 ]; then echo "ESCAPED: $n programs"; else echo "held: yes"; fi"#;

const NOSUID: &str = r#"
flags = os.statvfs(".").f_flag
print("held: yes" if flags & os.ST_NOSUID and flags & os.ST_NODEV else "ESCAPED: setuid programs or devices work here")"#;

const DEVICES: &str = r#"
known = {"core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero", "console", "mqueue"}
more = set(os.listdir("/dev")) - known
print(f"ESCAPED: {sorted(more)[:5]}" if more else "held: yes")"#;

const MKNOD: &str = r#"
import stat
def make():
    os.mknod("node", 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    os.unlink("node")
attempt(make, "EPERM")"#;

const BY_HANDLE: &str = "tell(call(304, 265, -1, 0, 0), \"EPERM\")";

const CORE_PATTERN: &str = r#"
attempt(lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)), "EACCES EPERM EROFS ENOENT")"#;

const CHROOT: &str = "tell(call(161, 51, b\"/\"), \"EPERM\")";

const CGROUPS: &str = r#"
if said=$(ls /sys/fs/cgroup 2>&1); then echo "ESCAPED: $said"; else echo "held: $said"; fi"#;

const REFUSED_WRITE: &[Held] = &[
    Held::Says("EACCES"),
    Held::Says("EPERM"),
    Held::Says("EROFS"),
    Held::Says("ENOENT"),
];

pub(super) const PROBES: &[Probe] = &[
    Probe::shell("read the file of another tenant", READ_SIBLING, ABSENT)
        .needs(&["cat"])
        .quick(),
    Probe::shell("climb out by dots", DOTDOT, ABSENT).needs(&["cat"]),
    Probe::shell("follow a planted link", SYMLINK, ABSENT)
        .needs(&["ln", "cat"])
        .quick(),
    Probe::shell("make a hard link to a foreign file", HARDLINK, ABSENT).needs(&["ln"]),
    Probe::shell("go through the root in proc", PROC_ROOT, ABSENT)
        .needs(&["cat"])
        .quick(),
    Probe::shell(
        "go through the root of the first process",
        INIT_ROOT,
        &[
            Held::Says("No such file or directory"),
            Held::Says("Permission denied"),
        ],
    )
    .needs(&["cat"])
    .outside(Outside::Untried(
        "in a container root may not do this either",
    )),
    Probe::python("walk up past the root", CWD_UP, YES),
    Probe::shell("see the machine's etc", HOST_ETC, YES)
        .needs(&["ls", "wc"])
        .quick(),
    Probe::shell("read the machine's passwords", SHADOW, ABSENT)
        .needs(&["cat"])
        .outside(Outside::EscapesAsRoot),
    Probe::shell("see homes", HOME, ABSENT).needs(&["ls"]),
    Probe::shell("see sys", SYS, ABSENT).needs(&["ls"]),
    Probe::shell("see control groups", CGROUPS, ABSENT).needs(&["ls"]),
    Probe::shell("write a program", USR, READ_ONLY)
        .needs(&["touch", "rm"])
        .quick()
        .outside(Outside::EscapesAsRoot),
    Probe::shell("write to the root", ROOT, READ_ONLY)
        .needs(&["touch", "rm"])
        .outside(Outside::EscapesAsRoot),
    Probe::shell("write to etc", ETC_WRITE, READ_ONLY)
        .needs(&["touch", "rm"])
        .outside(Outside::EscapesAsRoot),
    Probe::shell("write to dev", DEV_WRITE, READ_ONLY)
        .needs(&["touch", "rm"])
        .outside(Outside::EscapesAsRoot),
    Probe::python("find the runtime writable", REMOUNT, YES),
    Probe::python(
        "overwrite a program of the runtime",
        OVERWRITE,
        REFUSED_WRITE,
    )
    .outside(Outside::EscapesAsRoot),
    Probe::python(
        "overwrite the program of the first process",
        INIT_EXE,
        &[
            Held::Says("EACCES"),
            Held::Says("EPERM"),
            Held::Says("EROFS"),
            Held::Says("ETXTBSY"),
        ],
    )
    .outside(Outside::Untried(
        "would open the machine's own init for writing",
    )),
    Probe::shell("find a setuid program", SETUID, YES).needs(&["find", "wc"]),
    Probe::python("use setuid or devices in the workspace", NOSUID, YES),
    Probe::python("see a device of the machine", DEVICES, YES),
    Probe::python("make a device", MKNOD, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("open a file by its handle", BY_HANDLE, PERMISSION),
    Probe::python("set the kernel's core pattern", CORE_PATTERN, REFUSED_WRITE)
        .outside(Outside::EscapesAsRoot),
    Probe::python("change the root", CHROOT, PERMISSION).outside(Outside::EscapesAsRoot),
];
