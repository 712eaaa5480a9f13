"""POST /v2/parse: a picture of a page as text. The emulator reads nothing and says so in the page.

Source: docs/cohere-api.md#parse (the newest SDK; no path in the specification). One model, which is in no list.
"""

from __future__ import annotations

import uuid
from typing import Any

from gateway.emulator import images, validation
from gateway.emulator.refusals import bare, invalid, wrong_type
from gateway.emulator.request import Reply, Request
from gateway.emulator.validation import Check

MODEL = "parse-v5.0"
TEXT = "This page was made by the Cohere emulator, which does not read pictures."
FIELDS: dict[str, Check] = {
    "model": validation.string,
    "document": lambda name, value, page: validation.fields(value, DOCUMENT, page, name),
    "output_format": validation.one_of("markdown", "blocks"),
}
DOCUMENT: dict[str, Check] = {"type": validation.one_of("image_url"), "image_url": validation.string}


def answer(request: Request) -> Reply:
    """The whole endpoint."""
    body = request.body
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise bare("a model parameter is required for this endpoint.")
    if name != MODEL:
        request.emulator.catalogue.find(name)
        raise invalid(f"model '{name}' is not supported by the parse API")
    validation.fields(body, FIELDS, "parse")
    document = body.get("document")
    if not isinstance(document, dict):
        raise wrong_type("document", document, "Object", "parse")
    images.check_url(document.get("image_url"))
    image = images.look(document["image_url"])
    seen = f"{TEXT} The picture has {image.size} bytes."
    page: dict[str, Any] = {"index": 0, "type": body.get("output_format") or "markdown"}
    if page["type"] == "markdown":
        page["markdown"] = {"content": seen, "images": []}
    else:
        page["blocks"] = [{"type": "text", "text": {"content": seen}}]
    meta = {"api_version": {"version": "2"}, "billed_units": {"pages": 1}}
    return Reply(body={"id": str(uuid.uuid4()), "pages": [page], "finish_reason": "COMPLETE", "meta": meta})
