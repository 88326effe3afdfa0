"""Who may come in, what ends when, and that a tenant finds nothing but its own."""

from __future__ import annotations

import json
import secrets
import threading
import time

import httpx
import pytest

from deployment import (
    OPERATOR_ANTHROPIC_KEY,
    OPERATOR_OPENAI_KEY,
    Gateway,
    Tenant,
    default_config,
    eventually,
    raw_connection,
)
from samples import user


def code(answer: httpx.Response) -> str:
    return answer.json()["error"]["code"]


def bare(answer: httpx.Response) -> tuple:
    """An answer without what differs between any two: date and request id."""
    headers = sorted((k, v) for k, v in answer.headers.items() if k not in ("date", "x-request-id"))
    body = answer.content.replace(answer.headers["x-request-id"].encode(), b"ID")
    return answer.status_code, headers, body


class OpenStream:
    """A stream that goes on for half a minute, read in the background."""

    def __init__(self, tenant: Tenant, token: str | None = None, path: str = "/v1/chat/completions"):
        self.received = b""
        self.ended_at: float | None = None
        self.aborted = self._left = False
        self._headers = {"authorization": f"Bearer {token or tenant.token}"}
        self._path, self._tenant = path, tenant
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.received.count(b"data: ") >= 3 or self.ended_at, 5, "a begun stream")
        assert self.ended_at is None, self.received

    def _read(self):
        order = f"Go on. [[sim:chunks=600 gap=50ms tag={secrets.token_hex(4)}]]"
        body = {"model": "sim-fast", "max_tokens": 2000, "stream": True, "messages": user(order)}
        try:
            with httpx.stream(
                "POST",
                self._tenant.gateway.url + self._path,
                json=body,
                headers=self._headers,
                timeout=20,
                trust_env=False,
            ) as answer:
                for piece in answer.iter_raw():
                    self.received += piece
                    if self._left:
                        return
        except httpx.TransportError:
            self.aborted = True
        self.ended_at = time.monotonic()

    def leave(self):
        self._left = True
        self._thread.join(5)

    def assert_ended_with_an_error_within(self, seconds: float, since: float):
        self._thread.join(seconds + 3)
        assert self.ended_at is not None, "the stream of the old credential went on"
        assert self.ended_at - since <= seconds, f"it took {self.ended_at - since:.2f} s"
        last = [line for line in self.received.decode().splitlines() if line.startswith("data: ")][-1]
        assert "error" in json.loads(last.removeprefix("data: ")), last
        assert b"[DONE]" not in self.received and b"message_stop" not in self.received

    def assert_still_running(self):
        before = len(self.received)
        eventually(lambda: len(self.received) > before or self.ended_at, 3, "another piece")
        assert self.ended_at is None


# Credentials.


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_every_wrong_credential_gets_the_same_bytes(gw, path):
    tenant = gw.tenant()
    expired = gw.issue(tenant, "short", "app", "--expires", "1s")
    revoked = gw.issue(tenant, "gone", "app")
    gw.json("tenants", "token", "revoke", tenant.id, "gone")
    time.sleep(1.2)
    wrong = {
        "unknown tenant": "tk_nobody_" + "0" * 32,
        "wrong secret": f"tk_{tenant.id}_" + "0" * 32,
        "expired": expired,
        "revoked": revoked,
        "malformed": "sk-something-else",
        "too long": "tk_acme_" + "0" * 4_000,
        "other case": tenant.token.upper(),
        "operator key": gw.operator_key,
        "hostile id": "tk_../../etc_" + "0" * 32,
    }
    # A body that would be refused for itself: it must not have been read.
    answers = {
        name: gw.http.post(path, content=b"{not json", headers={"authorization": f"Bearer {token}"})
        for name, token in wrong.items()
    }
    answers["none"] = gw.http.post(path, content=b"{not json")
    reference = bare(answers["unknown tenant"])
    assert reference[0] == 401
    assert {name: bare(answer) for name, answer in answers.items()} == dict.fromkeys(answers, reference)


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "x-goog-api-key"])
def test_each_header_for_keys_is_accepted(acme, gw, header):
    value = f"Bearer {acme.token}" if header == "authorization" else acme.token
    assert gw.http.get("/v1/models", headers={header: value}).status_code == 200


