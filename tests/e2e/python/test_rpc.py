"""JSON-RPC by POST: the protocol to the letter, each method, and what others have been attacked with."""

from __future__ import annotations

import json
import time

import pytest

from deployment import Gateway, default_config, raw_connection
from route_fixtures import message
from rpc_client import call, post, refused, result

ORIGIN = "https://console.example.com"
METHODS = ("health", "tenant.get", "tenant.usage", "tenant.quota", "config.get", "secrets.list", "audit.query")


@pytest.fixture(scope="module")
def gw(sim):
    gateway = Gateway(sim, default_config(sim) | {"origins": [ORIGIN]})
    try:
        yield gateway.start()
    finally:
        gateway.close()


@pytest.fixture(scope="module")
def app(gw, acme) -> str:
    return gw.issue(acme, "an-app", "app")


@pytest.fixture(autouse=True)
def paced():
    """The rate is for each token and these tests share one: each begins with room."""
    yield
    time.sleep(0.4)


# The protocol.


def test_a_call_is_answered_under_its_own_id(gw, acme):
    for id in (1, 0, -7, 1.5, 10**30, "a", "", "ü\n", None):
        told = post(gw, acme.token, message("health", id=id)).json()
        assert told["id"] == id and told["result"]["status"] == "ok" and set(told) == {"jsonrpc", "id", "result"}
    for id in ("1e400", "-0", "1.50", "12345678901234567890123456789"):
        raw = post(gw, acme.token, f'{{"jsonrpc":"2.0","id":{id},"method":"health"}}').text
        assert f'"id":{id},' in raw, raw


def test_what_is_no_id_is_refused_with_null(gw, acme):
    for id in ("true", "[1]", "{}", json.dumps("x" * 127)):
        told = post(gw, acme.token, f'{{"jsonrpc":"2.0","id":{id},"method":"health"}}').json()
        assert told["id"] is None and refused(told) == (-32600, "invalid_request")


@pytest.mark.parametrize(
    ("body", "number", "code"),
    [
        ("", -32700, "parse_error"),
        ("{", -32700, "parse_error"),
        ('{"jsonrpc":"2.0"} x', -32700, "parse_error"),
        (b'{"jsonrpc":"2.0","id":1,"method":"h\xff"}', -32700, "parse_error"),
        (b"\xff\xfe{\x00}\x00", -32700, "parse_error"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","id":2}', -32700, "parse_error"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","meth\\u006fd":"tenant.get"}', -32700, "parse_error"),
        ('{"jsonrpc":"2.0","id":1,"method":"tenant.usage","params":{"from":"2026-01-01","from":"2026-01-02"}}', -32700, "parse_error"),
        ('{"jsonrpc":"2.0","id":"\\ud800","method":"health"}', -32700, "parse_error"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","params":' + "[" * 200 + "]" * 200 + "}", -32700, "parse_error"),
        ("[" * 100_000, -32700, "parse_error"),
        ("[]", -32600, "invalid_request"),
        ("1", -32600, "invalid_request"),
        ("null", -32600, "invalid_request"),
        ('"health"', -32600, "invalid_request"),
        ('{"id":1,"method":"health"}', -32600, "invalid_request"),
        ('{"jsonrpc":"1.0","id":1,"method":"health"}', -32600, "invalid_request"),
        ('{"jsonrpc":2.0,"id":1,"method":"health"}', -32600, "invalid_request"),
        ('{"jsonrpc":"2.0","id":1,"method":1}', -32600, "invalid_request"),
        ('{"jsonrpc":"2.0","id":1}', -32600, "invalid_request"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","params":1}', -32600, "invalid_request"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","params":null}', -32600, "invalid_request"),
        ('{"jsonrpc":"2.0","id":1,"method":"health","scopes":["admin"]}', -32600, "invalid_request"),
    ],
)
def test_what_is_no_request_is_told_so(gw, acme, body, number, code):
    answer = post(gw, acme.token, body)
    assert answer.status_code == 200 and refused(answer.json()) == (number, code)
    assert answer.json()["error"]["data"]["request_id"] == answer.headers["x-request-id"]


