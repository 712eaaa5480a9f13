"""A request's responses out of the cache, and into it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from gateway.observability.record import CACHE_HIT
from gateway.pipeline.admission import Admission
from gateway.pipeline.response_cache import Lookup, split_recording
from translators.core.contracts import Stream, Translation, UsageTotals
from translators.core.errors import AnswerFailed, TranslationError, UpstreamProtocolError

T = TypeVar("T")


async def find(
    lookup: Lookup,
    path: str,
    translation: Translation,
    admission: Admission,
    respond: Callable[[Sequence[bytes]], Awaitable[T]],
) -> T | None:
    """Returns what `respond` makes of Cohere's cached responses to these very calls.

    None where there are none, and where they do not pass this request's checks: another request, which checks less,
    may have made the same call.
    """
    bodies = await lookup.load(path, translation.bodies)
    if bodies is None:
        return None
    try:
        response = await respond(bodies)
    except TranslationError:
        return None
    admission.record.cache = CACHE_HIT
    admission.credit(translation.model, bodies)
    return response


async def store(
    lookup: Lookup, path: str, translation: Translation, responses: Sequence[bytes] | None, usage: UsageTotals
) -> None:
    """Stores Cohere's responses, if it was called at all. The caller has theirs already and does not wait for this."""
    if responses is not None and usage.cacheable and len(responses) == len(translation.bodies):
        await lookup.save(path, translation.bodies, responses)


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
