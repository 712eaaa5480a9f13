"""Answers of /v2/embed: vectors for texts, images and fused inputs, cut and counted as the model would.

Source: docs/cohere-api.md#embed. Validation is `validation.py`; the numbers are `vectors.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images, tokens, vectors
from gateway.emulator.catalogue import Model
from gateway.emulator.images import Image
from gateway.emulator.refusals import overlong

FORMATS = ("float", "int8", "uint8", "binary", "ubinary", "base64")


class Embedded(msgspec.Struct, frozen=True):
    """A body with what its headers need."""

    body: dict[str, Any]
    characters: int
    counted: int


class _Work:
    """One request being embedded: the vectors so far and what they cost."""

    def __init__(self, body: Mapping[str, Any], model: Model) -> None:
        self.model = model
        self.size: int = body.get("output_dimension") or model.dimensions[0]
        self.limit = min(body.get("max_tokens") or model.context_length, model.context_length)
        self.truncate: str = body.get("truncate") or "END"
        self.vectors: list[vectors.Vector] = []
        self.pictures: list[dict[str, Any]] = []
        self.text_tokens = 0
        self.image_tokens = 0
        self.characters = 0

    def text(self, text: str) -> vectors.Vector:
        """A text's vector, after truncation."""
        pieces = tokens.pieces(text)
        excess = len(pieces) - self.limit
        if excess > 0 and self.truncate == "NONE":
            raise overlong(
                f"size limit exceeded by {excess} tokens. Try using shorter or fewer inputs,"
                " or setting prompt_truncation='AUTO'."
            )
        if excess > 0:
            pieces = pieces[excess:] if self.truncate == "START" else pieces[: self.limit]
        self.text_tokens += len(pieces)
        self.characters += len(text)
        return vectors.of_text("".join(pieces), self.size, self.model.space)

    def picture(self, url: str) -> vectors.Vector:
        """An image's vector."""
        image = images.look(url)
        self.pictures.append(_described(image))
        self.image_tokens += images.TOKENS
        return vectors.of_bytes(image.data, f"image {image.format}", self.size, self.model.space)


def answer(body: Mapping[str, Any], model: Model) -> Embedded:
    """The whole answer to a validated request."""
    work = _Work(body, model)
    texts: list[str] = body.get("texts") or []
    for text in texts:
        work.vectors.append(work.text(text))
    for url in body.get("images") or ():
        work.vectors.append(work.picture(url))
    for item in body.get("inputs") or ():
        work.vectors.append(_fused(work, item["content"]))
    wanted = body.get("embedding_types") or ["float"]
    told: dict[str, Any] = {"id": str(uuid.uuid4()), "texts": _echo(texts, model)}
    if work.pictures:
        told["images"] = work.pictures
    told["embeddings"] = _by_format(work.vectors, wanted)
    told["meta"] = {"api_version": {"version": "2"}, "billed_units": _billed(work)}
    told["response_type"] = "embeddings_by_type"
    return Embedded(told, work.characters, work.text_tokens + work.image_tokens)


def _fused(work: _Work, content: list[dict[str, Any]]) -> vectors.Vector:
    parts = [
        work.text(part["text"]) if part["type"] == "text" else work.picture(part["image_url"]["url"])
        for part in content
    ]
    return vectors.fused(parts)


def _echo(texts: list[str], model: Model) -> list[str]:
    return [text.lower() for text in texts] if model.lowercase else texts


def _by_format(made: list[vectors.Vector], wanted: list[str]) -> dict[str, list[Any]]:
    told: dict[str, list[Any]] = {name: [] for name in FORMATS if name in wanted}
    for vector in made:
        for name, value in vectors.formats(vector, wanted).items():
            told[name].append(value)
    return told


def _billed(work: _Work) -> dict[str, int]:
    """v4 and newer bill image tokens (0 for texts), v3 counts images (both recorded)."""
    if work.model.multimodal:
        return {"input_tokens": work.text_tokens, "image_tokens": work.image_tokens}
    return {"images": len(work.pictures)} if work.pictures else {"input_tokens": work.text_tokens}


def _described(image: Image) -> dict[str, Any]:
    """Recorded: bit_depth is 0."""
    return {"width": image.width, "height": image.height, "format": image.format, "bit_depth": 0}
