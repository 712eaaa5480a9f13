"""Calls to Cohere by aiohttp: through a proxy, with a body that is still arriving, and HEAD. All others: `session.py`.

What it raises is raised in the words of `http1_client.py`, so that nobody else knows two clients.
"""

import asyncio
import io
import math
import ssl
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import aiohttp
from yarl import URL

from gateway.errors import UpstreamError, failure
from gateway.observability.call_controls import Headers
from gateway.settings.schema import Timeouts
from gateway.upstream.connector import Connector, limit_reads
from gateway.upstream.http1_client import Broken, ConnectTimeout, Exchange, Unreachable
from gateway.upstream.response import (
    STREAM_BUFFER,
    WHOLE_BUFFER,
    ProxyRequest,
    Upload,
    UpstreamResponse,
    connection_error,
)

LARGE_BODY = 1024 * 1024
"""Bytes above which a request's body is given to aiohttp as a file, which it writes piece by piece."""

SKIPPED_HEADERS = ("accept", "accept-encoding", "content-type", "user-agent")
"""Headers that aiohttp would add to a request which is forwarded as it came."""


class AiohttpSession:
    """Cohere, or what stands in its place. Its methods are those of `UpstreamSession`.

    headers: of every request, by lower-case name. user_agent: where neither they nor the caller have one. proxy: its
    address, None for none.
    """

    def __init__(
        self,
        base_url: str,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        user_agent: str,
        tls: ssl.SSLContext,
        proxy: str | None,
    ) -> None:
        """Needs the running loop."""
        self._base_url, self._timeouts, self._headers = base_url, timeouts, headers
        self._encoded_base = str(URL(base_url)).rstrip("/")
        self._session = aiohttp.ClientSession(
            # No limit of aiohttp's: `ConcurrencyLimiter` says how many calls there are at once.
            connector=Connector(limit=0, ssl=tls),
            # Nor a total time: each call has its own deadline, as with the other client.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"user-agent": user_agent, **headers},
            proxy=proxy,
            trace_configs=[_tracing()],
        )

    async def stop(self) -> None:
        """Closes the session and its connections."""
        await self._session.close()

    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None,
        streamed: bool,
        key: str,
        last_deadline: float,
        extra_headers: Headers,
        exchange: Exchange | None = None,
    ) -> UpstreamResponse:
        """Sends a request and waits for the response's head. Raises UpstreamError."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if body is not None:
            headers["content-type"] = "application/json"
        # A compressed stream would be held back by whoever compresses it; a whole response is cheaper so.
        headers["accept"] = "text/event-stream" if streamed else "application/json"
        headers["accept-encoding"] = "identity" if streamed else "gzip"
        if extra_headers:
            headers.update(extra_headers)
        deadline = min(asyncio.get_running_loop().time() + self._timeouts.first_event, last_deadline)
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._session.request(
                    method,
                    self._base_url + path,
                    data=_payload(body),
                    headers=headers,
                    allow_redirects=False,
                    read_bufsize=STREAM_BUFFER if streamed else WHOLE_BUFFER,
                    trace_request_ctx=exchange,
                )
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise connection_error(_error_of(error)) from error
        limit_reads(response, streamed)
        return UpstreamResponse(_Response(response), deadline, self._timeouts.between_events, last_deadline)

    async def forward(
        self,
        request: ProxyRequest,
        key: str,
        last_deadline: float,
        extra_headers: Headers,
        exchange: Exchange | None = None,
    ) -> UpstreamResponse:
        """Sends a caller's request and waits for the response's head. Raises GatewayError."""
        loop = asyncio.get_running_loop()
        # The operator's headers belong to every request: no caller puts others in their place.
        headers = [pair for pair in request.headers if pair[0] not in self._headers]
        headers += extra_headers
        if key:
            headers.append(("authorization", f"Bearer {key}"))
        body, sending = request.body, None
        upload = None
        if not (body is None or isinstance(body, bytes)):
            # The total time would end an upload that is slow but moves: its pieces are timed one by one.
            upload, last_deadline = body, math.inf
        try:
            first = min(loop.time() + self._timeouts.first_event, last_deadline)
            async with asyncio.timeout_at(first) as clock:
                data: _TimedUpload | bytes | io.BytesIO | None
                if body is None or isinstance(body, bytes):
                    data = _payload(body)
                else:
                    data = sending = _TimedUpload(body, clock, self._timeouts, exchange)
                response = await self._session.request(
                    request.method,
                    # Encoded already: what is escaped stays so, and nothing in it can be another host.
                    URL(self._encoded_base + request.target, encoded=True),
                    data=data,
                    headers=headers,
                    skip_auto_headers=SKIPPED_HEADERS,
                    allow_redirects=False,
                    # As it came, with its `content-encoding`: the caller unpacks it.
                    auto_decompress=False,
                    read_bufsize=STREAM_BUFFER,
                    # An upload says by itself when all of it is sent. The head's being sent says nothing of it.
                    trace_request_ctx=exchange if sending is None else None,
                )
                if sending is not None:
                    # The clock stops with the block. To set it again later would be a RuntimeError, in the upload.
                    sending.has_response = True
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if upload is not None and upload.failure is not None:
                raise upload.failure from error
            raise connection_error(_error_of(error)) from error
        if response.status < 200:
            # An upgrade that nobody has asked for: what follows it is not HTTP.
            response.close()
            raise UpstreamError(failure("cut", "Cohere switched protocols without a request to do so"))
        limit_reads(response, streamed=True)
        # None while a piece of the caller's is waited for: Cohere has answered before it had all of them.
        deadline = clock.when() or loop.time() + self._timeouts.first_event
        return UpstreamResponse(_Response(response), deadline, self._timeouts.between_events, last_deadline, request)


def _tracing() -> aiohttp.TraceConfig:
    """Returns what notices that a request's head was sent; its body is on its way then."""

    async def on_sent(
        _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceRequestHeadersSentParams
    ) -> None:
        if context.trace_request_ctx is not None:
            context.trace_request_ctx.is_sent = True

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(on_sent)
    return tracing


