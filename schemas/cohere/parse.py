"""`POST /v2/parse`: the request that is sent, and the part of the answer that is read (docs/cohere-api.md#parse)."""

from typing import Literal

from msgspec import Struct
from msgspec.json import Decoder, Encoder


class Document(Struct, frozen=True):
    """A page to parse. image_url: a data URI or an http URL."""

    image_url: str
    type: Literal["image_url"] = "image_url"


class ParseRequest(Struct, frozen=True):
    model: str
    document: Document
    # Markdown is a text for the prompt as it comes; blocks would have to become one.
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
