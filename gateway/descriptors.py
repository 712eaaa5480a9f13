"""File descriptors: each connection takes one, and a process has a limited number of them.

When few are left, connections on which nobody asks for anything are closed, and new ones wait in the system's queue, so
that those that are served can go on: a request may need a descriptor for its call to Cohere, one for a file. asyncio
does not cope by itself: after a failed `accept` it tries again up to a hundred times, each with a line in the log
(https://github.com/python/cpython/issues/151615).
"""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

RESERVED_SHARE = 4
"""New connections wait when less than this part of all descriptors is left: a quarter."""

PAUSE_SECONDS = 0.1
"""Between two looks whether there are enough again."""

REPORT_SECONDS = 60.0
"""Between two sentences in the log."""

EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def exhausted(share: int = 0) -> bool:
    """Whether no descriptor is left; or, with a share, less than this part of all (4: a quarter)."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return error.errno in EXHAUSTED_ERRNOS
    os.close(lowest)
    # The system always gives the lowest free one: all below it are in use.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return bool(share) and limit != resource.RLIM_INFINITY and lowest >= limit - limit // share


class AcceptLimit:
    """Stands between an event loop and its listening sockets.

    report: gets a sentence for the operator. close_idle: closes a few connections that serve no request, where there
    are any.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str], None],
        close_idle: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop, self._report, self._close_idle = loop, report, close_idle
        self._reported_at = -REPORT_SECONDS
        self._accept: Callable[..., None] | None = getattr(loop, "_accept_connection", None)

    def install(self) -> None:
        """Takes over the loop's accepting of connections, on the loops that have a method for it."""
        if self._accept is not None:
            vars(self._loop)["_accept_connection"] = self._on_connection

    def _on_connection(
        self,
        protocol_factory: Any,
        listener: socket.socket,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *timeouts: float,
    ) -> None:
        """Accepts a connection that waits, or pauses. Its parameters are those of asyncio's method."""
        if not exhausted(RESERVED_SHARE):
            assert self._accept is not None
            self._accept(protocol_factory, listener, sslcontext, server, 1, *timeouts)
            return
        self._close_idle()
        self._loop.remove_reader(listener)
        arguments = (protocol_factory, listener, sslcontext, server, backlog, *timeouts)
        self._loop.call_later(PAUSE_SECONDS, self._resume, listener, arguments)
        now = self._loop.time()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._report("few file descriptors are left: new connections wait; raise the limit (`ulimit -n`)")

    def _resume(self, listener: socket.socket, arguments: tuple[Any, ...]) -> None:
        if listener.fileno() >= 0:  # the server may have stopped meanwhile
            self._loop.add_reader(listener, self._on_connection, *arguments)
