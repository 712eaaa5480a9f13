"""Patches of Hypercorn 0.18, for what it has no settings for. pyproject.toml pins that version.

Each says what it stands for, and which test fails without it; a new version of Hypercorn is tried without them first.

    HTTP/1.1       `Connection` in place of H11Protocol. HTTP/2 in clear text cannot be switched off
                   (https://github.com/pgjones/hypercorn/issues/38, closed: "there is only an ability to not advertise a
                   protocol"), CONNECT is passed on (https://github.com/pgjones/hypercorn/issues/277), bytes that are no
                   HTTP get an empty answer that no log mentions, and a write has no time limit.
                   tests/test_http.py: test_edges
    HTTP/2         `Http2Connection` in place of H2Protocol, for the reasons that `http2.py` lists. Not reported.
                   tests/test_serve_http2.py
    TLS            QuietTCPServer. The end of a connection that breaks TLS is raised to nobody. Not reported.
                   tests/test_serve_http2.py: test_who_breaks_tls_off_is_no_news
    memory         QuietTCPServer keeps no bytes that were read (64 KiB) while it waits for others, and ConnectionTasks
                   hand an application messages without the four kilobytes of an `asyncio.Queue`.
                   tests/test_serve_idle_streams.py
    the end        start_server. Since Python 3.12 `Server.wait_closed` waits until all connections have ended, and
                   Hypercorn awaits it before it gives requests their last seconds: one request that does not end holds
                   up the process for ever. Not reported.
                   tests/test_serve_metrics.py: test_a_request_cut_by_shutdown (fails on 3.12 and later)
    WebSockets     BoundedWebsocketBuffer. `WebsocketBuffer.extend` first keeps what comes and then finds that it is too
                   much, each time again: a caller who ignores the close (1009) fills the memory. Not reported; it is in
                   https://github.com/pgjones/hypercorn/blob/0.18.0/src/hypercorn/protocol/ws_stream.py
                   tests/test_serve_websocket.py: test_what_the_server_gathers_is_bounded
                   The same for fragments without a byte, which no limit on bytes ever ends.
                   tests/test_serve_websocket.py: test_what_breaks_the_protocol_is_closed_with_its_code
                   ClosingWSStream. `WSStream` drops a connection that breaks the protocol without the close frame that
                   says why (RFC 6455 §7.1.7), and reads on from one whose message is too large. Not reported.
                   tests/test_serve_websocket.py: test_what_breaks_the_protocol_is_closed_with_its_code
                   Nor does it end a connection on which frames come before the handshake is answered (RFC 6455 §4.1:
                   the client waits): it sends a 400, and neither the caller nor the application hears of it again.
                   tests/test_serve_websocket.py: test_frames_before_the_handshake_leave_nothing_behind
                   And where the application closes while a caller still sends, it waits for room in the queue of an
                   application that has returned. tests/test_serve_lingering_close.py
                   It counts messages, and small frames, while they come.
                   tests/attacks/test_memory.py: test_messages_on_websockets_are_counted_while_they_come
                   And it reads all frames that have come before anybody else is served, for seconds in a flood.
                   tests/attacks/test_event_loop.py: test_a_flood_of_frames
                   HandshakeWithoutExtensions. `Handshake.accept` always offers permessage-deflate, whose decompression
                   has no bound: a megabyte of it becomes a gigabyte before anything counts it. Not reported.
                   tests/test_serve_websocket.py: test_no_compression_is_negotiated
"""

import asyncio
import contextlib
from typing import Any

import hypercorn.asyncio.run
import hypercorn.asyncio.tcp_server
import hypercorn.config
import hypercorn.protocol
import hypercorn.protocol.h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.events import Closed, RawData
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Body, Data, Event, StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.typing import ASGISendEvent
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from gateway.errors import CallerError, failure
from gateway.http.validation import LARGEST_HEAD
from gateway.memory_budget import HELD, UNLIMITED, Gathering, RequestMemory
from gateway.observability.record import DISCONNECT_FAILURE, REQUEST, RequestRecord
from gateway.server.connection import Connection, ConnectionTasks, MessageQueue
from gateway.server.http2 import Http2Connection
from gateway.server.pieces import PieceAllowance
from translators.core.errors import Failure

