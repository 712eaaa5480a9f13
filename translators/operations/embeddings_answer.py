"""Cohere's vectors as OpenAI's list, in the order of the inputs.

A vector is passed on as the text it came as: to read a million numbers and write them again would cost more
than all the rest. What is counted is the length of base64, which says how many numbers it
holds; only where Cohere gives none are floats read and packed here (docs/decisions.md#embeddings-keep-coheres-numbers).
"""

import base64
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from schemas.cohere import embed as cohere
from schemas.openai import embeddings as openai
from translators.answer.usage import Counts, dollars, embedding_counts, total
from translators.core.contracts import UsageBase
from translators.core.errors import AnswerFailed, TranslationError, UpstreamProtocolError
from translators.operations.embeddings_input import Part

FLOAT_BYTES = 4
QUOTE, BRACKET, PAD = b'"'[0], b"["[0], b"="[0]
SHORTEST = 6
"""Bytes of the shortest base64, in quotes."""

Vector = dict[str, Raw]
"""One input's numbers as JSON, by Cohere's name of their type."""

_floats = msgspec.json.Decoder(list[float]).decode
_vector = msgspec.json.Decoder(Vector).decode
_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class View(Struct, frozen=True):
    """How the caller wants it. model: as they named it; embedding_type: the type of `embedding`; types: asked by name.

    upstream_types: the types to ask Cohere for; cached_types: those that the cache holds of an input of such a request.
    size: numbers of a vector, 0 when unknown. cost: `Context.cost`.
    """

    model: str
    embedding_type: str
    types: tuple[str, ...]
    upstream_types: tuple[str, ...]
    cached_types: tuple[str, ...]
    size: int
    base: UsageBase
    cost: Callable[[], int | None]

    @property
    def packs(self) -> bool:
        """base64 is wanted and made here, of floats."""
        return "base64" not in self.upstream_types and "base64" in (self.embedding_type, *self.types)


def vectors(
    cached: Sequence[Vector | None], parts: Sequence[Part], answers: Sequence[bytes], view: View
) -> tuple[list[Vector], Counts]:
    """The vectors of all inputs in order, and what the new ones cost. Raises UpstreamProtocolError, AnswerFailed.

    known: the vectors that need not be asked for, None for the others.
    """
    merged: list[Vector] = [vector or {} for vector in cached]
    costs: list[Counts] = []
    for part, body in zip(parts, answers, strict=True):
        answer = _read(body)
        costs.append(embedding_counts(answer.meta, view.base))
        for name in view.upstream_types:
            rows = answer.embeddings.get(name) or []
            if len(rows) != len(part.positions):
                raise _broken(f"{len(rows)} vectors of type {name} for {len(part.positions)} inputs", name)
            _check(rows, name, view.size)
            for position, row in zip(part.positions, rows, strict=True):
                merged[position][name] = row
    if view.packs:
        for vector in merged:
            if "base64" not in vector:
                vector["base64"] = _packed(vector["float"])
    return merged, total(costs)


def written(vector: Vector, view: View) -> bytes:
    """A vector for the cache: what Cohere said of it, whatever its caller wanted to see."""
    return _encode({name: vector[name] for name in view.cached_types})


def read(entry: bytes | None, view: View) -> Vector | None:
    """What `written` wrote, for whoever asks Cohere for the same."""
    if entry is None:
        return None
    vector = _vector(entry)
    return vector if all(name in vector for name in view.cached_types) else None


def embedding_list(vectors: Sequence[Vector], counts: Counts, view: View) -> bytes:
    """OpenAI's list of these vectors."""
    usage = openai.Usage(
        counts.prompt,
        counts.prompt,
        openai.PromptTokensDetails(counts.image) if counts.image else UNSET,
        dict(counts.billed) or UNSET,
        dollars(view.cost()),
    )
    embedding_type = view.embedding_type
    if not view.types:
        # Written around the vectors, by the same Structs: their numbers are moved once, and no object is made of each.
        before, after = _encode(openai.EmbeddingList([], view.model, usage)).split(b"[]", 1)
        pieces = [before, b"["]
        for index, vector in enumerate(vectors):
            pieces += (b"," if index else b"", _head(index), vector[embedding_type], b"}")
        return b"".join([*pieces, b"]", after])
    data = [
        openai.Embedding(index, vector[embedding_type], {name: vector[name] for name in view.types})
        for index, vector in enumerate(vectors)
    ]
    return _encode(openai.EmbeddingList(data, view.model, usage))


@cache
def _head(index: int) -> bytes:
    """What stands before a vector; its place is bounded by the inputs of a request."""
    return _encode(openai.Embedding(index, Raw(b"0"))).removesuffix(b"0}")


def _read(body: bytes) -> cohere.EmbedAnswer:
    try:
        return cohere.decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere answered with something else than vectors by type") from error


def _broken(what: str, name: str) -> TranslationError:
    """What is no answer; where base64 was asked for, floats may be one."""
    broken = UpstreamProtocolError(f"Cohere sent {what}")
    return AnswerFailed(replace(broken.failure, second_attempt=True)) if name == "base64" else broken


def _check(rows: Sequence[Raw], name: str, size: int) -> None:
    """A look at both ends of the vectors, not into them."""
    views: list[Any] = [memoryview(row) for row in rows]
    if name != "base64":
        if any(view[0] != BRACKET or len(view) < 3 for view in views):
            raise _broken(f"a vector of type {name} that is none", name)
    elif not _fit(views, size) and not _fit([memoryview(_plain(row)) for row in rows], size):
        raise _broken(f"a base64 vector that does not hold {size or 'whole'} numbers of 4 bytes", name)


def _fit(several: Sequence[Any], size: int) -> bool:
    """Whether each of these, base64 in quotes, is as long as that many floats; as any where the size is unknown.

    Nearly always they are alike, so what they look like is gathered first, and looked at once.
    """
    if min(map(len, several)) < SHORTEST:
        return False
    shapes = {(len(one) - 2, one[0], one[-2], one[-3]) for one in several}
    return all(_fits(*shape, size) for shape in shapes)


def _fits(length: int, first: int, last: int, second_last: int, size: int) -> bool:
    if first != QUOTE or length % 4:
        return False
    held = length // 4 * 3 - (last == PAD) - (second_last == PAD)
    return held == size * FLOAT_BYTES if size else held % FLOAT_BYTES == 0


def _plain(row: Raw) -> bytes:
    """In quotes, without JSON's escapes, which would be counted, too."""
    try:
        return _encode(_text(row))
    except (msgspec.DecodeError, RecursionError):
        return b""


def _packed(row: Raw) -> Raw:
    """Floats as OpenAI's SDKs read them: 32 bits each, the lowest byte first."""
    try:
        numbers = _floats(row)
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except (msgspec.DecodeError, RecursionError, struct.error, OverflowError) as error:
        raise UpstreamProtocolError("Cohere sent a vector of floats that cannot be read") from error
    return Raw(b'"' + base64.b64encode(packed) + b'"')
