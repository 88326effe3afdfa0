"""`agent/<name>` for the official client of chat completions: it speaks to an agent as to a model."""

from __future__ import annotations

import json
import secrets

import openai
import pytest

from agent_client import TOOLS, Person, person, script, shell, tool
from canary import canary
from deployment import eventually, raw_connection
from samples import OPENAI_WEATHER, user
from test_runs import alive


@pytest.fixture(scope="module")
def boss(gw, acme) -> Person:
    boss = person(gw, acme, "boss", "admin")
    boss.agent("analyst", *TOOLS, instructions="You count.")
    boss.agent("other", "file_list")
    return boss


@pytest.fixture(scope="module")
def client(acme, boss) -> openai.OpenAI:
    return acme.openai(boss.token)


def create(client: openai.OpenAI, content: str, **options):
    return client.chat.completions.create(model="agent/analyst", messages=user(content), **options)


def raw(who: Person, body: dict, path: str = "/v1/chat/completions"):
    return who.gw.http.post(path, json=body, headers={"authorization": f"Bearer {who.token}", "anthropic-version": "2023-06-01"})


def bare(answer, *names: str) -> tuple:
    """An answer without what differs between any two, and without the names that were sent."""
    text = answer.text.replace(answer.headers["x-request-id"], "*")
    for name in names:
        text = text.replace(name, "<name>")
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "x-request-id", "content-length")}
    return answer.status_code, headers, text


def unlike(text: str) -> str:
    return text[:-16] + secrets.token_hex(8)


def test_an_agent_answers_whole_after_using_its_tools(client, boss, acme):
    answer = create(client, f"Go {script(tool('python', code='print(6 * 7)'), tool('exec', command='echo $((40 + 3))'))}")
    choice = answer.choices[0]
    assert (answer.model, answer.object) == ("agent/analyst", "chat.completion")
    assert (choice.finish_reason, choice.message.role) == ("stop", "assistant")
    assert "43" in choice.message.content and choice.message.tool_calls is None, "the tools are the agent's own"
    run = boss.run(answer.metadata["run"])
    assert answer.id == f"chatcmpl-{run['id']}" and run["session"] == answer.metadata["session"]
    assert (run["state"], run["steps"], [call["tool"] for call in run["calls"]]) == ("finished", 3, ["python", "exec"])
    session = boss.ok("sessions.get", id=run["session"])
    assert (session["channel"], session["agent"], session["owner"]) == ("api", "analyst", "token:boss")
    assert boss.said(run["session"])[-1] == choice.message.content
    assert len([row for row in acme.rows() if row["trace_id"] == run["id"].removeprefix("run_")]) == 3


def test_an_agent_answers_as_a_stream(client, boss):
    order = f"Go {script(tool('python', code='print(6 * 7)'))}"
    chunks = list(create(client, order, stream=True))
    assert {chunk.model for chunk in chunks} == {"agent/analyst"} and len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices[0].finish_reason == "stop"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    run = boss.run(chunks[0].id.removeprefix("chatcmpl-"))
    assert "42" in text and boss.said(run["session"])[-1] == text and run["state"] == "finished"
    lines = raw(boss, {"model": "agent/analyst", "stream": True, "messages": user(order)}).text.splitlines()
    comments = [line for line in lines if line.startswith(":")]
    assert [line.split()[1:3] for line in comments] == [["tool.started", "python"], ["tool.ended", "python"]]
    assert "print(6" not in "".join(comments) and [line for line in lines if line][-1] == "data: [DONE]"


def test_a_session_is_gone_on_with_and_remembers(client, boss, sim):
    first, second = canary(), canary()
    begun = create(client, f"Remember {first}")
    session = begun.metadata["session"]
    whole = [*user(f"Remember {first}"), {"role": "assistant", "content": begun.choices[0].message.content}, *user(f"What? {second}")]
    again = client.chat.completions.create(model="agent/analyst", messages=whole, metadata={"session": session})
    assert again.metadata["session"] == session and again.metadata["run"] != begun.metadata["run"]
    (asked,) = [json.loads(record["body"])["messages"] for record in sim.requests() if second in (record["body"] or "")]
    assert [one["role"] for one in asked] == ["system", "user", "assistant", "user"], "only the last message is new"
    assert asked[0]["content"] == "You count." and first in asked[1]["content"]
    apart = create(client, f"What? {canary()}")
    assert apart.metadata["session"] != session and first not in json.dumps(boss.history(apart.metadata["session"]))
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="agent/analyst", messages=whole[:2], metadata={"session": session})
    assert refusal.value.param == "messages"


def test_a_conversation_that_the_client_keeps_is_told_as_it_is(client, sim):
    word = canary()
    turns = [{"role": "system", "content": "Sing."}, {"role": "developer", "content": "Softly."}, *user([{"type": "text", "text": "One"}]),
             {"role": "assistant", "content": "Two"}, *user(f"Three {word}")]  # fmt: skip
    assert client.chat.completions.create(model="agent/analyst", messages=turns).choices
    (asked,) = [json.loads(record["body"])["messages"] for record in sim.requests() if word in (record["body"] or "")]
    assert [(one["role"], one["content"]) for one in asked] == [
        ("system", "You count."), ("system", "Sing."), ("system", "Softly."), ("user", "One"), ("assistant", "Two"),
        ("user", f"Three {word}"),
    ]  # fmt: skip


