"""The ways to respond: whole, buffered, streaming. Each makes a translation's calls to Cohere and sends the response.

Where the response goes (HTTP, a WebSocket, the storage) is known to its `ResponseSink` alone. What is awaited during a
stream is in `streaming.py`; what is done about a call that failed, in `handler.py`.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from gateway.errors import AnswerRefused
from gateway.pipeline import cached_response
from gateway.pipeline.admission import Admission
from gateway.pipeline.fan_out import gather_or_first_error
from gateway.pipeline.operations import CallOperation
from gateway.pipeline.response_cache import Lookup, Recording
from gateway.pipeline.services import Services
from gateway.pipeline.streaming import MergedStream, ResponseSink, UpstreamStream, pump
from gateway.upstream.attempts import CallOptions
from gateway.upstream.response import UpstreamResponse
from translators.core.contracts import Preliminary, Stream, TranslatedResponse, Translation, UpstreamRequest
from translators.core.errors import AnswerFailed, Failure

T = TypeVar("T")


class Responder:
    """Responds to one request of a row of CALLS.

    saves   the response is stored, by `save`, before its last byte leaves
    stream  the stream that is being relayed, for whoever stops the request and wants to end it properly
    lookup  the request's use of the cache, if any
    """

    def __init__(self, operation: CallOperation, services: Services) -> None:
        self.operation, self.services = operation, services
        self.saves = False
        self.stream: Stream | None = None
        self.lookup: Lookup | None = None

    async def save(self, final: bytes) -> None:
        """Stores the whole response."""
        raise NotImplementedError

    def begun(self) -> None:
        """Notes that a stream has begun, so that no other call can replace the one that is made."""

    async def complete(self, preliminary: Preliminary, admission: Admission) -> Translation:
        """Makes the call that comes before a translation's own. Returns the complete translation."""
        bodies = await self._bodies(preliminary, admission)
        return await self._read(admission, bodies, preliminary.continue_with, bodies)

    def _source(self, translation: Translation, admission: Admission) -> cached_response.Source:
        path, model = self.operation.upstream, translation.model
        return cached_response.Source.of(self.services.upstream, path, model, admission.record)

    def _read(
        self, admission: Admission, bodies: Sequence[bytes], function: Callable[..., T], *arguments: Any
    ) -> Awaitable[T]:
        """Returns what a function makes of Cohere's responses, which may take long."""
        caller, size = admission.record.principal, sum(map(len, bodies))
        return self.services.offload.run(caller, size, function, *arguments)

    async def _second_attempt(self, translation: Translation, admission: Admission, failure: Failure) -> Translation:
        """Returns the call to make after a response that failed its check. Raises AnswerRefused where there is none."""
        second = None
        if failure.second_attempt:
            caller, size = admission.record.principal, translation.workload.prompt_bytes
            second = await self.services.offload.run(caller, size, translation.second_attempt)
        # The answer that failed was paid for. The second one has to fit into the budget as well.
        if second is None or not await admission.repeat(second.workload):
            raise AnswerRefused(failure)
        admission.inform("answer", f"asked Cohere again: {failure.code}")
        return second

    # --- whole ---------------------------------------------------------------------------------------------

    async def respond_whole(self, translation: Translation, admission: Admission, sink: ResponseSink) -> None:
        """Sends one document, made of Cohere's whole responses."""
        response, bodies = None, None
        if self.lookup is not None:
            response = await cached_response.find(
                self.lookup,
                self._source(translation, admission),
                translation,
                admission,
                partial(self._translate_response, translation, admission),
            )
        if response is None:
            try:
                bodies = await self._bodies(translation, admission)
                response = await self._translate_response(translation, admission, bodies)
            # Only of an answer that is new: one out of the cache that fails its check is no answer.
            except AnswerFailed as error:
                translation = await self._second_attempt(translation, admission, error.failure)
                admission.set_notes(translation.notes)
                bodies = await self._bodies(translation, admission)
                response = await self._translate_response(translation, admission, bodies)
        if self.saves:
            await self.save(response.body)
        await sink.whole(translation, response.body)
        # Under the call that was answered, which may be the second one.
        if self.lookup is not None:
            source = self._source(translation, admission)
            await cached_response.store(self.lookup, source, translation, admission.record, bodies, response.usage)

    def _translate_response(
        self, translation: Translation, admission: Admission, bodies: Sequence[bytes]
    ) -> Awaitable[TranslatedResponse]:
        return self._read(admission, bodies, translation.translate_response, bodies)

    async def _bodies(self, translation: UpstreamRequest, admission: Admission) -> list[bytes]:
        """Returns Cohere's whole responses to all bodies of a translation, called at once."""
        if len(translation.bodies) == 1:
            return [await self._body(translation, admission, translation.bodies[0])]
        return await gather_or_first_error([self._body(translation, admission, body) for body in translation.bodies])

    async def _body(self, translation: UpstreamRequest, admission: Admission, body: bytes) -> bytes:
        record = admission.record
        options = CallOptions.of(record, translation.model)
        post = self.services.upstream.post(self.operation.upstream, record.principal, body, False, options)
        async with post as response:
            answer = await (await admission.accept(response)).read_body()
        admission.bill(translation.model, answer)
        return answer

    # --- buffered ------------------------------------------------------------------------------------------

    async def respond_buffered(self, translation: Translation, admission: Admission, sink: ResponseSink) -> None:
        """Sends a stream made of whole responses, for translations whose response is checked before it is shown."""
        cached, bodies = None, None
        if self.lookup is not None:
            cached = await cached_response.find(
                self.lookup,
                self._source(translation, admission),
                translation,
                admission,
                partial(self._cached_stream, translation, admission),
            )
        if cached is not None:
            stream, documents = cached
        else:
            bodies = await self._bodies(translation, admission)
            stream, documents = await self._as_stream(translation, admission, bodies)
            if stream.failure is not None:
                translation = await self._second_attempt(translation, admission, stream.failure)
                admission.set_notes(translation.notes)
                bodies = await self._bodies(translation, admission)
                stream, documents = await self._as_stream(translation, admission, bodies)
                if stream.failure is not None:
                    raise AnswerRefused(stream.failure)
        await self._save_final(stream)
        await sink.begin(translation)
        await sink.end(documents, stream)
        if self.lookup is not None:
            source = self._source(translation, admission)
            await cached_response.store(self.lookup, source, translation, admission.record, bodies, stream.usage)

    async def _as_stream(
        self, translation: Translation, admission: Admission, bodies: Sequence[bytes]
    ) -> tuple[Stream, list[bytes]]:
        return await self._read(admission, bodies, _as_stream, translation, bodies)

    async def _cached_stream(
        self, translation: Translation, admission: Admission, bodies: Sequence[bytes]
    ) -> tuple[Stream, list[bytes]]:
        return cached_response.unfailed(*await self._as_stream(translation, admission, bodies))

    # --- streaming -----------------------------------------------------------------------------------------

    async def respond_streaming(self, translation: Translation, admission: Admission, sink: ResponseSink) -> None:
        """Relays Cohere's streams as they come."""
        if self.lookup is not None and await self._replay(translation, admission, sink, self.lookup):
            return
        record, upstream, path = admission.record, self.services.upstream, self.operation.upstream
        validate = partial(self.services.offload.run_in_thread, record.principal) if translation.validated else None
        bill = partial(admission.bill, translation.model)
        self.stream = stream = translation.stream()
        recordings = [Recording() if self.lookup is not None else None for _ in translation.bodies]
        options = CallOptions.of(record, translation.model)
        posts = [upstream.post(path, record.principal, body, True, options) for body in translation.bodies]
        # At the same time, so that the choices of one answer begin together.
        async with posts[0] if len(posts) == 1 else _at_once(posts) as opened:
            responses = [opened] if isinstance(opened, UpstreamResponse) else opened
            sources = [
                UpstreamStream(await admission.accept(response), stream, choice, recording, validate, bill)
                for choice, (response, recording) in enumerate(zip(responses, recordings, strict=True))
            ]
            source = sources[0] if len(sources) == 1 else MergedStream(sources, stream)
            try:
                await pump(source, stream, translation, sink, self.begun, self._save_final)
            finally:
                # Before the responses from which its tasks read.
                if isinstance(source, MergedStream):
                    source.close()
                for one in sources:
                    # Cohere charges for what a stream has consumed that broke off.
                    if one.begun and not one.counted:
                        admission.bill_estimate(translation.model, one.pieces, one.ended)
                if stream.failure is not None:
                    record.fail(stream.failure)
            # Or their connections could not be used again, as a few bytes follow the last event.
            for response in responses:
                await response.drain()
        if self.lookup is not None and stream.failure is None:
            # Fewer than there are bodies where one is too large, so that none is stored.
            events = [recording.to_json() for recording in recordings if recording is not None]
            complete = [one for one in events if one is not None]
            origin = self._source(translation, admission)
            await cached_response.store(self.lookup, origin, translation, record, complete, stream.usage)

    async def _replay(self, translation: Translation, admission: Admission, sink: ResponseSink, lookup: Lookup) -> bool:
        """Sends the events of the same streams from the cache. Returns whether there were any."""
        cached = await cached_response.find(
            lookup,
            self._source(translation, admission),
            translation,
            admission,
            partial(self._replayed, translation, admission),
        )
        if cached is None:
            return False
        self.stream, documents = cached
        await self._save_final(self.stream)
        await sink.begin(translation)
        await sink.end(documents, self.stream)
        return True

    async def _replayed(
        self, translation: Translation, admission: Admission, recordings: Sequence[bytes]
    ) -> tuple[Stream, list[bytes]]:
        replayed = await self._read(admission, recordings, cached_response.replayed, translation, recordings)
        return cached_response.unfailed(*replayed)

    async def _save_final(self, stream: Stream) -> None:
        if self.saves:
            await self.save(stream.final())


@contextlib.asynccontextmanager
async def _at_once(
    calls: Sequence[contextlib.AbstractAsyncContextManager[UpstreamResponse]],
) -> AsyncIterator[list[UpstreamResponse]]:
    """Makes several calls at once. Each has ended when this has."""
    async with contextlib.AsyncExitStack() as stack:
        yield await gather_or_first_error([stack.enter_async_context(call) for call in calls])


def _as_stream(translation: Translation, bodies: Sequence[bytes]) -> tuple[Stream, list[bytes]]:
    """Returns whole responses as a stream: the stream when it has ended, and all of its documents."""
    stream = translation.stream()
    # A request that only warms a cache has no body, and its stream is made of nothing.
    return stream, [document for choice, body in enumerate(bodies or (b"",)) for document in stream.whole(body, choice)]
