"""One session to Cohere for the life of the process.

A `Reply` is open from its head on; whoever opened it closes it, at once if it is not at its end, so that
Cohere stops writing what nobody will read. Redirects are not followed and no cookie is kept: the only host
ever dialled is the configured one.
"""

import asyncio
import io
import math
import ssl
from types import TracebackType
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from gateway import __version__
from gateway.errors import UpstreamError, failure
from gateway.settings import Timeouts
from gateway.upstream.connector import Connector

USER_AGENT = f"cohere-gateway/{__version__}"
TRACE_HEADER = "x-debug-trace-id"

READ_BUFFER = 256 * 1024
"""Bytes of an answer that wait in memory for a slow caller before reading from Cohere pauses (twice this)."""

LARGE_BODY = 1024 * 1024

DRAIN_SECONDS = 1.0
DRAIN_BYTES = 64 * 1024
"""What may follow a stream's last event before its connection is given up rather than kept alive."""


class Reply:
    """An answer of Cohere's whose head has come.

    One timer watches all its reads: it is set when a read first has to wait, and looks at the deadline of the
    read in hand only when it fires. A timer for each read would cost more than the reading.
    """

    def __init__(self, response: aiohttp.ClientResponse, first_deadline: float, between: float) -> None:
        self._response, self._between = response, between
        self._deadline = self._first_deadline = first_deadline
        self._timer: asyncio.TimerHandle | None = None
        self.status = response.status

    def header(self, name: str) -> str:
        """A header's value; empty if it is missing, or not fit to be shown."""
        value = self._response.headers.get(name, "")
        return value if value.isascii() and value.isprintable() else ""

    async def read(self) -> bytes:
        """What has arrived; empty at the end. Raises UpstreamError when it breaks or falls silent."""
        content = self._response.content
        try:
            if block := content.read_nowait():
                self._first_deadline = 0.0
                return block
            loop = asyncio.get_running_loop()
            # Until the first piece the deadline is the first event's; between pieces it starts anew.
            self._deadline = self._first_deadline or loop.time() + self._between
            if self._timer is None or self._timer.when() > self._deadline:
                self._set_timer(self._deadline)
            block = await content.readany()
            self._deadline, self._first_deadline = math.inf, 0.0
            return block
        except (aiohttp.ClientError, OSError) as error:
            raise _broken(error) from error

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
        """The rest of the body. Raises UpstreamError."""
        content = self._response.content
        if content.is_eof():
            return await content.read()
        blocks = []
        while block := await self.read():
            blocks.append(block)
        return b"".join(blocks)

    async def drain(self) -> None:
        """Reads to the end of a body that is over but for its framing, so that the connection can serve again."""
        content = self._response.content
        left = DRAIN_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not content.at_eof() and left > 0:
                    left -= len(await content.readany())
        except (TimeoutError, aiohttp.ClientError, OSError):
            return

    def close(self) -> None:
        """Keeps the connection if the body is at its end, else cuts it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class Opening:
    """`async with upstream.post(...) as reply`: the reply is closed on every way out."""

    def __init__(self, upstream: "Upstream", method: str, path: str, key: str, body: bytes | None, streamed: bool):
        self._upstream, self._method, self._path = upstream, method, path
        self._key, self._body, self._streamed = key, body, streamed
        self._reply: Reply | None = None

    async def __aenter__(self) -> Reply:
        self._reply = await self._upstream.open(self._method, self._path, self._key, self._body, self._streamed)
        return self._reply

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reply is not None:
            self._reply.close()


class Upstream:
    """Cohere, or what stands in its place."""

    def __init__(self, base_url: str, timeouts: Timeouts) -> None:
        self._base_url, self._timeouts = base_url, timeouts
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Opens the session; needs the running loop."""
        self._session = aiohttp.ClientSession(
            connector=Connector(limit=0, ssl=ssl.create_default_context()),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": USER_AGENT},
            read_bufsize=READ_BUFFER,
            proxy=_proxy(self._base_url),
        )

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    def post(self, path: str, key: str, body: bytes, streamed: bool) -> Opening:
        return Opening(self, "POST", path, key, body, streamed)

    def get(self, path: str, key: str) -> Opening:
        return Opening(self, "GET", path, key, None, False)

    async def open(self, method: str, path: str, key: str, body: bytes | None, streamed: bool) -> Reply:
        """Sends a request and waits for the answer's head. Raises UpstreamError."""
        assert self._session is not None, "start() comes first"
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            headers["content-type"] = "application/json"
        # A compressed stream would be held back by whoever compresses it; a whole answer is cheaper so.
        headers["accept"] = "text/event-stream" if streamed else "application/json"
        headers["accept-encoding"] = "identity" if streamed else "gzip"
        deadline = asyncio.get_running_loop().time() + self._timeouts.first_event
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.request(
                    method, self._base_url + path, data=_payload(body), headers=headers, allow_redirects=False
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _broken(error) from error
        return Reply(response, deadline, self._timeouts.between_events)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """aiohttp warns of large bytes, which it would write in one go: it reads a file piece by piece."""
    return body if body is None or len(body) <= LARGE_BODY else io.BytesIO(body)


def _proxy(base_url: str) -> str | None:
    """The environment's proxy for this address, looked up once: aiohttp's own `trust_env` would do it each time."""
    parts = urlsplit(base_url)
    if proxy_bypass(parts.hostname or ""):
        return None
    return getproxies().get(parts.scheme)


def _broken(error: Exception) -> UpstreamError:
    """What a caller is told of a connection's trouble: never an address, never a key."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamError(failure("silent", "Cohere could not be reached in time"))
    if isinstance(error, TimeoutError):
        return UpstreamError(failure("silent", "Cohere did not answer in time"))
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamError(failure("unreachable", "Cohere could not be reached"))
    return UpstreamError(failure("cut", "The connection to Cohere broke before the answer was complete"))
