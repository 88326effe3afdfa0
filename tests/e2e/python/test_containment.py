"""Containment: a freeze, a suspension and a rotation end what they should within a second, and a neighbour under load loses nothing."""

from __future__ import annotations

import json
import socket
import threading
import time

import anthropic
import httpx
import openai
import pytest

from deployment import Gateway, eventually
from samples import user
from test_tenancy import OpenStream, code

READS = ["/v1/models", "/tenant/v1/usage", "/tenant/v1/audit", "/tenant/v1/config", "/tenant/v1/quota"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_freeze_ends_streams_and_leaves_reads(gw, sim, path):
    tenant, neighbour = gw.tenant(), gw.tenant()
    assert tenant.chat().status_code == 200
    stream, other = OpenStream(tenant, path=path), OpenStream(neighbour, path=path)
    assert gw.json("tenants", "freeze", tenant.id)["status"] == "frozen"
    stream.assert_ended_with_an_error_within(1.0, time.monotonic())
    assert b"this tenant is frozen" in stream.received
    other.assert_still_running()
    other.leave()
    mark = sim.mark()
    for read in READS:
        assert gw.http.get(read, headers=tenant.bearer).status_code == 200, read
    answer = tenant.chat()
    assert (answer.status_code, code(answer), answer.headers["x-should-retry"]) == (403, "tenant_frozen", "false")
    assert "frozen" in answer.json()["error"]["message"]
    assert sim.since(mark) == []
    # Foreign equals absent: who has no token learns nothing of the freeze.
    assert gw.http.get("/v1/models", headers={"x-api-key": f"tk_{tenant.id}_" + "0" * 32}).status_code == 401
    assert gw.json("tenants", "show", tenant.id)["status"] == "frozen"
    assert gw.json("tenants", "resume", tenant.id)["status"] == "active"
    assert tenant.chat().status_code == 200
    actions = [entry["action"] for entry in tenant.audit()]
    assert "tenant.freeze" in actions and "tenant.resume" in actions


def test_a_stream_ends_with_what_its_caller_would_be_told_now(gw):
    for end, told in [("freeze", "tenant_frozen"), ("suspend", "tenant_suspended")]:
        tenant = gw.tenant()
        stream = OpenStream(tenant)
        gw.json("tenants", end, tenant.id)
        stream.assert_ended_with_an_error_within(1.0, time.monotonic())
        assert told.encode() in stream.received and told == code(tenant.chat())
    tenant = gw.tenant()
    stream = OpenStream(tenant)
    gw.json("tenants", "token", "rotate", tenant.id, "--all")
    stream.assert_ended_with_an_error_within(1.0, time.monotonic())
    assert code(tenant.chat()).encode() in stream.received


def test_official_clients_see_a_refusal_in_their_dialect(gw):
    tenant = gw.tenant()
    gw.json("tenants", "freeze", tenant.id)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        tenant.openai(max_retries=2).chat.completions.create(model="sim-fast", messages=user("Hi"))
    assert refused.value.code == "tenant_frozen"
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        tenant.anthropic(max_retries=2).messages.create(model="sim-fast", max_tokens=8, messages=user("Hi"))
    assert refused.value.body["error"]["type"] == "permission_error"
    assert [model.id for model in tenant.openai().models.list()]


def test_a_freeze_survives_a_restart_and_does_not_loosen_a_suspension(sim):
    gateway = Gateway(sim)
    try:
        gateway.start()
        frozen, suspended = gateway.tenant("frozen"), gateway.tenant("suspended")
        gateway.json("tenants", "freeze", "frozen")
        gateway.json("tenants", "suspend", "suspended")
        assert "suspended" in gateway.refused("tenants", "freeze", "suspended")
        gateway.kill()
        gateway.start()
        assert code(frozen.chat()) == "tenant_frozen"
        assert gateway.http.get("/v1/models", headers=frozen.bearer).status_code == 200
        assert code(suspended.chat()) == "tenant_suspended"
        assert gateway.http.get("/v1/models", headers=suspended.bearer).status_code == 403
        # Over HTTP too.
        assert gateway.admin("POST", "/admin/v1/tenants/frozen/resume").json()["status"] == "active"
        assert gateway.admin("POST", "/admin/v1/tenants/frozen/freeze").json()["status"] == "frozen"
    finally:
        gateway.close()


def test_a_suspension_closes_the_socket_of_a_client_that_does_not_read(gw, sim):
    """Its stream cannot take the error event: the socket is closed and the provider's answer is dropped all the same."""
    tenant = gw.tenant()
    body = {
        "model": "sim-fast",
        "max_tokens": 8_000,
        "stream": True,
        "messages": user("Much. [[sim:chunks=4000 bytes=8000 gap=1ms]]"),
    }
    payload = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.token}\r\ncontent-type: application/json\r\ncontent-length: {len(payload)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((gw.host, gw.port))
        connection.sendall(head.encode() + payload)
        eventually(lambda: sim.stats()["requests_open"] >= 1, 5, "an open call")
        time.sleep(1.5)  # the buffers on the way are full now
        gw.json("tenants", "suspend", tenant.id)
        eventually(lambda: sim.stats()["requests_open"] == 0, 2.0, "the end of the provider's stream")
        row = eventually(lambda: tenant.rows(), 3, "the row")[0]
        assert row["outcome"] == "abandoned"


class Load:
    """Calls of one tenant from several threads, each counted by its status."""

    def __init__(self, tenant, threads: int = 4):
        self.statuses: list[int] = []
        self.slowest = 0.0
        self._tenant, self._over = tenant, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        body = {"model": "sim-fast", "max_tokens": 20, "messages": user("Hello")}
        with httpx.Client(base_url=self._tenant.gateway.url, timeout=20, trust_env=False) as http:
            while not self._over.is_set():
                begun = time.monotonic()
                try:
                    status = http.post("/v1/chat/completions", json=body, headers=self._tenant.bearer).status_code
                except httpx.TransportError:
                    status = 0
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.statuses.append(status)

    def stop(self) -> list[int]:
        self._over.set()
        for thread in self._threads:
            thread.join(20)
        return self.statuses


def test_containment_of_one_tenant_costs_its_neighbours_nothing(sim):
    gateway = Gateway(sim)
    try:
        gateway.start()
        culprit = gateway.tenant("culprit")
        neighbours = [gateway.tenant(f"neighbour-{n}") for n in range(2)]
        gateway.json("secrets", "set", "culprit", "spare", stdin="sk-spare")
        streams = [OpenStream(neighbour) for neighbour in neighbours]
        loads, attack = [Load(neighbour, 2) for neighbour in neighbours], Load(culprit, 8)
        eventually(lambda: all(len(load.statuses) > 20 for load in [*loads, attack]), 20, "load")
        for _ in range(3):
            gateway.json("tenants", "freeze", "culprit")
            assert code(culprit.chat()) == "tenant_frozen"
            gateway.json("tenants", "suspend", "culprit")
            assert code(culprit.chat()) == "tenant_suspended"
            gateway.json("secrets", "rotate", "culprit")
            gateway.json("tenants", "resume", "culprit")
            assert culprit.chat().status_code == 200
        rotated = gateway.json("tenants", "token", "rotate", "culprit", "--all")
        assert culprit.chat().status_code == 401
        for stream in streams:
            stream.assert_still_running()
            stream.leave()
        hit = set(attack.stop())
        assert hit <= {200, 401, 403} and {200, 403} <= hit, hit
        for neighbour, load in zip(neighbours, loads, strict=True):
            statuses = load.stop()
            assert set(statuses) == {200}, f"a neighbour saw {sorted(set(statuses))}"
            assert load.slowest < 5
            # Every answer has its row, and no row is without its answer; the stream was left.
            rows = eventually(lambda n=neighbour, s=statuses: (r := n.rows()) and len(r) == len(s) + 1 and r, 10, "the rows")
            assert sum(row["outcome"] == "finished" for row in rows) == len(statuses)
        rotated = rotated["tokens"] if isinstance(rotated, dict) else rotated
        fresh = {"authorization": f"Bearer {rotated[0]['token']}"}
        assert gateway.http.get("/v1/models", headers=fresh).status_code == 200
    finally:
        gateway.close()


def test_a_kill_during_a_rotation_of_secrets_leaves_them_readable(sim):
    """The tenant's own provider key is among them: a call that reaches the provider with it proves that it opens."""
    gateway = Gateway(sim)
    try:
        gateway.start()
        tenant = gateway.tenant("acme")
        key = "sk-acme-own-key"
        for n in range(40):
            gateway.json("secrets", "set", "acme", f"spare-{n}", stdin=f"value {n}")
        gateway.json("secrets", "set", "acme", "sim-openai", stdin=key)
        for pause in (0.0, 0.004, 0.008, 0.012, 0.016, 0.02, 0.03, 0.05):
            rotation = threading.Thread(target=gateway.cli, args=("secrets", "rotate", "acme"), daemon=True)
            rotation.start()
            time.sleep(pause)
            gateway.kill()
            rotation.join(10)
            gateway.start()
            mark = sim.mark()
            assert len(gateway.json("secrets", "list", "acme")) == 41
            assert tenant.chat().status_code == 200
            assert sim.one_since(mark)["headers"]["authorization"] == f"Bearer {key}"
        assert gateway.json("secrets", "rotate", "acme")["done"] is True
        assert tenant.chat().status_code == 200
        assert "secret.rotate" in [entry["action"] for entry in tenant.audit()]
    finally:
        gateway.close()
