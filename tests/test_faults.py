"""THE FAULT MATRIX: whatever goes wrong on Cohere's side, times everything that a caller can ask.

FAULTS is what Cohere does, each with what the caller must then see of a whole answer and of a stream; ADDRESSES are
faults of reaching it at all; STATUSES times SHAPES are its refusals in every dress. SURFACES is what callers ask: a new
operation is one row, and meets every fault. After each cell the gateway must serve as before, and nothing may be left
over: no connection on either side, no task, no open file. No cell may hang, and none may look like a success.

What a refusal's sentence becomes, and which param it names, is in test_serve_errors.py.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import socket
import stat
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.settings.schema import Timeouts
from support import transcripts
from support.app import (
    CALLER_KEY,
    CHAT,
    CLOSED,
    ONCE,
    SERVER,
    SERVERS,
    USAGE,
    A,
    Harness,
    Response,
    end,
    gateway_over,
    opened,
    piece,
    start,
    story,
    whole,
)
from support.ports import free_port
from support.row_law import Calls, harness_with_ledger
from support.scripted_upstream import (
    Chunk,
    Cut,
    End,
    Head,
    Pause,
    RequestRecord,
    Reset,
    Script,
    Signal,
    Step,
    Write,
    event_stream,
    json_answer,
    transcript,
)
from support.waiting import WAIT_SECONDS

NEVER = Signal()
LONG = Timeouts(connect=WAIT_SECONDS, first_event=WAIT_SECONDS, between_events=WAIT_SECONDS)
SHORT = Timeouts(connect=WAIT_SECONDS, first_event=1.0, between_events=0.25)
"""For the faults that are silence: these time-outs are waited for, the long ones are not. A first event has more time:
a busy machine may need some of it for an event that comes.
"""

# --- what a caller sees -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Error:
    """An HTTP error."""

    status: int
    code: str


@dataclass(frozen=True)
class Broken:
    """Some of an answer, and then, in the surface's own way, that it failed."""

    code: str
    text: str = "Hi th"


@dataclass(frozen=True)
class Fine:
    """A whole and proper answer."""

    text: str = "Hi there."


Usage = Error | Broken | Fine

# --- what a caller asks -------------------------------------------------------------------------------------


def chat_whole(response: Response) -> Usage:
    return Fine(response.body["choices"][0]["message"]["content"])


def chat_stream(response: Response) -> Usage:
    """No [DONE] after an error: a program that waits for it must not take what came for an answer."""
    *_, last = response.frames
    if last == "[DONE]":
        assert [choice["finish_reason"] for chunk in response.chunks for choice in chunk["choices"]][-1] == "stop"
        return Fine(response.text)
    broken = json.loads(last)
    assert set(broken["error"]) == {"message", "type", "param", "code"}
    assert broken["error"]["type"] == "server_error" and broken["error"]["message"]
    assert not [choice for chunk in response.chunks[:-1] for choice in chunk["choices"] if choice["finish_reason"]]
    return Broken(broken["error"]["code"], response.text)


def responses_whole(response: Response) -> Usage:
    assert response.body["status"] == "completed"
    return Fine("".join(part["text"] for item in response.body["output"] for part in item.get("content", ())))


def responses_stream(response: Response) -> Usage:
    """OpenAI's list of codes here is closed, so the log's code is the one that tells."""
    events = [
        dict(line.split(": ", 1) for line in frame.split("\n")) for frame in response.data.decode().split("\n\n")[:-1]
    ]
    *named, done = events
    assert done == {"data": "[DONE]"}
    results = [json.loads(event["data"]) for event in named]
    assert [event["type"] for event in results] == [event["event"] for event in named]
    assert [event["sequence_number"] for event in results] == list(range(len(results)))
    text = "".join(event["delta"] for event in results if event["type"] == "response.output_text.delta")
    last = results[-1]
    if last["type"] == "response.completed":
        assert last["response"]["status"] == "completed"
        return Fine(text)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["message"]
    return Broken("", text)


@dataclass(frozen=True)
class Surface:
    """A request, and how its answer of status 200 is read.

    good: Cohere's whole answer to it. lacks: faults that mean nothing here.
    """

    name: str
    path: str
    body: dict[str, Any]
    streamed: bool
    read: Callable[[Response], Usage]
    good: bytes = json.dumps(whole()).encode()
    lacks: frozenset[str] = frozenset()


