use std::collections::BTreeSet;
use std::time::Duration;

use kernel::quota::Quota;
use proptest::prelude::*;
use serde::Deserialize;

use super::*;

fn facts(unit: Unit) -> QuotaFacts {
    QuotaFacts {
        quota: "tokens_per_day",
        whose: Whose::Tenant,
        unit,
        limit: "500".into(),
        remaining: "20".into(),
        retry_after_s: 60,
        retry_at: Timestamp::parse("2026-11-23").unwrap(),
    }
}

fn policy(why: PolicyRefusal) -> Refusal {
    let rules = "tenant.no-code base.x".into();
    Refusal::Policy { why, rules }
}

/// One of every variant. `place` does not compile when a variant is missing.
fn all() -> Vec<Refusal> {
    use Refusal::{
        AmbiguousCredential, BadCredential, BadRequest, BodyTimeout, DiskShort, Draining, Erased,
        Forbidden, ForeignOrigin, Frozen, Internal, JournalDown, MethodNotAllowed, ModelNotFound,
        NoCredential, NotFound, Overloaded, ProviderBusy, Quarantined, QuotaExceeded, RunFailed,
        Suspended, TenantBusy, TokenInUrl, TooLarge, TooLargeForQuota, Unpriced, UnsupportedMedia,
        UpstreamMalformed, UpstreamTimeout, UpstreamUnreachable,
    };
    let upstream =
        |status: u16| Refusal::upstream(StatusCode::from_u16(status).unwrap(), b"", Some(9));
    let mut all = vec![
        NoCredential,
        BadCredential,
        AmbiguousCredential,
        TokenInUrl,
        ForeignOrigin,
        Suspended,
        Frozen,
        Forbidden { role: "readonly" },
        policy(PolicyRefusal::Forbidden),
        policy(PolicyRefusal::NeedsApproval),
        policy(PolicyRefusal::Broken),
        BadRequest {
            message: "n: at most 8".into(),
            param: Some("n".into()),
        },
        ModelNotFound {
            model: "gpt-\"9".into(),
        },
        Unpriced {
            model: "m".into(),
            bucket: "audio".into(),
        },
        QuotaExceeded(facts(Unit::Requests)),
        QuotaExceeded(facts(Unit::Tokens)),
        QuotaExceeded(facts(Unit::Cost)),
        QuotaExceeded(facts(Unit::Bytes)),
        TooLargeForQuota(facts(Unit::Cost)),
        TooLarge { limit: 7 },
        BodyTimeout,
        Overloaded { retry_after_s: 3 },
        TenantBusy {
            what: "calls",
            retry_after_s: 1,
        },
        ProviderBusy { retry_after_s: 10 },
        Quarantined,
        JournalDown,
        DiskShort,
        UpstreamUnreachable,
        UpstreamTimeout,
        UpstreamMalformed,
        RunFailed {
            why: "steps_exceeded".to_owned(),
        },
        NotFound,
        Erased,
        MethodNotAllowed { allow: "GET, POST" },
        UnsupportedMedia,
        Draining,
        Internal,
    ];
    all.extend(
        [
            400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504, 529, 302, 418,
        ]
        .map(upstream),
    );
    all
}

