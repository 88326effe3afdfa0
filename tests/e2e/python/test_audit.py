"""The audit log as an auditor gets it: exported, verified by a program of somebody else, and altered in every way."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from deployment import PARTYWALL, PRICES, Gateway, default_config, eventually, price_of, ratecard

VERIFIER = Path(__file__).parents[2] / "audit_verifier" / "verify.py"


def offline(directory: Path, vkey: str, kept: Path | None = None) -> subprocess.CompletedProcess:
    """Runs the verifier that was written from the specifications alone."""
    command = [sys.executable, VERIFIER, directory, "--vkey", vkey]
    return subprocess.run(
        [*command, *(["--checkpoint", kept] if kept else [])], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def busy(gw):
    """A tenant with more entries than one bundle holds: calls, refusals, changes."""
    tenant = gw.tenant()
    early = gw.json("audit", "checkpoint", "--tenant", tenant.id)
    for number in range(270):
        assert tenant.chat(f"Hello {number}").status_code == 200
    assert tenant.chat("Hello", model="no-such-model").status_code == 404
    tenant.early = early
    return tenant


@pytest.fixture
def exported(gw, busy, tmp_path):
    to = tmp_path / "out"
    done = gw.json("audit", "export", "--tenant", busy.id, "--to", to)
    return to, done


def test_an_export_verifies_with_a_program_of_somebody_else(gw, busy, exported, tmp_path):
    to, done = exported
    assert done["entries"] > 272 and done["first"] == 0 and done["tenant"] == busy.id
    for name in ("checkpoint", "vkey", "README", "manifest.json", "tile/0/000", "tile/entries/000"):
        assert (to / name).is_file(), name
    assert (to.stat().st_mode & 0o777, (to / "checkpoint").stat().st_mode & 0o777) == (0o700, 0o600)
    verified = offline(to, done["vkey"])
    assert verified.returncode == 0, verified.stderr + verified.stdout
    assert str(done["entries"]) in verified.stdout
    kept = tmp_path / "kept"
    kept.write_text(busy.early["checkpoint"])
    verified = offline(to, done["vkey"], kept)
    assert verified.returncode == 0, verified.stderr + verified.stdout
    # The key is the one that was shown when the tenant was created.
    assert done["vkey"] == busy.created["audit_vkey"] == (to / "vkey").read_text().splitlines()[0]
    assert gw.json("tenants", "show", busy.id)["audit_vkey"] == done["vkey"]


def peers(to: Path, vkey: str, *kept: Path) -> subprocess.CompletedProcess:
    """An auditor that is built on another project's implementation of signed notes and tiled logs."""
    auditor = PARTYWALL.parent / "tlog_auditor"
    return subprocess.run([auditor, to, vkey, *kept], capture_output=True, text=True, timeout=60, check=False)


def test_an_export_verifies_with_another_projects_libraries(gw, busy, exported, tmp_path):
    to, done = exported
    kept = tmp_path / "kept"
    kept.write_text(busy.early["checkpoint"])
    verified = peers(to, done["vkey"], kept)
    assert (verified.returncode, verified.stdout) == (0, f"verified {done['entries']} entries\n"), verified.stderr
    # Another tenant's key, and a checkpoint of another log, verify nothing.
    other = gw.tenant()
    assert peers(to, other.created["audit_vkey"]).returncode == 1
    kept.write_text(gw.json("audit", "checkpoint", "--tenant", other.id)["checkpoint"])
    assert peers(to, done["vkey"], kept).returncode == 1


def test_our_own_verifier_agrees_and_knows_a_kept_checkpoint(gw, busy, tmp_path):
    kept = tmp_path / "kept"
    kept.write_text(busy.early["checkpoint"])
    done = gw.json("audit", "verify", "--tenant", busy.id, "--since", kept)
    assert done["since"] >= 1 and done["entries"] > 272
    text = gw.cli("audit", "verify", "--tenant", busy.id, check=True).stdout
    assert done["vkey"] in text and "entries" in text
    other = gw.tenant()
    kept.write_text(gw.json("audit", "checkpoint", "--tenant", other.id)["checkpoint"])
    assert "not one of this log" in gw.refused("audit", "verify", "--tenant", busy.id, "--since", kept)
    kept.write_text("nonsense")
    assert "not one of this log" in gw.refused("audit", "verify", "--tenant", busy.id, "--since", kept)
    gw.refused("audit", "verify", "--tenant", busy.id, "--since", tmp_path / "absent")


