//! Which addresses may be reached.
//!
//! The decision is about the parsed address of the socket to be opened, never about the text of a
//! host name: every spelling of an address (mapped, translated, octal) has become one value here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What kind of place an address is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// Routable on the public internet.
    Public,
    /// This machine.
    Loopback,
    /// Somebody's own network: RFC 1918, CGNAT, unique local, benchmarking.
    Private,
    /// Never reached: metadata services, link-local, multicast, unspecified, reserved,
    /// documentation, tunnels that hide the true address.
    Never,
}

/// How far a connection may reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// Public addresses only.
    Public,
    /// Only this machine: the configured host is a loopback name or address.
    Loopback,
    /// Any address that is not [`Place::Never`]: the operator wrote `allow_private: true`.
    Private,
}

impl Reach {
    /// Whether a connection to `address` is allowed. Without TLS a public address is refused even
    /// where private ones are allowed: a key, or a tenant's data, would cross the internet in clear text.
    #[must_use]
    pub fn allows(self, address: IpAddr, tls: bool) -> bool {
        match (self, place(address)) {
            (_, Place::Never) | (Self::Loopback, Place::Public | Place::Private) => false,
            (Self::Loopback | Self::Private, Place::Loopback) => true,
            (Self::Private, Place::Private) => true,
            (Self::Public, Place::Loopback | Place::Private) => false,
            (Self::Public | Self::Private, Place::Public) => tls,
        }
    }
}

/// Classifies an address.
#[must_use]
pub fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(v4) => place_v4(v4),
        IpAddr::V6(v6) => place_v6(v6),
    }
}

/// Addresses of cloud metadata and host services that lie outside the blocks refused anyway.
const METADATA_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba, inside CGNAT
    Ipv4Addr::new(168, 63, 129, 16),   // Azure host services, inside public space
];
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), // AWS
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),  // Google
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), // Oracle
];

fn place_v4(address: Ipv4Addr) -> Place {
    if METADATA_V4.contains(&address) {
        return Place::Never;
    }
    match address.octets() {
        [127, ..] => Place::Loopback,
        [10, ..] | [192, 168, ..] => Place::Private,
        [172, second, ..] if (16..32).contains(&second) => Place::Private,
        [100, second, ..] if (64..128).contains(&second) => Place::Private,
        [198, 18 | 19, ..] => Place::Private,
        [0, ..] | [169, 254, ..] | [192, 0, 0, _] => Place::Never,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Place::Never,
        [192, 88, 99, _] | [192, 31, 196, _] | [192, 52, 193, _] | [192, 175, 48, _] => {
            Place::Never
        }
        [(224..), ..] => Place::Never,
        _ => Place::Public,
    }
}