def test_nesting_is_taken_to_128(gw, acme):
    def nested(depth: int):
        return post(gw, acme.token, f'{{"jsonrpc":"2.0","id":1,"method":"health","params":{{"x":{"[" * depth}{"]" * depth}}}}}').json()

    assert refused(nested(126)) == (-32602, "invalid_params")
    assert refused(nested(127)) == (-32700, "parse_error")


def test_a_batch_is_answered_in_order_and_notifications_are_not(gw, acme):
    batch = [
        message("health", id="a"),
        {"jsonrpc": "2.0", "method": "health"},
        {"jsonrpc": "2.0", "method": "no.such"},
        message("no.such", id="b"),
        7,
        message("tenant.get", {"tenant": "globex"}, id="c"),
        message("tenant.get", id="d"),
    ]
    told = post(gw, acme.token, batch).json()
    assert [one["id"] for one in told] == ["a", "b", None, "c", "d"]
    assert [one.get("error", {}).get("code") for one in told] == [None, -32601, -32600, -32602, None]


def test_notifications_alone_get_no_body(gw, acme):
    for body in ({"jsonrpc": "2.0", "method": "health"}, [{"jsonrpc": "2.0", "method": "no.such"}] * 3):
        answer = post(gw, acme.token, body)
        assert (answer.status_code, answer.content) == (204, b"")


def test_a_batch_of_a_thousand_is_refused_whole(gw, acme):
    before = result(gw, acme.token, "audit.query")["length"]
    told = post(gw, acme.token, [message("secrets.set", {"name": "x", "value": "y"}, id=n) for n in range(1_000)]).json()
    assert refused(told) == (-32600, "batch_too_large") and told["error"]["data"]["limit"] == "50" and told["id"] is None
    assert result(gw, acme.token, "secrets.list") == {"secrets": []} and result(gw, acme.token, "audit.query")["length"] == before
    assert len(post(gw, acme.token, [message("health", id=n) for n in range(50)]).json()) == 50


def test_params_are_refused_by_field_and_limit(gw, acme):
    def wrong(method: str, params) -> tuple:
        data = call(gw, acme.token, method, params)["error"]["data"]
        return data["code"], data.get("field"), data.get("limit")

    assert wrong("audit.query", {"limit": 1001}) == ("invalid_params", "limit", "1000")
    assert wrong("audit.query", {"limit": 0}) == ("invalid_params", "limit", "1")
    assert wrong("audit.query", {"since": "soon"}) == ("invalid_params", "since", None)
    assert wrong("secrets.set", {"name": "a"}) == ("invalid_params", "value", None)
    assert wrong("secrets.set", {"name": "../a", "value": "x"}) == ("invalid_params", "name", None)
    assert wrong("secrets.set", {"name": "a", "value": " "}) == ("invalid_params", "value", None)
    assert wrong("secrets.set", {"name": "a", "value": "x" * 65_537}) == ("invalid_params", "value", "65536")
    assert wrong("health", ["x"]) == ("invalid_params", "params", None)
    assert wrong("tenant.get", {"x" * 5_000: 1})[1] == "x" * 64


def test_unknown_methods_answer_alike_for_every_role(gw, acme, app):
    answers = set()
    for token in (acme.token, app):
        for name in ("no.such", "rpc.", "rpc.list", "rpc.Discover", "Health", "health ", "tenants.delete", "sessions.make", "__proto__", ""):
            told = call(gw, token, name)
            told["error"]["data"].pop("request_id")
            answers.add(json.dumps(told))
    assert len(answers) == 1 and "method_not_found" in answers.pop()


def test_a_body_above_the_limit_is_refused_and_never_buffered(gw, acme):
    def big():
        for _ in range(100):
            yield b"x" * (1 << 20)

    answer = gw.http.post("/rpc", content=big(), headers={"authorization": f"Bearer {acme.token}", "content-type": "application/json"})
    assert answer.status_code == 413 and "524288" in answer.text


def test_only_json_is_taken(gw, acme):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert post(gw, acme.token, message("health"), {"content-type": kind}).status_code == 415
    assert post(gw, acme.token, message("health"), {"content-encoding": "gzip"}).status_code == 415
    assert post(gw, acme.token, message("health"), {"content-type": "application/json; charset=utf-8"}).status_code == 200


