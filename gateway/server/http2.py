"""A caller's HTTP/2 connection, stricter than Hypercorn's own `H2Protocol`. It is spoken over TLS only (ALPN).

    WebSockets              are not offered (RFC 8441): clients open them over HTTP/1.1, where they are bounded
    methods                 are case-sensitive, and CONNECT is refused, as over HTTP/1.1
    floods                  of resets, pings, settings, priorities, tiny frames and tiny windows end the connection
                            with ENHANCE_YOUR_CALM: it has an allowance of such frames, which grows with time and with
                            what is sent on it
    unread responses        are reset when less than 500 bytes a second are read for `timeouts.response_write`; a caller
                            who reads nothing of the connection at all is cut off, as over HTTP/1.1
    bodies behind responses are discarded: the stream is reset with NO_ERROR (RFC 9113 §8.1)
    cut responses           are reset with INTERNAL_ERROR: an end would look complete
    header lists            are bounded by h2 and hpack before there is a request (64 KiB, 64 CONTINUATION frames), and
                            by `validation.py` then

Hypercorn passes frames of streams that are over to their former application, offers WebSockets, waits for ever for
windows, and drops responses with a header that HTTP/2 forbids.
"""

import asyncio
import contextlib
import math
from typing import Any

import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import BUFFER_HIGH_WATER, BUFFER_LOW_WATER, BufferCompleteError, H2Protocol, StreamBuffer
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers
from priority.priority import DuplicateStreamError, PriorityError

from gateway.http.validation import BROKEN
from gateway.server.connection import WRITE_TIMEOUT
from gateway.server.idle_connections import MIN_BYTES_PER_SECOND, WriteWatch
from gateway.server.pieces import FULL_PIECE, MAX_PIECES

MAX_STREAMS = 100
"""Requests of one connection at one time."""

MAX_HEADER_LIST = 64 * 1024
"""Bytes of a request's header fields, which are refused politely above 32 KiB (`validation.py`)."""

ALLOWANCE, ALLOWANCE_PER_SECOND, ALLOWANCE_PER_FRAME = 1_000.0, 100.0, 4.0
"""Frames without content that a connection may send at once, further ones each second, and for each frame of ours."""

RESET_COST = 5.0
"""Such frames that a reset stream counts for: a request was begun for it."""

PIECE_COST = ALLOWANCE / MAX_PIECES
"""Such frames that a byte of a body counts for which comes alone."""

FORBIDDEN_HEADERS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
"""In a response (RFC 9113 §8.2.2)."""

_OVERHEAD = (
    h2.events.PingReceived,
    h2.events.RemoteSettingsChanged,
    h2.events.PriorityUpdated,
    h2.events.WindowUpdated,
    h2.events.UnknownFrameReceived,
)


class CountedBuffer(StreamBuffer):
    """What waits to be sent on a stream. popped: bytes that have left it.

    Hypercorn's lets the application go on whenever it looks for data, though nothing may leave: it has no bound.
    """

    popped = 0

    async def push(self, data: bytes) -> None:
        """Takes data, and waits where much of it has to wait."""
        if self._complete:
            raise BufferCompleteError
        self.buffer.extend(data)
        await self._is_empty.clear()
        if len(self.buffer) >= BUFFER_HIGH_WATER:
            await self._paused.clear()
            await self._paused.wait()

    async def pop(self, max_length: int) -> bytes:
        """Returns what may leave, so many bytes at most."""
        data = bytes(self.buffer[:max_length])
        del self.buffer[:max_length]
        self.popped += len(data)
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data


