"""Which generation of each budget in Redis this process has joined, and what it has to tell those that it has not.

Redis may lose everything at any time, and the database has what was spent of a budget a moment later than Redis. So a
budget in Redis has a generation. One begins with what the database had when it was read; then each process joins it,
once, with what it has spent that was not in the database by then. A generation also begins where it is not known
whether Redis has what it was told. Who begins one marks the budget before the database is read, so that nobody forgets
meanwhile what the database has not had.

After Redis has lost a budget it does not decide of it before all processes have joined: what it has until then is less
than what was spent. It waits no longer than a process that lives needs to come by; one that has no calls does so with
`confirm`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from gateway.store.counters import (
    CONFIRM_SECONDS,
    Counter,
    CountersIncomplete,
    CountersUnavailable,
    Server,
    SpentBudgets,
)
from gateway.store.errors import StoreUnavailable

JOINED, OTHER, MARKED = 0, 1, 2
"""What became of an attempt to join a budget. The generation follows: the present one, or the one to begin. After OTHER
comes what the database had when that began, after JOINED whether somebody is about to begin the next."""

MAX_COMPARED = 100_000
"""Windows of budgets that are remembered as compared with the database."""

MAX_TRIES = 5
"""To join a budget that others begin at the same time, or that is lost once more."""

# As many as `stored_budgets.MAX_UNCONFIRMED`, for the sake of `confirm`.
MAX_JOINED = 200
"""Budgets that are joined with one script where nobody waits for it."""

UNKNOWN = "none"
"""No generation's name."""

LOST = "Redis loses budgets as fast as they are put in"

Budget: TypeAlias = tuple[str, int]
"""An id and a window."""

Replies: TypeAlias = Sequence[tuple[int, bytes, Any]]
"""What became of attempts to join, in order."""


class Entry(Struct):
    """An attempt to join a budget.

    mode: `look` whether this process has joined, `mark` it for a generation that is to begin, `join`, `begin`.
    generation: the known one, or the one to join or to begin. written: what the database had when it began.
    unwritten: what this process has spent beside that. missed: how much of that Redis was never told.
    """

    mode: Literal["look", "mark", "join", "begin"]
    generation: str = UNKNOWN
    written: int = 0
    unwritten: int = 0
    missed: int = 0


