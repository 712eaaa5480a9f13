"""The endpoint of requests that are asked in parts, a few calls at once, and answered together and whole.

No operation is named here: a row of BATCHES says how a body becomes parts and how their answers become one.
"""

import time

from starlette.types import Receive, Scope, Send

from gateway.auth.principal import Principal
from gateway.errors import GatewayError, UpstreamError
from gateway.http import body, path_aliases
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import answer_json, note_headers
from gateway.observability import record
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.pipeline.fan_out import answers
from gateway.pipeline.operations import SplitOperation
from gateway.pipeline.response_cache import MISS
from gateway.pipeline.services import Services
from translators.core.contracts import SplitRequest, TranslatedResponse
from translators.core.errors import AnswerFailed


class SplitEndpoint:
    """A row of BATCHES as an ASGI application."""

    def __init__(self, operation: SplitOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, known = self._services, self._operation, record.of(scope)
        known.operation = operation.name
        asked = await body.read_json(scope, receive, services.settings)
        caller: Principal = scope["gateway.caller"]
        call = operation.request(asked, services.context(scope))
        path_aliases.tell(scope, call.notes)
        services.catalogue.notice(call.model, caller)
        known.cache, lookup = services.cache.lookup(call.notes, True, caller, scope["gateway.headers"])
        async with DisconnectWatcher(receive) as departure:
            if lookup is not None:
                alone = call.input_bodies()
                call = call.without_cached(await lookup.pieces(operation.upstream, alone))
                known.cache = MISS if call.bodies else CACHE_HIT
            known.model, known.notes = call.model, len(call.notes)
            services.metrics.note(operation.name, call.notes)
            known.upstream_began = time.monotonic()
            try:
                call, bodies, answer = await self._answered(call, caller, known)
            finally:
                if known.cache != CACHE_HIT:
                    known.upstream_ended = time.monotonic()
            record.used(known, answer.usage)
            await answer_json(send, answer.body, note_headers(call.notes), departure)
            if lookup is not None and bodies:
                made = [(alone[place], piece) for place, piece in call.cache_entries(bodies)]
                await lookup.keep_pieces(operation.upstream, made)

    async def _answered(
        self, call: SplitRequest, caller: Principal, known: RequestRecord
    ) -> tuple[SplitRequest, list[bytes], TranslatedResponse]:
        """The answer, what Cohere said, and to which call: the second, where the first one's failure can be helped."""
        try:
            return await self._answer(call, caller, known)
        except (UpstreamError, AnswerFailed) as error:
            second = call.second_attempt(error.failure)
            if second is None:
                raise _told(call, error) from error
        try:
            return await self._answer(second, caller, known)
        except (UpstreamError, AnswerFailed) as error:
            raise _told(second, error) from error

    async def _answer(
        self, call: SplitRequest, caller: Principal, known: RequestRecord
    ) -> tuple[SplitRequest, list[bytes], TranslatedResponse]:
        upstream, path = self._services.upstream, self._operation.upstream
        bodies = await answers(upstream, path, call, call.bodies, caller, known, call.weights)
        return call, bodies, call.translate_response(bodies)


def _told(call: SplitRequest, error: UpstreamError | AnswerFailed) -> UpstreamError:
    retry_after = error.retry_after if isinstance(error, GatewayError) else None
    return UpstreamError(call.caller_failure(error.failure), retry_after)
