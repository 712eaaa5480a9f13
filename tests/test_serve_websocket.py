"""The Responses API over a WebSocket: a real client on a real server, and the official SDK's own connection.

The law of this file: what a request is told on a socket is what it is told as a stream of server-sent events, ids and
times apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket as sockets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from hypercorn.config import Config
from hypercorn.protocol import ws_stream
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect
from wsproto.events import TextMessage

from gateway.app import controlled_app, create_app
from gateway.endpoints import websocket
from gateway.errors import CallerError
from gateway.pipeline.accepted_keys import PROOF_PATH
from gateway.server import hypercorn_patches
from gateway.settings.schema import Settings, Timeouts
from gateway.state import connection_state
from support import databases, oracle
from support.app import (
    CALLER_KEY,
    MASTER_KEY,
    REASONING,
    A,
    Gateway,
    Harness,
    demonstration,
    gateway_over,
    run_harness,
    story,
    streamed,
)
from support.asgi_server import serve
from support.ledger import wait_for_rows
from support.process import Process
from support.scripted_upstream import Chunk, End, Pause, Script, Signal, json_answer, transcript
from support.waiting import WAIT_SECONDS
from test_responses_contract import _check
from test_serve_disconnect import BEGUN, NEVER, SOON, STREAM_HEAD, late_stream, process_over, waiting
from test_serve_responses import PARIS, TOOLS, ask, events

PATH = "/v1/responses"
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


class Caller:
    """A socket, and what its caller does with it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def say(self, **fields: Any) -> None:
        request = {"type": "response.create", "model": A, "input": "Count to 5", **fields}
        self.connection.send(json.dumps({name: value for name, value in request.items() if value is not ...}))

    def hear(self) -> Any:
        """The next message."""
        message = self.connection.recv(timeout=WAIT_SECONDS)
        assert isinstance(message, str), "an event is text"
        return json.loads(message)

    def answer(self) -> list[Any]:
        """All messages up to the end of a response."""
        results = [self.hear()]
        while results[-1]["type"] not in ENDS:
            results.append(self.hear())
        return results

    def ask(self, **fields: Any) -> list[Any]:
        self.say(**fields)
        return self.answer()

    def response(self, **fields: Any) -> Any:
        """The response at the end of what is told."""
        last = self.ask(**fields)[-1]
        assert last["type"] == "response.completed", last
        return last["response"]

    def error(self, **fields: Any) -> Any:
        """The error that is told instead of anything else."""
        (response,) = self.ask(**fields)
        assert response["type"] == "error", response
        return response


@contextlib.contextmanager
def opened(gateway: Gateway, headers: dict[str, str] | None = None, path: str = PATH, **more: Any) -> Iterator[Caller]:
    values = {"authorization": f"Bearer {gateway.key}"} if headers is None else headers
    url = gateway.url.replace("http", "ws", 1) + path
    with connect(url, additional_headers=values, proxy=None, max_size=None, **more) as connection:
        yield Caller(connection)


def refused(gateway: Gateway, headers: dict[str, str] | None = None, path: str = PATH, **more: Any) -> tuple[int, Any]:
    """Status and error of an upgrade that is refused."""
    with pytest.raises(InvalidStatus) as caught, opened(gateway, headers, path, **more):
        pass
    response = caught.value.response
    assert response.headers["content-type"] == "application/json" and response.headers["x-request-id"]
    assert response.body is not None
    return response.status_code, json.loads(response.body)["error"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    file = tmp_path_factory.mktemp("storage") / "responses.sqlite3"
    with demonstration(database_url=f"sqlite:///{file}") as gateway:
        yield gateway


@pytest.fixture
def caller(served: Gateway) -> Iterator[Caller]:
    with opened(served) as result:
        yield result


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    file = tmp_path_factory.mktemp("storage") / "responses.sqlite3"
    with run_harness(database_url=f"sqlite:///{file}") as harness:
        yield harness


# --- the law ------------------------------------------------------------------------------------------------

_OWN = re.compile(r"resp_[0-9a-f]{48}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}|(?<=get_weather_)\w{12}")
_TIMES = re.compile(r'"(created_at|completed_at)": \d+')


def alike(document: list[Any]) -> str:
    """Events without what no two requests share: ids in the order of their coming, times."""
    text = json.dumps(document)
    names: dict[str, str] = {}
    text = _OWN.sub(lambda result: names.setdefault(result[0], f"id-{len(names)}"), text)
    return _TIMES.sub(r'"\1": 0', text)


REQUESTS: dict[str, dict[str, Any]] = {
    "words": {},
    "words that are not stored": {"store": False},
    "thoughts": {"model": REASONING},
    "thoughts as a summary": {"model": REASONING, "reasoning": {"summary": "auto"}},
    "calls": {"input": PARIS, "tools": TOOLS},
    "a demanded call": {"input": PARIS, "tools": TOOLS, "tool_choice": "required"},
    "an answer that reached its limit": {"max_output_tokens": 2},
    "JSON": {"text": {"format": {"type": "json_object"}}, "input": "Name a city as JSON with the key city"},
    "an answer that is checked before it is shown": {
        "tools": TOOLS,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {}}}},
    },
    "a stream that breaks off": {"model": f"{A}@cut"},
    "a stream that ends in an error": {"model": f"{A}@finish_error"},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_socket_tells_what_a_stream_tells(served: Gateway, caller: Caller, name: str) -> None:
    response = caller.ask(**REQUESTS[name])
    http_response = ask(served, stream=True, **REQUESTS[name])
    response[0].pop("gateway_notes", None)  # HTTP has a header for them
    assert alike(response) == alike([event for _, event in events(http_response)])


