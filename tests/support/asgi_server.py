"""Any ASGI application on a real server: a loopback port, a thread, a loop of its own, a clean end.

For the few tests whose subject is the server itself: streams, disconnects, shutdown, malformed requests.
Nothing of the project is imported here; the caller brings a function that builds the application, and it runs
inside the server's loop, where an application may want to be born.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import hypercorn.asyncio
from hypercorn.config import Config

from support.waiting import WAIT_SECONDS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]

Run = Callable[[Any, socket.socket, Config, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Serves an application on a socket with the limits of a configuration, until the last argument returns."""

HOST = "127.0.0.1"
LAG = float(os.environ.get("GATEWAY_TEST_LAG", 0))
"""Seconds that an application stands still after an answer's last byte: shows tests that do not wait for the rest."""


@contextmanager
def serve(
    app_factory: Callable[[], ASGIApp],
    *,
    configure: Callable[[Config], None] | None = None,
    run: Run | None = None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    graceful_timeout: float = 2.0,
    timeout: float = WAIT_SECONDS,
) -> Iterator[str]:
    """Serve the application that the factory builds; yields its base URL once the lifespan has started.

    What goes wrong in the server's thread is raised here: while starting at once, later at the end, unless
    the test has failed by itself. `configure` may change Hypercorn's settings. `run` serves by another server.
    """
    listener = socket.create_server((HOST, 0))
    base_url = f"http://{HOST}:{listener.getsockname()[1]}"
    server = _Server(listener, app_factory, graceful_timeout, run, loop_factory)
    if configure is not None:
        configure(server.config)
    server.start(timeout)
    try:
        yield base_url
    except BaseException:
        server.stop(timeout)
        raise
    server.stop(timeout)
    server.raise_failure()


class AfterTheAnswer:
    """An ASGI application around another one that knows which requests are answered but not over.

    A server goes on when the last byte has left: it counts the request, writes its line, stores what there is to
    store. A caller who has read the answer may look for these too early; `wait` is for them. A request whose answer
    is still under way is not waited for. A WebSocket is over when one side has closed it and the application has
    returned.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._changed = threading.Condition()
        self._answered = 0

    def wait(self, timeout: float = WAIT_SECONDS) -> None:
        """Wait until no answered request is left; TimeoutError when one stays."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._answered, timeout):
                raise TimeoutError(f"{self._answered} answered requests did not end within {timeout} s")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        progress = _Progress()

        async def watched_send(message: Message) -> None:
            if progress.completes(message):
                self._count(1)  # before the bytes leave: whoever has read them finds it counted
            await send(message)
            if progress.complete:
                await asyncio.sleep(LAG)

        async def watched_receive() -> Message:
            message = await receive()
            if progress.completes(message):
                self._count(1)
            return message

        try:
            await self._app(scope, watched_receive, watched_send)
        finally:
            if progress.complete:
                self._count(-1)

    def _count(self, change: int) -> None:
        with self._changed:
            self._answered += change
            self._changed.notify_all()


class _Progress:
    """How far the answer to one request has come."""

    def __init__(self) -> None:
        self.complete = False
        self._remaining: int | None = None
        """Bytes of the body that are still to come, where the answer said how many there are."""

    def completes(self, message: Message) -> bool:
        """Whether the answer is complete with this message, and was not before."""
        match message["type"]:
            case "http.response.start":
                values = [value for name, value in message.get("headers", ()) if name.lower() == b"content-length"]
                self._remaining = int(values[0]) if values else None
                return False
            case "http.response.body" if self._remaining is not None and message.get("more_body"):
                self._remaining -= len(message.get("body", b""))
                last = self._remaining <= 0
            case "http.response.body":
                last = not message.get("more_body")
            case kind:
                last = kind in ("websocket.close", "websocket.disconnect")
        before, self.complete = self.complete, self.complete or last
        return last and not before


