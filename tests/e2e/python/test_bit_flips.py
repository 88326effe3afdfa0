"""Flipped bits through the real binary: one per trial, on a copy of what a killed gateway left.

`crates/kernel/tests/flips.rs` does the same by the thousand, below the binary. CRASH_COUNT asks for that many of those here, and for
a sample of them through the binary; CRASH_SEED repeats a run. Both are printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deployment import Gateway, eventually

COUNT = int(os.environ.get("CRASH_COUNT", "0"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
SAMPLE = min(max(COUNT, 8), 100)
TENANTS = ("acme", "globex", "initech")
REPOSITORY = Path(__file__).parents[3]


def read(gateway: Gateway, name: str) -> tuple[list, list]:
    """A tenant's rows and entries, but for those about looking at them."""
    entries = json.loads(gateway.cli("audit", "tail", "--tenant", name, "--limit", "100000", "--json", check=True).stdout)
    return gateway.rows(name), [entry for entry in entries if entry["action"] != "operator.access"]


@pytest.fixture(scope="module")
def killed(sim):
    """A gateway that was killed, a copy of what it left, and what is true of that."""
    gateway = Gateway(sim)
    try:
        tenants = {}
        gateway.start()
        for name in TENANTS:
            tenants[name] = gateway.tenant(name)
            gateway.json("secrets", "set", name, "slack", stdin=f"sk-{name}")
        for calls in (60, 12):
            with ThreadPoolExecutor(8) as pool:
                done = pool.map(lambda name: tenants[name].chat("[[sim:fixed_usage=10:5]]").status_code, TENANTS * calls)
                assert set(done) == {200}
            if calls == 60:
                gateway.stop()
                gateway.start()
                for name in TENANTS:
                    read(gateway, name)
        gateway.kill()
        template = gateway.directory / "template"
        shutil.copytree(gateway.data, template, ignore=shutil.ignore_patterns("control.sock"))
        gateway.start()
        truth = {name: read(gateway, name) for name in TENANTS}
        gateway.kill()
        yield gateway, template, tenants, truth
    finally:
        gateway.close()


def targets(template: Path) -> list[Path]:
    files = [path for path in template.rglob("*") if path.name.startswith(("tenant.db", "registry.db"))]
    files += [path for path in (template / "journal").iterdir() if path.name.isdigit()]
    return sorted(path for path in files if not path.name.endswith("-shm") and path.stat().st_size)


def flip(file: Path, draw: random.Random) -> int:
    data = bytearray(file.read_bytes())
    bit = draw.randrange(len(bytes(data).rstrip(b"\0")) * 8)
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    return bit


def trial(killed, file: Path, draw: random.Random) -> str:
    gateway, template, tenants, truth = killed
    shutil.rmtree(gateway.data)
    shutil.copytree(template, gateway.data)
    place = file.relative_to(template)
    print(f"bit {flip(gateway.data / place, draw)} of {place}")
    started = gateway.cli("tenants", "list")
    if started.returncode:
        assert place.name.startswith("registry") and "the registry does not open" in started.stderr, started.stderr
        return "refused to start"
    gateway.start()
    try:
        out = [name for name in TENANTS if not intact(gateway, name, truth[name])]
        # Nobody else notices.
        assert len(out) <= 1, out
        for name in TENANTS:
            answer = tenants[name].chat()
            assert answer.status_code == (503 if name in out else 200), (name, answer.text)
        if not out:
            return "harmless"
        assert place.parts[0] == "journal" or out[0] in place.parts
        told(gateway, tenants[out[0]])
        return repaired(gateway, tenants[out[0]], truth[out[0]])
    finally:
        gateway.kill()


def intact(gateway: Gateway, name: str, truth: tuple[list, list]) -> bool:
    """Reads a tenant through. Whether it is served; then all of it is true."""
    done = gateway.cli("audit", "verify", "--tenant", name)
    rows = gateway.cli("billing", "report", "--detail", "--format", "json", "--tenant", name)
    if gateway.json("tenants", "show", name)["database"]["state"] == "quarantined":
        return False
    assert done.returncode == rows.returncode == 0, done.stderr + rows.stderr
    assert read(gateway, name) == truth
    return True


