"""What audit entries say of a call by the logging level, and what is kept of it: sealed, read by whom it is for, and forgotten."""

from __future__ import annotations

import json
import secrets

import pytest

from canary import Scan, canary
from deployment import Gateway, default_config, eventually
from samples import OPENAI_WEATHER, user

LEVELS = ("basic", "detailed", "full")
PART_BYTES_MAX = 96 * 1024


@pytest.fixture(scope="module")
def gw(sim):
    config = default_config(sim)
    config["tiers"] |= {level: {"model": "sim-fast", "audit_level": level} for level in LEVELS}
    gateway = Gateway(sim, config)
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def full(gw):
    return gw.tenant(tier="full")


def entry_of(tenant, request_id: str) -> dict:
    [entry] = [entry for entry in tenant.audit() if entry.get("request_id") == request_id]
    return entry


def shown(gw, tenant, seq: int) -> dict[str, dict]:
    """What the operator is shown of a call, by side."""
    return {part["part"]: part for part in gw.json("audit", "content", "--tenant", tenant.id, "--seq", str(seq))}


def own_view(gw, token: str, seq):
    return gw.http.get(f"/tenant/v1/audit/{seq}/content", headers={"authorization": f"Bearer {token}"})


def at_rest(gw) -> bytes:
    """Every file, the room that is kept for later cut off; the journal is read as it lies, before and after its fold."""
    content = []
    for path in gw.data.rglob("*"):
        if path.is_file() and not path.is_symlink():
            try:
                content.append(path.read_bytes().rstrip(b"\0"))
            except FileNotFoundError:
                assert path.name in ("spare.new", "spare"), path
    return b"\n".join(content)


@pytest.mark.parametrize("level", LEVELS)
def test_no_level_puts_a_prompt_or_an_answer_on_the_disk_in_the_clear(gw, level):
    tenant, mark = gw.tenant(tier=level), canary()
    answer = tenant.chat(f"Say {mark}", tools=[OPENAI_WEATHER], temperature=0.5, max_tokens=77)
    assert mark in answer.text or answer.json()["choices"][0]["message"].get("tool_calls")
    streamed = tenant.chat(f"Say {mark}", stream=True)
    assert streamed.status_code == 200
    scan = Scan({"mark": mark})
    assert scan.hits(at_rest(gw)) == set()
    entry = entry_of(tenant, answer.headers["x-request-id"])
    # The look at the log has folded the journal into the database.
    assert scan.hits(at_rest(gw)) == set() and mark not in json.dumps(tenant.audit())
    assert ("call" in entry, "content" in entry) == (level != "basic", level == "full")
    if level == "basic":
        return
    call = entry["call"]
    expect = {"operation": "chat.completions", "streamed": False, "messages": 1, "max_tokens": 77, "temperature": "0.5", "tools": 1}
    assert {name: call[name] for name in expect} == expect
    assert call["tool_names"] == ["get_weather"] and call["finish_reason"] in ("stop", "tool_calls", "length")
    assert call["bytes_in"] == int(answer.request.headers["content-length"]) and call["bytes_out"] == len(answer.content)
    assert 0 <= call["first_byte_ms"] < 30_000
    call = entry_of(tenant, streamed.headers["x-request-id"])["call"]
    assert call["streamed"] is True and call["bytes_out"] == len(streamed.content) and call["finish_reason"] == "stop"


