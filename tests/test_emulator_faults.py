"""The faults that a caller may order, and what the emulator notices about callers that leave."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.emulator.faults import FAULTS, STATUS_SENTENCES
from support.waiting import WAIT_SECONDS
from test_emulator import KEY, WEATHER, A, EmulatorClient, Response, running

PROMPT = "Count to 20"
MOST_SECONDS_TO_NOTICE = 20.0


@pytest.fixture(scope="module")
def emulator() -> Iterator[EmulatorClient]:
    with running() as caller:
        yield caller


def ordered(emulator: EmulatorClient, fault: str, how: str = "suffix", **fields: Any) -> Response:
    body = {"model": A, "messages": [{"role": "user", "content": PROMPT}], **fields}
    if how == "prompt":
        content = f"{PROMPT} [x-emulator-fault: {fault}]"
        return emulator.post("/v2/chat", body | {"messages": [{"role": "user", "content": content}]})
    if how == "suffix":
        return emulator.post("/v2/chat", body | {"model": f"{A}@{fault}"})
    return emulator.post("/v2/chat", body, x_emulator_fault=fault)


# --- error answers ------------------------------------------------------------------------------------------

ERRORS: list[tuple[str, int, str | None, str | None]] = [
    *((f"status={status}", status, sentence, None) for status, sentence in STATUS_SENTENCES.items()),
    ("503", 503, STATUS_SENTENCES[503], None),
    ("status", 500, STATUS_SENTENCES[500], None),
    ("status=418", 418, "emulated error 418", None),
    ("rate_trial", 429, "You are using a Trial key, which is limited to 20 API calls / minute.", None),
    ("rate_minute", 429, "You are past the per minute request limit, please wait and try again later.", None),
    ("rate_month", 429, "You are past the per-month request limit for this model", None),
    ("invalid_tool_generation", 422, "your request resulted in an invalid tool", "INVALID_TOOL_GENERATION"),
    ("hallucinated_tools", 422, "all generated tool calls were hallucinated", "HALLUCINATED_ALL_TOOL_CALLS"),
    ("no_valid_response", 422, "No valid response generated.", "NO_VALID_RESPONSE_GENERATED"),
]


@pytest.mark.parametrize("how", ["suffix", "header", "prompt"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("fault", "status", "sentence", "error_type"), ERRORS, ids=[row[0] for row in ERRORS])
def test_an_error_answer(
    emulator: EmulatorClient, fault: str, status: int, sentence: str, error_type: str | None, stream: bool, how: str
) -> None:
    response = ordered(emulator, fault, how, stream=stream)
    assert response.status == status and response.headers["content-type"] == "application/json"
    assert response.body["message"].startswith(sentence)
    assert response.body.get("error_type") == error_type
    assert "retry-after" not in response.headers


def test_an_answer_that_is_not_cohere(emulator: EmulatorClient) -> None:
    response = ordered(emulator, "html")
    assert response.status == 502 and response.headers["content-type"].startswith("text/html")
    assert response.data.startswith(b"<html>")
    assert (ordered(emulator, "empty").status, ordered(emulator, "empty").data) == (500, b"")


@pytest.mark.parametrize("fault", ["nonsense", "status=200", "status=x", "late=x", "slow=-1", "wrong_tool=1.5"])
def test_a_fault_that_does_not_exist(emulator: EmulatorClient, fault: str) -> None:
    response = ordered(emulator, fault)
    assert response.status == 400 and "the emulator" in response.body["message"]


def test_flaky_fails_first(emulator: EmulatorClient) -> None:
    assert [ordered(emulator, "flaky=2", seed=1).status for _ in range(4)] == [503, 503, 200, 200]
    assert ordered(emulator, "flaky=2", seed=2).status == 503


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/embed", {"model": "embed-v4.0@503", "texts": ["a"], "input_type": "search_query"}),
        ("/v2/rerank", {"model": "rerank-v3.5@503", "query": "a", "documents": ["a"]}),
        ("/v1/tokenize", {"model": f"{A}@503", "text": "a"}),
    ],
)
def test_every_endpoint_has_faults(emulator: EmulatorClient, path: str, body: Any) -> None:
    assert emulator.post(path, body).status == 503


# --- models that disobey -------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
JSON = {"response_format": {"type": "json_object", "json_schema": SCHEMA}}
OTHER: dict[str, Any] = {"type": "function", "function": WEATHER["function"] | {"name": "other", "description": "x"}}


def outcome(response: Response) -> str:
    """What an answer is: the tool that it calls, JSON that has a name or has none, or text."""
    message = response.body["message"]
    if "tool_calls" in message:
        function = message["tool_calls"][0]["function"]
        return str(function["name"]) if "city" in json.loads(function["arguments"]) else "no city"
    try:
        return "name" if "name" in json.loads(message["content"][0]["text"]) else "no name"
    except ValueError:
        return "text"


@pytest.mark.parametrize(
    ("fault", "fields", "disobeyed", "obeyed"),
    [
        ("broken_schema", JSON, "no name", "name"),
        ("prose_for_json", JSON, "text", "name"),
        ("broken_schema", {"tools": [WEATHER]}, "no city", "get_weather"),
        ("wrong_tool", {"tools": [WEATHER, OTHER]}, "other", "get_weather"),
        ("wrong_tool", {"tools": [OTHER, WEATHER], "tool_choice": "REQUIRED"}, "other", "get_weather"),
        ("no_tool_call", {"tools": [WEATHER]}, "text", "get_weather"),
        ("no_tool_call", {"tools": [WEATHER], "tool_choice": "REQUIRED"}, "text", "get_weather"),
    ],
)
def test_a_model_disobeys_as_often_as_it_is_reported_to(
    emulator: EmulatorClient, fault: str, fields: dict[str, Any], disobeyed: str, obeyed: str
) -> None:
    user = {"role": "user", "content": f"What's the weather in Paris? ({len(str(fields))})"}
    system = {"role": "system", "content": "Please."}  # whoever asks again says more to the model
    for count in (1, 2):
        requests = [[user], *[[system, user]] * count] * 2  # twice, and it begins again
        answers = [ordered(emulator, f"{fault}={count}", messages=messages, **fields) for messages in requests]
        assert [outcome(response) for response in answers] == ([disobeyed] * count + [obeyed]) * 2
    assert outcome(ordered(emulator, f"{fault}=0", messages=[user], **fields)) == obeyed


def test_a_tool_that_the_system_prompt_forbids_is_the_wrong_one(emulator: EmulatorClient) -> None:
    system = {"role": "system", "content": "You must call the tool get_weather now."}
    messages = [system, {"role": "user", "content": "other"}]
    responses = [ordered(emulator, "wrong_tool", messages=messages, tools=[WEATHER, OTHER]) for _ in range(2)]
    assert [outcome(each) for each in responses] == ["other", "get_weather"]


# --- streams that go wrong ----------------------------------------------------------------------------------


def test_cut(emulator: EmulatorClient) -> None:
    with pytest.raises(http.client.IncompleteRead) as cut:
        ordered(emulator, "cut", stream=True)
    assert b"content-delta" in cut.value.partial and b"message-end" not in cut.value.partial
    with pytest.raises(http.client.IncompleteRead):
        ordered(emulator, "cut")


def test_eof(emulator: EmulatorClient) -> None:
    data = ordered(emulator, "eof", stream=True).data
    assert b"content-delta" in data and b"message-end" not in data and b"[DONE]" not in data
    assert data.endswith(b"\n\n")
    with pytest.raises(ValueError):
        _ = ordered(emulator, "eof").body


def test_broken_json(emulator: EmulatorClient) -> None:
    response = ordered(emulator, "broken_json", stream=True)
    with pytest.raises(ValueError):
        _ = response.events
    assert response.data.endswith(b"data: [DONE]\n\n")
    with pytest.raises(ValueError):
        _ = ordered(emulator, "broken_json").body


def test_finish_error(emulator: EmulatorClient) -> None:
    response = ordered(emulator, "finish_error", stream=True)
    kinds = [event["type"] for event in response.events]
    assert kinds[-1] == "message-end" and "content-end" not in kinds  # open blocks are not closed first
    assert response.events[-1]["delta"] == {
        "finish_reason": "ERROR",
        "usage": {},
        "error": "your request resulted in an invalid tool generation. Try updating the messages or tool definitions",
        "error_type": "INVALID_TOOL_GENERATION",
    }
    assert response.data.endswith(b"data: [DONE]\n\n")
    assert ordered(emulator, "finish_error").body["finish_reason"] == "ERROR"


def test_finish_timeout(emulator: EmulatorClient) -> None:
    assert ordered(emulator, "finish_timeout", stream=True).events[-1]["delta"]["finish_reason"] == "TIMEOUT"
    assert ordered(emulator, "finish_timeout").body["finish_reason"] == "TIMEOUT"


def test_unknown_event(emulator: EmulatorClient) -> None:
    events = ordered(emulator, "unknown_event", stream=True).events
    assert [event["type"] for event in events].count("telemetry") == 1 and events[-1]["type"] == "message-end"
    assert "telemetry" in ordered(emulator, "unknown_event").body


def test_no_usage(emulator: EmulatorClient) -> None:
    assert list(ordered(emulator, "no_usage", stream=True).events[-1]["delta"]) == ["finish_reason"]
    response = ordered(emulator, "no_usage")
    assert "usage" not in response.body and "num_tokens" not in response.headers
    body = {"model": "embed-v4.0@no_usage", "texts": ["a"], "input_type": "search_query"}
    assert "billed_units" not in emulator.post("/v2/embed", body).body["meta"]


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["late=0.2", "stall=0.2", "stall_stream=0.2", "slow=0.04"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_delays_with_an_end(emulator: EmulatorClient, fault: str, stream: bool) -> None:
    begun = time.monotonic()
    response = ordered(emulator, fault, stream=stream, messages=[{"role": "user", "content": "Reply with exactly: x"}])
    assert time.monotonic() - begun >= (0.04 if fault.startswith("slow") else 0.2)
    assert response.status == 200
    assert response.events[-1]["type"] == "message-end" if stream else response.body["finish_reason"] == "COMPLETE"


def test_slow_sends_event_by_event(emulator: EmulatorClient) -> None:
    connection = emulator.connect()
    body = {"model": f"{A}@slow=0.05", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    connection.request("POST", "/v2/chat", json.dumps(body), KEY)
    response = connection.getresponse()
    first = response.read1(65_536)
    connection.close()
    assert b"message-start" in first and b"message-end" not in first


# --- callers that leave -------------------------------------------------------------------------------------


def finished(emulator: EmulatorClient, count: int) -> Any:
    """The record number `count`, once its request is over."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        if len(emulator.app.state.log) > count and emulator.app.state.log[count].closed_at is not None:
            return emulator.app.state.log[count]
        time.sleep(0.005)
    raise AssertionError("the request never ended")


