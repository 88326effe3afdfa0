"""A provider's concurrency is shared: a neighbour's minimum holds, waiting is bounded in length and in time, and nothing is lost."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time

import anthropic
import httpx
import openai
import pytest
from deployment import Gateway, Simulator, default_config, eventually

SLOTS = 4
QUEUE = 6
WAIT_S = 2


@pytest.fixture(scope="module")
def narrow_config(sim: Simulator) -> dict:
    config = default_config(sim)
    for provider in config["providers"]:
        provider.update(concurrency=SLOTS, queue_length=QUEUE, queue_wait=f"{WAIT_S}s")
    config["tiers"]["heavy"] = {"model": "sim-fast", "weight": 10, "guaranteed_slots": 0}
    config["tiers"]["no-minimum"] = {"model": "sim-fast", "guaranteed_slots": 0}
    return config


@pytest.fixture
def narrow(sim: Simulator, narrow_config: dict):
    """A gateway whose providers take four calls at a time."""
    sim.reset()
    gateway = Gateway(sim, narrow_config)
    try:
        yield gateway.start()
    finally:
        gateway.close()


class Noise:
    """Calls of one tenant that last until they are let go: streams that are read to their first byte and held."""

    def __init__(self, tenant, model: str = "sim-fast"):
        self.tenant, self.model = tenant, model
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.statuses: list[int] = []

    def _one(self):
        body = {
            "model": self.model,
            "stream": True,
            "messages": [{"role": "user", "content": "[[sim:chunks=400 gap=100ms]]"}],
        }
        client = httpx.Client(base_url=self.tenant.gateway.url, timeout=30, trust_env=False)
        request = client.build_request("POST", "/v1/chat/completions", json=body, headers=self.tenant.bearer)
        try:
            answer = client.send(request, stream=True)
        except httpx.TransportError:
            client.close()
            return
        with self._lock:
            self._stack.callback(client.close)
            self._stack.callback(answer.close)
            self.statuses.append(answer.status_code)

    def make(self, calls: int):
        threads = [threading.Thread(target=self._one, daemon=True) for _ in range(calls)]
        self._threads += threads
        for thread in threads:
            thread.start()

    def open(self) -> int:
        return self.statuses.count(200)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._stack.close()
        for thread in self._threads:
            thread.join(WAIT_S + 10)
        with self._lock:
            self._stack.close()


def hang_up(tenant, model: str) -> None:
    """A call that its client gives up at once."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{tenant.gateway.url}/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": "Hello"}]},
            headers=tenant.bearer,
            timeout=httpx.Timeout(5, read=0.1),
            trust_env=False,
        )


def open_upstream(sim: Simulator) -> int:
    return sim.stats()["requests_open"]


def test_a_noisy_tenant_leaves_its_neighbour_its_minimum(narrow, sim):
    noisy, victim = narrow.tenant("noisy"), narrow.tenant("victim")
    with Noise(noisy) as noise:
        noise.make(SLOTS + 2)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all but the kept slot")
        # One slot is kept for whoever comes next, though it was never seen before; and it stays that tenant's.
        for _ in range(20):
            started = time.monotonic()
            assert victim.chat().status_code == 200
            assert time.monotonic() - started < 1
        assert open_upstream(sim) == SLOTS - 1
        message = victim.anthropic().messages.create(
            model="sim-fast", max_tokens=20, messages=[{"role": "user", "content": "Hello"}]
        )
        assert message.content


def test_past_the_deadline_both_dialects_are_told_to_come_back(narrow, sim):
    noisy = narrow.tenant("noisy")
    with Noise(noisy) as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots of one tenant")
        mark = len(sim.requests())
        started = time.monotonic()
        with pytest.raises(openai.InternalServerError) as late:
            noisy.openai().chat.completions.create(model="sim-fast", messages=[{"role": "user", "content": "Hello"}])
        assert WAIT_S <= time.monotonic() - started < WAIT_S + 2
        answer = late.value.response
        assert answer.status_code == 503 and answer.headers["retry-after"] == str(WAIT_S)
        assert late.value.code == "provider_busy" and "x-should-retry" not in answer.headers
        with pytest.raises(anthropic.APIStatusError) as late:
            noisy.anthropic().messages.create(
                model="sim-fast", max_tokens=20, messages=[{"role": "user", "content": "Hello"}]
            )
        answer = late.value.response
        assert answer.status_code == 503 and answer.headers["retry-after"] == str(WAIT_S)
        assert late.value.body["error"]["type"] == "overloaded_error"
        # Nothing was sent, nothing stands in the ledger, and the refusals are in the audit log.
        assert len(sim.requests()) == mark
    entries = [entry for entry in noisy.audit() if entry.get("reason") == "provider_busy"]
    assert len(entries) == 2 and {entry["decision"] for entry in entries} == {"deny"}


def test_the_line_is_bounded_for_a_tenant_and_leaves_places_for_others(narrow, sim):
    noisy, other = narrow.tenant("noisy"), narrow.tenant("other", tier="no-minimum")
    with Noise(noisy) as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots of one tenant")
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            started = time.monotonic()

            def ask(tenant):
                status = tenant.chat().status_code
                return status, time.monotonic() - started

            mine = [pool.submit(ask, noisy) for _ in range(8)]
            at_once = eventually(
                lambda: [call.result() for call in mine if call.done()] if sum(map(lambda c: c.done(), mine)) == 5 else None,
                WAIT_S - 0.5,
                "five refusals at once",
            )
            assert all(status == 503 and seconds < WAIT_S for status, seconds in at_once)
            # Three of six places are the noisy tenant's; two of the other three are open to the next.
            theirs = [pool.submit(ask, other) for _ in range(4)]
            waited = [call.result()[1] >= WAIT_S for call in [*mine, *theirs]]
            assert waited.count(True) == 5, waited


