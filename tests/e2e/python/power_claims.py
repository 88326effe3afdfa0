"""What clients had been told at each moment of a recorded run: nothing more is asked of a disk after a power cut."""

from __future__ import annotations

import copy
import json
import re
from bisect import bisect_left
from dataclasses import dataclass, field

from power_trace import Event

NEVER = 1 << 62
TOKEN = re.compile(rb"[Bb]earer tk_([a-z0-9-]+)_[0-9a-f]+")
TAG = re.compile(rb"tag=(k\d+)")
USAGE = re.compile(rb"fixed_usage=(\d+):(\d+)")
REQUEST = re.compile(rb"(?i)x-request-id: (\S+)\r\n")
LENGTH = re.compile(rb"(?i)content-length: (\d+)\r\n")
# The first bytes that tell a client how its stream ended.
STREAM_END = re.compile(rb'"(?:finish|stop)_reason":"')


@dataclass
class Call:
    """One request to a model."""

    begun: int
    tenant: str
    tag: str
    usage: tuple[int, int]
    # When the attempt went to the provider.
    upstream: int = NEVER
    # When the bytes that carry the answer's end were given to the client's socket.
    ended: int = NEVER
    request: str = ""
    status: int = 0
    refused: int = NEVER


@dataclass
class Operation:
    """A command that changes something."""

    begun: int
    command: dict
    ended: int = NEVER
    answer: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.command["command"]

    @property
    def tenant(self) -> str:
        return self.command.get("id") or self.command.get("tenant") or ""


@dataclass
class Account:
    """What one tenant must be like."""

    status: str = "active"
    limits: dict[str, str | None] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    ended_tokens: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    checkpoint: str | None = None
    vkey: str = ""


Accounts = dict[str, Account]


@dataclass
class Expected:
    """The accounts after a cut: `sure` is confirmed; the change that was under way may have come about, or not."""

    sure: Accounts
    maybe: Accounts
    unsettled: str
    deleted: dict[str, Account]


