"""Nothing that a caller writes holds up the event loop: what others wait for is bounded, whatever it is.

Measured is the processor time of each step of the loop, which does not depend on what else the machine does.
"""

from __future__ import annotations

import asyncio.events
import gc
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gateway.server import worker
from support.app import CHAT, A, Gateway, answered, gateway_over
from support.scripted_upstream import ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS
from translators.core.json_size import MAX_ESCAPES

MOST_SECONDS = 0.05
"""Of one step, some three times what it takes. Without the bounds it is up to three seconds."""

TRIES = 3
"""The best counts: processor time grows too where caches are shared with busy neighbours."""

MOST_HOLD_SECONDS = 0.003
"""For which a thread keeps the interpreter to itself while others wait. CPython's own interval is 5 ms."""

RESPONSES = "/v1/responses"


def an_object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def user(number: int, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": f"m{number}", **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": A, "messages": [user(0)], **fields}


def strict(schema: Any) -> dict[str, Any]:
    wrapper = {"name": "answer", "schema": schema, "strict": True}
    return chat(response_format={"type": "json_schema", "json_schema": wrapper})


def functions(*schemas: Any, strict: bool = False) -> dict[str, Any]:
    return chat(
        tools=[
            {"type": "function", "function": {"name": f"t{index}", "parameters": schema, "strict": strict}}
            for index, schema in enumerate(schemas)
        ]
    )


def response(*items: Any, **fields: Any) -> dict[str, Any]:
    return {"model": A, "store": False, "input": [user(0), *items], **fields}


def doubling(levels: int, name: str = "n") -> dict[str, Any]:
    """A schema whose references are two to the power of `levels`."""
    definitions = {
        f"{name}{level}": an_object({key: {"$ref": f"#/$defs/{name}{level + 1}"} for key in "ab"}, "a", "b")
        for level in range(levels)
    }
    definitions[f"{name}{levels}"] = {"type": "string"}
    return {**an_object({"x": {"$ref": f"#/$defs/{name}0"}}, "x"), "$defs": definitions}


def odd(count: int, name: str = "p") -> dict[str, Any]:
    """A schema that is none, in many places."""
    return an_object({f"{name}{index}": {"type": "strin", "anyOf": [{"type": "x"}] * 3} for index in range(count)})


def call(call_id: str, number: int) -> dict[str, Any]:
    function = {"name": "f", "arguments": f'{{"n":{number % 2}}}'}
    return {"id": call_id, "type": "function", "function": function}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "x"}


def turns(same_id: bool, count: int = 600) -> list[dict[str, Any]]:
    """Calls and results by turns."""
    ids = ["c" if same_id else f"c{number}" for number in range(count)]
    return [
        message
        for number, call_id in enumerate(ids)
        for message in ({"role": "assistant", "tool_calls": [call(call_id, number)]}, result(call_id))
    ]


IDS = [f"c{number}" for number in range(900)]
ANSWERED = [{"role": "function", "name": f"f{899 - number}", "content": "1"} for number in range(900)]
LEGACY = [{"role": "assistant", "function_call": {"name": f"f{number}", "arguments": "{}"}} for number in range(900)]
REPEATED = [{"type": "string", "pattern": f"^((a{{1,90}}){{1,10}}{number}|[a-z]{{500}})+$"} for number in range(500)]


