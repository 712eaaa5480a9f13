"""The vectors of /v2/embed, for texts, images and inputs of several parts, truncated and billed as at Cohere.

`validation.py` checks the request, `vectors.py` computes the numbers. Source: docs/cohere-api.md#embed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.emulator import images, tokens, usage, vectors
from gateway.emulator.http_exchange import count_headers
from gateway.emulator.images import Image
from gateway.emulator.model_catalog import Model
from gateway.emulator.request import META_V2, Headers
from gateway.emulator.validation import EMBEDDING_TYPES


class EmbedResult(msgspec.Struct, frozen=True):
    """A response body, and what its headers count."""

    body: dict[str, Any]
    characters: int
    tokens: int

    def count_headers(self) -> Headers:
        """Returns the headers `num_chars` and `num_tokens`."""
        return tuple(count_headers({"num_chars": self.characters, "num_tokens": self.tokens}))


class _Embedder:
    """Embeds the parts of one request and counts what they cost."""

    def __init__(self, body: Mapping[str, Any], model: Model) -> None:
        self.model = model
        self.size: int = body.get("output_dimension") or model.dimensions[0]
        self.limit = min(body.get("max_tokens") or model.context_length, model.context_length)
        self.truncate: str = body.get("truncate") or "END"
        self.images: list[dict[str, Any]] = []
        self.text_tokens = 0
        self.image_tokens = 0
        self.characters = 0

    def text(self, text: str) -> vectors.Vector:
        """Returns the vector of a text, truncated. Raises a 400 if it is too long and must not be."""
        pieces = tokens.split(text)
        if self.truncate == "NONE":
            usage.check_context(len(pieces), self.limit)
        excess = len(pieces) - self.limit
        if excess > 0:
            pieces = pieces[excess:] if self.truncate == "START" else pieces[: self.limit]
        self.text_tokens += len(pieces)
        self.characters += len(text)
        return vectors.text_vector("".join(pieces), self.size, self.model.space)

    def image(self, url: str) -> vectors.Vector:
        """Returns the vector of an image."""
        image = images.read_image(url)
        self.images.append(_image_entry(image))
        self.image_tokens += images.TOKENS
        return vectors.image_vector(image.data, f"image {image.format}", self.size, self.model.space)

    def parts(self, content: list[dict[str, Any]]) -> vectors.Vector:
        """Returns the one vector of an input that has several parts."""
        return vectors.mean_vector(
            [
                self.text(part["text"]) if part["type"] == "text" else self.image(part["image_url"]["url"])
                for part in content
            ]
        )

    def billed_units(self) -> dict[str, int]:
        """Returns the billed units: v4 and newer bill image tokens, 0 for texts, v3 counts images (both recorded)."""
        if self.model.multimodal:
            return {"input_tokens": self.text_tokens, "image_tokens": self.image_tokens}
        return {"images": len(self.images)} if self.images else {"input_tokens": self.text_tokens}


def embed(body: Mapping[str, Any], model: Model) -> EmbedResult:
    """Returns the response to a validated request."""
    embedder = _Embedder(body, model)
    texts: list[str] = body.get("texts") or []
    all_vectors = [embedder.text(text) for text in texts]
    all_vectors += [embedder.image(url) for url in body.get("images") or ()]
    all_vectors += [embedder.parts(item["content"]) for item in body.get("inputs") or ()]
    echo = [text.lower() for text in texts] if model.lowercase else texts
    response: dict[str, Any] = {"id": str(uuid.uuid4()), "texts": echo}
    if embedder.images:
        response["images"] = embedder.images
    response["embeddings"] = _by_type(all_vectors, body.get("embedding_types") or ["float"])
    response["meta"] = META_V2 | {"billed_units": embedder.billed_units()}
    response["response_type"] = "embeddings_by_type"
    return EmbedResult(response, embedder.characters, embedder.text_tokens + embedder.image_tokens)


def _by_type(all_vectors: list[vectors.Vector], requested: list[str]) -> dict[str, list[Any]]:
    embeddings: dict[str, list[Any]] = {name: [] for name in EMBEDDING_TYPES if name in requested}
    for vector in all_vectors:
        for name, value in vectors.to_types(vector, requested).items():
            embeddings[name].append(value)
    return embeddings


def _image_entry(image: Image) -> dict[str, Any]:
    """Returns the entry of an image; its bit_depth is 0 (recorded)."""
    return {"width": image.width, "height": image.height, "format": image.format, "bit_depth": 0}
