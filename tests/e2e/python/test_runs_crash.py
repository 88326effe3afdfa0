"""kill -9 in the middle of runs: each goes on by itself, no effect is repeated, and each ends with one reply."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from agent_client import TOOLS, Person, person, script, shell, tool, workspace
from deployment import Gateway, Tenant, eventually

COUNT = int(os.environ.get("CRASH_COUNT", "8"))
ASK = """
policy: |
  @id("ask") @require_approval("admin")
  forbid (principal in Role::"app", action == Action::"invoke_tool", resource == Tool::"exec");
"""


class Work:
    """A tenant whose runs are cut, and what they have done."""

    def __init__(self, gw: Gateway):
        self.gw = gw
        self.tenant: Tenant = gw.tenant()
        self.boss = Person(gw, self.tenant.token)
        self.app = person(gw, self.tenant, "ci", "app")
        self.boss.agent("worker", *TOOLS)
        assert self.boss.ok("policy.set", document=ASK)["in_force"]

    @property
    def book(self) -> Path:
        return workspace(self.tenant) / "book.txt"

    def lines(self, mark: str) -> int:
        """How often an effect has happened."""
        return self.book.read_text().split().count(mark) if self.book.exists() else 0

    def crash(self) -> None:
        self.gw.kill()
        self.gw.start()

    def answered_once(self, session: str, run: str) -> None:
        """It has finished, with one reply, which is its last word."""
        found = self.boss.comes_to(run, "finished")
        assert {call["state"] for call in found["calls"]} <= {"ended"}
        replies = [text for text in self.boss.said(session, "assistant", run) if text]
        said = [one["message"] for one in self.boss.history(session) if one["run"] == run]
        assert len(replies) == 1 and said[-1]["content"] == replies[0], said
        calls = [call["id"] for one in said for call in one.get("tool_calls", [])]
        assert [one["tool_call_id"] for one in said if one["role"] == "tool"] == calls, "each call has one result"


@pytest.fixture(scope="module")
def work(gw) -> Work:
    return Work(gw)


def writes(mark: str, then: str = "") -> str:
    """A command that leaves one line, and then takes its time."""
    return f"echo {mark} >> book.txt{then}"


@pytest.mark.parametrize("number", range(COUNT))
def test_an_effect_that_had_happened_is_not_repeated(work, number):
    """The program has written and still runs, or has just ended, when the gateway dies."""
    boss, mark, sooner = work.boss, secrets.token_hex(8), secrets.token_hex(8)
    session = boss.session("worker")
    then = "; sleep 20" if number % 2 == 0 else ""
    last = tool("file_read", path="book.txt")
    run = boss.send(session, f"Go {script(tool('exec', command=writes(sooner)), tool('exec', command=writes(mark, then)), last)}")
    eventually(lambda: work.lines(mark) == 1, 20, "the effect")
    work.crash()
    work.answered_once(session, run)
    assert (work.lines(sooner), work.lines(mark)) == (1, 1)
    calls = boss.run(run)["calls"]
    assert [call["tool"] for call in calls] == ["exec", "exec", "file_read"]
    if then:
        assert "it is not repeated" in boss.results(session, run)[1], "the model is told that nobody knows"
    assert mark in boss.results(session, run)[2]


def test_runs_of_many_sessions_are_all_taken_up(work):
    """Four work, others wait for their turn; all of them end after the crash, in each session in order."""
    boss, begun = work.boss, []
    for _ in range(6):
        session, marks = boss.session("worker"), [secrets.token_hex(8) for _ in range(2)]
        messages = [f"Go {shell(writes(mark, then))}" for mark, then in zip(marks, ("; sleep 2", ""), strict=True)]
        runs = [boss.send(session, text, idempotency_key=mark) for text, mark in zip(messages, marks, strict=True)]
        begun.append((session, marks, messages, runs))
    eventually(lambda: sum(work.lines(marks[0]) for _, marks, _, _ in begun) >= 4, 20, "four effects")
    states = [boss.run(run)["state"] for _, _, _, runs in begun for run in runs]
    assert states.count("queued") >= 6 and "running" in states
    work.crash()
    for session, marks, messages, runs in begun:
        for mark, text, run in zip(marks, messages, runs, strict=True):
            work.answered_once(session, run)
            assert work.lines(mark) == 1
            again = boss.ok("sessions.send", id=session, message=text, idempotency_key=mark)
            assert again == {"run": run, "repeated": True}
        replies = [one["run"] for one in boss.history(session) if one["message"]["role"] == "assistant" and one["message"]["content"]]
        assert replies == runs, "one reply each, one after the other"


def test_a_run_that_waits_for_an_approval_still_waits_and_goes_on_when_it_is_given(work):
    boss, app = work.boss, work.app
    session, mark = app.session("worker"), secrets.token_hex(8)
    run = app.comes_to(app.send(session, f"Go {shell(writes(mark))}"), "waiting")["id"]
    later = app.send(session, "And then?")
    for _ in range(2):
        work.crash()
        found = app.comes_to(run, "waiting")
        assert found["calls"][0]["state"] == "waiting" and work.lines(mark) == 0
    assert app.run(later)["state"] == "queued"
    call = found["calls"][0]["id"]
    assert app.no("runs.approve", id=run, call=call) == "not_an_approver"
    assert boss.ok("runs.approve", id=run, call=call)
    work.answered_once(session, run)
    work.answered_once(session, later)
    assert work.lines(mark) == 1


def test_a_run_whose_credential_ended_meanwhile_does_not_go_on(work, sim):
    gw, token = work.gw, person(work.gw, work.tenant, f"gone-{secrets.token_hex(4)}", "member")
    session, mark, next_mark = token.session("worker"), secrets.token_hex(8), secrets.token_hex(8)
    order = script(tool("exec", command=writes(mark, "; sleep 20")), tool("exec", command=writes(next_mark)))
    run = token.send(session, f"Go {order}")
    name = token.run(run)["token"]
    eventually(lambda: work.lines(mark) == 1, 20, "the effect")
    gw.kill()
    gw.json("tenants", "token", "revoke", work.tenant.id, name)
    gw.start()
    ended = work.boss.comes_to(run, "failed")
    assert ended["why"] == "credential_ended" and (work.lines(mark), work.lines(next_mark)) == (1, 0)
    assert len([record for record in sim.requests() if order in (record["body"] or "")]) == 1


def test_a_cancelled_run_stays_cancelled(work):
    boss = work.boss
    session, mark = boss.session("worker"), secrets.token_hex(8)
    run = boss.send(session, f"Go {script(tool('exec', command=writes(mark, '; sleep 20')), tool('file_list'))}")
    eventually(lambda: work.lines(mark) == 1, 20, "the effect")
    assert boss.ok("runs.cancel", id=run)
    said = boss.history(session)
    work.crash()
    assert boss.run(run)["state"] == "cancelled"
    assert boss.ask(session, "Are you there?")["steps"] >= 1
    assert boss.history(session)[: len(said)] == said and work.lines(mark) == 1


def test_a_model_that_was_being_asked_is_asked_again_and_answers_once(work, sim):
    boss = work.boss
    session = boss.session("worker")
    run = boss.send(session, "[[sim:delay=2s]] Slowly")
    eventually(lambda: sim.stats()["requests_open"] > 0, 10, "an open question")
    work.crash()
    work.answered_once(session, run)
    assert boss.run(run)["steps"] == 1


def test_the_books_are_whole_afterwards(work):
    """Every run has ended, and the log and the ledger of the tenant verify."""
    runs = work.boss.ok("runs.list", limit=200)["runs"]
    assert len(runs) >= COUNT and all(run["ended_at"] for run in runs)
    entries = [entry for entry in work.tenant.audit() if entry["action"] == "invoke_tool" and entry["decision"] == "allow"]
    carried_out = [entry["detail"]["call"] for entry in entries if entry["detail"]["name"] == "exec"]
    assert len(carried_out) == len(set(carried_out)), "no call was carried out twice"
    assert work.gw.cli("audit", "verify", "--tenant", work.tenant.id).returncode == 0


def test_a_gateway_that_stops_leaves_a_long_run_to_the_next_start(work):
    session = work.boss.session("worker")
    run = work.boss.send(session, shell("touch stops; sleep 60"))
    eventually(lambda: (workspace(work.tenant) / "stops").exists(), 20, "the effect")
    assert work.gw.stop() == 0
    work.gw.start()
    work.answered_once(session, run)
    assert "not repeated" in work.boss.results(session, run)[0]