MAX_CLOSE_REASON = 123
"""Bytes of the sentence in a close frame (RFC 6455 §5.5)."""

TOO_LARGE = failure("body_too_large", "the message is too large")

TOO_MANY = failure("bad_request", "thousands of frames have a few bytes each")

MAX_EMPTY_FRAGMENTS = 100
"""Of one message. A caller has no reason to send one."""

FRAMES_IN_A_TURN = 50
"""Frames of a WebSocket that are read in one turn of the event loop: one takes 20 µs, and 64 KiB may have 10,000."""


class BoundedWebsocketBuffer(ws_stream.WebsocketBuffer):
    """A message on its way in. It keeps no byte beyond the limit."""

    empty_fragments = 0

    def extend(self, event: Any) -> None:
        if not event.data and not event.message_finished:
            self.empty_fragments += 1
        if self.length + len(event.data) > self.max_length or self.empty_fragments > MAX_EMPTY_FRAGMENTS:
            self.length = self.max_length  # so that nothing that follows fits
            raise ws_stream.FrameTooLargeError
        super().extend(event)

    def clear(self) -> None:
        self.empty_fragments = 0
        super().clear()


class ClosingWSStream(ws_stream.WSStream):
    """A WebSocket that says why it ends a connection that breaks the protocol, and reads nothing more from it.

    Messages are counted in the connection's memory from their first byte on; who takes one gives back what it holds.
    """

    _gathering: Gathering | None = None
    _pieces: PieceAllowance | None = None

    _over = False  # the application has returned: nobody takes messages any more

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is None:
            self._over = True
            self._discard_messages()
        await super().app_send(message)

    def _discard_messages(self) -> None:
        """Makes room in the queue to the application, for which Hypercorn would wait for ever."""
        # `app_put` is the `put` of a queue, which Hypercorn keeps to itself.
        queue: MessageQueue | None = getattr(self.app_put, "__self__", None)
        if queue is not None:
            queue.clear()

    async def handle(self, event: Event) -> None:
        if self._over and isinstance(event, Body | Data):
            return
        if self.closed or not isinstance(event, Body | Data) or self.handshake.accepted:
            await super().handle(event)
        elif self.state is ASGIWebsocketState.HANDSHAKE:
            await self._send_error_response(400)
            self.closed = True
            if self.app_put is not None:
                await self.app_put({"type": "websocket.disconnect", "code": CloseReason.ABNORMAL_CLOSURE.value})
            await self.send(StreamClosed(stream_id=self.stream_id))

    async def _handle_events(self) -> None:
        gathering = self._gathering = self._gathering or Gathering(_memory_of(self.scope))
        for number, event in enumerate(self.connection.events(), 1):
            if number % FRAMES_IN_A_TURN == 0:
                await asyncio.sleep(0)
                if self._over or self.closed:
                    return
            if (refused := self._refused(event, gathering)) is not None:
                code, why = refused
                await self._fail(CloseConnection(code, why.message[:MAX_CLOSE_REASON]), why)
                return
            if isinstance(event, Message):
                if event.message_finished:
                    assert self.app_put is not None, "messages come after the handshake"
                    message = {**self.buffer.to_message(), HELD: gathering.take()}
                    self.buffer.clear()
                    if not self._over:
                        await self.app_put(message)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                # The caller's own close is returned; any other stands for an error in what they sent.
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._end(event.response())
                else:
                    await self._fail(
                        event, failure("bad_request", f"The WebSocket's frames are broken: {event.reason}")
                    )
                return

    def _refused(self, event: Any, gathering: Gathering) -> tuple[CloseReason, Failure] | None:
        """Takes a frame in, or returns why it is one too many."""
        if isinstance(event, Ping) or (isinstance(event, Message) and not event.message_finished):
            self._pieces = self._pieces or PieceAllowance()
            if not self._pieces.take(len(event.payload if isinstance(event, Ping) else event.data)):
                return CloseReason.POLICY_VIOLATION, TOO_MANY
        if isinstance(event, Message):
            try:
                self.buffer.extend(event)
                gathering.add(len(event.data))
            except ws_stream.FrameTooLargeError:
                return CloseReason.MESSAGE_TOO_BIG, TOO_LARGE
            except CallerError as error:
                return CloseReason.TRY_AGAIN_LATER, error.failure
        return None

    async def _fail(self, close: CloseConnection, why: Failure) -> None:
        """Ends the connection because of what the caller sent. The application hears why."""
        if self.app_put is not None and not self._over:
            await self.app_put({"type": "websocket.disconnect", "code": close.code, DISCONNECT_FAILURE: why})
        await self._end(close)

    async def _end(self, close: CloseConnection) -> None:
        await self._send_wsproto_event(close)
        await self.send(StreamClosed(stream_id=self.stream_id))