fn place_v6(address: Ipv6Addr) -> Place {
    if let Some(inner) = address.to_ipv4_mapped() {
        return place_v4(inner);
    }
    if address == Ipv6Addr::LOCALHOST {
        return Place::Loopback;
    }
    if METADATA_V6.contains(&address) {
        return Place::Never;
    }
    match address.segments() {
        // NAT64: what is reached is the embedded address, and a translator has no loopback of ours.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            match place_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))) {
                Place::Loopback => Place::Never,
                other => other,
            }
        }
        [0x2001, second, ..] if second < 0x200 => Place::Never, // Teredo, ORCHID, protocol blocks
        [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, (..0x1000), ..] => Place::Never,
        [first, ..] if first & 0xe000 == 0x2000 => Place::Public,
        [first, ..] if first & 0xfe00 == 0xfc00 => Place::Private,
        // Unspecified, v4-compatible, link- and site-local, multicast, discard, unassigned.
        _ => Place::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, ToSocketAddrs};

    fn check(expect: Place, addresses: &[&str]) {
        for text in addresses {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(place(address), expect, "{text}");
        }
    }

    #[test]
    fn loopback() {
        check(
            Place::Loopback,
            &[
                "127.0.0.1",
                "127.0.0.2",
                "127.255.255.254",
                "::1",
                "::ffff:127.0.0.1",
                "::ffff:7f00:1",
            ],
        );
    }

    #[test]
    fn private() {
        check(
            Place::Private,
            &[
                "10.0.0.0",
                "10.255.255.255",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.0.1",
                "192.168.255.255",
                "100.64.0.1",
                "100.127.255.255",
                "198.18.0.1",
                "198.19.255.255",
                "::ffff:10.0.0.1",
                "::ffff:192.168.1.1",
                "::ffff:100.64.0.1",
                "fc00::1",
                "fd00::1",
                "fdff:ffff::1",
                "64:ff9b::10.0.0.1",
                "64:ff9b::192.168.0.1",
            ],
        );
    }

    #[test]
    fn never() {
        check(
            Place::Never,
            &[
                "0.0.0.0",
                "0.1.2.3",
                "169.254.169.254",
                "169.254.170.2",
                "169.254.0.1",
                "100.100.100.200",
                "168.63.129.16",
                "192.0.0.1",
                "192.0.0.192",
                "192.0.2.1",
                "198.51.100.7",
                "203.0.113.9",
                "192.88.99.1",
                "224.0.0.1",
                "239.255.255.255",
                "240.0.0.1",
                "255.255.255.255",
                "::",
                "::2",
                "::127.0.0.1",
                "::169.254.169.254",
                "::ffff:169.254.169.254",
                "::ffff:a9fe:a9fe",
                "::ffff:0.0.0.0",
                "::ffff:168.63.129.16",
                "::ffff:0:127.0.0.1",
                "64:ff9b::127.0.0.1",
                "64:ff9b::169.254.169.254",
                "64:ff9b::100.100.100.200",
                "64:ff9b:1::10.0.0.1",
                "2002:7f00:1::",
                "2002:a9fe:a9fe::1",
                "2002:0808:0808::1",
                "2001::1",
                "2001:0:4136:e378:8000:63bf:3fff:fdd2",
                "2001:10::1",
                "2001:20::1",
                "2001:db8::1",
                "3fff::1",
                "3fff:fff::1",
                "fe80::1",
                "febf::1",
                "fec0::1",
                "ff02::1",
                "ff0e::1",
                "100::1",
                "5f00::1",
                "fd00:ec2::254",
                "fd20:ce::254",
                "4000::1",
                "e000::1",
                "1::1",
            ],
        );
    }

    #[test]
    fn public() {
        check(
            Place::Public,
            &[
                "1.1.1.1",
                "8.8.8.8",
                "9.255.255.255",
                "11.0.0.0",
                "126.255.255.255",
                "128.0.0.1",
                "172.15.255.255",
                "172.32.0.1",
                "100.63.255.255",
                "100.128.0.0",
                "169.253.255.255",
                "169.255.0.0",
                "192.167.255.255",
                "192.169.0.0",
                "198.17.255.255",
                "198.20.0.0",
                "223.255.255.255",
                "::ffff:8.8.8.8",
                "64:ff9b::8.8.8.8",
                "2606:4700::1111",
                "2a00:1450:4001::1",
                "2001:4860:4860::8888",
                "2001:200::1",
                "3ffe::1",
                "3fff:1000::1",
            ],
        );
    }

    /// Spellings that only a resolver understands still end as a classified address.
    #[test]
    fn odd_spellings_resolve_to_refused_addresses() {
        for host in [
            "127.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0x7f.1",
            "localhost",
        ] {
            let Ok(found) = (host, 80).to_socket_addrs() else {
                continue;
            };
            let found: Vec<SocketAddr> = found.collect();
            assert!(
                found.iter().all(|a| !Reach::Public.allows(a.ip(), true)),
                "{host} {found:?}"
            );
        }
    }

    #[test]
    fn reach_is_a_table() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let (public, loopback, private, never) = (
            at("8.8.8.8"),
            at("127.0.0.1"),
            at("10.0.0.1"),
            at("169.254.169.254"),
        );
        for (reach, address, with_tls, without) in [
            (Reach::Public, public, true, false),
            (Reach::Public, loopback, false, false),
            (Reach::Public, private, false, false),
            (Reach::Loopback, public, false, false),
            (Reach::Loopback, loopback, true, true),
            (Reach::Loopback, private, false, false),
            (Reach::Private, public, true, false),
            (Reach::Private, loopback, true, true),
            (Reach::Private, private, true, true),
            (Reach::Public, never, false, false),
            (Reach::Loopback, never, false, false),
            (Reach::Private, never, false, false),
        ] {
            assert_eq!(
                reach.allows(address, true),
                with_tls,
                "{reach:?} {address} tls"
            );
            assert_eq!(
                reach.allows(address, false),
                without,
                "{reach:?} {address} plain"
            );
        }
    }
}
