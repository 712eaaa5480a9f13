"""A caller's connection: HTTP/1.1 read by h11, stricter than Hypercorn's own `H11Protocol`.

    HTTP/2 in clear text    is spoken neither by upgrade nor by prior knowledge: the application behind it speaks none,
                            and a request that changes its framing on the way is what smuggling is made of
    empty lines             before a request are skipped, one of them (RFC 9112 §2.2)
    http://host/path        is accepted, and goes before the `host` header (RFC 9112 §3.2.2); nothing is proxied
    methods                 are case-sensitive (RFC 9110 §9.1): `post` is refused
    bytes that are no HTTP  reach the middleware, which refuses them like everything else: OpenAI's shape, an id, a line
                            in the log
    pipelined requests      wait, but do not keep us from noticing that the caller has left
    small pieces            of a request are counted, be they chunks or what a read brings (`pieces.py`)
    Expect: 100-continue    is answered when the request's head alone was no reason to refuse
    responses               leave in as few writes as they can: each is a call of the system and wakes the caller
    unread responses        are cut when a write has not ended in time (`timeouts.response_write`)
    last words              reach callers who still send, be it a close frame or the refusal of what is no HTTP. What
                            comes after them is discarded for a while: to close on unread bytes resets the connection,
                            which takes back what was sent before (RFC 9112 §9.6, RFC 6455 §7.1.1)
    idle connections        cost no task: Hypercorn makes two, and a timer, after each response

What a request that h11 can read must look like is in `validation.py`.
"""

import asyncio
import itertools
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import h11
from hypercorn.asyncio.task_group import TaskGroup, _handle
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Data, Request, StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    H11SendableEvent,
    Scope,
    WorkerContext,
)
from hypercorn.utils import suppress_body
from wsproto import connection as wsproto
from wsproto.events import CloseConnection

from gateway.http.drain import LINGER_SECONDS
from gateway.http.validation import BROKEN, JOINED
from gateway.server import pieces
from gateway.server.idle_connections import (
    LINGER_BYTES,
    MIN_BYTES_PER_SECOND,
    WRITE_BUFFER,
    IdleConnections,
    reset,
)
from gateway.server.pieces import PieceAllowance
from gateway.server.response_head import header_lines

MAX_PIPELINED_BYTES = 64 * 1024
"""Bytes of further requests that are read while one is served. Then reading waits, and a leaving goes unnoticed."""

MAX_COALESCED_BYTES = 64 * 1024
"""Bytes that are joined to what waits to be written: to copy more costs more than a write of its own."""

WRITE_TIMEOUT = "gateway_write_timeout"
"""The attribute of Hypercorn's configuration with the seconds that a write may take; without it there is no limit."""

MAX_DISCARDED_FRAMES = 200
"""Frames in one piece of what is discarded, among which the close frame is looked for. To read one takes 10 µs."""

VERSIONS = (b"1.1", b"1.0")

FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection"})
"""Headers of a response by which h11 decides how its body is framed, and whether the connection is kept."""

_END = h11.EndOfMessage()

_EMPTY_LINE = "no request line received"
"""What h11 says of an empty line in the place of a request."""

_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)


class MessageQueue:
    """Messages that wait for their application, so many at most.

    An `asyncio.Queue`, which Hypercorn has in its place, is made of four double-ended queues of 700 bytes each, and a
    stream that waits for its model for minutes keeps them.
    """

    __slots__ = ("_limit", "_messages", "_receivers", "_senders")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: list[Any] = []
        # Who waits, in their order. Lists, since nearly always one task at most is in one of them.
        self._receivers: list[asyncio.Future[None]] = []
        self._senders: list[asyncio.Future[None]] = []

    def clear(self) -> None:
        """Drops all messages."""
        self._messages.clear()
        _wake_all(self._senders)

    async def put(self, message: Any) -> None:
        """Adds a message, once there is room for it."""
        while len(self._messages) >= self._limit:
            await _wait(self._senders)
        self._messages.append(message)
        _wake_all(self._receivers)

    async def get(self) -> Any:
        """Returns the oldest message, once there is one."""
        while not self._messages:
            await _wait(self._receivers)
        message = self._messages.pop(0)
        if self._senders:
            _wake_all(self._senders)
        return message


