"""Rules of a tenant, in the real binary: they narrow what the operator permits, hold their own tests before they hold, and stand in the log."""

from __future__ import annotations

import json

import anthropic
import openai
import pytest

from deployment import Gateway
from samples import OPENAI_WEATHER, user
from test_tenancy import OpenStream, code

RULES = """
policy: |
  @id("no-large-for-apps")
  forbid (principal in Role::"app", action == Action::"call_model", resource == Model::"sim-large");
  @id("not-bob")
  forbid (principal in Person::"bob", action == Action::"call_model", resource);
  @id("no-tools")
  forbid (principal == Token::"plain", action == Action::"call_model", resource) when { context.tools };
  @id("short") @cap("max_tokens=7")
  forbid (principal in Role::"member", action == Action::"call_model", resource);
  @id("ask") @require_approval("admin")
  forbid (principal, action == Action::"call_model", resource == Model::"sim-reasoning");
  @id("hide") @answer("absent")
  forbid (principal, action == Action::"call_model", resource == Model::"gpt-alias");
tests:
  - { name: apps stay small, as: { role: app, token: ci }, action: call_model, resource: sim-large, expect: deny, rule: tenant.no-large-for-apps }
  - { name: apps work, as: { role: app, token: ci }, action: call_model, resource: sim-fast, expect: allow }
  - { name: members are short, as: { role: member, token: t, person: ann }, action: call_model, resource: sim-fast, expect: cap }
"""


def put(gw, tenant, text: str) -> dict:
    return gw.json("policy", "set", "--tenant", tenant.id, "-", stdin=text)


def call(gw, token: str, model: str = "sim-fast", **members):
    body = {"model": model, "messages": user("Hi"), **members}
    return gw.http.post("/v1/chat/completions", json=body, headers={"x-api-key": token})


def sent(sim, mark: int) -> list[dict]:
    return [json.loads(request["body"]) for request in sim.since(mark)]


@pytest.fixture(scope="module")
def ruled(gw):
    tenant = gw.tenant()
    done = put(gw, tenant, RULES)
    assert (done["rules"], done["tests"], done["in_force"]) == (6, 3, True)
    return tenant


@pytest.fixture(scope="module")
def tokens(gw, ruled):
    return {
        "app": gw.issue(ruled, "ci", "app"),
        "plain": gw.issue(ruled, "plain", "app"),
        "member": gw.issue(ruled, "ann", "member"),
        "bob": gw.issue(ruled, "bobs", "admin", "--person", "bob"),
    }


def test_a_rule_refuses_by_name_and_nothing_leaves(gw, sim, ruled, tokens):
    mark = sim.mark()
    for token, model, members, rule in [
        ("app", "sim-large", {}, "tenant.no-large-for-apps"),
        ("bob", "sim-fast", {}, "tenant.not-bob"),
        ("plain", "sim-fast", {"tools": [OPENAI_WEATHER]}, "tenant.no-tools"),
    ]:
        answer = call(gw, tokens[token], model, **members)
        assert (answer.status_code, code(answer)) == (403, "policy_denied"), answer.text
        assert rule in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
        entry = ruled.audit()[-1]
        assert (entry["decision"], entry["reason"], entry["rule"]) == ("deny", "policy_denied", rule)
        assert (entry["action"], entry["model"], entry["request_id"]) == ("call_model", model, answer.headers["x-request-id"])
    assert sim.since(mark) == []
    assert call(gw, tokens["plain"]).status_code == 200
    with pytest.raises(openai.PermissionDeniedError):
        ruled.openai(tokens["app"]).chat.completions.create(model="sim-large", messages=user("Hi"))
    with pytest.raises(anthropic.PermissionDeniedError):
        ruled.anthropic(tokens["bob"]).messages.create(model="claude-fast", max_tokens=5, messages=user("Hi"))


