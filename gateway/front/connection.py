"""A caller's connection: HTTP/1.1 read by h11, with what Hypercorn leaves open closed. Beside `server.py` the only
file that imports Hypercorn.

    HTTP/2 in clear text    neither by upgrade nor by prior knowledge: nobody here speaks it, and a request that
                            changes its framing on the way is what smuggling is made of
    bytes that are no HTTP  are refused by the guard, like everything else: OpenAI's shape, an id, a line in the log
    pipelined requests      wait, but do not keep us from noticing that the caller has left
    Expect: 100-continue    is answered when nothing has been refused by the request's head alone

What a request that h11 can read must look like is in `edge.py`.
"""

import asyncio
from typing import Any

import h11
import hypercorn.config
import hypercorn.protocol
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import ConnectionState

from gateway.front.edge import BROKEN, LARGEST_HEAD

MOST_AHEAD = 64 * 1024
"""Bytes of further requests that are read while one is served. Then reading waits, and a leaving goes unnoticed."""

VERSIONS = (b"1.1", b"1.0")


def tighten(config: hypercorn.config.Config) -> None:
    """Has Hypercorn use this connection, in the whole process; there is no setting for it."""
    config.h11_max_incomplete_size = LARGEST_HEAD
    vars(hypercorn.protocol)[H11Protocol.__name__] = Connection


class Connection(H11Protocol):
    """One connection of a caller's, from its first byte to its last."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._turn = asyncio.Lock()
        self._waiting = False  # further requests have come, for when this one is served
        self._lost = False  # what comes from now on has no meaning
        self._ended = False  # the caller sends no more
        self._gone = False  # nobody reads from this connection any more

    async def handle(self, event: Event) -> None:
        if isinstance(event, RawData):
            self._ended = self._ended or not event.data
            if self._lost:
                return
        elif isinstance(event, Closed) and not self._gone:
            self._gone = True
            if self.stream is None:
                self._end()
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
                await self.send(Updated(idle=False))
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

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()
        if self._gone:
            self._end()
        elif self._waiting:
            self._waiting = False
            self.task_group.spawn(self._handle_events)

    def _end(self) -> None:
        """Ends the idle timer, too: else it, and with it the connection's tasks, would outlive the caller.

        In a task of its own, because it may be the timer that asks, and who ends the timer waits for it.
        """
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
        self.stream = HTTPStream(
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
        state = ConnectionState({**self.connection_state, BROKEN: how})
        nothing = Request(STREAM_ID, headers=[], http_version="1.1", method="-", raw_path=b"-", state=state)
        await self.stream.handle(nothing)
