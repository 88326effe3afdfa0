"""A gateway and a simulated provider as processes of their own, on free loopback ports, in a directory that is thrown away."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import anthropic
import httpx
import openai

PARTYWALL = Path(os.environ.get("PARTYWALL_BIN", "target/debug/partywall")).resolve()
SIMULATOR = Path(os.environ.get("SIMULATOR_BIN") or PARTYWALL.parent / "simulator").resolve()

# USD per token: input, output, cache read, cache write, reasoning. Chosen so that no two buckets can be mistaken for each other.
PRICES = {
    "sim-fast": {
        "input_cost_per_token": "1.1e-06",
        "output_cost_per_token": "2.3e-06",
        "cache_read_input_token_cost": "1.7e-07",
        "cache_creation_input_token_cost": "1.3e-06",
    },
    "sim-large": {
        "input_cost_per_token": "3e-06",
        "output_cost_per_token": "1.5e-05",
        "cache_read_input_token_cost": "3e-07",
        "cache_creation_input_token_cost": "3.75e-06",
        "cache_creation_input_token_cost_above_1hr": "6e-06",
    },
    "sim-reasoning": {
        "input_cost_per_token": "2e-06",
        "output_cost_per_token": "8e-06",
        "output_cost_per_reasoning_token": "1e-05",
        "cache_read_input_token_cost": "5e-07",
        "cache_creation_input_token_cost": "2.5e-06",
    },
    "sim-embed": {"input_cost_per_token": "1.3e-07", "output_cost_per_token": "0.0"},
}
LIMITS = {
    "sim-fast": (131072, 8192),
    "sim-large": (1048576, 32768),
    "sim-reasoning": (262144, 65536),
    "sim-embed": (8192, 0),
}

OPERATOR_OPENAI_KEY = "sk-operator-openai-" + secrets.token_hex(12)
OPERATOR_ANTHROPIC_KEY = "sk-ant-operator-" + secrets.token_hex(12)


def ratecard(prices: dict[str, dict[str, str]] | None = None) -> str:
    """A price file in the usual form. Prices stand in it digit for digit: they are never read as binary fractions here."""
    entries = []
    for model, buckets in (prices or PRICES).items():
        most_in, most_out = LIMITS.get(model, (131072, 8192))
        mode = "embedding" if model == "sim-embed" else "chat"
        facts = [
            f'"litellm_provider": "simulator", "mode": "{mode}"',
            f'"max_tokens": {most_out or most_in}, "max_input_tokens": {most_in}, "max_output_tokens": {most_out}',
        ]
        facts += [f'"{name}": {price}' for name, price in buckets.items()]
        entries.append(f"  {json.dumps(model)}: {{{', '.join(facts)}}}")
    return "{\n" + ",\n".join(entries) + "\n}\n"


def price_of(model: str, uncached: int, output: int, read: int = 0, write: int = 0, reasoning: int = 0) -> Decimal:
    """The exact cost of disjoint buckets by the card above; reasoning stands inside `output`."""
    card = {name: Decimal(price) for name, price in PRICES[model].items()}
    thinking = card.get("output_cost_per_reasoning_token", card["output_cost_per_token"])
    return (
        card["input_cost_per_token"] * uncached
        + card["output_cost_per_token"] * (output - reasoning)
        + thinking * reasoning
        + card.get("cache_read_input_token_cost", Decimal(0)) * read
        + card.get("cache_creation_input_token_cost", Decimal(0)) * write
    )


def eventually(probe, seconds: float = 5.0, what: str = "the condition"):
    """Asks until the answer is true; the answer. Fails with the last answer when the time is over."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come about within {seconds} s; last seen: {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