def test_an_allowed_call_names_the_rules_that_allowed_it(gw, ruled, tokens):
    answer = call(gw, tokens["app"])
    entry = next(e for e in ruled.audit() if e.get("request_id") == answer.headers["x-request-id"])
    explained = gw.json("policy", "explain", "--tenant", ruled.id, "--role", "app", "--token", "ci", "call_model", "sim-fast")
    assert (entry["decision"], entry["rule"]) == ("allow", "base.callers-work")
    assert entry["policy_version"] == explained["in_force"]
    assert (explained["decision"], explained["decided_by"]) == ("allow", "base.callers-work")


def test_a_cap_goes_upstream(gw, sim, ruled, tokens):
    for members in ({}, {"max_tokens": 500}):
        mark = sim.mark()
        assert call(gw, tokens["member"], **members).status_code == 200
        assert sent(sim, mark)[0]["max_tokens"] == 7
    mark = sim.mark()
    assert call(gw, tokens["member"], max_tokens=3).status_code == 200
    assert sent(sim, mark)[0]["max_tokens"] == 3
    entry = ruled.audit()[-1]
    assert entry["rule"] == "base.callers-work tenant.short"


def test_what_asks_for_an_approval_is_refused_where_nobody_can_be_asked(gw, sim, ruled, tokens):
    mark = sim.mark()
    answer = call(gw, tokens["app"], "sim-reasoning")
    assert (answer.status_code, code(answer)) == (403, "approval_required")
    assert sim.since(mark) == []


def test_a_hidden_model_and_an_absent_one_look_the_same(gw, ruled, tokens):
    hidden, absent = (call(gw, tokens["app"], model) for model in ("gpt-alias", "gpt-nobody"))
    assert hidden.status_code == absent.status_code == 404
    assert hidden.text.replace("gpt-alias", "gpt-nobody") == absent.text
    names = [model["id"] for model in gw.http.get("/v1/models", headers=ruled.bearer).json()["data"]]
    assert "gpt-alias" not in names and "sim-large" in names
    assert gw.http.get("/v1/models/gpt-alias", headers=ruled.bearer).status_code == 404


def test_a_fallback_goes_by_the_same_rules(gw, sim, tokens, ruled):
    # Falls back to sim-large, which an app may not call: the first route's failure is the answer.
    mark = sim.mark()
    answer = call(gw, tokens["app"], "with-fallback", messages=user("[[sim:fault=status:500]]"))
    assert answer.status_code >= 500
    assert {body["model"] for body in sent(sim, mark)} == {"sim-fast"}


def test_another_tenant_is_not_touched(gw, ruled, tokens):
    other = gw.tenant()
    token = gw.issue(other, "ci", "app")
    assert call(gw, token, "sim-large").status_code == 200
    assert call(gw, token, "gpt-alias").status_code == 200
    assert gw.json("policy", "get", "--tenant", other.id)["document"] == ""


def test_a_document_that_fails_its_own_tests_changes_nothing(gw, ruled, tokens):
    before = gw.json("policy", "get", "--tenant", ruled.id)
    assert before["document"] == RULES
    wrong = RULES.replace("resource: sim-large, expect: deny", "resource: sim-large, expect: allow")
    said = gw.refused("policy", "set", "--tenant", ruled.id, "-", stdin=wrong)
    assert "apps stay small" in said and "tenant.no-large-for-apps" in said
    assert said == gw.refused("policy", "test", "--tenant", ruled.id, "-", stdin=wrong)
    for text, expected in [
        ('policy: permit (principal, action, resource);', "only the operator's base rules permit"),
        ('policy: forbid (principal, action == Action::"fly", resource);', "line 1"),
        ("rules: x", "rules"),
        ("policy: |\n" + "  forbid (principal, action, resource);\n" * 257, "256"),
        ("#" * 300_000, "262144"),
    ]:
        assert expected in gw.refused("policy", "set", "--tenant", ruled.id, "-", stdin=text), text[:80]
    assert gw.json("policy", "get", "--tenant", ruled.id) == before
    assert gw.json("policy", "test", "--tenant", ruled.id)["tests"] == 3
    assert call(gw, tokens["app"], "sim-large").status_code == 403


