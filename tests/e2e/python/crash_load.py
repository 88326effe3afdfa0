"""Mixed load for the kill suite: callers that go on through restarts and remember what they saw of each answer.

A call is known again by its number in three places: the simulator's ledger holds it as the tag of the prompt, a row of finished
usage as its input tokens, and a row that was charged at its hold as the hold, because `max_tokens` is a multiple of it. So a row
finds its call also where no client ever saw its request id.
"""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal

import httpx

from deployment import Simulator, default_config, eventually

# Tokens of output that a call orders for each unit of its number: more than any input bound here.
STRIDE = 1_024
# USD per token, the same for every bucket: then a charge says how many tokens were charged.
PRICE = {"sim-fast": Decimal("7e-9"), "sim-large": Decimal("11e-9"), "sim-reasoning": Decimal("13e-9"), "sim-embed": Decimal("17e-9")}
# Calls at the same time that each provider takes, and that a tenant of the tier may have.
SLOTS = 12
CONCURRENT = 6
HIDDEN, UNKNOWN = "sim-reasoning", "no-such-model"
TAG = re.compile(r"tag=c(\d+)")
END_OF_STREAM = re.compile(rb'"(?:finish_reason|stop_reason)":"')
ERROR_IN_STREAM = re.compile(rb'^data: \{(?:"type":"error",)?"error":', re.MULTILINE)


def client() -> httpx.Client:
    """One that outlives the gateways that it calls. It speaks to loopback only, so it reads no list of authorities, which is slow."""
    return httpx.Client(timeout=30, trust_env=False, verify=False)


def card() -> str:
    entries = {}
    for model, price in PRICE.items():
        mode = "embedding" if model == "sim-embed" else "chat"
        facts = {"litellm_provider": "simulator", "mode": mode, "max_input_tokens": 131_072, "max_output_tokens": 1_000_000_000}
        costs = f'"input_cost_per_token": {price:f}, "output_cost_per_token": {price:f}'
        entries[model] = f"{json.dumps(facts)[:-1]}, {costs}}}"
    return "{" + ",\n".join(f"{json.dumps(name)}: {entry}" for name, entry in entries.items()) + "}\n"


def config(sim: Simulator) -> dict:
    made = default_config(sim)
    for provider in made["providers"]:
        provider["concurrency"] = SLOTS
    made["tiers"]["crash"] = {
        "model": "sim-fast",
        "models": ["sim-fast", "claude-fast", "with-fallback", "sim-large"],
        "concurrent_requests": CONCURRENT,
    }
    # Nothing is kept for those who do not call, so that two tenants can have all slots.
    for tier in made["tiers"].values():
        tier["guaranteed_slots"] = 0
    return made


@dataclass(frozen=True)
class Kind:
    """A way for a call to go, by the simulator's orders."""

    name: str
    orders: tuple[str, ...] = ("",)
    weight: int = 1
    streams: tuple[bool, ...] = (False, True)
    model: str | None = None
    # The client goes away: after the head of a stream, or before any answer.
    leaves: bool = False


PACES = ("", "delay=20ms", "chunks=5 gap=5ms", "chunks=30", "delay=60ms chunks=10 gap=10ms")
KINDS = (
    Kind("plain", PACES, weight=24),
    Kind("refused by the provider", ("fault=status:500", "fault=status:429:1"), weight=3),
    Kind("broken off", ("fault=cut_after:2 chunks=8", "fault=disconnect", "fault=cut_after:3 chunks=9 gap=10ms"), weight=3),
    Kind("error within", ("fault=error_event:2 chunks=8",), weight=1, streams=(True,)),
    Kind("fallback", ("fault=status:500 on=sim-fast", "fault=status:500 on=sim-fast delay=20ms"), weight=3, model="with-fallback"),
    Kind("left", ("chunks=60 gap=5ms", "chunks=12 gap=20ms"), weight=3, streams=(True,), leaves=True),
    Kind("left before the answer", ("delay=80ms",), weight=1, streams=(False,), leaves=True),
    Kind("hidden model", weight=1, model=HIDDEN),
    Kind("unknown model", weight=1, model=UNKNOWN),
)
# Calls that are charged at their hold, so that a budget runs out.
DEAR = (Kind("plain", PACES, weight=2), Kind("broken off", ("fault=disconnect",), weight=2))


