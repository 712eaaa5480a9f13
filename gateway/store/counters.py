"""What limits and budgets are counted in, and the protocol of those who count: one call to reserve, one to settle.

A counter belongs to one limit of one subject. An amount is reserved when a request is admitted and settled when it has
ended, so that requests under way at the same time see each other. The counters themselves are in memory
(`memory_counters.py`), in a database (`sql_counters.py`) or in Redis (`redis_counters.py`); all of them follow the same
algorithm.

Time goes in slots of one second. What was spent in a slot counts for WINDOW further ones, so never less than 60 seconds
and never more than 61: in no 60 seconds is there more than the limit. A reservation lapses after LEASE seconds unless
it is renewed: its process has died. Where the clock may be set (that of Redis, or of a database's machine), slots up to
WINDOW in the future count as well: nothing is forgotten because it was set back by less than a minute.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol, TypeAlias, get_args

from msgspec import Struct

Server: TypeAlias = tuple[str, int] | None
"""The address of one server of several; None for the only one."""

Unit = Literal["requests", "tokens", "parallel", "money"]
"""What a counter counts. Money is in nano-dollars."""

UNITS: tuple[Unit, ...] = get_args(Unit)

WINDOW = 60
"""Slots of a second that follow the slot in which something was spent, and in which it still counts."""

LEASE = 60
"""Seconds after which a reservation lapses that nobody has renewed."""

CONFIRM_SECONDS = 0.5
"""Between two calls of `Counters.confirm`."""

# Exact as a double, as Lua has numbers, and within the 64 bits of a database.
NO_LIMIT = 2**62
"""The limit of a counter that only counts, as for a budget that is soft."""


class Counter(Struct, frozen=True):
    """One limit of one subject.

    id: unique among all counters, such as `key:k-1:tokens`. limit: 0 or more; money in nano-dollars.
    window: of money, the Unix second in which the budget's window began, 0 for all time. until: the Unix second in
    which that window ends, 0 for never. Both are 0 for the other units, which count in the last minute.
    """

    id: str
    unit: Unit
    limit: int
    window: int = 0
    until: int = 0

    @property
    def subject(self) -> str:
        """Whose it is, as the beginning of the id: `key:k-1`; `gateway` for what is everybody's."""
        kind, separator, rest = self.id.partition(":")
        return kind if kind == "gateway" else f"{kind}{separator}{rest.partition(':')[0]}"

    def amount(self, tokens: int, money: int) -> int:
        """Returns what a request with these estimates reserves here.

        More tokens than the limit reserve all of it. A limit of none has no room for any.
        """
        match self.unit:
            case "tokens":
                return min(tokens, self.limit or 1)
            case "money":
                return money
        return 1

    def admits(self, spent: int, reserved: int, amount: int) -> bool:
        """Tells whether an amount may be reserved.

        It fits, or nothing else is under way and something is left: an estimate is not what will be spent.
        """
        return spent + reserved + amount <= self.limit or (reserved == 0 and spent < self.limit)


class CounterState(Struct, frozen=True, gc=False):
    """A counter as a decision leaves it.

    wait: seconds until something of it is free again; where nothing was left, until something is. Not for money, whose
    window ends at `Counter.until`.
    """

    spent: int
    reserved: int
    wait: float = 0.0


class Decision(Struct, frozen=True):
    """Whether all counters admit a request; if one does not, nothing was reserved in any.

    states: one for each counter, in order. lease: the slot in which the reservation lapses, 0 if it never does.
    leases: the same by subject, where each subject's counters have a clock of their own.
    """

    admitted: bool
    states: Sequence[CounterState]
    lease: int = 0
    leases: Mapping[str, int] = {}


# Compared by identity: those under way are keys of mappings, and two may hold the same.
class Reservation(Struct, eq=False):
    """What an admitted request has reserved in each of these counters, until it is settled.

    lease, leases: as in its decision. local: in the counters of this process alone, but for those of the subjects in
    `leases`, which the shared counters have taken over.
    """

    counters: Sequence[Counter]
    tokens: int
    money: int
    lease: int = 0
    local: bool = False
    leases: Mapping[str, int] = {}

    def is_shared(self, counter: Counter) -> bool:
        """Tells whether the shared counters have what is reserved in one of its counters."""
        return not self.local or counter.subject in self.leases

    def part(self, counters: Sequence[Counter]) -> "Reservation":
        """Returns what is reserved in some of its counters, all of which are shared."""
        return Reservation(counters, self.tokens, self.money, self.lease, leases=self.leases)


class Settlement(Struct, frozen=True):
    """The end of a reservation: what was reserved is free again, and this much was spent.

    withdrawn: there was no request after all; it does not count among requests either, where the counters can tell.
    """

    reservation: Reservation
    tokens: int
    money: int
    withdrawn: bool = False

    def spent(self, counter: Counter) -> int:
        """Returns what a counter counts as spent at the end. Requests were counted at the beginning."""
        return {"tokens": self.tokens, "money": self.money}.get(counter.unit, 0)


