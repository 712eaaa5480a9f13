"""Counters in a Redis Cluster, whose scripts see the keys of one slot only.

All counters of a subject (a key, a team, an end user, the gateway) have its name as their hash tag, so they are in one
slot. An admission asks each subject in a script of its own, all at the same time: one round trip. Where one refuses,
what the others have reserved is taken back before the caller hears of it, so nothing is admitted beyond a limit. In the
moment in between, others may be refused who would have fitted. So a request that a subject refuses for the first time
is tried once more a little later, and a subject that has just refused is asked alone, while the others are only looked
at until it admits again.

Each node has a clock of its own, so a reservation has a lease for each subject.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from gateway.store.counters import (
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    SpentBudgets,
)
from gateway.store.redis_cluster import RedisCluster
from gateway.store.redis_counters import (
    PREFIX,
    Finished,
    Mode,
    RedisCounters,
    Reply,
    Row,
    adopted,
    moment_after,
)
from gateway.store.redis_generations import Entry, Replies, Server
from gateway.store.redis_scripts import Execute

REFUSING_SECONDS = 1.0
"""So long after a refusal a subject is asked before the others."""

SECOND_TRY_SECONDS = 0.004
"""Before a request is tried once more: others take back meanwhile what they held for a moment."""

MAX_REFUSING = 10_000
"""Subjects that are remembered as having refused."""

MAX_SCRIPTS = 16
"""Scripts that settle at the same time: each has a connection of its own."""


class RedisClusterCounters(RedisCounters):
    """Counters in a cluster. The arguments are those of RedisCounters; the URL names one node."""

    def __init__(
        self, url: str, spent: SpentBudgets, clock: Callable[[], float] | None = None, timeout: float = 1.0
    ) -> None:
        super().__init__(url, spent, clock, timeout)
        self._refusing: dict[str, float] = {}
        self._scripts = asyncio.Semaphore(MAX_SCRIPTS)

    def _connect(self, url: str, timeout: float) -> None:
        self._cluster = RedisCluster(url, timeout)

    def _execute_at(self, key: str) -> Execute:
        return partial(self._cluster.execute, key)

    def _server_of(self, key: str) -> Server:
        return self._cluster.address_of(key)

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
        results = await asyncio.gather(*calls, return_exceptions=True)
        for (subject, mode), result in zip(modes.items(), results, strict=True):
            if isinstance(result, Reply):
                admission.replies[subject] = result
                if result.admitted and not mode:
                    admission.reserved.add(subject)
        for result in results:
            if isinstance(result, BaseException):
                raise result

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

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        await self._join_unknown(reservations)
        finished = await self._finish_all(adopted(reservations, past))
        for reservation, _ in reservations:
            reservation.leases = {counter.subject: finished[counter.subject].lease for counter in reservation.counters}

    async def _finish(self, rows: Sequence[Row]) -> Finished:
        finished = (await self._finish_all(rows)).values()
        foreign = [row for one in finished for row in one.foreign]
        # No lease for all of them: each node has its own clock.
        return Finished(0, foreign, any(one.is_marked for one in finished))

    async def _finish_all(self, rows: Sequence[Row]) -> dict[str, Finished]:
        """Ends, renews or adopts what was reserved. Returns what became of it, by subject."""
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.counter.subject, []).append(row)
        return dict(zip(groups, await asyncio.gather(*map(self._finish_one, groups.values())), strict=True))

    async def _finish_one(self, rows: Sequence[Row]) -> Finished:
        """Ends, renews or adopts what was reserved in the counters of one subject."""
        async with self._scripts:
            return await super()._finish(rows)

    async def _try_to_join(self, entries: Mapping[Counter, Entry]) -> Replies:
        groups: dict[str, dict[Counter, Entry]] = {}
        for counter, entry in entries.items():
            groups.setdefault(counter.subject, {})[counter] = entry
        replies = await asyncio.gather(*map(self._join_one, groups.values()))
        by_counter = {
            counter: reply
            for group, replies_of in zip(groups.values(), replies, strict=True)
            for counter, reply in zip(group, replies_of, strict=True)
        }
        return [by_counter[counter] for counter in entries]

    async def _join_one(self, entries: Mapping[Counter, Entry]) -> Replies:
        async with self._scripts:
            return await super()._try_to_join(entries)

    async def _disconnect(self) -> None:
        await self._cluster.reconnect()

    async def stop(self) -> None:
        await self._cluster.stop()

    def _key(self, counter: Counter) -> str:
        subject = counter.subject
        # What stands in braces is all that a slot is chosen by.
        return f"{PREFIX}{{{subject}}}{counter.id.removeprefix(subject)}"


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
