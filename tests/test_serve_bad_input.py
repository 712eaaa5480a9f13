"""Requests that nobody should send: a clear 4xx in OpenAI's shape, nothing sent to Cohere, nothing leaked.

REFUSED are JSON bodies, UNREADABLE are bytes that are no such body, BOMBS are nested too deeply; then what is
wrong with content types, methods, paths and sizes. What is wrong with bytes on the wire is in test_http.py. Every
request carries canaries in its prompt, its key and its query: none may turn up in the log.
"""

from __future__ import annotations

import gzip
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.http import drain
from gateway.settings.schema import Timeouts
from support.app import CHAT, A, Gateway, Harness, Response, answered, run_harness, streamed
from support.asgi_server import raw_request
from support.waiting import WAIT_SECONDS

CANARY = "canary-of-the-prompt-91c4"
KEY_CANARY = "canary-of-the-key-5e07"
QUERY_CANARY = "canary-of-the-query-d2f8"
TARGET = f"{CHAT}?token={QUERY_CANARY}"
LIMIT = 200_000
USER: dict[str, Any] = {"role": "user", "content": CANARY}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather", "parameters": PARAMETERS}}


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    """A gateway with a small body limit, over an upstream that answers everything."""
    with run_harness(key=KEY_CANARY, body_limit=LIMIT, timeouts=Timeouts(request_body=2.0)) as harness:
        harness.respond_with(answered())
        yield harness
        # The end of the module: whatever was sent, nothing of it was written down.
        harness.respond_with(answered())
        harness.gateway.log.line_of(harness.gateway.chat(CANARY).headers["x-request-id"])
        written = harness.gateway.log.getvalue().decode()
        for canary in (CANARY, KEY_CANARY, QUERY_CANARY, "Traceback"):
            assert canary not in written


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many callers here never end the body that they announced: none of them is waited for long."""
    monkeypatch.setattr(drain, "LINGER_SECONDS", 0.4)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nor does the server itself complain."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not caplog.records


def refused(
    harness: Harness, response: Response, status: int, code: str | None = None, type: str = "invalid_request_error"
) -> Any:
    """The error, after checking that it is one of ours and that Cohere was not asked."""
    assert response.status == status, response
    error = response.error
    assert error["message"] and isinstance(error["message"], str)
    assert "Traceback" not in response.data.decode() and "msgspec" not in response.data.decode()
    assert error["type"] == type
    assert error["code"] == code or code is None and error["code"]
    assert KEY_CANARY not in str(error) and QUERY_CANARY not in str(error)
    assert not harness.upstream.exchanges, "Cohere was asked"
    assert response.headers["x-request-id"].startswith("req_")
    assert int(response.headers["content-length"]) == len(response.data)
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["error"]) == (status, "error", error["code"])
    return error


def still_serves(harness: Harness) -> None:
    harness.respond_with(answered())
    assert harness.gateway.chat(CANARY).text == "Hi there."


def send(harness: Harness, body: Any, **headers: str) -> Response:
    harness.respond_with(answered())
    usual = {"authorization": f"Bearer {KEY_CANARY}", "content-type": "application/json"}
    return harness.gateway.ask(
        "POST", TARGET, body, usual | {name.replace("_", "-"): value for name, value in headers.items()}
    )


# --- bodies that are JSON objects ---------------------------------------------------------------------------


def fields(**provided: Any) -> dict[str, Any]:
    """A good request with these fields; `...` takes one away."""
    body = {"model": A, "messages": [USER], **provided}
    return {name: value for name, value in body.items() if value is not ...}


def saying(*messages: Any) -> dict[str, Any]:
    return fields(messages=list(messages))


def called(arguments: Any) -> dict[str, Any]:
    """A conversation in which a tool was called with these arguments."""
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return fields(
        tools=[TOOL],
        messages=[
            USER,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "x"},
        ],
    )


def formatted(**wished: Any) -> dict[str, Any]:
    return fields(response_format=wished)


MISSING = "missing_required_parameter"
# name, body, param, code ("" means any)
REFUSED: tuple[tuple[str, dict[str, Any], str | None, str], ...] = (
    # nothing to go by
    ("no model", fields(model=...), "model", MISSING),
    ("model null", fields(model=None), "model", ""),
    ("model empty", fields(model=""), "model", ""),
    ("model a prefix only", fields(model="cohere/"), "model", ""),
    ("no messages", fields(messages=...), "messages", MISSING),
    ("messages null", fields(messages=None), "messages", ""),
    ("messages empty", fields(messages=[]), "messages", ""),
    ("empty object", {}, "model", MISSING),
    # wrong types
    *(
        (f"{name} {json.dumps(value)[:40]}", fields(**{name: value}), name, "")
        for name, values in {
            "model": (5, ["a"], {"id": "a"}, True),
            "messages": ("Hi", {}, 5, {"role": "user"}),
            "stream": ("yes", 1, []),
            "temperature": ("hot", [], True),
            "top_p": ("most", {}),
            "max_tokens": ("5", 1.5, 0, -1, [1]),
            "max_completion_tokens": ("5", 0, -1),
            "n": ("2", 0, -1, 1.5),
            "stop": (5, [5], {}, [None], [["a"]]),
            "seed": ("x", 1.5, []),
            "logprobs": ("yes", 5),
            "top_logprobs": ("x", 21, -1),
            "frequency_penalty": ("x", {}),
            "presence_penalty": ("x", []),
            "tools": ("x", {}, [5], ["get_weather"]),
            "tool_choice": (5, [], {}),
            "parallel_tool_calls": ("no", 0),
            "response_format": ("json", 5, []),
            "stream_options": ("x", [], 5),
            "reasoning_effort": (5, []),
            "reasoning": ("high", 5),
            "k": ("x", []),
            "p": ("x",),
            "priority": ("x",),
            "safety_mode": ("NONE", 5),
            "thinking": ("yes", 5),
            "documents": ("x", [5]),
            "citation_options": ("x", 5),
            "strict_tools": ("x",),
            "functions": ("x", [5]),
            "function_call": (5, []),
            "extra_params": (5, "x", []),
        }.items()
        for value in values
    ),
    (
        "stream_options without a stream",
        fields(stream_options={"include_usage": True}, stream=False),
        "stream_options",
        "",
    ),
    # messages
    ("unknown role", saying({"role": "robot", "content": CANARY}), "messages[0]", ""),
    ("no role", saying({"content": CANARY}), "messages[0]", ""),
    ("role a number", saying({"role": 5, "content": CANARY}), "messages[0]", ""),
    ("a message is text", saying(CANARY), "messages[0]", ""),
    ("a message is null", saying(USER, None), "messages[1]", ""),
    ("no content", saying({"role": "user"}), "messages[0].content", ""),
    ("content null", saying({"role": "user", "content": None}), "messages[0].content", ""),
    ("content a number", saying(USER, {"role": "user", "content": 5}), "messages[1].content", ""),
    ("content an object", saying({"role": "user", "content": {"smell": CANARY}}), "messages[0].content", ""),
    ("no parts", saying({"role": "user", "content": []}), "messages", ""),
    ("unknown part", saying({"role": "user", "content": [{"type": "smell"}]}), "messages[0].content[0]", ""),
    ("a part without a type", saying({"role": "user", "content": [{"smell": CANARY}]}), "messages[0].content[0]", ""),
    ("a part without text", saying({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]", ""),
    (
        "audio",
        saying(
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}
        ),
        "messages[0].content[0]",
        "",
    ),
    (
        "a file",
        saying(
            {"role": "user", "content": [{"type": "text", "text": CANARY}, {"type": "file", "file": {"file_id": "f"}}]}
        ),
        "messages[0].content[1]",
        "",
    ),
    (
        "an image without url",
        saying({"role": "user", "content": [{"type": "image_url"}]}),
        "messages[0].content[0]",
        "",
    ),
    ("a result without id", saying(USER, {"role": "tool", "content": "x"}), "messages[1].tool_call_id", ""),
    # tools
    ("a tool without function", fields(tools=[{"type": "function"}]), "tools[0]", ""),
    ("a tool without name", fields(tools=[{"type": "function", "function": {}}]), "tools[0].function", ""),
    (
        "parameters a list",
        fields(tools=[{"type": "function", "function": {"name": "x", "parameters": []}}]),
        "tools[0].function.parameters",
        "",
    ),
    (
        "parameters no schema",
        fields(tools=[{"type": "function", "function": {"name": "x", "parameters": {"type": "nonsense"}}}]),
        "tools[0].function.parameters",
        "",
    ),
    ("a choice nobody knows", fields(tools=[TOOL], tool_choice="sometimes"), "tool_choice", ""),
    (
        "a chosen tool that is not there",
        fields(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "other"}}),
        "tool_choice",
        "",
    ),
    ("required without tools", fields(tool_choice="required"), "tool_choice", ""),
    # the answer's form
    ("an unknown format", formatted(type="xml"), "response_format.type", ""),
    ("a format without type", formatted(json_schema={}), "response_format.type", ""),
    ("json_schema without one", formatted(type="json_schema"), "response_format.json_schema", ""),
    (
        "json_schema without schema",
        formatted(type="json_schema", json_schema={"name": "x"}),
        "response_format.json_schema.schema",
        "",
    ),
    (
        "a schema that is none",
        formatted(type="json_schema", json_schema={"name": "x", "schema": {"type": 5}}),
        "response_format.json_schema.schema",
        "",
    ),
    ("audio output", fields(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}), None, ""),
    ("another modality", fields(modalities=["text", "smell"]), "modalities", ""),
)


@pytest.mark.parametrize(("name", "body", "param", "code"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(harness: Harness, name: str, body: dict[str, Any], param: str | None, code: str) -> None:
    error = refused(harness, send(harness, body), 400, code or None)
    if param is not None:
        assert str(error["param"]).startswith(param)
    # Streams are refused alike: an ordinary error, not an event.
    if "stream" not in body:
        assert refused(harness, send(harness, body | {"stream": True}), 400) == error


NOTED_NOT_REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("nulls", fields(temperature=None, stop=None, tools=None, response_format=None, stream_options=None)),
    ("an unknown field", fields(unheard_of={"a": [1]})),
    ("a hot temperature", fields(temperature=99)),
    ("a cold temperature", fields(temperature=-3)),
    ("a seed of 64 bits and one", fields(seed=1 << 64)),
    ("a negative seed", fields(seed=-5)),
    ("a seed of 400 digits", fields(seed=10**400)),
    ("many tokens", fields(max_tokens=10**9)),
    ("many stops", fields(stop=["a", "b", "c", "d", "e", "f", "g"])),
    ("an unknown key in a message", saying({"role": "user", "content": CANARY, "mood": "fine"})),
)


@pytest.mark.parametrize(("name", "body"), NOTED_NOT_REFUSED, ids=[row[0] for row in NOTED_NOT_REFUSED])
def test_odd_but_answered(harness: Harness, name: str, body: dict[str, Any]) -> None:
    response = send(harness, body)
    # A number that no 64 bits can hold may be refused as well; it may not be a 5xx.
    assert response.status == 200 or (name.endswith("400 digits") and refused(harness, response, 400))


# --- bodies that are not --------------------------------------------------------------------------------------

GOOD = json.dumps(fields()).encode()
UNREADABLE: tuple[tuple[str, bytes], ...] = (
    ("nothing", b""),
    ("blank", b" \n "),
    ("text", CANARY.encode()),
    ("cut off", GOOD[:-5]),
    ("two of them", GOOD + GOOD),
    ("a trailing comma", GOOD[:-1] + b",}"),
    ("single quotes", GOOD.replace(b'"', b"'")),
    ("a comment", b"/* x */" + GOOD),
    ("an unknown escape", b'{"model": "\\q"}'),
    ("a raw newline in a string", b'{"model": "a\nb", "messages": []}'),
    ("NaN", GOOD[:-1] + b', "temperature": NaN}'),
    ("Infinity", GOOD[:-1] + b', "temperature": Infinity}'),
    ("a number without end", GOOD[:-1] + b', "temperature": 1e}'),
    ("a number out of range", GOOD[:-1] + b', "temperature": 1e999}'),
    ("a list", b"[" + GOOD + b"]"),
    ("an empty list", b"[]"),
    ("a string", b'"' + CANARY.encode() + b'"'),
    ("a number", b"5"),
    ("null", b"null"),
    ("true", b"true"),
    ("UTF-16", GOOD.decode().encode("utf-16")),
    ("not UTF-8 in a value", GOOD.replace(CANARY.encode(), b"\xff\xfe")),
    ("not UTF-8 in a key", GOOD.replace(b'"role"', b'"\xff"')),
    ("a surrogate in UTF-8", GOOD.replace(CANARY.encode(), b"\xed\xa0\x80")),
    ("an overlong slash", GOOD.replace(CANARY.encode(), b"\xc0\xaf")),
    ("a NUL", b"\x00"),
    ("gzip that does not say so", gzip.compress(GOOD)),
)


# msgspec says "not UTF-8" with a UnicodeDecodeError, which is none of its own DecodeErrors.


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in UNREADABLE])
def test_unreadable(harness: Harness, body: bytes) -> None:
    refused(harness, send(harness, body), 400)
    still_serves(harness)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "the model",
            b'{"model": "other", "model": "%s", "messages": [{"role": "user", "content": "Hi"}]}' % A.encode(),
        ),
        (
            "the messages",
            b'{"messages": 5, "model": "%s", "messages": [{"role": "user", "content": "Hi"}]}' % A.encode(),
        ),
        (
            "the content",
            b'{"model": "%s", "messages": [{"role": "user", "content": "no", "content": "Hi"}]}' % A.encode(),
        ),
    ],
)
def test_a_key_that_comes_twice(harness: Harness, name: str, body: bytes) -> None:
    """Refused, or the last one counts: here and, because it comes once only, at Cohere."""
    response = send(harness, body)
    if response.status != 200:
        refused(harness, response, 400)
    else:
        (request,) = harness.upstream.requests
        assert request.json()["model"] == A
        assert json.dumps(request.json()).count("Hi") == 1
        assert request.body.count(b'"model"') == request.body.count(b'"messages"') == 1


# --- bombs ----------------------------------------------------------------------------------------------------

# The limit of Python, of msgspec's recursion, of jsonschema's: each has its own depth.
DEPTHS = (50, 150, 400, 900, 990, 1_100, 3_000, 20_000)


def nested(depth: int, kind: str) -> bytes:
    opening, closing = {"list": (b"[", b"]"), "object": (b'{"a":', b"}"), "schema": (b'{"properties":{"a":', b"}}")}[
        kind
    ]
    return opening * depth + (b"{}" if kind == "schema" else b"1") + closing * depth


SCHEMA_TOP = b'{"type":"object","properties":{"a":%s}}'
HI = b'"messages": [{"role": "user", "content": "Hi"}]'
BOMBS: dict[str, tuple[bytes, str]] = {
    "the body": (b"%s", "list"),
    "messages": (b'{"model": "m", "messages": %s}', "list"),
    "a message": (b'{"model": "m", "messages": [%s]}', "object"),
    "a content": (b'{"model": "m", "messages": [{"role": "user", "content": %s}]}', "list"),
    "an unknown key of a message": (
        b'{"model": "m", "messages": [{"role": "user", "content": "Hi", "x": %s}]}',
        "object",
    ),
    "an unknown field": (b'{"model": "m", %s, "x": %%s}' % HI, "object"),
    "metadata": (b'{"model": "m", %s, "metadata": %%s}' % HI, "object"),
    "extra_params": (b'{"model": "m", %s, "extra_params": %%s}' % HI, "object"),
    "a scalar": (b'{"model": "m", %s, "temperature": %%s}' % HI, "list"),
    "a document": (b'{"model": "m", %s, "documents": [{"data": %%s}]}' % HI, "object"),
    "tools": (b'{"model": "m", %s, "tools": [%%s]}' % HI, "object"),
    "tool parameters": (
        b'{"model": "m", %s, "tools": [{"type": "function", "function": {"name": "x", "parameters": %%s}}]}' % HI,
        "schema",
    ),
    "tool parameters, a default": (
        b'{"model": "m", %s, "tools": [{"type": "function", "function": {"name": "x", "parameters":'
        b' {"type": "object", "properties": {"a": {"type": "string", "default": %%s}}}}}]}' % HI,
        "list",
    ),
    "response_format": (
        b'{"model": "m", %s, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": %%s}}}'
        % HI,
        "schema",
    ),
    "response_format, a default": (
        b'{"model": "m", %s, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":'
        b' {"type": "object", "properties": {"a": {"type": "string", "default": %%s}}}}}}' % HI,
        "object",
    ),
    "Cohere's own schema": (
        b'{"model": "m", %s, "response_format": {"type": "json_object", "schema": %%s}}' % HI,
        "schema",
    ),
}


@pytest.mark.parametrize("position", BOMBS)
def test_bombs(harness: Harness, position: str) -> None:
    """Answered or refused, but never a failure of ours, and never slow."""
    frame, kind = BOMBS[position]
    for depth in DEPTHS:
        body = frame % nested(depth, kind)
        if len(body) > LIMIT:
            body = frame % nested(LIMIT // (12 if kind == "object" else 40), kind)
        began = time.process_time()
        response = send(harness, body.replace(b'"m"', b'"%s"' % A.encode(), 1))
        assert time.process_time() - began < 10  # a fraction of a second where nothing else runs
        if response.status != 200:
            refused(harness, response, 400)
    still_serves(harness)


def test_a_bomb_in_a_string(harness: Harness) -> None:
    """Arguments in history are JSON inside of JSON."""
    for depth in DEPTHS:
        response = send(harness, called('{"a":' + "[" * depth + "]" * depth + "}"))
        if response.status != 200:
            refused(harness, response, 400)


RECURSIVE = {
    "itself": {"$ref": "#"},
    "a circle": {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/A"}},
        "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}},
    },
    "far away": {"$ref": "http://127.0.0.1:1/schema.json"},
    "nowhere": {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}},
    "an evil pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a+)+$"}}},
    "a broken pattern": {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}},
}


@pytest.mark.parametrize("name", RECURSIVE)
def test_odd_schemas(harness: Harness, name: str) -> None:
    schema = RECURSIVE[name]
    function = {"name": "x", "description": "x", "parameters": schema}
    for body in (
        formatted(type="json_schema", json_schema={"name": "x", "schema": schema, "strict": True}),
        fields(tools=[{"type": "function", "function": function}]),
    ):
        response = send(harness, body)
        if (
            response.status != 200 and response.status != 502
        ):  # 502: the scripted answer is not what the schema asks for
            refused(harness, response, 400)


# --- sizes ----------------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large(harness: Harness) -> None:
    refused(
        harness,
        send(harness, fields(messages=[{"role": "user", "content": CANARY * 10_000}])),
        413,
        "request_too_large",
    )
    still_serves(harness)


def test_the_largest_body(harness: Harness) -> None:
    body = GOOD + b" " * (LIMIT - len(GOOD))
    assert send(harness, body).status == 200
    refused(harness, send(harness, body + b" "), 413, "request_too_large")


def raw(harness: Harness, *lines: str, body: bytes = b"", timeout: float = WAIT_SECONDS) -> Response:
    """Bytes as written; the connection is closed after the answer."""
    harness.respond_with(answered())
    head = "\r\n".join([*lines, "host: localhost", "connection: close", "", ""])
    return parsed(raw_request(*harness.gateway.address, head.encode("latin-1") + body, timeout=timeout))


def parsed(answer: bytes) -> Response:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rows = head.decode("latin-1").split("\r\n")
    pairs = (row.partition(": ") for row in rows)
    return Response(int(first.split(" ")[1]), {name.lower(): value for name, _, value in pairs}, body)


POST = f"POST {TARGET} HTTP/1.1"
AUTHORIZATION = f"authorization: Bearer {KEY_CANARY}"


def test_a_body_in_chunks(harness: Harness) -> None:
    pieces = [GOOD[at : at + 10] for at in range(0, len(GOOD), 10)]
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    response = raw(harness, POST, AUTHORIZATION, "transfer-encoding: chunked", body=chunked)
    assert response.status == 200


def test_a_body_in_chunks_that_is_too_large(harness: Harness) -> None:
    chunk = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    response = raw(harness, POST, AUTHORIZATION, "transfer-encoding: chunked", body=chunk * 5 + b"0\r\n\r\n")
    refused(harness, response, 413, "request_too_large")


def test_a_body_in_chunks_without_end(harness: Harness) -> None:
    """Refused at the limit, not at the end, which never comes."""
    chunk = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
    response = raw(harness, POST, AUTHORIZATION, "transfer-encoding: chunked", body=chunk * 5)
    refused(harness, response, 413, "request_too_large")


def test_a_body_is_refused_by_its_announced_length(harness: Harness) -> None:
    response = raw(harness, POST, AUTHORIZATION, "content-length: 99999999999")
    refused(harness, response, 413, "request_too_large")


def test_a_body_that_does_not_come(harness: Harness) -> None:
    began = time.monotonic()
    response = raw(harness, POST, AUTHORIZATION, f"content-length: {len(GOOD)}", body=GOOD[:20])
    refused(harness, response, 408, "request_timeout")
    assert 0.3 < time.monotonic() - began < Timeouts().request_body


def test_a_caller_who_leaves_while_sending(harness: Harness) -> None:
    harness.respond_with(answered())
    with socket.create_connection(harness.gateway.address) as connection:
        head = f"{POST}\r\nhost: x\r\n{AUTHORIZATION}\r\nx-request-id: gone-early\r\ncontent-length: 500\r\n\r\n"
        connection.sendall(head.encode() + GOOD[:50])
    line = harness.gateway.log.line_of("gone-early")
    assert line["outcome"] == "client_closed"
    assert not harness.upstream.exchanges


# --- headers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonp",
        "application/octet-stream",
        "nonsense",
    ],
)
def test_another_content_type(harness: Harness, kind: str) -> None:
    refused(harness, send(harness, GOOD, content_type=kind), 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"]
)
def test_a_content_type_of_json(harness: Harness, kind: str) -> None:
    assert send(harness, GOOD, content_type=kind).status == 200


def test_no_content_type(harness: Harness) -> None:
    harness.respond_with(answered())
    assert harness.gateway.ask("POST", CHAT, GOOD, {"authorization": f"Bearer {KEY_CANARY}"}).status == 200


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity"])
def test_a_compressed_body(harness: Harness, coding: str) -> None:
    refused(harness, send(harness, gzip.compress(GOOD), content_encoding=coding), 415, "unsupported_media_type")


def test_a_compressed_body_that_is_not(harness: Harness) -> None:
    assert send(harness, GOOD, content_encoding="identity").status == 200


# --- methods and paths ----------------------------------------------------------------------------------------

METHODS = (
    *((method, CHAT, "POST") for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")),
    *((method, "/v1/models", "GET") for method in ("POST", "PUT", "DELETE")),
    ("POST", "/v1/models/cohere/command-a-03-2025", "GET"),
    ("POST", "/health/live", "GET"),
    ("POST", "/metrics", "GET"),
)


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_a_wrong_method(harness: Harness, method: str, path: str, allowed: str) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask(method, f"{path}?key={QUERY_CANARY}", GOOD if method != "GET" else None)
    refused(harness, response, 405, "method_not_allowed")


@pytest.mark.parametrize(("method", "path", "allowed"), METHODS)
def test_a_wrong_method_is_an_error_that_names_the_right_one(
    harness: Harness, method: str, path: str, allowed: str
) -> None:
    """RFC 9110, 15.5.6: a 405 has an Allow header."""
    response = harness.gateway.ask(method, path, GOOD if method != "GET" else None)
    assert allowed in [one.strip() for one in response.headers["allow"].split(",")]


def test_head(harness: Harness) -> None:
    """A HEAD is answered without a body, on what can be got and on what cannot."""
    assert harness.gateway.ask("HEAD", "/health/live").data == b""
    response = harness.gateway.ask("HEAD", CHAT)
    assert (response.status, response.data) == (405, b"")


NOWHERE = (
    "/v1",
    "/v1/",
    "/v2/chat",
    "/v1/chat",
    "/V1/chat/completions",
    "/v1/chat/completions;x=1",
    "/v1/x/../chat/completions",
    "/v1/%2e%2e/v1/chat/completions",
    "/v1/%ff%fe",
    "/admin",
    "/.env",
    "/health",
    "/health/",
    "/health/dead",
    "/metrics/",
    "/metricsx",
    "/v1/" + "x" * 4_000,
)


@pytest.mark.parametrize("path", NOWHERE, ids=lambda path: path[:30])
def test_nowhere(harness: Harness, path: str) -> None:
    harness.respond_with(answered())
    response = harness.gateway.ask("POST", f"{path}?key={QUERY_CANARY}", GOOD)
    refused(harness, response, 404, "unknown_url")


# --- bytes on the wire ----------------------------------------------------------------------------------------


def test_expect_100(harness: Harness) -> None:
    harness.respond_with(answered())
    with socket.create_connection(harness.gateway.address, WAIT_SECONDS) as connection:
        head = f"{POST}\r\nhost: localhost\r\n{AUTHORIZATION}\r\nexpect: 100-continue\r\nconnection: close\r\n"
        connection.sendall(f"{head}content-length: {len(GOOD)}\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 100")
        connection.sendall(GOOD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_websocket_where_there_is_none(harness: Harness) -> None:
    harness.respond_with(answered())
    lines = (
        f"GET {CHAT} HTTP/1.1",
        "host: localhost",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version: 13",
    )
    answer = raw_request(*harness.gateway.address, ("\r\n".join(lines) + "\r\n\r\n").encode(), until=b"\r\n\r\n")
    assert 400 <= int(answer.split(b" ")[1]) < 500
    still_serves(harness)


# --- what is let through carries no canary either --------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_good_request_leaves_no_canary(harness: Harness, stream: bool) -> None:
    harness.respond_with(streamed(CANARY) if stream else answered(CANARY))
    gateway: Gateway = harness.gateway
    usual = {"authorization": f"Bearer {KEY_CANARY}", "content-type": "application/json", "cookie": CANARY}
    response = gateway.ask("POST", TARGET, fields(stream=stream, user=CANARY, metadata={"a": CANARY}), usual)
    assert (response.status, response.text) == (200, CANARY)
    written = json.dumps(gateway.log.line_of(response.headers["x-request-id"]))
    assert "canary" not in written
    assert "canary" not in str(response.headers)
