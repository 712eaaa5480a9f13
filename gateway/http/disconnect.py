"""Notices that the caller has left.

No ASGI server cancels a handler when its caller goes, so somebody must listen on
`receive`. `async with DisconnectWatcher(receive)` listens while its body runs; when the caller goes it cancels the
body, whose `finally` clauses close the upstream, and turns the cancellation into CallerLeft.

It begins to listen a moment late: an answer that is faster than that never pays for the listening task, and
a disconnect waits in the server's queue until somebody asks. One timer serves all watchers of a loop.
"""

import asyncio
import contextlib
from types import TracebackType

from starlette.types import Receive

from gateway.errors import CallerError, CallerLeft

MOMENT = 0.05
"""Seconds before the listening begins, or twice as many at most: far less than the second in which the upstream must be
closed.
"""


class _Moments:
    """The watchers of one loop that do not listen yet: those since the last tick of a timer, and those before."""

    _by_loop: "dict[asyncio.AbstractEventLoop, _Moments]" = {}  # only while any waits

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._newer: dict[DisconnectWatcher, None] = {}
        self._older: dict[DisconnectWatcher, None] = {}
        loop.call_later(MOMENT, self._tick)

    @classmethod
    def wait(cls, watcher: "DisconnectWatcher") -> "dict[DisconnectWatcher, None]":
        """Makes a watcher listen in a moment, unless it is taken out of what is returned."""
        loop = asyncio.get_running_loop()
        moments = cls._by_loop.get(loop)
        if moments is None:
            moments = cls._by_loop[loop] = cls(loop)
        moments._newer[watcher] = None
        return moments._newer

    def _tick(self) -> None:
        for watcher in self._older:
            watcher.begin()
        self._older, self._newer = self._newer, {}
        if self._older:
            self._loop.call_later(MOMENT, self._tick)
        else:
            del self._by_loop[self._loop]


class DisconnectWatcher:
    """Use after the request's body was read: what comes then can only be a disconnect.

    listening: False where somebody still reads the body; they say `listen` at its end, or `left`.
    """

    def __init__(self, receive: Receive, listening: bool = True) -> None:
        self._receive, self._listening = receive, listening
        self._left = False
        self._over = False

    def over(self) -> None:
        """Notes that the answer's last byte is being sent: from now on a disconnect means nothing."""
        self._over = True

    @property
    def is_over(self) -> bool:
        """The answer has come to its end."""
        return self._over

    async def __aenter__(self) -> "DisconnectWatcher":
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[None] = task
        self._watcher: asyncio.Task[None] | None = None
        self._waiting: dict[DisconnectWatcher, None] | None = None
        if self._listening:
            self.listen()
        return self

    def listen(self) -> None:
        """Begins to listen, in a moment."""
        if not self._over and self._waiting is None:
            self._waiting = _Moments.wait(self)

    def left(self) -> None:
        """Notes that the caller has gone."""
        if not self._over:
            self._left = True
            # Cancelling is the one way to stop a handler wherever it waits, the read from Cohere above all.
            self._task.cancel()

    def begin(self) -> None:
        """Begins to listen."""
        self._watcher = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        with contextlib.suppress(CallerError):  # a body that nobody wants may come broken: then we see no more
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.left()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._waiting is not None:
            self._waiting.pop(self, None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._left and kind is not None and issubclass(kind, asyncio.CancelledError):
            # Somebody else may have cancelled us as well (shutdown): then that cancellation goes on.
            # Our own cancellation is taken back, as `asyncio.timeout` does it:
            # https://docs.python.org/3/library/asyncio-task.html#asyncio.Task.uncancel
            if self._task.uncancel() == 0:
                raise CallerLeft from error
