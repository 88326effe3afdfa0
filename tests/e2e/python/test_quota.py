"""Hard limits: exact under a thousand calls at once and over a kill, told to whoever asks, and never asked twice by an SDK."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import anthropic
import httpx
import openai
import pytest

from deployment import Gateway, Tenant, eventually, price_of, ratecard
from samples import user

CALLS = 1_000
FIT = 50
# A call of 100 output tokens is held at ten cents exactly, whatever its input.
TEN_CENTS = {
    "sim-fast": {"input_cost_per_token": "0.0", "output_cost_per_token": "0.001"},
    "sim-large": {"input_cost_per_token": "0.0", "output_cost_per_token": "0.001"},
    "sim-reasoning": {"input_cost_per_token": "0.0", "output_cost_per_token": "0.001"},
    "sim-embed": {"input_cost_per_token": "0.0"},
}


@pytest.fixture
def dear(sim):
    gateway = Gateway(sim, card=ratecard(TEN_CENTS))
    try:
        yield gateway.start()
    finally:
        gateway.close()


def body_of(pause_ms: int, tokens_in: int = 111) -> dict:
    order = f"[[sim:fixed_usage={tokens_in:03}:100 delay={pause_ms:04}ms]]"
    return {"model": "sim-fast", "max_tokens": 100, "messages": user(order)}


async def burst(gateway: Gateway, tenant: Tenant, bodies: list[dict]) -> list[int | None]:
    """All at once; the status of each, or nothing where no answer came."""
    limits = httpx.Limits(max_connections=len(bodies), max_keepalive_connections=len(bodies))
    async with httpx.AsyncClient(base_url=gateway.url, limits=limits, timeout=60, trust_env=False) as http:

        async def one(body: dict) -> int | None:
            try:
                answer = await http.post("/v1/chat/completions", json=body, headers=tenant.bearer)
            except httpx.TransportError:
                return None
            if answer.status_code == 429:
                assert answer.headers["x-should-retry"] == "false"
            return answer.status_code

        return await asyncio.gather(*map(one, bodies))


def lines(gateway: Gateway, tenant: str) -> dict[str, dict]:
    return {line["name"]: line for line in gateway.json("tenants", "quota", "show", tenant)["quotas"]}


def hold_in_tokens(gateway: Gateway, sim) -> int:
    """What one of the calls is held at: asked while it is under way."""
    tenant = gateway.tenant("probe")
    before = sim.stats()["requests"]
    caller = threading.Thread(target=lambda: tenant.post("/v1/chat/completions", body_of(1_500)))
    caller.start()
    eventually(lambda: sim.stats()["requests"] > before, 5, "the call upstream")
    held = int(lines(gateway, "probe")["tokens_per_day"]["held"])
    caller.join()
    line = lines(gateway, "probe")["tokens_per_day"]
    assert (line["used"], line["held"]) == ("211", "0"), "settled at what was used"
    assert 200 < held < 1_000
    return held


def limit_of(kind: str, gateway: Gateway, sim) -> tuple[str, str, str, int]:
    """The flag that lets exactly fifty calls in, its value, the quota's name, and what a call is to use as input."""
    if kind == "cost":
        return "--cost-per-day-usd", "5.00", "cost_per_day_usd", 10
    if kind == "requests":
        return "--requests-per-day", str(FIT), "requests_per_day", 10
    # Each uses what it is held at, whenever it is settled; the last of them leaves room for less than one more.
    held = hold_in_tokens(gateway, sim)
    return "--tokens-per-day", str(FIT * held + held - 1), "tokens_per_day", held - 100


def assert_exactly_fifty(tenant: Tenant, kind: str, name: str, tokens_in: int) -> None:
    assert len(tenant.rows()) == FIT
    line = lines(tenant.gateway, tenant.id)[name]
    used = {"cost": 5, "requests": FIT, "tokens": (tokens_in + 100) * FIT}[kind]
    assert (Decimal(line["used"]), Decimal(line["held"])) == (used, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["cost", "tokens", "requests"])
