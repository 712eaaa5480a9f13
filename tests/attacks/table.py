"""Every attack, one row each: what is sent, which bound meets it, what the attackers get.

A script is one round of one attacker: it sends and says what came back. `test_bystanders_under_attack.py` plays one
round of each, `tests/bench/under_attack.py` many attackers for seconds.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from attacks.harness import (
    ENDLESS,
    KEY,
    MADE_UP,
    MODEL,
    SILENT,
    SPACES,
    Attack,
    Target,
    body_of,
    frame,
    head,
    open_files,
    status,
    until,
    upgrade,
)
from gateway.settings.schema import Settings
from gateway.state.encrypted_content import seal_of
from support.app import CHAT, REASONING
from support.principals import principal_of
from translators.core.json_size import MAX_ESCAPES

MB = 1 << 20
RESPONSES, EMBEDDINGS, UPLOADS = "/v1/responses", "/v1/embeddings", "/v1/audio/transcriptions"
TEXT, CONTINUATION, PING = 1, 0, 9
Script = Callable[[Target], Iterator[str]]

# --- one request each --------------------------------------------------------------------------------------


def posts(make: Callable[[], bytes], path: str = CHAT, headers: Mapping[str, str] | None = None) -> Script:
    """A script that sends one body."""
    body = cache(make)

    def script(target: Target) -> Iterator[str]:
        yield target.post(body(), path, headers=headers)

    return script


def strict(schema: Any, **fields: Any) -> bytes:
    wrapper = {"name": "answer", "schema": schema, "strict": True}
    return body_of(response_format={"type": "json_schema", "json_schema": wrapper}, **fields)


def an_object(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def response(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "input": "Hi", "store": False, **fields}).encode()


NESTED = {
    **an_object({"a": {"$ref": "#/$defs/a0"}}, "a"),
    "$defs": {
        **{f"a{level}": {"allOf": [{"$ref": f"#/$defs/a{level + 1}"}] * 2} for level in range(30)},
        "a30": {"type": "string"},
    },
}
PATTERN = an_object({"a": {"type": "string", "pattern": "^(a+)+$"}}, "a")


def properties(count: int) -> dict[str, Any]:
    return an_object({f"p{number}": {"type": "string"} for number in range(count)})


def patterns() -> bytes:
    return strict(an_object({f"p{n}": {"type": "string", "pattern": f"^(a{n}|b)+$"} for n in range(2_000)}))


def tools(count: int) -> bytes:
    parameters = {"type": "object", "properties": {}}
    return body_of(
        tools=[{"type": "function", "function": {"name": f"t{n}", "parameters": parameters}} for n in range(count)]
    )


def huge_number() -> bytes:
    schema = b'{"type":"object","properties":{"a":{"multipleOf":' + b"9" * 400 + b"}}}"
    return strict({}).replace(b'"schema": {}', b'"schema": ' + schema)


def keys(count: int) -> bytes:
    return b'{"model":"m","messages":[],' + b'"a":0,' * count + b'"z":0}'


def nesting() -> bytes:
    return b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def escapes() -> bytes:
    return response(store=True, input="").replace(b'"input": ""', b'"input": "' + b"\\n" * (MAX_ESCAPES - 10) + b'"')


def spaces(target: Target) -> Iterator[str]:
    for streams in (False, True):
        format = {"type": "json_object"}
        yield target.post(body_of(model=SPACES, response_format=format, stream=streams, max_tokens=9))


@cache
def tokens() -> bytes:
    """A request with four hundred tokens of eleven kilobytes, each of which unpacks to eight megabytes."""
    token = seal_of(principal_of(Settings(), KEY)).seal("x" * (8 * MB - 1))
    items = [{"type": "reasoning", "summary": [], "encrypted_content": token}] * 400
    return response(model=REASONING, input=[*items, {"role": "user", "content": "Hi"}])


def long_history(target: Target) -> Iterator[str]:
    """A small request that continues twenty thousand items."""
    items = [{"role": "user", "content": "Hi"}] * 20_000
    with target.connection() as connection:
        body = response(store=True, input=items)
        connection.sendall(head(RESPONSES, length=len(body)) + body)
        received = until(connection, b'"object"')
    match = re.search(rb'"id":"(resp_[^"]+)"', received)
    if match is None:
        yield received[9:12].decode()
        return
    for _ in range(5):
        yield target.post(response(previous_response_id=match[1].decode()), RESPONSES)


def form(fields: int) -> bytes:
    return b'--x\r\ncontent-disposition: form-data; name="a"\r\n\r\nb\r\n' * fields + b"--x--\r\n"


def small_chunks(target: Target) -> Iterator[str]:
    start = head(CHAT).replace(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n")
    yield target.ask(start + b"1\r\n \r\n" * target.count(256_000, 8_000) + b"0\r\n\r\n")


def large_heads(target: Target) -> Iterator[str]:
    yield target.ask(head(CHAT, headers={"x-large": "x" * MB}))
    yield target.ask(head(CHAT, headers={f"x-{number}": "x" for number in range(2_000)}))
    yield target.ask(head("/v1/" + "x" * 20_000, method="GET"))


def pipeline(target: Target) -> Iterator[str]:
    yield target.ask(
        head("/health/live", method="GET").replace(b"connection: close\r\n", b"") * target.count(2_000, 100)
        + head("/x")
    )


# --- WebSockets --------------------------------------------------------------------------------------------


def frames(make: Callable[[], bytes], extensions: str = "") -> Script:
    """A script that sends frames on a WebSocket."""
    data = cache(make)

    def script(target: Target) -> Iterator[str]:
        yield target.on_websocket(data(), extensions=extensions)

    return script


def deflate_bomb() -> bytes:
    compress = zlib.compressobj(wbits=-15)
    packed = compress.compress(b" " * 64 * MB) + compress.flush(zlib.Z_SYNC_FLUSH)
    return frame(TEXT, packed[:-4], first=0xC0)


def empty_fragments() -> bytes:
    return frame(TEXT, first=0) + frame(CONTINUATION, first=0) * 200_000


def unread_pings(target: Target) -> Iterator[str]:
    """Asks for an answer to each of many frames, and reads none."""
    with target.connection() as connection:
        connection.sendall(upgrade())
        until(connection, b"\r\n\r\n")
        connection.settimeout(0.3)
        with contextlib.suppress(OSError):
            for _ in range(target.count(40, 4)):
                connection.sendall((frame(PING, b"x" * 125) + frame(TEXT, b"{}")) * 1_000)
        target.hold()
    yield "held"


def websockets(target: Target) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        for _ in range(target.count(70, 20)):
            connection = stack.enter_context(target.connection())
            connection.sendall(upgrade())
            yield until(connection, b"\r\n\r\n")[9:12].decode()
        target.hold()


# --- many connections --------------------------------------------------------------------------------------


def bodies(target: Target) -> Iterator[str]:
    """As many bytes as come in, and never the last one."""
    size = 20 * MB
    piece = b" " * 65_536
    with contextlib.ExitStack() as stack:
        connections = []
        for number in range(target.count(48, 8)):
            connection = stack.enter_context(target.connection())
            key = KEY if number % 2 else f"{MADE_UP}-{number}"
            connection.settimeout(1.0)
            connection.sendall(head(CHAT, key, size))
            with contextlib.suppress(OSError):
                for _ in range(size // len(piece) - 1):
                    connection.sendall(piece)
            connections.append(connection)
        target.hold()
        for connection in connections:
            connection.setblocking(False)
            yield status(connection)


def dribbles(target: Target) -> Iterator[str]:
    """Bodies, and heads, of which a byte comes now and then."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(target.connection()) for _ in range(target.count(160, 20))]
        for number, connection in enumerate(connections):
            connection.sendall(head(CHAT, length=10 * MB) if number % 2 else b"GET / HTTP/1.1\r\nx: ")
        until = time.monotonic() + max(target.seconds, 1.3)
        while time.monotonic() < until:
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")
            time.sleep(0.1)
        for connection in connections:
            connection.setblocking(False)
            yield status(connection)


