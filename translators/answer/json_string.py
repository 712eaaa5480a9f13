"""Unescapes a JSON string that comes in pieces.

The pieces may be cut anywhere, even inside an escape. Models write strings that are not valid JSON: unknown escapes
stay as they are, raw line breaks are accepted, and half of a surrogate pair becomes U+FFFD.
"""

import re

_PLAIN = re.compile(r'[^"\\]+')
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
_INCOMPLETE = re.compile(r"\\(u[0-9a-fA-F]{0,3})?\Z")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_REPLACEMENT = "\ufffd"


class JsonString:
    """One string, from behind its opening quote. Whatever follows the closing quote is ignored."""

    def __init__(self) -> None:
        # At most an incomplete escape: eleven characters of a pair of surrogates.
        self._pending = ""
        self._closed = False

    def feed(self, piece: str) -> str:
        """Reads the next piece. Returns the text that is certain."""
        if self._closed:
            return ""
        source, position = self._pending + piece, 0
        texts: list[str] = []
        while position < len(source):
            # A run without escapes is copied as a whole, not character by character.
            if plain := _PLAIN.match(source, position):
                texts.append(plain[0])
                position = plain.end()
                continue
            if source[position] == '"':
                self._closed = True
                break
            # The same position means that more has to come, so that a cut inside an escape never shows.
            text, following = _unescape(source, position)
            if following == position:
                break
            texts.append(text)
            position = following
        self._pending = "" if self._closed else source[position:]
        return "".join(texts)

    def end(self) -> str:
        """Returns the rest of a string that was cut short: U+FFFD for half a pair, nothing for half an escape."""
        pending, self._pending, self._closed = self._pending, "", True
        return _REPLACEMENT if _UNICODE_ESCAPE.match(pending) else ""


def _unescape(source: str, position: int) -> tuple[str, int]:
    """Returns the text of an escape and the position behind it; the same position while more has to come."""
    if _INCOMPLETE.match(source, position):
        return "", position
    match = _UNICODE_ESCAPE.match(source, position)
    if match is None:
        letter = source[position + 1]
        # `\d` is no JSON, but models write it in regular expressions and in Windows paths. As they wrote it is what
        # they meant.
        return _ESCAPES.get(letter, "\\" + letter), position + 2
    code = int(match[1], 16)
    if not 0xD800 <= code <= 0xDFFF:
        return chr(code), match.end()
    # The second half without a first. Python could hold it, but no UTF-8 encoder would send it.
    if code >= 0xDC00:
        return _REPLACEMENT, match.end()
    # A high surrogate waits for its other half, which may come with the next piece.
    low = _UNICODE_ESCAPE.match(source, match.end())
    if low is None:
        undecided = match.end() == len(source) or _INCOMPLETE.match(source, match.end())
        return ("", position) if undecided else (_REPLACEMENT, match.end())
    second = int(low[1], 16)
    if not 0xDC00 <= second <= 0xDFFF:
        return _REPLACEMENT, match.end()
    return chr(0x10000 + ((code - 0xD800) << 10) + second - 0xDC00), low.end()
