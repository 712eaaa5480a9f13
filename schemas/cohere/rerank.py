"""`POST /v2/rerank`: the request that is sent, and the part of the answer that is read (docs/cohere-api.md#rerank).

Scores are kept as JSON text (`Raw`): a float that is parsed and encoded again may have other digits.
"""

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder, Encoder


class RerankRequest(Struct, frozen=True):
    model: str
    query: str
    documents: list[str]
    top_n: int | UnsetType = UNSET
    max_tokens_per_doc: int | UnsetType = UNSET
    relevant_spans: dict[str, Any] | UnsetType = UNSET
    priority: int | UnsetType = UNSET


class Result(Struct, frozen=True):
    """A ranked document. index: of the document in the request. relevant_spans: on models that have them."""

    index: int
    relevance_score: Raw
    relevant_spans: Raw | UnsetType = UNSET


class RerankAnswer(Struct, frozen=True):
    results: list[Result]
    id: str | None = None
    meta: Raw = Raw(b"{}")


class Meta(Struct, frozen=True):
    """The usage: search units on most models, tokens on those that are priced by tokens."""

    billed_units: dict[str, int | float | None] | None = None
    tokens: dict[str, int | float | None] | None = None


encode_request = Encoder().encode
decode_answer = Decoder(RerankAnswer).decode
decode_meta = Decoder(Meta | None).decode
