"""Rules over what agents do: what is forbidden is not carried out, what asks for an approval waits for it, and a watcher sees all of it."""

from __future__ import annotations

import json
import secrets

import pytest

from agent_client import TOOLS, Person, person, script, shell, tool, workspace
from deployment import eventually
from rpc_client import ask, socket

ASK = """
policy: |
  @id("ask-before-running") @require_approval("admin")
  forbid (principal, action == Action::"invoke_tool", resource == Tool::"exec");
"""
NARROW = """
policy: |
  @id("no-shell")
  forbid (principal, action == Action::"run_code", resource == Runtime::"shell");
  @id("no-search") @answer("absent")
  forbid (principal, action == Action::"invoke_tool", resource == Tool::"file_search");
  @id("published-stays")
  forbid (principal, action == Action::"write_file", resource) when { resource.path like "published/*" };
  @id("not-ann")
  forbid (principal in Person::"ann", action == Action::"invoke_tool", resource == Tool::"file_list");
  @id("small") @cap("bytes=10")
  forbid (principal, action == Action::"write_file", resource) when { resource.path like "small/*" };
  @id("short") @cap("seconds=1")
  forbid (principal, action == Action::"run_code", resource == Runtime::"python");
"""


def ruled(gw, document: str) -> tuple:
    """A tenant under these rules, its admin, and two members of it."""
    tenant = gw.tenant()
    boss = person(gw, tenant, "boss", "admin")
    assert boss.ok("policy.set", document=document)["in_force"]
    boss.agent("worker", *TOOLS)
    return tenant, boss, *(person(gw, tenant, f"{name}s", "member", "--person", name) for name in ("ann", "bob"))


@pytest.fixture(scope="module")
def asks(gw):
    return ruled(gw, ASK)


@pytest.fixture(scope="module")
def narrow(gw):
    return ruled(gw, NARROW)


def unlike(id: str) -> str:
    return id[:-16] + secrets.token_hex(8)


def waits(who: Person, session: str, mark: str) -> tuple[str, str]:
    """A run that waits for an approval of touching the mark, and its call."""
    run = who.comes_to(who.send(session, f"Go {shell(f'touch {mark}')}"), "waiting")
    assert [call["state"] for call in run["calls"]] == ["waiting"]
    return run["id"], run["calls"][0]["id"]


# What is forbidden.


def test_what_a_rule_forbids_is_not_carried_out_and_is_on_record(narrow):
    tenant, boss, ann, bob = narrow
    for who, call, rule in [
        (bob, tool("exec", command="touch by-shell"), "tenant.no-shell"),
        (bob, tool("file_write", path="published/a", content="x"), "tenant.published-stays"),
        (bob, tool("file_write", path="/box/published/a", content="x"), "tenant.published-stays"),
        (ann, tool("file_list"), "tenant.not-ann"),
    ]:
        session, before = who.session("worker"), len(tenant.audit())
        run = who.ask(session, f"Go {script(call)}")
        assert who.results(session) == [f"A rule forbids this call: {rule}"]
        assert run["calls"][0]["state"] == "ended" and run["calls"][0]["begun_at"] is None
        entries = [entry for entry in tenant.audit()[before:] if entry["action"] in ("invoke_tool", "tool.ended")]
        assert [(entry["decision"], entry["reason"], entry["rule"]) for entry in entries] == [("deny", "policy_denied", rule)]
        assert entries[0]["trace_id"] == run["id"].removeprefix("run_")
    assert not (workspace(tenant) / "by-shell").exists() and not (workspace(tenant) / "published").exists()
    session = bob.session("worker")
    run = bob.ask(session, script(tool("file_write", path="unpublished", content="x"), tool("file_list")))
    assert "unpublished" in bob.results(session)[1], "what no rule forbids is done"


def test_the_caps_of_rules_hold_for_tools(narrow):
    tenant, _, _, bob = narrow
    session = bob.session("worker")
    bob.ask(session, script([tool("file_write", path="small/a", content="x" * 11), tool("file_write", path="small/b", content="x" * 10),
                             tool("python", code="import time; time.sleep(30)", timeout_seconds=60)]))  # fmt: skip
    assert json.loads(bob.results(session)[2])["ended_by_limit"] == "wall_time"
    assert [path.name for path in (workspace(tenant) / "small").iterdir()] == ["b"]


def test_rules_hold_for_the_next_call_of_a_run_under_way(gw):
    tenant, boss, _, bob = ruled(gw, "policy: ''")
    session = bob.session("worker")
    first = "touch began; until [ -e go ]; do sleep 0.02; done"
    run = bob.send(session, script(tool("exec", command=first), tool("exec", command="touch second")))
    eventually(lambda: (workspace(tenant) / "began").exists(), 10, "the first program")
    assert boss.ok("policy.set", document=NARROW)["in_force"]
    (workspace(tenant) / "go").touch()
    bob.comes_to(run, "finished")
    assert bob.results(session)[1] == "A rule forbids this call: tenant.no-shell" and not (workspace(tenant) / "second").exists()


