"""Cohere's responses, from their heads on, and the requests that are forwarded as they came.

Whoever opened an `UpstreamResponse` closes it, at once if it is not at its end, so that Cohere stops writing what
nobody will read.
"""

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from gateway import descriptors
from gateway.errors import GatewayError, UpstreamError, failure
from gateway.memory_budget import UNLIMITED, Gathering
from gateway.upstream import http1_client
from gateway.upstream.http1_client import WHOLE_READ_BYTES
from gateway.upstream.key_mask import KeyMask
from gateway.upstream.retry import retry_after_header
from translators.core import upstream_errors
from translators.core.errors import Failure

TRACE_HEADER = "x-debug-trace-id"

MAX_RESPONSE_BYTES = 256 * 1024 * 1024
"""Bytes of one response, whole or streamed: no model writes so much, and nobody makes us hold more."""

MAX_ERROR_BYTES = 4 * 1024 * 1024
"""Bytes of a response that is not a success: it is held whole, to find out what it says."""

MAX_CHUNK_BYTES = 8 * 1024
"""Bytes of a stream that are taken at once. What is made of them, a few times as much, waits for a slow caller."""

DRAIN_SECONDS = 1.0
DRAIN_BYTES = 64 * 1024
"""What may follow a stream's last event before its connection is given up rather than kept alive."""


STREAM_BUFFER = 8 * 1024
"""Reading a stream pauses when more than twice this waits in memory, and begins again when less than this does."""

WHOLE_BUFFER = 256 * 1024
"""The same for whole answers."""


class RawHeaders(Protocol):
    """Headers by their names, in any case."""

    def get(self, name: str, default: str, /) -> str: ...


class RawContent(Protocol):
    """A body as it comes; what each method does is in `http1_client.py`. Raises Broken, OSError."""

    def read_nowait(self, count: int, /) -> bytes: ...

    async def read(self, count: int = -1, /) -> bytes: ...

    async def readany(self) -> bytes: ...

    def is_eof(self) -> bool: ...

    def at_eof(self) -> bool: ...

    def set_exception(self, error: Exception, /) -> None: ...


class RawResponse(Protocol):
    """A response whose head has arrived, of either client."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> RawHeaders: ...

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]: ...

    @property
    def content(self) -> RawContent: ...

    def release(self) -> object: ...

    def close(self) -> object: ...


class Upload(Protocol):
    """A body that is sent while it arrives. complete: all of it has arrived; failure: why it never will."""

    @property
    def complete(self) -> bool: ...

    @property
    def failure(self) -> GatewayError | None: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class ProxyRequest(Struct, frozen=True):
    """A request that is forwarded as it came. target: path and query string, encoded; headers: all but the key.

    A body of bytes can be sent again, an upload cannot. rename: returns the body with another name of its model, where
    it is no JSON.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes | Upload | None
    rename: Callable[[str], bytes | Upload] | None = None


class Interrupted(Exception):
    """The gateway is stopping, and this response had its time."""


