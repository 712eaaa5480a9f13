"""POST /v1/embed: the vectors of /v2/embed in v1's format.

Without `embedding_types` the response has a plain list of float vectors.
Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

from gateway.emulator import embed, validation
from gateway.emulator.request import META_V1, Request, Response

DEFAULT_MODEL = "embed-v4.0"
FIELDS = ("texts", "images", "model", "input_type", "embedding_types", "truncate")


def handle(request: Request) -> Response:
    """Handles POST /v1/embed."""
    body = request.select(FIELDS)
    if not body.get("model"):
        # The former default model had no input types, so a request may lack both.
        body["model"] = DEFAULT_MODEL
        body.setdefault("input_type", "image" if body.get("images") else "search_document")
    model = request.emulator.model_catalog.find_for("embed", body["model"])
    plain = not body.get("embedding_types")
    if plain:
        body.pop("embedding_types", None)
    validation.embed(body, model)
    result = embed.embed(body, model)
    response = result.body
    response["meta"] |= META_V1
    if plain:
        response |= {"embeddings": response["embeddings"]["float"], "response_type": "embeddings_floats"}
    return Response(body=response, headers=(*result.count_headers(), *request.unknown_field_warning(FIELDS)))
