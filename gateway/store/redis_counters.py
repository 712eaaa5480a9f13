"""Counters in Redis or Valkey (`counters.Counters`): one script and one round trip for each admission.

What Redis may lose of budgets, and how it gets that back, is in `redis_generations.py`; what the keys contain is in
`redis_scripts.py`, and how several servers share the work in `redis_cluster_counters.py`. A script that Redis begins
only after its caller has gone, because Redis was stopped meanwhile, does nothing. Imported only if the settings ask
for it.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from gateway.store.counters import (
    CONFIRM_SECONDS,
    LEASE,
    WINDOW,
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
from gateway.store.redis_client import connect
from gateway.store.redis_generations import LOST, MAX_TRIES, Budget, Entry, Generations, Replies
from gateway.store.redis_scripts import BEAT, JOIN, RESERVE, SETTLE, Execute, Script

PREFIX = "cohere-gateway:counter:1:"
"""Of all keys in Redis. The number changes with the format."""

PROCESSES = "cohere-gateway:processes:1"
"""The set of processes that are alive, each with the second until which it is."""

REFUSED, ADMITTED, MISSING, LATE, INCOMPLETE = 0, 1, 2, 3, 4
"""How a script's answer begins. After MISSING come the numbers of the budgets that this process has to join, below 0
for those of which the database has more than Redis; after LATE comes the time of Redis; after INCOMPLETE nothing: other
processes have still to join a budget."""

# The scripts renew it whenever they write, so a counter that is used never goes.
IDLE_SECONDS = 2 * (WINDOW + LEASE)
"""After so long without use, a counter of the last minute is empty and goes."""

BUDGET_SECONDS = 40 * 86_400
"""After so long without use, the counter of a budget goes; the database has it still."""

JOINING_SECONDS = 2 * CONFIRM_SECONDS
"""After Redis has lost a budget. By then each process that lives has joined it."""

Mode: TypeAlias = Literal["", "look"]
"""What a script does when all counters admit: reserves, or only says so."""


class Reply(Struct):
    """What a script decided. lease: the slot in which its reservations lapse. states: of its counters, in order."""

    admitted: bool
    lease: int
    states: list[CounterState]


class Finished(Struct):
    """What became of rows. lease: the slot in which lapses what is adopted. foreign: those that were not counted, of
    budgets that this process has to join.

    is_marked: somebody is about to begin a generation of one of the budgets.
    """

    lease: int
    foreign: Sequence["Row"]
    is_marked: bool


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

    spent: what was spent of budgets elsewhere. clock: Redis' own, but for tests.
    """

    def __init__(
        self, url: str, spent: SpentBudgets, clock: Callable[[], float] | None = None, timeout: float = 1.0
    ) -> None:
        """Connects to nothing yet. timeout: seconds. Raises ValueError for a bad URL."""
        self._spent, self._clock, self._timeout = spent, clock, timeout
        # What the clock of each server has more than ours, at most, once it was asked.
        self._ahead: dict[Server, float] = {}
        self._reserve, self._settle, self._beat = Script(RESERVE), Script(SETTLE), Script(BEAT)
        # A process that is started again is another one: it knows nothing of what the one before had joined.
        self._join_script, self._process = Script(JOIN), secrets.token_hex(4)
        self._connect(url, timeout)
        self._live: Callable[[], Iterable[Reservation]] = tuple
        self._processes: Callable[[], int] = lambda: 1
        self._is_away: Callable[[Counter], bool] = lambda counter: False
        self._generations = Generations(
            spent, self._try_to_join, self._live_counters, lambda counter: self._is_away(counter)
        )

    def _connect(self, url: str, timeout: float) -> None:
        self._redis = connect(url, timeout)

    def lacks(self, counters: Sequence[Counter]) -> bool:
        return self._generations.lacks(counters)

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        return await self._generations.prepare(counters)

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        reply = await self._decide(counters, tokens, money, until=moment_after(seconds))
        return Decision(reply.admitted, reply.states, reply.lease)

    async def _decide(
        self, counters: Sequence[Counter], tokens: int, money: int, mode: Mode = "", until: float = 0.0
    ) -> Reply:
        """Calls the script, again where this process has to join a budget before. until: of our monotonic clock."""
        for _ in range(MAX_TRIES):
            began = time.monotonic()
            wanted = [self._generations.wanted(counter) for counter in counters]
            reply = await self._call_reserve(counters, wanted, tokens, money, mode, until)
            if reply[0] != MISSING:
                break
            await self._generations.recover(counters, wanted, reply[1])
        else:
            raise CountersUnavailable(LOST)
        server = self._server_of(self._key(counters[0]))
        if reply[0] == LATE:
            # Or its clock was set forward: then the next one is right.
            ahead = float(reply[1]) - time.monotonic()
            self._ahead[server] = max(self._ahead.get(server, ahead), ahead)
            raise CountersUnavailable("Redis came to it too late")
        if reply[0] == INCOMPLETE:
            raise CountersIncomplete("Redis has lost budgets, and not all processes have told it what they spent")
        # Redis read its clock after `began`. So this is too much by a part of the round trip, and the least is the
        # nearest.
        ahead = float(reply[2]) - began
        if ahead < self._ahead.get(server, math.inf):
            self._ahead[server] = ahead
        # The script has compared: where the database has more than Redis, it answers MISSING.
        self._generations.compare(counters)
        states = []
        for counter, at in zip(counters, range(3, len(reply), 3), strict=True):
            spent, reserved, last = int(reply[at]), int(reply[at + 1]), reply[at + 2]
            if counter.unit == "money":
                self._generations.see(counter, last.decode(), server, began)
                states.append(CounterState(spent, reserved))
            else:
                states.append(CounterState(spent, reserved, float(last)))
        return Reply(reply[0] == ADMITTED, int(reply[1]), states)

    async def _call_reserve(
        self,
        counters: Sequence[Counter],
        wanted: Sequence[str],
        tokens: int,
        money: int,
        mode: Mode,
        until: float,
    ) -> list[Any]:
        values: list[Any] = [self._now(), LEASE, WINDOW, mode, self._at_redis(self._key(counters[0]), until)]
        for counter, generation in zip(counters, wanted, strict=True):
            amount, before = counter.amount(tokens, money), self._generations.before(counter)
            values += (counter.unit, counter.limit, amount, counter.window, before, _seconds(counter), generation)
        reply = await self._call(self._reserve, [self._key(counter) for counter in counters], values)
        if not isinstance(reply, list) or not reply or reply[0] not in (REFUSED, ADMITTED, MISSING, LATE, INCOMPLETE):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return reply

    # --- what Redis has to be told ----------------------------------------------------------------------------

    async def _try_to_join(self, entries: Mapping[Counter, Entry]) -> Replies:
        values: list[Any] = [self._now(), LEASE, WINDOW, self._process, self._processes(), JOINING_SECONDS]
        leases = self._leases(entries)
        for counter, entry in entries.items():
            budget = (counter.id, counter.window)
            held = ",".join(f"{lease}={amount}" for lease, amount in leases[budget].items())
            values += (entry.mode, counter.window, BUDGET_SECONDS, entry.generation, entry.written, entry.unwritten)
            values += (held, self._generations.joined(budget), self._generations.newest(counter.id))
        replies = await self._call(self._join_script, [self._key(counter) for counter in entries], values)
        if not isinstance(replies, list) or len(replies) != len(entries):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return replies

    def _leases(self, entries: Iterable[Counter]) -> dict[Budget, dict[int, int]]:
        """Returns what is under way of these budgets: amounts by the slot in which they lapse."""
        leases: dict[Budget, dict[int, int]] = {(counter.id, counter.window): {} for counter in entries}
        for reservation in self._live():
            for counter, lease in leased(reservation):
                held = leases.get((counter.id, counter.window)) if counter.unit == "money" else None
                if held is not None and (amount := reserved(reservation, counter)):
                    held[lease] = held.get(lease, 0) + amount
        return leases

    def watch(
        self,
        live: Callable[[], Iterable[Reservation]],
        processes: Callable[[], int],
        is_away: Callable[[Counter], bool],
    ) -> None:
        self._live, self._processes, self._is_away = live, processes, is_away

    def _live_counters(self) -> Iterable[Counter]:
        for reservation in self._live():
            yield from filter(reservation.is_shared, reservation.counters)

    def miss(self, counters: Sequence[Counter], money: int) -> None:
        for counter in counters:
            if counter.unit == "money" and money:
                self._generations.miss(counter, money)

    async def tell(self) -> None:
        """Adds what was missed. Called in order."""
        missed = self._generations.take_missed()
        try:
            # Of a budget that has to be joined it is not counted, but joined with.
            rows = (await self._finish([Row(counter, 0, 0, amount) for counter, amount in missed])).foreign
            await self._generations.join(row.counter for row in rows)
        except BaseException:
            # Redis may have it or not, and the database has it.
            self.doubt([counter for counter, _ in missed])
            raise

    async def confirm(self) -> bool:
        return await self._generations.confirm()

    # --- reservations that end ------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Ends reservations. Called in order, where something was spent."""
        await self._settle_rows(settled(settlements))

    async def _settle_rows(self, rows: Sequence[Row]) -> None:
        budgets = {(row.counter.id, row.counter.window) for row in rows if row.counter.unit == "money" and row.spent}
        for _ in range(MAX_TRIES):
            began = asyncio.get_running_loop().time()
            finished = await self._finish_one(rows)
            if not finished.foreign:
                # Whoever has marked a budget may have read the database before this was there, and will need it from
                # here.
                if not finished.is_marked:
                    self._spent.confirm(budgets, began)
                return
            rows = finished.foreign
            await self._generations.join(row.counter for row in rows)
        raise CountersUnavailable(LOST)

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        await self._join_unknown(reservations)
        lease = (await self._finish(adopted(reservations, past))).lease
        for reservation, _ in reservations:
            reservation.lease, reservation.local = lease, False

    async def _join_unknown(self, reservations: Sequence[tuple[Reservation, int]]) -> None:
        """Joins the budgets of these reservations that this process has not joined yet."""
        await self._generations.join_unknown(
            counter for reservation, _ in reservations for counter in reservation.counters
        )

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        await self._finish(
            [
                Row(counter, reserved(reservation, counter), lease, 0, lease + seconds)
                for reservation in reservations
                for counter, lease in leased(reservation)
            ]
        )
        # Now that Redis has it. Otherwise they lapse as before.
        for reservation in reservations:
            reservation.lease += seconds
            reservation.leases = {subject: lease + seconds for subject, lease in reservation.leases.items()}

    async def _finish(self, rows: Sequence[Row]) -> Finished:
        """Ends, renews or adopts what was reserved."""
        return await self._finish_one(rows)

    async def _finish_one(self, rows: Sequence[Row]) -> Finished:
        """Does so with one script."""
        if not rows:
            return Finished(0, (), False)
        keys: list[str] = []
        # After so long this process takes a settlement for lost and tells it in another way, so it must not be counted
        # later.
        until = self._at_redis(self._key(rows[0].counter), time.monotonic() + self._timeout)
        values: list[Any] = [self._now(), LEASE, WINDOW, until]
        for row in rows:
            counter = row.counter
            keys.append(self._key(counter))
            spent = "" if row.spent is None else row.spent
            ttl = _seconds(counter)
            generation = self._generations.joined((counter.id, counter.window)) if counter.unit == "money" else ""
            values += (
                counter.unit,
                row.reserved,
                row.lease,
                spent,
                counter.window,
                ttl,
                row.renewed,
                row.age,
                generation,
            )
        reply = await self._call(self._settle, keys, values)
        if not isinstance(reply, list) or not reply or not all(isinstance(value, int) for value in reply):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        if len(reply) == 1:
            raise CountersUnavailable("Redis came to it too late")
        return Finished(reply[0], [rows[number - 1] for number in reply[2:]], bool(reply[1]))

    async def beat(self, process: str, seconds: int, subject: str = "") -> int:
        return await self._beat_at(PROCESSES, process, seconds)

    async def _beat_at(self, key: str, process: str, seconds: int) -> int:
        """Returns how many processes have said under this key that they are alive."""
        began = time.monotonic()
        alive, whole, micro = map(int, await self._call(self._beat, [key], [process, seconds]))
        # Not the least, as elsewhere: this is how a clock is followed that was set.
        self._ahead[self._server_of(key)] = whole + micro / 1_000_000 - began
        return alive

    def doubt(self, counters: Sequence[Counter]) -> None:
        self._generations.doubt((counter.id, counter.window) for counter in counters if counter.unit == "money")

    async def reconnect(self, subject: str) -> None:
        """Closes the connections: the next ones may lead to another server."""
        await self._redis.connection_pool.disconnect()

    def compare_again(self, subject: str) -> None:
        """Compares each budget with the database again that the server of this subject has: it may be another one."""
        if (server := self.server_of(subject)) is None:
            self._generations.compare_again(lambda id: True)
        else:
            self._generations.compare_again(lambda id: self.server_of(Counter(id, "money", 0).subject) == server)

    def server_of(self, subject: str) -> Server:
        return None

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        return subjects

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

    def _server_of(self, key: str) -> Server:
        """Returns which server has this key, and None where that is not known."""
        return None

    def _at_redis(self, key: str, until: float) -> str:
        """Returns a moment of our monotonic clock as the clock of a key's server has it, or later.

        Empty where that is not known.
        """
        ahead = self._ahead.get(self._server_of(key))
        return f"{until + ahead:.6f}" if until and ahead is not None and self._clock is None else ""

    def _now(self) -> float | str:
        return self._clock() if self._clock is not None else ""

    def _key(self, counter: Counter) -> str:
        return PREFIX + counter.id


