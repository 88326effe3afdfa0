"""Every attempt a row, every row its exact price."""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import io
import itertools
import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest

from deployment import PRICES, eventually, price_of, ratecard
from samples import user

TAGS = itertools.count(1)
# What surface.md names for `--detail`.
FIELDS = {
    "request_id", "attempt", "tenant", "person", "token", "model", "provider", "provider_model", "tokens_in", "tokens_out",
    "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "cost_usd", "ratecard_version", "usage_source", "outcome",
    "started_at", "finished_at",
}  # fmt: skip
HEADER = "date,tenant,model,tokens_in,tokens_out,cost_usd"


def order(text: str) -> str:
    return f"Hi [[sim:{text} tag=b{next(TAGS)}]]"


def plain(number: str) -> Decimal:
    assert "e" not in number.lower(), f"{number} has an exponent"
    return Decimal(number)


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("model", "priced_as", "usage"),
    [
        ("sim-fast", "sim-fast", "fixed_usage=1000:500"),
        ("sim-fast", "sim-fast", "fixed_usage=1:0"),
        ("sim-fast", "sim-fast", "fixed_usage=1000:500 cache_read=300"),
        ("claude-fast", "sim-fast", "fixed_usage=1000:500 cache_read=300 cache_write=7"),
        ("sim-reasoning", "sim-reasoning", "fixed_usage=11:100 reasoning=64"),
        ("sim-reasoning", "sim-reasoning", "fixed_usage=11:100 reasoning=64 cache_read=5"),
        ("claude-large", "sim-large", "fixed_usage=999999:123456 cache_read=77 cache_write=55"),
    ],
)
def test_each_bucket_has_its_exact_price(acme, model, priced_as, usage, stream):
    orders = dict(part.split("=") for part in usage.split())
    uncached, output = map(int, orders["fixed_usage"].split(":"))
    read, write, thought = (int(orders.get(name, 0)) for name in ("cache_read", "cache_write", "reasoning"))
    answer = acme.chat(order(usage), model=model, max_tokens=4000, stream=stream)
    assert answer.status_code == 200, answer.text
    row = acme.row(answer.headers["x-request-id"])
    assert (row["tokens_in"], row["tokens_out"]) == (uncached + read + write, output)
    assert (row["cache_read_tokens"], row["cache_write_tokens"], row["reasoning_tokens"]) == (read, write, thought)
    assert plain(row["cost_usd"]) == price_of(priced_as, uncached, output, read, write, thought)
    assert (row["usage_source"], row["outcome"]) == ("provider", "finished")


def test_a_row_has_every_field_and_joins_answer_audit_and_log(acme, gw):
    before = datetime.now(UTC)
    answer = acme.chat(order("fixed_usage=1000:500"), model="gpt-alias")
    request = answer.headers["x-request-id"]
    row = acme.row(request)
    assert set(row) >= FIELDS
    known = {name: row[name] for name in ("attempt", "tenant", "person", "token", "model", "provider", "provider_model")}
    assert known == {
        "attempt": 1,
        "tenant": "acme",
        "person": None,
        "token": acme.created["token_name"],
        "model": "gpt-alias",
        "provider": "sim-openai",
        "provider_model": "sim-fast",
    }
    assert row["ratecard_version"] == gw.json("ratecard", "show")["version"]
    started, finished = (datetime.fromisoformat(row[name]) for name in ("started_at", "finished_at"))
    assert before.timestamp() - 1 <= started.timestamp() <= finished.timestamp() <= datetime.now(UTC).timestamp() + 1
    [entry] = [entry for entry in acme.audit() if entry.get("request_id") == request]
    assert (entry["tenant"], entry["decision"], entry["model"]) == ("acme", "allow", "gpt-alias")
    assert entry["policy_version"] and entry["token"] == row["token"] and entry["role"]
    assert (entry["tokens_in"], entry["tokens_out"]) == (1000, 500)
    assert plain(entry["cost_usd"]) == plain(row["cost_usd"]) == price_of("sim-fast", 1000, 500)
    [line] = eventually(lambda: [line for line in gw.log() if line.get("request_id") == request], 3, "the log line")
    assert line["tenant"] == "acme"


