"""Compares the books after kills with what clients saw and with what the provider wrote down: call by call, to the last digit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from base64 import b64encode
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from crash_load import HIDDEN, PRICE, STRIDE, UNKNOWN, Call
from deployment import Gateway, Tenant

VERIFIER = Path(__file__).parents[2] / "audit_verifier" / "verify.py"
# Quotas that the load runs into.
LIMITED = ("concurrent_requests", "requests_per_minute", "cost_per_day_usd")
ENDS_OF_ERRORS = {
    "refused by the provider": ("failed",),
    "broken off": ("broken", "unknown"),
    "error within": ("broken",),
    # Where the budget of retries is used up.
    "fallback": ("failed",),
}
# What may stand on the row of a call whose end nobody saw: it was under way at a kill, or its client or its authority left.
OPEN_ENDS = {"finished", "unknown", "abandoned", "broken", "failed"}


@dataclass
class Log:
    """A tenant's log as it was exported and verified by a program of somebody else."""

    entries: list[dict]
    roots: dict[int, bytes]

    @classmethod
    def export(cls, gateway: Gateway, tenant: Tenant, to: Path, sizes: set[int]) -> Log:
        done = gateway.json("audit", "export", "--tenant", tenant.id, "--to", to)
        # By the first key: every rotation since is followed.
        command = [sys.executable, VERIFIER, to, "--vkey", tenant.created["audit_vkey"]]
        verified = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert verified.returncode == 0, f"{tenant.id}: {verified.stdout}{verified.stderr}"
        bundles = [path for path in (to / "tile/entries").rglob("*") if path.is_file()]
        # Full bundles first, each by its number; a partial one is the last.
        bundles.sort(key=lambda path: (".p" in path.parent.name, str(path.relative_to(to))))
        raw = [entry for path in bundles for entry in split(path.read_bytes())]
        assert len(raw) == done["entries"]
        return cls([json.loads(entry) for entry in raw], prefix_roots(raw, sizes))


def split(bundle: bytes) -> list[bytes]:
    entries = []
    while bundle:
        end = 2 + int.from_bytes(bundle[:2], "big")
        entries.append(bundle[2:end])
        bundle = bundle[end:]
    return entries


def prefix_roots(entries: list[bytes], sizes: set[int]) -> dict[int, bytes]:
    """The root of the tree over the first so many entries (RFC 6962, section 2.1), for each of the sizes, in one pass."""
    peaks: list[tuple[int, bytes]] = []
    roots = {}
    for size, entry in enumerate(entries, 1):
        width, node = 1, hashlib.sha256(b"\0" + entry).digest()
        while peaks and peaks[-1][0] == width:
            node = hashlib.sha256(b"\1" + peaks.pop()[1] + node).digest()
            width *= 2
        peaks.append((width, node))
        if size in sizes:
            root = peaks[-1][1]
            for _, left in reversed(peaks[:-1]):
                root = hashlib.sha256(b"\1" + left + root).digest()
            roots[size] = root
    return roots


@dataclass
class Totals:
    """What a comparison has looked at."""

    rows: int = 0
    seen: int = 0
    refusals: int = 0
    turned_away: int = 0
    unknown: int = 0
    checkpoints: int = 0
    billed: Decimal = Decimal(0)
    outcomes: Counter = field(default_factory=Counter)