class UpstreamResponse:
    """A response of Cohere's whose head has arrived.

    One timer watches all its reads: it is set when a read first has to wait, and compares the deadline of the current
    read only when it fires. A timer for each read would cost more than the reading.

    Deadlines are times of the loop's clock. first_deadline: of the first chunk; between: seconds from chunk to chunk;
    last_deadline: of the whole. forwarded: what it answers, where that was forwarded. retry_reasons: why Cohere was
    called more than once. memory: where a body that is read whole is counted. key_mask: hides the server's key, if that
    was used. repeats_key: the body is a compressed error that contains it. trace_id: Cohere's of the call, empty where
    there is none. on_close: called once, with the response.
    """

    def __init__(
        self,
        response: RawResponse,
        first_deadline: float,
        between: float,
        last_deadline: float = math.inf,
        forwarded: ProxyRequest | None = None,
    ) -> None:
        self._response, self._between, self._last_deadline = response, between, last_deadline
        self._deadline = self._first_deadline = min(first_deadline, last_deadline)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # uvloop's timer does not say so itself from the moment it is over
        self._forwarded = forwarded
        self._next_chunk: bytes | None = None
        self._body: bytes | None = None
        self._error: UpstreamError | None = None
        self._failure: Failure | None = None
        self.on_close: Callable[[UpstreamResponse], None] | None = None
        self.status = response.status
        self.trace_id = self.header(TRACE_HEADER)
        self.key_mask: KeyMask | None = None
        self.memory = UNLIMITED
        self.repeats_key = False
        self.retry_reasons: Sequence[str] = ()

    def header(self, name: str) -> str:
        """Returns a header's value; empty if it is missing or not printable ASCII."""
        value = self._response.headers.get(name, "")
        # Such a value goes into our log and into headers of ours. Line breaks in it could forge both.
        return value if value.isascii() and value.isprintable() else ""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """All headers as they came."""
        return self._response.raw_headers

    @property
    def at_eof(self) -> bool:
        """Whether the last chunk has been read."""
        if self._next_chunk is not None or self._error is not None:
            return False
        return self._body is not None or self._response.content.at_eof()

    async def read_first_chunk(self) -> None:
        """Waits for the first chunk, which `read_chunk` then returns. Raises UpstreamError if there is none, unless
        the response may have no body.
        """
        # HEAD and 204 have no body; only what was forwarded can be such a response.
        self._next_chunk = await self.read_chunk()
        if not self._next_chunk and self._forwarded is None:
            raise UpstreamError(failure("cut", "Cohere's answer ended before it began"), cause="cut")

    async def read_chunk(self) -> bytes:
        """Returns what has arrived of the body, MAX_CHUNK_BYTES at most; empty at the end.

        Raises UpstreamError when it breaks or stalls.
        """
        if self._next_chunk is not None:
            chunk, self._next_chunk = self._next_chunk, None
            return chunk
        return self.masked(await self._read_chunk(MAX_CHUNK_BYTES))

    async def _read_chunk(self, count: int) -> bytes:
        """Returns the next chunk as it came, so many bytes at most. Raises UpstreamError."""
        if self._error is not None:
            raise self._error
        if self._body is not None:
            return b""
        content = self._response.content
        try:
            # What has arrived is taken without a deadline: nobody waits for Cohere.
            if chunk := content.read_nowait(count):
                self._first_deadline = 0.0
                return chunk
            loop = asyncio.get_running_loop()
            # Until the first chunk the deadline is the first event's; between chunks it starts anew.
            self._deadline = self._first_deadline or min(loop.time() + self._between, self._last_deadline)
            # A timer that fires too early looks at the deadline and sets itself again; only one that would fire too
            # late is replaced.
            if self._timer_at > self._deadline:
                self._set_timer(self._deadline)
            chunk = await content.read(count)
            # Nobody waits for Cohere now; a caller who reads for ever is bounded all the same.
            self._deadline, self._first_deadline = self._last_deadline, 0.0
            return chunk
        except (http1_client.Broken, OSError, Interrupted) as error:
            raise connection_error(error) from error

    def masked(self, data: bytes) -> bytes:
        """Returns a piece of the body without the server's key."""
        return self.key_mask.apply(data) if self.key_mask is not None else data

    def interrupt(self) -> None:
        """Fails the read that is waiting, and later ones, with the error of a gateway that is stopping."""
        self._response.content.set_exception(Interrupted())

    def _on_timer(self) -> None:
        """Fails the read that is waiting if its deadline has passed."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= self._deadline:
            self._response.content.set_exception(TimeoutError())
            return
        # Not at a far deadline, as the last one is: the next read has less time, and would replace the timer.
        self._set_timer(min(self._deadline, now + self._between))

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = asyncio.get_running_loop().call_at(when, self._on_timer), when

    async def read_body(self) -> bytes:
        """Returns the body, as often as it is called; `read_chunk` then returns it once more. Raises UpstreamError.

        Raises CallerError where it takes more memory than there is for this caller.
        """
        if self._body is None:
            content = self._response.content
            if content.is_eof() and self._next_chunk is None:
                # All of it is here already, so no deadline can pass.
                self._body = self.masked(await content.read())
            else:
                chunks: list[bytes] = []
                await self._collect(chunks, MAX_RESPONSE_BYTES)
                self._body = self.masked(b"".join(chunks))
            self._next_chunk = self._body or None
        return self._body

    async def _collect(self, chunks: list[bytes], limit: int) -> None:
        gathering = Gathering(self.memory, answer=True)
        try:
            chunk, self._next_chunk = self._next_chunk or await self._read_chunk(WHOLE_READ_BYTES), None
            while chunk:
                chunks.append(chunk)
                gathering.add(len(chunk))
                limit -= len(chunk)
                # The body is thrown away, not cut: half of an answer is no answer.
                if limit < 0:
                    raise UpstreamError(failure("cut", "Cohere's answer is too large"))
                chunk = await self._read_chunk(WHOLE_READ_BYTES)
        except BaseException:
            gathering.discard()
            raise

    async def error_body(self) -> bytes:
        """Returns the body of a response that is not a success, uncompressed; empty if it breaks off, as the status has
        said enough. `read_chunk` then returns what there is of it, as it came, and raises what broke it.
        """
        if self._body is None:
            chunks: list[bytes] = []
            try:
                await self._collect(chunks, MAX_ERROR_BYTES)
            except UpstreamError as error:
                self._error = error
            self._body = self.masked(b"".join(chunks))
            self._next_chunk = self._body or None
        # An error whose body broke off is told by its status alone.
        if self._error is not None:
            return b""
        compressed = self._forwarded is not None and self.header("content-encoding").lower() == "gzip"
        return _decompress(self._body) if compressed else self._body

    async def failure(self, own_key: bool) -> Failure:
        """Returns what the caller is told of a response that is not a success; it is parsed once.

        own_key: the key was the caller's own, so they are told what is wrong with it.
        """
        if self._failure is None:
            body = await self.error_body()
            masked = self.masked(body)
            self.repeats_key = masked != body
            self._failure = upstream_errors.upstream_failure(self.status, masked, own_key)
        return self._failure

    async def raise_for_status(self, own_key: bool) -> None:
        """Raises UpstreamError if Cohere did not do what it was asked for. own_key: as in `failure`."""
        if self.status != 200:
            raise UpstreamError(await self.failure(own_key), retry_after_header(self.header("retry-after")))

    async def drain(self) -> None:
        """Reads what follows a stream's last event, within bounds, so that the connection can be used again."""
        content = self._response.content
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not content.at_eof() and left > 0:
                    left -= len(await content.readany())
        except (http1_client.Broken, OSError, Interrupted):
            return

    def close(self) -> None:
        """Keeps the connection if the body is at its end, else cuts it."""
        if self.on_close is not None:
            self.on_close(self)
            self.on_close = None
        if self._timer is not None:
            self._timer.cancel()
        upload = self._forwarded.body if self._forwarded is not None else None
        # Where an upload broke off, the other side still waits for the rest of it, and would take the next request
        # for that.
        if self._response.content.at_eof() and (upload is None or isinstance(upload, bytes) or upload.complete):
            self._response.release()
        else:
            self._response.close()


