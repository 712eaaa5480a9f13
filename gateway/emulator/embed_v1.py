"""POST /v1/embed: the vectors of /v2/embed in the older shapes.

Without `embedding_types` a plain list of float vectors comes back. Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

from gateway.emulator import embed, validation, wire
from gateway.emulator.request import META_V1, Reply, Request, warnings

DEFAULT_MODEL = "embed-v4.0"
FIELDS = ("texts", "images", "model", "input_type", "embedding_types", "truncate")


def answer(request: Request) -> Reply:
    """The whole endpoint."""
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    if not body.get("model"):
        # The model that was the default had no input types, so a request that names neither is served.
        body["model"] = DEFAULT_MODEL
        body.setdefault("input_type", "image" if body.get("images") else "search_document")
    model = request.emulator.catalogue.serving(body["model"], "embed")
    plain = not body.get("embedding_types")
    if plain:
        body.pop("embedding_types", None)
    validation.embed(body, model)
    embedded = embed.answer(body, model)
    told = embedded.body
    told["meta"] |= META_V1
    if plain:
        told |= {"embeddings": told["embeddings"]["float"], "response_type": "embeddings_floats"}
    numbers = {"num_chars": embedded.characters, "num_tokens": embedded.counted}
    return Reply(body=told, headers=(*wire.number_headers(numbers), *warnings(request.body, FIELDS)))
