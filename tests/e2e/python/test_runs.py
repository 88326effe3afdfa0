"""Runs with tools: what a tool does to the workspace, what it cannot reach, and where a run ends."""

from __future__ import annotations

import json
import secrets
from decimal import Decimal
from pathlib import Path

import pytest

from agent_client import TOOLS, Person, person, script, shell, tool, workspace
from canary import canary
from deployment import eventually


@pytest.fixture(scope="module")
def boss(gw, acme) -> Person:
    boss = person(gw, acme, "boss", "admin")
    boss.agent("worker", *TOOLS)
    boss.agent("reader", "file_read", "file_list")
    return boss


@pytest.fixture
def session(boss) -> str:
    return boss.session("worker")


@pytest.fixture(scope="module")
def work(gw, acme, boss) -> Path:
    return workspace(acme)


def alive(mark: str) -> list[str]:
    """Programs of this machine whose command line holds the mark."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if mark.encode() in (place / "cmdline").read_bytes():
                    found.append(place.name)
            except OSError:
                continue
    return found


def sleeping(boss: Person, session: str, after: str = "late") -> tuple[str, str]:
    """A run whose program sleeps, and the mark in its command line."""
    mark = canary()
    run = boss.send(session, shell(f"sleep 60; echo {mark} > {after}"))
    eventually(lambda: alive(mark), 10, "the program")
    return run, mark


def results(boss: Person, session: str, *calls: dict) -> list[str]:
    """What these calls, in one answer of the model, returned."""
    return boss.results(session, boss.ask(session, f"Go {script(list(calls))}")["id"])


# What tools do.


def test_a_run_of_many_steps_uses_every_tool_on_the_same_files(boss, session, work, sim, acme):
    word = canary()
    run = boss.ask(
        session,
        f"{word} "
        + script(
            tool("python", code=f"print(6 * 7)\nopen('made.txt', 'w').write('by python {word}\\n')"),
            tool("exec", command="cat made.txt; echo by sh >> made.txt; pwd"),
            [tool("file_write", path="deep/er/note.txt", content="a\nneedle here\n"), tool("file_read", path="made.txt")],
            [tool("file_write", path="/box/made.txt", content="by a tool\n", append=True), tool("file_list", depth=5)],
            [tool("file_search", text="needle"), tool("file_read", path="made.txt", offset=3, limit=6)],
        ),
    )
    told = boss.results(session, run["id"])
    first, second = json.loads(told[0]), json.loads(told[1])
    assert (first["exit_code"], first["stdout"]) == (0, "42\n")
    assert [(one["path"], one["change"]) for one in first["files"]] == [("made.txt", "created")]
    assert second["stdout"] == f"by python {word}\n/box\n" and second["files"][0]["change"] == "modified"
    assert json.loads(told[2]) == {"path": "deep/er/note.txt", "bytes": 14, "created": True}
    assert told[3] == f"by python {word}\nby sh\n"
    assert json.loads(told[4])["created"] is False
    assert "file\t14\tdeep/er/note.txt" in told[5] and "directory\t0\tdeep" in told[5]
    assert told[6] == "deep/er/note.txt:2: needle here\n" and told[7].startswith("python")
    # What the model was told is what lies there.
    assert (work / "made.txt").read_text() == f"by python {word}\nby sh\nby a tool\n"
    assert (work / "deep/er/note.txt").read_text() == "a\nneedle here\n"
    assert run["steps"] == 6 and [call["state"] for call in run["calls"]] == ["ended"] * 8
    roles = [one["message"]["role"] for one in boss.history(session)]
    assert roles == ["user"] + ["assistant", "tool"] * 2 + ["assistant", "tool", "tool"] * 3 + ["assistant"]
    # Each question holds all that came before.
    asked = [json.loads(record["body"]) for record in sim.requests() if word in (record["body"] or "")]
    assert sorted(len(one["messages"]) for one in asked) == [1, 3, 5, 8, 11, 14]
    assert all(sorted(one["function"]["name"] for one in body["tools"]) == list(TOOLS) for body in asked)


def test_each_step_stands_in_the_books_under_the_run(boss, session, acme):
    run = boss.ask(session, f"Go {script(tool('file_list'), tool('python', code='print(1)'), tool('file_read', path='nothing'))}")
    rows = [row for row in acme.rows() if row["trace_id"] == run["id"].removeprefix("run_")]
    assert len(rows) == run["steps"] == 4
    assert {row["token"] for row in rows} == {"boss"}
    assert sum(Decimal(row["cost_usd"]) for row in rows) == Decimal(run["cost_usd"]) > 0
    entries = [entry for entry in acme.audit() if entry.get("detail", {}).get("run") == run["id"]]
    calls = [call["id"] for call in run["calls"]]
    assert [(entry["action"], entry["detail"]["name"], entry["detail"]["call"]) for entry in entries] == [
        (action, call["tool"], call["id"]) for call in run["calls"] for action in ("invoke_tool", "tool.ended")
    ]
    assert [entry.get("outcome") for entry in entries if entry["action"] == "tool.ended"] == ["ok", "ok", "failed"]
    assert all(entry["rule"] == "base.callers-work" and entry["trace_id"] == run["id"].removeprefix("run_")
               for entry in entries if entry["action"] == "invoke_tool")  # fmt: skip
    assert len(set(calls)) == 3 and "print(1)" not in json.dumps(entries), "arguments stand there as a digest"


def test_only_what_an_agent_has_is_there(boss, acme, sim, work):
    for session in (boss.session("reader"), boss.session()):
        mark = canary()
        run = boss.ask(session, f"{mark} " + script([tool("exec", command=f"touch {mark}"), tool("rm", path="x"),
                                                     tool("python", code=f"open('{mark}', 'w')"),
                                                     tool("file_write", path=mark, content="x")]))  # fmt: skip
        assert set(boss.results(session, run["id"])) == {"there is no such tool"} and len(run["calls"]) == 4
        assert not (work / mark).exists()
        bodies = [json.loads(record["body"]) for record in sim.requests() if mark in (record["body"] or "")]
        offered = [[one["function"]["name"] for one in body.get("tools", [])] for body in bodies]
        assert len(offered) == 2 and offered[0] == offered[1] == (["file_read", "file_list"] if offered[0] else [])
        assert run["id"] not in json.dumps([entry for entry in acme.audit() if entry["action"] == "invoke_tool"])


@pytest.mark.parametrize(
    "arguments",
    ["", "null", "[]", "{}", '{"comm', '"ls"', '{"command":1}', '{"command":"id","user":"root"}', '{"command":"a","command":"id"}',
     '{"command":"id","timeout_seconds":601}', '{"command":"id","timeout_seconds":-1}', '{"command":"id"} {}'],
)  # fmt: skip
def test_arguments_that_are_none_are_told_and_run_nothing(boss, session, arguments):
    run = boss.ask(session, f"Go {script(tool('exec', arguments))}")
    (told,) = boss.results(session, run["id"])
    assert "exit_code" not in told and any(word in told for word in ("argument", "missing", "must be"))
    assert run["calls"][0]["arguments"] == arguments and run["calls"][0]["begun_at"] is None


def test_a_tool_that_fails_is_told_and_the_run_goes_on(boss, session):
    told = results(boss, session, tool("exec", command="echo out; echo err >&2; exit 3"), tool("python", code="1/0"),
                   tool("exec", command="kill -9 $$"), tool("exec", command="sleep 30", timeout_seconds=1),
                   tool("exec", command="a\0b"), tool("file_read", path="no/such"))  # fmt: skip
    first, second, third, fourth = (json.loads(text) for text in told[:4])
    assert first == {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"}
    assert second["exit_code"] == 1 and "ZeroDivisionError" in second["stderr"]
    assert "exit_code" not in third or third["exit_code"] == 137
    assert fourth["ended_by_limit"] == "wall_time"
    assert "zero byte" in told[4] and told[5] == "there is no such file or directory"


def test_a_flood_is_cut(boss, session, work):
    told = results(boss, session, tool("exec", command="echo begin; yes | head -c 3000000; echo end"), tool("exec", command="yes"))
    first, second = (json.loads(text) for text in told)
    assert first["exit_code"] == 0 and first["stdout"].startswith("begin\n") and "bytes left out" in first["stdout"]
    assert second["ended_by_limit"] == "output"
    assert all(len(text) < 40_000 for text in told)
    (work / "long.txt").write_text("0123456789" * 10_000)
    (piece,) = results(boss, session, tool("file_read", path="long.txt"))
    assert piece.startswith("0123456789") and len(piece) < 40_000 and "go on at offset 32768" in piece


def test_of_too_many_calls_in_one_answer_the_first_ones_are_made(boss, session):
    run = boss.ask(session, f"Go {script([tool('file_list')] * 20)}")
    assert len(run["calls"]) == len(boss.results(session, run["id"])) == 16


# What tools cannot reach.

OUTSIDE = ("../escape", "a/../../escape", "/etc/passwd", "/box/../escape", "//etc/passwd", "a//b", "./a", "a/.", "a\\..\\b", "a\nb", "a\0b",
           "/boxes/a", "x" * 256, "/".join(["a"] * 40))  # fmt: skip


@pytest.mark.parametrize("name", ["file_read", "file_write", "file_list", "file_search"])
def test_a_path_that_leaves_the_workspace_is_refused(boss, session, work, name):
    more = {"file_write": {"content": "x"}, "file_search": {"text": "root"}}.get(name, {})
    told = results(boss, session, *(tool(name, path=path, **more) for path in OUTSIDE))
    assert len(told) == len(OUTSIDE) and all("path" in text and "root:" not in text for text in told), told
    assert not (work.parent / "escape").exists() and not (work.parent.parent / "escape").exists()


def test_what_a_program_plants_leads_a_file_tool_nowhere(gw, globex, boss, session, work):
    """Links to the machine and to another tenant, a file with two names, a pipe."""
    mark, theirs = canary(), Person(gw, globex.token)
    theirs.agent("worker", *TOOLS)
    theirs.ask(theirs.session("worker"), script(tool("file_write", path="theirs.txt", content=mark)))
    assert (workspace(globex) / "theirs.txt").read_text() == mark
    made = [f"ln -s /etc/passwd passwd; ln -s /etc etc; ln -s .. up; ln -s {globex.directory} other",
            f"ln -s {workspace(globex)}/theirs.txt direct; mkfifo pipe; echo x > one; ln one two; ln -s /proc/self/root root"]  # fmt: skip
    boss.ask(session, script(tool("exec", command="; ".join(made))))
    assert (work / "passwd").is_symlink() and (work / "other").is_symlink(), "they are there"
    names = ("passwd", "etc/passwd", "up/work/one", "other/sandbox/work/theirs.txt", "direct", "pipe", "two", "root/etc/passwd")
    told = results(boss, session, *(tool("file_read", path=name) for name in names))
    assert all(text.startswith("not an ordinary file") for text in told), told
    told = results(boss, session, *(tool("file_search", text=mark, path=name) for name in ("", "other", "direct", "root")))
    assert not any(mark in text for text in told)
    told = results(boss, session, *(tool("file_list", path=name, depth=9) for name in ("", "other", "etc", "up", "root")))
    assert "theirs.txt" not in "".join(told) and "shadow" not in "".join(told)
    appended = [tool("file_write", path=name, content="evil", append=True) for name in ("passwd", "direct", "other/x", "up/x", "two")]
    results(boss, session, *appended, *(tool("file_write", path=name, content="evil") for name in names))
    assert (workspace(globex) / "theirs.txt").read_text() == mark and not (globex.directory / "x").exists()
    assert "evil" not in Path("/etc/passwd").read_text() and (work / "one").read_text() == "x\n"
    assert sorted(path.name for path in workspace(globex).iterdir()) == ["theirs.txt"]


def test_a_program_sees_neither_the_machine_nor_another_tenant(gw, globex, boss, session, acme):
    looks = [f"cat {acme.directory}/tenant.db", f"ls {globex.directory}", f"ls {gw.data}", "cat /etc/shadow", "cat /box/../etc/hostname",
             "cat /proc/1/environ", "ls /root /home", f"echo > /dev/tcp/127.0.0.1/{gw.port}"]  # fmt: skip
    code = f"import socket\nsocket.create_connection(('127.0.0.1', {gw.port}), 2)"
    told = results(boss, session, *(tool("exec", command=command) for command in looks), tool("python", code=code),
                   tool("exec", command="env; id -u"))  # fmt: skip
    for text in told[:-1]:
        assert json.loads(text)["stdout"] == "", text
    # What stands there of the first process is nothing; all else fails.
    assert [json.loads(text)["exit_code"] == 0 for text in told[:-1]] == [False] * 5 + [True] + [False] * 3
    whole = "".join(told)
    assert "PARTYWALL" not in whole and "E2E_OPENAI_KEY" not in whole and "\n0\n" not in json.loads(told[-1])["stdout"]


# Where a run ends.


def test_a_run_ends_at_its_steps(boss, acme):
    boss.agent("short", "file_list", max_steps=2)
    session = boss.session("short")
    run = boss.ends(boss.send(session, script(*[tool("file_list")] * 3)))
    assert (run["state"], run["why"], run["steps"]) == ("failed", "steps_exceeded", 2)
    assert [call["state"] for call in run["calls"]] == ["ended"] * 2
    assert boss.ask(boss.session("short"), script(tool("file_list")))["steps"] == 2, "as many are made"


def test_a_run_ends_at_its_cost(boss):
    boss.agent("poor", "file_list", max_cost_usd="0.000001")
    session = boss.session("poor")
    run = boss.ends(boss.send(session, script(*[tool("file_list")] * 3)))
    assert (run["state"], run["why"], run["steps"]) == ("failed", "cost_exceeded", 1)
    assert Decimal(run["cost_usd"]) > Decimal("0.000001")
    assert boss.ask(boss.session("poor"), "Hello")["steps"] == 1, "an answer that is there is given"


def test_a_run_ends_at_its_time(boss):
    boss.agent("quick", "exec", max_seconds=1)
    session = boss.session("quick")
    run = boss.ends(boss.send(session, script(tool("exec", command="sleep 1.2"), tool("exec", command="touch too-late"))))
    assert (run["state"], run["why"], run["steps"]) == ("failed", "time_exceeded", 1)


def test_a_program_does_not_outlive_the_time_of_its_run(boss, work):
    boss.agent("brief", "exec", max_seconds=1)
    run = boss.ends(boss.send(boss.session("brief"), shell("sleep 6; touch outlived")))
    assert run["state"] == "failed" and not (work / "outlived").exists()


def test_a_model_that_does_not_answer_fails_the_run_by_name(boss):
    boss.agent("lost", model="no-such-model")
    session = boss.session("lost")
    run = boss.ends(boss.send(session, "Hi"))
    assert (run["state"], run["why"]) == ("failed", "model_failed:model_not_found")
    other = boss.session("worker")
    run = boss.ends(boss.send(other, "[[sim:fault=status:400]]"))
    assert run["state"] == "failed" and run["why"].startswith("model_failed:")
    assert boss.said(other, "assistant") == []


@pytest.mark.parametrize("how", ["runs.cancel", "sessions.abort"])
def test_a_cancelled_run_is_dead_at_once_and_says_nothing_more(boss, session, work, sim, how):
    run, mark = sleeping(boss, session, f"late-{how}")
    said, before = len(boss.history(session)), len(sim.requests())
    assert boss.ok(how, id=run if how == "runs.cancel" else session) in ({"done": True}, {"runs": 1})
    assert boss.run(run)["state"] == "cancelled"
    eventually(lambda: not alive(mark), 5, "the end of the program")
    assert boss.no("runs.cancel", id=run) == "run_ended"
    assert len(boss.history(session)) == said and len(sim.requests()) == before
    assert not (work / f"late-{how}").exists() and boss.run(run)["calls"][0]["state"] == "ended"
    answered = boss.ask(session, "Are you there?")
    assert answered["steps"] == 1 and boss.said(session, "assistant", run) == [None]
    question = json.loads(max(sim.requests(), key=lambda record: record["seq"])["body"])["messages"]
    assert [one["role"] for one in question] == ["user", "assistant", "tool", "user"]
    assert "Whether it took effect is not known" in question[2]["content"]


@pytest.mark.parametrize("how", ["revoke", "rotate", "suspend", "freeze", "delete"])
def test_a_run_does_not_outlive_its_credential(gw, sim, how):
    tenant = gw.tenant()
    admin, ci = Person(gw, tenant.token), person(gw, tenant, "ci", "admin")
    admin.agent("worker", *TOOLS)
    run, mark = sleeping(ci, ci.session("worker"))
    asked = len(sim.requests())
    commands = {
        "revoke": ("token", "revoke", tenant.id, "ci"), "rotate": ("token", "rotate", tenant.id, "--name", "ci"),
        "suspend": ("suspend", tenant.id), "freeze": ("freeze", tenant.id), "delete": ("delete", tenant.id, "--confirm", tenant.id),
    }  # fmt: skip
    gw.cli("tenants", *commands[how], check=True)
    eventually(lambda: not alive(mark), 5, "the end of the program")
    if how == "delete":
        eventually(lambda: not tenant.directory.exists(), 10, "the end of the directory")
    else:
        if how == "suspend":
            gw.json("tenants", "resume", tenant.id)
        ended = admin.comes_to(run, "failed")
        assert (ended["why"], ended["steps"]) == ("credential_ended", 1)
        assert not (workspace(tenant) / "late").exists()
    assert len(sim.requests()) == asked


def test_runs_of_two_tenants_never_meet(gw, acme, globex, boss):
    """The same names in both, at the same time: each finds its own."""
    theirs = Person(gw, globex.token)
    theirs.agent("worker", *TOOLS)
    pairs = []
    for number in range(6):
        for who in (boss, theirs):
            word = secrets.token_hex(8)
            session = who.session("worker")
            order = script(tool("exec", command=f"echo {word} > same-{number}; sleep 0.05"), tool("file_read", path=f"same-{number}"))
            pairs.append((who, session, word, who.send(session, f"Go {order}")))
    for who, session, word, run in pairs:
        assert who.comes_to(run, "finished")["steps"] == 3
        assert who.results(session, run)[1] == f"{word}\n"