def test_two_credentials_are_refused_even_when_equal(acme, globex, gw):
    for other in (acme.token, globex.token, "nonsense"):
        answer = gw.http.get("/v1/models", headers={**acme.bearer, "x-api-key": other})
        assert (answer.status_code, code(answer)) == (400, "ambiguous_credential")


def test_a_token_in_the_url_is_refused_though_it_is_right(acme, gw):
    for query in (f"key={acme.token}", f"api_key={acme.token}", f"x={acme.token}"):
        for headers in ({}, acme.bearer):
            answer = gw.http.get(f"/v1/models?{query}", headers=headers)
            assert (answer.status_code, code(answer)) == (400, "token_in_url")
            assert acme.token not in answer.text
    assert acme.token not in gw.log_text()


def test_a_cookie_is_no_credential(acme, gw):
    answer = gw.http.get("/v1/models", headers={"cookie": f"token={acme.token}; authorization=Bearer {acme.token}"})
    assert answer.status_code == 401


def test_a_tenant_token_does_not_open_the_admin_listener_nor_the_operator_key_the_public_one(acme, gw):
    assert httpx.get(f"{gw.admin_url}/admin/v1/tenants", headers=acme.bearer, trust_env=False).status_code == 401
    operator = {"authorization": f"Bearer {gw.operator_key}"}
    assert gw.http.get("/v1/models", headers=operator).status_code == 401
    assert gw.admin("GET", "/admin/v1/tenants").status_code == 200
    assert gw.http.get("/admin/v1/tenants", headers=operator).status_code == 404


# Roles.

READS = {
    "/tenant/v1/usage": {"admin", "member", "readonly", "auditor"},
    "/tenant/v1/config": {"admin", "readonly"},
    "/tenant/v1/audit": {"admin", "auditor"},
    "/v1/models": {"admin", "member", "app", "readonly", "auditor"},
}


@pytest.mark.parametrize("role", ["admin", "member", "app", "readonly", "auditor"])
def test_a_role_may_do_exactly_what_its_line_says(gw, acme, role):
    token = {"authorization": f"Bearer {gw.issue(acme, f'as-{role}', role)}"}
    assert acme.chat().status_code == 200
    call = gw.http.post("/v1/chat/completions", json={"model": "sim-fast", "messages": user("Hi")}, headers=token)
    assert call.status_code == (200 if role in ("admin", "member", "app") else 403)
    for path, roles in READS.items():
        answer = gw.http.get(path, headers=token)
        assert answer.status_code == (200 if role in roles else 403), (path, answer.text)
    if role not in READS["/tenant/v1/usage"]:
        return
    # Whose usage: everybody's, or what the member has used itself, attempt by attempt and day by day.
    rows = gw.http.get("/tenant/v1/usage?detail=true", headers=token).json()
    days = gw.http.get("/tenant/v1/usage", headers=token).json()
    csv = gw.http.get("/tenant/v1/usage?detail=true&format=csv", headers=token).text.splitlines()
    if role == "member":
        assert [(row["token"], row["request_id"]) for row in rows] == [("as-member", call.headers["x-request-id"])]
        (row,) = rows
        expected = (row["model"], row["tokens_in"], row["tokens_out"], row["cost_usd"])
        assert [(day["model"], day["tokens_in"], day["tokens_out"], day["cost_usd"]) for day in days] == [expected]
    else:
        assert "default" in {row["token"] for row in rows} and len(rows) == len(acme.rows())
        assert sum(day["tokens_in"] for day in days) == sum(row["tokens_in"] for row in rows)
    assert len(csv) == len(rows) + 1


# The life of a token.


def test_issued_tokens_have_the_documented_form_and_unique_names(gw):
    tenant = gw.tenant()
    prefix, _, secret = tenant.token.rpartition("_")
    assert prefix == f"tk_{tenant.id}" and len(secret) == 32 and int(secret, 16) >= 0
    assert gw.operator_key.startswith("pk_") and len(gw.operator_key) == 35
    first = gw.issue(tenant, "ci", "app")
    assert "ci" in gw.refused("tenants", "token", "issue", tenant.id, "--name", "ci", "--role", "app")
    assert gw.http.get("/v1/models", headers={"x-api-key": first}).status_code == 200
    listed = gw.json("tenants", "token", "list", tenant.id)
    assert {token["name"]: token["role"] for token in listed}["ci"] == "app"
    assert all(token["prefix"] == f"tk_{tenant.id}_" for token in listed)
    assert first not in json.dumps(listed) and tenant.token not in json.dumps(listed)


