"""A server that freezes: a relay before one that tests share, which may stop to pass anything on.

As with a process that was stopped, connections are still accepted and nothing is answered.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Relay:
    """Passes connections on to a port of this machine. port: its own."""

    def __init__(self, target: int) -> None:
        self._target, self._open = target, threading.Event()
        self._open.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def close(self) -> None:
        self._open.set()
        for one in (self._server, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._server.accept()
                self._sockets.append(here)
                threading.Thread(target=self._connect, args=(here,), daemon=True).start()

    def _connect(self, here: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._open.wait()
            there = socket.create_connection(("127.0.0.1", self._target))
            self._sockets.append(there)
            threading.Thread(target=self._pass_on, args=(there, here), daemon=True).start()
            self._pass_on(here, there)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while some := source.recv(65536):
                self._open.wait()
                sink.sendall(some)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def relay(target: int) -> Iterator[Relay]:
    running = Relay(target)
    try:
        yield running
    finally:
        running.close()