@dataclass
class Call:
    """One call as its client knows it."""

    number: int
    tenant: str
    token: str
    kind: Kind
    path: str
    model: str
    stream: bool
    tokens_out: int
    # Whether its token and its tenant stay what they are; otherwise its authority may end under it.
    steady: bool = True
    request_id: str | None = None
    status: int | None = None
    # "whole": the end was seen, and it was a good one; "error": an end that says that it failed.
    end: str | None = None
    text: str = ""
    checkpoint: str | None = None

    @property
    def max_tokens(self) -> int:
        return self.number * STRIDE

    def body(self, orders: str) -> dict:
        prompt = f"[[sim:fixed_usage={self.number}:{self.tokens_out} {orders} tag=c{self.number}]]"
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "max_tokens": self.max_tokens, "stream": self.stream, "messages": messages}

    def conclude(self, status: int, received: bytes) -> None:
        """What the bytes that arrived say about the end, whether or not the connection broke behind them."""
        if status == 200 and self.stream:
            if ERROR_IN_STREAM.search(received):
                self.end = "error"
            elif END_OF_STREAM.search(received):
                self.end = "whole"
            return
        # Of an answer that is not a stream nothing leaves before its record: the head alone is a promise.
        self.end = "whole" if status == 200 else "error"
        self.text = "" if status == 200 else received[:300].decode(errors="replace")

    @property
    def refused(self) -> bool:
        """Refused here, after its tenant was known: nothing of it went to a provider."""
        return self.status in (400, 404) or (self.status == 429 and "provider" not in self.text)

    @property
    def turned_away(self) -> bool:
        """Before it was admitted, because its tenant was not open yet and could not be opened at that moment."""
        return self.status == 503 and "too many calls are waiting" in self.text

    @property
    def shut_out(self) -> bool:
        """Its authority had ended, or ended under it."""
        return self.status in (401, 403)


@dataclass
class Seat:
    """Who calls: a tenant, the name of a token and where its secret stands now."""

    tenant: str
    token: str
    secret: object  # () -> str | None
    pause: tuple[float, float] = (0.0, 0.03)
    kinds: tuple[Kind, ...] = KINDS
    steady: bool = True


@dataclass
class Load:
    """The callers. They call while there is a target, and rest while there is none."""

    seats: list[Seat]
    seed: int
    calls: list[Call] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    target: str | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self.busy = 0
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._threads = [threading.Thread(target=self._run, args=(i, seat), daemon=True) for i, seat in enumerate(self.seats)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.target = None
        self.over.set()
        for thread in self._threads:
            thread.join(30)

    def rest(self) -> None:
        """Lets nobody begin and waits until every call has ended."""
        self.target = None
        eventually(lambda: not self.busy, 60, "the end of the calls")

    def new(self, **facts) -> Call:
        with self._lock:
            call = Call(number=next(self._numbers), **facts)
            self.calls.append(call)
        return call

    def _run(self, index: int, seat: Seat):
        draw = random.Random(self.seed * 1_000 + index)
        http = client()
        while not self.over.is_set():
            with self._lock:
                target = self.target
                self.busy += target is not None
            if target is None:
                time.sleep(0.005)
                continue
            try:
                secret = seat.secret()
                if secret is not None:
                    self._call(http, target, seat, secret, draw)
            except httpx.TransportError:
                """Killed under the call, or left: what was seen of it stands in the call."""
            except Exception as error:  # A caller that ends silently would make the load lighter than it claims.
                self.unexpected.append(f"{seat.tenant}: {error!r}")
                raise
            finally:
                with self._lock:
                    self.busy -= 1
            time.sleep(draw.uniform(*seat.pause))

    def _call(self, http: httpx.Client, target: str, seat: Seat, secret: str, draw: random.Random):
        kind = draw.choices(seat.kinds, [kind.weight for kind in seat.kinds])[0]
        stream = draw.choice(kind.streams)
        path = draw.choice(("/v1/chat/completions", "/v1/messages"))
        model = kind.model or draw.choice(("sim-fast", "claude-fast"))
        facts = {"tenant": seat.tenant, "token": seat.token, "kind": kind, "path": path, "model": model, "stream": stream}
        call = self.new(tokens_out=draw.randrange(1, 100), steady=seat.steady, **facts)
        headers = {"authorization": f"Bearer {secret}", "anthropic-version": "2023-06-01"}
        if draw.random() < 0.3:
            headers["x-partywall-checkpoint"] = "include"
        leaves_after = draw.randrange(1, 6) if kind.leaves else None
        self.send(http, target, call, call.body(draw.choice(kind.orders)), headers, leaves_after)

    def send(self, http: httpx.Client, target: str, call: Call, body: dict, headers: dict, leaves_after: int | None = None):
        received = b""
        options = {"timeout": 0.03} if leaves_after and not call.stream else {}
        try:
            with http.stream("POST", target + call.path, json=body, headers=headers, **options) as answer:
                call.status, call.request_id = answer.status_code, answer.headers["x-request-id"]
                if kept := answer.headers.get("x-partywall-checkpoint"):
                    call.checkpoint = base64.b64decode(kept).decode()
                for pieces, piece in enumerate(answer.iter_raw(), 1):
                    received += piece
                    if pieces == leaves_after:
                        break
        finally:
            if call.status is not None:
                call.conclude(call.status, received)


def records(path) -> dict[int, list[dict]]:
    """The simulator's own ledger, from the file that it writes: what it billed for each call, by the call's number."""
    found: dict[int, list[dict]] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            # A body that broke off under a kill names no call and is billed to nobody.
            if record["body"] and (tag := TAG.search(record["body"])):
                record["headers"] = dict(record["headers"])
                found.setdefault(int(tag[1]), []).append(record)
            else:
                assert record["usage"] is None, f"billed without a call: {record}"
    return found
