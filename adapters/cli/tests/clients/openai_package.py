"""Calls services with OpenAI's own package, whole and streamed: openai_package.py URL [OTHER_URL]

With two URLs, both must give the same answers, event for event, but for what differs between any two calls.
"""

import json
import sys

import openai

MESSAGES = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
# What differs between any two calls.
OWN = {"id", "created", "created_at", "obfuscation", "item_id", "response_id", "completed_at"}


def plain(value):
    """Returns a value without what is a call's own."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in OWN}
    return value


def answers(client):
    """Makes one call of each kind, checks its answer, and returns all that came."""
    whole = client.chat.completions.create(model="m", messages=MESSAGES, tools=[TOOL])
    assert whole.choices[0].message.content.endswith("hello there"), whole
    assert whole.choices[0].finish_reason == "stop", whole
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole
    yield whole

    for options in [{"stream_options": {"include_usage": True}}, {}]:
        chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **options))
        joined = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert joined.endswith("hello there") and len(chunks) > 2, chunks
        usages = [chunk.usage for chunk in chunks if chunk.usage]
        assert len(usages) == len(options), usages
        yield from chunks

    whole = client.responses.create(model="m", input="hello there")
    assert whole.status == "completed" and whole.output_text.endswith("hello there"), whole
    yield whole

    events = list(client.responses.create(model="m", input="hello there", stream=True))
    joined = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert joined.endswith("hello there"), joined
    assert events[-1].type == "response.completed", events[-1]
    assert events[-1].response.output_text == joined, events[-1]
    yield from events

    vectors = client.embeddings.create(model="e", input=["a", "b"])
    assert [vector.index for vector in vectors.data] == [0, 1], vectors
    assert len(vectors.data[0].embedding) > 0, vectors
    yield vectors
    yield client.models.list()


def client(url, key="sk-testbed-0001"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def main():
    came = [[plain(answer.model_dump()) for answer in answers(client(url))] for url in sys.argv[1:]]
    for one, other in zip(came[0], came[-1], strict=True):
        assert one == other, f"{json.dumps(one)}\n{json.dumps(other)}"
    try:
        client(sys.argv[1], "sk-unknown").chat.completions.create(model="m", messages=MESSAGES)
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key" and error.request_id, error
    else:
        raise AssertionError("an unknown key is accepted")
    print("ok")


main()
