"""Every recorded /v2/chat exchange with the real Cohere, answered to the official SDK through the gateway.

The upstream sends the recorded bytes; what the SDK makes of our answer must contain what was recorded, and
every body and chunk must be what OpenAI's own document says it should be. The few keys of ours beyond it are
listed in EXTENSIONS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from support import oracle
from support.app import Harness, answered, run_harness, streamed
from support.recordings import Recording, each_recording
from support.scripted_upstream import Pause, Script, event_stream, json_answer, transcript

CHAT_PATH = "/v2/chat"
FINISHES = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with run_harness() as harness:
        yield harness


# --- what was recorded, read without our code -----------------------------------------------------------------


def contents_of(recording: Recording) -> dict[str, Any]:
    """text, reasoning, calls, finish and usage of a recorded answer, whole or streamed."""
    if not recording.streamed:
        body = recording.json()
        message = body["message"]
        blocks = message.get("content") or []
        return {
            "id": body["id"],
            "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
            "thinking": "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
            "plan": message.get("tool_plan") or "",
            "calls": [
                (call["id"], call["function"]["name"], call["function"]["arguments"])
                for call in message.get("tool_calls") or ()
            ],
            "finish": body["finish_reason"],
            "usage": body["usage"],
        }
    result: dict[str, Any] = {"text": "", "thinking": "", "plan": "", "calls": []}
    for event in recording.events():
        message = event.get("delta", {}).get("message", {}) if isinstance(event.get("delta"), dict) else {}
        match event["type"]:
            case "message-start":
                result["id"] = event["id"]
            case "content-delta":
                result["text"] += message["content"].get("text", "")
                result["thinking"] += message["content"].get("thinking", "")
            case "tool-plan-delta":
                result["plan"] += message["tool_plan"]
            case "tool-call-start":
                call = message["tool_calls"]
                result["calls"].append([call["id"], call["function"]["name"], call["function"]["arguments"]])
            case "tool-call-delta":
                result["calls"][-1][2] += message["tool_calls"]["function"]["arguments"]
            case "message-end":
                result["finish"], result["usage"] = event["delta"]["finish_reason"], event["delta"]["usage"]
    result["calls"] = [tuple(call) for call in result["calls"]]
    return result


def openai_request(recording: Recording) -> dict[str, Any]:
    """The request as an OpenAI client would have put it: same tools, same turns where both speak alike."""
    body = recording.request.body
    request: dict[str, Any] = {"model": body["model"], "messages": body["messages"]}
    if body.get("tools"):
        request["tools"] = body["tools"]
    return request


def recorded_script(recording: Recording) -> Script:
    """The recorded bytes; a stream as it came, an event at a time."""
    if recording.streamed:
        return event_stream(recording.body, headers=dict(recording.headers), per_event=True, between=Pause(0))
    return json_answer(recording.status, recording.body, dict(recording.headers))


# --- what is in OpenAI's document, and what is ours beyond it ---------------------------------------------------

EXTENSIONS: Mapping[str, frozenset[str]] = {
    "top": frozenset(),
    "choice": frozenset({"native_finish_reason"}),
    "message": frozenset({"reasoning_content", "citations"}),
    "usage": frozenset({"billed_units", "cost"}),
}
"""Keys that our answers may have and OpenAI's document has not (translators, "Extension")."""