def test_a_thousand_calls_at_once_admit_exactly_fifty(dear, sim, kind):
    flag, limit, name, tokens_in = limit_of(kind, dear, sim)
    tenant = dear.tenant("acme", flag, limit)
    mark = sim.mark()
    statuses = asyncio.run(burst(dear, tenant, [body_of(3_000, tokens_in)] * CALLS))
    assert statuses.count(200) == FIT and statuses.count(429) == CALLS - FIT
    assert len(sim.since(mark)) == FIT
    assert_exactly_fifty(tenant, kind, name, tokens_in)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["cost", "tokens", "requests"])
def test_a_kill_in_the_middle_and_the_rest_sent_again_pass_no_limit(dear, sim, kind):
    flag, limit, name, tokens_in = limit_of(kind, dear, sim)
    tenant = dear.tenant("acme", flag, limit)
    mark = sim.mark()
    # Some answer before the kill, some are in flight, most are refused or have not begun.
    bodies = [body_of(20 * (n % 100), tokens_in) for n in range(CALLS)]
    statuses: list[int | None] = []
    sender = threading.Thread(target=lambda: statuses.extend(asyncio.run(burst(dear, tenant, bodies))))
    sender.start()
    eventually(lambda: sim.stats()["requests_open"] > 0, 10, "the first call upstream")
    time.sleep(0.5)
    dear.kill()
    sender.join()
    dear.start()
    again = [body for body, status in zip(bodies, statuses, strict=True) if status is None]
    repeated = asyncio.run(burst(dear, tenant, again)) if again else []
    answered = statuses.count(200) + repeated.count(200)
    upstream = len(sim.since(mark))
    # An attempt that was recorded and then killed may not have reached the provider; it counts all the same.
    assert answered <= upstream <= len(tenant.rows())
    # Each is charged the same, known or not: fifty, before and after the kill together, and not one more.
    assert_exactly_fifty(tenant, kind, name, tokens_in)
    refused = tenant.post("/v1/chat/completions", body_of(0, tokens_in))
    assert refused.status_code == 429 and name in refused.json()["error"]["message"]


@pytest.mark.parametrize("flag", ["--cost-per-day-usd", "--cost-per-month-usd", "--tokens-per-day", "--tokens-per-minute"])
def test_the_sdks_send_exactly_one_request_into_a_refused_budget(gw, sim, flag):
    tenant = gw.tenant(None, flag, "0")
    mark, name = sim.mark(), flag.removeprefix("--").replace("-", "_")
    with pytest.raises(openai.RateLimitError, match=name):
        tenant.openai(max_retries=3).chat.completions.create(model="sim-fast", messages=user("Hi"), max_tokens=5)
    with pytest.raises(openai.RateLimitError):
        with tenant.openai(max_retries=3).chat.completions.stream(model="sim-fast", messages=user("Hi")) as stream:
            list(stream)
    with pytest.raises(anthropic.RateLimitError, match=name):
        tenant.anthropic(max_retries=3).messages.create(model="claude-fast", messages=user("Hi"), max_tokens=5)
    assert sim.since(mark) == [] and tenant.rows() == []

    def refused() -> int:
        return sum(line.get("tenant") == tenant.id and line.get("status") == 429 for line in gw.log())

    # The log is written behind the answers; the audit log before them.
    eventually(lambda: refused() >= 3, 5, "the lines of the log")
    assert refused() == 3, "one request for each call"
    assert len([entry for entry in tenant.audit() if entry["decision"] == "deny"]) == 3


