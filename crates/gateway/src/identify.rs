//! The one extractor of credentials, for every dialect, route and listener.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use http::{HeaderValue, Uri};

use kernel::Caller;

use crate::pipeline::Inbound;
use crate::refusal::Refusal;

/// A credential as presented. Shown to nobody: it has no text form but [`Presented::expose_str`].
pub struct Presented<'a>(&'a str);

impl<'a> Presented<'a> {
    /// The text, for verification only.
    #[must_use]
    pub fn expose_str(&self) -> &'a str {
        self.0
    }
}

/// Who calls: whom this process itself speaks for, or whoever the headers name.
///
/// # Errors
/// As [`presented`].
pub(crate) fn caller<B>(inbound: &mut Inbound<B>) -> Result<Caller, Refusal> {
    match inbound.caller.take() {
        Some(caller) => Ok(caller),
        None => presented(&inbound.headers, &inbound.uri)
            .map(|presented| Caller::from_token(presented.expose_str())),
    }
}

/// Headers that carry a bare key: Anthropic's, Azure's and Google's names for it.
static KEY_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Query parameters by which clients of some vendors send keys.
const KEY_PARAMETERS: [&str; 7] = [
    "key",
    "api_key",
    "apikey",
    "api-key",
    "token",
    "access_token",
    "auth",
];

/// Finds the credential of a request. Cookies and everything else never count.
///
/// # Errors
/// None, more than one, or one in the URL: each is refused, whether or not any of them is valid.
pub fn presented<'a>(headers: &'a HeaderMap, uri: &Uri) -> Result<Presented<'a>, Refusal> {
    if in_url(uri) {
        return Err(Refusal::TokenInUrl);
    }
    let bare = KEY_HEADERS.iter().flat_map(|name| headers.get_all(name));
    let mut values = headers
        .get_all(AUTHORIZATION)
        .into_iter()
        .map(bearer)
        .chain(bare.map(text));
    let first = values.next().ok_or(Refusal::NoCredential)?;
    if values.next().is_some() {
        return Err(Refusal::AmbiguousCredential);
    }
    first
        .filter(|text| !text.is_empty())
        .map(Presented)
        .ok_or(Refusal::BadCredential)
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, rest) = text(value)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(rest)
}

fn in_url(uri: &Uri) -> bool {
    let query_has_key = uri.query().is_some_and(|query| {
        query.split('&').any(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name);
            KEY_PARAMETERS
                .iter()
                .any(|known| known.as_bytes().eq_ignore_ascii_case(&name))
                || holds_key(value)
                || holds_key(pair)
        })
    });
    query_has_key || uri.path().split('/').any(holds_key)
}

/// Whether a credential stands anywhere in a part of a URL, however it is written.
fn holds_key(part: &str) -> bool {
    let text = decoded(part);
    text.windows(3).enumerate().any(|(at, three)| {
        let begins = at == 0 || !text[at - 1].is_ascii_alphanumeric();
        begins && (three == b"tk_" || three == b"pk_")
    })
}

/// Percent-decoding, once; what is no escape stays as it is.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escape = bytes.get(at + 1..at + 3).filter(|_| byte == b'%');
        let digits = escape.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(headers: &[(&str, &str)], uri: &str) -> Result<String, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        presented(&map, &uri.parse().unwrap()).map(|presented| presented.expose_str().to_owned())
    }

    #[test]
    fn each_kind_of_header_is_read() {
        for (name, value) in [
            ("authorization", "Bearer tk_a_1"),
            ("authorization", "bearer tk_a_1"),
            ("x-api-key", "tk_a_1"),
            ("api-key", "tk_a_1"),
            ("x-goog-api-key", "tk_a_1"),
        ] {
            assert_eq!(
                found(&[(name, value)], "/v1/x?beta=true").as_deref(),
                Ok("tk_a_1"),
                "{name}"
            );
        }
    }

    #[test]
    fn two_credentials_are_refused_even_when_equal() {
        for pair in [
            [("authorization", "Bearer a"), ("x-api-key", "a")],
            [("authorization", "Bearer a"), ("authorization", "Bearer b")],
            [("x-api-key", "a"), ("x-api-key", "a")],
            [("api-key", "a"), ("x-goog-api-key", "b")],
            [("authorization", "Basic zzz"), ("x-api-key", "a")],
        ] {
            assert_eq!(
                found(&pair, "/"),
                Err(Refusal::AmbiguousCredential),
                "{pair:?}"
            );
        }
    }

    #[test]
    fn urls_carry_no_credential() {
        for uri in [
            "/v1/x?key=tk_a_1",
            "/v1/x?API_KEY=z",
            "/v1/x?a=1&token=z",
            "/v1/x?q=tk_acme_0",
            "/v1/tk_acme_0/x",
            "/v1/x?q=%74k_acme_0",
            "/v1/x?%6bey=junk",
            "/v1/x?q=Bearer%20tk_acme_0",
            "/v1/x?q=a,tk_acme_0",
            "/v1/%74k_acme_0/x",
            "/?x=pk_0",
        ] {
            assert_eq!(
                found(&[("x-api-key", "a")], uri),
                Err(Refusal::TokenInUrl),
                "{uri}"
            );
        }
        assert_eq!(found(&[], "/"), Err(Refusal::NoCredential));
        assert_eq!(
            found(&[("authorization", "Basic abc")], "/"),
            Err(Refusal::BadCredential)
        );
        assert_eq!(
            found(&[("authorization", "Bearer")], "/"),
            Err(Refusal::BadCredential)
        );
        assert_eq!(
            found(&[("cookie", "token=tk_a_1")], "/"),
            Err(Refusal::NoCredential)
        );
    }
}