def test_rotation_ends_the_old_secret_at_once(gw):
    tenant = gw.tenant()
    new = gw.json("tenants", "token", "rotate", tenant.id)["token"]
    assert new != tenant.token
    assert gw.http.get("/v1/models", headers=tenant.bearer).status_code == 401
    assert gw.http.get("/v1/models", headers={"x-api-key": new}).status_code == 200


def test_rotation_with_grace_leaves_the_old_secret_for_so_long(gw):
    tenant = gw.tenant()
    stream = OpenStream(tenant)
    new = gw.json("tenants", "token", "rotate", tenant.id, "--grace", "2s")["token"]
    for token in (tenant.token, new):
        assert gw.http.get("/v1/models", headers={"x-api-key": token}).status_code == 200
    stream.assert_still_running()
    grace_ends = time.monotonic() + 2
    eventually(lambda: gw.http.get("/v1/models", headers=tenant.bearer).status_code == 401, 3.5, "the end of the grace")
    stream.assert_ended_with_an_error_within(1.2, grace_ends)
    assert gw.http.get("/v1/models", headers={"x-api-key": new}).status_code == 200


def test_rotate_all_renews_every_token(gw):
    tenant = gw.tenant()
    other = gw.issue(tenant, "ci", "app")
    renewed = gw.json("tenants", "token", "rotate", tenant.id, "--all")["tokens"]
    assert len(renewed) == 2
    for token in (tenant.token, other):
        assert gw.http.get("/v1/models", headers={"x-api-key": token}).status_code == 401
    for token in renewed:
        assert gw.http.get("/v1/models", headers={"x-api-key": token["token"]}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("how", ["rotate", "revoke", "suspend"])
def test_the_end_of_a_credential_ends_its_open_streams_within_a_second(gw, how, path):
    tenant = gw.tenant()
    token = gw.issue(tenant, "streamer", "app")
    neighbour = OpenStream(tenant, path=path) if how != "suspend" else None
    stream = OpenStream(tenant, token, path)
    if how == "rotate":
        gw.cli("tenants", "token", "rotate", tenant.id, "--name", "streamer", check=True)
    elif how == "revoke":
        gw.cli("tenants", "token", "revoke", tenant.id, "streamer", check=True)
    else:
        gw.cli("tenants", "suspend", tenant.id, check=True)
    stream.assert_ended_with_an_error_within(1.0, time.monotonic())
    if neighbour:
        neighbour.assert_still_running()
        neighbour.leave()
    row = eventually(lambda: [row for row in tenant.rows() if row["token"] == "streamer"], 3, "the row")[0]
    assert row["outcome"] == "abandoned" and row["tokens_out"] >= 1


@pytest.mark.parametrize(("how", "status"), [("suspend", b"403"), ("freeze", b"403"), ("revoke", b"401"), ("rotate", b"401")])
def test_a_credential_that_ends_while_the_body_comes_makes_no_call(gw, sim, how, status):
    tenant = gw.tenant()
    mark = sim.mark()
    body = json.dumps({"model": "sim-fast", "messages": user("Hello")}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.token}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    with raw_connection(gw) as connection:
        connection.sendall(head + body[:10])
        time.sleep(0.2)
        arguments = {"suspend": ["suspend"], "freeze": ["freeze"], "revoke": ["token", "revoke"], "rotate": ["token", "rotate"]}[how]
        names = ["default"] if how == "revoke" else []
        gw.cli("tenants", *arguments, tenant.id, *names, check=True)
        connection.sendall(body[10:])
        assert connection.recv(65536).split(b" ")[1] == status
    assert sim.since(mark) == []


def test_a_call_without_a_maximum_gets_what_the_limits_still_buy(gw, sim):
    tenant = gw.tenant(None, "--tokens-per-day", "3000", tier="standard")
    mark = sim.mark()
    assert tenant.chat().status_code == 200
    bought = json.loads(sim.one_since(mark)["body"])["max_tokens"]
    assert 1500 < bought < 3000


def test_a_fallback_keeps_the_limits_of_the_call(own, sim):
    config = default_config(sim)
    dead = {"name": "dead", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": config["providers"][0]["api_key"]}
    config["providers"].append(dead)
    routes = [{"provider": "dead", "model": "sim-fast", "weight": 1}]
    config["models"].append({"name": "second-try", "routes": routes, "fallback": ["sim-fast"]})
    own.stop()
    own.configure(config)
    own.start()
    tenant = own.tenant(None, "--requests-per-minute", "3")
    answers = [tenant.chat(model="second-try").status_code for _ in range(6)]
    assert answers == [200, 200, 200, 429, 429, 429]


# Suspension and deletion.


@pytest.fixture
def own(sim):
    """A gateway that a test may stop."""
    gateway = Gateway(sim)
    try:
        yield gateway.start()
    finally:
        gateway.close()


def test_a_suspended_tenant_gets_403_with_the_right_token_only_and_works_again_when_resumed(gw):
    tenant = gw.tenant()
    assert gw.json("tenants", "suspend", tenant.id)["status"] == "suspended"
    answer = tenant.chat()
    assert (answer.status_code, code(answer)) == (403, "tenant_suspended")
    assert gw.http.get("/v1/models", headers={"x-api-key": f"tk_{tenant.id}_" + "0" * 32}).status_code == 401
    assert gw.json("tenants", "resume", tenant.id)["status"] == "active"
    assert tenant.chat().status_code == 200


def test_deletion_needs_its_confirmation(gw):
    tenant = gw.tenant()
    gw.refused("tenants", "delete", tenant.id, "--confirm", "another-name")
    assert gw.cli("tenants", "delete", tenant.id).returncode == 2
    assert tenant.chat().status_code == 200


def test_a_deleted_tenant_is_gone_and_its_name_begins_anew(own):
    gw, neighbour, tenant = own, own.tenant("neighbour"), own.tenant("phoenix")
    assert tenant.chat("Remember me.").status_code == 200
    gw.json("secrets", "set", "phoenix", "sim-openai", stdin="sk-phoenix")
    old_uid = gw.json("tenants", "show", "phoenix")["uid"]
    assert len(tenant.rows()) == 1
    kept = {path.name: path.read_bytes() for path in tenant.directory.glob("tenant.db*")}
    assert kept["tenant.db"]
    gw.json("tenants", "delete", "phoenix", "--confirm", "phoenix")
    assert not tenant.directory.exists()
    assert tenant.chat().status_code == 401
    gw.refused("tenants", "show", "phoenix")
    assert "phoenix" not in {line["id"] for line in gw.json("tenants", "list")}
    fresh = gw.tenant("phoenix")
    assert fresh.token != tenant.token and tenant.chat().status_code == 401
    shown = gw.json("tenants", "show", "phoenix")
    assert shown["uid"] != old_uid and [token["name"] for token in shown["tokens"]] == [fresh.created["token_name"]]
    assert fresh.rows() == [] and gw.json("secrets", "list", "phoenix") == []
    assert fresh.chat().status_code == 200

    # The old database put back under the new tenant of the same name does not open, and nobody else notices.
    gw.stop()
    for name in ("tenant.db", "tenant.db-wal", "tenant.db-shm"):
        (tenant.directory / name).unlink(missing_ok=True)
    for name, content in kept.items():
        (tenant.directory / name).write_bytes(content)
        (tenant.directory / name).chmod(0o600)
    gw.start()
    answer = fresh.chat()
    assert (answer.status_code, code(answer)) == (503, "tenant_unavailable")
    assert gw.json("tenants", "show", "phoenix")["database"]["state"] == "quarantined"
    assert neighbour.chat().status_code == 200
    eventually(lambda: [line for line in gw.log() if line["tenant"] == "phoenix" and "quarantined" in line["event"]], 3)
    gw.json("tenants", "delete", "phoenix", "--confirm", "phoenix")
    assert gw.tenant("phoenix").chat().status_code == 200


HOSTILE = [
    "", "Acme", "1st", "-a", "a-", "a_b", "a.b", "..", ".", "../escape", "a/b", "/etc", "a\\b", "a b", "a\nb", "é", "%2e%2e",
    "x" * 33, "tk", "acme;drop", "--help-me", "con", "a\u202eb", "a\u0430",
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("tk", "con")], ids=repr)
def test_a_hostile_id_is_refused_and_creates_nothing(gw, name):
    before = sorted(path.name for path in (gw.data / "tenants").iterdir())
    done = gw.cli("tenants", "create", "--tier", "standard", "--", name) if not name.startswith("--") else gw.cli(
        "tenants", "create", name
    )
    assert done.returncode in (1, 2) and done.stdout == ""
    assert sorted(path.name for path in (gw.data / "tenants").iterdir()) == before
    assert not (gw.data / "escape").exists() and not (gw.directory / "escape").exists()


def test_an_id_that_is_taken_is_refused(gw, acme):
    assert "acme" in gw.refused("tenants", "create", "acme", "--tier", "standard")
    assert acme.chat().status_code == 200


def test_an_unknown_tier_is_refused_by_name(gw):
    assert "no-such-tier" in gw.refused("tenants", "create", "tierless", "--tier", "no-such-tier")
    assert not (gw.data / "tenants" / "tierless").exists()


# Overlay.


def last_body(sim, mark: int) -> dict:
    return json.loads(sim.since(mark)[-1]["body"])


def settles(tenant: Tenant, sim, seen, seconds: float = 5.0, **members) -> dict:
    """Calls until the provider sees the change: a good overlay applies within 5 s."""

    def probe():
        mark = sim.mark()
        answer = tenant.chat(**members)
        body = last_body(sim, mark) if answer.status_code == 200 else {}
        return body if seen(body, answer) else None

    return eventually(probe, seconds, "the overlay")


def test_an_overlay_takes_effect_within_five_seconds(gw, sim):
    tenant = gw.tenant()
    tenant.write_overlay(
        "model: sim-large\n"
        "max_tokens: 77\n"
        "temperature: 0.25\n"
        "system_prompt: You answer for Acme.\n"
        "tasks: { reasoning: claude-reasoning }\n"
        "models: [sim-fast, sim-large, claude-reasoning, claude-fast]\n"
    )
    body = settles(tenant, sim, lambda body, _: "77" in json.dumps(body))
    assert body.get("max_completion_tokens", body.get("max_tokens")) == 77 and body["temperature"] == 0.25
    assert body["messages"][0] == {"role": "system", "content": "You answer for Acme."}
    mark = sim.mark()
    assert tenant.chat("Hi", temperature=1, max_tokens=5).status_code == 200
    body = last_body(sim, mark)
    assert body["temperature"] == 1 and body["max_tokens"] == 5
    mark = sim.mark()
    asked = tenant.post("/v1/messages", {"model": "claude-fast", "max_tokens": 9, "system": "Be brief.", "messages": user("Hi")})
    assert asked.status_code == 200
    system = json.dumps(last_body(sim, mark)["system"])
    assert system.index("You answer for Acme.") < system.index("Be brief.")
    assert tenant.chat(model="reasoning").status_code == 200
    assert tenant.rows()[-1]["model"] == "claude-reasoning"
    assert tenant.chat(model="default").json()["model"] in ("default", "sim-large")
    assert tenant.rows()[-1]["model"] == "sim-large"
    listed = gw.http.get("/v1/models", headers=tenant.bearer).json()["data"]
    assert {model["id"] for model in listed} == {"sim-fast", "sim-large", "claude-reasoning", "claude-fast"}
    assert tenant.chat(model="gpt-alias").status_code == 404
    assert gw.json("config", "show", "--tenant", tenant.id)["max_tokens"] == 77


@pytest.fixture(scope="module")
def picky(gw) -> Tenant:
    return gw.tenant("picky")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_tokens: 10\ncost_per_day_usd: 1000\n", "cost_per_day_usd"),
        ("providers: []\n", "providers"),
        ("api_key: x\n", "api_key"),
        ("markup: 0\n", "markup"),
        ("colour: red\n", "colour"),
        ("max_tokens: many\n", "max_tokens"),
        ("temperature: 3\n", "temperature"),
        ("model: sim-fast\nmodel: sim-large\n", "model"),
        ("model: no-such-model\n", "no-such-model"),
        ("model: &x sim-fast\nsystem_prompt: *x\n", "nchor"),
        ("<<: { model: sim-fast }\n", "erge"),
        ("model: [\n", ""),
    ],
    ids=lambda value: value.split("\n")[-2] if "\n" in value else "",
)
def test_a_bad_overlay_is_refused_by_name(gw, picky, text, named):
    picky.write_overlay(text)
    assert named in gw.refused("config", "check", "--tenant", picky.id)


