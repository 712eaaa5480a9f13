"""One translated request on its way: from the caller's bytes to the last byte of the answer, wherever it goes.

Where the response goes (HTTP, a WebSocket, the storage) is known to its `ResponseSink` alone. What is awaited during a
stream is in `streaming.py`.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from starlette.types import Scope

from gateway.auth.principal import Principal
from gateway.errors import AnswerRefused, UpstreamError
from gateway.http import path_aliases
from gateway.observability import record
from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.pipeline import fallbacks
from gateway.pipeline.operations import CallOperation
from gateway.pipeline.response_cache import Lookup, Recording, events
from gateway.pipeline.services import Services
from gateway.pipeline.streaming import MergedStream, ResponseSink, UpstreamStream, pump
from gateway.state.connection_state import SocketTurn
from gateway.state.conversation_state import ConversationState, LoadedState, new_response_id
from gateway.upstream.response import TRACE_HEADER, UpstreamResponse
from gateway.upstream.retry import ANSWERS, RetryBudget
from translators.core.contracts import Stream, Translation, UsageTotals
from translators.core.errors import AnswerFailed, Failure, TranslationError, UpstreamProtocolError
from translators.core.notes import Notes
from translators.core.upstream_errors import CONTEXT_LENGTH

T = TypeVar("T")


class RequestHandler:
    """One request of a row of CALLS. `prepare` translates it, `answer` sends it and tells the answer.

    keep: awaited with the whole answer before its last byte leaves; None where it is not to be remembered.
    memory: what remembers, where that is not the gateway's own.
    """

    def __init__(
        self,
        operation: CallOperation,
        services: Services,
        scope: Scope,
        known: RequestRecord,
        memory: ConversationState | SocketTurn | None = None,
    ) -> None:
        self.memory = memory or services.memory
        self.operation, self.services, self.known = operation, services, known
        self.caller: Principal = scope["gateway.caller"]
        self.recalled: LoadedState | None = None
        self.keep: Callable[[bytes], Awaitable[None]] | None = None
        self.stream: Stream | None = None  # the one being relayed: who stops that may want to end it
        self._scope = scope
        self._asked = b""
        self._patience: RetryBudget | None = None
        self._failed_models: list[str] = []
        self._lookup: Lookup | None = None

    @property
    def in_background(self) -> bool:
        """The caller does not wait for the answer: it goes to the memory (`background.py`)."""
        return self.recalled is not None and self.recalled.asked.background

    async def prepare(self, asked: bytes) -> Translation:
        """The call that this body asks for. Raises CallerError, TranslationError."""
        self._asked = asked
        if self.operation.remembering is not None:
            response_id = new_response_id()
            remembering = self.operation.remembering(asked, response_id)
            self.recalled = await self.memory.recall(remembering, response_id, self.caller)
            self.keep = self._remember if self.recalled.keep else None
        call = self._translated()
        self.services.catalogue.notice(call.model, self.caller)
        if self.operation.cached:
            headers = self._scope["gateway.headers"]
            cache = self.services.cache
            self.known.cache, self._lookup = cache.lookup(call.notes, call.repeatable, self.caller, headers)
        return call

    def _translated(self, instead: Mapping[str, str] | None = None) -> Translation:
        call = self.operation.request(self._asked, self.services.context(self._scope, self.recalled, instead))
        path_aliases.tell(self._scope, call.notes)
        return call

    async def answer(self, call: Translation, outlet: ResponseSink) -> None:
        """Makes the call and sends its answer to the outlet.

        A call that fails before anything of its answer was sent may be replaced: by another wording, where Cohere's
        refusal says which; by the same call once more; by a call to another model. Raises GatewayError or
        TranslationError when none of these is left.
        """
        self.known.upstream_began = time.monotonic()
        try:
            while True:
                try:
                    await self._answer(call, outlet)
                    break
                except UpstreamError as error:
                    other = self._otherwise(call, error.failure) or await self._repeated(call, error)
                    other = other or self._fallback(call, error)
                    if other is None:
                        raise
                    call = other
        finally:
            if self.known.cache != CACHE_HIT:
                self.known.upstream_ended = time.monotonic()

    def _otherwise(self, call: Translation, failed: Failure) -> Translation | None:
        """The call to make after this refusal, None where another one would not help."""
        if self.services.catalogue.learn(call.model, failed.learned_capability):
            # The model cannot do what the table says: the request is put to it in another way.
            return self._translated(self._instead(call.model))
        return call.shortened() if failed.code == CONTEXT_LENGTH else None

    async def _repeated(self, call: Translation, error: UpstreamError) -> Translation | None:
        """The same call, after an answer that was none and may be one the next time; a refusal has been repeated by the
        upstream itself.
        """
        again = ANSWERS.get(error.failure.code) if isinstance(error, AnswerRefused) else None
        if again is None:
            return None
        self._patience = self._patience or self.services.upstream.retry_budget()
        pause = self._patience.pause(again)
        if pause is None:
            return None
        await self.services.upstream.sleep(pause)
        self.services.upstream.count_retry(str(error.failure.code))
        asked_again(self.known, call.notes, [str(error.failure.code)])
        return call

    def _fallback(self, call: Translation, error: UpstreamError) -> Translation | None:
        """The call to another model, if the settings name one for the model that failed."""
        if not fallbacks.may_help(error.failure, self.caller.own_key):
            return None
        self._failed_models.append(call.model)
        model = fallbacks.after(self._failed_models, self.services.settings.models.fallbacks, self.services.policy)
        if model is None:
            return None
        self.services.metrics.fallbacks.labels(self.services.metrics.known_model(call.model)).inc()
        other = self._translated(self._instead(model))
        other.notes.inform("upstream", f"fallback from {call.model} ({error.failure.code})")
        return other

    def _instead(self, model: str) -> Mapping[str, str] | None:
        """For `Policy.instead`: this model in the place of the one asked for; None while no model has failed."""
        return {self._failed_models[0]: model} if self._failed_models else None

    async def _answer(self, call: Translation, outlet: ResponseSink) -> None:
        known = self.known
        known.model, known.streamed = call.model, call.streamed
        try:
            if not call.streamed:
                call = await self._whole(call, outlet)
            elif call.buffered:
                call = await self._retold(call, outlet)
            else:
                await self._streamed(call, outlet)
        finally:
            known.notes = len(call.notes)
            if known.notes:
                self.services.metrics.note(self.operation.name, call.notes)

    async def _remember(self, final: bytes) -> None:
        assert self.recalled is not None and self.operation.kept is not None, "rows that remember keep, too"
        await self.memory.keep(self.recalled, self.caller, self.operation.kept(final), final)

    # --- whole answers -------------------------------------------------------------------------------------

    async def _whole(self, call: Translation, outlet: ResponseSink) -> Translation:
        """Returns the call whose answer was shown: the second, where the first one's failed its check."""
        answer, bodies = await self._cached(call, call.translate_response), None
        if answer is None:
            try:
                answer = call.translate_response(bodies := await self._bodies(call))
            except AnswerFailed as error:
                call = _again(call, error.failure)
                answer = call.translate_response(bodies := await self._bodies(call))
        record.used(self.known, answer.usage)
        if self.keep is not None:
            await self.keep(answer.body)
        await outlet.whole(call, answer.body)
        await self._cache(call, bodies, answer.usage)
        return call

    async def _bodies(self, call: Translation) -> list[bytes]:
        """Cohere's whole answers to all of a call's bodies, asked at once."""
        if len(call.bodies) == 1:
            return [await self._body(call, call.bodies[0])]
        return await gather_or_first_error([self._body(call, body) for body in call.bodies])

    async def _body(self, call: Translation, asked: bytes) -> bytes:
        opening = self.services.upstream.post(self.operation.upstream, self.caller, asked, False, call.model)
        async with opening as reply:
            return await (await self._accepted(call, reply)).whole()

    async def _accepted(self, call: Translation, reply: UpstreamResponse) -> UpstreamResponse:
        """The reply, if Cohere took the request. Raises UpstreamError with what it said instead."""
        await accepted(reply, self.known, call.notes, self.caller)
        return reply

    # --- streams -------------------------------------------------------------------------------------------

    async def _retold(self, call: Translation, outlet: ResponseSink) -> Translation:
        """A stream made of whole answers, for calls whose answers must be checked before they are shown."""
        cached = await self._cached(call, lambda found: _unfailed(*_told(call, found)))
        if cached is not None:
            (stream, documents), bodies = cached, None
        else:
            stream, documents = _told(call, bodies := await self._bodies(call))
            if stream.failure is not None:
                record.used(self.known, stream.usage)
                call = _again(call, stream.failure)
                stream, documents = _told(call, bodies := await self._bodies(call))
                if stream.failure is not None:
                    raise AnswerRefused(stream.failure)
        record.used(self.known, stream.usage)
        await self._before_the_last(stream)
        await outlet.begin(call)
        await outlet.end(documents, stream)
        await self._cache(call, bodies, stream.usage)
        return call

    async def _before_the_last(self, stream: Stream) -> None:
        if self.keep is not None:
            await self.keep(stream.final())

    async def _streamed(self, call: Translation, outlet: ResponseSink) -> None:
        known = self.known
        if (cached := await self._cached(call, lambda found: _unfailed(*_replayed(call, found)))) is not None:
            self.stream, documents = cached
            record.used(known, self.stream.usage)
            await self._before_the_last(self.stream)
            await outlet.begin(call)
            await outlet.end(documents, self.stream)
            return
        self.stream = stream = call.stream()
        recordings = [Recording() for _ in call.bodies] if self._lookup is not None else [None] * len(call.bodies)
        upstream, path = self.services.upstream, self.operation.upstream
        async with contextlib.AsyncExitStack() as stack:
            openings = [upstream.post(path, self.caller, body, True, call.model) for body in call.bodies]
            if len(openings) == 1:
                replies = [await stack.enter_async_context(openings[0])]
            else:
                replies = await gather_or_first_error([stack.enter_async_context(opening) for opening in openings])
            sources = [
                UpstreamStream(await self._accepted(call, reply), stream, choice, recording)
                for choice, (reply, recording) in enumerate(zip(replies, recordings, strict=True))
            ]
            source: UpstreamStream | MergedStream = sources[0]
            if len(sources) > 1:
                source = stack.enter_context(contextlib.closing(MergedStream(sources, stream)))
            try:
                await pump(source, stream, call, outlet, self._before_the_last)
            finally:
                record.used(known, stream.usage, sum(one.pieces for one in sources))
                if stream.failure is not None:
                    known.error = stream.failure.code or stream.failure.type
            for reply in replies:
                await reply.drain()
        written = [recording.written() if recording is not None else None for recording in recordings]
        if stream.failure is None:
            await self._cache(call, [one for one in written if one is not None], stream.usage)

    # --- the cache -----------------------------------------------------------------------------------------

    async def _cached(self, call: Translation, tell: Callable[[Sequence[bytes]], T]) -> T | None:
        """What `tell` makes of what Cohere said to this very call before. Nothing where that is of no use here: another
        request, which checks less, may have asked Cohere for the same.
        """
        if self._lookup is None:
            return None
        found = await self._lookup.find(self.operation.upstream, call.bodies)
        if found is None:
            return None
        try:
            told = tell(found)
        except TranslationError:
            return None
        self.known.cache = CACHE_HIT
        return told

    async def _cache(self, call: Translation, answers: Sequence[bytes] | None, outcome: UsageTotals) -> None:
        """Keeps what Cohere said, if it was asked. The caller has it already: they do not wait for this."""
        if self._lookup is not None and answers is not None and outcome.cacheable and len(answers) == len(call.bodies):
            await self._lookup.keep(self.operation.upstream, call.bodies, answers)