def unread(target: Target) -> Iterator[str]:
    """Streams without end that nobody reads, over both APIs and a WebSocket."""
    create = json.dumps({"type": "response.create", "model": ENDLESS, "input": "Hi", "store": False}).encode()
    chat = body_of(model=ENDLESS, stream=True)
    with contextlib.ExitStack() as stack:
        for number in range(target.count(200, 16)):
            connection = stack.enter_context(target.connection())
            if number % 4 == 0:
                connection.sendall(upgrade())
                until(connection, b"\r\n\r\n")
                connection.sendall(frame(TEXT, create))
                continue
            path = "/cohere/v2/chat" if number % 4 == 1 else CHAT
            connection.sendall(head(path, length=len(chat)) + chat)
        target.hold(0.5)
        yield "held"


def idle(target: Target) -> Iterator[str]:
    """Connections on which one request was answered, and nothing more is asked."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asks = head("/health/live", method="GET").replace(b"connection: close\r\n", b"")
    with contextlib.ExitStack() as stack:
        for _ in range(target.count(5_000, 50)):
            connection = stack.enter_context(target.connection())
            connection.sendall(asks)
            until(connection, b"}")
        target.hold()
    yield "held"


def vanishing(target: Target) -> Iterator[str]:
    """Connections that say nothing, or half a word, and go."""
    for number in range(target.count(100, 20)):
        with target.connection() as connection:
            if number % 2:
                connection.sendall(head(CHAT, length=100) + b"{")
    yield "held"


def unanswered(path: str, body: bytes, long: int, short: int) -> Script:
    """A script of many requests of one caller that Cohere does not answer."""

    def script(target: Target) -> Iterator[str]:
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(target.connection()) for _ in range(target.count(long, short))]
            for connection in connections:
                connection.sendall(head(path, length=len(body)) + body)
            target.hold(0.2)
            for connection in connections:
                connection.setblocking(False)
                yield status(connection)

    return script


def storing(target: Target) -> Iterator[str]:
    body = response(store=True, input="x" * 60_000)
    for _ in range(20):
        yield target.post(body, RESPONSES)


def storing_unproven(target: Target) -> Iterator[str]:
    body = response(store=True, input="x" * 60_000)
    for number in range(10):
        yield target.post(body, RESPONSES, key=f"{MADE_UP}-{number}")
        yield target.post(response(background=True, store=True), RESPONSES, key=f"{MADE_UP}-{number}")


def descriptors(target: Target) -> Iterator[str]:
    """More connections that ask for nothing than the process may have files."""
    _, hard = old = resource.prlimit(target.worker, resource.RLIMIT_NOFILE)
    resource.prlimit(
        target.worker, resource.RLIMIT_NOFILE, (target.count(1_024, open_files(target.worker) + 200), hard)
    )
    written = len(target.server.written)
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(target.count(2_000, 200)):
                with contextlib.suppress(OSError):
                    stack.enter_context(target.connection()).sendall(b"GET / HTTP/1.1\r\n")
            target.hold(0.3)
            yield "held"
    finally:
        resource.prlimit(target.worker, resource.RLIMIT_NOFILE, old)
    if len(target.server.written) - written > 200:
        yield "a flood in the log"


HOSTILE = "\x1b[2J\x7f\u202e\u2066{}\"\\\n{'fake': 1}"


def log_injection(target: Target) -> Iterator[str]:
    yield target.post(body_of(model=HOSTILE, user=HOSTILE))
    yield target.post(body_of(), headers={"x-request-id": "a\x7f\x1b[31m", "user-agent": "\x1b]0;x\x07"})
    yield target.ask(head("/v1/%0a%7f%1b[2J\u202e".encode().decode("latin-1"), method="GET"))
    yield target.post(body_of(), key="k\x7f\x1b[2J")
    for line in target.server.written[-20:]:
        text = line.decode().removesuffix("\n")
        if any(not character.isprintable() for character in text) or not text.startswith("{"):
            yield f"an open line in the log: {text!r}"


PAGE = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


def pages(target: Target) -> Iterator[str]:
    """What a page of another site can have a browser send, and a name that was made to point here."""
    for path in (CHAT, RESPONSES, EMBEDDINGS, "/cohere/v2/chat", "/cohere/v1/datasets"):
        yield target.post(body_of(), path, headers=PAGE)
        yield target.post(body_of(), path, headers={"host": "evil.example"})
        yield target.post(body_of(), path, headers={"content-type": "text/plain"})
    for path in ("/metrics", "/v1/models", "/openapi.json"):
        yield target.ask(head(path, headers=PAGE, method="GET"))
    yield target.ask(upgrade().replace(b"\r\n\r\n", b"\r\norigin: https://evil.example\r\n\r\n"))


# --- the table ---------------------------------------------------------------------------------------------

TIGHT = {
    "GATEWAY_MEMORY_MAX_BYTES": str(64 * MB),
    "GATEWAY_MAX_WEBSOCKETS_PER_CALLER": "16",
    "GATEWAY_MAX_BACKGROUND_RESPONSES_PER_CALLER": "4",
    "GATEWAY_MAX_STORED_BYTES_PER_CALLER": str(MB),
    "GATEWAY_CONCURRENCY_MAX_IN_FLIGHT": "160",
    "GATEWAY_CONCURRENCY_QUEUE_SIZE": "20",
    "GATEWAY_CONCURRENCY_CALLER_SHARE": "0.3",
    "GATEWAY_TIMEOUTS_REQUEST_BODY": "1",
    "GATEWAY_TIMEOUTS_RESPONSE_WRITE": "2",
}
"""Bounds that a script reaches in a moment. A megabyte for each caller's responses, and so on."""
OPEN = {"COHERE_API_KEY": "server-key"}
"""The server's own key serves all who reach it."""


