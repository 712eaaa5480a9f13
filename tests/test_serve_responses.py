"""The Responses API through a real server: the official SDK, the bytes of a stream, and what is remembered.

The upstream is the emulator; each gateway has a storage file of its own.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from support import process
from support.app import REASONING, A, Gateway, Response, demonstration, emulator

PATH = "/v1/responses"
COUNTED = "1, 2, 3, 4, 5"
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    }
]
PARIS = "What is the weather in Paris?"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("storage") / "responses.sqlite3"
    with demonstration(database_url=f"sqlite:///{file}") as gateway:
        yield gateway


@pytest.fixture
def sdk(served: Gateway) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


def ask(gateway: Gateway, headers: dict[str, str] | None = None, **fields: Any) -> Response:
    usual = {"authorization": f"Bearer {gateway.key}", "content-type": "application/json"}
    return gateway.ask("POST", PATH, {"model": A, "input": "Count to 5", **fields}, usual | (headers or {}))


def events(response: Response) -> list[tuple[str, Any]]:
    """The named events of a stream: (name, JSON). AssertionError unless [DONE] ends it, once."""
    assert response.headers["content-type"].startswith("text/event-stream")
    text = response.data.decode()
    assert text.endswith("data: [DONE]\n\n") and text.count("[DONE]") == 1
    frames = [frame for frame in text.split("\n\n")[:-2] if not frame.startswith(":")]
    results = []
    for frame in frames:
        name, data = frame.split("\n")
        document = json.loads(data.removeprefix("data: "))
        assert name == f"event: {document['type']}", "each event is named by its type"
        results.append((document["type"], document))
    assert [document["sequence_number"] for _, document in results] == list(range(len(results)))
    return results


# --- words --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [A, f"cohere/{A}", REASONING])
def test_a_whole_answer(sdk: openai.OpenAI, model: str) -> None:
    response = sdk.responses.create(model=model, input="Count to 5")
    assert response.output_text == COUNTED
    assert (response.status, response.model, response.object) == ("completed", model, "response")
    assert re.fullmatch(r"resp_[0-9a-f]{48}", response.id)
    assert response.output[-1].type == "message" and str(response.output[-1].id).startswith("msg_")
    assert response.usage is not None and response.usage.input_tokens > 0 < response.usage.output_tokens
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (
        response.usage.input_tokens_details.cached_tokens >= 0 <= response.usage.output_tokens_details.reasoning_tokens
    )
    assert response._request_id is not None and response._request_id.startswith("req_")


def test_a_streamed_answer(sdk: openai.OpenAI) -> None:
    results = list(sdk.responses.create(model=A, input="Count to 5", stream=True))
    assert results[0].type == "response.created" and results[-1].type == "response.completed"
    assert "".join(event.delta for event in results if event.type == "response.output_text.delta") == COUNTED
    assert results[-1].response.output_text == COUNTED


@pytest.mark.parametrize("model", [A, REASONING])
def test_the_stream_helper(sdk: openai.OpenAI, model: str) -> None:
    with sdk.responses.stream(model=model, input="Count to 5", reasoning={"summary": "auto"}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.created", "response.output_text.delta", "response.completed"} <= kinds
    assert final.output_text == COUNTED and final.status == "completed"
    assert ("response.reasoning_summary_text.delta" in kinds) == (model == REASONING)


def test_the_bytes_of_a_stream(served: Gateway) -> None:
    names = [name for name, _ in events(ask(served, stream=True))]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert set(names[4:-4]) == {"response.output_text.delta"} and len(names) > 10
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


def test_streamed_and_whole_are_one_response(served: Gateway) -> None:
    whole = ask(served).body
    streamed = events(ask(served, stream=True))[-1][1]["response"]
    for response in (whole, streamed):
        for key in ("id", "created_at", "completed_at"):
            assert response.pop(key)
        for item in response["output"]:
            assert item.pop("id")
    assert streamed == whole


class City(pydantic.BaseModel):
    name: str
    inhabitants: int


def test_parse(sdk: openai.OpenAI) -> None:
    response = sdk.responses.parse(model=A, input="Tell me of a city", text_format=City)
    assert isinstance(response.output_parsed, City)
    with sdk.responses.stream(model=A, input="Tell me of a city", text_format=City) as stream:
        assert isinstance(stream.get_final_response().output_parsed, City)


def test_truncation_is_incomplete(sdk: openai.OpenAI) -> None:
    request: dict[str, Any] = {"model": A, "input": "Tell me a long story", "max_output_tokens": 3}
    response = sdk.responses.create(**request)
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[-1].type == "message" and response.output[-1].status == "incomplete"
    results = list(sdk.responses.create(**request, stream=True))
    assert results[-1].type == "response.incomplete"


@pytest.mark.parametrize("fault", ["cut", "eof", "broken_json", "finish_error", "finish_timeout"])
def test_a_failure_in_the_stream_is_reported_in_it(served: Gateway, fault: str) -> None:
    result = events(ask(served, model=f"{A}@{fault}", stream=True, store=False))
    name, last = result[-1]
    assert name == "response.failed"
    response = last["response"]
    assert response["status"] == "failed" and response["error"]["message"] and response["completed_at"] is None
    assert response["error"]["code"] == "server_error"
    assert [name for name, _ in result].count("response.failed") == 1
    assert all(item["status"] in ("completed", "incomplete") for item in response["output"])


@pytest.mark.parametrize("fault", ["cut", "finish_error", "finish_timeout", "status=503"])
def test_a_failure_of_a_whole_answer_is_an_error(served: Gateway, fault: str) -> None:
    response = ask(served, model=f"{A}@{fault}", store=False)
    assert response.status >= 502 and response.error["message"]


def test_a_failure_before_the_first_event_is_an_error(served: Gateway) -> None:
    response = ask(served, model=f"{A}@status=503", stream=True, store=False)
    assert response.status == 503 and response.error["type"]


# --- tools --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", [A, REASONING])
def test_the_tool_loop(sdk: openai.OpenAI, model: str, streamed: bool) -> None:
    """By previous_response_id: the second request holds the outputs alone."""

    def request(**fields: Any) -> Any:
        values: dict[str, Any] = {"model": model, "tools": TOOLS, **fields}
        if not streamed:
            return sdk.responses.create(**values)
        with sdk.responses.stream(**values) as stream:
            return stream.get_final_response()

    first = request(input=PARIS)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Paris"}
    assert call.id.startswith("fc_") and call.call_id != call.id
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22°C"}]
    second = request(input=outputs, previous_response_id=first.id)
    assert second.status == "completed" and "22" in second.output_text
    assert second.previous_response_id == first.id
    third = request(input="Count to 5", previous_response_id=second.id)
    assert COUNTED in third.output_text


@pytest.mark.parametrize("model", [A, REASONING])
def test_the_tool_loop_with_the_whole_history(sdk: openai.OpenAI, model: str) -> None:
    text: list[Any] = [{"role": "user", "content": PARIS}]
    first = sdk.responses.create(model=model, input=text, tools=TOOLS, store=False)
    text += [item.model_dump(exclude_none=True) for item in first.output]
    (call,) = [item for item in first.output if item.type == "function_call"]
    text.append({"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22°C"})
    second = sdk.responses.create(model=model, input=text, tools=TOOLS, store=False)
    assert "22" in second.output_text


def test_an_output_of_no_call_is_refused_by_its_path(served: Gateway) -> None:
    response = ask(served, input=[{"type": "function_call_output", "call_id": "zzz", "output": "x"}])
    assert response.status == 400 and response.error["param"] == "input[0].call_id"


# --- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_remembers(sdk: openai.OpenAI, streamed: bool) -> None:
    conversation = sdk.conversations.create()

    def request(**fields: Any) -> Any:
        values: dict[str, Any] = {"model": A, "tools": TOOLS, "conversation": conversation.id, **fields}
        if not streamed:
            return sdk.responses.create(**values)
        with sdk.responses.stream(**values) as stream:
            return stream.get_final_response()

    first = request(input=PARIS)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert first.conversation is not None and first.conversation.id == conversation.id
    second = request(input=[{"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 22°C"}])
    assert "22" in second.output_text
    kinds = [item.type for item in sdk.conversations.items.list(conversation.id, order="asc")]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output", "message"]


def test_a_stored_item_may_be_referred_to(served: Gateway) -> None:
    first = ask(served, input=PARIS, tools=TOOLS).body
    text: list[Any] = [{"role": "user", "content": PARIS}]
    text += [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    text.append({"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 22°C"})
    assert ask(served, input=text, tools=TOOLS).status == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_not_stored_cannot_be_continued(served: Gateway, streamed: bool) -> None:
    http_response = ask(served, store=False, stream=streamed)
    response = events(http_response)[-1][1]["response"] if streamed else http_response.body
    assert response["store"] is False
    again = ask(served, previous_response_id=response["id"])
    assert again.status == 404 and again.error["param"] == "previous_response_id"


def test_an_unknown_response_or_conversation_is_a_404(served: Gateway) -> None:
    assert ask(served, previous_response_id="resp_zzz").status == 404
    response = ask(served, conversation="conv_zzz", store=False)
    assert response.status == 404 and response.error["param"] == "conversation"


@pytest.mark.parametrize("conversation", [{}, {"id": 5}, {"id": ["a"]}, 5])
def test_a_conversation_that_is_none_is_a_400(served: Gateway, conversation: Any) -> None:
    assert ask(served, conversation=conversation).status == 400


def test_history_of_not_stored_responses_may_be_continued_without_storing(served: Gateway) -> None:
    first = ask(served, input="My name is Ada").body
    second = ask(served, input="Count to 5", previous_response_id=first["id"], store=False)
    assert second.status == 200
    assert ask(served, previous_response_id=second.body["id"]).status == 404


def test_a_failed_stream_can_be_distinguished_from_a_stored_answer(served: Gateway) -> None:
    """Whether or not it was kept, continuing it is no 500."""
    failed = events(ask(served, model=f"{A}@cut", stream=True))[-1][1]["response"]
    assert ask(served, previous_response_id=failed["id"]).status in (200, 404, 400)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"command-a-03-2025","input":[{"role":"user","content":"\xff"}]}',
        b'{"model":"command-a-03-2025","input":[{"role":"user","content":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
        b'{"model":"command-a-03-2025","input":[',
        b"[]",
    ],
    ids=["no UTF-8", "too deep", "half a body", "no object"],
)
def test_a_body_that_cannot_be_read_is_a_400(served: Gateway, body: bytes) -> None:
    response = served.ask("POST", PATH, body)
    assert response.status == 400 and response.error["type"] == "invalid_request_error"


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway whose storage is in a place that is a file."""
    (tmp_path / "file").write_text("")
    with demonstration(database_url=f"sqlite:///{tmp_path}/file/responses.sqlite3") as gateway:
        yield gateway


