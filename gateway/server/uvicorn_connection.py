"""A caller's connection under uvicorn: ordinary requests are read by httptools, all others by Hypercorn's connection.

An ordinary request is HTTP/1.x in its plainest form: a path, each line ended by CRLF, a body with a length or none.
Whatever httptools refuses, and whatever it could read in another way than h11, is handed with its connection to
`connection.py`, which then serves that connection to its end: chunked bodies, upgrades, WebSockets, HTTP/2, methods
that nobody knows, bytes that are no HTTP. So both servers behave alike by construction, and there is one table of
edges (tests/test_http.py).

    pipelined requests      wait, but do not keep us from noticing that the caller has left
    Expect: 100-continue    is answered when the application asks for the body, so that a refusal comes first
    responses               leave in as few writes as they can: each is a call of the system and wakes the caller
    unread responses        are cut when a write has not ended in time (`timeouts.response_write`)
    idle connections        cost no task; one timer serves all idle times of a connection

uvicorn's own HttpToolsProtocol is not used: it answers bytes that are no HTTP by itself, with no id and no line in the
log, sets a timer after each response, writes head and body apart, and has no limit on heads or on writes.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import ASGIApp, Message, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from gateway.http.drain import LINGER_SECONDS
from gateway.http.validation import BOUNDED, BROKEN, JOINED, LARGEST_HEAD
from gateway.server import pieces
from gateway.server.idle_connections import LINGER_BYTES, IdleConnections, WriteWatch
from gateway.server.pieces import PieceAllowance
from gateway.server.response_head import header_lines

MAX_PIPELINED_BYTES = 64 * 1024
"""Bytes of further requests that are read while one is served. Then reading waits, and a leaving goes unnoticed."""

MAX_COALESCED_BYTES = 64 * 1024
"""Bytes that are joined to the head of their response: to copy more costs more than a write of its own."""

MAX_BODY_BYTES = 64 * 1024
"""Bytes of a body that wait for the application. Then reading waits."""

MAX_BEGUN, BEGUN_SECONDS = 16, 0.005
"""Requests that are begun in one turn of the loop, or in that time. Each takes 0.3 ms until it waits for Cohere."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

_NO_BODY = frozenset({204, 304})


