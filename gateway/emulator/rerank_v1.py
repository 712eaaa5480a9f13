"""POST /v1/rerank: /v2/rerank for documents with several fields, which the response can include.

Source: docs/cohere-api.md#version-1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.emulator import rerank, validation
from gateway.emulator.errors import bad_request, invalid_request, require_object
from gateway.emulator.request import META_V1, Request, Response
from gateway.emulator.validation import Check

DEFAULT_MODEL = "rerank-v3.5"
DEFAULT_RANK_FIELDS = ("text", "snippet")  # the first that a document has
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "query": validation.string,
    "documents": validation.object_list,
    "top_n": validation.RERANK["top_n"],
    "rank_fields": validation.strings,
    "return_documents": validation.boolean,
    "max_chunks_per_doc": validation.integer(1, None, "max_chunks_per_doc must be greater than 0."),
}


def handle(request: Request) -> Response:
    """Handles POST /v1/rerank."""
    body = request.select(FIELDS)
    model = request.emulator.model_catalog.find_for("rerank", body.get("model") or DEFAULT_MODEL)
    validation.fields(body, FIELDS, "rerank")
    rank_fields = body.get("rank_fields")
    if rank_fields is not None and not rank_fields:
        raise invalid_request("rank_fields cannot be empty, it must either contain at least one field or be omitted")
    documents = body.get("documents") or []
    texts = [_text(document, rank_fields) for document in documents]
    rerank_body: dict[str, Any] = {"query": body.get("query"), "documents": texts}
    if body.get("top_n") is not None:
        rerank_body["top_n"] = body["top_n"]
    validation.rerank(rerank_body, model)
    response = rerank.rerank(rerank_body, model)
    response["meta"] |= META_V1
    if body.get("return_documents"):
        response["results"] = [
            {"document": _with_text(documents[result["index"]], texts[result["index"]]), **result}
            for result in response["results"]
        ]
    return Response(body=response, headers=request.unknown_field_warning(FIELDS))


def _text(document: Any, rank_fields: Sequence[str] | None) -> str:
    """Returns the text by which a document is ranked."""
    if isinstance(document, str):
        return document
    require_object("documents", document, "rerank", "string or Object")
    if rank_fields is not None:
        return "\n".join(str(document[name]) for name in rank_fields if document.get(name))
    for name in DEFAULT_RANK_FIELDS:
        if isinstance(document.get(name), str):
            return str(document[name])
    raise bad_request(
        "document does not have a 'snippet' or a 'text' field that can be used for chunking and reranking"
    )


def _with_text(document: Any, text: str) -> dict[str, Any]:
    """Returns the document of a result. It always has a `text`, if need be the one that was ranked."""
    return {"text": text} | (document if isinstance(document, dict) else {})