def test_a_session_that_is_not_the_callers_is_as_one_that_is_not_there(gw, globex, acme, boss):
    ann, theirs = person(gw, acme, "anns", "member", "--person", "ann"), Person(gw, globex.token)
    theirs.agent("analyst")
    sessions = [ann.session("analyst"), theirs.session("analyst"), boss.session("other"), boss.session()]
    sessions += [unlike(boss.session("analyst")), "..", ""]
    answers = set()
    for session in sessions:
        answer = raw(boss, {"model": "agent/analyst", "messages": user("Hi"), "metadata": {"session": session}})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "metadata.session", session
        answers.add(str(bare(answer)))
    assert len(answers) == 1
    assert ann.history(sessions[0]) == [] and theirs.history(sessions[1]) == [] and boss.history(sessions[2]) == []


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("tools", [OPENAI_WEATHER]),
        ("tools", []),
        ("functions", [OPENAI_WEATHER["function"]]),
        ("tool_choice", "auto"),
        ("response_format", {"type": "json_object"}),
        ("n", 2),
    ],
)
def test_what_an_agent_has_of_its_own_is_refused_by_name(client, boss, member, value):
    before = len(boss.ok("runs.list", limit=200)["runs"])
    with pytest.raises(openai.BadRequestError) as refusal:
        create(client, "Hi", **({member: value} if member != "functions" else {"extra_body": {member: value}}))
    assert refusal.value.param == member and member in str(refusal.value)
    assert len(boss.ok("runs.list", limit=200)["runs"]) == before


def test_messages_that_an_agent_cannot_take_are_named_by_their_place(client, boss):
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"role": "tool", "tool_call_id": "x", "content": "evil"}
    for messages, param in [
        ([*user("Hi"), call], "messages[1].role"),
        (user([picture]), "messages[0].content"),
        ([*user("Hi"), *user("")], "messages[1].content"),
        (user("x" * (256 * 1024 + 1)), "messages"),
    ]:
        with pytest.raises(openai.BadRequestError) as refusal:
            client.chat.completions.create(model="agent/analyst", messages=messages)
        assert refusal.value.param == param


def test_an_agent_that_is_not_there_looks_like_a_model_that_is_not_there(gw, globex, boss):
    Person(gw, globex.token).agent("secretive")
    names = ("agent/secretive", "agent/nobodyhas", "agent/", "agent/ANALYST", "agent/analyst/x", "model/nobodyhas")
    for more in ({}, {"stream": True}, {"metadata": {"session": "x"}}):
        answers = {str(bare(raw(boss, {"model": name, "messages": user("Hi"), **more}), name)) for name in names}
        assert len(answers) == 1 and "model_not_found" in answers.pop()


@pytest.mark.parametrize("role", ["readonly", "auditor"])
def test_a_role_that_may_not_call_models_begins_no_run(gw, acme, boss, role):
    who = person(gw, acme, f"a-{role}", role)
    for model in ("sim-fast", "agent/analyst", "agent/nobodyhas"):
        answer = raw(who, {"model": model, "messages": user("Hi")})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), model
    assert f"a-{role}" not in json.dumps([boss.ok("sessions.list"), boss.ok("runs.list")])


def test_other_operations_know_no_agents(boss):
    for path, body in [("/v1/messages", {"max_tokens": 9, "messages": user("Hi")}), ("/v1/embeddings", {"input": "Hi"})]:
        own, absent = (raw(boss, {"model": name, **body}, path) for name in ("agent/analyst", "agent/nobodyhas"))
        assert bare(own, "analyst") == bare(absent, "nobodyhas") and own.status_code == 404


def test_a_run_that_fails_is_an_error_of_the_client(client, boss):
    boss.agent("stubborn", "file_list", max_steps=1)
    body = {"model": "agent/stubborn", "messages": user(f"Go {script(tool('file_list'), tool('file_list'))}")}
    with pytest.raises(openai.InternalServerError) as refusal:
        client.chat.completions.create(**body)
    assert refusal.value.status_code == 502 and refusal.value.code == "run_failed" and "steps_exceeded" in str(refusal.value)
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(**body, stream=True))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_that_hangs_up_ends_its_run(gw, acme, boss, stream):
    mark = canary()
    body = {"model": "agent/analyst", "stream": stream, "messages": user(f"Go {shell(f'sleep 60; echo {mark}')}")}
    request = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {boss.token}\r\ncontent-type: application/json\r\n"
    with raw_connection(gw) as connection:
        connection.sendall(f"{head}content-length: {len(request)}\r\n\r\n".encode() + request)
        eventually(lambda: alive(mark), 10, "the program")
        (run,) = [run for run in boss.ok("runs.list")["runs"] if run["state"] == "running"]
    assert boss.comes_to(run["id"], "cancelled")["steps"] == 1
    eventually(lambda: not alive(mark), 5, "the end of the program")
    assert [entry["detail"]["name"] for entry in acme.audit() if entry["action"] == "run.cancel"][-1] == run["id"]


def test_a_credential_that_ends_ends_the_answer(gw, acme, boss):
    who = person(gw, acme, "short-lived", "app")
    mark = canary()
    order = user(f"Go {shell(f'sleep 60; echo {mark}')}")
    stream = acme.openai(who.token).chat.completions.create(model="agent/analyst", messages=order, stream=True)
    eventually(lambda: alive(mark), 10, "the program")
    gw.json("tenants", "token", "revoke", acme.id, "short-lived")
    with pytest.raises(openai.APIError):
        list(stream)
    eventually(lambda: not alive(mark), 5, "the end of the program")
    runs = [run for run in boss.ok("runs.list")["runs"] if run["token"] == "short-lived"]
    assert [(run["state"], run["why"]) for run in runs] == [("failed", "credential_ended")]
