"""uvicorn as the server: its configuration, its lifespan, and a start and an end of our own.

Connections are those of `uvicorn_connection.py`; those that it hands over are served by Hypercorn's, with the same
settings. New connections are accepted by `AcceptLimit`, whichever event loop runs: uvloop's own listener takes no
account of descriptors.
"""

import asyncio
import logging
import math
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import hypercorn.config
import uvicorn
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.typing import LifespanState
from starlette.types import ASGIApp

from gateway.descriptors import AcceptLimit
from gateway.server.connection import WRITE_TIMEOUT
from gateway.server.hypercorn_patches import QuietTCPServer
from gateway.server.uvicorn_connection import Connection, Options


class Server(uvicorn.Server):
    """uvicorn's server of one application on one socket.

    limits: Hypercorn's configuration with the limits of callers' connections, which are the same here; requests in
    flight have its `graceful_timeout` as it is when `stop` returns.
    """

    def __init__(
        self,
        application: ASGIApp,
        listener: socket.socket,
        limits: hypercorn.config.Config,
        stop: Callable[[], Awaitable[object]],
        accept_limit: AcceptLimit,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # uvicorn's own log has nothing that ours has not, and no form.
        logging.getLogger("uvicorn.error").disabled = True
        # What uvicorn would add to a request or a response is done in the middleware. WebSockets are Hypercorn's.
        config = uvicorn.Config(
            application,
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            interface="asgi3",
            ws="none",
        )
        super().__init__(config)
        self._listener, self._stop, self._limits, self._tls = listener, stop, limits, tls
        self._accept_limit = accept_limit
        self._hypercorn = HypercornConnections(application, limits, self.server_state.tasks)
        write_timeout: float = vars(limits).get(WRITE_TIMEOUT, math.inf)
        self._options = Options(self._hypercorn.take_over, limits.keep_alive_timeout, write_timeout)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, and then accepts connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start")
        self._accept_limit.listen(
            self._listener, lambda: Connection(self._options, self.config, self.server_state), self._tls
        )
        self.started = True

    async def main_loop(self) -> None:
        """Waits until the server is to stop."""
        await self._stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, and lets what is in flight end; what has not by then is cancelled."""
        self._accept_limit.stop_listening(self._listener)
        await self._hypercorn.terminate()
        for connection in [*self.server_state.connections]:
            connection.shutdown()
        tasks = self.server_state.tasks
        if tasks:
            await asyncio.wait(tasks, timeout=self._limits.graceful_timeout)
        remaining = [*tasks]
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)
        for connection in [*self.server_state.connections]:
            connection.transport.close()
        await self.lifespan.shutdown()


class HypercornConnections:
    """Connections that another server has accepted, and Hypercorn serves. tasks: gets one for each."""

    def __init__(self, application: ASGIApp, config: hypercorn.config.Config, tasks: set[asyncio.Task[None]]) -> None:
        self._application = ASGIWrapper(application)  # type: ignore[arg-type]
        self._config, self._tasks = config, tasks
        self._context = WorkerContext(None)
        self._state: LifespanState = LifespanState({})

    def take_over(self, transport: asyncio.Transport, data: bytes) -> None:
        """Serves a connection on which these bytes have come."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        # As `asyncio.start_server` does it. The connection exists already, so nobody else tells the protocol.
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        if data:
            reader.feed_data(data)
        task = loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        await QuietTCPServer(self._application, loop, self._config, self._context, self._state, reader, writer)

    async def terminate(self) -> None:
        """Closes idle connections, and the others after their responses."""
        await self._context.terminated.set()


async def serve(server: Server) -> None:
    """Serves until the server is told to stop. Signals stay with whoever has handlers for them."""
    # Below `serve`, which would put handlers of its own in the place of ours.
    await server._serve()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns how to make the event loop that is cheapest for this server; None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Any = uvloop.new_event_loop
    return factory  # type: ignore[no-any-return]
