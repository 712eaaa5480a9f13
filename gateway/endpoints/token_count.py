"""The endpoint that counts a request's tokens: translated like the request itself, and put to the tokenizer."""

import time

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gateway.auth.principal import Principal
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import answer_json, note_headers
from gateway.observability import record
from gateway.pipeline.fan_out import answers
from gateway.pipeline.operations import CountOperation
from gateway.pipeline.services import Services
from gateway.state.conversation_state import new_response_id


class TokenCountEndpoint:
    """A row of COUNTS as an ASGI application."""

    def __init__(self, operation: CountOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, known = self._services, self._operation, record.of(scope)
        known.operation = operation.name
        asked = await body.read_json(scope, receive, services.settings)
        caller: Principal = scope["gateway.caller"]
        response_id = new_response_id()
        # Nothing will be kept of a count: the storage is needed only for what the request continues.
        remembering = replace(operation.remembering(asked, response_id), store=False)
        recalled = await services.memory.recall(remembering, response_id, caller)
        call = operation.request(asked, services.context(scope, recalled))
        known.model, known.notes = call.model, len(call.notes)
        services.metrics.note(operation.name, call.notes)
        async with DisconnectWatcher(receive) as departure:
            known.upstream_began = time.monotonic()
            try:
                bodies = operation.asked(call.bodies[0])
                told = await answers(services.upstream, operation.upstream, call, bodies, caller, known)
            finally:
                known.upstream_ended = time.monotonic()
            answer = operation.counted(told)
            await answer_json(send, answer, note_headers(call.notes), departure)
