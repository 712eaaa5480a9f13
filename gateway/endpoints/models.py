"""The list of models, and one model of it."""

from functools import partial

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.auth.permissions import may_use
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import send_json
from gateway.observability.record import RequestRecord, record_of
from gateway.pipeline.handler import context_of
from gateway.pipeline.operations import LookupOperation
from gateway.pipeline.services import Services
from translators.core.notes import Notes
from translators.operations.models import only_models

VERSION_QUERY = "api-version"
"""What Azure's clients put into every query."""


MAX_FILTER_BYTES = 64 * 1024
"""Of the filters of a list in a body."""


class ModelsEndpoint:
    """A row of LOOKUPS as an ASGI application."""

    def __init__(self, operation: LookupOperation, services: Services) -> None:
        self._operation, self._services = operation, services
        self._method = cohere_methods.named(operation.method)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record, operation = self._services, record_of(scope), self._operation
        record.operation, record.cohere_method = operation.name, operation.method
        services.admission.permit(record, self._method)
        filters = await self._filters(scope, receive, record) if operation.filtered else []
        context = context_of(services, record, seals=False)
        notes = Notes(context.strict)
        async with DisconnectWatcher(receive) as watcher:
            with await services.admission.admit_lookup(record, self._method, notes):
                model_list = await services.catalog.list_models(record.principal)
                if model_list.stale_note:
                    notes.inform("list", model_list.stale_note)
                name = scope["path_params"].get("name", "")
                access = record.principal.access
                pages = only_models(model_list.pages, partial(may_use, access)) if access.models else model_list.pages
                response = operation.respond(pages, name, filters, context, notes)
                await send_json(send, response, notes, watcher)

    async def _filters(self, scope: Scope, receive: Receive, record: RequestRecord) -> list[bytes]:
        """Returns the filters of the list in the body and in the query, as JSON objects of which the later wins."""
        settings = self._services.settings
        request_body = await body.read(record, receive, min(MAX_FILTER_BYTES, settings.body_limit), settings.timeouts)
        if request_body:
            body.require_json(record.headers)
        query = {name: value for name, value in QueryParams(scope["query_string"]).items() if name != VERSION_QUERY}
        return [part for part in (request_body, msgspec.json.encode(query) if query else b"") if part]