def _told(call: Translation, bodies: Sequence[bytes]) -> tuple[Stream, list[bytes]]:
    """Whole answers as a stream: the stream when it has ended, and all of its documents."""
    stream = call.stream()
    return stream, [document for choice, body in enumerate(bodies) for document in stream.whole(body, choice)]


def _replayed(call: Translation, found: Sequence[bytes]) -> tuple[Stream, list[bytes]]:
    """The events of streams as they came the first time. Raises UpstreamProtocolError."""
    stream = call.stream()
    return stream, [
        document for choice, one in enumerate(found) for data in events(one) for document in stream.feed(data, choice)
    ]


def _unfailed(stream: Stream, documents: list[bytes]) -> tuple[Stream, list[bytes]]:
    """Raises AnswerFailed for a stream that tells of a failure, or breaks off."""
    if stream.failure is not None or not stream.finished:
        raise AnswerFailed(stream.failure or UpstreamProtocolError("the end is missing").failure)
    return stream, documents


async def gather_or_first_error(waits: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of all, in order. The first error cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait) for wait in waits]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _again(call: Translation, failed: Failure) -> Translation:
    """The call to make after an answer that failed its check. Raises AnswerRefused where there is none."""
    second = call.second_attempt() if failed.second_attempt else None
    if second is None:
        raise AnswerRefused(failed)
    second.notes.inform("answer", f"asked Cohere again: {failed.code}")
    return second


async def accepted(reply: UpstreamResponse, known: RequestRecord, notes: Notes, caller: Principal) -> None:
    """Takes down what a reply's head tells of the call. Raises UpstreamError if Cohere refused it."""
    take_down(reply, known, notes)
    await reply.raise_for_status(caller.own_key)


def take_down(reply: UpstreamResponse, known: RequestRecord, notes: Notes) -> None:
    """Cohere's own id of the call, and how often it was made."""
    if reply.retried:
        asked_again(known, notes, reply.retried)
    known.trace_id = known.trace_id or reply.header(TRACE_HEADER)


def asked_again(known: RequestRecord, notes: Notes, reasons: Sequence[str]) -> None:
    """Tells the caller and the log that Cohere was asked more than once, and why."""
    known.retries += len(reasons)
    notes.inform("upstream", f"asked Cohere again: {', '.join(reasons)}")
