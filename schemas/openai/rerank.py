"""A ranking. OpenAI has none: this shape is read by Cohere's clients, which want `results` and `meta`, and by
Jina's, which want `object`, `model` and `usage` beside them.

Sources: docs/cohere-api.md#rerank and docs/cohere-api.md#version-1 (`return_documents` of version 1); Jina's reference
of `/v1/rerank`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType


class RankedDocument(Struct, frozen=True):
    """A document that came as a string."""

    text: str


class Ranked(Struct, frozen=True):
    """document: as it was sent, where the caller asked for it."""

    index: int
    relevance_score: Raw
    document: RankedDocument | Mapping[str, Any] | UnsetType = UNSET
    relevant_spans: Raw | UnsetType = UNSET


class RankingUsage(Struct, frozen=True):
    """total_tokens is 0 where Cohere counts searches. cost: US dollars."""

    prompt_tokens: int
    total_tokens: int
    search_units: int | float | UnsetType = UNSET
    cost: float | UnsetType = UNSET


class Ranking(Struct, frozen=True):
    id: str
    model: str
    results: list[Ranked]
    meta: Raw
    usage: RankingUsage
    object: Literal["list"] = "list"
