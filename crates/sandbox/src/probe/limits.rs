//! Ceilings: each is exceeded several times over, and by so little that nothing happens where it does not hold.

use super::refusal::{YES, ends};
use super::{Ceiling, Held, Outside, Probe};

const FORKS: &str = r#"
import time
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(1)
            os._exit(0)
        made += 1
except OSError as error:
    print("ESCAPED:" if made > 24 else "held: yes", made, errno.errorcode[error.errno])
else:
    print("ESCAPED:", made)"#;
const THREADS: &str = r#"
import threading, time
made = 0
try:
    for _ in range(100):
        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
        made += 1
except RuntimeError:
    print("ESCAPED:" if made > 24 else "held: yes", made, flush=True)
else:
    print("ESCAPED:", made, flush=True)
os._exit(0)"#;
const MEMORY: &str = r#"
kept = []
try:
    for _ in range(40):
        kept.append(b"x" * (8 << 20))
except MemoryError:
    print("held: MemoryError")
else:
    print("ESCAPED:", len(kept) * 8, "MiB")"#;
const MEMORY_OF_MANY: &str = r#"
import time
for _ in range(12):
    if os.fork() == 0:
        kept = b"x" * (32 << 20)
        time.sleep(0.7)
        os._exit(0)
ended = [os.wait()[1] for _ in range(12)]
print("ESCAPED: all twelve" if not any(ended) else "held: yes")"#;
const DISK: &str = r#"
import time
for number in range(10):
    with open(f"fill{number}", "wb") as file:
        file.write(b"x" * (4 << 20))
time.sleep(1)
for number in range(10):
    os.unlink(f"fill{number}")
print("ESCAPED: 40 MiB")"#;
const ONE_FILE: &str = r#"
head -c 20000000 /dev/zero >big; n=$(stat -c %s big); rm -f big
if [ "$n" -gt 8388608 ]; then echo "ESCAPED: $n"; else echo "held: yes"; fi"#;
const FILES: &str = r#"
import time
os.mkdir("many")
for number in range(1500):
    os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
time.sleep(1)
for number in range(1500):
    os.unlink(f"many/{number}")
print("ESCAPED: 1500 files")"#;
const DEEP: &str = r#"
import time
home = os.getcwd()
for _ in range(100):
    os.mkdir("d")
    os.chdir("d")
time.sleep(1)
for _ in range(100):
    os.chdir("..")
    os.rmdir("d")
print("ESCAPED: 100 directories deep")"#;
const TMP: &str = r#"
if said=$(head -c 8000000 /dev/zero 2>&1 >/tmp/partywall-probe); then echo "ESCAPED: 8 MB"; else echo "held: $said"; fi
rm -f /tmp/partywall-probe"#;
const SHM: &str = r#"
if said=$(head -c 8000000 /dev/zero 2>&1 >/dev/shm/partywall-probe); then echo "ESCAPED: 8 MB"; else echo "held: $said"; fi
rm -f /dev/shm/partywall-probe"#;
const DESCRIPTORS: &str = r#"
opened = []
try:
    for _ in range(300):
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    print("held:", errno.errorcode[error.errno])
else:
    print("ESCAPED:", len(opened))"#;
const RAISE: &str = r#"
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    print("ESCAPED: raised")
except (ValueError, OSError) as error:
    print("held: yes" if hard <= 64 else f"ESCAPED: {hard}")"#;
const CORE: &str = r#"
import resource
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
print("held: yes" if hard == 0 else f"ESCAPED: {hard}")"#;
const OUTPUT: &str = "yes | head -c 8000000; echo ESCAPED >&2; exit 3";
const CPU: &str = "while :; do :; done";
const WALL: &str = "sleep 20; echo ESCAPED";

const KEPT_BY_GATEWAY: Outside = Outside::Untried("the wall is who reads the output");
const ENDLESS: Outside = Outside::Untried("would not end");
const NO_SPACE: &[Held] = &[Held::Says("No space left on device")];

pub(super) const PROBES: &[Probe] = &[
    Probe::python("fork without end", FORKS, YES),
    Probe::python("start threads without end", THREADS, YES),
    Probe::python(
        "take all memory",
        MEMORY,
        &[ends(Ceiling::Memory), Held::Says("MemoryError")],
    ),
    Probe::python(
        "take all memory with many processes",
        MEMORY_OF_MANY,
        &[ends(Ceiling::Memory)],
    )
    .of_all(),
    Probe::python("fill the disk", DISK, &[ends(Ceiling::Disk)]),
    Probe::shell("fill the disk with one file", ONE_FILE, YES).needs(&["head", "stat", "rm"]),
    Probe::python("make files without end", FILES, &[ends(Ceiling::Files)]),
    Probe::python(
        "make directories without end",
        DEEP,
        &[ends(Ceiling::Files)],
    ),
    Probe::shell("fill tmp", TMP, NO_SPACE).needs(&["head", "rm"]),
    Probe::shell("fill shared memory", SHM, NO_SPACE).needs(&["head", "rm"]),
    Probe::python(
        "open files without end",
        DESCRIPTORS,
        &[Held::Says("EMFILE")],
    ),
    Probe::python("raise a limit", RAISE, YES),
    Probe::python("leave a core", CORE, YES),
    Probe::shell("write output without end", OUTPUT, &[ends(Ceiling::Output)])
        .needs(&["yes", "head"])
        .outside(KEPT_BY_GATEWAY),
    Probe::shell("spin", CPU, &[ends(Ceiling::Cpu)]).outside(ENDLESS),
    Probe::shell("sleep", WALL, &[ends(Ceiling::Wall)])
        .needs(&["sleep"])
        .endless()
        .outside(ENDLESS),
];