class _Response:
    """A response of aiohttp's."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status, self.headers = response.status, response.headers
        self.content = _Content(response.content)

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._response.raw_headers

    def release(self) -> None:
        self._response.release()

    def close(self) -> None:
        self._response.close()


class _Content:
    """The body of such a response."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self.is_eof, self.at_eof, self.set_exception = content.is_eof, content.at_eof, content.set_exception

    def read_nowait(self, count: int) -> bytes:
        try:
            return self._content.read_nowait(count)
        except aiohttp.ClientError as error:
            raise Broken(str(error)) from error

    async def read(self, count: int = -1) -> bytes:
        try:
            return await self._content.read(count)
        except aiohttp.ClientError as error:
            raise Broken(str(error)) from error

    async def readany(self) -> bytes:
        try:
            return await self._content.readany()
        except aiohttp.ClientError as error:
            raise Broken(str(error)) from error


def _error_of(error: Exception) -> Exception:
    """Returns an error of aiohttp's as the other client's."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return ConnectTimeout(str(error))
    if isinstance(error, aiohttp.ClientConnectorError):
        return Unreachable(error.errno, str(error))
    return Broken(str(error)) if isinstance(error, aiohttp.ClientError) else error


class _TimedUpload:
    """An upload as aiohttp sends it. It moves the deadline of the call: the caller's slowness is timed where its pieces
    come from, Cohere's here.
    """

    def __init__(self, upload: Upload, clock: asyncio.Timeout, timeouts: Timeouts, exchange: Exchange | None) -> None:
        self._pieces, self._clock, self._timeouts, self._exchange = aiter(upload), clock, timeouts, exchange
        self.has_response = False

    def __aiter__(self) -> "_TimedUpload":
        return self

    async def __anext__(self) -> bytes:
        """Returns the next piece. To ask for it is to have taken the one before."""
        self._reschedule(None)
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._reschedule(self._timeouts.first_event)
            if self._exchange is not None:
                self._exchange.is_sent = True
            raise
        self._reschedule(self._timeouts.between_events)
        return piece

    def _reschedule(self, seconds: float | None) -> None:
        if not self.has_response:
            self._clock.reschedule(None if seconds is None else asyncio.get_running_loop().time() + seconds)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    """Returns a body as aiohttp takes it without a warning."""
    return body if body is None or len(body) <= LARGE_BODY else io.BytesIO(body)
