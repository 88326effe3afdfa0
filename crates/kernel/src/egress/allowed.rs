//! Hosts that somebody in charge lets others reach.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use super::origin::Origin;

/// A host that may be reached though its address is private: at one port, or at every port. Written as in a URL, `name`,
/// `name:8443`, `[::1]`, `[::1]:8443`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AllowedHost {
    /// As [`Origin::host`].
    host: Box<str>,
    port: Option<u16>,
}

/// The text is neither a host nor a host and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoHost;

impl AllowedHost {
    /// Whether it is the host that `origin` leads to.
    #[must_use]
    pub fn admits(&self, origin: &Origin) -> bool {
        self.host == origin.host && self.port.is_none_or(|port| port == origin.port)
    }
}

impl FromStr for AllowedHost {
    type Err = NoHost;

    fn from_str(text: &str) -> Result<Self, NoHost> {
        let origin = |scheme: &str| match Origin::split(&format!("{scheme}://{text}")) {
            Ok((origin, "")) => Ok(origin),
            _ => Err(NoHost),
        };
        let (plain, secure) = (origin("http")?, origin("https")?);
        // Where the text names no port, each scheme has its own.
        let port = (plain.port == secure.port).then_some(plain.port);
        Ok(Self {
            host: plain.host,
            port,
        })
    }
}

impl fmt::Display for AllowedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]")?,
            Err(_) => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a host, or a host and a port")
    }
}

impl std::error::Error for NoHost {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_as_in_a_url_and_admits_its_port_only() {
        for (text, shown, admitted, refused) in [
            (
                "Hooks.Internal",
                "hooks.internal",
                &["http://hooks.internal:9/", "https://hooks.internal/"][..],
                &["https://a.hooks.internal/", "https://internal/"][..],
            ),
            (
                "10.0.0.9:08443",
                "10.0.0.9:8443",
                &["https://10.0.0.9:8443/", "http://10.0.0.9:8443/x"],
                &["https://10.0.0.9/", "http://10.0.0.9:9200/"],
            ),
            ("a:80", "a:80", &["http://a/"], &["https://a/"]),
            ("a:443", "a:443", &["https://a/"], &["http://a/"]),
            (
                "[::1]",
                "[::1]",
                &["https://[0::1]:7/"],
                &["https://[::2]:7/"],
            ),
            (
                "[0:0::1]:8443",
                "[::1]:8443",
                &["https://[::1]:8443/"],
                &["https://[::1]/"],
            ),
        ] {
            let host: AllowedHost = text.parse().unwrap();
            assert_eq!(host.to_string(), shown);
            assert_eq!(host.to_string().parse(), Ok(host.clone()));
            let admits = |url: &&str| host.admits(&Origin::split(url).unwrap().0);
            assert!(admitted.iter().all(admits), "{text}");
            assert!(!refused.iter().any(admits), "{text}");
        }
        for text in [
            "",
            "a/b",
            "::1",
            "::1:8443",
            "a:",
            "a:0",
            "a b",
            "u@a",
            "https://a",
            "a?b",
        ] {
            assert_eq!(text.parse::<AllowedHost>(), Err(NoHost), "{text}");
        }
    }
}