def test_the_last_good_overlay_holds_while_the_file_is_bad(gw, sim):
    tenant = gw.tenant()
    tenant.write_overlay("max_tokens: 33\n")
    settles(tenant, sim, lambda body, _: 33 in body.values())
    for bad in ("max_tokens: 1\ncost_per_day_usd: 1000\n", "max_tokens: [\n"):
        tenant.write_overlay(bad)
        gw.refused("config", "check", "--tenant", tenant.id)
        # Longer than the file's poll: it has been seen.
        time.sleep(1.3)
        mark = sim.mark()
        assert tenant.chat().status_code == 200
        assert 33 in last_body(sim, mark).values()
    eventually(lambda: [line for line in gw.log() if line["tenant"] == tenant.id and "overlay" in line["event"]], 3, "the log")
    tenant.write_overlay("max_tokens: 34\n")
    assert gw.cli("config", "check", "--tenant", tenant.id).returncode == 0
    settles(tenant, sim, lambda body, _: 34 in body.values())
    tenant.overlay.unlink()
    settles(tenant, sim, lambda body, _: 34 not in body.values())


def test_an_overlay_narrows_its_tier_and_never_widens_it(gw, sim):
    tenant = gw.tenant(tier="narrow")
    mark = sim.mark()
    assert tenant.chat().status_code == 200
    body = last_body(sim, mark)
    assert 64 in (body.get("max_tokens"), body.get("max_completion_tokens")) and body["temperature"] == 0.7
    tenant.write_overlay("max_tokens: 5000\nmodels: [sim-large, claude-fast]\n")
    eventually(lambda: tenant.chat(model="sim-fast").status_code == 404, 5, "the narrowed list")
    mark = sim.mark()
    assert tenant.chat(model="sim-large").status_code == 200
    assert 64 in (last_body(sim, mark).get("max_tokens"), last_body(sim, mark).get("max_completion_tokens"))
    assert tenant.chat(model="claude-fast").status_code == 404


