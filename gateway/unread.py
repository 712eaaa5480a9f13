"""What is left of a request's body when its answer is over.

Hypercorn hands a body over through a queue of ten messages and waits for room in it, also before it ends the
request: with an answer that did not wait for the body (a key that is not known, a file that is too large), and
nobody who reads on, it would wait for ever, and the connection with it.
"""

import asyncio

from starlette.types import Message, Receive


class Unread:
    """`receive` of a request that has a body."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def __call__(self) -> Message:
        message = await self._receive()
        if not message.get("more_body"):
            self._over = True
        return message

    def throw_away(self) -> None:
        """Reads on, beside whatever else happens, until the server has closed the request."""
        if not self._over and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read_on())

    async def _read_on(self) -> None:
        while not self._over:
            await self()
