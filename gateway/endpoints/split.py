"""The endpoint of requests that are sent to Cohere in parts, a few at once, and answered together and whole.

No operation is named here: a row of BATCHES says how a body becomes parts and how their responses become one.
"""

from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.errors import GatewayError, UpstreamError
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import send_json
from gateway.observability.record import CACHE_HIT, record_of
from gateway.pipeline.admission import Admission
from gateway.pipeline.cached_response import Source
from gateway.pipeline.fan_out import post_all
from gateway.pipeline.handler import context_of
from gateway.pipeline.offload import work_of
from gateway.pipeline.operations import SplitOperation
from gateway.pipeline.response_cache import MISS
from gateway.pipeline.services import Services
from translators.core.contracts import SplitRequest, TranslatedResponse
from translators.core.errors import AnswerFailed

VECTOR_BYTES = 16
"""Bytes of vectors that take as long as one of a request: they are passed on as they are, a microsecond a kilobyte.

Half a megabyte takes 0.2 ms on the event loop. In a thread it costs ten times that, as the interpreter's lock and the
caches of two processors change hands.
"""


class SplitEndpoint:
    """A row of BATCHES as an ASGI application."""

    def __init__(self, operation: SplitOperation, services: Services) -> None:
        self._operation, self._services = operation, services
        self._method = cohere_methods.find("POST", operation.upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, record = self._services, self._operation, record_of(scope)
        record.operation, record.cohere_method = operation.name, self._method.name
        services.admission.permit(record, self._method)
        request_body = await body.read_json(record, receive, services.settings)
        request = await services.offload.run(
            record.principal,
            work_of(len(request_body), record.json_values),
            operation.translate,
            request_body,
            context_of(services, record, seals=False),
        )
        body.note_changes(record, request.notes)
        services.catalog.look_up(request.model, record.principal)
        # Vectors are always repeatable, so no temperature is asked for.
        record.cache, lookup = services.cache.lookup(request.notes, True, record.principal, record.headers)
        # As it would be without the cache: the difference is what the cache has saved.
        workload = request.workload
        async with DisconnectWatcher(receive) as watcher:
            if lookup is not None:
                # Each input by itself, so that it is found again among other neighbours.
                alone = request.input_bodies()
                source = Source.of(services.upstream, operation.upstream, request.model, record)
                request = request.without_cached(await lookup.load_each(source.path, alone))
                record.cache = MISS if request.bodies else CACHE_HIT
            # After the look into the cache: only what is still to be called takes of limits and budgets.
            with await services.admission.admit(record, self._method, request.workload, request.notes) as admission:
                # Some inputs came out of the cache: what they would have cost is shown as saved.
                if request.workload != workload:
                    admission.credit_inputs(workload, request.workload)
                request, bodies, response = await self._respond(request, admission)
            # The cache is written after the answer has left: nobody waits for it.
            await send_json(send, response.body, request.notes, watcher)
            if lookup is not None and bodies and source.answered(record):
                pieces = [(alone[index], piece) for index, piece in request.cache_entries(bodies)]
                await lookup.save_each(source.path, pieces)

    async def _respond(
        self, request: SplitRequest, admission: Admission
    ) -> tuple[SplitRequest, list[bytes], TranslatedResponse]:
        """Returns the request that was answered, Cohere's responses, and the caller's.

        A request whose failure can be helped is made a second time in another form. Raises UpstreamError.
        """
        try:
            return await self._call(request, admission)
        except (UpstreamError, AnswerFailed) as error:
            second = request.second_attempt(error.failure)
            # What failed was billed, so there have to be limits and budgets left for it once more.
            if second is None or not await admission.repeat(second.workload):
                raise _upstream_error(request, error) from error
        admission.set_notes(second.notes)
        try:
            return await self._call(second, admission)
        except (UpstreamError, AnswerFailed) as error:
            raise _upstream_error(second, error) from error

    async def _call(
        self, request: SplitRequest, admission: Admission
    ) -> tuple[SplitRequest, list[bytes], TranslatedResponse]:
        path = self._operation.upstream
        bodies = await post_all(self._services.upstream, path, admission, request.bodies, request.weights)
        # Vectors are long and quickly read (VECTOR_BYTES).
        caller, size = admission.record.principal, sum(map(len, bodies)) // VECTOR_BYTES
        return request, bodies, await self._services.offload.run(caller, size, request.translate_response, bodies)


def _upstream_error(request: SplitRequest, error: UpstreamError | AnswerFailed) -> UpstreamError:
    """Returns a part's failure as the caller of the whole request sees it."""
    retry_after = error.retry_after if isinstance(error, GatewayError) else None
    return UpstreamError(request.caller_failure(error.failure), retry_after)
