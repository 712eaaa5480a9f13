"""One HTTP request and its response, with the headers that Cohere sends with every response.

An `HttpExchange` reads the request, sends, pauses, and notices a client that disconnects. It knows no endpoint.
Source of the headers: docs/cohere-api.md#requests.
"""

from __future__ import annotations

import asyncio
import gzip
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping

from starlette.types import Message, Receive, Scope, Send

from gateway.emulator import go_json
from gateway.emulator.errors import APIError
from gateway.emulator.request_log import LoggedRequest

JSON = b"application/json"
EVENT_STREAM = b"text/event-stream"
JSON_LINES = b"application/stream+json"
MIN_COMPRESSED_BYTES = 1_000

# Two of Cohere's headers are missing here: `alt-svc` would send browsers and curl to HTTP/3, and the server adds
# `date` itself.
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

Headers = Iterable[tuple[bytes, bytes]]


class ClientDisconnect(Exception):
    """The client closed the connection."""


class HttpExchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, record: LoggedRequest) -> None:
        self.scope = scope
        self.record = record
        self.headers: dict[str, str] = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.extra_headers: list[tuple[bytes, bytes]] = []  # sent with every response of this exchange
        self.omit_error_id = False  # an error body is `{message}` alone
        self._receive = receive
        self._send = send
        self._started_at = time.perf_counter()
        self._disconnect: asyncio.Task[None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the request body as it arrives. Raises ClientDisconnect."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            data = message.get("body", b"")
            self.record.received += len(data)
            yield data
            if not message.get("more_body", False):
                return

    async def body(self) -> bytes:
        """Returns the whole request body. Raises ClientDisconnect."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def pause(self, seconds: float | None) -> None:
        """Waits, for ever if `seconds` is None. Raises ClientDisconnect as soon as the client leaves."""
        if self._disconnect is None:
            # One task for all pauses: `asyncio.wait` leaves it alone when the time is up.
            self._disconnect = asyncio.ensure_future(self._wait_for_disconnect())
        done, _ = await asyncio.wait((self._disconnect,), timeout=seconds)
        if done:
            raise ClientDisconnect

    async def start(self, status: int, content_type: bytes, headers: Headers = ()) -> None:
        """Sends the status and the headers."""
        self.record.status = status
        milliseconds = max(0, int((time.perf_counter() - self._started_at) * 1_000))
        all_headers = [
            (b"content-type", content_type),
            *FIXED_HEADERS,
            (b"x-debug-trace-id", secrets.token_hex(16).encode()),
            (b"x-envoy-upstream-service-time", str(milliseconds).encode()),
            *self.extra_headers,
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": sorted(all_headers)})

    async def write(self, data: bytes) -> None:
        """Sends a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def finish(self, data: bytes = b"") -> None:
        """Sends the last part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": False})
        self.record.finished = True

    async def send_whole(self, status: int, content_type: bytes, data: bytes, headers: Headers = ()) -> None:
        """Sends a complete response, compressed if it is large JSON and the client accepts gzip."""
        data, encoding = self._compress(data) if content_type == JSON else (data, ())
        length = (b"content-length", str(len(data)).encode())
        await self.start(status, content_type, (*headers, *encoding, length))
        await self.finish(data)

    async def send_error(self, error: APIError) -> None:
        """Sends an error response."""
        data = error_body(error, omit_id=self.omit_error_id)
        await self.send_whole(error.status, error.content_type.encode(), data)

    async def close(self) -> None:
        """Stops waiting for the client to disconnect."""
        if self._disconnect is not None and not self._disconnect.done():
            self._disconnect.cancel()
            # Until it has ended, so that no task of this request outlives it.
            await asyncio.wait((self._disconnect,))

    def _compress(self, data: bytes) -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
        """Returns the body as it is sent, and the header that names its encoding."""
        if len(data) < MIN_COMPRESSED_BYTES or "gzip" not in self.headers.get("accept-encoding", ""):
            return data, ()
        # Without the time of day, so that the same answer has the same bytes.
        return gzip.compress(data, compresslevel=1, mtime=0), ((b"content-encoding", b"gzip"),)

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def error_body(error: APIError, *, omit_id: bool = False) -> bytes:
    """Returns `{id, error_type, message}`, of which only the message is always there, or the error's raw body."""
    if error.message is None:
        return error.raw
    body: dict[str, str] = {} if omit_id else {"id": str(uuid.uuid4())}
    if error.error_type is not None:
        body["error_type"] = error.error_type
    return go_json.encode(body | {"message": error.message})


def count_headers(counts: Mapping[str, int]) -> list[tuple[bytes, bytes]]:
    """Returns the headers `num_chars` and `num_tokens`; the underscores are Cohere's (recorded)."""
    return [(name.encode(), str(value).encode()) for name, value in counts.items()]