async def _wait(waiting: list[asyncio.Future[None]]) -> None:
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting.append(turn)
    try:
        await turn
    finally:
        waiting.remove(turn)


def _wake_all(waiting: list[asyncio.Future[None]]) -> None:
    """Wakes all who wait. Each looks whether there is something for it, so that nobody has to pass a turn on."""
    for turn in waiting:
        if not turn.done():
            turn.set_result(None)


class ConnectionTasks(TaskGroup):
    """The tasks of one connection, of either protocol, its applications' among them."""

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Runs an application. Returns what gives it a message."""
        queue = MessageQueue(config.max_app_queue_size)
        self.spawn(_handle, app, config, scope, queue.get, send, _refuse, _refuse)
        return queue.put


def _refuse(*_: Any) -> Any:
    """Stands for what starts a WSGI application's calls. There are none."""
    raise NotImplementedError


class ResponseStream(HTTPStream):
    """A request and its response, which goes to its connection without the steps that HTTP/2 and HTTP/3 need."""

    def __init__(self, connection: "Connection") -> None:
        super().__init__(
            connection.app,
            connection.config,
            connection.context,
            connection.task_group,
            connection.ssl,
            connection.client,
            connection.server,
            connection.stream_send,
            STREAM_ID,
        )
        self._connection = connection

    async def app_send(self, message: Any) -> None:
        kind = message["type"] if message is not None else ""
        if kind == "http.response.start" and self.state is ASGIHTTPState.REQUEST:
            self.response = message
            await self._connection.send_head(message["status"], message["headers"], JOINED in message)
            self.state = ASGIHTTPState.RESPONSE
        elif kind == "http.response.body" and self.state is ASGIHTTPState.RESPONSE:
            hidden = suppress_body(self.scope["method"], self.response["status"])
            more = message.get("more_body", False)
            await self._connection.send_body(b"" if hidden else message.get("body", b""), more)
            if not more:
                self.state = ASGIHTTPState.CLOSED
                await self.send(StreamClosed(STREAM_ID))
        # Anything else, messages out of turn above all, is judged as Hypercorn judges it.
        else:
            await super().app_send(message)


class WorkerIdleConnections(IdleConnections):
    """Those of one worker of Hypercorn's. They are closed when it stops."""

    _by_context: WeakKeyDictionary[WorkerContext, "WorkerIdleConnections"] = WeakKeyDictionary()

    def __init__(self, context: WorkerContext) -> None:
        super().__init__()
        self._task = asyncio.get_running_loop().create_task(self._close_with(context))

    @classmethod
    def of(cls, context: WorkerContext) -> "WorkerIdleConnections":
        """Returns the one of this worker, made when it is first needed."""
        idle = cls._by_context.get(context)
        if idle is None:
            idle = cls._by_context[context] = cls(context)
        return idle

    async def _close_with(self, context: WorkerContext) -> None:
        await context.terminated.wait()
        for connection in [*self.connections]:
            connection.close()