def test_audit_entries_are_canonical_json_numbered_without_gaps(acme, gw):
    lines = gw.cli("audit", "tail", "--tenant", "acme", "--limit", "1000", check=True).stdout.splitlines()
    entries = [json.loads(line) for line in lines]
    for line, entry in zip(lines, entries, strict=True):
        assert line == json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert [entry["seq"] for entry in entries] == list(range(entries[0]["seq"], entries[0]["seq"] + len(entries)))


def test_the_csv_report_adds_up_to_the_exact_sums_of_the_rows(gw):
    tenant = gw.tenant()
    for usage in ("fixed_usage=10:3", "fixed_usage=1:1", "fixed_usage=99:1 cache_read=1"):
        assert tenant.chat(order(usage)).status_code == 200
    assert tenant.chat(order("fixed_usage=7:7"), model="claude-large", max_tokens=10).status_code == 200
    text = gw.cli("billing", "report", "--tenant", tenant.id, check=True).stdout
    lines = text.splitlines()
    assert lines[0] == HEADER and len(lines) == 3
    report = {line["model"]: line for line in csv.DictReader(io.StringIO(text))}
    assert {line["date"] for line in report.values()} == {today()} and {line["tenant"] for line in report.values()} == {tenant.id}
    fast, large = report["sim-fast"], report["claude-large"]
    assert (fast["tokens_in"], fast["tokens_out"]) == ("111", "5")
    assert plain(fast["cost_usd"]) == price_of("sim-fast", 110, 5, read=1)
    assert (large["tokens_in"], large["tokens_out"]) == ("7", "7")
    assert plain(large["cost_usd"]) == price_of("sim-large", 7, 7)
    as_json = gw.json("billing", "report", "--tenant", tenant.id)
    assert {row["model"]: plain(row["cost_usd"]) for row in as_json} == {
        name: plain(line["cost_usd"]) for name, line in report.items()
    }
    for period in (["--from", "2020-01-01", "--to", "2020-01-31"], ["--from", "2999-01-01"]):
        assert gw.cli("billing", "report", "--tenant", tenant.id, *period, check=True).stdout.splitlines() == [HEADER]
    assert gw.cli("billing", "report", "--from", today(), "--to", today(), check=True).stdout.count(tenant.id) == 2
    detail = gw.cli("billing", "report", "--tenant", tenant.id, "--detail", "--format", "csv", check=True).stdout
    assert len(list(csv.DictReader(io.StringIO(detail)))) == 4
    assert set(next(csv.reader(io.StringIO(detail)))) >= FIELDS


def test_a_name_that_a_spreadsheet_would_run_is_text_in_every_report(gw):
    tenant = gw.tenant()
    assert tenant.chat(order("fixed_usage=10:3"), model="=1+1").status_code == 200
    for options in ([], ["--detail", "--format", "csv"]):
        text = gw.cli("billing", "report", "--tenant", tenant.id, *options, check=True).stdout
        [line] = csv.DictReader(io.StringIO(text))
        assert line["model"] == "'=1+1"
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in line.values())
    assert tenant.rows()[0]["model"] == "=1+1"
    served = gw.http.get("/tenant/v1/usage?format=csv", headers=tenant.bearer).text
    assert "'=1+1" in served and ",=1+1" not in served


def test_the_tenants_own_usage_agrees_with_the_operators_report(gw):
    tenant = gw.tenant()
    assert tenant.chat(order("fixed_usage=1000:500")).status_code == 200
    answer = gw.http.get("/tenant/v1/usage", headers=tenant.bearer)
    assert answer.status_code == 200
    shown = answer.json()
    rows = shown if isinstance(shown, list) else next(value for value in shown.values() if isinstance(value, list))
    [row] = rows
    assert (row["tenant"], row["model"], row["tokens_in"], row["tokens_out"]) == (tenant.id, "sim-fast", 1000, 500)
    assert plain(row["cost_usd"]) == price_of("sim-fast", 1000, 500)


