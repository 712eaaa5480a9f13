"""`POST /v2/embed`: the request we send, and what is read of the answer (docs/cohere-api.md#embed).

Exactly one of `texts`, `images` and `inputs` is sent. Vectors are left as the text they came as.
"""

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType
from msgspec.json import Decoder, Encoder

from schemas.cohere.chat import ImageContent, TextContent, Tokens

InputType = Literal["search_document", "search_query", "classification", "clustering", "image"]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

# --- request ----------------------------------------------------------------------------------------------


class Input(Struct, frozen=True):
    """Parts that become one vector."""

    content: list[TextContent | ImageContent]


class EmbedRequest(Struct, frozen=True):
    model: str
    input_type: str
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
    """`images` and `image_tokens` are billed for images, by older and newer models (recorded)."""

    tokens: Tokens | None = None
    billed_units: dict[str, int | float | None] | None = None


class EmbedAnswer(Struct, frozen=True):
    """By type, one vector an input, in the order of the inputs."""

    embeddings: dict[str, list[Raw] | None]
    meta: Meta | None = None


encode_request = Encoder().encode
decode_answer = Decoder(EmbedAnswer).decode
