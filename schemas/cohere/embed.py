"""`POST /v2/embed`: the request that is sent, and the part of the answer that is read (docs/cohere-api.md#embed).

Exactly one of `texts`, `images` and `inputs` is sent. Vectors are kept as JSON text (`Raw`), because parsing them would
cost more than everything else.
"""

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder, Encoder

from schemas.cohere.chat import ImageContent, TextContent, Tokens

# `image` is for images alone (docs/cohere-api.md#embed).
InputType = Literal["search_document", "search_query", "classification", "clustering", "image"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

# --- request ----------------------------------------------------------------------------------------------


class Input(Struct, frozen=True):
    """The parts of one input, which become one vector."""

    content: list[TextContent | ImageContent]


class EmbedRequest(Struct, frozen=True):
    model: str
    input_type: str
    # Always sent: the answer has the types that were requested and no other (docs/cohere-api.md#embed).
    embedding_types: list[str]
    texts: list[str] | UnsetType = UNSET
    images: list[str] | UnsetType = UNSET
    inputs: list[Input] | UnsetType = UNSET
    output_dimension: int | UnsetType = UNSET
    max_tokens: int | UnsetType = UNSET
    truncate: str | UnsetType = UNSET
    priority: int | UnsetType = UNSET


# --- answer -----------------------------------------------------------------------------------------------


class Meta(Struct, frozen=True):
    """The usage. Older models bill images in `images`, newer ones in `image_tokens` (recorded)."""

    tokens: Tokens | None = None
    billed_units: dict[str, int | float | None] | None = None


class EmbedAnswer(Struct, frozen=True):
    """An answer. embeddings: by type, one vector for each input, in order."""

    embeddings: dict[str, list[Raw] | None]
    meta: Meta | None = None


encode_request = Encoder().encode
decode_answer = Decoder(EmbedAnswer).decode
