"""Calls a test server with OpenAI's own package, whole and streamed; the first argument is its URL."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sk-testbed-0001", max_retries=0)
messages = [{"role": "user", "content": "hello there"}]

whole = client.chat.completions.create(model="m", messages=messages)
assert whole.choices[0].message.content.endswith("hello there"), whole
assert whole.choices[0].finish_reason == "stop", whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole

chunks = list(
    client.chat.completions.create(
        model="m", messages=messages, stream=True, stream_options={"include_usage": True}
    )
)
joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert joined.endswith("hello there"), joined
assert [chunk.usage for chunk in chunks if chunk.usage][0].total_tokens > 0, chunks
assert len(chunks) > 2, chunks

whole = client.responses.create(model="m", input="hello there")
assert whole.status == "completed" and whole.output_text.endswith("hello there"), whole

events = list(client.responses.create(model="m", input="hello there", stream=True))
joined = "".join(event.delta for event in events if event.type == "response.output_text.delta")
assert joined.endswith("hello there"), joined
assert events[-1].type == "response.completed", events[-1]
assert events[-1].response.output_text == joined, events[-1]

vectors = client.embeddings.create(model="e", input=["a", "b"])
assert [vector.index for vector in vectors.data] == [0, 1], vectors
assert len(vectors.data[0].embedding) > 0, vectors

try:
    client.with_options(api_key="sk-unknown").chat.completions.create(model="m", messages=messages)
except openai.AuthenticationError as error:
    assert error.code == "invalid_api_key" and error.request_id, error
else:
    raise AssertionError("an unknown key is accepted")

print("openai", openai.__version__, "understands the test server")
