"""HTTP as Cohere speaks it: JSON in Go's spelling, the headers of every answer, one exchange at a time.

An `Exchange` reads the request, sends, pauses, and notices a caller that leaves. It knows no endpoint.
Source: docs/cohere-api.md#requests.
"""

from __future__ import annotations

import asyncio
import gzip
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from gateway.emulator.refusals import Refusal, bare
from gateway.emulator.request_log import Record

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream"
LINES = b"application/stream+json"
COMPRESSED_FROM = 1_000

# Left out on purpose: alt-svc (it would send browsers and curl looking for HTTP/3) and date (the server
# adds it).
FIXED_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-expose-headers", b"X-Debug-Trace-ID"),
    (b"cache-control", b"no-cache, no-store, no-transform, must-revalidate, private, max-age=0"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    (b"pragma", b"no-cache"),
    (b"server", b"envoy"),
    (b"vary", b"Origin,Accept-Encoding"),
    (b"via", b"1.1 google"),
    (b"x-accel-expires", b"0"),
)

# What Go's encoder escapes inside strings; none of these bytes occurs anywhere else in JSON.
GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)

ENCODER = msgspec.json.Encoder()
DECODER = msgspec.json.Decoder()

Headers = Iterable[tuple[bytes, bytes]]


class CallerLeft(Exception):
    """The connection was closed from the other side."""


def encode(value: Any) -> bytes:
    """Compact JSON as Go writes it: keys in order, `<`, `>` and `&` escaped, other characters raw."""
    data = ENCODER.encode(value)
    for raw, escaped in GO_ESCAPES:
        if raw in data:
            data = data.replace(raw, escaped)
    return data


def decode(data: bytes) -> Any:
    """A JSON body, or the 400 with the reason."""
    try:
        return DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise bare(f"invalid json syntax: {reason}") from None


def error_body(refusal: Refusal, *, plain: bool = False) -> bytes:
    """The body of a refusal: `{id, message}`, with the error type in front where there is one; plain without id."""
    if refusal.message is None:
        return refusal.raw
    told: dict[str, str] = {} if plain else {"id": str(uuid.uuid4())}
    if refusal.error_type is not None:
        told["error_type"] = refusal.error_type
    return encode(told | {"message": refusal.message})


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: Record) -> None:
        self.scope = scope
        self.record = record
        self.headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.extra: list[tuple[bytes, bytes]] = []  # headers that every answer of this exchange carries
        self.plain_errors = False  # errors are a message alone
        self._receive = receive
        self._send = send
        self._started = time.perf_counter()
        self._leaving: asyncio.Task[None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The request body as it arrives."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise CallerLeft
            data = message.get("body", b"")
            self.record.received += len(data)
            yield data
            if not message.get("more_body", False):
                return

    async def body(self) -> bytes:
        """The whole request body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def pause(self, seconds: float | None) -> None:
        """Wait (None: for ever) while watching the caller; raises CallerLeft when it goes."""
        if self._leaving is None:
            self._leaving = asyncio.ensure_future(self._leave())
        done, _ = await asyncio.wait((self._leaving,), timeout=seconds)
        if done:
            raise CallerLeft

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Status and headers."""
        self.record.status = status
        spent = max(0, int((time.perf_counter() - self._started) * 1_000))
        told = [
            (b"content-type", content_type),
            *FIXED_HEADERS,
            (b"x-debug-trace-id", secrets.token_hex(16).encode()),
            (b"x-envoy-upstream-service-time", str(spent).encode()),
            *self.extra,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": sorted(told)})

    async def write(self, data: bytes) -> None:
        """A part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """The last part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.record.finished = True

    async def reply(self, status: int, content_type: bytes, data: bytes, headers: Headers = ()) -> None:
        """A whole answer, compressed when that is worth it and wanted."""
        data, encoding = self.packed(data) if content_type == JSON else (data, ())
        length = (b"content-length", str(len(data)).encode())
        await self.start(status, content_type, (*headers, *encoding, length))
        await self.finish(data)

    def packed(self, data: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
        """The body as it travels, with the header that says so."""
        if len(data) < COMPRESSED_FROM or "gzip" not in self.headers.get("accept-encoding", ""):
            return data, ()
        return gzip.compress(data, compresslevel=1, mtime=0), ((b"content-encoding", b"gzip"),)

    async def refuse(self, refusal: Refusal) -> None:
        """An error answer."""
        await self.reply(refusal.status, refusal.content_type.encode(), error_body(refusal, plain=self.plain_errors))

    async def close(self) -> None:
        """Stop watching the caller."""
        if self._leaving is not None and not self._leaving.done():
            self._leaving.cancel()
            await asyncio.wait((self._leaving,))

    async def _leave(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def number_headers(numbers: Mapping[str, int]) -> list[tuple[bytes, bytes]]:
    """`num_chars` and `num_tokens`, with their underscores (recorded)."""
    return [(name.encode(), str(value).encode()) for name, value in numbers.items()]