def test_a_change_is_an_entry_and_holds_for_the_next_call(gw):
    tenant = gw.tenant()
    token = gw.issue(tenant, "ci", "app")
    assert call(gw, token).status_code == 200
    stream = OpenStream(tenant)
    done = put(gw, tenant, 'policy: \'@id("stop") forbid (principal, action == Action::"call_model", resource);\'')
    assert call(gw, token).status_code == 403
    # What was allowed when it began goes on.
    stream.assert_still_running()
    stream.leave()
    entry = next(e for e in reversed(tenant.audit()) if e["action"] == "policy.set")
    assert (entry["actor"], entry["detail"]) == ("operator", {"rules": "1", "tests": "0", "version": done["version"]})
    put(gw, tenant, "")
    assert call(gw, token).status_code == 200
    assert gw.json("audit", "verify", "--tenant", tenant.id)["entries"] > 0


def test_rules_survive_a_kill_and_a_restart(sim):
    gateway = Gateway(sim)
    try:
        gateway.start()
        tenant = gateway.tenant()
        token = gateway.issue(tenant, "ci", "app")
        put(gateway, tenant, RULES)
        assert call(gateway, token, "sim-large").status_code == 403
        version = gateway.json("policy", "get", "--tenant", tenant.id)["in_force"]
        gateway.kill()
        gateway.start()
        assert call(gateway, token, "sim-large").status_code == 403
        gateway.stop()
        assert gateway.json("policy", "get", "--tenant", tenant.id)["in_force"] == version
    finally:
        gateway.close()


def test_base_rules_of_the_operator(sim):
    gateway = Gateway(sim)
    try:
        base = (
            'policy: |\n  @id("people") permit (principal, action == Action::"call_model", resource)'
            ' when { principal in Role::"member" };\ntests:\n'
            "  - { name: apps call nothing, as: { role: app, token: x }, action: call_model, resource: m, expect: deny }\n"
        )
        gateway.write("base.yaml", base)
        gateway.configure({**gateway.config, "policy": "base.yaml"})
        gateway.start()
        tenant = gateway.tenant()
        assert call(gateway, gateway.issue(tenant, "m", "member")).status_code == 200
        refused = call(gateway, gateway.issue(tenant, "a", "app"))
        assert (refused.status_code, code(refused)) == (403, "forbidden")
        # Nothing permits reading the log any more, whatever the route's roles say.
        assert gateway.http.get("/tenant/v1/audit", headers=tenant.bearer).status_code == 403
        assert 'id("people")' in gateway.json("policy", "get", "--tenant", tenant.id, "--base")["document"]
        gateway.stop()
        gateway.write("base.yaml", base.replace("expect: deny", "expect: allow"))
        assert "apps call nothing" in gateway.refused("config", "check")
        gateway.write("base.yaml", "policy: permit (principal, action == Action::\"fly\", resource);\n")
        assert "base.yaml" in gateway.refused("config", "check")
    finally:
        gateway.close()


def test_explain_says_what_and_why(gw, ruled):
    ask = ["policy", "explain", "--tenant", ruled.id, "--role", "member", "--token", "x"]
    explained = gw.json(*ask, "call_model", "sim-reasoning")
    assert (explained["decision"], explained["approvers"], explained["caps"]) == ("require_approval", ["admin"], ["max_tokens=7"])
    assert {(rule["rule"], rule["effect"]) for rule in explained["rules"]} == {
        ("base.callers-work", "permits"),
        ("tenant.short", "asks"),
        ("tenant.ask", "asks"),
    }
    text = gw.cli(*ask, "call_model", "sim-reasoning", check=True).stdout
    assert text.startswith("require_approval: ") and "approval by: admin" in text
    assert gw.json(*ask, "change_config", "policy")["decision"] == "deny"
    assert "fly" in gw.refused(*ask, "fly", "moon")
    assert gw.cli("policy", "explain", "--tenant", ruled.id, "--role", "member", "call_model", "m").returncode == 2