def told(gateway: Gateway, tenant) -> None:
    assert tenant.chat().json()["error"]["code"] == "tenant_unavailable"
    shown = gateway.json("tenants", "show", tenant.id)["database"]
    assert shown["reason"] and shown["since"]
    assert [line["id"] for line in gateway.json("tenants", "list") if line["quarantined"]] == [tenant.id]
    doctor = json.loads(gateway.cli("doctor", "--json").stdout)["checks"]
    failed = [check for check in doctor if check["state"] == "fail"]
    assert [check["name"] for check in failed] == [f"tenant {tenant.id}"] and shown["reason"] in failed[0]["found"]
    assert f"tenants repair {tenant.id}" in failed[0]["advice"]
    logged = {"tenant": tenant.id, "event": "tenant quarantined"}
    eventually(lambda: [line for line in gateway.log() if logged.items() <= line.items()], 5, "its line in the log")
    # A restart does not forget.
    gateway.stop()
    gateway.start()
    assert tenant.chat().status_code == 503
    assert gateway.json("tenants", "show", tenant.id)["database"] == shown


def repaired(gateway: Gateway, tenant, truth: tuple[list, list]) -> str:
    would = gateway.json("tenants", "repair", tenant.id, "--dry-run")
    assert not would["in_place"] and tenant.chat().status_code == 503
    done = gateway.cli("tenants", "repair", tenant.id, "--yes", "--json")
    if done.returncode:
        assert "nothing of" in done.stderr and would["sources"] == 0
        done = gateway.cli("tenants", "repair", tenant.id, "--yes", "--anew", "--json", check=True)
    said = json.loads(done.stdout)
    assert said["in_place"] and {**said, "in_place": False} == would
    assert tenant.chat().status_code == 200
    rows, entries = read(gateway, tenant.id)
    left = [row for row in truth[0] if row in rows]
    assert rows[: len(left)] == left and len(rows) == len(left) + 1
    if said["sources"]:
        assert len(truth[0]) - len(left) == said["lost_rows"]
    then = {entry["seq"]: entry for entry in truth[1]}
    now = {entry["seq"]: entry for entry in entries}
    gone = numbers(said["lost_entries"]) | numbers(said["replaced_entries"])
    assert all(now.get(seq) == entry or seq in gone for seq, entry in then.items())
    assert [entry for entry in entries if entry["action"] == "tenant.repair"]
    if said["whole"]:
        assert rows[:-1] == truth[0] and not gone
    exported(gateway, tenant, said)
    return "repaired" if said["whole"] else "repaired with losses"


def numbers(ranges: str) -> set[int]:
    pairs = [part.split("-") for part in ranges.split()]
    return {seq for pair in pairs for seq in range(int(pair[0]), int(pair[-1]) + 1)}


def exported(gateway: Gateway, tenant, said: dict) -> None:
    gateway.json("audit", "verify", "--tenant", tenant.id)
    to = gateway.directory / "export"
    shutil.rmtree(to, ignore_errors=True)
    gateway.json("audit", "export", "--tenant", tenant.id, "--to", str(to))
    vkey = gateway.json("tenants", "show", tenant.id)["audit_vkey"]
    verifier = REPOSITORY / "tests/audit_verifier/verify.py"
    done = subprocess.run([sys.executable, verifier, to, "--vkey", vkey, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["entries_lost"] + report["entries_gone"] == len(numbers(said["lost_entries"]))


def test_a_flipped_bit_is_found_or_harmless(killed):
    print(f"{SAMPLE} flips through the binary, seed {SEED}")
    draw = random.Random(SEED)
    files = targets(killed[1])
    for number in range(SAMPLE):
        # Each file in turn, so that a small sample meets every kind.
        file = files[number % len(files)]
        print(f"{number + 1} of {SAMPLE}: {trial(killed, file, draw)}", flush=True)


@pytest.mark.skipif(COUNT == 0, reason="cargo test does a few; CRASH_COUNT asks for more")
def test_flips_below_the_binary():
    environment = {**os.environ, "CRASH_COUNT": str(COUNT), "CRASH_SEED": str(SEED)}
    command = ["cargo", "test", "-q", "-p", "kernel", "--test", "flips", "--", "--nocapture", "--test-threads=1"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout[-4_000:])
    assert done.returncode == 0
