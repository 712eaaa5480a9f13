"""Counts the values of a JSON text without parsing it, so that what would take long to parse is known before.

A parser holds the interpreter's lock from its first byte to its last, so nothing else runs in the process meanwhile. It
needs some 0.1 microseconds for each value, however few bytes that has.
"""

PIECE_BYTES = 64 * 1024
"""Bytes that are counted at once: a fraction of a millisecond."""

MAX_ESCAPES = 1_000_000
"""Escaped characters in what is parsed at once: to read or to write one takes 10 nanoseconds. Cohere's models read a
quarter of so many tokens.
"""

_MARKS = b",[{"
"""One of them stands before each value, or around it."""


def rough_count(piece: bytes) -> int:
    """Returns the marks of values in a piece of JSON, those inside strings too: never fewer than there are values."""
    return len(piece) - len(piece.translate(None, _MARKS))


class ValueCounter:
    """Counts the marks of values outside strings, in pieces of one JSON text. count: those so far."""

    def __init__(self) -> None:
        self.count = 0
        self._in_string = False
        self._carry = b""  # a backslash whose character is in the next piece

    def add(self, piece: bytes) -> int:
        """Counts the next piece, of PIECE_BYTES or so. Returns the count."""
        data = self._carry + piece
        complete = data.rstrip(b"\\")
        self._carry = b"\\" * ((len(data) - len(complete)) % 2)
        parts = complete.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        self.count += rough_count(b"".join(parts[self._in_string :: 2]))
        self._in_string ^= len(parts) % 2 == 0
        return self.count


def has_more_values(text: str, limit: int) -> bool:
    """Returns whether a JSON text has more values than the limit. A shorter text has not, and costs nothing."""
    if len(text) <= limit:
        return False
    data = text.encode("utf-8", "surrogatepass")
    counter = ValueCounter()
    pieces = range(0, len(data), PIECE_BYTES)
    return any(counter.add(data[start : start + PIECE_BYTES]) > limit for start in pieces)