def test_a_hang_up_in_the_line_frees_the_place(narrow, sim):
    noisy = narrow.tenant("noisy")
    mark = len(sim.requests())
    with Noise(noisy) as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots of one tenant")
        # The tenant's places in the line are three. Each of these gives up at once; had one stayed, the tenth would find none.
        for _ in range(10):
            hang_up(noisy, "sim-fast")
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(noisy.chat) for _ in range(3)]
            time.sleep(0.3)
            assert not any(call.done() for call in waiting)
            noise.__exit__()
            # The streams have ended: those that wait are served within the deadline.
            assert [call.result().status_code for call in waiting] == [200] * 3
    eventually(lambda: open_upstream(sim) == 0, 5, "an idle provider")
    assert len(sim.requests()) == mark + SLOTS - 1 + 3
    # No slot was lost: all but the kept one can be taken again.
    with Noise(noisy) as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots again")


def test_a_hang_up_in_the_line_of_a_provider_that_is_read_to_the_end_sends_nothing(narrow, sim):
    noisy = narrow.tenant("noisy")
    with Noise(noisy, "draining") as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots of one tenant")
        mark = len(sim.requests())
        hang_up(noisy, "draining")
        time.sleep(WAIT_S + 0.5)
        assert len(sim.requests()) == mark


def test_a_fallback_at_another_provider_takes_over_from_a_full_line(narrow, sim):
    noisy = narrow.tenant("noisy")
    with Noise(noisy) as noise:
        noise.make(SLOTS - 1)
        eventually(lambda: noise.open() == SLOTS - 1, 5, "all slots of one tenant")
        answer = noisy.chat(model="cross-fallback")
        assert answer.status_code == 200
        row = noisy.row(answer.headers["x-request-id"])
        assert row["provider"] == "sim-anthropic" and row["attempt"] == 1


@pytest.fixture
def patient(sim: Simulator, narrow_config: dict):
    """The same with room in the line for all who come."""
    providers = [{**provider, "queue_length": 60, "queue_wait": "20s"} for provider in narrow_config["providers"]]
    gateway = Gateway(sim, {**narrow_config, "providers": providers})
    try:
        yield gateway.start()
    finally:
        gateway.close()


def test_waiting_tenants_share_by_weight(patient):
    """Two that always wait, of weights 10 and 1 and without a minimum to lean on: most answers are the heavier one's."""
    light, heavy = patient.tenant("light", tier="no-minimum"), patient.tenant("heavy", tier="heavy")
    stop = threading.Event()
    counts = {light.id: 0, heavy.id: 0}
    lock = threading.Lock()

    def load(tenant):
        with httpx.Client(base_url=patient.url, timeout=30, trust_env=False) as client:
            body = {"model": "sim-fast", "messages": [{"role": "user", "content": "[[sim:delay=100ms]]"}]}
            while not stop.is_set():
                answer = client.post("/v1/chat/completions", json=body, headers=tenant.bearer)
                # What still waits at the end is served whatever its weight.
                if answer.status_code == 200 and not stop.is_set():
                    with lock:
                        counts[tenant.id] += 1

    threads = [threading.Thread(target=load, args=(tenant,)) for tenant in (light, heavy) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    stop.set()
    for thread in threads:
        thread.join()
    assert counts[light.id] > 0 and counts[heavy.id] > 2.5 * counts[light.id], counts


def test_settings_that_are_wrong_are_refused_by_name(sim, narrow_config):
    gateway = Gateway(sim, narrow_config)
    try:
        for where, key, value in [
            ("providers", "concurrency", 0),
            ("providers", "queue_wait", "soon"),
            ("tiers", "weight", 0),
            ("tiers", "guaranteed_slots", -1),
        ]:
            broken = {**narrow_config, "providers": [dict(p) for p in narrow_config["providers"]]}
            broken["tiers"] = {name: dict(tier) for name, tier in narrow_config["tiers"].items()}
            target = broken["providers"][0] if where == "providers" else broken["tiers"]["standard"]
            target[key] = value
            gateway.configure(broken)
            assert key in gateway.refused("config", "check")
        gateway.configure(narrow_config)
        gateway.cli("config", "check", check=True)
        shown = gateway.cli("config", "show", check=True).stdout
        assert f'"concurrency":{SLOTS}' in shown and '"guaranteed_slots":0' in shown
    finally:
        gateway.close()


def test_a_large_body_is_answered_and_small_calls_go_on_beside_it(sim):
    sim.reset()
    gateway = Gateway(sim)
    try:
        gateway.start()
        noisy, victim = gateway.tenant("noisy"), gateway.tenant("victim")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            large = [pool.submit(noisy.chat, "x" * 20_000_000, "sim-large") for _ in range(3)]
            slowest = 0.0
            while not all(call.done() for call in large):
                started = time.monotonic()
                assert victim.chat().status_code == 200
                slowest = max(slowest, time.monotonic() - started)
            assert slowest < 2
        # All three came through whole, whatever the provider thinks of their length.
        sizes = [record["body_bytes"] for record in sim.requests() if record["body_bytes"] > 1_000_000]
        assert len(sizes) == 3 and min(sizes) > 20_000_000, sizes
    finally:
        gateway.close()