def test_an_unpriced_model_is_refused_by_name_before_anything_is_sent(acme, sim):
    mark, before = sim.mark(), len(acme.rows())
    answer = acme.chat(model="unpriced")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_priced")
    assert "unpriced" in answer.json()["error"]["message"]
    assert sim.since(mark) == [] and len(acme.rows()) == before
    refusal = [entry for entry in acme.audit() if entry.get("request_id") == answer.headers["x-request-id"]]
    assert [entry["decision"] for entry in refusal] == ["deny"]


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_a_failed_attempt_is_a_row_at_no_cost(acme, status):
    answer = acme.chat(order(f"fault=status:{status}"))
    assert answer.status_code == status
    row = acme.row(answer.headers["x-request-id"])
    assert (row["outcome"], plain(row["cost_usd"]), plain(row["charged_usd"])) == ("failed", 0, 0)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("odd", ["missing", "null"])
def test_unknown_usage_is_a_row_without_a_cost_charged_at_its_hold(gw, odd, stream):
    tenant = gw.tenant()
    answer = tenant.chat(order(f"usage={odd}"), max_tokens=100, stream=stream)
    assert answer.status_code == 200
    [row] = tenant.rows()
    assert (row["usage_source"], row["cost_usd"]) == ("unknown", None)
    assert row["tokens_in"] is None and row["tokens_out"] is None
    # The hold: an upper bound of the input, and max_tokens whole.
    assert plain(row["charged_usd"]) > price_of("sim-fast", 0, 100)
    [line] = csv.DictReader(io.StringIO(gw.cli("billing", "report", "--tenant", tenant.id, check=True).stdout))
    assert line["cost_usd"] == ""


@pytest.mark.parametrize("odd", ["negative", "string", "float", "huge"])
def test_usage_that_is_no_count_is_never_taken_for_one(gw, odd):
    tenant = gw.tenant()
    answer = tenant.chat(order(f"usage={odd}"), max_tokens=100)
    assert answer.status_code in (200, 502)
    [row] = tenant.rows()
    assert row["usage_source"] in ("unknown", "estimate") and row["cost_usd"] != "0"
    assert plain(row["charged_usd"]) > 0


def test_a_usage_of_zero_is_a_cost_of_zero(acme):
    answer = acme.chat(order("usage=zero"))
    row = acme.row(answer.headers["x-request-id"])
    assert (row["usage_source"], row["tokens_in"], row["tokens_out"], plain(row["cost_usd"])) == ("provider", 0, 0, 0)


@pytest.mark.parametrize(
    ("model", "usage"),
    [("sim-fast", "usage=on_choices"), ("claude-fast", "usage=delta_only"), ("claude-fast", "usage=delta_output")],
)
def test_unusual_places_of_usage_in_a_stream_are_read_once(acme, model, usage):
    answer = acme.chat(order(f"{usage} fixed_usage=1000:500"), model=model, max_tokens=4000, stream=True)
    row = acme.row(answer.headers["x-request-id"])
    assert (row["tokens_in"], row["tokens_out"], row["usage_source"]) == (1000, 500, "provider")


def test_each_try_of_a_fallback_is_a_row_of_its_own(acme, sim):
    mark = sim.mark()
    answer = acme.chat(order("fault=status:503 on=sim-fast fixed_usage=10:5"), model="with-fallback")
    assert answer.status_code == 200 and answer.json()["model"] == "with-fallback"
    rows = [row for row in acme.rows() if row["request_id"] == answer.headers["x-request-id"]]
    seen = [(row["attempt"], row["provider_model"], row["outcome"], plain(row["cost_usd"])) for row in rows]
    assert seen == [(1, "sim-fast", "failed", 0), (2, "sim-large", "finished", price_of("sim-large", 10, 5))]
    assert [record["model"] for record in sim.since(mark)] == ["sim-fast", "sim-large"]
    entries = [entry for entry in acme.audit() if entry.get("request_id") == answer.headers["x-request-id"]]
    assert [entry["attempt"] for entry in entries] == [1, 2]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_fallback_crosses_dialects(acme, stream):
    answer = acme.chat(
        order("fault=status:500 on=sim-fast fixed_usage=10:5"), model="cross-fallback", max_tokens=50, stream=stream
    )
    assert answer.status_code == 200
    if not stream:
        assert answer.json()["choices"][0]["message"]["content"].startswith("This is a simulated answer from sim-large")
    rows = [row for row in acme.rows() if row["request_id"] == answer.headers["x-request-id"]]
    assert [(row["provider"], row["outcome"]) for row in rows] == [("sim-openai", "failed"), ("sim-anthropic", "finished")]


