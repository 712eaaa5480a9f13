"""Reads the rest of a request's body when its response did not wait for it: 401, 413, a GET with a body.

Hypercorn hands a body over through a queue of ten messages and waits for room in it, also before it ends the request.
If nobody reads on after a response that did not wait for the body, it waits for ever, and the connection with it.
Closing a connection on which bytes still arrive resets it, and many clients then never read the response (RFC 9112
§9.6).
"""

import asyncio
import contextlib

from starlette.types import Message, Receive

from gateway.http.validation import BROKE, BROKEN, Malformed
from gateway.observability.record import RequestRecord

LINGER_SECONDS = 2.0
"""How long the end of a complete response waits for the rest of a body that nobody wants."""


class BodyDrain:
    """The `receive` of a request that has a body, whose bytes it counts."""

    def __init__(self, receive: Receive, record: RequestRecord) -> None:
        self._receive, self._record = receive, record
        self._task: asyncio.Task[None] | None = None
        self.over = False

    async def __call__(self) -> Message:
        """Returns the next message. Raises Malformed where `connection.py` could not read on."""
        message = await self._receive()
        if BROKEN in message:
            self.over = True
            raise Malformed(BROKE[message[BROKEN]])
        self._record.bytes_received += len(message.get("body", b""))
        if self._record.bodies is not None:
            self._record.bodies.add_request(message.get("body", b""))
        if not message.get("more_body"):
            self.over = True
        return message

    def discard(self) -> None:
        """Reads on, beside whatever else happens, until the server has closed the request."""
        # One reader at most: two would take each other's messages.
        if not self.over and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._read_on())

    async def linger(self) -> None:
        """Waits until the body has ended, LINGER_SECONDS at most."""
        self.discard()
        if self._task is not None:
            # Not cancelled after that. It reads on until the server has closed the request, or the server would wait
            # for room in its queue.
            await asyncio.wait([self._task], timeout=LINGER_SECONDS)

    async def _read_on(self) -> None:
        with contextlib.suppress(Malformed):
            while not self.over:
                await self()
