"""Embeddings: the inputs of a request, and the response.

Source: OpenAI's specification, `CreateEmbeddingRequest` and `CreateEmbeddingResponse`. OpenAI embeds texts and
tokens only. Images, and inputs of several parts, are an extension, in the spellings that clients use: OpenAI's parts,
Cohere's parts, and `{"text": ..., "image": ...}`.
"""

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

# --- requests ---------------------------------------------------------------------------------------------


class Image(Struct, forbid_unknown_fields=True):
    """An image. url: a data URI. base64: the bytes without `data:...` before them."""

    url: str | None = None
    base64: str | None = None


class Part(Struct, forbid_unknown_fields=True):
    type: Literal["text", "input_text", "image_url", "input_image", "image"] | None = None
    text: str | None = None
    image: str | Image | None = None
    image_url: str | Image | None = None


class Item(Part, forbid_unknown_fields=True):
    """An input as an object. content: Cohere's spelling of an input of several parts."""

    content: list[Part] | None = None


Element = str | int | Item | list[int | Part]
"""A text; a token; an object; tokens, or the parts of one input."""

Input = str | Item | list[Element]

# --- answers ----------------------------------------------------------------------------------------------


class Embedding(Struct, frozen=True, tag_field="object", tag="embedding"):
    """One vector. embeddings: an extension, each type of `embedding_types`."""

    index: int
    # The numbers, or base64 of them, as Cohere sent them (docs/decisions.md#embeddings-keep-coheres-numbers).
    embedding: Raw
    embeddings: dict[str, Raw] | UnsetType = UNSET


class PromptTokensDetails(Struct, frozen=True):
    image_tokens: int


class Usage(Struct, frozen=True):
    """The usage. The fields after `total_tokens` are extensions. billed_units: as in Cohere's invoice. cost: in US
    dollars."""

    prompt_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    billed_units: dict[str, int | float] | UnsetType = UNSET
    cost: float | UnsetType = UNSET


class EmbeddingList(Struct, frozen=True, tag_field="object", tag="list"):
    data: list[Embedding]
    model: str
    usage: Usage
