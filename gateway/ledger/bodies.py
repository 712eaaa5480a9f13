"""The bodies of a call as the ledger stores them: one JSON text, sealed, apart from the row.

    {"request": {"type": "application/json", "bytes": 51, "truncated": false, "text": "..."}, "response": {...}}

`text` is null for what is no text, such as a recording. What is taken of a call is in `observability/bodies.py`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from gateway.ledger.entry import LedgerEntry
from gateway.ledger.sentences import METHODS
from gateway.observability.bodies import Bodies, Body

SECRET_GROUPS = frozenset({"connectors"})
"""Groups of methods whose bodies have callers' credentials for other services in them."""

decode_body = msgspec.json.Decoder(dict[str, Any]).decode


class BodySeal(Protocol):
    """Seals texts, each for the row of one id."""

    def seal(self, id: str, text: str) -> bytes: ...

    def open(self, id: str, sealed: bytes) -> str | None:
        """Returns the text; None for what was sealed with another key, or for another row."""
        ...


def is_stored(entry: LedgerEntry, bodies: Bodies) -> bool:
    """Returns whether the bodies of this call are to be stored, now that it is over."""
    method = METHODS.get(entry.method or "")
    if bodies.withdrawn or bodies.lost or (method is not None and method.group in SECRET_GROUPS):
        return False
    return bodies.policy == "all" or entry.failed


def body_text(bodies: Bodies) -> str:
    """Returns both bodies as the text that is sealed."""
    document = {"request": _document(bodies.request), "response": _document(bodies.response)}
    return msgspec.json.encode(document).decode()


def _document(body: Body) -> Mapping[str, Any]:
    return {
        "type": body.type,
        "bytes": body.size,
        "truncated": body.textual and len(body.data) < body.size,
        "text": body.data.decode("utf-8", "replace") if body.textual else None,
    }
