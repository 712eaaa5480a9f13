"""The generic endpoints: read, translate, call, answer. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised; the guard renders them. What happens between the
request's bytes and its answer is `serving.py`.
"""

import time
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from gateway import body, exchange
from gateway.departure import Departure
from gateway.exchange import Exchange
from gateway.operations import CallOperation, LookupOperation
from gateway.pump import Framing
from gateway.serving import Services, Serving
from translators.context import Call, Stream
from translators.notes import Notes

JSON_TYPE = (b"content-type", b"application/json")
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds back what it proxies unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


class CallEndpoint:
    """A row of CALLS as an ASGI application."""

    def __init__(self, operation: CallOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, known = self._operation, exchange.of(scope)
        known.operation = operation.name
        body.require_json(scope)
        settings = self._services.settings
        asked = await body.read(scope, receive, settings.body_limit, settings.timeouts.request_body)
        serving = Serving(operation, self._services, scope, known)
        call = await serving.prepare(asked)
        async with Departure(receive) as departure:
            await serving.answer(call, Answering(operation.framing, known, send, departure))


class Answering:
    """An HTTP answer as the place where a call's answer goes: `pump.Outlet`."""

    def __init__(self, framing: Framing, known: Exchange, send: Send, departure: Departure) -> None:
        self._framing, self._known, self._send, self._departure = framing, known, send, departure

    async def whole(self, call: Call, answer: bytes) -> None:
        self._departure.over()
        await answer_json(self._send, answer, note_headers(call.notes))

    async def begin(self, call: Call) -> None:
        self._known.first_byte = time.monotonic()
        headers = [*STREAM_HEADERS, *note_headers(call.notes)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def documents(self, documents: Sequence[bytes]) -> None:
        body = self._framing.documents(documents)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self._departure.over()
        body = self._framing.documents(documents) + self._framing.closing(stream)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})


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
            await answer_json(send, answer)


async def answer_json(send: Send, answer: bytes, more: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """A whole JSON answer, with these headers too."""
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer)), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """What the caller is told of their request, if anything."""
    return [(b"x-gateway-notes", notes.header().encode("ascii"))] if len(notes) else []
