"""Connections to Cohere that are used again, and only such as may be; and what their readers hear of their end."""

import asyncio
import functools
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection


class _Protocol(ResponseHandler):
    """aiohttp's side of a connection, with two things mended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._was_paused = False

    def pause_reading(self) -> None:
        self._was_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Does nothing as long as nothing was paused: aiohttp asks for it after each chunk that is read, and would
        each time walk through its parser and its transport. Once paused, the parser may hold more than it says.
        """
        if self._was_paused:
            super().resume_reading(resume_parser)

    def connection_lost(self, error: BaseException | None) -> None:
        """aiohttp ends a connection whose answer has broken framing, say a chunk's size that is no number, but tells
        only who waits for the answer's head. Who reads its body would wait until they lose patience.
        """
        body = self._payload
        super().connection_lost(error)
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError("the answer's framing is broken"))


class Connector(aiohttp.TCPConnector):
    """aiohttp looks at a connection when its answer is over. What comes after that, while it waits to be used again (a
    proxy's 408, a second answer behind the first), would be the answer to whoever uses it next.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = functools.partial(_Protocol, loop=asyncio.get_running_loop())

    async def _get(self, *given: Any) -> Connection | None:
        while (found := await super()._get(*given)) is not None:
            if found.protocol is None or not found.protocol.should_close:
                return found
            found.close()
        return None
