"""kill -9 at any moment, under mixed load: what a client saw is in the books once, and the books are the provider's own.

`cargo xtask crash kills --count N --seed S` runs it for longer. What it tries and what it does not prove: docs/crash.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from crash_books import Books, Log, Totals, assert_never_more_in_a_minute, assert_quotas_are_the_ledger, quota_lines
from crash_changes import Churn, Coming, Desk, Guests, Limit, LogKey, Overlay, OwnKey, Reading, Standing, Turning
from crash_load import CONCURRENT, DEAR, KINDS, SLOTS, Call, Load, Seat, card, client, config, records
from deployment import OPERATOR_OPENAI_KEY, Gateway, Simulator, Tenant, eventually, price_of

KILLS = int(os.environ.get("CRASH_COUNT", "50"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
# Books are compared so often, and at the end.
KILLS_PER_LOOK = max(25, KILLS // 5)
TENANTS = int(os.environ.get("CRASH_TENANTS", "40"))
BUDGET_USD = Decimal("0.05")


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


@pytest.fixture
def siege(tmp_path):
    siege = Siege(tmp_path)
    try:
        yield siege
    finally:
        siege.close()


class Siege:
    """A gateway that is killed again and again, with callers and operators who go on."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.ledger = directory / "provider.jsonl"
        self.sim = Simulator("--record", str(self.ledger))
        self.gateway = Gateway(self.sim, config(self.sim), card()).start()
        self.desk, self.http = Desk(self.gateway), client()
        self.draw = random.Random(SEED)
        self.restarts: list[float] = []
        self.kills = self.looks = self.told = 0
        options = {"hooli": ("--requests-per-minute", "30"), "stark": ("--cost-per-day-usd", str(BUDGET_USD))}
        names = ("acme", "globex", "initech", "hooli", "stark")
        self.tenants = {name: self.gateway.tenant(name, *options.get(name, ()), tier="crash") for name in names}
        self._hire()
        self.before = {name: len(tenant.audit()) for name, tenant in self.tenants.items()}

    def _hire(self):
        acme, globex, initech, hooli, stark = self.tenants.values()
        turning = Turning(acme, secret=self.gateway.issue(acme, "turning", "app"))
        own_key = OwnKey(globex, probe=self.key_that_the_provider_sees, value=OPERATOR_OPENAI_KEY)
        # Not the tenant whose authority to read ends now and then.
        others = [globex, hooli, stark]
        hands = [
            [turning, Coming(globex), Limit(hooli, value=30), Standing(initech), Overlay(acme)],
            [own_key, LogKey(acme, keys=[acme.created["audit_vkey"]]), Reading(acme, others=others, reports=False)],
            [Guests(acme), Reading(acme, others=others)],
        ]
        self.churn = Churn(self.gateway, hands, SEED)
        slow = (0.1, 0.2)
        seats = [self._seat(tenant) for tenant in (acme, globex, globex)]
        seats += [self._seat(initech, steady=False), self._seat(hooli, pause=slow), self._seat(stark, pause=slow, kinds=DEAR)]
        seats.append(Seat("acme", "turning", lambda: turning.secret, steady=False))
        self.load = Load(seats, SEED)

    @staticmethod
    def _seat(tenant: Tenant, **options) -> Seat:
        return Seat(tenant.id, "default", lambda: tenant.token, **options)

    def close(self):
        self.gateway.close()
        self.sim.stop()

    # Kills.

    def run(self):
        with self.load, self.churn:
            looked = 0
            while self.kills < KILLS:
                self.load.target = self.gateway.url
                # Sometimes the next kill hits a gateway that still folds what the last one left.
                if self.draw.random() < 0.7:
                    self.check_what_was_confirmed()
                    self.churn.open()
                time.sleep(self.draw.uniform(0.01, 0.4))
                self.kill_and_restart()
                if self.kills >= min(looked + KILLS_PER_LOOK, KILLS):
                    looked = self.kills
                    self.look()

    def kill_and_restart(self):
        self.churn.close()
        self.load.target = None
        self.gateway.kill()
        self.kills += 1
        self.churn.wait(kill_commands=self.draw.random() < 0.5)
        while self.draw.random() < 0.15 and self.kills < KILLS:
            # A recovery is killed as well.
            self.gateway.spawn()
            time.sleep(self.draw.uniform(0.0, 0.3))
            self.gateway.kill()
            self.kills += 1
        at = time.monotonic()
        self.gateway.start()
        self.restarts.append(time.monotonic() - at)
        if self.kills >= self.told + 10:
            self.told = self.kills
            self.tell()

    def tell(self):
        ends = sum(call.end is not None for call in self.load.calls)
        print(f"{self.kills}/{KILLS} kills, {len(self.load.calls)} calls, {ends} ends seen, restart {max(self.restarts):.2f} s at most", flush=True)

    def check_what_was_confirmed(self):
        """Straight after a restart: confirmed changes hold, and no log is behind a checkpoint that a client has."""
        assert not self.load.unexpected, self.load.unexpected
        self.churn.check(self.desk)
        kept = [call for call in self.load.calls[-200:] if call.checkpoint]
        if kept:
            self.verify_since(max(kept, key=lambda call: call.number))

    def verify_since(self, call: Call):
        kept = self.directory / "kept"
        kept.write_text(call.checkpoint)
        done = self.gateway.json("audit", "verify", "--tenant", call.tenant, "--since", kept)
        assert done["since"] == int(call.checkpoint.split("\n")[1])

    def key_that_the_provider_sees(self) -> str:
        call = self._one_call(self.tenants["globex"], "")
        assert call.status == 200, call
        headers = dict(eventually(lambda: self._recorded(call.number), 5, "the provider's record")["headers"])
        return headers["authorization"].removeprefix("Bearer ")

    def _recorded(self, number: int) -> dict | None:
        with self.ledger.open("rb") as file:
            file.seek(max(0, self.ledger.stat().st_size - 262_144))
            lines = file.read().split(b"\n")
        found = [line for line in lines if f"tag=c{number}]".encode() in line and line.startswith(b"{")]
        return json.loads(found[-1]) if found else None

    # Looks into the books.

    def look(self):
        """With nobody calling: every clause, in memory as it is, and again as a restart reads it back."""
        self.looks += 1
        self.load.rest()
        self.check_what_was_confirmed()
        self.assert_every_slot_is_free()
        eventually(lambda: self.sim.stats()["requests_open"] == 0, 30, "an idle provider")
        for tenant in self.tenants:
            eventually(lambda: quota_lines(self.gateway, tenant)[0]["cost_per_day_usd"]["held"] == "0", 10, f"{tenant} without a hold")
        for restarted in (False, True):
            if restarted:
                self.gateway.kill()
                self.gateway.start()
            rows = {name: tenant.rows() for name, tenant in self.tenants.items()}
            for name in self.tenants:
                assert_quotas_are_the_ledger(self.gateway, name, rows[name], restarted)
        self.compare_books(rows)
        assert_never_more_in_a_minute(rows["hooli"], Limit.high)
        used = quota_lines(self.gateway, "stark")[0]["cost_per_day_usd"]["used"]
        assert Decimal(used) <= BUDGET_USD, f"{used} of {BUDGET_USD}"

    def compare_books(self, rows: dict[str, list[dict]]):
        self.totals = Totals()
        provider = records(self.ledger)
        for name, tenant in self.tenants.items():
            calls = [call for call in self.load.calls if call.tenant == name]
            sizes = {int(call.checkpoint.split("\n")[1]) for call in calls if call.checkpoint}
            log = Log.export(self.gateway, tenant, self.directory / f"{name}-{self.looks}", sizes)
            Books(tenant, rows[name], log, calls, provider).compare(self.totals)
            self._compare_sums(name, rows[name])
            self._compare_entries_of_changes(name, log)
            assert self.gateway.json("tenants", "show", name)["database"]["state"] == "ok"

    def _compare_sums(self, name: str, rows: list[dict]):
        report = self.gateway.json("billing", "report", "--tenant", name)
        assert sum(line["attempts"] for line in report) == len(rows)
        assert sum(line["unknown_attempts"] for line in report) == sum(row["cost_usd"] is None for row in rows)
        sums = [sum(Decimal(line["cost_usd"] or 0) for line in lines) for lines in (report, rows)]
        assert sums[0] == sums[1], f"{name}: the report says {sums[0]}, its rows {sums[1]}"

    def _compare_entries_of_changes(self, name: str, log: Log):
        """Each confirmed change left its entry; one that nobody saw confirmed may have left one."""
        entries = Counter(entry["action"] for entry in log.entries[self.before[name] :])
        confirmed, lost = Counter(), Counter()
        for change in self.churn.changes:
            if change.tenant.id == name:
                confirmed.update(change.confirmed)
                lost.update(change.lost)
        for action in filter(None, confirmed | lost):
            least, found = confirmed[action], entries[action]
            assert least <= found <= least + lost[action], f"{name}: {found} entries {action}, {least} confirmed, {lost[action]} lost"

    def assert_every_slot_is_free(self):
        """As many calls at once as two tenants may have and their provider takes: each goes upstream at once, one more does not."""
        assert 2 * CONCURRENT == SLOTS
        before = self.sim.stats()["requests_open"]
        tenants = [self.tenants[name] for name in ("acme", "globex")]
        with ThreadPoolExecutor(SLOTS) as pool:
            calls = [pool.submit(self._one_call, tenant, "delay=3s") for tenant in tenants for _ in range(CONCURRENT)]
            eventually(lambda: self.sim.stats()["requests_open"] - before == SLOTS, 2.5, f"{SLOTS} calls upstream at once")
            for tenant in tenants:
                refused = self._one_call(tenant, "")
                assert refused.status == 429 and "concurrent_requests" in refused.text, refused
            assert [call.result().status for call in calls] == [200] * SLOTS

    def _one_call(self, tenant: Tenant, orders: str) -> Call:
        facts = {"tenant": tenant.id, "token": "default", "kind": KINDS[0], "path": "/v1/chat/completions"}
        call = self.load.new(model="sim-fast", stream=False, tokens_out=1, **facts)
        self.load.send(self.http, self.gateway.url, call, call.body(orders), tenant.bearer)
        return call

    def report(self):
        totals = self.totals
        print(f"seed {SEED}: {self.kills} kills, {len(self.load.calls)} calls, {totals.seen} ends seen, {totals.refusals} refusals seen")
        print(f"{totals.turned_away} calls turned away with 503 while their tenant could not be opened")
        print(f"{totals.rows} rows ({dict(totals.outcomes)}), {totals.billed} USD settled as the provider bills them")
        print(f"{totals.checkpoints} checkpoints kept by clients, {self.looks} looks into the books")
        changes = Counter()
        for change in self.churn.changes:
            changes.update({f"{type(change).__name__} confirmed": change.confirmed.total(), f"{type(change).__name__} lost": change.lost.total()})
        print(f"changes: {dict(changes)}")
        ordered = sorted(self.restarts)
        print(f"restart to /readyz: median {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s")


