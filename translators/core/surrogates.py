"""Replaces halves of surrogate pairs in JSON texts.

JavaScript cuts a text between any two units of UTF-16, perhaps inside an emoji, and writes what is left as an escape
(`\\ud83d`). UTF-8 has no such character, so parsers refuse the whole text. Cohere's own replaces it by U+FFFD.
"""

import re
from collections.abc import Iterator

REPLACEMENT = "U+FFFD"

STEP_BYTES = 16 * 1024
"""Bytes that are read at once: a fraction of a millisecond, even where nearly all of them are escapes."""

ESCAPE_BYTES = 6
"""Bytes of an escape, `\\ud83d`."""

# A first half that no second one follows, or a second one that follows no first.
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_UNFINISHED = re.compile(
    rb"(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?|\\(?:u[0-9a-fA-F]{0,3})?)\Z"
)
"""An escape or a pair that may go on behind the end."""

_HIDDEN = b"\xff"
"""A byte that no JSON text has."""


may_have_halves = re.compile(rb"\\u[dD]").search
"""Finds an escape of a surrogate in a JSON text. Most have none, and this look is all that they cost."""


def replace_halves(text: bytes) -> bytes:
    """Returns a JSON text with each half of a pair replaced; the same object where there is none."""
    return b"".join(map(replace_halves_in_piece, pieces(text))) if may_have_halves(text) else text


def pieces(text: bytes) -> Iterator[bytes]:
    """Yields a JSON text in pieces of at most STEP_BYTES, none of which ends inside an escape or a pair."""
    start = 0
    while start < len(text):
        piece = text[start : start + STEP_BYTES]
        if start + len(piece) < len(text):
            # An escape or pair that is cut is shorter than two escapes.
            unfinished = _UNFINISHED.search(_hide_backslashes(piece), len(piece) - 2 * ESCAPE_BYTES)
            piece = piece[: unfinished.start()] if unfinished is not None else piece
        yield piece
        start += len(piece)


def replace_halves_in_piece(piece: bytes) -> bytes:
    """Returns one of `pieces` with each half of a pair replaced; the same object where there is none."""
    # Text with that byte is no UTF-8, and refused by the parser as it is.
    if not may_have_halves(piece) or _HIDDEN in piece:
        return piece
    replaced, count = _HALF.subn(rb"\\ufffd", _hide_backslashes(piece))
    return replaced.replace(_HIDDEN * 2, b"\\\\") if count else piece


def _hide_backslashes(piece: bytes) -> bytes:
    """Returns a piece without the backslashes that are escaped, as they begin no escape. Offsets stay as they are."""
    return piece.replace(b"\\\\", _HIDDEN * 2)