def embeddings(response: Response) -> Usage:
    """Vectors are compared bit by bit; the text is the others' word for "as it should be"."""
    assert [item["embedding"] for item in response.body["data"]] == [[0.5, -0.25]]
    return Fine()


EMBEDDED: dict[str, Any] = {
    "id": "5c11",
    "texts": ["Hi there."],
    "embeddings": {"float": [[0.5, -0.25]]},
    "meta": {"billed_units": {"input_tokens": 3}},
    "response_type": "embeddings_by_type",
}

MESSAGES = [{"role": "user", "content": "Hi"}]
SURFACES = (
    Surface("chat", CHAT, {"model": A, "messages": MESSAGES}, False, chat_whole),
    Surface("chat stream", CHAT, {"model": A, "messages": MESSAGES, "stream": True}, True, chat_stream),
    Surface("responses", "/v1/responses", {"model": A, "input": "Hi", "store": False}, False, responses_whole),
    Surface(
        "responses stream",
        "/v1/responses",
        {"model": A, "input": "Hi", "store": False, "stream": True},
        True,
        responses_stream,
    ),
    Surface(
        "embeddings",
        "/v1/embeddings",
        {"model": "embed-v4.0", "input": "Hi there."},
        False,
        embeddings,
        json.dumps(EMBEDDED).encode(),
        frozenset({"10 MB at once", "ERROR for a reason", "TIMEOUT for a reason", "ended inside a character"}),
    ),
)
SETTINGS = ONCE
"""What makes a fault be seen and not mended: nothing is tried twice."""

# --- what Cohere does ---------------------------------------------------------------------------------------

BODY = SURFACES[0].good
BEGUN = transcript(start(), opened(), piece("Hi"), piece(" th"), done=False)
REST = transcript(piece("ere."), CLOSED, end())
WHOLE = BEGUN + REST
SNOWMAN = '{"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"☃"}}}}'.encode()
CALL_PIECE = {
    "type": "tool-call-delta",
    "index": 0,
    "delta": {"message": {"tool_calls": {"function": {"arguments": "{"}}}},
}
SSE = (("content-type", "text/event-stream"),)
JSON = (("content-type", "application/json"),)
HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
MIB = 1024 * 1024

ANOTHER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

CUT, SILENT, PROTOCOL = "upstream_cut", "upstream_timeout", "upstream_protocol_error"


@dataclass(frozen=True)
class Fault:
    """What Cohere does and what the caller sees: where a whole answer was asked for, and where a stream was.

    What is done to a good answer is a function of it: each surface has its own.
    """

    name: str
    whole: tuple[Script | Callable[[bytes], Script], Usage] | None
    stream: tuple[Script, Usage] | None


_END, _CUT = End(), Cut()


def both(name: str, script: Script, outcome: Usage) -> Fault:
    return Fault(name, (script, outcome), (script, outcome))


def streams(name: str, script: Script, outcome: Usage) -> Fault:
    """What can only go wrong in a stream."""
    return Fault(name, None, (script, outcome))


