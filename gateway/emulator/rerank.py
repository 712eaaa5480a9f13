"""Answers of /v2/rerank: documents ordered by what they share with the query.

Source: docs/cohere-api.md#rerank. Scores mix exact words with the nearness of the vectors; only their order
means something.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from gateway.emulator import tokens, vectors
from gateway.emulator.catalogue import Model
from gateway.emulator.tools import words

SIZE = 256
DEFAULT_TOKENS = 4_096
DOCUMENTS_PER_UNIT = 100
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
STEEPNESS, MIDDLE = 7.0, 0.45


def answer(body: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """The whole answer to a validated request."""
    documents: list[str] = body["documents"]
    limit = min(body.get("max_tokens_per_doc") or DEFAULT_TOKENS, model.context_length)
    judge = _Judge(body["query"])
    kept = ["".join(tokens.pieces(document)[:limit]) for document in documents]
    ranked = sorted(((judge.score(text), -index) for index, text in enumerate(kept)), reverse=True)
    results: list[dict[str, Any]] = []
    for score, negative in ranked[: body.get("top_n") or len(ranked)]:
        result: dict[str, Any] = {"index": -negative, "relevance_score": score}
        spans = body.get("relevant_spans")
        if spans and spans["mode"] == "enabled":
            result["relevant_spans"] = judge.spans(kept[-negative], spans)
        results.append(result)
    units = math.ceil(len(documents) / DOCUMENTS_PER_UNIT)
    return {
        "id": str(uuid.uuid4()),
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": units}},
    }


class _Judge:
    """Scores texts against one query."""

    def __init__(self, query: str) -> None:
        self.words = words(query) or {query.strip().lower()}
        self.vector = vectors.of_text(query, SIZE, "rerank")

    def score(self, text: str) -> float:
        """Relevance between 0 and 1, exclusive."""
        shared = len(self.words & words(text)) / len(self.words)
        near = max(0.0, vectors.similarity(self.vector, vectors.of_text(text, SIZE, "rerank")))
        return vectors.short(1 / (1 + math.exp(-STEEPNESS * (0.6 * shared + 0.4 * near - MIDDLE))))

    def spans(self, text: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The sentences above the threshold, best first; offsets are code points, end exclusive."""
        threshold = wanted.get("threshold")
        found: list[dict[str, Any]] = []
        for match in SENTENCE.finditer(text):
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            score = self.score(match.group())
            if start < match.end() and score > (0.1 if threshold is None else threshold):
                found.append({"start": start, "end": match.end(), "score": score})
        found.sort(key=lambda span: -span["score"])
        return found[: wanted.get("max_spans")]
