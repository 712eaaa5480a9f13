"""Bodies and answers fill the memory of a worker to its bound: who sends too much is refused, and others are served."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from gateway.auth.principal import NOBODY, Principal
from gateway.errors import GatewayError
from gateway.memory_budget import REQUEST_PART, UNCOUNTED_BYTES, UNLIMITED, Gathering, MemoryBudget
from gateway.settings.schema import MemorySettings
from support.app import CHAT, A, answered, streamed
from support.asgi_server import raw_request
from support.process import Process, awaited, process
from support.scripted_upstream import Request, Script, ScriptedUpstream, json_answer
from support.waiting import WAIT_SECONDS

MB = 1024 * 1024
TOTAL = 8 * MB
SHARE = int(TOTAL * 0.5 * REQUEST_PART)
LARGE = "an answer of many bytes"

# --- the account --------------------------------------------------------------------------------------------


def principal(owner: str) -> Principal:
    return replace(NOBODY, owner=owner)


def test_what_is_reserved_is_given_back() -> None:
    changes: list[int] = []
    budget = MemoryBudget(MemorySettings(max_bytes=TOTAL), observe=changes.append)
    request = budget.request()
    request.principal = principal("a")
    assert request.reserve(UNCOUNTED_BYTES) == 0, "a small body is free"
    assert request.reserve(MB) == MB
    gathering = Gathering(request)
    for _ in range(100):
        gathering.add(10_000)
    assert MB + 1_000_000 - UNCOUNTED_BYTES <= budget.held <= MB + 1_000_000
    gathering.discard()
    assert budget.held == MB
    request.close()
    assert budget.held == sum(changes) == 0
    assert request.reserve(MB) == 0 == budget.held, "what comes late counts no more"
    request.release(MB)
    assert budget.held == 0


def test_small_pieces_of_one_body_are_a_large_body() -> None:
    budget = MemoryBudget(MemorySettings(max_bytes=TOTAL))
    gathering = Gathering(budget.request())
    for _ in range(1000):
        gathering.add(1000)
    assert budget.held > 900_000
    assert UNLIMITED.reserve(TOTAL) == 0, "what nobody pays for is not counted"


@pytest.mark.parametrize(
    ("others", "own", "size", "answer", "status"),
    [
        ({}, 0, SHARE + 1, False, 413),
        ({}, 0, SHARE, False, 0),
        ({"a": MB}, 0, SHARE, False, 429),
        ({"b": SHARE, "c": SHARE}, 0, MB, False, 503),
        ({"b": SHARE, "c": SHARE}, 0, MB, True, 0),
        ({}, 2 * MB, 2 * MB, True, 0),
        ({}, 2 * MB, 3 * MB, True, 502),
        ({"a": 2 * MB}, 0, 3 * MB, True, 429),
    ],
)
def test_who_gets_how_much(others: dict[str, int], own: int, size: int, answer: bool, status: int) -> None:
    budget = MemoryBudget(MemorySettings(max_bytes=TOTAL))
    for owner, held in others.items():
        another = budget.request()
        another.principal = principal(owner)
        another.reserve(held)
    request = budget.request()
    request.principal = principal("a")
    request.reserve(own)
    before = budget.held
    if not status:
        request.reserve(size, answer)
        assert budget.held == before + size
        return
    with pytest.raises(GatewayError) as caught:
        request.reserve(size, answer)
    assert caught.value.failure.status == status
    assert "memory." in caught.value.failure.message
    assert caught.value.retry_after == ("1" if status in (429, 503) else None)
    assert budget.held == before


# --- the real server ----------------------------------------------------------------------------------------


def script(request: Request) -> Script:
    if LARGE.encode() in request.body:
        return json_answer(200, {"id": "1", "message": {"content": [{"type": "text", "text": "x" * 5 * MB}]}})
    return streamed() if b'"stream":true' in request.body else answered()


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    """In bring-your-own-key mode, where each key is a caller once it has been proven."""
    with (
        ScriptedUpstream(script).run_in_thread() as upstream,
        process(COHERE_BASE_URL=upstream.url, GATEWAY_MEMORY_MAX_BYTES=str(TOTAL)) as server,
    ):
        for key in "abc":
            assert b" 200 " in chat(server, key)
        yield server


def head(key: str, length: int) -> bytes:
    return (
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def chat(server: Process, key: str, text: str = "Hi") -> bytes:
    body = json.dumps({"model": A, "messages": [{"role": "user", "content": text}]}).encode()
    return raw_request(
        "127.0.0.1",
        server.port,
        head(key, len(body)).replace(b"host", b"connection: close\r\nhost", 1) + body,
        timeout=WAIT_SECONDS,
    )


def held(server: Process) -> int:
    match = re.search(rb"^gateway_held_bytes (\S+)", server.get("/metrics"), re.MULTILINE)
    assert match is not None
    return int(float(match[1]))


@contextlib.contextmanager
def unfinished(server: Process, *keys: str) -> Iterator[None]:
    """Bodies that have come but for their last megabyte, and what they hold is counted."""
    before = held(server)
    with contextlib.ExitStack() as stack:
        for key in keys:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS))
            connection.sendall(head(key, 2 * MB + MB) + b" " * 2 * MB)
        awaited(lambda: held(server) >= before + len(keys) * 2 * MB - UNCOUNTED_BYTES * len(keys))
        yield
    awaited(lambda: held(server) == before)


def test_one_caller_cannot_fill_it(server: Process) -> None:
    with unfinished(server, "a"):
        refused = chat(server, "a", "x" * 2 * MB)
        assert b" 429 " in refused and b'"too_many_bytes"' in refused and b"retry-after: 1" in refused
        assert b" 200 " in chat(server, "a"), "small requests are served all the same"
        assert b" 200 " in chat(server, "b", "x" * 2 * MB)
    assert b" 200 " in chat(server, "a", "x" * 2 * MB)


def test_all_callers_together_cannot_either(server: Process) -> None:
    with unfinished(server, "a", "b"):
        refused = chat(server, "c", "x" * 2_300_000)
        assert b" 503 " in refused and b'"too_many_bytes"' in refused
        assert b" 200 " in chat(server, "c", "x" * MB)


def test_made_up_keys_have_one_share_together(server: Process) -> None:
    with unfinished(server, "made up 1"):
        assert b" 429 " in chat(server, "made-up-2", "x" * 2 * MB)
        assert b" 200 " in chat(server, "c", "x" * 2 * MB)


def test_what_no_caller_may_send_is_413(server: Process) -> None:
    refused = chat(server, "a", "x" * 4 * MB)
    assert b" 413 " in refused and b"memory.caller_share" in refused
    assert held(server) == 0


def test_an_answer_that_no_caller_may_have_is_502(server: Process) -> None:
    refused = chat(server, "a", LARGE)
    assert b" 502 " in refused and b"memory.caller_share" in refused
    awaited(lambda: held(server) == 0)


@contextlib.contextmanager
def websocket(server: Process, key: str) -> Iterator[Connection]:
    url = f"ws://127.0.0.1:{server.port}/v1/responses"
    with connect(url, additional_headers={"authorization": f"Bearer {key}"}, open_timeout=WAIT_SECONDS) as connection:
        yield connection


def test_messages_on_websockets_are_counted_while_they_come(server: Process) -> None:
    def fragments(count: int) -> Iterator[str]:
        for number in range(count):
            if number == 32:  # two megabytes have been sent
                awaited(lambda: held(server) >= 2 * MB - 2 * UNCOUNTED_BYTES)
            yield " " * UNCOUNTED_BYTES

    with websocket(server, "a") as first, websocket(server, "a") as second:
        request = {"type": "response.create", "model": A, "input": "x" * MB, "store": False}
        first.send(json.dumps(request))
        events: list[str] = []
        while "response.completed" not in events:
            events.append(json.loads(first.recv(WAIT_SECONDS))["type"])
        with pytest.raises(ConnectionClosedError) as caught:
            second.send(fragments(64))
            second.recv(WAIT_SECONDS)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1013
        assert "memory" in caught.value.rcvd.reason
        request_id = second.response.headers["x-request-id"].encode()  # type: ignore[union-attr]
    awaited(lambda: held(server) == 0)
    awaited(lambda: any(request_id in line for line in server.written))
    line = next(json.loads(line) for line in server.written if request_id in line)
    assert (line["status"], line["outcome"], line["error"]) == (429, "error", "too_many_bytes"), "no success"


def test_messages_that_wait_are_counted(server: Process) -> None:
    """A caller sends requests faster than they are answered."""
    request = {"type": "response.create", "model": A, "input": "x" * MB, "store": False}
    with websocket(server, "b") as connection:
        with pytest.raises(ConnectionClosedError) as caught:
            for _ in range(8):
                connection.send(json.dumps(request))
            while True:
                connection.recv(WAIT_SECONDS)
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1013
    awaited(lambda: held(server) == 0)
