//! Where a caller's limits stand, in the header families of both dialects. `OpenAI`'s stand on every answer, with the cost as a
//! third unit of its own; Anthropic's on answers of its dialect.

use base::Timestamp;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use kernel::quota::{Gauge, Standing, Unit};
use llm::Dialect;

use super::QuotaFacts;

/// Names of one unit's headers: limit, remaining, reset.
type Names = [HeaderName; 3];

static OPENAI_REQUESTS: Names = [
    HeaderName::from_static("x-ratelimit-limit-requests"),
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("x-ratelimit-reset-requests"),
];
static OPENAI_TOKENS: Names = [
    HeaderName::from_static("x-ratelimit-limit-tokens"),
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("x-ratelimit-reset-tokens"),
];
static COST: Names = [
    HeaderName::from_static("x-ratelimit-limit-cost-usd"),
    HeaderName::from_static("x-ratelimit-remaining-cost-usd"),
    HeaderName::from_static("x-ratelimit-reset-cost-usd"),
];
static STORAGE: Names = [
    HeaderName::from_static("x-ratelimit-limit-storage-bytes"),
    HeaderName::from_static("x-ratelimit-remaining-storage-bytes"),
    HeaderName::from_static("x-ratelimit-reset-storage-bytes"),
];
static ANTHROPIC_REQUESTS: Names = [
    HeaderName::from_static("anthropic-ratelimit-requests-limit"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
];
static ANTHROPIC_TOKENS: Names = [
    HeaderName::from_static("anthropic-ratelimit-tokens-limit"),
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
];

/// Writes where the caller stands onto a successful answer. Units without a limit have no headers.
pub(crate) fn put_standing(
    headers: &mut HeaderMap,
    standing: &Standing,
    dialect: Dialect,
    now: Timestamp,
) {
    let units = [
        (
            standing.requests,
            &OPENAI_REQUESTS,
            Some(&ANTHROPIC_REQUESTS),
        ),
        (standing.tokens, &OPENAI_TOKENS, Some(&ANTHROPIC_TOKENS)),
        (standing.cost, &COST, None),
    ];
    for (gauge, openai, anthropic) in units {
        let Some(gauge) = gauge else { continue };
        let (Some(limit), Some(left)) = (amount(&gauge, gauge.limit), amount(&gauge, gauge.left()))
        else {
            continue;
        };
        let resets_at = gauge.resets_at.unwrap_or(now);
        if let (Dialect::Anthropic, Some(anthropic)) = (dialect, anthropic) {
            put_three(
                headers,
                anthropic,
                limit.clone(),
                left.clone(),
                &moment(resets_at),
            );
        }
        let wait = duration(seconds_until(resets_at, now));
        put_three(headers, openai, limit, left, &wait);
    }
}

/// Writes the quota that refused a call.
pub(super) fn put_refused(headers: &mut HeaderMap, facts: &QuotaFacts, dialect: Dialect) {
    let (openai, anthropic) = match facts.unit {
        Unit::Requests => (&OPENAI_REQUESTS, Some(&ANTHROPIC_REQUESTS)),
        Unit::Tokens => (&OPENAI_TOKENS, Some(&ANTHROPIC_TOKENS)),
        Unit::Cost => (&COST, None),
        Unit::Bytes => (&STORAGE, None),
    };
    let text = |text: &str| HeaderValue::from_str(text).ok();
    let (Some(limit), Some(left)) = (text(&facts.limit), text(&facts.remaining)) else {
        return;
    };
    if let (Dialect::Anthropic, Some(anthropic)) = (dialect, anthropic) {
        let at = moment(facts.retry_at);
        put_three(headers, anthropic, limit.clone(), left.clone(), &at);
    }
    put_three(headers, openai, limit, left, &duration(facts.retry_after_s));
}

fn put_three(
    headers: &mut HeaderMap,
    [limit_name, left_name, reset_name]: &Names,
    limit: HeaderValue,
    left: HeaderValue,
    reset: &str,
) {
    headers.insert(limit_name.clone(), limit);
    headers.insert(left_name.clone(), left);
    // Digits, letters and punctuation of a moment: always a header's value.
    if let Ok(reset) = HeaderValue::from_str(reset) {
        headers.insert(reset_name.clone(), reset);
    }
}

fn amount(gauge: &Gauge, amount: Option<i128>) -> Option<HeaderValue> {
    let amount = amount?;
    match (gauge.quota.unit(), u64::try_from(amount)) {
        (Unit::Cost, _) | (_, Err(_)) => HeaderValue::from_str(&gauge.quota.shown(amount)).ok(),
        (_, Ok(count)) => Some(HeaderValue::from(count)),
    }
}

/// Whole seconds until a moment, rounded up: whoever waits so long is not early.
pub(super) fn seconds_until(at: Timestamp, now: Timestamp) -> u64 {
    let wait = at.since(now);
    wait.as_secs() + u64::from(wait.subsec_nanos() != 0)
}

/// A moment in RFC 3339, rounded up to the second, as Anthropic writes it.
fn moment(at: Timestamp) -> String {
    let second = at.unix_ms().div_euclid(1_000) + i64::from(at.unix_ms().rem_euclid(1_000) != 0);
    let text = Timestamp::from_unix_ms(second.saturating_mul(1_000)).to_string();
    text.replace(".000Z", "Z")
}

/// A duration as `OpenAI` writes it: `7s`, `2m30s`, `6m0s`, `23h59m1s`.
fn duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use kernel::quota::Quota;

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn durations_are_written_as_the_provider_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (1, "1s"),
            (60, "1m0s"),
            (150, "2m30s"),
            (360, "6m0s"),
            (86_341, "23h59m1s"),
            (2_678_400, "744h0m0s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn both_families_say_the_same_moment() {
        let now = at("2026-12-31T23:59:58.250Z");
        let gauge = |quota, limit| Gauge {
            quota,
            limit: Some(limit),
            used: 3,
            held: 4,
            resets_at: Some(at("2027-01-01")),
        };
        let standing = Standing {
            requests: Some(gauge(Quota::RequestsPerDay, 5)),
            tokens: Some(gauge(Quota::TokensPerDay, 1_000)),
            cost: Some(gauge(Quota::CostPerMonth, 500_000_000_007)),
        };
        let headers_of = |dialect| {
            let mut headers = HeaderMap::new();
            put_standing(&mut headers, &standing, dialect, now);
            headers
        };
        let anthropic = headers_of(Dialect::Anthropic);
        for (name, value) in [
            ("x-ratelimit-limit-requests", "5"),
            // More was used than the limit that was set since.
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "2s"),
            ("x-ratelimit-remaining-tokens", "993"),
            ("x-ratelimit-limit-cost-usd", "0.500000000007"),
            ("x-ratelimit-remaining-cost-usd", "0.5"),
            ("anthropic-ratelimit-requests-reset", "2027-01-01T00:00:00Z"),
            ("anthropic-ratelimit-tokens-limit", "1000"),
            ("anthropic-ratelimit-tokens-remaining", "993"),
        ] {
            assert_eq!(anthropic[name], value, "{name}");
        }
        assert_eq!(anthropic.len(), 15);
        assert_eq!(headers_of(Dialect::OpenAi).len(), 9);
        let mut none = HeaderMap::new();
        put_standing(&mut none, &Standing::default(), Dialect::Anthropic, now);
        assert!(none.is_empty());
    }
}
