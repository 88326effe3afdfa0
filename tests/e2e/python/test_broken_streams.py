"""Streams that break off: the client must notice, and the ledger must hold what was produced."""

from __future__ import annotations

import itertools
import json
import threading
import time
from decimal import Decimal

import anthropic
import httpx
import httpx2
import openai
import pytest

from deployment import eventually, price_of
from samples import user

WAYS = {
    "cut": "cut_after:3",
    "reset": "reset_after:3",
    "clean-end-before-the-finish": "end_after:3",
    "clean-end-without-end-mark": "no_end",
    "error-event": "error_event:3",
    "malformed-event": "malformed:3",
}
PROVIDERS = ["sim-fast", "claude-fast"]
TAGS = itertools.count(1)
BROKEN = (openai.APIError, anthropic.APIError, httpx2.TransportError)


def order(text: str) -> str:
    return f"Tell me. [[sim:{text} tag=t{next(TAGS)}]]"


def read_openai(tenant, model: str, content: str) -> int:
    seen = 0
    stream = tenant.openai(timeout=20).chat.completions.create(model=model, messages=user(content), stream=True)
    for chunk in stream:
        seen += bool(chunk.choices and chunk.choices[0].delta.content)
    return seen


def read_anthropic(tenant, model: str, content: str) -> int:
    seen = 0
    stream = tenant.anthropic(timeout=20).messages.create(
        model=model, max_tokens=500, messages=user(content), stream=True
    )
    for event in stream:
        seen += event.type == "content_block_delta"
    return seen


PACKAGES = pytest.mark.parametrize("read", [read_openai, read_anthropic], ids=["openai", "anthropic"])


def new_rows(tenant, before: int, count: int = 1) -> list[dict]:
    rows = eventually(lambda: len(found := tenant.rows()[before:]) >= count and found, 5, f"{count} new rows")
    assert len(rows) == count, rows
    return rows


@PACKAGES
@pytest.mark.parametrize("model", PROVIDERS, ids=["openai-provider", "anthropic-provider"])
@pytest.mark.parametrize("way", WAYS)
def test_a_broken_stream_raises_and_is_settled_once(gw, read, model, way):
    tenant = gw.tenant()
    with pytest.raises(BROKEN):
        read(tenant, model, order(f"fault={WAYS[way]}"))
    [row] = new_rows(tenant, 0)
    assert row["outcome"] == "broken" and row["usage_source"] in ("estimate", "provider")
    assert row["tokens_out"] >= 3 and Decimal(row["cost_usd"]) > 0
    if row["usage_source"] == "estimate":
        assert Decimal(row["charged_usd"]) > price_of("sim-fast", 0, 500), "who knows what the provider bills"


@PACKAGES
@pytest.mark.parametrize("model", ["impatient", "claude-impatient"])
def test_a_stream_that_falls_silent_raises_within_the_idle_timeout(gw, read, model):
    tenant = gw.tenant()
    started = time.monotonic()
    with pytest.raises(BROKEN):
        read(tenant, model, order("fault=hang_after:3"))
    assert time.monotonic() - started < 1 + 2, "longer than the idle timeout of 1 s and a little"
    [row] = new_rows(tenant, 0)
    assert row["outcome"] == "broken" and row["tokens_out"] >= 3


@pytest.mark.parametrize("model", ["impatient", "claude-impatient"])
def test_a_provider_that_never_answers_ends_as_a_timeout(gw, model):
    tenant = gw.tenant()
    with pytest.raises(openai.InternalServerError) as failed:
        tenant.openai().chat.completions.create(model=model, messages=user(order("fault=hang")))
    assert failed.value.status_code == 504
    [row] = new_rows(tenant, 0)
    assert (row["outcome"], row["usage_source"], row["cost_usd"]) == ("unknown", "unknown", None)
    assert Decimal(row["charged_usd"]) > 0


@pytest.mark.parametrize("model", PROVIDERS)
@pytest.mark.parametrize("way", ["cut_after:1", "malformed:1"])
def test_a_broken_whole_answer_is_an_error_and_never_a_partial_answer(gw, model, way):
    tenant = gw.tenant()
    with pytest.raises(openai.InternalServerError) as failed:
        tenant.openai().chat.completions.create(model=model, messages=user(order(f"fault={way}")))
    assert failed.value.status_code == 502
    [row] = new_rows(tenant, 0)
    assert row["outcome"] in ("broken", "unknown")


