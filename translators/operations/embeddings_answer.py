"""Cohere's vectors as OpenAI's list, in the order of the inputs.

A vector is copied as the JSON text that Cohere sent: parsing and encoding a million numbers would cost more than
everything else here. The length of a base64 text tells how many numbers it holds, so it is checked without decoding.
Floats are parsed only where base64 has to be made of them (docs/decisions.md#embeddings-keep-coheres-numbers).
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
MIN_BASE64_BYTES = 6
"""Length of the shortest base64 text with its quotes."""

Vector = dict[str, Raw]
"""The vector of one input as JSON, by type (`float`, `int8`, ...)."""

_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_vector = msgspec.json.Decoder(Vector).decode
_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


class View(Struct, frozen=True):
    """How the response presents the vectors.

    model: as the caller named it. embedding_type: of `data[].embedding`. named_types: of `data[].embeddings`.
    upstream_types: requested from Cohere. cached_types: in the cache entry of an input. size: numbers in a vector, 0
    when unknown. usage_base: `Policy.usage_base`. cost: `Context.cost`.
    """

    model: str
    embedding_type: str
    named_types: tuple[str, ...]
    upstream_types: tuple[str, ...]
    cached_types: tuple[str, ...]
    size: int
    usage_base: UsageBase
    cost: Callable[[], int | None]

    @property
    def packs(self) -> bool:
        """Whether base64 is made here, of floats."""
        return "base64" not in self.upstream_types and "base64" in (self.embedding_type, *self.named_types)


def merge_vectors(
    cached: Sequence[Vector | None], parts: Sequence[Part], answers: Sequence[bytes], view: View
) -> tuple[list[Vector], Counts]:
    """Returns the vectors of all inputs in order, and the usage of the new ones.

    cached: one for each input, None where `answers` has the vector. answers: Cohere's bodies, one for each of `parts`.
    Raises UpstreamProtocolError, or AnswerFailed where a request for floats may succeed.
    """
    merged: list[Vector] = [vector or {} for vector in cached]
    usages: list[Counts] = []
    for part, body in zip(parts, answers, strict=True):
        answer = _decode_answer(body)
        # Each part is an own call that Cohere bills; what came from the cache costs nothing and is not counted.
        usages.append(embedding_counts(answer.meta, view.usage_base))
        for name in view.upstream_types:
            rows = answer.embeddings.get(name) or []
            # A vector too few would put all that follow at the wrong text, and no client could notice.
            if len(rows) != len(part.positions):
                raise _invalid_answer(f"{len(rows)} vectors of type {name} for {len(part.positions)} inputs", name)
            _check_shape(rows, name, view.size)
            for position, row in zip(part.positions, rows, strict=True):
                merged[position][name] = row
    if view.packs:
        for vector in merged:
            if "base64" not in vector:
                # Once for each vector, also for those of the cache: entries made from floats hold floats.
                vector["base64"] = _pack_floats(vector["float"])
    return merged, total(usages)


def encode_entry(vector: Vector, view: View) -> bytes:
    """Encodes a vector as a cache entry: all types that its request asked of Cohere."""
    return _encode({name: vector[name] for name in view.cached_types})


def decode_entry(entry: bytes | None, view: View) -> Vector | None:
    """Decodes a cache entry. Returns None without one, or where a type is missing in it."""
    if entry is None:
        return None
    vector = _decode_vector(entry)
    return vector if all(name in vector for name in view.cached_types) else None


def embedding_list(vectors: Sequence[Vector], counts: Counts, view: View) -> bytes:
    """Encodes OpenAI's list of these vectors."""
    usage = openai.Usage(
        counts.prompt,
        counts.prompt,
        openai.PromptTokensDetails(counts.image) if counts.image else UNSET,
        dict(counts.billed) or UNSET,
        dollars(view.cost()),
    )
    embedding_type = view.embedding_type
    if not view.named_types:
        # The usual case. The JSON around the vectors comes from the same Structs as below, but each vector is copied
        # once and no object is made for it.
        before, after = _encode(openai.EmbeddingList([], view.model, usage)).split(b"[]", 1)
        pieces = [before, b"["]
        for index, vector in enumerate(vectors):
            pieces += (b"," if index else b"", _element_prefix(index), vector[embedding_type], b"}")
        return b"".join([*pieces, b"]", after])
    data = [
        openai.Embedding(index, vector[embedding_type], {name: vector[name] for name in view.named_types})
        for index, vector in enumerate(vectors)
    ]
    return _encode(openai.EmbeddingList(data, view.model, usage))


@cache
def _element_prefix(index: int) -> bytes:
    """Returns the JSON of an element up to its vector."""
    # The cache has a bound, though it looks unbounded: an index is below MOST_INPUTS.
    return _encode(openai.Embedding(index, Raw(b"0"))).removesuffix(b"0}")


def _decode_answer(body: bytes) -> cohere.EmbedAnswer:
    try:
        return cohere.decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere answered with something else than vectors by type") from error


def _invalid_answer(what: str, name: str) -> TranslationError:
    """Makes the error for an answer that breaks the protocol. name: the type of vectors that is wrong."""
    error = UpstreamProtocolError(f"Cohere sent {what}")
    # Only base64 has a second attempt: the same vectors as floats.
    return AnswerFailed(replace(error.failure, second_attempt=True)) if name == "base64" else error


def _check_shape(rows: Sequence[Raw], name: str, size: int) -> None:
    """Checks the first and last bytes of each vector, and the length of base64. Raises as `_invalid_answer` says."""
    views: list[Any] = [memoryview(row) for row in rows]
    if name != "base64":
        # Numbers are not counted: that would read every byte of them.
        if any(view[0] != BRACKET or len(view) < 3 for view in views):
            raise _invalid_answer(f"a vector of type {name} that is none", name)
    # A JSON encoder may escape the slashes of base64 (`\\/`), which changes its length: unescape only if need be.
    elif not _all_fit(views, size) and not _all_fit([memoryview(_unescaped(row)) for row in rows], size):
        raise _invalid_answer(f"a base64 vector that does not hold {size or 'whole'} numbers of 4 bytes", name)


def _all_fit(texts: Sequence[Any], size: int) -> bool:
    """Returns whether each of these quoted base64 texts holds `size` floats, or any whole number of them if it is 0."""
    if min(map(len, texts)) < MIN_BASE64_BYTES:
        return False
    # All vectors of an answer look alike, so the set has one or two elements for thousands of texts.
    shapes = {(len(text) - 2, text[0], text[-2], text[-3]) for text in texts}
    return all(_fits(*shape, size) for shape in shapes)


def _fits(length: int, first: int, last: int, second_last: int, size: int) -> bool:
    if first != QUOTE or length % 4:
        return False
    decoded = length // 4 * 3 - (last == PAD) - (second_last == PAD)
    return decoded == size * FLOAT_BYTES if size else decoded % FLOAT_BYTES == 0


def _unescaped(row: Raw) -> bytes:
    """Returns the quoted text without needless escapes, empty if it is no JSON string."""
    try:
        return _encode(_decode_text(row))
    except (msgspec.DecodeError, RecursionError):
        return b""


def _pack_floats(row: Raw) -> Raw:
    """Encodes floats as base64 of little-endian 32-bit numbers, as OpenAI's SDKs read them."""
    try:
        numbers = _decode_floats(row)
        packed = struct.pack(f"<{len(numbers)}f", *numbers)
    except (msgspec.DecodeError, RecursionError, struct.error, OverflowError) as error:
        raise UpstreamProtocolError("Cohere sent a vector of floats that cannot be read") from error
    return Raw(b'"' + base64.b64encode(packed) + b'"')
