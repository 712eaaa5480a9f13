"""An answer of Cohere's whose head has come, and what it answers.

A `UpstreamResponse` is open from its head on; whoever opened it closes it, at once if it is not at its end, so that
Cohere stops writing what nobody will read.
"""

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import aiohttp
from msgspec import Struct

from gateway.errors import GatewayError, UpstreamError, failure
from translators.core.errors import Failure
from translators.core.upstream_errors import refusal

TRACE_HEADER = "x-debug-trace-id"

LARGEST_ANSWER = 256 * 1024 * 1024
"""Bytes of one answer, whole or streamed, that is kept: no model writes so much, and nobody makes us hold more."""

LARGEST_REFUSAL = 4 * 1024 * 1024
"""Bytes of an answer that is none: it is held whole, to find out what it says."""

DRAIN_SECONDS = 1.0
DRAIN_BYTES = 64 * 1024
"""What may follow a stream's last event before its connection is given up rather than kept alive."""


class Upload(Protocol):
    """A body that is sent while it comes. `over`: all of it has come; `failure`: why it will never be whole."""

    @property
    def over(self) -> bool: ...

    @property
    def failure(self) -> GatewayError | None: ...

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class ProxyRequest(Struct, frozen=True):
    """A request that is passed on as it came. target: path and query string, encoded; headers: all but the key.

    A body of bytes can be sent again, an upload cannot.
    """

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes | Upload | None


class Interrupted(Exception):
    """The gateway is stopping and this answer had its time."""


