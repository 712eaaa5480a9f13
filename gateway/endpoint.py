"""The generic endpoints: read, translate, call, answer, or hand over to the pump. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised; the guard renders them.
"""

import time

import msgspec
from starlette.types import Receive, Scope, Send

from gateway import body, exchange
from gateway.access.caller import Caller
from gateway.catalogue import Catalogue
from gateway.departure import Departure
from gateway.errors import UpstreamError
from gateway.exchange import Exchange
from gateway.metrics import Metrics
from gateway.operations import CallOperation, LookupOperation
from gateway.pump import Source, pump
from gateway.settings import Settings
from gateway.upstream.client import TRACE_HEADER, Reply, Upstream
from translators.context import Call, Context, Outcome, Policy
from translators.refusals import refusal

JSON_TYPE = (b"content-type", b"application/json")
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds back what it proxies unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


class Services(msgspec.Struct, frozen=True):
    """What endpoints share: made once at start."""

    settings: Settings
    policy: Policy
    upstream: Upstream
    catalogue: Catalogue
    metrics: Metrics

    def context(self, scope: Scope) -> Context:
        return Context(
            created=int(time.time()),
            unique=exchange.new_id(),
            strict=scope["gateway.headers"].get(b"x-gateway-strict", b"").strip().lower() == b"true",
            policy=self.policy,
            features=self.catalogue.features,
        )


class CallEndpoint:
    """A row of CALLS as an ASGI application."""

    def __init__(self, operation: CallOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, operation = self._services, self._operation
        known = exchange.of(scope)
        known.operation = operation.name
        body.require_json(scope)
        settings = services.settings
        asked = await body.read(scope, receive, settings.body_limit, settings.timeouts.request_body)
        call = operation.request(asked, services.context(scope))
        known.model, known.streamed, known.notes = call.model, call.streamed, len(call.notes)
        if known.notes:
            services.metrics.note(operation.name, call.notes)
        caller: Caller = scope["gateway.caller"]
        async with Departure(receive) as departure:
            known.upstream_began = _now()
            try:
                async with services.upstream.post(
                    operation.upstream, caller.upstream_key, call.body, call.streamed
                ) as reply:
                    known.trace_id = reply.header(TRACE_HEADER)
                    if reply.status != 200:
                        told = refusal(reply.status, await reply.whole(), caller.own_key)
                        raise UpstreamError(told, reply.header("retry-after") or None)
                    if call.streamed:
                        await self._stream(call, reply, known, send, departure)
                    else:
                        await self._whole(call, reply, known, send, departure)
            finally:
                known.upstream_ended = _now()

    async def _whole(self, call: Call, reply: Reply, known: Exchange, send: Send, departure: Departure) -> None:
        answer = call.answer(await reply.whole())
        _used(known, answer.outcome)
        headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer.body)), *_notes(call)]
        departure.over()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _stream(self, call: Call, reply: Reply, known: Exchange, send: Send, departure: Departure) -> None:
        stream = call.stream()

        def begin() -> dict:  # type: ignore[type-arg]
            known.first_byte = _now()
            return {"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *_notes(call)]}

        try:
            await pump(Source(reply, stream), stream, self._operation.framing, send, begin, departure.over)
        finally:
            _used(known, stream.outcome)
            if stream.failure is not None:
                known.error = stream.failure.code or stream.failure.type
        await reply.drain()


class LookupEndpoint:
    """A row of LOOKUPS as an ASGI application."""

    def __init__(self, operation: LookupOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, known = self._services, exchange.of(scope)
        known.operation = self._operation.name
        async with Departure(receive) as departure:
            pages = await services.catalogue.pages(scope["gateway.caller"])
            name = scope["path_params"].get("name", "")
            answer = self._operation.answer(pages, name, services.context(scope))
            departure.over()
            headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})


def _notes(call: Call) -> list[tuple[bytes, bytes]]:
    return [(b"x-gateway-notes", call.notes.header().encode("ascii"))] if len(call.notes) else []


def _used(known: Exchange, outcome: Outcome) -> None:
    known.prompt_tokens, known.completion_tokens = outcome.prompt_tokens, outcome.completion_tokens


_now = time.monotonic
