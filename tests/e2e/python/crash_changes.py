"""What an operator changes while the kills go on. A change whose confirmation was seen must hold after the restart; one whose
confirmation was not seen may hold or not, and `check` finds out which."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from crash_load import client
from deployment import PARTYWALL, Gateway, Tenant, eventually


class Lost(Exception):
    """No confirmation came: the gateway or the command was killed under the change."""


@dataclass
class Desk:
    """How changes are asked for: over HTTP, or by the command line in a process that can be killed too."""

    gateway: Gateway
    # Whether a kill is under way; at any other time every change must be carried out.
    dying: Callable[[], bool] = lambda: False
    command: subprocess.Popen | None = None
    client: httpx.Client = field(default_factory=client)

    def _lost(self, why: str) -> Lost:
        assert self.dying(), f"refused without a kill: {why}"
        return Lost(why)

    def ask(self, method: str, url: str, **options) -> httpx.Response:
        try:
            return self.client.request(method, url, **options)
        except httpx.TransportError as error:
            raise self._lost(f"{method} {url}: {error!r}") from None

    def http(self, method: str, path: str, body: dict | None = None) -> dict:
        """The admin API, below its tenants."""
        operator = {"authorization": f"Bearer {self.gateway.operator_key}"}
        answer = self.ask(method, f"{self.gateway.admin_url}/admin/v1/tenants{path}", headers=operator, json=body)
        if not answer.is_success:
            raise self._lost(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else {}

    def cli(self, *arguments: str, stdin: str = "") -> dict | list:
        self.command = subprocess.Popen(
            [PARTYWALL, *arguments, "--json", "--data", self.gateway.data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.gateway.environment,
        )
        out, err = self.command.communicate(stdin, timeout=60)
        if self.command.returncode == 0:
            return json.loads(out)
        raise self._lost(f"{arguments}: exit {self.command.returncode}: {err}")

    def kill_command(self) -> None:
        command = self.command
        if command is not None and command.poll() is None:
            command.kill()

    def get(self, path: str, secret: str) -> httpx.Response:
        return self.ask("GET", self.gateway.url + path, headers={"x-api-key": secret})

    def lets_in(self, secret: str) -> bool:
        status = self.get("/v1/models", secret).status_code
        assert status in (200, 401), status
        return status == 200


@dataclass
class Change:
    """One thing that is changed again and again. `action` names the entry that the latest change leaves."""

    tenant: Tenant
    action: str | None = None
    doubt: bool = False
    confirmed: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)

    def step(self, desk: Desk, draw: random.Random) -> None:
        try:
            self.change(desk, draw)
            self.confirmed[self.action] += 1
        except Lost:
            self.lost[self.action] += 1
            self.doubt = True

    def change(self, desk: Desk, draw: random.Random) -> None:
        raise NotImplementedError

    def check(self, desk: Desk) -> None:
        raise NotImplementedError


@dataclass
class Turning(Change):
    """A token that is rotated. `secret` is the one to call with, while that is known."""

    name: str = "turning"
    secret: str | None = None
    former: list[str] = field(default_factory=list)

    def _rotate(self, desk: Desk) -> str:
        return desk.http("POST", f"/{self.tenant.id}/tokens/{self.name}/rotate")["token"]

    def change(self, desk, draw):
        self.action = "token.rotate"
        old, self.secret = self.secret, None
        self.former.append(old)
        self.secret = self._rotate(desk)

    def check(self, desk):
        if self.doubt:
            # Either the old secret holds or one that nobody saw. The next one is seen, and ends both.
            desk.lets_in(self.former[-1])
            self.secret = self._rotate(desk)
            self.confirmed["token.rotate"] += 1
        assert desk.lets_in(self.secret), "a confirmed rotation is lost"
        for secret in self.former[-3:]:
            assert not desk.lets_in(secret), "a secret that was replaced lets in again"


@dataclass
class Coming(Change):
    """Tokens that are issued and revoked."""

    alive: dict[str, str] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    doubted: str | None = None

    def _revoke(self, desk: Desk, name: str) -> None:
        desk.http("DELETE", f"/{self.tenant.id}/tokens/{name}")

    def change(self, desk, draw):
        if len(self.alive) > 4:
            self.action, self.doubted = "token.revoke", next(iter(self.alive))
            self._revoke(desk, self.doubted)
            self.gone.append(self.alive.pop(self.doubted))
        else:
            self.action, self.doubted = "token.issue", f"t-{secrets.token_hex(6)}"
            order = {"name": self.doubted, "role": "app"}
            self.alive[self.doubted] = desk.http("POST", f"/{self.tenant.id}/tokens", order)["token"]
        self.doubted = None

    def check(self, desk):
        listed = {token["name"] for token in desk.http("GET", f"/{self.tenant.id}/tokens") if token["state"] == "active"}
        if name := self.doubted:
            secret = self.alive.pop(name, None)
            if secret is not None:
                assert desk.lets_in(secret) == (name in listed), "a token is half revoked"
                self.gone.append(secret)
            if name in listed:
                self._revoke(desk, name)
                self.confirmed["token.revoke"] += 1
            self.doubted = None
        assert set(self.alive) <= listed, f"confirmed tokens are lost: {set(self.alive) - listed}"
        assert all(map(desk.lets_in, self.alive.values())), "a confirmed token does not let in"
        assert not any(map(desk.lets_in, self.gone[-3:])), "a revoked token lets in"


@dataclass
class Limit(Change):
    """A quota that is set to another number."""

    name: str = "requests_per_minute"
    low: int = 20
    high: int = 40
    value: int | None = None
    doubted: int | None = None

    def change(self, desk, draw):
        self.action, self.doubted = "quota.set", draw.randrange(self.low, self.high + 1)
        desk.http("PATCH", f"/{self.tenant.id}/quota", {self.name: self.doubted})
        self.value, self.doubted = self.doubted, None

    def check(self, desk):
        quotas = desk.http("GET", f"/{self.tenant.id}/quota")["quotas"]
        found = next(int(line["limit"]) for line in quotas if line["name"] == self.name)
        assert found in (self.value, self.doubted), f"the limit is {found}, confirmed {self.value}, asked {self.doubted}"
        self.value, self.doubted = found, None


VERBS = {"suspended": "suspend", "frozen": "freeze", "active": "resume"}


@dataclass
class Standing(Change):
    """A tenant that is suspended, frozen and resumed."""

    status: str = "active"
    doubted: str | None = None

    def change(self, desk, draw):
        self.doubted = "active" if self.status != "active" else draw.choice(("suspended", "frozen"))
        self.action = f"tenant.{VERBS[self.doubted]}"
        desk.http("POST", f"/{self.tenant.id}/{VERBS[self.doubted]}")
        self.status, self.doubted = self.doubted, None

    def check(self, desk):
        found = desk.http("GET", f"/{self.tenant.id}")["status"]
        assert found in (self.status, self.doubted), f"{found}, confirmed {self.status}, asked {self.doubted}"
        self.status, self.doubted = found, None
        answer = desk.get("/v1/models", self.tenant.token)
        assert answer.status_code == (403 if found == "suspended" else 200), answer.text


@dataclass
class Overlay(Change):
    """The tenant's own file: whole, whenever it is read."""

    value: float | None = None

    def change(self, desk, draw):
        self.value = draw.randrange(1, 100) / 100
        self.tenant.write_overlay(f"temperature: {self.value}\n")

    def check(self, desk):
        def in_force():
            return desk.get("/tenant/v1/config", self.tenant.token).json()["temperature"] == self.value

        eventually(in_force, 8, f"temperature {self.value} of the overlay")


