//! What a provider's status means for the client and for a retry.

use http::StatusCode;

/// How a provider's status goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passage {
    /// The call succeeded.
    Answer,
    /// An error of the caller or a load signal: the client sees this status.
    Status(StatusCode),
    /// An affair between gateway and provider (its credentials, its redirects, a status outside
    /// the table): the client sees 502.
    BadGateway,
}

/// The passage of a status.
#[must_use]
pub fn passage(status: StatusCode) -> Passage {
    match status.as_u16() {
        200..=299 => Passage::Answer,
        400 | 404 | 408 | 413 | 415 | 422 | 429 | 500 | 503 | 504 | 529 => Passage::Status(status),
        _ => Passage::BadGateway,
    }
}

/// Whether another route may be tried after this status, before any byte went to the client.
#[must_use]
pub fn retryable(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 409 | 429 | 500 | 502 | 503 | 504 | 529
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_passage() {
        for code in 100..=999_u16 {
            let status = StatusCode::from_u16(code).unwrap();
            let expect = match code {
                200..=299 => Passage::Answer,
                400 | 404 | 408 | 413 | 415 | 422 | 429 | 500 | 503 | 504 | 529 => {
                    Passage::Status(status)
                }
                _ => Passage::BadGateway,
            };
            assert_eq!(passage(status), expect, "{code}");
            assert!(!(retryable(status) && passage(status) == Passage::Answer));
        }
        for code in [401, 403, 301, 302, 307, 308, 402] {
            let status = StatusCode::from_u16(code).unwrap();
            assert_eq!(
                (passage(status), retryable(status)),
                (Passage::BadGateway, false),
                "{code}"
            );
        }
    }
}
