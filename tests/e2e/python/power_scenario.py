"""A run of the real gateway, recorded with everything it did to its files and said to its clients."""

from __future__ import annotations

import pickle
import random
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deployment import PARTYWALL, Gateway, Simulator, Tenant, eventually
from power_trace import STRACE, Event, Reader, is_ended
from samples import user

# A journal's first segment is one mebibyte, and the last quarter of it is kept for one long record: so many calls fill it.
CALLS_TO_FILL_A_SEGMENT = 520
# Numbers of the calls that a kill interrupts: the first one is at its provider then, whatever the machine does.
SLOW = 2_000
BEFORE_THE_KILL = SLOW + 1
CALLERS = 5


@dataclass
class Recording:
    """A run as its events, and what a gateway on a copy of its directory must be told."""

    events: list[Event]
    environment: dict[str, str]
    # The number of the event from which on a power cut is looked at: `init` has said that it is done.
    begin: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    def keep(self, path: Path) -> None:
        path.write_bytes(pickle.dumps(self))

    @staticmethod
    def kept(path: Path) -> Recording:
        return pickle.loads(path.read_bytes())


class Recorded(Gateway):
    """A gateway every process of which is traced, `init` and commands on a directory that nobody serves included."""

    def __init__(self, sim: Simulator):
        self.traces = Path(tempfile.mkdtemp(prefix="partywall-traces-"))
        self.phases: list[tuple[str, object]] = []
        self.tracing: Path | None = None
        super().__init__(sim)
        for path in sorted(self.data.rglob("*")):
            # What the operator laid down: a configuration, a key, prices. How an editor saves files is not this test's concern.
            if path.is_file() and path.name in ("partywall.yaml", "anthropic.key", "e2e.json"):
                self.phases.append(("given", (str(path.relative_to(self.data)), path.read_bytes())))

    def _next(self) -> Path:
        return self.traces / f"{len(self.phases):02}"

    def cli(self, *arguments: str, stdin: str = "", check: bool = False, timeout: float = 60) -> subprocess.CompletedProcess:
        if self.process is not None:
            return super().cli(*arguments, stdin=stdin, check=check, timeout=timeout)
        trace = self._next()
        watched = [part for part in STRACE if part != "-D"]
        done = subprocess.run(
            [*watched, "-o", trace, PARTYWALL, *map(str, arguments), "--data", self.data],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.directory,
            timeout=timeout,
        )
        assert done.returncode == 0, f"partywall {' '.join(map(str, arguments))}: {done.stderr}"
        command = " ".join(map(str, arguments))
        self.phases += [("mark", f"begin {command}"), ("trace", trace), ("mark", f"done {command}")]
        return done

    def record(self) -> Recorded:
        self.tracing = self._next()
        self.phases.append(("trace", self.tracing))
        self.start(wrap=[*STRACE, "-o", str(self.tracing)])
        return self

    def _forget(self) -> None:
        eventually(lambda: is_ended(self.tracing, self.pid), 60, "the end of the trace")
        super()._forget()

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.traces, ignore_errors=True)

    def recording(self) -> Recording:
        """All phases as one run."""
        reader, begin = Reader(self.data), None
        for kind, what in self.phases:
            if kind == "trace":
                reader.read(what)
            elif kind == "given":
                reader.add(Event("given", what[0], what[1]))
            else:
                reader.add(Event("mark", what))
            if kind == "given" or (kind == "mark" and what.startswith("done init")):
                begin = reader.events[-1]
        events = reader.finished()
        # Nothing but what these tests themselves would set belongs into the kept file.
        environment = {name: value for name, value in self.environment.items() if name.startswith(("E2E_", "PATH", "HOME"))}
        return Recording(events, environment, next(n for n, event in enumerate(events) if event is begin) + 1)