# Who may.


def test_a_page_of_another_origin_is_refused_whatever_it_holds(gw, acme):
    """CVE-2026-25253: no check of the origin."""
    for origin in ("https://evil.example", "null", "https://console.example.com.evil.example", "https://console.example.com:444",
                   "http://console.example.com", "https://CONSOLE.example.com", "https://console.example.com/", "", "*",
                   f"{ORIGIN}, {ORIGIN}", f"http://{gw.host}:{gw.port}"):  # fmt: skip
        answer = post(gw, acme.token, message("health"), {"origin": origin})
        assert answer.status_code == 403 and "origin_not_allowed" in answer.text, origin
        assert "access-control-allow-origin" not in answer.headers
    twice = [("authorization", f"Bearer {acme.token}"), ("content-type", "application/json"), ("origin", ORIGIN), ("origin", ORIGIN)]
    assert gw.http.post("/rpc", content=json.dumps(message("health")), headers=twice).status_code == 403
    assert post(gw, acme.token, message("health"), {"origin": ORIGIN}).status_code == 200
    assert post(gw, "tk_nobody_" + "0" * 32, message("health"), {"origin": "https://evil.example"}).status_code == 403


def test_a_token_in_the_url_is_refused(gw, acme):
    for query in (f"token={acme.token}", f"access_token={acme.token}", f"x={acme.token}", "token=x"):
        answer = gw.http.post(f"/rpc?{query}", json=message("health"), headers={"authorization": f"Bearer {acme.token}"})
        assert answer.status_code == 400 and "token_in_url" in answer.text
    assert gw.http.post("/rpc?gatewayUrl=ws://evil", json=message("health"), headers={"x-api-key": acme.token}).status_code == 400


def test_authority_is_never_taken_from_a_message(gw, acme, globex, app):
    """GHSA-rqpp-rjj8-7wv8: scopes that a client declares itself."""
    for member in ("scopes", "role", "roles", "tenant", "tenant_id", "auth", "token"):
        for value in ("admin", globex.id, ["operator.admin"], acme.token):
            assert refused(call(gw, app, "tenant.get", {member: value})) == (-32602, "invalid_params")
            assert refused(post(gw, app, {**message("secrets.list"), member: value}).json()) == (-32600, "invalid_request")
        time.sleep(0.2)
    assert refused(call(gw, app, "secrets.list")) == (-32003, "forbidden")
    headers = {"x-role": "admin", "x-tenant-id": globex.id, "x-partywall-tenant": globex.id}
    assert refused(post(gw, app, message("secrets.list"), headers).json()) == (-32003, "forbidden")
    assert post(gw, app, message("tenant.get"), headers).json()["result"]["id"] == acme.id


def test_a_role_is_refused_before_its_params_are_read(gw, acme, app):
    answers = set()
    for params in ({}, {"name": "x"}, {"name": "../"}, {"nonsense": 1}):
        told = call(gw, app, "secrets.delete", params)
        told["error"]["data"].pop("request_id")
        answers.add(json.dumps(told))
    assert len(answers) == 1 and "forbidden" in answers.pop()
    last = acme.audit()[-1]
    assert (last["action"], last["decision"], last["reason"], last["role"]) == ("secret.delete", "deny", "forbidden", "app")


def test_each_call_is_admitted_anew(gw):
    """GHSA-xmxx-7p24-h892: a rotation that is not honoured. The second call of a batch finds the token ended by the first."""
    tenant = gw.tenant()
    told = post(gw, tenant.token, [message("tenant.rotate", id=1), message("tenant.get", id=2)]).json()
    fresh = told[0]["result"]["tokens"][0]["token"]
    assert refused(told[1]) == (-32001, "invalid_api_key")
    assert post(gw, tenant.token, message("health")).status_code == 401
    assert result(gw, fresh, "tenant.get")["caller"] == {"token": "default", "role": "admin", "person": None}


