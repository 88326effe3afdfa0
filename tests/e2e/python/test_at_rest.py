"""What lies on the disk: nothing in the clear, nothing for others, nothing that the stock program can open."""

from __future__ import annotations

import base64
import json
import re
import secrets
import shutil
import subprocess

import pytest

from deployment import OPERATOR_ANTHROPIC_KEY, OPERATOR_OPENAI_KEY, Gateway
from samples import user

# Written by the operator by hand, and meant to be read.
BY_HAND = {"anthropic.key", "partywall.yaml"}


def canary(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(16)}"


def forms(text: str) -> dict[str, bytes]:
    """The ways in which a secret could lie on a disk. Base64 has three, by the place of the first byte."""
    raw = text.encode()
    found = {"raw": raw, "hex": raw.hex().encode(), "HEX": raw.hex().upper().encode(), "reversed": raw[::-1]}
    for shift in range(3):
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            encoded = encode(b"\0" * shift + raw)
            # Without the characters that neighbours have a part in.
            found[f"{name}+{shift}"] = encoded[2 * bool(shift) + shift : len(encoded) // 4 * 4 - 4]
    found["utf-16"] = text.encode("utf-16-le")
    return found


@pytest.fixture(scope="module")
def filled(sim):
    """A gateway that has seen a canary in every place where one can come in; still running, its journal not yet folded."""
    gateway = Gateway(sim)
    try:
        gateway.start()
        tenant = gateway.tenant("acme")
        marks = {name: canary(name) for name in ("prompt", "system", "argument", "toolresult", "streamed", "refused", "person")}
        marks["byok"] = "sk-" + canary("byok")
        gateway.json("secrets", "set", "acme", "sim-openai", stdin=marks["byok"])
        marks["second token"] = gateway.issue(tenant, "ci", "app")
        marks["first token"] = tenant.token
        marks["operator key"] = gateway.operator_key
        marks["openai key"], marks["anthropic key"] = OPERATOR_OPENAI_KEY, OPERATOR_ANTHROPIC_KEY
        # The simulated answer repeats the prompt: canaries stand in answers too.
        assert marks["prompt"] in tenant.chat(f"Say {marks['prompt']}", user=marks["person"]).text
        assert tenant.chat(f"Say {marks['streamed']}", stream=True).status_code == 200
        call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": marks["argument"]})}}
        turns = [
            {"role": "system", "content": marks["system"]},
            *user("Use the tool."),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": marks["toolresult"]},
        ]
        for model in ("sim-fast", "claude-fast"):
            body = {"model": model, "max_tokens": 100, "messages": turns}
            body["tools"] = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
            assert tenant.post("/v1/chat/completions", body).status_code == 200
        assert tenant.chat(marks["refused"], model="no-such-model").status_code == 404
        assert tenant.chat(f"[[sim:fault=status:400]] {marks['prompt']}").status_code == 400
        assert tenant.chat(f"[[sim:fault=status:500 fault=echo_key]] {marks['prompt']}").status_code == 500
        gateway.http.get("/v1/models", headers={"x-api-key": "tk_acme_" + "f" * 32})
        yield gateway, tenant, marks
    finally:
        gateway.close()


def files(gateway: Gateway):
    return [path for path in gateway.data.rglob("*") if path.is_file() and not path.is_symlink()]


def scan(gateway: Gateway, marks: dict[str, str]) -> list[tuple]:
    found = []
    for path in files(gateway):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            # The journal's next segment is prepared under another name, all zeros.
            assert path.name in ("spare.new", "spare"), path
            continue
        for name, text in marks.items():
            found += [
                (str(path.relative_to(gateway.data)), name, form)
                for form, needle in forms(text).items()
                if needle in content and path.name not in BY_HAND
            ]
    return found


def test_the_scan_itself_finds_what_it_looks_for(tmp_path):
    text = canary("self")
    for shift in range(4):
        for encode in (base64.b64encode, base64.urlsafe_b64encode, lambda b: b.hex().encode(), lambda b: b):
            stored = encode(b"x" * shift + text.encode() + b"tail")
            assert any(needle in stored for needle in forms(text).values()), (shift, encode)


def test_no_byte_under_the_data_directory_shows_content_keys_or_tokens(filled):
    gateway, tenant, marks = filled
    assert scan(gateway, marks) == []
    assert len(tenant.rows()) >= 6, "the fold that this read forces"
    assert scan(gateway, marks) == []
    gateway.stop()
    assert scan(gateway, marks) == []
    gateway.start()
    assert scan(gateway, marks) == []


def test_no_file_is_readable_by_group_or_others(filled):
    gateway, _, _ = filled
    everything = [gateway.data, *gateway.data.rglob("*")]
    assert len(everything) > 8
    loose = [(str(path), oct(path.lstat().st_mode)) for path in everything if path.lstat().st_mode & 0o077]
    assert loose == []


def test_the_stock_program_cannot_open_any_database(filled, missing, tmp_path):
    gateway, _, _ = filled
    program = shutil.which("sqlite3")
    if program is None:
        missing("sqlite3 is not installed")
    databases = [path for path in files(gateway) if path.suffix == ".db"]
    assert {path.name for path in databases} >= {"registry.db", "tenant.db"}
    for database in databases:
        assert not database.read_bytes().startswith(b"SQLite format 3")
        copy = tmp_path / "copy.db"
        shutil.copy(database, copy)
        for statement in ("SELECT count(*) FROM sqlite_master", ".schema", ".dump"):
            done = subprocess.run([program, copy, statement], capture_output=True, text=True)
            assert "not a database" in done.stdout + done.stderr or done.returncode != 0, (database, statement, done)
            assert "CREATE" not in done.stdout
    # The same program opens a database of its own: the test can tell the difference.
    own = tmp_path / "own.db"
    subprocess.run([program, own, "CREATE TABLE t(x)"], check=True)
    assert "CREATE TABLE t" in subprocess.run([program, own, ".schema"], capture_output=True, text=True).stdout


def test_the_log_is_json_lines_each_with_a_tenant_and_shows_tokens_by_their_prefix_only(filled):
    gateway, tenant, marks = filled
    gateway.stop()
    gateway.start()
    text = gateway.log_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert lines and all("tenant" in line for line in lines)
    assert {"acme", None} <= {line["tenant"] for line in lines}
    assert re.findall(r"tk_[a-z0-9-]+_[0-9a-f]+", text) == []
    assert re.findall(r"pk_[0-9a-f]+", text) == []


def test_the_output_of_the_program_shows_nothing_either(filled):
    gateway, _, marks = filled
    text = gateway.output()
    assert [name for name, value in marks.items() if value in text] == []


def test_the_environment_of_the_process_and_its_arguments_hold_no_token(filled):
    gateway, tenant, marks = filled
    arguments = open(f"/proc/{gateway.pid}/cmdline", "rb").read()
    assert all(value.encode() not in arguments for value in marks.values())
