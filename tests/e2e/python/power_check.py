"""Starts the real gateway on what a power cut left and holds its answers against what clients had been told."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deployment import PARTYWALL, eventually
from power_claims import Account, Claims, Expected

PATIENCE = 30


class Survivor:
    """The gateway over one image."""

    def __init__(self, data: Path, environment: dict[str, str], wrap: Sequence[str] = ()):
        self.data = data
        self.stderr = (data.parent / f"{data.name}.stderr").open("w+b")
        command = [*wrap, PARTYWALL, "serve", "--data", data, "--json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr, env=environment, cwd=data.parent, text=True
        )
        line = self._first_line()
        self.address = json.loads(line)["listen"] if line.startswith("{") else None
        if self.address:
            eventually(lambda: (data / "control.sock").exists(), 5, "control.sock")

    def _first_line(self) -> str:
        guard = threading.Timer(PATIENCE, self.process.kill)
        guard.start()
        try:
            return self.process.stdout.readline()
        finally:
            guard.cancel()

    def said(self) -> str:
        self.stderr.seek(0)
        return self.stderr.read()[-2_000:].decode(errors="replace")

    def log(self) -> str:
        path = self.data / "gateway.log"
        return path.read_text(errors="replace")[-2_000:] if path.exists() else ""

    def ask(self, command: str, **members) -> tuple[list[dict], dict]:
        """The rows of an answer, and its last line: `{"answer": …}` or `{"fault": …}`."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(PATIENCE)
            line.connect(str(self.data / "control.sock"))
            line.sendall(json.dumps({"command": command, **members}).encode() + b"\n")
            with line.makefile("rb") as answer:
                frames = [json.loads(text) for text in answer]
        return [frame["row"] for frame in frames if "row" in frame], (frames or [{"fault": "no answer"}])[-1]

    def accepts(self, token: str) -> bool:
        host, port = self.address.rsplit(":", 1)
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            status, text = answer.status, answer.read(500)
        assert status in (200, 401, 403), f"/v1/models answered {status} {text}"
        return status == 200

    def stop(self) -> None:
        """Ends it as an operator does, so that a second start meets what this one left."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.close()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.stderr.close()


def examine(data: Path, environment: dict[str, str], claims: Claims, cut: int, twice: bool) -> list[str]:
    """What is wrong with the gateway on an image; nothing, if all is well."""
    found = []
    for _ in range(2 if twice else 1):
        survivor = Survivor(data, environment)
        try:
            if survivor.address is None:
                return [f"the gateway does not start: {survivor.said()}"]
            found += Examination(survivor, claims, cut).run()
            if found:
                found.append(f"log: {survivor.log()}")
                return found
            if twice:
                survivor.stop()
        finally:
            survivor.close()
    return found


class Examination:
    """One look at one survivor."""

    def __init__(self, survivor: Survivor, claims: Claims, cut: int):
        self.survivor, self.claims, self.cut = survivor, claims, cut
        self.expected: Expected = claims.expected(cut)
        self.found: list[str] = []

    def run(self) -> list[str]:
        try:
            self._look()
        except (OSError, http.client.HTTPException, AssertionError, KeyError, ValueError) as error:
            self._wrong(f"the gateway could not be asked: {error!r}")
        return self.found

    def _look(self) -> None:
        self._tenants()
        entries = {id: self._log(id, account) for id, account in self.expected.sure.items() if id != self._going}
        self._attempts(entries)
        for id in self.expected.sure:
            if id != self._going:
                self._account(id)
        for id, account in self.expected.deleted.items():
            self._dead(id, account)

    @property
    def _going(self) -> str:
        """A tenant whose deletion was under way: it is there whole, or not at all."""
        gone = self.expected.sure.keys() - self.expected.maybe.keys()
        return next(iter(gone), "")

    def _wrong(self, text: str) -> None:
        self.found.append(text)

    def _rows(self, kind: str, command: str, **members) -> list[dict]:
        rows, last = self.survivor.ask(command, **members)
        if "answer" not in last:
            self._wrong(f"{command} {members}: {last}")
        return [row[kind] for row in rows if kind in row]

    def _tenants(self) -> None:
        there = {tenant["id"]: tenant for tenant in self._rows("tenant", "tenants.list")}
        missing = self.expected.sure.keys() - there.keys() - {self._going}
        more = there.keys() - self.expected.sure.keys() - {self.expected.unsettled}
        if missing or more:
            self._wrong(f"tenants that are gone: {missing}, that are there: {more}")
        for id in there:
            _, last = self.survivor.ask("tenants.show", id=id)
            shown = last.get("answer", {}).get("tenant")
            if not shown or shown["database"]["state"] != "ok":
                self._wrong(f"{id}: {shown['database'] if shown else last}")

    def _log(self, id: str, account: Account) -> list[dict]:
        _, verified = self.survivor.ask("audit.verify", tenant=id, since=account.checkpoint)
        if "answer" not in verified:
            self._wrong(f"{id}: its log does not verify against what a client was given: {verified}")
        entries = self._rows("audit", "audit.tail", tenant=id, limit=1_000_000)
        places = [entry["seq"] for entry in entries]
        if places != list(range(len(places))):
            self._wrong(f"{id}: the places of its log are {places}")
        return entries

    def _attempts(self, entries: dict[str, list[dict]]) -> None:
        rows = [row["ledger"] for row in self._all_rows() if row["ledger"]["tenant"] in entries]
        by_attempt = Counter((row["request_id"], row["attempt"]) for row in rows)
        for key, count in by_attempt.items():
            if count != 1:
                self._wrong(f"{key} has {count} rows")
        by_request = {row["request_id"]: row for row in rows}
        allowed = {
            id: Counter((entry["request_id"], entry["attempt"]) for entry in of_one if entry.get("attempt"))
            for id, of_one in entries.items()
        }
        denied = {
            id: Counter(entry["request_id"] for entry in of_one if entry["decision"] == "deny" and entry.get("request_id"))
            for id, of_one in entries.items()
        }
        for call in self.claims.answered(self.cut):
            if call.tenant in entries:
                self._answer(call, by_request.get(call.request), allowed[call.tenant])
        for call in self.claims.refused(self.cut):
            if call.tenant in entries and denied[call.tenant][call.request] != 1:
                self._wrong(f"{call.request} of {call.tenant} was refused and has {denied[call.tenant][call.request]} entries")
        for id in entries:
            own = [row for row in rows if row["tenant"] == id]
            sent = sum(call.tenant == id for call in self.claims.surely_sent(self.cut))
            asked = sum(call.tenant == id and call.begun < self.cut for call in self.claims.calls)
            if not sent <= len(own) <= asked:
                self._wrong(f"{id} has {len(own)} rows; {sent} attempts are surely recorded, {asked} were asked for")
            if sum(allowed[id].values()) != len(own) or max(allowed[id].values(), default=1) != 1:
                self._wrong(f"{id} has {len(own)} rows and {sum(allowed[id].values())} entries about attempts")

    def _all_rows(self) -> list[dict]:
        rows, last = self.survivor.ask("billing.report", tenant=None, **{"from": None, "to": None}, detail=True)
        if "answer" not in last:
            self._wrong(f"billing.report: {last}")
        return rows

    def _answer(self, call, row: dict | None, allowed: Counter) -> None:
        if row is None:
            self._wrong(f"{call.request} of {call.tenant} ({call.tag}) was answered to its end and has no row")
            return
        is_so = (row["tenant"], row["outcome"], row["usage_source"], row["tokens_in"], row["tokens_out"])
        if is_so != (call.tenant, "finished", "provider", *call.usage):
            self._wrong(f"{call.request} of {call.tenant} ({call.tag}) was answered to its end and has the row {is_so}")
        if allowed[call.request, 1] != 1:
            self._wrong(f"{call.request} of {call.tenant} has {allowed[call.request, 1]} entries")

    def _account(self, id: str) -> None:
        sure, maybe = self.expected.sure[id], self.expected.maybe[id]
        _, last = self.survivor.ask("tenants.show", id=id)
        status = last.get("answer", {}).get("tenant", {}).get("status")
        if status not in (sure.status, maybe.status):
            self._wrong(f"{id} is {status}, not {sure.status}")
        _, last = self.survivor.ask("tenants.quota.show", id=id)
        limits = {quota["name"]: quota["limit"] for quota in last.get("answer", {}).get("quota", {}).get("quotas", [])}
        for name in sure.limits.keys() | maybe.limits.keys():
            allowed = (sure.limits.get(name), maybe.limits.get(name))
            if limits.get(name) not in allowed:
                self._wrong(f"{id}: {name} is {limits.get(name)}, not {allowed}")
        secrets = {secret["name"] for secret in self._rows("secret", "secrets.list", tenant=id)}
        if secrets not in (sure.secrets, maybe.secrets):
            self._wrong(f"{id} has the secrets {secrets}, not {sure.secrets}")
        if status == "active":
            self._tokens(id, sure, maybe)

    def _tokens(self, id: str, sure: Account, maybe: Account) -> None:
        unsure = set(sure.tokens.values()) ^ set(maybe.tokens.values())
        for token in set(sure.tokens.values()) - unsure:
            if not self.survivor.accepts(token):
                self._wrong(f"{id}: a token that was shown is not accepted")
        for token in sure.ended_tokens:
            if self.survivor.accepts(token):
                self._wrong(f"{id}: a token that was ended is accepted")
        # A rotation puts the new secret in force first, and shows it last.
        if len(unsure) == 2 and not any([self.survivor.accepts(token) for token in unsure]):
            self._wrong(f"{id}: of a token under rotation neither secret is accepted")

    def _dead(self, id: str, account: Account) -> None:
        for token in account.tokens.values():
            if self.survivor.accepts(token):
                self._wrong(f"a token of the deleted tenant {id} is accepted")
        if (self.survivor.data / "tenants" / id).exists():
            self._wrong(f"the deleted tenant {id} has a directory")
