"""The endpoint of requests that are asked in parts, a few calls at once, and answered together and whole.

No operation is named here: a row of BATCHES says how a body becomes parts and how their answers become one.
"""

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from gateway import exchange
from gateway.access.caller import Caller
from gateway.cache import HIT, MISS
from gateway.endpoints.endpoint import answer_json, note_headers
from gateway.errors import GatewayError, UpstreamError
from gateway.exchange import Exchange
from gateway.front import base_urls, body
from gateway.front.departure import Departure
from gateway.operations import BatchOperation
from gateway.serving import Services, accepted
from gateway.upstream.resilient import ResilientUpstream
from translators.context import Answer, Batch, Call
from translators.errors import AnswerFailed

MOST_AT_ONCE = 8
"""Calls to Cohere that one request has under way."""


class BatchEndpoint:
    """A row of BATCHES as an ASGI application."""

    def __init__(self, operation: BatchOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, known = self._services, self._operation, exchange.of(scope)
        known.operation = operation.name
        asked = await body.read_json(scope, receive, services.settings)
        caller: Caller = scope["gateway.caller"]
        call = operation.request(asked, services.context(scope))
        base_urls.tell(scope, call.notes)
        services.catalogue.notice(call.model, caller)
        known.cache, lookup = services.cache.lookup(call.notes, True, caller, scope["gateway.headers"])
        async with Departure(receive) as departure:
            if lookup is not None:
                alone = call.alone()
                call = call.beside(await lookup.pieces(operation.upstream, alone))
                known.cache = MISS if call.bodies else HIT
            known.model, known.notes = call.model, len(call.notes)
            services.metrics.note(operation.name, call.notes)
            known.upstream_began = time.monotonic()
            try:
                call, bodies, answer = await self._answered(call, caller, known)
            finally:
                if known.cache != HIT:
                    known.upstream_ended = time.monotonic()
            exchange.used(known, answer.outcome)
            await answer_json(send, answer.body, note_headers(call.notes), departure)
            if lookup is not None and bodies:
                made = [(alone[place], piece) for place, piece in call.pieces(bodies)]
                await lookup.keep_pieces(operation.upstream, made)

    async def _answered(self, call: Batch, caller: Caller, known: Exchange) -> tuple[Batch, list[bytes], Answer]:
        """The answer, what Cohere said, and to which call: the second, where the first one's failure can be helped."""
        try:
            return await self._answer(call, caller, known)
        except (UpstreamError, AnswerFailed) as error:
            second = call.otherwise(error.failure)
            if second is None:
                raise _told(call, error) from error
        try:
            return await self._answer(second, caller, known)
        except (UpstreamError, AnswerFailed) as error:
            raise _told(second, error) from error

    async def _answer(self, call: Batch, caller: Caller, known: Exchange) -> tuple[Batch, list[bytes], Answer]:
        upstream, path = self._services.upstream, self._operation.upstream
        bodies = await answers(upstream, path, call, call.bodies, caller, known, call.weights)
        return call, bodies, call.answer(bodies)


def _told(call: Batch, error: UpstreamError | AnswerFailed) -> UpstreamError:
    retry_after = error.retry_after if isinstance(error, GatewayError) else None
    return UpstreamError(call.told(error.failure), retry_after)


async def answers(
    upstream: ResilientUpstream,
    path: str,
    call: Batch | Call,
    bodies: Sequence[bytes],
    caller: Caller,
    known: Exchange,
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