def list_of(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


MILLIONS: dict[str, tuple[str, bytes]] = {
    "objects": (CHAT, b'{"model":"m","messages":[{"role":"user","content":"m"}],"documents":%b}'),
    "texts": ("/v1/embeddings", b'{"model":"m","input":%b}'),
    "texts to rank": ("/v1/rerank", b'{"model":"m","query":"q","documents":%b}'),
    "items": (RESPONSES, b'{"model":"m","store":false,"input":%b}'),
    "a native request": ("/cohere/v2/chat", b'{"model":"m","messages":%b}'),
    "a native request by its other name": ("/litellm/cohere/v2/chat", b'{"model":"m","messages":%b}'),
}

ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "references that double": (CHAT, strict(doubling(12))),
    "references that double in many tools": (
        CHAT,
        functions(*(doubling(11, f"n{number}_") for number in range(60)), strict=True),
    ),
    "a schema that is none": (CHAT, strict(odd(60))),
    "a large schema that is none": (CHAT, strict(odd(1_200))),
    "many tools with schemas that are none": (CHAT, functions(*(odd(10, f"p{number}_") for number in range(100)))),
    "many patterns": (
        CHAT,
        strict(an_object({f"p{n}": {"type": "string", "pattern": f"^(a{n}|b)+$"} for n in range(2_000)})),
    ),
    "patterns that repeat": (CHAT, strict(an_object({f"p{n}": one for n, one in enumerate(REPEATED)}))),
    "a pattern that backtracks": (CHAT, strict(an_object({"a": {"type": "string", "pattern": "^(a+)+$"}}, "a"))),
    "a large schema that the first answer misses": (
        CHAT,
        strict(an_object({f"p{n}": {"type": "string"} for n in range(3_500)}, "p0")),
    ),
    "anchors": (CHAT, strict(an_object({f"p{n}": {"$anchor": f"q{n}", "type": "string"} for n in range(1_000)}))),
    "an answer that is checked item by item": (
        CHAT,
        strict(an_object({"a": {"items": {"anyOf": [{"type": "string"}, an_object({"b": {"type": "integer"}})]}}})),
    ),
    "many tools": (CHAT, functions(*(an_object({f"p{n}": {"type": "string"}}) for n in range(1_000)))),
    "many names to be replaced": (
        CHAT,
        chat(
            tools=[
                {"type": "function", "function": {"name": f"a.b/{n}", "parameters": an_object({})}} for n in range(900)
            ]
        ),
    ),
    "many messages": (CHAT, chat(messages=[user(n) for n in range(3_000)])),
    "turns of calls": (CHAT, chat(messages=[user(0), *turns(same_id=False)])),
    "turns of calls with one id": (CHAT, chat(messages=[user(0), *turns(same_id=True)])),
    "calls at once": (
        CHAT,
        chat(
            messages=[
                user(0),
                {"role": "assistant", "tool_calls": [call(one, 0) for one in IDS]},
                *(result(one) for one in IDS),
            ]
        ),
    ),
    "results of one call": (
        CHAT,
        chat(
            messages=[
                user(0),
                {"role": "assistant", "tool_calls": [call("c", 0)]},
                *({**result("c"), "content": str(n)} for n in range(1_500)),
            ]
        ),
    ),
    "functions of the old kind": (
        CHAT,
        chat(
            messages=[
                user(0),
                *LEGACY,
                *ANSWERED,
            ]
        ),
    ),
    "keys that nobody knows": (CHAT, chat(messages=[user(n, **{f"z{n}": 1}) for n in range(2_000)])),
    "items with keys that nobody knows": (RESPONSES, response(*(user(n, zzz=1) for n in range(2_000)))),
    "items that nobody knows": (RESPONSES, response(*({"type": f"x{n}", "a": 1} for n in range(2_500)))),
    "custom tools": (
        RESPONSES,
        response(tools=[{"type": "custom", "name": f"c{n}", "description": "d"} for n in range(1_000)]),
    ),
    "namespaces": (
        RESPONSES,
        response(
            tools=[
                {
                    "type": "namespace",
                    "name": f"n{n}",
                    "tools": [{"type": "function", "name": f"f{m}", "parameters": an_object({})} for m in range(10)],
                }
                for n in range(90)
            ]
        ),
    ),
    "items that are stored": (RESPONSES, response(*(user(n) for n in range(25_000)), store=True)),
    "arguments with many values": (
        CHAT,
        chat(
            messages=[
                user(0),
                {
                    "role": "assistant",
                    "tool_calls": [
                        {
                            "id": "c",
                            "type": "function",
                            "function": {"name": "f", "arguments": f"[{'0,' * 5_000_000}0]"},
                        }
                    ],
                },
                result("c"),
            ]
        ),
    ),
    "many vectors": ("/v1/embeddings", {"model": "embed-v4.0", "input": [f"t{n}" for n in range(1_000)]}),
}


