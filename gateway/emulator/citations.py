"""Which words of an answer come from which source.

A citation is made where a fragment of a source stands in the answer, as the real ones do
(docs/cohere-api.md#chat-answers).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.conversation import Source

# Cut at commas, lines and sentence ends, but not inside "22.5".
JOINTS = re.compile(r"[\n;,]+|(?<=[.!?])\s+")
MOST = 12
SILENT_MODES = ("OFF", "DISABLED")


class Citation(msgspec.Struct, frozen=True):
    """A span of the answer (end exclusive, in code points) and where it comes from."""

    start: int
    end: int
    text: str
    sources: tuple[dict[str, Any], ...]


def find(text: str, sources: Sequence[Source]) -> tuple[Citation, ...]:
    """The citations of a text, in its order, none overlapping."""
    found: list[Citation] = []
    for source in sources:
        place = 0
        for fragment in JOINTS.split(source.text):
            fragment = fragment.strip()
            start = text.find(fragment, place) if len(fragment) > 1 else -1
            if start < 0:
                continue
            place = start + len(fragment)
            if not any(start < other.end and other.start < place for other in found):
                found.append(Citation(start, place, fragment, (source.told,)))
    found.sort(key=lambda citation: citation.start)
    return tuple(found[:MOST])


def told(citation: Citation, content_index: int) -> dict[str, Any]:
    """A citation as it stands in a body; the index only when a thinking block comes first (recorded)."""
    shown: dict[str, Any] = {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "sources": list(citation.sources),
        "type": "TEXT_CONTENT",
    }
    if content_index:
        shown["content_index"] = content_index
    return shown
