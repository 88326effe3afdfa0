"""System calls that fail, or kill, where a scenario makes them: `strace -e inject` over the real binary."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deployment import Gateway, Tenant, default_config, eventually
from samples import user

WRITES = ("pwrite64", "write", "fallocate", "ftruncate")
SYNCS = ("fdatasync", "fsync")
NAMES = ("renameat", "unlinkat", "unlink", "mkdirat")
CALLS = (*WRITES, *SYNCS, *NAMES, "openat", "pread64")

ERRORS = {
    **dict.fromkeys(WRITES, ("ENOSPC", "EIO", "EDQUOT")),
    **dict.fromkeys(SYNCS, ("EIO", "ENOSPC")),
    **dict.fromkeys(NAMES, ("ENOSPC", "EIO")),
    "openat": ("EMFILE", "ENFILE", "ENOSPC"),
    "pread64": ("EIO",),
}
# What says that room or descriptors are lacking says nothing about what is stored.
PASSING = {"ENOSPC", "EDQUOT", "EMFILE", "ENFILE"}
# What an outsider must not read in an answer.
INTERNALS = re.compile(r"/tmp/|/data/|os error|sqlite|errno|No space|Input/output|tenant\.db|registry|journal|quarantine|\.rs\b|panick", re.I)
# The longest public name there is: a segment of the journal fills with fewer calls.
LONG = "long-" + "x" * 123
ROTATING_CALLS = 450


@dataclass(frozen=True)
class Case:
    """The `nth` call of its kind over these files, in each thread, fails with `error`, or kills; with `lasting` all later ones too."""

    scenario: str
    group: str
    call: str
    nth: int
    error: str
    lasting: bool = False

    def inject(self) -> str:
        what = "signal=SIGKILL" if self.error == "kill" else f"error={self.error}"
        return f"inject={self.call}:{what}:when={self.nth}{'+' if self.lasting else ''}"

    def __str__(self) -> str:
        return f"{self.scenario}/{self.group}/{self.call}:{self.error}:{self.nth}{'+' if self.lasting else ''}"


def config(sim) -> dict:
    made = default_config(sim)
    made["models"].append({"name": LONG, "routes": [{"provider": "sim-openai", "model": "sim-fast", "weight": 1}]})
    return made


def groups(data: Path) -> dict[str, set[str]]:
    """The files of a data directory by what they are. A folder counts for what is opened, made, renamed, removed or synced in it."""

    def database(path: Path) -> set[str]:
        return {f"{path}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")}

    journal, tenants = data / "journal", data / "tenants"
    return {
        "journal": {str(journal)} | {str(journal / name) for name in ("spare", "spare.new", *(f"{n:04}" for n in range(1, 20)))},
        "registry": database(data / "registry.db"),
        "tenant": database(tenants / "acme" / "tenant.db") | {str(tenants / "acme" / ".room")},
        "new": database(tenants / "doomed" / "tenant.db"),
        "folders": {str(data), str(tenants), *(str(tenants / name) for name in ("acme", "globex", "doomed"))},
        "log": {str(data / "gateway.log")},
    }


def strace(data: Path, out: Path, case: Case | None = None) -> list[str]:
    calls = ",".join(CALLS) if case is None else case.call
    command = ["strace", "-D", "-f", "--seccomp-bpf", "-yy", "-s", "300", "-o", str(out), "-e", f"trace={calls}", "-e", "signal=none"]
    if case is not None:
        command += ["-e", case.inject()]
        for path in sorted(groups(data)[case.group]):
            command += ["-P", path]
    return command


def sites(trace: str, data: Path) -> Counter:
    """How often each call is made over each group of files: the most by any one thread, for the calls are counted by thread."""
    by_group, seen = groups(data), defaultdict(Counter)
    for line in trace.splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match is None or match[2] not in CALLS:
            continue
        paths = set(re.findall(r"<(/[^<>]*)>|\"(/[^\"]*)\"", match[3]))
        paths = {path for pair in paths for path in pair if path}
        for group, files in by_group.items():
            if paths & files:
                seen[group, match[2]][match[1]] += 1
    return Counter({site: max(threads.values()) for site, threads in seen.items()})


def cases(scenario: str, counts: Counter) -> list[Case]:
    """Every site, every error, once and from there on, and a kill."""
    every = []
    for (group, call), count in sorted(counts.items()):
        for nth in nths(count):
            for error in ERRORS[call]:
                every += [Case(scenario, group, call, nth, error, lasting) for lasting in (False, True)]
            if call != "pread64":
                every.append(Case(scenario, group, call, nth, "kill"))
    return every


def nths(count: int) -> list[int]:
    """All of them; of what is written a thousand times in a row, the first forty and then ever fewer."""
    chosen, nth = [], 1
    while nth <= count:
        chosen.append(nth)
        nth += 1 if nth < 40 else nth // 4
    return chosen


@dataclass
class Story:
    """What clients and the operator saw while the scenario ran."""

    case: Case | None
    seen: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    refused_commands: list[str] = field(default_factory=list)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    deleted: bool = False
    started: bool = False
    ready_before_end: bool | None = None
    ready_at_end: bool | None = None
    served_at_end: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    exit: int | None = None


class Player:
    """Plays a scenario against a gateway that may fail or die at any point of it."""

    def __init__(self, gateway: Gateway, case: Case | None):
        self.gateway, self.story, self.numbers = gateway, Story(case), iter(range(1, 1_000_000))
        self.http = httpx.Client(timeout=20, trust_env=False)

    def alive(self) -> bool:
        return self.gateway.process is not None and self.gateway.process.poll() is None

    def start(self, wrap: list[str]) -> bool:
        try:
            self.gateway.start(wrap=wrap)
            self.story.started = True
        except AssertionError:
            # It ended with its reason, was killed, or runs and is not ready: the checks tell which of them may be.
            self.story.started = False
        return self.alive() and bool(self.gateway.url)

    def command(self, *arguments: str, stdin: str = "") -> dict | list | None:
        """A command of the operator. What is refused is kept for the checks."""
        if not self.alive():
            return None
        done = self.gateway.cli(*arguments, "--json", stdin=stdin, timeout=60)
        if done.returncode == 0:
            return json.loads(done.stdout or "null")
        self.story.refused_commands.append(f"{' '.join(arguments)}: {done.stderr.strip()}")
        return None

    def create(self, name: str) -> None:
        created = self.command("tenants", "create", name, "--tier", "standard")
        if created is not None:
            self.story.tenants[name] = Tenant(self.gateway, name, created["token"], created)

    def call(self, name: str, dialect: str = "openai", stream: bool = False, model: str | None = None) -> int | None:
        """One call; its end, where it was seen, is remembered. Returns the status."""
        tenant = self.story.tenants.get(name)
        if tenant is None or not self.alive():
            return None
        number = next(self.numbers)
        tokens = (number % 90 + 1, number % 40 + 1)
        content = f"[[sim:fixed_usage={tokens[0]}:{tokens[1]} tag=f{number}]]"
        path = "/v1/chat/completions" if dialect == "openai" else "/v1/messages"
        model = model or ("sim-fast" if dialect == "openai" else "claude-fast")
        body = {"model": model, "max_tokens": 60, "stream": stream, "messages": user(content)}
        headers = {**tenant.bearer, "anthropic-version": "2023-06-01"}
        try:
            with self.http.stream("POST", self.gateway.url + path, json=body, headers=headers) as answer:
                text = answer.read().decode()
        except httpx.TransportError:
            return None
        if answer.status_code != 200:
            self.story.refused.append((answer.status_code, dialect, text))
        elif ended(text, dialect, stream):
            self.story.seen[answer.headers["x-request-id"]] = (name, *tokens)
        return answer.status_code

    def standard(self) -> None:
        for name in ("acme", "globex"):
            self.call(name)
        self.create("doomed")
        self.call("doomed")
        self.call("acme", stream=True)
        self.call("globex", "anthropic", stream=True)
        self.call("acme", model="no-such-model")
        self.command("secrets", "set", "acme", "sim-openai", stdin="sk-own")
        self.command("secrets", "rotate", "acme")
        self.command("tenants", "quota", "set", "acme", "--tokens-per-day", "123456")
        self.command("billing", "report")
        self.call("acme", "anthropic")
        self.command("audit", "rotate-key", "--tenant", "acme")
        self.call("acme", stream=True)
        self.command("billing", "report")
        if "doomed" in self.story.tenants:
            self.story.deleted = self.command("tenants", "delete", "doomed", "--confirm", "doomed") is not None

    def rotating(self) -> None:
        """So many calls that the journal goes on in the next segment, then a fold of them all."""
        with ThreadPoolExecutor(8) as pool:
            names = [("acme", "globex")[n % 2] for n in range(ROTATING_CALLS)]
            list(pool.map(lambda name: self.call(name, model=LONG), names))
        self.command("billing", "report")

    def ready(self) -> bool | None:
        try:
            return self.http.get(f"{self.gateway.url}/readyz").status_code == 200
        except httpx.TransportError:
            return None

    def close(self) -> Story:
        """What still works, and the end."""
        story = self.story
        if self.alive() and self.gateway.url:
            story.ready_before_end = self.ready()
            for name in ("globex", "acme"):
                for dialect in ("openai", "anthropic"):
                    status = self.call(name, dialect)
                    if status is not None:
                        story.served_at_end[f"{name}/{dialect}"] = status
            story.ready_at_end = self.ready()
        self.http.close()
        if self.gateway.process is not None:
            try:
                story.exit = self.gateway.stop(30) if self.alive() else self.gateway.process.wait(5)
            finally:
                if self.gateway.process is not None:
                    self.gateway._forget()
        # The last line of a log on a full disk may be cut.
        lines = [line for line in self.gateway.log_text().splitlines() if '"event":"tenant quarantined"' in line]
        story.quarantined = {said["tenant"]: said["reason"] for said in map(json.loads, lines)}
        return story


def ended(text: str, dialect: str, stream: bool) -> bool:
    """Whether an answer came to an end that its reader takes for a good one."""
    if not stream:
        return '"error"' not in text
    return text.rstrip().endswith("data: [DONE]") if dialect == "openai" else "event: message_stop" in text


class Prepared:
    """A deployment with two tenants whose last process was killed, so that there is something to recover; copied for each case."""

    def __init__(self, sim):
        self.sim, self.origin = sim, Gateway(sim, config(sim))
        self.origin.start()
        self.tenants = {name: self.origin.tenant(name) for name in ("acme", "globex")}
        self.origin.json("secrets", "set", "acme", "other", stdin="sk-other")
        for tenant in self.tenants.values():
            assert tenant.chat("Folded.").status_code == 200
        assert len(self.origin.rows()) == 2
        for tenant in self.tenants.values():
            assert tenant.chat("Left in the journal.").status_code == 200
        self.origin.kill()

    def gateway(self) -> tuple[Gateway, dict[str, Tenant]]:
        copy = Gateway(self.sim, self.origin.config)
        shutil.rmtree(copy.data)
        shutil.copytree(self.origin.data, copy.data, ignore=shutil.ignore_patterns("control.sock", "gateway.log", "spare*"))
        return copy, {name: Tenant(copy, name, tenant.token, tenant.created) for name, tenant in self.tenants.items()}

    def close(self) -> None:
        self.origin.close()


def play(prepared: Prepared, case: Case | None, scenario: str, out: Path | None = None) -> tuple[Gateway, Story]:
    """The prepared deployment through the scenario. The gateway is stopped when this returns; the caller closes it."""
    gateway, tenants = prepared.gateway()
    try:
        player = Player(gateway, case)
        player.story.tenants = tenants
        if player.start(strace(gateway.data, out or gateway.directory / "trace", case)):
            getattr(player, scenario)()
        return gateway, player.close()
    except BaseException:
        gateway.close()
        raise


def injected(gateway: Gateway) -> int:
    """How many calls were made to fail."""
    path = gateway.directory / "trace"
    eventually(path.exists, 5, "the trace")
    text = path.read_text(errors="replace")
    return text.count("(INJECTED)") + text.count("SIGKILL")


def tracer_ended(gateway: Gateway) -> None:
    """The tracer writes its last lines after the gateway has ended."""
    path = gateway.directory / "trace"
    eventually(lambda: "+++ " in path.read_text(errors="replace")[-2000:], 5, "the end of the trace")


def strace_works() -> str | None:
    """Why faults cannot be injected here, if they cannot."""
    try:
        done = subprocess.run(["strace", "-e", "inject=fsync:error=EIO", "true"], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        return "strace is not installed"
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr[-200:]}"