# Approvals.


def test_a_call_waits_until_somebody_who_may_approves_it(asks):
    tenant, boss, ann, bob = asks
    session = ann.session("worker")
    run, call = waits(ann, session, "approved")
    waiting = ann.run(run)["calls"][0]
    assert waiting["approvers"] == ["admin"] and waiting["until"] and waiting["decided_by"] is None
    assert waiting["begun_at"] is None and not (workspace(tenant) / "approved").exists()
    for method in ("runs.approve", "runs.deny"):
        assert ann.no(method, id=run, call=call) == "not_an_approver"
        told = [bob.nothing(method, id=id, call=one) for id, one in ((run, call), (unlike(run), call), (run, unlike(call)))]
        assert told[0] == told[1] == told[2] and told[0]["data"]["code"] == "not_found"
        assert boss.no(method, id=run, call=unlike(call)) == "not_found"
        assert boss.no(method, id=unlike(run), call=call) == "not_found"
    assert ann.run(run)["state"] == "waiting"
    assert boss.ok("runs.approve", id=run, call=call) == {"done": True}
    ended = ann.comes_to(run, "finished")
    assert ended["calls"][0]["decided_by"] == "admin:boss" and (workspace(tenant) / "approved").exists()
    assert json.loads(ann.results(session)[0])["exit_code"] == 0
    for method in ("runs.approve", "runs.deny"):
        assert boss.no(method, id=run, call=call) == "not_waiting"
    entries = [entry for entry in tenant.audit() if call in json.dumps(entry.get("detail", {}))]
    assert [entry["action"] for entry in entries if entry["decision"] == "allow"][:3] == ["run.approve", "invoke_tool", "tool.ended"]
    assert entries[1]["detail"]["approved_by"] == "admin:boss"
    assert entries[1]["rule"].split() == ["base.callers-work", "tenant.ask-before-running"]


def test_a_denied_call_is_not_made_and_the_model_is_told(asks):
    tenant, boss, ann, _ = asks
    session = ann.session("worker")
    run, call = waits(ann, session, "denied")
    assert boss.ok("runs.deny", id=run, call=call) == {"done": True}
    ended = ann.comes_to(run, "finished")
    assert ann.results(session) == ["A person denied this call."] and "denied" in ann.said(session, "assistant")[-1]
    assert ended["calls"][0]["begun_at"] is None and not (workspace(tenant) / "denied").exists()
    assert boss.no("runs.approve", id=run, call=call) == "not_waiting"


def test_an_approval_is_for_one_call_of_one_run(asks, gw):
    tenant, boss, ann, _ = asks
    one, other = ann.session("worker"), ann.session("worker")
    first, first_call = waits(ann, one, "first")
    second, second_call = waits(ann, other, "second")
    stranger = Person(gw, gw.tenant().token)
    for run, call in ((first, second_call), (second, first_call)):
        assert boss.no("runs.approve", id=run, call=call) == "not_found"
        assert boss.no("runs.deny", id=run, call=call) == "not_found"
        assert stranger.no("runs.approve", id=run, call=call) == stranger.no("runs.approve", id=run, call=first_call) == "not_found"
    assert boss.ok("runs.approve", id=first, call=first_call)
    ann.comes_to(first, "finished")
    assert ann.run(second)["state"] == "waiting" and not (workspace(tenant) / "second").exists()
    assert boss.ok("runs.deny", id=second, call=second_call)
    ann.comes_to(second, "finished")


def test_of_two_calls_of_one_answer_each_waits_for_its_own(asks):
    tenant, boss, ann, _ = asks
    session = ann.session("worker")
    sent = ann.send(session, f"Go {script([tool('exec', command='touch both-1'), tool('exec', command='touch both-2')])}")
    run = ann.comes_to(sent, "waiting")
    first, second = run["calls"]
    assert (first["state"], second["state"]) == ("waiting", "proposed")
    assert boss.no("runs.approve", id=sent, call=second["id"]) in ("not_an_approver", "not_waiting"), "it has not been asked for"
    assert boss.ok("runs.approve", id=sent, call=first["id"])
    eventually(lambda: ann.run(sent)["calls"][1]["state"] == "waiting", 10, "the second question")
    assert (workspace(tenant) / "both-1").exists() and not (workspace(tenant) / "both-2").exists()
    assert boss.ok("runs.deny", id=sent, call=second["id"])
    ann.comes_to(sent, "finished")
    assert not (workspace(tenant) / "both-2").exists()


