"""Calls services with Anthropic's own package, whole and streamed: anthropic_package.py URL [OTHER_URL]

With two URLs, both must give the same answers, event for event, except for what differs between any two calls.
"""

import json
import sys

import anthropic
from plain import without

CALL = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello there"}]}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"input": {"type": "string"}}}}
FORCED = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}}
# What differs between any two calls.
OWN = {"id", "request_id"}


def answers(client):
    """Makes one call of each kind, checks its answer, and returns all that came."""
    whole = client.messages.create(**CALL, system="be brief", tools=[TOOL])
    assert whole.content[0].text.endswith("hello there"), whole
    assert whole.stop_reason == "end_turn" and whole.usage.input_tokens == 4, whole
    assert whole._request_id, whole
    yield whole

    events = list(client.messages.create(**CALL, stream=True))
    assert events[0].message.usage.input_tokens == 2, events[0]
    joined = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert joined.endswith("hello there"), joined
    assert [event.type for event in events[-2:]] == ["message_delta", "message_stop"], events
    assert events[-2].delta.stop_reason == "end_turn" and events[-2].usage.output_tokens > 0, events
    yield from events

    whole = client.messages.create(**CALL, **FORCED)
    assert whole.stop_reason == "tool_use", whole
    assert (whole.content[0].name, whole.content[0].input) == ("look", {"input": "hello there"}), whole
    yield whole

    with client.messages.stream(**CALL, **FORCED) as stream:
        events = list(stream)
        assert stream.get_final_message().content[0].input == whole.content[0].input, events
    assert len([event for event in events if event.type == "input_json"]) > 1, events
    yield from events

    yield client.messages.count_tokens(model=CALL["model"], messages=CALL["messages"])
    yield error(client, anthropic.BadRequestError, "invalid_request_error", max_tokens=0)


def error(client, kind, name, **options):
    """Makes a call that must fail, and returns its error."""
    try:
        client.messages.create(**{**CALL, **options})
    except kind as error:
        assert error.body["type"] == "error" and error.body["error"]["type"] == name, error
        assert error.request_id, error
        return error.body
    raise AssertionError(f"there is no {name}")


def client(url, key="sk-testbed-0001"):
    return anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)


def dumped(answer):
    return without(OWN, answer if isinstance(answer, dict) else answer.model_dump(mode="json"))


def main():
    came = [[dumped(answer) for answer in answers(client(url))] for url in sys.argv[1:]]
    for one, other in zip(came[0], came[-1], strict=True):
        assert one == other, f"{json.dumps(one)}\n{json.dumps(other)}"
    error(client(sys.argv[1], "sk-unknown"), anthropic.AuthenticationError, "authentication_error")
    print("ok")


main()
