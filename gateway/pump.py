"""The only loop that awaits during a stream: bytes in, events, documents, bytes out.

All events of one network read leave in one send. The answer's head is sent only when the first documents are
known, so that a failure before them is an ordinary error with an ordinary status. However the upstream ends,
the documents end properly: `Stream.end` makes the in-band error (a clean early end looks like success to the
official SDK, ecosystem.md §0.3).
"""

from collections.abc import Callable, Sequence

from starlette.types import Send

from gateway import sse
from gateway.errors import GatewayError, UpstreamError, failure, failure_of
from gateway.upstream.client import Reply
from translators.context import Stream
from translators.errors import TranslationError

CUT = failure("cut", "Cohere's stream ended before the answer was complete")
TOO_LARGE = failure("cut", "Cohere sent an event that is too large to be true")

Framing = Callable[[Sequence[bytes], Stream], bytes]
"""(JSON documents, the stream they come from) -> what is sent; the stream knows whether they are the last."""


class Source:
    """An upstream's stream as documents to send."""

    def __init__(self, reply: Reply, stream: Stream) -> None:
        self._reply, self._stream = reply, stream
        self._decoder = sse.Decoder()

    async def read(self) -> Sequence[bytes]:
        """The documents of the next network read that makes any; empty after the last."""
        stream = self._stream
        while not stream.finished:
            try:
                block = await self._reply.read()
                events = self._decoder.feed(block) if block else self._decoder.end()
            except UpstreamError as error:
                return stream.end(error.failure)
            except sse.EventTooLarge:
                return stream.end(TOO_LARGE)
            documents: list[bytes] = []
            try:
                for data in events:
                    documents += stream.feed(data)
            except (TranslationError, RecursionError) as error:
                documents += stream.end(failure_of(error))
            if not block:
                documents += stream.end(CUT)
            if documents:
                return documents
        return ()


async def pump(
    source: Source,
    stream: Stream,
    framing: Framing,
    send: Send,
    begin: Callable[[], dict],  # type: ignore[type-arg]
    over: Callable[[], None],
) -> None:
    """Relays a stream to its end. Raises StreamRefused if it fails before anything was sent.

    begin: makes the answer's head, once its first documents are known. over: is told before the last send.
    """
    documents = await source.read()
    if stream.failure is not None and len(documents) == 1:
        raise StreamRefused(stream.failure)
    await send(begin())
    while not stream.finished:
        await send({"type": "http.response.body", "body": framing(documents, stream), "more_body": True})
        documents = await source.read()
    over()
    await send({"type": "http.response.body", "body": framing(documents, stream), "more_body": False})


class StreamRefused(GatewayError):
    """The stream failed before it began: still an ordinary error."""
