"""What the callers of `make soak` do: kinds of requests, well meant and hostile, and what must come of each."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODEL = "command-a-03-2025"
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

# --- what callers do ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came.

    status: 0 for a connection that ended without. body: complete or not. cost: as the head says, in dollars; empty
    where it does not. complete: nothing is missing.
    """

    status: int
    body: bytes
    cost: str = ""
    complete: bool = False


@dataclass(frozen=True)
class Kind:
    """`weight` of all requests are like this. `leaves`: after so many bytes of the answer, or before any. `dribbles`:
    the request comes in pieces, with pauses. `sips`: so does the beginning of the answer. `follows`: what is sent once
    the answer's head is here. `key`: whose key it has; callers that mean harm have one of their own.
    """

    name: str
    weight: int
    request: Callable[[random.Random], bytes]
    fits: Callable[[Answer], bool]
    leaves: Callable[[random.Random], int] | None = None
    dribbles: bool = False
    sips: bool = False
    follows: Callable[[random.Random], bytes] | None = None
    key: str = "ordinary"


def http(method: str, path: str, body: Any = None) -> bytes:
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer KEY\r\nconnection: close\r\n"
    length = f"content-type: application/json\r\ncontent-length: {len(data)}\r\n" if data else ""
    return f"{head}{length}\r\n".encode() + data


def chat(chance: random.Random, **fields: Any) -> bytes:
    text = f"Tell me about {chance.random()} " + "and more " * chance.randrange(200)
    return http("POST", CHAT, {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields})


def responses(chance: random.Random, **fields: Any) -> bytes:
    return http("POST", RESPONSES, {"model": MODEL, "input": f"Hello {chance.random()}", "store": False, **fields})


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
FAULTS = (
    *(
        "status=500",
        "status=503",
        "status=401",
        "status=404",
        "status=498",
        "rate_minute",
        "rate_month",
        "html",
        "empty",
    ),
    *("invalid_tool_generation", "no_valid_response", "cut", "eof", "broken_json", "finish_error", "finish_timeout"),
    "stall_stream",
)
HARMLESS = ("unknown_event", "no_usage", "slow=0.002", "late=0.05")


def at_fault(chance: random.Random, faults: tuple[str, ...]) -> bytes:
    model = f"{MODEL}@{chance.choice(faults)}"
    stream = chance.random() < 0.5
    if chance.random() < 0.5:
        return http("POST", RESPONSES, {"model": model, "input": "Hi", "store": False, "stream": stream})
    return http("POST", CHAT, {"model": model, "messages": [{"role": "user", "content": "Hi"}], "stream": stream})


def ok(answer: Answer) -> bool:
    """A success, and if it is a stream, a complete one."""
    streamed = answer.body.startswith((b"data:", b"event:"))
    whole = (
        b'"error":{' not in answer.body and (answer.body.endswith(b"data: [DONE]\n\n") or b"message-end" in answer.body)
        if streamed
        else bool(answer.body)
    )
    return answer.status == 200 and whole


def failed(answer: Answer) -> bool:
    """An error, and said to be one in whatever way it can be said; never a failure of the gateway's own."""
    if b"internal_error" in answer.body:
        return False
    if answer.status != 200:
        return answer.status >= 400 and b'"error"' in answer.body
    return b'"error":{' in answer.body or b"response.failed" in answer.body


def gone(answer: Answer) -> bool:
    """Nobody looked."""
    return answer.status in (0, 200) or answer.status >= 400