class Callers:
    """Clients that call tenants in parallel, whole and streamed, until each has made its calls or the gateway is gone."""

    def __init__(self, gateway: Gateway, tenants: list[Tenant], calls: int, source: random.Random, first: int):
        self.gateway, self.tenants, self.calls, self.source = gateway, tenants, calls, source
        self._numbers = iter(range(first, first + calls))
        self._lock = threading.Lock()
        self.begun = 0
        callers = min(CALLERS, calls)
        self._threads = [threading.Thread(target=self._run, args=(source.random(),), daemon=True) for _ in range(callers)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        for thread in self._threads:
            thread.join(120)

    def _run(self, seed: float) -> None:
        source = random.Random(seed)
        with httpx.Client(base_url=self.gateway.url, timeout=20, trust_env=False) as http:
            while True:
                with self._lock:
                    number = next(self._numbers, None)
                    if number is None:
                        return
                    self.begun += 1
                try:
                    self._call(http, number, source)
                except httpx.TransportError:
                    # The gateway was killed, or a containment ended the stream.
                    return

    def _call(self, http: httpx.Client, number: int, source: random.Random) -> None:
        tenant = source.choice(self.tenants)
        tokens = f"{source.randrange(1, 1000)}:{source.randrange(1, 100)}"
        pace = source.choice(("", "", "", "delay=8ms", "chunks=5 gap=3ms", "chunks=20"))
        model = "claude-fast" if source.random() < 0.3 else "sim-fast"
        body = {
            "model": model,
            "max_tokens": 200,
            "stream": source.random() < 0.4,
            "messages": user(f"[[sim:fixed_usage={tokens} {pace} tag=k{number}]]"),
        }
        path = "/v1/messages" if model == "claude-fast" else "/v1/chat/completions"
        headers = {**tenant.bearer, "anthropic-version": "2023-06-01"}
        if number == SLOW:
            body["messages"] = user(f"[[sim:fixed_usage={tokens} delay=15s tag=k{number}]]")
        if number % 25 == 7:
            # A refusal: an entry in the log, and no attempt.
            body["model"] = "no-such-model"
        http.post(path, json=body, headers=headers)


def changes(gateway: Recorded, acme: Tenant, globex: Tenant) -> None:
    """Everything that an operator changes and sees confirmed, one after another."""
    ci = gateway.issue(acme, "ci", "app")
    gateway.json("audit", "checkpoint", "--tenant", acme.id)
    gateway.json("secrets", "set", globex.id, "sim-openai", stdin="sk-own-of-globex")
    gateway.json("secrets", "set", globex.id, "other", stdin="a value")
    gateway.json("tenants", "quota", "set", acme.id, "--tokens-per-day", "123456789")
    gateway.json("secrets", "rotate", globex.id)
    gone = gateway.tenant("gone")
    gone.chat("[[sim:fixed_usage=5:5 tag=k9001]]")
    gateway.json("tenants", "token", "rotate", acme.id, "--name", "ci")
    gateway.json("secrets", "delete", globex.id, "other")
    gateway.json("audit", "rotate-key", "--tenant", globex.id)
    gateway.rows()
    gone.chat("[[sim:fixed_usage=6:6 tag=k9002]]")
    gateway.json("tenants", "delete", gone.id, "--confirm", gone.id)
    still = gateway.tenant("still")
    still.chat("[[sim:fixed_usage=7:7 tag=k9003]]")
    gateway.json("tenants", "freeze", still.id)
    gateway.json("tenants", "quota", "set", globex.id, "--requests-per-minute", "100000", "--tokens-per-day", "none")
    gateway.json("audit", "checkpoint", "--tenant", globex.id)
    gateway.json("tenants", "token", "revoke", acme.id, "ci")
    assert gateway.http.get("/v1/models", headers={"x-api-key": ci}).status_code == 401
    gateway.json("tenants", "resume", still.id)
    gateway.json("tenants", "suspend", still.id)
    gateway.json("audit", "checkpoint", "--tenant", acme.id)


def recorded(sim: Simulator, seed: int) -> Recording:
    """One run: much at the same time, a kill in the middle of calls, a command that opens the directory itself, a clean end."""
    source = random.Random(f"scenario {seed}")
    gateway = Recorded(sim)
    try:
        gateway.record()
        acme, globex = gateway.tenant("acme"), gateway.tenant("globex")
        with Callers(gateway, [acme, globex], CALLS_TO_FILL_A_SEGMENT, source, 1):
            changes(gateway, acme, globex)
        with Callers(gateway, [acme, globex], 1, source, SLOW):
            eventually(lambda: sim.stats()["requests_open"] == 1, 10, "the slow call at its provider")
            with Callers(gateway, [acme, globex], 60, source, BEFORE_THE_KILL) as others:
                eventually(lambda: others.begun > 20, 10, "calls under way")
                gateway.kill()
        gateway.record()
        with Callers(gateway, [acme, globex], 60, source, 3_000):
            gateway.json("tenants", "quota", "set", acme.id, "--tokens-per-day", "987654321")
            gateway.rows()
        gateway.stop()
        gateway.json("tenants", "quota", "set", globex.id, "--requests-per-minute", "200000")
        gateway.rows()
        return gateway.recording()
    finally:
        gateway.close()
