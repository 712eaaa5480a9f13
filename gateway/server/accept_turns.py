"""Which of several workers accepts a new connection: the one that has accepted the fewest.

The workers of a machine accept from one socket. The system wakes all of them for a connection, and whoever is first
takes it: the busier worker of two had 58 % of the calls, and the longer waits. So a worker that has accepted more than
another lets that one go first, for a moment. The counts are in memory that they share. Two workers may write one at the
same moment, which then is one too low: nothing else depends on them.
"""

import mmap
import time
from collections.abc import Callable

from msgspec import Struct

ABSENT_SECONDS = 3.0
"""A worker that has said nothing for so long is not waited for. Workers say once a second that they are there."""

BYTES = 16
"""Of each worker: how many connections it has accepted, and when it was last there, in seconds of one clock."""


class AcceptSlot(Struct, frozen=True):
    """Where a worker finds the counts. path: of a file of BYTES for each worker. index: this worker's, from 0."""

    path: str
    index: int
    workers: int


class AcceptTurns:
    """What one worker reads and writes of the counts. clock: seconds, the same in all processes."""

    def __init__(self, slot: AcceptSlot, clock: Callable[[], float] = time.monotonic) -> None:
        self._index, self._workers, self._clock = slot.index, slot.workers, clock
        self._left = False
        with open(slot.path, "r+b") as file:
            memory = memoryview(mmap.mmap(file.fileno(), slot.workers * BYTES))
        # All counts, and behind them all times: a view has numbers of one kind.
        middle = slot.workers * BYTES // 2
        self._accepted, self._seen = memory[:middle].cast("q"), memory[middle:].cast("d")
        # Who begins now has missed nothing: its turn would come with all connections for a while.
        self._accepted[self._index] = max(self._accepted)
        self.beat()

    def beat(self) -> None:
        """Says that this worker is there."""
        if not self._left:
            self._seen[self._index] = self._clock()

    def leave(self) -> None:
        """Says that this worker accepts no more."""
        # So that a beat that is still due does not bring the worker back.
        self._left = True
        self._seen[self._index] = 0.0

    def accepted(self) -> None:
        """Counts a connection."""
        self._accepted[self._index] += 1

    def is_others(self) -> bool:
        """Returns whether another worker that is there has accepted fewer."""
        mine, latest = self._accepted[self._index], self._clock() - ABSENT_SECONDS
        return any(accepted < mine and seen > latest for accepted, seen in zip(self._accepted, self._seen, strict=True))

    def take_over(self) -> None:
        """Ends the turn of those that were waited for: what they did not take counts as theirs."""
        mine = self._accepted[self._index]
        for index in range(self._workers):
            if self._accepted[index] < mine:
                self._accepted[index] = mine