def refused(*statuses: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.status in statuses and b'"error"' in answer.body


# --- what hostile callers do --------------------------------------------------------------------------------

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
MANY_KEYS = b'{"model":"m","messages":[],' + b",".join(b'"%x":1' % number for number in range(200_000)) + b"}"
UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer KEY\r\nupgrade: websocket\r\n"
    b"connection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
FRAGMENTS = b"\x01\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * 2_000
"""The beginning of a message, and fragments without a byte."""


def hostile_schema(chance: random.Random) -> bytes:
    wrapper = {"name": "x", "strict": True, "schema": chance.choice((NESTED, PATTERN))}
    return chat(chance, response_format={"type": "json_schema", "json_schema": wrapper}, stream=chance.random() < 0.5)


def flood(chance: random.Random) -> bytes:
    """Empty fragments, or frames that make no sense: the first has a reserved bit."""
    return FRAGMENTS if chance.random() < 0.5 else b"\xf1" + chance.randbytes(2_000)


def answered_somehow(answer: Answer) -> bool:
    return ok(answer) or failed(answer)


def closed(answer: Answer) -> bool:
    """The upgrade was granted, and the connection ended with a close frame."""
    return answer.status == 101 and b"\x88" in answer.body


def embedded(chance: random.Random) -> dict[str, Any]:
    return {"model": "embed-v4.0", "input": [f"text {chance.random()}"] * chance.randrange(1, 200), "dimensions": 256}


def ranked(chance: random.Random) -> dict[str, Any]:
    return {"model": "rerank-v3.5", "query": f"{chance.random()}", "documents": ["one", "two"] * 60}


def native_chat(chance: random.Random) -> bytes:
    message = {"role": "user", "content": f"Hello {chance.random()}"}
    return http("POST", "/cohere/v2/chat", {"model": MODEL, "messages": [message], "stream": chance.random() < 0.5})


def native_refusal(answer: Answer) -> bool:
    return answer.status in (400, 422) and b'"message"' in answer.body


def ok_or(status: int) -> Callable[[Answer], bool]:
    """A success, or this refusal."""
    return lambda answer: ok(answer) or (answer.status == status and b'"error"' in answer.body)


SAME = {"model": MODEL, "messages": [{"role": "user", "content": "Always the same"}], "temperature": 0, "seed": 1}
STORED = http("GET", "/health/live").replace(b"connection: close\r\n", b"")
MANY = [{"role": "user", "content": "x" * 300_000}]
KINDS = (
    Kind("chat", 16, chat, ok),
    Kind("chat stream", 16, lambda chance: chat(chance, stream=True), ok),
    Kind("long chat", 1, lambda chance: http("POST", CHAT, {"model": MODEL, "messages": MANY, "max_tokens": 5}), ok),
    Kind("tools", 6, lambda chance: chat(chance, tools=[TOOL], stream=chance.random() < 0.5), ok),
    Kind("schema", 3, lambda chance: chat(chance, response_format=FORMAT), ok),
    Kind("two choices", 3, lambda chance: chat(chance, n=2, stream=chance.random() < 0.5), ok),
    Kind("response", 6, responses, ok),
    Kind("response stream", 6, lambda chance: responses(chance, stream=True), ok),
    Kind("stored response", 5, lambda chance: responses(chance, store=True, stream=chance.random() < 0.5), ok),
    Kind("models", 2, lambda chance: http("GET", "/v1/models"), ok),
    Kind("metrics", 1, lambda chance: http("GET", "/metrics"), ok, key="master"),
    Kind("harmless", 4, lambda chance: at_fault(chance, HARMLESS), ok),
    Kind("fault", 16, lambda chance: at_fault(chance, FAULTS), failed),
    Kind("bad JSON", 3, lambda chance: http("POST", CHAT, b"{" + b"[" * chance.randrange(2_000)), refused(400)),
    Kind("bad field", 2, lambda chance: chat(chance, temperature="hot"), refused(400)),
    Kind("nowhere", 2, lambda chance: http("GET", f"/v1/{chance.random()}"), refused(404)),
    Kind("no response", 1, lambda chance: http("GET", f"{RESPONSES}/resp_{chance.randrange(10**9)}"), refused(404)),
    Kind("no HTTP", 2, lambda chance: chance.randbytes(200) + b"\r\n\r\n", lambda answer: answer.status in (0, 400)),
    Kind("keeps and leaves", 3, lambda chance: STORED, gone, lambda chance: 100),
    Kind("half a body", 2, lambda chance: chat(chance)[:-9], gone, lambda chance: 0),
    Kind("leaves", 5, lambda chance: chat(chance, stream=True), gone, lambda chance: chance.randrange(2_000)),
    Kind("leaves a silence", 3, lambda chance: at_fault(chance, ("stall", "stall_stream")), gone, lambda chance: 0),
    Kind("slow body", 3, chat, ok, dribbles=True),
    Kind("slow reader", 3, lambda chance: chat(chance, stream=True), ok, sips=True),
    Kind("reads nothing", 3, lambda chance: chat(chance, stream=True), gone, lambda chance: 1, sips=True),
    Kind("hostile schema", 3, hostile_schema, answered_somehow, key="hostile"),
    Kind("huge JSON", 1, lambda chance: http("POST", CHAT, MANY_KEYS), answered_somehow, key="hostile"),
    Kind("flood", 2, lambda chance: UPGRADE, closed, follows=flood, key="hostile"),
    Kind("embeddings", 4, lambda chance: http("POST", "/v1/embeddings", embedded(chance)), ok),
    Kind("rerank", 2, lambda chance: http("POST", "/v1/rerank", ranked(chance)), ok),
    Kind("native chat", 4, native_chat, ok),
    Kind("native refusal", 1, lambda chance: http("POST", "/cohere/v2/chat", {"model": MODEL}), native_refusal),
    Kind("same again", 3, lambda chance: http("POST", CHAT, SAME), ok),
    Kind("limited", 4, chat, ok_or(429), key="limited"),
    Kind("on a budget", 4, chat, ok_or(429), key="budget"),
    Kind("revoked key", 2, chat, refused(401), key="revoked"),
    Kind("without permission", 1, lambda chance: http("GET", "/key/list"), refused(401, 403)),
    Kind("audit", 2, lambda chance: http("GET", "/audit?limit=50"), ok, key="master"),
    Kind("usage", 1, lambda chance: http("GET", "/usage?by=model"), ok, key="master"),
    Kind("console", 1, lambda chance: http("GET", chance.choice(("/console", "/gateway/status"))), ok, key="master"),
    Kind("background", 2, lambda chance: responses(chance, store=True, background=True), ok),
    Kind("early flood", 1, lambda chance: UPGRADE + flood(chance), lambda answer: answer.status == 400),
    Kind("leaves a store", 2, lambda chance: responses(chance, store=True, stream=True), gone, lambda chance: 300),
)

# --- asking -------------------------------------------------------------------------------------------------


async def request_for(port: int, kind: Kind, key: str, id: str, chance: random.Random) -> Answer:
    """Makes one request over a connection of its own. id: its `x-request-id`."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, ended = b"", False
    try:
        await send(
            writer, kind, kind.request(chance).replace(b"Bearer KEY", f"Bearer {key}\r\nx-request-id: {id}".encode())
        )
        if kind.follows is not None:
            received += await reader.readuntil(b"\r\n\r\n")
            writer.write(kind.follows(chance))
        if kind.sips:
            for _ in range(20):
                received += await reader.read(50)
                await asyncio.sleep(0.05)
        if kind.leaves is None:
            while some := await reader.read(65536):
                received += some
            ended = True
        elif enough := kind.leaves(chance):
            while len(received) < enough and (some := await reader.read(512)):
                received += some
        else:
            await asyncio.sleep(chance.random() * 0.05)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        if chance.random() < 0.5:
            writer.transport.abort()
        else:
            writer.close()
    return answer_of(received, ended)


def answer_of(received: bytes, ended: bool) -> Answer:
    """Reads an answer. ended: the other side has closed the connection in good order."""
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.1 ") else 0
    lines = head.lower().split(b"\r\n")
    headers = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
    cost = headers.get(b"x-gateway-cost-usd", b"").decode()
    if headers.get(b"transfer-encoding") == b"chunked":
        whole = ended and body.endswith(b"0\r\n\r\n")
        return Answer(status, unchunked(body), cost, whole)
    length = int(headers.get(b"content-length", b"-1"))
    return Answer(status, body, cost, ended and status > 0 and len(body) == max(length, 0))


async def send(writer: asyncio.StreamWriter, kind: Kind, data: bytes) -> None:
    """Sends a request, at once or in pieces."""
    size = len(data) // 10 + 1 if kind.dribbles else len(data)
    for begin in range(0, len(data), size):
        writer.write(data[begin : begin + size])
        await writer.drain()
        await asyncio.sleep(0.1 if kind.dribbles else 0)


def unchunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    while True:
        size, _, body = body.partition(b"\r\n")
        if not size or not (length := int(size, 16)):
            return b"".join(pieces)
        pieces.append(body[:length])
        body = body[length + 2 :]