def test_a_frozen_tenant_reads_and_changes_nothing(gw):
    tenant = gw.tenant()
    gw.json("tenants", "freeze", tenant.id)
    for method in METHODS:
        assert "result" in call(gw, tenant.token, method), method
    assert result(gw, tenant.token, "tenant.get")["status"] == "frozen"
    for method, params in (("secrets.set", {"name": "a", "value": "b"}), ("secrets.delete", {"name": "a"}), ("tenant.rotate", {})):
        assert refused(call(gw, tenant.token, method, params)) == (-32000, "tenant_frozen")
    gw.json("tenants", "suspend", tenant.id)
    assert post(gw, tenant.token, message("health")).status_code == 403


def test_too_many_calls_are_refused_with_a_time_and_come_back(gw):
    tenant, other = gw.tenant(), gw.tenant()
    batch = [message("health", id=number) for number in range(50)]
    told = [answer for _ in range(8) for answer in post(gw, tenant.token, batch).json()]
    limited = [answer for answer in told if "error" in answer]
    assert 100 < len(limited) <= 300 and {refused(answer) for answer in limited} == {(-32029, "rate_limited")}
    assert "result" in call(gw, other.token, "health"), "another tenant's rate is its own"
    time.sleep(limited[-1]["error"]["data"]["retry_after_ms"] / 1_000 + 0.05)
    assert "result" in call(gw, tenant.token, "health")


# The methods.


def test_discover_lists_what_routes_list(gw, acme):
    document = result(gw, acme.token, "rpc.discover")
    assert document["openrpc"].startswith("1.") and document["info"]["version"]
    listed = {route["path"].removeprefix("/rpc#"): route for route in gw.json("routes") if route["method"] == "RPC"}
    described = {method["name"]: method for method in document["methods"]}
    assert described.keys() == listed.keys() and len(described) >= 16
    for name, method in described.items():
        assert listed[name]["access"] == "tenant:" + ",".join(method["x-roles"])
        assert method["paramStructure"] == "by-name" and method["summary"] and method["result"]["schema"]["type"] == "object"


def test_answers_have_the_members_that_the_document_names(gw, acme):
    described = {method["name"]: method for method in result(gw, acme.token, "rpc.discover")["methods"]}
    asked = {name: {} for name in (*METHODS, "audit.checkpoint")} | {"ticket.issue": {"origin": ORIGIN}}
    for name, params in asked.items():
        schema = described[name]["result"]["schema"]
        assert not schema["required"] or set(result(gw, acme.token, name, params)) == set(schema["required"]), name


def test_a_tenant_sees_itself(gw, acme, app):
    seen = result(gw, app, "tenant.get")
    assert (seen["id"], seen["status"], seen["tier"]) == (acme.id, "active", "standard")
    assert seen["caller"] == {"token": "an-app", "role": "app", "person": None}
    assert seen["audit_vkey"] == gw.json("tenants", "show", acme.id)["audit_vkey"]


def test_usage_and_quota_are_those_of_the_rest_routes(gw, acme):
    assert acme.chat().status_code == 200
    head = {"authorization": f"Bearer {acme.token}"}
    member = gw.issue(acme, "a-member", "member")
    assert result(gw, acme.token, "tenant.usage")["rows"] == gw.http.get("/tenant/v1/usage", headers=head).json()
    assert result(gw, acme.token, "tenant.usage", {"to": "2020-01-01"})["rows"] == [] == result(gw, member, "tenant.usage")["rows"]
    both = result(gw, acme.token, "tenant.quota"), gw.http.get("/tenant/v1/quota", headers=head).json()
    assert both[0]["quotas"][0]["name"] == both[1]["quotas"][0]["name"] and both[0].keys() == both[1].keys()
    assert len(result(gw, member, "tenant.quota")["tokens"]) <= 1