@pytest.mark.parametrize("streamed", [False, True])
def test_without_storage_only_what_needs_none_works(unwritable: Gateway, streamed: bool) -> None:
    http_response = ask(unwritable, stream=streamed)
    assert http_response.status == 503 and "store" in http_response.error["message"]
    explicit = ask(unwritable, stream=streamed, store=True)
    assert explicit.status == 503
    http_response = ask(unwritable, stream=streamed, store=False)
    response = events(http_response)[-1][1]["response"] if streamed else http_response.body
    assert (http_response.status, response["status"]) == (200, "completed")
    assert ask(unwritable, store=False, previous_response_id="resp_zzz").status == 503
    assert unwritable.post({"model": A, "messages": [{"role": "user", "content": "Hi"}]}).status == 200


# --- a stored response survives -----------------------------------------------------------------------------


class Process:
    """`cohere-gateway serve` over an upstream, to be killed without a word."""

    def __init__(self, upstream: str, file: Path) -> None:
        settings = {
            "COHERE_API_KEY": "server-key-0002",
            "COHERE_BASE_URL": upstream,
            "GATEWAY_DATABASE_URL": f"sqlite:///{file}",
        }
        self._server = process.Process(**settings)
        self.gateway = Gateway(self._server.url, upstream, log=None, key="anything")  # type: ignore[arg-type]

    def kill(self) -> None:
        if self._server.running:
            self._server.signal(signal.SIGKILL, group=True)
        self._server.close()


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stored_response_survives_a_kill_right_after_its_answer(tmp_path: Path, streamed: bool) -> None:
    with emulator() as upstream:
        first = Process(upstream, tmp_path / "responses.sqlite3")
        try:
            http_response = ask(first.gateway, input=PARIS, tools=TOOLS, stream=streamed)
        finally:
            first.kill()
        response = events(http_response)[-1][1]["response"] if streamed else http_response.body
        (call,) = [item for item in response["output"] if item["type"] == "function_call"]
        second = Process(upstream, tmp_path / "responses.sqlite3")
        try:
            outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 22°C"}]
            again = ask(second.gateway, input=outputs, tools=TOOLS, previous_response_id=response["id"])
        finally:
            second.kill()
        assert again.status == 200 and "22" in again.body["output"][-1]["content"][0]["text"]
