"""Deterministic unit vectors: texts that share words or trigrams are similar.

Every feature of a text points in a few directions that its hash selects. A little noise from the whole text keeps the
components away from zero. The six number formats of one vector agree with each other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache
from typing import Any

from gateway.emulator.keywords import STOPWORDS

DIMENSIONS = 2048  # all are computed; smaller sizes are prefixes, as with Matryoshka embeddings
DIRECTIONS = 48  # of one feature
NOISE = 0.3
BYTE_DEVIATION = 74  # standard deviation of a random byte
WORD_WEIGHT, STOPWORD_WEIGHT, TRIGRAM_WEIGHT = 1.0, 0.25, 0.35
WORDS = re.compile(r"\w+")

Vector = list[float]


@lru_cache(maxsize=20_000)
def _directions(feature: str) -> tuple[tuple[int, float], ...]:
    """Returns the (dimension, sign) pairs of a feature."""
    data = hashlib.shake_128(feature.encode("utf-8", "surrogatepass")).digest(DIRECTIONS * 2)
    values = (int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2))
    # The low bits name the dimension, of which there is a power of two; the highest one is the sign.
    return tuple((value & (DIMENSIONS - 1), 1.0 if value & 0x8000 else -1.0) for value in values)


def text_vector(text: str, size: int, space: str) -> Vector:
    """Returns the unit vector of a text. Vectors of different spaces have nothing in common."""
    weights: dict[str, float] = {}
    for word in WORDS.findall(text.lower()):
        weight = STOPWORD_WEIGHT if word in STOPWORDS else WORD_WEIGHT
        weights[f"w{word}"] = weights.get(f"w{word}", 0.0) + weight
        for start in range(len(word) - 2):
            trigram = f"g{word[start : start + 3]}"
            weights[trigram] = weights.get(trigram, 0.0) + weight * TRIGRAM_WEIGHT
    return _vector(weights, text.encode("utf-8", "surrogatepass"), size, space)


def image_vector(data: bytes, description: str, size: int, space: str) -> Vector:
    """Returns the unit vector of an image, from blocks of its bytes and the words of a description."""
    step = max(1, len(data) // 16)
    weights = {f"i{data[start : start + step].hex()[:64]}": 0.5 for start in range(0, len(data), step)}
    weights |= {f"w{word}": WORD_WEIGHT for word in WORDS.findall(description.lower())}
    return _vector(weights, data, size, space)


def mean_vector(vectors: list[Vector]) -> Vector:
    """Returns the unit vector in the middle of several."""
    return _unit([sum(values) for values in zip(*vectors, strict=True)])


def similarity(left: Vector, right: Vector) -> float:
    """Returns the cosine of two unit vectors."""
    return sum(a * b for a, b in zip(left, right, strict=True))


def to_types(vector: Vector, types: list[str]) -> dict[str, Any]:
    """Returns the vector in each embedding type, in the order in which Cohere lists them."""
    converted: dict[str, Any] = {}
    if "float" in types:
        converted["float"] = vector
    if "int8" in types:
        converted["int8"] = [value - 128 for value in _bytes(vector)]
    if "uint8" in types:
        converted["uint8"] = _bytes(vector)
    if "binary" in types:
        converted["binary"] = [value - 128 for value in _bits(vector)]
    if "ubinary" in types:
        converted["ubinary"] = _bits(vector)
    if "base64" in types:
        converted["base64"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return converted


def round_digits(value: float) -> float:
    """Rounds to six significant digits: such a number survives a float32 and prints as short as Cohere's."""
    return float(f"{value:.6g}")


def _vector(weights: dict[str, float], data: bytes, size: int, space: str) -> Vector:
    total = [0.0] * DIMENSIONS
    for feature, weight in weights.items():
        for dimension, sign in _directions(space + feature):
            total[dimension] += sign * weight
    # The whole vector is cut to size last, so that the sizes of one model agree.
    scale = NOISE * math.sqrt(sum(value * value for value in total) / DIMENSIONS or 1.0) / BYTE_DEVIATION
    noise = hashlib.shake_128(space.encode() + data).digest(DIMENSIONS)
    return _unit([value + (byte - 127.5) * scale for value, byte in zip(total, noise, strict=True)][:size])


def _unit(values: Vector) -> Vector:
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [round_digits(value / length) for value in values]


def _bytes(vector: Vector) -> list[int]:
    """Returns the components as 0..255, with zero at 128 and the largest component at an end."""
    scale = 127 / (max(abs(value) for value in vector) or 1.0)
    return [128 + _round_with_sign(value * scale) for value in vector]


def _round_with_sign(value: float) -> int:
    """Rounds, but never to zero, so that the bits agree with the bytes."""
    if value == 0:
        return 0
    return max(1, round(value)) if value > 0 else min(-1, round(value))


def _bits(vector: Vector) -> list[int]:
    """Returns one bit for each component, set if it is positive, the first in the highest place."""
    packed = int("".join("1" if value > 0 else "0" for value in vector), 2)
    return list(packed.to_bytes(len(vector) // 8, "big"))
