"""Requests of a few bytes that would take for ever, and what everybody else sees meanwhile."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from support.app import CALLER_KEY, CHAT, A, answered
from support.process import Process, process
from support.scripted_upstream import ScriptedUpstream

MAX_DELAY = 1.0
"""Seconds that a bystander may wait on a busy machine. Without the bounds it is a minute, or for ever."""

NESTED = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/a0"}},
    "required": ["a"],
    "$defs": {
        **{f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(30)},
        "a30": {"type": "string"},
    },
}
PATTERN = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}, "required": ["a"]}
WIDE = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(5_000)}}


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": A, "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


def strict(schema: Any, **fields: Any) -> bytes:
    wrapper = {"name": "answer", "schema": schema, "strict": True}
    return chat(response_format={"type": "json_schema", "json_schema": wrapper}, **fields)


def keys(count: int) -> bytes:
    return b'{"model":"m","messages":[],' + b",".join(b'"%x":1' % n for n in range(count)) + b"}"


def huge_number() -> bytes:
    schema = b'{"type":"object","properties":{"a":{"multipleOf":' + b"9" * 400 + b"}}}"
    return strict({}).replace(b'"schema": {}', b'"schema": ' + schema)


ATTACKS: dict[str, tuple[Callable[[], bytes], int]] = {
    "a pattern that backtracks": (lambda: strict(PATTERN), 502),
    "nested references": (lambda: strict(NESTED), 502),
    "a wide schema": (lambda: strict(WIDE), 200),
    "millions of keys": (lambda: keys(2_000_000), 400),
    "many keys": (lambda: keys(90_000), 400),
    "deep nesting": (lambda: b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "tools of 6 MB": (
        lambda: chat(tools=[{"type": "function", "function": {"name": "t", "x": [0] * 2_000_000}}]),
        400,
    ),
    "thirty thousand messages": (lambda: chat(messages=[{"role": "user", "content": "Hi"}] * 30_000), 200),
    "a number of 400 digits": (huge_number, 400),
}
"""What makes the body, which is large, and the status of its answer."""


@contextmanager
def bystander(server: Process) -> Iterator[list[float]]:
    """Asks for the health of the server again and again; gives the seconds that each answer took."""
    delays: list[float] = [0.0]
    stopping = threading.Event()
    host = server.url.removeprefix("http://")

    def ask() -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        while not stopping.wait(0.005):
            began = time.monotonic()
            connection.request("GET", "/health/live")
            connection.getresponse().read()
            delays.append(time.monotonic() - began)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield delays
    finally:
        stopping.set()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Process]:
    text = json.dumps({"a": "a" * 40 + "!", "p1": ""})
    with (
        ScriptedUpstream(lambda request: answered(text)).run_in_thread() as upstream,
        process(COHERE_API_KEY="k", COHERE_BASE_URL=upstream.url) as server,
    ):
        yield server


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_else_waits(server: Process, name: str) -> None:
    make_body, status = ATTACKS[name]
    body = make_body()
    with bystander(server) as delays:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
        headers = {"content-type": "application/json", "authorization": f"Bearer {CALLER_KEY}"}
        connection.request("POST", CHAT, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
    assert response.status == status, answer[:300]
    assert max(delays) < MAX_DELAY
