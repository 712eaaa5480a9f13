"""A caller's connection: HTTP/1.1 read by h11, with what Hypercorn leaves open closed. Beside `process.py` the only
file that imports Hypercorn.

    HTTP/2 in clear text    neither by upgrade nor by prior knowledge: nobody here speaks it, and a request that
                            changes its framing on the way is what smuggling is made of
    bytes that are no HTTP  are refused by the guard, like everything else: OpenAI's shape, an id, a line in the log
    pipelined requests      wait, but do not keep us from noticing that the caller has left
    Expect: 100-continue    is answered when nothing has been refused by the request's head alone
    answers                 leave in as few writes as they can: each is a call of the system and wakes the caller
    pauses                  between two requests cost no task: Hypercorn makes two, and a timer, for each of them

What a request that h11 can read must look like is in `validation.py`.
"""

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

import h11
import hypercorn.config
import hypercorn.protocol
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ASGISendEvent, ConnectionState, H11SendableEvent, WorkerContext

from gateway.http.validation import BROKEN, JOINED, LARGEST_HEAD

MOST_AHEAD = 64 * 1024
"""Bytes of further requests that are read while one is served. Then reading waits, and a leaving goes unnoticed."""

LARGEST_JOINED = 64 * 1024
"""Bytes that are joined to what waits to be written: to copy more costs more than a write of its own."""

VERSIONS = (b"1.1", b"1.0")


def tighten(config: hypercorn.config.Config) -> None:
    """Has Hypercorn use this connection, in the whole process; there is no setting for it."""
    config.h11_max_incomplete_size = LARGEST_HEAD
    vars(hypercorn.protocol)[H11Protocol.__name__] = Connection


class Answer(HTTPStream):
    """A request's answer. `joined`: what is being sent goes with what follows it at once."""

    joined = False

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is not None:
            body = message["type"] == "http.response.body"
            self.joined = not message.get("more_body") if body else JOINED in message
        await super().app_send(message)


class IdleConnections:
    """The connections of one worker on which nothing is asked at the moment. They end when the worker does."""

    _of: WeakKeyDictionary[WorkerContext, "IdleConnections"] = WeakKeyDictionary()

    def __init__(self, context: WorkerContext) -> None:
        self.connections: set[Connection] = set()
        self._task = asyncio.get_running_loop().create_task(self._end_with(context))

    @classmethod
    def of(cls, context: WorkerContext) -> "IdleConnections":
        found = cls._of.get(context)
        if found is None:
            found = cls._of[context] = cls(context)
        return found

    async def _end_with(self, context: WorkerContext) -> None:
        await context.terminated.wait()
        for connection in [*self.connections]:
            connection.end()