def test_secrets_are_sealed_listed_by_name_and_deleted_with_their_entries(gw):
    tenant = gw.tenant()
    assert result(gw, tenant.token, "secrets.set", {"name": "openai", "value": "sk-" + "q" * 40}) == {"done": True}
    listed = result(gw, tenant.token, "secrets.list")
    assert [row["name"] for row in listed["secrets"]] == ["openai"] and "qqqq" not in json.dumps(listed)
    assert [row["name"] for row in gw.json("secrets", "list", tenant.id)] == ["openai"]
    assert result(gw, tenant.token, "secrets.delete", {"name": "openai"}) == {"done": True}
    assert refused(call(gw, tenant.token, "secrets.delete", {"name": "openai"})) == (-32004, "not_found")
    entries = [entry for entry in tenant.audit() if entry["action"].startswith("secret.")]
    told = [(entry["action"], entry["decision"], entry.get("actor"), entry["token"], entry["role"]) for entry in entries]
    assert told == [
        ("secret.set", "allow", "admin", "default", "admin"),
        ("secret.delete", "allow", "admin", "default", "admin"),
        ("secret.delete", "deny", None, "default", "admin"),
    ]
    assert all(entry["request_id"].startswith("req_") for entry in entries) and "qqqq" not in gw.log_text()


def test_a_foreign_secret_is_an_absent_one(gw, acme, globex):
    result(gw, globex.token, "secrets.set", {"name": "only-theirs", "value": "x"})
    answers = [post(gw, acme.token, message("secrets.delete", {"name": name})) for name in ("only-theirs", "nobodys-own")]
    foreign, absent = (answer.text.replace(answer.headers["x-request-id"], "*") for answer in answers)
    assert foreign == absent and "not_found" in foreign
    assert [row["name"] for row in result(gw, globex.token, "secrets.list")["secrets"]] == ["only-theirs"]


def test_a_token_rotates_itself_with_and_without_grace(gw):
    tenant = gw.tenant()
    bound = gw.issue(tenant, "ci", "app")
    first = result(gw, tenant.token, "tenant.rotate", {"grace": "1h"})["tokens"]
    assert len(first) == 1 and first[0]["name"] == "default" and first[0]["old_valid_until"]
    assert "result" in call(gw, tenant.token, "health") and "result" in call(gw, first[0]["token"], "health")
    # The old text lives on in its grace; were it let to rotate, it would outlive it.
    assert refused(call(gw, tenant.token, "tenant.rotate")) == (-32000, "refused")
    everybody = result(gw, first[0]["token"], "tenant.rotate", {"all": True})["tokens"]
    assert sorted(token["name"] for token in everybody) == ["ci", "default"]
    for old in (tenant.token, first[0]["token"], bound):
        assert post(gw, old, message("health")).status_code == 401
    for token in everybody:
        assert "result" in call(gw, token["token"], "health")
    own = next(token["token"] for token in everybody if token["name"] == "default")
    tenant.token = own
    rotations = [entry for entry in tenant.audit() if entry["action"] == "token.rotate"]
    assert [entry["detail"]["name"] for entry in rotations if entry["decision"] == "allow"] == ["default", "ci", "default"]
    assert all(entry["role"] == "admin" and entry["token"] == "default" for entry in rotations)


def test_a_token_that_expires_does_not_get_tokens_that_do_not(gw):
    tenant = gw.tenant()
    brief = gw.issue(tenant, "brief", "admin", "--expires", "1h")
    assert refused(call(gw, brief, "tenant.rotate", {"all": True})) == (-32000, "refused")
    own = result(gw, brief, "tenant.rotate")["tokens"][0]
    assert own["name"] == "brief" and own["expires_at"]


def test_a_rotation_without_an_id_is_not_carried_out(gw):
    tenant = gw.tenant()
    assert post(gw, tenant.token, {"jsonrpc": "2.0", "method": "tenant.rotate"}).status_code == 204
    assert "result" in call(gw, tenant.token, "health")


def test_only_an_admin_changes_anything(gw, acme):
    for role in ("member", "app", "readonly", "auditor"):
        token = gw.issue(acme, f"only-{role}", role)
        for method, params in (("secrets.set", {"name": "a", "value": "b"}), ("secrets.delete", {"name": "a"}), ("tenant.rotate", {})):
            assert refused(call(gw, token, method, params)) == (-32003, "forbidden"), (role, method)


