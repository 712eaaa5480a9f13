"""The list of models, and one model of it."""

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import answer_json, note_headers
from gateway.observability import record
from gateway.pipeline.operations import LookupOperation
from gateway.pipeline.services import Services
from translators.core.notes import Notes

VERSION_QUERY = "api-version"
"""What Azure's clients put into every query."""


class ModelsEndpoint:
    """A row of LOOKUPS as an ASGI application."""

    def __init__(self, operation: LookupOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, known, operation = self._services, record.of(scope), self._operation
        known.operation = operation.name
        asked = await self._asked(scope, receive) if operation.filtered else []
        context = services.context(scope)
        notes = Notes(context.strict)
        async with DisconnectWatcher(receive) as departure:
            listing = await services.catalogue.listing(scope["gateway.caller"])
            if listing.stale:
                notes.inform("list", listing.stale)
            name = scope["path_params"].get("name", "")
            answer = operation.answer(listing.pages, name, asked, context, notes)
            await answer_json(send, answer, note_headers(notes), departure)
        known.notes = len(notes)
        services.metrics.note(operation.name, notes)

    async def _asked(self, scope: Scope, receive: Receive) -> list[bytes]:
        """What is asked of the list, in a body and in the query: JSON objects, of which the later wins."""
        settings = self._services.settings
        sent = await body.read(scope, receive, settings.body_limit, settings.timeouts.request_body)
        if sent:
            body.require_json(scope)
        query = {name: value for name, value in QueryParams(scope["query_string"]).items() if name != VERSION_QUERY}
        return [part for part in (sent, msgspec.json.encode(query) if query else b"") if part]