@dataclass
class Books:
    """One tenant's rows and log beside the calls of its clients and the records of its provider."""

    tenant: Tenant
    rows: list[dict]
    log: Log
    calls: list[Call]
    records: dict[int, list[dict]]

    def compare(self, totals: Totals) -> None:
        self.calls_by_number = {call.number: call for call in self.calls}
        self.rows_of_request: dict[str, list[dict]] = defaultdict(list)
        for row in self.rows:
            assert row["tenant"] == self.tenant.id
            self.rows_of_request[row["request_id"]].append(row)
        for request, rows in self.rows_of_request.items():
            rows.sort(key=lambda row: row["attempt"])
            attempts = [row["attempt"] for row in rows]
            assert attempts == list(range(1, len(rows) + 1)), f"{request}: attempts {attempts}"
        self._rows_and_calls()
        self._rows_and_records(totals)
        self._rows_and_entries()
        for call in self.calls:
            self._claim(call, totals)
        totals.rows += len(self.rows)
        totals.outcomes.update(row["outcome"] for row in self.rows)
        totals.unknown += sum(row["outcome"] == "unknown" for row in self.rows)

    def _rows_and_calls(self) -> None:
        """Finds the call of each request that has rows; each call has one request at most."""
        known = {call.request_id: call.number for call in self.calls if call.request_id}
        self.number_of: dict[str, int] = {}
        self.nameless: list[dict] = []
        for request, rows in self.rows_of_request.items():
            number = known.get(request) or next(filter(None, map(number_of_row, rows)), None)
            if number is None:
                # What is finished or charged at its hold says whose it is; a failure before any client saw its head does not.
                assert {row["outcome"] for row in rows} <= {"failed", "abandoned"}, f"rows of no call: {rows}"
                self.nameless += rows
                continue
            call = self.calls_by_number.get(number)
            assert call is not None, f"{request}: nobody of {self.tenant.id} made call {number}: {rows}"
            self.number_of[request] = number
            for row in rows:
                assert (row["model"], row["token"]) in ((call.model, call.token), ("sim-large", call.token)), (call, row)
        twice = [number for number, times in Counter(self.number_of.values()).items() if times > 1]
        assert not twice, f"calls {twice} have rows under two requests"

    def _rows_and_records(self, totals: Totals) -> None:
        """Each request that reached the provider is one attempt with one row, and what was settled is what it billed."""
        rows_of_call = {number: self.rows_of_request[request] for request, number in self.number_of.items()}
        nameless = Counter(row["provider_model"] for row in self.nameless)
        ours, theirs = Decimal(0), Decimal(0)
        for number in self.calls_by_number:
            rows, records = rows_of_call.get(number, []), self.records.get(number, [])
            if len(records) > len(rows):
                # Failed before anything of it could be told apart: one row without a name for each record.
                assert not rows, f"call {number}: {len(records)} requests upstream, {len(rows)} rows"
                nameless.subtract(record["model"] for record in records)
                continue
            never_arrived = len(rows) - len(records)
            lost = [row for row in rows if row["outcome"] == "unknown"]
            assert never_arrived <= len(lost), f"call {number}: rows of requests that the provider never saw: {rows}"
            for row in rows:
                price = PRICE[row["provider_model"]]
                if row["outcome"] == "finished":
                    assert row["usage_source"] == "provider", row
                    record = next(record for record in records if record["model"] == row["provider_model"])
                    usage = record["usage"]
                    assert (row["tokens_in"], row["tokens_out"]) == (usage["input"], usage["output"]), (row, record)
                    ours += Decimal(row["cost_usd"])
                    theirs += price * (usage["input"] + usage["output"])
                    assert Decimal(row["charged_usd"]) == Decimal(row["cost_usd"]) == price * (usage["input"] + usage["output"])
                elif row["outcome"] == "failed":
                    assert Decimal(row["cost_usd"]) == Decimal(row["charged_usd"]) == 0, row
                    assert any(record["status"] >= 400 for record in records), (row, records)
                elif row["outcome"] == "unknown":
                    assert row["cost_usd"] is None and row["tokens_in"] is None and row["tokens_out"] is None, row
                    # What nobody knows is charged at the most that it can have cost.
                    hold = charged_tokens(row)
                    assert number * STRIDE < hold < (number + 1) * STRIDE, (row, number)
        assert not +nameless, f"rows of no call: {self.nameless}"
        assert not -nameless, f"the provider was reached by calls without a row: {-nameless}"
        assert ours == theirs, f"{self.tenant.id}: settled {ours}, the provider bills {theirs}"
        totals.billed += ours

    def _rows_and_entries(self) -> None:
        entries = self.log.entries
        assert [entry["seq"] for entry in entries] == list(range(len(entries))), "the log has a gap"
        attempts = {}
        for entry in entries:
            if entry["action"] == "call_model" and entry["decision"] == "allow":
                key = entry["request_id"], entry["attempt"]
                assert key not in attempts, f"{key} has two entries"
                attempts[key] = entry
        by_row = {(row["request_id"], row["attempt"]): row for row in self.rows}
        # Of what was stopped before its first byte left there is an entry that says so, and no row.
        unsent = {key for key, entry in attempts.items() if entry["outcome"] == "not_sent"}
        steady = {call.request_id for call in self.calls if call.steady and not call.kind.leaves}
        assert not {request for request, _ in unsent} & steady, f"not sent: {unsent}"
        attempts = {key: entry for key, entry in attempts.items() if key not in unsent}
        assert attempts.keys() == by_row.keys(), f"rows and entries differ: {sorted(attempts.keys() ^ by_row.keys())[:5]}"
        for key, entry in attempts.items():
            row = by_row[key]
            assert entry["outcome"] == row["outcome"], (entry, row)
            assert decimal(entry.get("cost_usd")) == decimal(row["cost_usd"]), (entry, row)
        self.denied = Counter(entry["request_id"] for entry in entries if entry["decision"] == "deny" and entry.get("request_id"))
        self.place = {key[0]: entry["seq"] for key, entry in attempts.items()}

    def _claim(self, call: Call, totals: Totals) -> None:
        """What a client may demand for what it saw."""
        if call.checkpoint:
            _, size, root = call.checkpoint.split("\n")[:3]
            found = self.log.roots.get(int(size))
            assert found is not None, f"a client saw a log of {size} entries, there are {len(self.log.entries)}"
            assert root == b64encode(found).decode(), f"the log of {size} entries that a client saw is not this one"
            totals.checkpoints += 1
            if call.end == "whole" and not call.stream:
                assert self.place[call.request_id] < int(size), f"{call} is not under its own checkpoint"
        rows = self.rows_of_request.get(call.request_id or "", [])
        if call.refused:
            absent = call.model in (HIDDEN, UNKNOWN)
            assert (call.status == 404) == absent and (absent or any(quota in call.text for quota in LIMITED)), call
            assert not rows, f"refused and yet sent: {call}, {rows}"
            assert self.denied[call.request_id] == 1, f"{self.denied[call.request_id]} entries of {call}"
            totals.refusals += 1
            return
        if call.turned_away:
            assert not rows and call.request_id not in self.denied, (call, rows)
            totals.turned_away += 1
            return
        if call.shut_out:
            return
        if call.end is None:
            if call.status is not None:
                assert len(rows) >= 1, f"an answer began and has no row: {call}"
                assert {row["outcome"] for row in rows} <= OPEN_ENDS, (call, rows)
            return
        totals.seen += 1
        outcomes = [(row["outcome"], row["provider_model"]) for row in rows]
        if call.end == "error":
            # One that falls back may be ended, with its credential, when it is at its second model.
            tried = [("failed", "sim-fast")] if call.kind.name == "fallback" and len(rows) == 2 else []
            assert rows and outcomes[:-1] == tried, f"{call}: {rows}"
            left = not call.steady and outcomes[-1][0] == "abandoned"
            assert left or outcomes[-1][0] in ENDS_OF_ERRORS.get(call.kind.name, ()), f"{call}: {rows}"
            return
        assert call.kind.name in ("plain", "fallback") or call.kind.leaves, f"a good end of {call}"
        expected = [("finished", "sim-fast")]
        if call.kind.name == "fallback":
            expected = [("failed", "sim-fast"), ("finished", "sim-large")]
        assert outcomes == expected, f"{call}: {rows}"
        assert (rows[-1]["tokens_in"], rows[-1]["tokens_out"]) == (call.number, call.tokens_out), (call, rows)


