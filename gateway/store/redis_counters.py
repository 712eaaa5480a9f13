"""Counters in Redis or Valkey (`counters.Counters`): one script and one round trip for each admission.

Redis may lose everything at any time, and the database has what was spent of a budget a moment later than Redis. So a
budget in Redis has a generation. One begins with what the database had when it was read; then each process joins it,
once, with what it has spent that was not in the database by then. Until it has, and where Redis has nothing, a script
answers MISSING. A generation also begins where it is not known whether Redis has what it was told. Who begins one marks
the budget before the database is read, so that nobody forgets meanwhile what the database has not had. A script that
Redis begins only after its caller has gone, because Redis
was stopped meanwhile, does nothing. What the keys contain is in `redis_scripts.py`, and how several servers
share the work in `redis_cluster_counters.py`. Imported only if the settings ask for it.
"""

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    SpentBudgets,
)
from gateway.store.errors import StoreUnavailable
from gateway.store.redis_client import connect
from gateway.store.redis_scripts import BEAT, JOIN, RESERVE, SETTLE, Execute, Script

PREFIX = "cohere-gateway:counter:1:"
"""Of all keys in Redis. The number changes with the format."""

PROCESSES = "cohere-gateway:processes:1"
"""The set of processes that are alive, each with the second until which it is."""

REFUSED, ADMITTED, MISSING, LATE = 0, 1, 2, 3
"""How a script's answer begins. After MISSING come the numbers of the budgets that this process has to join, below 0
for those of which the database has more than Redis; after LATE comes the time of Redis."""

JOINED, OTHER, MARKED = 0, 1, 2
"""What became of an attempt to join a budget. The generation follows: the present one, or the one to begin. After OTHER
comes what the database had when that began, after JOINED whether somebody is about to begin the next."""

MAX_COMPARED = 100_000
"""Windows of budgets that are remembered as compared with the database."""

MAX_TRIES = 5
"""To join a budget that others begin at the same time, or that is lost once more."""

UNKNOWN = "none"
"""No generation's name."""

IDLE_SECONDS = 2 * (WINDOW + LEASE)
"""After so long without use, a counter of the last minute is empty and goes."""

BUDGET_SECONDS = 40 * 86_400
"""After so long without use, the counter of a budget goes; the database has it still."""

Server: TypeAlias = tuple[str, int] | None
"""The address of one server of several; None for the only one."""

Budget: TypeAlias = tuple[str, int]
"""An id and a window."""

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


