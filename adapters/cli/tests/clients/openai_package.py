"""Calls services with OpenAI's own package, whole and streamed: openai_package.py URL [OTHER_URL]

With two URLs, both must give the same answers, event for event, except for what differs between any two calls.
"""

import json
import sys

import openai
from plain import without

MESSAGES = [{"role": "user", "content": "hello there"}]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
RESPONSE_TOOL = {"type": "function", "strict": False, **TOOL["function"]}
FORCED = {"type": "function", "function": {"name": "look"}}
ARGUMENTS = {"input": "hello there"}
LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {}}\r\n'
# What differs between any two calls.
OWN = {"id", "created", "created_at", "obfuscation", "item_id", "response_id", "completed_at"}
OWN |= {"expires_at", "input_file_id", "previous_response_id"}


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
    yield from tools(client)
    yield from resources(client)


def tools(client):
    """Calls a tool, whole and streamed, of chats and of responses."""
    options = {"model": "m", "messages": MESSAGES, "tools": [TOOL], "tool_choice": FORCED}
    whole = client.chat.completions.create(**options)
    call = whole.choices[0].message.tool_calls[0]
    assert whole.choices[0].finish_reason == "tool_calls" and call.function.name == "look", whole
    assert json.loads(call.function.arguments) == ARGUMENTS, whole
    yield whole

    chunks = list(client.chat.completions.create(**options, stream=True))
    deltas = [chunk.choices[0].delta.tool_calls[0] for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert deltas[0].function.name == "look" and len(deltas) > 2, deltas
    assert json.loads("".join(delta.function.arguments for delta in deltas)) == ARGUMENTS, deltas
    yield from chunks

    options = {"model": "m", "input": "hello there", "tools": [RESPONSE_TOOL], "tool_choice": "required"}
    whole = client.responses.create(**options)
    assert json.loads(whole.output[0].arguments) == ARGUMENTS, whole
    yield whole

    events = list(client.responses.create(**options, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 1 and json.loads("".join(deltas)) == ARGUMENTS, events
    yield from events


def resources(client):
    """Makes what is kept by the service, and asks for it again."""
    file = client.files.create(file=("lines.jsonl", LINE), purpose="batch")
    assert (file.bytes, file.filename, file.purpose) == (len(LINE), "lines.jsonl", "batch"), file
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == LINE
    yield file

    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"a": "b"}
    )
    assert batch.input_file_id == file.id and client.batches.retrieve(batch.id) == batch, batch
    yield batch
    assert client.files.delete(file.id).deleted
    yield missing(client.files.retrieve, file.id)

    first = client.responses.create(model="m", input="hello there")
    assert client.responses.retrieve(first.id) == first
    second = client.responses.create(model="m", input="and again", previous_response_id=first.id)
    assert second.previous_response_id == first.id, second
    yield from [first, second]
    conversation = client.conversations.create(metadata={"topic": "tests"})
    assert client.conversations.retrieve(conversation.id) == conversation
    third = client.responses.create(model="m", input="and again", conversation=conversation.id)
    assert third.conversation.id == conversation.id, third
    yield from [conversation, third]
    yield missing(client.conversations.retrieve, "conv_0")


def missing(retrieve, name):
    """Asks for what is not there, and returns the kind of the error."""
    try:
        retrieve(name)
    except openai.NotFoundError as error:
        return {"type": error.type, "param": error.param, "code": error.code}
    raise AssertionError(f"{name} is there")


def client(url, key="sk-testbed-0001"):
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def dumped(answer):
    return without(OWN, answer if isinstance(answer, dict) else answer.model_dump())


def main():
    came = [[dumped(answer) for answer in answers(client(url))] for url in sys.argv[1:]]
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