@dataclass
class OwnKey(Change):
    """A tenant's own key at a provider, sealed, and sealed again under a fresh key. Each call shows which one is in force."""

    provider: str = "sim-openai"
    # Makes a call and says which key the provider saw.
    probe: Callable[[], str] = str
    value: str = ""
    doubted: str | None = None

    def change(self, desk, draw):
        if draw.random() < 0.4:
            self.action = "secret.rotate"
            desk.cli("secrets", "rotate", self.tenant.id)
            return
        self.action, self.doubted = "secret.set", f"sk-own-{secrets.token_hex(8)}"
        desk.cli("secrets", "set", self.tenant.id, self.provider, stdin=self.doubted)
        self.value, self.doubted = self.doubted, None

    def check(self, desk):
        seen = self.probe()
        assert seen in (self.value, self.doubted), f"the provider saw {seen}, confirmed {self.value}, asked {self.doubted}"
        self.value, self.doubted = seen, None


@dataclass
class LogKey(Change):
    """The signing key of an audit log."""

    keys: list[str] = field(default_factory=list)

    def change(self, desk, draw):
        self.action = "audit.rotate_key"
        self.keys.append(desk.cli("audit", "rotate-key", "--tenant", self.tenant.id)["vkey"])

    def check(self, desk):
        found = desk.http("GET", f"/{self.tenant.id}")["audit_vkey"]
        if found != self.keys[-1]:
            assert self.doubt and found not in self.keys, f"the key is {found}, confirmed {self.keys[-1]}"
            self.keys.append(found)


