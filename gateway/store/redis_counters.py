"""Counters in Redis or Valkey (`counters.Counters`): one script and one round trip for each admission.

Redis may lose everything at any time. A counter of money that is not there is refused with MISSING until the caller
says what was spent, which the database has. A script that Redis begins only after its caller has gone, because Redis
was stopped meanwhile, does nothing. What the keys contain is in `redis_scripts.py`, and how several servers
share the work in `redis_cluster_counters.py`. Imported only if the settings ask for it.
"""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from gateway.store.counters import (
    LEASE,
    WINDOW,
    Counter,
    CounterState,
    CountersUnavailable,
    Decision,
    Past,
    Reservation,
    Settlement,
)
from gateway.store.redis_client import connect
from gateway.store.redis_scripts import BEAT, RESERVE, SETTLE, Execute, Script

PREFIX = "cohere-gateway:counter:1:"
"""Of all keys in Redis. The number changes with the format."""

PROCESSES = "cohere-gateway:processes:1"
"""The set of processes that are alive, each with the second until which it is."""

REFUSED, ADMITTED, MISSING, LATE = 0, 1, 2, 3
"""How a script's answer begins. After MISSING come the numbers of the budgets of which Redis has nothing, after LATE
comes the time of Redis."""

MAX_COMPARED = 100_000
"""Windows of budgets that are remembered as compared with the database."""

IDLE_SECONDS = 2 * (WINDOW + LEASE)
"""After so long without use, a counter of the last minute is empty and goes."""

BUDGET_SECONDS = 40 * 86_400
"""After so long without use, the counter of a budget goes; the database has it still."""

Spent = Callable[[Sequence[Counter]], Awaitable[Mapping[tuple[str, int], int]]]
"""Returns what the database has of these budgets, by id and window."""


Mode: TypeAlias = Literal["", "look"]
"""What a script does when all counters admit: reserves, or only says so."""


class Reply(Struct):
    """What a script decided. lease: the slot in which its reservations lapse. states: of its counters, in order."""

    admitted: bool
    lease: int
    states: list[CounterState]


class Row(Struct):
    """One counter at the end of a reservation, or when it is renewed.

    spent: what is counted in the end; None for a reservation that is to leave no trace. renewed: the slot in which it
    lapses from now on, "new" for that of a new one. age: seconds since it was spent.
    """

    counter: Counter
    reserved: int
    lease: int
    spent: int | None
    renewed: int | Literal["", "new"] = ""
    age: int = 0


