"""Which spans of a text come from which source.

A span is cited where a fragment of a source stands in the text, as in Cohere's own citations
(docs/cohere-api.md#documents-and-citations).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.emulator.conversation import Source

# A fragment ends at a comma, a line end or a sentence end, but not inside "22.5".
FRAGMENT_ENDS = re.compile(r"[\n;,]+|(?<=[.!?])\s+")
MAX_CITATIONS = 12
DISABLED_MODES = ("OFF", "DISABLED")


class Citation(msgspec.Struct, frozen=True):
    """A span of the text (end exclusive, in code points) and its sources, in Cohere's JSON."""

    start: int
    end: int
    text: str
    sources: tuple[dict[str, Any], ...]


def find_citations(text: str, sources: Sequence[Source]) -> tuple[Citation, ...]:
    """Returns the citations of a text by their start. None overlaps another."""
    citations: list[Citation] = []
    for source in sources:
        position = 0
        for fragment in FRAGMENT_ENDS.split(source.text):
            fragment = fragment.strip()
            # A single character stands in any text, and would be cited by chance.
            start = text.find(fragment, position) if len(fragment) > 1 else -1
            if start < 0:
                continue
            # The fragments of a source are looked for in their order, so that each is found behind the one before.
            position = start + len(fragment)
            if not any(start < other.end and other.start < position for other in citations):
                citations.append(Citation(start, position, fragment, (source.reference,)))
    citations.sort(key=lambda citation: citation.start)
    return tuple(citations[:MAX_CITATIONS])


def to_json(citation: Citation, content_index: int) -> dict[str, Any]:
    """Returns a citation of a body. It has a `content_index` only after a thinking block (recorded)."""
    body: dict[str, Any] = {
        "start": citation.start,
        "end": citation.end,
        "text": citation.text,
        "sources": list(citation.sources),
        "type": "TEXT_CONTENT",
    }
    if content_index:
        body["content_index"] = content_index
    return body