def number_of_row(row: dict) -> int | None:
    """The call of a row that no client knows by its id: the provider was told to count it, or it was charged at its hold."""
    if row["outcome"] == "finished" and row["usage_source"] == "provider":
        return row["tokens_in"]
    if row["outcome"] in ("unknown", "broken"):
        return charged_tokens(row) // STRIDE
    return None


def charged_tokens(row: dict) -> int:
    tokens = Decimal(row["charged_usd"]) / PRICE[row["provider_model"]]
    assert tokens == int(tokens), row
    return int(tokens)


def decimal(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def quota_lines(gateway: Gateway, tenant: str) -> tuple[dict[str, dict], dict[str, dict[str, dict]]]:
    """The tenant's own lines, and those of each token."""
    shown = gateway.json("tenants", "quota", "show", tenant)
    own = {line["name"]: line for line in shown["quotas"]}
    return own, {token["name"]: {line["name"]: line for line in token["quotas"]} for token in shown["tokens"]}


def assert_quotas_are_the_ledger(gateway: Gateway, tenant: str, rows: list[dict], restarted: bool) -> None:
    """What counts against the day is the sum over its rows, for the tenant and for each of its tokens, and nothing is held."""
    own, tokens = quota_lines(gateway, tenant)
    day = own["cost_per_day_usd"]["resets_at"]
    today = [row for row in rows if 0 < (moment(day) - moment(row["started_at"])).total_seconds() <= 86_400]
    for token, lines in [(None, own), *tokens.items()]:
        of = [row for row in today if token in (None, row["token"])]
        cost = sum((Decimal(row["charged_usd"]) for row in of), Decimal(0))
        assert Decimal(lines["cost_per_day_usd"]["used"]) == cost, f"{tenant}, {token}: {lines['cost_per_day_usd']}, rows {cost}"
        charged = sum(map(charged_tokens, of))
        assert int(lines["tokens_per_day"]["used"]) == charged, f"{tenant}, {token}: {lines['tokens_per_day']}, rows {charged}"
        requests, used = len({row["request_id"] for row in of}), int(lines["requests_per_day"]["used"])
        # A call of which nothing left counts until the next restart.
        assert used == requests if restarted else used >= requests, f"{tenant}, {token}: {used} requests, rows of {requests}"
        assert {line["held"] for line in lines.values()} == {"0"}, f"{tenant}, {token}: {lines}"
        assert lines["concurrent_requests"]["used"] == "0", f"{tenant}, {token}: {lines}"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def assert_never_more_in_a_minute(rows: list[dict], most: int) -> None:
    """A limit by the minute holds over kills and restarts: no minute has the rows of more calls."""
    starts = sorted(moment(row["started_at"]).timestamp() for row in rows if row["attempt"] == 1)
    for first, over in zip(starts, starts[most:], strict=False):
        # A row says when its attempt was sent, some milliseconds after it was counted.
        assert over - first > 59, f"{most + 1} calls within {over - first:.1f} s"