class _Server:
    """The thread, its loop and the two moments that the other side waits for: started, stopped."""

    def __init__(
        self,
        listener: socket.socket,
        app_factory: Callable[[], ASGIApp],
        graceful_timeout: float,
        run: Run | None,
        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
    ) -> None:
        self.config = Config()
        self.config.graceful_timeout = graceful_timeout
        # The socket is bound and listening before the thread exists, so no port is guessed and no early
        # connection is refused. The server takes it over: it is its to close.
        self._listener = listener
        self._serve, self._loop_factory = run or _serve_by_hypercorn, loop_factory
        # A logger of the kit's own: Hypercorn's default writes to the stderr of whichever test started it.
        self.config.errorlog = logging.getLogger("hypercorn.under_test")
        self.config.accesslog = None
        self._app_factory = app_factory
        self._failures: list[BaseException] = []
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway under test", daemon=True)

    def start(self, timeout: float) -> None:
        self._thread.start()
        if not self._started.wait(timeout):
            raise TimeoutError(f"the server did not start within {timeout} s")
        if self._failures:
            self._thread.join(timeout)
            self.raise_failure()

    def stop(self, timeout: float) -> None:
        try:
            self._loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            pass  # the loop has ended by itself; the failure says why
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._failures.insert(0, TimeoutError(f"the server did not stop within {timeout} s"))

    def raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._loop_factory) as runner:
                runner.run(self._main())
        except BaseException as failure:  # brought to the test's thread by raise_failure
            self._failures.append(failure)
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._note_loose_failure)
        self._stop = asyncio.Event()
        try:
            app = self._watch_lifespan(self._app_factory())
            await self._serve(app, self._listener, self.config, self._stopped)
        finally:
            self._listener.close()  # where no server came to take it over

    async def _stopped(self) -> None:
        # A server asks for this once its sockets are served: the moment that the test has been waiting for.
        self._started.set()
        await self._stop.wait()

    def _watch_lifespan(self, app: ASGIApp) -> Any:
        # Hypercorn takes an exception in the lifespan for "does not support it" and serves on. To a test it
        # is a failed start, or a failed shutdown.
        async def watched(scope: Message, receive: Receive, send: Send) -> None:
            try:
                await app(scope, receive, send)
            except Exception as failure:
                if scope["type"] == "lifespan":
                    self._failures.append(failure)
                    self._stop.set()
                raise

        return watched

    def _note_loose_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A task that died with nobody looking is a fault of the application. A peer that vanished is not, nor
        # is the cancellation of a connection that outlived the graceful timeout.
        failure = context.get("exception")
        if failure is None:
            loop.default_exception_handler(context)
        elif not isinstance(failure, ConnectionError | asyncio.CancelledError):
            self._failures.append(failure)


async def _serve_by_hypercorn(
    app: Any, listener: socket.socket, config: Config, stopped: Callable[[], Awaitable[None]]
) -> None:
    config.bind = [f"fd://{listener.detach()}"]
    await hypercorn.asyncio.serve(app, config, shutdown_trigger=stopped)


def raw_request(
    host: str,
    port: int,
    data: bytes,
    *,
    until: bytes | None = None,
    timeout: float = WAIT_SECONDS,
) -> bytes:
    """Send these very bytes and return what comes back: all until the peer closes, or until `until` has come.

    A reset ends the answer like a close. TimeoutError, with what had come, when neither happens in time.
    """
    deadline = time.monotonic() + timeout
    received = bytearray()
    with socket.create_connection((host, port), timeout) as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before it was all read; the answer is what counts
        while until is None or until not in received:
            try:
                connection.settimeout(max(deadline - time.monotonic(), 0.001))
                some = connection.recv(65536)
            except TimeoutError:
                raise TimeoutError(f"no end within {timeout} s; so far: {bytes(received)!r}") from None
            except ConnectionResetError:
                break
            if not some:
                break
            received += some
    return bytes(received)
