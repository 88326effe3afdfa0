"""Where rules, limits and streams of runs meet: what was wrong once."""

import json

import openai
import pytest

from agent_client import TOOLS, Person, script, tool, workspace
from deployment import eventually
from samples import user


@pytest.fixture
def boss(gw):
    tenant = gw.tenant()
    boss = Person(gw, tenant.token)
    boss.agent("worker", *TOOLS)
    boss.tenant = tenant
    return boss


def test_a_stream_tells_why_its_run_failed(boss):
    boss.agent("stubborn", "file_list", max_steps=1)
    order = user(f"Go {script(tool('file_list'), tool('file_list'))}")
    with pytest.raises(openai.APIError) as refusal:
        list(boss.tenant.openai().chat.completions.create(model="agent/stubborn", messages=order, stream=True))
    assert "steps_exceeded" in str(refusal.value)


HIDES = """
policy: |
  @id("secret") forbid (principal, action == Action::"read_file", resource) when { resource.path like "secret/*" };
  @id("hidden") @answer("absent") forbid (principal, action == Action::"read_file", resource) when { resource.path like "hidden/*" };
  @id("no-python") @answer("absent") forbid (principal, action == Action::"invoke_tool", resource == Tool::"python");
  @id("small") @cap("bytes=10") forbid (principal, action == Action::"write_file", resource) when { resource.path like "small/*" };
"""


def test_a_search_does_not_read_what_a_rule_forbids_to_read(boss):
    assert boss.ok("policy.set", document=HIDES)["in_force"]
    session = boss.session("worker")
    boss.ask(session, script([tool("file_write", path="secret/x", content="the needle"), tool("file_read", path="secret/x"),
                              tool("file_search", text="needle"), tool("file_search", text="needle", path="secret")]))  # fmt: skip
    results = boss.results(session)
    assert results[1] == "A rule forbids this call: tenant.secret"
    assert not any("the needle" in text for text in results[2:]), results


def test_what_a_rule_hides_looks_as_if_it_were_not_there(boss):
    assert boss.ok("policy.set", document=HIDES)["in_force"]
    session = boss.session("worker")
    boss.ask(session, script([tool("file_read", path="hidden/x"), tool("file_read", path="absent/x"), tool("python", code="1"), tool("nosuch")]))
    hidden, absent, tool_hidden, tool_absent = boss.results(session)
    assert (hidden, tool_hidden) == (absent, tool_absent)


@pytest.mark.parametrize("text", ["-1", "-0.5"])
def test_a_cost_below_zero_is_refused(boss, text):
    assert boss.wrong("agents.set", name="poor", max_cost_usd=text) == "max_cost_usd"


def test_a_cap_on_writing_leaves_the_answer_whole(boss):
    assert boss.ok("policy.set", document=HIDES)["in_force"]
    session = boss.session("worker")
    boss.ask(session, script(tool("file_write", path="small/b", content="x" * 10)))
    assert json.loads(boss.results(session)[0]) == {"path": "small/b", "bytes": 10, "created": True}


def test_what_is_said_while_a_tool_works_leaves_its_result(boss):
    session = boss.session("worker")
    run = boss.send(session, script(tool("exec", command="touch begun; while [ ! -e go ]; do sleep 0.05; done; echo the-result")))
    eventually(lambda: (workspace(boss.tenant) / "begun").exists(), 20, "the effect")
    assert boss.ok("sessions.send", id=session, message="And hurry", steer=True)["run"] == run
    assert boss.ok("files.write", path="go", text="")["created"]
    boss.ends(run)
    assert "the-result" in boss.results(session)[0]
    assert "no result" not in boss.history(session)[-1]["message"]["content"]


def test_a_token_of_an_old_name_inherits_no_conversation(gw, boss):
    first = Person(gw, gw.issue(boss.tenant, "again", "app"))
    session = first.session("worker")
    first.ask(session, "Mine")
    gw.json("tenants", "token", "revoke", boss.tenant.id, "again")
    second = Person(gw, gw.issue(boss.tenant, "again", "app"))
    assert second.ok("sessions.list") == {"sessions": []}
    assert second.no("sessions.get", id=session) == "not_found"


def test_what_a_forgotten_person_said_to_agents_is_gone(gw, boss):
    ann = Person(gw, gw.issue(boss.tenant, "anns", "member", "--person", "ann"))
    session = ann.session("worker")
    ann.ask(session, "my-private-word")
    gw.json("audit", "forget", "--tenant", boss.tenant.id, "--person", "ann")
    assert boss.no("sessions.get", id=session) == "not_found"
    assert boss.ok("sessions.list") == {"sessions": []}


def test_what_a_forgotten_token_said_to_agents_is_gone(gw, boss):
    bot = Person(gw, gw.issue(boss.tenant, "bot", "app"))
    session = bot.session("worker")
    bot.ask(session, "my-private-word")
    assert boss.ok("sessions.get", id=session)["owner"] == "token:bot"
    gw.json("audit", "forget", "--tenant", boss.tenant.id, "--token", "bot")
    assert boss.no("sessions.get", id=session) == "not_found"
