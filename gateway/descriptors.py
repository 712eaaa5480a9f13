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
from functools import partial
from typing import Any, Protocol

RESERVED_SHARE = 4
"""New connections wait when less than this part of all descriptors is left: a quarter."""

PAUSE_SECONDS, CLOSING_SECONDS = 0.02, 0.001
"""Between two looks whether there are enough again; where connections were closed, which takes a turn or two."""

REPORT_SECONDS = 60.0
"""Between two sentences in the log."""

MAX_ACCEPTED = 16
"""Connections that are accepted in one turn of the loop: in a burst those that are served wait no longer than that."""

TURN_SECONDS = 0.002
"""For which a worker leaves a new connection to others. One that is at work may be in a turn of its loop."""

HANDSHAKE_SECONDS = 15.0
"""For the TLS handshake of a new connection."""

EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def exhausted(share: int = 0) -> bool:
    """Returns whether no descriptor is left; or, with a share, less than this part of all (4: a quarter)."""
    try:
        lowest = os.open(os.devnull, os.O_RDONLY)
    except OSError as error:
        return error.errno in EXHAUSTED_ERRNOS
    os.close(lowest)
    # The system always gives the lowest free one: all below it are in use.
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return bool(share) and limit != resource.RLIM_INFINITY and lowest >= limit - limit // share


class Turns(Protocol):
    """Whose turn it is to accept where other workers accept from the same sockets (`server/accept_turns.py`)."""

    def is_others(self) -> bool: ...
    def take_over(self) -> None: ...
    def accepted(self) -> None: ...


class AcceptLimit:
    """Stands between an event loop and its listening sockets.

    report: gets a sentence for the operator. close_idle: closes a few connections that serve no request, and returns
    whether there were any. turns: of the workers that accept from the same sockets, where there are others. Then each
    takes one connection in a turn of its loop, and lets those go first that have accepted fewer.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        report: Callable[[str], None],
        close_idle: Callable[[], bool] = lambda: False,
        turns: Turns | None = None,
    ) -> None:
        self._most = 1 if turns is not None else MAX_ACCEPTED
        self._turns = turns
        self._loop, self._report, self._close_idle = loop, report, close_idle
        self._reported_at = -REPORT_SECONDS
        # A private method of asyncio's loops, which uvloop's has not: there only `listen` works.
        self._accept: Callable[..., None] | None = getattr(loop, "_accept_connection", None)
        self._opening: set[asyncio.Task[Any]] = set()
        """Connections whose TLS handshake is under way."""

    def install(self) -> None:
        """Takes over asyncio's accepting of connections, for servers that listen by the loop."""
        if self._accept is not None:
            vars(self._loop)["_accept_connection"] = self._on_connection

    def listen(
        self, listener: socket.socket, protocol_factory: Callable[[], asyncio.BaseProtocol], tls: Any = None
    ) -> None:
        """Accepts connections itself, on any loop, until `stop_listening`."""
        self._loop.add_reader(listener, self._accept_some, listener, protocol_factory, tls)

    def stop_listening(self, listener: socket.socket) -> None:
        """Accepts no more, and closes the listening socket."""
        self._loop.remove_reader(listener)
        listener.close()

    def _accept_some(self, *arguments: Any) -> None:
        listener, protocol_factory, tls = arguments
        for _ in range(self._most):
            if exhausted(RESERVED_SHARE):
                self._pause(listener, self._accept_some, arguments)
                return
            if self._turns is not None and self._turns.is_others():
                self._let_others_go_first(listener, self._accept_some, arguments)
                return
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno in EXHAUSTED_ERRNOS:
                    self._pause(listener, self._accept_some, arguments)
                return  # nobody waits any more, or who waited has left
            if self._turns is not None:
                self._turns.accepted()
            connection.setblocking(False)
            options = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE_SECONDS}
            opening = self._loop.connect_accepted_socket(protocol_factory, connection, **options)
            task = self._loop.create_task(opening)
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[Any]) -> None:
        self._opening.discard(task)
        if not task.cancelled():
            task.exception()  # a handshake that fails is the caller's own affair

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
        arguments = (protocol_factory, listener, sslcontext, server, backlog, *timeouts)
        if exhausted(RESERVED_SHARE):
            self._pause(listener, self._on_connection, arguments)
        elif self._turns is not None and self._turns.is_others():
            self._let_others_go_first(listener, self._on_connection, arguments)
        else:
            assert self._accept is not None
            # asyncio does not say whether it got one, but makes a protocol for each.
            counted = partial(self._counted, protocol_factory) if self._turns is not None else protocol_factory
            # 1 in the place of the backlog, which is how many asyncio accepts in a turn.
            self._accept(counted, listener, sslcontext, server, 1, *timeouts)

    def _counted(self, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> asyncio.BaseProtocol:
        if self._turns is not None:
            self._turns.accepted()
        return protocol_factory()

    def _let_others_go_first(
        self, listener: socket.socket, accept: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        """Leaves a connection for a moment to the workers whose turn it is. What they do not take is not theirs."""
        self._loop.remove_reader(listener)
        self._loop.call_later(TURN_SECONDS, self._take_over, listener, accept, arguments)

    def _take_over(self, *arguments: Any) -> None:
        if self._turns is not None:
            self._turns.take_over()
        self._resume(*arguments)

    def _pause(self, listener: socket.socket, accept: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """Closes a few idle connections, and lets new ones wait for a moment."""
        pause = CLOSING_SECONDS if self._close_idle() else PAUSE_SECONDS
        # Or the loop would come here in each of its turns while a connection waits.
        self._loop.remove_reader(listener)
        self._loop.call_later(pause, self._resume, listener, accept, arguments)
        now = self._loop.time()
        if now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            self._report("few file descriptors are left: new connections wait; raise the limit (`ulimit -n`)")

    def _resume(self, listener: socket.socket, accept: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if listener.fileno() >= 0:  # the server may have stopped meanwhile
            self._loop.add_reader(listener, accept, *arguments)
