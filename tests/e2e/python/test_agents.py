"""Agents and conversations over JSON-RPC: what an agent may be, whose a session is, and that a message is taken in once."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent_client import TOOLS, Person, person, script, tool
from canary import Scan, canary
from deployment import eventually
from route_fixtures import message
from rpc_client import post

MESSAGE_BYTES_MAX = 256 * 1024


@pytest.fixture(scope="module")
def boss(gw, acme) -> Person:
    boss = person(gw, acme, "boss", "admin", "--person", "olga")
    boss.agent("worker", "file_list", instructions="You keep to the point.")
    return boss


@pytest.fixture(scope="module")
def ann(gw, acme, boss) -> Person:
    return person(gw, acme, "anns", "member", "--person", "ann")


@pytest.fixture(scope="module")
def bob(gw, acme, boss) -> Person:
    return person(gw, acme, "bobs", "member", "--person", "bob")


@pytest.fixture(autouse=True)
def nothing_under_way(boss):
    """Each test begins with an idle tenant."""
    yield
    eventually(lambda: all(run["ended_at"] for run in boss.ok("runs.list", limit=200)["runs"]), 20, "the end of all runs")


def unlike(id: str) -> str:
    return id[:-16] + secrets.token_hex(8)


def question_is_open(sim) -> None:
    """Waits until the model is being asked: it is recorded when it has answered."""
    eventually(lambda: sim.stats()["requests_open"] > 0, 5, "an open question")


def asked(sim, word: str) -> list[list[dict]]:
    """The messages of each request about this word that reached the provider, oldest first."""
    records = sorted(sim.requests(), key=lambda record: record["seq"])
    return [json.loads(record["body"])["messages"] for record in records if word in (record["body"] or "")]


# Agents.


def test_an_agent_is_read_as_it_was_set_and_each_change_is_a_version(boss, ann):
    settings = {"model": "sim-large", "instructions": "Be brief.", "tools": ["exec", "python"], "temperature": 0.5,
                "max_tokens": 900, "max_steps": 7, "max_seconds": 60, "max_cost_usd": "0.50"}  # fmt: skip
    first = boss.ok("agents.set", name="writer", **settings)
    assert {name: first[name] for name in settings} == settings and first["version"] == 1
    assert ann.ok("agents.get", name="writer") == first
    assert boss.ok("agents.set", name="writer", **settings) == first, "the same is no new version"
    second = boss.ok("agents.set", name="writer", model="sim-fast")
    assert (second["version"], second["tools"], second["instructions"], second["max_cost_usd"]) == (2, [], None, None)
    assert (second["max_steps"], second["max_seconds"]) == (20, 300)
    assert second in ann.ok("agents.list")["agents"] and first not in ann.ok("agents.list")["agents"]
    assert ann.no("agents.get", name="nobody") == "not_found"
    entries = boss.ok("audit.query", action="agent.set", limit=100)["entries"]
    of_writer = [entry for entry in entries if entry["detail"]["name"] == "writer"]
    assert len({entry["detail"]["sha256"] for entry in of_writer}) == 2


@pytest.mark.parametrize(
    ("member", "values"),
    [
        ("name", ["", "A", "1a", "a-", "a_b", "a/b", "ä", "a" * 65, 7]),
        ("model", ["", "agent/worker", "agent/", "x" * 257, 7]),
        ("instructions", ["x" * (64 * 1024 + 1), ["be brief"]]),
        ("tools", [["rm"], ["exec", "exec"], ["exec", "EXEC"], ["x"] * 65, "exec", [7]]),
        ("temperature", [2.1, -0.1, "1"]),
        ("max_tokens", [0, 1_000_001, -1, 1.5, "10"]),
        ("max_steps", [0, 101, -1, "2"]),
        ("max_seconds", [0, 3_601, True]),
        ("max_cost_usd", ["", "x", "1e400", 0.5, "0x10", "1,5", " 1"]),
        ("color", ["red"]),
    ],
)
def test_each_wrong_member_is_named_and_nothing_is_set(boss, member, values):
    before = boss.ok("agents.list")
    for value in values:
        assert boss.wrong("agents.set", **{"name": "wrong", member: value}) == member, value
    assert boss.ok("agents.list") == before


def test_a_tool_that_does_not_exist_is_told_with_those_that_do(boss):
    error = boss.call("agents.set", name="wrong", tools=["rm"])["error"]
    assert all(name in error["message"] for name in ("rm", *TOOLS))
    listed = boss.ok("tools.list")["tools"]
    assert tuple(sorted(one["name"] for one in listed)) == TOOLS
    for one in listed:
        assert one["description"] and one["parameters"]["type"] == "object"
        assert one["parameters"]["additionalProperties"] is False


def test_a_tenant_has_at_most_a_hundred_agents(gw):
    admin = Person(gw, gw.tenant().token)
    for number in range(100):
        admin.agent(f"agent-{number}")
    assert admin.no("agents.set", name="agent-100") == "too_many_agents"
    assert admin.ok("agents.set", name="agent-99", instructions="Changed.")["version"] == 2
    assert len(admin.ok("agents.list")["agents"]) == 100


def test_a_run_keeps_the_version_with_which_it_began(boss, ann, sim):
    boss.agent("changing", instructions="The first version.")
    session, word = ann.session("changing"), canary()
    run = ann.send(session, f"[[sim:delay=400ms]] {word}")
    ann.comes_to(run, "running")
    later = ann.send(session, f"Again {word}")
    boss.agent("changing", instructions="The second version.")
    newest = ann.send(session, f"And again {word}")
    assert [ann.ends(id)["agent_version"] for id in (run, later, newest)] == [1, 1, 2]
    assert [one[0]["content"] for one in asked(sim, word)] == ["The first version."] * 2 + ["The second version."]


# Whose a session is.


def test_a_role_that_may_not_talk_is_forbidden_everywhere(gw, acme, boss):
    session = boss.session("worker")
    run = boss.ask(session, "Hello")["id"]
    calls = {
        "agents.list": {}, "agents.get": {"name": "worker"}, "tools.list": {}, "sessions.create": {"agent": "worker"},
        "sessions.list": {}, "sessions.get": {"id": session}, "sessions.send": {"id": session, "message": "Hi"},
        "sessions.abort": {"id": session}, "sessions.reset": {"id": session}, "sessions.compact": {"id": session},
        "sessions.delete": {"id": session}, "chat.send": {"id": session, "message": "Hi"}, "chat.history": {"id": session},
        "chat.abort": {"id": session}, "runs.list": {}, "runs.get": {"id": run}, "runs.cancel": {"id": run},
        "files.list": {}, "files.write": {"path": "a", "text": "b"}, "agents.set": {"name": "mine"},
    }  # fmt: skip
    for role in ("readonly", "auditor"):
        who = person(gw, acme, f"a-{role}", role)
        assert {who.no(method, **params) for method, params in calls.items()} == {"forbidden"}, role
        # A rule may name them as those who decide; what none names is not there for them.
        for method in ("runs.approve", "runs.deny"):
            assert who.nothing(method, id=run, call=run) == who.nothing(method, id=unlike(run), call=run)
    for role in ("member", "app"):
        who = person(gw, acme, f"one-{role}", role)
        assert who.no("agents.set", name="mine") == "forbidden"
        assert who.ok("sessions.list") == {"sessions": []}
        assert who.ask(who.session("worker"), "Hello")["token"] == f"one-{role}"
    assert len(boss.history(session)) == 2


def test_a_session_is_its_owners_and_to_a_colleague_as_if_it_were_not_there(gw, acme, ann, bob):
    session = ann.session("worker", title="mine")
    run = ann.ask(session, f"Look {script(tool('file_list'))}")
    call = run["calls"][0]["id"]
    assert ann.ok("sessions.get", id=session)["owner"] == "person:ann"
    strangers = [bob, person(gw, acme, "no-person", "app"), Person(gw, gw.tenant().token)]
    for who in strangers:
        for method in ("get", "send", "abort", "reset", "compact", "delete"):
            more = {"message": "Hi"} if method == "send" else {}
            foreign, absent = (who.nothing(f"sessions.{method}", id=id, **more) for id in (session, unlike(session)))
            assert foreign == absent and foreign["data"]["code"] == "not_found", method
        for method in ("chat.history", "chat.abort"):
            assert who.nothing(method, id=session) == who.nothing(method, id=unlike(session))
        for method in ("runs.get", "runs.cancel"):
            assert who.nothing(method, id=run["id"]) == who.nothing(method, id=unlike(run["id"])), method
        for method in ("runs.approve", "runs.deny"):
            pairs = [(run["id"], call), (unlike(run["id"]), call), (run["id"], unlike(call)), ("", "")]
            told = [who.nothing(method, id=id, call=one) for id, one in pairs]
            assert all(one == told[0] for one in told) and told[0]["data"]["code"] == "not_found", method
        for name, own in (("session", session), ("before", run["id"])):
            foreign, absent = (who.nothing("runs.list", **{name: id}) for id in (own, unlike(own)))
            assert foreign == absent and foreign["data"]["code"] == "not_found", name
        assert session not in json.dumps(who.ok("sessions.list")) and run["id"] not in json.dumps(who.ok("runs.list"))
    other = person(gw, acme, "anns-second", "app", "--person", "ann")
    assert other.ok("sessions.get", id=session)["title"] == "mine" and other.ask(session, "It is me again")
    assert len(ann.history(session)) == 6


def test_an_admin_reads_stops_and_deletes_and_does_not_speak_for_others(boss, ann):
    session = ann.session("worker")
    run = ann.ask(session, "Hello")
    assert boss.ok("sessions.get", id=session)["owner"] == "person:ann" and boss.ok("runs.get", id=run["id"]) == run
    assert boss.history(session) == ann.history(session) and len(boss.history(session)) == 2
    assert session in [one["id"] for one in boss.ok("sessions.list", limit=200)["sessions"]]
    for method in ("sessions.send", "chat.send"):
        told = boss.nothing(method, id=session, message="Hi")
        assert told == boss.nothing(method, id=unlike(session), message="Hi") and told["data"]["code"] == "not_found"
    for method in ("sessions.reset", "sessions.compact"):
        assert boss.no(method, id=session) == "not_found"
    slow = ann.send(session, "[[sim:delay=10s]]")
    assert boss.ok("sessions.abort", id=session) == {"runs": 1} and ann.run(slow)["state"] == "cancelled"
    assert boss.ok("sessions.delete", id=session) == {"done": True}
    assert ann.no("sessions.get", id=session) == ann.no("runs.get", id=run["id"]) == "not_found"
    entries = boss.ok("audit.query", action="session.delete", limit=100)["entries"]
    assert entries[-1]["detail"] == {"name": session, "owner": "person:ann"}


def test_an_agent_of_another_tenant_is_none(gw, globex, boss, ann):
    theirs = Person(gw, globex.token)
    theirs.agent("secretive", instructions="Theirs.")
    foreign, absent = (ann.nothing("sessions.create", agent=name) for name in ("secretive", "nobodyhas"))
    assert foreign == absent and foreign["data"]["field"] == "agent"
    assert ann.nothing("agents.get", name="secretive") == ann.nothing("agents.get", name="nobodyhas")
    assert ann.wrong("sessions.create") == "agent"
    assert ann.wrong("sessions.create", model="agent/worker") == "model"
    assert ann.wrong("sessions.create", agent="worker", title="x" * 257) == "title"


# What is kept.


def test_a_conversation_is_remembered_and_read_page_by_page(ann, sim):
    session, word = ann.session("worker"), canary()
    for number in range(4):
        ann.ask(session, f"Message {number} {word}")
    requests = asked(sim, word)
    assert [len(messages) for messages in requests] == [2, 4, 6, 8]
    assert all(messages[0] == {"role": "system", "content": "You keep to the point."} for messages in requests)
    whole = ann.ok("chat.history", id=session, limit=200)["messages"]
    assert [one["message"] for one in whole[:-1]] == requests[-1][1:]
    assert [one["message"]["role"] for one in whole] == ["user", "assistant"] * 4
    assert [one["seq"] for one in whole] == sorted({one["seq"] for one in whole})
    pages, after = [], 0
    while page := ann.ok("chat.history", id=session, after=after, limit=3)["messages"]:
        pages.append(page)
        after = page[-1]["seq"]
    assert [len(page) for page in pages] == [3, 3, 2] and sum(pages, []) == whole
    runs = ann.ok("runs.list", session=session)["runs"]
    assert [run["id"] for run in reversed(runs)] == list(dict.fromkeys(one["run"] for one in whole))
    assert ann.ok("runs.list", session=session, before=runs[1]["id"], limit=1)["runs"] == [runs[2]]


def test_lists_of_sessions_go_back_in_time(gw, boss, acme):
    cora = person(gw, acme, "coras", "member", "--person", "cora")
    made = [cora.session("worker", title=str(number)) for number in range(3)]
    cora.ask(made[0], "Hello")
    listed = cora.ok("sessions.list")["sessions"]
    assert listed[0]["id"] == made[0] and {one["id"] for one in listed} == set(made)
    assert cora.ok("sessions.list", limit=1)["sessions"] == listed[:1]
    older = cora.ok("sessions.list", before=listed[0]["used_at"])["sessions"]
    assert made[0] not in [one["id"] for one in older]


def test_a_reset_forgets_what_was_said(ann, sim):
    session, old, new = ann.session("worker"), canary(), canary()
    ann.ask(session, f"Remember {old}")
    assert ann.ok("sessions.reset", id=session) == {"done": True}
    assert ann.history(session) == []
    ann.ask(session, f"What was it? {new}")
    assert len(ann.history(session)) == 2
    assert old not in json.dumps(asked(sim, new)), "what was forgotten is not sent"


def test_a_summary_takes_the_place_of_what_was_said_and_nothing_is_lost(ann, sim):
    session, new = ann.session("worker"), canary()
    assert ann.no("sessions.compact", id=session) == "nothing_to_compact"
    ann.ask(session, "My name is Ann.")
    ann.ask(session, "I like tea.")
    before = ann.history(session)
    assert ann.ok("sessions.compact", id=session) == {"done": True}
    assert ann.history(session) == before
    ann.ask(session, f"What do I like? {new}")
    messages = asked(sim, new)[0]
    assert [one["role"] for one in messages] == ["system", "user", "user"]
    assert "summed up" in messages[1]["content"] and "I like tea." not in json.dumps(messages)


def test_a_deleted_conversation_is_gone_and_never_lay_on_the_disk_in_the_clear(gw, acme, boss, ann, sim):
    marks = {name: canary() for name in ("message", "title", "instructions", "key", "argument")}
    boss.agent("deleted", "file_search", instructions=f"You serve {marks['instructions']}.")
    session = ann.session("deleted", title=marks["title"])
    order = script(tool("file_search", text=marks["argument"]))
    run = ann.ask(session, f"Keep {marks['message']} {order}", idempotency_key=marks["key"])
    assert marks["message"] in str(ann.history(session)) and marks["argument"] in str(ann.run(run["id"]))
    scan = Scan(marks)

    def in_the_clear() -> list[tuple]:
        found = []
        for path in gw.data.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.name not in ("spare.new", "spare"):
                found += [(str(path.relative_to(gw.data)), hit) for hit in scan.hits(path.read_bytes())]
        return found

    assert in_the_clear() == []
    assert acme.rows(), "the fold that this read forces"
    assert in_the_clear() == []
    assert ann.ok("sessions.delete", id=session) == {"done": True}
    for method in ("sessions.get", "chat.history", "sessions.delete"):
        assert ann.nothing(method, id=session) == ann.nothing(method, id=unlike(session))
    assert ann.no("runs.get", id=run["id"]) == "not_found"
    assert marks["title"] not in json.dumps(boss.ok("sessions.list", limit=200))
    assert run["id"] not in json.dumps(boss.ok("runs.list", limit=200))
    assert in_the_clear() == []
    assert marks["message"] not in gw.output()


# Taking messages in.


def test_the_same_key_is_the_same_message(ann):
    session, other = ann.session("worker"), ann.session("worker")
    first = ann.ok("sessions.send", id=session, message="Hello", idempotency_key="k-1")
    again = ann.ok("chat.send", id=session, message="Hello", idempotency_key="k-1")
    assert first["repeated"] is False and again == {"run": first["run"], "repeated": True}
    ann.ends(first["run"])
    assert ann.ok("sessions.send", id=session, message="Hello", idempotency_key="k-1") == again
    assert ann.wrong("sessions.send", id=session, message="Hello!", idempotency_key="k-1") == "idempotency_key"
    assert len(ann.history(session)) == 2, "one message, one reply"
    assert ann.ok("sessions.send", id=other, message="Bye", idempotency_key="k-1")["repeated"] is False
    assert ann.send(session, "Hello") != ann.send(session, "Hello"), "without a key each is a message"


def test_fifty_at_once_with_one_key_are_one_run(ann, sim):
    session, word = ann.session("worker"), canary()

    def send(_number: int) -> dict:
        return ann.ok("sessions.send", id=session, message=f"Once {word}", idempotency_key="once")

    with ThreadPoolExecutor(25) as pool:
        sent = list(pool.map(send, range(50)))
    assert len({one["run"] for one in sent}) == 1 and [one["repeated"] for one in sent].count(False) == 1
    ann.comes_to(sent[0]["run"], "finished")
    assert [one["message"]["role"] for one in ann.history(session)] == ["user", "assistant"]
    assert len(asked(sim, word)) == 1 and len(ann.ok("runs.list", session=session)["runs"]) == 1


def test_messages_to_a_busy_session_are_answered_one_after_another(ann, sim):
    session, word = ann.session("worker"), canary()
    runs = [ann.send(session, f"[[sim:delay=300ms]] {word} first")]
    ann.comes_to(runs[0], "running")
    runs += [ann.send(session, f"{word} {name}") for name in ("second", "third", "fourth")]
    assert [ann.run(run)["state"] for run in runs[1:]] == ["queued"] * 3
    for method in ("sessions.reset", "sessions.delete"):
        assert ann.no(method, id=session) == "session_busy"
    ended = [ann.comes_to(run, "finished") for run in runs]
    assert [one["ended_at"] for one in ended] == sorted(one["ended_at"] for one in ended)
    for number, messages in enumerate(asked(sim, word)):
        # Each is asked with all that was said and answered before it, and nothing that came after.
        assert [one["role"] for one in messages[1:]] == ["user", "assistant"] * number + ["user"]
    assert [len(ann.said(session, "assistant", run)) for run in runs] == [1] * 4


def test_what_is_said_to_a_run_under_way_is_read_by_that_run(ann, sim):
    session, word = ann.session("worker"), canary()
    run = ann.send(session, f"[[sim:delay=500ms]] {word} paint it red")
    ann.comes_to(run, "running")
    question_is_open(sim)
    assert ann.ok("sessions.send", id=session, message=f"{word} no, blue", steer=True) == {"run": run, "repeated": False}
    ended = ann.comes_to(run, "finished")
    assert ended["steps"] == 2 and len(ann.ok("runs.list", session=session)["runs"]) == 1
    first, second = asked(sim, word)
    assert "blue" not in json.dumps(first) and "blue" in json.dumps(second)
    assert "blue" in ann.said(session, "assistant")[-1], "the last word is about what was said last"
    assert ann.send(session, "Alone now", steer=True) != run, "where no run is under way it is a run of its own"


def test_a_message_has_limits_by_name(ann):
    session = ann.session("worker")
    for wrong in ("", " \n\t", "x" * (MESSAGE_BYTES_MAX + 1), 7, None):
        assert ann.wrong("sessions.send", id=session, message=wrong) == "message"
    for key in ("", "x" * 129, 7):
        assert ann.wrong("sessions.send", id=session, message="Hi", idempotency_key=key) == "idempotency_key"
    assert ann.wrong("sessions.send", id=session, message="Hi", steer="yes") == "steer"
    assert ann.wrong("sessions.send", id=session, message="Hi", role="system") == "role"
    assert ann.ends(ann.send(session, "x" * MESSAGE_BYTES_MAX))["state"] == "finished"
    assert ann.ok("sessions.reset", id=session)
    for limit in (0, 201, -1):
        assert ann.wrong("chat.history", id=session, limit=limit) == "limit"
        assert ann.wrong("runs.list", limit=limit) == "limit"
        assert ann.wrong("sessions.list", limit=limit) == "limit"
    assert ann.history(session) == [] and len(ann.ok("runs.list", session=session)["runs"]) == 1


def test_as_many_messages_wait_as_may_and_an_abort_ends_them_all(ann, sim):
    session, word = ann.session("worker"), canary()
    first = ann.send(session, f"[[sim:delay=20s]] {word}")
    ann.comes_to(first, "running")
    runs = [ann.send(session, f"{word} {number}") for number in range(100)]
    assert ann.no("sessions.send", id=session, message="One more") == "too_many_runs"
    assert ann.ok("chat.abort", id=session) == {"runs": 101}
    assert {ann.run(run)["state"] for run in (first, runs[0], runs[50], runs[99])} == {"cancelled"}
    assert ann.no("runs.cancel", id=first) == "run_ended" and ann.ok("sessions.abort", id=session) == {"runs": 0}
    assert ann.ask(session, "Still there?")["steps"] == 1
    assert len(asked(sim, word)) == 2, "those that had not begun were never asked about"


# The standing of the tenant.


def test_a_frozen_tenant_reads_and_says_nothing(gw):
    tenant = gw.tenant()
    admin = Person(gw, tenant.token)
    session = admin.session()
    run = admin.ask(session, "Hello")["id"]
    gw.json("tenants", "freeze", tenant.id)
    assert len(admin.history(session)) == 2 and admin.run(run)["state"] == "finished"
    assert admin.ok("agents.list") == {"agents": []} and len(admin.ok("sessions.list")["sessions"]) == 1
    for method, params in {
        "agents.set": {"name": "a"}, "sessions.create": {"model": "sim-fast"}, "sessions.send": {"id": session, "message": "Hi"},
        "sessions.abort": {"id": session}, "sessions.reset": {"id": session}, "sessions.delete": {"id": session},
        "runs.cancel": {"id": run},
    }.items():  # fmt: skip
        assert admin.no(method, **params) == "tenant_frozen", method
    gw.json("tenants", "resume", tenant.id)
    assert admin.ask(session, "Hello again")


@pytest.mark.parametrize("how", ["freeze", "suspend"])
def test_a_run_ends_where_its_tenant_is_stopped(gw, sim, how):
    tenant = gw.tenant()
    admin, word = Person(gw, tenant.token), canary()
    session = admin.session()
    run, waiting = admin.send(session, f"[[sim:delay=10s]] {word}"), admin.send(session, word)
    question_is_open(sim)
    gw.json("tenants", how, tenant.id)
    if how == "suspend":
        assert b"tenant_suspended" in post(gw, admin.token, message("runs.get", {"id": run})).content
        gw.json("tenants", "resume", tenant.id)
    ended = admin.comes_to(run, "failed")
    assert ended["why"] == "credential_ended", ended
    admin.ends(waiting)
    assert [one["message"]["role"] for one in admin.history(session) if one["run"] == run] == ["user"]