def test_what_is_hidden_looks_absent_whatever_else_holds(gw):
    """A rule that breaks, or one that forbids, tells nobody which names stand for a model."""
    tenant = gw.tenant(tier="narrow")
    token = gw.issue(tenant, "ci", "app")
    hidden, absent = "claude-fast", "gpt-nobody"
    for own in [
        "",
        'forbid (principal, action == Action::"call_model", resource) when { 9223372036854775807 + 1 > 0 };',
        'forbid (principal, action == Action::"call_model", resource == Model::"claude-fast");',
        '@require_approval forbid (principal, action == Action::"call_model", resource) when { resource.name like "c*" };',
        'forbid (principal, action == Action::"call_model", resource) when { resource.providers.contains("sim-anthropic") };',
    ]:
        put(gw, tenant, json.dumps({"policy": own}))
        answers = [(model, call(gw, token, model)) for model in (hidden, absent)]
        told = [(answer.status_code, answer.text.replace(model, "M")) for model, answer in answers]
        assert told[0] == told[1], own
        assert told[0][0] in (403, 404)


# Over JSON-RPC: the tenant's own admin.


def rpc(gw, token: str, method: str, **params) -> dict:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return gw.http.post("/rpc", json=request, headers={"authorization": f"Bearer {token}"}).json()


def test_an_admin_narrows_its_own_tenant_and_can_lock_itself_out(gw):
    tenant = gw.tenant()
    app = gw.issue(tenant, "ci", "app")
    assert rpc(gw, tenant.token, "policy.get")["result"]["document"] == ""
    assert rpc(gw, tenant.token, "policy.test", document=RULES)["result"]["in_force"] is False
    assert call(gw, app, "sim-large").status_code == 200
    done = rpc(gw, tenant.token, "policy.set", document=RULES)["result"]
    assert (done["rules"], done["in_force"]) == (6, True)
    assert call(gw, app, "sim-large").status_code == 403
    entry = next(e for e in reversed(tenant.audit()) if e["action"] == "policy.set")
    assert (entry["actor"], entry["token"], entry["detail"]["version"]) == ("admin", "default", done["version"])
    for wrong, said in [("policy: permit (principal, action, resource);", "only the operator's"), ("x: y", "unknown field")]:
        error = rpc(gw, tenant.token, "policy.set", document=wrong)["error"]
        assert error["data"]["code"] == "refused" and said in error["message"], error
    assert rpc(gw, tenant.token, "policy.get")["result"]["document"] == RULES
    # Nobody else may, and another tenant's rules are out of reach.
    for role in ("app", "member", "readonly", "auditor"):
        token = gw.issue(tenant, f"as-{role}", role)
        assert rpc(gw, token, "policy.set", document="")["error"]["data"]["code"] == "forbidden"
    other = gw.tenant()
    assert rpc(gw, other.token, "policy.get")["result"]["document"] == ""
    assert "error" in rpc(gw, other.token, "policy.get", tenant=tenant.id)
    # A rule over settings holds for whoever set it; the operator lifts it.
    locked = 'policy: \'@id("fixed") forbid (principal, action == Action::"change_config", resource);\''
    assert rpc(gw, tenant.token, "policy.set", document=locked)["result"]["in_force"]
    for method, params in [("policy.set", {"document": ""}), ("secrets.set", {"name": "a", "value": "b"}), ("tenant.rotate", {})]:
        error = rpc(gw, tenant.token, method, **params)["error"]
        assert "tenant.fixed" in error["message"], error
    put(gw, tenant, "")
    assert rpc(gw, tenant.token, "policy.set", document="")["result"]["in_force"]