@pytest.mark.parametrize("name", REQUESTS)
def test_every_event_is_what_openai_says_it_is(caller: Caller, name: str) -> None:
    for event in caller.ask(**REQUESTS[name], stream_id="lane_1"):
        assert event.pop("stream_id") == "lane_1"
        _check(event)


def test_notes_stand_beside_the_first_event(caller: Caller) -> None:
    response = caller.ask(temperature=3, user="somebody")
    assert (
        response[0]["gateway_notes"] == "temperature adjusted 3.0 -> 1.0; user ignored (Cohere keeps no end-user ids)"
    )
    assert not any("gateway_notes" in event for event in response[1:])


@pytest.mark.parametrize("size", [0, 200_000])
def test_half_a_character_is_replaced(caller: Caller, size: int) -> None:
    """JavaScript writes it where a text was cut inside an emoji: `\\ud83d`."""
    text = f"{'x' * size} \ud83d"
    response = caller.ask(instructions=text, input="Say \ud83d")
    assert response[0]["gateway_notes"].startswith("body adjusted half of a surrogate pair -> U+FFFD")
    assert response[-1]["response"]["instructions"] == text.replace("\ud83d", "\ufffd")
    prepared = caller.ask(instructions=text, input="Say", generate=False)
    assert prepared[0]["gateway_notes"] == "body adjusted half of a surrogate pair -> U+FFFD"
    assert "gateway_notes" not in caller.ask(instructions="whole: \U0001f600")[0]


def test_strict_mode_is_requested_once(served: Gateway) -> None:
    with opened(served, {"x-gateway-strict": "true"}) as caller:
        error = caller.error(user="somebody")
        assert (error["status"], error["error"]["param"]) == (400, "user")
        assert caller.response()["status"] == "completed"


def test_the_head_of_an_open_socket(served: Gateway) -> None:
    with opened(served, {"x-request-id": "mine-1"}) as caller:
        response = caller.connection.response
        assert response is not None and response.status_code == 101
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["x-gateway-upstream"] == "emulator"


# --- one after another --------------------------------------------------------------------------------------


def test_several_requests_in_sequence(caller: Caller) -> None:
    results = [caller.response(input=f"Say {word}") for word in ("cobalt", "amber", "jade")]
    assert [response["output"][0]["content"][0]["text"] for response in results] == ["cobalt", "amber", "jade"]
    assert len({response["id"] for response in results}) == 3


def test_requests_that_come_at_once_are_answered_in_turn(caller: Caller) -> None:
    words = [f"word{number}" for number in range(8)]
    for word in words:
        caller.say(input=f"Say {word}")
    assert [caller.answer()[-1]["response"]["output"][0]["content"][0]["text"] for _ in words] == words


def upstream_texts(harness: Harness) -> list[tuple[str, str]]:
    """Role and text of what Cohere was last sent."""
    request = harness.upstream.exchanges[-1].request.json()["messages"]
    return [
        (
            message["role"],
            message["content"] if isinstance(message["content"], str) else message["content"][0]["text"],
        )
        for message in request
    ]


CHAIN = [("user", "One"), ("assistant", "Hi there."), ("user", "Two"), ("assistant", "Hi there."), ("user", "Three")]


