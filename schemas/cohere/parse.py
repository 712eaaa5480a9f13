"""`POST /v2/parse`: a document as text. Source: docs/cohere-api.md#parse."""

from typing import Literal

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class Document(Struct, frozen=True):
    """image_url: a data URI or an http address."""

    image_url: str
    type: Literal["image_url"] = "image_url"


class ParseRequest(Struct, frozen=True):
    model: str
    document: Document
    output_format: Literal["markdown", "blocks"] = "markdown"


class Markdown(Struct, frozen=True):
    content: str | None = None


class Page(Struct, frozen=True):
    index: int = 0
    markdown: Markdown | None = None


class ParseAnswer(Struct, frozen=True):
    pages: list[Page]


encode_request = Encoder().encode
decode_answer = Decoder(ParseAnswer).decode
