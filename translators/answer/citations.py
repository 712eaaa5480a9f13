"""Locates a citation of Cohere's in the text that it cites.

Offsets are characters, end exclusive. Whether Cohere counts code points or UTF-16 units beyond the BMP was never
recorded (docs/cohere-api.md#unknown). The citation carries the cited words, so both readings can be checked against the
text; a search close to the stated offset is the last resort.
"""

from schemas.cohere.chat import Citation

_NEAR = 64
"""Characters before `start` at which the search begins: recorded offsets were off by a few."""


def locate(citation: Citation, text: str, final: bool = False) -> tuple[int, int] | None:
    """Returns the citation's (start, end) in code points, or None if its words are not in the text (yet).

    final: the text is complete, so the words may be searched for.
    """
    start, end, words = citation.start or 0, citation.end or 0, citation.text
    # Nothing to check the offsets by. They are trusted as long as they lie inside.
    if not words:
        return (start, end) if 0 <= start <= end <= len(text) else None
    if 0 <= start and end <= len(text) and text[start:end] == words:
        return start, end
    # In ASCII both readings are the same. `isascii` is a flag of the text and costs nothing.
    if not text.isascii():
        converted = _from_utf16(start, text), _from_utf16(end, text)
        if text[converted[0] : converted[1]] == words:
            return converted
    # While the text grows, the first match of a search may be another occurrence of these words.
    if not final:
        return None
    # From slightly before the stated place, and not from the beginning: words such as "Paris" occur often, and the
    # citation is of one occurrence.
    position = text.find(words, max(0, start - _NEAR))
    return None if position < 0 else (position, position + len(words))


def clamp(citation: Citation, text: str) -> tuple[int, int]:
    """Returns the stated offsets, clamped to the text: for a citation whose words are not in it."""
    start = min(max(citation.start or 0, 0), len(text))
    return start, min(max(citation.end or 0, start), len(text))


def _from_utf16(offset: int, text: str) -> int:
    units = 0
    for position, character in enumerate(text):
        if units >= offset:
            return position
        # Linear, and once for a citation whose offsets did not fit. Only texts with emoji and the like get here.
        units += 2 if ord(character) > 0xFFFF else 1
    return len(text)
