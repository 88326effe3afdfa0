//! The one extractor of credentials, for every dialect, route and listener.

use http::header::{AUTHORIZATION, HeaderMap};
use http::{HeaderValue, Uri};

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

/// Headers that carry a bare key: Anthropic's, Azure's and Google's names for it.
const KEY_HEADERS: [&str; 3] = ["x-api-key", "api-key", "x-goog-api-key"];

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
    let bare = KEY_HEADERS.iter().flat_map(|name| headers.get_all(*name));
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
            KEY_PARAMETERS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
                || looks_like_key(value)
        })
    });
    query_has_key || uri.path().split('/').any(looks_like_key)
}

fn looks_like_key(text: &str) -> bool {
    text.starts_with("tk_") || text.starts_with("pk_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderName;

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
