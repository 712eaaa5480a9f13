"""The calls under way, so that a gateway that stops can end them in good order."""

import asyncio
from types import TracebackType

from gateway.upstream.response import UpstreamResponse, shutdown_error


class InFlight:
    """Tasks that wait for Cohere, and responses that are still read."""

    def __init__(self) -> None:
        self.stopping = False
        self.tasks: set[asyncio.Task[object]] = set()
        self.responses: set[UpstreamResponse] = set()

    def interruptible(self) -> "Interruptible":
        """Returns the context in which `interrupt` ends what its task awaits."""
        return Interruptible(self)

    def interrupt(self) -> None:
        """Ends every wait and every read with the error of `shutdown_error`, and those that begin from now on."""
        self.stopping = True
        for task in self.tasks:
            task.cancel()
        for response in self.responses:
            response.interrupt()


class Interruptible:
    """`with in_flight.interruptible():` raises UpstreamError when the gateway stops and its time is up."""

    __slots__ = ("_in_flight", "_task")

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    def __enter__(self) -> None:
        if self._in_flight.stopping:
            raise shutdown_error()
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[object] = task
        self._in_flight.tasks.add(task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in_flight.tasks.discard(self._task)
        # The cancellation is ours, unless somebody else wants the task to end as well.
        if kind is asyncio.CancelledError and self._in_flight.stopping and self._task.uncancel() == 0:
            raise shutdown_error() from None
