"""An HTTP response as the place where a translated response goes."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from msgspec import Struct
from starlette.types import Send

from gateway.http import sse
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import STREAM_HEADERS, note_headers, send_json
from gateway.http.validation import JOINED
from gateway.observability.record import RequestRecord
from gateway.pipeline.streaming import Framing
from translators.core.contracts import Stream, Translation


class HttpSink(Struct):
    """A `streaming.ResponseSink` that is an HTTP response. Whoever makes it calls `close`.

    A stream that has begun and falls silent gets a comment now and then, so that nobody between us and the caller
    takes the connection for dead. One timer looks after that, whatever the number of events.

    _comment_seconds: the longest silence, 0 for any. committed: the head of a stream was sent before its first event.
    """

    _framing: Framing
    _record: RequestRecord
    _send: Send
    _watcher: DisconnectWatcher
    _comment_seconds: float
    _timer: asyncio.TimerHandle | None = None
    _comment: asyncio.Future[None] | None = None
    _commit_timer: asyncio.TimerHandle | None = None
    _committing: asyncio.Future[None] | None = None
    _sends: int = 0
    _sends_seen: int = -1

    @property
    def committed(self) -> bool:
        return self._committing is not None

    def commit_after(self, seconds: float, translation: Translation) -> None:
        # Only the first of several attempts starts it: the time is the caller's, counted from the request.
        if self._commit_timer is None:
            self._commit_timer = asyncio.get_running_loop().call_later(seconds, self._commit, translation)

    def _commit(self, translation: Translation) -> None:
        self._committing = asyncio.ensure_future(self._send_head(translation))

    def whole(self, translation: Translation, body: bytes) -> Coroutine[Any, Any, None]:
        return send_json(self._send, body, translation.notes, self._watcher)

    async def begin(self, translation: Translation) -> None:
        if self._commit_timer is not None:
            self._commit_timer.cancel()
        # A head that is being sent is waited for and not sent twice.
        await (self._committing or self._send_head(translation))

    async def _send_head(self, translation: Translation) -> None:
        self._record.first_byte = time.monotonic()
        headers = [*STREAM_HEADERS, *note_headers(translation.notes)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers, JOINED: True})
        if self._comment_seconds:
            self._set_timer()

    async def documents(self, documents: Sequence[bytes]) -> None:
        # Odd while a send is under way, even between two. The timer reads it without a lock, because all of this is one
        # thread.
        self._sends += 1
        if self._comment is not None:
            await self._comment_sent()
        body = self._framing.documents(documents)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sends += 1

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self.close()
        if self._comment is not None:
            await self._comment_sent()
        # Before the last send: a caller who closes right behind the last byte has not left.
        self._watcher.over()
        body = self._framing.documents(documents) + self._framing.closing(stream)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def close(self, failed: bool = False) -> None:
        """Ends the timers. failed: and whatever is being sent by itself."""
        if self._timer is not None:
            self._timer.cancel()
        if self._commit_timer is not None:
            self._commit_timer.cancel()
        if failed and self._committing is not None:
            self._committing.cancel()
        if failed and self._comment is not None:
            self._comment.cancel()

    def _set_timer(self) -> None:
        # At half the time, so that no silence is longer than all of it, without a timer that is set anew for each
        # event.
        self._timer = asyncio.get_running_loop().call_later(self._comment_seconds / 2, self._send_comment_if_silent)

    def _send_comment_if_silent(self) -> None:
        """Sends a comment if nothing was sent since the timer looked last.

        An odd count of sends is a send that a slow caller holds up.
        """
        if self._sends == self._sends_seen and not self._sends % 2 and self._comment is None:
            self._comment = asyncio.ensure_future(
                self._send({"type": "http.response.body", "body": sse.COMMENT, "more_body": True})
            )
            self._comment.add_done_callback(self._comment_done)
        self._sends_seen = self._sends
        self._set_timer()

    def _comment_done(self, comment: asyncio.Future[None]) -> None:
        self._comment = None
        if not comment.cancelled():
            comment.exception()  # a caller who left is noticed elsewhere

    async def _comment_sent(self) -> None:
        """Waits for a comment under way: two sends at once might be mixed up."""
        if self._comment is not None:
            await asyncio.wait([self._comment])
