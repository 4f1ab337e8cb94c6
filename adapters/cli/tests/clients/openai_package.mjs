// Calls two services with OpenAI's own package for Node: openai_package.mjs URL OTHER_URL
//
// Both must give the same answers, event for event, except for what differs between any two calls.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { OpenAI, toFile } = createRequire(`${process.env.LEASEHOLD_NODE_MODULES}/`)("openai");
const own = new Set(["id", "created", "created_at", "completed_at", "obfuscation", "item_id", "response_id", "_request_id", "expires_at", "input_file_id", "previous_response_id"]);
const plain = (value) => JSON.parse(JSON.stringify(value, (name, item) => (own.has(name) ? undefined : item)));

async function answers(url) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "sk-testbed-0001", maxRetries: 0 });
  const messages = [{ role: "user", content: "hello there" }];
  const came = [await client.chat.completions.create({ model: "m", messages })];
  for await (const chunk of await client.chat.completions.create({ model: "m", messages, stream: true })) {
    came.push(chunk);
  }
  for await (const event of await client.responses.create({ model: "m", input: "hello there", stream: true })) {
    came.push(event);
  }
  came.push(await client.embeddings.create({ model: "e", input: ["a", "b"] }));
  assert.ok(came.length > 10);
  return plain([...came, ...(await tools(client)), ...(await resources(client))]);
}

async function tools(client) {
  const name = "look";
  const tool = { name, parameters: { type: "object", properties: {} } };
  const call = {
    model: "m",
    messages: [{ role: "user", content: "hello there" }],
    tools: [{ type: "function", function: tool }],
    tool_choice: { type: "function", function: { name } },
  };
  const whole = await client.chat.completions.create(call);
  const wanted = JSON.stringify({ input: "hello there" });
  assert.equal(whole.choices[0].message.tool_calls[0].function.arguments, wanted);
  const chunks = [];
  for await (const chunk of await client.chat.completions.create({ ...call, stream: true })) {
    chunks.push(chunk);
  }
  const parts = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  assert.ok(parts.length > 2);
  assert.equal(parts.map((part) => part.function.arguments).join(""), wanted);
  return [whole, ...chunks];
}

async function resources(client) {
  const line = '{"custom_id": "1"}\r\n';
  const file = await client.files.create({ file: await toFile(Buffer.from(line), "lines.jsonl"), purpose: "batch" });
  assert.equal(await (await client.files.content(file.id)).text(), line);
  const endpoint = "/v1/chat/completions";
  const batch = await client.batches.create({ input_file_id: file.id, endpoint, completion_window: "24h" });
  assert.deepEqual(await client.batches.retrieve(batch.id), batch);
  const first = await client.responses.create({ model: "m", input: "hello there" });
  const again = await client.responses.retrieve(first.id);
  assert.deepEqual(again.output, first.output);
  const second = await client.responses.create({ model: "m", input: "and again", previous_response_id: first.id });
  assert.equal(second.previous_response_id, first.id);
  return [file, batch, first, again, second];
}

const [one, other] = [await answers(process.argv[2]), await answers(process.argv[3])];
assert.deepEqual(other, one);
console.log("ok");
