"""The only loop that awaits during a stream: bytes in, events, documents, bytes out.

All events of one network read leave in one send. An answer begins only when its first documents are known, so that a
failure before them is an ordinary error with an ordinary status. However the upstream ends, the documents end properly:
`Stream.end` makes the in-band error (a clean early end looks like success to the official SDK:
docs/decisions.md#a-failure-never-looks-like-a-success).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from gateway.errors import AnswerRefused, UpstreamError, failure, failure_of
from gateway.http import sse
from gateway.pipeline.response_cache import Recording
from gateway.upstream.response import MAX_RESPONSE_BYTES, UpstreamResponse
from translators.core.contracts import Stream, Translation
from translators.core.errors import TranslationError

CUT = failure("cut", "Cohere's stream ended before the answer was complete")
TOO_LARGE = failure("cut", "Cohere sent an event that is too large to be true")
ENDLESS = failure("cut", "Cohere's answer is too large to be true")


class Framing(Struct, frozen=True):
    """How an operation's documents are framed: each batch of them, and what follows the last."""

    documents: Callable[[Sequence[bytes]], bytes]
    closing: Callable[[Stream], bytes]


class ResponseSink(Protocol):
    """Where an answer goes. Either `whole` once, or `begin`, `documents` any number of times, and `end`."""

    async def whole(self, call: Translation, answer: bytes) -> None: ...

    async def begin(self, call: Translation) -> None: ...

    async def documents(self, documents: Sequence[bytes]) -> None: ...

    async def end(self, documents: Sequence[bytes], stream: Stream) -> None:
        """The last documents; `stream` knows how it ended."""
        ...


class UpstreamStream:
    """One upstream's stream as documents to send."""

    def __init__(
        self, reply: UpstreamResponse, stream: Stream, choice: int = 0, recording: Recording | None = None
    ) -> None:
        self._reply, self._stream, self._choice, self._recording = reply, stream, choice, recording
        self._decoder = sse.Decoder()
        self._size = self._events = 0

    @property
    def over(self) -> bool:
        """What was read last was the last."""
        return self._stream.finished

    @property
    def pieces(self) -> int:
        """How many pieces of the answer have come, more or less: two events open it."""
        return max(self._events - 2, 0)

    async def read(self) -> Sequence[bytes]:
        """The documents of the next network read that makes any; empty after the last."""
        stream, choice = self._stream, self._choice
        while not stream.done(choice):
            try:
                block = await self._reply.read_chunk()
                self._size += len(block)
                if self._size > MAX_RESPONSE_BYTES:
                    return stream.end(ENDLESS, choice)
                events = self._decoder.feed(block) if block else self._decoder.end()
            except UpstreamError as error:
                return stream.end(error.failure, choice)
            except sse.EventTooLarge:
                return stream.end(TOO_LARGE, choice)
            self._events += len(events)
            documents: list[bytes] = []
            if self._recording is not None:
                self._recording.add(events)
            try:
                for data in events:
                    documents += stream.feed(data, choice)
            except (TranslationError, RecursionError) as error:
                documents += stream.end(failure_of(error), choice)
            if not block:
                documents += stream.end(CUT, choice)
            if documents:
                return documents
        return ()


class MergedStream:
    """Several sources read at once: their documents in the order in which they were made."""

    def __init__(self, sources: Sequence[UpstreamStream], stream: Stream) -> None:
        self._stream = stream
        self._made: list[bytes] = []
        self._error: Exception | None = None
        self._running = len(sources)
        self._news, self._read = asyncio.Event(), asyncio.Event()
        self._tasks = [asyncio.ensure_future(self._relay(source)) for source in sources]

    async def _relay(self, source: UpstreamStream) -> None:
        """A source reads on only when what it made has been taken: a slow caller slows the upstreams down."""
        try:
            while documents := await source.read():
                self._made += documents
                self._news.set()
                self._read.clear()
                await self._read.wait()
        except Exception as error:
            self._error = error
        finally:
            self._running -= 1
            self._news.set()

    @property
    def over(self) -> bool:
        return self._stream.finished and not self._made

    async def read(self) -> Sequence[bytes]:
        """The next documents; empty when all sources are at their end."""
        while not self._made and self._error is None and self._running:
            self._news.clear()
            await self._news.wait()
        if self._made:
            made, self._made = self._made, []
            self._read.set()
            return made
        if self._error is not None:
            raise self._error
        return ()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()


async def pump(
    source: UpstreamStream | MergedStream,
    stream: Stream,
    call: Translation,
    outlet: ResponseSink,
    before_the_last: Callable[[Stream], Awaitable[None]],
) -> None:
    """Relays a stream to its end. Raises AnswerRefused if it fails before anything was told.

    before_the_last: is awaited when the stream is complete, before its last documents are told.
    """
    documents = await source.read()
    if stream.failure is not None and len(documents) == 1:
        raise AnswerRefused(stream.failure)
    await outlet.begin(call)
    while not source.over:
        await outlet.documents(documents)
        documents = await source.read()
    await before_the_last(stream)
    await outlet.end(documents, stream)
