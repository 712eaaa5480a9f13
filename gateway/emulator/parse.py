"""POST /v2/parse: the text of a page.

The emulator reads the text of simple PDF files. It reads no image, and no PDF file without text: their page says so.
At Cohere the document has to be an image (docs/cohere-api.md#parse), so PDF files are more than it promises. The one
model of this endpoint is in no list.
"""

from __future__ import annotations

import base64
import binascii
import re
import uuid
from typing import Any

from gateway.emulator import images, pdf_text, validation
from gateway.emulator.errors import invalid_request, require_object
from gateway.emulator.request import META_V2, Request, Response
from gateway.emulator.validation import Check

MODEL = "parse-v5.0"
MAX_BYTES = 20_000_000
STAND_IN = "This page was made by the Cohere emulator, which does not read {what}."
PDF_URL = re.compile(r"data:application/pdf;base64,", re.IGNORECASE)
DOCUMENT: dict[str, Check] = {"type": validation.one_of("image_url"), "image_url": validation.string}
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "document": validation.nested(DOCUMENT),
    "output_format": validation.one_of("markdown", "blocks"),
}


def handle(request: Request) -> Response:
    """Handles POST /v2/parse."""
    body = request.body
    name = body.get("model")
    if name != MODEL:
        request.emulator.model_catalog.find_required(name)
        raise invalid_request(f"model '{name}' is not supported by the parse API")
    validation.fields(body, FIELDS, "parse")
    document = require_object("document", body.get("document"), "parse")
    texts = _read(document.get("image_url"))
    as_blocks = body.get("output_format") == "blocks"
    pages = [_page(index, text, as_blocks) for index, text in enumerate(texts)]
    meta = META_V2 | {"billed_units": {"pages": len(pages)}}
    return Response(body={"id": str(uuid.uuid4()), "pages": pages, "finish_reason": "COMPLETE", "meta": meta})


def _read(url: Any) -> list[str]:
    """Returns the texts of a document's pages. Raises a 400 for one that is neither an image nor a PDF file."""
    match = PDF_URL.match(url) if isinstance(url, str) else None
    if match is not None:
        data = _decode(url[match.end() :])
        return pdf_text.extract_pages(data) or [f"{_stand_in('PDF files without text')} {_size('file', len(data))}"]
    images.check_url(url)
    image = images.read_image(url)
    _check_size(image.size)
    return [f"{_stand_in('pictures')} {_size('picture', image.size)}"]


def _decode(payload: str) -> bytes:
    """Returns the bytes of a PDF file. Raises a 400 for anything else."""
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not pdf_text.is_pdf(data):
        raise invalid_request("document must be a valid PDF file in base64.")  # guessed
    _check_size(len(data))
    return data


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise invalid_request(f"document must be at most {MAX_BYTES} bytes - received {size}")  # guessed


def _stand_in(what: str) -> str:
    return STAND_IN.format(what=what)


def _size(what: str, size: int) -> str:
    return f"The {what} has {size} bytes."


def _page(index: int, text: str, as_blocks: bool) -> dict[str, Any]:
    if as_blocks:
        return {"index": index, "type": "blocks", "blocks": [{"type": "text", "text": {"content": text}}]}
    return {"index": index, "type": "markdown", "markdown": {"content": text, "images": []}}