# Foreign equals absent.


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_hidden_model_and_an_absent_one_answer_alike(gw, path):
    tenant = gw.tenant(tier="narrow")

    def ask(model: str) -> tuple:
        answer = tenant.post(path, {"model": model, "max_tokens": 5, "messages": user("Hi")})
        status, headers, body = bare(answer)
        return status, headers, body.replace(model.encode(), b"MODEL")

    hidden, absent = ask("claude-fast"), ask("sunset-fast")
    assert hidden[0] == 404 and hidden == absent
    looked = [gw.http.get(f"/v1/models/{name}", headers=tenant.bearer) for name in ("claude-fast", "sunset-fast")]
    assert looked[0].status_code == 404
    assert bare(looked[0])[2].replace(b"claude-fast", b"M") == bare(looked[1])[2].replace(b"sunset-fast", b"M")
    listed = gw.http.get("/v1/models", headers=tenant.bearer).json()["data"]
    assert {model["id"] for model in listed} == {"sim-fast", "sim-large"}


def test_usage_and_audit_show_own_numbers_only(gw):
    mine, theirs = gw.tenant(), gw.tenant()
    canary = "canary-" + secrets.token_hex(8)
    assert theirs.chat(f"{canary} [[sim:fixed_usage=7777:333]]").status_code == 200
    assert mine.chat("[[sim:fixed_usage=11:22]]").status_code == 200
    for path in ("/tenant/v1/usage", "/tenant/v1/usage?detail=true", "/tenant/v1/audit"):
        answer = gw.http.get(path, headers=mine.bearer)
        assert answer.status_code == 200, answer.text
        assert theirs.id not in answer.text and "7777" not in answer.text and canary not in answer.text
        assert mine.id in answer.text
    for foreign in (theirs.id, "no-such-tenant"):
        answer = gw.http.get(f"/tenant/v1/usage?tenant={foreign}", headers=mine.bearer)
        assert answer.status_code == 400 and foreign not in answer.text


