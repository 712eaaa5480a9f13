"""The generic endpoints: read, translate, call, answer. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised; the guard renders them. What happens between the
request's bytes and its answer is `serving.py`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway import exchange, sse
from gateway.endpoints.background import Background
from gateway.exchange import Exchange
from gateway.front import body
from gateway.front.departure import Departure
from gateway.front.edge import JOINED
from gateway.operations import CallOperation, LookupOperation
from gateway.pump import Framing
from gateway.serving import Services, Serving
from translators.context import Call, Stream
from translators.notes import Notes

VERSION_QUERY = "api-version"
"""What Azure's clients put into every query."""

LARGEST_SEND = 1024 * 1024
"""Bytes that are handed to the connection at once. What it cannot take at once it copies, twice, and keeps."""

JSON_TYPE = (b"content-type", b"application/json")
STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx holds back what it proxies unless told otherwise.
    (b"x-accel-buffering", b"no"),
)


class CallEndpoint:
    """A row of CALLS as an ASGI application."""

    def __init__(self, operation: CallOperation, services: Services, background: Background) -> None:
        self._operation, self._services, self._background = operation, services, background

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation, known = self._operation, exchange.of(scope)
        known.operation = operation.name
        settings = self._services.settings
        asked = await body.read_json(scope, receive, settings)
        serving = Serving(operation, self._services, scope, known)
        call = await serving.prepare(asked)
        if serving.in_background:
            begun = await self._background.begin(serving, call)
            if begun.events is None:
                await answer_json(send, begun.body, note_headers(call.notes))
            else:
                await answer_events(known, receive, send, begun.events, note_headers(call.notes))
            return
        async with Departure(receive) as departure:
            with Answering(operation.framing, known, send, departure, settings.stream_comments) as answering:
                await serving.answer(call, answering)


class Answering:
    """An HTTP answer as the place where a call's answer goes: `pump.Outlet`.

    A stream that has begun and falls silent gets a comment now and then, so that nobody between us and the caller
    takes the connection for dead. One timer looks after that, whatever the number of events.

    comments: seconds of silence at most, 0 for any.
    """

    def __init__(self, framing: Framing, known: Exchange, send: Send, departure: Departure, comments: float) -> None:
        self._framing, self._known, self._send, self._departure = framing, known, send, departure
        self._comments = comments
        self._timer: asyncio.TimerHandle | None = None
        self._comment: asyncio.Future[None] | None = None
        self._told = 0
        self._seen = -1

    async def whole(self, call: Call, answer: bytes) -> None:
        await answer_json(self._send, answer, note_headers(call.notes), self._departure)

    async def begin(self, call: Call) -> None:
        self._known.first_byte = time.monotonic()
        headers = [*STREAM_HEADERS, *note_headers(call.notes)]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers, JOINED: True})
        if self._comments:
            self._set_timer()

    async def documents(self, documents: Sequence[bytes]) -> None:
        self._told += 1
        if self._comment is not None:
            await self._comment_sent()
        body = self._framing.documents(documents)
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._told += 1

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        self.__exit__()
        if self._comment is not None:
            await self._comment_sent()
        self._departure.over()
        body = self._framing.documents(documents) + self._framing.closing(stream)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def __enter__(self) -> "Answering":
        return self

    def __exit__(self, *error: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if error and self._comment is not None:
            self._comment.cancel()

    def _set_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._comments / 2, self._look)

    def _look(self) -> None:
        """The timer: was anything told since it looked last? An odd count is a send that a slow caller holds up."""
        if self._told == self._seen and not self._told % 2 and self._comment is None:
            self._comment = asyncio.ensure_future(
                self._send({"type": "http.response.body", "body": sse.COMMENT, "more_body": True})
            )
            self._comment.add_done_callback(self._commented)
        self._seen = self._told
        self._set_timer()

    def _commented(self, comment: asyncio.Future[None]) -> None:
        self._comment = None
        if not comment.cancelled():
            comment.exception()  # who has left is noticed elsewhere

    async def _comment_sent(self) -> None:
        """Two sends at once might be mixed up."""
        if self._comment is not None:
            await asyncio.wait([self._comment])


class LookupEndpoint:
    """A row of LOOKUPS as an ASGI application."""

    def __init__(self, operation: LookupOperation, services: Services) -> None:
        self._operation, self._services = operation, services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        services, known, operation = self._services, exchange.of(scope), self._operation
        known.operation = operation.name
        asked = await self._asked(scope, receive) if operation.filtered else []
        context = services.context(scope)
        notes = Notes(context.strict)
        async with Departure(receive) as departure:
            listing = await services.catalogue.listing(scope["gateway.caller"])
            if listing.stale:
                notes.told("list", listing.stale)
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


async def answer_json(
    send: Send, answer: bytes, more: Sequence[tuple[bytes, bytes]] = (), departure: Departure | None = None
) -> None:
    """A whole JSON answer, with these headers too. departure: what watches its caller until the last byte; a large one
    needs it, as it is sent piece by piece.
    """
    headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer)), *more]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    sent = 0
    if departure is not None:
        while len(answer) - sent > LARGEST_SEND:
            block = answer[sent : sent + LARGEST_SEND]
            await send({"type": "http.response.body", "body": block, "more_body": True})
            await asyncio.sleep(0)  # a connection that is lost never waits: let the departure be heard
            sent += LARGEST_SEND
        departure.over()
    await send({"type": "http.response.body", "body": answer[sent:] if sent else answer})


async def answer_events(
    known: Exchange,
    receive: Receive,
    send: Send,
    batches: AsyncGenerator[Sequence[bytes], None],
    more: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """A stream of named events that somebody else makes: the caller may leave, and the making goes on."""
    known.streamed = True
    async with Departure(receive) as departure, contextlib.aclosing(batches):
        await send({"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *more]})
        async for documents in batches:
            known.first_byte = known.first_byte or time.monotonic()
            body = sse.encode_named(documents) or sse.COMMENT
            await send({"type": "http.response.body", "body": body, "more_body": True})
        departure.over()
        await send({"type": "http.response.body", "body": sse.DONE, "more_body": False})


def note_headers(notes: Notes) -> list[tuple[bytes, bytes]]:
    """What the caller is told of their request, if anything."""
    return [(b"x-gateway-notes", notes.header().encode("ascii"))] if len(notes) else []