ALTERATIONS = {
    "an entry's byte": lambda to: flip(to / "tile/entries/000", 700),
    "a tile's byte": lambda to: flip(to / "tile/0/000", 4000),
    "a byte of the right edge": lambda to: flip(next((to / "tile/0").glob("001.p/*")), 5),
    "the checkpoint's size": lambda to: edit(to / "checkpoint", 1, lambda line: str(int(line) - 1)),
    "the checkpoint's root": lambda to: edit(to / "checkpoint", 2, lambda _: base64.b64encode(b"x" * 32).decode()),
    "the last bundle": lambda to: shutil.rmtree(next((to / "tile/entries").glob("001.p"))),
    "a whole bundle": lambda to: (to / "tile/entries/000").unlink(),
    "two entries": lambda to: swap(to / "tile/entries/000"),
}  # fmt: skip


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def edit(path: Path, line: int, change) -> None:
    lines = path.read_text().split("\n")
    lines[line] = change(lines[line])
    path.write_text("\n".join(lines))


def swap(path: Path) -> None:
    content, entries = path.read_bytes(), []
    while content:
        length = 2 + int.from_bytes(content[:2], "big")
        entries.append(content[:length])
        content = content[length:]
    entries[3], entries[4] = entries[4], entries[3]
    path.write_bytes(b"".join(entries))


@pytest.mark.parametrize("what", ALTERATIONS)
def test_an_altered_export_does_not_verify(exported, what):
    to, done = exported
    ALTERATIONS[what](to)
    refused = offline(to, done["vkey"])
    assert refused.returncode == 1, f"{what}: {refused.stdout}"
    refused_too = peers(to, done["vkey"])
    assert refused_too.returncode == 1 and refused_too.stdout.startswith("does not verify: "), f"{what}: {refused_too.stdout}"
    assert len((refused.stdout + refused.stderr).strip().splitlines()) == 1


