"""Connections to Cohere: only clean ones are used again, whoever reads from one learns of its end, and little waits.

What is read of a stream waits in memory as long as the caller reads nothing, so each read is small; its events are much
smaller. A whole answer is read at once whatever the caller does, in as few reads as possible.
"""

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from gateway.upstream.http1_client import STREAM_READ_BYTES, TLS_READ_BYTES, WHOLE_READ_BYTES


def limit_reads(response: aiohttp.ClientResponse, streamed: bool) -> None:
    """Sets how much of a response is read at once. Its connection may have had the other kind before."""
    connection = response.connection
    transport = connection.transport if connection is not None else None  # None: all of it has come
    if transport is not None and hasattr(transport, "max_size"):
        transport.max_size = STREAM_READ_BYTES if streamed else WHOLE_READ_BYTES


class Connector(aiohttp.TCPConnector):
    """A pool of connections that discards those on which something arrived while they were idle.

    aiohttp looks at a connection when its response is over. What arrives after that, while it waits to be used again (a
    proxy's 408, a second response behind the first), would be the response to whoever uses it next.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # The class of its connections is no parameter of aiohttp's connector, but what its `_factory` makes.
        self._factory: Any = functools.partial(_Protocol, loop=asyncio.get_running_loop())

    async def _get(self, *args: Any) -> Connection | None:
        while (connection := await super()._get(*args)) is not None:
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class _Protocol(ResponseHandler):
    """aiohttp's side of a connection, with three corrections."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._was_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Limits what is read at once, and with TLS what is decrypted ahead."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = STREAM_READ_BYTES
        if hasattr(transport, "set_read_buffer_limits"):
            transport.set_read_buffer_limits(TLS_READ_BYTES)

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Does nothing as long as nothing was paused.

        aiohttp calls it for each chunk that is read, and would each time walk through its parser and its transport.
        Once paused, the parser may hold more than it says.
        """
        if self._was_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, error: BaseException | None) -> None:
        """Tells the reader of a body as well.

        aiohttp closes a connection whose response has broken framing, say a chunk size that is not a number, but tells
        only who waits for the response's head. Who reads its body would wait until a time-out.
        """
        body = self._payload
        super().connection_lost(error)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the response's framing is broken"))
