//! Processes: the gateway, those of other tenants, and what a process inherits.

use super::refusal::{PERMISSION, YES};
use super::{Held, Outside, Probe};

const SIGNAL: &str = r#"
# Not in a shell of its own, which might have that number.
if kill -0 "$PROBE_PID" 2>refusal; then
  # One of the sandbox's own may have that number; it was born at another time.
  born=$(sed 's/.*) //' "/proc/$PROBE_PID/stat" | cut -d ' ' -f 20)
  if [ -n "$born" ] && [ -n "$PROBE_BORN" ] && [ "$born" != "$PROBE_BORN" ]; then
    echo "held: No such process, but another $PROBE_PID"
  else
    echo "ESCAPED: $PROBE_PID is there"
  fi
else echo "held: $(cat refusal)"; fi"#;

const LIST: &str = r#"
n=$(ls /proc | grep -c '^[0-9]')
if [ "$n" -gt 8 ]; then echo "ESCAPED: $n processes"; elif [ "$n" -gt 0 ]; then echo "held: yes"; fi"#;

const ENVIRONMENT: &str = r#"
n=0
seen=0
for file in /proc/[0-9]*/environ; do
  if grep -q '^PATH=' "$file" 2>/dev/null; then seen=$((seen + 1)); fi
  if tr '\0' '\n' <"$file" 2>/dev/null | grep -q -v -E '^(PATH|HOME|TMPDIR|LANG|PWD|OLDPWD|SHLVL|_|PROBE_[A-Z]*)='; then n=$((n + 1)); fi
done
if [ $n -gt 0 ]; then echo "ESCAPED: $n foreign environments"; elif [ $seen -gt 0 ]; then echo "held: yes"; fi"#;

const DESCRIPTORS: &str = r#"
# The last one is the listing's own.
n=$(ls /proc/self/fd | wc -l)
if [ "$n" -gt 4 ]; then echo "ESCAPED: $n open"; elif [ "$n" -gt 2 ]; then echo "held: yes"; fi"#;

const NAMESPACES: &str = r#"
shared = [name for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
          if os.readlink(f"/proc/self/ns/{name}") in os.environ["PROBE_NAMESPACES"].split()]
print(f"ESCAPED: shares {shared}" if shared or not os.environ["PROBE_NAMESPACES"] else "held: yes")"#;

const NAMESPACES_SHELL: &str = r#"
shared=
for name in ipc mnt net pid user uts; do
  case "$PROBE_NAMESPACES" in *"$(readlink /proc/self/ns/$name)"*) shared="$shared $name" ;; esac
done
if [ -n "$shared" ]; then echo "ESCAPED: shares$shared"; else echo "held: yes"; fi"#;

const KILL_INIT: &str = r#"
import time
try:
    os.kill(1, 9)
except OSError:
    pass
time.sleep(0.2)
print("held: yes")"#;

const TRACE: &str = "tell(call(101, 117, 0, 0, 0, 0), \"EPERM\")";
const READ_MEMORY: &str = "tell(call(310, 270, os.getpid(), 0, 0, 0, 0, 0), \"EPERM\")";
const COMPARE: &str = "tell(call(312, 272, os.getpid(), os.getpid(), 0, 0, 0), \"EPERM\")";
const TAKE_DESCRIPTOR: &str = "tell(call(438, 438, -1, 0, 0), \"EPERM\")";

const CAPABILITIES: &str = r#"
empty=$(grep -c -E '^Cap(Prm|Eff|Bnd|Amb|Inh):.0000000000000000$' /proc/self/status)
if [ "$empty" = 5 ]; then echo "held: yes"; else echo "ESCAPED: $empty of 5 sets are empty"; fi"#;

const NEW_PRIVILEGES: &str = r#"
if grep -q '^NoNewPrivs:.*1' /proc/self/status; then echo "held: yes"; else echo "ESCAPED: may gain rights"; fi"#;

const FILTERS: &str = r#"
if grep -q '^Seccomp:.*2' /proc/self/status; then echo "held: yes"; else echo "ESCAPED: no filter"; fi"#;

const USER: &str = r#"
ids="$(id -u) $(id -g)"
if [ "$ids" = "1000 1000" ]; then echo "held: yes"; else echo "ESCAPED: $ids"; fi"#;

const HOSTNAME: &str = r#"
if [ "$(uname -n)" = box ]; then echo "held: yes"; else echo "ESCAPED: $(uname -n)"; fi"#;

const TTY: &str = r#"
try:
    os.open("/dev/tty", os.O_RDWR)
    print("ESCAPED: a terminal")
except OSError as error:
    print("held:", errno.errorcode[error.errno])"#;

const SESSION: &str = r#"
# A session of its own, whose leader is in here as well.
print("held: yes" if os.getsid(0) in range(1, 9) else f"ESCAPED: session {os.getsid(0)}")"#;

const NICE: &str = r#"
attempt(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)), "EPERM")"#;

pub(super) const PROBES: &[Probe] = &[
    Probe::shell(
        "signal the gateway",
        SIGNAL,
        &[Held::Says("No such process")],
    )
    .needs(&["sed", "cut", "cat"])
    .quick(),
    Probe::shell("see other processes", LIST, YES)
        .needs(&["ls", "grep"])
        .quick(),
    Probe::shell("read the environment of a process", ENVIRONMENT, YES)
        .needs(&["tr", "grep"])
        .outside(Outside::EscapesAsRoot),
    Probe::shell("use an inherited descriptor", DESCRIPTORS, YES)
        .needs(&["ls", "wc"])
        .quick(),
    Probe::python("share a namespace", NAMESPACES, YES),
    Probe::shell("share a namespace with the gateway", NAMESPACES_SHELL, YES)
        .needs(&["readlink"])
        .quick(),
    Probe::python("kill the first process", KILL_INIT, YES)
        .outside(Outside::Untried("would signal the machine's own init")),
    Probe::python("trace a process", TRACE, PERMISSION).quick(),
    Probe::python("read the memory of a process", READ_MEMORY, PERMISSION),
    Probe::python("compare processes", COMPARE, PERMISSION),
    Probe::python(
        "take a descriptor of a process",
        TAKE_DESCRIPTOR,
        PERMISSION,
    ),
    Probe::shell("hold a capability", CAPABILITIES, YES)
        .needs(&["grep"])
        .quick(),
    Probe::shell("gain rights by a program", NEW_PRIVILEGES, YES)
        .needs(&["grep"])
        .quick(),
    Probe::shell("run without a filter", FILTERS, YES)
        .needs(&["grep"])
        .quick(),
    Probe::shell("be another user", USER, YES)
        .needs(&["id"])
        .quick(),
    Probe::shell("learn the machine's name", HOSTNAME, YES).needs(&["uname"]),
    Probe::python(
        "open the terminal of the gateway",
        TTY,
        &[Held::Says("ENXIO")],
    )
    .outside(Outside::Untried("tests have no terminal")),
    Probe::python("stay in the session of the gateway", SESSION, YES),
    Probe::python("take the processor for itself", NICE, PERMISSION)
        .outside(Outside::EscapesAsRoot),
];