@pytest.mark.parametrize("way", ["end_after:3", "no_end", "cut_after:3", "error_event:3"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_broken_stream_carries_no_end_mark(acme, path, way):
    body = {"model": "sim-fast", "max_tokens": 500, "stream": True, "messages": user(order(f"fault={way}"))}
    received, aborted = b"", False
    with acme.gateway.http.stream("POST", path, json=body, headers=acme.bearer) as answer:
        try:
            for piece in answer.iter_raw():
                received += piece
        except httpx.TransportError:
            aborted = True
    text = received.decode()
    assert "[DONE]" not in text and "message_stop" not in text
    assert '"finish_reason":"stop"' not in text and '"stop_reason":"end_turn"' not in text
    if path == "/v1/messages":
        assert aborted or text.rstrip().rpartition("\n\n")[2].startswith("event: error\ndata: ")
    else:
        assert aborted or "error" in json.loads(text.rstrip().rpartition("data: ")[2])


@pytest.mark.parametrize(
    "way", ["comments", "crlf", "cr_only", "bom", "double_done", "slow_bytes:1ms", "content_type:text/plain"]
)
def test_an_odd_but_whole_stream_either_arrives_whole_or_raises(acme, way):
    plain = read_openai(acme, "sim-fast", order("chunks=12"))
    try:
        seen = read_openai(acme, "sim-fast", order(f"chunks=12 fault={way}"))
    except BROKEN:
        return
    assert seen == plain == 12


def hang_up_midway(tenant, path: str, model: str, content: str, after: int) -> str:
    """Reads some events of a stream and closes the connection; the request's id."""
    body = {"model": model, "max_tokens": 2000, "stream": True, "messages": user(content)}
    with httpx.Client(base_url=tenant.gateway.url, timeout=20, trust_env=False) as http:
        with http.stream("POST", path, json=body, headers=tenant.bearer) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            seen = 0
            while seen < after:
                seen += next(lines).startswith("data: ")
            return answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("model", PROVIDERS)
def test_a_hang_up_ends_the_upstream_call_promptly_and_settles_what_was_produced(gw, sim, path, model):
    tenant = gw.tenant()
    mark = sim.mark()
    request = hang_up_midway(tenant, path, model, order("chunks=400 gap=25ms"), 8)
    left = time.monotonic()
    record = sim.one_since(mark)
    assert time.monotonic() - left < 2, "the upstream stream went on for 10 s"
    assert record["finished"] is False
    [row] = new_rows(tenant, 0)
    assert row["request_id"] == request and row["outcome"] == "abandoned"
    assert 1 <= row["tokens_out"] < 200 and Decimal(row["cost_usd"]) > 0
    # What counts is a bound of what the provider bills for as much as it sent: at least a token for each byte.
    assert Decimal(row["cost_usd"]) < Decimal(row["charged_usd"]) < price_of("sim-fast", 0, 2000)


@pytest.mark.parametrize("model", ["draining", "claude-draining"])
def test_a_hang_up_at_a_draining_provider_is_settled_with_the_providers_own_usage(gw, sim, model):
    tenant = gw.tenant()
    mark = sim.mark()
    request = hang_up_midway(tenant, "/v1/chat/completions", model, order("chunks=40 gap=25ms"), 5)
    record = sim.one_since(mark)
    assert record["finished"] is True
    [row] = new_rows(tenant, 0)
    assert row["request_id"] == request and row["usage_source"] == "provider"
    assert (row["tokens_in"], row["tokens_out"]) == (record["usage"]["input"], record["usage"]["output"])


@pytest.mark.parametrize("model", ["draining", "claude-draining"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("end", ["freeze", "suspend"])
def test_an_answer_that_is_read_on_counts_as_a_call_and_ends_with_the_authority(gw, sim, model, stream, end):
    tenant = gw.tenant()
    gw.json("tenants", "quota", "set", tenant.id, "--concurrent-requests", "1")
    mark, before = sim.mark(), sim.stats()["requests_open"]
    if stream:
        hang_up_midway(tenant, "/v1/chat/completions", model, order("chunks=400 gap=25ms"), 5)
    else:
        body = {"model": model, "messages": user(order("delay=10000ms"))}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{gw.url}/v1/chat/completions", json=body, headers=tenant.bearer, timeout=0.5, trust_env=False)
    time.sleep(0.5)
    assert sim.stats()["requests_open"] == before + 1, "it is read on"
    refused = tenant.chat()
    assert refused.status_code == 429 and "concurrent_requests" in refused.text
    gw.json("tenants", end, tenant.id)
    ended = time.monotonic()
    record = sim.one_since(mark)
    assert time.monotonic() - ended < 2, "the upstream went on for 10 s"
    assert record["finished"] is False
    [row] = new_rows(tenant, 0)
    assert row["outcome"] == ("abandoned" if stream else "unknown")
    gw.json("tenants", "resume", tenant.id)
    assert tenant.chat().status_code == 200, "its place is free again"


@pytest.mark.parametrize(("model", "finished"), [("sim-fast", False), ("draining", True)])
def test_a_hang_up_before_a_whole_answer_leaves_exactly_one_row(gw, sim, model, finished):
    tenant = gw.tenant()
    mark = sim.mark()
    body = {"model": model, "messages": user(order("delay=700ms"))}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{gw.url}/v1/chat/completions", json=body, headers=tenant.bearer, timeout=0.3, trust_env=False)
    record = sim.one_since(mark)
    assert record["finished"] is finished
    [row] = new_rows(tenant, 0)
    if finished:
        assert (row["usage_source"], row["tokens_out"]) == ("provider", record["usage"]["output"])
    else:
        assert row["outcome"] in ("abandoned", "unknown") and Decimal(row["charged_usd"]) > 0
    time.sleep(0.5)
    assert len(tenant.rows()) == 1


def test_after_many_hang_ups_nothing_stays_open_and_every_call_has_one_row(gw, sim):
    tenant = gw.tenant()
    before = sim.stats()["requests"]

    def one(after: int):
        hang_up_midway(tenant, "/v1/chat/completions", "sim-fast", order("chunks=60 gap=10ms"), after)

    threads = [threading.Thread(target=one, args=(1 + n % 7,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: sim.stats()["requests_open"] == 0, 5, "no open upstream request")
    rows = new_rows(tenant, 0, 24)
    assert len({row["request_id"] for row in rows}) == 24
    assert sim.stats()["requests"] - before == 24
    assert tenant.chat().status_code == 200