def test_the_audit_log_is_read_in_pages_and_by_filter(gw):
    tenant = gw.tenant()
    for number in range(5):
        result(gw, tenant.token, "secrets.set", {"name": f"s{number}", "value": "x"})
    first = result(gw, tenant.token, "audit.query", {"limit": 3})
    assert [entry["seq"] for entry in first["entries"]] == [0, 1, 2] and first["next"] == 3 and first["length"] > 5
    rest = result(gw, tenant.token, "audit.query", {"from": first["next"]})
    assert rest["next"] is None and [entry["seq"] for entry in rest["entries"]] == list(range(3, first["length"]))
    named = result(gw, tenant.token, "audit.query", {"action": "secret.set", "decision": "allow"})
    assert len(named["entries"]) == 5
    checkpoint = result(gw, tenant.token, "audit.checkpoint")
    assert checkpoint["tenant"] == tenant.id and checkpoint["checkpoint"].splitlines()[1] == str(first["length"])


def test_the_schema_of_the_configuration_names_its_keys(gw, acme):
    schema = result(gw, acme.token, "config.schema")
    assert schema["additionalProperties"] is False and {"model", "system_prompt", "tasks"} <= set(schema["properties"])
    assert result(gw, acme.token, "config.get")["tenant"] == acme.id


def test_a_ticket_is_for_a_page_that_is_let_in(gw, acme):
    made = result(gw, acme.token, "ticket.issue", {"origin": ORIGIN})
    assert made["protocol"].endswith(made["ticket"]) and len(made["ticket"]) == 64
    assert refused(call(gw, acme.token, "ticket.issue", {"origin": "https://evil.example"})) == (-32000, "origin_not_allowed")
    assert made["ticket"] not in gw.log_text()


def test_what_lives_on_a_socket_is_refused_here(gw, acme):
    for method, params in (("audit.subscribe", {}), ("audit.unsubscribe", {"subscription": "audit-1"})):
        assert refused(call(gw, acme.token, method, params)) == (-32000, "websocket_required")


def test_a_change_whose_caller_hangs_up_is_made_or_not_and_never_half(gw):
    """What the log says was set is there."""
    tenant = gw.tenant()
    for number in range(60):
        body = json.dumps(message("secrets.set", {"name": f"s{number}", "value": "x"})).encode()
        head = f"POST /rpc HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.token}\r\ncontent-type: application/json\r\n"
        with raw_connection(gw) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(number % 7 / 1_000)
        time.sleep(0.02)
    time.sleep(0.5)
    entries = [entry for entry in tenant.audit() if entry["action"] == "secret.set" and entry["decision"] == "allow"]
    listed = {row["name"] for row in result(gw, tenant.token, "secrets.list")["secrets"]}
    assert {entry["detail"]["name"] for entry in entries} == listed and len(listed) > 10


# The command line's own client.


def test_the_command_line_asks_a_method_and_prints_its_answer(gw, acme, app):
    told = gw.cli("rpc", "tenant.get", stdin=acme.token + "\n", check=True)
    assert json.loads(told.stdout)["id"] == acme.id
    asked = gw.cli("rpc", "audit.query", '{"limit": 2}', stdin=acme.token, check=True)
    assert len(json.loads(asked.stdout)["entries"]) == 2
    for arguments, stdin, status, said in (
        (("no.such",), acme.token, 2, "no method"),
        (("audit.query", '{"limit": 0}'), acme.token, 2, "limit"),
        (("audit.query", "[1]"), acme.token, 2, "JSON object"),
        (("secrets.set", '{"name": "a", "value": "b"}'), acme.token, 2, "argument"),
        (("secrets.list",), app, 1, "forbidden"),
        (("health",), "tk_nobody_" + "0" * 32, 1, "no valid credential"),
        (("health", "--to", "192.0.2.1:8080"), acme.token, 1, "in the clear"),
    ):
        done = gw.cli("rpc", *arguments, stdin=stdin)
        lines = done.stderr.splitlines()
        assert (done.returncode, len(lines)) == (status, 1) and said in lines[0], (arguments, done)


def test_nothing_of_all_this_was_a_fault_of_ours(gw):
    assert not [line for line in gw.log() if "panic" in line["event"] or line.get("code") == "internal_error"]