@pytest.mark.parametrize(
    ("fault", "stream", "wait_for"),
    [
        ("stall", False, b""),
        ("stall", True, b""),
        ("late=30", False, b""),
        ("stall_stream", True, b"content-delta"),
        ("stall_stream", False, b"message"),
        ("slow=0.05", True, b"content-delta"),
    ],
)
def test_a_caller_that_leaves_is_noticed(emulator: EmulatorClient, fault: str, stream: bool, wait_for: bytes) -> None:
    count = len(emulator.app.state.log)
    body = {"model": f"{A}@{fault}", "messages": [{"role": "user", "content": PROMPT}], "stream": stream}
    data = json.dumps(body).encode()
    host, port = emulator.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_SECONDS) as caller:
        head = f"POST /v2/chat HTTP/1.1\r\nhost: x\r\nauthorization: bearer x\r\ncontent-length: {len(data)}\r\n\r\n"
        caller.sendall(head.encode() + data)
        received = b""
        while wait_for not in received or not until_open(emulator, count):
            received += caller.recv(65_536)
    left = time.monotonic()
    record = finished(emulator, count)
    assert record.closed_by_caller and not record.finished
    assert (record.model, record.stream, record.fault) == (A, stream, fault.partition("=")[0])
    assert record.closed_at - left < MOST_SECONDS_TO_NOTICE


