"""The agent's round trip: answer, client history, next request. Nothing is refused and nothing is lost.

The emulator answers (in process, over ASGI), the official SDK's own types carry the message from the answer
into the history, and the emulator judges the next request: it is as strict as Cohere about what may stand in
a history.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import openai.types.chat as sdk
import pytest
from hypothesis import given
from starlette.types import ASGIApp, Message

from gateway.emulator.app import create_emulator
from gateway.http import sse
from support import transcripts
from support.transcripts import property_of

REASONING = ("command-a-reasoning-08-2025", "command-a-plus-05-2026", "north-mini-code-1-0")
PLANNING = ("command-a-03-2025", "command-r7b-12-2024", "command-r-08-2024", "command-r-plus-08-2024")
EMULATOR = create_emulator()


def ask(app: ASGIApp, body: bytes) -> tuple[int, bytes]:
    """`POST /v2/chat` without a network: status and body."""

    async def exchange() -> tuple[int, bytes]:
        request, result = [{"type": "http.request", "body": body, "more_body": False}], list[Message]()

        async def receive() -> Message:
            if request:
                return request.pop()
            await asyncio.Event().wait()
            raise AssertionError("the caller never leaves")

        async def send(message: Message) -> None:
            result.append(message)

        headers = [(b"authorization", b"Bearer any"), (b"content-type", b"application/json")]
        scope = {
            **{"type": "http", "asgi": {"version": "3.0", "spec_version": "2.1"}, "http_version": "1.1"},
            **{"method": "POST", "scheme": "http", "path": "/v2/chat", "raw_path": b"/v2/chat"},
            **{"query_string": b"", "root_path": "", "headers": headers, "client": None, "server": None},
        }
        await app(scope, receive, send)
        data = b"".join(message.get("body", b"") for message in result)
        return result[0]["status"], data

    return asyncio.run(exchange())


# --- how clients keep an answer -----------------------------------------------------------------------------

HISTORIES: dict[str, Callable[[sdk.ChatCompletionMessage], dict[str, Any]]] = {
    "model_dump": lambda message: message.model_dump(),
    "without nulls": lambda message: message.model_dump(exclude_none=True),
    "only what was set": lambda message: message.model_dump(exclude_unset=True),
    "by hand": lambda message: {
        "role": "assistant",
        "content": message.content or "",
        **({"tool_calls": [call.model_dump() for call in message.tool_calls]} if message.tool_calls else {}),
        "reasoning_content": getattr(message, "reasoning_content", None),
    },
}


def history_of(answer: Any, how: str) -> dict[str, Any]:
    """The history's message of a completion."""
    return HISTORIES[how](sdk.ChatCompletion.model_validate(answer).choices[0].message)


def gathered(documents: list[Any]) -> dict[str, Any]:
    """The history's message of a stream, put together as agents do that do not use a helper."""
    for document in documents:
        sdk.ChatCompletionChunk.model_validate(document)
    folded = transcripts.fold(documents)
    assert "error" not in folded
    message: dict[str, Any] = {"role": "assistant", "content": folded["content"]}
    if folded["tool_calls"]:
        message["tool_calls"] = [{"index": index, **call} for index, call in enumerate(folded["tool_calls"])]
    if "reasoning_content" in folded:
        message["reasoning_content"] = folded["reasoning_content"]
    return message