class Simulator:
    """The simulated provider: it knows every request that reached it and what a real provider would bill for it."""

    def __init__(self, *arguments: str):
        self.process = subprocess.Popen(
            [SIMULATOR, "--until-eof", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line, f"{SIMULATOR} did not start"
        self.addr = json.loads(line)["addr"]
        self.port = int(self.addr.rpartition(":")[2])
        self.openai_url = f"http://{self.addr}/v1"
        self.anthropic_url = f"http://{self.addr}"
        self._http = httpx.Client(base_url=f"http://{self.addr}", timeout=30, trust_env=False)

    def stats(self) -> dict:
        # The question itself must not count among the open connections.
        with httpx.Client(base_url=f"http://{self.addr}", timeout=30, trust_env=False) as http:
            stats = http.get("/sim/stats", headers={"connection": "close"}).json()
        return stats

    def requests(self) -> list[dict]:
        records = self._http.get("/sim/requests").json()
        for record in records:
            record["headers"] = dict(record["headers"])
        return records

    def reset(self) -> None:
        self._http.post("/sim/reset").raise_for_status()

    def mark(self) -> int:
        """A place in the ledger: `since` tells what came after it."""
        eventually(lambda: self.stats()["requests_open"] == 0, 10, "an idle simulator")
        return max((record["seq"] for record in self.requests()), default=0)

    def since(self, mark: int) -> list[dict]:
        """The closed requests after a mark, oldest first, once none is open."""
        eventually(lambda: self.stats()["requests_open"] == 0, 10, "an idle simulator")
        return sorted((record for record in self.requests() if record["seq"] > mark), key=lambda record: record["seq"])

    def one_since(self, mark: int) -> dict:
        records = self.since(mark)
        assert len(records) == 1, f"{len(records)} upstream requests: {records}"
        return records[0]

    def stop(self) -> None:
        self._http.close()
        self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def default_config(sim: Simulator) -> dict:
    """Every way of routing that the suites need. The file is written as JSON, which is YAML."""
    openai_kind = {"kind": "openai", "base_url": sim.openai_url, "api_key": "env:E2E_OPENAI_KEY"}
    anthropic_kind = {"kind": "anthropic", "base_url": sim.anthropic_url, "api_key": "file:anthropic.key"}
    impatient = {"timeouts": {"connect": "1s", "first_byte": "1s", "idle": "1s", "total": "20s"}}

    def model(name: str, *routes: tuple, fallback: list[str] | None = None) -> dict:
        entry = {
            "name": name,
            "routes": [{"provider": p, "model": m, "weight": w} for p, m, w in routes],
        }
        if fallback:
            entry["fallback"] = fallback
        return entry

    return {
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "providers": [
            {"name": "sim-openai", **openai_kind},
            {"name": "sim-anthropic", **anthropic_kind},
            {"name": "sim-drain", **openai_kind, "hang_up": "drain"},
            {"name": "sim-drain-anthropic", **anthropic_kind, "hang_up": "drain"},
            {"name": "sim-impatient", **openai_kind, **impatient},
            {"name": "sim-impatient-anthropic", **anthropic_kind, **impatient},
        ],
        "models": [
            model("sim-fast", ("sim-openai", "sim-fast", 1)),
            model("sim-large", ("sim-openai", "sim-large", 1)),
            model("sim-reasoning", ("sim-openai", "sim-reasoning", 1)),
            model("sim-embed", ("sim-openai", "sim-embed", 1)),
            model("gpt-alias", ("sim-openai", "sim-fast", 1)),
            model("claude-fast", ("sim-anthropic", "sim-fast", 1)),
            model("claude-large", ("sim-anthropic", "sim-large", 1)),
            model("claude-reasoning", ("sim-anthropic", "sim-reasoning", 1)),
            model("weighted", ("sim-openai", "sim-fast", 3), ("sim-openai", "sim-large", 1)),
            model("with-fallback", ("sim-openai", "sim-fast", 1), fallback=["sim-large"]),
            model("cross-fallback", ("sim-openai", "sim-fast", 1), fallback=["claude-large"]),
            model("draining", ("sim-drain", "sim-fast", 1)),
            model("claude-draining", ("sim-drain-anthropic", "sim-fast", 1)),
            model("impatient", ("sim-impatient", "sim-fast", 1)),
            model("claude-impatient", ("sim-impatient-anthropic", "sim-fast", 1)),
            model("=1+1", ("sim-openai", "sim-fast", 1)),
            model("unpriced", ("sim-openai", "sim-nobody-prices-this", 1)),
        ],
        "tasks": {"reasoning": "sim-reasoning", "embedding": "sim-embed"},
        "tiers": {
            "standard": {"model": "sim-fast"},
            "narrow": {
                "models": ["sim-fast", "sim-large"],
                "model": "sim-fast",
                "max_tokens": 64,
                "temperature": 0.7,
            },
            "marked-up": {"model": "sim-fast", "markup": 1.25},
        },
        "ratecards": ["ratecards/e2e.json"],
    }


@dataclass
class Tenant:
    """A tenant as its own app sees it: an id, a token, a gateway."""

    gateway: Gateway
    id: str
    token: str
    created: dict = field(default_factory=dict)

    def openai(self, token: str | None = None, **options) -> openai.OpenAI:
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", 30)
        return openai.OpenAI(base_url=f"{self.gateway.url}/v1", api_key=token or self.token, **options)

    def anthropic(self, token: str | None = None, **options) -> anthropic.Anthropic:
        options.setdefault("max_retries", 0)
        options.setdefault("timeout", 30)
        return anthropic.Anthropic(base_url=self.gateway.url, api_key=token or self.token, **options)

    @property
    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}

    def post(self, path: str, body, **options) -> httpx.Response:
        headers = {**self.bearer, **options.pop("headers", {})}
        if path.startswith("/v1/messages"):
            headers.setdefault("anthropic-version", "2023-06-01")
        if isinstance(body, (bytes, str)):
            headers.setdefault("content-type", "application/json")
            return self.gateway.http.post(path, content=body, headers=headers, **options)
        return self.gateway.http.post(path, json=body, headers=headers, **options)

    def chat(self, content: str = "Hello", model: str = "sim-fast", **members) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **members}
        return self.post("/v1/chat/completions", body)

    def rows(self) -> list[dict]:
        """The ledger, oldest first, one object for each upstream attempt."""
        return self.gateway.rows(self.id)

    def row(self, request_id: str) -> dict:
        rows = [row for row in self.rows() if row["request_id"] == request_id]
        assert len(rows) == 1, f"{len(rows)} rows for {request_id}: {rows}"
        return rows[0]

    def audit(self, limit: int = 100_000) -> list[dict]:
        return self.gateway.json("audit", "tail", "--tenant", self.id, "--limit", str(limit))

    @property
    def directory(self) -> Path:
        return self.gateway.data / "tenants" / self.id

    @property
    def overlay(self) -> Path:
        return self.directory / "config.yaml"

    def write_overlay(self, text: str) -> None:
        fresh = self.directory / ".config.yaml.new"
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(self.overlay)