@dataclass
class Guests(Change):
    """Tenants that are created and deleted."""

    alive: dict[str, str] = field(default_factory=dict)
    gone: list[tuple[str, str]] = field(default_factory=list)
    doubted: str | None = None

    def _delete(self, desk: Desk, name: str) -> None:
        desk.http("DELETE", f"/{name}?confirm={name}")

    def change(self, desk, draw):
        if len(self.alive) > 2:
            self.doubted = next(iter(self.alive))
            self._delete(desk, self.doubted)
            self.gone.append((self.doubted, self.alive.pop(self.doubted)))
        else:
            self.doubted = f"guest-{secrets.token_hex(4)}"
            self.alive[self.doubted] = desk.http("POST", "", {"id": self.doubted, "tier": "crash"})["token"]
        self.doubted = None

    def check(self, desk):
        listed = {tenant["id"] for tenant in desk.http("GET", "")}
        if name := self.doubted:
            secret = self.alive.pop(name, None)
            if name in listed:
                self._delete(desk, name)
                listed.discard(name)
            if secret is not None:
                self.gone.append((name, secret))
            self.doubted = None
        assert set(self.alive) <= listed, f"confirmed tenants are lost: {set(self.alive) - listed}"
        assert all(map(desk.lets_in, self.alive.values())), "a confirmed tenant's token does not let in"
        for name, secret in self.gone[-2:]:
            assert name not in listed and not desk.lets_in(secret), f"{name} was deleted and is back"
            assert not (desk.gateway.data / "tenants" / name).exists(), f"{name} was deleted and its files are there"


@dataclass
class Reading(Change):
    """Folds: what reads a tenant's books folds its journal records first."""

    others: list[Tenant] = field(default_factory=list)
    # Whether it reads the books of all tenants at once, too.
    reports: bool = True

    def change(self, desk, draw):
        tenant = draw.choice([self.tenant, *self.others])
        match draw.randrange(3 + self.reports):
            case 0:
                desk.http("GET", f"/{tenant.id}/quota")
            case 1:
                desk.cli("audit", "tail", "--tenant", tenant.id, "--limit", "5")
            case 2:
                desk.get("/tenant/v1/usage", tenant.token)
            case _:
                desk.cli("billing", "report")

    def check(self, desk):
        """It changes nothing."""


class Churn:
    """Several hands that change things, each its own. None begins while it is closed; a change in doubt waits for `check`."""

    def __init__(self, gateway: Gateway, hands: list[list[Change]], seed: int):
        self.changes = [change for hand in hands for change in hand]
        self.unexpected: list[str] = []
        self._turn = threading.Condition()
        self._open, self._over, self._active = False, False, 0
        self._desks = [Desk(gateway, dying=lambda: not self._open) for _ in hands]
        self._threads = [
            threading.Thread(target=self._run, args=(hand, self._desks[at], random.Random(seed * 2_000 + at)), daemon=True)
            for at, hand in enumerate(hands)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        with self._turn:
            self._over = True
            self._turn.notify_all()
        for thread in self._threads:
            thread.join(30)

    def _run(self, hand: list[Change], desk: Desk, draw: random.Random):
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._open or self._over)
                if self._over:
                    return
                self._active += 1
            try:
                change = draw.choice(hand)
                if not change.doubt:
                    change.step(desk, draw)
            except Exception as error:  # Told by whoever looks next.
                self.unexpected.append(f"{type(change).__name__}: {error!r}")
            finally:
                with self._turn:
                    self._active -= 1
                    self._turn.notify_all()
            time.sleep(draw.uniform(0.0, 0.1))

    def open(self) -> None:
        with self._turn:
            self._open = True
            self._turn.notify_all()

    def close(self) -> None:
        """Lets no change begin; those under way go on."""
        with self._turn:
            self._open = False

    def wait(self, kill_commands: bool = False) -> None:
        """Waits until all changes have ended: a command that finds no gateway may hold the data directory itself."""
        if kill_commands:
            for desk in self._desks:
                desk.kill_command()
        with self._turn:
            assert self._turn.wait_for(lambda: self._active == 0, 90), "a change does not come to an end"

    def check(self, desk: Desk) -> None:
        """Every confirmed change holds, every other one is whole or absent."""
        assert not self.unexpected, self.unexpected[:3]
        for change in self.changes:
            change.check(desk)
            change.doubt = False
