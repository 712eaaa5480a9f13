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


class _State:
    """One counter.

    spent: in the last minute, the sum of the slots; or, of a budget, since its window began. slots: pairs of a slot and
    an amount, the oldest first.
    """

    __slots__ = ("reserved", "slots", "spent", "window")

    def __init__(self, window: int) -> None:
        self.slots: deque[list[int]] = deque()
        self.window, self.spent, self.reserved = window, 0, 0

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
        if spent < limit:
            return self.slots[0][0] + WINDOW + 1 - now
        for slot, amount in self.slots:
            spent -= amount
            if spent < max(limit, 1):
                return slot + WINDOW + 1 - now
        return 0.0

    def turn(self, window: int) -> None:
        """Begins a new window. One that is older than the present one is that of a clock that is late: it stays."""
        if window > self.window:
            self.window, self.spent = window, 0


class MemoryCounters:
    """Counters of one process. clock: seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rolling: dict[str, _State] = {}
        self._budgets: dict[str, _State] = {}
        self._most_idle = MAX_IDLE_COUNTERS

    def load(self, spent: Mapping[tuple[str, int], int]) -> None:
        """Adds what was spent before, by a budget's id and window. Only the newest window of a budget counts."""
        for (id, window), amount in spent.items():
            budget = self._budgets.setdefault(id, _State(window))
            budget.turn(window)
            if budget.window == window:
                budget.spent += amount

    def reserve(self, counters: Sequence[Counter], tokens: int, money: int) -> Decision:
        """Reserves in all counters, or in none. tokens, money: the estimates, money in nano-dollars.

        Each request comes by here, so what `Counter.amount` and `Counter.admits` say is written out once more.
        """
        now = self._clock()
        slot = math.floor(now)
        states: list[_State] = []
        admitted = True
        for counter in counters:
            unit, limit = counter.unit, counter.limit
            state = self._budget(counter) if unit == "money" else self._rolling_at(counter.id, slot)
            states.append(state)
            amount = money if unit == "money" else 1 if unit != "tokens" else tokens if tokens < limit else limit
            spent, reserved = state.spent, state.reserved
            if spent + reserved + amount > limit and (reserved or spent >= limit):
                admitted = False
        result = []
        for counter, state in zip(counters, states, strict=True):
            unit, limit = counter.unit, counter.limit
            if admitted:
                if unit == "requests":
                    state.add(slot, 1)
                else:
                    state.reserved += 1 if unit == "parallel" else money if unit == "money" else min(tokens, limit)
            result.append(CounterState(state.spent, state.reserved, state.wait(now, limit) if state.slots else 0.0))
        return Decision(admitted, result)

    def settle(self, settlement: Settlement) -> None:
        """Ends a reservation. Money counts in the window in which it was reserved, also when that is over."""
        reservation, slot = settlement.reservation, math.floor(self._clock())
        tokens, money = reservation.tokens, reservation.money
        for counter in reservation.counters:
            unit = counter.unit
            if unit == "money":
                budget = self._budget(counter)
                budget.reserved = max(budget.reserved - money, 0)
                if budget.window == counter.window:
                    budget.spent += settlement.money
            elif unit == "tokens":
                state = self._rolling_at(counter.id, slot)
                state.reserved = max(state.reserved - min(tokens, counter.limit), 0)
                if settlement.tokens:
                    state.add(slot, settlement.tokens)
            elif unit == "parallel":
                state = self._rolling_at(counter.id, slot)
                state.reserved = max(state.reserved - 1, 0)

    def _budget(self, counter: Counter) -> _State:
        budget = self._budgets.get(counter.id)
        if budget is None:
            budget = self._budgets[counter.id] = _State(counter.window)
        elif counter.window > budget.window:
            budget.turn(counter.window)
        return budget

    def _rolling_at(self, id: str, slot: int) -> _State:
        state = self._rolling.get(id)
        if state is None:
            if len(self._rolling) >= self._most_idle:
                self._remove_empty(slot)
            state = self._rolling[id] = _State(0)
        elif state.slots and (state.slots[0][0] < slot - WINDOW or state.slots[-1][0] > slot):
            state.advance(slot)
        return state

    def _remove_empty(self, slot: int) -> None:
        """Removes the counters in which nothing counts any more, and is content with twice of what remains."""
        for state in self._rolling.values():
            state.advance(slot)
        self._rolling = {id: state for id, state in self._rolling.items() if state.slots or state.reserved}
        self._most_idle = max(MAX_IDLE_COUNTERS, 2 * len(self._rolling))
