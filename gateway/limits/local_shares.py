"""What one process may admit by itself while the counters that it shares with others cannot be reached.

It always counts what it has admitted itself. Without the shared counters it may go on to that and, beyond it, to its
portion of what was left when they last answered: what is left divided by the number of processes. So all processes
together admit what the limit says and no more, as far as each has seen of late what the others took. After a minute
nothing counts any more that was before; then each portion is the limit divided by the number of processes.

What was admitted here is not forgotten when the shared counters answer again. It is handed over to them.
"""

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from gateway.store.counters import LEASE, WINDOW, Counter, Decision, Past, Reservation, Settlement
from gateway.store.memory_counters import MemoryCounters

MAX_SEEN = 100_000
"""Counters of which it is remembered what was last seen."""

RECENT_SECONDS = 1.0
"""So long what was seen of a budget is better than what the database has, which is half a second late."""

# A second more than WINDOW, since a slot ends up to a second after what was spent in it.
FORGOTTEN = WINDOW + 1
"""Seconds after which nothing of the last minute counts any more."""

MAX_HANDED_OVER = 500
"""Reservations, and amounts, that are handed over at once."""


class Seen(Struct):
    """A counter as the shared counters last had it. own: what this process used of it by then, reservations included.

    at: seconds of the monotonic clock. is_guess: nobody could be asked, neither the shared counters nor the database.
    """

    spent: int
    reserved: int
    own: int
    at: float
    is_guess: bool = False


class Share(Struct):
    """A counter with what this process may use of it.

    until: seconds of the monotonic clock; then it is another one. processes: among which it was shared.
    """

    original: Counter
    seen: Seen
    counter: Counter
    until: float
    processes: int

    def suits(self, counter: Counter, seen: Seen, processes: int, now: float) -> bool:
        """Tells whether it is still the share of this counter."""
        return self.seen is seen and self.original == counter and now < self.until and self.processes == processes


