"""Several calls to Cohere for one request: which failure the caller is told, and what becomes of the other calls."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import UpstreamError, failure
from gateway.pipeline.fan_out import gather_or_first_error, post_all
from support.waiting import WAIT_SECONDS


async def returns(value: int, steps: int = 0) -> int:
    for _ in range(steps):
        await asyncio.sleep(0)
    return value


async def fails(message: str, steps: int = 0) -> int:
    for _ in range(steps):
        await asyncio.sleep(0)
    raise UpstreamError(failure("cut", message))


async def fails_when_cancelled(message: str, cancelled: list[str]) -> int:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        cancelled.append(message)
        raise UpstreamError(failure("stopping", message)) from None
    return 0


def test_results_are_in_order_whichever_ends_first() -> None:
    assert asyncio.run(gather_or_first_error([returns(1, 5), returns(2), returns(3, 2)])) == [1, 2, 3]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_the_first_error_is_raised_whatever_its_siblings_say_of_their_cancellation(position: int) -> None:
    cancelled: list[str] = []

    async def main() -> None:
        calls = [fails_when_cancelled(f"sibling {number}", cancelled) for number in range(2)]
        calls.insert(position, fails("the first error", 3))
        await gather_or_first_error(calls)

    with pytest.raises(UpstreamError, match="the first error"):
        asyncio.run(main())
    assert sorted(cancelled) == ["sibling 0", "sibling 1"]


def test_of_two_errors_the_earlier_one_is_raised() -> None:
    with pytest.raises(UpstreamError, match="earlier"):
        asyncio.run(gather_or_first_error([fails("later", 5), fails("earlier", 1)]))


def test_cancelling_cancels_all_calls() -> None:
    ended: list[int] = []

    async def waits(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    async def main() -> None:
        task = asyncio.create_task(gather_or_first_error([waits(1), waits(2)]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert sorted(ended) == [1, 2]


def test_a_request_that_is_cancelled_before_it_calls_makes_no_call() -> None:
    calls: list[str] = []

    class Calls:
        """Notes the calls to Cohere, none of which ends by itself."""

        def post(self, path: str, *_: Any) -> Any:
            calls.append(path)
            return contextlib.nullcontext()

    class Admitted:
        """Lets every answer in."""

        record = SimpleNamespace(model="embed-v4.0", principal=None, attempts=[], memory=None, controls=None)

        async def accept(self, response: Any) -> Any:
            await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        upstream: Any = Calls()
        admission: Any = Admitted()
        await post_all(upstream, "/v2/embed", admission, [b"{}"] * 3)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(main(), WAIT_SECONDS))
    assert calls == []