@pytest.mark.parametrize("stores", ["nnn", "snn", "nsn", "nns", "sss"])
def test_a_conversation_goes_on_whatever_is_stored(harness: Harness, stores: str) -> None:
    """n: store false, s: true. What is not stored is remembered by the socket, and goes with what is."""
    harness.respond_with(streamed())
    with opened(harness.gateway) as caller:
        previous: Any = None
        for text, store in zip(("One", "Two", "Three"), stores, strict=True):
            previous = caller.response(input=text, store=store == "s", previous_response_id=previous)["id"]
        assert upstream_texts(harness) == CHAIN
    with opened(harness.gateway) as caller:
        last = caller.ask(input="Four", previous_response_id=previous)[-1]
        if stores[-1] == "s":
            assert last["type"] == "response.completed"
            assert upstream_texts(harness) == [*CHAIN, ("assistant", "Hi there."), ("user", "Four")]
        else:
            assert last["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize("store", [True, False])
def test_what_is_not_there_is_reported_as_open_responses_wants_it(served: Gateway, caller: Caller, store: bool) -> None:
    with opened(served) as other:
        previous = other.response(store=False)["id"]
    error = caller.error(previous_response_id=previous, store=store)
    assert error["status"] == 400
    assert error["error"].pop("headers")["x-request-id"]
    assert error["error"] == {
        "type": "invalid_request_error",
        "code": "previous_response_not_found",
        "message": f"Previous response with id '{previous}' not found.",
        "param": "previous_response_id",
    }
    assert caller.response()["status"] == "completed", "the socket is as good as before"


FAILURES: dict[str, dict[str, Any]] = {
    "refused here": {"input": [{"role": "nobody", "content": "x"}]},
    "refused by Cohere": {"model": f"{A}@429"},
    "broken": {"model": f"{A}@cut"},
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_continuation_forgets_what_it_continued(caller: Caller, name: str) -> None:
    first = caller.response(store=False)["id"]
    other = caller.response(store=False)["id"]
    assert caller.ask(store=False, previous_response_id=first, **FAILURES[name])[-1]["type"] in ENDS[2:]
    assert caller.error(store=False, previous_response_id=first)["error"]["code"] == "previous_response_not_found"
    assert caller.response(store=False, previous_response_id=other)["status"] == "completed"


def test_a_failed_response_cannot_be_continued(caller: Caller) -> None:
    failed = caller.ask(store=False, model=f"{A}@cut")[-1]
    assert failed["type"] == "response.failed"
    error = caller.error(store=False, previous_response_id=failed["response"]["id"])
    assert error["error"]["code"] == "previous_response_not_found"


def test_calls_and_their_results(caller: Caller) -> None:
    first = caller.response(input=PARIS, tools=TOOLS, store=False)
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 22 degrees"}
    second = caller.response(input=[result], tools=TOOLS, store=False, previous_response_id=first["id"])
    assert "22" in second["output"][-1]["content"][0]["text"]


def test_items_of_the_socket_may_be_named(harness: Harness) -> None:
    harness.respond_with(streamed())
    with opened(harness.gateway) as caller:
        first = caller.response(input="One", store=False)
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        caller.response(input=[reference, {"role": "user", "content": "Two"}], store=False)
        assert upstream_texts(harness) == [("assistant", "Hi there."), ("user", "Two")]
    # No response of another socket has this id: the script's ids are all the same, so what was stored may.
    with opened(harness.gateway, {"authorization": "Bearer somebody-else"}) as caller:
        error = caller.error(input=[reference])
        assert (error["status"], error["error"]["param"]) == (404, "input[0].id")


@pytest.mark.parametrize("store", [True, False])
def test_items_that_the_sockets_history_has_are_not_sent_twice(caller: Caller, store: bool) -> None:
    first = caller.response(input=PARIS, tools=TOOLS, store=False)
    (call,) = [item for item in first["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 22 degrees"}
    items = [{"type": "item_reference", "id": call["id"]}, result]
    second = caller.response(input=items, tools=TOOLS, store=store, previous_response_id=first["id"])
    third = caller.response(input="Say thanks", tools=TOOLS, store=store, previous_response_id=second["id"])
    assert third["output"]


def test_without_a_storage_a_socket_works_for_what_is_not_stored(tmp_path: Path) -> None:
    with demonstration(database_url="postgresql://postgres@127.0.0.1:1/nothing") as gateway, opened(gateway) as caller:
        first = caller.response(store=False)["id"]
        assert caller.response(store=False, previous_response_id=first)["status"] == "completed"
        error = caller.error()
        assert (error["status"], error["error"]["code"]) == (503, "storage_unavailable")


# --- a response without an answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [..., [], "", "One", [{"role": "user", "content": "One"}]], ids=repr)
@pytest.mark.parametrize("store", [True, False])
def test_a_response_may_be_prepared(harness: Harness, value: Any, store: bool) -> None:
    harness.respond_with(streamed())
    with opened(harness.gateway) as caller:
        response = caller.ask(generate=False, input=value, store=store, instructions="Be brief.")
        assert [event["type"] for event in response] == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]
        prepared = response[-1]["response"]
        assert (prepared["status"], prepared["output"], prepared["usage"]["total_tokens"]) == ("completed", [], 0)
        paths = {request.path for request in harness.upstream.requests}
        assert paths <= {PROOF_PATH}, "Cohere is asked about the key at most"
        harness.upstream.exchanges.clear()
        for event in response:
            _check(event)
        caller.response(input="Two", previous_response_id=prepared["id"], store=store)
        assert upstream_texts(harness) == [("user", "One")] * (value not in (..., [], "")) + [("user", "Two")]


def test_a_response_cannot_be_steered(caller: Caller) -> None:
    """The event of today's OpenAI is answered in its own words, and the socket goes on."""
    caller.connection.send(
        json.dumps({"type": "response.steer", "previous_response_id": "resp_1", "input": "Stop", "stream_id": "s"})
    )
    result = caller.hear()
    assert result.pop("error")["code"] == "steering_not_supported"
    assert result == {
        "type": "response.steer.failed",
        "steer": {"id": None, "previous_response_id": "resp_1", "input": "Stop"},
        "sequence_number": 0,
        "stream_id": "s",
    }
    assert caller.response()["status"] == "completed"


def test_what_is_wrong_with_a_prepared_response_is_reported(caller: Caller) -> None:
    assert caller.error(generate=False, model=...)["error"]["param"] == "model"
    assert caller.error(generate=False, input=[{"role": "nobody", "content": "x"}])["error"]["param"] == "input[0].role"
    assert caller.ask(generate=False, user="a")[0]["gateway_notes"] == "user ignored (Cohere keeps no end-user ids)"


# --- lanes --------------------------------------------------------------------------------------------------


def test_lanes_do_not_wait_for_each_other(harness: Harness) -> None:
    harness.respond_with(
        (STREAM_HEAD, Chunk(BEGUN), Pause(go_on := Signal()), Chunk(transcript(*story()[3:])), End()), streamed()
    )
    with opened(harness.gateway) as caller:
        caller.say(stream_id="slow")
        while caller.hear()["type"] != "response.output_text.delta":
            pass
        response = caller.ask(stream_id="fast")
        assert {event["stream_id"] for event in response} == {"fast"}
        go_on.set()
        assert {event["stream_id"] for event in caller.answer()} == {"slow"}


def test_another_stream_may_continue_a_response(caller: Caller) -> None:
    first = caller.response(store=False, stream_id="one")["id"]
    assert caller.response(store=False, stream_id="two", previous_response_id=first)["previous_response_id"] == first


def test_errors_name_their_stream(caller: Caller) -> None:
    assert caller.error(stream_id="a.b-c_d", model=...)["stream_id"] == "a.b-c_d"
    assert "stream_id" not in caller.error(model=...)


@contextlib.contextmanager
def stalled(**settings: Any) -> Iterator[Caller]:
    """A socket whose requests are answered by nobody."""
    with waiting((Pause(NEVER),), **settings) as harness, opened(harness.gateway) as caller:
        yield caller


def test_lanes_are_bounded() -> None:
    with stalled() as caller:
        for number in range(websocket.MAX_STREAMS + 1):
            caller.say(stream_id=f"lane{number}", store=False)
        result = caller.hear()
        assert (result["status"], result["error"]["code"]) == (400, "websocket_stream_limit_reached")
        assert result["stream_id"] == f"lane{websocket.MAX_STREAMS}" and result["error"]["param"] == "stream_id"


def test_requests_that_wait_are_bounded_in_number_and_in_bytes() -> None:
    with stalled() as caller:
        for _ in range(websocket.MAX_WAITING + 2):
            caller.say(store=False)
        assert caller.hear()["error"]["code"] == "websocket_queue_limit_reached"
    with stalled(body_limit=1000) as caller:
        for _ in range(4):
            caller.say(store=False, input="x" * 400)
        assert caller.hear()["error"]["code"] == "websocket_queue_limit_reached"


# --- bad input ----------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Any, str | None, str]] = {
    "nothing": ("", None, "invalid_json"),
    "half of a message": ('{"type":', None, "invalid_json"),
    "a list": ("[]", None, "invalid_type"),
    "null": ("null", None, "invalid_type"),
    "a depth that nobody means": ('{"type":' + "[" * 100_000, None, "invalid_json"),
    "two documents": ('{"type":"response.create"}{}', None, "invalid_json"),
    "no type": ("{}", "type", "missing_required_parameter"),
    "a type that is none": ({"type": 5}, "type", "invalid_type"),
    "an unknown type": ({"type": "response.stare", "input": "a"}, "type", "invalid_value"),
    "an empty lane": ({"type": "response.create", "stream_id": ""}, "stream_id", "invalid_value"),
    "a long lane": ({"type": "response.create", "stream_id": "a" * 257}, "stream_id", "invalid_value"),
    "a lane with a blank": ({"type": "response.create", "stream_id": "a b"}, "stream_id", "invalid_value"),
    "a lane that is none": ({"type": "response.create", "stream_id": []}, "stream_id", "invalid_type"),
    "generate that is none": ({"type": "response.create", "generate": 0}, "generate", "invalid_type"),
    "background": ({"type": "response.create", "background": True}, "background", "unsupported_value"),
    "background beside": (
        {"type": "response.create", "extra_params": {"background": True}},
        "background",
        "unsupported_value",
    ),
    "no model": ({"type": "response.create", "input": "Hi"}, "model", "missing_required_parameter"),
    "no input": ({"type": "response.create", "model": A}, "input", "missing_required_parameter"),
    "an unknown role": (
        {"type": "response.create", "model": A, "input": [{"role": "nobody", "content": "x"}]},
        "input[0].role",
        "invalid_value",
    ),
    "the request in a box": (
        {"type": "response.create", "response": {"model": A}},
        "model",
        "missing_required_parameter",
    ),
    "binary": (b'{"type":"response.create"}', None, "bad_request"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_reported_and_the_socket_stays(caller: Caller, name: str) -> None:
    message, param, code = BAD[name]
    caller.connection.send(json.dumps(message) if isinstance(message, dict) else message)
    result = caller.hear()
    assert list(result) == ["status", "error", "type"] and result["type"] == "error"
    assert (result["status"], result["error"]["param"], result["error"]["code"]) == (400, param, code)
    assert result["error"]["message"] and result["error"]["type"] == "invalid_request_error"
    oracle.openai_validator("ResponseWsError").check(result)
    assert caller.response()["status"] == "completed"


def test_what_the_transport_implies_may_be_in_the_request(caller: Caller) -> None:
    for fields in ({"stream": True}, {"stream": False}, {"stream": None}, {"background": False}, {"generate": True}):
        assert caller.response(**fields)["status"] == "completed"


def test_a_refusal_of_coheres_is_passed_on_with_what_clients_obey(harness: Harness) -> None:
    harness.respond_with(json_answer(429, {"message": "slow down"}, (("retry-after", "7"),)), streamed())
    with opened(harness.gateway) as caller:
        error = caller.error()
        assert (error["status"], error["error"]["code"]) == (429, "rate_limit_exceeded")
        assert error["error"]["headers"].items() >= {"retry-after": "7"}.items()
        line = harness.gateway.log.line_of(error["error"]["headers"]["x-request-id"])
        assert (line["status"], line["error"]) == (429, "rate_limit_exceeded")
        oracle.openai_validator("ResponseWsError").check(error)
        assert caller.response()["status"] == "completed"


def test_a_message_that_is_too_large(served: Gateway, tmp_path: Path) -> None:
    """Too large for us: an error. Too large for the server, which must not gather it: the end (1009)."""

    def small(config: Any) -> None:
        config.websocket_max_message_size = 3000

    def app() -> Any:
        database = databases.sqlite(tmp_path)
        return create_app(
            Settings(cohere_base_url=served.upstream, demo=True, body_limit=2000, database_url=database, log="off")
        )

    with serve(app, configure=small) as url, opened(Gateway(url, served.upstream, served.log)) as caller:
        error = caller.error(input="x" * 2500, store=False)
        assert (error["status"], error["error"]["code"]) == (413, "request_too_large")
        assert caller.response(store=False)["status"] == "completed"
        caller.say(input="x" * 4000, store=False)
        with pytest.raises(ConnectionClosed) as caught:
            caller.hear()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


def frame(opcode: int, payload: bytes = b"", *, first: int = 0x80, masked: bool = True) -> bytes:
    """A frame as a client sends it, or as none should. first: the flags of the first byte."""
    length = bytes([(0x80 if masked else 0) | len(payload)])
    return bytes([first | opcode]) + length + (bytes(4) if masked else b"") + payload


TEXT, CONTINUATION = 1, 0
BREAKS: dict[str, tuple[bytes, int]] = {
    "an opcode that nobody has defined": (frame(3), 1002),
    "a bit that is reserved": (frame(TEXT, b"{}", first=0xC0), 1002),
    "no mask": (frame(TEXT, b"{}", masked=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"{}"), 1002),
    "a fragment of a ping": (frame(9, first=0), 1002),
    "a text that is no UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "fragments without a byte": (frame(TEXT, first=0) + frame(CONTINUATION, first=0) * 200, 1009),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_the_protocol_is_closed_with_its_code(served: Gateway, name: str) -> None:
    data, code = BREAKS[name]
    with opened(served) as caller:
        caller.connection.socket.sendall(data)
        with pytest.raises(ConnectionClosed) as caught:
            caller.hear()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == code
        request_id = caller.connection.response.headers["x-request-id"]
    status, error = (413, "request_too_large") if code == 1009 else (400, "bad_request")
    line = served.log.wait(lambda line: line.get("request") == request_id and line.get("operation") == "socket")
    assert (line["outcome"], line["status"], line["error"]) == ("error", status, error)
    assert line["fault"] == "caller_request"


def test_messages_of_a_socket_that_is_closed_for_what_came_fail_with_it(harness: Harness) -> None:
    """The answer that was under way has not been given, and the caller has not left."""
    harness.respond_with((STREAM_HEAD, Chunk(BEGUN), Pause(NEVER)))
    with opened(harness.gateway) as caller:
        caller.say(input="Hi", store=False)
        caller.hear()
        caller.connection.socket.sendall(frame(3))
        request_id = caller.connection.response.headers["x-request-id"]
        line = harness.gateway.log.wait(lambda line: line.get("request") == f"{request_id}.1")
        assert (line["outcome"], line["status"], line["error"]) == ("error", 400, "bad_request")
        numbers = [f"{request_id}.1", request_id]
        rows = wait_for_rows(harness.gateway.database_url, lambda row: row["request_id"] in numbers, 2)
        assert [row["outcome"] for row in rows] == ["error", "error"]


def test_empty_fragments_within_reason_are_a_message(served: Gateway) -> None:
    body = json.dumps({"type": "response.create", "model": A, "input": "Hi", "store": False}).encode()
    assert len(body) < 126
    with opened(served) as caller:
        empty = frame(TEXT, first=0) + frame(CONTINUATION, first=0) * 90
        for _ in range(2):
            caller.connection.socket.sendall(empty + frame(CONTINUATION, body))
            while (result := caller.hear())["type"] != "response.completed":
                assert result["type"] != "error"


def test_no_compression_is_negotiated(served: Gateway) -> None:
    """What is decompressed has no bound in Hypercorn; `hypercorn_patches.py` sees to it that nothing is compressed."""
    with opened(served) as caller:
        assert "permessage-deflate" in caller.connection.request.headers["sec-websocket-extensions"]
        assert "sec-websocket-extensions" not in caller.connection.response.headers
        assert caller.response()["status"] == "completed"


def test_what_the_server_gathers_is_bounded() -> None:
    """A caller who ignores the close must not fill the memory; `hypercorn_patches.py` sees to it."""
    hypercorn_patches.install(Config())
    result = ws_stream.WebsocketBuffer(10)
    result.extend(TextMessage("x" * 6, message_finished=False))
    for data in ("y" * 5, "z"):
        with pytest.raises(ws_stream.FrameTooLargeError):
            result.extend(TextMessage(data, message_finished=False))
    assert result.to_message()["text"] == "x" * 6


# --- who may come in ----------------------------------------------------------------------------------------


def test_a_socket_is_at_one_path_only(served: Gateway) -> None:
    for path in ("/v1/chat/completions", "/v1/responses/resp_1", "/"):
        status, error = refused(served, path=path)
        assert (status, error["code"]) == (404, "unknown_url")
    for path in ("/v1/realtime", "/realtime?model=x", "/openai/realtime?deployment=x", "/v1/realtime/translations"):
        status, error = refused(served, path=path)
        assert (status, error["code"]) == (400, "unsupported_operation")
    assert served.ask("GET", PATH).status == 405, "without an upgrade it is no socket"


@pytest.mark.parametrize("path", ["/responses", "/v1/responses/", "/v1//responses", "/openai/v1/responses"])
def test_base_urls_are_spelt_as_for_http(served: Gateway, path: str) -> None:
    with opened(served, path=path) as caller:
        assert caller.response(store=False)["status"] == "completed"


@pytest.mark.parametrize("host", ["a\r\nhost: b", "two words", "a:99999"], ids=["two hosts", "no name", "no port"])
def test_an_upgrade_is_looked_at_as_every_request(served: Gateway, host: str) -> None:
    head = upgrade(served, {}, host)
    assert head.startswith(b"HTTP/1.1 400 "), head


KEYS: tuple[tuple[dict[str, str], int], ...] = (
    ({}, 401),
    ({"authorization": "Bearer"}, 401),
    ({"authorization": f"Bearer {CALLER_KEY}"}, 101),
    ({"x-api-key": CALLER_KEY}, 101),
    ({"api-key": CALLER_KEY}, 101),
    ({"authorization": f"Bearer {CALLER_KEY}", "api-key": "another"}, 400),
)


@pytest.mark.parametrize(("headers", "status"), KEYS)
def test_keys_are_those_of_http(harness: Harness, headers: dict[str, str], status: int) -> None:
    harness.respond_with(streamed())
    if status != 101:
        assert refused(harness.gateway, headers)[0] == status
        return
    with opened(harness.gateway, headers) as caller:
        assert caller.response()["status"] == "completed"
    assert harness.upstream.exchanges[-1].request.headers["authorization"] == [f"Bearer {CALLER_KEY}"]


def test_a_wrong_key_of_a_virtual_one() -> None:
    with run_harness(cohere_api_key=["server-key"], master_key=MASTER_KEY, key=MASTER_KEY) as harness:
        harness.respond_with(streamed())
        assert refused(harness.gateway, {"authorization": "Bearer wrong"})[1]["code"] == "invalid_api_key"
        with opened(harness.gateway) as caller:
            assert caller.response(store=False)["status"] == "completed"


def test_nobody_continues_what_is_somebody_elses(harness: Harness) -> None:
    harness.respond_with(streamed())
    with opened(harness.gateway) as caller:
        first = caller.response()["id"]
    with opened(harness.gateway, {"authorization": "Bearer somebody-else"}) as caller:
        error = caller.error(previous_response_id=first)
        assert error["error"]["code"] == "previous_response_not_found"


OWN_ADDRESS = "the gateway's own"
ORIGINS: tuple[tuple[str, str, bool, bool], ...] = (
    # origin, host: whether it is let in without a key, and with one
    ("http://evil.example", "", False, False),
    ("null", "", False, False),
    ("https://page.example", "", True, True),  # it is one of cors_origins
    ("https://page.example:444", "", False, False),
    (OWN_ADDRESS, "", True, True),
    # A page whose name was made to point here says the same of both.
    ("http://evil.example:8080", "evil.example:8080", False, True),
    ("http://localhost:8080", "localhost:8080", True, True),
    ("http://[::1]:8080", "[::1]:8080", True, True),
    ("http://localhost:8080", "127.0.0.1:8080", False, False),
)


@pytest.fixture(scope="module")
def open_mode_harness() -> Iterator[Harness]:
    with run_harness(cohere_api_key=["server-key"], cors_origins=["https://page.example"]) as harness:
        yield harness


@pytest.fixture(scope="module")
def keyed_harness() -> Iterator[Harness]:
    with run_harness(cors_origins=["https://page.example"]) as harness:
        yield harness


@pytest.mark.parametrize(("origin", "host", "without", "with_key"), ORIGINS)
def test_pages_of_other_origins_stay_out(
    open_mode_harness: Harness, keyed_harness: Harness, origin: str, host: str, without: bool, with_key: bool
) -> None:
    for harness, welcome in ((open_mode_harness, without), (keyed_harness, with_key)):
        gateway = harness.gateway
        head = upgrade(gateway, {"origin": gateway.url if origin == OWN_ADDRESS else origin}, host)
        assert head.startswith(b"HTTP/1.1 101 " if welcome else b"HTTP/1.1 403 "), head


def test_frames_before_the_handshake_leave_nothing_behind(open_mode_harness: Harness) -> None:
    """Who does not wait for the answer to the upgrade is refused, and has no WebSocket open for ever."""
    with gateway_over(open_mode_harness.upstream.url, cohere_api_key=["k"], max_websockets_per_caller=2) as gateway:
        for early in (b"\x81\x80\0\0\0\0", b"\x01\x80\0\0\0\0" * 500, b"noise" * 500):
            with sockets.create_connection(gateway.address, WAIT_SECONDS) as connection:
                connection.sendall(upgrade_request(gateway, {}) + early)
                received = b""
                while some := connection.recv(4096):
                    received += some
                assert received.startswith(b"HTTP/1.1 400 ") and b"connection: close" in received
        assert upgrade(gateway, {}).startswith(b"HTTP/1.1 101 ")


def upgrade_request(gateway: Gateway, headers: Mapping[str, str], host: str = "") -> bytes:
    lines = [f"GET {PATH} HTTP/1.1", f"host: {host or ':'.join(map(str, gateway.address))}"]
    lines += ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
    lines += ["sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", f"authorization: Bearer {gateway.key}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def upgrade(gateway: Gateway, headers: dict[str, str], host: str = "") -> bytes:
    """The head of the answer to a hand-made upgrade."""
    with sockets.create_connection(gateway.address, WAIT_SECONDS) as connection:
        connection.sendall(upgrade_request(gateway, headers, host))
        result = b""
        while b"\r\n\r\n" not in result:
            some = connection.recv(4096)
            assert some, result
            result += some
    return result


def test_other_settings_go_for_the_sockets_that_follow() -> None:
    old = Settings(cohere_api_key=["a"], log="off")
    _, control = controlled_app(old)
    headers = {b"origin": b"https://page.example", b"host": b"127.0.0.1:8080"}
    with pytest.raises(CallerError):
        control._websockets._web_pages.check_websocket(headers)
    assert control.reload(old, replace(old, cors_origins=["https://page.example"]))
    control._websockets._web_pages.check_websocket(headers)


def test_sockets_are_bounded(served: Gateway) -> None:
    with gateway_over(served.upstream, demo=True, max_websockets=1) as gateway:
        with opened(gateway) as caller:
            status, error = refused(gateway)
            assert (status, error["code"]) == (503, "websocket_connection_limit_reached")
            assert caller.response(store=False)["status"] == "completed"
        gateway.log.wait(lambda line: line.get("operation") == "socket" and line["status"] == 101)
        with opened(gateway) as caller:
            assert caller.response(store=False)["status"] == "completed"


def test_one_caller_cannot_open_all_sockets(harness: Harness) -> None:
    with gateway_over(harness.upstream.url, max_websockets=3, max_websockets_per_caller=2) as gateway:
        one, other = ({"authorization": f"Bearer {key}"} for key in ("one", "other"))
        with opened(gateway, one), opened(gateway, one):
            status, error = refused(gateway, one)
            assert (status, error["code"]) == (429, "websocket_connection_limit_reached")
            assert "You have too many" in error["message"]
            with opened(gateway, other):
                assert refused(gateway, other)[0] == 503
        gateway.log.wait(lambda line: line.get("operation") == "socket" and line["status"] == 101)
        until = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < until:
            try:
                with opened(gateway, one):
                    break
            except InvalidStatus:
                time.sleep(0.02)
        else:
            raise AssertionError("sockets that are closed count no more")


# --- leaving ------------------------------------------------------------------------------------------------

PHASES: tuple[tuple[str, Script], ...] = (
    ("before the head", (Pause(NEVER),)),
    ("before the first event", (STREAM_HEAD, Pause(NEVER))),
    ("after some text", (STREAM_HEAD, Chunk(BEGUN), Pause(NEVER))),
)


@pytest.mark.parametrize("politely", [True, False], ids=["closed", "torn"])
@pytest.mark.parametrize(("phase", "script"), PHASES, ids=[phase for phase, _ in PHASES])
def test_when_the_caller_leaves_the_upstream_is_closed(phase: str, script: Script, politely: bool) -> None:
    with waiting(script) as harness:
        with opened(harness.gateway, {"x-request-id": "leaver", "authorization": "Bearer k"}) as caller:
            caller.say(store=False)
            caller.say(store=False)
            harness.request_arrived.wait_in_thread()
            if phase == "after some text":
                while caller.hear()["type"] != "response.output_text.delta":
                    pass
            began = time.monotonic()
            if politely:
                caller.connection.close()
            else:
                caller.connection.socket.shutdown(sockets.SHUT_RDWR)
            harness.upstream.exchanges[0].closed.wait_in_thread()
            assert time.monotonic() - began < SOON
        line = harness.gateway.log.line_of("leaver.1")
        assert (line["status"], line["outcome"]) == (499, "client_closed")
        assert harness.gateway.log.line_of("leaver")["outcome"] == "ok"
        assert len(harness.upstream.exchanges) == 1, "what still waited was not begun"


def test_a_silent_socket_is_closed(served: Gateway) -> None:
    with (
        gateway_over(served.upstream, demo=True, timeouts=Timeouts(websocket_idle=2.0)) as gateway,
        opened(gateway) as caller,
    ):
        assert caller.response(store=False)["status"] == "completed"
        with pytest.raises(ConnectionClosedOK):
            caller.hear()


def test_a_socket_that_works_is_not_silent() -> None:
    script = (STREAM_HEAD, Chunk(BEGUN), Pause(go_on := Signal()), Chunk(transcript(*story()[3:])), End())
    with waiting(script, timeouts=Timeouts(websocket_idle=2.0)) as harness, opened(harness.gateway) as caller:
        caller.say(store=False)
        while caller.hear()["type"] != "response.output_text.delta":
            pass
        time.sleep(3.0)
        go_on.set()
        assert caller.answer()[-1]["type"] == "response.completed"


def gateway_of(server: Process) -> Gateway:
    return Gateway(server.url, "", None, "any")  # type: ignore[arg-type]


def test_sigterm_ends_an_idle_socket_at_once_and_lets_others_finish(tmp_path: Path) -> None:
    settings = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/a.sqlite3", "GATEWAY_TIMEOUTS_SHUTDOWN": "600"}
    with process_over(late_stream, **settings) as (server, _, go_on):
        with opened(gateway_of(server)) as idle, opened(gateway_of(server)) as busy:
            busy.say()
            while busy.hear()["type"] != "response.output_text.delta":
                pass
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as caught:
                idle.hear()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == websocket.SERVICE_RESTART
            assert busy.error()["error"]["code"] == "gateway_stopping", "nothing new is begun"
            go_on.set()
            assert busy.answer()[-1]["type"] == "response.completed"
            with pytest.raises(ConnectionClosed) as caught:
                busy.hear()
            assert caught.value.rcvd is not None and caught.value.rcvd.code == websocket.SERVICE_RESTART
        assert server.ends() == 0
        server.errors()


def test_a_socket_that_outlives_the_grace_is_an_error(tmp_path: Path) -> None:
    settings = {"GATEWAY_DATABASE_URL": f"sqlite:///{tmp_path}/a.sqlite3"}
    with process_over(late_stream, **settings) as (server, _, _), opened(gateway_of(server)) as busy:
        busy.say()
        while busy.hear()["type"] != "response.output_text.delta":
            pass
        server.signal(signal.SIGINT)  # half a second of grace
        last = busy.answer()[-1]
        assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
        with pytest.raises(ConnectionClosed) as caught:
            busy.hear()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == websocket.SERVICE_RESTART
        assert server.ends() == 0
        (line,) = [line for line in server.lines() if line["operation"] == "responses"]
        assert (line["outcome"], line["error"]) == ("error", "gateway_stopping")


# --- what is seen of it -------------------------------------------------------------------------------------


def test_each_request_has_a_line_and_the_socket_has_one(served: Gateway) -> None:
    before = served.metrics()
    with opened(served, {"x-request-id": "watched"}) as caller:
        caller.response(temperature=2)
        caller.error(model=...)
    socket = served.log.line_of("watched")
    assert (socket["operation"], socket["status"], socket["outcome"]) == ("socket", 101, "ok")
    first, second = served.log.line_of("watched.1"), served.log.line_of("watched.2")
    assert (first["operation"], first["status"], first["outcome"]) == ("responses", 200, "ok")
    assert first["door"] == second["door"] == "websocket"
    assert first["model"] == A and first["streamed"] and first["notes"] == 1
    assert first["prompt_tokens"] > 0 < first["completion_tokens"] and first["first_byte_ms"] > 0
    assert (second["status"], second["outcome"], second["error"]) == (400, "error", "missing_required_parameter")
    after = served.metrics()
    grown = {name for name, value in after.items() if value > before.get(name, 0)}
    assert f'gateway_requests_total{{model="{A}",operation="responses",outcome="ok",status="200"}}' in grown
    assert 'gateway_requests_total{model="",operation="socket",outcome="ok",status="101"}' in grown
    assert after["gateway_requests_in_flight"] == 1.0, "the scrape itself"


def test_no_word_and_no_key_is_logged(harness: Harness) -> None:
    harness.respond_with(streamed())
    with opened(harness.gateway, {"authorization": "Bearer a-secret-key"}) as caller:
        caller.response(input="a-secret-prompt")
        caller.error(input=[{"type": "a-secret-type"}])
        caller.connection.send("a-secret-message")
        caller.hear()
    harness.gateway.log.wait(lambda line: line.get("operation") == "socket")
    assert b"a-secret" not in harness.gateway.log.getvalue()


# --- the official SDK ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
def test_the_official_sdk(served: Gateway) -> None:
    with served.client() as client, client.responses.connect() as connection:
        previous: Any = openai.omit
        for word in ("cobalt", "amber"):
            connection.response.create(
                model=A, input=f"Say {word}", store=False, previous_response_id=previous, stream_id="lane"
            )
            results = []
            for event in connection:
                results.append(event)
                if event.type == "response.completed":
                    assert event.response.output_text == word
                    previous = event.response.id
                    break
            assert results[0].type == "response.created"
        connection.response.create(model=A, input="Hello", previous_response_id="resp_none")
        event = connection.recv()
        assert event.type == "error" and event.error.code == "previous_response_not_found"


async def _async_sdk(gateway: Gateway) -> str:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
        async with client.responses.connect() as connection:
            await connection.response.create(model=A, input="Say cobalt", store=False)
            async for event in connection:
                if event.type == "response.completed":
                    return event.response.output_text
    return ""


def test_the_official_sdk_without_blocking(served: Gateway) -> None:
    assert asyncio.run(_async_sdk(served)) == "cobalt"


# --- the socket's memory ------------------------------------------------------------------------------------


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory: Any = None
    result = connection_state.ConnectionState(memory)
    for number in range(connection_state.MAX_RESPONSES + 3):
        result.add(f"r{number}", (b"[]",))
    assert result.get("r2") is None and result.get("r3") == (b"[]",)
    result.add("large", (b"x" * (connection_state.MAX_BYTES - 10),))
    assert result.get("large") is not None and result.get(f"r{connection_state.MAX_RESPONSES + 2}") is not None
    assert result.get("r3") is None
    result.add("too large", (b"x" * (connection_state.MAX_BYTES + 1),))
    assert result.get("too large") is None and result.get("large") is None
    result.remove("never there")