def moment_after(seconds: float) -> float:
    """Returns when so many seconds are over, by the monotonic clock; 0 for as long as it takes."""
    return time.monotonic() + seconds if seconds else 0.0


def leased(reservation: Reservation, all: bool = False) -> Iterable[tuple[Counter, int]]:
    """Yields the shared counters that have something reserved, each with the slot in which that lapses.

    all: those of requests as well, which reserve nothing.
    """
    for counter in reservation.counters:
        if (all or counter.unit != "requests") and reservation.is_shared(counter):
            yield counter, reservation.leases.get(counter.subject, reservation.lease)


def settled(settlements: Sequence[Settlement]) -> list[Row]:
    """Returns the rows of reservations that have ended."""
    return [
        Row(
            counter,
            reserved(settlement.reservation, counter),
            lease,
            None if settlement.withdrawn else settlement.spent(counter),
        )
        for settlement in settlements
        for counter, lease in leased(settlement.reservation, settlement.withdrawn)
    ]


def adopted(reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> list[Row]:
    """Returns the rows of what was admitted elsewhere."""
    rows = [Row(one.counter, 0, 0, one.amount, age=one.age) for one in past]
    for reservation, age in reservations:
        for counter in reservation.counters:
            if reservation.is_shared(counter):
                continue
            if counter.unit == "requests":
                # In the second in which it came, so that it counts for a minute from then on.
                rows.append(Row(counter, 0, 0, 1, age=age))
            else:
                rows.append(Row(counter, reserved(reservation, counter), 0, 0, "new"))
    return rows


def reserved(reservation: Reservation, counter: Counter) -> int:
    return counter.amount(reservation.tokens, reservation.money)


def _seconds(counter: Counter) -> int:
    return BUDGET_SECONDS if counter.unit == "money" else IDLE_SECONDS
