"""Translates files into requests to `/v2/parse`, and its answers into text (docs/cohere-api.md#parse)."""

import msgspec

from schemas.cohere import parse as cohere
from translators.core.errors import UpstreamProtocolError

PAGE_BREAK = "\n\n"


def request(uri: str, model: str) -> bytes:
    """Returns the request that parses the file at this data URI or http address."""
    return cohere.encode_request(cohere.ParseRequest(model, cohere.Document(uri)))


def file_text(body: bytes) -> str:
    """Translates the answer into the text of its pages, in order. Raises UpstreamProtocolError."""
    try:
        answer = cohere.decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a parsed file that cannot be read") from error
    pages = sorted(answer.pages, key=lambda page: page.index)
    return PAGE_BREAK.join(page.markdown.content for page in pages if page.markdown and page.markdown.content)
