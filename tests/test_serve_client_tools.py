"""Tools that the caller runs: `custom`, `shell`, `local_shell` and `apply_patch`, whole and streamed, through a real
server. The laws: a stream amounts to the whole answer, the pieces of an input are its text, however Cohere cuts the
arguments, and what was answered can be sent back.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.app import A, Harness, Response, run_harness
from support.scripted_upstream import Script, event_stream, json_answer, transcript
from support.transcripts import call_delta, call_end, call_start, fold, message_end, message_start

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PATCH = '*** Begin Patch\n*** Add File: "ü".txt\n+tab\t\\ \U0001f600\n*** End Patch'
TOOLS = [
    {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/s"}},
    {"type": "shell"},
    {"type": "local_shell"},
    {"type": "apply_patch"},
    {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"q": {"type": "string"}}}},
]
CALLS: dict[str, dict[str, Any]] = {
    "patch": {"input": PATCH},
    "shell": {"commands": ["ls", "pwd"], "timeout_ms": 5},
    "local_shell": {"command": ["ls"], "env": {"A": "1"}},
    "apply_patch": {"type": "update_file", "path": "a", "diff": "@@\n-a\n+b"},
    "look": {"q": "x"},
}
OUTPUTS: dict[str, dict[str, Any]] = {
    "custom_tool_call": {"output": "done"},
    "shell_call": {"output": [{"stdout": "a", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]},
    "local_shell_call": {"output": "b"},
    "apply_patch_call": {"status": "completed", "output": "c"},
    "function_call": {"output": "d"},
}


@pytest.fixture(scope="module")
def on() -> Iterator[Harness]:
    with run_harness() as one:
        yield one


def whole() -> Script:
    calls = [
        {"id": f"{name}_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for name, arguments in CALLS.items()
    ]
    message = {"role": "assistant", "tool_calls": calls}
    return json_answer(200, {"id": "m", "message": message, "finish_reason": "TOOL_CALL", "usage": {}})


def streamed(size: int) -> Script:
    """The same calls, their arguments in pieces of this size."""
    events = [message_start("m")]
    for index, (name, arguments) in enumerate(CALLS.items()):
        text = json.dumps(arguments)
        events.append(call_start(index, name, identity=f"{name}_1"))
        events += [call_delta(index, text[position : position + size]) for position in range(0, len(text), size)]
        events.append(call_end(index))
    return event_stream(transcript(*events, message_end("TOOL_CALL")))


def respond(on: Harness, script: Script, stream: bool, **fields: Any) -> Response:
    on.respond_with(script)
    body = {"model": A, "input": "Go", "tools": TOOLS, "store": False, "stream": stream, **fields}
    return on.gateway.ask("POST", RESPONSES, body)


def events_of(response: Response) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in response.data.decode().splitlines() if line.startswith("data: {")]


EXPECTED: list[dict[str, Any]] = [
    {"type": "custom_tool_call", "id": "ctc_m_item_0", "call_id": "patch_1", "name": "patch", "input": PATCH},
    {
        "type": "shell_call",
        "id": "sh_m_item_1",
        "call_id": "shell_1",
        "action": {"commands": ["ls", "pwd"], "timeout_ms": 5, "max_output_length": None},
        "environment": {"type": "local"},
    },
    {
        "type": "local_shell_call",
        "id": "lsh_m_item_2",
        "call_id": "local_shell_1",
        "action": {"type": "exec", "command": ["ls"], "env": {"A": "1"}},
    },
    {"type": "apply_patch_call", "id": "apc_m_item_3", "call_id": "apply_patch_1", "operation": CALLS["apply_patch"]},
    {
        "type": "function_call",
        "id": "fc_m_item_4",
        "call_id": "look_1",
        "name": "look",
        "arguments": json.dumps(CALLS["look"]),
    },
]


def test_whole_answers_have_the_tools_own_items(on: Harness) -> None:
    response = respond(on, whole(), False)
    assert response.body["output"] == [{**item, "status": "completed"} for item in EXPECTED]
    assert response.body["tools"][:4] == TOOLS[:4], "they are echoed as they were given"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_streams_amount_to_the_whole_answer(on: Harness, size: int) -> None:
    events = events_of(respond(on, streamed(size), True))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"] == [{**item, "status": "completed"} for item in EXPECTED]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    assert [(item["type"], item["id"]) for item in added] == [(item["type"], item["id"]) for item in done]
    assert {item["status"] for item in added} == {"in_progress"} and added[0]["input"] == ""
    deltas = [event["delta"] for event in events if event["type"] == "response.custom_tool_call_input.delta"]
    (last,) = [event for event in events if event["type"] == "response.custom_tool_call_input.done"]
    assert "".join(deltas) == last["input"] == PATCH
    assert (last["item_id"], last["output_index"]) == ("ctc_m_item_0", 0)
    if size == 1:
        assert len(deltas) > len(PATCH) - 2, "each piece goes on as it comes"


def test_what_was_answered_can_be_sent_back(on: Harness) -> None:
    output = respond(on, whole(), False).body["output"]
    outputs = [
        {"type": f"{item['type']}_output", "call_id": item["call_id"], **OUTPUTS[item["type"]]} for item in output
    ]
    respond(on, whole(), False, input=[{"role": "user", "content": "Go"}, *output, *outputs])
    messages = on.upstream.requests[0].json()["messages"]
    calls = messages[1]["tool_calls"]
    assert {call["function"]["name"]: json.loads(call["function"]["arguments"]) for call in calls} == CALLS
    assert [message["tool_call_id"] for message in messages[2:]] == [call["id"] for call in calls]
    assert [message["content"] for message in messages[2:]] == [
        "done",
        '[{"stdout":"a","stderr":"","outcome":{"type":"exit","exit_code":0}}]',
        *("b", "c", "d"),
    ]


def chat_tools() -> list[dict[str, Any]]:
    custom = {"name": "patch", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": ".*"}}}
    functions = [{"name": name, "parameters": {"type": "object"}} for name in CALLS if name != "patch"]
    return [{"type": "custom", "custom": custom}, *({"type": "function", "function": one} for one in functions)]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chat(on: Harness, size: int) -> None:
    on.respond_with(whole())
    message = on.gateway.chat("Go", tools=chat_tools()).body["choices"][0]["message"]
    assert message["tool_calls"][0] == {
        "id": "patch_1", "type": "custom", "custom": {"name": "patch", "input": PATCH}
    }  # fmt: skip
    assert [call["type"] for call in message["tool_calls"][1:]] == ["function"] * 4
    on.respond_with(streamed(size))
    chunks = on.gateway.chat("Go", tools=chat_tools(), stream=True).chunks
    assert fold(chunks)["tool_calls"] == message["tool_calls"]
    # And back.
    on.respond_with(whole())
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in message["tool_calls"]]
    history = [{"role": "user", "content": "Go"}, message, *results]
    on.gateway.post({"model": A, "messages": history, "tools": chat_tools()})
    calls = on.upstream.requests[0].json()["messages"][1]["tool_calls"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"input": PATCH}


def test_calls_that_were_cut(on: Harness) -> None:
    """The text so far, incomplete; a whole item's arguments may be no JSON any more."""
    for name, arguments, expected in (
        ("patch", '{"input": "*** Be', {"input": "*** Be", "status": "incomplete"}),
        ("shell", '{"commands": ["l', {"status": "incomplete"}),
        ("apply_patch", '{"type": "upd', {"status": "in_progress"}),
    ):
        events = [message_start("m"), call_start(0, name), call_delta(0, arguments), message_end("MAX_TOKENS")]
        response = events_of(respond(on, event_stream(transcript(*events)), True))[-1]["response"]
        assert response["status"] == "incomplete"
        assert response["output"][0] == {**response["output"][0], **expected}