def test_a_run_that_waits_holds_its_session_and_no_other_and_can_be_cancelled(asks):
    tenant, boss, ann, _ = asks
    session = ann.session("worker")
    run, call = waits(ann, session, "cancelled")
    queued = ann.send(session, "And then?")
    for _ in range(5):
        assert ann.ask(ann.session("worker"), "Hello")["state"] == "finished"
    assert ann.run(queued)["state"] == "queued"
    assert ann.ok("runs.cancel", id=run) == {"done": True}
    assert boss.no("runs.approve", id=run, call=call) == "not_waiting"
    ann.comes_to(queued, "finished")
    assert not (workspace(tenant) / "cancelled").exists()


def test_a_rule_that_forbids_meanwhile_is_stronger_than_an_approval(gw):
    tenant, boss, ann, _ = ruled(gw, ASK)
    session = ann.session("worker")
    run, call = waits(ann, session, "too-late")
    assert boss.ok("policy.set", document=NARROW)["in_force"]
    assert boss.ok("runs.approve", id=run, call=call)
    ann.comes_to(run, "finished")
    assert ann.results(session) == ["A rule forbids this call: tenant.no-shell"]
    assert not (workspace(tenant) / "too-late").exists()


# Events of a session.


def events(ws, upto: str, seconds: float = 10) -> list[dict]:
    """What a subscription sends, up to an event of that type."""
    found = []
    while not found or found[-1]["event"]["type"] != upto:
        told = json.loads(ws.recv(seconds))
        assert told["method"] == "sessions.event" and "id" not in told, told
        found.append(told["params"])
    return found


def test_a_watcher_sees_everything_in_order_and_goes_on_after_a_break(gw, asks):
    _, boss, ann, _ = asks
    session = ann.session("worker")
    with socket(gw, ann.token) as ws:
        begun = ask(ws, "sessions.subscribe", {"id": session})["result"]
        run = ann.send(session, f"Go {script(tool('file_list'), tool('exec', command='true'))}")
        first = events(ws, "approval.requested")
        assert {one["subscription"] for one in first} == {begun["subscription"]}
    call = ann.run(run)["calls"][1]["id"]
    assert boss.ok("runs.approve", id=run, call=call)
    ann.comes_to(run, "finished")
    with socket(gw, ann.token) as ws:
        again = ask(ws, "sessions.subscribe", {"id": session, "after": first[-1]["seq"]})["result"]
        assert again["next"] == first[-1]["seq"] + 1
        rest = events(ws, "run.ended")
    whole = [*first, *rest]
    step = ["message", "tool.started", "tool.ended", "message"]
    assert [one["event"]["type"] for one in whole] == [
        "run.queued", "message", "run.started", *step,
        "message", "approval.requested", "approval.decided", "tool.started", "tool.ended", "message", "message", "run.ended",
    ]  # fmt: skip
    seqs = [one["seq"] for one in whole]
    assert seqs == sorted(set(seqs)) and {one["event"]["run"] for one in whole} == {run}
    said = [(one["event"]["seq"], one["event"]["message"]) for one in whole if one["event"]["type"] == "message"]
    assert said == [(one["seq"], one["message"]) for one in ann.history(session)]
    assert whole[-1]["event"]["state"] == "finished"
    decided = next(one["event"] for one in whole if one["event"]["type"] == "approval.decided")
    assert (decided["call"], decided["approved"], decided["by"]) == (call, True, "admin:boss")
    with socket(gw, ann.token) as ws:
        ask(ws, "sessions.subscribe", {"id": session, "after": 0})
        seen = events(ws, "run.ended")
        assert [one["event"] for one in seen] == [one["event"] for one in whole], "nothing twice, nothing left out"


def test_nobody_watches_what_is_not_theirs(gw, asks, narrow):
    _, boss, ann, bob = asks
    session, mark = ann.session("worker"), secrets.token_hex(16)
    for who in (bob, narrow[1], narrow[2]):
        with socket(gw, who.token) as ws:
            told = [ask(ws, "sessions.subscribe", {"id": id})["error"] for id in (session, unlike(session), "..", "")]
            assert all(error["data"].pop("request_id") for error in told)
            assert all(error == told[0] for error in told) and told[0]["data"]["code"] == "not_found"
    with socket(gw, bob.token) as others, socket(gw, boss.token) as reads:
        own = bob.session("worker")
        name = ask(others, "sessions.subscribe", {"id": own, "after": 0})["result"]["subscription"]
        ask(reads, "sessions.subscribe", {"id": session, "after": 0})
        ann.ask(session, mark)
        assert mark in json.dumps(events(reads, "run.ended")), "an admin reads"
        bob.ask(own, "Hello")
        seen = events(others, "run.ended")
        assert mark not in json.dumps(seen) and {one["subscription"] for one in seen} == {name}
        assert ask(others, "sessions.unsubscribe", {"subscription": name})["result"] == {"done": True}
        assert ask(others, "sessions.unsubscribe", {"subscription": name})["error"]["data"]["code"] == "not_found"
        bob.ask(own, "Again")
        assert ask(others, "health")["result"]
        with pytest.raises(TimeoutError):
            others.recv(0.5)