# Provider keys.


@pytest.mark.parametrize(
    ("model", "provider", "header", "operators"),
    [
        ("sim-fast", "sim-openai", "authorization", f"Bearer {OPERATOR_OPENAI_KEY}"),
        ("claude-fast", "sim-anthropic", "x-api-key", OPERATOR_ANTHROPIC_KEY),
    ],
    ids=["openai", "anthropic"],
)
def test_a_tenants_own_key_is_used_for_it_alone(gw, sim, model, provider, header, operators):
    owner, other = gw.tenant(), gw.tenant()
    own = "sk-byok-" + secrets.token_hex(12)
    prefix = "Bearer " if header == "authorization" else ""

    def sent(tenant: Tenant) -> str:
        mark = sim.mark()
        assert tenant.chat(model=model).status_code == 200
        record = sim.one_since(mark)
        assert own not in json.dumps({k: v for k, v in record["headers"].items() if k != header})
        return record["headers"][header]

    assert sent(owner) == operators
    gw.json("secrets", "set", owner.id, provider, stdin=own + "\n")
    assert (sent(owner), sent(other)) == (prefix + own, operators)
    listed = gw.cli("secrets", "list", owner.id, "--json", check=True).stdout
    assert provider in listed and own not in listed
    gw.json("secrets", "delete", owner.id, provider)
    assert sent(owner) == operators
    assert own not in gw.log_text()