def _decompress(body: bytes) -> bytes:
    """Returns a gzip body's text, at most MAX_ERROR_BYTES of it; empty if it is not gzip."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, MAX_ERROR_BYTES)
    except zlib.error:
        return b""


def connection_error(error: Exception) -> UpstreamError:
    """Returns what a caller is told of a failed connection: never an address, never a key."""
    if isinstance(error, http1_client.ConnectTimeout):
        return UpstreamError(failure("silent", "Cohere could not be reached in time"), cause="unreachable")
    if isinstance(error, TimeoutError):
        return UpstreamError(failure("silent", "Cohere did not answer in time"), cause="silent")
    if isinstance(error, http1_client.Unreachable):
        # The look-up of a name needs a descriptor as well, and its error has no errno of the system's.
        if error.errno in descriptors.EXHAUSTED_ERRNOS or descriptors.exhausted():
            message = "The gateway has no file descriptor left for a call to Cohere; try again in a moment"
            return UpstreamError(failure("no_descriptors", message), "1", cause="descriptors")
        return UpstreamError(failure("unreachable", "Cohere could not be reached"), cause="unreachable")
    if isinstance(error, Interrupted):
        return shutdown_error()
    # A ValueError is a request that cannot be sent, now or later.
    cause = "" if isinstance(error, ValueError) else "cut"
    return UpstreamError(failure("cut", "The connection to Cohere broke before the answer was complete"), cause=cause)


def shutdown_error() -> UpstreamError:
    """Returns what callers are told whose calls a stopping gateway ends."""
    return UpstreamError(failure("stopping", "The gateway is stopping and cannot wait any longer"))