def test_what_was_said_is_kept_to_the_byte(gw, full, tmp_path):
    asked = {"model": "sim-fast", "messages": user("Say äöü € 😀")}
    for path, body in (
        ("/v1/chat/completions", asked),
        ("/v1/chat/completions", {**asked, "stream": True}),
        ("/v1/messages", {**asked, "model": "claude-fast", "max_tokens": 60}),
        ("/v1/messages", {**asked, "model": "claude-fast", "max_tokens": 60, "stream": True}),
    ):
        answer = full.post(path, body)
        assert answer.status_code == 200
        entry = entry_of(full, answer.headers["x-request-id"])
        parts = shown(gw, full, entry["seq"])
        assert parts["request"]["text"].encode() == answer.request.content
        assert parts["answer"]["text"].encode() == answer.content
        assert [part["bytes"] for part in entry["content"]] == [len(answer.request.content), len(answer.content)]
        view = own_view(gw, full.token, entry["seq"])
        assert (view.status_code, view.json()) == (200, {"seq": entry["seq"], "content": list(parts.values())})
    # What people read on a terminal.
    text = gw.cli("audit", "content", "--tenant", full.id, "--seq", str(entry["seq"]), check=True).stdout
    assert "request:" in text and "answer:" in text and "äöü" in text
    # An export has entries, and no content.
    done = gw.json("audit", "export", "--tenant", full.id, "--to", tmp_path / "out")
    assert done["entries"] > 4
    names = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"checkpoint", "tile", "vkey", "README", "manifest.json"}


def test_the_official_package_is_kept_too_streamed_and_whole(gw, full):
    word = canary()
    client = full.openai()
    whole = client.chat.completions.with_raw_response.create(model="sim-fast", messages=user(f"Say {word}"))
    stream = client.chat.completions.with_raw_response.create(model="sim-fast", messages=user(f"Say {word}"), stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in stream.parse() if chunk.choices)
    assert word in said
    for raw in (whole, stream):
        parts = shown(gw, full, entry_of(full, raw.headers["x-request-id"])["seq"])
        assert word in parts["request"]["text"]
    assert word in shown(gw, full, entry_of(full, whole.headers["x-request-id"])["seq"])["answer"]["text"]


def test_what_is_long_is_cut_and_its_length_said(gw, full):
    text = secrets.token_hex(60 * 1024)
    answer = full.chat(text)
    assert answer.status_code == 200
    entry = entry_of(full, answer.headers["x-request-id"])
    parts = shown(gw, full, entry["seq"])
    whole = answer.request.content
    assert parts["request"]["text"].encode() == whole[:PART_BYTES_MAX] and parts["request"]["bytes"] == len(whole)


def test_a_call_that_was_left_is_kept_as_far_as_it_went(gw, full):
    body = {"model": "sim-fast", "stream": True, "messages": user("[[sim:gap=50ms]] " + "word " * 200)}
    with gw.http.stream("POST", "/v1/chat/completions", json=body, headers=full.bearer) as answer:
        request_id = answer.headers["x-request-id"]
        received = b""
        for piece in answer.iter_raw():
            received += piece
            if received.count(b"data: ") > 3:
                break
    entry = eventually(lambda: [e for e in full.audit() if e.get("request_id") == request_id], 5, "the entry")[0]
    assert entry["outcome"] == "abandoned"
    kept = shown(gw, full, entry["seq"])["answer"]["text"].encode()
    assert kept.startswith(received) and b"[DONE]" not in kept


def test_who_reads_leaves_an_entry_and_nobody_else_reads(gw, full):
    seq = entry_of(full, full.chat("Hello").headers["x-request-id"])["seq"]
    shown(gw, full, seq)
    for role, status in (("admin", 200), ("auditor", 200), ("member", 403), ("app", 403), ("readonly", 403)):
        token = gw.issue(full, f"reads-{role}", role)
        assert own_view(gw, token, seq).status_code == status, role
    log = full.audit()
    looks = [entry["detail"] for entry in log if entry["action"] == "operator.access" and entry["detail"]["read"] == "audit.content"]
    assert looks[-1] == {"entry": str(seq), "read": "audit.content"}
    reads = [entry for entry in log if entry["action"] == "read_content" and entry.get("detail", {}).get("entry") == str(seq)]
    assert [(entry["decision"], entry["role"]) for entry in reads] == [("allow", "admin"), ("allow", "auditor")]
    # Absent, without content, no place at all, and another tenant's: the same bytes.
    other = gw.tenant(tier="full")
    kept = [entry["seq"] for entry in full.audit() if entry.get("content")]
    mine = {entry["seq"] for entry in other.audit() if entry.get("content")}
    foreign = max(set(kept) - mine)
    answers = {
        (answer.status_code, answer.text.replace(answer.headers["x-request-id"], ""))
        for answer in (own_view(gw, other.token, place) for place in (foreign, 0, 10**15, "-1", "+1", "01", "x", 2**64))
    }
    assert len(answers) == 1 and next(iter(answers))[0] == 404
    assert "nothing is kept" in gw.refused("audit", "content", "--tenant", other.id, "--seq", str(foreign))


