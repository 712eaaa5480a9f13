"""Several calls to Cohere for one request."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from gateway.pipeline.admission import Admission
from gateway.upstream.attempts import CallOptions
from gateway.upstream.calls import UpstreamCalls

MAX_CONCURRENT_PARTS = 8
"""Calls to Cohere that one split request has under way."""

T = TypeVar("T")


async def post_all(
    upstream: UpstreamCalls,
    path: str,
    admission: Admission,
    bodies: Sequence[bytes],
    weights: Sequence[int] = (),
) -> list[bytes]:
    """Returns Cohere's whole responses to these bodies, in order, with MAX_CONCURRENT_PARTS calls under way.

    weights: what each body takes of a key's budget that counts inputs, 1 each by default. Raises UpstreamError: of
    several failures always that of the first body in order, so that the same request fails in the same way. A failure
    cancels the parts after it; those before it are awaited.
    """

    async def post(index: int) -> bytes:
        weight = weights[index] if weights else 1
        record = admission.record
        options = CallOptions.of(record, record.model, weight)
        post = upstream.post(path, record.principal, bodies[index], False, options)
        async with post as response:
            answer = await (await admission.accept(response)).read_body()
        admission.bill(record.model, answer)
        return answer

    # The usual request, without a semaphore and a task.
    if len(bodies) == 1:
        return [await post(0)]
    slots = asyncio.Semaphore(MAX_CONCURRENT_PARTS)
    tasks: list[asyncio.Task[bytes]] = []

    async def post_in_turn(index: int) -> bytes:
        async with slots:
            try:
                return await post(index)
            except BaseException:
                # Those before it go on: if one of them fails as well, its error is the one to raise.
                for later in tasks[index + 1 :]:
                    later.cancel()
                raise

    try:
        tasks += [asyncio.create_task(post_in_turn(index)) for index in range(len(bodies))]
        return [await task for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        # Awaited, so that each connection is closed and each slot given back when the error reaches the caller.
        await asyncio.gather(*tasks, return_exceptions=True)


async def gather_or_first_error(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns the results of all, in order. The first error cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        # The first alone: an endpoint makes an error body of one failure, and a group is none.
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
