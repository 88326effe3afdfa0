"""The official `openai` package against providers of both dialects."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import openai
import pytest
from pydantic import BaseModel

from deployment import price_of
from samples import OPENAI_WEATHER, PNG, WEATHER_QUESTION, user

# One model at a provider of each dialect: what holds for the one holds for the other.
EITHER = pytest.mark.parametrize("model", ["sim-fast", "claude-fast"], ids=["openai-provider", "anthropic-provider"])


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@EITHER
def test_chat_answers_in_full_and_is_recorded(acme, model):
    raw = acme.openai().chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "system", "content": "Be short."}, *user("Say hello to the neighbours.")],
        max_tokens=200,
    )
    reply = raw.parse()
    assert (reply.object, reply.model) == ("chat.completion", model)
    [choice] = reply.choices
    assert choice.index == 0 and choice.message.role == "assistant" and choice.finish_reason == "stop"
    assert choice.message.content.startswith("This is a simulated answer from sim-fast; no real model was asked.")
    assert 'You wrote: "Say hello to the neighbours."' in choice.message.content
    usage = reply.usage
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    row = acme.row(raw.headers["x-request-id"])
    assert (row["model"], row["provider_model"]) == (model, "sim-fast")
    assert (row["tokens_in"], row["tokens_out"]) == (usage.prompt_tokens, usage.completion_tokens)
    assert Decimal(row["cost_usd"]) == price_of("sim-fast", usage.prompt_tokens, usage.completion_tokens)
    assert (row["usage_source"], row["outcome"], row["attempt"]) == ("provider", "finished", 1)


@EITHER
def test_stream_gives_the_same_text_and_no_usage_unasked(acme, model):
    client = acme.openai()
    whole = client.chat.completions.create(model=model, messages=user("Twice the same?"))
    chunks = list(client.chat.completions.create(model=model, messages=user("Twice the same?"), stream=True))
    assert text_of(chunks) == whole.choices[0].message.content
    assert all(chunk.choices for chunk in chunks), "a chunk with empty choices came unasked"
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.model for chunk in chunks} == {model}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason]
    assert reasons == ["stop"]


@EITHER
def test_stream_with_include_usage_ends_with_one_usage_chunk(acme, model):
    client = acme.openai()
    whole = client.chat.completions.create(model=model, messages=user("How many tokens?"))
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(model=model, messages=user("How many tokens?"), stream=True, stream_options=options)
    )
    assert chunks[-1].choices == [] and all(chunk.choices for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in chunks[:-1])
    used = chunks[-1].usage
    assert (used.prompt_tokens, used.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    assert used.total_tokens == used.prompt_tokens + used.completion_tokens


@EITHER
def test_tool_loop_with_parallel_calls_runs_to_its_end(acme, model):
    client = acme.openai()
    messages = user(WEATHER_QUESTION)
    first = client.chat.completions.create(model=model, messages=messages, tools=[OPENAI_WEATHER])
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [json.loads(call.function.arguments) for call in calls] == [{"location": "Paris"}, {"location": "Rome"}]
    assert {call.function.name for call in calls} == {"get_weather"}
    assert len({call.id for call in calls}) == 2
    messages = [*messages, choice.message]
    messages += [{"role": "tool", "tool_call_id": call.id, "content": f"{n} degrees"} for n, call in enumerate(calls, 20)]
    last = client.chat.completions.create(model=model, messages=messages, tools=[OPENAI_WEATHER])
    assert last.choices[0].finish_reason == "stop"
    text = last.choices[0].message.content
    assert "The tool returned: 20 degrees." in text and "The tool returned: 21 degrees." in text


@EITHER
def test_streamed_tool_calls_add_up_to_the_whole_ones(acme, model):
    arguments: dict[int, str] = {}
    names: dict[int, str] = {}
    reasons = []
    stream = acme.openai().chat.completions.create(
        model=model, messages=user(WEATHER_QUESTION), tools=[OPENAI_WEATHER], stream=True
    )
    for chunk in stream:
        reasons.append(chunk.choices[0].finish_reason)
        for call in chunk.choices[0].delta.tool_calls or []:
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
            names.setdefault(call.index, call.function.name)
    assert [json.loads(arguments[index]) for index in sorted(arguments)] == [{"location": "Paris"}, {"location": "Rome"}]
    assert names == {0: "get_weather", 1: "get_weather"}
    assert [reason for reason in reasons if reason] == ["tool_calls"]


@EITHER
def test_a_named_tool_choice_calls_that_tool(acme, model):
    other = {"type": "function", "function": {"name": "send_letter", "parameters": {"type": "object", "properties": {}}}}
    reply = acme.openai().chat.completions.create(
        model=model,
        messages=user("Nothing in particular."),
        tools=[OPENAI_WEATHER, other],
        tool_choice={"type": "function", "function": {"name": "send_letter"}},
    )
    assert [call.function.name for call in reply.choices[0].message.tool_calls] == ["send_letter"]


@EITHER
def test_an_image_reaches_the_provider(acme, sim, model):
    mark = sim.mark()
    parts = [
        {"type": "text", "text": "What is on it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
    ]
    reply = acme.openai().chat.completions.create(model=model, messages=user(parts))
    assert "1 image(s) came along" in reply.choices[0].message.content
    sent = json.loads(sim.one_since(mark)["body"])["messages"][-1]["content"]
    if model == "sim-fast":
        assert sent == parts
    else:
        source = next(part for part in sent if part["type"] == "image")["source"]
        assert source == {"type": "base64", "media_type": "image/png", "data": PNG}


class City(BaseModel):
    city: str
    inhabitants: int


@EITHER
def test_structured_output_is_parsed(acme, model):
    reply = acme.openai().chat.completions.parse(
        model=model, messages=user("Tell of the people in Bielefeld: 340000"), response_format=City
    )
    assert reply.choices[0].message.parsed == City(city="Bielefeld", inhabitants=340000)


def test_logprobs_pass_through(acme):
    reply = acme.openai().chat.completions.create(
        model="sim-fast", messages=user("Sure?"), logprobs=True, top_logprobs=2
    )
    tokens = reply.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == reply.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_several_choices_pass_through_and_are_billed_together(acme):
    raw = acme.openai().chat.completions.with_raw_response.create(model="sim-fast", messages=user("Two."), n=2)
    reply = raw.parse()
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert "It is alternative 2." in reply.choices[1].message.content
    assert acme.row(raw.headers["x-request-id"])["tokens_out"] == reply.usage.completion_tokens


def test_unknown_members_reach_a_provider_of_the_same_dialect_byte_for_byte(acme, sim):
    mark = sim.mark()
    body = (
        b'{"model":"gpt-alias", "messages" : [{"role":"user","content":"Hi \\u00e9"}],'
        b' "x_vendor": {"deep" :[1,2.50,-0e1,"\\/"]} }'
    )
    assert acme.post("/v1/chat/completions", body).status_code == 200
    sent = sim.one_since(mark)["body"]
    assert '"x_vendor": {"deep" :[1,2.50,-0e1,"\\/"]}' in sent
    assert '"messages" : [{"role":"user","content":"Hi \\u00e9"}]' in sent
    assert json.loads(sent)["model"] == "sim-fast"


@pytest.mark.parametrize(
    ("member", "named"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"seed": 7}, "seed"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"extra_body": {"x_vendor": 1}}, "x_vendor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_cross_to_an_anthropic_provider_is_refused_by_name(acme, sim, member, named):
    mark = sim.mark()
    with pytest.raises(openai.BadRequestError) as refused:
        acme.openai().chat.completions.create(model="claude-fast", messages=user("Hi"), **member)
    assert refused.value.param == named and named in refused.value.message
    assert sim.since(mark) == []


def test_a_reasoning_model_reports_and_bills_its_reasoning(acme):
    raw = acme.openai().chat.completions.with_raw_response.create(
        model="sim-reasoning", messages=user("Think."), reasoning_effort="low"
    )
    usage = raw.parse().usage
    assert usage.completion_tokens_details.reasoning_tokens == 16
    row = acme.row(raw.headers["x-request-id"])
    assert row["reasoning_tokens"] == 16 and row["tokens_out"] == usage.completion_tokens
    expected = price_of("sim-reasoning", usage.prompt_tokens, usage.completion_tokens, reasoning=16)
    assert Decimal(row["cost_usd"]) == expected


def test_embeddings_decode_as_the_package_asks_for_them(acme, sim):
    mark = sim.mark()
    client = acme.openai()
    default = client.embeddings.create(model="sim-embed", input=["the red house", "a party wall", "the red house"])
    # The package asks for base64 by itself and decodes it.
    assert json.loads(sim.one_since(mark)["body"])["encoding_format"] == "base64"
    vectors = [item.embedding for item in default.data]
    assert [len(vector) for vector in vectors] == [256] * 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert math.isclose(sum(x * x for x in vectors[0]), 1, rel_tol=1e-5)
    plain = client.embeddings.create(model="sim-embed", input="the red house", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)
    small = client.embeddings.with_raw_response.create(model="sim-embed", input="the red house", dimensions=64)
    assert len(small.parse().data[0].embedding) == 64 and small.parse().model == "sim-embed"
    row = acme.row(small.headers["x-request-id"])
    assert (row["tokens_in"], row["tokens_out"]) == (small.parse().usage.prompt_tokens, 0)
    assert Decimal(row["cost_usd"]) == price_of("sim-embed", row["tokens_in"], 0)


def test_models_are_listed_and_found(acme, gw):
    client = acme.openai()
    listed = client.models.list().data
    assert {model.id for model in listed} == {model["name"] for model in gw.config["models"]}
    assert all(model.object == "model" for model in listed)
    assert client.models.retrieve("claude-fast").id == "claude-fast"
    with pytest.raises(openai.NotFoundError) as absent:
        client.models.retrieve("no-such-model")
    assert absent.value.code == "model_not_found"


def test_a_task_name_stands_for_its_model(acme):
    raw = acme.openai().chat.completions.with_raw_response.create(model="reasoning", messages=user("Hi"))
    assert acme.row(raw.headers["x-request-id"])["model"] == "sim-reasoning"


# Refusals: each as the package's own exception.


def test_a_wrong_token_is_an_authentication_error(acme):
    with pytest.raises(openai.AuthenticationError) as refused:
        acme.openai(token="tk_acme_" + "0" * 32, max_retries=2).chat.completions.create(model="sim-fast", messages=user("Hi"))
    assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_suspended_tenant_is_a_permission_error(gw):
    tenant = gw.tenant()
    gw.json("tenants", "suspend", tenant.id)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        tenant.openai().chat.completions.create(model="sim-fast", messages=user("Hi"))
    assert (refused.value.status_code, refused.value.code) == (403, "tenant_suspended")


@pytest.mark.parametrize("role", ["readonly", "auditor"])
def test_a_role_that_may_not_call_is_a_permission_error(gw, acme, sim, role):
    mark = sim.mark()
    token = gw.issue(acme, f"a-{role}", role)
    with pytest.raises(openai.PermissionDeniedError) as refused:
        acme.openai(token=token).chat.completions.create(model="sim-fast", messages=user("Hi"))
    assert refused.value.code == "forbidden" and role in refused.value.message
    assert sim.since(mark) == []


def test_an_absent_model_is_a_not_found_error(acme):
    with pytest.raises(openai.NotFoundError) as refused:
        acme.openai().chat.completions.create(model="gpt-99", messages=user("Hi"))
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": "many"}, "max_tokens"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
        ({"extra_body": {"messages": None}}, "messages"),
        ({"n": -1}, "n"),
    ],
    ids=["max_tokens", "stream", "messages", "n"],
)
def test_a_malformed_member_is_a_bad_request_that_names_it(acme, sim, members, param):
    mark = sim.mark()
    with pytest.raises(openai.BadRequestError) as refused:
        acme.openai().chat.completions.create(**{"model": "sim-fast", "messages": user("Hi"), **members})
    assert refused.value.param == param and param in refused.value.message
    assert sim.since(mark) == []


@EITHER
def test_a_bad_request_of_the_provider_stays_one(acme, model):
    with pytest.raises(openai.BadRequestError) as refused:
        acme.openai().chat.completions.create(model=model, messages=user("[[sim:fault=status:400]]"))
    assert refused.value.status_code == 400 and "Simulated error 400, as ordered." in refused.value.message


@EITHER
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_rate_limit_of_the_provider_stays_one_with_its_wait(acme, model, stream):
    with pytest.raises(openai.RateLimitError) as refused:
        acme.openai().chat.completions.create(
            model=model, messages=user(f"[[sim:fault=status:429:7 tag={model}{stream}]]"), stream=stream
        )
    assert refused.value.response.headers["retry-after"] == "7"


@EITHER
@pytest.mark.parametrize("status", [500, 503])
def test_a_failing_provider_is_an_internal_server_error_of_its_status(acme, model, status):
    with pytest.raises(openai.InternalServerError) as failed:
        acme.openai().chat.completions.create(model=model, messages=user(f"[[sim:fault=status:{status}]]"))
    assert failed.value.status_code == status


def test_a_body_above_the_limit_is_413_and_names_the_limit(acme):
    with pytest.raises(openai.APIStatusError) as refused:
        acme.openai().chat.completions.create(model="sim-fast", messages=user("x" * (32 * 1024 * 1024)))
    assert refused.value.status_code == 413 and str(32 * 1024 * 1024) in refused.value.message


# Retries.


@EITHER
def test_each_attempt_that_retries_cause_is_one_row(acme, sim, model):
    mark, before = sim.mark(), len(acme.rows())
    with pytest.raises(openai.InternalServerError):
        acme.openai(max_retries=2).chat.completions.create(
            model=model, messages=user(f"[[sim:fault=status:500 tag=retries-{model}]]")
        )
    upstream, rows = sim.since(mark), acme.rows()[before:]
    assert len(upstream) == len(rows) == 3
    assert [(row["outcome"], Decimal(row["cost_usd"]), row["attempt"]) for row in rows] == [("failed", Decimal(0), 1)] * 3
    assert len({row["request_id"] for row in rows}) == 3


def test_a_retry_that_succeeds_is_billed_once(acme, sim):
    mark, before = sim.mark(), len(acme.rows())
    order = "[[sim:fault=status:503 times=1 fixed_usage=100:10 tag=second-try]]"
    reply = acme.openai(max_retries=2).chat.completions.create(model="sim-fast", messages=user(order))
    assert reply.usage.prompt_tokens == 100
    rows = acme.rows()[before:]
    assert len(sim.since(mark)) == len(rows) == 2
    assert [row["outcome"] for row in rows] == ["failed", "finished"]
    assert [Decimal(row["cost_usd"]) for row in rows] == [Decimal(0), price_of("sim-fast", 100, 10)]


def test_a_quota_refusal_is_asked_once_and_never_reaches_the_provider(gw, sim):
    tenant = gw.tenant(None, "--requests-per-minute", "1")
    client = tenant.openai(max_retries=2)
    client.chat.completions.create(model="sim-fast", messages=user("The one call."))
    mark = sim.mark()
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="sim-fast", messages=user("One too many."))
    headers = refused.value.response.headers
    assert headers["x-should-retry"] == "false"
    # The sliding minute is counted in whole seconds.
    assert 1 <= int(headers["retry-after"]) <= 61
    assert headers["x-ratelimit-limit-requests"] == "1" and headers["x-ratelimit-remaining-requests"] == "0"
    assert "requests_per_minute" in refused.value.message
    assert sim.since(mark) == [] and len(tenant.rows()) == 1
    denied = [entry for entry in tenant.audit() if entry["decision"] == "deny"]
    assert [entry["request_id"] for entry in denied] == [headers["x-request-id"]]


# Twins.


def test_both_dialects_upstream_give_equal_answers_usage_and_cost(acme):
    order = "What is a wall? [[sim:fixed_usage=1000:500 cache_read=64]]"
    replies, costs = [], []
    for model in ["gpt-alias", "claude-fast"]:
        raw = acme.openai().chat.completions.with_raw_response.create(model=model, messages=user(order), max_tokens=900)
        reply = raw.parse()
        used = reply.usage
        replies.append(
            (
                reply.choices[0].message.content,
                reply.choices[0].finish_reason,
                used.prompt_tokens,
                used.completion_tokens,
                used.total_tokens,
                used.prompt_tokens_details.cached_tokens,
            )
        )
        costs.append(Decimal(acme.row(raw.headers["x-request-id"])["cost_usd"]))
    assert replies[0] == replies[1]
    assert replies[0][2:] == (1064, 500, 1564, 64)
    assert costs[0] == costs[1] == price_of("sim-fast", 1000, 500, read=64)


@EITHER
def test_max_tokens_ends_with_length(acme, model):
    reply = acme.openai().chat.completions.create(model=model, messages=user("Talk long."), max_tokens=5)
    assert reply.choices[0].finish_reason == "length" and reply.usage.completion_tokens == 5


@EITHER
def test_a_stop_sequence_ends_with_stop(acme, model):
    reply = acme.openai().chat.completions.create(model=model, messages=user("Go."), stop=["real"])
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].message.content == "This is a simulated answer from sim-fast; no "
