"""An HTTP answer as the place where a call's answer goes."""

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Send

from gateway.http import sse
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import STREAM_HEADERS, answer_json, note_headers
from gateway.http.validation import JOINED
from gateway.observability.record import RequestRecord
from gateway.pipeline.streaming import Framing
from translators.core.contracts import Stream, Translation


class HttpSink:
    """An HTTP answer as the place where a call's answer goes: `streaming.ResponseSink`.

    A stream that has begun and falls silent gets a comment now and then, so that nobody between us and the caller
    takes the connection for dead. One timer looks after that, whatever the number of events.

    comments: seconds of silence at most, 0 for any.
    """

    def __init__(
        self, framing: Framing, known: RequestRecord, send: Send, departure: DisconnectWatcher, comments: float
    ) -> None:
        self._framing, self._known, self._send, self._departure = framing, known, send, departure
        self._comments = comments
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Future[None] | None = None
        self._told = 0
        self._seen = -1

    async def whole(self, call: Translation, answer: bytes) -> None:
        await answer_json(self._send, answer, note_headers(call.notes), self._departure)

    async def begin(self, call: Translation) -> None:
        self._known.first_byte = time.monotonic()
        headers = [*STREAM_HEADERS, *note_headers(call.notes)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers, JOINED: True})
        if self._comments:
            self._set_timer()

    async def documents(self, documents: Sequence[bytes]) -> None:
        self._told += 1
        if self._comment is not None:
            await self._comment_sent()
        body = self._framing.documents(documents)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._told += 1

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self.__exit__()
        if self._comment is not None:
            await self._comment_sent()
        self._departure.over()
        body = self._framing.documents(documents) + self._framing.closing(stream)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def __enter__(self) -> "HttpSink":
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error and self._comment is not None:
            self._comment.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._comments / 2, self._look)

    def _look(self) -> None:
        """The timer: was anything told since it looked last? An odd count is a send that a slow caller holds up."""
        if self._told == self._seen and not self._told % 2 and self._comment is None:
            self._comment = asyncio.ensure_future(
                self._send({"type": "http.response.body", "body": sse.COMMENT, "more_body": True})
            )
            self._comment.add_done_callback(self._commented)
        self._seen = self._told
        self._set_timer()

    def _commented(self, comment: asyncio.Future[None]) -> None:
        self._comment = None
        if not comment.cancelled():
            comment.exception()  # who has left is noticed elsewhere

    async def _comment_sent(self) -> None:
        """Two sends at once might be mixed up."""
        if self._comment is not None:
            await asyncio.wait([self._comment])