class Claims:
    """The claims of one run."""

    def __init__(self, events: list[Event]):
        self.calls: list[Call] = []
        self.operations: list[Operation] = []
        self._server: dict[str, Conversation] = {}
        self._by_tag: dict[str, Call] = {}
        self._control: dict[str, tuple[int, bytes, bytes]] = {}
        self._offline: Operation | None = None
        for number, event in enumerate(events):
            if event.kind in ("got", "said") and "UNIX-STREAM" in event.path:
                self._commanded(number, event)
            elif event.kind in ("got", "said") and "TCP" in event.path:
                self._talked(number, event)
            elif event.kind == "mark":
                self._marked(number, event.path)
        self._segments = Segments(events)
        self.destroyed = list(self._destructions(events))

    # From the events.

    def _commanded(self, number: int, event: Event) -> None:
        if "control.sock" not in event.path:
            return
        begun, asked, told = self._control.get(event.path, (number, b"", b""))
        if event.kind == "got":
            asked += event.data
        else:
            told += event.data
        self._control[event.path] = (begun, asked, told)
        if event.kind == "got" and asked.endswith(b"\n"):
            self.operations.append(Operation(number, json.loads(asked)))
            self._control[event.path] = (len(self.operations) - 1, asked, told)
        elif event.kind == "said" and told.endswith(b"\n"):
            last = json.loads(told.splitlines()[-1])
            if "answer" in last:
                operation = self.operations[begun]
                operation.ended, operation.answer = number, last["answer"]

    def _marked(self, number: int, text: str) -> None:
        word, _, command = text.partition(" ")
        match = re.match(r"tenants quota set (\S+) --([a-z-]+) (\d+)", command)
        if not match:
            return
        if word == "begin":
            limit = {match[2].replace("-", "_"): int(match[3])}
            self._offline = Operation(number, {"command": "tenants.quota.set", "id": match[1], "change": limit})
            self.operations.append(self._offline)
        elif self._offline:
            self._offline.ended = number

    def _talked(self, number: int, event: Event) -> None:
        if event.path not in self._server:
            self._server[event.path] = Conversation(serves=event.kind == "got")
        talk = self._server[event.path]
        if not talk.serves:
            if event.kind == "said" and (tag := TAG.search(event.data)) and (call := self._by_tag.get(tag[1].decode())):
                call.upstream = min(call.upstream, number)
            return
        if event.kind == "got":
            if call := talk.asked(number, event.data):
                self.calls.append(call)
                self._by_tag[call.tag] = call
        else:
            talk.told(number, event.data)

    def _destructions(self, events: list[Event]):
        """When keys were confirmed to be destroyed, and the event that cut what the registry's log held of them."""
        for operation in self.operations:
            if operation.name in ("tenants.delete", "secrets.rotate") and operation.ended < NEVER:
                cuts = (
                    number
                    for number in range(operation.begun, operation.ended)
                    if (events[number].kind, events[number].path, events[number].size) == ("size", "registry.db-wal", 0)
                )
                yield operation, next(cuts, operation.ended)

    # At a cut.

    def answered(self, cut: int) -> list[Call]:
        """Calls whose end their client was sent before the cut."""
        return [call for call in self.calls if call.ended < cut]

    def refused(self, cut: int) -> list[Call]:
        """Calls whose refusal their client was sent before the cut."""
        return [call for call in self.calls if call.refused < cut]

    def surely_sent(self, cut: int) -> list[Call]:
        """Attempts that went to a provider and whose record a sync of its segment has covered since."""
        return [call for call in self.calls if call.upstream < cut and self._segments.synced(call.begun, call.upstream) < cut]

    def expected(self, cut: int) -> Expected:
        """What a client may rely on after a cut."""
        sure: Accounts = {}
        deleted: dict[str, Account] = {}
        under_way = None
        for operation in self.operations:
            if operation.ended < cut:
                apply(sure, operation, deleted)
            elif operation.begun < cut and operation.name in EFFECTS:
                under_way = operation
        maybe = sure
        if under_way:
            maybe = copy.deepcopy(sure)
            apply(maybe, under_way, {})
        return Expected(sure, maybe, under_way.tenant if under_way else "", deleted)


class Segments:
    """When what was written to the journal in some time was on the disk, the name of its file included."""

    def __init__(self, events: list[Event]):
        self._writes: list[tuple[int, str]] = []
        self._syncs: dict[str, list[tuple[int, int]]] = {}
        self._named: dict[str, int] = {}
        for number, event in enumerate(events):
            if event.kind == "rename" and event.to.startswith("journal/"):
                self._named[event.to] = number
            elif event.kind == "write" and event.path.startswith("journal/0"):
                self._writes.append((number, event.path))
            elif event.kind == "sync" and event.path.startswith("journal"):
                self._syncs.setdefault(event.path, []).append((event.begun, number))

    def _after(self, path: str, number: int) -> int:
        return next((done for begun, done in self._syncs.get(path, ()) if begun > number), NEVER)

    def synced(self, since: int, until: int) -> int:
        """The event at which everything written between two events was on the disk."""
        first = bisect_left(self._writes, (since, ""))
        files = {path for _, path in self._writes[first : bisect_left(self._writes, (until, ""))]}
        names = [self._after("journal", self._named[path]) for path in files if path in self._named]
        return max([self._after(path, until) for path in files] + names, default=NEVER)