class Connection(H11Protocol):
    """One connection of a caller's, from its first byte to its last."""

    # With Hypercorn's they would be too many for the keys to be shared, and a dictionary of each connection's own.
    __slots__ = (
        *("_body_ended", "_body_left", "_closed", "_eof", "_idle", "_idle_since", "_idle_timer", "_linger_bytes"),
        *("_linger_timer", "_new", "_pending_bytes", "_pieces", "_pipelined", "_processing", "_response_over"),
        *("_tcp_send", "_transport", "_unreadable", "_websocket", "_write_buffer", "_write_timeout", "_write_timer"),
        *("_skipped_line", "_writing_since"),
    )

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        del self.can_read  # an event, which would be kept for nothing: hardly any connection waits for it
        self._response_over: asyncio.Event | None = None  # what those wait for who read on behind a response
        self._processing = asyncio.Lock()
        self._pipelined = False  # further requests have come, for when this one is served
        self._pieces = PieceAllowance()
        self._unreadable = False  # what comes from now on has no meaning
        self._eof = False  # the caller sends no more
        self._closed = False  # nobody reads from this connection any more
        self._write_buffer = b""  # the beginning of the next write
        self._writing_since = 0.0  # 0 while no write is under way
        self._pending_bytes = 0  # that wait to be written
        self._write_timer: asyncio.TimerHandle | None = None
        self._write_timeout: float = vars(self.config).get(WRITE_TIMEOUT, math.inf)
        self._idle = WorkerIdleConnections.of(self.context)
        self._new = True  # no request came yet: Hypercorn's own timer watches
        self._idle.silent[self] = asyncio.get_running_loop().time()
        self._idle_since = 0.0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_bytes = LINGER_BYTES
        self._websocket: wsproto.Connection | None = None  # whose close frame ends the lingering
        self._skipped_line = False
        self._body_left = 0  # bytes of the request's body that have not come; less than 0 where it has no length
        self._body_ended = False  # the application has been told
        self._tcp_send, self.send = self.send, self._timed_send
        # `send` is a method of Hypercorn's TCPServer, which has no other way to its transport.
        self._transport: asyncio.WriteTransport = self._tcp_send.__self__.writer.transport  # type: ignore[attr-defined]
        self._transport.set_write_buffer_limits(WRITE_BUFFER)

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            # Hypercorn says the end of what the caller sends by a read without a byte.
            self._eof = self._eof or not event.data
            if self._linger_timer is not None:
                return self._discard(event.data)
            if self._unreadable:
                return
            if not self._eof and not self._pieces.take(len(event.data)):
                return await self._too_many_pieces()
        elif isinstance(event, Closed) and not self._closed:
            self._closed = True
            self._idle.leave(self)
            for timer in (self._idle_timer, self._write_timer, self._linger_timer):
                if timer is not None:
                    timer.cancel()
            if self.stream is None:
                self.close()
        if isinstance(event, RawData):
            self.connection.receive_data(event.data)
            await self._handle_events()
        else:
            await super().handle(event)

    # --- requests ------------------------------------------------------------------------------------------

    async def _handle_events(self) -> None:
        async with self._processing:
            await self._process_events()

    async def _process_events(self) -> None:
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_100_continue()
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                if self._skip_empty_line(error):
                    continue
                return await self._protocol_error(error)
            # By their types: what h11 calls an event has a base class whose `isinstance` is a function in Python.
            if type(event) is h11.Request:
                await self._request_started()
                if event.http_version not in VERSIONS:
                    return await self._reject("version")
                if event.method != event.method.upper():
                    return await self._reject("method")
                await self._create_stream(event)
            # h11 pauses behind a request until its response has ended. What came meanwhile is in `trailing_data`.
            elif event is h11.PAUSED:
                if len(self.connection.trailing_data[0]) <= MAX_PIPELINED_BYTES:
                    self._pipelined = True
                    return
                await self._wait_for_response()
            elif self.stream is None or event is h11.NEED_DATA or not await self._forward(event, self.stream):
                return

    def _skip_empty_line(self, error: h11.RemoteProtocolError) -> bool:
        """Goes on behind an empty line in front of a request. Returns False if the error is another one."""
        if self._skipped_line or self.stream is not None or error.args != (_EMPTY_LINE,):
            return False
        self._skipped_line = True
        data, eof = self.connection.trailing_data
        # One that has raised cannot go on. It has taken the empty line out already.
        self.connection = h11.Connection(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self.connection.receive_data(data)
        if data and eof:
            self.connection.receive_data(b"")
        return True

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
        target = request.target
        if target[:1] != b"/":
            target, headers = _origin_form(target, headers)
        by_name = dict(headers)
        # Only such a request may become a WebSocket, which Hypercorn begins.
        if b"upgrade" in by_name:
            upgrade = h11.Request(
                method=request.method, target=target, headers=headers, http_version=request.http_version
            )
            return await super()._create_stream(upgrade)
        self._body_ended = False
        # h11 reads a body that is chunked by its chunks, whatever length it is said to have besides.
        self._body_left = -1 if b"transfer-encoding" in by_name else int(by_name.get(b"content-length", -1))
        version, method = request.http_version.decode(), request.method.decode()
        await self._start_stream(Request(STREAM_ID, headers, version, method, target, self.connection_state))
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _start_stream(self, request: Request) -> None:
        """Starts the application for a request."""
        self.stream = ResponseStream(self)
        await self.stream.handle(request)

    async def _send_100_continue(self) -> None:
        """Tells the caller to send the body, who waits for that."""
        await asyncio.sleep(0)  # the application's first step: it may have refused already
        if self.connection.they_are_waiting_for_100_continue and self.connection.our_state is h11.SEND_RESPONSE:
            await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _forward(self, event: object, stream: HTTPStream | WSStream) -> bool:
        """Gives a piece of the request to the application. Returns False if the event is none."""
        if type(event) is h11.Data:
            if not self._pieces.take(len(event.data)):
                await self._too_many_pieces()
                return False
            self._body_left -= len(event.data)
            # The last piece of a body says that it is, so the application is not woken a second time to hear that.
            self._body_ended = not self._body_left
            await self._put_body(stream, bytes(event.data))
        elif type(event) is h11.EndOfMessage:
            # A body in chunks, or none: only h11 knows where it ends.
            if not self._body_ended:
                self._body_ended = True
                await self._put_body(stream, b"")
        elif isinstance(event, Data):  # of a WebSocket
            await stream.handle(event)
        else:
            return False
        return True

    async def _put_body(self, stream: HTTPStream | WSStream, piece: bytes) -> None:
        """Gives a piece of the body to the application. The last one says so, so that nobody waits for another."""
        if not stream.closed and stream.app_put is not None:
            message: Any = {"type": "http.request", "body": piece, "more_body": not self._body_ended}
            await stream.app_put(message)

    async def _wait_for_response(self) -> None:
        """Waits until the current response has ended. Nothing is read meanwhile."""
        self._response_over = self._response_over or asyncio.Event()
        await self._response_over.wait()

    async def _protocol_error(self, error: h11.RemoteProtocolError) -> None:
        """Handles bytes that are no HTTP. A response is possible unless one has begun."""
        self._unreadable = True
        if self.stream is None and self._eof:
            await self.send(Closed())  # the caller has left in the middle of a head
        elif self.stream is None and self.connection.our_state is h11.IDLE:
            if error.error_status_hint == 431:
                # The buffer is full: of one line, or of many.
                await self._reject("head" if b"\n" in self.connection.trailing_data[0] else "target")
            else:
                await self._reject("coding" if error.error_status_hint == 501 else "syntax")
        elif self._eof:
            return  # the caller has left in the middle of a body: the stream hears of it from the end of the connection
        else:
            await self._break_body("body")

    async def _too_many_pieces(self) -> None:
        """Handles the piece after the last one that is allowed. It is not read."""
        if isinstance(self.stream, HTTPStream) and self.connection.their_state is h11.DONE:
            await self._wait_for_response()  # what follows waits, as it does when it is too large
        self._unreadable = True
        await self._break_body("pieces")

    async def _break_body(self, reason: str) -> None:
        """Tells the application that no more of a body can be read, or closes a connection on which there is none.

        reason: a key of BROKE in `validation.py`.
        """
        if isinstance(self.stream, HTTPStream) and self.connection.our_state is h11.SEND_RESPONSE:
            broken: Any = {"type": "http.request", "body": b"", "more_body": True, BROKEN: reason}
            await self.stream.app_put(broken)
        else:
            await self.send(Closed())

    async def _reject(self, reason: str) -> None:
        """Makes the middleware refuse what came as if it were a request. reason: a key of BROKE in `validation.py`."""
        self._unreadable = True
        state = ConnectionState({**self.connection_state, BROKEN: reason})
        await self._start_stream(
            Request(STREAM_ID, headers=[], http_version="1.1", method="-", raw_path=b"-", state=state)
        )

    # --- responses -----------------------------------------------------------------------------------------

    async def send_head(self, status: int, headers: Iterable[tuple[bytes, bytes]], joined: bool) -> None:
        """Sends the head of a response. joined: its body follows at once, so that the two can leave together.

        h11 gets the headers that it decides by. It would check and copy all the others several times.
        """
        framing: list[tuple[bytes, bytes]] = []
        others = self.config.response_headers("h11")
        for header in headers:
            (framing if header[0] in FRAMING else others).append(header)
        # Where the head has a length, it goes without saying that the body follows.
        joined = joined or b"content-length" in dict(framing)
        if self.keep_alive_requests >= self.config.keep_alive_max_requests:
            framing.append((b"connection", b"close"))
        lines = header_lines(others)
        head = self._encoded(h11.Response(status_code=status, headers=framing))
        if head:
            # h11's head without its empty line, then the headers that h11 did not see.
            self._write_buffer = b"%b%b\r\n" % (head[:-2], lines)
        if not joined:
            await self._send_bytes(b"")

    async def send_body(self, body: bytes, more: bool) -> None:
        """Sends a piece of a response's body, with what waits to be written. more: others follow."""
        data = self._encoded(h11.Data(data=body)) if body else b""
        if not more:
            data += self._encoded(_END)
        await self._send_bytes(data)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        await self._send_bytes(self._encoded(event))

    def _encoded(self, event: H11SendableEvent) -> bytes:
        """Returns an event as it is written; nothing to a caller whose request was no HTTP."""
        try:
            return self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return b""

    async def _send_bytes(self, data: bytes) -> None:
        """Sends what waits to be written, and these bytes."""
        buffered, self._write_buffer = self._write_buffer, b""
        if buffered and len(data) > MAX_COALESCED_BYTES:
            await self.send(RawData(data=buffered))
        else:
            data = buffered + data
        if data:
            await self.send(RawData(data=data))

    async def _maybe_recycle(self) -> None:
        """Ends a response. The next request may have come already."""
        stream = self.stream
        await self._close_stream()
        if self._response_over is not None:
            self._response_over.set()
            self._response_over = None
        ours, theirs = self.connection.our_state, self.connection.their_state
        if ours is h11.DONE and theirs is h11.DONE and not self.context.terminated.is_set():
            self.connection.start_next_cycle()
            self._start_idling()
        else:
            if self._write_buffer:  # of a response that breaks off: what was written of it is sent
                await self.send(RawData(data=self._write_buffer))
            if self._may_still_send(stream):
                self._linger()
            elif self._linger_timer is None:
                await self.send(Closed())
        if self._closed:
            self.close()
        elif self._pipelined:
            self._pipelined = False
            self.task_group.spawn(self._handle_events)

    def _may_still_send(self, stream: HTTPStream | WSStream | None) -> bool:
        """Returns whether bytes may come on a connection that is over. The body of a request is drained elsewhere."""
        if self._eof or self._closed or self._linger_timer is not None:
            return False
        if isinstance(stream, WSStream):
            self._websocket = vars(stream).get("connection")  # there is none before the handshake
            return self._websocket is None or self._websocket.state is not wsproto.ConnectionState.CLOSED
        return self._unreadable

    def _linger(self) -> None:
        """Says that nothing more follows, and discards what comes until the caller has closed, or for a while."""
        if self._transport.can_write_eof():  # TLS cannot
            try:
                self._transport.write_eof()
            # The caller has torn the connection, which nobody has told us yet: there is nothing to wait for.
            except OSError:
                self.close()
                return
        self._linger_timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.close)
        self._idle.lingering[self] = None

    def _discard(self, data: bytes) -> None:
        self._linger_bytes -= len(data)
        if self._linger_bytes < 0:
            self.close()
        elif self._websocket is not None:
            websocket = self._websocket
            # wsproto takes frames apart, to find the one that ends the connection as it should end.
            websocket.receive_data(data)
            events = [*itertools.islice(websocket.events(), MAX_DISCARDED_FRAMES)]
            if len(events) == MAX_DISCARDED_FRAMES:
                self._websocket = None  # a flood: its end is the connection's
            elif any(isinstance(event, CloseConnection) for event in events):
                self._websocket = None
                if websocket.state is wsproto.ConnectionState.CLOSED:  # else it was none, but bytes that are no frame
                    self.close()

    async def _timed_send(self, event: Event) -> None:
        """Sends, and aborts the connection when the caller reads so little that the write does not end in time.

        One timer serves all writes of a connection, so that a write costs no timer of its own.
        """
        if not isinstance(event, RawData):
            return await self._tcp_send(event)
        transport = self._transport
        # A write that the system takes at once, as it nearly always does, needs no clock, no lock and no waiting. Over
        # TLS the transport does not say what the system has taken.
        if not self.ssl and not transport.get_write_buffer_size() and not transport.is_closing():
            transport.write(event.data)
            if not transport.get_write_buffer_size():
                return
            # The bytes are with the transport. What is left is to wait until it has room again.
            event = RawData(data=b"")
        loop = asyncio.get_running_loop()
        self._writing_since = loop.time()
        self._pending_bytes = self._transport.get_write_buffer_size() + len(event.data)
        if self._write_timer is None:
            self._write_timer = loop.call_later(self._write_timeout, self._check_write)
        try:
            await self._tcp_send(event)
        finally:
            self._writing_since = 0.0

    def _check_write(self) -> None:
        self._write_timer = None
        if not self._writing_since or self._closed:
            return
        loop = asyncio.get_running_loop()
        now, pending = loop.time(), self._transport.get_write_buffer_size()
        left = self._writing_since + self._write_timeout - now
        # The caller does read, if slowly. From here on the time is counted anew.
        if left <= 0 and self._pending_bytes - pending >= self._write_timeout * MIN_BYTES_PER_SECOND:
            self._pending_bytes, self._writing_since, left = pending, now, self._write_timeout
        if left > 0:
            self._write_timer = loop.call_later(left, self._check_write)
        else:
            reset(self._transport)

    # --- between two requests ------------------------------------------------------------------------------

    async def _request_started(self) -> None:
        self._skipped_line = False
        self._pieces.left = pieces.MAX_PIECES
        self._idle.leave(self)
        if self._new:
            self._new = False
            # Hypercorn's timer waits for the first request alone. `_check_idle` is for all others.
            await self.send(Updated(idle=False))

    def _start_idling(self) -> None:
        self._idle.connections[self] = None
        loop = asyncio.get_running_loop()
        self._idle_since = loop.time()
        if self._idle_timer is None:
            self._idle_timer = loop.call_later(self.config.keep_alive_timeout, self._check_idle)

    def _check_idle(self) -> None:
        """Closes a connection that has been idle for too long; one timer serves all its idle times."""
        self._idle_timer = None
        if self not in self._idle.connections:
            return
        loop = asyncio.get_running_loop()
        left = self._idle_since + self.config.keep_alive_timeout - loop.time()
        if left > 0:
            self._idle_timer = loop.call_later(left, self._check_idle)
        else:
            self.close()

    def close(self) -> None:
        """Closes the connection, and ends Hypercorn's timer, which with its tasks would outlive it.

        In a task of its own, because it may be the timer that calls, and who ends the timer waits for it.
        """
        self._idle.leave(self)
        self._unreadable = True  # half a request is no news
        self.task_group.spawn(self.send, Closed())


def _origin_form(target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Returns a target in absolute form as its path, and headers whose `host` is that of the target.

    Any other target is returned as it is; the middleware refuses it.
    """
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        return target, [*headers]
    host, path, query = match.groups(b"")
    return (path or b"/") + query, [(name, host if name == b"host" else value) for name, value in headers]
