"""`receive`, which remembers whether the request's body has come to its end.

An answer may be complete before the request is: 401, 413, a GET with a body. Closing the connection then would reset
it, and many clients would never read the answer (RFC 9112 §9.6); not reading on would block the server's queue.
"""

import asyncio

from starlette.types import Message, Receive

from gateway.edge import BROKE, BROKEN, Malformed

LINGER_SECONDS = 2.0
"""How long what still comes of a refused body is read and thrown away."""


class Incoming:
    """A request's messages on their way in."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.over = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if BROKEN in message:
            self.over = True
            raise Malformed(BROKE[message[BROKEN]])
        if not message.get("more_body"):
            self.over = True
        return message

    def thrown_away(self) -> "asyncio.Task[None]":
        """Reads what is left, until there is nothing more or the task is cancelled."""
        return asyncio.get_running_loop().create_task(self._rest())

    async def _rest(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect" or BROKEN in message or not message.get("more_body"):
                return
