"""The official `anthropic` package against providers of both dialects."""

from __future__ import annotations

import json
from decimal import Decimal

import anthropic
import pytest

from deployment import price_of
from samples import ANTHROPIC_WEATHER, PNG, WEATHER_QUESTION, user

EITHER = pytest.mark.parametrize("model", ["claude-fast", "sim-fast"], ids=["anthropic-provider", "openai-provider"])


def texts(message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@EITHER
def test_a_message_is_answered_in_full_and_recorded(acme, model):
    raw = acme.anthropic().messages.with_raw_response.create(
        model=model, max_tokens=300, system="Be short.", messages=user("Say hello to the neighbours.")
    )
    message = raw.parse()
    assert (message.type, message.role, message.model) == ("message", "assistant", model)
    assert message.stop_reason == "end_turn" and message.stop_sequence is None
    assert [block.type for block in message.content] == ["text"]
    assert texts(message).startswith("This is a simulated answer from sim-fast; no real model was asked.")
    assert 'You wrote: "Say hello to the neighbours."' in texts(message)
    row = acme.row(raw.headers["x-request-id"])
    assert (row["model"], row["provider_model"], row["outcome"]) == (model, "sim-fast", "finished")
    assert (row["tokens_in"], row["tokens_out"]) == (message.usage.input_tokens, message.usage.output_tokens)
    assert Decimal(row["cost_usd"]) == price_of("sim-fast", message.usage.input_tokens, message.usage.output_tokens)


@EITHER
def test_the_system_prompt_reaches_the_provider(acme, sim, model):
    mark = sim.mark()
    blocks = [{"type": "text", "text": "First rule."}, {"type": "text", "text": "Second rule."}]
    acme.anthropic().messages.create(model=model, max_tokens=50, system=blocks, messages=user("Hi"))
    body = json.loads(sim.one_since(mark)["body"])
    if model == "claude-fast":
        assert body["system"] == blocks
    else:
        system = body["messages"][0]
        assert system["role"] in ("system", "developer")
        assert "First rule." in json.dumps(system["content"]) and "Second rule." in json.dumps(system["content"])


@EITHER
def test_the_stream_adds_up_to_the_whole_message(acme, model):
    client = acme.anthropic()
    asked = {"model": model, "max_tokens": 300, "messages": user("Twice the same?")}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        kinds = []
        for event in stream:
            kinds.append(event.type)
        final = stream.get_final_message()
    assert texts(final) == texts(whole) and final.stop_reason == "end_turn" and final.model == model
    assert final.usage.input_tokens == whole.usage.input_tokens
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("message_start") == kinds.count("message_stop") == kinds.count("message_delta") == 1


@EITHER
def test_tool_loop_with_parallel_calls_runs_to_its_end(acme, model):
    client = acme.anthropic()
    messages = user(WEATHER_QUESTION)
    first = client.messages.create(model=model, max_tokens=500, messages=messages, tools=[ANTHROPIC_WEATHER])
    assert first.stop_reason == "tool_use"
    calls = [block for block in first.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [
        ("get_weather", {"location": "Paris"}),
        ("get_weather", {"location": "Rome"}),
    ]
    assert len({call.id for call in calls}) == 2
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": f"{n} degrees"} for n, call in enumerate(calls, 20)]
    messages = [*messages, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    last = client.messages.create(model=model, max_tokens=500, messages=messages, tools=[ANTHROPIC_WEATHER])
    assert last.stop_reason == "end_turn"
    assert "The tool returned: 20 degrees." in texts(last) and "The tool returned: 21 degrees." in texts(last)


@EITHER
def test_streamed_tool_calls_carry_their_input(acme, model):
    with acme.anthropic().messages.stream(
        model=model, max_tokens=500, messages=user(WEATHER_QUESTION), tools=[ANTHROPIC_WEATHER]
    ) as stream:
        final = stream.get_final_message()
    assert final.stop_reason == "tool_use"
    assert [block.input for block in final.content if block.type == "tool_use"] == [
        {"location": "Paris"},
        {"location": "Rome"},
    ]


@EITHER
def test_an_image_reaches_the_provider(acme, sim, model):
    mark = sim.mark()
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    message = acme.anthropic().messages.create(
        model=model, max_tokens=300, messages=user([{"type": "text", "text": "What is on it?"}, image])
    )
    assert "1 image(s) came along" in texts(message)
    sent = json.loads(sim.one_since(mark)["body"])["messages"][-1]["content"]
    if model == "claude-fast":
        assert sent[1] == image
    else:
        url = next(part for part in sent if part["type"] == "image_url")["image_url"]["url"]
        assert url == f"data:image/png;base64,{PNG}"


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_thinking_keeps_its_signature_over_turns(acme, streamed):
    client = acme.anthropic()
    asked = {
        "model": "claude-reasoning",
        "max_tokens": 2048,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    if streamed:
        with client.messages.stream(messages=user("Think first."), **asked) as stream:
            first = stream.get_final_message()
    else:
        first = client.messages.create(messages=user("Think first."), **asked)
    thought, said = first.content
    assert (thought.type, said.type) == ("thinking", "text")
    assert thought.thinking.startswith("Simulated reasoning:") and thought.signature
    # The provider checks the signature: a changed byte would be its 400.
    turns = [*user("Think first."), {"role": "assistant", "content": first.content}, *user("And now?")]
    second = client.messages.create(messages=turns, **asked)
    assert second.stop_reason == "end_turn"
    turns[1]["content"] = [{"type": "thinking", "thinking": thought.thinking + "!", "signature": thought.signature}, said]
    with pytest.raises(anthropic.BadRequestError, match="signature"):
        client.messages.create(messages=turns, **asked)


def test_cache_control_is_passed_and_its_buckets_are_billed(acme):
    system = [{"type": "text", "text": "The house rules. " * 200, "cache_control": {"type": "ephemeral"}}]
    asked = {"model": "claude-large", "max_tokens": 100, "system": system, "messages": user("Which rule is first?")}
    client = acme.anthropic()
    written = client.messages.with_raw_response.create(**asked)
    read = client.messages.with_raw_response.create(**asked)
    wrote, reads = written.parse().usage, read.parse().usage
    assert wrote.cache_creation_input_tokens > 0 and wrote.cache_read_input_tokens == 0
    assert reads.cache_read_input_tokens == wrote.cache_creation_input_tokens and reads.cache_creation_input_tokens == 0
    row = acme.row(written.headers["x-request-id"])
    assert row["cache_write_tokens"] == wrote.cache_creation_input_tokens
    assert row["tokens_in"] == wrote.input_tokens + wrote.cache_creation_input_tokens
    expected = price_of("sim-large", wrote.input_tokens, wrote.output_tokens, write=wrote.cache_creation_input_tokens)
    assert Decimal(row["cost_usd"]) == expected
    row = acme.row(read.headers["x-request-id"])
    assert (row["cache_read_tokens"], row["cache_write_tokens"]) == (reads.cache_read_input_tokens, 0)
    expected = price_of("sim-large", reads.input_tokens, reads.output_tokens, read=reads.cache_read_input_tokens)
    assert Decimal(row["cost_usd"]) == expected


def test_a_stop_sequence_is_named_by_a_provider_that_names_it(acme):
    message = acme.anthropic().messages.create(
        model="claude-fast", max_tokens=300, messages=user("Go."), stop_sequences=["real", "zzz"]
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "real")
    assert texts(message) == "This is a simulated answer from sim-fast; no "


def test_a_stop_sequence_works_at_an_openai_provider(acme, sim):
    mark = sim.mark()
    message = acme.anthropic().messages.create(
        model="sim-fast", max_tokens=300, messages=user("Go."), stop_sequences=["real"]
    )
    assert texts(message) == "This is a simulated answer from sim-fast; no "
    assert message.stop_reason == "end_turn"
    assert json.loads(sim.one_since(mark)["body"])["stop"] == ["real"]


@EITHER
def test_max_tokens_is_the_stop_reason_of_a_cut_answer(acme, model):
    message = acme.anthropic().messages.create(model=model, max_tokens=5, messages=user("Talk long."))
    assert message.stop_reason == "max_tokens" and message.usage.output_tokens == 5


def test_both_dialects_upstream_give_equal_answers_usage_and_cost(acme):
    order = "What is a wall? [[sim:fixed_usage=1000:500 cache_read=64]]"
    replies, costs = [], []
    for model in ["gpt-alias", "claude-fast"]:
        raw = acme.anthropic().messages.with_raw_response.create(model=model, max_tokens=900, messages=user(order))
        message = raw.parse()
        used = message.usage
        replies.append(
            (texts(message), message.stop_reason, used.input_tokens, used.output_tokens, used.cache_read_input_tokens)
        )
        costs.append(Decimal(acme.row(raw.headers["x-request-id"])["cost_usd"]))
    assert replies[0] == replies[1] and replies[0][2:] == (1000, 500, 64)
    assert costs[0] == costs[1] == price_of("sim-fast", 1000, 500, read=64)


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}, "thinking"),
        ({"messages": user([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}])}, "cache_control"),
        ({"extra_body": {"x_vendor": 1}}, "x_vendor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_cross_to_an_openai_provider_is_refused_by_name(acme, sim, members, named):
    mark = sim.mark()
    with pytest.raises(anthropic.BadRequestError, match=named) as refused:
        acme.anthropic().messages.create(**{"model": "sim-fast", "max_tokens": 50, "messages": user("Hi"), **members})
    assert refused.value.body["error"]["type"] == "invalid_request_error"
    assert sim.since(mark) == []


def test_models_are_listed_in_anthropics_shape(acme, gw):
    client = acme.anthropic()
    assert {model.id for model in client.models.list(limit=1000)} == {model["name"] for model in gw.config["models"]}
    # Page by page the package comes to the same end.
    assert len(list(client.models.list(limit=3))) == len(gw.config["models"])
    found = client.models.retrieve("sim-large")
    assert (found.id, found.type) == ("sim-large", "model")
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no-such-model")


# Refusals: each as the package's own exception, in Anthropic's shape.


def shape(error: anthropic.APIStatusError) -> str:
    assert error.body["type"] == "error" and set(error.body["error"]) >= {"type", "message"}
    assert error.body["request_id"] == error.response.headers["x-request-id"]
    return error.body["error"]["type"]


def ask(client: anthropic.Anthropic, model: str = "claude-fast", content: str = "Hi", **members):
    return client.messages.create(model=model, messages=user(content), **{"max_tokens": 50, **members})


def test_a_wrong_token_is_an_authentication_error(acme):
    with pytest.raises(anthropic.AuthenticationError) as refused:
        ask(acme.anthropic(token="tk_acme_" + "0" * 32))
    assert shape(refused.value) == "authentication_error"


def test_a_suspended_tenant_is_a_permission_error(gw):
    tenant = gw.tenant()
    gw.json("tenants", "suspend", tenant.id)
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        ask(tenant.anthropic())
    assert shape(refused.value) == "permission_error"


def test_a_role_that_may_not_call_is_a_permission_error(gw, acme):
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        ask(acme.anthropic(token=gw.issue(acme, "reader", "readonly")))
    assert shape(refused.value) == "permission_error"


def test_an_absent_model_is_a_not_found_error(acme):
    with pytest.raises(anthropic.NotFoundError) as refused:
        ask(acme.anthropic(), model="claude-99")
    assert shape(refused.value) == "not_found_error" and "claude-99" in refused.value.message


def test_a_missing_max_tokens_is_a_bad_request_that_names_it(acme):
    answer = acme.post("/v1/messages", {"model": "claude-fast", "messages": user("Hi")})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error" and "max_tokens" in answer.json()["error"]["message"]


@EITHER
def test_a_bad_request_of_the_provider_stays_one(acme, model):
    with pytest.raises(anthropic.BadRequestError) as refused:
        ask(acme.anthropic(), model, "[[sim:fault=status:400]]")
    assert shape(refused.value) == "invalid_request_error"


@EITHER
def test_a_rate_limit_of_the_provider_stays_one_with_its_wait(acme, model):
    with pytest.raises(anthropic.RateLimitError) as refused:
        ask(acme.anthropic(), model, "[[sim:fault=status:429:7]]")
    assert shape(refused.value) == "rate_limit_error"
    assert refused.value.response.headers["retry-after"] == "7"


@EITHER
@pytest.mark.parametrize(("status", "kind"), [(500, "api_error"), (503, "overloaded_error")])
def test_a_failing_provider_is_an_internal_server_error_of_its_status(acme, model, status, kind):
    with pytest.raises(anthropic.InternalServerError) as failed:
        ask(acme.anthropic(), model, f"[[sim:fault=status:{status}]]")
    assert failed.value.status_code == status and shape(failed.value) == kind


def test_an_overloaded_anthropic_provider_stays_529(acme):
    with pytest.raises(anthropic.APIStatusError) as failed:
        ask(acme.anthropic(), "claude-fast", "[[sim:fault=status:529]]")
    assert failed.value.status_code == 529 and shape(failed.value) == "overloaded_error"


def test_a_body_above_the_limit_is_413_and_names_the_limit(acme):
    with pytest.raises(anthropic.APIStatusError) as refused:
        ask(acme.anthropic(), content="x" * (32 * 1024 * 1024))
    assert refused.value.status_code == 413 and shape(refused.value) == "request_too_large"
    assert str(32 * 1024 * 1024) in refused.value.message


def test_each_attempt_that_retries_cause_is_one_row(acme, sim):
    mark, before = sim.mark(), len(acme.rows())
    with pytest.raises(anthropic.InternalServerError):
        ask(acme.anthropic(max_retries=2), content="[[sim:fault=status:500 tag=anthropic-retries]]")
    rows = acme.rows()[before:]
    assert len(sim.since(mark)) == len(rows) == 3
    assert {row["outcome"] for row in rows} == {"failed"}


def test_a_quota_refusal_is_asked_once_and_names_the_quota(gw, sim):
    tenant = gw.tenant(None, "--requests-per-minute", "1")
    client = tenant.anthropic(max_retries=2)
    ask(client)
    mark = sim.mark()
    with pytest.raises(anthropic.RateLimitError, match="requests_per_minute") as refused:
        ask(client)
    assert shape(refused.value) == "rate_limit_error"
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert sim.since(mark) == []
    assert len([entry for entry in tenant.audit() if entry["decision"] == "deny"]) == 1


def test_the_version_header_and_known_betas_go_upstream_and_unknown_ones_are_refused(acme, sim):
    mark = sim.mark()
    client = acme.anthropic()
    ask(client, extra_headers={"anthropic-beta": "interleaved-thinking-2025-05-14"})
    headers = sim.one_since(mark)["headers"]
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["anthropic-beta"] == "interleaved-thinking-2025-05-14"
    with pytest.raises(anthropic.BadRequestError, match="files-api-2025-04-14"):
        ask(client, extra_headers={"anthropic-beta": "files-api-2025-04-14"})
