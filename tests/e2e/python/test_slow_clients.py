"""Clients that drip: cut in time, while others are served as ever. The waiting happens beside the other tests."""

from __future__ import annotations

import time

import pytest


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
