"""Watchers of callers who may leave begin to listen a moment late, and share a timer."""

import asyncio
from typing import Any

from starlette.types import Message

from gateway.errors import CallerLeft
from gateway.http.disconnect import DisconnectWatcher


async def leaves() -> Message:
    return {"type": "http.disconnect"}


async def watched(delays: list[asyncio.Event]) -> str:
    try:
        async with DisconnectWatcher(leaves):
            for delay in delays:
                await delay.wait()
        return "served"
    except CallerLeft:
        return "left"


def test_many_watchers_share_a_timer_and_quick_answers_need_no_listening() -> None:
    async def main() -> None:
        loop, timers = asyncio.get_running_loop(), 0
        call_at = loop.call_at

        def counting(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*arguments, **options)

        loop.call_at = counting  # type: ignore[method-assign, assignment]
        tasks = len(asyncio.all_tasks())
        assert await asyncio.gather(*(watched([]) for _ in range(100))) == ["served"] * 100
        assert (timers, len(asyncio.all_tasks())) == (1, tasks)
        assert await asyncio.gather(*(watched([asyncio.Event()]) for _ in range(100))) == ["left"] * 100

    asyncio.run(main())


def test_nothing_is_kept_of_a_loop_in_which_nobody_waits() -> None:
    from gateway.http.disconnect import _Moments

    async def main() -> None:
        await watched([])
        while asyncio.get_running_loop() in _Moments._by_loop:
            await asyncio.sleep(0.01)

    asyncio.run(main())