def test_under_a_shared_key_each_tenant_has_an_opaque_tag_upstream(gw, sim):
    tenants = [gw.tenant("speaking-name-one"), gw.tenant("speaking-name-two")]

    def tag(tenant: Tenant, model: str, user_given: str | None) -> str:
        mark = sim.mark()
        members = {"user": user_given} if user_given else {}
        assert tenant.chat(model=model, max_tokens=20, **members).status_code == 200
        record = sim.one_since(mark)
        assert "speaking-name" not in json.dumps(record) and "private-person" not in record["body"]
        body = json.loads(record["body"])
        return body["user"] if model == "sim-fast" else body["metadata"]["user_id"]

    seen = {}
    for model in ("sim-fast", "claude-fast"):
        for tenant in tenants:
            seen[tenant.id, model] = tag(tenant, model, None)
            assert tag(tenant, model, "private-person") == seen[tenant.id, model]
    for model in ("sim-fast", "claude-fast"):
        assert len({seen[tenant.id, model] for tenant in tenants}) == 2


# Admin API.


def test_the_admin_api_manages_tenants_and_tokens(gw):
    made = gw.admin("POST", "/admin/v1/tenants", json={"id": "over-http", "tier": "standard"})
    assert made.status_code in (200, 201), made.text
    tenant = Tenant(gw, "over-http", made.json()["token"])
    assert tenant.chat("[[sim:fixed_usage=5:6]]").status_code == 200
    assert "over-http" in gw.admin("GET", "/admin/v1/tenants").text
    usage = gw.admin("GET", "/admin/v1/usage?tenant=over-http")
    assert usage.status_code == 200 and "over-http" in usage.text
    issued = gw.admin("POST", "/admin/v1/tenants/over-http/tokens", json={"name": "ci", "role": "app"})
    token = issued.json()["token"]
    assert gw.http.get("/v1/models", headers={"x-api-key": token}).status_code == 200
    assert gw.admin("DELETE", "/admin/v1/tenants/over-http/tokens/ci").status_code in (200, 204)
    assert gw.http.get("/v1/models", headers={"x-api-key": token}).status_code == 401
    assert gw.admin("POST", "/admin/v1/tenants/over-http/suspend").status_code == 200
    assert tenant.chat().status_code == 403
    assert gw.admin("POST", "/admin/v1/tenants/over-http/resume").status_code == 200
    assert tenant.chat().status_code == 200
    assert gw.admin("GET", "/admin/v1/tenants/absent").status_code == 404


def test_changes_by_the_operator_are_entries_of_that_tenants_log(gw):
    tenant = gw.tenant()
    gw.issue(tenant, "ci", "app")
    gw.json("tenants", "token", "revoke", tenant.id, "ci")
    gw.json("tenants", "suspend", tenant.id)
    gw.json("tenants", "resume", tenant.id)
    gw.json("tenants", "quota", "set", tenant.id, "--tokens-per-day", "1000")
    gw.json("secrets", "set", tenant.id, "sim-openai", stdin="sk-any")
    entries = tenant.audit()
    assert all(entry["tenant"] == tenant.id for entry in entries)
    assert [entry["seq"] for entry in entries] == list(range(entries[0]["seq"], entries[0]["seq"] + len(entries)))
    actions = " ".join(entry["action"] for entry in entries)
    for word in ("token", "suspend", "resume", "quota", "secret"):
        assert word in actions, actions
    assert "sk-any" not in json.dumps(entries)