@pytest.fixture(scope="module")
def on() -> Iterator[Gateway]:
    text = json.dumps({"a": [{"b": "x"} for _ in range(2_000)]})
    vector = [0.0123] * 1_536

    def script(request: Any) -> Any:
        if request.path != "/v2/embed":
            return answered(text)
        rows = [vector] * len(request.json()["texts"])
        return json_answer(200, {"id": "e", "embeddings": {"float": rows}, "meta": {}})

    with ScriptedUpstream(script).run_in_thread() as upstream, gateway_over(upstream.url) as gateway:
        yield gateway


@pytest.fixture
def longest(on: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """The seconds that the longest step of the gateway's loop took of its processor."""
    original, seconds = asyncio.events.Handle._run, {"step": 0.0}

    def measured(self: Any) -> None:
        began = time.thread_time()
        original(self)
        if self._loop is on.loops[0]:
            seconds["step"] = max(seconds["step"], time.thread_time() - began)

    # A collection of the whole heap, in which all tests' modules are, is nothing that the gateway does.
    gc.disable()
    monkeypatch.setattr(asyncio.events.Handle, "_run", measured)
    yield seconds
    gc.enable()


@pytest.mark.parametrize(("path", "body"), ATTACKS.values(), ids=ATTACKS)
def test_no_step_of_the_loop_takes_long(
    on: Gateway, longest: dict[str, float], path: str, body: dict[str, Any]
) -> None:
    for _ in range(TRIES):
        longest["step"] = 0.0
        http_response = on.ask("POST", path, body)
        assert http_response.status in (200, 400, 502), http_response
        if longest["step"] < MOST_SECONDS:
            break
    assert 0 < longest["step"] < MOST_SECONDS


@pytest.mark.parametrize(("path", "body"), MILLIONS.values(), ids=MILLIONS)
def test_millions_of_values_are_refused_before_anything_parses_them(
    on: Gateway, longest: dict[str, float], path: str, body: bytes
) -> None:
    """A parser would hold up the whole process until it has ended, in whatever thread."""
    for _ in range(TRIES):
        longest["step"] = 0.0
        http_response = on.ask("POST", path, body % list_of(b"{}", 4_000_000))
        assert http_response.status == 400
        assert b"max_json_values" in http_response.data
        if longest["step"] < MOST_SECONDS:
            break
    assert 0 < longest["step"] < MOST_SECONDS


def measured(longest: dict[str, float], act: Callable[[], None]) -> None:
    """Acts until no step of the loop takes long; AssertionError if one always does."""
    for _ in range(TRIES):
        longest["step"] = 0.0
        act()
        if longest["step"] < MOST_SECONDS:
            break
    assert 0 < longest["step"] < MOST_SECONDS


def test_what_a_small_request_continues_is_read_in_a_thread(on: Gateway, longest: dict[str, float]) -> None:
    items = [user(n) for n in range(20_000)]
    first = on.ask("POST", RESPONSES, {"model": A, "input": items}).body["id"]

    def act() -> None:
        assert on.ask("POST", RESPONSES, response(previous_response_id=first)).status == 200

    measured(longest, act)


def frame(opcode: int, payload: bytes = b"", first: int = 0x80) -> bytes:
    return bytes([first | opcode, 0x80 | len(payload)]) + bytes(4) + payload


UPGRADE = (
    f"GET {RESPONSES} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer x\r\nupgrade: websocket\r\n"
    "connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    ("frames", "code"),
    [(frame(9) * 30_000, 1008), (frame(1, first=0) + frame(0, first=0) * 60_000, 1009)],
    ids=["pings", "empty fragments"],
)
def test_a_flood_of_frames(on: Gateway, longest: dict[str, float], frames: bytes, code: int) -> None:
    """Each takes a moment, and one read brings thousands; those that come after the end are not worth reading."""

    def act() -> None:
        with socket.create_connection(on.address, WAIT_SECONDS) as connection:
            connection.sendall(UPGRADE)
            received = connection.recv(4_096)
            assert received.startswith(b"HTTP/1.1 101")
            sender = threading.Thread(target=connection.sendall, args=(frames,))
            sender.start()
            while some := connection.recv(65_536):
                received += some
            sender.join()
            assert b"\x88" in received and code.to_bytes(2) in received

    measured(longest, act)


def test_nothing_of_a_request_is_left_to_the_collection_of_garbage(on: Gateway) -> None:
    """It would be there for minutes, and counted nowhere: the collector looks at old objects seldom."""
    text = "x" * 500_000
    keyed = [{"role": "user", "content": [{"type": "input_text", "text": text}], "bad": {}}]
    bodies: list[tuple[str, dict[str, Any], int]] = [
        (RESPONSES, response(user(1, content=text), store=True), 200),
        (CHAT, chat(messages=[user(0, content=text)], temperature="hot"), 400),
        (RESPONSES, {"model": A, "store": False, "input": keyed}, 200),
        (CHAT, {**strict(an_object({"q": {"type": "string"}}, "q")), "messages": [user(0, content=text)]}, 502),
    ]

    def ask() -> None:
        for path, body, status in bodies:
            assert on.ask("POST", path, body).status == status, path

    ask()
    gc.collect()
    gc.disable()
    try:
        ask()
        on.settle()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        large = [
            f"{type(holder).__qualname__} holds {len(one)} bytes"
            for holder in gc.garbage
            for one in gc.get_referents(holder)
            if isinstance(one, bytes | str | bytearray) and len(one) >= len(text)
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not large


def test_escaped_characters_are_bounded(on: Gateway) -> None:
    message = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'
    http_response = on.ask("POST", CHAT, message % (b"\\n" * (MAX_ESCAPES + 1)))
    assert http_response.status == 400
    assert b"escaped" in http_response.data


def test_escaped_characters_of_what_a_request_continues_are_bounded(on: Gateway) -> None:
    """One call for all of them would hold up the process, however small the request is."""
    text = "\n" * (MAX_ESCAPES // 2)
    first = on.ask("POST", RESPONSES, response(store=True, input=text)).body["id"]
    seen = on.ask("POST", RESPONSES, response(store=True, input=text, previous_response_id=first))
    assert seen.status == 200
    second = seen.body["id"]
    seen = on.ask("POST", RESPONSES, response(input="Hi", previous_response_id=second))
    assert seen.status == 400 and b"escaped" in seen.data


def test_values_inside_of_texts_are_not_counted(on: Gateway) -> None:
    text = '[{"a": "\\\\", "b": [1,2,3]}, "x\\"]' * 60_000  # more than a million commas
    assert on.ask("POST", CHAT, chat(messages=[user(0, content=text)])).status == 200


def test_a_thread_gives_the_interpreter_back_at_once(
    on: Gateway, longest: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured is the processor time of the thread between two moments in which another one could run.

    On a busy machine the other one may be late for its own reasons: so the best of some tries counts.
    """
    assert worker.SWITCH_SECONDS < MOST_HOLD_SECONDS
    monkeypatch.setattr(gc, "freeze", lambda: None)  # the tests' own objects may go again
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    worker.configure_interpreter()
    path, body = ATTACKS["a large schema that the first answer misses"]
    holds = [MOST_HOLD_SECONDS]
    try:
        while min(holds) >= MOST_HOLD_SECONDS and len(holds) < 9:
            with interpreter_holds() as hold:
                assert on.ask("POST", path, body).status == 502
            holds.append(hold[0])
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert min(holds) < MOST_HOLD_SECONDS


@contextmanager
def interpreter_holds() -> Iterator[list[float]]:
    """Measures the longest time, in seconds of the processor, that a thread for large requests lets nobody else run."""
    hold, over = [0.0], threading.Event()

    def watch() -> None:
        clocks: dict[int, tuple[int, float]] = {}
        while not over.wait(0.0002):
            for thread in threading.enumerate():
                if thread.name.startswith("offload") and thread.ident is not None:
                    clock, before = clocks.get(thread.ident) or (time.pthread_getcpuclockid(thread.ident), None)
                    now = time.clock_gettime(clock)
                    hold[0] = max(hold[0], now - (now if before is None else before))
                    clocks[thread.ident] = clock, now

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield hold
    finally:
        over.set()
        watcher.join()
