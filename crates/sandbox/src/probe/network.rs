//! The network: there is none but a loopback of the sandbox's own.

use super::refusal::{NO_ROUTE, PERMISSION, YES};
use super::{Held, Outside, Probe};

const LOOPBACK: &str = r#"
attempt(lambda: socket.create_connection(("127.0.0.1", int(os.environ["PROBE_PORT"])), 5), "ECONNREFUSED")"#;
const MAPPED: &str = r#"
s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
attempt(lambda: s.connect(("::ffff:127.0.0.1", int(os.environ["PROBE_PORT"]))), "ECONNREFUSED")"#;
// Connecting a datagram socket sends nothing: it asks whether there is a way.
const METADATA: &str = r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt(lambda: s.connect(("169.254.169.254", 80)), "ENETUNREACH")"#;
const INTERNET: &str = r#"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt(lambda: s.connect(("192.0.2.1", 53)), "ENETUNREACH")"#;
const INTERNET6: &str = r#"
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
attempt(lambda: s.connect(("2001:db8::1", 53)), "ENETUNREACH EADDRNOTAVAIL")"#;
const INTERFACES: &str = r#"
n=$(grep -c -v -E '(^Inter|^ face|^ *lo:)' /proc/net/dev)
if [ "$n" -gt 0 ]; then echo "ESCAPED: $n interfaces"; elif [ "$n" = 0 ]; then echo "held: yes"; fi"#;
const NAMES: &str = r#"
try:
    socket.getaddrinfo("localhost.localdomain.invalid", 80)
    print("ESCAPED: resolved")
except socket.gaierror as error:
    resolver = os.path.exists("/etc/resolv.conf")
    print("ESCAPED: a resolver is set" if resolver else "held: yes")"#;
const ABSTRACT: &str = r#"
attempt(lambda: socket.socket(socket.AF_UNIX).connect("\0" + os.environ["PROBE_ABSTRACT"]), "EPERM")"#;
const UNIX: &str = "attempt(lambda: socket.socket(socket.AF_UNIX), \"EPERM\")";
const NETLINK: &str = "attempt(lambda: socket.socket(16, socket.SOCK_RAW), \"EPERM\")";
const PACKET: &str = "attempt(lambda: socket.socket(17, socket.SOCK_RAW), \"EPERM\")";
const VSOCK: &str = "attempt(lambda: socket.socket(40, socket.SOCK_STREAM), \"EPERM\")";
const CRYPTO: &str = "attempt(lambda: socket.socket(38, 5), \"EPERM\")";
const RAW: &str = "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), \"EPERM\")";

pub(super) const PROBES: &[Probe] = &[
    Probe::python(
        "reach a service of the machine",
        LOOPBACK,
        &[Held::Says("ECONNREFUSED")],
    ),
    Probe::python(
        "reach it by a mapped address",
        MAPPED,
        &[Held::Says("ECONNREFUSED")],
    ),
    Probe::python("reach the metadata of a cloud", METADATA, NO_ROUTE),
    Probe::python("reach the internet", INTERNET, NO_ROUTE).quick(),
    Probe::python(
        "reach the internet by version 6",
        INTERNET6,
        &[Held::Says("ENETUNREACH"), Held::Says("EADDRNOTAVAIL")],
    )
    .outside(Outside::Untried("many machines have no version 6")),
    Probe::shell("see an interface", INTERFACES, YES)
        .needs(&["grep"])
        .quick(),
    Probe::python("resolve a name", NAMES, YES),
    Probe::python("reach an abstract socket", ABSTRACT, PERMISSION),
    Probe::python("make a socket of the file system", UNIX, PERMISSION),
    Probe::python("talk to the kernel's network", NETLINK, PERMISSION),
    Probe::python("make a packet socket", PACKET, PERMISSION).outside(Outside::EscapesAsRoot),
    Probe::python("reach the hypervisor", VSOCK, PERMISSION)
        .outside(Outside::Untried("many kernels are built without it")),
    Probe::python("use the kernel's cryptography", CRYPTO, PERMISSION),
    Probe::python("make a raw socket", RAW, PERMISSION).outside(Outside::EscapesAsRoot),
];
