"""The generic endpoints: read, translate, call, answer, or hand over to the pump. No operation is named here.

Pure ASGI: a request meets no framework object. Errors are raised; the guard renders them.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from gateway import body, exchange
from gateway.access.caller import Caller
from gateway.base_urls import DEPLOYMENT
from gateway.catalogue import Catalogue
from gateway.departure import Departure
from gateway.errors import UpstreamError
from gateway.exchange import Exchange
from gateway.memory import Memory, Recalled, new_response_id
from gateway.metrics import Metrics
from gateway.operations import CallOperation, LookupOperation
from gateway.pump import Confluence, Source, pump
from gateway.seal import seal_of
from gateway.settings import Settings
from gateway.upstream.client import TRACE_HEADER, Reply, Upstream
from translators.context import Call, Context, Outcome, Policy, Stream
from translators.errors import AnswerFailed, Failure
from translators.model_names import addressed
from translators.notes import Notes
from translators.refusals import CONTEXT_LENGTH, refusal

T = TypeVar("T")

JSON_TYPE = (b"content-type", b"application/json")
VERSION_QUERY = "api-version"
"""What Azure's clients put into every query."""

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
    memory: Memory

    def context(self, scope: Scope, recalled: Recalled | None = None) -> Context:
        seal = seal_of(scope["gateway.caller"])
        return Context(
            created=int(time.time()),
            unique=exchange.new_id(),
            strict=scope["gateway.headers"].get(b"x-gateway-strict", b"").strip().lower() == b"true",
            policy=self.policy,
            features=self.catalogue.features,
            lessons=self.catalogue.lessons,
            history=recalled.history if recalled else (),
            response_id=recalled.response_id if recalled else "",
            seal=seal.seal,
            opened=seal.open,
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
        caller: Caller = scope["gateway.caller"]
        said = ""
        if DEPLOYMENT in scope:
            asked, said = addressed(asked, scope[DEPLOYMENT])
        recalled: Recalled | None = None
        if operation.remembering is not None:
            response_id = new_response_id()
            recalled = await services.memory.recall(operation.remembering(asked, response_id), response_id, caller)
        call = operation.request(asked, services.context(scope, recalled))
        if said:
            call.notes.told("deployment", f"model {said} -> {scope[DEPLOYMENT]} (the deployment in the URL)")
        services.catalogue.notice(call.model, caller)
        async with Departure(receive) as departure:
            serving = Serving(operation, services, caller, known, send, departure, recalled)
            known.upstream_began = _now()
            try:
                while True:
                    try:
                        await serving.answer(call)
                        break
                    except UpstreamError as error:
                        other = self._otherwise(call, error.failure, asked, services.context(scope, recalled))
                        if other is None:
                            raise
                        call = other
            finally:
                known.upstream_ended = _now()

    def _otherwise(self, call: Call, failed: Failure, asked: bytes, context: Context) -> Call | None:
        """The call to make after this refusal, None where another one would not help."""
        if self._services.catalogue.learn(call.model, failed.lesson):
            # The model cannot do what the table says: the request is put to it in another way.
            return self._operation.request(asked, context)
        return call.shorter() if failed.code == CONTEXT_LENGTH else None


class Serving(msgspec.Struct):
    """One request on its way: everything from the translated call to the answer's last byte."""

    operation: CallOperation
    services: Services
    caller: Caller
    known: Exchange
    send: Send
    departure: Departure
    recalled: Recalled | None

    async def answer(self, call: Call) -> None:
        known = self.known
        known.model, known.streamed = call.model, call.streamed
        try:
            if not call.streamed:
                call = await self._whole(call)
            elif call.buffered:
                call = await self._retold(call)
            else:
                await self._streamed(call)
        finally:
            known.notes = len(call.notes)
            if known.notes:
                self.services.metrics.note(self.operation.name, call.notes)

    async def _keep(self, final: bytes) -> None:
        """What is to be remembered is stored before the answer's last byte leaves."""
        if self.recalled is not None and self.recalled.keep and self.operation.kept is not None:
            await self.services.memory.keep(self.recalled, self.caller, self.operation.kept(final), final)

    # --- whole answers -------------------------------------------------------------------------------------

    async def _whole(self, call: Call) -> Call:
        """Returns the call whose answer was shown: the second, where the first one's failed its check."""
        try:
            answer = call.answer(await self._bodies(call))
        except AnswerFailed as error:
            call = _again(call, error.failure)
            answer = call.answer(await self._bodies(call))
        _used(self.known, answer.outcome)
        await self._keep(answer.body)
        headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer.body)), *note_headers(call)]
        self.departure.over()
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})
        await self.send({"type": "http.response.body", "body": answer.body})
        return call

    async def _bodies(self, call: Call) -> list[bytes]:
        """Cohere's whole answers to all of a call's bodies, asked at once."""
        if len(call.bodies) == 1:
            return [await self._body(call.bodies[0])]
        return await all_or_first_error([self._body(body) for body in call.bodies])

    async def _body(self, asked: bytes) -> bytes:
        opening = self.services.upstream.post(self.operation.upstream, self.caller.upstream_key, asked, False)
        async with opening as reply:
            return await (await self._accepted(reply)).whole()

    async def _accepted(self, reply: Reply) -> Reply:
        """The reply, if Cohere took the request. Raises UpstreamError with what it said instead."""
        self.known.trace_id = self.known.trace_id or reply.header(TRACE_HEADER)
        if reply.status != 200:
            told = refusal(reply.status, await reply.whole(), self.caller.own_key)
            raise UpstreamError(told, reply.header("retry-after") or None)
        return reply

    # --- streams -------------------------------------------------------------------------------------------

    async def _retold(self, call: Call) -> Call:
        """A stream made of whole answers, for calls whose answers must be checked before they are shown."""
        stream, documents = await self._told(call)
        if stream.failure is not None:
            call = _again(call, stream.failure)
            stream, documents = await self._told(call)
            if stream.failure is not None:
                raise UpstreamError(stream.failure)
        _used(self.known, stream.outcome)
        await self._keep(stream.final())
        self.departure.over()
        await self.send(_stream_head(call, self.known))
        framing = self.operation.framing
        await self.send({"type": "http.response.body", "body": framing.documents(documents) + framing.closing(stream)})
        return call

    async def _told(self, call: Call) -> tuple[Stream, list[bytes]]:
        stream = call.stream()
        bodies = await self._bodies(call)
        return stream, [document for choice, body in enumerate(bodies) for document in stream.whole(body, choice)]

    async def _streamed(self, call: Call) -> None:
        stream, known = call.stream(), self.known
        upstream, path = self.services.upstream, self.operation.upstream
        async with contextlib.AsyncExitStack() as stack:
            openings = [upstream.post(path, self.caller.upstream_key, body, True) for body in call.bodies]
            if len(openings) == 1:
                replies = [await stack.enter_async_context(openings[0])]
            else:
                replies = await all_or_first_error([stack.enter_async_context(opening) for opening in openings])
            sources = [Source(await self._accepted(reply), stream, choice) for choice, reply in enumerate(replies)]
            source: Source | Confluence = sources[0]
            if len(sources) > 1:
                source = stack.enter_context(contextlib.closing(Confluence(sources, stream)))

            async def before_the_last() -> None:
                await self._keep(stream.final())
                self.departure.over()

            framing = self.operation.framing
            try:
                await pump(source, stream, framing, self.send, lambda: _stream_head(call, known), before_the_last)
            finally:
                _used(known, stream.outcome)
                if stream.failure is not None:
                    known.error = stream.failure.code or stream.failure.type
            for reply in replies:
                await reply.drain()


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
            departure.over()
            headers = [JSON_TYPE, (b"content-length", b"%d" % len(answer)), *_note_header(notes)]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
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


async def all_or_first_error(waits: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order. The first error cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _again(call: Call, failed: Failure) -> Call:
    """The call to make after this failure. Raises UpstreamError where asking again would not help."""
    second = call.again() if failed.again else None
    if second is None:
        raise UpstreamError(failed)
    second.notes.told("answer", f"asked Cohere again: {failed.code}")
    return second


def _stream_head(call: Call, known: Exchange) -> dict[str, Any]:
    known.first_byte = _now()
    return {"type": "http.response.start", "status": 200, "headers": [*STREAM_HEADERS, *note_headers(call)]}


def note_headers(call: Call) -> list[tuple[bytes, bytes]]:
    """What the caller is told of their request, if anything."""
    return _note_header(call.notes)


def _note_header(notes: Notes) -> list[tuple[bytes, bytes]]:
    return [(b"x-gateway-notes", notes.header().encode("ascii"))] if len(notes) else []


def _used(known: Exchange, outcome: Outcome) -> None:
    known.prompt_tokens, known.completion_tokens = outcome.prompt_tokens, outcome.completion_tokens


_now = time.monotonic