def test_there_is_no_fallback_after_the_first_byte_or_for_the_callers_own_fault(acme, sim):
    mark = sim.mark()
    assert acme.chat(order("fault=status:400 on=sim-fast"), model="with-fallback").status_code == 400
    assert [record["model"] for record in sim.since(mark)] == ["sim-fast"]
    mark = sim.mark()
    body = {"model": "with-fallback", "stream": True, "messages": user(order("fault=cut_after:2 on=sim-fast"))}
    received = b""
    with (
        contextlib.suppress(httpx.TransportError),
        acme.gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=acme.bearer) as answer,
    ):
        for piece in answer.iter_raw():
            received += piece
    assert b"chat.completion.chunk" in received and b"[DONE]" not in received
    assert [record["model"] for record in sim.since(mark)] == ["sim-fast"]


def test_calls_spread_over_the_routes_of_a_model_by_weight(gw):
    tenant = gw.tenant()
    for _ in range(80):
        assert tenant.chat("Hi", model="weighted").status_code == 200
    shares = Counter(row["provider_model"] for row in tenant.rows())
    # 3 to 1: a fair draw misses this range once in some ten thousand runs.
    assert shares.keys() == {"sim-fast", "sim-large"} and 44 <= shares["sim-fast"] <= 74
    assert all(row["model"] == "weighted" for row in tenant.rows())


def test_a_markup_is_part_of_the_exact_cost(gw):
    tenant = gw.tenant(tier="marked-up")
    assert tenant.chat(order("fixed_usage=1000:500")).status_code == 200
    assert plain(tenant.rows()[0]["cost_usd"]) == price_of("sim-fast", 1000, 500) * Decimal("1.25")
    # The factor is the operator's to know.
    assert gw.json("tenants", "quota", "show", tenant.id)["markup"] == "1.25"
    for role in ("admin", "member", "app", "readonly", "auditor"):
        token = gw.issue(tenant, f"as-{role}", role)
        view = gw.http.get("/tenant/v1/quota", headers={"authorization": f"Bearer {token}"}).json()
        assert view["quotas"] and view.get("markup") is None, view


def test_limits_are_reserved_whole_and_refused_without_a_call(gw, sim):
    # 100 output tokens at card price and an input bound of at most 200 tokens.
    most = price_of("sim-fast", 200, 100)
    tenant = gw.tenant(None, "--cost-per-day-usd", str(most))
    assert tenant.chat("Hi", max_tokens=100).status_code == 200
    mark = sim.mark()
    answer = tenant.chat("Hi", max_tokens=100)
    assert answer.status_code == 429 and "cost_per_day_usd" in answer.json()["error"]["message"]
    assert answer.headers["x-should-retry"] == "false" and int(answer.headers["retry-after"]) <= 86_400
    assert "x-ratelimit-limit-cost-usd" in answer.headers
    larger = tenant.chat("Hi", max_tokens=8000)
    assert larger.status_code == 400 and "retry-after" not in larger.headers
    assert sim.since(mark) == []


def test_a_limit_of_zero_admits_nothing(gw, sim):
    mark = sim.mark()
    for option in ("--tokens-per-day", "--cost-per-day-usd", "--requests-per-minute"):
        answer = gw.tenant(None, option, "0").chat()
        assert answer.status_code in (400, 429), (option, answer.text)
    assert sim.since(mark) == []