class RedisCounters:
    """Counters in one Redis. Its connections have a time limit; a request's is in `gateway/limits/shared_counters.py`.

    spent: what the database has of budgets. clock: Redis' own, but for tests.
    """

    def __init__(self, url: str, spent: Spent, clock: Callable[[], float] | None = None, timeout: float = 1.0) -> None:
        """Connects to nothing yet. timeout: seconds. Raises ValueError for a bad URL."""
        self._spent, self._clock, self._timeout = spent, clock, timeout
        # What Redis' clock has more than ours, at most; None until it was asked.
        self._ahead: float | None = None
        self._reserve, self._settle, self._beat = Script(RESERVE), Script(SETTLE), Script(BEAT)
        self._connect(url, timeout)
        # What the database has of budgets that are to be compared with it, by id.
        self._before: dict[str, int] = {}
        # The budgets, by id and window, of which Redis has at least what the database has.
        self._compared: set[tuple[str, int]] = set()

    def _connect(self, url: str, timeout: float) -> None:
        self._redis = connect(url, timeout)

    def lacks(self, counters: Sequence[Counter]) -> bool:
        """Tells whether one of these is a budget that has not been compared with the database."""
        for counter in counters:
            if counter.unit == "money" and (counter.id, counter.window) not in self._compared:
                return True
        return False

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        """Reads what the database has of the budgets that have not been compared with it. Returns it by id."""
        new = [counter for counter in counters if self.lacks([counter])]
        spent = await self._spent_before(new)
        self._before.update(spent)
        return spent

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        reply = await self._decide(counters, tokens, money, seconds=seconds)
        return Decision(reply.admitted, reply.states, reply.lease)

    async def _decide(
        self, counters: Sequence[Counter], tokens: int, money: int, mode: Mode = "", seconds: float = 0.0
    ) -> Reply:
        """Calls the script, once more where Redis has lost a budget."""
        until = time.monotonic() + seconds if seconds else 0.0
        reply = await self._call_reserve(counters, tokens, money, self._before, mode, until)
        if reply[0] == MISSING:
            lost = [counters[index - 1] for index in reply[1]]
            reply = await self._call_reserve(counters, tokens, money, await self._spent_before(lost), mode, until)
            if reply[0] == MISSING:
                raise CountersUnavailable("Redis loses budgets as fast as they are put in")
        if reply[0] == LATE:
            # Or its clock was set forward: then the next one is right.
            self._ahead = max(self._ahead or 0.0, float(reply[1]) - time.monotonic())
            raise CountersUnavailable("Redis came to it too late")
        if self._before:
            self._compare(counters)
        states = [
            CounterState(int(reply[at]), int(reply[at + 1]), float(reply[at + 2])) for at in range(2, len(reply), 3)
        ]
        return Reply(reply[0] == ADMITTED, int(reply[1]), states)

    async def _call_reserve(
        self, counters: Sequence[Counter], tokens: int, money: int, before: Mapping[str, int], mode: Mode, until: float
    ) -> list[Any]:
        values: list[Any] = [self._now(), LEASE, WINDOW, mode, self._at_redis(until)]
        for counter in counters:
            amount, spent = counter.amount(tokens, money), before.get(counter.id, "")
            values += (counter.unit, counter.limit, amount, counter.window, spent, _seconds(counter))
        reply = await self._call(self._reserve, [self._key(counter) for counter in counters], values)
        if not isinstance(reply, list) or not reply or reply[0] not in (REFUSED, ADMITTED, MISSING, LATE):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return reply

    def _compare(self, counters: Sequence[Counter]) -> None:
        """Takes note that Redis has at least what the database has of these."""
        if len(self._compared) > MAX_COMPARED:
            self._compared.clear()
        for counter in counters:
            if self._before.pop(counter.id, None) is not None:
                self._compared.add((counter.id, counter.window))

    async def _spent_before(self, counters: Sequence[Counter]) -> dict[str, int]:
        """Returns what the database has of these budgets in their present windows, 0 where it has nothing."""
        stored = await self._spent(counters)
        return {counter.id: stored.get((counter.id, counter.window), 0) for counter in counters}

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._finish(
            [
                Row(
                    counter,
                    _reserved(settlement.reservation, counter),
                    lease,
                    None if settlement.withdrawn else settlement.spent(counter),
                )
                for settlement in settlements
                for counter, lease in _leased(settlement.reservation, settlement.withdrawn)
            ]
        )

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        lease = await self._finish(adopted(reservations, past))
        for reservation, _ in reservations:
            reservation.lease = lease

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        await self._finish(
            [
                Row(counter, _reserved(reservation, counter), lease, 0, lease + seconds)
                for reservation in reservations
                for counter, lease in _leased(reservation)
            ]
        )
        for reservation in reservations:
            reservation.lease += seconds
            reservation.leases = {subject: lease + seconds for subject, lease in reservation.leases.items()}

    async def _finish(self, rows: Sequence[Row]) -> int:
        """Ends, renews or adopts what was reserved. Returns the slot in which what is adopted lapses."""
        if not rows:
            return 0
        keys: list[str] = []
        values: list[Any] = [self._now(), LEASE, WINDOW, self._at_redis(time.monotonic() + self._timeout)]
        for row in rows:
            counter = row.counter
            keys.append(self._key(counter))
            spent = "" if row.spent is None else row.spent
            ttl = _seconds(counter)
            values += (counter.unit, row.reserved, row.lease, spent, counter.window, ttl, row.renewed, row.age)
        lease = int(await self._call(self._settle, keys, values))
        if not lease:
            raise CountersUnavailable("Redis came to it too late")
        return lease

    async def beat(self, process: str, seconds: int) -> int:
        """Says that a process is alive for so many seconds. Returns how many are."""
        began = time.monotonic()
        alive, whole, micro = map(int, await self._call(self._beat, [PROCESSES], [process, seconds]))
        self._ahead = whole + micro / 1_000_000 - began
        return alive

    def doubt(self, counters: Sequence[Counter]) -> None:
        """Compares the budgets among these with the database before they are used again."""
        self._compared.difference_update((counter.id, counter.window) for counter in counters)

    async def compare(self, counters: Sequence[Counter]) -> None:
        groups: dict[str, list[Counter]] = {}
        for counter in counters:
            groups.setdefault(counter.subject, []).append(counter)
        self.doubt(counters)
        await self.prepare(counters)
        for group in groups.values():
            await self._decide(group, 0, 0, "look")

    async def reconnect(self) -> None:
        """Compares each budget with the database again, over new connections: it may be another server now."""
        self._compared.clear()
        self._before.clear()
        await self._disconnect()

    async def _disconnect(self) -> None:
        await self._redis.connection_pool.disconnect()

    async def stop(self) -> None:
        await self._redis.aclose()

    async def _call(self, script: Script, keys: Sequence[str], values: Sequence[Any]) -> Any:
        try:
            return await script(self._execute_at(keys[0]), keys, values)
        except Exception as error:  # what answers may be no Redis, and the client trips over it in its own ways
            raise CountersUnavailable(f"Redis failed: {type(error).__name__}: {error}") from error

    def _execute_at(self, key: str) -> Execute:
        """Returns what sends a command to the server that has this key."""
        return self._redis.execute_command

    def _at_redis(self, until: float) -> str:
        """Returns a moment of our monotonic clock as Redis' clock has it, or later; empty where that is not known."""
        return f"{until + self._ahead:.6f}" if until and self._ahead is not None and self._clock is None else ""

    def _now(self) -> float | str:
        return self._clock() if self._clock is not None else ""

    def _key(self, counter: Counter) -> str:
        return PREFIX + counter.id


def _leased(reservation: Reservation, all: bool = False) -> Iterable[tuple[Counter, int]]:
    """Yields the counters that have something reserved, each with the slot in which that lapses.

    all: those of requests as well, which reserve nothing.
    """
    for counter in reservation.counters:
        if all or counter.unit != "requests":
            yield counter, reservation.leases.get(counter.subject, reservation.lease)


def adopted(reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> list[Row]:
    """Returns the rows of what was admitted elsewhere."""
    rows = [Row(one.counter, 0, 0, one.amount, age=one.age) for one in past]
    for reservation, age in reservations:
        for counter in reservation.counters:
            if counter.unit == "requests":
                rows.append(Row(counter, 0, 0, 1, age=age))
            else:
                rows.append(Row(counter, _reserved(reservation, counter), 0, 0, "new"))
    return rows


def _reserved(reservation: Reservation, counter: Counter) -> int:
    return counter.amount(reservation.tokens, reservation.money)


def _seconds(counter: Counter) -> int:
    return BUDGET_SECONDS if counter.unit == "money" else IDLE_SECONDS