class Connection(H11Protocol):
    """One connection of a caller's, from its first byte to its last."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._turn = asyncio.Lock()
        self._waiting = False  # further requests have come, for when this one is served
        self._lost = False  # what comes from now on has no meaning
        self._ended = False  # the caller sends no more
        self._gone = False  # nobody reads from this connection any more
        self._unsent = b""  # the beginning of what is written next
        self._pauses = IdleConnections.of(self.context)
        self._fresh = True  # nothing was asked yet: Hypercorn's own timer watches
        self._since = 0.0  # the pause began
        self._timer: asyncio.TimerHandle | None = None

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._ended = self._ended or not event.data
            if self._lost:
                return
        elif isinstance(event, Closed) and not self._gone:
            self._gone = True
            self._pauses.connections.discard(self)
            if self._timer is not None:
                self._timer.cancel()
            if self.stream is None:
                self.end()
        await super().handle(event)

    async def _handle_events(self) -> None:
        async with self._turn:
            await self._handle_what_has_come()

    async def _handle_what_has_come(self) -> None:
        while True:
            await self._continue()
            try:
                event = self.connection.next_event()
            except h11.RemoteProtocolError as error:
                return await self._broken(error)
            if isinstance(event, h11.Request):
                await self._begins()
                if event.http_version not in VERSIONS:
                    return await self._refused("version")
                await self._create_stream(event)
            elif event is h11.PAUSED:
                if len(self.connection.trailing_data[0]) <= MOST_AHEAD:
                    self._waiting = True
                    return
                await self.can_read.clear()
                await self.can_read.wait()
            elif self.stream is None or event is h11.NEED_DATA or not await self._passed_on(event, self.stream):
                return

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name.lower(), value) for name, value in request.headers.raw_items()]
        if any(name == b"upgrade" for name, _ in headers):
            return await super()._create_stream(request)
        version, method = request.http_version.decode(), request.method.decode().upper()
        await self._asked(Request(STREAM_ID, headers, version, method, request.target, self.connection_state))
        self.keep_alive_requests += 1
        await self.context.mark_request()

    async def _asked(self, request: Request) -> None:
        """Has the application answer."""
        self.stream = Answer(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        await self.stream.handle(request)

    async def _continue(self) -> None:
        """Has the caller send the body, where they wait to be told."""
        if self.connection.they_are_waiting_for_100_continue:
            await asyncio.sleep(0)  # the application's first step: it may have refused already
            if self.connection.they_are_waiting_for_100_continue and self.connection.our_state is h11.SEND_RESPONSE:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))

    async def _passed_on(self, event: object, stream: HTTPStream | WSStream) -> bool:
        """Gives the application a piece of the request; False if it was none."""
        if isinstance(event, h11.Data):
            await stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            await stream.handle(EndBody(stream_id=STREAM_ID))
        elif isinstance(event, Data):  # of a WebSocket
            await stream.handle(event)
        else:
            return False
        return True

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if self._unsent and len(data) <= LARGEST_JOINED:
            data, self._unsent = self._unsent + data, b""
        elif self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self.send(RawData(data=unsent))
        if isinstance(event, h11.EndOfMessage):
            joined = False
        else:
            joined = isinstance(self.stream, Answer) and self.stream.joined
            if isinstance(event, h11.Response) and not joined:
                joined = any(name == b"content-length" for name, _ in event.headers)
        if joined and len(data) <= LARGEST_JOINED:
            self._unsent = data
        elif data:
            await self.send(RawData(data=data))

    async def _maybe_recycle(self) -> None:
        """The answer is over: is there another request on this connection?"""
        await self._close_stream()
        await self.can_read.set()
        own, theirs = self.connection.our_state, self.connection.their_state
        if own is h11.DONE and theirs is h11.DONE and not self.context.terminated.is_set():
            self.connection.start_next_cycle()
            self._pause()
        else:
            if self._unsent:  # of an answer that breaks off: what was said of it was said
                await self.send(RawData(data=self._unsent))
            await self.send(Closed())
        if self._gone:
            self.end()
        elif self._waiting:
            self._waiting = False
            self.task_group.spawn(self._handle_events)

    # --- between two requests ------------------------------------------------------------------------------

    async def _begins(self) -> None:
        """A request has come."""
        self._pauses.connections.discard(self)
        if self._fresh:
            self._fresh = False
            await self.send(Updated(idle=False))

    def _pause(self) -> None:
        self._pauses.connections.add(self)
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.config.keep_alive_timeout, self._look)

    def _look(self) -> None:
        """The one timer of all pauses: too long, not yet, or something is asked at the moment."""
        self._timer = None
        if self not in self._pauses.connections:
            return
        loop = asyncio.get_running_loop()
        left = self._since + self.config.keep_alive_timeout - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._look)
        else:
            self.end()

    def end(self) -> None:
        """Ends the connection, and Hypercorn's timer: else it, and with it the connection's tasks, would outlive it.

        In a task of its own, because it may be the timer that asks, and who ends the timer waits for it.
        """
        self._pauses.connections.discard(self)
        self.task_group.spawn(self.send, Closed())

    async def _broken(self, error: h11.RemoteProtocolError) -> None:
        """What came is no HTTP. An answer is possible unless one has begun."""
        self._lost = True
        if self.stream is None and self.connection.our_state is h11.IDLE:
            if error.error_status_hint == 431:
                # The buffer is full: of one line, or of many.
                await self._refused("head" if b"\n" in self.connection.trailing_data[0] else "target")
            else:
                await self._refused("coding" if error.error_status_hint == 501 else "syntax")
        elif self._ended:
            return  # the caller has left in the middle of a body, which the stream is about to be told
        elif isinstance(self.stream, HTTPStream) and self.connection.our_state is h11.SEND_RESPONSE:
            broken: Any = {"type": "http.request", "body": b"", "more_body": True, BROKEN: "body"}
            await self.stream.app_put(broken)
        else:
            await self.send(Closed())

    async def _refused(self, how: str) -> None:
        """Lets the guard refuse what came as a request, whatever it was."""
        self._lost = True
        state = ConnectionState({**self.connection_state, BROKEN: how})
        await self._asked(Request(STREAM_ID, headers=[], http_version="1.1", method="-", raw_path=b"-", state=state))