class Generations:
    """The generations that one process has joined. spent: what was spent of budgets elsewhere.

    send: calls the script that joins. live: returns the counters in which something is reserved here. is_away: tells
    whether the server of a counter is to be left alone.
    """

    def __init__(
        self,
        spent: SpentBudgets,
        send: Callable[[Mapping[Counter, Entry]], Awaitable[Replies]],
        live: Callable[[], Iterable[Counter]],
        is_away: Callable[[Counter], bool],
    ) -> None:
        self._spent, self._send, self._live, self._is_away = spent, send, live, is_away
        # The generation of each budget that this process has joined, and of each id the newest.
        self._joined: dict[Budget, str] = {}
        self._newest: dict[str, str] = {}
        # Budgets of which it is not known whether Redis has all that it was told.
        self._doubted: set[Budget] = set()
        # What was spent without Redis; the database has it.
        self._missed: dict[Budget, tuple[Counter, int]] = {}
        # What the database has of budgets that are to be compared with it, by id.
        self._before: dict[str, int] = {}
        # The budgets of which Redis has at least what the database has.
        self._compared: set[Budget] = set()
        # The budget of each server that was used last, and when: it tells whether that was emptied.
        self._last_used: dict[Server, tuple[Counter, float]] = {}
        # Redis has lost a budget, so perhaps all of them.
        self._is_emptied = False

    def joined(self, budget: Budget) -> str:
        """Returns the generation that this process has joined."""
        return self._joined.get(budget, UNKNOWN)

    def newest(self, id: str) -> str:
        """Returns the last generation in which this process knew a budget, in any of its windows."""
        return self._newest.get(id, UNKNOWN)

    def wanted(self, counter: Counter) -> str:
        """Returns the generation in which a budget may be used here; empty where any will do."""
        if counter.unit != "money":
            return ""
        budget = (counter.id, counter.window)
        # What was missed may be in the sum that a generation began with, so it is not simply added to any.
        is_any = budget not in self._missed
        return UNKNOWN if budget in self._doubted else self._joined.get(budget, "" if is_any else UNKNOWN)

    def see(self, counter: Counter, generation: str, server: Server, at: float) -> None:
        """Takes note of the generation in which a server has decided of a budget. at: of the monotonic clock.

        Raises CountersIncomplete where the server has lost that since, and this process has joined without it.
        """
        joined = self._joined.setdefault((counter.id, counter.window), generation)
        if joined == generation:
            self._newest[counter.id] = generation
        elif _life(joined) != _life(generation):
            raise CountersIncomplete("Redis has lost what it had just decided")
        self._last_used[server] = (counter, at)

    # --- what the database has --------------------------------------------------------------------------------

    def lacks(self, counters: Iterable[Counter]) -> bool:
        """Tells whether one of these is a budget that has not been compared with the database."""
        for counter in counters:
            if counter.unit == "money" and (counter.id, counter.window) not in self._compared:
                return True
        return False

    async def prepare(self, counters: Iterable[Counter]) -> Mapping[str, int]:
        """Reads what the database has of the budgets that have not been compared with it. Returns it by id."""
        new = [counter for counter in counters if self.lacks([counter])]
        stored = await self._spent.load(new)
        spent = {counter.id: stored.get((counter.id, counter.window), 0) for counter in new}
        self._before.update(spent)
        return spent

    def before(self, counter: Counter) -> int | Literal[""]:
        """Returns what the database has of a budget that is to be compared with it, empty for others."""
        return self._before.get(counter.id, "")

    def compare(self, counters: Iterable[Counter]) -> None:
        """Takes note that Redis has at least what the database has of these."""
        if not self._before:
            return
        if len(self._compared) > MAX_COMPARED:
            self._compared.clear()
            # Of these the generation stays known. What this process has spent may be missing in the next one, which it
            # then has to join; of the others the database has all, and any generation will do.
            unconfirmed = set(self._spent.unconfirmed()) & self._joined.keys()
            self._joined = {budget: self._joined[budget] for budget in unconfirmed}
            self._newest = {id: self._newest[id] for id, _ in unconfirmed}
        for counter in counters:
            if self._before.pop(counter.id, None) is not None:
                self._compared.add((counter.id, counter.window))

    def compare_again(self, is_meant: Callable[[str], bool]) -> None:
        """Lets each budget whose id is meant be compared with the database once more."""
        self._compared = {budget for budget in self._compared if not is_meant(budget[0])}
        self._before = {id: amount for id, amount in self._before.items() if not is_meant(id)}

    # --- what Redis does not have -----------------------------------------------------------------------------

    def doubt(self, budgets: Iterable[Budget]) -> None:
        """Begins these budgets anew before they are used again, with what the database has."""
        self._doubted.update(budgets)

    def miss(self, counter: Counter, money: int) -> None:
        """Takes note that something was spent of a budget without Redis."""
        budget = (counter.id, counter.window)
        self._missed[budget] = (counter, money + self._missed.get(budget, (counter, 0))[1])

    def take_missed(self) -> Sequence[tuple[Counter, int]]:
        """Returns what servers have missed that answer; from now on it is known here no more."""
        missed = {budget: one for budget, one in self._missed.items() if not self._is_away(one[0])}
        self._missed = {budget: one for budget, one in self._missed.items() if budget not in missed}
        return list(missed.values())

    # --- joining ----------------------------------------------------------------------------------------------

    async def recover(self, counters: Sequence[Counter], wanted: Sequence[str], numbers: Sequence[int]) -> None:
        """Joins the budgets of which a script says so. wanted: the generations that it was asked for.

        numbers: of the budgets among the counters, below 0 where the database has more than Redis.
        """
        async with self._spent.order:
            budgets = []
            for number in numbers:
                counter = counters[abs(number) - 1]
                # Another request may have joined it meanwhile.
                if self.wanted(counter) == wanted[abs(number) - 1]:
                    budgets.append(counter)
                    if number < 0:
                        self._doubted.add((counter.id, counter.window))
            await self.join(budgets)

    def unknown(self, counters: Iterable[Counter]) -> list[Counter]:
        """Returns the budgets among these that this process has not joined yet."""
        budgets = {counter for counter in counters if counter.unit == "money"}
        return [counter for counter in budgets if (counter.id, counter.window) not in self._joined]

    async def join_unknown(self, counters: Iterable[Counter]) -> None:
        """Joins the budgets among these that this process has not joined yet."""
        if unknown := self.unknown(counters):
            async with self._spent.order:
                await self.join(unknown)

    async def join(self, counters: Iterable[Counter]) -> set[Budget]:
        """Lets this process join the present generations of these budgets, or begins them. Called in order.

        What the process has spent is added to each generation once: either the database had it when that began, or the
        process joins with it, or it is settled after that. Returns the budgets that somebody is about to begin anew.
        Raises CountersUnavailable.
        """
        marked: set[Budget] = set()
        # One for each budget: counters of different limits may name the same.
        distinct = {(counter.id, counter.window): counter for counter in counters}
        entries = {counter: self.first_entry(counter) for counter in distinct.values()}
        for _ in range(MAX_TRIES):
            if not entries:
                return marked
            begun: dict[Counter, str] = {}
            following: dict[Counter, Entry] = {}
            for (counter, entry), (result, name, value) in zip(entries.items(), await self._send(entries), strict=True):
                generation = name.decode()
                if result == JOINED:
                    self._take_note(counter, generation, entry)
                    if value == 1:
                        marked.add((counter.id, counter.window))
                    continue
                if entry.mode == "look" and entry.generation != UNKNOWN:
                    self._is_emptied = True
                if result == OTHER:
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
        raise CountersUnavailable(LOST)

    def first_entry(self, counter: Counter) -> Entry:
        """Returns the first attempt to join a budget."""
        budget = (counter.id, counter.window)
        # What is in doubt begins anew, whatever generation Redis has of it.
        return Entry("mark" if budget in self._doubted else "look", self.joined(budget))

    async def _entry(self, mode: Literal["join", "begin"], counter: Counter, generation: str, written: int) -> Entry:
        budget = (counter.id, counter.window)
        unwritten = await self._spent.unwritten(budget, written)
        _, missed = self._missed.get(budget, (counter, 0))
        return Entry(mode, generation, written, unwritten, missed)

    def _take_note(self, counter: Counter, generation: str, entry: Entry) -> None:
        """Takes note of a budget that this process has joined."""
        budget = (counter.id, counter.window)
        self._joined[budget] = self._newest[counter.id] = generation
        # A look has told Redis nothing.
        if entry.mode in ("join", "begin"):
            self._doubted.discard(budget)
            if self._before.pop(counter.id, None) is not None:
                self._compared.add(budget)
            # More may have been missed while the script was under way.
            _, missed = self._missed.pop(budget, (counter, 0))
            if missed > entry.missed:
                self._missed[budget] = (counter, missed - entry.missed)

    async def confirm(self) -> bool:
        """Joins budgets that are not used any more, and forgets what the database has for good. Called in order.

        Where Redis was emptied, joins all of which something is under way. Returns whether there is more to confirm.
        """
        began = asyncio.get_running_loop().time()
        # With no limit, for which joining does not ask.
        unused = self._answering(Counter(id, "money", 0, window) for id, window in self._spent.unconfirmed())
        budgets = [(counter.id, counter.window) for counter in unused]
        marked = await self.join([*unused, *self._answering(self._long_unused())])
        self._spent.confirm([budget for budget in budgets if budget not in marked], began)
        if self._is_emptied:
            # At once, and not each with its next call: others are waiting, and then would not know of it.
            live = self._answering({counter for counter in self._live() if counter.unit == "money"})
            for at in range(0, len(live), MAX_JOINED):
                await self.join(live[at : at + MAX_JOINED])
            self._is_emptied = False
        # A full batch means that there are more. Where all of it is marked, the next one would be the same again.
        return len(budgets) >= MAX_JOINED > len(marked)

    def _answering(self, counters: Iterable[Counter]) -> list[Counter]:
        """Returns those of the counters whose server is not left alone."""
        return [counter for counter in counters if not self._is_away(counter)]

    def _long_unused(self) -> list[Counter]:
        """Returns a budget of each server that has not been used of late, while something is under way.

        The other servers have told by themselves whether they were emptied.
        """
        if next(iter(self._live()), None) is None:
            return []
        now = time.monotonic()
        return [counter for counter, at in self._last_used.values() if now - at >= CONFIRM_SECONDS]


def _life(generation: str) -> str:
    """Returns the first generation after Redis had nothing, with which the names of those that follow begin."""
    return generation.partition("-")[0]