def row(name: str, kind: str, sends: str, bound: str, gets: str, script: Script, **more: Any) -> Attack:
    """gets: what attackers may get, separated by spaces."""
    return Attack(name, kind, sends, bound, frozenset(gets.split()), script, **more)


ATTACKS: tuple[Attack, ...] = (
    row(
        "a pattern that backtracks",
        "CPU",
        "a strict schema with the pattern `^(a+)+$`",
        "patterns run in linear time",
        "502",
        posts(lambda: strict(PATTERN)),
    ),
    row(
        "nested references",
        "CPU",
        "a strict schema of 3 kB whose references double thirty times",
        "work of checking an answer",
        "502 503",
        posts(lambda: strict(NESTED)),
    ),
    row(
        "a wide schema",
        "CPU",
        "a strict schema with 5,000 properties",
        "a thread above `offload.min_bytes`",
        "200 502 503",
        posts(lambda: strict(properties(5_000))),
    ),
    row(
        "a schema of 6 MB",
        "CPU",
        "a strict schema with 200,000 properties",
        "`max_json_keys`",
        "400",
        posts(lambda: strict(properties(200_000))),
    ),
    row(
        "many patterns",
        "CPU",
        "a strict schema with 2,000 patterns",
        "work of checking a schema",
        "400 502 503 200",
        posts(patterns),
    ),
    row("a number of 400 digits", "CPU", "`multipleOf` with 400 digits", "numbers of JSON", "400", posts(huge_number)),
    row(
        "millions of keys",
        "CPU",
        "12 MB of JSON with two million keys",
        "`max_json_keys`",
        "400",
        posts(lambda: keys(2_000_000)),
    ),
    row(
        "many keys",
        "CPU",
        "JSON with 90,000 keys",
        "a thread above `offload.min_bytes`",
        "400 503",
        posts(lambda: keys(90_000)),
    ),
    row(
        "deep nesting", "CPU", "JSON that is nested a hundred thousand times", "nesting of JSON", "400", posts(nesting)
    ),
    row(
        "twenty thousand tools",
        "CPU",
        "20,000 tools",
        "fields that hold no content: 2 MiB",
        "200 400 503",
        posts(lambda: tools(20_000)),
    ),
    row(
        "thirty thousand messages",
        "CPU",
        "30,000 messages",
        "a thread above `offload.min_bytes`",
        "200 503",
        posts(lambda: body_of(messages=[{"role": "user", "content": "Hi"}] * 30_000)),
    ),
    row(
        "a million escapes",
        "CPU",
        "a response of a million escaped characters, which is stored",
        "escaped characters",
        "200 429 503 507",
        posts(escapes, RESPONSES),
    ),
    row(
        "a long history",
        "CPU",
        "small requests that continue a response of 20,000 items",
        "a thread above `offload.min_bytes`",
        "200 429 503 507",
        long_history,
    ),
    row(
        "two thousand vectors",
        "CPU",
        "an embeddings request with 2,048 texts",
        "calls of 96 texts, 8 at a time",
        "200 429 503",
        posts(lambda: json.dumps({"model": "embed-v4.0", "input": ["x"] * 2_048}).encode(), EMBEDDINGS),
    ),
    row(
        "a megabyte of spaces",
        "CPU",
        "a question whose answer is a million spaces, in JSON mode",
        "linear regular expressions",
        "200 502",
        spaces,
    ),
    row(
        "a body in chunks of one byte",
        "CPU",
        "256,000 chunks of one byte",
        "small pieces of a request: 5,000",
        "400",
        small_chunks,
    ),
    row(
        "large heads",
        "CPU",
        "a header of 1 MB, 2,000 headers, a URL of 20 kB",
        "heads: 32 KiB, 100 headers",
        "431 414 unanswered",
        large_heads,
    ),
    row(
        "a pipeline",
        "CPU",
        "2,000 requests at once on one connection",
        "further requests: 64 KiB",
        "200 400 404",
        pipeline,
    ),
    row(
        "a form of many fields",
        "CPU",
        "a form with 50,000 fields",
        "fields of a form: 64",
        "400",
        posts(lambda: form(50_000), UPLOADS, headers={"content-type": "multipart/form-data; boundary=x"}),
    ),
    row(
        "a deflate bomb",
        "CPU",
        "a compressed WebSocket message of 64 kB that unpacks to 64 MB",
        "no compression on WebSockets",
        "1002",
        frames(deflate_bomb, "permessage-deflate"),
    ),
    row(
        "empty fragments",
        "CPU",
        "200,000 empty fragments of a WebSocket message",
        "empty fragments: 100",
        "1009",
        frames(empty_fragments),
    ),
    row(
        "pings that nobody reads",
        "memory",
        "80,000 frames that want an answer, which is not read",
        "small pieces; `timeouts.response_write`; reading waits for writing",
        "held",
        unread_pings,
    ),
    row(
        "forged tokens",
        "memory",
        "400 sealed tokens of 11 kB, each of which unpacks to 8 MB",
        "encrypted reasoning: `body_limit`",
        "413 429 503",
        posts(tokens, RESPONSES),
    ),
    row(
        "bodies without an end",
        "memory",
        "bodies of 20 MB but for the last byte, also with made-up keys",
        "`memory.max_bytes`, `memory.caller_share`",
        "429 503 408 413 unanswered",
        bodies,
        attackers=1,
    ),
    row(
        "dribbled bodies and heads",
        "slots",
        "bodies and heads of which ten bytes come in a second",
        "`timeouts.request_body`, `timeouts.keep_alive`",
        "408 unanswered",
        dribbles,
        attackers=1,
    ),
    row(
        "unread streams",
        "memory",
        "streams without end that nobody reads",
        "256 KiB of each; `timeouts.response_write`",
        "held",
        unread,
        attackers=1,
    ),
    row(
        "idle connections",
        "memory",
        "5,000 connections that stay open after a request",
        "`timeouts.keep_alive`; descriptors",
        "held",
        idle,
        attackers=1,
    ),
    row(
        "vanishing callers",
        "slots",
        "connections that are closed without a request, or in the middle of one",
        "the request is over",
        "held",
        vanishing,
    ),
    row(
        "calls of one caller",
        "slots",
        "calls that Cohere does not answer, as many as there are slots",
        "`concurrency.caller_share`",
        "503 unanswered",
        unanswered(CHAT, body_of(model=SILENT), 1_500, 70),
        attackers=1,
    ),
    row(
        "WebSockets of one caller",
        "slots",
        "70 WebSockets of one caller",
        "`max_websockets_per_caller`",
        "101 429",
        websockets,
        attackers=1,
    ),
    row(
        "background responses of one caller",
        "slots",
        "background responses that Cohere does not answer",
        "`max_background_responses_per_caller`",
        "200 429 503 unanswered",
        unanswered(RESPONSES, response(model=SILENT, background=True, store=True), 300, 12),
        attackers=1,
    ),
    row(
        "a full storage",
        "disk",
        "responses of 60 kB that are stored",
        "`max_stored_bytes_per_caller`",
        "200 507",
        storing,
    ),
    row(
        "responses of made-up keys",
        "disk",
        "responses to be stored for keys that Cohere does not know",
        "nothing is stored before Cohere has accepted a key",
        "401",
        storing_unproven,
    ),
    row(
        "control characters",
        "log",
        "control and bidirectional characters in models, ids, URLs and keys",
        "the log escapes them",
        "400 401 404 200 502 unanswered",
        log_injection,
    ),
    row(
        "a foreign page",
        "web pages",
        "requests as the browser of a user of this machine sends them for a page",
        "`cors_origins`, `allowed_hosts`, content types",
        "403 415",
        pages,
        environment=OPEN,
    ),
    row(
        "no descriptors",
        "descriptors",
        "2,000 connections without a whole request where the process may open 1,024 files",
        "who asks for nothing is closed",
        "held",
        descriptors,
        attackers=1,
    ),
)