def until_open(emulator: EmulatorClient, count: int) -> bool:
    """Wait until the emulator has begun with the request and knows its fault."""
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        if len(emulator.app.state.log) > count and emulator.app.state.log[count].fault:
            return True
        time.sleep(0.005)
    raise AssertionError("the request never came")


def test_the_log_tells_what_happened(emulator: EmulatorClient) -> None:
    emulator.ask("DELETE", "/emulator/log", None, {})
    emulator.chat()
    emulator.chat(stream=True)
    ordered(emulator, "503")
    emulator.ask("GET", "/nowhere")
    finished(emulator, 3)
    records = emulator.ask("GET", "/emulator/log", None, {}).body
    results = [(record["path"], record["stream"], record["status"], record["finished"]) for record in records]
    assert results == [
        ("/v2/chat", False, 200, True),
        ("/v2/chat", True, 200, True),
        ("/v2/chat", False, 503, True),
        ("/nowhere", False, 404, True),
    ]
    assert not any(record["closed_by_caller"] for record in records)
    assert all(record["closed_at"] >= record["opened_at"] for record in records)
    assert records[2]["fault"] == "status" and records[0]["model"] == A


def test_every_fault_is_tested() -> None:
    with open(__file__, encoding="utf-8") as source:
        text = source.read()
    assert [name for name in FAULTS if f'"{name}' not in text] == []
