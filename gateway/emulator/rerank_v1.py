"""POST /v1/rerank: /v2/rerank for documents with fields, which can be given back.

Source: docs/cohere-api.md#version-1 and docs/cohere-api.md#errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.emulator import rerank, validation
from gateway.emulator.refusals import bare, invalid, wrong_type
from gateway.emulator.request import META_V1, Reply, Request, warnings
from gateway.emulator.validation import Check

DEFAULT_MODEL = "rerank-v3.5"
RANKED = ("text", "snippet")  # the fields that are looked for when none are named
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "query": validation.string,
    "documents": validation.listing,
    "top_n": validation.RERANK["top_n"],
    "rank_fields": validation.strings,
    "return_documents": validation.boolean,
    "max_chunks_per_doc": validation.integer(1, None, "max_chunks_per_doc must be greater than 0."),
}


def answer(request: Request) -> Reply:
    """The whole endpoint."""
    body = {name: value for name, value in request.body.items() if name in FIELDS and value is not None}
    model = request.emulator.catalogue.serving(body.get("model") or DEFAULT_MODEL, "rerank")
    validation.fields(body, FIELDS, "rerank")
    names = body.get("rank_fields")
    if names is not None and not names:
        raise invalid("rank_fields cannot be empty, it must either contain at least one field or be omitted")
    documents = body.get("documents") or []
    texts = [_text(document, names) for document in documents]
    asked: dict[str, Any] = {"query": body.get("query"), "documents": texts}
    if body.get("top_n") is not None:
        asked["top_n"] = body["top_n"]
    validation.rerank(asked, model)
    told = rerank.answer(asked, model)
    told["meta"] |= META_V1
    if body.get("return_documents"):
        told["results"] = [
            {"document": _shown(documents[row["index"]], texts[row["index"]]), **row} for row in told["results"]
        ]
    return Reply(body=told, headers=warnings(request.body, FIELDS))


def _text(document: Any, names: Sequence[str] | None) -> str:
    """The words of a document that count."""
    if isinstance(document, str):
        return document
    if not isinstance(document, dict):
        raise wrong_type("documents", document, "string or Object", "rerank")
    if names is not None:
        return "\n".join(str(document[name]) for name in names if document.get(name))
    for name in RANKED:
        if isinstance(document.get(name), str):
            return str(document[name])
    raise bare("document does not have a 'snippet' or a 'text' field that can be used for chunking and reranking")


def _shown(document: Any, text: str) -> dict[str, Any]:
    """The document as it comes back; it has a `text`, if need be the words that counted."""
    return {"text": text} | (document if isinstance(document, dict) else {})
