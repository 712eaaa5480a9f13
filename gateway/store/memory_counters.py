"""Counters in the memory of one process: exact for it, gone with it, and without anything to wait for.

Budgets are put in at start from what was stored (`MemoryCounters.load`).
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from gateway.store.counters import WINDOW, Counter, CounterState, Decision, Settlement

MAX_IDLE_COUNTERS = 10_000
"""Counters of the last minute that may be idle before they are looked through for those that are empty."""


class _Rolling:
    """What was spent in the last minute: slots with amounts, the oldest first."""

    __slots__ = ("reserved", "slots", "spent")

    def __init__(self) -> None:
        self.slots: deque[list[int]] = deque()
        self.spent = self.reserved = 0

    def advance(self, slot: int) -> None:
        """Takes out what is too old, and everything if the clock was set back."""
        slots = self.slots
        while slots and slots[0][0] < slot - WINDOW:
            self.spent -= slots.popleft()[1]
        if slots and slots[-1][0] > slot:
            slots.clear()
            self.spent = 0

    def add(self, slot: int, amount: int) -> None:
        slots = self.slots
        if slots and slots[-1][0] == slot:
            slots[-1][1] += amount
        else:
            slots.append([slot, amount])
        self.spent += amount

    def wait(self, now: float, limit: int) -> float:
        """Returns the seconds until something is free again: the oldest slot ends, or enough of them do."""
        spent = self.spent
        for slot, amount in self.slots:
            spent -= amount
            if spent < limit:
                return slot + WINDOW + 1 - now
        return 0.0 if not self.slots else float(WINDOW + 1)


class _Budget:
    """What was spent since the window began."""

    __slots__ = ("reserved", "spent", "window")

    def __init__(self, window: int, spent: int = 0) -> None:
        self.window, self.spent, self.reserved = window, spent, 0

    def turn(self, window: int) -> None:
        """Begins a new window. One that is older than the present one is that of a clock that is late: it stays."""
        if window > self.window:
            self.window, self.spent = window, 0


class MemoryCounters:
    """Counters of one process. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rolling: dict[str, _Rolling] = {}
        self._budgets: dict[str, _Budget] = {}
        self._most_idle = MAX_IDLE_COUNTERS

    def load(self, spent: Mapping[tuple[str, int], int]) -> None:
        """Adds what was spent before, by a budget's id and window. Only the newest window of a budget counts."""
        for (id, window), amount in spent.items():
            budget = self._budgets.setdefault(id, _Budget(window))
            budget.turn(window)
            if budget.window == window:
                budget.spent += amount

    def reserve(self, counters: Sequence[Counter], tokens: int, money: int) -> Decision:
        """Reserves in all counters, or in none. tokens, money: the estimates, money in nano-dollars."""
        now = self._clock()
        slot = math.floor(now)
        reserving = []
        admitted = True
        for counter in counters:
            state = self._state(counter, slot)
            amount = counter.amount(tokens, money)
            admitted = admitted and counter.admits(state.spent, state.reserved, amount)
            reserving.append((counter, state, amount))
        if admitted:
            for counter, state, amount in reserving:
                if counter.unit == "requests":
                    assert isinstance(state, _Rolling)
                    state.add(slot, amount)
                else:
                    state.reserved += amount
        return Decision(
            admitted,
            [
                CounterState(
                    state.spent,
                    state.reserved,
                    state.wait(now, max(counter.limit, 1)) if isinstance(state, _Rolling) and state.slots else 0.0,
                )
                for counter, state, _ in reserving
            ],
        )

    def settle(self, settlement: Settlement) -> None:
        """Ends a reservation. Money counts in the window in which it was reserved, also when that is over."""
        reservation, slot = settlement.reservation, math.floor(self._clock())
        for counter in reservation.counters:
            if counter.unit == "requests":
                continue
            state = self._state(counter, slot)
            state.reserved = max(state.reserved - counter.amount(reservation.tokens, reservation.money), 0)
            spent = settlement.spent(counter)
            if not spent:
                continue
            if isinstance(state, _Budget):
                if counter.window == state.window:
                    state.spent += spent
            else:
                state.add(slot, spent)

    def _state(self, counter: Counter, slot: int) -> _Rolling | _Budget:
        if counter.unit == "money":
            budget = self._budgets.get(counter.id)
            if budget is None:
                budget = self._budgets[counter.id] = _Budget(counter.window)
            budget.turn(counter.window)
            return budget
        rolling = self._rolling.get(counter.id)
        if rolling is None:
            if len(self._rolling) >= self._most_idle:
                self._remove_empty(slot)
            rolling = self._rolling[counter.id] = _Rolling()
        rolling.advance(slot)
        return rolling

    def _remove_empty(self, slot: int) -> None:
        """Removes the counters in which nothing counts any more, and is content with twice of what remains."""
        for state in self._rolling.values():
            state.advance(slot)
        self._rolling = {id: state for id, state in self._rolling.items() if state.slots or state.reserved}
        self._most_idle = max(MAX_IDLE_COUNTERS, 2 * len(self._rolling))