class Http2Connection(H2Protocol):
    """One connection of a caller's, from its first frame to its last."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._loop = asyncio.get_running_loop()
        codes = h2.settings.SettingCodes
        # Another object, as a value that is set in h2's own holds only when the caller has acknowledged it.
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                codes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                codes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST,
                codes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )
        # h2 sets its decoder's limit when it is made, by a default of its own.
        self.connection.decoder.max_header_list_size = MAX_HEADER_LIST
        self._allowance, self._allowance_at = ALLOWANCE, self._loop.time()
        self._requests_complete: set[int] = set()  # open streams whose request has come whole
        self._timeout: float = vars(self.config).get(WRITE_TIMEOUT, math.inf)
        self._popped: dict[int, int] = {}  # by stream: bytes that had left its buffer when the timer last looked
        self._timer: asyncio.TimerHandle | None = None
        self._resets: set[asyncio.Task[None]] = set()
        self._transport: asyncio.WriteTransport = self.send.__self__.writer.transport  # type: ignore[attr-defined]
        self._writes = WriteWatch(self._transport, self._timeout)
        self._connection_send, self.send = self.send, self._timed_send

    # --- what the caller sends -----------------------------------------------------------------------------

    async def handle(self, event: Event) -> None:
        if isinstance(event, Closed) or self.closed:
            self._stop_timers()
            await super().handle(event)
            return
        if isinstance(event, RawData):
            self._allow(_cost_of_piece(event.data))
        try:
            await super().handle(event)
        # What a caller's frames raise goes through Hypercorn: h2's errors, and those of streams or priorities that
        # are not there.
        except (h2.exceptions.H2Error, PriorityError, KeyError, ValueError):
            await self._end(h2.errors.ErrorCodes.PROTOCOL_ERROR)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        self._allow(sum(map(self._overhead, events)))
        if self._allowance < 0:
            await self._end(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM)
            return
        # One at a time, so that nothing is handled behind an event that has closed the connection.
        for event in events:
            if isinstance(event, h2.events.DataReceived) and event.stream_id not in self.streams:
                continue  # of a response that was over before: the stream is reset, and h2 keeps the window open
            if isinstance(event, h2.events.StreamEnded):
                self._requests_complete.add(event.stream_id)
            await super()._handle_events([event])
            if self.closed:
                return

    def _overhead(self, event: h2.events.Event) -> float:
        if isinstance(event, h2.events.StreamReset):
            return RESET_COST
        if isinstance(event, h2.events.DataReceived):
            return _cost_of_piece(event.data) if event.data else 1.0
        return 1.0 if isinstance(event, _OVERHEAD) else 0.0

    def _allow(self, cost: float) -> None:
        now = self._loop.time()
        grown = self._allowance + (now - self._allowance_at) * ALLOWANCE_PER_SECOND
        self._allowance, self._allowance_at = min(grown, ALLOWANCE) - cost, now

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        headers = request.headers or []
        pseudo = {name: value for name, value in headers if name[:1] == b":"}
        method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
        if not path.isascii():  # Hypercorn cannot read it, and no client sends it
            await self._reset(request.stream_id or 0, h2.errors.ErrorCodes.PROTOCOL_ERROR)
            return
        # The same host in both places is no contradiction, so it counts once.
        hosts = {value for name, value in headers if name in (b":authority", b"host")}
        refused = not method.isascii() or method != method.upper() or method == b"CONNECT"
        if refused or len(hosts) != 1:
            await self._refuse(request, "method" if refused else "authority")
            return
        await super()._create_stream(request)
        self.stream_buffers[request.stream_id] = CountedBuffer(self.context.event_class)

    async def _refuse(self, request: h2.events.RequestReceived, reason: str) -> None:
        """Lets the middleware refuse a request. reason: a key of BROKE in `validation.py`."""
        stream_id = request.stream_id
        assert stream_id is not None
        stream = self.streams[stream_id] = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            stream_id,
        )
        # All of this as Hypercorn begins a stream, so that a refusal is sent like any response.
        self.stream_buffers[stream_id] = CountedBuffer(self.context.event_class)
        # A frame of priority for this stream that came before has made its place.
        with contextlib.suppress(DuplicateStreamError):
            self.priority.insert_stream(stream_id)
            self.priority.block(stream_id)
        state = ConnectionState({**self.connection_state, BROKEN: reason})
        # The host alone, which comes first: whatever else the request says is not looked at.
        headers = filter_pseudo_headers(request.headers or [])[:1]
        await stream.handle(Request(stream_id, headers, "2", "-", b"-", state))

    # --- what is sent to the caller ------------------------------------------------------------------------

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response):
            headers = [pair for pair in event.headers if pair[0] not in FORBIDDEN_HEADERS]
            event = Response(event.stream_id, headers, event.status_code)
        elif isinstance(event, Body | Data | EndBody):
            self._watch()
        elif isinstance(event, StreamClosed):
            await self._close_response(event.stream_id)
        await super().stream_send(event)

    async def _close_response(self, stream_id: int) -> None:
        """Says what the end of the application means for a stream that is not over."""
        buffer = self.stream_buffers.get(stream_id)
        if buffer is not None and not buffer._complete:
            await self._reset(stream_id, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif stream_id not in self._requests_complete:
            await self._reset(stream_id, h2.errors.ErrorCodes.NO_ERROR)
        self._requests_complete.discard(stream_id)

    async def _reset(self, stream_id: int, code: h2.errors.ErrorCodes) -> None:
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:
            return  # it is over already
        await self._flush()

    async def _send_data(self, stream_id: int) -> None:
        # Each of our frames may be answered by one that makes room, so it earns the caller some.
        self._allowance = min(self._allowance + ALLOWANCE_PER_FRAME, ALLOWANCE)
        await super()._send_data(stream_id)

    async def _timed_send(self, event: Event) -> None:
        """Sends as Hypercorn does; bytes for which the caller makes no room in time end the connection."""
        if not isinstance(event, RawData):
            await self._connection_send(event)
            return
        self._writes.pause()
        try:
            await self._connection_send(event)
        finally:
            self._writes.resume()

    # --- timers --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        # What has left before now does not count as read in the time that begins.
        if self._timer is None and self._timeout < math.inf and not self.closed:
            self._popped = {id: self._popped_of(id) for id in self.stream_buffers}
            self._timer = self._loop.call_later(self._timeout, self._check)

    def _popped_of(self, stream_id: int) -> int:
        buffer = self.stream_buffers[stream_id]
        return buffer.popped if isinstance(buffer, CountedBuffer) else 0

    def _check(self) -> None:
        """Resets the streams of which nearly nothing was read since the timer was set."""
        self._timer = None
        least = self._timeout * MIN_BYTES_PER_SECOND
        for stream_id, popped in self._popped.items():
            buffer = self.stream_buffers.get(stream_id)
            if buffer is not None and buffer.buffer and self._popped_of(stream_id) - popped < least:
                task = self._loop.create_task(self._abandon(stream_id, buffer))
                # Kept until it has ended, as the loop itself keeps tasks only weakly.
                self._resets.add(task)
                task.add_done_callback(self._resets.discard)
        if any(buffer.buffer for buffer in self.stream_buffers.values()):
            self._watch()

    async def _abandon(self, stream_id: int, buffer: StreamBuffer) -> None:
        await self._reset(stream_id, h2.errors.ErrorCodes.CANCEL)
        await self._close_stream(stream_id)
        await buffer.close()

    async def _end(self, code: h2.errors.ErrorCodes) -> None:
        """Closes the connection, saying why."""
        try:
            self.connection.close_connection(code)
        except h2.exceptions.ProtocolError:
            pass
        await self._flush()
        await super().handle(Closed())
        self._stop_timers()
        await self.send(Closed())

    def _stop_timers(self) -> None:
        self._writes.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _cost_of_piece(data: bytes) -> float:
    return PIECE_COST * max(1.0 - len(data) / FULL_PIECE, 0.0)
