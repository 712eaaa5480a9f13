"""The endpoint of Cohere's native API: bytes through in both directions, nothing held back, counts read on the side.

The caller's method, path, query, body and headers go to Cohere as they came, but for the table of headers below;
Cohere's status, headers and body come back so. Which method of Cohere's it is only names the request in log and
metrics. Two answers are not Cohere's own: what the gateway itself refuses, and what Cohere says of the server's own
key, which is not the caller's affair; both have Cohere's shape.
"""

import time
from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from gateway import cohere_methods
from gateway.auth.principal import Principal
from gateway.cohere_methods import Method
from gateway.endpoints.passthrough_headers import _empty, _kind, _returned, _sent
from gateway.endpoints.passthrough_path import Address, address_of
from gateway.endpoints.usage_tail import UsageTail
from gateway.errors import CallerError, UpstreamError, failure
from gateway.http import body
from gateway.http.disconnect import DisconnectWatcher
from gateway.http.responses import note_headers
from gateway.http.validation import JOINED
from gateway.observability import record
from gateway.observability.record import RequestRecord
from gateway.pipeline.handler import take_down
from gateway.pipeline.services import Services
from gateway.upstream.response import ProxyRequest, UpstreamResponse
from translators.answer.turn import FAILED_REASONS
from translators.core.notes import Notes
from translators.operations import passthrough

STREAMS = (b"text/event-stream", b"application/stream+json", b"application/x-ndjson")

OWN_KEY_REFUSED = (401, 402, 403)
"""Statuses that are about a key."""


class PassthroughEndpoint:
    """Everything below `/cohere/` and `/litellm/cohere/`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, known, verb = self._services, record.of(scope), scope["method"]
        known.operation = cohere_methods.OTHER.operation
        address = address_of(scope)
        if verb not in cohere_methods.VERBS:
            raise _wrong_method()
        method = cohere_methods.find(verb, address.path)
        if not cohere_methods.agrees(verb, address.path, method):
            raise CallerError(failure("bad_request", "The URL's path might be read as another one"))
        known.operation = method.operation
        headers: Mapping[bytes, bytes] = scope["gateway.headers"]
        settings = services.settings
        limit, patience = settings.upload_limit, settings.timeouts.request_body
        held: bytes | None = None
        uploading = not _empty(headers) and method.takes != "json"
        notes = Notes()
        if uploading:
            body.refuse_declared(scope, limit)
        elif method.takes == "json":
            held = await body.read(scope, receive, settings.body_limit, patience) or None
            held, notes = self._looked_into(held, method, address, headers, known)
        async with DisconnectWatcher(receive, listening=not uploading) as departure:
            upload = body.Pieces(receive, limit, patience, departure) if uploading else None
            sent = list(_sent(scope["headers"], headers, known.streamed, upload is not None))
            passage = ProxyRequest(verb, address.target, sent, held if upload is None else upload)
            caller: Principal = scope["gateway.caller"]
            known.upstream_began = time.monotonic()
            try:
                weight = passthrough.inputs(held) if held is not None and method.rate.counts == "inputs" else 1
                carrying = services.upstream.forward(
                    passage, caller, address.path, known.model, method.repeatable, weight
                )
                async with carrying as reply:
                    take_down(reply, known, notes)
                    if reply.status in OWN_KEY_REFUSED and not caller.own_key:
                        raise UpstreamError(await reply.failure(own_key=False))
                    await self._relay(reply, known, send, departure, notes)
            finally:
                known.upstream_ended = time.monotonic()

    def _looked_into(
        self, held: bytes | None, method: Method, address: Address, headers: Mapping[bytes, bytes], known: RequestRecord
    ) -> tuple[bytes | None, Notes]:
        """The body to send, and what the caller is to be told of it."""
        notes = Notes()
        if held is None or b"content-encoding" in headers:
            return held, notes
        if address.alias and method.name == "v2.chat":
            held, notes = passthrough.rewritten(held, self._services.policy)
            known.notes = len(notes)
            if known.notes:
                self._services.metrics.note(method.operation, notes)
        known.model, known.streamed = passthrough.asked(held)
        return held, notes

    async def _relay(
        self, reply: UpstreamResponse, known: RequestRecord, send: Send, departure: DisconnectWatcher, notes: Notes
    ) -> None:
        """The answer as it comes, one send for each network read. Its head waits for the first of them."""
        headers = [*_returned(reply.headers), *note_headers(notes)]
        kind, encoding = _kind(headers)
        known.streamed = kind.startswith(STREAMS)
        counted = kind.startswith((b"application/json", *STREAMS)) and encoding in (b"", b"gzip")
        tally = UsageTail(encoding == b"gzip") if counted else None
        try:
            block = await reply.read()
            known.first_byte = time.monotonic()
            await send({"type": "http.response.start", "status": reply.status, "headers": headers, JOINED: True})
            while block and not reply.over:
                await send({"type": "http.response.body", "body": block, "more_body": True})
                if tally is not None:
                    tally.take(block)
                block = await reply.read()
            departure.over()
            await send({"type": "http.response.body", "body": block, "more_body": False})
            if tally is not None:
                tally.take(block)
        finally:
            if tally is not None:
                kept = tally.kept()
                outcome = passthrough.counted(kept, known.streamed, self._services.policy.usage_base)
                broken = known.streamed and not departure.is_over
                record.used(known, outcome, round(passthrough.pieces(kept) / tally.share) if broken else 0)
                if (failed := FAILED_REASONS.get(outcome.finish_reason)) is not None:
                    known.error = failed.code or failed.type


def _wrong_method() -> CallerError:
    told = CallerError(failure("wrong_method", "This method is not passed on"))
    told.allow = ", ".join(cohere_methods.VERBS)
    return told