def test_what_is_forgotten_is_gone_and_the_log_verifies(gw, tmp_path):
    tenant, mark = gw.tenant(tier="full"), canary()
    ci = gw.issue(tenant, "ci", "app")
    gone = tenant.openai(ci).chat.completions.with_raw_response.create(model="sim-fast", messages=user(f"Say {mark}"))
    stays = tenant.chat("Stay")
    gone, stays = (entry_of(tenant, answer.headers["x-request-id"])["seq"] for answer in (gone, stays))
    assert mark in shown(gw, tenant, gone)["request"]["text"]
    kept = tmp_path / "kept"
    kept.write_text(gw.json("audit", "checkpoint", "--tenant", tenant.id)["checkpoint"])
    done = gw.json("audit", "forget", "--tenant", tenant.id, "--token", "ci")
    assert done["done"] is True
    for _ in range(2):
        assert "was erased for good" in gw.refused("audit", "content", "--tenant", tenant.id, "--seq", str(gone))
        erased = own_view(gw, tenant.token, gone)
        assert (erased.status_code, erased.json()["error"]["code"]) == (410, "content_erased")
        assert "text" in shown(gw, tenant, stays)["answer"]
        verified = gw.json("audit", "verify", "--tenant", tenant.id, "--since", kept)
        assert verified["entries"] > gone
        [entry] = [entry for entry in tenant.audit() if entry["action"] == "person.erase"]
        assert (entry["actor"], entry["detail"]) == ("operator", {"conversations": "0", "kind": "token", "name": "ci"})
        # And after a restart.
        gw.stop()
        gw.start()
    # What the same token says afterwards is kept again.
    later = tenant.openai(ci).chat.completions.with_raw_response.create(model="sim-fast", messages=user("Later"))
    assert "Later" in shown(gw, tenant, entry_of(tenant, later.headers["x-request-id"])["seq"])["request"]["text"]
    assert "nothing readable" in gw.refused("audit", "forget", "--tenant", tenant.id, "--person", "nobody")
    assert gw.cli("audit", "forget", "--tenant", tenant.id).returncode == 2
    assert gw.cli("audit", "forget", "--tenant", tenant.id, "--person", "a", "--token", "b").returncode == 2


def test_content_survives_a_kill(gw):
    tenant, mark = gw.tenant(tier="full"), canary()
    answer = tenant.chat(f"Say {mark}")
    gw.kill()
    gw.start()
    parts = shown(gw, tenant, entry_of(tenant, answer.headers["x-request-id"])["seq"])
    assert mark in parts["request"]["text"] and parts["answer"]["text"].encode() == answer.content


def test_a_tenant_may_have_less_kept_than_its_tier_and_never_more(gw):
    tenant = gw.tenant(tier="detailed")

    def level() -> str:
        return gw.http.get("/tenant/v1/config", headers=tenant.bearer).json()["audit_level"]

    assert level() == "detailed"
    tenant.write_overlay("audit: { level: full }\n")
    assert tenant.chat().status_code == 200 and level() == "detailed"
    tenant.write_overlay("audit: { level: basic }\n")
    eventually(lambda: level() == "basic", 6, "the overlay")
    entry = entry_of(tenant, tenant.chat().headers["x-request-id"])
    assert "call" not in entry
    tenant.write_overlay("audit: { level: everything }\n")
    assert "audit.level: must be basic, detailed or full" in gw.refused("config", "check", "--tenant", tenant.id)
