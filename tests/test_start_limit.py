"""A burst of requests is begun some at a time under uvicorn: between two turns of the loop all that flows goes on."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("uvicorn")

from gateway.server.uvicorn_connection import BEGUN_SECONDS, MAX_BEGUN, StartLimit

REQUESTS = 5 * MAX_BEGUN + 3


@pytest.mark.asyncio
async def test_few_requests_are_begun_in_a_turn_in_their_order() -> None:
    starts = StartLimit(asyncio.get_running_loop())
    begun: list[int] = []

    async def serve(number: int) -> None:
        if (turn := starts.wait()) is not None:
            await turn
        begun.append(number)

    tasks = [asyncio.create_task(serve(number)) for number in range(REQUESTS)]
    await asyncio.sleep(0)
    turns, before = 1, len(begun)
    assert before == MAX_BEGUN
    tasks[MAX_BEGUN + 1].cancel()  # while it waits for its turn
    while len(begun) < REQUESTS - 1:
        await asyncio.sleep(0)
        assert len(begun) - before <= MAX_BEGUN
        turns, before = turns + 1, len(begun)
    assert turns >= REQUESTS // MAX_BEGUN
    assert begun == [number for number in range(REQUESTS) if number != MAX_BEGUN + 1]
    await asyncio.sleep(2 * BEGUN_SECONDS)
    assert starts.wait() is None, "it begins anew"
    await asyncio.gather(*tasks, return_exceptions=True)
