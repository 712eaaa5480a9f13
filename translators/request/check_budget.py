"""The budget of steps for the checks of one request: small on the event loop, large in a thread.

A translation has no side effects. So a check that exceeds the loop's budget raises `TooExpensive`, and its request is
translated again in a thread (docs/decisions.md#translations-are-made-again-in-a-thread). A step is some 5 microseconds.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOOP_STEPS = 1_000
"""Steps of one request's checks on the event loop: some 5 ms."""

GENEROUS_STEPS = 250_000
"""Steps of one request's checks elsewhere: a second or two."""


class TooExpensive(Exception):
    """Checks would take more steps than the budget has."""


# One for each thread: a check in a thread must not use up the budget of the event loop.
class _Budget(threading.local):
    limit = LOOP_STEPS
    remaining = LOOP_STEPS
    shared = False


_budget = _Budget()


class _LoopBudget:
    """The context of `loop_budget`. A class, because each request enters it a few times."""

    def __enter__(self) -> None:
        _budget.remaining, _budget.shared = LOOP_STEPS, True

    def __exit__(self, *_: object) -> None:
        _budget.shared = False


_loop_budget = _LoopBudget()


def loop_budget() -> _LoopBudget:
    """Lets the checks inside take LOOP_STEPS together."""
    return _loop_budget


@contextmanager
def generous_budget() -> Iterator[None]:
    """Lets the checks inside take GENEROUS_STEPS together. The thread must not be the event loop's."""
    _budget.limit = _budget.remaining = GENEROUS_STEPS
    _budget.shared = True
    try:
        yield
    finally:
        _budget.limit, _budget.shared = LOOP_STEPS, False


def is_generous() -> bool:
    """Returns whether the checks of this thread have the generous budget."""
    return _budget.limit == GENEROUS_STEPS


def begin() -> None:
    """Begins a check. One that belongs to no request has a budget of its own."""
    if not _budget.shared:
        _budget.remaining = _budget.limit


def spend(steps: int) -> None:
    """Takes steps from the budget of this thread. Raises TooExpensive."""
    _budget.remaining -= steps
    if _budget.remaining < 0:
        raise TooExpensive