def test_a_shell_in_a_container_is_not_the_callers(on: Harness) -> None:
    response = respond(on, whole(), False, tools=[{"type": "shell", "environment": {"type": "container_auto"}}])
    assert "tools[].type shell ignored" in response.headers["x-gateway-notes"]
    assert "tools" not in on.upstream.requests[0].json()


def test_the_official_sdk_accumulates_a_custom_call(on: Harness) -> None:
    on.respond_with(streamed(3))
    with on.gateway.client() as client:
        request: dict[str, Any] = {"model": A, "input": "Go", "tools": TOOLS, "store": False}
        with client.responses.stream(**request) as stream:
            pieces = [event.delta for event in stream if event.type == "response.custom_tool_call_input.delta"]
            response = stream.get_final_response()
    assert "".join(pieces) == PATCH
    assert [type(item).__name__ for item in response.output] == [
        "ResponseCustomToolCall",
        "ResponseFunctionShellToolCall",
        "LocalShellCall",
        "ResponseApplyPatchToolCall",
        "ParsedResponseFunctionToolCall",
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "action"),
    [
        ("shell", {"commands": ["ls", None, True, {"a": 1}]}, {"commands": ["ls", "true", '{"a":1}']}),
        ("shell", {"commands": None, "command": ["ls"]}, {"commands": ["ls"]}),
        ("local_shell", {"command": None}, {"command": ['{"command": null}']}),
        ("local_shell", {"commands": "ls"}, {"command": ["ls"]}),
        ("local_shell", {"command": [1.5], "env": {"A": None, "B": True}}, {"command": ["1.5"], "env": {"B": "true"}}),
    ],
    ids=str,
)
def test_arguments_that_are_no_texts_are_shown_as_json(
    on: Harness, name: str, arguments: dict[str, Any], action: dict[str, Any]
) -> None:
    """The program that runs the command would run Python's `None` or `True`, which the model has not written."""
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    message = {"role": "assistant", "tool_calls": [call]}
    on.respond_with(json_answer(200, {"id": "m", "message": message, "finish_reason": "TOOL_CALL", "usage": {}}))
    response = on.gateway.ask("POST", RESPONSES, {"model": A, "input": "Hi", "tools": TOOLS, "store": False})
    (item,) = response.body["output"]
    assert item["action"].items() >= action.items()
