"""Several calls to Cohere for one request."""

import asyncio
from collections.abc import Sequence

from gateway.auth.principal import Principal
from gateway.observability.record import RequestRecord
from gateway.pipeline.handler import accepted
from gateway.upstream.client import UpstreamClient
from translators.core.contracts import SplitRequest, Translation

MOST_AT_ONCE = 8
"""Calls to Cohere that one request has under way."""


async def answers(
    upstream: UpstreamClient,
    path: str,
    call: SplitRequest | Translation,
    bodies: Sequence[bytes],
    caller: Principal,
    known: RequestRecord,
    weights: Sequence[int] = (),
) -> list[bytes]:
    """Cohere's answers to these bodies of a call, in order, a few asked at once. weights: of each, 1 unless told.

    Raises UpstreamError: of several failures always that of the first body in order, so that the same request
    fails in the same way. A failure calls off what comes after it; what comes before is awaited.
    """

    async def one(place: int) -> bytes:
        weight = weights[place] if weights else 1
        async with upstream.post(path, caller, bodies[place], False, call.model, weight) as reply:
            await accepted(reply, known, call.notes, caller)
            return await reply.whole()

    if len(bodies) == 1:
        return [await one(0)]
    free = asyncio.Semaphore(MOST_AT_ONCE)
    tasks: list[asyncio.Task[bytes]] = []

    async def in_turn(place: int) -> bytes:
        async with free:
            try:
                return await one(place)
            except BaseException:
                for later in tasks[place + 1 :]:
                    later.cancel()
                raise

    try:
        tasks += [asyncio.create_task(in_turn(place)) for place in range(len(bodies))]
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
