"""Runs a coroutine as far as it comes without waiting."""

from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Begun(Awaitable[T]):
    """The rest of a coroutine that has begun and waits. waits_for: what it gave to the event loop when it did."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._coroutine, self._waits_for = coroutine, waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        waits_for = self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(value)
            except StopIteration as end:
                result: T = end.value
                return result


def begin(awaitable: Awaitable[T]) -> tuple[T | None, Awaitable[T] | None]:
    """Runs a coroutine to its first wait. Returns its result, or else what is to be awaited for it, at once.

    So a time limit is set only for what waits. Raises what the coroutine raises.
    """
    if not isinstance(awaitable, Coroutine):
        return None, awaitable
    try:
        return None, Begun(awaitable, awaitable.send(None))
    except StopIteration as end:
        return end.value, None