class StartLimit:
    """Bounds the requests that are begun in one turn of the loop: a burst of hundreds would hold up all that flows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begun, self._since = 0, -math.inf
        self._waiting: deque[asyncio.Future[None]] = deque()

    def wait(self) -> asyncio.Future[None] | None:
        """Returns what a request waits for before it is begun; None if it may begin at once."""
        # By the clock: to hear of each turn would cost a turn for each request.
        now = self._loop.time()
        if now - self._since > BEGUN_SECONDS:
            self._begun, self._since = 0, now
        if self._begun < MAX_BEGUN and not self._waiting:
            self._begun += 1
            return None
        if not self._waiting:
            self._loop.call_soon(self._next_turn)
        turn = self._loop.create_future()
        self._waiting.append(turn)
        return turn

    def _next_turn(self) -> None:
        begun = 0
        while self._waiting and begun < MAX_BEGUN:
            turn = self._waiting.popleft()
            if not turn.done():  # else the request was cancelled
                turn.set_result(None)
                begun += 1
        if self._waiting:
            self._loop.call_soon(self._next_turn)


class Options:
    """What connections are served with. hand_over: has another server serve a connection, whose first bytes are given.

    keep_alive: seconds for a request's head, from the beginning of the connection or the last response. write_timeout:
    seconds that a write may take.
    """

    def __init__(
        self,
        hand_over: Callable[[asyncio.Transport, bytes], None],
        keep_alive: float,
        write_timeout: float = math.inf,
    ) -> None:
        self.hand_over, self.keep_alive, self.write_timeout = hand_over, keep_alive, write_timeout
        self.idle = IdleConnections()
        self.starts = StartLimit(asyncio.get_running_loop())


class Connection(asyncio.Protocol):
    """One connection of a caller's, from its first byte to its last, or until it is handed over."""

    transport: asyncio.Transport

    def __init__(self, options: Options, config: Config, state: ServerState) -> None:
        self._options, self._idle = options, options.idle
        self._app: ASGIApp = config.loaded_app
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._buffer = b""  # the beginning of the next request
        self._body_left = 0  # bytes of the current request's body that have not come
        self._cycle: Cycle | None = None  # the current request
        self._headers: list[tuple[bytes, bytes]] = []  # of the request that is read
        self._target = b""
        self._pieces = PieceAllowance()
        self._reading_paused = self._closing = self._unreadable = False
        self._linger_bytes = LINGER_BYTES
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None

    # --- what the transport calls --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self.transport = transport  # type: ignore[assignment]
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            self._hand_over()
            return
        self.scheme = "http" if tls is None else "https"
        self.client, self.server = _address(transport, "peername"), _address(transport, "sockname")
        self.writes = WriteWatch(self.transport, self._options.write_timeout)
        self._state.connections.add(self)  # type: ignore[arg-type]
        self._idle_since = self._idle.silent[self] = self._loop.time()
        self._idle_timer = self._loop.call_later(self._options.keep_alive, self._check_idle)

    def connection_lost(self, error: Exception | None) -> None:
        self._forget()
        self.writes.stop()
        if self._cycle is not None:
            self._cycle.disconnect()

    def eof_received(self) -> None:
        """Takes a caller who sends no more for one who has left; returning nothing closes the connection."""

    def pause_writing(self) -> None:
        self.writes.pause()

    def resume_writing(self) -> None:
        self.writes.resume()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._unreadable:
            self._linger_bytes -= len(data)
            if self._linger_bytes < 0:
                self.transport.close()
            return
        cycle = self._cycle
        if not self._pieces.take(len(data)):
            self._too_many_pieces(cycle)
            return
        if self._body_left:
            assert cycle is not None
            if len(data) <= self._body_left:
                self._body_left -= len(data)
                cycle.feed(data, self._body_left == 0)
                return
            piece, data = data[: self._body_left], data[self._body_left :]
            self._body_left = 0
            cycle.feed(piece, True)
        self._buffer = self._buffer + data if self._buffer else data
        if cycle is None:
            self._read_head()
        elif len(self._buffer) > MAX_PIPELINED_BYTES:
            self.pause_reading()

    def _too_many_pieces(self, cycle: "Cycle | None") -> None:
        """Drops a piece, and what follows it."""
        self._unreadable = True
        if cycle is None:
            self.close()
        elif self._body_left:
            cycle.break_body("pieces")
        else:
            cycle.keep_alive = False

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    # --- requests ------------------------------------------------------------------------------------------

    def _read_head(self) -> None:
        """Begins with the request in the buffer, once its head is there."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n") + 4
        if end < 4:
            # h11 says when what has come can never be a head: too long, lines without CR, not the first byte of one.
            if len(buffer) > LARGEST_HEAD or buffer[0] < 33 or b"\n\n" in buffer or b"\n\r\n" in buffer:
                self._hand_over()
            return
        # An empty head is an empty line in front of a request, which h11 may skip.
        cycle = self._request(buffer[:end]) if 4 < end <= LARGEST_HEAD else None
        if cycle is None:
            self._hand_over()
            return
        self._idle.leave(self)
        self._pieces.left = pieces.MAX_PIECES
        self._cycle, self._body_left = cycle, cycle.length
        rest, self._buffer = buffer[end:], b""
        if cycle.length:
            piece = rest[: cycle.length]
            self._body_left -= len(piece)
            cycle.feed(piece, self._body_left == 0)
            rest = rest[cycle.length :]
        self._buffer = rest
        cycle.task = self._loop.create_task(cycle.run(self._app, self._state.tasks))
        self._state.tasks.add(cycle.task)

    def _request(self, head: bytes) -> "Cycle | None":
        """Returns an ordinary request, or None for one that h11 is to read."""
        self._headers, self._target = [], b""
        # A new one for each head, since it is never shown a body.
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(head)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        version, target, headers = parser.get_http_version(), self._target, self._headers
        if target[:1] != b"/" or version not in ("1.1", "1.0") or not target.isascii():
            return None
        by_name = dict(headers)
        if b"transfer-encoding" in by_name or b"upgrade" in by_name:
            return None
        length, waiting, keep_alive = 0, False, version == "1.1"
        if b"content-length" in by_name:
            value = by_name[b"content-length"]
            # `int` would also read `+5`, `5_0` and blanks around it, as others may not. No body has more digits.
            if len(value) > 18 or not value.isdigit():
                return None
            length = int(value)
        if b"expect" in by_name:
            waiting = by_name[b"expect"].lower() == b"100-continue"
        if b"connection" in by_name and any(name == b"connection" and _closes(value) for name, value in headers):
            keep_alive = False
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": self.scheme,
            "path": unquote(path) if "%" in path else path,
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self.client,
            "server": self.server,
            BOUNDED: True,
        }
        return Cycle(self, scope, length, keep_alive, waiting)

    def on_url(self, target: bytes) -> None:
        self._target += target

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def _hand_over(self) -> None:
        """Leaves the connection to Hypercorn from here on."""
        self._forget()
        buffer, self._buffer = self._buffer, b""
        self._options.hand_over(self.transport, buffer)

    # --- between two requests ------------------------------------------------------------------------------

    def response_complete(self, cycle: "Cycle") -> None:
        """Goes on behind a response."""
        self._cycle = None
        self._state.total_requests += 1
        if self._closing or self.transport.is_closing():
            return
        if self._body_left:
            # To close while bytes still arrive would reset the connection, and the response might never be read.
            self._linger()
        elif not cycle.keep_alive:
            self.close()
        else:
            self.resume_reading()
            self._idle_since = self._loop.time()
            if self._idle_timer is None:
                self._idle_timer = self._loop.call_later(self._options.keep_alive, self._check_idle)
            self._idle.connections[self] = None
            if self._buffer:
                self._read_head()

    def _check_idle(self) -> None:
        self._idle_timer = None
        if self._cycle is not None or self._closing:
            return
        left = self._idle_since + self._options.keep_alive - self._loop.time()
        if left > 0:
            self._idle_timer = self._loop.call_later(left, self._check_idle)
        else:
            self.close()

    def _linger(self) -> None:
        """Ends our side, and reads on for a moment without looking at what comes."""
        self._closing = True
        self._idle.lingering[self] = None
        self.resume_reading()
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
                self._loop.call_later(LINGER_SECONDS, self.transport.close)
                return
        # The caller has torn the connection, which nobody has told us yet: there is nothing to wait for.
        except OSError:
            pass
        self.transport.close()

    def close(self) -> None:
        """Closes the connection once what was written has left, and never waits for that longer than for a write."""
        self._closing = True
        self.transport.close()
        self.writes.closing()

    def shutdown(self) -> None:
        """Closes the connection, after the response that is under way."""
        if self._cycle is None:
            self.close()
        else:
            self._cycle.keep_alive = False

    def _forget(self) -> None:
        self._state.connections.discard(self)
        self._idle.leave(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()


class Cycle:
    """A request and its response: the two callables of ASGI.

    length: bytes of the request's body. task: in which it is served.
    """

    task: asyncio.Task[None]

    __slots__ = (
        "_body",
        "_body_complete",
        "_broken",
        "_chunked",
        "_complete",
        "_connection",
        "_disconnected",
        "_head",
        "_left",
        "_news",
        "_read",
        "_scope",
        "_started",
        "_waiter",
        "_waiting_for_100_continue",
        "keep_alive",
        "length",
        "task",
    )

    def __init__(self, connection: Connection, scope: Scope, length: int, keep_alive: bool, waiting: bool) -> None:
        self._connection, self._scope = connection, scope
        self.length, self.keep_alive = length, keep_alive
        self._waiting_for_100_continue = waiting and length > 0
        self._body: bytes | bytearray = b""
        self._body_complete, self._news = not length, not length
        self._broken = ""  # why no more of the body can be read
        self._waiter: asyncio.Future[None] | None = None
        self._head = b""  # of the response, until it is known whether its body leaves with it
        self._started = self._complete = self._disconnected = self._chunked = False
        self._left = 0  # bytes of the response that the application has still to send

    async def run(self, app: ASGIApp, tasks: set[asyncio.Task[None]]) -> None:
        """Serves the request. What the application raises it has logged. tasks: this one is taken out in the end."""
        try:
            turn = self._connection._options.starts.wait()
            if turn is not None:
                await turn
            await app(self._scope, self.receive, self.send)
        except asyncio.CancelledError:
            pass
        except Exception:
            if not self._started:
                await self._send_500()
        finally:
            # Not by a callback of the task, for which the loop makes one more step.
            tasks.discard(self.task)
        if not self._complete and not self._disconnected:
            self._break_off()

    def feed(self, data: bytes, last: bool) -> None:
        """Takes a piece of the request's body."""
        # Most bodies come in one piece, which is passed on as it is.
        if not self._body:
            self._body = data
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body)
            self._body += data
        else:
            self._body += data
        self._body_complete, self._news = last, True
        if not last and len(self._body) > MAX_BODY_BYTES:
            self._connection.pause_reading()
        self._wake()

    def break_body(self, reason: str) -> None:
        """Takes notice that no more of the body is read. reason: a key of BROKE in `validation.py`."""
        self._broken = reason
        self._wake()

    def disconnect(self) -> None:
        """Takes notice that the caller has left."""
        self._disconnected = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def receive(self) -> Message:
        """Returns what has come of the body, or waits for more; in the end, for the caller's leaving."""
        connection = self._connection
        while not self._disconnected and not self._complete:
            if self._broken:
                return {"type": "http.request", "body": b"", "more_body": True, BROKEN: self._broken}
            if self._waiting_for_100_continue:
                self._waiting_for_100_continue = False
                connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._news:
                body, self._body, self._news = self._body, b"", False
                if not self._body_complete:
                    connection.resume_reading()
                return {"type": "http.request", "body": bytes(body), "more_body": not self._body_complete}
            self._waiter = connection._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Writes the response. Waits where the caller does not read."""
        if self._disconnected:
            return
        if message["type"] == "http.response.start":
            self._start(message)
        else:
            self._write(message.get("body", b""), bool(message.get("more_body")))
        writes = self._connection.writes
        # The last bytes are not waited for. The watch is there for a caller who does not read them.
        if writes.paused and not self._complete:
            await writes.drain()

    def _start(self, message: Message) -> None:
        if self._started:
            raise RuntimeError("the response has begun already")
        self._started, self._waiting_for_100_continue = True, False
        status: int = message["status"]
        headers = message["headers"]
        lines = header_lines(headers)
        by_name = dict(headers)
        has_length = b"content-length" in by_name
        if has_length:
            self._left = int(by_name[b"content-length"])
        closes = b"connection" in by_name and b"close" in by_name[b"connection"].lower()
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        if self._scope["method"] == "HEAD" or status in _NO_BODY:
            self._left = 0
        elif not has_length and self._scope["http_version"] == "1.1":
            self._chunked = True
            lines += b"transfer-encoding: chunked\r\n"
        self._head = b"%b%b\r\n" % (_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status, lines)
        # A head whose body follows at once waits for it, so that both leave in one write.
        if not has_length and JOINED not in message:
            self._flush(b"")

    def _write(self, body: bytes, more: bool) -> None:
        if not self._started or self._complete:
            raise RuntimeError("there is no response to go on with")
        if self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body) if more else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            elif not more:
                body = b"0\r\n\r\n"
        elif self._scope["method"] == "HEAD":
            body = b""
        elif self._left or not body:
            self._left -= len(body)
            if self._left < 0 or (self._left and not more):
                raise RuntimeError("the response's body has another length than its head says")
        if body or not more:
            self._flush(body)
        if not more:
            self._complete = True
            self._wake()
            self._connection.response_complete(self)

    def _flush(self, body: bytes) -> None:
        head, self._head = self._head, b""
        transport = self._connection.transport
        if head and len(body) <= MAX_COALESCED_BYTES:
            body = head + body
        elif head:
            transport.write(head)
        if body:
            transport.write(body)

    def _break_off(self) -> None:
        """Closes the connection in the middle of a response: only so the caller sees that it is incomplete."""
        if self._head:
            self._flush(b"")
        self._connection._cycle = None
        self._connection.close()

    async def _send_500(self) -> None:
        self.keep_alive = False
        self._head, self._chunked, self._left = b"", False, 0
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"21")]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": b"Internal Server Error"})


def _closes(value: bytes) -> bool:
    """Tells whether a `connection` header asks for the end of the connection."""
    return b"close" in (option.strip() for option in value.lower().split(b","))


def _address(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    """Returns host and port of one end; None over a socket that has none."""
    address: Any = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) and len(address) >= 2 else None