class Entry(Struct):
    """An attempt to join a budget.

    mode: `look` whether this process has joined, `mark` it for a generation that is to begin, `join`, `begin`.
    generation: the known one, or the one to join or to begin. written: what the database had when it began.
    unwritten: what this process has spent beside that.
    """

    mode: Literal["look", "mark", "join", "begin"]
    generation: str = UNKNOWN
    written: int = 0
    unwritten: int = 0
    missed: int = 0


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
        self._join_script, self._process = Script(JOIN), secrets.token_hex(4)
        self._connect(url, timeout)
        self._live: Callable[[], Iterable[Reservation]] = tuple
        # The generation of each budget that this process has joined.
        self._generations: dict[Budget, str] = {}
        # Budgets of which it is not known whether Redis has all that it was told.
        self._doubted: set[Budget] = set()
        # What was spent without Redis; the database has it.
        self._missed: dict[Budget, tuple[Counter, int]] = {}
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
        reply = await self._decide(counters, tokens, money, until=moment_after(seconds))
        return Decision(reply.admitted, reply.states, reply.lease)

    async def _decide(
        self, counters: Sequence[Counter], tokens: int, money: int, mode: Mode = "", until: float = 0.0
    ) -> Reply:
        """Calls the script, again where this process has to join a budget before. until: of our monotonic clock."""
        for _ in range(MAX_TRIES):
            began = time.monotonic()
            generations = [self._generation(counter) for counter in counters]
            reply = await self._call_reserve(counters, generations, tokens, money, mode, until)
            if reply[0] != MISSING:
                break
            await self._recover(counters, generations, reply[1])
        else:
            raise CountersUnavailable("Redis loses budgets as fast as they are put in")
        server = self._server_of(self._key(counters[0]))
        if reply[0] == LATE:
            # Or its clock was set forward: then the next one is right.
            ahead = float(reply[1]) - time.monotonic()
            self._ahead[server] = max(self._ahead.get(server, ahead), ahead)
            raise CountersUnavailable("Redis came to it too late")
        ahead = float(reply[2]) - began
        if ahead < self._ahead.get(server, math.inf):
            self._ahead[server] = ahead
        if self._before:
            self._compare(counters)
        states = []
        for counter, at in zip(counters, range(3, len(reply), 3), strict=True):
            spent, reserved, last = int(reply[at]), int(reply[at + 1]), reply[at + 2]
            if counter.unit == "money":
                self._generations.setdefault((counter.id, counter.window), last.decode())
                states.append(CounterState(spent, reserved))
            else:
                states.append(CounterState(spent, reserved, float(last)))
        return Reply(reply[0] == ADMITTED, int(reply[1]), states)

    async def _call_reserve(
        self,
        counters: Sequence[Counter],
        generations: Sequence[str],
        tokens: int,
        money: int,
        mode: Mode,
        until: float,
    ) -> list[Any]:
        values: list[Any] = [self._now(), LEASE, WINDOW, mode, self._at_redis(self._key(counters[0]), until)]
        for counter, generation in zip(counters, generations, strict=True):
            amount, spent = counter.amount(tokens, money), self._before.get(counter.id, "")
            values += (counter.unit, counter.limit, amount, counter.window, spent, _seconds(counter), generation)
        reply = await self._call(self._reserve, [self._key(counter) for counter in counters], values)
        if not isinstance(reply, list) or not reply or reply[0] not in (REFUSED, ADMITTED, MISSING, LATE):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return reply

    def _compare(self, counters: Sequence[Counter]) -> None:
        """Takes note that Redis has at least what the database has of these."""
        if len(self._compared) > MAX_COMPARED:
            self._compared.clear()
            unconfirmed = set(self._spent.unconfirmed()) & self._generations.keys()
            self._generations = {budget: self._generations[budget] for budget in unconfirmed}
        for counter in counters:
            if self._before.pop(counter.id, None) is not None:
                self._compared.add((counter.id, counter.window))

    async def _spent_before(self, counters: Sequence[Counter]) -> dict[str, int]:
        """Returns what the database has of these budgets in their present windows, 0 where it has nothing."""
        stored = await self._spent.load(counters)
        return {counter.id: stored.get((counter.id, counter.window), 0) for counter in counters}

    # --- generations ----------------------------------------------------------------------------------------

    def _generation(self, counter: Counter) -> str:
        """Returns the generation of a budget that this process has joined; empty where any will do."""
        if counter.unit != "money":
            return ""
        budget = (counter.id, counter.window)
        # What was missed may be in the sum that a generation began with, so it is not simply added to any.
        is_any = budget not in self._missed
        return UNKNOWN if budget in self._doubted else self._generations.get(budget, "" if is_any else UNKNOWN)

    async def _recover(self, counters: Sequence[Counter], generations: Sequence[str], numbers: Sequence[int]) -> None:
        """Joins the budgets of which a script says so. generations: those that it was asked for."""
        async with self._spent.order:
            wanted = []
            for number in numbers:
                counter = counters[abs(number) - 1]
                # Another request may have joined it meanwhile.
                if self._generation(counter) == generations[abs(number) - 1]:
                    wanted.append(counter)
                    if number < 0:
                        self._doubted.add((counter.id, counter.window))
            await self._join(wanted)

    async def _join(self, counters: Sequence[Counter]) -> set[Budget]:
        """Lets this process join the present generations of these budgets, or begins them. Called in order.

        What the process has spent is added to each generation once: either the database had it when that began, or the
        process joins with it, or it is settled after that. Returns the budgets that somebody is about to begin anew.
        Raises CountersUnavailable.
        """
        marked: set[Budget] = set()
        distinct = {(counter.id, counter.window): counter for counter in counters}
        entries = {counter: self._first_entry(counter) for counter in distinct.values()}
        for _ in range(MAX_TRIES):
            if not entries:
                return marked
            replies = await self._try_to_join(entries)
            begun: dict[Counter, str] = {}
            following: dict[Counter, Entry] = {}
            for (counter, entry), (result, name, value) in zip(entries.items(), replies, strict=True):
                budget, generation = (counter.id, counter.window), name.decode()
                if result == JOINED:
                    self._take_note(counter, generation, entry)
                    if value == 1:
                        marked.add(budget)
                elif result == OTHER:
                    following[counter] = await self._entry("join", counter, generation, int(value))
                else:
                    begun[counter] = generation
            if begun:
                try:
                    written = await self._spent.written(list(begun))
                except StoreUnavailable as error:
                    raise CountersUnavailable(f"Redis has lost budgets, and {error}") from error
                for counter, generation in begun.items():
                    sum_of = written.get((counter.id, counter.window), 0)
                    following[counter] = await self._entry("begin", counter, generation, sum_of)
            entries = following
        raise CountersUnavailable("Redis loses budgets as fast as they are put in")

    def _first_entry(self, counter: Counter) -> Entry:
        budget = (counter.id, counter.window)
        return Entry("mark" if budget in self._doubted else "look", self._generations.get(budget, UNKNOWN))

    async def _entry(self, mode: Literal["join", "begin"], counter: Counter, generation: str, written: int) -> Entry:
        budget = (counter.id, counter.window)
        unwritten = await self._spent.unwritten(budget, written)
        _, missed = self._missed.get(budget, (counter, 0))
        return Entry(mode, generation, written, unwritten, missed)

    def _take_note(self, counter: Counter, generation: str, entry: Entry) -> None:
        """Takes note of a budget that this process has joined."""
        budget = (counter.id, counter.window)
        self._generations[budget] = generation
        if entry.mode in ("join", "begin"):
            self._doubted.discard(budget)
            if self._before.pop(counter.id, None) is not None:
                self._compared.add(budget)
            _, missed = self._missed.pop(budget, (counter, 0))
            if missed > entry.missed:
                self._missed[budget] = (counter, missed - entry.missed)

    async def _try_to_join(self, entries: Mapping[Counter, Entry]) -> Sequence[tuple[int, bytes, Any]]:
        values: list[Any] = [self._now(), LEASE, WINDOW, self._process]
        leases = self._leases(entries)
        for counter, entry in entries.items():
            generation = self._generations.get((counter.id, counter.window), UNKNOWN)
            held = ",".join(
                f"{lease}={amount}" for lease, amount in leases.get((counter.id, counter.window), {}).items()
            )
            values += (entry.mode, counter.window, BUDGET_SECONDS, entry.generation)
            values += (entry.written, entry.unwritten, held, generation)
        replies = await self._call(self._join_script, [self._key(counter) for counter in entries], values)
        if not isinstance(replies, list) or len(replies) != len(entries):
            raise CountersUnavailable("Redis did not answer a script as Redis does")
        return replies

    def _leases(self, entries: Iterable[Counter]) -> dict[Budget, dict[int, int]]:
        """Returns what is under way of these budgets: amounts by the slot in which they lapse."""
        leases: dict[Budget, dict[int, int]] = {(counter.id, counter.window): {} for counter in entries}
        for reservation in self._live():
            for counter, lease in _leased(reservation):
                held = leases.get((counter.id, counter.window)) if counter.unit == "money" else None
                if held is not None and (amount := _reserved(reservation, counter)):
                    held[lease] = held.get(lease, 0) + amount
        return leases

    def watch(self, live: Callable[[], Iterable[Reservation]]) -> None:
        self._live = live

    def miss(self, counters: Sequence[Counter], money: int) -> None:
        for counter in counters:
            if counter.unit == "money" and money:
                budget = (counter.id, counter.window)
                self._missed[budget] = (counter, money + self._missed.get(budget, (counter, 0))[1])

    async def tell(self) -> None:
        """Adds what was missed. Called in order."""
        missed, self._missed = self._missed, {}
        rows = [Row(counter, 0, 0, amount) for counter, amount in missed.values()]
        try:
            # Of a budget that has to be joined it is not counted, but joined with.
            await self._join([row.counter for row in (await self._finish(rows)).foreign])
        except BaseException:
            # Redis may have it or not, and the database has it.
            self._doubted.update(missed)
            raise

    async def confirm(self) -> None:
        """Joins budgets that are not used any more, and forgets what the database has for good. Called in order."""
        if budgets := self._spent.unconfirmed():
            began = asyncio.get_running_loop().time()
            marked = await self._join([Counter(id, "money", 0, window) for id, window in budgets])
            self._spent.confirm([budget for budget in budgets if budget not in marked], began)

    # --- reservations that end ------------------------------------------------------------------------------

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Ends reservations. Called in order, where something was spent."""
        rows: Sequence[Row] = [
            Row(
                counter,
                _reserved(settlement.reservation, counter),
                lease,
                None if settlement.withdrawn else settlement.spent(counter),
            )
            for settlement in settlements
            for counter, lease in _leased(settlement.reservation, settlement.withdrawn)
        ]
        budgets = {(row.counter.id, row.counter.window) for row in rows if row.counter.unit == "money" and row.spent}
        for _ in range(MAX_TRIES):
            began = asyncio.get_running_loop().time()
            finished = await self._finish(rows)
            if not finished.foreign:
                if not finished.is_marked:
                    self._spent.confirm(budgets, began)
                return
            rows = finished.foreign
            await self._join([row.counter for row in rows])
        raise CountersUnavailable("Redis loses budgets as fast as they are put in")

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        await self._join_unknown(reservations)
        lease = (await self._finish(adopted(reservations, past))).lease
        for reservation, _ in reservations:
            reservation.lease = lease

    async def _join_unknown(self, reservations: Sequence[tuple[Reservation, int]]) -> None:
        """Joins the budgets of these reservations that this process has not joined yet."""
        unknown = {
            counter: None
            for reservation, _ in reservations
            for counter in reservation.counters
            if counter.unit == "money" and (counter.id, counter.window) not in self._generations
        }
        if unknown:
            async with self._spent.order:
                await self._join(list(unknown))

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

    async def _finish(self, rows: Sequence[Row]) -> Finished:
        """Ends, renews or adopts what was reserved."""
        if not rows:
            return Finished(0, (), False)
        keys: list[str] = []
        until = self._at_redis(self._key(rows[0].counter), time.monotonic() + self._timeout)
        values: list[Any] = [self._now(), LEASE, WINDOW, until]
        for row in rows:
            counter = row.counter
            keys.append(self._key(counter))
            spent = "" if row.spent is None else row.spent
            ttl = _seconds(counter)
            generation = self._generations.get((counter.id, counter.window), UNKNOWN) if counter.unit == "money" else ""
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

    async def beat(self, process: str, seconds: int) -> int:
        """Says that a process is alive for so many seconds. Returns how many are."""
        began = time.monotonic()
        alive, whole, micro = map(int, await self._call(self._beat, [PROCESSES], [process, seconds]))
        self._ahead[self._server_of(PROCESSES)] = whole + micro / 1_000_000 - began
        return alive

    def doubt(self, counters: Sequence[Counter]) -> None:
        """Begins the budgets among these anew before they are used again, with what the database has."""
        self._doubted.update((counter.id, counter.window) for counter in counters if counter.unit == "money")

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
