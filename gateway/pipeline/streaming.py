"""The only loop that awaits during a stream: bytes in, events, documents, bytes out.

All events of one network read leave in one send. A response begins only when its first documents are known, so that a
failure before them is an ordinary error with an ordinary status. However the upstream ends, the documents end properly:
`Stream.end` makes the in-band error, since a clean early end looks like success to OpenAI's SDKs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias

from msgspec import Struct

from gateway.errors import AnswerRefused, GatewayError, UpstreamError, failure, failure_of
from gateway.http import sse
from gateway.pipeline.response_cache import Recording
from gateway.upstream.response import MAX_RESPONSE_BYTES, UpstreamResponse
from schemas.cohere.events import MESSAGE_END, is_message_end
from translators.core.contracts import Stream, Translation
from translators.core.errors import TranslationError

CUT = failure("cut", "Cohere's stream ended before the answer was complete")
TOO_LARGE = failure("cut", "Cohere sent an event that is too large")
ENDLESS = failure("cut", "Cohere's answer is too large")


Validate: TypeAlias = Callable[..., Awaitable[Sequence[bytes]]]
"""Calls a function with arguments where it may take long."""


class Framing(Struct, frozen=True):
    """How an operation's documents are framed: each batch of them, and what follows the last."""

    documents: Callable[[Sequence[bytes]], bytes]
    closing: Callable[[Stream], bytes]


class ResponseSink(Protocol):
    """Where a response goes. Either `whole` once, or `begin`, `documents` any number of times, and `end`.

    commit_after: begins a stream by itself when nothing came for so many seconds, where callers wait for a head.
    committed: it did.
    """

    @property
    def committed(self) -> bool: ...

    def commit_after(self, seconds: float, translation: Translation) -> None: ...

    async def whole(self, translation: Translation, body: bytes) -> None: ...

    async def begin(self, translation: Translation) -> None: ...

    async def documents(self, documents: Sequence[bytes]) -> None: ...

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        """Sends the last documents. `stream` knows how it ended."""
        ...


class UpstreamStream:
    """One upstream's stream as documents to send."""

    def __init__(
        self,
        response: UpstreamResponse,
        stream: Stream,
        choice: int = 0,
        recording: Recording | None = None,
        validate: Validate | None = None,
        bill: Callable[[bytes], bool] | None = None,
    ) -> None:
        """validate: runs the feeding of the event that ends the answer, where the answer is checked then. bill: gets
        that event before, and returns whether Cohere's counts are in it.
        """
        self._response, self._stream, self._choice, self._recording = response, stream, choice, recording
        self._decoder = sse.Decoder()
        self._validate, self._bill = validate, bill
        self.ended = self.counted = False
        self._size = self._events = 0

    @property
    def over(self) -> bool:
        """Tells whether the last read was the last one."""
        return self._stream.finished

    @property
    def begun(self) -> bool:
        """Tells whether an event has come."""
        return self._events > 0

    @property
    def pieces(self) -> int:
        """Estimates how many deltas have come: two events open a stream."""
        return max(self._events - 2, 0)

    async def read(self) -> Sequence[bytes]:
        """Returns the documents of the next network read that makes any, and none after the last."""
        stream, choice = self._stream, self._choice
        # Reads until something can be sent: a read may hold half an event, and an empty send would wake the caller for
        # nothing.
        while not stream.done(choice):
            try:
                block = await self._response.read_chunk()
                self._size += len(block)
                # Counted here, because a stream is never held as a whole: only its sum can be bounded.
                if self._size > MAX_RESPONSE_BYTES:
                    return stream.end(ENDLESS, choice)
                events = self._decoder.feed(block) if block else self._decoder.end()
            except UpstreamError as error:
                return stream.end(error.failure, choice)
            except sse.EventTooLarge:
                return stream.end(TOO_LARGE, choice)
            self._events += len(events)
            if events and self._response.key_mask is not None:
                # Once more, as reads may have cut the key in two: in the event that began before this read.
                events = [self._response.masked(events[0]), *events[1:]]
            documents: list[bytes] = []
            if self._recording is not None:
                # As they came, before they are translated: an entry of the cache serves either API.
                self._recording.add(events)
            try:
                await self._feed(events, documents)
            # The documents that were made before the event that failed are sent all the same: the caller paid for them.
            # So may its check, where too much waits to be checked.
            except (GatewayError, TranslationError, RecursionError) as error:
                documents += stream.end(failure_of(error), choice)
            # The end of the connection without a message-end. `stream.end` says nothing after a proper end, so no test
            # is needed.
            if not block:
                documents += stream.end(CUT, choice)
            if documents:
                return documents
        return ()

    async def _feed(self, events: Sequence[bytes], documents: list[bytes]) -> None:
        """Appends the documents of these events, also of those before one that cannot be translated.

        The first message-end ends the answer: what follows changes neither its documents nor its bill.
        """
        stream, choice = self._stream, self._choice
        for data in events:
            # A search in bytes first: to parse each event only to learn that it is not the last one would cost more
            # than to translate it.
            last = MESSAGE_END in data and not self.ended and is_message_end(data)
            if last:
                self.ended = True
                self.counted = self._bill is not None and self._bill(data)
            if last and self._validate is not None:
                documents += await self._validate(stream.feed, data, choice)
            else:
                documents += stream.feed(data, choice)