fn place(refusal: &Refusal) -> usize {
    match refusal {
        Refusal::NoCredential => 0,
        Refusal::BadCredential => 1,
        Refusal::AmbiguousCredential => 2,
        Refusal::TokenInUrl => 3,
        Refusal::Suspended => 4,
        Refusal::Forbidden { .. } => 5,
        Refusal::BadRequest { .. } => 6,
        Refusal::ModelNotFound { .. } => 7,
        Refusal::Unpriced { .. } => 8,
        Refusal::QuotaExceeded(_) => 9,
        Refusal::TooLargeForQuota(_) => 10,
        Refusal::TooLarge { .. } => 11,
        Refusal::BodyTimeout => 12,
        Refusal::Overloaded { .. } => 13,
        Refusal::Quarantined => 14,
        Refusal::JournalDown => 15,
        Refusal::UpstreamStatus { .. } => 16,
        Refusal::UpstreamUnreachable => 17,
        Refusal::UpstreamTimeout => 18,
        Refusal::UpstreamMalformed => 19,
        Refusal::NotFound => 20,
        Refusal::MethodNotAllowed { .. } => 21,
        Refusal::UnsupportedMedia => 22,
        Refusal::Draining => 23,
        Refusal::Internal => 24,
        Refusal::Frozen => 25,
        Refusal::TenantBusy { .. } => 26,
        Refusal::ProviderBusy { .. } => 27,
        Refusal::DiskShort => 28,
        Refusal::Erased => 29,
        Refusal::Policy { .. } => 30,
        Refusal::ForeignOrigin => 31,
        Refusal::RunFailed { .. } => 32,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAiBody {
    error: OpenAiError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenAiError {
    message: String,
    #[serde(rename = "type")]
    kind: String,
    param: Option<String>,
    code: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnthropicBody {
    #[serde(rename = "type")]
    outer: String,
    error: AnthropicError,
    request_id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnthropicError {
    #[serde(rename = "type")]
    kind: String,
    message: String,
}

const ANTHROPIC_TYPES: &[&str] = &[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "timeout_error",
    "overloaded_error",
];

fn id() -> RequestId {
    RequestId::from_random([7; 16])
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response
        .headers()
        .get(name)
        .map(|value| value.to_str().unwrap())
}

#[test]
fn every_refusal_has_a_row_and_two_bodies() {
    let all = all();
    assert_eq!(
        all.iter().map(place).collect::<BTreeSet<_>>(),
        (0..33).collect()
    );
    for refusal in &all {
        let status = refusal.status().as_u16();
        assert!((400..600).contains(&status), "{refusal:?}");

        let response = refusal.response(Dialect::OpenAi, &id());
        let body: OpenAiBody = serde_json::from_slice(response.body()).unwrap();
        assert!(!body.error.message.is_empty() && !body.error.kind.is_empty());
        assert_eq!(body.error.code.as_deref(), Some(refusal.code()));
        assert_eq!(body.error.param.as_deref(), refusal.param());
        assert_eq!(header(&response, "x-request-id"), Some(id().as_str()));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        assert_eq!(header(&response, "content-type"), Some("application/json"));

        let body: AnthropicBody =
            serde_json::from_slice(&refusal.body(Dialect::Anthropic, &id())).unwrap();
        assert_eq!(
            (body.outer.as_str(), body.request_id.as_str()),
            ("error", id().as_str())
        );
        assert!(
            ANTHROPIC_TYPES.contains(&body.error.kind.as_str()),
            "{}",
            body.error.kind
        );
        assert!(!body.error.message.is_empty());

        assert!(
            refusal
                .stream_event(Dialect::OpenAi, &id())
                .starts_with(b"data: {\"error\":")
        );
        assert!(
            refusal
                .stream_event(Dialect::Anthropic, &id())
                .starts_with(b"event: error\ndata: {")
        );
    }
}

#[test]
fn wrong_and_absent_credentials_are_one_answer() {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let (none, wrong) = (
            Refusal::NoCredential.response(dialect, &id()),
            Refusal::BadCredential.response(dialect, &id()),
        );
        assert_eq!(
            (none.status(), none.headers(), none.body()),
            (wrong.status(), wrong.headers(), wrong.body())
        );
        assert_eq!(none.status(), 401);
    }
}

/// SDKs retry 408, 409, 429 and 5xx: each of those must be safe to repeat, or say that it is not.
#[test]
fn what_would_be_refused_or_paid_again_is_not_retried() {
    for refusal in all() {
        let response = refusal.response(Dialect::OpenAi, &id());
        let stopped = header(&response, "x-should-retry") == Some("false");
        let quiet_retry = match &refusal {
            Refusal::BodyTimeout
            | Refusal::Overloaded { .. }
            | Refusal::TenantBusy { .. }
            | Refusal::ProviderBusy { .. }
            | Refusal::Quarantined
            | Refusal::JournalDown
            | Refusal::DiskShort
            | Refusal::UpstreamUnreachable
            | Refusal::Draining
            | Refusal::Internal => true,
            Refusal::UpstreamStatus { status, .. } => {
                matches!(status.as_u16(), 408 | 429 | 500 | 503 | 504 | 529)
            }
            _ => false,
        };
        assert_eq!(stopped, !quiet_retry, "{refusal:?}");
    }
}

#[test]
fn quotas_name_themselves_and_their_reset() {
    let now = Timestamp::from_unix_ms(1_000_000);
    let exceeded = Exceeded {
        quota: Quota::CostPerDay,
        whose: Whose::Token,
        limit: 5_000_000_000_000,
        used: 4_950_000_000_000,
        needed: 100_000_000_000,
        retry_at: Some(now.plus(Duration::from_millis(61_500))),
    };
    let response = Refusal::quota(&exceeded, now).response(Dialect::OpenAi, &id());
    assert_eq!(response.status(), 429);
    assert_eq!(header(&response, "retry-after"), Some("62"));
    assert_eq!(header(&response, "x-should-retry"), Some("false"));
    assert_eq!(header(&response, "x-ratelimit-limit-cost-usd"), Some("5"));
    assert_eq!(
        header(&response, "x-ratelimit-remaining-cost-usd"),
        Some("0.05")
    );
    assert_eq!(
        header(&response, "x-ratelimit-reset-cost-usd"),
        Some("1m2s")
    );
    let body: OpenAiBody = serde_json::from_slice(response.body()).unwrap();
    assert!(
        body.error
            .message
            .contains("cost_per_day_usd of this token"),
        "{}",
        body.error.message
    );

    let whole = Refusal::quota(
        &Exceeded {
            retry_at: None,
            ..exceeded
        },
        now,
    )
    .response(Dialect::OpenAi, &id());
    assert_eq!(
        (whole.status().as_u16(), header(&whole, "retry-after")),
        (400, None)
    );
}

#[test]
fn a_providers_error_keeps_its_class_and_loses_its_secrets() {
    let upstream = |status: u16, body: &str| {
        Refusal::upstream(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None)
            .response(Dialect::OpenAi, &id())
    };
    let text = |response: &Response<Bytes>| String::from_utf8(response.body().to_vec()).unwrap();

    let long = upstream(
        400,
        r#"{"error":{"message":"too many tokens","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
    );
    assert_eq!(long.status(), 400);
    assert!(
        text(&long).contains("context_length_exceeded") && text(&long).contains("too many tokens")
    );
    let long = upstream(
        400,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}"#,
    );
    assert!(text(&long).contains("context_length_exceeded"));

    for (status, shown) in [
        (401, 502),
        (403, 502),
        (307, 502),
        (402, 502),
        (429, 429),
        (500, 500),
        (503, 503),
        (529, 529),
        (404, 404),
    ] {
        let response = upstream(
            status,
            r#"{"error":{"message":"Incorrect API key provided: sk-abcdefgh in org-1234567890abcdef"}}"#,
        );
        assert_eq!(response.status().as_u16(), shown);
        assert!(
            !text(&response).contains("sk-") && !text(&response).contains("Incorrect"),
            "{}",
            text(&response)
        );
    }
    let leaky = upstream(
        400,
        r#"{"error":{"message":"bad key sk-abcdefgh12345678 for me@corp.example"}}"#,
    );
    assert!(
        text(&leaky).contains("bad key [redacted] for [redacted]"),
        "{}",
        text(&leaky)
    );
    assert!(
        text(&upstream(400, "<html>internal proxy 10.0.0.1</html>"))
            .contains("the provider refused the request")
    );
}

#[test]
fn redaction() {
    for (text, shown) in [
        ("plain words stay", "plain words stay"),
        (
            "model gpt-4o-2024-08-06 and claude-3-5-sonnet-20241022",
            "model gpt-4o-2024-08-06 and claude-3-5-sonnet-20241022",
        ),
        (
            "messages.3.content[0].text: too long",
            "messages.3.content[0].text: too long",
        ),
        ("max_tokens: 200000 > 8192", "max_tokens: 200000 > 8192"),
        ("key sk-proj-abcdefgh12345", "key [redacted]"),
        ("key=sk-abcdefgh", "key=[redacted]"),
        ("'sk-ant-api03-AbCd'", "'[redacted]'"),
        (
            "Authorization:Bearer:tk_acme_00112233445566778899aabbccddeeff",
            "[redacted]",
        ),
        ("sk-abc***************wxyz", "[redacted]"),
        ("id req_011CSHoEeqs5C35K2UUqR7Fy", "id [redacted]"),
        ("see https://internal.corp/x?y for", "see [redacted] for"),
        ("AIzaSyDdI0hCZtE6vySjMm", "[redacted]"),
        ("a\r\nb\u{1b}[31mc\u{202e}d", "a b [31mcd"),
    ] {
        assert_eq!(redacted(text), shown, "{text:?}");
    }
    assert_eq!(redacted(&"word ".repeat(1_000)).chars().count(), 512);
}

proptest! {
    #[test]
    fn no_key_survives_in_any_company(before in "[ -~]{0,20}", key in "sk-[A-Za-z0-9]{20,40}", after in "[ -~]{0,20}") {
        let shown = redacted(&format!("{before} {key} {after}"));
        prop_assert!(!shown.contains(&key));
    }

    #[test]
    fn redacted_text_is_one_bounded_line(text in "\\PC{0,800}") {
        let shown = redacted(&text);
        prop_assert!(shown.chars().count() <= 512);
        prop_assert!(!shown.chars().any(char::is_control));
    }
}