class Past(Struct, frozen=True):
    """What was spent of a counter, of requests or tokens, so many seconds ago."""

    counter: Counter
    amount: int
    age: int


class Counters(Protocol):
    """Those who count. Every method may raise CountersUnavailable; where there are several servers, for some subjects.

    What was to be done of the other subjects is done then by `settle`, `adopt` and `renew`.
    """

    def server_of(self, subject: str) -> Server:
        """Returns which server has the counters of a subject, or for "" the signs of life.

        None where there is one alone, or where that is not known yet.
        """
        ...

    def silent(self, subjects: Collection[str], seconds: float) -> Collection[str]:
        """Returns the subjects among these whose server has owed an answer for so long."""
        ...

    def lacks(self, counters: Sequence[Counter]) -> bool:
        """Tells whether `prepare` is due before these are used."""
        ...

    async def prepare(self, counters: Sequence[Counter]) -> Mapping[str, int]:
        """Reads what was spent before, where that is kept elsewhere: once for a window of a budget.

        Returns it by id.
        """
        ...

    async def reserve(self, counters: Sequence[Counter], tokens: int, money: int, seconds: float = 0.0) -> Decision:
        """Reserves in all counters, or in none. tokens, money: the estimates, money in nano-dollars.

        seconds: that the caller waits, 0 for as long as it takes. After them nothing is reserved, if the counters can
        tell. May raise CountersIncomplete.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Ends reservations. Money counts in the window in which it was reserved, also when that is over."""
        ...

    async def adopt(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        """Takes over what was admitted without these counters, whatever is left of the limits.

        reservations: with the seconds since they were made. What is shared of one already is left as it is, and so is
        what a server has that is away. One that is taken over as a whole is local no more.
        """
        ...

    async def renew(self, reservations: Sequence[Reservation], seconds: int) -> None:
        """Lets reservations lapse so many seconds later; their `lease` is that from now on."""
        ...

    async def beat(self, process: str, seconds: int, subject: str = "") -> int:
        """Says that a process is alive for so many seconds. Returns how many are: 1 where there is but one.

        subject: whose server is to answer this. Where that is not the one that counts processes, returns 0.
        """
        ...

    def watch(
        self,
        live: Callable[[], Iterable[Reservation]],
        processes: Callable[[], int],
        is_away: Callable[[Counter], bool],
    ) -> None:
        """Is told how to learn which reservations have not been settled, how many processes there are, and whether the
        server of a counter is left alone.
        """
        ...

    def doubt(self, counters: Sequence[Counter]) -> None:
        """Is called when nobody knows whether a settlement of these has arrived. What was spent is stored elsewhere."""
        ...

    def miss(self, counters: Sequence[Counter], money: int) -> None:
        """Is called when something was spent of which these counters know nothing. It is stored elsewhere."""
        ...

    async def tell(self) -> None:
        """Adds what was missed."""
        ...

    async def confirm(self) -> bool:
        """Makes sure that what was spent is still known, of budgets that have not been used since.

        Returns whether there are more of them.
        """
        ...

    async def reconnect(self, subject: str) -> None:
        """Is called before it is looked whether the server of a subject, which was away, answers again."""
        ...

    def compare_again(self, subject: str) -> None:
        """Is called when the server of a subject answers again: it may have lost something meanwhile."""
        ...

    async def stop(self) -> None:
        """Frees connections."""
        ...


class SpentBudgets(Protocol):
    """What was spent of budgets as a database has it, and what this process alone knows: it is written a moment later.

    A budget is a pair of an id and a window. order: is held while counters are told what was spent and it is put here,
    and while they are told what the database has.
    """

    order: asyncio.Lock

    async def load(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        """Returns what was spent, with what this process has not written yet. Raises StoreUnavailable."""
        ...

    async def written(self, counters: Sequence[Counter]) -> Mapping[tuple[str, int], int]:
        """Returns what the database has and no more. Raises StoreUnavailable."""
        ...

    async def unwritten(self, budget: tuple[str, int], written: int) -> int:
        """Returns what this process has spent that was not in the database when that had so much."""
        ...

    def confirm(self, budgets: Iterable[tuple[str, int]], began: float) -> None:
        """Forgets what was written before a moment of the event loop's clock.

        Whoever reads the database for the shared counters from now on finds it there.
        """
        ...

    def unconfirmed(self) -> Sequence[tuple[str, int]]:
        """Returns some budgets of which something is written that may be forgotten once it is confirmed."""
        ...


class CountersUnavailable(Exception):
    """The counters cannot be reached, or did not answer in time; the text says why."""

    def __init__(self, reason: str, subjects: Collection[str] | None = None) -> None:
        """subjects: whose counters these are, None for all; with those of the others is done what was asked for."""
        super().__init__(reason)
        self.subjects = subjects

    def concerns(self, counter: Counter) -> bool:
        """Tells whether this is one of the counters that could not be reached."""
        return self.subjects is None or counter.subject in self.subjects


class CountersIncomplete(CountersUnavailable):
    """The counters have lost something, and have still to be told what was spent. That takes a second at most."""