def seconds_to_midnight() -> int:
    now = datetime.now(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((midnight - now).total_seconds())


def go_duration(text: str) -> int:
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(\d+)s", text)
    assert parts, text
    hours, minutes, seconds = (int(part or 0) for part in parts.groups())
    return hours * 3_600 + minutes * 60 + seconds


def test_a_refusal_is_true_to_the_second_and_a_call_too_large_is_told_apart(gw, sim):
    tenant = gw.tenant(None, "--tokens-per-day", "1000")
    assert tenant.chat(max_tokens=500, content="[[sim:fixed_usage=400:500]]").status_code == 200
    refused = tenant.chat(max_tokens=500)
    wait, expected = int(refused.headers["retry-after"]), seconds_to_midnight()
    assert refused.status_code == 429 and abs(wait - expected) <= 3
    assert go_duration(refused.headers["x-ratelimit-reset-tokens"]) == wait
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
    assert refused.headers["x-ratelimit-remaining-tokens"] == "100"
    message = refused.json()["error"]["message"]
    assert "tokens_per_day of this tenant" in message and f"try again in {wait} s" in message
    # In the other dialect the moment stands in its own form.
    other = tenant.post("/v1/messages", {"model": "claude-fast", "max_tokens": 500, "messages": user("Hi")})
    assert other.status_code == 429 and other.json()["error"]["type"] == "rate_limit_error"
    reset = datetime.fromisoformat(other.headers["anthropic-ratelimit-tokens-reset"])
    assert (reset.hour, reset.minute, reset.second) == (0, 0, 0) and reset > datetime.now(UTC)
    # Waiting does not make a larger call fit.
    large = tenant.chat(max_tokens=5_000)
    assert large.status_code == 400 and "retry-after" not in large.headers
    assert "tokens_per_day" in large.json()["error"]["message"]


def test_answers_say_what_is_left_in_the_form_of_their_dialect(gw):
    tenant = gw.tenant(None, "--tokens-per-day", "100000", "--requests-per-minute", "30", "--cost-per-month-usd", "7")
    for stream in (False, True):
        answer = tenant.chat("[[sim:fixed_usage=10:5]]", max_tokens=50, stream=stream)
        assert answer.status_code == 200
        headers = answer.headers
        assert headers["x-ratelimit-limit-requests"] == "30"
        assert headers["x-ratelimit-remaining-requests"] == ("29" if not stream else "28")
        assert 55 <= go_duration(headers["x-ratelimit-reset-requests"]) <= 62
        assert headers["x-ratelimit-limit-tokens"] == "100000"
        # The call itself stands in it at its worst until it is settled.
        assert 99_000 < int(headers["x-ratelimit-remaining-tokens"]) < 99_990
        assert abs(go_duration(headers["x-ratelimit-reset-tokens"]) - seconds_to_midnight()) <= 3
        assert headers["x-ratelimit-limit-cost-usd"] == "7"
        assert 6 < Decimal(headers["x-ratelimit-remaining-cost-usd"]) < 7
        assert not any(name.startswith("anthropic-") for name in headers)
    answer = tenant.post("/v1/messages", {"model": "claude-fast", "max_tokens": 50, "messages": user("Hi")})
    headers = answer.headers
    assert answer.status_code == 200 and headers["anthropic-ratelimit-requests-limit"] == "30"
    assert headers["anthropic-ratelimit-requests-remaining"] == "27"
    assert headers["anthropic-ratelimit-tokens-limit"] == "100000"
    assert headers["anthropic-ratelimit-tokens-remaining"] == headers["x-ratelimit-remaining-tokens"]
    reset = datetime.fromisoformat(headers["anthropic-ratelimit-requests-reset"])
    assert timedelta() < reset - datetime.now(UTC) < timedelta(seconds=63)
    unlimited = gw.tenant().chat()
    assert not any("ratelimit" in name for name in unlimited.headers)


def test_each_token_has_its_own_limit_and_reads_its_own_line(gw):
    tenant = gw.tenant(None, "--tokens-per-day", "100000")
    ci, other = gw.issue(tenant, "ci", "member"), gw.issue(tenant, "other", "app")
    gw.json("tenants", "quota", "set", tenant.id, "--scope", "each-token", "--requests-per-day", "2")
    gw.json("tenants", "quota", "set", tenant.id, "--scope", "token:ci", "--requests-per-day", "1")

    def ask(token: str) -> httpx.Response:
        body = {"model": "sim-fast", "messages": user("Hi [[sim:fixed_usage=10:5]]")}
        return tenant.post("/v1/chat/completions", body, headers={"authorization": f"Bearer {token}"})

    def quota(token: str) -> dict:
        return gw.http.get("/tenant/v1/quota", headers={"authorization": f"Bearer {token}"}).json()

    assert [ask(ci).status_code for _ in range(2)] == [200, 429]
    assert [ask(other).status_code for _ in range(3)] == [200, 200, 429]
    refused = ask(ci)
    assert "requests_per_day of this token" in refused.json()["error"]["message"]
    assert abs(int(refused.headers["retry-after"]) - seconds_to_midnight()) <= 3

    def used(view: dict) -> dict[str, tuple]:
        return {
            party["name"]: next(
                (line["used"], line["left"], line["source"]) for line in party["quotas"] if line["name"] == "requests_per_day"
            )
            for party in view["tokens"]
        }

    mine = quota(ci)
    assert used(mine) == {"ci": ("1", "0", "tenant")}
    day = next(line for line in mine["quotas"] if line["name"] == "tokens_per_day")
    assert (day["limit"], day["used"], day["held"], day["left"]) == ("100000", "45", "0", "99955")
    assert {over["scope"] for over in mine["overrides"]} == {"tenant", "each-token", "token:ci"}
    assert used(quota(other)) == {"other": ("2", "0", "tenant")}
    for role in ("admin", "readonly", "auditor"):
        reader = gw.issue(tenant, f"reads-{role}", role)
        assert used(quota(reader)) == {"ci": ("1", "0", "tenant"), "other": ("2", "0", "tenant")}
    # A rotated secret is the same token.
    fresh = gw.json("tenants", "token", "rotate", tenant.id, "--name", "ci")["token"]
    assert ask(fresh).status_code == 429


def test_a_person_has_its_own_limit_over_all_its_tokens(sim):
    gateway = Gateway(sim)
    try:
        gateway.start()
        tenant = gateway.tenant()
        mine = [gateway.issue(tenant, name, "member", "--person", "ann@example.com") for name in ("phone", "laptop")]
        bobs = gateway.issue(tenant, "desk", "member", "--person", "bob")
        refused = gateway.cli("tenants", "token", "issue", tenant.id, "--name", "x", "--role", "app", "--person", "a b")
        assert refused.returncode == 2 and "not a valid name of a person" in refused.stderr
        gateway.json("tenants", "quota", "set", tenant.id, "--scope", "each-person", "--requests-per-day", "3")
        gateway.json("tenants", "quota", "set", tenant.id, "--scope", "person:bob", "--requests-per-day", "1")

        def ask(token: str) -> httpx.Response:
            body = {"model": "sim-fast", "messages": user("Hi [[sim:fixed_usage=10:5]]")}
            return tenant.post("/v1/chat/completions", body, headers={"authorization": f"Bearer {token}"})

        assert [ask(token).status_code for token in (*mine, bobs, bobs)] == [200, 200, 200, 429]
        # A rotated secret stands for the same person, over a kill too.
        mine[1] = gateway.json("tenants", "token", "rotate", tenant.id, "--name", "laptop")["token"]
        gateway.kill()
        gateway.start()
        assert [ask(mine[1]).status_code, ask(mine[0]).status_code, ask(bobs).status_code] == [200, 429, 429]
        assert "requests_per_day of this person" in ask(mine[0]).json()["error"]["message"]
        shown = {row["name"]: row.get("person") for row in gateway.json("tenants", "show", tenant.id)["tokens"]}
        assert shown == {"default": None, "phone": "ann@example.com", "laptop": "ann@example.com", "desk": "bob"}
        assert sorted(row["person"] for row in gateway.rows(tenant.id)) == ["ann@example.com"] * 3 + ["bob"]
        # Each sees what it used, and nobody else's.
        usage = gateway.http.get("/tenant/v1/quota", headers={"authorization": f"Bearer {mine[0]}"}).json()
        assert [party["name"] for party in usage["persons"]] == ["ann@example.com"]
        found = gateway.http.get("/tenant/v1/audit", headers=tenant.bearer, params={"person": "bob"}).json()
        assert {row["decision"] for row in found["entries"]} == {"allow", "deny"}
    finally:
        gateway.close()


def test_the_settings_show_the_limits_that_hold_now(gw):
    tenant = gw.tenant(None, "--tokens-per-day", "100000")

    def shown() -> int:
        own = gw.http.get("/tenant/v1/config", headers=tenant.bearer).json()
        operators = gw.json("config", "show", "--tenant", tenant.id)
        assert own == operators
        return own["limits"]["tokens_per_day"]

    assert shown() == 100_000
    gw.json("tenants", "quota", "set", tenant.id, "--tokens-per-day", "7", "--until", "2s")
    assert shown() == 7
    # Nobody has to call before the end of a temporary limit is seen.
    time.sleep(2.2)
    assert shown() == 100_000


def test_tiers_set_limits_for_tokens_and_temporary_ones_end_by_themselves(sim):
    gateway = Gateway(sim)
    try:
        config = gateway.config
        config["tiers"]["tight"] = {
            "model": "sim-fast",
            "requests_per_day": 5,
            "per_token": {"requests_per_day": 1},
            "per_person": {"cost_per_day_usd": 1},
        }
        gateway.configure(config)
        gateway.start()
        tenant = gateway.tenant("acme", tier="tight")
        assert [tenant.chat().status_code for _ in range(2)] == [200, 429]
        raised = gateway.json(
            "tenants", "quota", "set", "acme", "--scope", "each-token", "--requests-per-day", "3", "--until", "3s"
        )
        assert raised["overrides"][0]["scope"] == "each-token" and raised["overrides"][0]["until"]
        line = next(line for line in raised["tokens"][0]["quotas"] if line["name"] == "requests_per_day")
        assert (line["limit"], line["source"], line["left"]) == ("3", "temporary", "2")
        assert tenant.chat().status_code == 200
        # A kill does not lengthen it.
        gateway.kill()
        gateway.start()
        assert tenant.chat().status_code == 200
        assert tenant.chat().status_code == 429
        eventually(lambda: gateway.json("tenants", "quota", "show", "acme")["overrides"] == [], 6, "the end of the override")
        line = gateway.json("tenants", "quota", "show", "acme")["tokens"][0]["quotas"][2]
        assert (line["name"], line["limit"], line["source"], line["used"]) == ("requests_per_day", "1", "tier", "3")
        shown = gateway.stop()
        assert shown == 0
        # The same without a gateway, under the lock.
        offline = gateway.json("tenants", "quota", "show", "acme")
        assert offline["tokens"][0]["quotas"][2]["used"] == "3"
        changed = gateway.json("tenants", "quota", "set", "acme", "--tokens-per-day", "9")
        assert next(line["limit"] for line in changed["quotas"] if line["name"] == "tokens_per_day") == "9"
        table = gateway.cli("tenants", "quota", "show", "acme", check=True).stdout
        assert "HELD" in table and "token default" in table
    finally:
        gateway.close()


def test_the_operator_reads_and_changes_quotas_over_http(gw):
    tenant = gw.tenant()
    path = f"/admin/v1/tenants/{tenant.id}/quota"
    changed = gw.admin("PATCH", path, json={"tokens_per_day": 77, "cost_per_month_usd": "0.5", "until": "1h"})
    assert changed.status_code == 200
    assert changed.json()["overrides"] == gw.admin("GET", path).json()["overrides"]
    assert [(over["name"], over["limit"]) for over in changed.json()["overrides"]] == [
        ("tokens_per_day", "77"),
        ("cost_per_month_usd", "0.5"),
    ]
    for bad in ({"tokens_per_year": 1}, {"scope": "everybody", "tokens_per_day": 1}, {"tokens_per_day": -1}, {"until": "soon"}):
        assert gw.admin("PATCH", path, json=bad).status_code == 400, bad
    refused = gw.admin("PATCH", path, json={"scope": "each-token", "storage_bytes": 5})
    assert refused.status_code == 400 and "storage_bytes" in refused.json()["error"]["message"]
    entry = [entry for entry in tenant.audit() if entry["action"] == "quota.set"][-1]
    assert entry["detail"]["tokens_per_day"] == "77" and entry["detail"]["until"]


def test_stored_bytes_are_limited_and_shown_by_what_they_are(gw):
    tenant = gw.tenant()
    assert tenant.chat().status_code == 200
    view = gw.json("tenants", "quota", "show", tenant.id)
    assert view["storage"]["database_bytes"] > 0
    line = next(line for line in view["quotas"] if line["name"] == "storage_bytes")
    assert int(line["used"]) >= sum(view["storage"].values())
    gw.json("tenants", "quota", "set", tenant.id, "--storage-bytes", line["used"])
    refused = tenant.chat()
    assert refused.status_code == 429 and "storage_bytes" in refused.json()["error"]["message"]
    assert refused.headers["x-ratelimit-limit-storage-bytes"] == line["used"]
    gw.json("tenants", "quota", "set", tenant.id, "--storage-bytes", "none")
    assert tenant.chat().status_code == 200


INCLUDE = {"x-partywall-cost": "include"}


def events_of(answer: httpx.Response) -> list[dict]:
    data = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    return [json.loads(text) for text in data if text != "[DONE]"]


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
def test_the_cost_stands_in_the_usage_for_those_who_ask(acme, model):
    cost = price_of("sim-fast", 1000, 500)
    order = "[[sim:fixed_usage=1000:500]]"
    chat = {"model": model, "max_tokens": 500, "messages": user(order)}
    asked = acme.post("/v1/chat/completions", chat, headers=INCLUDE)
    row = acme.row(asked.headers["x-request-id"])
    # Digit for digit: read as text, never as a binary fraction.
    assert json.loads(asked.text, parse_float=Decimal)["usage"]["cost"] == cost == Decimal(row["cost_usd"])
    assert "cost" not in acme.post("/v1/chat/completions", chat).json()["usage"]
    message = acme.post("/v1/messages", chat, headers=INCLUDE)
    assert json.loads(message.text, parse_float=Decimal)["usage"]["cost"] == cost
    streamed = {**chat, "stream": True, "stream_options": {"include_usage": True}}
    answer = acme.post("/v1/chat/completions", streamed, headers=INCLUDE)
    assert answer.text.endswith("data: [DONE]\n\n")
    with_usage = [event["usage"] for event in events_of(answer) if event.get("usage")]
    assert [Decimal(str(usage["cost"])) for usage in with_usage] == [cost]
    answer = acme.post("/v1/messages", {**chat, "stream": True}, headers=INCLUDE)
    delta = [event for event in events_of(answer) if event["type"] == "message_delta"]
    assert [Decimal(str(event["usage"]["cost"])) for event in delta] == [cost]
    # A client that asked for no usage gets no chunk without choices.
    answer = acme.post("/v1/chat/completions", {**chat, "stream": True}, headers=INCLUDE)
    assert all(event["choices"] for event in events_of(answer))


@pytest.mark.parametrize("model", ["sim-fast", "claude-fast"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_provider_that_ignores_the_limit_is_cut_and_settled_at_what_was_bought(gw, sim, model, path):
    tenant = gw.tenant(None, "--tokens-per-day", "100000")
    mark = sim.mark()
    body = {"model": model, "max_tokens": 10, "stream": True, "messages": user("[[sim:chunks=5000 gap=2ms fault=no_limit]]")}
    if path == "/v1/chat/completions":
        body["stream_options"] = {"include_usage": True}
    answer = tenant.post(path, body)
    events = events_of(answer)
    if path == "/v1/chat/completions":
        assert answer.text.endswith("data: [DONE]\n\n")
        assert [choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]] == ["length"]
        usage = events[-1]["usage"]
        assert usage["completion_tokens"] == 10
    else:
        kinds = [event["type"] for event in events]
        assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
        assert events[-2]["delta"]["stop_reason"] == "max_tokens" and events[-2]["usage"]["output_tokens"] == 10
    assert len(events) < 200
    record = sim.one_since(mark)
    assert not record["finished"], "the provider was cut off, not read to its end"
    row = tenant.row(answer.headers["x-request-id"])
    assert (row["outcome"], row["usage_source"], row["tokens_out"]) == ("finished", "estimate", 10)
    line = lines(gw, tenant.id)["tokens_per_day"]
    # Billed as bought, counted as held: the bound of the input is above what it was.
    assert line["held"] == "0" and row["tokens_in"] + 10 < int(line["used"]) < 400
    # The official package reads it as an answer that reached its limit.
    if path == "/v1/chat/completions":
        chunks = list(tenant.openai().chat.completions.create(**body))
        assert chunks[-2].choices[0].finish_reason == "length"
    else:
        body.pop("stream")
        with tenant.anthropic().messages.stream(**body) as stream:
            assert stream.get_final_message().stop_reason == "max_tokens"


FALLBACK_TEN_TIMES_DEARER = {
    **TEN_CENTS,
    "sim-large": {"input_cost_per_token": "0.0", "output_cost_per_token": "0.01"},
}


@pytest.fixture
def dear_fallback(sim):
    """`cheap-first` goes to an Anthropic provider and falls back to a model at ten times the price; `dead-first` to a closed port."""
    gateway = Gateway(sim, card=ratecard(FALLBACK_TEN_TIMES_DEARER))
    config = gateway.config
    dead = {"name": "dead", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "env:E2E_OPENAI_KEY"}
    full = {"name": "full", "kind": "openai", "base_url": sim.openai_url, "api_key": "env:E2E_OPENAI_KEY"}
    config["providers"] += [dead, {**full, "concurrency": 1, "queue_length": 0}]
    for name, provider in (("cheap-first", "sim-anthropic"), ("dead-first", "dead"), ("full-first", "full")):
        route = {"provider": provider, "model": "sim-fast", "weight": 1}
        config["models"].append({"name": name, "routes": [route], "fallback": ["sim-large"]})
    gateway.configure(config)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.mark.parametrize("member", [{"n": 2}, {"logprobs": True}, {"seed": 7}])
def test_a_fallback_that_is_dearer_than_the_first_route_does_not_go_on_its_hold(dear_fallback, sim, member):
    gateway = dear_fallback
    tenant = gateway.tenant(None, "--cost-per-day-usd", "2")
    body = {"model": "cheap-first", "max_tokens": 50, "messages": user("[[sim:fixed_usage=111:50 delay=200ms]]"), **member}
    mark = sim.mark()
    statuses = asyncio.run(burst(gateway, tenant, [body] * 30))
    passed = statuses.count(200)
    assert passed == (2 if "n" in member else 4), statuses
    assert len(sim.since(mark)) == passed
    assert sum(Decimal(row["cost_usd"]) for row in tenant.rows()) <= 2


def test_a_full_line_makes_no_dear_fallback_cheap(dear_fallback, sim):
    gateway = dear_fallback
    noisy, tenant = gateway.tenant(), gateway.tenant(None, "--cost-per-day-usd", "5")
    held = threading.Thread(target=noisy.chat, args=("[[sim:delay=3000ms]]", "full-first"))
    held.start()
    eventually(lambda: sim.stats()["requests_open"] >= 1, 5, "the slot is taken")
    body = {**body_of(100), "model": "full-first"}
    statuses = asyncio.run(burst(gateway, tenant, [body] * 40))
    held.join()
    assert statuses.count(200) == 5, statuses
    assert sum(Decimal(row["cost_usd"]) for row in tenant.rows()) <= 5


def test_a_call_whose_first_attempt_never_left_counts_as_one_over_a_kill(dear_fallback, sim):
    gateway = dear_fallback
    tenant = gateway.tenant(None, "--requests-per-day", "3")
    assert [tenant.chat("Hello", "dead-first").status_code for _ in range(4)] == [200, 200, 200, 429]
    gateway.kill()
    gateway.start()
    assert tenant.chat("Hello", "dead-first").status_code == 429
    assert len(tenant.rows()) == 3
