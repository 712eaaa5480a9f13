"""The generic endpoints: read, translate, call, answer. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised; the guard renders them. What happens between the
request's bytes and its answer is `handler.py`.
"""

from starlette.types import Receive, Scope, Send

from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import answer_events, answer_json, note_headers
from gateway.observability import record
from gateway.pipeline.background import Background
from gateway.pipeline.handler import RequestHandler
from gateway.pipeline.http_sink import HttpSink
from gateway.pipeline.operations import CallOperation
from gateway.pipeline.services import Services


class CallEndpoint:
    """A row of CALLS as an ASGI application."""

    def __init__(self, operation: CallOperation, services: Services, background: Background) -> None:
        self._operation, self._services, self._background = operation, services, background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, known = self._operation, record.of(scope)
        known.operation = operation.name
        settings = self._services.settings
        asked = await body.read_json(scope, receive, settings)
        serving = RequestHandler(operation, self._services, scope, known)
        call = await serving.prepare(asked)
        if serving.in_background:
            begun = await self._background.begin(serving, call)
            if begun.events is None:
                await answer_json(send, begun.body, note_headers(call.notes))
            else:
                await answer_events(known, receive, send, begun.events, note_headers(call.notes))
            return
        async with DisconnectWatcher(receive) as departure:
            with HttpSink(operation.framing, known, send, departure, settings.stream_keep_alive) as answering:
                await serving.answer(call, answering)