class UpstreamResponse:
    """An answer of Cohere's whose head has come.

    One timer watches all its reads: it is set when a read first has to wait, and looks at the deadline of the
    read in hand only when it fires. A timer for each read would cost more than the reading.

    retried: why Cohere was asked more than once. last_deadline: when the answer must be complete. passage: what it
    answers, where that was passed on.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        first_deadline: float,
        between: float,
        last_deadline: float = math.inf,
        passage: ProxyRequest | None = None,
    ) -> None:
        self._response, self._between, self._last_deadline = response, between, last_deadline
        self._deadline = self._first_deadline = min(first_deadline, last_deadline)
        self._timer: asyncio.TimerHandle | None = None
        self._passage = passage
        self._ahead: bytes | None = None
        self._whole: bytes | None = None
        self._broke: UpstreamError | None = None
        self._failure: Failure | None = None
        self.closing: Callable[[UpstreamResponse], None] | None = None
        self.status = response.status
        self.retried: Sequence[str] = ()

    def header(self, name: str) -> str:
        """A header's value; empty if it is missing, or not fit to be shown."""
        value = self._response.headers.get(name, "")
        return value if value.isascii() and value.isprintable() else ""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """All headers as they came."""
        return self._response.raw_headers

    @property
    def over(self) -> bool:
        """What was read last was the last."""
        if self._ahead or self._broke is not None:
            return False
        return self._whole is not None or self._response.content.at_eof()

    async def begin(self) -> None:
        """Waits for the body's first piece, which `read` then returns. Raises UpstreamError if there is none, unless
        the answer may have none.
        """
        self._ahead = await self.read()
        if not self._ahead and self._passage is None:
            raise UpstreamError(failure("cut", "Cohere's answer ended before it began"), cause="cut")

    async def read(self) -> bytes:
        """What has arrived; empty at the end. Raises UpstreamError when it breaks or falls silent."""
        if self._ahead is not None:
            block, self._ahead = self._ahead, None
            return block
        if self._broke is not None:
            raise self._broke
        if self._whole is not None:
            return b""
        content = self._response.content
        try:
            if block := content.read_nowait():
                self._first_deadline = 0.0
                return block
            loop = asyncio.get_running_loop()
            # Until the first piece the deadline is the first event's; between pieces it starts anew.
            self._deadline = self._first_deadline or min(loop.time() + self._between, self._last_deadline)
            if self._timer is None or self._timer.when() > self._deadline:
                self._set_timer(self._deadline)
            block = await content.readany()
            # Nobody waits for Cohere now; a caller who reads for ever is bounded all the same.
            self._deadline, self._first_deadline = self._last_deadline, 0.0
            return block
        except (aiohttp.ClientError, OSError, Interrupted) as error:
            raise broken(error) from error

    def interrupt(self) -> None:
        """Whoever reads is told that the gateway is stopping."""
        self._response.content.set_exception(Interrupted())

    def _look(self) -> None:
        """The timer: too late for the read in hand, or not yet, or nobody is reading."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now >= self._deadline:
            self._response.content.set_exception(TimeoutError())
            return
        self._set_timer(min(self._deadline, now + self._between))

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._look)

    async def whole(self) -> bytes:
        """The rest of the body, as often as it is asked for, and `read` once more. Raises UpstreamError."""
        if self._whole is None:
            content = self._response.content
            if content.is_eof() and self._ahead is None:
                self._whole = await content.read()
            else:
                blocks: list[bytes] = []
                await self._collect(blocks, LARGEST_ANSWER)
                self._whole = b"".join(blocks)
            self._ahead = self._whole or None  # for who reads it as it comes
        return self._whole

    async def _collect(self, blocks: list[bytes], most: int) -> None:
        while block := await self.read():
            blocks.append(block)
            most -= len(block)
            if most < 0:
                raise UpstreamError(failure("cut", "Cohere's answer is too large to be true"))

    async def failure(self, own_key: bool) -> Failure:
        """Returns what the caller is told of a response that is not a success; it is parsed once.

        own_key: the key was the caller's own, so they are told what is wrong with it.
        """
        if self._failure is None:
            self._failure = refusal(self.status, await self.said(), own_key)
        return self._failure

    async def raise_for_status(self, own_key: bool) -> None:
        """Raises UpstreamError if Cohere did not do what it was asked for. own_key: as in `failure`."""
        if self.status != 200:
            raise UpstreamError(await self.failure(own_key), self.header("retry-after") or None)

    async def said(self) -> bytes:
        """The body of a refusal, as text. If it breaks off, the status has said enough; who reads it as it comes has
        what there is of it, and then its end.
        """
        if self._whole is None:
            blocks: list[bytes] = []
            try:
                await self._collect(blocks, LARGEST_REFUSAL)
            except UpstreamError as error:
                self._broke = error
            self._whole = b"".join(blocks)
            self._ahead = self._whole or None
        if self._broke is not None:
            return b""
        packed = self._passage is not None and self.header("content-encoding").lower() == "gzip"
        return _unpacked(self._whole) if packed else self._whole

    async def drain(self) -> None:
        """Reads to the end of a body that is over but for its framing, so that the connection can serve again."""
        content = self._response.content
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not content.at_eof() and left > 0:
                    left -= len(await content.readany())
        except (TimeoutError, aiohttp.ClientError, OSError, Interrupted):
            return

    def close(self) -> None:
        """Keeps the connection if the body is at its end, else cuts it."""
        if self.closing is not None:
            self.closing(self)
            self.closing = None
        if self._timer is not None:
            self._timer.cancel()
        upload = self._passage.body if self._passage is not None else None
        if self._response.content.at_eof() and (upload is None or isinstance(upload, bytes) or upload.over):
            self._response.release()
        else:
            self._response.close()


def _unpacked(body: bytes) -> bytes:
    """What an answer says that is passed on compressed; nothing, if it is not what it claims to be."""
    try:
        return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body, LARGEST_REFUSAL)
    except zlib.error:
        return b""


def broken(error: Exception) -> UpstreamError:
    """What a caller is told of a connection's trouble: never an address, never a key."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError(failure("silent", "Cohere could not be reached in time"), cause="unreachable")
    if isinstance(error, TimeoutError):
        return UpstreamError(failure("silent", "Cohere did not answer in time"), cause="silent")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError(failure("unreachable", "Cohere could not be reached"), cause="unreachable")
    if isinstance(error, Interrupted):
        return stopping()
    # A ValueError is a request that cannot be sent: it would be no other the next time.
    cause = "" if isinstance(error, ValueError) else "cut"
    return UpstreamError(failure("cut", "The connection to Cohere broke before the answer was complete"), cause=cause)


def stopping() -> UpstreamError:
    return UpstreamError(failure("stopping", "The gateway is stopping and cannot wait any longer"))
