"""Counters in a Redis Cluster, whose scripts see the keys of one slot only.

All counters of a subject (a key, a team, an end user, the gateway) have its name as their hash tag, so they are in one
slot. An admission asks each subject in a script of its own, all at the same time: one round trip. Where one refuses,
what the others have reserved is taken back before the caller hears of it, so nothing is admitted beyond a limit. In the
moment in between, others may be refused who would have fitted. So a request that a subject refuses for the first time
is tried once more a little later, and a subject that has just refused is asked alone, while the others are only looked
at until it admits again.

Each node has a clock of its own, so a reservation has a lease for each subject. What several nodes are told is done by
those that answer, whatever becomes of the others: the error says which subjects they had.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from gateway.store.counters import (
    Counter,
    CountersIncomplete,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Server,
    Settlement,
    SpentBudgets,
)
from gateway.store.redis_cluster import RedisCluster
from gateway.store.redis_counters import (
    PREFIX,
    PROCESSES,
    Finished,
    Mode,
    RedisCounters,
    Reply,
    Row,
    adopted,
    leased,
    moment_after,
    reserved,
    settled,
)
from gateway.store.redis_generations import Entry, Replies
from gateway.store.redis_scripts import Execute

Work = TypeVar("Work")
Result = TypeVar("Result")

REFUSING_SECONDS = 1.0
"""So long after a refusal a subject is asked before the others."""

SECOND_TRY_SECONDS = 0.004
"""Before a request is tried once more: others take back meanwhile what they held for a moment."""

MAX_REFUSING = 10_000
"""Subjects that are remembered as having refused."""

MAX_SCRIPTS = 16
"""Scripts that settle at the same time at one node: each has a connection of its own."""


class RedisClusterCounters(RedisCounters):
    """Counters in a cluster. The arguments are those of RedisCounters; the URL names one node."""

    def __init__(
        self, url: str, spent: SpentBudgets, clock: Callable[[], float] | None = None, timeout: float = 1.0
    ) -> None:
        super().__init__(url, spent, clock, timeout)
        self._refusing: dict[str, float] = {}
        # What a script does may need a script that joins, so that has a turn of its own.
        self._scripts: dict[Server, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MAX_SCRIPTS))
        self._joins: dict[Server, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(MAX_SCRIPTS))

    def _connect(self, url: str, timeout: float) -> None:
        self._cluster = RedisCluster(url, timeout)

    def _execute_at(self, key: str) -> Execute:
        return partial(self._cluster.execute, key)

    def _server_of(self, key: str) -> Server:
        return self._cluster.address_of(key)

    def server_of(self, subject: str) -> Server:
        return self._cluster.address_of(_beside(subject))

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        return [subject for subject in subjects if self._cluster.is_silent(_beside(subject), seconds)] or subjects

    def _at_redis(self, key: str, until: float) -> str:
        """Returns nothing for a node whose clock is not known yet. What comes too late there lapses."""
        return super()._at_redis(key, until) if self._server_of(key) is not None else ""

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        until = moment_after(seconds)
        # One moment for both tries, as the caller waits no longer for a second one.
        admission = _Admission(counters, tokens, money, until)
        decision = await self._try_to_reserve(admission)
        refusing = {subject for subject, reply in admission.replies.items() if not reply.admitted}
        # Only the first time: a subject that has just refused leads, and is asked before others hold anything.
        if refusing and not refusing & admission.leading:
            await asyncio.sleep(SECOND_TRY_SECONDS)
            decision = await self._try_to_reserve(_Admission(counters, tokens, money, until))
        return decision

    async def _try_to_reserve(self, admission: "_Admission") -> Decision:
        subjects = admission.groups.keys()
        first = admission.leading = self._recently_refusing(subjects)
        admitted = False
        try:
            await self._ask(
                admission, {subject: "look" if first and subject not in first else "" for subject in subjects}
            )
            if first and admission.admitted:
                await self._ask(admission, {subject: "" for subject in subjects - first})
            admitted = admission.admitted
        finally:
            # Also where one did not answer, and where the caller has left.
            if not admitted:
                await self._take_back(admission)
        self._remember(admission)
        leases = {subject: reply.lease for subject, reply in admission.replies.items()}
        return Decision(admitted, admission.states(), 0, leases)

    async def _ask(self, admission: "_Admission", modes: Mapping[str, Mode]) -> None:
        """Calls the script of each subject, all at once. Raises CountersUnavailable if one does not answer."""
        calls = (
            self._decide(admission.counters_of(subject), admission.tokens, admission.money, mode, admission.until)
            for subject, mode in modes.items()
        )
        # All are waited for, since what each has reserved must be known to be taken back.
        replies, failures = await _all(modes, calls)
        admission.replies |= replies
        admission.reserved |= {subject for subject, reply in replies.items() if reply.admitted and not modes[subject]}
        _raise_first(failures)

    async def _take_back(self, admission: "_Admission") -> None:
        """Frees what some subjects have reserved for a request that another one refused."""
        rows = []
        for subject in admission.reserved:
            reply = admission.replies[subject]
            for n, counter in enumerate(admission.counters_of(subject)):
                amount, state = counter.amount(admission.tokens, admission.money), reply.states[n]
                # None, as no trace of it is to stay, not even among requests.
                rows.append(Row(counter, amount, reply.lease, None))
                at_once = counter.unit == "requests"
                spent, reserved = state.spent - amount * at_once, state.reserved - amount * (not at_once)
                reply.states[n] = CounterState(spent, reserved, state.wait)
        # What cannot be freed lapses.
        with contextlib.suppress(CountersUnavailable):
            await self._finish(rows)

    def _recently_refusing(self, subjects: Iterable[str]) -> set[str]:
        """Returns which of these subjects have just refused."""
        if not self._refusing:
            return set()
        now = time.monotonic()
        return {subject for subject in subjects if self._refusing.get(subject, 0.0) > now}

    def _remember(self, admission: "_Admission") -> None:
        """Takes note of who refused."""
        for subject, reply in admission.replies.items():
            if not reply.admitted:
                if len(self._refusing) >= MAX_REFUSING:
                    self._refusing.clear()
                self._refusing[subject] = time.monotonic() + REFUSING_SECONDS
            elif self._refusing:
                self._refusing.pop(subject, None)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        _, failures = await self._each(_by_subject(settled(settlements)), self._settle_rows, self._scripts)
        _raise_first(failures)

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        groups = _by_subject(row for row in adopted(reservations, past) if not self._is_away(row.counter))
        unknown: dict[str, list[Counter]] = {}
        for counter in self._generations.unknown(row.counter for rows in groups.values() for row in rows):
            unknown.setdefault(counter.subject, []).append(counter)
        failures: dict[str, BaseException] = {}
        if unknown:
            async with self._spent.order:
                _, failures = await self._each(unknown, self._generations.join, self._scripts)
        reachable = {subject: rows for subject, rows in groups.items() if subject not in failures}
        finished, further = await self._each(reachable, self._finish_one, self._scripts)
        self._take_leases([reservation for reservation, _ in reservations], finished)
        _raise_first(failures | further)

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        """Lets reservations lapse a whole lease from now on, whatever became of it the last time."""
        groups = _by_subject(
            Row(counter, reserved(reservation, counter), lease, 0, "new")
            for reservation in reservations
            for counter, lease in leased(reservation)
            if not self._is_away(counter)
        )
        finished, failures = await self._each(groups, self._finish_one, self._scripts)
        self._take_leases(reservations, finished)
        _raise_first(failures)

    def _take_leases(self, reservations: Sequence[Reservation], finished: Mapping[str, Finished]) -> None:
        """Takes note of when reservations lapse in the counters of these subjects."""
        for reservation in reservations:
            subjects = {counter.subject for counter in reservation.counters}
            leases = {subject: finished[subject].lease for subject in subjects if subject in finished}
            reservation.leases = {**reservation.leases, **leases}
            reservation.local = reservation.local and not subjects <= reservation.leases.keys()

    async def _finish(self, rows: Sequence[Row]) -> Finished:
        finished, failures = await self._each(_by_subject(rows), self._finish_one, self._scripts)
        _raise_first(failures)
        # No lease for all of them: each node has its own clock.
        foreign = [row for one in finished.values() for row in one.foreign]
        return Finished(0, foreign, any(one.is_marked for one in finished.values()))

    async def _each(
        self,
        work: Mapping[str, Work],
        do: Callable[[Work], Coroutine[Any, Any, Result]],
        turns: Mapping[Server, asyncio.Semaphore],
    ) -> tuple[dict[str, Result], dict[str, BaseException]]:
        """Does something for each subject, a few at a time of those of a node. Returns results and failures.

        For a node that has failed nothing more is begun: what it was not told it has not done, and nobody waits long.
        """
        failed: dict[Server, CountersUnavailable] = {}

        async def do_one(subject: str, its_work: Work) -> Result:
            node = self.server_of(subject)
            async with turns[node]:
                if node in failed:
                    raise failed[node]
                try:
                    return await do(its_work)
                except CountersUnavailable as error:
                    failed[node] = error
                    raise

        return await _all(work, [do_one(subject, its_work) for subject, its_work in work.items()])

    async def _try_to_join(self, entries: Mapping[Counter, Entry]) -> Replies:
        groups: dict[str, dict[Counter, Entry]] = {}
        for counter, entry in entries.items():
            groups.setdefault(counter.subject, {})[counter] = entry
        replies, failures = await self._each(groups, super()._try_to_join, self._joins)
        _raise_first(failures)
        by_counter = {
            counter: reply
            for subject, group in groups.items()
            for counter, reply in zip(group, replies[subject], strict=True)
        }
        return [by_counter[counter] for counter in entries]

    async def beat(self, process: str, seconds: int, subject: str = "") -> int:
        alive = await self._beat_at(_beside(subject), process, seconds)
        return 0 if subject else alive

    async def reconnect(self, subject: str) -> None:
        await self._cluster.reconnect(_beside(subject))

    async def stop(self) -> None:
        await self._cluster.stop()

    def _key(self, counter: Counter) -> str:
        subject = counter.subject
        # What stands in braces is all that a slot is chosen by.
        return f"{PREFIX}{{{subject}}}{counter.id.removeprefix(subject)}"


def _beside(subject: str) -> str:
    """Returns a key that is where the counters of a subject are: that of the signs of life for ""."""
    return f"{PROCESSES}:{{{subject}}}" if subject else PROCESSES


def _by_subject(rows: Iterable[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.counter.subject, []).append(row)
    return groups


async def _all(
    subjects: Iterable[str], calls: Iterable[Coroutine[Any, Any, Result]]
) -> tuple[dict[str, Result], dict[str, BaseException]]:
    """Returns what the calls for these subjects return, and what they raise, when all of them have ended."""
    ended = await asyncio.gather(*calls, return_exceptions=True)
    results: dict[str, Result] = {}
    failures: dict[str, BaseException] = {}
    for subject, result in zip(subjects, ended, strict=True):
        if isinstance(result, BaseException):
            failures[subject] = result
        else:
            results[subject] = result
    return results, failures


def _rank(error: BaseException) -> int:
    return 2 if isinstance(error, CountersIncomplete) else int(isinstance(error, CountersUnavailable))


def _raise_first(failures: Mapping[str, BaseException]) -> None:
    """Raises what the first of these subjects has raised, as concerning all of them. Does nothing if there are none."""
    # What is no answer at all before what may be better in a moment, and what nobody expects before both.
    for error in sorted(failures.values(), key=_rank):
        if isinstance(error, CountersUnavailable):
            raise type(error)(str(error), failures.keys()) from error
        raise error


class _Admission:
    """One request on its way through the subjects of its counters.

    groups: positions of counters, by their subject. leading: the subjects that the others wait for. replies: of
    those that were asked. reserved: the subjects in which something is reserved. until: when its caller has
    gone, by the monotonic clock, 0 for never.
    """

    def __init__(self, counters: Sequence[Counter], tokens: int, money: int, until: float) -> None:
        self._counters, self.tokens, self.money, self.until = counters, tokens, money, until
        self.groups: dict[str, list[int]] = {}
        for position, counter in enumerate(counters):
            self.groups.setdefault(counter.subject, []).append(position)
        self.leading: set[str] = set()
        self.replies: dict[str, Reply] = {}
        self.reserved: set[str] = set()

    @property
    def admitted(self) -> bool:
        """No subject has refused, and none failed to answer."""
        replies = self.replies
        return len(replies) == len(self.groups) and all(reply.admitted for reply in replies.values())

    def counters_of(self, subject: str) -> list[Counter]:
        """Returns the counters of a subject, in order."""
        return [self._counters[position] for position in self.groups[subject]]

    def states(self) -> list[CounterState]:
        """Returns the states of all counters, in order."""
        states: dict[int, CounterState] = {}
        for subject, positions in self.groups.items():
            states.update(zip(positions, self.replies[subject].states, strict=True))
        return [states[position] for position in range(len(self._counters))]
