"""kill -9 at any moment: an answer whose end a client saw is recorded once, and nothing is recorded twice."""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from decimal import Decimal

import httpx
import pytest

from deployment import Gateway, eventually, price_of
from samples import user

KILLS = int(os.environ.get("E2E_KILLS", "50"))
SEED = int(os.environ.get("E2E_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)


@pytest.fixture
def fragile(sim):
    gateway = Gateway(sim)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_attempt_in_flight_becomes_one_unknown_row_charged_at_its_hold(fragile, sim, stream):
    tenant = fragile.tenant("acme")
    assert tenant.chat("[[sim:fixed_usage=10:5]]").status_code == 200
    before = sim.stats()["requests"]
    orders = "chunks=50 gap=100ms" if stream else "delay=5s"

    def call():
        try:
            tenant.chat(f"[[sim:{orders} tag=in-flight]]", max_tokens=100, stream=stream)
        except httpx.TransportError:
            pass

    caller = threading.Thread(target=call)
    caller.start()
    eventually(lambda: sim.stats()["requests"] > before, 5, "the attempt upstream")
    time.sleep(0.2)
    fragile.kill()
    caller.join()
    for _ in range(2):
        # A second restart finds nothing more to settle.
        fragile.start()
        finished, unknown = tenant.rows()
        assert (finished["outcome"], Decimal(finished["cost_usd"])) == ("finished", price_of("sim-fast", 10, 5))
        assert (unknown["outcome"], unknown["usage_source"], unknown["cost_usd"]) == ("unknown", "unknown", None)
        assert unknown["tokens_in"] is None and unknown["tokens_out"] is None
        # Charged at its hold: the input bound, and 100 output tokens whole.
        assert price_of("sim-fast", 0, 100) < Decimal(unknown["charged_usd"]) < price_of("sim-fast", 1000, 100)
        entries = [entry for entry in tenant.audit() if entry.get("request_id") == unknown["request_id"]]
        assert len(entries) == 1 and entries[0]["outcome"] == "unknown"
        fragile.kill()
    fragile.start()
    quota = {line["name"]: line["used"] for line in fragile.json("tenants", "quota", "show", "acme")["quotas"]}
    charged = Decimal(finished["cost_usd"]) + Decimal(unknown["charged_usd"])
    assert Decimal(quota["cost_per_day_usd"]) == charged


def test_confirmed_changes_survive_a_kill(fragile):
    tenant = fragile.tenant("acme")
    token = fragile.issue(tenant, "ci", "app")
    fragile.json("secrets", "set", "acme", "sim-openai", stdin="sk-own")
    fragile.json("tenants", "token", "rotate", "acme", "--name", tenant.created["token_name"])
    fragile.json("tenants", "quota", "set", "acme", "--tokens-per-day", "123456")
    fragile.kill()
    fragile.start()
    assert fragile.http.get("/v1/models", headers={"x-api-key": token}).status_code == 200
    assert fragile.http.get("/v1/models", headers=tenant.bearer).status_code == 401
    assert [secret["name"] for secret in fragile.json("secrets", "list", "acme")] == ["sim-openai"]
    limits = {line["name"]: line["limit"] for line in fragile.json("tenants", "quota", "show", "acme")["quotas"]}
    assert limits["tokens_per_day"] == "123456"


class Load:
    """Clients that call without pause through restarts, and remember every answer whose end they saw."""

    def __init__(self, tenants: list, threads: int):
        self.tenants = tenants
        self.seen: dict[str, tuple[str, int, int]] = {}
        self.target: str | None = None
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._threads = [threading.Thread(target=self._run, args=(index,), daemon=True) for index in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, index: int):
        draw = random.Random(SEED + index)
        tenant = self.tenants[index % len(self.tenants)]
        http, at = None, None
        while not self.over.is_set():
            if self.target is None:
                time.sleep(0.005)
                continue
            if http is None or at != self.target:
                http, at = httpx.Client(base_url=self.target, timeout=10, trust_env=False), self.target
            try:
                self._call(http, tenant, draw)
            except httpx.TransportError:
                # The server was killed: whoever saw no end claims nothing.
                http = None
                time.sleep(0.01)

    def _call(self, http: httpx.Client, tenant, draw: random.Random):
        number = next(self._numbers)
        tokens = (draw.randrange(1, 1000), draw.randrange(1, 100))
        stream = draw.random() < 0.5
        pace = draw.choice(["", "delay=20ms", "chunks=5 gap=5ms", "chunks=30"])
        content = f"[[sim:fixed_usage={tokens[0]}:{tokens[1]} {pace} tag=k{number}]]"
        body = {"model": "sim-fast", "max_tokens": 200, "stream": stream, "messages": user(content)}
        with http.stream("POST", "/v1/chat/completions", json=body, headers=tenant.bearer) as answer:
            text = answer.read().decode()
        if answer.status_code != 200:
            return
        complete = text.rstrip().endswith("data: [DONE]") if stream else json.loads(text)["object"] == "chat.completion"
        if complete:
            with self._lock:
                self.seen[answer.headers["x-request-id"]] = (tenant.id, *tokens)


@pytest.mark.timeout(280)
def test_after_random_kills_every_answer_that_was_seen_has_one_row_and_one_entry(fragile, sim):
    print(f"seed {SEED}, {KILLS} kills (E2E_SEED, E2E_KILLS)")
    draw = random.Random(SEED)
    tenants = [fragile.tenant("acme"), fragile.tenant("globex")]
    sim.reset()
    restarts = []
    started = time.monotonic()
    with Load(tenants, threads=6) as load:
        kills = 0
        while kills < KILLS and time.monotonic() - started < 120:
            load.target = fragile.url
            time.sleep(draw.uniform(0.02, 0.6))
            reader = threading.Thread(target=lambda: fragile.cli("billing", "report"), daemon=True)
            if kills % 5 == 4:
                # A reader of reports forces a fold, so that kills hit folds as well.
                reader.start()
                time.sleep(draw.uniform(0, 0.05))
            load.target = None
            fragile.kill()
            kills += 1
            if kills % 5 == 0:
                # It may have come too late for the gateway and hold the directory itself.
                reader.join()
            at = time.monotonic()
            fragile.start()
            restarts.append(time.monotonic() - at)
    assert kills >= min(KILLS, 30), f"only {kills} kills in 120 s; restarts took {max(restarts):.2f} s at most"
    assert max(restarts) < 5, "a restart took too long"

    rows = {tenant.id: tenant.rows() for tenant in tenants}
    everything = [row for of_one in rows.values() for row in of_one]
    by_request = Counter((row["request_id"], row["attempt"]) for row in everything)
    assert by_request and max(by_request.values()) == 1, "an attempt has two rows"
    entries = {
        tenant.id: Counter(
            (entry["request_id"], entry["attempt"])
            for entry in tenant.audit()
            if entry["decision"] == "allow" and entry.get("attempt")
        )
        for tenant in tenants
    }
    assert len(load.seen) > 100, "the load was too light to mean anything"
    indexed = {row["request_id"]: row for row in everything}
    for request, (owner, tokens_in, tokens_out) in load.seen.items():
        row = indexed.get(request)
        assert row is not None, f"{request} was seen to its end and has no row"
        assert (row["tenant"], row["outcome"], row["usage_source"]) == (owner, "finished", "provider")
        assert (row["tokens_in"], row["tokens_out"]) == (tokens_in, tokens_out)
        assert Decimal(row["cost_usd"]) == price_of("sim-fast", tokens_in, tokens_out)
        assert entries[owner][request, 1] == 1, f"{request}: {entries[owner][request, 1]} audit entries"
    assert all(count == 1 for of_one in entries.values() for count in of_one.values())
    assert {key for of_one in entries.values() for key in of_one} == set(by_request)

    # The provider's own ledger: what it finished and we settled from its word must agree with what it bills.
    eventually(lambda: sim.stats()["requests_open"] == 0, 10, "an idle simulator")
    billed = sim.requests()
    assert len(everything) <= len(billed) + sum(row["outcome"] == "unknown" for row in everything)
    provided = [row for row in everything if row["usage_source"] == "provider" and row["outcome"] == "finished"]
    theirs = Counter((r["usage"]["input"], r["usage"]["output"]) for r in billed if r["usage"])
    ours = Counter((row["tokens_in"], row["tokens_out"]) for row in provided)
    assert not ours - theirs, "rows that the provider knows nothing of"
    finished = sum(record["finished"] and record["status"] == 200 for record in billed)
    assert finished <= len(everything), "the provider finished more calls than there are rows"
    for tenant in tenants:
        seqs = [entry["seq"] for entry in tenant.audit()]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        total = sum(Decimal(row["cost_usd"]) for row in rows[tenant.id] if row["cost_usd"])
        report = fragile.json("billing", "report", "--tenant", tenant.id)
        assert sum(Decimal(line["cost_usd"] or 0) for line in report) == total
        assert sum(line["attempts"] for line in report) == len(rows[tenant.id])
        assert fragile.json("tenants", "show", tenant.id)["database"]["state"] == "ok"
