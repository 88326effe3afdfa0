"""HTTP/2: what one client does not take, and what ends while it does not, is an end of that call and of no other."""

from __future__ import annotations

import time

import pytest
from deployment import eventually
from h2wire import H2Client
from samples import user
from tls import Authority, TlsGateway, lacking


@pytest.fixture(scope="module")
def secure(sim, tmp_path_factory, missing):
    if absent := lacking("openssl"):
        missing(f"{', '.join(absent)}: not installed")
    gateway = TlsGateway(sim, Authority(tmp_path_factory.mktemp("tls")))
    try:
        yield gateway.start()
    finally:
        gateway.close()


ENDS = {
    "suspension": ("tenants", "suspend"),
    "freeze": ("tenants", "freeze"),
    "rotation": ("tenants", "token", "rotate"),
}
LONG = {"model": "sim-fast", "max_tokens": 8_000, "stream": True, "messages": user("Go on. [[sim:chunks=600 gap=50ms]]")}


def end(gateway: TlsGateway, how: str, tenant) -> float:
    gateway.json(*ENDS[how], tenant.id, *(["--all"] if how == "rotation" else []))
    return time.monotonic()


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("window", [0, 100])
def test_an_end_reaches_a_client_that_does_not_read_and_no_other_on_its_connection(secure, sim, how, window):
    """The client answers every ping and grants nothing: the event that says why cannot reach it, the end can."""
    culprit, neighbour = secure.tenant(), secure.tenant()
    with H2Client(secure, window) as client:
        stuck = client.post("/v1/chat/completions", culprit.token, LONG)
        other = client.post("/v1/chat/completions", neighbour.token, LONG)
        eventually(lambda: sim.stats()["requests_open"] == 2, 5, "two open calls")
        time.sleep(0.5)
        since = end(secure, how, culprit)
        eventually(lambda: stuck in client.resets, 3, "the end of the stream")
        assert client.resets[stuck] - since <= 1.0
        eventually(lambda: sim.stats()["requests_open"] == 1, 2, "the end of the provider's stream")
        row = eventually(lambda: culprit.rows(), 3, "the row")[0]
        assert row["outcome"] == "abandoned"
        before = len(client.data[other])
        client.grant(other, 60_000)
        eventually(lambda: len(client.data[other]) > before + 500, 5, "the neighbour's stream")
        assert other not in client.resets and client.closed_at is None
    eventually(lambda: sim.stats()["requests_open"] == 0, 5, "an idle provider")


@pytest.mark.parametrize("how", ENDS)
def test_an_end_is_told_on_an_open_stream(secure, sim, how):
    tenant = secure.tenant()
    with H2Client(secure) as client:
        stream = client.post("/v1/chat/completions", tenant.token, LONG)
        eventually(lambda: client.data[stream].count(b"data: ") >= 3, 5, "a begun stream")
        since = end(secure, how, tenant)
        eventually(lambda: stream in client.resets, 3, "the end of the stream")
        assert client.resets[stream] - since <= 1.0 and stream not in client.ended
        last = client.data[stream].rstrip().rpartition(b"data: ")[2]
        told = {"suspension": b"tenant_suspended", "freeze": b"tenant_frozen", "rotation": b"invalid_api_key"}
        assert told[how] in last and b"[DONE]" not in client.data[stream], last
    eventually(lambda: sim.stats()["requests_open"] == 0, 5, "an idle provider")
