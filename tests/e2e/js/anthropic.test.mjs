import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import Anthropic from "@anthropic-ai/sdk";

import { SCHEMA, WEATHER, deployment } from "./deployment.mjs";

let at, client;
before(async () => {
  at = await deployment();
  client = new Anthropic({ baseURL: at.url, apiKey: at.token, maxRetries: 0 });
});
after(() => at?.close());

const user = (content) => [{ role: "user", content }];
const tools = [{ name: "get_weather", description: "The weather", input_schema: SCHEMA }];
const text = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text).join("");

for (const model of ["claude", "gpt"]) {
  test(`${model}: a message is answered and recorded`, async () => {
    const asked = { model, max_tokens: 200, messages: user("Hello") };
    const { data, response } = await client.messages.create(asked).withResponse();
    assert.equal(data.model, model);
    assert.equal(data.stop_reason, "end_turn");
    assert.match(text(data), /^This is a simulated answer from sim-fast/);
    const row = at.rows().find((row) => row.request_id === response.headers.get("x-request-id"));
    assert.equal(row.tokens_in, data.usage.input_tokens);
    assert.equal(row.tokens_out, data.usage.output_tokens);
  });

  test(`${model}: the stream adds up to the whole message`, async () => {
    const asked = { model, max_tokens: 200, messages: user("Twice?") };
    const whole = await client.messages.create(asked);
    const final = await client.messages.stream(asked).finalMessage();
    assert.equal(text(final), text(whole));
    assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  });

  test(`${model}: the tool loop runs to its end`, async () => {
    const messages = user(WEATHER);
    const first = await client.messages.create({ model, max_tokens: 400, messages, tools });
    assert.equal(first.stop_reason, "tool_use");
    const calls = first.content.filter((block) => block.type === "tool_use");
    assert.deepEqual(calls.map((call) => call.input), [{ location: "Paris" }, { location: "Rome" }]);
    const content = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "mild" }));
    const last = await client.messages.create({
      model,
      max_tokens: 400,
      messages: [...messages, { role: "assistant", content: first.content }, { role: "user", content }],
      tools,
    });
    assert.equal(last.stop_reason, "end_turn");
    assert.match(text(last), /The tool returned: mild\./);
  });

  test(`${model}: a broken stream throws`, async () => {
    const asked = { model, max_tokens: 200, messages: user("[[sim:fault=end_after:3]]") };
    await assert.rejects(client.messages.stream(asked).finalMessage());
  });
}

test("errors are the package's own", async () => {
  const asked = { max_tokens: 20, messages: user("Hi") };
  await assert.rejects(client.messages.create({ model: "nope", ...asked }), (error) => {
    assert.ok(error instanceof Anthropic.NotFoundError);
    assert.equal(error.error.error.type, "not_found_error");
    return true;
  });
  const stranger = new Anthropic({ baseURL: at.url, apiKey: `tk_acme_${"0".repeat(32)}`, maxRetries: 0 });
  await assert.rejects(stranger.messages.create({ model: "claude", ...asked }), Anthropic.AuthenticationError);
  await assert.rejects(
    client.messages.create({ model: "claude", max_tokens: 20, messages: user("[[sim:fault=status:429]]") }),
    Anthropic.RateLimitError,
  );
});
