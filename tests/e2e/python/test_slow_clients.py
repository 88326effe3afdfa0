"""Clients that drip: cut in time, while others are served as ever. The waiting happens beside the other tests."""

from __future__ import annotations

import time

import pytest
from deployment import eventually


@pytest.mark.timeout(100)
def test_slow_heads_are_cut_within_30_s_and_slow_bodies_within_60_s(slow_clients):
    tenant = slow_clients.tenant
    for _ in range(3):
        started = time.monotonic()
        assert tenant.chat().status_code == 200 and time.monotonic() - started < 2
    closed, answered = slow_clients.wait()
    assert closed["silent head"] <= 30 and closed["dripping head"] <= 30, closed
    assert closed["silent body"] <= 60 and closed["dripping body"] <= 60, closed
    for name in ("silent body", "dripping body"):
        assert answered[name] == b"" or answered[name].startswith(b"HTTP/1.1 408 "), answered[name]


@pytest.mark.timeout(100)
def test_over_http2_the_idle_are_closed_and_what_is_not_taken_is_ended(slow_clients, missing):
    if slow_clients.lacking:
        missing(f"{', '.join(slow_clients.lacking)}: not installed")
    closed, _ = slow_clients.wait()
    for name in ("silent http2", "idle http2", "idle http2 after a call"):
        assert 15 <= closed[name] <= 30, closed
    for name in ("stalled stream", "stalled answer"):
        assert 50 <= closed[name] <= 65, closed
    rows = eventually(lambda: (rows := slow_clients.stalled.rows()) and len(rows) == 3 and rows, 5, "three rows")
    assert sorted(row["outcome"] for row in rows) == ["abandoned", "finished", "finished"]
    assert eventually(lambda: slow_clients.sim.stats()["requests_open"] == 0, 5, "an idle provider")
