"""Files as requests to `/v2/parse`, and its answers as the text that goes into the prompt."""

import msgspec
from msgspec import Struct

from schemas.cohere import parse as cohere
from translators.core.contracts import UsageTotals
from translators.core.errors import UpstreamProtocolError

PAGE_BREAK = "\n\n"


class ParsedFile(Struct, frozen=True):
    """The text of a file, and what reading it cost."""

    text: str
    usage: UsageTotals


def request(uri: str, model: str) -> bytes:
    """Return the request that parses the file at this data URI or http address."""
    return cohere.encode_request(cohere.ParseRequest(model, cohere.Document(uri)))


def parsed_file(body: bytes) -> ParsedFile:
    """Translate the answer: its pages in order. Raises UpstreamProtocolError."""
    try:
        answer = cohere.decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamProtocolError("Cohere sent a parsed file that cannot be read") from error
    pages = sorted(answer.pages, key=lambda page: page.index)
    text = PAGE_BREAK.join(page.markdown.content for page in pages if page.markdown and page.markdown.content)
    units = answer.meta.billed_units if answer.meta else None
    pages_billed = units.pages if units and units.pages is not None else len(pages)
    return ParsedFile(text, UsageTotals(billed={"pages": pages_billed}))