def test_an_export_needs_a_new_directory_and_leaves_nothing_where_it_fails(gw, busy, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    assert "exists already" in gw.refused("audit", "export", "--tenant", busy.id, "--to", there)
    gw.refused("audit", "export", "--tenant", "nobody", "--to", tmp_path / "out")
    gw.refused("audit", "export", "--tenant", busy.id, "--to", tmp_path / "no" / "such" / "place")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_rotated_key_is_an_entry_signed_by_both_keys(gw, tmp_path):
    tenant = gw.tenant()
    kept = tmp_path / "kept"
    kept.write_text(gw.cli("audit", "checkpoint", "--tenant", tenant.id, check=True).stdout)
    old = tenant.created["audit_vkey"]
    new = gw.json("audit", "rotate-key", "--tenant", tenant.id)["vkey"]
    assert new != old and gw.json("tenants", "show", tenant.id)["audit_vkey"] == new
    tenant.chat()
    done = gw.json("audit", "export", "--tenant", tenant.id, "--to", tmp_path / "out")
    assert (done["vkey"], done["retired_vkeys"]) == (new, [old])
    # Whoever knows either key can follow from it.
    for vkey in (new, old):
        verified = offline(tmp_path / "out", vkey, kept)
        assert verified.returncode == 0, verified.stderr + verified.stdout
    [entry] = [entry for entry in tenant.audit() if entry["action"] == "audit.rotate_key"]
    assert (entry["detail"]["old_key"], entry["detail"]["new_key"]) == (old, new)


def test_the_operators_looks_are_entries(gw, tmp_path):
    tenant = gw.tenant()
    tenant.audit()
    gw.json("audit", "export", "--tenant", tenant.id, "--to", tmp_path / "out")
    gw.json("billing", "report", "--tenant", tenant.id, "--detail", "--format", "json")
    looks = [entry["detail"]["read"] for entry in tenant.audit() if entry["action"] == "operator.access"]
    assert looks == ["audit.tail", "audit.export", "billing.report"]


def page(tenant, **query):
    answer = tenant.gateway.http.get("/tenant/v1/audit", headers=tenant.bearer, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_log_is_searched_by_what_an_entry_says(busy):
    everything = page(busy, limit=1000)
    assert everything["length"] == len(everything["entries"]) and "next" not in everything or everything["next"] is None
    denied = page(busy, decision="deny")["entries"]
    assert [entry["model"] for entry in denied] == ["no-such-model"]
    request = everything["entries"][40]["request_id"]
    assert [entry["request_id"] for entry in page(busy, request_id=request)["entries"]] == [request]
    assert page(busy, action="tenant.create")["entries"][0]["seq"] == 0
    assert page(busy, model="sim-fast", action="tenant.create")["entries"] == []
    first = page(busy, model="sim-fast", limit=100)
    second = page(busy, model="sim-fast", limit=1000, **{"from": first["next"]})
    assert len(first["entries"]) == 100 and len(second["entries"]) == 170
    soon = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert page(busy, since=soon)["entries"] == [] and page(busy, until=soon)["length"] == everything["length"]
    for wrong, said in (({"since": "yesterday"}, "since"), ({"limit": 0}, "limit"), ({"tenant": "globex"}, "known: from")):
        answer = busy.gateway.http.get("/tenant/v1/audit", headers=busy.bearer, params=wrong)
        assert answer.status_code == 400 and said in answer.text, answer.text


def test_the_latest_checkpoint_comes_in_a_header_on_request(gw, tmp_path):
    tenant = gw.tenant()
    ask = {"x-partywall-checkpoint": "include"}
    body = {"model": "sim-fast", "messages": [{"role": "user", "content": "Hello"}]}
    answer = tenant.post("/v1/chat/completions", body, headers=ask)
    note = base64.b64decode(answer.headers["x-partywall-checkpoint"]).decode()
    origin, size = note.split("\n")[:2]
    assert tenant.created["audit_vkey"].startswith(origin + "+")
    # The call itself is in it: its entry was durable before its answer left.
    [own] = [entry for entry in tenant.audit() if entry.get("request_id") == answer.headers["x-request-id"]]
    assert own["seq"] < int(size)
    kept = tmp_path / "kept"
    kept.write_text(note)
    assert gw.json("audit", "verify", "--tenant", tenant.id, "--since", kept)["since"] == int(size)
    streamed = tenant.post("/v1/chat/completions", {**body, "stream": True}, headers=ask)
    assert "x-partywall-checkpoint" in streamed.headers
    own = tenant.gateway.http.get("/tenant/v1/quota", headers={**tenant.bearer, **ask})
    assert "x-partywall-checkpoint" in own.headers
    assert "x-partywall-checkpoint" not in tenant.chat().headers


def test_retention_is_the_tenants_to_set_and_never_below_half_a_year(gw):
    tenant = gw.tenant()
    tenant.write_overlay("audit: { retention_days: 182 }\n")
    assert "audit.retention_days: must be from 183" in gw.refused("config", "check", "--tenant", tenant.id)
    tenant.write_overlay("audit: { retention_days: 200 }\n")
    gw.json("config", "check", "--tenant", tenant.id)


def test_an_exported_entry_says_who_asked_for_what(exported, busy):
    to, _ = exported
    content, entries = (to / "tile/entries/000").read_bytes(), []
    while content:
        length = int.from_bytes(content[:2], "big")
        entries.append(json.loads(content[2 : 2 + length]))
        content = content[2 + length :]
    call = next(entry for entry in entries if entry["action"] == "call_model")
    assert call["tenant"] == busy.id and call["decision"] == "allow" and call["token"] == "default"
    for name in ("model", "provider", "policy_version", "rule", "config", "cost_usd", "request_received", "answer_delivered"):
        assert call[name], name


def calls(tenant) -> list[dict]:
    return [entry for entry in tenant.audit() if entry["action"] == "call_model"]


def test_a_call_names_its_trace_its_region_and_what_was_left(sim):
    config = default_config(sim)
    config["providers"][0]["region"] = "eu-central"
    config["tiers"]["standard"] |= {"cost_per_day_usd": 5, "tokens_per_minute": 100_000}
    gateway = Gateway(sim, config).start()
    try:
        tenant = gateway.tenant()
        trace = secrets.token_hex(16)
        body = {"model": "sim-fast", "max_tokens": 100, "messages": [{"role": "user", "content": "[[sim:fixed_usage=10:5]]"}]}
        parent = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        assert tenant.post("/v1/chat/completions", body, headers=parent).status_code == 200
        assert tenant.post("/v1/chat/completions", body, headers={"traceparent": "nonsense"}).status_code == 200
        [call, untraced] = calls(tenant)
        assert (call["trace_id"], call["region"], call["resource"]) == (trace, "eu-central", "model/sim-fast")
        assert "trace_id" not in untraced
        assert set(call["quotas"]) == {"cost_per_day_usd", "tokens_per_minute"}
        cost = call["quotas"]["cost_per_day_usd"]
        # The call itself is counted at its worst: 100 output tokens, and the bound of its input.
        assert cost["limit"] == "5" and Decimal(4) < Decimal(cost["left"]) <= 5 - price_of("sim-fast", 0, 100)
        assert int(call["quotas"]["tokens_per_minute"]["left"]) < 100_000 - 100
        refused = tenant.post("/v1/chat/completions", {**body, "max_tokens": 8000, "n": 20}, headers=parent)
        assert refused.status_code == 400, refused.text
        denied = calls(tenant)[-1]
        assert (denied["decision"], denied["trace_id"], denied["resource"]) == ("deny", trace, "model/sim-fast")
        quota = denied["quotas"]["tokens_per_minute"]
        assert (quota["limit"], quota["whose"]) == ("100000", "tenant") and int(quota["left"]) < 100_000
    finally:
        gateway.close()


def test_another_rate_card_and_another_configuration_are_entries_of_every_tenant(sim):
    gateway = Gateway(sim).start()
    try:
        one, two = gateway.tenant(), gateway.tenant()
        one.chat()
        card = gateway.directory / "dearer.json"
        card.write_text(ratecard({"sim-fast": {**PRICES["sim-fast"], "input_cost_per_token": "2e-06"}}))
        version = gateway.json("ratecard", "import", card)["version"]
        one.chat()

        def noted(tenant, action: str) -> list[dict]:
            return [entry for entry in tenant.audit() if entry["action"] == action]

        for tenant in (one, two):
            [entry] = noted(tenant, "ratecard.change")
            assert (entry["actor"], entry["ratecard_version"], entry["tenant"]) == ("operator", version, tenant.id)
        [before, after] = calls(one)
        [entry] = noted(one, "ratecard.change")
        assert before["ratecard_version"] != version == after["ratecard_version"]
        assert before["seq"] < entry["seq"] < after["seq"] and entry["detail"]["file"].endswith("dearer.json")
        # A restart has nothing new to say; with another file it has, once, before the first call.
        gateway.stop()
        gateway.start()
        assert len(noted(one, "ratecard.change")) == 1 and noted(one, "config.change") == []
        gateway.stop()
        gateway.configure({**gateway.config, "tasks": {}})
        gateway.start()
        one.chat()
        [entry] = noted(one, "config.change")
        assert entry["actor"] == "configuration" and entry["seq"] < calls(one)[-1]["seq"]
        assert calls(one)[-1]["config"] == entry["config"] != after["config"]
        one.write_overlay("max_tokens: 77\n")
        eventually(lambda: one.chat().status_code == 200 and len(noted(one, "config.change")) == 2, 10, "the overlay's entry")
        assert noted(one, "config.change")[-1]["actor"] == "overlay file"
        gateway.stop()
        gateway.start()
        one.chat()
        assert len(noted(one, "config.change")) == 2
    finally:
        gateway.close()
