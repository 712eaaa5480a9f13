"""Which servers of the shared counters do not answer. One node of a cluster may be away while the others count on.

After a few failures in a row a server is left alone until it is found to answer again. It is asked of limits a little
later: by then each process has told it what it admitted meanwhile.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct

from gateway.store.counters import Counter, CountersUnavailable, Server

MAX_FAILURES = 3
"""Failures in a row after which a server is left alone."""


class Outage(Struct):
    """Failures of one server in a row. subject: one whose counters it has, "" for that of the signs of life.

    reason: why it is left alone, empty while it is not. return_at: when it is asked of limits again, by the loop's
    clock; None while it does not answer.
    """

    subject: str
    failures: int = 0
    reason: str = ""
    return_at: float | None = None


class Outages:
    """The outages of all servers. server_of: returns that of a subject.

    on_change: is called with a reason, and with "" once all servers are asked again.
    """

    def __init__(self, server_of: Callable[[str], Server], on_change: Callable[[str], None]) -> None:
        self._server_of, self._on_change = server_of, on_change
        self._failing: dict[Server, Outage] = {}
        # Those of them that are left alone.
        self._open: dict[Server, Outage] = {}

    def fail(self, error: CountersUnavailable, subjects: Collection[str]) -> None:
        """Takes note of a failure. subjects: that were asked for, for an error that does not say which it concerns."""
        concerned = subjects if error.subjects is None else error.subjects
        for server, subject in {self._server_of(subject): subject for subject in concerned}.items():
            outage = self._failing.setdefault(server, Outage(subject))
            outage.failures += 1
            if outage.failures >= MAX_FAILURES:
                outage.return_at = None
                if server not in self._open:
                    outage.reason, self._open[server] = f"limits: {error}", outage
                    self._report()

    def succeed(self, counters: Iterable[Counter]) -> None:
        """Takes note that the servers of these counters have answered in time."""
        if self._failing:
            for server in {self._server_of(counter.subject) for counter in counters} - self._open.keys():
                self._failing.pop(server, None)

    def open(self) -> list[Outage]:
        """Returns those of servers that are left alone."""
        return list(self._open.values())

    def end(self, outage: Outage) -> None:
        """Lets a server be asked of limits again."""
        for outages in (self._open, self._failing):
            for server in [server for server, one in outages.items() if one is outage]:
                del outages[server]
        self._report()

    def _report(self) -> None:
        self._on_change(next((outage.reason for outage in self._open.values()), ""))

    def avoided(self, counters: Sequence[Counter]) -> set[int]:
        """Returns the positions of those counters whose server is not asked of limits."""
        if not self._open:
            return set()
        return {n for n, counter in enumerate(counters) if self._server_of(counter.subject) in self._open}

    def is_away(self, counter: Counter) -> bool:
        """Tells whether the server of a counter is left alone and has not been found to answer again."""
        return self.has_lost(counter.subject)

    def has_lost(self, subject: str) -> bool:
        """Tells so of the server of a subject."""
        if not self._open:
            return False
        outage = self._open.get(self._server_of(subject))
        return outage is not None and outage.return_at is None
