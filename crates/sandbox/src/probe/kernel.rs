//! The kernel's own surface: namespaces within namespaces, mounts, keys, and the parts that past escapes went through. Each
//! call is made so that, where it is allowed, nothing comes of it but another error.

use super::refusal::PERMISSION;
use super::{End, Held, Outside, Probe};

const UNSHARE: &str = "tell(call(272, 97, 0x10000000), \"EPERM\")";
const CLONE_USER: &str = r#"
child = call(56, 220, 0x10000000 | 17, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
if child > 0:
    os.waitpid(child, 0)
tell(child, "EPERM")"#;
const CLONE3: &str = "tell(call(435, 435, 0, 0), \"ENOSYS\")";
const SETNS: &str = r#"
own = os.open("/proc/self/ns/uts", os.O_RDONLY)
tell(call(308, 268, own, 0), "EPERM")"#;
const MOUNT: &str = "tell(call(165, 40, 0, b\"/nowhere\", b\"none\", 0, 0), \"EPERM\")";
const UMOUNT: &str = "tell(call(166, 39, b\"/nowhere\", 0), \"EPERM\")";
const PIVOT: &str = "tell(call(155, 41, b\"/nowhere\", b\"/nowhere\"), \"EPERM\")";
const FSOPEN: &str = "tell(call(430, 430, b\"none\", 0), \"EPERM\")";
const OPEN_TREE: &str = "tell(call(428, 428, -1, b\"/nowhere\", 0), \"EPERM\")";
const MOVE_MOUNT: &str = "tell(call(429, 429, -1, b\"\", -1, b\"\", 0), \"EPERM\")";
const KEYRING: &str = "tell(call(250, 219, 0, -3, 0), \"EPERM\")";
const ADD_KEY: &str = "tell(call(248, 217, b\"user\", b\"probe\", b\"x\", 1, -2), \"EPERM\")";
const BPF: &str = "tell(call(321, 280, 0, 0, 0), \"EPERM\")";
const PERF: &str = "tell(call(298, 241, 0, 0, -1, -1, 0), \"EPERM\")";
const URING: &str = "tell(call(425, 425, 0, 0), \"EPERM\")";
const URING_ENTER: &str = "tell(call(426, 426, -1, 0, 0, 0, 0, 0), \"EPERM\")";
const USERFAULT: &str = "tell(call(323, 282, 0), \"EPERM\")";
const FANOTIFY: &str = "tell(call(300, 262, 0, 0), \"EPERM\")";
const MODULE: &str = "tell(call(175, 105, 0, 0, 0), \"EPERM\")";
const KEXEC: &str = "tell(call(246, 104, 0, 0, 0, 0), \"EPERM\")";
const REBOOT: &str = "tell(call(169, 142, 0, 0, 0, 0), \"EPERM\")";
const SWAP: &str = "tell(call(167, 224, b\"/nowhere\", 0), \"EPERM\")";
const ACCOUNT: &str = "tell(call(163, 89, b\"/nowhere\"), \"EPERM\")";
const LOG: &str = "tell(call(103, 116, 2, 0, 0), \"EPERM\")";
const CLOCK: &str = "tell(call(227, 112, 0, 0), \"EPERM\")";
const NAME: &str = "tell(call(170, 161, 0, -1), \"EPERM\")";
const PERSONALITY: &str = "tell(call(135, 92, 0x0040000), \"EPERM\")";
const TYPE_INTO: &str = "tell(call(16, 29, 0, 0x5412, b\"x\"), \"EPERM\")";
const TYPE_INTO_WIDE: &str = "tell(call(16, 29, 0, 0x5412 | 1 << 32, b\"x\"), \"EPERM\")";
const CONSOLE: &str = "tell(call(16, 29, 0, 0x541C, b\"x\"), \"EPERM\")";
const MEMORY_FILE: &str = "tell(call(319, 279, b\"probe\", 0), \"EPERM\")";
const SHARED_MEMORY: &str = "keeps(call(29, 194, 0, 4096, 0o1600), 31, 195, 0, 0)";
const MESSAGES: &str = "keeps(call(68, 186, 0, 0o1600), 71, 187, 0, 0)";
const SEMAPHORES: &str = "keeps(call(64, 190, 0, 1, 0o1600), 66, 191, 0, 0)";
const NAMED_QUEUE: &str = r#"
made = call(240, 180, b"partywall-probe", 0o102, 0o600, 0)
if made >= 0:
    call(241, 181, b"partywall-probe")
tell(made, "EPERM")"#;
const INOTIFY: &str = "tell(call(294, 26, 0), \"EPERM\")";
const DISCIPLINE: &str = "tell(call(16, 29, 0, 0x5423, b\"x\"), \"EPERM\")";
const PAIR: &str = "tell(call(53, 199, 16, 3, 0, bytes(8)), \"EPERM\")";
const PROTOCOL: &str = "tell(call(41, 198, 2, 1, 132), \"EPERM\")";
const X32: &str = r#"
if not X86:
    os.kill(os.getpid(), 31)
call(0x40000000 | 39, 0)
print("ESCAPED: still alive")"#;

const NOT_EVERYWHERE: Outside = Outside::Untried("many kernels are built without it");

pub(super) const PROBES: &[Probe] = &[
    Probe::python("make a namespace of users", UNSHARE, PERMISSION).quick(),
    Probe::python("be born into a namespace of users", CLONE_USER, PERMISSION),
    Probe::python("be born by the newer call", CLONE3, &[Held::Says("ENOSYS")]),
    Probe::python("enter a namespace", SETNS, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("mount", MOUNT, PERMISSION).quick(),
    Probe::python("unmount", UMOUNT, PERMISSION),
    Probe::python("pivot the root", PIVOT, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("open a file system", FSOPEN, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("clone a mount", OPEN_TREE, PERMISSION),
    Probe::python("move a mount", MOVE_MOUNT, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("read the keyring", KEYRING, PERMISSION),
    Probe::python("add a key", ADD_KEY, PERMISSION),
    Probe::python("load a program into the kernel", BPF, PERMISSION),
    Probe::python("watch the processor", PERF, PERMISSION),
    Probe::python("make a ring", URING, PERMISSION).quick(),
    Probe::python("enter a ring", URING_ENTER, PERMISSION),
    Probe::python("handle faults of memory", USERFAULT, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("watch files", FANOTIFY, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("load a module", MODULE, PERMISSION).outside(NOT_EVERYWHERE),
    Probe::python("load another kernel", KEXEC, PERMISSION).outside(NOT_EVERYWHERE),
    Probe::python("restart the machine", REBOOT, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("swap to a file", SWAP, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("switch accounting on", ACCOUNT, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("read the kernel's log", LOG, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("set the clock", CLOCK, PERMISSION),
    Probe::python("set the machine's name", NAME, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python(
        "switch off the shuffling of addresses",
        PERSONALITY,
        PERMISSION,
    ),
    Probe::python("type into a terminal", TYPE_INTO, PERMISSION),
    Probe::python(
        "type into a terminal by a wide command",
        TYPE_INTO_WIDE,
        PERMISSION,
    ),
    Probe::python("paste into a console", CONSOLE, PERMISSION),
    Probe::python(
        "keep memory in a file without a name",
        MEMORY_FILE,
        PERMISSION,
    ),
    Probe::python("keep memory in a shared segment", SHARED_MEMORY, PERMISSION),
    Probe::python("keep memory in a queue", MESSAGES, PERMISSION),
    Probe::python("keep memory in semaphores", SEMAPHORES, PERMISSION),
    Probe::python("keep memory in a named queue", NAMED_QUEUE, PERMISSION),
    Probe::python("watch what others read of the runtime", INOTIFY, PERMISSION),
    Probe::python("load a line discipline", DISCIPLINE, PERMISSION),
    Probe::python("make a pair of another family", PAIR, PERMISSION),
    Probe::python("load another protocol", PROTOCOL, PERMISSION),
    Probe::python(
        "call by the other table",
        X32,
        &[Held::Ends(End::Signalled(31))],
    ),
];
