// Calls two services with OpenAI's own package for Node: openai_package.mjs URL OTHER_URL
//
// Both must give the same answers, event for event, but for what differs between any two calls.

import assert from "node:assert/strict";
import { createRequire } from "node:module";

const { OpenAI } = createRequire(`${process.env.LEASEHOLD_NODE_MODULES}/`)("openai");
const own = new Set(["id", "created", "created_at", "completed_at", "obfuscation", "item_id", "response_id", "_request_id"]);
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
  return plain(came);
}

const [one, other] = [await answers(process.argv[2]), await answers(process.argv[3])];
assert.deepEqual(other, one);
console.log("ok");