def lines(*rows: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join([*rows, b"", b""]) + body


def raw(*rows: bytes, body: bytes = b"", ending: Step = _CUT) -> Script:
    return Write(lines(*rows, body=body)), ending


def sse(*pieces: bytes, ending: Step | None = _END, **more: Any) -> Script:
    return event_stream(list(pieces), ending=ending, between=Pause(0.01), **more)


def document(body: bytes, **headers: str) -> Script:
    return json_answer(200, body, {name.replace("_", "-"): value for name, value in headers.items()})


def gzip_bomb(mebibytes: int, beginning: bytes = b"") -> bytes:
    """Compress so many blanks: one mebibyte's worth of compressed bytes again and again. The checksum is wrong."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    first = compressor.compress(beginning) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(b" " * MIB) + compressor.flush(zlib.Z_FULL_FLUSH)
    return first + block * mebibytes + b"\x03\0" + bytes(8)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


FAULTS: tuple[Fault, ...] = (
    # --- before the answer's head is complete ---
    both("closed before the head", (Cut(),), Error(502, CUT)),
    both("reset before the head", (Reset(),), Error(502, CUT)),
    both("closed inside the head", (Write(b"HTTP/1.1 200 OK\r\ncontent-ty"), Cut()), Error(502, CUT)),
    both("reset inside the head", (Write(b"HTTP/1.1 200 OK\r\nconte"), Pause(0.05), Reset()), Error(502, CUT)),
    both("no head", (Pause(NEVER),), Error(504, SILENT)),
    both("half a head, then nothing", (Write(b"HTTP/1.1 200 OK\r\ncontent-ty"), Pause(NEVER)), Error(504, SILENT)),
    both(
        "a head that drips",
        tuple(step for byte in b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40 for step in (Write(bytes([byte])), Pause(0.02))),
        Error(504, SILENT),
    ),
    both("not HTTP", (Write(b"SSH-2.0-OpenSSH_9.9\r\n"), Cut()), Error(502, CUT)),
    both("a status that is none", raw(b"HTTP/1.1 abc OK", body=BODY), Error(502, CUT)),
    both("a head without end", raw(b"HTTP/1.1 200 OK", b"x: " + b"y" * 200_000), Error(502, CUT)),
    both("headers without end", raw(b"HTTP/1.1 200 OK", *[b"x: y"] * 40_000), Error(502, CUT)),
    both("a header with NUL", raw(b"HTTP/1.1 200 OK", b"x: a\x00b", b"content-length: 0"), Error(502, CUT)),
    both("two lengths", raw(b"HTTP/1.1 200 OK", b"content-length: 5", b"content-length: 6"), Error(502, CUT)),
    both(
        "a length and chunks",
        raw(b"HTTP/1.1 200 OK", b"content-length: 5", b"transfer-encoding: chunked", body=b"0\r\n\r\n"),
        Error(502, CUT),
    ),
    both("an informational answer only", raw(b"HTTP/1.1 103 Early Hints", b"link: x"), Error(502, CUT)),
    # --- 200, and then no answer ---
    Fault(
        "nothing after the head",
        ((Head(200, JSON), Pause(NEVER)), Error(504, SILENT)),
        ((Head(200, SSE), Pause(NEVER)), Error(504, SILENT)),
    ),
    Fault(
        "closed after the head",
        ((Head(200, JSON), Pause(0.02), Cut()), Error(502, CUT)),
        ((Head(200, SSE), Pause(0.02), Cut()), Error(502, CUT)),
    ),
    Fault(
        "reset after the head",
        ((Head(200, JSON), Pause(0.05), Reset()), Error(502, CUT)),
        ((Head(200, SSE), Pause(0.05), Reset()), Error(502, CUT)),
    ),
    Fault("an empty body", (document(b""), Error(502, PROTOCOL)), (sse(b""), Error(502, CUT))),
    both("no content", raw(b"HTTP/1.1 204 No Content"), Error(502, "")),
    both("HTML", json_answer(200, HTML, {"content-type": "text/html"}), Error(502, "")),
    both("an image", json_answer(200, b"\x89PNG\r\n\x1a\n\x00\x00", {"content-type": "image/png"}), Error(502, "")),
    both("an error for an answer", document(b'{"message":"something is wrong"}'), Error(502, "")),
    both("JSON that is no object", document(b"[]"), Error(502, "")),
    both("JSON of the wrong types", document(b'{"id":1,"finish_reason":2,"message":"hello"}'), Error(502, "")),
    both("JSON nested too deeply", document(b'{"message":' + b"[" * 100_000), Error(502, "")),
    Fault(
        "half a document",
        (lambda good: document(half(good)), Error(502, PROTOCOL)),
        (sse(b"data: " + half(SNOWMAN)), Error(502, "")),
    ),
    Fault("the other framing", (sse(WHOLE), Error(502, PROTOCOL)), (document(BODY), Error(502, PROTOCOL))),
    streams("only comments", sse(b": hello\n\n", b": again\n\n"), Error(502, CUT)),
    streams("only [DONE]", sse(b"data: [DONE]\n\n"), Error(502, CUT)),
    # --- the body breaks ---
    Fault(
        "closed inside the body",
        (lambda good: (Head(200, JSON, "length"), Write(half(good)), Cut()), Error(502, CUT)),
        (sse(BEGUN, ending=Cut()), Broken(CUT)),
    ),
    Fault(
        "reset inside the body",
        (lambda good: (Head(200, JSON, "length"), Write(half(good)), Pause(0.05), Reset()), Error(502, CUT)),
        # A reset may overtake what was sent before it.
        ((*sse(BEGUN, ending=Pause(0.5)), Reset()), Broken(CUT)),
    ),
    Fault(
        "a stall inside the body",
        (lambda good: (Head(200, JSON, "length", len(good)), Write(half(good)), Pause(NEVER)), Error(504, SILENT)),
        (sse(BEGUN, ending=Pause(NEVER)), Broken(SILENT)),
    ),
    Fault(
        "closed inside a chunk",
        (lambda good: (Head(200, JSON), Write(b"%x\r\n%s" % (len(good), half(good))), Cut()), Error(502, CUT)),
        ((Head(200, SSE), Chunk(BEGUN), Pause(0.01), Write(b"40\r\ndata: "), Cut()), Broken(CUT)),
    ),
    Fault(
        "a stall inside a chunk",
        (
            lambda good: (Head(200, JSON), Write(b"%x\r\n%s" % (len(good), half(good))), Pause(NEVER)),
            Error(504, SILENT),
        ),
        ((Head(200, SSE), Chunk(BEGUN), Pause(0.01), Write(b"40\r\ndata: "), Pause(NEVER)), Broken(SILENT)),
    ),
    # aiohttp closes the connection and tells nobody who reads: `gateway/upstream/connector.py` does.
    Fault(
        "a chunk of no size",
        ((Head(200, JSON), Pause(0.05), Write(b"zz\r\n"), Pause(NEVER)), Error(502, CUT)),
        ((Head(200, SSE), Chunk(BEGUN), Pause(0.1), Write(b"zz\r\n"), Pause(NEVER)), Broken(CUT)),
    ),
    Fault(
        "a length that is too long",
        (lambda good: (Head(200, JSON, "length", len(good) + 9), Write(good), Cut()), Error(502, CUT)),
        ((Head(200, SSE, "length", len(BEGUN) + 9), Write(BEGUN), Cut()), Broken(CUT)),
    ),
    Fault(
        "a length that is too short",
        (lambda good: (Head(200, JSON, "length", len(good) - 9), Write(good), Cut()), Error(502, "")),
        # Apart, because of what comes in one read nobody can tell which of the two is noticed first.
        (
            (Head(200, SSE, "length", len(BEGUN)), Write(BEGUN), Pause(0.3), Write(WHOLE[len(BEGUN) :]), Cut()),
            Broken(CUT),
        ),
    ),
    Fault(
        "a second answer behind the first",
        (lambda good: (Head(200, JSON, "length", len(good)), Write(good), Pause(0.05), Write(ANOTHER)), Fine()),
        ((*sse(WHOLE), Pause(0.05), Write(ANOTHER)), Fine()),
    ),
    streams(
        "cut inside an event", sse(BEGUN, b"event: content-delta\ndata: " + half(SNOWMAN), ending=Cut()), Broken(CUT)
    ),
    streams("ended inside an event", sse(BEGUN, b"event: content-delta\ndata: " + half(SNOWMAN)), Broken("")),
    Fault(
        "cut inside a character",
        (
            lambda good: (Head(200, JSON, "length"), Write(good.split(b"Hi")[0] + "☃".encode()[:2]), Cut()),
            Error(502, CUT),
        ),
        (sse(BEGUN, b"data: " + SNOWMAN.split("☃".encode())[0] + "☃".encode()[:2], ending=Cut()), Broken(CUT)),
    ),
    Fault(
        "ended inside a character",
        (lambda good: document(good.replace(b"there", "☃".encode()[:2])), Error(502, PROTOCOL)),
        (sse(BEGUN, b"data: " + SNOWMAN.replace("☃".encode(), "☃".encode()[:2]) + b"\n\n"), Broken(PROTOCOL)),
    ),
    Fault(
        "gzip cut short",
        (lambda good: document(gzip.compress(good)[:-12], content_encoding="gzip"), Error(502, "")),
        (sse(gzip.compress(WHOLE)[:-40], headers={"content-encoding": "gzip"}), Broken("", "Hi there.")),
    ),
    Fault(
        "gzip with wrong bytes",
        (lambda good: document(gzip.compress(good)[:-12] + b"x" * 12, content_encoding="gzip"), Error(502, "")),
        (sse(b"\x1f\x8b\x08" + b"\xff" * 90, headers={"content-encoding": "gzip"}), Error(502, CUT)),
    ),
    Fault(
        "gzip that is none",
        (lambda good: document(good, content_encoding="gzip"), Error(502, CUT)),
        (sse(WHOLE, headers={"content-encoding": "gzip"}), Error(502, CUT)),
    ),
    Fault(
        "a coding that nobody asked for",
        (lambda good: document(good, content_encoding="compress"), Fine()),
        (sse(gzip.compress(WHOLE), headers={"content-encoding": "gzip"}), Fine()),
    ),
    # --- too much ---
    Fault(
        "a gzip bomb",
        (document(gzip_bomb(200), content_encoding="gzip"), Error(502, "")),
        (sse(gzip_bomb(100, b"data: "), headers={"content-encoding": "gzip"}), Error(502, CUT)),
    ),
    Fault(
        "10 MB at once",
        (document(json.dumps(whole("x" * 10 * MIB)).encode()), Fine("x" * 10 * MIB)),
        (sse(transcript(*story("x" * 10 * MIB))), Fine("x" * 10 * MIB)),
    ),
    Fault(
        "an answer without end",
        ((Head(200, JSON), *[Chunk(b'{"id":' + b" " * MIB)] * 200, Cut()), Error(502, CUT)),
        (sse(BEGUN, b'data: {"type":"', *[b"x" * MIB] * 40), Broken(CUT)),
    ),
    # --- events that break their word ---
    streams("JSON that is none", sse(BEGUN, b'data: {"type":"content-delta","delta":{"mess\n\n'), Broken(PROTOCOL)),
    streams("an event of another type", sse(BEGUN, b'data: {"type":"content-delta","delta":5}\n\n'), Broken(PROTOCOL)),
    streams("an unknown event", sse(BEGUN, b'data: {"type":"telemetry","detail":{}}\n\n', REST), Fine()),
    streams("an event without a type", sse(BEGUN, b'data: {"delta":{}}\n\n', REST), Broken(PROTOCOL)),
    streams("no start", sse(transcript(opened(), piece("Hi"), CLOSED, end())), Error(502, PROTOCOL)),
    streams("a second start", sse(BEGUN, transcript(start())), Broken(PROTOCOL)),
    streams("no end of a text, which is lenient", sse(BEGUN, transcript(piece("ere."), end())), Fine()),
    streams("no start of a text, which is lenient", sse(transcript(start(), piece("Hi"), end())), Fine("Hi")),
    streams("a call's piece without a call", sse(BEGUN, transcript(CALL_PIECE, end())), Broken(PROTOCOL)),
    streams("an end before the start", sse(transcript(CLOSED, start(), end())), Error(502, PROTOCOL)),
    streams("the start in the middle", sse(BEGUN, transcript(CLOSED, start(), end())), Broken(PROTOCOL)),
    streams("no message-end", sse(BEGUN, transcript(CLOSED, done=False)), Broken(CUT)),
    streams("[DONE] without message-end", sse(BEGUN, b"data: [DONE]\n\n"), Broken(CUT)),
    streams("more after message-end", sse(WHOLE, BEGUN), Fine()),
    streams("two message-ends", sse(BEGUN, transcript(piece("ere."), CLOSED, end(), end())), Fine()),
    Fault(
        "ERROR for a reason",
        (document(json.dumps(whole("Hi th", finish="ERROR")).encode()), Error(502, "upstream_error")),
        (sse(BEGUN, transcript(end("ERROR", {}))), Broken("upstream_error")),
    ),
    Fault(
        "TIMEOUT for a reason",
        (document(json.dumps(whole("Hi th", finish="TIMEOUT")).encode()), Error(504, SILENT)),
        (sse(BEGUN, transcript(end("TIMEOUT", {}))), Broken(SILENT)),
    ),
    streams("ERROR at once", sse(transcript(end("ERROR", {}, error="no"))), Error(502, "")),
)


@pytest.fixture(scope="module")
def harnesses() -> Iterator[dict[tuple[str, bool], Harness]]:
    """A harness for each server, and one with short time-outs."""
    with contextlib.ExitStack() as stack:
        yield {
            (server, hasty): stack.enter_context(
                harness_with_ledger(CALLS, good_answer, timeouts=SHORT if hasty else LONG, server=server, **SETTINGS)
            )
            for server in SERVERS
            for hasty in (False, True)
        }


@pytest.fixture(scope="module")
def harness(harnesses: dict[tuple[str, bool], Harness]) -> Harness:
    return harnesses[SERVER, False]


BILLED: dict[str, Any] = {"v2.chat": USAGE["billed_units"], "v2.embed": EMBEDDED["meta"]["billed_units"]}
"""Each answer is billed once, however it comes."""


def billed(row: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """What a row may say that Cohere billed. An answer that failed may have no count, or that of another method."""
    return [BILLED[row["method"]]] if row["outcome"] == "ok" else [{}, *BILLED.values()]


CALLS = Calls(billed)


def good_answer(harness: Harness) -> None:
    harness.respond_with(document(BODY))
    harness.gateway.ask("POST", SURFACES[0].path, SURFACES[0].body)


SILENCES = frozenset(
    fault.name
    for fault in FAULTS
    for _, outcome_of_fault in filter(None, (fault.whole, fault.stream))
    if getattr(outcome_of_fault, "code", "") == SILENT and fault.name != "TIMEOUT for a reason"
)
# Every second cell is met on the other server, so that each fault and each surface is met on both.
CELLS = [
    pytest.param(fault.name, *cell, surface, SERVERS[(row + column) % len(SERVERS)], id=f"{fault.name}-{surface.name}")
    for row, fault in enumerate(FAULTS)
    for column, surface in enumerate(SURFACES)
    if fault.name not in surface.lacks and (cell := fault.stream if surface.streamed else fault.whole) is not None
]


@pytest.mark.parametrize(("name", "script", "expected", "surface", "server"), CELLS)
def test_faults(
    name: str,
    script: Any,
    expected: Usage,
    surface: Surface,
    server: str,
    harnesses: dict[tuple[str, bool], Harness],
) -> None:
    """FM-05."""
    harness = harnesses[server, name in SILENCES]
    script = script(surface.good) if callable(script) else script
    before = settled(harness)
    response = respond(harness, surface, script)
    result = outcome(response, surface)
    line = harness.gateway.log.line_of(response.headers["x-request-id"])
    code = getattr(result, "code", "")
    if isinstance(expected, Fine):
        assert result == expected
        assert line["outcome"] == "ok"
    else:
        assert type(result) is type(expected)
        assert (getattr(result, "status", 0), getattr(result, "text", "")) == (
            getattr(expected, "status", 0),
            getattr(expected, "text", ""),
        )
        assert line["outcome"] == "error"
        assert line["error"] == (expected.code or line["error"])
        assert not code or line["error"] == code
        assert line["error"].startswith("upstream_")
    (exchange,) = harness.upstream.exchanges
    over(exchange)
    after = settled(harness, before)
    assert after.within(before), (before, after)


def over(exchange: RequestRecord) -> None:
    """Cohere has said its last word, or has been told that nobody listens any more."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (exchange.finished.is_set() or exchange.closed.is_set()):
        assert time.monotonic() < deadline, "Cohere was not told that it is over"
        time.sleep(0.002)


def respond(harness: Harness, surface: Surface, script: Script) -> Response:
    harness.respond_with(script)
    response = harness.gateway.ask("POST", surface.path, surface.body)
    CALLS.statuses[response.headers["x-request-id"]] = response.status
    return response


def outcome(response: Response, surface: Surface) -> Usage:
    """What a caller makes of it."""
    if response.status == 200:
        return surface.read(response)
    error = response.error
    assert error["message"] and "<" not in error["message"] and error["type"]
    return Error(response.status, error["code"] or "")


@dataclass(frozen=True)
class Held:
    """What the gateway holds while nobody asks anything: with one connection to Cohere that waits for more."""

    tasks: int
    files: int
    upstream: int

    def within(self, other: Held) -> bool:
        """Whether it is no more than that: what ended late only after `other` was counted is no leak."""
        return self.tasks <= other.tasks and self.files <= other.files and self.upstream <= other.upstream


def settled(harness: Harness, wanted: Held | None = None) -> Held:
    """What is held after a good answer, once it is no more than what is wanted, or stays as it is."""
    harness.respond_with(document(BODY))
    deadline, last, since = time.monotonic() + WAIT_SECONDS, None, 0.0
    while (response := outcome(harness.gateway.ask("POST", SURFACES[0].path, SURFACES[0].body), SURFACES[0])) != Fine():
        # On a busy machine the short time-outs may strike.
        assert response == Error(504, SILENT) and time.monotonic() < deadline, "it does not serve any more"
    while True:
        held = Held(harness.gateway.tasks(), open_files(), harness.upstream.open_connections)
        now = time.monotonic()
        if held != last:
            last, since = held, now
        # The callers' connections end after their answers.
        if (
            now > deadline
            or (wanted and held.within(wanted))
            or (wanted is None and held.upstream == 1 and now - since > 0.02)
        ):
            return held
        time.sleep(0.002)


def open_files() -> int:
    """Sockets, pipes and the like. Regular files are the databases' here, whose connections open them at whatever
    request first needs one more connection, and keep them.
    """
    count = 0
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            count += not stat.S_ISREG(os.fstat(int(name)).st_mode)
    return count


# --- what never ends on its own -----------------------------------------------------------------------------


@pytest.mark.parametrize("surface", [one for one in SURFACES if one.streamed], ids=lambda surface: surface.name)
def test_an_endless_stream_ends_with_its_caller(harness: Harness, surface: Surface) -> None:
    """As much as the caller likes to read, and not a byte of it kept by Cohere's side afterwards."""
    before = settled(harness)
    more: list[Step] = [Chunk(transcript(piece("x" * 1_000), done=False) * 20), Pause(0.001)]
    harness.respond_with((Head(200, SSE), Chunk(BEGUN), *more * 20_000, End()))
    connection = http.client.HTTPConnection(*harness.gateway.address, timeout=WAIT_SECONDS)
    headers = {"authorization": f"Bearer {CALLER_KEY}", "content-type": "application/json"}
    connection.request("POST", surface.path, json.dumps(surface.body), headers)
    answer = connection.getresponse()
    assert (answer.status, len(answer.read(300_000))) == (200, 300_000)
    answer.close()
    connection.close()
    over(harness.upstream.exchanges[0])
    assert harness.upstream.closed[0].is_set()
    after = settled(harness, before)
    assert after.within(before), (before, after)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_three_429_are_three_answers(harness: Harness, surface: Surface) -> None:
    """Nothing is tried twice here: each is the caller's to see, and the fourth request is answered."""
    refusal = json_answer(429, {"message": "Please wait and try again later"}, {"retry-after": "1"})
    good = sse(WHOLE) if surface.streamed else document(surface.good)
    harness.respond_with(refusal, refusal, refusal, good)
    requests = [outcome(harness.gateway.ask("POST", surface.path, surface.body), surface) for _ in range(4)]
    assert requests == [*[Error(429, "rate_limit_exceeded")] * 3, Fine()]
    assert len(harness.upstream.exchanges) == 4


# --- refusals in every dress --------------------------------------------------------------------------------

STATUSES: dict[int, Error] = {
    201: Error(502, ""),
    206: Error(502, ""),
    302: Error(502, "upstream_error"),
    400: Error(400, ""),
    401: Error(401, "invalid_api_key"),
    402: Error(402, "insufficient_quota"),
    403: Error(403, "permission_denied"),
    404: Error(404, "model_not_found"),
    405: Error(400, ""),
    409: Error(400, ""),
    413: Error(400, ""),
    418: Error(400, ""),
    422: Error(422, ""),
    429: Error(429, ""),
    431: Error(400, ""),
    498: Error(400, "content_filter"),
    499: Error(502, "upstream_cancelled"),
    500: Error(502, "upstream_error"),
    501: Error(502, "upstream_not_implemented"),
    502: Error(502, "upstream_error"),
    503: Error(503, "upstream_unavailable"),
    504: Error(504, SILENT),
    524: Error(502, "upstream_error"),
    599: Error(502, "upstream_error"),
    999: Error(502, "upstream_error"),
}
"""Cohere's status, whatever is in its body, and what becomes of it (docs/reference/errors.md#errors-from-cohere)."""


def shaped(status: int) -> dict[str, Script]:
    """One refusal, with every shape of body that a network makes of it."""
    message = b'{"message":"no"}'
    head = Head(status, JSON, "length")
    return {
        "JSON": json_answer(status, message),
        "an id, too": json_answer(status, b'{"id":"1","message":"no","error_type":"NO"}'),
        "nothing": json_answer(status, b""),
        "HTML": json_answer(status, HTML, {"content-type": "text/html"}),
        "text": json_answer(status, b"error code: 1020", {"content-type": "text/plain"}),
        "a list": json_answer(status, b"[1,2]"),
        "null": json_answer(status, b"null"),
        "wrong types": json_answer(status, b'{"message":{"deep":[1]}}'),
        "OpenAI's shape": json_answer(status, b'{"error":{"message":"no","type":"x","code":5}}'),
        "half of it": json_answer(status, half(message)),
        "no UTF-8": json_answer(status, b'{"message":"\xff\xfe"}'),
        "bytes": json_answer(status, bytes(range(256))),
        "a very long message": json_answer(status, b'{"message":"%s"}' % (b"no " * 100_000)),
        "a stream": event_stream(WHOLE, status=status),
        "an answer": json_answer(status, BODY),
        "cut": (head, Write(half(message)), Cut()),
        "reset": (head, Write(half(message)), Pause(0.02), Reset()),
        "broken gzip": json_answer(status, message, {"content-encoding": "gzip"}),
    }


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("status", STATUSES)
def test_statuses(harness: Harness, status: int, surface: Surface) -> None:
    before = settled(harness)
    # A proxy's page is nobody's refusal, whatever its status.
    page = STATUSES[status] if status in (503, 504) else Error(502, "upstream_error")
    # A third of the shapes, another one for each status and surface; all of them in `make test-long`.
    shapes = [*shaped(status).items()]
    first = ([*STATUSES].index(status) + SURFACES.index(surface)) % 3
    for name, script in shapes if transcripts.LONG else shapes[first::3]:
        result = outcome(respond(harness, surface, script), surface)
        assert isinstance(result, Error), name
        expected = page if name == "HTML" else STATUSES[status]
        if name == "reset" and result == Error(502, CUT):
            expected = result  # a reset may overtake the head
        assert (result.status, expected.code or result.code) == (expected.status, result.code), name
        assert len(harness.upstream.exchanges) == 1, name
    after = settled(harness, before)
    assert after.within(before), (before, after)


# --- Cohere cannot be reached -------------------------------------------------------------------------------


@contextlib.contextmanager
def nobody(scheme: str = "http") -> Iterator[str]:
    yield f"{scheme}://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def listening(greeting: bytes, scheme: str = "https") -> Iterator[str]:
    """Somebody who says this to whoever connects, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greets() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.sendall(greeting)
                        connection.recv(65536)

        thread = threading.Thread(target=greets, daemon=True)
        thread.start()
        yield f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(WAIT_SECONDS)


@contextlib.contextmanager
def full() -> Iterator[str]:
    """A listener that accepts nobody, with a queue that is full: connections neither come about nor fail."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


UNREACHABLE = "upstream_unreachable"
ADDRESSES: tuple[tuple[str, Callable[[], contextlib.AbstractContextManager[str]], Error], ...] = (
    ("a name that is none", lambda: contextlib.nullcontext("http://cohere.invalid"), Error(502, UNREACHABLE)),
    ("a name that cannot be", lambda: contextlib.nullcontext(f"http://{'x' * 80}.invalid"), Error(502, "")),
    ("nobody listens", nobody, Error(502, UNREACHABLE)),
    ("nobody listens, with TLS", lambda: nobody("https"), Error(502, UNREACHABLE)),
    ("no TLS", lambda: listening(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Error(502, UNREACHABLE)),
    ("TLS breaks off", lambda: listening(b""), Error(502, "")),
    ("nobody accepts", full, Error(504, SILENT)),
)


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize(("name", "address", "expected"), ADDRESSES, ids=[row[0] for row in ADDRESSES])
def test_addresses(name: str, address: Any, expected: Error, surface: Surface) -> None:
    timeout = Timeouts(connect=0.2 if expected.code == SILENT else 5, first_event=5)
    with address() as url, gateway_over(url, timeouts=timeout, **SETTINGS) as gateway:
        gateway.ask("GET", "/v1/responses/none")  # when this is answered, the storage has been opened
        before = gateway.tasks()
        for _ in range(2):
            answer = gateway.ask("POST", surface.path, surface.body)
            response = outcome(answer, surface)
            assert isinstance(response, Error)
            assert "cost_nanodollars" not in gateway.log.line_of(answer.headers["x-request-id"]), "nothing was sent"
            assert (response.status, expected.code or response.code) == (expected.status, response.code)
        deadline = time.monotonic() + WAIT_SECONDS
        while (tasks := gateway.tasks()) > before and time.monotonic() < deadline:
            time.sleep(0.005)
        assert tasks <= before
        assert not [line for line in gateway.log.lines if "message" in line]


def test_the_matrix_is_large() -> None:
    """At least sixty faults, and every surface meets each of them."""
    assert len(FAULTS) + len(ADDRESSES) >= 60 and len(CELLS) >= 200
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