class MergedStream:
    """Several streams read at once: their documents in the order in which they came."""

    def __init__(self, sources: Sequence[UpstreamStream], stream: Stream) -> None:
        self._stream = stream
        self._pending: list[bytes] = []
        self._error: Exception | None = None
        self._running = len(sources)
        self._available, self._emptied = asyncio.Event(), asyncio.Event()
        # A task for each stream: whichever has something to send is not held up by one that thinks.
        self._tasks = [asyncio.ensure_future(self._relay(source)) for source in sources]

    async def _relay(self, source: UpstreamStream) -> None:
        """Reads on only when the last documents have been taken: a slow caller slows the upstreams down."""
        try:
            while documents := await source.read():
                self._pending += documents
                self._available.set()
                self._emptied.clear()
                await self._emptied.wait()
        # Raised to the reader, in its order behind the documents that came before.
        except Exception as error:
            self._error = error
        finally:
            self._running -= 1
            self._available.set()

    @property
    def over(self) -> bool:
        return self._stream.finished and not self._pending

    async def read(self) -> Sequence[bytes]:
        """Returns the next documents, and none when all streams are at their end."""
        while not self._pending and self._error is None and self._running:
            self._available.clear()
            await self._available.wait()
        # What is there goes first, also when another stream has failed meanwhile.
        if self._pending:
            documents, self._pending = self._pending, []
            self._emptied.set()
            return documents
        if self._error is not None:
            raise self._error
        return ()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


async def pump(
    source: UpstreamStream | MergedStream,
    stream: Stream,
    translation: Translation,
    sink: ResponseSink,
    begun: Callable[[], None],
    before_the_last: Callable[[Stream], Awaitable[None]],
) -> None:
    """Relays a stream to its end. Raises AnswerRefused if it fails before anything of it was sent.

    begun: called when the head of the response was sent. before_the_last: awaited when the stream is complete, before
    its last documents are sent.
    """
    documents = await source.read()
    # Only the error itself would be sent, so it can still be a status. With anything before it a 200 is due.
    if stream.failure is not None and len(documents) == 1:
        raise AnswerRefused(stream.failure)
    await sink.begin(translation)
    begun()
    while not source.over:
        await sink.documents(documents)
        documents = ()  # else they would be kept while nothing comes
        documents = await source.read()
    # A caller who has the last document may use the response's id at once, in another process: it has to be stored by
    # then.
    await before_the_last(stream)
    await sink.end(documents, stream)