def test_at_concurrency_exactly_what_fits_a_budget_passes(gw, sim):
    tenant = gw.tenant(None, "--requests-per-minute", "7")
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        statuses = Counter(pool.map(lambda _: tenant.chat(order("delay=50ms")).status_code, range(24)))
    assert statuses == {200: 7, 429: 17}
    assert len(tenant.rows()) == 7


# Rate cards. Each import changes the deployment, so these come last.


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", ""),
        ("[]", ""),
        (ratecard({"sim-fast": {"input_cost_per_token": "-1e-06", "output_cost_per_token": "1e-06"}}), "sim-fast"),
        (ratecard({"sim-fast": {"input_cost_per_token": '"cheap"', "output_cost_per_token": "1e-06"}}), "sim-fast"),
        (ratecard({"odd-one": {"input_cost_per_token": "1e-06", "output_cost_per_token": "1e999"}}), "odd-one"),
    ],
    ids=["broken", "no-object", "negative", "text", "endless"],
)
def test_a_bad_card_is_refused_naming_the_entry_and_changes_nothing(gw, acme, text, named):
    version = gw.json("ratecard", "show")["version"]
    gw.write("bad.json", text)
    assert named in gw.refused("ratecard", "import", str(gw.data / "bad.json"))
    (gw.data / "bad.json").unlink()
    assert gw.json("ratecard", "show")["version"] == version
    answer = acme.chat(order("fixed_usage=1000:500"))
    assert plain(acme.row(answer.headers["x-request-id"])["cost_usd"]) == price_of("sim-fast", 1000, 500)


def test_an_imported_card_prices_new_calls_at_once_and_old_rows_never(gw):
    tenant = gw.tenant()
    first = tenant.chat(order("fixed_usage=1000:500")).headers["x-request-id"]
    old = tenant.row(first)
    prices = {**PRICES, "sim-fast": {"input_cost_per_token": "1e-05", "output_cost_per_token": "2e-05"}}
    prices["sim-large"] = {"input_cost_per_token": "0", "output_cost_per_token": "0.0"}
    gw.write("new.json", ratecard(prices))
    version = gw.json("ratecard", "import", str(gw.data / "new.json"))["version"]
    second = tenant.row(tenant.chat(order("fixed_usage=1000:500")).headers["x-request-id"])
    assert plain(second["cost_usd"]) == Decimal("0.02") and second["ratecard_version"] == version != old["ratecard_version"]
    assert tenant.row(first) == old
    # An explicit price of 0 is a price.
    free = tenant.row(tenant.chat(order("fixed_usage=1000:500"), model="sim-large").headers["x-request-id"])
    assert plain(free["cost_usd"]) == 0 and free["usage_source"] == "provider"
    gw.stop()
    gw.start()
    assert gw.json("ratecard", "show")["version"] == version
    again = tenant.row(tenant.chat(order("fixed_usage=1000:500")).headers["x-request-id"])
    assert plain(again["cost_usd"]) == Decimal("0.02")
    assert tenant.row(first) == old


def test_a_call_that_an_unsupported_bucket_would_bill_is_refused(gw, acme, sim):
    card = json.loads(ratecard())
    card["sim-large"]["input_cost_per_token_above_200k_tokens"] = 6e-06
    card["sim-embed"]["output_cost_per_second"] = 0.01
    gw.write("tiers.json", json.dumps(card))
    imported = gw.json("ratecard", "import", str(gw.data / "tiers.json"))
    assert any("sim-embed" in warning or "sim-large" in warning for warning in imported["warnings"])
    mark = sim.mark()
    refused = [name for name in ("sim-large", "sim-embed") if any(name in warning for warning in imported["warnings"])]
    for name in refused:
        path = "/v1/embeddings" if name == "sim-embed" else "/v1/chat/completions"
        body = {"model": name, "input": "x"} if name == "sim-embed" else {"model": name, "messages": user("Hi")}
        answer = acme.post(path, body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "model_not_priced")
    assert sim.since(mark) == []