def turn(request: dict[str, Any], how: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """One request to the emulator: Cohere's own message, the caller's, and the request that Cohere saw."""
    call = transcripts.call(request)
    (body,) = call.bodies
    status, data = ask(EMULATOR, body)
    assert status == 200, data
    if not call.streamed:
        return json.loads(data)["message"], history_of(transcripts.answered(call, data), how), json.loads(body)
    if call.buffered:
        documents = [json.loads(one) for one in call.stream().whole(data, 0)]
        return json.loads(data)["message"], gathered(documents), json.loads(body)
    decoder = sse.Decoder()
    documents = transcripts.chunks(call, [*decoder.feed(data), *decoder.end()])
    events = [json.loads(one) for one in decoder_data(data) if one != b"[DONE]"]
    return transcripts.whole(events)["message"], gathered(documents), json.loads(body)


def decoder_data(raw: bytes) -> list[bytes]:
    return transcripts.Transcript("", raw, {}).data


def same(original: dict[str, Any], returned: dict[str, Any]) -> None:
    """The message that goes back to Cohere says what Cohere said, in Cohere's own form."""
    calls = [
        {**call, "function": {**call["function"], "arguments": _or_empty(call["function"]["arguments"])}}
        for call in original.get("tool_calls", [])
    ]
    assert returned.get("tool_calls", []) == calls
    assert returned.get("tool_plan") == (original.get("tool_plan") or None)
    assert _texts(returned) == _texts(original)


def _or_empty(arguments: str) -> str:
    return arguments if arguments not in ("", "null") else "{}"


def _texts(message: dict[str, Any]) -> list[tuple[str, str]]:
    content = message.get("content") or []
    if isinstance(content, str):
        return [("text", content)]
    return [(block["type"], block[block["type"]]) for block in content if block[block["type"]]]


# --- the conversations --------------------------------------------------------------------------------------


def tool(name: str, description: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT = {"type": "string"}
TOOLS = (
    tool("get_weather", "The weather in a city", city=TEXT),
    tool("mcp.weather-now", "The weather in a city, now", city=TEXT),
    tool("2add", "Add two integers", x={"type": "integer"}, y={"type": "integer"}),
    tool("clock/local:time", "The local time"),
    tool("mcp_weather_now", "Another weather in a city", city=TEXT),
)
PROMPTS = (
    "What is the weather in Paris?",
    "Get the weather in Paris and in Oslo",
    "Add 4 and 5, please",
    "What is the local time?",
    "Hello!",
)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", HISTORIES)
@pytest.mark.parametrize("model", [*PLANNING, *REASONING])
def test_a_turn_with_calls_comes_back_as_it_was(model: str, how: str, streamed: bool) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": PROMPTS[1]}]
    request = {"model": f"cohere/{model}", "messages": messages, "tools": list(TOOLS[1:]), "stream": streamed}
    original, message, _ = turn(request, how)
    assert original["tool_calls"], "the emulator was meant to call"
    assert message["reasoning_content"]
    names = {tool["function"]["name"] for tool in TOOLS}
    assert {call["function"]["name"] for call in message["tool_calls"]} <= names
    messages.append(message)
    messages += [
        {"role": "tool", "tool_call_id": call["id"], "content": '{"sky": "clear"}'} for call in message["tool_calls"]
    ]
    _, _, upstream_request = turn(request, how)
    same(original, upstream_request["messages"][1])


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("how", HISTORIES)
@pytest.mark.parametrize("model", [*PLANNING, *REASONING])
def test_an_answer_in_words_comes_back_as_it_was(model: str, how: str, streamed: bool) -> None:
    document = {"id": "d1", "data": {"title": "Rye", "url": "https://example.com", "text": "Rye keeps for a week."}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How long does rye keep?"}]
    request = {"model": model, "messages": messages, "documents": [document], "stream": streamed}
    original, message, _ = turn(request, how)
    messages += [message, {"role": "user", "content": "And wheat?"}]
    _, _, upstream_request = turn(request, how)
    same(original, upstream_request["messages"][1])
    kinds = [kind for kind, _ in _texts(upstream_request["messages"][1])]
    assert kinds == (["thinking", "text"] if model in REASONING else ["text"])


@property_of(120)
@given(
    model=st.sampled_from([*PLANNING, *REASONING]),
    tools=st.lists(st.sampled_from(TOOLS), min_size=1, max_size=4, unique_by=lambda one: str(one["function"]["name"])),
    prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=3),
    how=st.sampled_from(sorted(HISTORIES)),
    results=st.sampled_from(
        ["Sunny", "", '{"n": 9}', [{"type": "text", "text": "Sunny"}, {"type": "text", "text": ""}]]
    ),
    required=st.booleans(),
    parallel=st.booleans(),
    data=st.data(),
)
def test_an_agent_never_gets_stuck(
    model: str,
    tools: list[dict[str, Any]],
    prompts: list[str],
    how: str,
    results: Any,
    required: bool,
    parallel: bool,
    data: st.DataObject,
) -> None:
    """Whatever the tools are called and however the answers come: every next request is taken and lossless."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    originals: list[dict[str, Any]] = []
    for prompt in prompts:
        messages.append({"role": "user", "content": prompt})
        for step in range(3):
            request = {"model": model, "messages": messages, "tools": tools, "stream": data.draw(st.booleans())}
            if required and step == 0:
                request["tool_choice"] = "required"
            if not parallel:
                request["parallel_tool_calls"] = False
            original, message, upstream_request = turn(request, how)
            returned = [one for one in upstream_request["messages"] if one["role"] == "assistant"]
            for was, now in zip(originals, returned, strict=True):
                same(was, now)
            if not parallel and "tool_calls" in original:
                # Only one was passed on, and so only one comes back.
                original = {**original, "tool_calls": original["tool_calls"][:1]}
            messages.append(message)
            originals.append(original)
            if not message.get("tool_calls"):
                break
            for call in message["tool_calls"]:
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": results})
        else:
            messages.append({"role": "user", "content": "Stop."})


@pytest.mark.parametrize("model", [*PLANNING, *REASONING])
def test_the_old_form_round_trips(model: str) -> None:
    """functions, function_call, role function (C1 23)."""
    functions = [tool["function"] for tool in TOOLS[:1]]
    messages: list[dict[str, Any]] = [{"role": "user", "content": PROMPTS[0]}]
    request = {"model": model, "messages": messages, "functions": functions, "function_call": "auto"}
    original, message, _ = turn(request, "model_dump")
    called = message["function_call"]
    assert called["name"] == "get_weather" and not message.get("tool_calls")
    messages += [message, {"role": "function", "name": called["name"], "content": "Sunny"}]
    _, _, upstream_request = turn(request, "model_dump")
    (before, after) = original, upstream_request["messages"][1]
    assert [call["function"] for call in after["tool_calls"]] == [call["function"] for call in before["tool_calls"]]
    assert upstream_request["messages"][2]["tool_call_id"] == after["tool_calls"][0]["id"]
    assert (after.get("tool_plan"), _texts(after)) == (before.get("tool_plan"), _texts(before))


@pytest.mark.parametrize("model", [*PLANNING, *REASONING])
def test_a_history_whose_tools_are_gone_is_taken(model: str) -> None:
    """B19: a follow-up without `tools` is what summarising agents send."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": PROMPTS[0]}]
    _, message, _ = turn({"model": model, "messages": messages, "tools": [TOOLS[1]]}, "model_dump")
    messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "Sunny"}]
    _, answer, upstream_request = turn({"model": model, "messages": messages}, "model_dump")
    assert answer["content"] and not answer.get("tool_calls")
    (stored,) = (one for one in upstream_request["messages"] if one["role"] == "assistant")
    assert stored["tool_calls"][0]["function"]["name"] == "mcp_weather_now"