class Conversation:
    """What went over one connection of a client: requests and answers in turn."""

    def __init__(self, serves: bool):
        self.serves = serves
        self.request, self.answer = b"", b""
        self.call: Call | None = None

    def asked(self, number: int, data: bytes) -> Call | None:
        if self.answer:
            self.request, self.answer, self.call = b"", b"", None
        self.request += data
        tag, token, usage = TAG.search(self.request), TOKEN.search(self.request), USAGE.search(self.request)
        if self.call or not (tag and token and usage):
            return None
        self.call = Call(number, token[1].decode(), tag[1].decode(), (int(usage[1]), int(usage[2])))
        return self.call

    def told(self, number: int, data: bytes) -> None:
        self.answer += data
        call = self.call
        if not call or call.ended < NEVER or call.refused < NEVER:
            return
        head, _, body = self.answer.partition(b"\r\n\r\n")
        request = REQUEST.search(head + b"\r\n")
        if not request or not body:
            return
        call.request, call.status = request[1].decode(), int(head.split(b" ")[1])
        length = LENGTH.search(head + b"\r\n")
        whole = length is not None and len(body) >= int(length[1])
        if call.status == 200 and (whole or (not length and STREAM_END.search(body))):
            call.ended = number
        elif call.status == 404 and whole:
            call.refused = number


# Effects of commands on the accounts.


def _created(accounts: Accounts, operation: Operation, _: dict) -> None:
    made = operation.answer.get("tenant_created", {})
    tokens = {made["token_name"]: made["token"]} if made else {}
    accounts[operation.tenant] = Account(tokens=tokens, vkey=made.get("audit_vkey", ""))


def _deleted(accounts: Accounts, operation: Operation, deleted: dict) -> None:
    deleted[operation.tenant] = accounts.pop(operation.tenant)


def _limits(accounts: Accounts, operation: Operation, _: dict) -> None:
    for name, limit in operation.command["change"].items():
        accounts[operation.tenant].limits[name] = None if limit is None else str(limit)


def _issued(accounts: Accounts, operation: Operation, _: dict) -> None:
    made = operation.answer.get("issued")
    if made:
        accounts[operation.tenant].tokens[made["name"]] = made["token"]


def _rotated(accounts: Accounts, operation: Operation, _: dict) -> None:
    account = accounts[operation.tenant]
    old = account.tokens.pop(operation.command["name"], None)
    if old:
        account.ended_tokens.add(old)
    for made in operation.answer.get("rotated", {}).get("tokens", []):
        account.tokens[made["name"]] = made["token"]


def _revoked(accounts: Accounts, operation: Operation, _: dict) -> None:
    account = accounts[operation.tenant]
    account.ended_tokens.add(account.tokens.pop(operation.command["name"]))


def _sealed(accounts: Accounts, operation: Operation, _: dict) -> None:
    accounts[operation.tenant].secrets.add(operation.command["name"])


def _unsealed(accounts: Accounts, operation: Operation, _: dict) -> None:
    accounts[operation.tenant].secrets.discard(operation.command["name"])


def _checkpoint(accounts: Accounts, operation: Operation, _: dict) -> None:
    head = operation.answer.get("audit_checkpoint")
    if head:
        account = accounts[operation.tenant]
        account.checkpoint, account.vkey = head["checkpoint"], head["vkey"]


def _contained(status: str):
    def effect(accounts: Accounts, operation: Operation, _: dict) -> None:
        accounts[operation.tenant].status = status

    return effect


EFFECTS = {
    "tenants.create": _created,
    "tenants.delete": _deleted,
    "tenants.quota.set": _limits,
    "tenants.token.issue": _issued,
    "tenants.token.rotate": _rotated,
    "tenants.token.revoke": _revoked,
    "tenants.freeze": _contained("frozen"),
    "tenants.suspend": _contained("suspended"),
    "tenants.resume": _contained("active"),
    "secrets.set": _sealed,
    "secrets.delete": _unsealed,
    "secrets.rotate": lambda *_: None,
    "audit.checkpoint": _checkpoint,
    "audit.rotate_key": _checkpoint,
}


def apply(accounts: Accounts, operation: Operation, deleted: dict[str, Account]) -> None:
    """Changes the accounts as the command does."""
    effect = EFFECTS.get(operation.name)
    if effect:
        effect(accounts, operation, deleted)
