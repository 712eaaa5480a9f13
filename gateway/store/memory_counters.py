"""Counters in the memory of one process: exact for it, gone with it, and without anything to wait for.

Budgets are put in at start from what was stored (`MemoryCounters.load`).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from gateway.store.counters import WINDOW, Counter, CounterState, Decision, Settlement, Unit

MAX_IDLE_COUNTERS = 10_000
"""Counters of the last minute that may be idle before they are looked through for those that are empty."""

# As many as `limits/plan.py` keeps plans, whose tuples these are.
MAX_BOUND = 20_000
"""Sequences of counters whose rows are remembered."""

MAX_EARLIER = 8
"""Windows of a budget that are remembered beside the present one."""

NEVER = 2**62
"""The first slot of a counter that has none."""


class _State:
    """One counter.

    spent: in the last minute, the sum of the slots; or, of a budget, since its window began. slots: pairs of a slot and
    an amount, the oldest first. first: the oldest slot, NEVER without any. earlier: what was spent in windows before
    the present one, by their beginnings: the clock that began it may have been wrong.
    """

    __slots__ = ("earlier", "first", "reserved", "slots", "spent", "window")

    def __init__(self, window: int) -> None:
        self.slots: deque[list[int]] = deque()
        self.window, self.spent, self.reserved = window, 0, 0
        self.earlier: dict[int, int] = {}
        self.first = NEVER

    def advance(self, slot: int) -> None:
        """Takes out what is too old."""
        slots = self.slots
        while slots and slots[0][0] < slot - WINDOW:
            self.spent -= slots.popleft()[1]
        self.first = slots[0][0] if slots else NEVER

    def add(self, slot: int, amount: int) -> None:
        slots = self.slots
        if slots and slots[-1][0] == slot:
            slots[-1][1] += amount
        else:
            slots.append([slot, amount])
            if self.first == NEVER:
                self.first = slot
        self.spent += amount

    def wait(self, now: float, limit: int) -> float:
        """Returns the seconds until something of a limit that is reached is free again: enough slots have ended."""
        spent = self.spent
        for slot, amount in self.slots:
            spent -= amount
            if spent < max(limit, 1):
                return slot + WINDOW + 1 - now
        return 0.0

    def turn(self, window: int) -> None:
        """Begins a new window. One that is older than the present one is that of a clock that is late: it stays."""
        if window > self.window:
            self.add_earlier(self.window, self.spent)
            self.window, self.spent = window, 0

    def add_earlier(self, window: int, amount: int) -> None:
        """Adds what was spent in a window before the present one."""
        self.earlier[window] = self.earlier.get(window, 0) + amount
        if len(self.earlier) > MAX_EARLIER:
            del self.earlier[min(self.earlier)]

    def spent_since(self, window: int) -> int:
        """Returns what was spent in this window and in those that began after it."""
        return self.spent + sum(amount for began, amount in self.earlier.items() if began >= window)


_Row: TypeAlias = tuple[Unit, int, _State, int]
"""Unit, limit, state and window of a counter."""


class MemoryCounters:
    """Counters of one process. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rolling: dict[str, _State] = {}
        self._budgets: dict[str, _State] = {}
        self._most_idle = MAX_IDLE_COUNTERS
        # By the identity of a tuple of counters, which a plan has for many requests: the tuple, and its rows.
        self._bound: dict[int, tuple[Sequence[Counter], Sequence[_Row]]] = {}

    def load(self, spent: Mapping[tuple[str, int], int]) -> None:
        """Adds what was spent before, by a budget's id and window. Only the newest window of a budget counts."""
        for (id, window), amount in spent.items():
            budget = self._budgets.setdefault(id, _State(window))
            budget.turn(window)
            if budget.window == window:
                budget.spent += amount

    def reserve(self, counters: Sequence[Counter], tokens: int, money: int, only_looks: bool = False) -> Decision:
        """Reserves in all counters, or in none. tokens, money: the estimates, money in nano-dollars.

        only_looks: says whether it would, and reserves nothing.
        Each request comes by here, so what `Counter.amount` and `Counter.admits` say is written out once more.
        """
        now = self._clock()
        slot = math.floor(now)
        oldest, admitted = slot - WINDOW, True
        rows = self._rows(counters, slot)
        for unit, limit, state, window in rows:
            # Asked here and not in `advance`: mostly nothing is too old, and a call costs more than the comparison.
            if state.first < oldest:
                state.advance(slot)
            amount = money if unit == "money" else 1 if unit != "tokens" else tokens if tokens <= limit else limit or 1
            spent, reserved = state.spent, state.reserved
            # The present window is newer than this request's: it has just begun, or the clock was put back.
            if window != state.window:
                spent = state.spent_since(window)
            # An estimate is not what will be spent: while something is left and nothing else is under way, it may go.
            if spent + reserved + amount > limit and (reserved or spent >= limit):
                admitted = False
        # Only after all have been asked: where one refuses, nothing has to be taken back from the others.
        result = []
        for unit, limit, state, window in rows:
            if admitted and not only_looks:
                if unit == "requests":
                    state.add(slot, 1)
                elif unit == "tokens":
                    state.reserved += tokens if tokens <= limit else limit or 1
                else:
                    state.reserved += 1 if unit == "parallel" else money
            spent, first = state.spent, state.first
            if window != state.window:
                spent = state.spent_since(window)
            if first == NEVER:
                result.append(CounterState(spent, state.reserved))
            else:
                wait = first + WINDOW + 1 - now if spent < limit else state.wait(now, limit)
                result.append(CounterState(spent, state.reserved, wait))
        return Decision(admitted, result)

    def take(self, counters: Sequence[Counter], tokens: int, money: int) -> Sequence[int]:
        """Reserves in all counters, whatever their limits. Returns what is used of each after that, as `used`."""
        slot = math.floor(self._clock())
        for unit, limit, state, _ in self._rows(counters, slot):
            if unit == "requests":
                state.add(slot, 1)
            elif unit == "tokens":
                state.reserved += tokens if tokens <= limit else limit or 1
            else:
                state.reserved += 1 if unit == "parallel" else money
        return self.used(counters)

    def used(self, counters: Sequence[Counter]) -> Sequence[int]:
        """Returns what is spent and reserved of each of these."""
        slot, result = math.floor(self._clock()), []
        for _, _, state, window in self._rows(counters, slot):
            if state.first < slot - WINDOW:
                state.advance(slot)
            spent = state.spent if window == state.window else state.spent_since(window)
            result.append(spent + state.reserved)
        return result

    def settle(self, settlement: Settlement) -> None:
        """Ends a reservation. Money counts in the window in which it was reserved, also when that is over."""
        reservation, slot = settlement.reservation, math.floor(self._clock())
        tokens, money = reservation.tokens, reservation.money
        for unit, limit, state, window in self._rows(reservation.counters, slot):
            # A request counts from its beginning, whatever becomes of it: of this nothing was reserved.
            if unit == "requests":
                continue
            amount = (
                money if unit == "money" else 1 if unit == "parallel" else tokens if tokens <= limit else limit or 1
            )
            left = state.reserved - amount
            state.reserved = left if left > 0 else 0
            if unit == "money":
                if state.window == window:
                    state.spent += settlement.money
                # The window is over. What was spent in it still counts there, and nothing in the present one.
                elif settlement.money:
                    state.add_earlier(window, settlement.money)
            elif unit == "tokens" and settlement.tokens:
                if state.first < slot - WINDOW:
                    state.advance(slot)
                state.add(slot, settlement.tokens)

    def _rows(self, counters: Sequence[Counter], slot: int) -> Sequence[_Row]:
        """Returns what is needed of these counters, in order."""
        bound = self._bound.get(id(counters))
        if bound is not None and bound[0] is counters:
            return bound[1]
        if len(self._rolling) + len(counters) > self._most_idle:
            self._remove_empty(slot)
        rows = [
            (
                counter.unit,
                counter.limit,
                self._budget(counter) if counter.unit == "money" else self._last_minute(counter),
                counter.window,
            )
            for counter in counters
        ]
        if type(counters) is tuple:  # others are made for one request
            if len(self._bound) >= MAX_BOUND:
                self._bound.clear()
            # The tuple is kept with its rows: else another one could get its id once it is gone.
            self._bound[id(counters)] = (counters, rows)
        return rows

    def _budget(self, counter: Counter) -> _State:
        budget = self._budgets.get(counter.id)
        if budget is None:
            budget = self._budgets[counter.id] = _State(counter.window)
        elif counter.window > budget.window:
            budget.turn(counter.window)
        return budget

    def _last_minute(self, counter: Counter) -> _State:
        state = self._rolling.get(counter.id)
        if state is None:
            state = self._rolling[counter.id] = _State(0)
        return state

    def _remove_empty(self, slot: int) -> None:
        """Removes the counters in which nothing counts any more, and is content with twice of what remains."""
        for state in self._rolling.values():
            state.advance(slot)
        self._rolling = {id: state for id, state in self._rolling.items() if state.slots or state.reserved}
        # Twice, so that looking through all of them costs each request little, however many there are.
        self._most_idle = max(MAX_IDLE_COUNTERS, 2 * len(self._rolling))
        self._bound.clear()