class Gateway:
    """The real binary over a data directory of its own."""

    def __init__(self, sim: Simulator, config: dict | None = None, card: str | None = None):
        self.sim = sim
        self.directory = Path(tempfile.mkdtemp(prefix="partywall-e2e-"))
        self.data = self.directory / "data"
        self.process: subprocess.Popen | None = None
        self.url = self.admin_url = ""
        self._http: httpx.Client | None = None
        self._names = iter(range(1, 1_000_000))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("PARTYWALL_")},
            "E2E_OPENAI_KEY": OPERATOR_OPENAI_KEY,
        }
        for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"):
            self.environment.pop(key, None)
        self.initialised = self.json("init")
        self.operator_key = self.initialised["operator_key"]
        self.write("anthropic.key", OPERATOR_ANTHROPIC_KEY + "\n")
        self.write("ratecards/e2e.json", card or ratecard())
        self.configure(config or default_config(sim))

    def write(self, name: str, text: str) -> None:
        path = self.data / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(text)

    def configure(self, config: dict) -> None:
        self.config = config
        self.write("partywall.yaml", json.dumps(config, indent=2))

    # The process.

    def start(self, wrap: list[str] | None = None) -> Gateway:
        self.spawn(wrap)
        line = self._first_line(20)
        assert line.startswith("{"), f"the gateway did not start: {line!r}\n{self.output()}"
        bound = json.loads(line)
        self.url, self.admin_url = f"http://{bound['listen']}", f"http://{bound['admin_listen']}"
        self.host, port = bound["listen"].rsplit(":", 1)
        self.port = int(port)
        # The pipe is drained so that the program never waits for its reader.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        eventually(self._ready, 10, "/readyz")
        return self

    def spawn(self, wrap: list[str] | None = None) -> None:
        """Starts the process and waits for nothing."""
        assert self.process is None
        self.stderr = (self.directory / "stderr").open("ab")
        command = [*(wrap or []), PARTYWALL, "serve", "--data", self.data, "--json"]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            env=self.environment,
            cwd=self.directory,
            start_new_session=True,
            text=True,
        )

    def _first_line(self, seconds: float) -> str:
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.append(self.process.stdout.readline()), daemon=True)
        reader.start()
        reader.join(seconds)
        return lines[0] if lines else ""

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def http(self) -> httpx.Client:
        if self._http is None or str(self._http.base_url).rstrip("/") != self.url:
            self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        return self._http

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM, and the exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the gateway did not end within {seconds} s of SIGTERM") from None
        finally:
            self._forget()
        return status

    def kill(self) -> None:
        """SIGKILL: the crash."""
        self.process.kill()
        self.process.wait()
        self._forget()

    def _forget(self) -> None:
        self.process = None
        self.stderr.close()
        if self._http is not None:
            self._http.close()
            self._http = None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()
        shutil.rmtree(self.directory, ignore_errors=True)

    # What it says.

    def output(self) -> str:
        path = self.directory / "stderr"
        return path.read_text(errors="replace")[-8_000:] if path.exists() else ""

    def log_text(self) -> str:
        path = self.data / "gateway.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.log_text().splitlines()]

    # The command line.

    def cli(self, *arguments: str, stdin: str = "", check: bool = False, timeout: float = 60) -> subprocess.CompletedProcess:
        done = subprocess.run(
            [PARTYWALL, *map(str, arguments), "--data", self.data],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.directory,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, f"partywall {' '.join(map(str, arguments))}: {done.stderr}"
        return done

    def json(self, *arguments: str, stdin: str = ""):
        done = self.cli(*arguments, "--json", stdin=stdin, check=True)
        return json.loads(done.stdout)

    def refused(self, *arguments: str, stdin: str = "") -> str:
        """A command that must be refused; the one line that says why."""
        done = self.cli(*arguments, stdin=stdin)
        assert done.returncode == 1, f"{arguments}: exit {done.returncode}, {done.stdout}{done.stderr}"
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), f"{arguments}: {done.stderr!r}"
        return lines[0]

    def tenant(self, name: str | None = None, *options: str, tier: str = "standard") -> Tenant:
        name = name or f"tenant-{next(self._names)}"
        created = self.json("tenants", "create", name, "--tier", tier, *options)
        return Tenant(self, name, created["token"], created)

    def issue(self, tenant: Tenant, name: str, role: str, *options: str) -> str:
        return self.json("tenants", "token", "issue", tenant.id, "--name", name, "--role", role, *options)["token"]

    def rows(self, tenant: str | None = None) -> list[dict]:
        which = ["--tenant", tenant] if tenant else []
        done = self.cli("billing", "report", "--detail", "--format", "json", *which, check=True)
        return json.loads(done.stdout)

    def admin(self, method: str, path: str, **options) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.operator_key}", **options.pop("headers", {})}
        return httpx.request(method, self.admin_url + path, headers=headers, timeout=30, trust_env=False, **options)


@contextlib.contextmanager
def raw_connection(gateway: Gateway, timeout: float = 10):
    with socket.create_connection((gateway.host, gateway.port), timeout=timeout) as connection:
        yield connection


def exchange(gateway: Gateway, request: bytes, timeout: float = 10) -> bytes:
    """Sends bytes as they are and reads until the gateway closes or falls silent."""
    with raw_connection(gateway, timeout) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received
