"""The results of /v2/rerank: documents ordered by what they share with the query.

A score mixes shared words with the similarity of the vectors; only the order of scores means something.
Source: docs/cohere-api.md#rerank.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping
from typing import Any

from gateway.emulator import tokens, vectors
from gateway.emulator.keywords import content_words
from gateway.emulator.model_catalog import Model
from gateway.emulator.request import META_V2

VECTOR_SIZE = 256
DEFAULT_MAX_TOKENS = 4_096
DOCUMENTS_PER_UNIT = 100
SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
STEEPNESS, MIDDLE = 7.0, 0.45
DEFAULT_THRESHOLD = 0.1


def rerank(body: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """Returns the response to a validated request."""
    limit = min(body.get("max_tokens_per_doc") or DEFAULT_MAX_TOKENS, model.context_length)
    scorer = _Scorer(body["query"])
    texts = ["".join(tokens.split(document)[:limit]) for document in body["documents"]]
    # Documents of the same score stay in their order, so the index counts downwards.
    ranking = sorted(((scorer.score(text), -index) for index, text in enumerate(texts)), reverse=True)
    spans = body.get("relevant_spans")
    results: list[dict[str, Any]] = []
    for score, negative_index in ranking[: body.get("top_n") or len(ranking)]:
        result: dict[str, Any] = {"index": -negative_index, "relevance_score": score}
        if spans and spans["mode"] == "enabled":
            result["relevant_spans"] = scorer.relevant_spans(texts[-negative_index], spans)
        results.append(result)
    units = math.ceil(len(texts) / DOCUMENTS_PER_UNIT)
    return {
        "id": str(uuid.uuid4()),
        "results": results,
        "meta": META_V2 | {"billed_units": {"search_units": units}},
    }


class _Scorer:
    """Scores texts against one query."""

    def __init__(self, query: str) -> None:
        self.words = content_words(query) or {query.strip().lower()}
        self.vector = vectors.text_vector(query, VECTOR_SIZE, "rerank")

    def score(self, text: str) -> float:
        """Returns the relevance of a text, between 0 and 1, exclusive."""
        shared = len(self.words & content_words(text)) / len(self.words)
        text_vector = vectors.text_vector(text, VECTOR_SIZE, "rerank")
        similarity = max(0.0, vectors.similarity(self.vector, text_vector))
        return vectors.round_digits(1 / (1 + math.exp(-STEEPNESS * (0.6 * shared + 0.4 * similarity - MIDDLE))))

    def relevant_spans(self, text: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Returns the sentences above the threshold, best first; offsets are code points, the end exclusive."""
        threshold = options.get("threshold")
        spans: list[dict[str, Any]] = []
        for match in SENTENCE.finditer(text):
            # An offset begins at the sentence, and not at the space before it.
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            score = self.score(match.group())
            if start < match.end() and score > (DEFAULT_THRESHOLD if threshold is None else threshold):
                spans.append({"start": start, "end": match.end(), "score": score})
        spans.sort(key=lambda span: -span["score"])
        return spans[: options.get("max_spans")]
