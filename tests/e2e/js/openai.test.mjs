import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import OpenAI from "openai";

import { SCHEMA, WEATHER, deployment } from "./deployment.mjs";

let at, client;
before(async () => {
  at = await deployment();
  client = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: at.token, maxRetries: 0 });
});
after(() => at?.close());

const user = (content) => [{ role: "user", content }];
const tools = [{ type: "function", function: { name: "get_weather", description: "The weather", parameters: SCHEMA } }];

for (const model of ["gpt", "claude"]) {
  test(`${model}: chat answers and is recorded`, async () => {
    const { data, response } = await client.chat.completions.create({ model, messages: user("Hello") }).withResponse();
    assert.equal(data.model, model);
    assert.equal(data.choices[0].finish_reason, "stop");
    assert.match(data.choices[0].message.content, /^This is a simulated answer from sim-fast/);
    const row = at.rows().find((row) => row.request_id === response.headers.get("x-request-id"));
    assert.equal(row.tokens_in, data.usage.prompt_tokens);
    assert.equal(row.tokens_out, data.usage.completion_tokens);
  });

  test(`${model}: a stream gives the same text, and usage when asked`, async () => {
    const whole = await client.chat.completions.create({ model, messages: user("Twice?") });
    const asked = { model, messages: user("Twice?"), stream: true, stream_options: { include_usage: true } };
    let text = "";
    let usage = null;
    for await (const chunk of await client.chat.completions.create(asked)) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(usage.total_tokens, whole.usage.total_tokens);
  });

  test(`${model}: the tool loop runs to its end`, async () => {
    const messages = user(WEATHER);
    const first = await client.chat.completions.create({ model, messages, tools });
    const calls = first.choices[0].message.tool_calls;
    assert.deepEqual(calls.map((call) => JSON.parse(call.function.arguments)), [{ location: "Paris" }, { location: "Rome" }]);
    const results = calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "mild" }));
    const last = await client.chat.completions.create({
      model,
      messages: [...messages, first.choices[0].message, ...results],
      tools,
    });
    assert.equal(last.choices[0].finish_reason, "stop");
    assert.match(last.choices[0].message.content, /The tool returned: mild\./);
  });

  test(`${model}: a broken stream throws`, async () => {
    const stream = await client.chat.completions.create({
      model,
      messages: user("[[sim:fault=end_after:3]]"),
      stream: true,
    });
    await assert.rejects(async () => {
      for await (const _ of stream);
    });
  });
}

test("errors are the package's own", async () => {
  await assert.rejects(client.chat.completions.create({ model: "nope", messages: user("Hi") }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  const stranger = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: `tk_acme_${"0".repeat(32)}`, maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
  const limited = client.chat.completions.create({ model: "gpt", messages: user("[[sim:fault=status:429]]") });
  await assert.rejects(limited, OpenAI.RateLimitError);
});