def _memory_of(scope: Any) -> RequestMemory:
    """Returns where the messages on a WebSocket are counted. The emulator, another application, counts none."""
    record: RequestRecord | None = scope.get(REQUEST)
    return record.memory if record is not None else UNLIMITED


class HandshakeWithoutExtensions(ws_stream.Handshake):
    """The opening of a WebSocket. It agrees to no extension."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.extensions = None


class QuietTCPServer(TCPServer):
    """A connection whose end is no news: a caller who breaks TLS off would fill the log with tracebacks."""

    async def _close(self) -> None:
        with contextlib.suppress(OSError):  # ssl.SSLError is one
            await super()._close()

    async def _read_data(self) -> None:
        """Reads until the connection ends, as Hypercorn does, but keeps nothing of a read while it waits for another.

        There is no time limit to a read here: each connection has its own (`connection.py`, `http2.py`).
        """
        while not self.reader.at_eof():
            try:
                event = RawData(await self.reader.read(MAX_RECV))
            except OSError:  # TimeoutError, ssl.SSLError and what a broken connection raises are such
                break
            await self.protocol.handle(event)
            del event
        await self.protocol.handle(Closed())


async def start_server(*arguments: Any, **options: Any) -> asyncio.Server:
    """Starts a server whose `wait_closed` waits for nothing."""
    server = await asyncio.start_server(*arguments, **options)
    if isinstance(server, asyncio.Server):  # uvloop's is another, which does not wait, and has no such attribute
        vars(server)["wait_closed"] = _wait_for_nothing
    return server


async def _wait_for_nothing() -> None:
    """Stands for `Server.wait_closed`, as it was before Python 3.12."""


class _Asyncio:
    """The module `asyncio` as Hypercorn sees it."""

    start_server = staticmethod(start_server)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def install(config: hypercorn.config.Config) -> None:
    """Applies the patches in the whole process, and their limits to this configuration."""
    config.h11_max_incomplete_size = LARGEST_HEAD
    # In the modules that use them: they import these classes by name, and would not see others where those are
    # defined.
    vars(hypercorn.protocol)[H11Protocol.__name__] = Connection
    vars(hypercorn.asyncio.run)[TCPServer.__name__] = QuietTCPServer
    vars(hypercorn.asyncio.run)["asyncio"] = _Asyncio()
    vars(hypercorn.asyncio.tcp_server)[TaskGroup.__name__] = ConnectionTasks
    vars(hypercorn.protocol)[H2Protocol.__name__] = Http2Connection
    vars(hypercorn.protocol.h11)[ws_stream.WSStream.__name__] = ClosingWSStream
    ws_stream.WebsocketBuffer = BoundedWebsocketBuffer  # type: ignore[misc]
    ws_stream.Handshake = HandshakeWithoutExtensions  # type: ignore[misc, assignment]
