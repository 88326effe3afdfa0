//! Reports as users see them: the text is compared with the files in `tests/golden`.

#![expect(clippy::unwrap_used, reason = "fixtures of a test")]

use base::{Money, Timestamp, UsageSource, UtcDay};
use rpc::report::{Columns, Format, Report};
use rpc::{LedgerRow, UsageRow};

fn usage(model: &str) -> UsageRow {
    UsageRow {
        date: UtcDay::parse("2026-11-22").unwrap(),
        tenant: "acme".parse().unwrap(),
        model: model.to_owned(),
        tokens_in: 1200,
        tokens_out: 34,
        cost_usd: Some(Money::parse_usd("0.000000123").unwrap()),
        attempts: 2,
        unknown_attempts: 0,
    }
}

fn unknown_usage() -> UsageRow {
    UsageRow {
        tokens_in: 0,
        tokens_out: 0,
        cost_usd: None,
        unknown_attempts: 2,
        ..usage("sim-faulty")
    }
}

fn finished() -> LedgerRow {
    LedgerRow {
        request_id: "req_000102030405060708090a0b0c0d0e0f".to_owned(),
        attempt: 1,
        tenant: "acme".parse().unwrap(),
        person: Some("=HYPERLINK(\"http://evil\")".to_owned()),
        token: "default".parse().unwrap(),
        model: "gpt-4o".to_owned(),
        provider: "openai".to_owned(),
        provider_model: "gpt-4o-2024-11-20".to_owned(),
        tokens_in: Some(30),
        tokens_out: Some(12),
        cache_read_tokens: Some(8),
        cache_write_tokens: Some(4),
        cache_write_1h_tokens: Some(1),
        reasoning_tokens: Some(5),
        audio_in_tokens: Some(0),
        audio_out_tokens: Some(0),
        image_in_tokens: Some(0),
        server_tool_calls: Some(0),
        cost_usd: Some(Money::parse_usd("0.0001955").unwrap()),
        charged_usd: Money::parse_usd("0.0001955").unwrap(),
        ratecard_version: "0a1b2c3d4e5f6071".to_owned(),
        usage_source: UsageSource::Provider,
        outcome: "finished".to_owned(),
        started_at: Timestamp::parse("2026-11-22T21:50:43.120Z").unwrap(),
        finished_at: Timestamp::parse("2026-11-22T21:50:44Z").unwrap(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
    }
}

fn unknown() -> LedgerRow {
    LedgerRow {
        attempt: 2,
        person: None,
        trace_id: None,
        tokens_in: None,
        tokens_out: None,
        cache_read_tokens: None,
        cache_write_tokens: None,
        cache_write_1h_tokens: None,
        reasoning_tokens: None,
        audio_in_tokens: None,
        audio_out_tokens: None,
        image_in_tokens: None,
        server_tool_calls: None,
        cost_usd: None,
        charged_usd: Money::parse_usd("0.01").unwrap(),
        usage_source: UsageSource::Unknown,
        outcome: "unknown".to_owned(),
        ..finished()
    }
}

fn written<T: Columns>(format: Format, rows: &[T]) -> String {
    let mut report = Report::new(format);
    let mut out = String::new();
    report.head(&mut out);
    for row in rows {
        report.row(row, &mut out).unwrap();
    }
    report.tail(&mut out);
    out
}

#[test]
fn usage_as_csv() {
    let rows = [
        usage("gpt-4o"),
        usage("=1+1"),
        usage("a\"b,c"),
        unknown_usage(),
    ];
    assert_eq!(
        written(Format::Csv, &rows),
        include_str!("golden/usage.csv")
    );
}

#[test]
fn usage_as_json() {
    assert_eq!(
        written(Format::Json, &[usage("gpt-4o"), unknown_usage()]),
        include_str!("golden/usage.json")
    );
}

#[test]
fn attempts_as_csv() {
    assert_eq!(
        written(Format::Csv, &[finished(), unknown()]),
        include_str!("golden/detail.csv")
    );
}

#[test]
fn attempts_as_json() {
    assert_eq!(
        written(Format::Json, &[finished(), unknown()]),
        include_str!("golden/detail.json")
    );
}

#[test]
fn an_empty_report_is_whole() {
    assert_eq!(
        written::<UsageRow>(Format::Csv, &[]),
        "date,tenant,model,tokens_in,tokens_out,cost_usd\n"
    );
    assert_eq!(written::<UsageRow>(Format::Json, &[]), "[]\n");
}

#[test]
fn no_text_cell_begins_a_formula() {
    for start in ["=", "+", "-", "@", "\t", "\r", "\n", "＝"] {
        let out = written(Format::Csv, &[usage(&format!("{start}cmd|' /C calc'!A0"))]);
        let cell = out.split_once("acme,").unwrap().1.trim_start_matches('"');
        assert!(cell.starts_with('\''), "{start:?}: {cell}");
    }
}
