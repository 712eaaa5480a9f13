"""Notices that the caller has left.

No ASGI server cancels a handler when its caller goes, so somebody must listen on
`receive`. `async with DisconnectWatcher(receive)` listens while its body runs; when the caller goes it cancels the
body, whose `finally` clauses close the upstream, and turns the cancellation into CallerLeft.

It begins to listen a moment late: an answer that is faster than that never pays for the listening task, and
a disconnect waits in the server's queue until somebody asks.
"""

import asyncio
import contextlib
from types import TracebackType

from starlette.types import Receive

from gateway.errors import CallerError, CallerLeft

MOMENT = 0.05
"""Seconds before the listening begins: far less than the second in which the upstream must be closed."""


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
        self._timer: asyncio.TimerHandle | None = None
        if self._listening:
            self.listen()
        return self

    def listen(self) -> None:
        """Begins to listen, in a moment."""
        if not self._over and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(MOMENT, self._listen)

    def left(self) -> None:
        """Notes that the caller has gone."""
        if not self._over:
            self._left = True
            # Cancelling is the one way to stop a handler wherever it waits, the read from Cohere above all.
            self._task.cancel()

    def _listen(self) -> None:
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
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._left and kind is not None and issubclass(kind, asyncio.CancelledError):
            # Somebody else may have cancelled us as well (shutdown): then that cancellation goes on.
            # Our own cancellation is taken back, as `asyncio.timeout` does it:
            # https://docs.python.org/3/library/asyncio-task.html#asyncio.Task.uncancel
            if self._task.uncancel() == 0:
                raise CallerLeft from error