DOCUMENTED: Mapping[str, frozenset[str]] = {
    "choice": frozenset({"index", "finish_reason", "logprobs", "message", "delta"}),
    "message": frozenset({"role", "content", "refusal", "tool_calls", "function_call", "annotations", "audio"}),
    "usage": frozenset(
        {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
    ),
}


def check(schema: str, body: dict[str, Any]) -> None:
    """OpenAI's schema accepts it, and it has no key that is neither OpenAI's nor a documented extension."""
    # OpenAI's document says "string", OpenAI's servers say null; test_no_fingerprint wants it left out.
    body = {name: value for name, value in body.items() if (name, value) != ("system_fingerprint", None)}
    oracle.openai_validator(schema).check(body)
    assert set(body) <= oracle.openai_schema_properties(schema) | EXTENSIONS["top"]
    for choice in body["choices"]:
        assert set(choice) <= DOCUMENTED["choice"] | EXTENSIONS["choice"]
        text = choice.get("message", choice.get("delta"))
        assert set(text) <= DOCUMENTED["message"] | EXTENSIONS["message"]
    if body.get("usage"):
        assert set(body["usage"]) <= DOCUMENTED["usage"] | EXTENSIONS["usage"]


# --- the laws -------------------------------------------------------------------------------------------------


def same(result: ChatCompletion, recorded: dict[str, Any], model: str) -> None:
    """The SDK's answer says what was recorded."""
    (choice,) = result.choices
    message = choice.message
    assert (message.content or "") == recorded["text"]
    reasoning = (message.model_extra or {}).get("reasoning_content") or ""
    assert reasoning == "\n\n".join(part for part in (recorded["thinking"], recorded["plan"]) if part)
    calls = message.tool_calls or []
    assert [(call.id, call.function.name) for call in calls if call.type == "function"] == [
        (identity, name) for identity, name, _ in recorded["calls"]
    ]
    for call, (_, _, arguments) in zip(calls, recorded["calls"], strict=True):
        assert call.type == "function"
        assert json.loads(call.function.arguments) == json.loads(arguments or "{}")
    assert choice.finish_reason == FINISHES[recorded["finish"]]
    assert result.model == model
    assert result.id == f"chatcmpl-{recorded['id']}"
    usage, counted = result.usage, recorded["usage"]["tokens"]
    assert usage is not None and usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (counted["input_tokens"], counted["output_tokens"])
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details.cached_tokens == min(
        int(recorded["usage"].get("cached_tokens") or 0), usage.prompt_tokens
    )
    billed = (usage.model_extra or {})["billed_units"]
    assert billed == recorded["usage"]["billed_units"]


@each_recording(CHAT_PATH, status=200, streamed=False)
def test_a_whole_answer(harness: Harness, recording: Recording) -> None:
    harness.respond_with(recorded_script(recording))
    request = openai_request(recording)
    with harness.gateway.client() as client:
        response = client.chat.completions.create(**request)
    same(response, contents_of(recording), request["model"])


@each_recording(CHAT_PATH, status=200, streamed=False)
def test_a_whole_body(harness: Harness, recording: Recording) -> None:
    harness.respond_with(recorded_script(recording))
    check("CreateChatCompletionResponse", harness.gateway.post(openai_request(recording)).body)


def until_length(events: Iterable[Any]) -> Iterator[Any]:
    """The helper takes finish_reason "length" for an error, as what it would parse is cut."""
    try:
        yield from events
    except openai.LengthFinishReasonError:
        return


@each_recording(CHAT_PATH, status=200, streamed=True)
def test_a_stream(harness: Harness, recording: Recording) -> None:
    """Folded by the SDK's own helper, it is the recorded answer."""
    harness.respond_with(recorded_script(recording))
    request = openai_request(recording)
    recorded = contents_of(recording)
    with harness.gateway.client() as client:
        with client.chat.completions.stream(**request, stream_options={"include_usage": True}) as stream:
            thought = ""
            for event in until_length(stream):
                if event.type == "chunk" and event.chunk.choices:
                    thought += (event.chunk.choices[0].delta.model_extra or {}).get("reasoning_content") or ""
            final = stream.current_completion_snapshot
    assert thought == "\n\n".join(part for part in (recorded["thinking"], recorded["plan"]) if part)
    message = final.choices[0].message
    assert (message.content or "") == recorded["text"]
    assert [
        (call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or []
    ] == [(identity, name, json.loads(arguments or "{}")) for identity, name, arguments in recorded["calls"]]
    assert final.choices[0].finish_reason == FINISHES[recorded["finish"]]
    assert final.usage is not None
    assert final.usage.prompt_tokens == recorded["usage"]["tokens"]["input_tokens"]
    assert final.usage.completion_tokens == recorded["usage"]["tokens"]["output_tokens"]


@pytest.mark.parametrize("include_usage", [False, True])
@each_recording(CHAT_PATH, status=200, streamed=True)
def test_every_chunk(harness: Harness, recording: Recording, include_usage: bool) -> None:
    harness.respond_with(recorded_script(recording))
    body = openai_request(recording) | {"stream": True, "stream_options": {"include_usage": include_usage}}
    response = harness.gateway.post(body)
    assert response.frames[-1] == "[DONE]"
    assert len(response.chunks) > 3
    for chunk in response.chunks:
        check("CreateChatCompletionStreamResponse", chunk)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in response.chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_no_fingerprint(harness: Harness, stream: bool) -> None:
    response = harness.chat_over(streamed() if stream else answered(), stream=stream)
    schema = "CreateChatCompletionStreamResponse" if stream else "CreateChatCompletionResponse"
    for body in response.chunks if stream else [response.body]:
        oracle.openai_validator(schema).check(body)


@each_recording(CHAT_PATH, status=200, streamed=True)
def test_how_a_stream_is_cut_does_not_matter(harness: Harness, recording: Recording) -> None:
    """In one piece, by the event, at odd places: the same chunks, but for the time."""
    body = openai_request(recording) | {"stream": True}
    raw = recording.body
    each_projection = []
    for script in (
        event_stream(raw),
        event_stream(raw, per_event=True, between=Pause(0)),
        event_stream([raw[at : at + 613] for at in range(0, len(raw), 613)], between=Pause(0)),
        event_stream(raw.replace(b"\n", b"\r\n")),
    ):
        harness.respond_with(script)
        chunks = harness.gateway.post(body).chunks
        each_projection.append([chunk | {"created": 0} for chunk in chunks])
    assert all(chunks == each_projection[0] for chunks in each_projection)


def as_stream(recording: Recording) -> bytes:
    """A recorded whole answer as the stream it might have been (docs/cohere-api.md#order-of-events)."""
    recorded = contents_of(recording)
    events: list[dict[str, Any]] = [
        {"id": recorded["id"], "type": "message-start", "delta": {"message": {"role": "assistant", "content": []}}}
    ]
    index = 0
    for kind, key in (("thinking", "thinking"), ("text", "text")):
        if recorded[key]:
            block = {"type": kind, kind: ""}
            events.append({"type": "content-start", "index": index, "delta": {"message": {"content": block}}})
            for at in range(0, len(recorded[key]), 7):
                piece = {kind: recorded[key][at : at + 7]}
                events.append({"type": "content-delta", "index": index, "delta": {"message": {"content": piece}}})
            events.append({"type": "content-end", "index": index})
            index += 1
    for at in range(0, len(recorded["plan"]), 7):
        events.append({"type": "tool-plan-delta", "delta": {"message": {"tool_plan": recorded["plan"][at : at + 7]}}})
    for number, (identity, name, arguments) in enumerate(recorded["calls"]):
        function = {"name": name, "arguments": ""}
        call = {"id": identity, "type": "function", "function": function}
        events.append({"type": "tool-call-start", "index": number, "delta": {"message": {"tool_calls": call}}})
        for at in range(0, len(arguments), 5):
            part = {"function": {"arguments": arguments[at : at + 5]}}
            events.append({"type": "tool-call-delta", "index": number, "delta": {"message": {"tool_calls": part}}})
        events.append({"type": "tool-call-end", "index": number})
    ending = {"finish_reason": recorded["finish"], "usage": recorded["usage"]}
    return transcript(*events, {"type": "message-end", "delta": ending})


@each_recording(CHAT_PATH, status=200, streamed=False)
def test_whole_and_streamed_say_the_same(harness: Harness, recording: Recording) -> None:
    harness.respond_with(recorded_script(recording))
    whole = harness.gateway.post(openai_request(recording)).body
    harness.respond_with(event_stream(as_stream(recording)))
    response = harness.gateway.post(
        openai_request(recording) | {"stream": True, "stream_options": {"include_usage": True}}
    )
    folded: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": {}, "finish": None}
    for chunk in response.chunks[:-1]:
        (choice,) = chunk["choices"]
        folded["content"] += choice["delta"].get("content", "")
        folded["reasoning_content"] += choice["delta"].get("reasoning_content", "")
        for call in choice["delta"].get("tool_calls", ()):
            held = folded["calls"].setdefault(call["index"], {"id": "", "name": "", "arguments": ""})
            held["id"] += call.get("id", "")
            held["name"] += call["function"].get("name", "")
            held["arguments"] += call["function"].get("arguments", "")
        folded["finish"] = choice["finish_reason"]
    message = whole["choices"][0]["message"]
    assert folded["content"] == (message["content"] or "")
    assert folded["reasoning_content"] == message.get("reasoning_content", "")
    assert list(folded["calls"].values()) == [
        {"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())
    ]
    assert folded["finish"] == whole["choices"][0]["finish_reason"]
    assert response.chunks[-1]["usage"] == whole["usage"]
    assert response.chunks[-1]["id"] == whole["id"]


@pytest.mark.parametrize("stream", [False, True])
@each_recording(CHAT_PATH, status=404)
def test_a_refusal(harness: Harness, recording: Recording, stream: bool) -> None:
    harness.respond_with(json_answer(recording.status, recording.body, dict(recording.headers)))
    with harness.gateway.client() as client, pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(**openai_request(recording), stream=stream)
    assert raised.value.code == "model_not_found"
    assert recording.json()["message"] in raised.value.message


@each_recording(CHAT_PATH)
def test_what_cohere_receives(harness: Harness, recording: Recording) -> None:
    """Cohere's own document accepts the request that is sent, and it is in substance the recorded one."""
    harness.respond_with(recorded_script(recording))
    body = openai_request(recording) | ({"stream": True} if recording.streamed else {})
    harness.gateway.post(body)
    requests = harness.upstream.requests
    # The list is read beside a request for an unknown model: before it, after it, or only when the next test has begun.
    (request,) = [one for one in requests if (one.method, one.path.partition("?")[0]) != ("GET", "/v1/models")]
    assert (request.method, request.path) == ("POST", CHAT_PATH)
    sent_body = request.json()
    oracle.cohere_request_validator(CHAT_PATH).check(sent_body)
    assert bool(sent_body.get("stream")) == recording.streamed
    assert [tool["function"]["name"] for tool in sent_body.get("tools") or ()] == [
        tool["function"]["name"] for tool in recording.request.body.get("tools") or ()
    ]
    assert [message["role"] for message in sent_body["messages"]] == [
        message["role"] for message in recording.request.body["messages"]
    ]
