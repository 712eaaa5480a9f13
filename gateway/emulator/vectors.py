"""Deterministic unit vectors: texts that share words or letter groups lie near each other.

Every feature of a text points in a few directions chosen by its hash; a little noise from the whole text
keeps all components away from zero. The six number formats of one vector agree with each other.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from functools import lru_cache
from typing import Any

from gateway.emulator.extraction import STOPWORDS

FULL = 2048  # directions are drawn here; smaller sizes are prefixes, as with Matryoshka embeddings
DIRECTIONS = 48
NOISE = 0.3
WORD_WEIGHT, COMMON_WEIGHT, LETTERS_WEIGHT = 1.0, 0.25, 0.35
WORDS = re.compile(r"\w+")

Vector = list[float]


@lru_cache(maxsize=20_000)
def _directions(feature: str) -> tuple[tuple[int, float], ...]:
    data = hashlib.shake_128(feature.encode("utf-8", "surrogatepass")).digest(DIRECTIONS * 2)
    drawn = (int.from_bytes(data[place : place + 2], "big") for place in range(0, len(data), 2))
    return tuple((value & (FULL - 1), 1.0 if value & 0x8000 else -1.0) for value in drawn)


def of_text(text: str, size: int, space: str) -> Vector:
    """The unit vector of a text."""
    weights: dict[str, float] = {}
    for word in WORDS.findall(text.lower()):
        weight = COMMON_WEIGHT if word in STOPWORDS else WORD_WEIGHT
        weights[f"w{word}"] = weights.get(f"w{word}", 0.0) + weight
        for start in range(len(word) - 2):
            letters = f"g{word[start : start + 3]}"
            weights[letters] = weights.get(letters, 0.0) + weight * LETTERS_WEIGHT
    return _vector(weights, text.encode("utf-8", "surrogatepass"), size, space)


def of_bytes(data: bytes, about: str, size: int, space: str) -> Vector:
    """The unit vector of a picture: its coarse content by blocks, and what it is by `about`."""
    step = max(1, len(data) // 16)
    weights = {f"i{data[start : start + step].hex()[:64]}": 0.5 for start in range(0, len(data), step)}
    weights |= {f"w{word}": WORD_WEIGHT for word in WORDS.findall(about.lower())}
    return _vector(weights, data, size, space)


def fused(vectors: list[Vector]) -> Vector:
    """One vector for an input of several parts."""
    return _unit([sum(values) for values in zip(*vectors, strict=True)])


def similarity(left: Vector, right: Vector) -> float:
    """Cosine of two unit vectors."""
    return sum(a * b for a, b in zip(left, right, strict=True))


def formats(vector: Vector, wanted: list[str]) -> dict[str, Any]:
    """The vector in each wanted format, in the order in which the server lists them."""
    told: dict[str, Any] = {}
    if "float" in wanted:
        told["float"] = vector
    if "int8" in wanted:
        told["int8"] = [value - 128 for value in _bytes(vector)]
    if "uint8" in wanted:
        told["uint8"] = _bytes(vector)
    if "binary" in wanted:
        told["binary"] = [value - 128 for value in _bits(vector)]
    if "ubinary" in wanted:
        told["ubinary"] = _bits(vector)
    if "base64" in wanted:
        told["base64"] = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return told


def short(value: float) -> float:
    """Six significant digits: every such number survives a float32 and prints as short as the server's."""
    return float(f"{value:.6g}")


def _vector(weights: dict[str, float], data: bytes, size: int, space: str) -> Vector:
    total = [0.0] * FULL
    for feature, weight in weights.items():
        for place, sign in _directions(space + feature):
            total[place] += sign * weight
    # A prefix of the full vector, so that sizes of one model agree; the noise is scaled to what is there.
    scale = NOISE * math.sqrt(sum(value * value for value in total) / FULL or 1.0) / 74
    noise = hashlib.shake_128(space.encode() + data).digest(FULL)
    return _unit([value + (byte - 127.5) * scale for value, byte in zip(total, noise, strict=True)][:size])


def _unit(values: Vector) -> Vector:
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return [short(value / length) for value in values]


def _bytes(vector: Vector) -> list[int]:
    """0..255 with 128 as zero, the largest component at the edge."""
    scale = 127 / (max(abs(value) for value in vector) or 1.0)
    return [128 + _level(value * scale) for value in vector]


def _level(value: float) -> int:
    """The nearest step that keeps the sign, so that the bits agree with the bytes."""
    if value == 0:
        return 0
    return max(1, round(value)) if value > 0 else min(-1, round(value))


def _bits(vector: Vector) -> list[int]:
    """One bit per component, set when it is positive, the first in the highest place."""
    packed = int("".join("1" if value > 0 else "0" for value in vector), 2)
    return list(packed.to_bytes(len(vector) // 8, "big"))