@pytest.mark.timeout(240 + 10 * KILLS)
def test_after_random_kills_the_books_are_what_clients_saw_and_the_provider_bills(siege):
    print(f"\nseed {SEED}, {KILLS} kills (CRASH_SEED, CRASH_COUNT)", flush=True)
    siege.run()
    siege.report()
    assert siege.totals.seen > 5 * KILLS and siege.totals.checkpoints > KILLS, "the load was too light to mean anything"
    assert siege.totals.turned_away < len(siege.load.calls) / 100, "tenants stayed closed after a restart"
    assert max(siege.restarts) < 20, "a restart hangs"


def made_over_http(gateway: Gateway, number: int) -> Tenant:
    made = gateway.admin("POST", "/admin/v1/tenants", json={"id": f"tenant-{number}", "tier": "standard"})
    return Tenant(gateway, f"tenant-{number}", made.json()["token"])


def left_open(tenant: Tenant) -> None:
    with contextlib.suppress(httpx.TransportError):
        tenant.chat("[[sim:delay=9s]]")


@pytest.mark.timeout(60 + TENANTS)
def test_a_restart_after_a_kill_does_not_wait_for_every_tenant(sim):
    gateway = Gateway(sim).start()
    try:
        with ThreadPoolExecutor(8) as pool:
            tenants = list(pool.map(lambda number: made_over_http(gateway, number), range(TENANTS)))
        took = []
        for turn in range(3):
            # Some have records in the journal that no fold has taken, some an attempt that the kill leaves open.
            some = tenants[turn * 10 : turn * 10 + 10]
            with ThreadPoolExecutor(20) as pool:
                assert {tenant.chat().status_code for tenant in some} == {200}
                opened = sim.stats()["requests_open"]
                for tenant in some:
                    pool.submit(left_open, tenant)
                eventually(lambda: sim.stats()["requests_open"] == opened + len(some), 10, "attempts under way")
                gateway.kill()
            at = time.monotonic()
            gateway.start()
            ready = time.monotonic() - at
            assert some[0].chat().status_code == 200
            took.append((ready, time.monotonic() - at))
            assert [row["outcome"] for row in some[-1].rows()] == ["finished", "unknown"]
        print(f"\nrestart with {TENANTS} tenants, to /readyz and to a first answer: " + ", ".join(f"{a:.2f} s and {b:.2f} s" for a, b in took))
        assert max(answered for _, answered in took) < 20, "a restart hangs"
    finally:
        gateway.close()
