"""A ranking, which OpenAI does not have. The shape suits Cohere's clients, which read `results` and `meta`, and Jina's,
which read `object`, `model` and `usage` as well.

Sources: docs/cohere-api.md#rerank and docs/cohere-api.md#version-1 (`return_documents` of version 1); Jina's reference
of `/v1/rerank`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType


class RankedDocument(Struct, frozen=True):
    """A document that was a string in the request."""

    text: str


class Ranked(Struct, frozen=True):
    """A ranked document. document: as it was sent, for `return_documents`."""

    index: int
    # Cohere's digits: a float that is parsed and written again may have others.
    relevance_score: Raw
    document: RankedDocument | Mapping[str, Any] | UnsetType = UNSET
    relevant_spans: Raw | UnsetType = UNSET


class RankingUsage(Struct, frozen=True):
    """The usage. total_tokens: 0 where Cohere counts searches. cost: in US dollars."""

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