class LocalShares:
    """The shares of one process. stored: returns what the database has of a budget, None if it cannot be asked.

    processes: that were last seen. untold: what was admitted here, with the second of it, of which the shared counters
    do not know yet, or not all of them.
    """

    def __init__(
        self,
        stored: Callable[[Counter, bool], Awaitable[int | None]],
        clock: Callable[[], float] = time.monotonic,
        processes: int = 1,
    ) -> None:
        """stored: is told whether nothing else is known of the budget, for which an answer may be waited for longer."""
        self.processes = processes
        self.untold: dict[Reservation, int] = {}
        self._stored, self._clock = stored, clock
        self._own = MemoryCounters(clock)
        self._seen: dict[tuple[str, int], Seen] = {}
        self._shares: dict[str, Share] = {}
        # What was spent here and is settled, by counter and second.
        self._past: dict[tuple[Counter, int], int] = {}

    # --- while the shared counters answer -------------------------------------------------------------------

    def see_stored(self, counters: Sequence[Counter], spent: Mapping[str, int]) -> None:
        """Takes note of what the database has of budgets, by id, before the shared counters are asked of them."""
        for counter in counters:
            key = (counter.id, counter.window)
            if counter.id in spent and key not in self._seen:
                self._seen[key] = Seen(spent[counter.id], 0, self._own.used((counter,))[0], self._clock())

    def see(self, counters: Sequence[Counter], decision: Decision, tokens: int, money: int) -> None:
        """Takes note of what the shared counters have decided."""
        own = self._own.take(counters, tokens, money) if decision.admitted else self._own.used(counters)
        if len(self._seen) > MAX_SEEN:
            self._seen.clear()
        now = self._clock()
        for counter, state, used in zip(counters, decision.states, own, strict=True):
            self._seen[counter.id, counter.window] = Seen(state.spent, state.reserved, used, now)

    def settle(self, settlement: Settlement) -> None:
        """Ends a reservation, whoever admitted it."""
        self._own.settle(settlement)
        reservation = settlement.reservation
        # It is not there where the shared counters have admitted it, or have taken it over.
        second = self.untold.pop(reservation, None)
        if second is None:
            return
        now = math.floor(self._clock())
        for counter in reservation.counters:
            if reservation.is_shared(counter):
                continue
            if counter.unit == "requests":
                self._add_past(counter, second, 1)
            # Of money they are told by `SharedCounters._store_alone`.
            elif counter.unit == "tokens" and settlement.tokens:
                self._add_past(counter, now, settlement.tokens)

    def _add_past(self, counter: Counter, second: int, amount: int) -> None:
        if len(self._past) > MAX_SEEN:
            self._drop_past()
        self._past[counter, second] = self._past.get((counter, second), 0) + amount

    def _drop_past(self) -> None:
        """Forgets what does not count any more."""
        oldest = math.floor(self._clock()) - WINDOW
        self._past = {key: amount for key, amount in self._past.items() if key[1] >= oldest}

    # --- without them ---------------------------------------------------------------------------------------

    async def reserve(
        self, counters: Sequence[Counter], tokens: int, money: int
    ) -> tuple[Sequence[Counter], Decision, Reservation | None]:
        """Decides by this process' shares. The result is that of `LimiterCounters.reserve`."""
        shares = [await self._share(counter) for counter in counters]
        decision = self._own.reserve(shares, tokens, money)
        if not decision.admitted:
            return shares, decision, None
        reservation = Reservation(shares, tokens, money, local=True)
        self.untold[reservation] = math.floor(self._clock())
        return shares, decision, reservation

    async def look(self, counters: Sequence[Counter], tokens: int, money: int) -> tuple[Sequence[Counter], Decision]:
        """Returns this process' shares, and what they would decide. Nothing is reserved."""
        shares = [await self._share(counter) for counter in counters]
        return shares, self._own.reserve(shares, tokens, money, only_looks=True)

    async def _share(self, counter: Counter) -> Counter:
        key, now = (counter.id, counter.window), self._clock()
        seen, share = self._seen.get(key), self._shares.get(counter.id)
        if share is None or share.seen is not seen or seen.is_guess:
            stored, is_money = None, counter.unit == "money"
            if is_money and (seen is None or now - seen.at > RECENT_SECONDS):
                stored = await self._stored(counter, seen is None or seen.is_guess)
            if seen is None or stored or (seen.is_guess and stored is not None):
                is_guess = is_money and stored is None
                self._see_stored(key, seen, Seen(stored or 0, 0, self._own.used((counter,))[0], now, is_guess))
            # Another request may have made the share meanwhile.
            seen, share = self._seen[key], self._shares.get(counter.id)
        if share is None or not share.suits(counter, seen, self.processes, now):
            share = self._shares[counter.id] = self._make_share(counter, seen, now)
        return share.counter

    def _see_stored(self, key: tuple[str, int], before: Seen | None, seen: Seen) -> None:
        """Takes over what the database has, unless something newer was seen.

        before: what was seen when it was asked.
        """
        if self._seen.get(key) is before:
            if before is not None:
                # What was spent only grows, and the database may be behind what was seen.
                seen.spent = max(seen.spent, before.spent)
                # After a lease what others had reserved has been settled or has lapsed.
                seen.reserved = before.reserved if seen.at - before.at < LEASE else 0
            self._seen[key] = seen

    def _make_share(self, counter: Counter, seen: Seen, now: float) -> Share:
        left = max(counter.limit - seen.spent - seen.reserved - self._untold_of(counter), 0)
        if counter.unit == "money" and (others := seen.spent - self._own.used((counter,))[0]) > 0:
            # For what callers are told: what others have spent is added on both sides.
            self._own.load({(counter.id, counter.window): others})
            seen.own += others
        limit, until, age = seen.own + self._portion(left), math.inf, now - seen.at
        if counter.unit != "money":
            even = self._portion(counter.limit)
            # First what is too much goes, then what is too little comes: what others took before counts for a minute.
            if age >= 2 * FORGOTTEN:
                limit = even
            elif age >= FORGOTTEN:
                limit, until = min(limit, even), seen.at + 2 * FORGOTTEN
            else:
                until = seen.at + FORGOTTEN
        return Share(counter, seen, replace(counter, limit=limit), until, self.processes)

    def _untold_of(self, counter: Counter) -> int:
        """Returns what was admitted here and is not in what was seen."""
        id = counter.id
        reserved = sum(
            one.amount(reservation.tokens, reservation.money)
            for reservation in self.untold
            for one in reservation.counters
            if one.id == id and not reservation.is_shared(one)
        )
        return reserved + sum(amount for (one, _), amount in self._past.items() if one.id == id)

    def _portion(self, amount: int) -> int:
        # A limit of a few is not to become none: every process may do at least one of what there was one of.
        return max(amount // max(self.processes, 1), 1) if amount else 0

    # --- when they answer again -----------------------------------------------------------------------------

    def hand_over(self, is_away: Callable[[Counter], bool]) -> tuple[list[tuple[Reservation, int]], list[Past]]:
        """Returns some of what the shared counters do not know, with its age; from now on it is known here no more.

        is_away: tells which counters cannot be told.
        """
        now = math.floor(self._clock())
        self._drop_past()
        # A part of it, so that no message to the counters is endless.
        due = ((one, now - second) for one, second in self.untold.items() if is_outstanding(one, is_away))
        reservations = list(islice(due, MAX_HANDED_OVER))
        for reservation, _ in reservations:
            del self.untold[reservation]
        keys = list(islice((key for key in self._past if not is_away(key[0])), MAX_HANDED_OVER))
        past = [Past(counter, self._past.pop((counter, second)), now - second) for counter, second in keys]
        return reservations, past

    def take_back(self, reservations: Sequence[tuple[Reservation, int]], past: Sequence[Past]) -> None:
        """Keeps what could not be handed over."""
        now = math.floor(self._clock())
        for reservation, age in reservations:
            self.untold[reservation] = now - age
        for one in past:
            self._add_past(one.counter, now - one.age, one.amount)

    def is_untold(self, reservation: Reservation) -> bool:
        """Tells whether the shared counters have still to take over something of this reservation."""
        return reservation in self.untold

    @property
    def has_untold(self) -> bool:
        """The shared counters do not know all that was admitted here."""
        return bool(self.untold or self._past)


def is_outstanding(reservation: Reservation, is_away: Callable[[Counter], bool]) -> bool:
    """Tells whether something of a reservation can be told to the shared counters."""
    return any(not reservation.is_shared(counter) and not is_away(counter) for counter in reservation.counters)
