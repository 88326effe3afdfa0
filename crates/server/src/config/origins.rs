//! Web pages that may use `/rpc`: exact origins, nothing else.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use base::limits::ORIGINS_MAX;

use super::ConfigError;
use super::low::Text;
use super::value::At;

/// Longest origin in bytes: a host name has 253.
const ORIGIN_BYTES_MAX: usize = 272;

/// The origins that are let in. Compared byte for byte with what a browser sends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Arc<BTreeSet<String>>);

impl Origins {
    /// Whether a page of that origin is let in.
    #[must_use]
    pub fn hold(&self, origin: &str) -> bool {
        self.0.contains(origin)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

pub(super) fn read(low: &[Text]) -> Result<Origins, ConfigError> {
    let mut origins = BTreeSet::new();
    for (index, text) in low.iter().enumerate() {
        let at = At::new(text, format!("origins[{index}]"));
        if index >= ORIGINS_MAX {
            return Err(at.wrong(format!("at most {ORIGINS_MAX} origins are allowed")));
        }
        if !is_origin(at.text()) {
            return Err(at.wrong(
                "is not an origin as browsers send it: https://host or https://host:port, in lower case and without a path; http for localhost only",
            ));
        }
        origins.insert(at.text().to_owned());
    }
    Ok(Origins(Arc::new(origins)))
}

/// The one form in which browsers send an origin, so that comparing bytes is comparing origins.
fn is_origin(text: &str) -> bool {
    let (rest, default_port, is_http) =
        match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (rest, 443, false),
            (_, Some(rest)) => (rest, 80, true),
            _ => return false,
        };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let is_port = |port: &str| {
        let number = port.parse::<u16>();
        number
            .is_ok_and(|number| number.to_string() == port && number != default_port && number != 0)
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
        .parse::<IpAddr>();
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-')
    };
    let is_host = match &address {
        Ok(IpAddr::V6(address)) => host == format!("[{address}]"),
        Ok(IpAddr::V4(address)) => host == address.to_string(),
        Err(_) => !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['.', '-']),
    };
    let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    text.len() <= ORIGIN_BYTES_MAX && is_host && port.is_none_or(is_port) && (!is_http || is_here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_browser_sends_is_an_origin() {
        for good in [
            "https://console.example.com",
            "https://console.example.com:8443",
            "https://192.0.2.1",
            "https://[2001:db8::1]:444",
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://[::1]:5173",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "https://",
            "https://*",
            "https://*.example.com",
            "https://example.com/",
            "https://example.com/x",
            "https://Example.com",
            "https://example.com:443",
            "https://example.com:0443",
            "https://example.com:",
            "https://example.com:x",
            "https://user@example.com",
            "https://example.com?x",
            "https://exämple.com",
            "http://example.com",
            "http://localhost:80",
            "http://localhost.example.com",
            "ws://localhost",
            "file://",
            "example.com",
            "https://example.com https://other.com",
            "https://[::0001]",
            " https://example.com",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
