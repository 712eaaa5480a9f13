"""An HTTP/1.1 client for one host, over TCP or TLS: httptools reads, and little is done for each request.

aiohttp's session costs as much for each call as all of the translation: it makes a URL, a request, a cookie jar's
headers, a response, timers and trace points for each (docs/decisions.md). It is kept for what this client does not do:
proxies, uploads that are still arriving, and HEAD (`session.py`).

A connection is used again if its response was read to its end and nothing came behind it. New ones are made to the
addresses that the resolver names, anew after DNS_SECONDS. Nothing is pipelined.
"""

import asyncio
import functools
import ssl
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from socket import AddressFamily, SocketKind
from typing import Protocol, TypeAlias

import aiohappyeyeballs
import httptools

STREAM_READ_BYTES = 16 * 1024
"""Bytes of a stream that are read from its connection at once."""

TLS_READ_BYTES = 32 * 1024
"""The same with TLS, of both. It has records of 16 KiB."""

WHOLE_READ_BYTES = 256 * 1024
"""The same of a whole answer: asyncio's default."""

IDLE_SECONDS = 15.0
"""A connection that was not used for so long is closed: whoever is in between may have forgotten it."""

DNS_SECONDS = 10.0
"""For so long the addresses of the host are those that the resolver named last."""

HAPPY_EYEBALLS_SECONDS = 0.25
"""After so long without a connection the next address is tried beside it (RFC 8305 §5)."""

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a response's head, and of the trailers behind it."""

WRITE_BLOCK = 64 * 1024
"""Bytes of a request's body that are handed to the connection at once: what it cannot take it copies."""

