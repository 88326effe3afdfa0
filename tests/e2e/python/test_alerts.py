"""Alerts: signed as the Standard Webhooks specification says, one delivery id for each threshold and window, from a durable outbox."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from deployment import Gateway, default_config, eventually
from samples import user
from test_tenancy import code


def fresh_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@dataclass
class Delivery:
    headers: dict
    raw: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def body(self) -> dict:
        return json.loads(self.raw)

    @property
    def kind(self) -> str:
        return self.body["type"]

    @property
    def data(self) -> dict:
        return self.body["data"]


class Receiver:
    """An HTTP server that keeps what it gets and answers as it is told: statuses in order, then 204."""

    def __init__(self):
        self.got: list[Delivery] = []
        # Also of those that never said anything in HTTP.
        self.connections = 0
        self.statuses: list[int] = []
        self.answer = b""
        self.headers: dict[str, str] = {}
        self.delay = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append(Delivery(headers, raw, time.time()))
                time.sleep(receiver.delay)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                for name, value in receiver.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(receiver.answer)))
                self.end_headers()
                try:
                    self.wfile.write(receiver.answer)
                except OSError:
                    pass

            def do_GET(self):
                receiver.got.append(Delivery({"method": "GET"}, b"{}", time.time()))
                self.send_error(404)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            def get_request(self):
                receiver.connections += 1
                return super().get_request()

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?key=of-its-owner"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def kinds(self) -> list[str]:
        return [delivery.kind for delivery in self.got]

    def thresholds(self) -> list[tuple[str, int]]:
        return [(d.data["quota"], d.data["threshold_percent"]) for d in self.got if d.kind == "quota.threshold"]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def verify(delivery: Delivery, secret: str) -> None:
    """By the specification, without any code of ours: HMAC-SHA256 over `id.timestamp.body` under the decoded secret."""
    stamp = delivery.headers["webhook-timestamp"]
    signed = f"{delivery.id}.{stamp}.".encode() + delivery.raw
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert delivery.headers["webhook-signature"] == expected
    assert abs(int(stamp) - delivery.at) < 10
    assert "." not in delivery.id
    assert set(delivery.body) == {"type", "timestamp", "data"}


@pytest.fixture
def receiver():
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def ops():
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def house(sim, ops):
    """A gateway whose operator is told at `ops` and whose tenants may reach this machine."""
    config = default_config(sim)
    config["alerts"] = {"webhook": ops.url, "secret": "env:E2E_ALERTS_SECRET", "tenant_hosts": ["127.0.0.1"]}
    gateway = Gateway(sim, config)
    gateway.environment["E2E_ALERTS_SECRET"] = gateway.ops_secret = fresh_secret()
    try:
        yield gateway.start()
    finally:
        gateway.close()


def subscribe(tenant, receiver: Receiver, more: str = "") -> str:
    secret = fresh_secret()
    tenant.gateway.json("secrets", "set", tenant.id, "alerts", stdin=secret)
    tenant.write_overlay(f"alerts: {{ webhook: '{receiver.url}', secret: vault:alerts{more} }}\n")
    eventually(lambda: tenant.gateway.http.get("/tenant/v1/config", headers=tenant.bearer).json()["alert_webhook"], 6, "the overlay")
    return secret


def spend(tenant, tokens: int) -> httpx.Response:
    """A call that is billed for exactly so many output tokens and no input."""
    return tenant.chat(f"[[sim:fixed_usage=0:{tokens}]]", max_tokens=tokens)


def test_each_threshold_is_told_once_signed_and_the_budgets_end_stops_calls_only(house, receiver, ops):
    tenant = house.tenant("acme", "--tokens-per-day", "100000")
    secret = subscribe(tenant, receiver)
    for tokens, expected in ((40_000, []), (15_000, [50]), (26_000, [50, 80])):
        answer = spend(tenant, tokens)
        assert answer.status_code == 200, answer.text
        if expected:
            eventually(lambda e=expected: [p for _, p in receiver.thresholds()] == e, 5, f"{expected}")
    # The end: what is left buys no call any more.
    answer = spend(tenant, 26_000)
    assert (answer.status_code, code(answer)) == (429, "rate_limit_exceeded")
    eventually(lambda: [p for _, p in receiver.thresholds()] == [50, 80, 100], 5, "the whole")
    for _ in range(5):
        assert spend(tenant, 26_000).status_code == 429
    with pytest.raises(openai.RateLimitError):
        tenant.openai(max_retries=3).chat.completions.create(model="sim-fast", messages=user("Hi"), max_tokens=26_000)
    # The rest of the tenant works.
    for path in ("/v1/models", "/tenant/v1/usage", "/tenant/v1/audit", "/tenant/v1/config", "/tenant/v1/quota"):
        assert house.http.get(path, headers=tenant.bearer).status_code == 200, path
    time.sleep(2.5)
    assert [p for _, p in receiver.thresholds()] == [50, 80, 100]
    for delivery in receiver.got:
        verify(delivery, secret)
    assert len({delivery.id for delivery in receiver.got}) == len(receiver.got)
    whole = next(d for d in receiver.got if d.data.get("threshold_percent") == 100)
    assert whole.data["tenant"] == "acme" and whole.data["quota"] == "tokens_per_day"
    assert (whole.data["used"], whole.data["limit"]) == ("81000", "100000") and whole.data["calls_refused"] is True
    assert whole.data["resets_at"].endswith("T00:00:00.000Z")
    # Both are told that calls are refused, each under its own secret.
    throttled = [d for d in receiver.got if d.kind == "tenant.throttled"]
    assert [d.data["quota"] for d in throttled] == ["tokens_per_day"]
    told = eventually(lambda: [d for d in ops.got if d.kind == "tenant.throttled"], 5, "the operator's alert")
    assert len(told) == 1 and told[0].data["tenant"] == "acme"
    verify(told[0], house.ops_secret)
    assert "quota.threshold" not in ops.kinds()
    # Raised, calls go on at once.
    house.json("tenants", "quota", "set", tenant.id, "--tokens-per-day", "1000000")
    assert spend(tenant, 26_000).status_code == 200
    assert secret not in house.log_text() and "of-its-owner" not in house.log_text()


def test_the_official_verifier_agrees(house, receiver, missing):
    try:
        from standardwebhooks import Webhook, WebhookVerificationError
    except ImportError:
        missing("the package standardwebhooks is not installed")
    tenant = house.tenant(None, "--tokens-per-day", "1000")
    secret = subscribe(tenant, receiver, ", thresholds: [10]")
    assert spend(tenant, 200).status_code == 200
    delivery = eventually(lambda: receiver.got, 5, "an alert")[0]
    assert Webhook(secret).verify(delivery.raw, delivery.headers)["data"]["threshold_percent"] == 10
    with pytest.raises(WebhookVerificationError):
        Webhook(fresh_secret()).verify(delivery.raw, delivery.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(delivery.raw.replace(b"1000", b"9999"), delivery.headers)


def test_what_fails_comes_again_under_its_id_also_after_a_kill(house, receiver):
    tenant = house.tenant("acme", "--tokens-per-day", "1000")
    secret = subscribe(tenant, receiver, ", thresholds: [50]")
    # A redirect is a failure: nobody follows it.
    elsewhere = Receiver()
    receiver.statuses, receiver.headers = [500, 307], {"location": elsewhere.url}
    assert spend(tenant, 600).status_code == 200
    eventually(lambda: len(receiver.got) == 1, 5, "the first attempt")
    house.kill()
    house.start()
    # The second attempt is due five seconds after the first, and nobody has to call before it.
    eventually(lambda: len(receiver.got) == 2, 12, "the second attempt")
    first, second = receiver.got
    assert first.id == second.id and first.raw == second.raw
    assert second.at - first.at > 4.5
    verify(first, secret)
    verify(second, secret)
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
    time.sleep(1.5)
    assert elsewhere.got == []
    elsewhere.close()
    # What was told before the kill is not told again after it.
    assert spend(tenant, 50).status_code == 200
    time.sleep(2.5)
    assert {delivery.id for delivery in receiver.got} == {first.id}
    failures = [line for line in house.log() if line["event"] == "alert not delivered"]
    assert failures and all(line["tenant"] == "acme" for line in failures)


def test_a_receiver_that_drowns_or_stalls_harms_nobody(house, receiver, ops):
    slow = house.tenant("slow", "--tokens-per-day", "1000")
    subscribe(slow, receiver, ", thresholds: [50]")
    receiver.delay, receiver.answer = 1.0, b"x" * 50_000_000
    other_receiver = Receiver()
    other = house.tenant("other", "--tokens-per-day", "1000")
    subscribe(other, other_receiver, ", thresholds: [50]")
    assert spend(slow, 600).status_code == 200
    eventually(lambda: receiver.got, 5, "the slow one's alert")
    begun = time.monotonic()
    assert spend(other, 600).status_code == 200
    eventually(lambda: other_receiver.got, 3, "the other's alert")
    assert time.monotonic() - begun < 3
    # Its status was a success, whatever came after it.
    time.sleep(7)
    assert len(receiver.got) == 1
    failures = [line for line in house.log() if line["event"] in ("alert not delivered", "alert given up")]
    assert failures == []
    other_receiver.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "169.254.169.254"])
def test_a_tenants_webhook_reaches_nothing_private(gw, receiver, host):
    tenant = gw.tenant(None, "--tokens-per-day", "1000")
    secret = fresh_secret()
    gw.json("secrets", "set", tenant.id, "alerts", stdin=secret)

    def shown() -> int:
        # A call makes the gateway look at the file.
        assert tenant.chat().status_code == 200
        return gw.cli("config", "show", "--tenant", tenant.id).returncode

    for scheme in ("http", "https"):
        tenant.write_overlay("{}\n")
        eventually(lambda: shown() == 0, 8, "a good overlay")
        tenant.write_overlay(f"alerts: {{ webhook: '{scheme}://{host}:{receiver.port}/hook', secret: vault:alerts, thresholds: [1] }}\n")
        checked = gw.cli("config", "check", "--tenant", tenant.id)
        if (scheme, host) == ("https", "127.1"):
            # By its text a name; what it leads to shows when it is resolved.
            assert checked.returncode == 0, checked.stdout
            eventually(lambda: gw.http.get("/tenant/v1/config", headers=tenant.bearer).json()["alert_webhook"], 8, "the overlay")
            assert spend(tenant, 100).status_code == 200
            eventually(
                lambda: [line for line in gw.log() if line["event"] == "alert not delivered" and line["tenant"] == tenant.id],
                5,
                "an attempt to deliver",
            )
            continue
        assert checked.returncode == 1, checked.stdout
        # The gateway has seen the file too when it says so.
        eventually(lambda: shown() == 1, 8, "a refused overlay")
        assert spend(tenant, 100).status_code == 200
        time.sleep(0.5)
    assert (receiver.connections, receiver.got) == (0, [])


def test_the_operator_is_told_of_a_quarantined_tenant(house, ops):
    tenant = house.tenant("broken")
    assert tenant.chat().status_code == 200
    house.stop()
    (tenant.directory / "tenant.db").write_bytes(b"no database")
    house.start()
    eventually(lambda: tenant.chat().status_code == 503, 5, "the quarantine")
    delivery = eventually(lambda: [d for d in ops.got if d.kind == "tenant.quarantined"], 5, "the alert")[0]
    verify(delivery, house.ops_secret)
    assert delivery.data["tenant"] == "broken" and delivery.data["reason"]
    time.sleep(1.5)
    assert ops.kinds().count("tenant.quarantined") == 1
