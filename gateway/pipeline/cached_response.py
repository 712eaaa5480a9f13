"""A request's responses out of the cache, and into it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from msgspec import Struct

from gateway.observability.record import CACHE_HIT, RequestRecord
from gateway.pipeline.admission import Admission
from gateway.pipeline.response_cache import Lookup, split_recording
from gateway.upstream.calls import UpstreamCalls
from translators.core.contracts import Stream, Translation, UsageTotals
from translators.core.errors import AnswerFailed, TranslationError, UpstreamProtocolError

T = TypeVar("T")


class Source(Struct, frozen=True):
    """Whose answers are looked for: those of one path of one upstream. name: the upstream's, empty for the only one."""

    name: str
    path: str

    @staticmethod
    def of(upstream: UpstreamCalls, path: str, model: str, record: RequestRecord) -> "Source":
        """Returns the source that a request to this path is sent to first."""
        name, address = upstream.first_upstream(model, record.principal)
        return Source(name, address + path)

    def answered(self, record: RequestRecord) -> bool:
        """Tells whether all answers to a request came from here."""
        # Another upstream that took over has answers of its own: they would be stored under the name of this one.
        return not self.name or all(one.upstream == self.name for one in record.attempts if one.status == 200)


async def find(
    lookup: Lookup,
    source: Source,
    translation: Translation,
    admission: Admission,
    respond: Callable[[Sequence[bytes]], Awaitable[T]],
) -> T | None:
    """Returns what `respond` makes of Cohere's cached responses to these very calls.

    None where there are none, and where they do not pass this request's checks: another request, which checks less,
    may have made the same call.
    """
    bodies = await lookup.load(source.path, translation.bodies)
    if bodies is None:
        return None
    try:
        response = await respond(bodies)
    # The call is made after all, as if nothing had been found.
    except TranslationError:
        return None
    admission.record.cache = CACHE_HIT
    admission.credit(translation.model, bodies)
    return response


async def store(
    lookup: Lookup,
    source: Source,
    translation: Translation,
    record: RequestRecord,
    responses: Sequence[bytes] | None,
    usage: UsageTotals,
) -> None:
    """Stores Cohere's responses, if it was called at all and no other upstream has answered in its place.

    The caller has theirs already and does not wait for this.
    """
    # A stream that was too large to be recorded has no answer here.
    if responses is not None and usage.cacheable and len(responses) == len(translation.bodies):
        if source.answered(record):
            await lookup.save(source.path, translation.bodies, responses)


def replayed(translation: Translation, recordings: Sequence[bytes]) -> tuple[Stream, list[bytes]]:
    """Returns recorded streams with all their documents. Raises UpstreamProtocolError."""
    stream = translation.stream()
    return stream, [
        document
        for choice, recording in enumerate(recordings)
        for data in split_recording(recording)
        for document in stream.feed(data, choice)
    ]


def unfailed(stream: Stream, documents: list[bytes]) -> tuple[Stream, list[bytes]]:
    """Returns a complete stream. Raises AnswerFailed for one that failed or broke off."""
    if stream.failure is not None or not stream.finished:
        raise AnswerFailed(stream.failure or UpstreamProtocolError("the end is missing").failure)
    return stream, documents
