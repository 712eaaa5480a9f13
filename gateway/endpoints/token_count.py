"""The endpoint that counts a request's tokens: translated like the request itself, and given to the tokenizer."""

from msgspec.structs import replace
from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import send_json
from gateway.observability.record import record_of
from gateway.pipeline.fan_out import post_all
from gateway.pipeline.handler import context_of, translate, with_files
from gateway.pipeline.offload import work_of
from gateway.pipeline.operations import CountOperation
from gateway.pipeline.services import Services
from gateway.state.conversation_state import new_response_id


class TokenCountEndpoint:
    """A row of COUNTS as an ASGI application."""

    def __init__(self, operation: CountOperation, services: Services) -> None:
        self._operation, self._services = operation, services
        self._method = cohere_methods.find("POST", operation.upstream)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation, record = self._services, self._operation, record_of(scope)
        record.operation, record.cohere_method = operation.name, self._method.name
        services.admission.permit(record, self._method)
        request_body = await body.read_json(record, receive, services.settings)
        response_id = new_response_id()
        # Nothing of a count is stored: the storage is needed only for what the request continues.
        caller, work = record.principal, work_of(len(request_body), record.json_values)
        options = await services.offload.run(caller, work, operation.state_options, request_body, response_id)
        loaded = await services.state.load(replace(options, store=False), response_id, record.principal)
        context = context_of(services, record, loaded)
        translation = await translate(services, record, operation.translate, request_body, context)
        body.note_changes(record, translation.notes)
        async with DisconnectWatcher(receive) as watcher:
            with await services.admission.admit(
                record, self._method, translation.workload, translation.notes
            ) as admission:
                if translation.unparsed_files:
                    texts = await services.file_parser.parse(
                        admission, context.policy.parse_model, translation.unparsed_files
                    )
                    context = with_files(context, texts)
                    translation = await translate(services, record, operation.translate, request_body, context)
                    body.note_changes(record, translation.notes)
                    admission.set_notes(translation.notes)
                bodies = operation.tokenize_bodies(translation.bodies[0])
                counts = await post_all(services.upstream, operation.upstream, admission, bodies)
            await send_json(send, operation.count_response(counts), translation.notes, watcher)