Address: TypeAlias = tuple[AddressFamily, SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Exchange(Protocol):
    """A request and its response, for whoever follows them. is_sent: the connection has all of the request."""

    is_sent: bool


class Unreachable(OSError):
    """No connection came about."""


class ConnectTimeout(Exception):
    """No connection came about in time."""


class Broken(Exception):
    """The connection broke, or what came over it is not HTTP."""


def encode_head(headers: Iterable[tuple[str, str]], request_line: str = "") -> bytes:
    """Returns a request's head, or the end of one without its line. Raises ValueError on a line end within a line.

    What follows a line end would be a header, or a request, that nobody has looked at.
    """
    lines = [f"{name}: {value}" for name, value in headers]
    if request_line:
        lines.insert(0, request_line)
    if not lines:
        return b"\r\n"
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a line end in a line of the head")
    return f"{text}\r\n\r\n".encode()


class Headers:
    """The headers of a response."""

    __slots__ = ("by_name", "raw")

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        """raw: as they came, the names in lower case. by_name: of a repeated one the first counts."""
        self.raw = raw
        self.by_name = dict(reversed(raw))

    def get(self, name: str, default: str) -> str:
        """Returns a header's value. name: in any case."""
        value = self.by_name.get(name.lower().encode())
        return default if value is None else value.decode("utf-8", "surrogateescape")


class Body:
    """The body of a response as a stream. It is read by one task.

    limit: bytes; when more than twice as many wait here, nothing more is read, until fewer than this wait. decoder: of
    a compressed body.
    """

    # Lists, where little is in them nearly always: an empty `deque` takes 700 bytes.
    __slots__ = ("_chunks", "_connection", "_decoder", "_eof", "_error", "_limit", "_paused", "_size", "_waiter")

    def __init__(self, connection: "Connection", limit: int, decoder: "Decoder | None") -> None:
        self._connection, self._limit, self._decoder = connection, limit, decoder
        self._chunks: list[bytes | memoryview] = []
        self._size = 0
        self._eof = self._paused = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    # --- what the connection calls -------------------------------------------------------------------------

    def feed(self, pieces: Sequence[bytes]) -> None:
        """Takes what has come in one read: each of Cohere's events is a piece of its own."""
        if self._error is not None:
            return  # what waited was discarded, so that this would follow a gap
        data = b"".join(pieces)
        self._chunks.append(data)
        self._size += len(data)
        if self._size > 2 * self._limit and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def feed_eof(self) -> None:
        """Takes note that all has come."""
        if self._error is None:
            self._eof = True
            self.wake()

    def wake(self) -> None:
        """Wakes who reads."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Ends the body behind what has come of it."""
        if not self._eof and self._error is None:
            self._error = error
            self.wake()

    # --- what readers call ---------------------------------------------------------------------------------

    def set_exception(self, error: Exception) -> None:
        """Fails the read that is waiting, and later ones."""
        self._chunks.clear()
        self._size, self._eof, self._error = 0, False, error
        self.wake()

    @property
    def complete(self) -> bool:
        """Tells whether all has come, read or not."""
        return self._eof

    def is_eof(self) -> bool:
        """Tells whether all of it waits here, so that no read waits or fails."""
        return self._eof and self._decoder is None

    def at_eof(self) -> bool:
        """Tells whether all was read."""
        return self._eof and not self._size and (self._decoder is None or self._decoder.at_eof)

    def read_nowait(self, count: int = -1) -> bytes:
        """Returns what waits here, so many bytes at most; empty if there is nothing. Raises what has broken it."""
        if self._decoder is not None:
            return self._decode(self._decoder, count)
        if self._size:
            return self._take(count)
        if self._error is not None:
            raise self._error
        return b""

    async def read(self, count: int = -1) -> bytes:
        """Waits for something, and returns it; empty at the end. Without a count it returns all of the rest."""
        if self._eof and self._decoder is None:
            return self._take(count)
        if count < 0:
            pieces: list[bytes] = []
            while piece := await self.read(self._limit):
                pieces.append(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        while not (data := self.read_nowait(count)) and not self.at_eof():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return data

    async def readany(self) -> bytes:
        """Waits for something, and returns all of it; empty at the end."""
        return await self.read(2 * self._limit)

    def _take(self, count: int) -> bytes:
        chunks = self._chunks
        if count < 0 or self._size <= count:
            data = b"".join(chunks)
            chunks.clear()
        else:
            whole, rest = 0, count
            while rest >= len(chunks[whole]):
                rest -= len(chunks[whole])
                whole += 1
            pieces = chunks[:whole]
            if rest:  # a view of the others: a copy for each piece would take quadratic time
                view = memoryview(chunks[whole])
                pieces.append(view[:rest])
                chunks[whole] = view[rest:]
            del chunks[:whole]
            data = b"".join(pieces)
        self._size -= len(data)
        if self._paused and self._size < self._limit:
            self._paused = False
            self._connection.resume_reading()
        return data

    def _decode(self, decoder: "Decoder", count: int) -> bytes:
        """Returns so many uncompressed bytes: no more is unpacked than is read."""
        while True:
            data = decoder.decode(self._take(-1) if self._size else b"", count)
            if data:
                return data
            if self._error is not None:
                raise self._error
            if not self._size:
                if self._eof:
                    decoder.finish()
                return b""


class Decoder:
    """Unpacks a body. Raises Broken where it cannot be unpacked."""

    __slots__ = ("_begun", "_pending", "_unpacker")

    def __init__(self, encoding: bytes) -> None:
        """encoding: gzip or deflate."""
        # 16 more is zlib's way to say gzip. `deflate` is the format of zlib itself (RFC 9110 §8.4.1.2).
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS if encoding == b"gzip" else zlib.MAX_WBITS)
        self._pending, self._begun = b"", False

    @property
    def at_eof(self) -> bool:
        """Nothing is left to unpack."""
        return self._unpacker.eof or not self._pending

    def decode(self, data: bytes, count: int) -> bytes:
        """Returns what is in these bytes and those before, so many bytes at most."""
        self._begun = self._begun or bool(data)
        try:
            # Zero is no bound to zlib.
            unpacked = self._unpacker.decompress(self._pending + data, max(count, 0))
        except zlib.error as error:
            raise Broken("the response cannot be unpacked") from error
        self._pending = self._unpacker.unconsumed_tail
        return unpacked

    def finish(self) -> None:
        """Makes sure that the body was whole."""
        if self._begun and not self._unpacker.eof:
            raise Broken("the response's compression breaks off")


class Response:
    """A response whose head has arrived. Its body is `content`."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(self, connection: "Connection", status: int, headers: Headers, content: Body) -> None:
        self._connection = connection
        self.status, self.headers, self.content = status, headers, content

    @property
    def raw_headers(self) -> Sequence[tuple[bytes, bytes]]:
        """All headers, their names in lower case."""
        return self.headers.raw

    def release(self) -> None:
        """Keeps the connection for the next request, if it is clean."""
        self._connection.release()

    def close(self) -> None:
        """Cuts the connection, as nobody reads on."""
        self._connection.abort()


def _appends_to(headers: list[tuple[bytes, bytes]]) -> Callable[[bytes, bytes], None]:
    """Returns what a parser calls with each header: a function that needs no object is half of the work of a method."""
    append = headers.append

    def on_header(name: bytes, value: bytes) -> None:
        append((name.lower(), value))

    return on_header


class Connection(asyncio.BufferedProtocol):
    """One connection. It parses what comes into the memory of its client, which has one buffer for all of them."""

    __slots__ = (
        *("_body", "_buffer", "_clean", "_client", "_deadline", "_decoded", "_head", "_head_bytes", "_headers"),
        *("_in_use", "_keep_alive", "_limit", "_lost", "_parser", "_pieces", "_timer", "_timer_at", "_until_eof"),
        *("_writable", "idle_since", "on_body", "on_header", "transport"),
    )

    transport: asyncio.Transport

    def __init__(self, client: "Http1Client") -> None:
        self._client = client
        self._pieces: list[bytes] = []  # of the body, in the current read
        self.on_body = self._pieces.append  # what the parser calls: no step of ours for each piece
        self._headers: list[tuple[bytes, bytes]] = []  # of the head that is arriving, or behind the body
        self.on_header = _appends_to(self._headers)
        self._parser = httptools.HttpResponseParser(self)
        self._buffer = client.stream_buffer
        self._head: asyncio.Future[Response] | None = None  # the response that is waited for
        self._body: Body | None = None  # that is arriving
        self._head_bytes = 0
        self._limit = 0
        self._decoded = False
        self._until_eof = False  # the body ends with the connection
        self._clean = True  # nothing has come that was not the current response's
        self._keep_alive = True
        self._in_use = False
        self._lost = False
        self._writable: asyncio.Future[None] | None = None
        self._deadline = 0.0  # of the head that is waited for
        self._timer: asyncio.TimerHandle | None = (
            None  # one serves all requests: it looks at the deadline when it fires
        )
        self._timer_at = 0.0
        self.idle_since = 0.0

    # --- what the transport calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if hasattr(transport, "set_read_buffer_limits"):  # TLS: no more is decrypted ahead
            transport.set_read_buffer_limits(TLS_READ_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, count: int) -> None:
        if not self._in_use:
            # It would be the response to whoever uses the connection next.
            self.abort()
            return
        try:
            if self._body is None:
                self._head_bytes += count
            self._parser.feed_data(self._buffer[:count])
            if self._pieces:
                self._feed_pieces()
            if self._headers and self._body is not None:
                self._count_trailers()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, Broken):
            # What stands before the break belongs to the body, and is read before the error.
            self._feed_pieces()
            self._clean = False
            self._fail(Broken("the response is not HTTP"))
            # A body that was complete before is read to its end: only the connection is of no more use.
            if self._in_use and (self._body is None or not self._body.complete):
                self.abort()
            return
        body = self._body
        if body is not None:
            body.wake()
        elif self._head_bytes > MAX_HEAD_BYTES:
            self._fail(Broken("the response's head is too large"))
            self.abort()

    def eof_received(self) -> None:
        """Closes the connection, by returning nothing."""

    def connection_lost(self, error: Exception | None) -> None:
        self._lost, self._clean = True, False
        if self._timer is not None:
            self._timer.cancel()
        self._client.forget(self)
        if self._until_eof and error is None and self._body is not None:
            self._body.feed_eof()
        self._fail(Broken("the connection was closed in the middle of a response"))
        self.resume_writing()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._client.loop.create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # --- what the parser calls -----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._head is None or self._head.done():
            self._clean = False  # a second response
        self._headers.clear()

    def on_headers_complete(self) -> None:
        parser = self._parser
        status = parser.get_status_code()
        if status < 200 or self._head is None or self._head.done():
            return  # 100 and 103 come before the response
        self._keep_alive = parser.should_keep_alive()
        headers = Headers([*self._headers])
        self._headers.clear()
        by_name = headers.by_name
        coding = by_name.get(b"content-encoding", b"").lower() if self._decoded else b""
        decoder = Decoder(coding) if coding in (b"gzip", b"deflate") else None
        self._body = Body(self, self._limit, decoder)
        # What came of the body in the same read was counted as well. From here on only trailers count.
        self._head_bytes = 0
        framed = by_name.get(b"content-length") or by_name.get(b"transfer-encoding")
        # Of these two there is no body (RFC 9112 §6.3), whatever their heads say.
        self._until_eof = not framed and status not in (204, 304)
        self._head.set_result(Response(self, status, headers, self._body))

    def on_message_complete(self) -> None:
        self._feed_pieces()
        if self._body is not None:
            if self._headers:
                self._count_trailers()  # what it raises becomes an HttpParserError
            self._body.feed_eof()

    def _count_trailers(self) -> None:
        """Drops the headers behind a body. Raises Broken where they are too many."""
        self._head_bytes += sum(len(name) + len(value) for name, value in self._headers)
        self._headers.clear()
        if self._head_bytes > MAX_HEAD_BYTES:
            raise Broken("the response's trailers are too large")

    def _feed_pieces(self) -> None:
        """Hands on what the parser has found of the body."""
        pieces, body = self._pieces, self._body
        if pieces:
            if body is not None and not body.complete:
                body.feed(pieces)
            pieces.clear()

    # --- what the client calls -----------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """A request can be sent."""
        return self._clean and not self._lost and not self.transport.is_closing()

    async def request(
        self,
        head: bytes,
        body: bytes,
        deadline: float,
        limit: int,
        decoded: bool,
        streamed: bool,
        exchange: Exchange | None = None,
    ) -> Response:
        """Sends a request and waits for the response's head. Raises Broken, TimeoutError.

        deadline: of the head, as a time of the loop's clock. limit: of the body (`Body`). decoded: a compressed body is
        unpacked. streamed: little is read at once.
        """
        loop = self._client.loop
        self._in_use, self._body, self._head_bytes = True, None, 0
        self._limit, self._decoded, self._until_eof = limit, decoded, False
        self._buffer = self._client.stream_buffer if streamed else self._client.whole_buffer
        waiting = self._head = loop.create_future()
        self._watch(deadline)
        try:
            # Together, so that a request of the usual size is one segment, or one TLS record, and not two.
            if len(body) <= WRITE_BLOCK:
                self.transport.write(head + body)
                all_written = True
            else:
                self.transport.write(head)
                all_written = await self._write(body, waiting)
            if exchange is not None:
                exchange.is_sent = all_written
            response: Response = await waiting
            return response
        except BaseException:
            self.abort()
            raise

    def _watch(self, deadline: float) -> None:
        """Fails the head that is waited for when this time of the loop's clock has come."""
        self._deadline = deadline
        # A timer that fires too early sets itself again; only one that would fire too late is replaced.
        if self._timer is not None and self._timer_at > deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer, self._timer_at = self._client.loop.call_at(deadline, self._on_timer), deadline

    def _on_timer(self) -> None:
        self._timer = None
        if self._lost or self._head is None or self._head.done():
            return
        if self._client.loop.time() < self._deadline:
            self._watch(self._deadline)
        else:
            self._fail(TimeoutError())

    async def _write(self, body: bytes, waiting: "asyncio.Future[Response]") -> bool:
        """Writes a large body as the other side takes it, until a response comes. Returns whether all was written."""
        view = memoryview(body)
        for offset in range(0, len(body), WRITE_BLOCK):
            if waiting.done():
                # The rest is never sent: Cohere would read the next request as a part of this body.
                self._clean = False
                return False
            if self._writable is not None:
                await asyncio.wait((self._writable, waiting), return_when=asyncio.FIRST_COMPLETED)
            self.transport.write(view[offset : offset + WRITE_BLOCK])
        return True

    def pause_reading(self) -> None:
        if not self._lost:
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self._lost:
            self.transport.resume_reading()

    def release(self) -> None:
        """Gives the connection back to its client, or closes it."""
        if self._in_use:
            self._in_use = False
            if self.usable and self._keep_alive and not self._until_eof:
                self._client.keep(self)
            else:
                self.transport.close()

    def abort(self) -> None:
        """Cuts the connection."""
        self._in_use = self._clean = False
        self._client.forget(self)
        self.transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
        elif self._body is not None:
            self._body.fail(error)


class Http1Client:
    """Requests to one host.

    tls: None for plain TCP. connect_timeout: seconds for a new connection.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, connect_timeout: float) -> None:
        """Needs the running loop."""
        self._host, self._port, self._tls, self._connect_timeout = host, port, tls, connect_timeout
        self.loop = asyncio.get_running_loop()
        memory = memoryview(bytearray(WHOLE_READ_BYTES))
        # What was read is parsed before the next connection reads, so they share the memory for it.
        self.whole_buffer, self.stream_buffer = memory, memory[:STREAM_READ_BYTES]
        self._idle: deque[Connection] = deque()
        self._all: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._addresses: Sequence[Address] = ()
        self._resolved_at = 0.0
        self._resolving: asyncio.Task[Sequence[Address]] | None = None

    async def request(
        self,
        head: bytes,
        body: bytes,
        deadline: float,
        limit: int,
        decoded: bool,
        streamed: bool,
        exchange: Exchange | None = None,
    ) -> Response:
        """Sends a request, over a connection that is idle or a new one. Raises Unreachable, ConnectTimeout, Broken,
        TimeoutError. The parameters are those of `Connection.request`.
        """
        while self._idle:
            # The newest, so that those that are not needed at the load of the moment grow old and are closed.
            connection = self._idle.pop()
            if connection.usable:
                break
        else:
            connection = await self._connect(deadline)
        return await connection.request(head, body, deadline, limit, decoded, streamed, exchange)

    async def close(self) -> None:
        """Closes all connections."""
        if self._timer is not None:
            self._timer.cancel()
        # A copy, as each takes itself out of the set.
        for connection in [*self._all]:
            connection.abort()

    def keep(self, connection: Connection) -> None:
        """Keeps a connection for the next request."""
        connection.idle_since = self.loop.time()
        self._idle.append(connection)
        if self._timer is None:
            self._timer = self.loop.call_later(IDLE_SECONDS, self._close_idle)

    def forget(self, connection: Connection) -> None:
        """Takes out a connection that is lost."""
        self._all.discard(connection)

    def _close_idle(self) -> None:
        """Closes what was idle for too long; one timer serves all."""
        self._timer = None
        now = self.loop.time()
        while self._idle and (not self._idle[0].usable or self._idle[0].idle_since + IDLE_SECONDS <= now):
            connection = self._idle.popleft()
            if connection.usable:
                connection.transport.close()
        if self._idle:
            self._timer = self.loop.call_at(self._idle[0].idle_since + IDLE_SECONDS, self._close_idle)

    # --- new connections -----------------------------------------------------------------------------------

    async def _connect(self, deadline: float) -> Connection:
        try:
            async with asyncio.timeout_at(deadline):
                return await self._connect_in_time()
        except OSError as error:  # ssl.SSLError is one, TimeoutError, too
            if isinstance(error, TimeoutError):
                raise
            raise Unreachable(error.errno, str(error)) from error

    async def _connect_in_time(self) -> Connection:
        addresses = await self._resolve()
        try:
            async with asyncio.timeout(self._connect_timeout):
                socket = await aiohappyeyeballs.start_connection(
                    addresses, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, interleave=1, loop=self.loop
                )
                factory: Callable[[], Connection] = functools.partial(Connection, self)
                # asyncio allows no name without TLS, and insists on one with it where the socket is made already.
                server_hostname = self._host if self._tls is not None else None
                try:
                    _, connection = await self.loop.create_connection(
                        factory, sock=socket, ssl=self._tls, server_hostname=server_hostname
                    )
                except BaseException:
                    socket.close()
                    raise
        except TimeoutError as error:
            raise ConnectTimeout from error
        self._all.add(connection)
        return connection

    async def _resolve(self) -> Sequence[Address]:
        """Returns the host's addresses. Those who come while it is asked for wait for the same answer."""
        if self._addresses and self.loop.time() - self._resolved_at < DNS_SECONDS:
            return self._addresses
        if self._resolving is None:
            self._resolving = self.loop.create_task(self._look_up())
        # Shielded: one caller who leaves must not take the answer from the others.
        return await asyncio.shield(self._resolving)

    async def _look_up(self) -> Sequence[Address]:
        try:
            addresses: Sequence[Address] = await self.loop.getaddrinfo(  # type: ignore[assignment]
                self._host, self._port, type=SocketKind.SOCK_STREAM
            )
            self._addresses, self._resolved_at = addresses, self.loop.time()
            return addresses
        finally:
            self._resolving = None
