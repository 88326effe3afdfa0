//! Scheme, host and port of a URL: the one reading of them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::address::Reach;

/// Scheme, host and port: what a credential is bound to.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Lowercase name, or the address without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
}

/// Why a URL has no origin that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OriginError {
    /// It starts with neither `https://` nor `http://`.
    Scheme,
    /// It holds credentials.
    Credentials,
    /// Its host is not a plain name or address with an optional port.
    Host,
}

impl Origin {
    /// Splits a URL into its origin and what follows it. What is not plainly right is refused; nothing is repaired but letter
    /// case.
    ///
    /// # Errors
    /// The first rule that the URL breaks.
    pub fn split(url: &str) -> Result<(Self, &str), OriginError> {
        let (tls, rest) = if let Some(rest) = url.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = url.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err(OriginError::Scheme);
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(OriginError::Credentials);
        }
        let default_port = if tls { 443 } else { 80 };
        let (host, port) = split_authority(authority, default_port).ok_or(OriginError::Host)?;
        Ok((Self { tls, host, port }, rest))
    }

    /// Whether the host is written as a name or address of this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => &*self.host == "localhost",
        }
    }

    /// How far connections to this origin may reach: `private` where its host may have a private address, otherwise this machine
    /// where it is written so, otherwise public addresses.
    #[must_use]
    pub fn reach(&self, private: bool) -> Reach {
        match (private, self.is_loopback()) {
            (true, _) => Reach::Private,
            (false, true) => Reach::Loopback,
            (false, false) => Reach::Public,
        }
    }

    /// Host and port as the `host` header writes them.
    #[must_use]
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{}]", self.host),
            Err(_) => self.host.to_string(),
        };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.tls { "https" } else { "http" },
            self.authority()
        )
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn split_authority(authority: &str, default_port: u16) -> Option<(Box<str>, u16)> {
    let port = |text: &str| match text.strip_prefix(':') {
        None if text.is_empty() => Some(default_port),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().ok().filter(|p| *p != 0)
        }
        _ => None,
    };
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return Some((address.to_string().into(), port(rest)?));
    }
    let (host, rest) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return None;
    }
    Some((host.to_ascii_lowercase().into(), port(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_plainly_right_is_an_origin() {
        for (url, origin, rest) in [
            ("https://Hooks.Example", "https://hooks.example", ""),
            ("https://a.b:443/x?y#z", "https://a.b", "/x?y#z"),
            ("http://127.0.0.1:9/", "http://127.0.0.1:9", "/"),
            ("https://[::1]:8/h", "https://[::1]:8", "/h"),
        ] {
            let (found, left) = Origin::split(url).unwrap();
            assert_eq!((&*found.to_string(), left), (origin, rest));
        }
        for (url, why) in [
            ("ftp://a.b/", OriginError::Scheme),
            ("HTTPS://a.b/", OriginError::Scheme),
            ("//a.b/", OriginError::Scheme),
            ("https://user:key@a.b/", OriginError::Credentials),
            (
                "https://good.example@evil.example/",
                OriginError::Credentials,
            ),
            ("https:///x", OriginError::Host),
            ("https://a..b/", OriginError::Host),
            ("https://a b/", OriginError::Host),
            ("https://a.b:0/", OriginError::Host),
            ("https://a.b:65536/", OriginError::Host),
            ("https://a.b\\@c/", OriginError::Credentials),
            ("https://ä.example/", OriginError::Host),
            ("https://%61.example/", OriginError::Host),
            ("https://[fe80::1%25eth0]/", OriginError::Host),
        ] {
            assert_eq!(Origin::split(url).err(), Some(why), "{url}");
        }
    }
}
