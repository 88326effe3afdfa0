"""A disk that is really full: a small file system of the test's own, filled, watched and freed again."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import threading
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from deployment import Gateway, eventually, price_of
from faults import INTERNALS, LONG, config
from samples import user
from test_alerts import Receiver, fresh_secret

MIB = 1024 * 1024


class SmallDisk:
    """A file system in memory with a gateway's directory on it."""

    def __init__(self, mib: int):
        self.path = Path(tempfile.mkdtemp(prefix="partywall-disk-"))
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", self.path], capture_output=True, text=True)
        if done.returncode != 0:
            self.path.rmdir()
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        self.ballast = self.path / "ballast"

    def free(self) -> int:
        stat = os.statvfs(self.path)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Fills it until no more than `leave` bytes are free."""
        with self.ballast.open("ab") as file:
            try:
                while (rest := self.free() - leave) > 0:
                    file.write(b"x" * min(rest, 64 * 1024))
                    file.flush()
            except OSError:
                # Full to the last byte; what Python still holds goes nowhere.
                os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size)

    def clear(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.path], check=True)
        self.path.rmdir()


@pytest.fixture
def ops():
    server = Receiver()
    yield server
    server.close()


@pytest.fixture
def placed(sim, monkeypatch):
    """Makes a gateway on a small disk."""
    disks, gateways = [], []

    def place(mib: int, secret: str = "", **keys) -> tuple[SmallDisk, Gateway]:
        disks.append(SmallDisk(mib))
        monkeypatch.setattr(tempfile, "tempdir", str(disks[-1].path))
        gateway = Gateway(sim, {**config(sim), **keys})
        gateway.environment["E2E_ALERTS_SECRET"] = secret
        monkeypatch.setattr(tempfile, "tempdir", None)
        gateways.append(gateway)
        return disks[-1], gateway.start()

    yield place
    for gateway in gateways:
        gateway.close()
    for disk in disks:
        disk.close()


def events(gateway: Gateway, event: str) -> list[dict]:
    # The last line of a log on a full disk is whole when there is room again.
    lines = [json.loads(line) for line in gateway.log_text().splitlines(keepends=True) if line.endswith("}\n")]
    return [line for line in lines if line["event"].startswith(event)]


def test_below_the_reserve_calls_are_refused_what_is_under_way_ends_and_all_is_well_when_space_returns(placed, sim, ops):
    alerts = {"webhook": ops.url, "secret": "env:E2E_ALERTS_SECRET"}
    disk, gateway = placed(64, fresh_secret(), alerts=alerts)
    acme = gateway.tenant("acme")
    assert acme.chat("[[sim:fixed_usage=3:4]]").status_code == 200
    eventually(lambda: (gateway.data / "journal" / "spare").exists(), 10, "the spare segment")
    ended = {}

    def stream():
        body = {"model": "sim-fast", "stream": True, "max_tokens": 100, "messages": user("[[sim:chunks=40 gap=100ms fixed_usage=7:8]]")}
        with httpx.stream("POST", gateway.url + "/v1/chat/completions", json=body, headers=acme.bearer, timeout=30, trust_env=False) as answer:
            ended["id"] = answer.headers["x-request-id"]
            ended["text"] = answer.read().decode()

    reader = threading.Thread(target=stream)
    reader.start()
    eventually(lambda: "id" in ended, 10, "the stream")
    # The warning first: a fifth of the disk.
    disk.fill(leave=10 * MIB)
    eventually(lambda: events(gateway, "disk space low"), 10, "the warning")
    assert acme.chat("Still served.").status_code == 200
    assert "warn" in [check["state"] for check in gateway.json("doctor")["checks"] if check["name"] == "disk"]
    disk.fill(leave=4 * MIB)
    eventually(lambda: acme.chat("Hello").status_code == 503, 10, "the refusal")
    before = sim.stats()["requests"]
    size = (gateway.data / "gateway.log").stat().st_size
    for _ in range(40):
        for path, dialect in (("/v1/chat/completions", "openai"), ("/v1/messages", "anthropic")):
            refused = acme.post(path, {"model": "sim-fast", "max_tokens": 9, "messages": user("Hello")})
            assert refused.status_code == 503 and refused.headers["retry-after"] == "30", refused.text
            assert (refused.json().get("type") == "error") == (dialect == "anthropic"), refused.text
            assert not INTERNALS.search(refused.text), refused.text
    assert sim.stats()["requests"] == before, "a refused call reached the provider"
    reader.join(30)
    assert ended["text"].rstrip().endswith("data: [DONE]"), ended["text"][-300:]
    # Readers and the operator go on.
    assert gateway.http.get("/tenant/v1/usage", headers=acme.bearer).status_code == 200
    row = acme.row(ended["id"])
    assert (row["outcome"], Decimal(row["cost_usd"])) == ("finished", price_of("sim-fast", 7, 8))
    gateway.json("tenants", "quota", "set", "acme", "--tokens-per-day", "99999")
    doctor = gateway.cli("doctor", "--json")
    found = next(check for check in json.loads(doctor.stdout)["checks"] if check["name"] == "disk")
    assert doctor.returncode == 1 and found["state"] == "fail" and "reserve" in found["found"], found
    grown = (gateway.data / "gateway.log").stat().st_size - size
    assert grown < 4_000, f"80 refusals wrote {grown} bytes of log into the reserve"
    eventually(lambda: ops.kinds() == ["disk.low", "disk.short"], 10, "the operator's alerts")
    assert [told.data["calls_refused"] for told in ops.got] == [False, True]
    disk.clear()
    eventually(lambda: acme.chat("Again.").status_code == 200, 10, "service without a restart")
    assert len(events(gateway, "disk space short")) == len(events(gateway, "disk space low")) == 1
    back = eventually(lambda: events(gateway, "disk space is back"), 5, "the end of the shortage")
    assert back[0]["refusals_not_logged"] >= 80
    assert gateway.cli("audit", "verify", "--tenant", "acme").returncode == 0


def test_on_a_disk_that_is_full_to_the_last_byte_nothing_is_lost_and_nobody_is_out_of_service(placed):
    disk, gateway = placed(14, disk={"reserve": 0, "warn": 0})
    tenants = [gateway.tenant("acme"), gateway.tenant("globex")]
    seen, refused = {}, []

    def call(tenant):
        answer = tenant.chat("[[sim:fixed_usage=3:4]]", model=LONG, max_tokens=9)
        if answer.status_code == 200:
            seen[answer.headers["x-request-id"]] = tenant.id
        else:
            assert answer.status_code in (500, 503) and not INTERNALS.search(answer.text), answer.text
            refused.append(answer.status_code)
        return answer.status_code

    for tenant in tenants:
        assert call(tenant) == 200
    journal = gateway.data / "journal"
    # The spare segment is larger than the disk: what was made of it must not lie there.
    eventually(lambda: not (journal / "spare.new").exists() and not (journal / "spare").exists(), 5, "a tidy journal")
    disk.fill()
    # The journal has its room already; what it holds cannot be folded, and that is no damage.
    assert all(call(tenant) == 200 for tenant in tenants)
    report = gateway.cli("billing", "report", "--detail", "--format", "json")
    assert report.returncode == 1 and "panicked" not in report.stderr, report.stdout
    for n in range(1500):
        call(tenants[n % 2])
        if len(refused) > 10:
            break
    assert len(refused) > 10, "the journal found room on a full disk"
    assert not events(gateway, "tenant quarantined"), events(gateway, "tenant quarantined")
    disk.clear()
    for tenant in tenants:
        eventually(lambda tenant=tenant: call(tenant) == 200, 10, f"{tenant.id} served without a restart")
    rows = gateway.rows()
    assert set(seen) <= {row["request_id"] for row in rows}
    assert not events(gateway, "tenant quarantined")
    # A restart settles what could not be.
    assert gateway.stop() == 0
    gateway.start()
    rows = gateway.rows()
    assert len({(row["request_id"], row["attempt"]) for row in rows}) == len(rows)
    for tenant in tenants:
        assert gateway.cli("audit", "verify", "--tenant", tenant.id).returncode == 0
        used = {line["name"]: line["used"] for line in gateway.json("tenants", "quota", "show", tenant.id)["quotas"]}
        assert Decimal(used["cost_per_day_usd"]) == sum(Decimal(row["charged_usd"]) for row in rows if row["tenant"] == tenant.id)
    assert "panicked" not in gateway.output()
