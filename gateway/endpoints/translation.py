"""`POST /gateway/translate/{operation}`: the requests that Cohere would get for a body, and the notes. Sends none.

The same as the command `cohere-gateway translate`, for the caller's own key: its aliases of models, its safety mode.
"""

from typing import Any

import msgspec
from msgspec import Raw
from starlette.types import Receive, Scope, Send

from gateway.errors import CallerError, failure
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import send_json
from gateway.observability.record import record_of
from gateway.pipeline.handler import context_of
from gateway.pipeline.offload import work_of
from gateway.pipeline.operations import TRANSLATE
from gateway.pipeline.services import Services
from translators.core.notes import Notes

PATH = "/gateway/translate/{operation}"


class TranslationEndpoint:
    """The endpoint. What is stored (`previous_response_id`, conversations) is not loaded."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, record = self._services, record_of(scope)
        record.operation, record.door, record.has_row = "gateway_translate", "management", False
        name = scope["path_params"]["operation"]
        translate = TRANSLATE.get(name)
        if translate is None:
            sentence = f"There is no operation of this name to translate: there are {', '.join(TRANSLATE)}"
            raise CallerError(failure("bad_request", sentence))
        content = await body.read_json(record, receive, services.settings)
        context = context_of(services, record)
        call = await services.offload.run(
            record.principal, work_of(len(content), record.json_values), translate, content, context
        )
        body.note_changes(record, call.notes)
        # A split request has no such field, as it takes no files.
        unparsed = bool(getattr(call, "unparsed_files", ()))
        answer: dict[str, Any] = {
            # Of files that Cohere would be asked to read first, nothing can be shown that would be sent.
            "requests": [] if unparsed else [Raw(one) for one in dict.fromkeys(call.bodies)],
            "unparsed_files": unparsed,
            "notes": [{"kind": note.kind.value, "field": note.field, "text": note.text} for note in call.notes],
        }
        async with DisconnectWatcher(receive) as watcher:
            await send_json(send, msgspec.json.encode(answer), Notes(), watcher)
