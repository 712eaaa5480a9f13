"""POST /v2/parse: an image of a page as text. The emulator reads no image and says so in the page.

Source: docs/cohere-api.md#parse. The one model of this endpoint is in no list.
"""

from __future__ import annotations

import uuid
from typing import Any

from gateway.emulator import images, validation
from gateway.emulator.errors import invalid_request, require_object
from gateway.emulator.request import META_V2, Request, Response
from gateway.emulator.validation import Check

MODEL = "parse-v5.0"
TEXT = "This page was made by the Cohere emulator, which does not read pictures."
DOCUMENT: dict[str, Check] = {"type": validation.one_of("image_url"), "image_url": validation.string}
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "document": validation.nested(DOCUMENT),
    "output_format": validation.one_of("markdown", "blocks"),
}


def handle(request: Request) -> Response:
    """Handle POST /v2/parse."""
    body = request.body
    name = body.get("model")
    if name != MODEL:
        request.emulator.model_catalog.find_required(name)
        raise invalid_request(f"model '{name}' is not supported by the parse API")
    validation.fields(body, FIELDS, "parse")
    document = require_object("document", body.get("document"), "parse")
    images.check_url(document.get("image_url"))
    image = images.read_image(document["image_url"])
    text = f"{TEXT} The picture has {image.size} bytes."
    page: dict[str, Any] = {"index": 0, "type": body.get("output_format") or "markdown"}
    if page["type"] == "markdown":
        page["markdown"] = {"content": text, "images": []}
    else:
        page["blocks"] = [{"type": "text", "text": {"content": text}}]
    meta = META_V2 | {"billed_units": {"pages": 1}}
    return Response(body={"id": str(uuid.uuid4()), "pages": [page], "finish_reason": "COMPLETE", "meta": meta})
