"""What connections of both servers share: who is idle, and who does not read what was written."""

import asyncio
import math
import socket
import struct
from typing import Protocol
from weakref import WeakSet

MIN_BYTES_PER_SECOND = 500
"""A write that takes longer than the write timeout goes on as long as the caller reads this much."""

WRITE_BUFFER = 16 * 1024
"""Bytes that wait to be written before a write waits for the caller (asyncio's default: 64 KiB)."""

SILENT_SECONDS = 0.1
"""A caller who has sent no request for so long is closed when descriptors are scarce: others send it at once."""

MAX_CLOSED = 16
"""Connections that are closed at once then: as many as are accepted."""


LINGER_BYTES = 16 * 1024 * 1024
"""Bytes that are discarded after our last words, in LINGER_SECONDS at most. Who goes on sending is reset."""


class Closable(Protocol):
    """A connection."""

    def close(self) -> None: ...


class IdleConnections:
    """The connections of one server that serve no request at the moment.

    connections: those between two requests, the longest idle first. silent: those on which no request has come yet, and
    when they began, the oldest first. lingering: those that only wait for the caller to close them.
    """

    _all: "WeakSet[IdleConnections]" = WeakSet()

    def __init__(self) -> None:
        self.connections: dict[Closable, None] = {}
        self.silent: dict[Closable, float] = {}
        self.lingering: dict[Closable, None] = {}
        self._all.add(self)

    def leave(self, connection: Closable) -> None:
        """Takes out a connection that is served, or closed."""
        self.connections.pop(connection, None)
        self.silent.pop(connection, None)
        self.lingering.pop(connection, None)

    @classmethod
    def close_some(cls) -> bool:
        """Closes at most MAX_CLOSED: those that linger, then the silent of SILENT_SECONDS, then the longest idle.

        Returns whether there were any.
        """
        latest = asyncio.get_running_loop().time() - SILENT_SECONDS
        # A copy: a set of weak references changes while it is looked at.
        of_all = [*cls._all]
        silent = [one for idle in of_all for one, began in idle.silent.items() if began < latest]
        lingering = [one for idle in of_all for one in idle.lingering]
        between = [one for idle in of_all for one in idle.connections]
        chosen = (*lingering, *silent, *between)[:MAX_CLOSED]
        for connection in chosen:
            connection.close()
        return bool(chosen)


close_idle = IdleConnections.close_some
"""For a process that has few descriptors left."""


class WriteWatch:
    """Watches the writes of one connection, and aborts it when the caller reads so little that one takes too long.

    One timer serves all writes, so that a write costs no timer of its own. paused: a write waits for the caller.
    """

    def __init__(self, transport: asyncio.WriteTransport, timeout: float) -> None:
        self._transport, self._timeout = transport, timeout
        self.paused = False
        self._since = 0.0  # 0 while no write is waiting
        self._pending_bytes = 0  # that waited to be written then
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: list[asyncio.Future[None]] = []
        transport.set_write_buffer_limits(WRITE_BUFFER)

    def pause(self) -> None:
        """Takes note that what was written waits."""
        self.paused = True
        self._start()

    def resume(self) -> None:
        """Takes note that it has left."""
        self.paused, self._since = False, 0.0
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def drain(self) -> None:
        """Waits until what was written has left, or the connection is lost."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def closing(self) -> None:
        """Bounds the time of what is still to be written on a connection that is closed."""
        if not self._since and self._transport.get_write_buffer_size():
            self._start()

    def stop(self) -> None:
        """Ends watching, as the connection is lost."""
        self.resume()
        if self._timer is not None:
            self._timer.cancel()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        self._since, self._pending_bytes = loop.time(), self._transport.get_write_buffer_size()
        if self._timer is None and self._timeout < math.inf:
            self._timer = loop.call_later(self._timeout, self._check)

    def _check(self) -> None:
        self._timer = None
        if not self._since:
            return
        loop = asyncio.get_running_loop()
        now, pending = loop.time(), self._transport.get_write_buffer_size()
        left = self._since + self._timeout - now
        if left <= 0 and self._pending_bytes - pending >= self._timeout * MIN_BYTES_PER_SECOND:
            self._pending_bytes, self._since, left = pending, now, self._timeout
        if left > 0:
            self._timer = loop.call_later(left, self._check)
        else:
            reset(self._transport)


def reset(transport: asyncio.WriteTransport) -> None:
    """Throws away what waits to be written, in the kernel as well. The request hears of a caller who has left."""
    # On, and with no time: closing resets the connection, and the kernel drops what it still has of it.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
