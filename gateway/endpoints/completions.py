"""The endpoint of generated responses: reads, translates, calls and responds. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised, and the middleware renders them. What happens between
the request's bytes and its response is `handler.py`.
"""

from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import send_events, send_json
from gateway.observability.record import REQUEST, RequestRecord
from gateway.pipeline.background import Background
from gateway.pipeline.handler import RequestHandler
from gateway.pipeline.http_sink import HttpSink
from gateway.pipeline.operations import CallOperation
from gateway.pipeline.services import Services


class CompletionsEndpoint:
    """A row of CALLS as an ASGI application."""

    def __init__(self, operation: CallOperation, services: Services, background: Background) -> None:
        self._operation, self._services, self._background = operation, services, background
        self._method = cohere_methods.find("POST", operation.upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, services = self._operation, self._services
        record: RequestRecord = scope[REQUEST]
        record.operation, record.cohere_method = operation.name, self._method.name
        # Before the body is read: a caller who may not call need not send it.
        services.admission.permit(record, self._method)
        handler = RequestHandler(operation, self._method, services, record)
        # Without a variable of its own: the handler drops the body when a stream has begun, which may take minutes.
        # Nobody watches for the caller's leaving here: a response in the background is made whether they stay or not.
        translation = await handler.prepare(await body.read_json(record, receive, services.settings))
        if handler.in_background:
            begun = await self._background.begin(handler, translation)
            if begun.events is None:
                await send_json(send, begun.body, begun.notes)
            else:
                await send_events(record, receive, send, begun.events, begun.notes)
            return
        async with DisconnectWatcher(receive) as watcher:
            sink = HttpSink(operation.framing, record, send, watcher, services.settings.stream_keep_alive)
            try:
                await handler.respond(translation, sink)
            except BaseException:
                # Its timers and half-sent comments, or they would write into a response that the middleware now makes.
                sink.close(failed=True)
                raise
            sink.close()
